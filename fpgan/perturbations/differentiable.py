"""Differentiable twins of what is done to images, on one float image in [-1, 1]: for training against perturbations.

Each takes an image [R, R, C] and its strengths as traced scalars, so that one compiled program draws any strength per
sample under `jax.vmap`. What is linear and separable (blur, resize, DCT, chroma) is a product with small matrices, A X B^T;
geometry is one bilinear warp. Rounding passes gradients straight through. The tests hold each against the real operation of
Pillow.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from fpgan.networks.levels import straight_through, to_float
from fpgan.networks.warping import bilinear, places_of, sample

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)
_TO_RGB = np.linalg.inv(_TO_YCC.astype(np.float64)).astype(np.float32)
# The example tables of ITU-T T.81, annex K.1, which libjpeg scales by the quality.
_LUMA_TABLE = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55], [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62], [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99]], np.float32)
_CHROMA_TABLE = np.array([
    [17, 18, 24, 47, 99, 99, 99, 99], [18, 21, 26, 66, 99, 99, 99, 99], [24, 26, 56, 99, 99, 99, 99, 99],
    [47, 66, 99, 99, 99, 99, 99, 99]] + 4 * [8 * [99]], np.float32)


def to_levels(image: jax.Array) -> jax.Array:
    """Turns [-1, 1] into grey levels [0, 255], unrounded."""
    return image * 127.5 + 127.5


def round_levels(levels: jax.Array) -> jax.Array:
    """Rounds and clips grey levels to 0, 1, ..., 255; the gradient passes straight through."""
    return straight_through(levels, jnp.clip(jnp.round(levels), 0, 255))


def warp(image: jax.Array, homography: jax.Array, window: jax.Array, fill: jax.Array, fills: jax.Array) -> jax.Array:
    """Moves an image by a homography, bilinearly, and shows a window of it.

    It looks up as `fpgan.networks.alignment.look_up` does, with two taps along each axis instead of four.

    Args:
      image: [R, R, C].
      homography: [3, 3], from where a pixel lands to where it comes from, in coordinates that run from -1 to 1 over the
        picture (x to the right, y down).
      window: [4] = left, top, right, bottom of the part of the *original* that is left, in the same coordinates;
        [-1, -1, 1, 1] for all of it.
      fill: [C], the colour of what the window does not show.
      fills: bool; False repeats the border of the window instead.

    Returns:
      [R, R, C].
    """
    size = image.shape[0]
    x, y = places_of(homography, size)
    half = 1 / size  # of a pixel
    left, top, right, bottom = window
    inside = (x >= left) & (x <= right) & (y >= top) & (y <= bottom)
    column, row = (((jnp.clip(v, low + half, high - half) + 1) * size - 1) / 2
                   for v, low, high in ((x, left, right), (y, top, bottom)))
    moved = sample(image, column, row, bilinear)
    return jnp.where(fills & ~inside[..., None], fill, moved)


def similarity(shift_x: jax.Array, shift_y: jax.Array, scale: jax.Array, degrees: jax.Array) -> jax.Array:
    """Builds the homography of a shift, a magnification and a turn about the centre, for `warp`.

    Args:
      shift_x, shift_y: how far the picture moves to the right and down, in halves of the side.
      scale: magnification; above 1 the border is lost.
      degrees: how far the picture turns, counter-clockwise as seen.

    Returns:
      [3, 3], from where pixels land to where they come from.
    """
    angle = degrees * (math.pi / 180)
    cosine, sine = jnp.cos(angle) / scale, jnp.sin(angle) / scale
    zero, one = jnp.zeros_like(cosine), jnp.ones_like(cosine)
    turned = jnp.stack([jnp.stack([cosine, -sine, zero]), jnp.stack([sine, cosine, zero]), jnp.stack([zero, zero, one])])
    shifted = jnp.stack([jnp.stack([one, zero, -shift_x]), jnp.stack([zero, one, -shift_y]), jnp.stack([zero, zero, one])])
    return turned @ shifted


def erase(image: jax.Array, box: jax.Array, colour: jax.Array) -> jax.Array:
    """Paints a box over an image. [R, R, C]; box [4] = left, top, right, bottom in [0, 1]; colour [C] -> [R, R, C]."""
    centres = (jnp.arange(image.shape[0]) + 0.5) / image.shape[0]
    left, top, right, bottom = box
    covered = ((centres >= top) & (centres < bottom))[:, None] & ((centres >= left) & (centres < right))[None, :]
    return jnp.where(covered[..., None], colour, image)


def brightness(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Multiplies the grey levels by a factor, clipped to [-1, 1]. [R, R, C] -> [R, R, C]."""
    return jnp.clip((image + 1) * factor - 1, -1, 1)


def contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Stretches grey levels about the image's mean luma by a factor, clipped to [-1, 1]. [R, R, C] -> [R, R, C]."""
    mean = jnp.mean(luma(image))
    return jnp.clip(mean + factor * (image - mean), -1, 1)


def saturation(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Stretches colours about the pixel's luma by a factor, clipped to [-1, 1]; 0 is grey. [R, R, C] -> [R, R, C]."""
    grey = luma(image)
    return jnp.clip(grey + factor * (image - grey), -1, 1)


def luma(image: jax.Array) -> jax.Array:
    """Weighs red, green and blue as ITU-R BT.601 does; other images keep their mean. [..., C] -> [..., 1]."""
    weights = _LUMA if image.shape[-1] == 3 else np.full(image.shape[-1], 1 / image.shape[-1], np.float32)
    return (image @ weights)[..., None]


def noise(image: jax.Array, sigma: jax.Array, key: jax.Array) -> jax.Array:
    """Adds Gaussian noise; sigma in grey levels. [R, R, C] -> [R, R, C]."""
    return image + sigma * (2 / 255) * jax.random.normal(key, image.shape)


def blur_matrix(size: int, sigma: jax.Array) -> jax.Array:
    """Returns the Gaussian blur along one axis as a matrix [size, size], borders repeated; sigma in pixels, 0 for none."""
    reach = jnp.arange(-size, 2 * size)  # pixels, with as many beyond either border
    distance = jnp.arange(size)[:, None] - reach[None, :]
    weights = jnp.exp(-0.5 * jnp.square(distance / jnp.maximum(sigma, 1e-3)))
    weights = weights / jnp.sum(weights, axis=1, keepdims=True)
    left, middle, right = jnp.split(weights, 3, axis=1)
    middle = middle.at[:, 0].add(jnp.sum(left, axis=1))
    return middle.at[:, -1].add(jnp.sum(right, axis=1))


def resize_matrix(size: int, fraction: jax.Array) -> jax.Array:
    """Returns bicubic resizing to round(fraction * size) pixels and back along one axis, as a matrix [size, size].

    Args:
      size: pixels.
      fraction: in (0, 1] or above. The kernel is Keys' with a = -1/2, widened where the picture shrinks, as in Pillow.
    """
    small = jnp.round(fraction * size)
    most = 2 * size
    there = _resampling(size, most, size, small)  # [most, size], rows from `small` on are not used
    back = _resampling(most, size, small, size)  # [size, most]
    return back @ there


def _resampling(from_most: int, to_most: int, from_size, to_size) -> jax.Array:
    """[to_most, from_most]: the matrix that resamples `from_size` pixels to `to_size`, in the corner of a larger one."""
    ratio = from_size / to_size
    stretch = jnp.maximum(ratio, 1.0)
    centres = (jnp.arange(to_most) + 0.5) * ratio - 0.5
    x = jnp.abs(jnp.arange(from_most)[None, :] - centres[:, None]) / stretch
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0))
    weights = jnp.where(jnp.arange(from_most)[None, :] < from_size, weights, 0.0)
    total = jnp.sum(weights, axis=1, keepdims=True)
    return weights / jnp.where(jnp.abs(total) > 1e-6, total, 1.0)


def filtered(image: jax.Array, matrix: jax.Array) -> jax.Array:
    """Applies one matrix to rows and columns. [R, R, C], [R, R] -> [R, R, C]."""
    return jnp.einsum("ih,hwc,jw->ijc", matrix, image, matrix)


def jpeg(image: jax.Array, quality: jax.Array, subsampled: jax.Array) -> jax.Array:
    """Compresses and expands as libjpeg does: YCbCr, 8x8 DCT, the tables of annex K scaled by the quality.

    Args:
      image: [R, R, 3], or [R, R, 1] for grey.
      quality: 1 to 100.
      subsampled: bool, chroma at half resolution in both axes (4:2:0), else at full (4:4:4).

    Returns:
      [R, R, C]; roundings pass gradients straight through.
    """
    size, channels = image.shape[1:]
    padded = -size % 16
    levels = jnp.pad(round_levels(to_levels(image)), ((0, padded), (0, padded), (0, 0)), mode="edge")
    if channels == 1:
        planes = [_coded(levels[..., 0], _LUMA_TABLE, quality)]
        return to_float(round_levels(jnp.stack(planes, axis=-1)))[:size, :size]
    y, *chroma = jnp.moveaxis(levels @ _TO_YCC.T, -1, 0)  # chroma about 0
    y = _coded(y, _LUMA_TABLE, quality)
    chroma = [jnp.where(subsampled, _coded_at_half(plane, quality), _coded(plane + 128, _CHROMA_TABLE, quality) - 128)
              for plane in chroma]
    return to_float(round_levels(jnp.stack([y, *chroma], axis=-1) @ _TO_RGB.T))[:size, :size]


def _coded(plane: jax.Array, table: np.ndarray, quality: jax.Array) -> jax.Array:
    """What is left of a plane of grey levels after quantising its DCT. [P, P], P a multiple of 8."""
    scale = jnp.where(quality < 50, 5000 / quality, 200 - 2 * quality)
    steps = jnp.clip(jnp.floor((table * scale + 50) / 100), 1, 255)
    blocks = plane.shape[0] // 8
    steps = jnp.tile(steps, (blocks, blocks))
    transform = _block_dct(blocks)
    coefficients = transform @ (round_levels(plane) - 128) @ transform.T / steps
    coefficients = straight_through(coefficients, jnp.round(coefficients)) * steps
    return round_levels(transform.T @ coefficients @ transform + 128)


def _coded_at_half(plane: jax.Array, quality: jax.Array) -> jax.Array:
    """As _coded for a chroma plane about 0, at half resolution: averaged, expanded by the triangle filter of libjpeg."""
    down, up = _halving(plane.shape[0])
    return up @ (_coded(down @ plane @ down.T + 128, _CHROMA_TABLE, quality) - 128) @ up.T


@functools.lru_cache
def _block_dct(blocks: int) -> np.ndarray:
    """The orthonormal DCT-II of 8 pixels, block after block: [8 blocks, 8 blocks]."""
    k, i = np.mgrid[:8, :8]
    dct = np.cos((2 * i + 1) * k * np.pi / 16) * np.where(k, 0.5, math.sqrt(1 / 8))
    return np.kron(np.eye(blocks), dct).astype(np.float32)


@functools.lru_cache
def _halving(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean of pairs [size/2, size], and the triangle filter back [size, size/2]: 3/4 of the nearest, 1/4 of the next."""
    half = size // 2
    down = np.repeat(np.eye(half), 2, axis=1) / 2
    pixels = np.arange(size)
    nearest = pixels // 2
    following = np.clip(nearest + np.where(pixels % 2, 1, -1), 0, half - 1)
    up = 0.75 * np.eye(half)[nearest] + 0.25 * np.eye(half)[following]
    return down.astype(np.float32), up.astype(np.float32)
