"""Files that are whole or not there: atomic writing, a lock between processes, safe names, array_record."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from fpgan.errors import FpganError, missing_extra

try:
    import fcntl
except ImportError:  # Windows: no advisory locks, so two processes in one folder are the user's care
    fcntl = None

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d|settings|manifest)(\.|$)", re.IGNORECASE)
_MAX_NAME = 120


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
    temporary = path.with_name(f".{path.name[:60]}.{secrets.token_hex(4)}.tmp")
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
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FpganError(f"{Path(path).parent}: another process is at work here; wait for it or "
                             "choose another folder") from error
        yield


def folder_names(labels: Sequence[str]) -> list[str]:
    """Makes names that every file system takes, one per label.

    What is not a letter of ASCII, a digit or one of `_.-~` is percent-encoded; labels that are long, or
    differ only in case, get a piece of their hash; names that a system or a sample set reserves get their
    first letter encoded.

    Args:
      labels: distinct, not empty.

    Raises:
      FpganError: two labels are equal.
    """
    names = [_safe(label) for label in labels]
    often = {name for name, n in Counter(name.lower() for name in names).items() if n > 1}
    if often:
        names = [f"{name}-{_short_hash(label)}" if name.lower() in often else name
                 for name, label in zip(names, labels, strict=True)]
    if len({name.lower() for name in names}) < len(names):
        twice = Counter(labels).most_common(1)[0][0]
        raise FpganError(f"{twice!r} is given twice; expected distinct users and fingerprints")
    return names


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


def _created(path: Path):
    try:
        return open(path, "xb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "xb")


def _safe(label: str) -> str:
    name = urllib.parse.quote(label, safe="")
    if name[0] == "." or _RESERVED.match(name):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if name[-1] == ".":
        name = name[:-1] + "%2E"
    return name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME - 17]}-{_short_hash(label)}"


def _short_hash(label: str) -> str:
    return hashlib.sha256(label.encode()).hexdigest()[:16]
