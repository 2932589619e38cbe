"""Checking a sample set against what was asked for: counts, names, hashes of all images, and what the decoder reads in some.

Shards are read in threads, each at once, so that neither the images nor the manifests of a set have to fit into memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fpgan.attribution.statistics import matches, threshold
from fpgan.errors import FpganError, reason
from fpgan.fingerprint import Fingerprint
from fpgan.generation.manifest import (
    MANIFEST,
    SETTINGS,
    ManifestError,
    Settings,
    folder_name,
    manifest_entry,
    names_digest,
    of_other_instances,
    read_settings,
)
from fpgan.io.files import is_system_file, is_temporary
from fpgan.io.images import read_image
from fpgan.io.inputs import read_bytes
from fpgan.io.provenance import cpu_count
from fpgan.io.records import record_reader

if TYPE_CHECKING:
    from fpgan.model.model import Model

MAX_MANIFEST, MAX_IMAGE = 1 << 30, 1 << 28  # bytes
SHOWN = 10  # problems that are kept word by word


class SystemFile(str):
    """The path of a file that an operating system has left: told, but no problem."""


@dataclass
class Problems:
    """What is wrong: the first few in words, the others counted."""

    shown: list[str] = field(default_factory=list)
    count: int = 0
    system: list[SystemFile] = field(default_factory=list)

    def add(self, what: str, first: bool = False) -> None:
        """Adds one, if it explains others in front of them."""
        if isinstance(what, SystemFile):
            self.system.append(what)
            return
        self.count += 1
        self.shown = ([what, *self.shown] if first else [*self.shown, what])[:SHOWN]

    def add_all(self, what: Iterable[str]) -> None:
        """Adds some."""
        for each in what:
            self.add(each)

    def extend(self, others: Problems) -> None:
        """Adds all of others, which come after these."""
        self.count += others.count
        self.system += others.system
        self.shown += others.shown[:SHOWN - len(self.shown)]


@dataclass
class Report:
    """What `verify_set` found.

    Attributes:
      settings: what the set was to be.
      shards: how many of its shards have a manifest.
      listed: images in these manifests.
      right: images whose bytes have the hash that their manifest says.
      decoded: images whose fingerprint was read.
      matched: of them, those with enough bits of the fingerprint in the manifest.
      needed: bits that have to match.
      problems: everything that is wrong.
    """

    settings: Settings
    shards: int = 0
    listed: int = 0
    right: int = 0
    decoded: int = 0
    matched: int = 0
    needed: int = 0
    problems: Problems = field(default_factory=Problems)


@dataclass
class _ShardReport:
    """What is in one shard."""

    listed: int = 0
    right: int = 0
    first: dict | None = None  # the first good line,
    last: dict | None = None  # and the last
    instances: list[dict] = field(default_factory=list)  # the lines of the instances that begin here
    picked: list[tuple[dict, bytes]] = field(default_factory=list)  # lines and encoded images of those to decode
    problems: Problems = field(default_factory=Problems)


def verify_set(folder: str | os.PathLike, model: Model | None = None, *, decode: int = 0, seed: int | None = None,
               workers: int | None = None, false_positive_rate: float = 1e-6,
               progress: Callable[[int, int], None] | None = None) -> Report:
    """Checks a sample set.

    Args:
      folder: what `fpgan.generation.generate.generate_set` wrote.
      model: the Model that made it, if images are to be decoded.
      decode: how many images to decode, drawn at random.
      seed: of the drawing; another one each time without it.
      workers: threads that read and hash; as many as there are CPU cores by default.
      false_positive_rate: with which an image of another fingerprint may pass; see `fpgan.attribution.statistics.threshold`.
      progress: called with (images read, images in all).

    Raises:
      FpganError: the folder holds no sample set, or the model is not the one that made it.
    """
    folder = Path(folder)
    report = Report(read_settings(folder))
    if decode:
        _check_model(report.settings, model)
        report.needed = threshold(report.settings.bits, false_positive_rate)
    total = report.settings.total
    chosen = set(random.Random(seed).sample(range(total), min(decode, total)))
    picked, labels = _check_shards(folder, report, chosen, workers or cpu_count(), progress or (lambda done, total: None))
    report.problems.add_all(_strangers(folder, report.settings, labels))
    if picked:
        _decode(model, picked, report)
    return report


def _check_model(settings: Settings, model) -> None:
    if model is None or model.hash != settings.model:
        raise FpganError(f"the set was made by the model with the hash {settings.model}, not {model and model.hash}; give "
                         "that model to decode images, or decode none")


def _check_shards(folder: Path, report: Report, chosen: set[int], workers: int,
                  progress: Callable[[int, int], None]) -> tuple[list[tuple[dict, bytes]], set[str]]:
    """Checks all shards; returns the chosen images with their lines, and the labels of the instances."""
    settings, picked, labels, last = report.settings, [], set(), None
    names, prints = hashlib.sha256(), hashlib.sha256()
    for shard, found in _shard_reports(folder, settings, chosen, workers):
        report.problems.extend(found.problems)
        report.shards += found.listed > 0
        report.listed += found.listed
        report.right += found.right
        picked += found.picked
        labels.update(map(_label, found.instances))
        names_digest([line["user"] for line in found.instances], names)
        for line in found.instances:
            prints.update(Fingerprint.from_hex(line["fingerprint"], settings.bits).packed)
        if settings.samples(shard).start % settings.per_user and of_other_instances(last, found.first):
            report.problems.add(f"{settings.manifest_file(shard)}: another user or fingerprint than in the shard before",
                                first=True)
        last = found.last
        progress(settings.samples(shard).stop, settings.total)
    for what, digest in (("users", names), ("fingerprints", prints)):
        if report.listed == settings.total and digest.hexdigest() != getattr(settings, f"{what}_sha256"):
            report.problems.add(f"the manifests name other {what} than {SETTINGS} says", first=True)
    return picked, labels


def _shard_reports(folder: Path, settings: Settings, chosen: set[int],
                   workers: int) -> Iterator[tuple[int, _ShardReport]]:
    """Checks shards in threads; yields their reports in order."""
    waiting: deque = deque()
    with ThreadPoolExecutor(workers) as pool:
        for shard in range(settings.shards):
            here = chosen.intersection(settings.samples(shard))
            waiting.append((shard, pool.submit(_check_shard, folder, settings, shard, here)))
            if len(waiting) > 2 * workers:
                earlier, future = waiting.popleft()
                yield earlier, future.result()
        for earlier, future in waiting:
            yield earlier, future.result()


def _check_shard(folder: Path, settings: Settings, shard: int, chosen: set[int]) -> _ShardReport:
    """Compares a shard's manifest and its images, line by line."""
    report, name, samples = _ShardReport(), settings.manifest_file(shard), settings.samples(shard)
    try:
        lines = read_bytes(folder / name, MAX_MANIFEST).splitlines(keepends=True)
    except OSError as error:
        begun = (folder / settings.journal_file(shard)).exists()
        report.problems.add(f"{name}: {reason(error)}; shard {shard} is {'not finished' if begun else 'missing'}: the same "
                            "fpgan generate makes it")
        return report
    if len(lines) != len(samples):
        report.problems.add(f"{name}: {len(lines)} lines; expected {len(samples)}")
    report.listed = min(len(lines), len(samples))
    with contextlib.ExitStack() as stack:
        read, trouble = _open_images(stack, folder, settings, shard)
        report.problems.add_all(trouble)
        for number, (i, line) in enumerate(zip(samples, lines, strict=False), start=1):
            try:
                entry = manifest_entry(settings, i, line, report.last)
                _check_image(folder, settings, i, entry, read, i in chosen, report)
            except ManifestError as error:
                report.problems.add(f"{name}, line {number}: {error}")
            except FpganError as error:
                report.problems.add(str(error))
    return report


def _check_image(folder: Path, settings: Settings, i: int, entry: dict, read: Callable[[dict], bytes | None], chosen: bool,
                 report: _ShardReport) -> None:
    """Adds an image to a shard's report; raises FpganError if it is not as its line says."""
    report.first, report.last = report.first or entry, entry
    if i % settings.per_user == 0:
        report.instances.append(entry)
        report.problems.add_all(_strangers_beside(folder, settings, i, entry))
    data = read(entry)
    if data is None:
        return
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise FpganError(f"{_told(entry)}: other bytes than the manifest says")
    report.right += 1
    if chosen:
        report.picked.append((entry, data))


def _open_images(stack: contextlib.ExitStack, folder: Path, settings: Settings,
                 shard: int) -> tuple[Callable[[dict], bytes | None], list[str]]:
    """Opens a shard's images.

    Returns:
      A function from a manifest's entry to the encoded image, which raises FpganError if that cannot be read, and gives None
      for a record behind the end of its file; and what is wrong with the file of records.
    """
    if settings.container == "files":
        return (lambda entry: _read_file(folder / entry["file"])), []
    path, expected = folder / settings.record_file(shard), len(settings.samples(shard))
    try:
        reader = stack.enter_context(record_reader(path))
        count = reader.num_records()
    except FpganError as error:
        return (lambda entry: None), [f"{error}" if path.exists() else f"{path}: No such file"]
    return (lambda entry: _read_record(reader, entry) if entry["record"] < count else None), (
        [f"{path}: {count} records; expected {expected}"] if count != expected else [])


def _read_file(path: Path) -> bytes:
    try:
        return read_bytes(path, MAX_IMAGE)
    except OSError as error:
        raise FpganError(f"{path}: {reason(error)}") from error


def _read_record(reader, entry: dict) -> bytes:
    try:
        return reader.read([entry["record"]])[0]
    except RuntimeError as error:
        raise FpganError(f"{_told(entry)}: the record is damaged") from error


def _strangers_beside(folder: Path, settings: Settings, first: int, entry: dict) -> Iterator[str]:
    """Finds files in an instance's folder that are none of its images; `first` is the number of the first of these."""
    if settings.container != "files":
        return
    place, label = folder / os.path.dirname(entry["file"]), _label(entry)
    try:
        with os.scandir(place) as files:
            for file in files:
                number = file.name.partition(".")[0]
                known = number.isdecimal() and len(number) < 20 and int(number) < settings.per_user and (
                    os.path.basename(settings.image_file(first + int(number), label)) == file.name)
                if not known:
                    yield _strange(Path(file.path))
    except OSError as error:
        yield f"{place}: {reason(error)}"


def _strangers(folder: Path, settings: Settings, labels: set[str]) -> Iterator[str]:
    """Finds files beside the images that are not of the set."""
    shards, names = range(settings.shards), (settings.manifest_file, settings.journal_file)
    manifests = {os.path.basename(name(shard)) for shard in shards for name in names}
    if (folder / MANIFEST).is_dir():
        for name in sorted(set(os.listdir(folder / MANIFEST)) - manifests):
            yield _strange(folder / MANIFEST / name)
    known, there = {SETTINGS, MANIFEST}, set(os.listdir(folder))
    if settings.container == "array_record":
        known |= {settings.record_file(shard) for shard in shards}
    elif len(labels) < settings.users:
        return  # not all folders of users are known, and strange ones cannot be told from them
    else:
        known |= {folder_name(label) for label in labels}
    yield from (_strange(folder / name) for name in sorted(there - known))


def _strange(path: Path) -> str:
    if is_system_file(path.name):
        return SystemFile(path)
    kind = "half-written, by a process that is at work or was killed" if is_temporary(path.name) else "not of this set"
    return f"{path}: {kind}"


def _decode(model, picked: list[tuple[dict, bytes]], report: Report) -> None:
    """Reads the fingerprints in images and compares them with the manifest's."""
    images = []
    for entry, data in picked:
        try:
            image, resized = read_image(data, model.resolution)
        except FpganError as error:
            report.problems.add(f"{_told(entry)}: {error}")
            continue
        if resized:
            report.problems.add(f"{_told(entry)}: not of {model.resolution} x {model.resolution} pixels")
        images.append((entry, image))
    if not images:
        return
    logits = model.decode(np.stack([image for _, image in images]))  # [N, n]
    for (entry, _), bits in zip(images, logits > 0, strict=True):
        equal = int(matches(Fingerprint.from_hex(entry["fingerprint"], report.settings.bits), bits))
        report.decoded += 1
        report.matched += equal >= report.needed
        if equal < report.needed:
            report.problems.add(f"{_told(entry)}: {equal} of {report.settings.bits} bits match the manifest's "
                                f"fingerprint; expected {report.needed}")


def _label(entry: dict) -> str:
    return entry["fingerprint"] if entry["user"] is None else entry["user"]


def _told(entry: dict) -> str:
    return f"{entry['file']}#{entry['record']}" if "record" in entry else entry["file"]
