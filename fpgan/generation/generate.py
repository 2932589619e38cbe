"""Generating sets of images, in any number of processes and after any number of kills: always the same bytes.

Each process makes the shards of its share, one after the other (see `fpgan.distributed.work`). Of a shard, batches of fixed
size go through stages that work at the same time: the devices generate, a batch each, threads encode (and write, if
every image is a file), this thread appends to the journal of the shard (see `fpgan.generation.shards`), and another one
finishes the shard before. What is not in a journal when a process is killed is made again: the batches on their way, at
most IN_FLIGHT on each device.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fpgan.attribution.registry import Registry
from fpgan.distributed.devices import local_devices
from fpgan.distributed.environment import Process
from fpgan.distributed.work import Claim, Outcome, begun, remove_leftovers, run_shards
from fpgan.generation.manifest import MANIFEST, SETTINGS, SHARD_SIZE, SampleSet, finished_shards, sample_set
from fpgan.generation.shards import KINDS, Shard
from fpgan.io.provenance import cpu_count
from fpgan.model.programs import SMALLEST, check_batch_size, fitting_batch

if TYPE_CHECKING:
    from fpgan.model.model import Model

IN_FLIGHT = 4  # batches of all devices that are generated or encoded at the same time
_GENERATING = 2  # of them on the device: one computes while another comes back


def generate_set(model: Model, registry: Registry, folder: str | os.PathLike, *, per_user: int, seed: int,
                 container: str = "files", encoding: str = "png", batch_size: int = 16, shard_size: int = SHARD_SIZE,
                 process: Process | None = None, workers: int | None = None, devices: int | None = None,
                 progress: Callable[[int, int], None] | None = None,
                 report: Callable[[str], None] | None = None) -> Outcome:
    """Generates this process's share of a set of images, going on where earlier processes ended.

    Args:
      model: a Model.
      registry: the instances: distinct users with their fingerprints, or `Registry.single` of a bare fingerprint.
      folder: a new or empty folder, or one that was used with the same arguments; one file system for all processes.
      per_user: images of each instance.
      seed: image k of every instance has the latent seed (seed + k) mod 2^32.
      container: "files" for a file per image, "array_record" for shards of records.
      encoding: "png", or "webp" (lossless).
      batch_size: images per call of the compiled program, on each device; equal bytes are promised for equal batch sizes.
      shard_size: images per shard.
      process: which one of how many this is; the only one by default.
      workers: threads that encode and write; as many as there are CPU cores by default.
      devices: how many of this process's devices generate; all by default. The bytes do not depend on it.
      progress: called with (images done, images in all) of this share.
      report: is told in a line when this process waits for another.

    Raises:
      FpganError: the folder holds something else, an argument is out of range, or a package is not installed; nothing is
        written then.
    """
    folder, devices = Path(folder), len(local_devices(devices))
    check_batch_size(batch_size, model.resolution)
    what = sample_set(model, registry, per_user=per_user, seed=seed, container=container, encoding=encoding,
                      batch_size=batch_size, shard_size=shard_size)
    settings = what.settings
    with begun(folder, SETTINGS, settings.to_dict()), _threads(workers or cpu_count()) as threads:
        finished = finished_shards(folder, settings)
        pipeline = _Pipeline(model, folder, what, (process or Process()).shards(settings.shards), threads, devices,
                             progress)
        pipeline.run(finished, report or (lambda line: None))
    missing = settings.shards - len(finished_shards(folder, settings))
    if not missing:
        remove_leftovers(map(pipeline.journal, range(settings.shards)), [folder, folder / MANIFEST])
    return Outcome(pipeline.made, pipeline.total - pipeline.made, settings.total, missing)


class _Threads(NamedTuple):
    """Those that generate, the `workers` that encode, and the one that finishes shards."""

    device: Executor
    encoders: Executor
    workers: int
    finisher: Executor


@contextlib.contextmanager
def _threads(workers: int) -> Iterator[_Threads]:
    with (ThreadPoolExecutor(1) as finisher, ThreadPoolExecutor(workers) as encoders,
          ThreadPoolExecutor(_GENERATING) as device):
        yield _Threads(device, encoders, workers, finisher)


class _Pipeline:
    """The stages through which one process sends the batches of its shards."""

    def __init__(self, model, folder: Path, what: SampleSet, shards: range, threads: _Threads, devices: int,
                 progress: Callable[[int, int], None] | None):
        self.model, self.folder, self.what, self.settings, self.threads = model, folder, what, what.settings, threads
        self.shards, self.devices = shards, devices
        self.total = sum(len(self.settings.samples(shard)) for shard in shards)
        self.done = self.made = 0
        self.progress = progress or (lambda done, total: None)

    def run(self, finished: set[int], report: Callable[[str], None]) -> None:
        """Makes the shards of the share that are not finished."""
        self.done = sum(len(self.settings.samples(shard)) for shard in self.shards if shard in finished)
        run_shards([shard for shard in self.shards if shard not in finished], self._make, claim_path=self.journal,
                   is_finished=self._is_finished, report=report,
                   skip=lambda shard: self._count(len(self.settings.samples(shard)), made=0))

    def journal(self, number: int) -> Path:
        """Returns the path of a shard's journal, which is its claim."""
        return self.folder / self.settings.journal_file(number)

    def _make(self, claimed: Iterator[tuple[int, Claim]]) -> None:
        """Sends the batches of claimed shards through the stages, several shards at a time."""
        in_flight: deque[tuple[Shard, range, Future]] = deque()
        finishing: deque[Future] = deque()
        begun: list[Shard] = []
        try:
            for shard in self._opened(claimed):
                begun.append(shard)
                for numbers in shard.batches(self.devices):
                    in_flight.append((shard, numbers, self.threads.device.submit(self._generate, shard, numbers)))
                    if len(in_flight) == IN_FLIGHT:
                        self._write(*in_flight.popleft(), finishing)
            while in_flight:
                self._write(*in_flight.popleft(), finishing)
            for shard_is_done in finishing:
                shard_is_done.result()
        finally:
            for _, _, batch in in_flight:
                batch.cancel()
            wait(finishing)
            for shard in begun:
                shard.release()

    def _generate(self, shard: Shard, numbers: range) -> list[Future]:
        """Generates a batch on each device, and hands it to the encoding threads in slices."""
        bits, seeds = self.what.inputs(numbers)
        batch_size = fitting_batch(self.settings.batch_size, self.settings.total, SMALLEST)
        images = self.model.generate(bits, seeds, batch_size=batch_size, devices=self.devices, exact=True)
        size = -(-len(images) // self.threads.workers)
        return [self.threads.encoders.submit(shard.encode, numbers[start], images[start:start + size])
                for start in range(0, len(images), size)]

    def _write(self, shard: Shard, numbers: range, batch: Future, finishing: deque[Future]) -> None:
        """Waits for a batch and records it; has the shard finished if this was its last."""
        shard.append([entry for encoded in batch.result() for entry in encoded.result()])
        if numbers.stop == shard.samples.stop:
            finishing.append(self.threads.finisher.submit(shard.finish))
            if len(finishing) > 1:
                finishing.popleft().result()
        self._count(len(numbers), made=len(numbers))

    def _opened(self, claimed: Iterator[tuple[int, Claim]]) -> Iterator[Shard]:
        """Opens claimed shards; finishes those of which there is nothing more to generate."""
        for number, taken in claimed:
            shard = KINDS[self.settings.container](self.folder, self.what, number, taken)
            if shard.next == shard.samples.stop:
                shard.finish()
            self._count(shard.next - shard.samples.start, made=0)
            if shard.next < shard.samples.stop:
                yield shard

    def _is_finished(self, number: int) -> bool:
        return (self.folder / self.settings.manifest_file(number)).exists() and (
            self.settings.container == "files" or (self.folder / self.settings.record_file(number)).exists())

    def _count(self, images: int, made: int) -> None:
        self.done += images
        self.made += made
        if images:
            self.progress(self.done, self.total)
