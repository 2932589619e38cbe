"""Grey levels inside programs: 8-bit images as the floats that networks see. `fpgan.io.images` has the twin in NumPy."""

import jax
import jax.numpy as jnp


def to_float(levels: jax.Array) -> jax.Array:
    """Turns grey levels into what networks see.

    Args:
      levels: 0 to 255, uint8 or floating point, any shape.

    Returns:
      float32 in [-1, 1], the same shape.
    """
    return levels.astype(jnp.float32) * (2 / 255) - 1


def straight_through(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns y, with the gradient of x (the straight-through estimator of Bengio et al., arXiv 1308.3432)."""
    return x + jax.lax.stop_gradient(y - x)


def quantize(images: jax.Array) -> jax.Array:
    """Rounds images to 8 bits as `fpgan.io.images.to_uint8` does; they stay float, and the gradient passes straight through.

    Args:
      images: float in [-1, 1], any shape; what lies outside is clipped.
    """
    return straight_through(images, to_float(jnp.clip(jnp.floor(images * 127.5 + 128), 0, 255)))
