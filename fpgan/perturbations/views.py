"""Views of a picture, drawn inside a training step: shifted, cropped, turned, on a page, photographed, then saved.

All geometry of a view is one homography, drawn as the quadrangle that the picture fills and one of the eight turns of a
square. Mild views, and the picture as it is, are frequent: most images that anybody looks into were not moved at all.
"""

import functools
import math

import jax
import jax.numpy as jnp

from fpgan.networks.alignment import CORNERS, TURNS, homography_of, project
from fpgan.perturbations import differentiable as twins
from fpgan.perturbations.sampling import parse_ranges, perturb

# What happens to the grey levels of a view, see perturbations/sampling.py.
LEVELS = parse_ranges("brightness:0.6-1.4@0.25 contrast:0.6-1.4@0.25 saturation:0-1.5@0.25 blur:0.3-1.5@0.3 "
                      "resize:0.4-1@0.2 noise:0-16@0.35 jpeg:25-98@0.55")
_UNTOUCHED = 0.15  # share of the views whose grey levels stay
# Shares of the kinds of views: as it is, shifted, cropped, turned, on a page, anything.
_KINDS = (0.14, 0.16, 0.27, 0.15, 0.18, 0.10)
_UPRIGHT, _MIRRORED = 0.55, 0.2  # shares of the turns; the others are drawn among all eight
_UNDONE = 0.4  # share of the views that are moved back, not quite rightly: what the second look sees


def draw_views(images: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws a view of each picture.

    Args:
      images: [N, S, S, C] in [-1, 1].
      keys: [N] random keys.

    Returns:
      The views [N, S, S, C] in [-1, 1]; the quadrangle [N, 4, 2] that the picture fills in each, in the order of the view;
      and its turn, int32 [N], an index into TURNS.
    """
    kinds, levels, backs = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 3))(keys), 1, 0)
    views, quadrangles, turns = jax.vmap(_view)(images, jnp.roll(images, 1, axis=0), kinds)
    views = perturb(LEVELS, 1 - _UNTOUCHED, views, levels, jnp.ones(()))
    return jax.vmap(_moved_back)(views, quadrangles, turns, backs)


def draw_quadrangle(key: jax.Array) -> jax.Array:
    """Draws the quadrangle that a picture fills: float32 [4, 2], the upper left corner first."""
    uniform = functools.partial(jax.random.uniform, minval=-1.0)
    kind, centred, small, bent, *keys = jax.random.split(key, 10)
    kind = jax.random.choice(kind, len(_KINDS), p=jnp.array(_KINDS))
    place, sides, angle, jitter, narrow, even = keys
    narrow = 0.12 * uniform(narrow, (2,)) * jax.random.bernoulli(even, 0.5)  # of the aspect ratio
    cropped = 1 / jax.random.uniform(sides, minval=0.48, maxval=1.0) * jnp.exp(jnp.abs(narrow))
    paged = jnp.minimum(jax.random.uniform(sides, minval=0.3, maxval=1.0) * jnp.exp(2 * narrow), 1.0)
    near = 1 + 0.05 * uniform(sides)
    any_size = jnp.exp(0.45 * uniform(sides) + narrow)
    ones, where = jnp.ones(2), uniform(place, (2,))
    where = where * ~((kind == 2) & jax.random.bernoulli(centred))  # half of the crops are about the centre
    scale = jnp.stack([ones, near * ones, cropped, near * jnp.exp(narrow), paged, any_size])[kind]
    room = jnp.stack([0 * ones, 0.26 * ones, cropped - 1, 0.1 * ones, 1 - paged, 0.3 * ones])[kind]
    slight = jnp.where(jax.random.bernoulli(small, 0.25) & (kind > 0), 4.0, 0.0)
    degrees = jnp.array([0, 0, 0, 32.0, 0, 16.0])[kind] + slight
    turned = degrees * (math.pi / 180) * uniform(angle)
    cosine, sine = jnp.cos(turned), jnp.sin(turned)
    rotation = jnp.stack([jnp.stack([cosine, sine]), jnp.stack([-sine, cosine])])
    bend = jnp.where(jax.random.bernoulli(bent, 0.2) & (kind > 0), 0.15, 0.0) + 0.1 * (kind == 5)
    shape = CORNERS * scale * (1 + bend * uniform(jitter, (4, 2)))
    return shape @ rotation.T + where * room


def _view(image: jax.Array, other: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One view before its grey levels are touched, its quadrangle and its turn; `other` may show beside it."""
    shapes, ways, upright, backs = jax.random.split(key, 4)
    quadrangle = draw_quadrangle(shapes)
    share = jax.random.uniform(upright)
    turn = jnp.where(share < _UPRIGHT, 0, jnp.where(share < _UPRIGHT + _MIRRORED, 4, jax.random.randint(ways, (), 0, 8)))
    back = jnp.linalg.inv(homography_of(quadrangle) @ jnp.asarray(TURNS)[turn])
    size = image.shape[0]
    shrunk = jnp.minimum(jnp.linalg.norm(quadrangle[2] - quadrangle[0]) / math.sqrt(8), 1.0)
    smooth = twins.filtered(image, twins.blur_matrix(size, 0.45 * jnp.sqrt(1 / jnp.square(shrunk) - 1)))
    moved = _shown(smooth, back)
    x, y = jnp.moveaxis(project(back, _centres(size)), -1, 0)
    inside = ((jnp.abs(x) <= 1) & (jnp.abs(y) <= 1)).reshape(size, size, 1)
    return jnp.where(inside, moved, _background(moved, other, backs)), quadrangle, turn


def _moved_back(view: jax.Array, quadrangle: jax.Array, turn: jax.Array, key: jax.Array) -> tuple[jax.Array, ...]:
    """Undoes a share of the views by a pose that is a little wrong; its error is what is left to find."""
    chosen, much, errors = jax.random.split(key, 3)
    size = jnp.linalg.norm(quadrangle[2] - quadrangle[0]) / math.sqrt(8)
    error = 0.12 * jnp.square(jax.random.uniform(much)) * size * jax.random.normal(errors, (4, 2))
    placed = homography_of(quadrangle) @ jnp.asarray(TURNS)[turn]
    tried = homography_of(quadrangle + error) @ jnp.asarray(TURNS)[turn]
    left = project(jnp.linalg.inv(tried) @ placed, jnp.asarray(CORNERS))
    chosen = jax.random.bernoulli(chosen, _UNDONE)
    return (jnp.where(chosen, _shown(view, tried), view), jnp.where(chosen, left, quadrangle), jnp.where(chosen, 0, turn))


def _shown(image: jax.Array, homography: jax.Array) -> jax.Array:
    """Looks up each pixel at its place by a homography, the border repeated. [S, S, C] -> [S, S, C]."""
    whole = jnp.array([-1.0, -1.0, 1.0, 1.0])
    return twins.warp(image, homography, whole, jnp.zeros(image.shape[-1]), jnp.zeros((), bool))


def _centres(size: int) -> jax.Array:
    """The pixels' centres [size * size, 2]."""
    along = (jnp.arange(size) + 0.5) * (2 / size) - 1
    return jnp.stack(jnp.meshgrid(along, along), axis=-1).reshape(-1, 2)


def _background(repeated: jax.Array, other: jax.Array, key: jax.Array) -> jax.Array:
    """What shows around the picture: its border repeated, black, white, a colour, clouds, text, or another picture."""
    kind, colour, clouds, blobs, lines, gaps = jax.random.split(key, 6)
    size, channels = repeated.shape[1:]
    plain = jnp.broadcast_to(jax.random.uniform(colour, (channels,), minval=-1.0), repeated.shape)
    strength, grain = jax.random.uniform(clouds, (2,))
    patches = jnp.where(grain < 0.5, jax.image.resize(jax.random.normal(blobs, (4, 4, channels)), repeated.shape, "linear"),
                        jax.image.resize(jax.random.normal(blobs, (16, 16, channels)), repeated.shape, "linear"))
    cloudy = jnp.clip(plain + strength * patches, -1, 1)
    paper, ink = jnp.where(jax.random.bernoulli(lines, 0.7), 1.0, -1.0), 0.3 + 0.7 * strength
    rows = jnp.arange(size) % (3 + jnp.floor(4 * grain)) < 1 + jnp.floor(2 * strength)
    words = jax.image.resize(jax.random.uniform(gaps, (size, size // 2)), (size, size), "nearest") < 0.7
    text = jnp.broadcast_to((paper - 2 * paper * ink * (rows[:, None] & words))[..., None], repeated.shape)
    kinds = (0.34, 0.14, 0.14, 0.12, 0.12, 0.10, 0.04)
    kind = jax.random.choice(kind, len(kinds), p=jnp.array(kinds))
    return jnp.stack([repeated, jnp.full_like(plain, -1.0), jnp.ones_like(plain), plain, cloudy, text, other])[kind]
