"""Files that are whole or not there: atomic writing, locks between processes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from fpgan.errors import FpganError

try:
    import fcntl
except ImportError:  # Windows: no advisory locks, so two processes in one folder are the user's care
    fcntl = None


_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp", re.DOTALL)
_MAX_STEM = 60


class NoLocks(FpganError):
    """This file system has no locks."""


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
      NoLocks: this file system has no locks.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise NoLocks(f"{file.name}: this file system has no locks, which keep two processes from one folder; choose "
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


def reason(error: BaseException) -> str:
    """Says in one line why an exception was raised."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.split("\n")[0] or type(error).__name__


def os_reason(error: BaseException) -> str | None:
    """Returns what the operating system said, also where a library hides it in the text of an exception of its own.

    Returns:
      One line such as "No space left on device"; None if the exception is of another kind.
    """
    if isinstance(error, OSError):
        return reason(error)
    found = re.search(r"os_error_code='?(\d+)", str(error))  # as tensorstore puts it
    numbers = [int(found[1])] if found else [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES]
    return next((os.strerror(number) for number in numbers if found or os.strerror(number) in str(error)), None)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name[:_MAX_STEM]}.{secrets.token_hex(4)}.tmp")


def _created(path: Path):
    try:
        return open(path, "xb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "xb")
