"""RoboHash cats: a training set that comes with a Python package, at any resolution and in any number.

The `robohash` package holds the parts of a cartoon cat (its "set4": art by David Revoy, CC-BY-4.0) as
transparent pictures of 1024 x 1024 pixels: 15 bodies, 10 furs, 15 pairs of eyes, 10 mouths and 16
accessories, laid over each other in this order. Here the parts are scaled once per resolution, and an image
is five `over` operations on small arrays: thousands per second.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import threading
from pathlib import Path

import numpy as np
from PIL import Image

from fpgan.data.shuffle import shuffled_index
from fpgan.errors import FpganError, missing_extra

LICENCE = "CC-BY-4.0 (RoboHash cats, set4: art by David Revoy; composed from the parts in the package)"
LAYERS = (15, 10, 15, 10, 16)  # bodies, furs, eyes, mouths, accessories: how many of each, bottom first
COMBINATIONS = math.prod(LAYERS)  # 360,000
MIN_RESOLUTION, MAX_RESOLUTION = 8, 1024
_ORDER_KEY = 0x0CA7  # fixed for ever: image i is the same in every version
_SCALING = threading.Lock()  # so that two threads that need the parts at once scale them once
ROBOHASH_SETS = {  # name -> folder in the package robohash, its licence, the order of its combinations
    "robohash_monsters": ("set2", "CC-BY-3.0 (RoboHash set2: art by Hrvoje Novakovic)", 0x0207),
    "robohash_heads": ("set3", "CC-BY-3.0 (RoboHash set3: art by Julian Peter Arias)", 0x0307),
}


@functools.cache
def part_files():
    """Lists the part pictures: a tuple of layers, bottom first, each a tuple of paths in the package's order.

    Raises:
      FpganError: if the package robohash is missing or holds other parts than fpgan knows.
    """
    spec = importlib.util.find_spec("robohash")
    if spec is None:
        raise missing_extra("robohash", "demo")
    folder = Path(spec.submodule_search_locations[0]) / "sets" / "set4"
    # "001#01fur/003#fur3.png": the numbers before # order the files, the ones after # order the layers
    layers = sorted((d for d in folder.glob("*#*") if d.is_dir()), key=lambda d: d.name.split("#")[1])
    files = tuple(tuple(sorted(layer.glob("*.png"))) for layer in layers)
    found = tuple(len(layer) for layer in files)
    if found != LAYERS:
        raise FpganError(f"the cat parts in {folder} are not those of robohash 2.0 (found {found} files,"
                         f" expected {LAYERS}); mend it with: pip install --force-reinstall robohash==2.0")
    return files


def scale_part(path, resolution):
    """Scales one transparent picture, antialiased, its colours weighted by their alpha.

    The filter (Hamming) has no negative lobes: colours stay within [0, alpha], and parts scaled first and
    composed later look as if composed first and scaled later, to 0.1 of 255 grey levels on average (at 64 x
    64; with a Lanczos filter it is 1.5).

    Args:
      path: a picture file with transparency.
      resolution: side length of the result in pixels.

    Returns:
      float32 [4, R, R], premultiplied: red, green, blue in [0, alpha], alpha in [0, 1] (to float32 rounding).
    """
    with Image.open(path) as picture:
        rgba = np.asarray(picture.convert("RGBA"), np.float32) / 255  # [H, W, 4]
    planes = [rgba[..., c] * rgba[..., 3] for c in range(3)] + [rgba[..., 3]]
    size = (resolution, resolution)
    return np.stack([np.asarray(Image.fromarray(p).resize(size, Image.Resampling.HAMMING)) for p in planes])


def check(resolution):
    """Refuses what `render_cats` cannot do, without doing any work.

    Raises:
      FpganError: if the resolution is not in [8, 1024], or the package robohash is missing.
    """
    if not MIN_RESOLUTION <= resolution <= MAX_RESOLUTION:
        raise FpganError(f"cannot render cats at resolution {resolution}; expected 8 to 1024 pixels")
    part_files()


def scaled_parts(resolution):
    """Scales all 66 parts (2 to 3 s, then remembered): one float32 [parts, 4, R, R] per layer, bottom first.

    Raises:
      FpganError: as `check`.
    """
    check(resolution)
    with _SCALING:
        return _scaled_parts(resolution)


@functools.lru_cache(maxsize=2)
def _scaled_parts(resolution):
    return tuple(np.stack([scale_part(path, resolution) for path in layer]) for layer in part_files())


def cat_parts(indices):
    """Says which parts make up the cats of these numbers.

    The numbers 0 to 359,999 give every combination once, in a fixed shuffled order; so do the next 360,000,
    in another order, and so on.

    Args:
      indices: int array [N], >= 0.

    Returns:
      int64 [N, 5]: body, fur, eyes, mouth, accessory.
    """
    rest = shuffled_index(_ORDER_KEY, np.asarray(indices), COMBINATIONS).astype(np.int64)
    return np.stack(np.unravel_index(rest, LAYERS), axis=-1)


def compose(parts, resolution):
    """Composes cats of their parts.

    Args:
      parts: int array [N, 5], as `cat_parts` gives.
      resolution: side length in pixels, 8 to 1024.

    Returns:
      uint8 [N, R, R, 3].
    """
    return lay_over(scaled_parts(resolution), parts)


def lay_over(layers, parts):
    """Lays parts over each other on white.

    Args:
      layers: for each layer, bottom first, its scaled parts, float32 [K, 4, R, R] as `scale_part` gives.
      parts: int array [N, layers], which part of each layer.

    Returns:
      uint8 [N, R, R, 3].
    """
    resolution = layers[0].shape[-1]
    images = np.empty((len(parts), resolution, resolution, 3), np.uint8)
    canvas = np.empty((3, resolution, resolution), np.float32)
    for image, chosen in zip(images, parts, strict=True):
        canvas.fill(1)
        for layer, part in zip(layers, chosen, strict=True):
            canvas *= 1 - layer[part, 3]
            canvas += layer[part, :3]
        np.multiply(canvas, 255, out=canvas)
        image[...] = np.rint(canvas, out=canvas).astype(np.uint8).transpose(1, 2, 0)  # [3, R, R] -> [R, R, 3]
    return images


def render_cats(indices, resolution):
    """Renders the cats of these numbers; number i gives the same image always and everywhere.

    Args:
      indices: int array [N], >= 0; the first 360,000 numbers are all different cats.
      resolution: side length in pixels, 8 to 1024.

    Returns:
      uint8 [N, R, R, 3], on white.

    Raises:
      FpganError: if the resolution is out of range, or the package robohash is missing.
    """
    return compose(cat_parts(np.atleast_1d(indices)), resolution)


class RobohashSet:
    """Monsters or robot heads, composed on white of the parts in the package robohash; never trained on here.

    Attributes:
      name: one of ROBOHASH_SETS.
      licence: of the art.
      resolution: side R in pixels, as for cats.
    """

    def __init__(self, name: str, resolution: int):
        check(resolution)
        self.name, self.resolution = name, resolution
        folder, self.licence, self._order = ROBOHASH_SETS[name]
        self._files = _layers(folder)

    def __len__(self) -> int:
        return math.prod(len(layer) for layer in self._files)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Composes images: int [N], each in [0, len) -> uint8 [N, R, R, 3]; all are different combinations."""
        numbers = shuffled_index(self._order, np.asarray(indices), len(self)).astype(np.int64)
        parts = np.stack(np.unravel_index(numbers, [len(layer) for layer in self._files]), axis=-1)  # [N, layers]
        return lay_over(_scaled(self._files, self.resolution), parts)


@functools.lru_cache(maxsize=2)
def _scaled(files: tuple[tuple[Path, ...], ...], resolution: int) -> list[np.ndarray]:
    """The parts of each layer, bottom first: float32 [K, 4, R, R]."""
    return [np.stack([scale_part(path, resolution) for path in layer]) for layer in files]


def _layers(folder: str) -> tuple[tuple[Path, ...], ...]:
    """The part files of a RoboHash set, bottom layer first; "003#02BodyColors" is the layer 02BodyColors."""
    spec = importlib.util.find_spec("robohash")
    if spec is None:
        raise missing_extra("robohash", "demo")
    place = Path(spec.submodule_search_locations[0]) / "sets" / folder
    layers = sorted((d for d in place.glob("*#*") if d.is_dir()), key=lambda d: d.name.split("#")[1])
    files = tuple(tuple(sorted(layer.glob("*.png"))) for layer in layers)
    if not files or not all(files):
        raise FpganError(f"the parts in {place} are not those of robohash 2.0; mend it with: "
                         "pip install --force-reinstall robohash==2.0")
    return files
