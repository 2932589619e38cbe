"""Images/s and FLOP/s of generator, decoder and training step, beside what the device can do.

The peak is that of a large matrix product, on the same device in the same turns, in the precision of the convolutions.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import time
from collections.abc import Hashable, Iterator, Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fpgan.benchmarks.timing import Program, Settings, compile_program, compile_training, time_interleaved
from fpgan.errors import FpganError
from fpgan.model.programs import decode_fn, generate_fn
from fpgan.model.reading import SEARCHES, poses_tried
from fpgan.networks import layers, resampling
from fpgan.networks.config import NetworkConfig
from fpgan.networks.parameters import init_params

if TYPE_CHECKING:
    import ml_collections

    from fpgan.model.model import Model

_PEAK_SIDE = {"cpu": 1536, "other": 8192}  # of the matrices: large enough for full speed
_PEAK_PRODUCTS = 8  # in one call
AGREEMENT = {"float32": 1e-4, "bfloat16": 5e-2}  # largest difference of two formulations, relative, RMS
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


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
        if not difference <= AGREEMENT[network.compute_dtype]:
            raise FpganError(f"shared and grouped convolutions differ by {difference:.1e} of the output, "
                             "more than by rounding; one of them is wrong")
    seconds, peak = time_with_peak(timed, network.compute_dtype, settings.repeats)
    result = {"rows": _rows(programs, seconds, peak), "peak": peak}
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
    seconds, peak = time_with_peak(programs, network.compute_dtype, settings.repeats)
    return {"rows": _rows(programs, seconds, peak), "peak": peak}


def bench_search(model: Model, settings: Settings) -> list[dict]:
    """Times reading images by each search, at each batch size: own images, and noise, which a full search does not pass.

    Args:
      model: a Model; without an aligner "fast" tries the turns of a square.
      settings: what to time.

    Returns:
      For each search and batch size a dict: search, batch, poses (tried of an image that is not clearly right), and images/s
      of own images as they are, "own_per_second", and of noise, "other_per_second".
    """
    rng = np.random.default_rng(settings.seed)
    count = max(settings.batches)
    own = model.generate(rng.integers(0, 2, (count, model.n_bits), np.uint8), rng.integers(0, 2**32, count, np.uint32))
    others = rng.integers(0, 256, own.shape, np.uint8)
    calls = {(search, batch, kind): functools.partial(_read, model, images[:batch], search)
             for search in SEARCHES for batch in settings.batches for kind, images in (("own", own), ("other", others))}
    seconds = time_interleaved(calls, settings.repeats)
    return [{"search": search, "batch": batch, "poses": poses_tried(model, search),
             **{f"{kind}_per_second": batch / statistics.median(seconds[search, batch, kind]) for kind in ("own", "other")}}
            for search in SEARCHES for batch in settings.batches]


def _read(model, images: np.ndarray, search: str) -> np.ndarray:
    return model.read(images, search).logits


def bench_train_step(config: ml_collections.ConfigDict, settings: Settings) -> dict:
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
        seconds, peak = time_with_peak(programs, config.network.compute_dtype, settings.repeats)
        rows.append(_training_row(batch, programs, intervals, seconds, peak))
    return {"rows": rows, "peak": peak, "devices": jax.device_count(),
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
    """Computes the modulated convolution as StyleGAN2 wrote it: a kernel per sample, as one convolution with N groups.

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
    """Sees to it that, within the block, generators are traced with grouped_modulated_conv; for the comparison alone."""
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
    side = _PEAK_SIDE["cpu" if jax.default_backend() == "cpu" else "other"]
    a = (jax.random.normal(jax.random.key(0), (side, side)) * side**-0.5).astype(dtype)  # keeps the norm
    program = compile_program(lambda a: lax.fori_loop(0, _PEAK_PRODUCTS, lambda _, x: x @ a, a), a)
    return program._replace(flops=_PEAK_PRODUCTS * 2.0 * side**3)


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


def time_with_peak(programs: Mapping[Hashable, Program], dtype: str, repeats: int) -> tuple[dict, dict]:
    """Times programs and matrix products in turns.

    Returns:
      The seconds of each program, one per turn; and the peak: {"dtype", "flops_per_second", "by_dtype"},
      for the given precision, and for float32 and bfloat16 where the device computes in both.
    """
    dtypes = {dtype} if jax.default_backend() == "cpu" else {dtype, "float32", "bfloat16"}
    products = {kind: matmul_program(kind) for kind in sorted(dtypes)}
    everything = {**programs, **products}
    seconds = time_interleaved({name: program.call for name, program in everything.items()}, repeats)
    rates = {kind: product.flops / statistics.median(seconds.pop(kind)) for kind, product in products.items()}
    return seconds, {"dtype": dtype, "flops_per_second": rates[dtype], "by_dtype": rates}


def _rows(programs: Mapping[int, Program], seconds: Mapping, peak: dict) -> list[dict]:
    rows = []
    for batch, program in programs.items():
        middle = statistics.median(seconds[batch])
        rows.append({
            "batch": batch, "compile_seconds": program.compile_seconds, "images_per_second": batch / middle,
            "slowest": batch / max(seconds[batch]), "fastest": batch / min(seconds[batch]),
            "flops_per_image": program.flops / batch, "flops_per_second": program.flops / middle,
            "of_peak": program.flops / middle / peak["flops_per_second"]})
    return rows


def _training_row(batch: int, programs: Mapping[str, Program], intervals: Mapping[str, int], seconds: Mapping,
                  peak: dict) -> dict:
    medians = {name: statistics.median(seconds[name]) for name in programs}
    step = sum(medians[name] / intervals[name] for name in programs)
    flops = sum(program.flops / intervals[name] for name, program in programs.items())
    return {"batch": batch, "compile_seconds": sum(program.compile_seconds for program in programs.values()),
            "images_per_second": batch / step, "flops_per_image": flops / batch,
            "flops_per_second": flops / step,
            "of_peak": flops / step / (peak["flops_per_second"] * jax.device_count()),
            "phases": {name: {"seconds": medians[name], "interval": intervals[name],
                              "flops_per_second": programs[name].flops / medians[name]} for name in programs}}
