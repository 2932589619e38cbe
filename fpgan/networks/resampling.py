"""Convolution of stride 2, its transpose, and the gradients of both, written so that all of them are fast.

Strided convolution, transposed convolution and the gradient to their kernel are the three partial derivatives of one
trilinear form T(small, kernel, large). Each is the gradient of the others, so three functions that name each other
as derivatives are closed under differentiation to any order. Left to itself, XLA computes the kernel's gradient of a
transposed convolution as a convolution with a huge kernel over a zero-inserted image, ten times slower on a CPU.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

_FIR = (0.125, 0.375, 0.375, 0.125)  # [1, 3, 3, 1] / 8 along each axis, the low-pass filter of StyleGAN2
_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


@jax.custom_vjp
def transposed_conv(small: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes the transposed convolution of stride 2: zero insertion, then full correlation with the kernel.

    Args:
      small: [N, H, W, I].
      kernel: [k, k, I, O].

    Returns:
      [N, 2H + k - 2, 2W + k - 2, O].
    """
    pad = kernel.shape[0] - 1
    return lax.conv_general_dilated(small, kernel, (1, 1), ((pad, pad), (pad, pad)), lhs_dilation=(2, 2),
                                    dimension_numbers=("NHWC", "HWIO", "NHWC"))


@jax.custom_vjp
def strided_conv(large: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes the convolution (correlation) of stride 2 without padding.

    Args:
      large: [N, H, W, I].
      kernel: [k, k, I, O].

    Returns:
      [N, (H - k) // 2 + 1, (W - k) // 2 + 1, O].
    """
    return lax.conv_general_dilated(large, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@jax.custom_vjp
def kernel_gradient(large: jax.Array, small: jax.Array) -> jax.Array:
    """Computes the gradient of sum(strided_conv(large, kernel) * small) to the kernel.

    Args:
      large: [N, 2H + k - 2, 2W + k - 2, I].
      small: [N, H, W, O].

    Returns:
      [k, k, I, O].
    """
    # The batch is summed over, so it takes the place of the input channels: [I, H', W', N] * [H, W, N, O].
    return lax.conv_general_dilated(large, small, (1, 1), "VALID", rhs_dilation=(2, 2),
                                    dimension_numbers=("CHWN", "IHWO", "HWNC"))


def _turned(kernel: jax.Array) -> jax.Array:
    """Rotates by 180 degrees and swaps input and output: what the kernel is, seen from the other side."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def _transposed_backward(residuals, gradient):
    small, kernel = residuals
    return strided_conv(gradient, _turned(kernel)), _turned(kernel_gradient(gradient, small))


def _strided_backward(residuals, gradient):
    large, kernel = residuals
    return transposed_conv(gradient, _turned(kernel)), kernel_gradient(large, gradient)


def _kernel_backward(residuals, gradient):
    large, small = residuals
    return transposed_conv(small, _turned(gradient)), strided_conv(large, gradient)


transposed_conv.defvjp(lambda *args: (transposed_conv(*args), args), _transposed_backward)
strided_conv.defvjp(lambda *args: (strided_conv(*args), args), _strided_backward)
kernel_gradient.defvjp(lambda *args: (kernel_gradient(*args), args), _kernel_backward)


def fir(x: jax.Array, padding: tuple[int, int], gain: float = 1.0) -> jax.Array:
    """Filters with the separable kernel outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64.

    Four shifted copies a pass, which XLA fuses into one loop; depthwise convolutions are several times slower on CPUs.

    Args:
      x: [N, H, W, C].
      padding: zeros before and after each of the two axes.
      gain: factor on the result; 4 after zero insertion in both axes.

    Returns:
      [N, H + sum(padding) - 3, W + sum(padding) - 3, C].
    """
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    taps = [jnp.asarray(tap * math.sqrt(gain), x.dtype) for tap in _FIR]
    height, width = x.shape[1] - 3, x.shape[2] - 3
    x = sum(tap * x[:, i:i + height] for i, tap in enumerate(taps))
    return sum(tap * x[:, :, i:i + width] for i, tap in enumerate(taps))


def upsample(x: jax.Array) -> jax.Array:
    """Doubles height and width: zero insertion, then the low-pass filter. [N, H, W, C] -> [N, 2H, 2W, C]."""
    zero = jnp.zeros((), x.dtype)
    x = lax.pad(x, zero, ((0, 0, 0), (2, 2, 1), (2, 2, 1), (0, 0, 0)))  # [N, 2H+3, 2W+3, C]
    return fir(x, (0, 0), gain=4.0)


def blur(x: jax.Array) -> jax.Array:
    """Low-pass filter outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256, borders repeated. [N, H, W, C] -> [N, H, W, C]."""
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    x = sum(tap * x[:, i:i + height] for i, tap in enumerate(_BINOMIAL))
    return sum(tap * x[:, :, i:i + width] for i, tap in enumerate(_BINOMIAL))


def conv_up(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes a 3x3 convolution that doubles height and width: transposed convolution of stride 2, then the low-pass
    filter.

    Args:
      x: [N, H, W, I].
      kernel: [3, 3, I, O].

    Returns:
      [N, 2H, 2W, O]. Nothing is cropped in between, so the borders differ from "upsample, then convolve".
    """
    return fir(transposed_conv(x, kernel), (1, 1), gain=4.0)  # [N, 2H+1, 2W+1, O] -> [N, 2H, 2W, O]


def conv_down(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes a convolution that halves height and width: the low-pass filter first, then stride 2 without padding.

    Args:
      x: [N, H, W, I], H and W even.
      kernel: [k, k, I, O], k 1 or 3.

    Returns:
      [N, H/2, W/2, O].
    """
    pad = (kernel.shape[0] + 1) // 2
    return strided_conv(fir(x, (pad, pad)), kernel)
