"""Decoding many images in any number of processes and after any number of kills: into a folder of row files.

    part-00003-of-00010.parquet        the rows of a shard of the images, in the order in which they are found
    _fpgan/settings.json               what was asked for, with the hash of the list of images
    _fpgan/00003-of-00010.json         counts over a finished shard; it appears after the part

A shard is a fixed number of images that follow each other in the list, so its part has the same bytes whoever makes it, on
any number of devices (programs run at one batch size alone, those of a search too: `fpgan.Model.read`, exact).
Names that begin with `_` are passed over by what reads a folder of Parquet files.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from fpgan.decoding.decode import DecodeJob
from fpgan.decoding.rows import Counts, Row, row_file
from fpgan.distributed.environment import Process
from fpgan.distributed.work import Claim, Outcome, begun, remove_leftovers, run_shards, shard_name
from fpgan.errors import FpganError
from fpgan.io.files import remove_temporaries, write_file
from fpgan.io.listing import Source, image_sources
from fpgan.io.tables import format_of

SHARD_SIZE = 16384
_ABOUT = "_fpgan"


def is_folder(out: str | os.PathLike | None) -> bool:
    """Returns whether rows shall go into a folder: one that exists, or a name that ends in / or has no ending such as
    .csv.
    """
    return out is not None and (os.path.isdir(out) or not os.path.basename(out) or not os.path.splitext(out)[1])


def decode_folder(job: DecodeJob, paths: Iterable[str | os.PathLike], folder: str | os.PathLike, *,
                  format: str = "jsonl", shard_size: int = SHARD_SIZE, process: Process | None = None,
                  sinks: Iterable[Callable[[Row], None]] = (),
                  report: Callable[[str], None] | None = None,
                  passed_over: Callable[[str], None] | None = None) -> tuple[Outcome, Counts]:
    """Decodes this process's share of images into a folder, going on where earlier processes ended.

    The images are listed twice, first only to count and hash them: so a list of any length needs little memory, and a folder
    that changes meanwhile is noticed.

    Args:
      job: what is asked about each image; equal bytes are promised for equal batch sizes.
      paths: files, folders, globs and array_record files, see `fpgan.decoding.decode.decode_files`; they have to stay as
        they are until all processes are through.
      folder: a new or empty folder, or one that was used with the same arguments; one file system for all processes.
      format: of the parts, one of `fpgan.io.tables.FORMATS`.
      shard_size: images per part.
      process: which one of how many this is; the only one by default.
      sinks: are given every row that this process makes, besides the parts.
      report: is told in a line when this process waits for another.
      passed_over: is told the path of each file that is no image by its name, see `fpgan.io.listing.image_sources`.

    Returns:
      What this process did, and the counts over all images of its share, whenever they were decoded.

    Raises:
      FpganError: the folder holds something else, an argument is wrong, or the images have changed since the folder was
        begun. Images that cannot be read are rows, not errors.
    """
    paths, folder = list(paths), Path(folder)
    format_of("", format)
    if job.pool is not None:
        raise FpganError("to pool images, one process has to read them all into one table; give --out a file, such as v.csv")
    if shard_size < 1:
        raise FpganError(f"the shard size is {shard_size}; expected at least 1")
    images, digests = _listed(paths, shard_size, passed_over or (lambda path: None))
    names = hashlib.sha256("".join(digests).encode()).hexdigest()
    mark = {"fpgan_rows": 1, **job.settings(), "images": images, "images_sha256": names, "format": format,
            "shard_size": shard_size}
    parts, shards = _Parts(folder, job, format, digests, list(sinks)), range(len(digests))
    mine = (process or Process()).shards(len(digests))
    with begun(folder, f"{_ABOUT}/settings.json", mark):
        run_shards(parts.listed(paths, shard_size, mine), parts.make_many, claim_path=parts.claim_path,
                   is_finished=parts.is_finished, report=report or (lambda line: None), skip=parts.forget)
    counts = Counts()
    for shard in mine:
        counts.add_all(parts.counts(shard))
    missing = sum(not parts.is_finished(shard) for shard in shards)
    if not missing:
        remove_leftovers(map(parts.claim_path, shards), [folder / _ABOUT])
    return Outcome(parts.made, counts.read + counts.failed - parts.made, images, missing), counts


class _Parts:
    """The parts of a folder, and the images of those that this process is about to make."""

    def __init__(self, folder: Path, job: DecodeJob, format: str, digests: list[str], sinks: list[Callable[[Row], None]]):
        self.folder, self.job, self.format, self.digests, self.sinks = folder, job, format, digests, sinks
        self.made = 0
        self._sources: dict[int, list[Source]] = {}

    def listed(self, paths: list, shard_size: int, mine: range) -> Iterator[int]:
        """Yields the shards of `mine` while it lists the images of all."""
        sources = image_sources(paths)
        for shard in range(len(self.digests)):
            group = list(itertools.islice(sources, shard_size))
            if shard in mine:
                self._sources[shard] = group
                yield shard

    def forget(self, shard: int) -> list[Source]:
        """Returns the images of a shard, which are not needed here any more."""
        return self._sources.pop(shard)

    def make_many(self, claimed: Iterator[tuple[int, Claim]]) -> None:
        """Makes claimed parts, one after the other."""
        for shard, taken in claimed:
            try:
                self._make(shard, self.forget(shard))
                taken.remove()
            finally:
                taken.release()

    def is_finished(self, shard: int) -> bool:
        """Returns whether a part and its counts are there."""
        return self._about(shard).exists() and self._part(shard).exists()

    def claim_path(self, shard: int) -> Path:
        """Returns the path of a shard's claim."""
        return self.folder / _ABOUT / f".{shard_name(shard, len(self.digests))}.claim"

    def counts(self, shard: int) -> Counts:
        """Reads the counts over a finished shard."""
        path = self._about(shard)
        try:
            counts = json.loads(path.read_bytes())
            return Counts(**counts | {"verdicts": Counter(counts["verdicts"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FpganError(f"{path} is damaged; remove it, and the same command makes this part again") from error

    def _make(self, shard: int, sources: list[Source]) -> None:
        """Makes a part and then its counts."""
        if _digest(sources) != self.digests[shard]:
            raise FpganError("the images have changed while they were read; choose another folder for the rows of "
                             "those that there are now")
        part, about = self._part(shard), self._about(shard)
        remove_temporaries([part, about])
        with row_file(part, self.format, self.job.registry is not None, sync=True) as write:
            counts = self.job.run(sources, [write, *self.sinks])
        write_file(about, json.dumps(vars(counts), sort_keys=True).encode() + b"\n", sync=True)
        self.made += len(sources)

    def _part(self, shard: int) -> Path:
        return self.folder / f"part-{shard_name(shard, len(self.digests))}.{self.format}"

    def _about(self, shard: int) -> Path:
        return self.folder / _ABOUT / f"{shard_name(shard, len(self.digests))}.json"


def _listed(paths: list, shard_size: int, passed_over: Callable[[str], None]) -> tuple[int, list[str]]:
    """Counts the images, and hashes the names in each shard."""
    sources, images, digests = image_sources(paths, passed_over), 0, []
    while group := list(itertools.islice(sources, shard_size)):
        images += len(group)
        digests.append(_digest(group))
    return images, digests


def _digest(sources: Iterable[Source]) -> str:
    """The SHA-256 of the images' names."""
    return hashlib.sha256("\0".join(source.name for source in sources).encode("utf-8", "surrogateescape")).hexdigest()
