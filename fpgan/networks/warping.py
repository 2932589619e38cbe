"""Images looked up between their pixels: where a homography says, bilinearly or bicubically, with gradients to the image."""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp


def places_of(homography: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Computes where a homography takes the centres of an image's pixels.

    Args:
      homography: [3, 3], in coordinates from -1 to 1, x to the right, y down.
      size: R, height and width of the image.

    Returns:
      x and y, [R, R] each.
    """
    along = (jnp.arange(size) + 0.5) * (2 / size) - 1
    x, y = jnp.meshgrid(along, along)  # [R, R]
    x, y, w = jnp.einsum("ij,jhw->ihw", homography, jnp.stack([x, y, jnp.ones_like(x)]), precision="highest")
    w = jnp.where(jnp.abs(w) > 1e-6, w, 1e-6)
    return x / w, y / w


def sample(image: jax.Array, column: jax.Array, row: jax.Array, taps: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Looks up an image between its pixels; beyond its border the outermost pixels are repeated.

    Args:
      image: float [S, S, C].
      column, row: float [...], in pixels from the centre of the first one, from -1 to S.
      taps: `bilinear` or `bicubic`.

    Returns:
      [..., C].
    """
    side, channels = image.shape[1:]
    left, top = jnp.floor(column), jnp.floor(row)
    across, down = taps(column - left), taps(row - top)  # [..., K]
    near = jnp.arange(across.shape[-1]) - (across.shape[-1] // 2 - 1)
    columns, rows = (jnp.clip(v[..., None].astype(jnp.int32) + near, 0, side - 1) for v in (left, top))
    flat, found = image.reshape(side * side, channels), jnp.zeros((*column.shape, channels))
    for i, j in itertools.product(range(len(near)), repeat=2):
        found += (down[..., i] * across[..., j])[..., None] * flat[rows[..., i] * side + columns[..., j]]
    return found


def bilinear(t: jax.Array) -> jax.Array:
    """Computes the weights of the two neighbours of a place, t in [0, 1) from the first one: [...] -> [..., 2]."""
    return jnp.stack([1 - t, t], axis=-1)


def bicubic(t: jax.Array) -> jax.Array:
    """Computes the weights of the four neighbours of a place between the second and the third (Keys 1981, a = -1/2).

    Args:
      t: float [...] in [0, 1), how far the place lies from the second one.

    Returns:
      [..., 4], which add up to 1.
    """
    return jnp.stack([((-0.5 * t + 1) * t - 0.5) * t, (1.5 * t - 2.5) * t * t + 1, ((-1.5 * t + 2) * t + 0.5) * t,
                      (0.5 * t - 0.5) * t * t], axis=-1)
