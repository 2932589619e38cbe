"""Benchmarks: images/s by batch size, compile time apart, achieved FLOP/s against what the device can do.

Everything that is compared is timed in one run, in turns (A B C A B C ...), so that whatever else the machine
does hits all alike; a time is the median over the turns, each waited for to its end. FLOPs are those of XLA's
cost analysis of the compiled program. The ceiling is a large matrix product, on the same device in the same
turns, in the precision of the convolutions.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fpgan.benchmarks.programs import Program, compile_program, compile_training, time_in_turns
from fpgan.errors import FpganError
from fpgan.io.files import write_file
from fpgan.io.provenance import provenance
from fpgan.model.model import from_params
from fpgan.model.programs import decode_fn, generate_fn
from fpgan.networks import layers, resampling
from fpgan.networks.config import NetworkConfig
from fpgan.networks.parameters import init_params

TASKS = ("generate", "decode", "pipeline", "train-step", "scaling")
_CEILING_SIDE = {"cpu": 1536, "other": 8192}  # of the matrices: large enough for full speed
_CEILING_PRODUCTS = 8  # in one call
_AGREEMENT = {"float32": 1e-4, "bfloat16": 5e-2}  # largest difference of two formulations, relative, RMS
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


@dataclass(frozen=True)
class Settings:
    """What to time.

    Attributes:
      batches: batch sizes, each compiled on its own.
      repeats: turns; a time is the median over them.
      grouped_batch: batch size of the comparison with grouped convolutions; 0 leaves it out.
      fingerprints: how many distinct ones the traces are counted over; 0 leaves it out.
      seed: of parameters and inputs.
      devices: numbers of devices that share the largest batch, for "scaling"; none leaves the measurement out.
      device_batch: images per device in the predictions of "scaling".
      utilization: part of the peak FLOP/s that they assume.
      images: how many are made in each turn of "pipeline".
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


def bench(tasks: Sequence[str], network: NetworkConfig, settings: Settings, *, params: dict | None = None,
          training=None, predicted=None, out: str | os.PathLike | None = None, command: str = "") -> dict:
    """Runs benchmarks and writes their results: `fpgan bench`.

    Args:
      tasks: some of TASKS.
      network: the architecture, for "generate", "decode" and "pipeline".
      settings: what to time.
      params: {"generator", "decoder"} -> parameters; random without them, which takes as long.
      training: the training config (fpgan.training.config), for "train-step" and "scaling".
      predicted: the training config of the predictions of "scaling"; `training` without it.
      out: a JSON file, written whole or not at all; none without it.
      command: recorded in the result.

    Returns:
      A nested dict of plain values: a part for each task, network, settings, provenance.

    Raises:
      FpganError: unknown tasks or senseless settings, or the two formulations of the convolution disagree.
    """
    _check(tasks, settings, training)
    results = {"network": network.to_dict(), "settings": asdict(settings)}
    if params is None and set(tasks) & {"generate", "decode", "pipeline"}:
        params = random_params(network, settings.seed)
    for task in tasks:
        if task == "generate":
            results[task] = bench_generate(network, params["generator"], settings)
        elif task == "decode":
            results[task] = bench_decode(network, params["decoder"], settings)
        elif task == "pipeline":
            from fpgan.benchmarks import pipeline

            model = from_params(network, params, {})
            results[task] = pipeline.bench_pipeline(model, settings.batches, settings.images, settings.repeats,
                                                    settings.seed)
        elif task == "train-step":
            results[task] = bench_train_step(training, settings)
        else:
            from fpgan.benchmarks.scaling import bench_scaling

            results[task] = bench_scaling(training, settings, predicted)
    results["provenance"] = provenance(command)
    if out is not None:
        write_file(out, (json.dumps(results, indent=2) + "\n").encode())
    return results


def _check(tasks: Sequence[str], settings: Settings, training) -> None:
    """Refuses senseless wishes before anything is timed."""
    unknown = [task for task in tasks if task not in TASKS]
    if unknown or not tasks:
        raise FpganError(f"there is no benchmark {', '.join(unknown)!r}; expected some of {', '.join(TASKS)}")
    if not settings.batches or min(*settings.batches, settings.repeats, settings.images) < 1:
        raise FpganError("batch sizes, images and repeats have to be whole numbers of at least 1")
    if min(settings.devices, default=1) < 1:
        raise FpganError(f"devices are {settings.devices}; expected whole numbers of at least 1")
    if min(settings.grouped_batch, settings.fingerprints) < 0:
        raise FpganError(f"grouped_batch is {settings.grouped_batch} and fingerprints {settings.fingerprints}; "
                         "expected at least 0, which leaves a measurement out")
    if not 0 <= settings.seed < 2**32:
        raise FpganError(f"the seed is {settings.seed}; expected a whole number from 0 to {2**32 - 1}")
    if {"train-step", "scaling"} & set(tasks) and training is None:
        raise FpganError("a training step needs a training config; give --config configs/robohash64.py")


def bench_generate(network: NetworkConfig, params: dict, settings: Settings) -> dict:
    """Times the generator at each batch size, and beside it the one with grouped convolutions."""
    wanted = sorted({*settings.batches, settings.grouped_batch} - {0})
    inputs = {batch: (params, *generator_inputs(network, batch, settings.seed)) for batch in wanted}
    programs = {batch: compile_program(generate_fn(network), *inputs[batch]) for batch in wanted}
    timed = dict(programs)
    batch = settings.grouped_batch
    if batch:
        with grouped_convolutions():
            timed["grouped"] = compile_program(generate_fn(network), *inputs[batch])
        difference = relative_difference(programs[batch].call(), timed["grouped"].call())
        if not difference <= _AGREEMENT[network.compute_dtype]:
            raise FpganError(f"shared and grouped convolutions differ by {difference:.1e} of the output, "
                             "more than by rounding; one of them is wrong")
    seconds, ceiling = time_with_ceiling(timed, network.compute_dtype, settings.repeats)
    result = {"rows": _rows(programs, seconds, ceiling), "ceiling": ceiling}
    if batch:
        ratios = [slow / fast for slow, fast in zip(seconds["grouped"], seconds[batch], strict=True)]
        result["grouped"] = {
            "batch": batch, "images_per_second": batch / statistics.median(seconds["grouped"]),
            "shared_images_per_second": batch / statistics.median(seconds[batch]),
            "speedup": statistics.median(ratios), "relative_difference": difference,
            "compile_seconds": timed["grouped"].compile_seconds}
    if settings.fingerprints:
        result["traces"] = count_traces(network, params, settings)
    return result


def bench_decode(network: NetworkConfig, params: dict, settings: Settings) -> dict:
    """Times the decoder at each batch size."""
    rng = np.random.default_rng(settings.seed)
    shape = (network.resolution, network.resolution, network.channels)
    programs = {
        batch: compile_program(decode_fn(network), params,
                               jnp.asarray(rng.uniform(-1, 1, (batch, *shape)), jnp.float32))
        for batch in settings.batches}
    seconds, ceiling = time_with_ceiling(programs, network.compute_dtype, settings.repeats)
    return {"rows": _rows(programs, seconds, ceiling), "ceiling": ceiling}


def bench_train_step(config, settings: Settings) -> dict:
    """Times the phases of a training step on all devices, with every term of the objective at work.

    Args:
      config: the training config; the batch sizes of the settings take the place of its own.
      settings: what to time.

    Returns:
      A row for each batch size, with the time of each phase; a step takes the sum of time / interval.
    """
    from fpgan.training.config import check_batch

    rows = []
    for batch in settings.batches:
        config = config.copy_and_resolve_references()
        config.batch_size, config.curriculum.bits_first = batch, False
        check_batch(config, jax.device_count())
        programs, intervals = compile_training(config, settings.seed, jax.local_devices())
        seconds, ceiling = time_with_ceiling(programs, config.network.compute_dtype, settings.repeats)
        rows.append(_training_row(batch, programs, intervals, seconds, ceiling))
    return {"rows": rows, "ceiling": ceiling, "devices": jax.device_count(),
            "network": config.network.to_dict()}


def count_traces(network: NetworkConfig, params: dict, settings: Settings) -> dict:
    """Makes an image for each of many distinct fingerprints, and counts how often the program is traced."""
    traces = 0

    def traced(*inputs):
        nonlocal traces
        traces += 1
        return generate_fn(network)(*inputs)

    program, batch = jax.jit(traced), settings.grouped_batch or max(settings.batches)
    calls = -(-settings.fingerprints // batch)
    bits, seeds = generator_inputs(network, calls * batch, settings.seed)
    jax.block_until_ready(program(params, bits[:batch], seeds[:batch]))
    started = time.perf_counter()
    for call in range(calls):
        part = slice(call * batch, (call + 1) * batch)
        images = program(params, bits[part], seeds[part])
    jax.block_until_ready(images)
    distinct = len(np.unique(np.asarray(bits), axis=0))
    return {"traces": traces, "fingerprints": distinct, "calls": calls + 1,
            "images_per_second": calls * batch / (time.perf_counter() - started)}


def grouped_modulated_conv(x: jax.Array, kernel: jax.Array, style: jax.Array, *, demodulate: bool = True,
                           up: bool = False) -> jax.Array:
    """The modulated convolution as StyleGAN2 wrote it: a kernel per sample, as one convolution with N groups.

    The same function of the same arguments as fpgan.networks.layers.modulated_conv, to compare it with.
    """
    n, height, width, channels = x.shape
    size, features = kernel.shape[0], kernel.shape[-1]
    kernels = kernel[None] * style[:, None, None, :, None]  # [N, k, k, I, O]
    if demodulate:
        kernels = kernels * lax.rsqrt(jnp.sum(jnp.square(kernels), axis=(1, 2, 3), keepdims=True) + 1e-8)
    kernels = jnp.moveaxis(kernels.astype(x.dtype), 0, 3).reshape(size, size, channels, n * features)
    x = jnp.moveaxis(x, 0, 2).reshape(1, height, width, n * channels)
    pad = size - 1 if up else size // 2
    x = lax.conv_general_dilated(x, kernels, (1, 1), [(pad, pad)] * 2, lhs_dilation=(2, 2) if up else (1, 1),
                                 dimension_numbers=_DIMENSIONS, feature_group_count=n)
    x = jnp.moveaxis(x.reshape(*x.shape[1:3], n, features), 2, 0)  # [N, H, W, O]
    return resampling.fir(x, (1, 1), gain=4.0) if up else x


@contextlib.contextmanager
def grouped_convolutions() -> Iterator[None]:
    """Within it, generators are traced with grouped_modulated_conv; for the comparison alone."""
    shared = layers.modulated_conv
    layers.modulated_conv = grouped_modulated_conv
    try:
        yield
    finally:
        layers.modulated_conv = shared


def matmul_program(dtype: str) -> Program:
    """Compiles a chain of large square matrix products, 2 n^3 FLOPs each.

    float32 is at JAX's default precision, as the convolutions are: on recent NVIDIA devices that is TF32.
    """
    side = _CEILING_SIDE["cpu" if jax.default_backend() == "cpu" else "other"]
    a = (jax.random.normal(jax.random.key(0), (side, side)) * side**-0.5).astype(dtype)  # keeps the norm
    program = compile_program(lambda a: lax.fori_loop(0, _CEILING_PRODUCTS, lambda _, x: x @ a, a), a)
    return program._replace(flops=_CEILING_PRODUCTS * 2.0 * side**3)


def random_params(network: NetworkConfig, seed: int) -> dict:
    """Draws parameters of generator and decoder."""
    return jax.jit(init_params, static_argnums=(0, 2))(network, jax.random.key(seed), ("generator", "decoder"))


def generator_inputs(network: NetworkConfig, batch: int, seed: int) -> tuple[jax.Array, jax.Array]:
    """Draws random fingerprints, float32 [batch, n] in {0, 1}, and distinct seeds, uint32 [batch]."""
    bits = np.random.default_rng(seed).integers(0, 2, (batch, network.fingerprint_bits))
    return jnp.asarray(bits, jnp.float32), jnp.arange(batch, dtype=jnp.uint32)


def relative_difference(a: jax.Array, b: jax.Array) -> float:
    """Computes the root mean square of a - b over that of a."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(a**2)))


def time_with_ceiling(programs: Mapping[Hashable, Program], dtype: str, repeats: int) -> tuple[dict, dict]:
    """Times programs and matrix products in turns.

    Returns:
      The seconds of each program, one per turn; and the ceiling: {"dtype", "flops_per_second", "by_dtype"},
      for the given precision, and for float32 and bfloat16 where the device computes in both.
    """
    dtypes = {dtype} if jax.default_backend() == "cpu" else {dtype, "float32", "bfloat16"}
    products = {kind: matmul_program(kind) for kind in sorted(dtypes)}
    everything = {**programs, **products}
    seconds = time_in_turns({name: program.call for name, program in everything.items()}, repeats)
    rates = {kind: product.flops / statistics.median(seconds.pop(kind)) for kind, product in products.items()}
    return seconds, {"dtype": dtype, "flops_per_second": rates[dtype], "by_dtype": rates}


def _rows(programs: Mapping[int, Program], seconds: Mapping, ceiling: dict) -> list[dict]:
    rows = []
    for batch, program in programs.items():
        middle = statistics.median(seconds[batch])
        rows.append({
            "batch": batch, "compile_seconds": program.compile_seconds, "images_per_second": batch / middle,
            "slowest": batch / max(seconds[batch]), "fastest": batch / min(seconds[batch]),
            "flops_per_image": program.flops / batch, "flops_per_second": program.flops / middle,
            "of_ceiling": program.flops / middle / ceiling["flops_per_second"]})
    return rows


def _training_row(batch: int, programs: Mapping[str, Program], intervals: Mapping[str, int], seconds: Mapping,
                  ceiling: dict) -> dict:
    medians = {name: statistics.median(seconds[name]) for name in programs}
    step = sum(medians[name] / intervals[name] for name in programs)
    flops = sum(program.flops / intervals[name] for name, program in programs.items())
    return {"batch": batch, "compile_seconds": sum(program.compile_seconds for program in programs.values()),
            "images_per_second": batch / step, "flops_per_image": flops / batch,
            "flops_per_second": flops / step,
            "of_ceiling": flops / step / (ceiling["flops_per_second"] * jax.device_count()),
            "phases": {name: {"seconds": medians[name], "interval": intervals[name],
                              "flops_per_second": programs[name].flops / medians[name]} for name in programs}}


def table(results: dict) -> str:
    """Lays out what `bench` returned as lines of at most 100 columns."""
    device = results["provenance"]["device"]
    devices = f"{device['count']} device{'s' * (device['count'] > 1)}"
    jax_version = results["provenance"]["versions"]["jax"]
    lines = [f"{device['name']} ({device['platform']}, {devices}), jax {jax_version}"]
    for task in TASKS:
        if task in results:
            part = results[task]
            if task == "scaling":
                from fpgan.benchmarks import scaling

                lines += ["", f"scaling: {_architecture(part['network'])}", *scaling.lines(part)]
                continue
            if task == "pipeline":
                from fpgan.benchmarks import pipeline

                lines += ["", f"pipeline: {_architecture(results['network'])}", *pipeline.lines(part)]
                continue
            lines += ["", f"{task}: {_architecture(part.get('network', results['network']))}",
                      f"{'batch':>6}{'compile s':>11}{'images/s':>10}{'(slowest-fastest)':>19}"
                      f"{'GFLOP/image':>13}{'GFLOP/s':>10}{'of matmul':>11}"]
            lines += [_row_line(row) for row in part["rows"]]
            lines += _footnotes(part)
    return "\n".join(lines)


def _architecture(network: dict) -> str:
    return (f"{network['resolution']}x{network['resolution']}, {network['fingerprint_bits']} bits, channels "
            f"min({network['channel_base']} / 2^(k-1), {network['channel_max']}), {network['compute_dtype']}")


def _row_line(row: dict) -> str:
    spread = f"({row['slowest']:.4g}-{row['fastest']:.4g})" if "slowest" in row else ""
    return (f"{row['batch']:>6}{row['compile_seconds']:>11.1f}{row['images_per_second']:>10.4g}{spread:>19}"
            f"{row['flops_per_image'] / 1e9:>13.3g}{row['flops_per_second'] / 1e9:>10.4g}"
            f"{row['of_ceiling']:>10.0%}")


def _footnotes(part: dict) -> list[str]:
    rates = [f"{kind} {rate / 1e9:.4g} GFLOP/s" for kind, rate in part["ceiling"]["by_dtype"].items()]
    lines = [f"matmul ceiling, measured in the same turns: {', '.join(rates)}"]
    if "grouped" in part:
        grouped = part["grouped"]
        lines.append(f"grouped convolutions, batch {grouped['batch']}: {grouped['images_per_second']:.4g} "
                     f"images/s; the shared kernel is {grouped['speedup']:.2f} times as fast")
        lines.append(f"  (outputs agree to {grouped['relative_difference']:.0e})")
    if "traces" in part:
        traces = part["traces"]
        lines.append(f"traced {traces['traces']} time{'s' * (traces['traces'] > 1)} over "
                     f"{traces['fingerprints']:,} distinct fingerprints, "
                     f"{traces['images_per_second']:.4g} images/s")
    for name, phase in part["rows"][-1].get("phases", {}).items():
        lines.append(f"  {name:<14} every {phase['interval']:>2}: {phase['seconds'] * 1e3:8.1f} ms, "
                     f"{phase['flops_per_second'] / 1e9:.4g} GFLOP/s (batch {part['rows'][-1]['batch']})")
    return lines
