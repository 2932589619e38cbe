"""Files that are whole or not there: atomic writing, a lock between processes, safe names, array_record."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import urllib.parse
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import IO

from fpgan.errors import FpganError, missing_extra

try:
    import fcntl
except ImportError:  # Windows: no advisory locks, so two processes in one folder are the user's care
    fcntl = None

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d|settings|manifest)(\.|$)", re.IGNORECASE)
_CAPITAL = re.compile("[A-Z]")
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp", re.DOTALL)
_MAX_NAME, _MAX_STEM = 120, 60


def write_file(path: str | os.PathLike, data: bytes, sync: bool = False) -> None:
    """Writes a file atomically: under a temporary name beside it, then renamed; missing folders are made.

    Args:
      path: where the file goes; one that is there is replaced.
      data: the whole content.
      sync: wait until the disk has it, so that it also survives a power cut.

    Raises:
      FpganError: the place cannot be written.
    """
    with replacing(path, sync) as file, writing(path):
        file.write(data)


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turns an OSError of the block, which does nothing but write to `path`, into a FpganError that names it."""
    try:
        yield
    except OSError as error:
        raise FpganError(f"{os.fspath(path)}: cannot be written ({reason(error)})") from error


@contextlib.contextmanager
def replacing(path: str | os.PathLike, sync: bool = False) -> Iterator:
    """Opens a temporary binary file that takes the place of `path` when the block ends without an exception.

    Args:
      path: where the file goes; missing folders are made.
      sync: wait until the disk has it before it takes its place.

    Yields:
      The open file.

    Raises:
      FpganError: the place cannot be written. What the block itself raises stays as it is.
    """
    path = Path(path)
    temporary = _temporary(path)
    with writing(path):
        file = _created(temporary)
    try:
        yield file
        with writing(path):
            file.flush()
            if sync:
                os.fsync(file.fileno())
            file.close()
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # on a full disk, closing fails as well
            file.close()
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def locked(path: str | os.PathLike, wait: bool = True) -> Iterator[None]:
    """Holds an advisory lock (flock) on a file of its own; it ends with the process, however that ends.

    Args:
      path: the lock file; it is made, and stays.
      wait: wait for another holder; otherwise a held lock is an error.

    Raises:
      FpganError: another process holds the lock, or the file cannot be made.
    """
    with writing(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab")
    with file:
        if not lock(file, wait):
            raise FpganError(f"{Path(path).parent}: another process is at work here; wait for it or choose another folder")
        yield


def lock(file: IO, wait: bool = False) -> bool:
    """Locks an open file (flock) until it is closed, by whatever.

    Args:
      file: open for writing.
      wait: wait for another holder.

    Returns:
      Whether the lock is held; without `wait` False while another process has it.

    Raises:
      FpganError: this file system has no locks.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise FpganError(f"{file.name}: this file system has no locks, which keep two processes from one folder; choose "
                             "another folder (on Lustre, the mount option flock)") from error
        raise
    return True


def create_file(path: str | os.PathLike, data: bytes) -> bool:
    """Writes a small file that nobody has written yet, on the disk and whole; of several processes one does it.

    Args:
      path: where the file goes; missing folders are made.
      data: the whole content.

    Returns:
      Whether this call wrote it; False when it was there.

    Raises:
      FpganError: the place cannot be written.
    """
    path = Path(path)
    temporary = _temporary(path)
    with writing(path):
        try:
            with _created(temporary) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links: the last of those who try at once wins
                if path.exists():
                    return False
                os.replace(temporary, path)
            return True
        finally:
            temporary.unlink(missing_ok=True)


def remove_temporaries(paths: Iterable[Path]) -> None:
    """Removes what a killed process left of writing these files; nobody may be writing them now."""
    stems: dict[Path, set[str]] = {}
    for path in paths:
        stems.setdefault(path.parent, set()).add(path.name[:_MAX_STEM])
    for folder, known in stems.items():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
            for path in [entry.path for entry in entries if is_temporary(entry.name) and entry.name[1:-13] in known]:
                os.unlink(path)


def is_temporary(name: str) -> bool:
    """Whether a file has the name of one that is just being written, or was when its process was killed."""
    return _TEMPORARY.fullmatch(name) is not None


def folder_name(label: str) -> str:
    """Makes a name that every file system takes.

    Different labels have different names, also where case does not count. What is not a letter of ASCII, a digit or
    one of `_.-` is percent-encoded; a label that is long or has capital letters gets `~` and a piece of its hash; a
    name that a system or a sample set reserves gets its first letter encoded.

    Args:
      label: any text but the empty one.
    """
    name = urllib.parse.quote(label, safe="").replace("~", "%7E")
    if name[0] == "." or _RESERVED.match(name):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if name[-1] == ".":
        name = name[:-1] + "%2E"
    if len(name) <= _MAX_NAME and not _CAPITAL.search(label):
        return name
    return f"{name[:_MAX_NAME - 17]}~{hashlib.sha256(label.encode()).hexdigest()[:16]}"


def read_json(path: str | os.PathLike, hint: str = "") -> dict:
    """Reads a file that holds one JSON object.

    Args:
      path: the file.
      hint: how to mend it if it cannot be read, appended to the message.

    Raises:
      FpganError: it cannot be read, or holds something else.
    """
    try:
        found = json.loads(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise FpganError(f"{os.fspath(path)}: cannot be read ({reason(error)}){hint}") from error
    if not isinstance(found, dict):
        raise FpganError(f"{os.fspath(path)}: cannot be read (it is no JSON object){hint}")
    return found


def import_array_record() -> ModuleType:
    """Imports what reads and writes array_record files.

    Returns:
      The module with ArrayRecordReader and ArrayRecordWriter.

    Raises:
      FpganError: array_record is not installed.
    """
    try:
        from array_record.python import array_record_module
    except ImportError as error:
        raise missing_extra("array_record", "records") from error
    return array_record_module


@contextlib.contextmanager
def record_reader(path: str | os.PathLike) -> Iterator:
    """Opens an array_record file for reading.

    Yields:
      An ArrayRecordReader: num_records(), read([i]) -> [bytes], read_all(); these raise RuntimeError on
        damage.

    Raises:
      FpganError: array_record is not installed, or the file is none or damaged.
    """
    reader = import_array_record().ArrayRecordReader(os.fspath(path))
    try:
        if not reader.ok():
            raise FpganError(f"{path}: no array_record file, or a damaged one")
        yield reader
    finally:
        with contextlib.suppress(RuntimeError):  # closing a damaged file raises
            reader.close()


def reason(error: BaseException) -> str:
    """Says in one line why an exception was raised."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.split("\n")[0] or type(error).__name__


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name[:_MAX_STEM]}.{secrets.token_hex(4)}.tmp")


def _created(path: Path):
    try:
        return open(path, "xb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "xb")
