"""Where the picture lies in an image: a small network that sees it, and the geometry of four corners.

A picture that was flipped, turned, cropped, put on a page or photographed is related to the original by one homography.
The network names the turn of the square (eight of them, with the mirrored ones) and the quadrangle that the picture fills,
which together are the homography (corners instead of its entries: DeTone et al. 2016, and for watermarks SyncSeal).

Coordinates run from -1 to 1 over an image, x to the right, y down; corners go clockwise from the upper left one. A
homography [3, 3] takes a point of the picture to its place in the image that was seen. The functions of geometry take arrays
of NumPy and of JAX alike.
"""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fpgan.networks.convolution import strided_conv
from fpgan.networks.layers import Dense, Scaled, leaky_relu
from fpgan.networks.warping import bicubic, places_of, sample

CORNERS = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], np.float32)
_QUARTER = np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]], np.float32)  # counter-clockwise, as seen
_MIRROR = np.diag([-1, 1, 1]).astype(np.float32)
# The eight turns of a square [8, 3, 3]: 0 to 3 quarters, then the same after mirroring left and right.
TURNS = np.stack([np.linalg.matrix_power(_QUARTER, quarters) @ mirror
                  for mirror, quarters in itertools.product((np.eye(3, dtype=np.float32), _MIRROR), range(4))])
# ORDERS[k, i]: which corner of a square the i-th one becomes by turn k.
ORDERS = np.array([[int(np.argmin(np.abs(CORNERS - (turn[:2, :2] @ corner)).sum(1))) for corner in CORNERS]
                   for turn in TURNS])
MOST_PIXELS = 64  # side of what the aligner looks at
LOOKS = 2  # at an image, the second one after what was seen has been undone


class _Halving(Scaled):
    """3x3 convolution of stride 2 with bias and leaky ReLU; without a low-pass filter, which would blur where edges are."""

    features: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, I] -> [N, H/2, W/2, features]."""
        kernel = self.weight((3, 3, x.shape[-1], self.features))
        x = strided_conv(jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0))), kernel)
        return leaky_relu(x + self.bias(self.features))


class Aligner(nn.Module):
    """Finds the picture in an image.

    Attributes:
      size: height and width of the images, a power of two from 8 up.
      channel_base: the feature maps at resolution r have min(channel_base / r, channel_max) channels.
      channel_max: see channel_base.
      features: width of the hidden dense layer.
    """

    size: int = MOST_PIXELS
    channel_base: int = 1024
    channel_max: int = 128
    features: int = 256

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Locates the picture.

        Args:
          images: [N, size, size, C] in [-1, 1].

        Returns:
          The quadrangle that the picture fills, [N, 4, 2], from the corner that is now the upper left one; and the logits
          [N, 8] of TURNS, which say what has become of the original's corners.
        """
        x, size = images, self.size
        while size > 4:
            size //= 2
            x = _Halving(features=min(self.channel_base // size, self.channel_max), name=f"b{size}")(x)
        x = Dense(features=self.features, activate=True, name="hidden")(x.reshape(len(x), -1))
        x = Dense(features=16, name="output")(x)
        return CORNERS + x[:, :8].reshape(-1, 4, 2), x[:, 8:]


def quadrangle_of(corners: np.ndarray | jax.Array, turn: np.ndarray | jax.Array):
    """Puts corners into the order of the image, the upper left one first: what the network is asked for.

    Args:
      corners: [..., 4, 2], places of the picture's corners.
      turn: int [...], index into TURNS.

    Returns:
      [..., 4, 2].
    """
    xp = corners.__array_namespace__()
    return xp.take_along_axis(corners, xp.argsort(xp.asarray(ORDERS)[turn], axis=-1)[..., None], axis=-2)


def corners_of(quadrangle: np.ndarray | jax.Array, turn: np.ndarray | jax.Array):
    """Returns the places of the picture's own corners; undoes `quadrangle_of`. [..., 4, 2], int [...] -> [..., 4, 2]."""
    xp = quadrangle.__array_namespace__()
    return xp.take_along_axis(quadrangle, xp.asarray(ORDERS)[turn][..., None], axis=-2)


def project(homography: np.ndarray | jax.Array, points: np.ndarray | jax.Array):
    """Computes where points go: [..., 3, 3], [..., P, 2] -> [..., P, 2]."""
    xp = homography.__array_namespace__()
    ones = xp.ones_like(points[..., :1])
    moved = xp.matmul(xp.concatenate([points, ones], axis=-1), xp.swapaxes(homography, -1, -2))
    return moved[..., :2] / moved[..., 2:]


def homography_of(corners: np.ndarray | jax.Array):
    """Computes the homography that takes the corners of the square to four points (Heckbert 1989, section 2.2.3).

    Args:
      corners: [..., 4, 2], no three on a line.

    Returns:
      [..., 3, 3] with a 1 in the last corner, for the unit square rescaled to [-1, 1].
    """
    xp = corners.__array_namespace__()
    first, second, third, fourth = (corners[..., i, :] for i in range(4))
    right, down, bend = second - third, fourth - third, first - second + third - fourth  # [..., 2]
    area = _cross(right, down)
    g, h = _cross(bend, down) / area, _cross(right, bend) / area  # [...]
    x_axis, y_axis = second - first + g[..., None] * second, fourth - first + h[..., None] * fourth
    upper = xp.stack([x_axis, y_axis, first], axis=-1)  # [..., 2, 3]
    lower = xp.stack([g, h, xp.ones_like(g)], axis=-1)[..., None, :]
    unit = xp.asarray([[0.5, 0, 0.5], [0, 0.5, 0.5], [0, 0, 1]], dtype=corners.dtype)  # from [-1, 1] to [0, 1]
    matrix = xp.matmul(xp.concatenate([upper, lower], axis=-2), unit)
    return matrix / matrix[..., 2:, 2:]


def is_sound(quadrangle: np.ndarray | jax.Array, least: float = 0.02):
    """Tells which quadrangles are convex, not mirrored and not flat, so that a camera may have seen them.

    Args:
      quadrangle: [..., 4, 2], in the order of the image.
      least: the smallest area of the triangle at any corner.

    Returns:
      bool [...].
    """
    xp = quadrangle.__array_namespace__()
    sides = xp.roll(quadrangle, -1, axis=-2) - quadrangle
    return (_cross(sides, xp.roll(sides, -1, axis=-2)) > 2 * least).all(axis=-1)


def _cross(a, b):
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def look_up(images: jax.Array, homographies: jax.Array, size: int) -> jax.Array:
    """Looks up each picture at its place in an image, bicubically (Keys 1981, a = -1/2); the image's border is repeated.

    Args:
      images: float [N, S, S, C].
      homographies: [N, 3, 3], a point of the picture -> its place in the image.
      size: R, height and width of the pictures.

    Returns:
      [N, R, R, C].
    """
    return jax.vmap(lambda image, homography: _looked_up(image, homography, size))(images, homographies)


def _looked_up(image: jax.Array, homography: jax.Array, size: int) -> jax.Array:
    side = image.shape[0]
    column, row = (jnp.clip((v + 1) * (side / 2) - 0.5, -1.0, side) for v in places_of(homography, size))
    return sample(image, column, row, bicubic)


def locate(aligner: Aligner, params: dict, images: jax.Array, looks: int = LOOKS) -> jax.Array:
    """Finds the picture in each image: looks, undoes what was seen, looks again at what is left.

    Args:
      aligner: the network.
      params: of it.
      images: float [N, S, S, C] in [-1, 1], S a multiple of the aligner's size.
      looks: how often.

    Returns:
      Homographies float32 [N, 3, 3], a point of the picture -> its place in the image. A look that names no quadrangle that
      a camera may have seen counts for nothing.
    """
    size = aligner.size
    images = reduced(images, size)
    placed = jnp.broadcast_to(jnp.eye(3), (len(images), 3, 3))
    for look in range(looks):
        seen = images if look == 0 else look_up(images, placed, size)
        quadrangles, turns = aligner.apply({"params": params}, seen)
        found = homography_of(corners_of(quadrangles, jnp.argmax(turns, axis=-1)))
        placed = jnp.where(is_sound(quadrangles)[:, None, None], jnp.matmul(placed, found, precision="highest"), placed)
    return placed / placed[:, 2:, 2:]


def reduced(images: jax.Array, size: int) -> jax.Array:
    """Averages blocks of pixels: [N, R, R, C], R a multiple of size -> [N, size, size, C]."""
    n, side, _, channels = images.shape
    block = side // size
    return jnp.mean(images.reshape(n, size, block, size, block, channels), axis=(2, 4))
