"""Files that are whole or not there: atomic writing, and a lock against two processes doing the same work."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from fpgan.errors import FpganError

try:
    import fcntl
except ImportError:  # Windows: no advisory locks, so two processes in one folder are the user's care
    fcntl = None


def write_file(path: str | os.PathLike, data: bytes, sync: bool = False) -> None:
    """Writes a file atomically: under a temporary name beside it, then renamed; missing folders are made.

    Args:
      path: where the file goes; one that is there is replaced.
      data: the whole content.
      sync: wait until the disk has it, so that it also survives a power cut.

    Raises:
      FpganError: the place cannot be written.
    """
    with replacing(path, sync) as file:
        file.write(data)


@contextlib.contextmanager
def replacing(path: str | os.PathLike, sync: bool = False) -> Iterator:
    """Opens a temporary binary file that takes the place of `path` when the block ends without an exception.

    Args:
      path: where the file goes; missing folders are made.
      sync: wait until the disk has it before it takes its place.

    Yields:
      The open file.

    Raises:
      FpganError: the place cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name[:60]}.{secrets.token_hex(4)}.tmp")
    try:
        with _created(temporary) as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise FpganError(f"{path}: cannot be written ({reason(error)})") from error
    finally:
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
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab")
    except OSError as error:
        raise FpganError(f"{path}: cannot be written ({reason(error)})") from error
    with file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FpganError(f"{Path(path).parent}: another process is at work here; wait for it or "
                             "choose another folder") from error
        yield


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
