"""Images by a short name: the real ones to compare with, and others to test for false attribution (RoboHash art, files)."""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import re
from pathlib import Path

import numpy as np

from fpgan.errors import FpganError, missing_extra
from fpgan.io.images import read_image
from fpgan.io.listing import list_images

ROBOHASH_SETS = {  # name -> folder in the package robohash, its licence, the order of its combinations
    "robohash_monsters": ("set2", "CC-BY-3.0 (RoboHash set2: art by Hrvoje Novakovic)", 0x0207),
    "robohash_heads": ("set3", "CC-BY-3.0 (RoboHash set3: art by Julian Peter Arias)", 0x0307),
}


def open_other(text: str, resolution: int, data_dir: str = "data"):
    """Opens a source of images by a short name.

    Args:
      text: "robohash_monsters", "robohash_heads", "robohash_cats", "tfds:NAME" (prepared), or a folder, pattern or file. All
        but existing paths may have a range, as in "robohash_cats[50000:]".
      resolution: side in pixels; files are cropped and resized to it.
      data_dir: where prepared images are kept.

    Raises:
      FpganError: there are no such images, or the range is empty.
    """
    match = None if os.path.exists(text) else re.fullmatch(r"(.+)\[(\d*):(\d*)\]", text)
    if match:
        return PartOf(open_other(match[1], resolution, data_dir), text, int(match[2] or 0), match[3] and int(match[3]))
    if os.path.exists(text):
        return FileImages(text, resolution)
    if text in ROBOHASH_SETS:
        return RobohashSet(text, resolution)
    if text == "robohash_cats" or text.startswith("tfds:"):
        from fpgan.data.sources import open_source

        return open_source(data_settings(text, resolution) | {"data_dir": data_dir})
    return FileImages(text, resolution)


def data_settings(text: str, resolution: int) -> dict:
    """Turns a short name into the data part of a config.

    Args:
      text: "robohash_cats" (rendered, nothing to prepare), "tfds:NAME" (a prepared TFDS dataset), or the path
        of a prepared folder or zip file of images.
      resolution: side in pixels.
    """
    if text == "robohash_cats":
        return {"name": text, "resolution": resolution}
    if text.startswith("tfds:"):
        return {"name": "tfds", "tfds_name": text.removeprefix("tfds:"), "resolution": resolution}
    if os.path.exists(text):
        return {"name": "folder", "path": text, "resolution": resolution}
    raise FpganError(f"there are no images {text!r}; expected robohash_cats, tfds:NAME, or the path of a "
                     "folder or zip file")


class FileImages:
    """Images of a folder, a pattern or a file as a source: read when asked for, cropped and resized.

    Attributes:
      name: what was given.
      licence: "", unknown.
      resolution: side R in pixels.
    """

    def __init__(self, path: str, resolution: int):
        self.name, self.licence, self.resolution = path, "", resolution
        self._files = list_images([path])

    def __len__(self) -> int:
        return len(self._files)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Reads images: int [N] -> uint8 [N, R, R, 3]."""
        return np.stack([read_image(self._files[i], self.resolution)[0] for i in indices])


class PartOf:
    """The images start, start + 1, ..., stop - 1 of another source, under a name of its own."""

    def __init__(self, source, name: str, start: int, stop: int | str):
        stop = min(stop or len(source), len(source))
        if start >= stop:
            raise FpganError(f"{name}: there are no such images; {source.name} has {len(source)}, counted from 0")
        self.name, self.licence, self.resolution = name, source.licence, source.resolution
        self._source, self._start, self._length = source, start, stop - start

    def __len__(self) -> int:
        return self._length

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Reads images: int [N], each in [0, stop - start) -> uint8 [N, R, R, 3]."""
        return self._source.read(np.asarray(indices) + self._start)


class RobohashSet:
    """Monsters or robot heads, composed on white of the parts in the package robohash; never trained on here.

    Attributes:
      name: one of ROBOHASH_SETS.
      licence: of the art.
      resolution: side R in pixels, as for cats.
    """

    def __init__(self, name: str, resolution: int):
        from fpgan.data import robohash

        robohash.check(resolution)
        self.name, self.resolution = name, resolution
        folder, self.licence, self._order = ROBOHASH_SETS[name]
        self._files = _layers(folder)

    def __len__(self) -> int:
        return math.prod(len(layer) for layer in self._files)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Composes images: int [N], each in [0, len) -> uint8 [N, R, R, 3]; all are different combinations."""
        from fpgan.data import robohash
        from fpgan.data.order import shuffled_index

        numbers = shuffled_index(self._order, np.asarray(indices), len(self)).astype(np.int64)
        parts = np.stack(np.unravel_index(numbers, [len(layer) for layer in self._files]), axis=-1)  # [N, layers]
        return robohash.lay_over(_scaled(self._files, self.resolution), parts)


@functools.lru_cache(maxsize=2)
def _scaled(files: tuple[tuple[Path, ...], ...], resolution: int) -> list[np.ndarray]:
    """The parts of each layer, bottom first: float32 [K, 4, R, R]."""
    from fpgan.data.robohash import scale_part

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
