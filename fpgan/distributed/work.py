"""Work in shards for processes that do not talk to each other: who is at work on a shard, and one loop over them.

Process p of N has the shards p, p + N, p + 2 N, ... A shard that is being made has a file, its claim, that the process
at work holds locked (flock). The lock ends with the process, however that ends, so another one can go on; and processes
of two jobs at once, say of an old one that was not stopped and of a new one with another N, do not meet in a shard.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fpgan.errors import FpganError, reason
from fpgan.io.files import create_file, is_system_file, is_temporary, lock, write_file, writing
from fpgan.io.inputs import read_json

_POLL = 1.0  # seconds between looks at a shard that another process holds


@contextlib.contextmanager
def begun(folder: str | os.PathLike, name: str, wanted: dict) -> Iterator[None]:
    """Marks a folder as that of one piece of work, or makes sure that it is that already, while the block runs.

    A folder that was marked but holds nothing yet, and where nobody is at work (a shared lock on the mark says so), takes
    another piece of work: so that one may mend arguments with which nothing could be made.

    Args:
      folder: new, empty, or used for the same before.
      name: path in the folder of the JSON file that says what it is for.
      wanted: the content of this file; its first entry says what kind of work it is.

    Raises:
      FpganError: the folder holds something else, or another piece of work.
    """
    folder, path = Path(folder), Path(folder) / name
    content = json.dumps(wanted, indent=1).encode() + b"\n"
    while True:
        _refuse_foreign(folder, path)
        create_file(path, content)
        with contextlib.ExitStack() as stack:
            try:
                mark = stack.enter_context(open(path, "r+b"))
                lock(mark, wait=True, shared=True)
                if not os.path.samestat(os.fstat(mark.fileno()), os.stat(path)):
                    continue  # replaced meanwhile
                found = read_json(path, "; choose another folder")
            except OSError as error:
                raise FpganError(f"{path}: cannot be read ({reason(error)}); choose another folder") from error
            told = _differences(path, found, wanted)
            if not told:
                yield
                return
            if not _holds_nothing(folder, path) or not lock(mark):
                raise FpganError(f"{folder} was begun with other arguments: {'; '.join(told)}. Choose another folder, or "
                                 "give the same arguments to go on")
            write_file(path, content, sync=True)


def _refuse_foreign(folder: Path, path: Path) -> None:
    """Refuses a folder without a mark that holds other files."""
    try:
        if folder.exists() and not path.exists():
            foreign = [there for there in os.listdir(folder)
                       if there[0] != "." and there != path.relative_to(folder).parts[0] and not is_system_file(there)]
            if foreign and not path.exists():  # another process may have begun just now
                raise FpganError(f"{folder} holds other files, {min(foreign)!r} for one; choose another folder")
    except OSError as error:
        raise FpganError(f"{path}: cannot be read ({reason(error)}); choose another folder") from error


def _differences(path: Path, found: dict, wanted: dict) -> list[str]:
    """Says in what a mark differs from the one that is wanted."""
    kind = next(iter(wanted))
    if found.get(kind) != wanted[kind]:
        raise FpganError(f"{path} is not of this command, or of another fpgan; choose another folder")
    differing = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
    return [f"other {key.removesuffix('_sha256')}" if key.endswith("_sha256") else
            f"{key} {found.get(key)}, not {wanted.get(key)}" for key in differing]


def _holds_nothing(folder: Path, mark: Path) -> bool:
    """Returns whether a folder has, but for its mark, no file with content."""
    for where, _, names in os.walk(folder):
        for name in names:
            path = Path(where) / name
            if path != mark and not is_system_file(name) and path.stat().st_size:
                return False
    return True


class Claim:
    """The file of a shard that this process alone is making.

    Attributes:
      file: open for reading and appending, unbuffered.
      taken_over: whether an earlier process left it behind.
    """

    def __init__(self, path: Path, file: BinaryIO, taken_over: bool):
        self.file, self.taken_over = file, taken_over
        self._path = path

    def release(self) -> None:
        """Lets go; the file stays for whoever goes on."""
        self.file.close()

    def remove(self) -> None:
        """Removes the file, the shard being done, and lets go."""
        self._path.unlink(missing_ok=True)
        self.file.close()


def claim(path: str | os.PathLike) -> Claim | None:
    """Claims a shard by the path of its claim; None when a living process has it.

    Raises:
      FpganError: the file cannot be made, or this file system has no locks.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            taken_over = path.exists()
            file = open(path, "a+b", buffering=0)
            try:
                if not lock(file):
                    file.close()
                    return None
                # Between opening and locking, the holder may have finished and removed the file.
                if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                    return Claim(path, file, taken_over)
            except FileNotFoundError:
                pass
            except BaseException:
                file.close()
                raise
            file.close()


def wait_for_claim(path: str | os.PathLike, finished: Callable[[], bool]) -> Claim | None:
    """Claims a shard once the process that has it lets go; None when it is finished."""
    while not finished():
        if claimed := claim(path):
            return claimed
        time.sleep(_POLL)
    return None


@dataclass(frozen=True)
class Outcome:
    """What a process did.

    Attributes:
      made: images of its share that it made, or read.
      present: those of its share that were there.
      total: images in all shards.
      missing: shards that are not finished: other processes are making them, or were killed.
    """

    made: int
    present: int
    total: int
    missing: int


def run_shards(shards: Iterable[int], make_many: Callable[[Iterator[tuple[int, Claim]]], None], *,
               claim_path: Callable[[int], Path], is_finished: Callable[[int], bool], report: Callable[[str], None],
               skip: Callable[[int], None] = lambda shard: None) -> None:
    """Makes the shards that nobody else is making, and at last waits for those that somebody is.

    Args:
      shards: their numbers, in the order in which to make them.
      make_many: makes the shards of an iterator, of each its number and its claim, and releases the claims. It may draw
        ahead, to work at several shards at a time; it is called once for all that are free, then for each that was not.
      claim_path: the path of a shard's claim.
      is_finished: whether a shard needs nothing more.
      report: is told in a line when this process waits for another.
      skip: is told which shards were finished already.
    """
    held: list[int] = []
    make_many(_claimed(shards, held, claim_path, is_finished, skip))
    for shard in held:  # one at a time, with nothing else in hand: two processes may be waiting for each other's
        report(f"waiting for shard {shard}, which another process is making")
        taken = wait_for_claim(claim_path(shard), lambda shard=shard: is_finished(shard))
        if _is_needed(shard, taken, is_finished, skip):
            make_many(iter([(shard, taken)]))


def remove_leftovers(claims: Iterable[Path], folders: Iterable[Path]) -> None:
    """Removes from work that is complete what killed processes left: claims of finished shards, half-written files."""
    for path in claims:
        if path.exists() and (left := claim(path)):
            left.remove()
    for folder in folders:
        for name in filter(is_temporary, os.listdir(folder)):
            (folder / name).unlink(missing_ok=True)


def shard_name(number: int, total: int) -> str:
    """Returns the name of a shard of `total`: "00003-of-00010"; in alphabetical order up to 10^5 shards."""
    return f"{number:05d}-of-{total:05d}"


def _claimed(shards: Iterable[int], held: list[int], claim_path, is_finished, skip) -> Iterator[tuple[int, Claim]]:
    """Claims shards that are not finished; puts those that another process has into `held`."""
    for shard in shards:
        if is_finished(shard):
            skip(shard)
        elif (taken := claim(claim_path(shard))) is None:
            held.append(shard)
        elif _is_needed(shard, taken, is_finished, skip):
            yield shard, taken


def _is_needed(shard: int, taken: Claim | None, is_finished, skip) -> bool:
    """Whether a shard is this process's to make; one that another process has just finished is not."""
    if taken and not is_finished(shard):
        return True
    if taken:
        taken.remove()
    skip(shard)
    return False
