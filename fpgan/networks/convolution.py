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
_WIDE = 128  # channels that it takes, too, at stride 1
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

    def as_product(x, gradient):
        return _kernel_gradient_as_product(x, gradient, size)

    wide = min(x.shape[3], gradient.shape[3]) >= _WIDE and _positions(x) >= _AS_PRODUCTS
    if size > 1 and not wide:
        return as_convolution(x, gradient)
    return lax.platform_dependent(x, gradient, cpu=as_product, default=as_convolution)


@jax.custom_vjp
def transposed_conv(small: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes the transposed convolution of stride 2: zero insertion, then full correlation with the kernel.

    Args:
      small: [N, H, W, I].
      kernel: [k, k, I, O].

    Returns:
      [N, 2H + k - 2, 2W + k - 2, O].
    """
    if kernel.shape[0] != 3 or _positions(small) < _IN_PARTS:
        return plain_transposed_conv(small, kernel)
    return lax.platform_dependent(small, kernel, cpu=_transposed_in_parts, default=plain_transposed_conv)


def plain_transposed_conv(small: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes transposed_conv as one convolution, whatever the platform, and with JAX's own derivatives."""
    pad = kernel.shape[0] - 1
    return lax.conv_general_dilated(small, kernel, (1, 1), ((pad, pad), (pad, pad)), lhs_dilation=(2, 2),
                                    dimension_numbers=_DIMENSIONS)


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
        return _kernel_gradient_as_products(large, small)

    if _positions(small) < _AS_PRODUCTS:
        return dilated(large, small)
    return lax.platform_dependent(large, small, cpu=as_products, default=dilated)


@jax.custom_vjp
def batch_sum(x: jax.Array) -> jax.Array:
    """Sums over the batch, [N, ...] -> [...]; on a CPU as a product with ones, since XLA's own sum is ten times slower."""
    return lax.platform_dependent(x, cpu=_batch_sum_as_product, default=lambda x: jnp.sum(x, axis=0))


@jax.custom_vjp
def add_to_batch(x: jax.Array, offset: jax.Array) -> jax.Array:
    """Adds the same offset [...] to each sample of x [N, ...]; its gradient is a batch_sum."""
    return x + offset


def _positions(x: jax.Array) -> int:
    return x.shape[1] * x.shape[2]


def _kernel_gradient_as_product(x: jax.Array, gradient: jax.Array, size: int) -> jax.Array:
    """Computes conv_kernel_gradient as one matrix product a sample: of x shifted by rows, and the gradient by columns."""
    n, height, width, inputs = x.shape
    outputs, border = gradient.shape[3], size - 1
    x = jnp.pad(x, ((0, 0), (border // 2,) * 2, (border // 2,) * 2, (0, 0)))  # [N, H + k - 1, W + k - 1, I]
    rows = jnp.concatenate([x[:, i:i + height] for i in range(size)], axis=3)  # [N, H, W + k - 1, kI]
    columns = jnp.concatenate([jnp.pad(gradient, ((0, 0), (0, 0), (j, border - j), (0, 0))) for j in range(size)], axis=3)
    product = _sum_of_products(rows, columns).reshape(size, inputs, size, outputs)
    return product.swapaxes(1, 2)


def _kernel_gradient_as_products(large: jax.Array, small: jax.Array) -> jax.Array:
    """Computes kernel_gradient as a matrix product for each position in the kernel and each sample."""
    height, width = 2 * small.shape[1] - 1, 2 * small.shape[2] - 1
    size = range(large.shape[1] - height + 1)
    return jnp.stack([jnp.stack([_sum_of_products(large[:, i:i + height:2, j:j + width:2], small) for j in size])
                      for i in size])


def _sum_of_products(a: jax.Array, b: jax.Array) -> jax.Array:
    """Sums a b^T over positions and samples: [N, H, W, I] and [N, H, W, O] -> [I, O].

    A product for each sample, as one over all positions at once is slower: its operands do not stay in the cache.
    """
    a, b = (x.reshape(x.shape[0], -1, x.shape[3]) for x in (a, b))  # [N, HW, C]
    products = jnp.einsum("npi,npo->nio", a, b, preferred_element_type=_at_least_float32(a))
    return _batch_sum_as_product(products).astype(a.dtype)


def _batch_sum_as_product(x: jax.Array) -> jax.Array:
    rows = x.reshape(x.shape[0], -1)  # [N, ...]
    total = jnp.matmul(jnp.ones((1, x.shape[0]), x.dtype), rows, preferred_element_type=_at_least_float32(x))
    return total.reshape(x.shape[1:]).astype(x.dtype)


def _at_least_float32(x: jax.Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


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
batch_sum.defvjp(lambda x: (batch_sum(x), x.shape), lambda shape, gradient: (jnp.broadcast_to(gradient, shape),))
add_to_batch.defvjp(lambda x, offset: (add_to_batch(x, offset), None), lambda _, gradient: (gradient, batch_sum(gradient)))
