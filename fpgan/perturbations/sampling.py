"""Perturbations drawn per sample inside a training step: from ranges of strength, in the order of a picture's life.

A list of ranges is one string, such as "shift:1.5@0.5 jpeg:30-98@0.55": half of the images move by up to 1.5 pixels, and
then 55% are saved as JPEG of a quality from 30 to 98. Drawing from ranges rather than from a few strengths is what makes a
decoder survive the strengths between (StegaStamp, Tancik et al. 2020).
"""

import dataclasses
import difflib
import functools
import re

import jax
import jax.numpy as jnp

from fpgan.errors import FpganError
from fpgan.networks.levels import quantize
from fpgan.perturbations import differentiable as twins

# name: (least and most strength, the strength at which it does nothing, what the strength is)
OPERATIONS = {
    "shift": (0.0, 64.0, 0.0, "pixels, the most in either direction of each axis"),
    "scale": (0.0, 0.9, 0.0, "share of the size by which the picture grows or shrinks at most"),
    "rotate": (0.0, 180.0, 0.0, "degrees at most, either way"),
    "window": (0.1, 1.0, 1.0, "side of the part that is left in place, its surroundings repeated or painted"),
    "erase": (0.0, 0.9, 0.0, "share of the area under a painted box"),
    "brightness": (0.0, 4.0, 1.0, "factor"),
    "contrast": (0.0, 4.0, 1.0, "factor"),
    "saturation": (0.0, 4.0, 1.0, "factor; 0 is grey"),
    "blur": (0.0, 16.0, 0.0, "standard deviation of the Gaussian in pixels"),
    "resize": (0.1, 2.0, 1.0, "side of the smaller (or larger) picture, then back"),
    "noise": (0.0, 128.0, 0.0, "standard deviation in grey levels"),
    "jpeg": (1.0, 100.0, 100.0, "quality; at full level half of them with chroma at half resolution"),
}
_PATTERN = re.compile(r"(?P<name>\w+):(?P<low>[\d.]+)(-(?P<high>[\d.]+))?@(?P<probability>[\d.]+)")


@dataclasses.dataclass(frozen=True)
class Range:
    """One operation of a list.

    Attributes:
      name: a key of OPERATIONS.
      low, high: the strength is uniform between them.
      probability: share of the samples that it is done to.
    """

    name: str
    low: float
    high: float
    probability: float


def parse_ranges(text: str) -> tuple[Range, ...]:
    """Reads a list such as "shift:1.5@0.5 jpeg:30-98@0.55".

    Args:
      text: "NAME:LOW-HIGH@PROBABILITY" or "NAME:STRENGTH@PROBABILITY", separated by spaces; empty for none.

    Returns:
      The ranges, as given; each name once.

    Raises:
      FpganError: an unknown name (the nearest is named), a strength out of range, a bad probability, a name given twice.
    """
    ranges = []
    for item in text.split():
        match = _PATTERN.fullmatch(item)
        if not match:
            raise FpganError(f"perturbation {item!r}; expected NAME:LOW-HIGH@PROBABILITY, such as jpeg:50-95@0.5")
        name = match["name"]
        if name not in OPERATIONS:
            near = difflib.get_close_matches(name, OPERATIONS, n=1, cutoff=0)[0]
            raise FpganError(f"unknown perturbation {name!r}; the nearest known one is {near!r}")
        try:
            low, high, probability = (float(match[k] or match["low"]) for k in ("low", "high", "probability"))
        except ValueError:
            raise FpganError(f"perturbation {item!r} has a malformed number; expected one such as jpeg:50-95@0.5") from None
        least, most, _, meaning = OPERATIONS[name]
        if not least <= low <= high <= most:
            raise FpganError(f"perturbation {item!r}: the strength of {name} is {meaning}; expected LOW-HIGH within "
                             f"{least:g}-{most:g}")
        if not 0 < probability <= 1:
            raise FpganError(f"perturbation {item!r}: the probability is {probability:g}; expected above 0, and 1 at most")
        if any(name == r.name for r in ranges):
            raise FpganError(f"perturbation {name!r} is given twice; expected each name once")
        ranges.append(Range(name, low, high, probability))
    return tuple(ranges)


def perturb(ranges: tuple[Range, ...], share: float, images: jax.Array, keys: jax.Array, level: jax.Array) -> jax.Array:
    """Perturbs each image of a batch in its own way, by differentiable operations.

    The operations follow each other as they would in a picture's life, whatever their order in the list: geometry, what is
    painted over, colours, resolution, noise, compression.

    Args:
      ranges: what may happen, from parse_ranges.
      share: probability in [0, 1] that an image is touched at all.
      images: [N, R, R, C] in [-1, 1].
      keys: [N] random keys, one an image.
      level: scalar in [0, 1], factor on the distance of every strength from doing nothing.

    Returns:
      [N, R, R, C], 8-bit grey levels in [-1, 1].
    """
    return jax.vmap(functools.partial(_perturb_one, {r.name: r for r in ranges}, share, level))(images, keys)


def _perturb_one(ranges: dict[str, Range], share: float, level: jax.Array, image: jax.Array, key: jax.Array) -> jax.Array:
    """As perturb, for one image [R, R, C]."""
    key, touched = jax.random.split(key)
    touched = jax.random.bernoulli(touched, share)
    keys = {name: jax.random.fold_in(key, number) for number, name in enumerate(OPERATIONS)}
    strengths, done = {}, {}
    for name, r in ranges.items():
        drawn, happens = jax.random.split(jax.random.fold_in(keys[name], 0))
        done[name] = touched & jax.random.bernoulli(happens, r.probability)
        neutral = OPERATIONS[name][2]
        strength = jax.random.uniform(drawn, minval=r.low, maxval=r.high)
        strengths[name] = jnp.where(done[name], neutral + level * (strength - neutral), neutral)
    image = _moved(image, strengths, keys)
    if "erase" in ranges:
        image = _painted_over(image, strengths["erase"], keys["erase"])
    for name in ("brightness", "contrast", "saturation"):
        if name in ranges:
            image = getattr(twins, name)(image, strengths[name])
    if "blur" in ranges or "resize" in ranges:
        size = image.shape[0]
        matrix = twins.blur_matrix(size, strengths.get("blur", 0.0))
        matrix = twins.resize_matrix(size, strengths["resize"]) @ matrix if "resize" in ranges else matrix
        image = twins.filtered(image, matrix)
    if "noise" in ranges:
        image = twins.noise(image, strengths["noise"], jax.random.fold_in(keys["noise"], 1))
    if "jpeg" in ranges:
        halved = jax.random.bernoulli(jax.random.fold_in(keys["jpeg"], 1), 0.5 * level)
        image = jnp.where(done["jpeg"], twins.jpeg(image, strengths["jpeg"], halved), image)
    return quantize(image)


def _moved(image: jax.Array, strengths: dict[str, jax.Array], keys: dict[str, jax.Array]) -> jax.Array:
    """Shift, scale, turn and window of one image, as one warp."""
    if not strengths.keys() & {"shift", "scale", "rotate", "window"}:
        return image

    def signed(name: str, number: int) -> jax.Array:
        return strengths.get(name, 0.0) * jax.random.uniform(jax.random.fold_in(keys[name], number), minval=-1.0)

    pixels = 2 / image.shape[0]
    homography = twins.similarity(pixels * signed("shift", 1), pixels * signed("shift", 2), 1 + signed("scale", 1),
                                  signed("rotate", 1))
    side = strengths.get("window", 1.0)
    places, fills, colour = (jax.random.fold_in(keys["window"], number) for number in (1, 2, 3))
    start = 2 * (1 - side) * jax.random.uniform(places, (2,)) - 1  # left, top
    window = jnp.concatenate([start, start + 2 * side])
    return twins.warp(image, homography, window, _colour(colour, image.shape[-1]), jax.random.bernoulli(fills))


def _painted_over(image: jax.Array, area: jax.Array, key: jax.Array) -> jax.Array:
    """Paints a box of a share of the area, of an aspect from 1/4 to 4, at a random place, in a random colour."""
    aspects, places, colour = (jax.random.fold_in(key, number) for number in (1, 2, 3))
    aspect = 4 ** jax.random.uniform(aspects, minval=-1.0)
    width, height = jnp.minimum(jnp.sqrt(area * aspect), 1.0), jnp.minimum(jnp.sqrt(area / aspect), 1.0)
    left, top = jax.random.uniform(places, (2,)) * (1 - jnp.stack([width, height]))
    return twins.erase(image, jnp.stack([left, top, left + width, top + height]), _colour(colour, image.shape[-1]))


def _colour(key: jax.Array, channels: int) -> jax.Array:
    """White, black or any colour, a third each: [C] in [-1, 1]."""
    kind, value = jax.random.split(key)
    kind = jax.random.randint(kind, (), 0, 3)
    colour = jax.random.uniform(value, (channels,), minval=-1.0)
    return jnp.where(kind == 0, 1.0, jnp.where(kind == 1, -1.0, colour))
