"""Decoding many images in any number of processes and after any number of kills: into a folder of row files.

    part-00003-of-00010.parquet        the rows of a shard of the images, in the order in which they are found
    _fpgan/settings.json               what was asked for, with the hash of the list of images
    _fpgan/00003-of-00010.json         counts over a finished shard; it appears after the part

A shard is a fixed number of images that follow each other in the list, so its part has the same bytes whoever makes it.
Names that begin with `_` are passed over by what reads a folder of Parquet files.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fpgan.attribution.registry import Registry
from fpgan.decoding.decode import attribute_rows, decode_sources
from fpgan.decoding.rows import Counts, Row, row_file, write_rows
from fpgan.distributed.environment import Share
from fpgan.distributed.work import Claim, begin, claim, shard_name, wait_for_claim
from fpgan.errors import FpganError
from fpgan.io.files import is_temporary, remove_temporaries, write_file
from fpgan.io.listing import Source, image_sources
from fpgan.io.tables import format_of

SHARD_SIZE = 16384
_ABOUT = "_fpgan"


@dataclass(frozen=True)
class Question:
    """What is asked about images.

    Attributes:
      model: the Model that decodes them.
      registry: the users to compare with; None if only the bits are asked for.
      false_positive_rate: see `fpgan.attribution.attribute`.
      evenness_threshold: see there.
    """

    model: object
    registry: Registry | None = None
    false_positive_rate: float = 1e-6
    evenness_threshold: float | None = None

    def rows(self, sources: Iterable[Source], batch_size: int, workers: int) -> Iterator[Row]:
        """Answers for each image."""
        rows = decode_sources(self.model, sources, batch_size=batch_size, workers=workers)
        if self.registry is None:
            return rows
        return attribute_rows(rows, self.registry, self.false_positive_rate, self.evenness_threshold)

    def settings(self) -> dict:
        """All of it that decides the answers, as plain values."""
        settings = {"model": self.model.hash}
        if self.registry is None:
            return settings
        users = hashlib.sha256("\n".join(self.registry.users).encode() + b"\0" + self.registry.packed.tobytes())
        return settings | {"users": len(self.registry), "registry_sha256": users.hexdigest(),
                           "false_positive_rate": self.false_positive_rate,
                           "evenness_threshold": self.evenness_threshold}


@dataclass(frozen=True)
class Outcome:
    """What a process did.

    Attributes:
      counts: over all images of its share.
      made: how many images it decoded; the rows of the others were there.
      images: how many there are in all shares.
      missing_shards: shards of all that are not finished: other processes are making them, or were killed.
    """

    counts: Counts
    made: int
    images: int
    missing_shards: int


def is_folder(out: str | os.PathLike | None) -> bool:
    """Whether rows shall go into a folder: one that exists, or a name that ends in / or has no ending such as .csv."""
    return out is not None and (os.path.isdir(out) or not os.path.basename(out) or not os.path.splitext(out)[1])


def decode_folder(question: Question, paths: Iterable[str | os.PathLike], folder: str | os.PathLike, *,
                  format: str = "jsonl", shard_size: int = SHARD_SIZE, batch_size: int = 64, workers: int = 8,
                  share: Share | None = None, sinks: Iterable[Callable[[Row], None]] = (),
                  report: Callable[[str], None] | None = None) -> Outcome:
    """Decodes this process's share of images into a folder, going on where earlier processes ended.

    Args:
      question: what is asked about each image.
      paths: files, folders, globs and array_record files, see `fpgan.decoding.decode.decode_files`; they have to stay as
        they are until all processes are through.
      folder: a new or empty folder, or one that was used with the same arguments; one file system for all processes.
      format: of the parts, one of `fpgan.io.tables.FORMATS`.
      shard_size: images per part.
      batch_size: images per call of the compiled program; equal bytes are promised for equal batch sizes.
      workers: threads that read files.
      share: which process of how many this is; the only one by default.
      sinks: are given every row that this process makes.
      report: is told in a line when this process waits for another.

    Raises:
      FpganError: the folder holds something else, an argument is wrong, or the images have changed since the folder was
        begun. Images that cannot be read are rows, not errors.
    """
    paths, folder = list(paths), Path(folder)
    format_of("", format)
    if shard_size < 1:
        raise FpganError(f"the shard size is {shard_size}; expected at least 1")
    images, digests = _listed(paths, shard_size)
    names = hashlib.sha256("".join(digests).encode()).hexdigest()
    begin(folder, f"{_ABOUT}/settings.json", {
        "fpgan_rows": 1, **question.settings(), "images": images, "images_sha256": names, "format": format,
        "shard_size": shard_size, "batch_size": batch_size})
    work = _Work(folder, question, format, digests, batch_size, workers, list(sinks))
    tally, made = work.run(_groups(paths, shard_size, len(digests)), share or Share(), report or (lambda line: None))
    missing = sum(not work.is_finished(shard) for shard in range(len(digests)))
    if not missing:
        work.tidy()
    return Outcome(tally, made, images, missing)


@dataclass(frozen=True)
class _Work:
    """What one process does for a folder of rows."""

    folder: Path
    question: Question
    format: str
    digests: list[str]
    batch_size: int
    workers: int
    sinks: list[Callable[[Row], None]]

    def run(self, groups: Iterator[tuple[int, list[Source]]], share: Share,
            report: Callable[[str], None]) -> tuple[Counts, int]:
        """Makes the parts of the share that nobody else is making, and at last waits for those that somebody is."""
        tally, made, held = Counts(), 0, []
        for shard, sources in groups:
            if shard not in share.shards(len(self.digests)):
                continue
            if self.is_finished(shard):
                tally.add_all(self._tally(shard))
            elif taken := claim(self._path(shard, "claim")):
                made += self._make(shard, sources, taken, tally)
            else:
                held.append((shard, sources))
        for shard, sources in held:
            report(f"waiting for shard {shard}, which another process is making")
            taken = wait_for_claim(self._path(shard, "claim"), lambda shard=shard: self.is_finished(shard))
            if taken is None:
                tally.add_all(self._tally(shard))
            else:
                made += self._make(shard, sources, taken, tally)
        return tally, made

    def _make(self, shard: int, sources: list[Source], taken: Claim, tally: Counts) -> int:
        """Makes a claimed part, unless another process just has; returns how many images it decoded."""
        try:
            finished = self.is_finished(shard)
            if not finished:
                if _digest(sources) != self.digests[shard]:
                    raise FpganError("the images have changed while they were read; choose another folder for the rows of "
                                     "those that there are now")
                part, about = self._part(shard), self._path(shard, "json")
                remove_temporaries([part, about])
                rows = self.question.rows(sources, self.batch_size, self.workers)
                with row_file(part, self.format, self.question.registry is not None, sync=True) as write:
                    counts = write_rows(rows, write, *self.sinks)
                write_file(about, json.dumps(vars(counts), sort_keys=True).encode() + b"\n", sync=True)
            tally.add_all(self._tally(shard))
            taken.remove()
        finally:
            taken.release()
        return 0 if finished else len(sources)

    def is_finished(self, shard: int) -> bool:
        """Whether a part and its counts are there."""
        return self._path(shard, "json").exists() and self._part(shard).exists()

    def tidy(self) -> None:
        """Removes what killed processes left beside finished parts."""
        for shard in range(len(self.digests)):
            path = self._path(shard, "claim")
            if path.exists() and (left := claim(path)):
                left.remove()
        for name in filter(is_temporary, os.listdir(self.folder / _ABOUT)):
            (self.folder / _ABOUT / name).unlink(missing_ok=True)

    def _tally(self, shard: int) -> Counts:
        path = self._path(shard, "json")
        try:
            counts = json.loads(path.read_bytes())
            return Counts(**counts | {"verdicts": Counter(counts["verdicts"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FpganError(f"{path} is damaged; remove it, and the same command makes this part again") from error

    def _part(self, shard: int) -> Path:
        return self.folder / f"part-{shard_name(shard, len(self.digests))}.{self.format}"

    def _path(self, shard: int, ending: str) -> Path:
        hidden = "." if ending == "claim" else ""
        return self.folder / _ABOUT / f"{hidden}{shard_name(shard, len(self.digests))}.{ending}"


def _groups(paths: list, shard_size: int, expected: int) -> Iterator[tuple[int, list[Source]]]:
    """Yields the shards with their images."""
    sources = image_sources(paths)
    for shard in range(expected):
        yield shard, list(itertools.islice(sources, shard_size))


def _listed(paths: list, shard_size: int) -> tuple[int, list[str]]:
    """Counts the images, and hashes the names in each shard."""
    sources, images, digests = image_sources(paths), 0, []
    while group := list(itertools.islice(sources, shard_size)):
        images += len(group)
        digests.append(_digest(group))
    return images, digests


def _digest(sources: Iterable[Source]) -> str:
    """The SHA-256 of the images' names."""
    return hashlib.sha256("\0".join(source.name for source in sources).encode("utf-8", "surrogateescape")).hexdigest()
