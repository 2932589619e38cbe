"""How fast whole sample sets are made, beside what bounds that: generation alone and encoding alone.

Where an accelerator generates and CPU cores encode, a set can be made as fast as the slower of the two allows. Where the
device is the CPU, both need the same cores; if each alone keeps them busy, an image takes the sum of both times, and that
is the bound: a set made as fast as it allows is reported as 100% of the sum. Writing is part of neither. The same ratio of
CPU times says what a set costs beyond generation and encoding; on a busy machine it is the surer number.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from fpgan.attribution.registry import from_fingerprints
from fpgan.benchmarks.timing import time_interleaved
from fpgan.distributed.devices import local_devices
from fpgan.errors import FpganError
from fpgan.generation.generate import generate_set
from fpgan.io.images import ENCODERS
from fpgan.io.provenance import cpu_count
from fpgan.io.records import import_array_record

if TYPE_CHECKING:
    from fpgan.model.model import Model

_PER_USER = 64


def bench_pipeline(model: Model, batches: Sequence[int], images: int, repeats: int, seed: int,
                   devices: Sequence[int] = ()) -> dict:
    """Times generation, encoding and the making of whole sets in turns, all of the same images.

    Args:
      model: a Model.
      batches: batch sizes.
      images: how many images each of the timed calls makes or encodes, rounded up to whole users of 64.
      repeats: turns; a time is the median over them.
      seed: of the fingerprints.
      devices: numbers of this process's devices that generate, all of them by default.

    Returns:
      {"images", "threads", "virtual", "rows"}; a row for each number of devices, batch size, encoding and container.
      "virtual" says whether the devices share the cores of one CPU.
    """
    images = -(-images // _PER_USER) * _PER_USER
    rows, counts = [], devices or [len(local_devices())]
    for count, batch, encoding in itertools.product(counts, batches, ENCODERS):
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(cpu_count()) as pool:
            calls, cpu = _with_cpu_time(_calls(model, count, batch, images, seed, encoding, Path(folder), pool))
            seconds = time_interleaved(calls, repeats)
        rows += [{"devices": count, "batch": batch, "encoding": encoding, "container": name}
                 | _rates(seconds, cpu, name, images) for name in seconds if name not in ("generate", "encode")]
    virtual = max(counts) > 1 and jax.default_backend() == "cpu"
    return {"images": images, "threads": cpu_count(), "virtual": virtual, "rows": rows}


def lines(result: dict) -> list[str]:
    """Lays out what `bench_pipeline` returned as lines of at most 100 columns."""
    head = (f"{'devices':>8}{'batch':>6}  {'set of':<18}{'generate':>10}{'encode':>10}{'whole set':>11}{'of the slower':>15}"
            f"{'of the sum':>12}{'CPU time':>10}")
    rows = [f"{row['devices']:>8}{row['batch']:>6}  {row['encoding'] + ', ' + row['container']:<18}{row['generate']:>10.4g}"
            f"{row['encode']:>10.4g}{row['whole']:>11.4g}{row['of_slower']:>14.0%}{row['of_sum']:>12.0%}{row['cpu_of_sum']:>10.0%}"
            for row in result["rows"]]
    virtual = ["the devices are virtual: they share the cores of one CPU, and show what sharing costs, no speed"]
    return [f"images/s, {result['images']} images a turn, {result['threads']} encoding threads", head, *rows,
            *(virtual if result["virtual"] else []),
            "of the slower: of generation and encoding alone, which bounds a set if they have hardware of their own;",
            "of the sum: of the time of both, one after the other, which bounds it if they share all cores;",
            "CPU time: the same of the time that CPU cores were at work"]


def _calls(model, devices: int, batch: int, images: int, seed: int, encoding: str, folder: Path,
           pool: Executor) -> dict[str, Callable]:
    """What is timed: name -> call."""
    users = images // _PER_USER
    bits = np.random.default_rng(seed).integers(0, 2, (users, model.n_bits), dtype=np.uint8)
    registry = from_fingerprints([f"user-{i}" for i in range(users)], bits, model.n_bits)
    each, seeds = bits.repeat(_PER_USER, axis=0), np.tile(np.arange(_PER_USER, dtype=np.uint32), users)
    made = model.generate(each, seeds, batch_size=batch, devices=devices)
    part, numbers = -(-batch // cpu_count()), itertools.count()

    def encode():
        parts = [made[start:start + part] for start in range(0, len(made), part)]
        return sum(pool.map(lambda part: sum(len(ENCODERS[encoding](image)) for image in part), parts))

    def whole(container):
        return generate_set(model, registry, folder / str(next(numbers)), per_user=_PER_USER, seed=0, batch_size=batch,
                            devices=devices, container=container, encoding=encoding).made

    calls = {"generate": lambda: len(model.generate(each, seeds, batch_size=batch, devices=devices)), "encode": encode,
             "files": lambda: whole("files")}
    try:
        import_array_record()
    except FpganError:
        return calls
    return calls | {"array_record": lambda: whole("array_record")}


def _with_cpu_time(calls: Mapping[str, Callable]) -> tuple[dict[str, Callable], dict[str, list[float]]]:
    """Wraps calls so that they note the CPU seconds of this process."""
    cpu: dict[str, list[float]] = {name: [] for name in calls}

    def noting(name, call):
        started = time.process_time()
        result = call()
        cpu[name].append(time.process_time() - started)
        return result

    return {name: partial(noting, name, call) for name, call in calls.items()}, cpu


def _rates(seconds: Mapping[str, Sequence[float]], cpu: Mapping[str, Sequence[float]], name: str,
           images: int) -> dict[str, float]:
    """Rates from median times, and medians of the ratios in each turn, which a change of load hardly moves."""
    generate, encode, whole = seconds["generate"], seconds["encode"], seconds[name]
    turns = list(zip(generate, encode, whole, strict=True))
    cpu_turns = list(zip(cpu["generate"], cpu["encode"], cpu[name], strict=True))[1:]  # the first call warms up
    return {"generate": images / statistics.median(generate), "encode": images / statistics.median(encode),
            "whole": images / statistics.median(whole),
            "of_slower": statistics.median(max(g, e) / w for g, e, w in turns),
            "of_sum": statistics.median((g + e) / w for g, e, w in turns),
            "cpu_of_sum": statistics.median((g + e) / w for g, e, w in cpu_turns)}
