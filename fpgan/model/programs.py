"""Generating and decoding as pure functions of parameters, and as compiled programs over batches."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fpgan.distributed.devices import batch_parallel, memory
from fpgan.errors import FpganError
from fpgan.networks.alignment import Aligner, locate, look_up
from fpgan.networks.config import NetworkConfig
from fpgan.networks.decoder import Decoder
from fpgan.networks.generator import Generator
from fpgan.networks.levels import to_float

SMALLEST = 16  # batch of the generator's programs: with at least so many images, equal batch sizes give equal bytes


def generate_fn(config: NetworkConfig) -> Callable:
    """Returns the generator as a pure function of parameters, bits and seeds.

    Args:
      config: the architecture.

    Returns:
      f(params, bits float32 [B, n], seeds uint32 [B], labels int32 [B] = None) -> images float32 [B, R, R, channels]. The
      latent and the noise of an image depend on its own seed alone; so does, in a conditional model, its label if none is
      given.
    """
    def draw_label(seed):
        key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), 2)
        return jax.random.randint(key, (), 0, config.label_size)

    def generate(params, bits, seeds, labels=None):
        latents, noise_keys = jax.vmap(functools.partial(draw_latent, config.latent_size))(seeds)
        one_hot = None
        if config.label_size:
            one_hot = jax.nn.one_hot(jax.vmap(draw_label)(seeds) if labels is None else labels, config.label_size)
        return Generator(config).apply({"params": params}, latents, bits, noise_keys, one_hot)

    return generate


def draw_latent(size: int, seed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draws what an image is made from: the latent [size] of N(0, 1) and the key of its noise, from a seed (uint32)."""
    latent, noise = jax.random.split(jax.random.key(seed, impl="threefry2x32"))
    return jax.random.normal(latent, (size,)), noise


def decode_fn(config: NetworkConfig) -> Callable:
    """Returns the decoder as a pure function: f(params, images float32 [B, R, R, channels] in [-1, 1]) -> logits float32
    [B, n].
    """
    return lambda params, images: Decoder(config).apply({"params": params}, images)[0]


@functools.cache
def generate_program(config: NetworkConfig, devices: tuple):
    """Compiles `generate_fn`, once for an architecture and devices, see `batch_parallel`."""
    return batch_parallel(generate_fn(config), devices)


@functools.cache
def decode_program(config: NetworkConfig, devices: tuple):
    """Compiles `decode_fn`, once for an architecture and devices, see `batch_parallel`; it takes uint8 images too."""
    def decode(params, images):
        if images.dtype == jnp.uint8:
            images = to_float(images)
        return decode_fn(config)(params, images)
    return batch_parallel(decode, devices)


def check_batch_size(batch_size: int, resolution: int, channels: int = 3) -> None:
    """Raises FpganError if a batch is empty, or if its images alone (float32, in and out) are more than a device holds."""
    if batch_size < 1:
        raise FpganError(f"batch size {batch_size}; expected 1 or more")
    needed, there = 8 * batch_size * resolution**2 * channels, memory()
    if there and needed > there:
        raise FpganError(f"batch size {batch_size:,}: its images alone take {needed / 1e9:,.0f} GB, and there are "
                         f"{there / 1e9:,.0f} GB; expected at most {there // (needed // batch_size):,}, and less for speed")


def fitting_batch(batch_size: int, count: int, least: int = 1) -> int:
    """Returns the batch size of a program for `count` samples: few need no large batch.

    Args:
      batch_size: what was asked for.
      count: samples in all.
      least: no smaller one is chosen, unless it was asked for.

    Returns:
      `batch_size`, or the least power of two that holds the samples, and is `least` or more.
    """
    return min(batch_size, max(least, 1 << max(count - 1, 0).bit_length()))


def devices_for(batches: int, devices: tuple) -> tuple:
    """Returns the devices that share so many batches: a power of two, or all, so that few programs are compiled."""
    return devices[:1 << max(batches - 1, 0).bit_length()]


@functools.cache
def decode_at_program(config: NetworkConfig, devices: tuple):
    """Compiles `decode_fn` on pictures that are looked up at their places: f(params, images, homographies [B, 3, 3])."""
    def decode(params, images, homographies):
        if images.dtype == jnp.uint8:
            images = to_float(images)
        return decode_fn(config)(params, look_up(images, homographies, config.resolution))
    return batch_parallel(decode, devices)


@functools.cache
def locate_program(aligner: Aligner, devices: tuple):
    """Compiles `networks.alignment.locate`, once for an architecture of aligners; it takes uint8 images too."""
    def find(params, images):
        return locate(aligner, params, to_float(images) if images.dtype == jnp.uint8 else images)
    return batch_parallel(find, devices)


def in_batches(program: Callable, arrays: tuple, batch_size: int, result_shape: tuple) -> np.ndarray:
    """Runs a compiled program over batches of one fixed size; the next batch is dispatched before the last is fetched."""
    count = len(arrays[0])
    result = np.empty((count, *result_shape), np.float32)
    pending = None
    for start in range(0, count, batch_size):
        parts = [array[start:start + batch_size] for array in arrays]
        missing = batch_size - len(parts[0])
        parts = [np.concatenate([p, np.repeat(p[-1:], missing, axis=0)]) if missing else p for p in parts]
        output = program(*parts)
        if pending is not None:
            _fetch(result, *pending)
        pending = (start, output)
    if pending is not None:
        _fetch(result, *pending)
    return result


def _fetch(result: np.ndarray, start: int, output: jax.Array) -> None:
    part = result[start:start + len(output)]
    part[...] = np.asarray(output)[:len(part)]
