"""The low-pass filters, and convolutions that double or halve height and width with one of them."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from fpgan.networks.convolution import conv, plain_transposed_conv, strided_conv, transposed_conv

_FIR = (0.125, 0.375, 0.375, 0.125)  # [1, 3, 3, 1] / 8 along each axis, the low-pass filter of StyleGAN2
_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def fir(x: jax.Array, padding: tuple[int, int], gain: float = 1.0) -> jax.Array:
    """Filters with the separable kernel outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64.

    Four shifted copies a pass, which XLA fuses into one loop; depthwise convolutions are several times slower on CPUs. The
    filter equals its mirror image, so its gradient is the same filter with other padding; derived from the copies it would
    be sixteen padded arrays in one loop, which takes a CPU many times as long.

    Args:
      x: [N, H, W, C].
      padding: zeros before and after each of the two axes, 0 to 3.
      gain: factor on the result; 4 after zero insertion in both axes.

    Returns:
      [N, H + sum(padding) - 3, W + sum(padding) - 3, C].
    """
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    taps = [jnp.asarray(tap * math.sqrt(gain), x.dtype) for tap in _FIR]
    height, width = x.shape[1] - 3, x.shape[2] - 3
    x = sum(tap * x[:, i:i + height] for i, tap in enumerate(taps))
    return sum(tap * x[:, :, i:i + width] for i, tap in enumerate(taps))


def _fir_backward(padding, gain, _, gradient):
    return (fir(gradient, (3 - padding[0], 3 - padding[1]), gain),)


fir.defvjp(lambda x, padding, gain: (fir(x, padding, gain), None), _fir_backward)


@jax.custom_vjp
def upsample(x: jax.Array) -> jax.Array:
    """Doubles height and width: zero insertion, then the low-pass filter. [N, H, W, C] -> [N, 2H, 2W, C]."""
    zero = jnp.zeros((), x.dtype)
    x = lax.pad(x, zero, ((0, 0, 0), (2, 2, 1), (2, 2, 1), (0, 0, 0)))  # [N, 2H+3, 2W+3, C]
    return fir(x, (0, 0), 4.0)


@jax.custom_vjp
def downsample(x: jax.Array) -> jax.Array:
    """Halves height and width: the low-pass filter, then every second pixel; the transpose of upsample, over 4.

    [N, H, W, C], H and W even -> [N, H/2, W/2, C].
    """
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [jnp.asarray(tap, x.dtype) for tap in _FIR]
    height, width = x.shape[1] - 3, x.shape[2] - 3
    x = sum(tap * x[:, i:i + height:2] for i, tap in enumerate(taps))
    return sum(tap * x[:, :, i:i + width:2] for i, tap in enumerate(taps))


upsample.defvjp(lambda x: (upsample(x), None), lambda _, gradient: (4 * downsample(gradient),))
downsample.defvjp(lambda x: (downsample(x), None), lambda _, gradient: (upsample(gradient) / 4,))


def blur(x: jax.Array) -> jax.Array:
    """Low-pass filter outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256, borders repeated. [N, H, W, C] -> [N, H, W, C]."""
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    x = sum(tap * x[:, i:i + height] for i, tap in enumerate(_BINOMIAL))
    return sum(tap * x[:, :, i:i + width] for i, tap in enumerate(_BINOMIAL))


def conv_up(x: jax.Array, kernel: jax.Array, *, plain: bool = False) -> jax.Array:
    """Computes a 3x3 convolution that doubles height and width: transposed convolution of stride 2, then the low-pass
    filter.

    Args:
      x: [N, H, W, I].
      kernel: [3, 3, I, O].
      plain: without a choice by platform, for programs that run elsewhere.

    Returns:
      [N, 2H, 2W, O]. Nothing is cropped in between, so the borders differ from "upsample, then convolve".
    """
    whole = (plain_transposed_conv if plain else transposed_conv)(x, kernel)
    return fir(whole, (1, 1), gain=4.0)  # [N, 2H+1, 2W+1, O] -> [N, 2H, 2W, O]


def conv_down(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes a convolution that halves height and width: the low-pass filter first, then stride 2 without padding.

    Args:
      x: [N, H, W, I], H and W even.
      kernel: [k, k, I, O], k 1 or 3.

    Returns:
      [N, H/2, W/2, O].
    """
    if kernel.shape[0] == 1:
        return conv(downsample(x), kernel)
    return strided_conv(fir(x, (2, 2)), kernel)
