"""How the cost of a training step grows with the devices: measured here, and predicted for accelerators (cost_model.py).

Measured: the same global batch on 1, 2, 4 ... devices, timed in turns, with the bytes that the compiled programs all-reduce.
Virtual devices of one CPU share its cores, so that they show what sharing costs, never what it gains.
"""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from fpgan.benchmarks.cost_model import SYSTEMS, Work, predict
from fpgan.benchmarks.timing import compile_training, time_interleaved
from fpgan.distributed import devices
from fpgan.errors import FpganError
from fpgan.training.config import architecture, check_batch

if TYPE_CHECKING:
    import ml_collections

    from fpgan.benchmarks.timing import Settings


def gradient_bytes(params: dict, trains: tuple[str, ...]) -> int:
    """Returns the bytes of the gradients that a phase averages over the devices: those of the networks that it trains."""
    return sum(x.size * x.dtype.itemsize for name in trains for x in jax.tree.leaves(params[name]))


def bench_scaling(config: ml_collections.ConfigDict, settings: Settings,
                  predicted: ml_collections.ConfigDict | None = None) -> dict:
    """Times a step at one global batch on different numbers of devices, and predicts it elsewhere.

    Args:
      config: the training config that is timed.
      settings: bench.Settings; the largest batch size is the global one.
      predicted: the training config of the predictions; `config` without it.

    Returns:
      rows of the measurement, one per number of devices; "predictions": rows, and what they are made of.

    Raises:
      FpganError: the batch does not split over the devices, or there are too few of them.
    """
    batch = max(settings.batches)
    counts = sorted(set(settings.devices))
    if counts and max(counts) > jax.local_device_count():
        raise FpganError(f"scaling over {max(counts)} devices, but there are {jax.local_device_count()}; expected fewer in "
                         "--devices")
    config = config.copy_and_resolve_references()
    config.batch_size, config.curriculum.bits_first = batch, False
    for count in counts:
        check_batch(config, count)
    predictions = predict_all(predicted or config, settings.device_batch, settings.utilization)
    return {"rows": _measure(config, counts, settings) if counts else [], "batch": batch,
            "network": config.network.to_dict(), "predictions": predictions}


def _measure(config, counts: Sequence[int], settings) -> list[dict]:
    """Compiles and times the phases on each number of devices; the time of a step is that of its phases by interval."""
    compiled = {count: compile_training(config, settings.seed, jax.local_devices()[:count]) for count in counts}
    calls = {(count, name): program.call for count, (programs, _) in compiled.items() for name, program in programs.items()}
    seconds = time_interleaved(calls, settings.repeats)
    rows = []
    for count, (programs, intervals) in compiled.items():
        medians = {name: statistics.median(seconds[count, name]) for name in programs}
        spread = [sum(times) for times in zip(*([s / intervals[name] for s in seconds[count, name]] for name in programs),
                                              strict=True)]
        rows.append({
            "devices": count, "step_seconds": sum(medians[name] / intervals[name] for name in programs),
            "fastest": min(spread), "slowest": max(spread),
            "compile_seconds": sum(program.compile_seconds for program in programs.values()),
            "all_reduced_bytes": sum(program.all_reduced_bytes / intervals[name] for name, program in programs.items()),
            "phases": {name: {"seconds": medians[name], "interval": intervals[name],
                              "all_reduced_bytes": program.all_reduced_bytes} for name, program in programs.items()}})
    return rows


def predict_all(config: ml_collections.ConfigDict, device_batch: int, utilization: float) -> dict:
    """Predicts a step on every system of fpgan.benchmarks.cost_model, each device with `device_batch` images.

    Returns:
      {"rows", "work": the phases, "device_batch", "utilization", "network"}.

    Raises:
      FpganError: a utilisation outside (0, 1], or a number of images per device that is no multiple of the groups.
    """
    group = config.network.minibatch_stddev_group
    if not 0 < utilization <= 1 or device_batch < 1 or device_batch % group:
        raise FpganError(f"utilization is {utilization} and device_batch {device_batch}; expected a part of 1, and a "
                         f"multiple of {group} (minibatch standard deviation)")
    work = count_work(config, device_batch)
    return {"rows": [predict(system, work, device_batch, utilization) for system in SYSTEMS],
            "work": [w._asdict() for w in work], "device_batch": device_batch, "utilization": utilization,
            "network": config.network.to_dict(), "sources": list(dict.fromkeys(s.device.source for s in SYSTEMS))}


def count_work(config: ml_collections.ConfigDict, device_batch: int) -> list[Work]:
    """Counts each phase's FLOPs for one device's images, by XLA's cost analysis, and the bytes of its gradients.

    Nothing is compiled or run, so that configs count that are too large for this machine.
    """
    from fpgan.training.state import init_state
    from fpgan.training.step import phases

    config = config.copy_and_resolve_references()
    config.batch_size, config.curriculum.bits_first = device_batch, False
    network = architecture(config)
    state = jax.eval_shape(lambda: init_state(config))
    images = jax.ShapeDtypeStruct((device_batch, network.resolution, network.resolution, network.channels), np.uint8)
    if network.label_size:
        images = images, jax.ShapeDtypeStruct((device_batch,), np.int32)
    one_device = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), (state, images))
    work = []
    for phase in phases(config, device_batch, resident=False):
        lowered = devices.pmap(phase.run, devices=jax.local_devices()[:1]).lower(*one_device)
        flops = float((lowered.cost_analysis() or {}).get("flops", 0.0))
        work.append(Work(phase.name, phase.interval, flops, gradient_bytes(state.params, phase.trains)))
    return work


def lines(part: dict) -> list[str]:
    """Lays out what `bench_scaling` returned, without a heading."""
    text = []
    if part["rows"]:
        text += [f"measured, {part['batch']} images per step on every number of devices:",
                 f"{'devices':>8}{'step ms':>10}{'(fastest-slowest)':>20}{'of 1st':>8}{'all-reduced MB':>16}"
                 f"{'compile s':>11}"]
        first = part["rows"][0]["step_seconds"]
        text += [_measured_line(row, first) for row in part["rows"]]
        text += [f"  {name:<14} every {phase['interval']:>2}: {phase['seconds'] * 1e3:9.2f} ms, "
                 f"{phase['all_reduced_bytes'] / 1e6:.3f} MB (on {part['rows'][-1]['devices']})"
                 for name, phase in part["rows"][-1]["phases"].items()]
        text.append("")
    return text + _prediction_lines(part["predictions"])


def _measured_line(row: dict, first: float) -> str:
    spread = f"({row['fastest'] * 1e3:.4g}-{row['slowest'] * 1e3:.4g})"
    return (f"{row['devices']:>8}{row['step_seconds'] * 1e3:>10.2f}{spread:>20}{row['step_seconds'] / first:>8.2f}"
            f"{row['all_reduced_bytes'] / 1e6:>16.3f}{row['compile_seconds']:>11.1f}")


def _prediction_lines(part: dict) -> list[str]:
    network = part["network"]
    text = [f"PREDICTED, not measured: {network['resolution']}x{network['resolution']}, channels "
            f"min({network['channel_base']} / 2^(k-1), {network['channel_max']}), {part['device_batch']} images",
            f"per device, {part['utilization']:.0%} of the peak bf16 FLOP/s:",
            f"{'system':<18}{'devices':>8}{'images':>8}{'compute ms':>12}{'all-reduce ms':>15}{'step ms':>10}"
            f"{'images/s':>11}{'reduce':>8}"]
    text += [f"{row['system']:<18}{row['devices']:>8}{row['batch']:>8,}{row['compute_seconds'] * 1e3:>12.2f}"
             f"{row['all_reduce_seconds'] * 1e3:>15.2f}{row['step_seconds'] * 1e3:>10.2f}{row['images_per_second']:>11,.0f}"
             f"{row['communication']:>8.0%}" for row in part["rows"]]
    text += [f"  {w['name']:<14} every {w['interval']:>2}: {w['flops'] / 1e9:9.1f} GFLOP per device, "
             f"{w['reduced_bytes'] / 1e6:.1f} MB all-reduced" for w in part["work"]]
    return text + [line for source in part["sources"]
                   for line in textwrap.wrap(source, 100, initial_indent="  ", subsequent_indent="    ")]
