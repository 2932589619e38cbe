"""Files that are whole or not there: atomic writing, locks between processes."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, BinaryIO

from fpgan.errors import FpganError, reason

try:
    import fcntl
except ImportError:  # Windows: no advisory locks, so two processes in one folder are the user's care
    fcntl = None

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp", re.DOTALL)
_MAX_STEM = 60
_SYSTEM_FILES = frozenset({  # in lower case
    ".ds_store", ".localized", ".spotlight-v100", ".trashes", ".fseventsd", ".temporaryitems", ".documentrevisions-v100",
    ".appledouble", ".apdisk", ".volumeicon.icns", "__macosx", "icon\r", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db",
    "desktop.ini", "$recycle.bin", "system volume information", "lost+found", ".directory", ".snapshot", ".snapshots",
    "@eadir", "#recycle", ".stfolder", ".stignore",
})


class NoLocks(FpganError):
    """This file system has no locks."""


def write_file(path: str | os.PathLike, data: bytes, sync: bool = False, private: bool = False) -> None:
    """Writes a file atomically: under a temporary name beside it, then renamed; missing folders are made.

    Args:
      path: where the file goes; one that is there is replaced, but keeps its mode, and a link stays a link.
      data: the whole content.
      sync: wait until the disk has it, so that it also survives a power cut.
      private: nobody but the owner may read a new file (mode 0600).

    Raises:
      FpganError: the place cannot be written.
    """
    with replacing(path, sync, private) as file, writing(path):
        file.write(data)


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turns an OSError of the block, which does nothing but write to `path`, into a FpganError that names it."""
    try:
        yield
    except OSError as error:
        raise FpganError(f"{os.fspath(path)}: cannot be written ({reason(error)})") from error


@contextlib.contextmanager
def replacing(path: str | os.PathLike, sync: bool = False, private: bool = False) -> Iterator:
    """Opens a temporary binary file that takes the place of `path` when the block ends without an exception.

    Args:
      path: where the file goes; missing folders are made. A file that is replaced keeps its mode, and a link stays a link.
      sync: wait until the disk has it before it takes its place.
      private: nobody but the owner may read a new file (mode 0600).

    Yields:
      The open file.

    Raises:
      FpganError: the place cannot be written. What the block itself raises stays as it is.
    """
    path = Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)
    temporary = _temporary(path)
    with writing(path):
        mode = _mode_of(path)
        file = _created(temporary, private or mode is not None)
        if mode is not None:
            os.chmod(temporary, mode)
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


def lock(file: IO, wait: bool = False, shared: bool = False) -> bool:
    """Locks an open file (flock) until it is closed, by whatever.

    Args:
      file: open for writing, or for reading where the lock is shared.
      wait: wait for another holder.
      shared: let others hold a shared lock as well.

    Returns:
      Whether the lock is held; without `wait` False while another process has it.

    Raises:
      NoLocks: this file system has no locks.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise NoLocks(f"{file.name}: this file system has no locks, which keep two processes from one folder; choose "
                          "another folder (on Lustre, the mount option flock)") from error
        raise
    return True


def create_file(path: str | os.PathLike, data: bytes, private: bool = False) -> bool:
    """Writes a small file that nobody has written yet, on the disk and whole; of several processes one does it.

    Args:
      path: where the file goes; missing folders are made.
      data: the whole content.
      private: nobody but the owner may read it (mode 0600).

    Returns:
      Whether this call wrote it; False when it was there.

    Raises:
      FpganError: the place cannot be written.
    """
    path = Path(path)
    temporary = _temporary(path)
    with writing(path):
        try:
            with _created(temporary, private) as file:
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


def is_system_file(name: str) -> bool:
    """Returns whether a file or folder is named as those that operating systems leave everywhere, and that nobody has put
    there.
    """
    return name.lower() in _SYSTEM_FILES or name.startswith(("._", ".nfs", ".Trash-", ".fuse_hidden"))


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
    """Returns whether a file has the name of one that is just being written, or was when its process was killed."""
    return _TEMPORARY.fullmatch(name) is not None


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name[:_MAX_STEM]}.{secrets.token_hex(4)}.tmp")


def _mode_of(path: Path) -> int | None:
    """The mode of a file that is about to be replaced, or None when there is none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return stat.S_IMODE(status.st_mode) if stat.S_ISREG(status.st_mode) else None


def _created(path: Path, private: bool = False) -> BinaryIO:
    def opener(name, flags):
        return os.open(name, flags, 0o600 if private else 0o666)

    try:
        return open(path, "xb", opener=opener)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "xb", opener=opener)
