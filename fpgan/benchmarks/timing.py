"""Compiled programs: what they do, by XLA's count, and how long they take, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from fpgan.benchmarks.program_text import all_reduced_bytes
from fpgan.distributed import profiler
from fpgan.distributed.devices import pmap, replicate
from fpgan.model import DEFAULT_MODEL

if TYPE_CHECKING:
    import ml_collections


class Program(NamedTuple):
    """A compiled program with its inputs.

    Attributes:
      call: runs it once and returns its outputs, not waited for.
      compile_seconds: tracing and compiling.
      flops: of one call, by XLA's cost analysis; 0 if the backend has none.
      all_reduced_bytes: that each device exchanges in one call.
    """

    call: Callable
    compile_seconds: float
    flops: float
    all_reduced_bytes: int = 0


def compile_program(function: Callable, *inputs: Any) -> Program:
    """Traces and compiles a pure function for these inputs."""
    started = time.perf_counter()
    compiled = jax.jit(function).lower(*inputs).compile()
    return Program(lambda: compiled(*inputs), time.perf_counter() - started, _flops(compiled))


def compile_training(config: ml_collections.ConfigDict, seed: int,
                     devices: Sequence) -> tuple[dict[str, Program], dict[str, int]]:
    """Compiles each phase of a step on some of this host's devices: programs that pass on one state, and intervals."""
    from fpgan.training.config import architecture
    from fpgan.training.state import init_state
    from fpgan.training.step import phases

    network, count = architecture(config), len(devices)
    state = replicate(init_state(config), devices)
    shape = (count, config.batch_size // count, network.resolution, network.resolution, network.channels)
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    if network.label_size:
        images = images, rng.integers(0, network.label_size, shape[:2], dtype=np.int32)
    programs, intervals, states = {}, {}, [state]
    for phase in phases(config, config.batch_size // count, resident=False):
        started = time.perf_counter()
        compiled = pmap(phase.run, devices=devices).lower(state, images).compile()
        elapsed = time.perf_counter() - started

        def call(compiled=compiled):
            states[0], scalars = compiled(states[0], images)  # the old state is donated
            return states[0], scalars

        exchanged = all_reduced_bytes(compiled.as_text()) if count > 1 else 0
        programs[phase.name] = Program(call, elapsed, _flops(compiled) * count, exchanged)
        intervals[phase.name] = phase.interval
    return programs, intervals


def time_interleaved(calls: Mapping[Hashable, Callable], repeats: int) -> dict[Hashable, list[float]]:
    """Times calls one after the other, turn after turn, after one call each that does not count.

    Each is a step of its name in a trace, if one is being written (`fpgan.distributed.profiler`).

    Returns:
      The seconds of each call, one per turn, until its outputs are there.
    """
    for call in calls.values():
        jax.block_until_ready(call())
    seconds = {name: [] for name in calls}
    for turn in range(repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            with profiler.step(str(name), turn):
                jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - started)
    return seconds


def _flops(compiled) -> float:
    """FLOPs of a compiled program by XLA's cost analysis; 0 where the backend has none."""
    analysis = compiled.cost_analysis() or {}
    return max(0.0, float(analysis.get("flops", 0.0)))


@dataclass(frozen=True)
class Settings:
    """What to time.

    Attributes:
      batches: batch sizes, each compiled on its own.
      repeats: turns; a time is the median over them.
      grouped_batch: batch size of the comparison with grouped convolutions; 0 leaves it out.
      fingerprints: how many distinct ones the traces are counted over; 0 leaves it out.
      seed: of parameters and inputs.
      devices: numbers of devices, for "scaling" (which share the largest batch; none leaves the measurement out) and for
        "pipeline" (a batch each).
      device_batch: images per device in the predictions of "scaling".
      utilization: part of the peak FLOP/s that they assume.
      images: how many are made in each turn of "pipeline".
      registry_sizes: numbers of users for "attribute" and "registry".
      topology: the slice that "compile" is for.
      programs: what it compiles; everything without any.
      largest_batch: search for the largest batch that a chip holds, too.
      cache: folder of what the compiler said; "compile" in the user's cache (`fpgan.io.cache`) if empty.
      model: name or folder of the model of "startup".
      search: whether "decode" also times the searches of a model.
      torch: a Python interpreter that has PyTorch, for "layers"; none if empty.
    """

    batches: tuple[int, ...] = (1, 8, 16, 64)
    repeats: int = 5
    grouped_batch: int = 16
    fingerprints: int = 1000
    seed: int = 0
    devices: tuple[int, ...] = (1, 2, 4, 8)
    device_batch: int = 8
    utilization: float = 0.3
    images: int = 1024
    registry_sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    topology: str = "v5e:2x4"
    programs: tuple[str, ...] = ()
    largest_batch: bool = False
    cache: str = ""
    model: str = DEFAULT_MODEL
    search: bool = False
    torch: str = ""
