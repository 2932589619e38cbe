"""Convolutions of stride 1 and 2, the transposed convolution, and their gradients, so that all of them are fast.

Strided convolution, transposed convolution and the gradient to their kernel are the three partial derivatives of one
trilinear form T(small, kernel, large). Each is the gradient of the others, so three functions that name each other
as derivatives are closed under differentiation to any order; of stride 1, with borders that keep the size, the first two
are one. Left to itself, XLA computes the kernel's gradient of a transposed convolution as a convolution with a huge kernel
over a zero-inserted image, ten times slower on a CPU.

Where XLA's convolutions are slow on CPUs but not elsewhere, CPUs get a formulation of their own. `lax.platform_dependent`
picks it when a program is compiled for a device, so the programs of TPUs and GPUs do not change.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
_AS_PRODUCTS = 1024  # positions of an image from which on a CPU sums products of matrices for the kernel's gradient
_IN_PARTS = 256  # positions from which on it splits a transposed convolution in four


@jax.custom_vjp
def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves (cross-correlation) with stride 1 that keeps height and width.

    Args:
      x: [N, H, W, I].
      kernel: [k, k, I, O], k odd.

    Returns:
      [N, H, W, O].
    """
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_DIMENSIONS)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_kernel_gradient(x: jax.Array, gradient: jax.Array, size: int) -> jax.Array:
    """Computes the gradient of sum(conv(x, kernel) * gradient) to the kernel.

    Args:
      x: [N, H, W, I].
      gradient: [N, H, W, O].
      size: k, of the kernel, odd.

    Returns:
      [k, k, I, O].
    """
    pad = (size // 2, size // 2)

    def as_convolution(x, gradient):  # the batch is summed over: [I, H, W, N] * [H, W, N, O]
        return lax.conv_general_dilated(x, gradient, (1, 1), (pad, pad), dimension_numbers=("CHWN", "IHWO", "HWNC"))

    def as_products(x, gradient):
        return _sum_of_products(jnp.pad(x, ((0, 0), pad, pad, (0, 0))), gradient, size, 1)

    if size > 1 and _positions(x) < _AS_PRODUCTS:
        return as_convolution(x, gradient)
    return lax.platform_dependent(x, gradient, cpu=as_products, default=as_convolution)


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

    def dilated(small, kernel):
        return lax.conv_general_dilated(small, kernel, (1, 1), ((pad, pad), (pad, pad)), lhs_dilation=(2, 2),
                                        dimension_numbers=_DIMENSIONS)

    if kernel.shape[0] != 3 or _positions(small) < _IN_PARTS:
        return dilated(small, kernel)
    return lax.platform_dependent(small, kernel, cpu=_transposed_in_parts, default=dilated)


@jax.custom_vjp
def strided_conv(large: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes the convolution (correlation) of stride 2 without padding.

    Args:
      large: [N, H, W, I].
      kernel: [k, k, I, O].

    Returns:
      [N, (H - k) // 2 + 1, (W - k) // 2 + 1, O].
    """
    return lax.conv_general_dilated(large, kernel, (2, 2), "VALID", dimension_numbers=_DIMENSIONS)


@jax.custom_vjp
def kernel_gradient(large: jax.Array, small: jax.Array) -> jax.Array:
    """Computes the gradient of sum(strided_conv(large, kernel) * small) to the kernel.

    Args:
      large: [N, 2H + k - 2, 2W + k - 2, I].
      small: [N, H, W, O].

    Returns:
      [k, k, I, O].
    """
    def dilated(large, small):  # as in conv_kernel_gradient
        return lax.conv_general_dilated(large, small, (1, 1), "VALID", rhs_dilation=(2, 2),
                                        dimension_numbers=("CHWN", "IHWO", "HWNC"))

    def as_products(large, small):
        return _sum_of_products(large, small, large.shape[1] - 2 * small.shape[1] + 2, 2)

    if _positions(small) < _AS_PRODUCTS:
        return dilated(large, small)
    return lax.platform_dependent(large, small, cpu=as_products, default=dilated)


def _positions(x: jax.Array) -> int:
    return x.shape[1] * x.shape[2]


def _sum_of_products(large: jax.Array, small: jax.Array, size: int, stride: int) -> jax.Array:
    """Computes a kernel's gradient [size, size, I, O] as a matrix product for each of its positions and samples.

    One for all samples together would sum over so many positions that its operands leave the cache.
    """
    n, height, width, outputs = small.shape
    small = small.reshape(n, height * width, outputs)

    def at(i, j):
        seen = large[:, i:i + stride * (height - 1) + 1:stride, j:j + stride * (width - 1) + 1:stride]
        seen = seen.reshape(n, height * width, -1)  # [N, HW, I]
        return jnp.sum(jnp.einsum("npi,npo->nio", seen, small, preferred_element_type=jnp.float32), axis=0)

    taps = jnp.stack([jnp.stack([at(i, j) for j in range(size)]) for i in range(size)])
    return taps.astype(small.dtype)


def _transposed_in_parts(small: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes transposed_conv with a 3x3 kernel without the zeros: even and odd rows and columns each are a convolution.

    An even position meets the kernel's outer taps, of two pixels, an odd one its middle tap, of one.
    """
    (n, height, width, _), outputs = small.shape, kernel.shape[3]
    taps, pads = (slice(0, 3, 2), slice(1, 2)), ((1, 1), (0, 1))  # the row and column more of odd ones are not used
    rows = [jnp.stack([lax.conv_general_dilated(small, kernel[taps[i], taps[j]], (1, 1), (pads[i], pads[j]),
                                                dimension_numbers=_DIMENSIONS) for j in (0, 1)], axis=3) for i in (0, 1)]
    whole = jnp.stack(rows, axis=2)  # [N, H + 1, 2, W + 1, 2, O]
    return whole.reshape(n, 2 * height + 2, 2 * width + 2, outputs)[:, :-1, :-1]


def _turned(kernel: jax.Array) -> jax.Array:
    """Rotates by 180 degrees and swaps input and output: what the kernel is, seen from the other side."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def _conv_backward(residuals, gradient):
    x, kernel = residuals
    return conv(gradient, _turned(kernel)), conv_kernel_gradient(x, gradient, kernel.shape[0])


def _conv_kernel_backward(size, residuals, gradient):
    x, outer = residuals
    return conv(outer, _turned(gradient)), conv(x, gradient)


def _transposed_backward(residuals, gradient):
    small, kernel = residuals
    return strided_conv(gradient, _turned(kernel)), _turned(kernel_gradient(gradient, small))


def _strided_backward(residuals, gradient):
    large, kernel = residuals
    return transposed_conv(gradient, _turned(kernel)), kernel_gradient(large, gradient)


def _kernel_backward(residuals, gradient):
    large, small = residuals
    return transposed_conv(small, _turned(gradient)), strided_conv(large, gradient)


conv.defvjp(lambda *args: (conv(*args), args), _conv_backward)
conv_kernel_gradient.defvjp(lambda x, gradient, size: (conv_kernel_gradient(x, gradient, size), (x, gradient)),
                            _conv_kernel_backward)
transposed_conv.defvjp(lambda *args: (transposed_conv(*args), args), _transposed_backward)
strided_conv.defvjp(lambda *args: (strided_conv(*args), args), _strided_backward)
kernel_gradient.defvjp(lambda *args: (kernel_gradient(*args), args), _kernel_backward)
