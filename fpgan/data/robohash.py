"""RoboHash art: layered cartoons that come with a Python package, at any resolution and in any number.

The `robohash` package holds the parts of cartoon cats (its "set4": art by David Revoy, CC-BY-4.0), monsters and robot heads
as transparent pictures of up to 1024 x 1024 pixels. A cat is one of 15 bodies, 10 furs, 15 pairs of eyes, 10 mouths and 16
accessories, laid over each other in this order. Here the parts are scaled once per resolution, and an image is five `over`
operations on small arrays: thousands per second. One renderer makes all three sets.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fpgan.data.shuffle import shuffled_index
from fpgan.errors import FpganError, missing_extra

LICENCE = "CC-BY-4.0 (RoboHash cats, set4: art by David Revoy; composed from the parts in the package)"
LAYERS = (15, 10, 15, 10, 16)  # bodies, furs, eyes, mouths, accessories: how many of each, bottom first
COMBINATIONS = math.prod(LAYERS)  # 360,000
MIN_RESOLUTION, MAX_RESOLUTION = 8, 1024
_SCALING = threading.Lock()  # so that two threads that need the parts at once scale them once


@dataclass(frozen=True)
class LayeredSet:
    """A set of images that are composed of layers: of each layer one part.

    Attributes:
      folder: of the parts, in the package robohash.
      licence: of the art.
      key: of the order of the combinations; fixed for ever: image i is the same in every version.
      sizes: how many parts each layer has, bottom first; () for whatever the package holds.
    """

    folder: str
    licence: str
    key: int
    sizes: tuple[int, ...] = ()

    def files(self) -> tuple[tuple[Path, ...], ...]:
        """Lists the part pictures: a tuple of layers, bottom first, each a tuple of paths in the package's order.

        Raises:
          FpganError: if the package robohash is missing or holds other parts than fpgan knows.
        """
        return part_files(self)

    def __len__(self) -> int:
        """The number of combinations."""
        return math.prod(self.sizes or map(len, self.files()))

    def parts(self, indices: np.ndarray | Sequence[int]) -> np.ndarray:
        """Says which parts make up the images of these numbers.

        The numbers below len give every combination once, in a fixed shuffled order; so do the next ones, in another order,
        and so on.

        Args:
          indices: int array [N], >= 0.

        Returns:
          int64 [N, layers].
        """
        numbers = shuffled_index(self.key, np.asarray(indices), len(self)).astype(np.int64)
        return np.stack(np.unravel_index(numbers, self.sizes or [len(layer) for layer in self.files()]), axis=-1)

    def scaled_parts(self, resolution: int) -> tuple[np.ndarray, ...]:
        """Scales all parts (2 to 3 s, then remembered): one float32 [parts, 4, R, R] per layer, bottom first.

        Raises:
          FpganError: as `check`.
        """
        self.check(resolution)
        with _SCALING:
            return _scaled_parts(self.files(), resolution)

    def check(self, resolution: int) -> None:
        """Refuses what `render` cannot do, without doing any work.

        Raises:
          FpganError: if the resolution is not in [8, 1024], or the package robohash is missing.
        """
        if not MIN_RESOLUTION <= resolution <= MAX_RESOLUTION:
            raise FpganError(f"cannot render RoboHash art at resolution {resolution}; expected 8 to 1024 pixels")
        self.files()

    def compose(self, parts: np.ndarray, resolution: int) -> np.ndarray:
        """Lays parts over each other on white: int [N, layers] -> uint8 [N, R, R, 3]."""
        return lay_over(self.scaled_parts(resolution), parts)

    def render(self, indices: np.ndarray | Sequence[int] | int, resolution: int) -> np.ndarray:
        """Renders the images of these numbers; number i gives the same image always and everywhere.

        Args:
          indices: int array [N], >= 0; numbers below len are all different combinations.
          resolution: side length in pixels, 8 to 1024.

        Returns:
          uint8 [N, R, R, 3], on white.

        Raises:
          FpganError: as `check`.
        """
        return self.compose(self.parts(np.atleast_1d(indices)), resolution)


CATS = LayeredSet("set4", LICENCE, 0x0CA7, LAYERS)
ROBOHASH_SETS = {
    "robohash_cats": CATS,
    "robohash_monsters": LayeredSet("set2", "CC-BY-3.0 (RoboHash set2: art by Hrvoje Novakovic)", 0x0207),
    "robohash_heads": LayeredSet("set3", "CC-BY-3.0 (RoboHash set3: art by Julian Peter Arias)", 0x0307),
}
render_cats = CATS.render


@functools.cache
def part_files(layered: LayeredSet) -> tuple[tuple[Path, ...], ...]:
    """Lists the part pictures of a set, see `LayeredSet.files`."""
    spec = importlib.util.find_spec("robohash")
    if spec is None:
        raise missing_extra("robohash", "demo")
    folder = Path(spec.submodule_search_locations[0]) / "sets" / layered.folder
    # "001#01fur/003#fur3.png": the numbers before # order the files, the ones after # order the layers
    layers = sorted((d for d in folder.glob("*#*") if d.is_dir()), key=lambda d: d.name.split("#")[1])
    files = tuple(tuple(sorted(layer.glob("*.png"))) for layer in layers)
    found = tuple(len(layer) for layer in files)
    if not all(found) or not found or layered.sizes not in ((), found):
        raise FpganError(f"the parts in {folder} are not those of robohash 2.0 (found {found} files); "
                         "mend it with: pip install --force-reinstall robohash==2.0")
    return files


def scale_part(path: Path, resolution: int) -> np.ndarray:
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


def lay_over(layers: Sequence[np.ndarray], parts: np.ndarray) -> np.ndarray:
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


@functools.lru_cache(maxsize=2)
def _scaled_parts(files: tuple[tuple[Path, ...], ...], resolution: int) -> tuple[np.ndarray, ...]:
    return tuple(np.stack([scale_part(path, resolution) for path in layer]) for layer in files)
