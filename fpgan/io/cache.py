"""What may be thrown away: the user's cache folder, and in it the programs that JAX has compiled.

    $XDG_CACHE_HOME/fpgan/                  or ~/.cache/fpgan, or what FPGAN_CACHE says; FPGAN_CACHE=off: nothing is kept
        programs-<processor>/<key>-cache    compiled programs, all of them whole, at most MOST_BYTES together
        programs-<processor>/run-<random>/  the view of a process that is running: links to all, and what it has compiled
        seen/<digest>                       that a model file was found to be in order
        compile/                            what the TPU's compiler said (benchmarks/compile.py)

JAX writes entries in place, so one process may read what another has half written, and a kill may leave half an entry for
good. So each process works on a folder of its own, and only when it ends well do its new entries appear beside the others,
by a link, which is atomic. A program for a processor must not run on one that lacks its instructions, so each kind of
processor (a home folder may be shared) has a folder of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fpgan.errors import FpganError
from fpgan.io.files import fcntl, lock, write_file

VARIABLE = "FPGAN_CACHE"
MOST_BYTES = 256 << 20
MOST_ENTRIES, MOST_SEEN = 512, 1024
_LEAST_SECONDS = 0.1  # what compiles faster is not kept
_YOUNG = 60 if fcntl else 7 * 86400  # seconds: a younger folder may be that of a process that is running
_LOCK = ".running"
_CPUINFO = "/proc/cpuinfo"


def cache_folder() -> Path | None:
    """Returns the folder for what may be thrown away, which need not exist yet; None if the user wants none."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted == "off":
        return None
    if wanted:
        return Path(wanted)
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return Path(base if os.path.isabs(base) else Path.home() / ".cache") / "fpgan"
    except RuntimeError:  # this user has no home
        return None


def folder_of(name: str, given: str = "") -> Path:
    """Returns the folder that was given for a part of the cache, or the one of this name in the user's cache.

    Raises:
      FpganError: none was given, and the user wants no cache.
    """
    if given:
        return Path(given).expanduser()
    folder = cache_folder()
    if folder is None:
        raise FpganError(f"there is no cache folder ({VARIABLE}=off?), and this is worth keeping; name one (--cache DIR)")
    return folder / name


@contextlib.contextmanager
def compiled_programs() -> Iterator[Path | None]:
    """Lets JAX, which must not have been imported yet, keep compiled programs in the user's cache while the block runs.

    Whoever has set JAX_COMPILATION_CACHE_DIR gets that and nothing of this. A folder that cannot be written or locked, or
    that belongs to somebody else, whose programs would be run, means no cache.

    Yields:
      The folder of this process; None without a cache.
    """
    folder = cache_folder()
    view = None
    if folder is not None and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        with contextlib.suppress(OSError, FpganError):
            view = _View(folder / f"programs-{_processor()}")
    if view is None:
        yield None
        return
    variables = {"JAX_COMPILATION_CACHE_DIR": str(view.own), "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
                 "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": str(_LEAST_SECONDS)}
    added = [name for name in variables if name not in os.environ]
    os.environ.update({name: variables[name] for name in added})
    try:
        yield view.own
    finally:
        for name in added:
            del os.environ[name]
        with contextlib.suppress(OSError, FpganError):
            view.close()


def has_seen(digest: str) -> bool:
    """Returns whether `remember` was called with this digest before, and the cache still knows."""
    folder = cache_folder()
    return folder is not None and (folder / "seen" / digest).exists()


def remember(digest: str) -> None:
    """Notes a digest of something that was looked at and found to be in order; without a cache, nothing."""
    folder = cache_folder()
    if folder is not None:
        with contextlib.suppress(OSError):
            (folder / "seen").mkdir(parents=True, exist_ok=True, mode=0o700)
            if len(os.listdir(folder / "seen")) >= MOST_SEEN:
                shutil.rmtree(folder / "seen")
                (folder / "seen").mkdir(mode=0o700)
            (folder / "seen" / digest).touch()


class _View:
    """The folder of one process: links to the entries of all, and its own new ones."""

    def __init__(self, shared: Path):
        shared.mkdir(parents=True, exist_ok=True, mode=0o700)
        if hasattr(os, "geteuid") and shared.stat().st_uid != os.geteuid():
            raise PermissionError(f"{shared} belongs to somebody else")
        self.shared, self.own = shared, Path(tempfile.mkdtemp(prefix="run-", dir=shared))
        self._held = open(self.own / _LOCK, "wb")
        try:
            lock(self._held)
        except (OSError, FpganError):
            self._held.close()
            shutil.rmtree(self.own, ignore_errors=True)
            raise
        for _, _, name in _entries(shared)[:MOST_ENTRIES]:
            _share(shared / name, self.own / name)

    def close(self) -> None:
        """Publishes what is new, removes what is too much, and what processes have left that did not end well."""
        try:
            for _, _, name in _entries(self.own):
                _share(self.own / name, self.shared / name)
            _shrink(self.shared)
        finally:
            self._held.close()
            shutil.rmtree(self.own, ignore_errors=True)
            for folder in self.shared.glob("run-*"):
                _remove_if_dead(folder)


def _entries(folder: Path) -> list[tuple[float, int, str]]:
    """Lists the entries in a folder, latest use first: when they were used, their bytes, their names."""
    entries = []
    with os.scandir(folder) as listed:
        for entry in listed:
            with contextlib.suppress(FileNotFoundError):
                if entry.name.endswith("-cache") and entry.is_file(follow_symlinks=False):
                    status = entry.stat()
                    entries.append((max(status.st_atime, status.st_mtime), status.st_size, entry.name))
    return sorted(entries, reverse=True)


def _share(path: Path, other: Path) -> None:
    """Lets a file appear, whole, under another name, unless that is there."""
    try:
        os.link(path, other)
    except (FileExistsError, FileNotFoundError):  # another process was quicker
        pass
    except OSError:  # a file system without hard links
        write_file(other, path.read_bytes())


def _shrink(folder: Path) -> None:
    """Removes the entries that were not used for longest, until the rest is no more than the bounds allow."""
    total = 0
    for count, (_, size, name) in enumerate(_entries(folder), start=1):
        total += size
        if total > MOST_BYTES or count > MOST_ENTRIES:
            (folder / name).unlink(missing_ok=True)


def _remove_if_dead(folder: Path) -> None:
    """Removes the folder of a process that has ended."""
    with contextlib.suppress(OSError):
        if time.time() - folder.stat().st_mtime < _YOUNG:
            return
        with open(folder / _LOCK, "ab") as file:
            if not lock(file):
                return
        shutil.rmtree(folder, ignore_errors=True)


def _processor() -> str:
    """Returns a digest of the kind of processor and of the instructions that it knows."""
    described = platform.machine()
    with contextlib.suppress(OSError), open(_CPUINFO, "rb") as file:
        first = file.read(1 << 14).split(b"\n\n")[0].decode(errors="replace")  # of the first core
        described += "".join(line for line in first.splitlines() if line.startswith(("model name", "flags", "Features")))
    return hashlib.sha256(described.encode()).hexdigest()[:12]
