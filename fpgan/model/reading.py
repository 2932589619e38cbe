"""Reading images that may have been moved: where the picture lies is decided first, by the image alone, then it is read.

Searches, each of which includes the one before:

* none: the image is read as it is.
* fast: also where the model's aligner finds the picture; a model without one tries the eight turns of a square instead.
* full: where none of these is clearly right, also near the aligner's answer (`poses.around`), and at grids of shifts, crops,
  turns and pages (`poses.grids`).

Among the poses tried, the one whose logits are most even in size is taken (`fpgan.attribution.evenness`): logits of a
fingerprint that is in its place have two values, others a bell curve. No registry is asked. The bits of an innocent user are
therefore as independent of what was read as ever, and the p-value holds without a factor for the poses that were tried.
(Poses chosen by how well they fit a user would need one.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from fpgan.attribution.search import blocks
from fpgan.attribution.verdict import evenness
from fpgan.errors import FpganError
from fpgan.model import poses

if TYPE_CHECKING:
    class _Model(Protocol):
        """What is asked of a `fpgan.Model`, which is built on this file; an `aligner` it may have or not."""

        @property
        def info(self) -> dict: ...
        @property
        def n_bits(self) -> int: ...
        @property
        def resolution(self) -> int: ...
        def decode(self, images: np.ndarray, *, poses: np.ndarray | None = None, batch_size: int = 64,
                   exact: bool = False) -> np.ndarray: ...
        def locate(self, images: np.ndarray, *, batch_size: int = 64, exact: bool = False) -> np.ndarray: ...

SEARCHED = {  # the searches, in words
    "none": "each image as it is",
    "fast": "each image as it is, and where the aligner finds the picture in it",
    "full": "each image as it is, where the aligner finds the picture in it, near there, and at grids of shifts, crops, "
            "turns and pages",
}
SEARCHES = tuple(SEARCHED)
_INSTEAD = "in the turns of a square (the model has no aligner)"
TOLERANCE = 0.5  # pixels: an image whose picture lies so near its place is read as it is
_SURE = 4  # standard deviations above a bell curve's evenness: no need to look further
_SMALL = 0.75  # side of the picture / side of the image, below which a finer image is looked into
_AT_ONCE = 2048  # images at poses in memory
_BELL = math.sqrt(2 / math.pi)  # evenness of normal logits


@dataclass(frozen=True, eq=False)
class Alignment:
    """Where the pictures lie.

    Attributes:
      search: one of SEARCHES.
      poses: float32 [N, 3, 3], a point of the picture -> its place in the image, both from -1 to 1; the identity where the
        image was read as it is (of another size: its central square).
      resolution: of the images in pixels.
    """

    search: str
    poses: np.ndarray
    resolution: int

    @property
    def undone(self) -> list[str]:
        """What was undone in each image, in words, such as "flipped, cropped to 92%"; empty where nothing was."""
        return [poses.describe(pose, self.resolution) for pose in self.poses]


@dataclass(frozen=True, eq=False)
class Reading:
    """What was read from N images; `fpgan.attribution.attribute` and `pool` take it as it is.

    Attributes:
      logits: float32 [N, n_bits], each image's at its own alignment: positive for a 1, the larger the surer.
      alignment: where the pictures lie.
    """

    logits: np.ndarray
    alignment: Alignment

    def __len__(self) -> int:
        return len(self.logits)


def search_of(model: _Model, search: str | None) -> str:
    """Returns the search that is meant; None means "fast" for a model with an aligner, else "none".

    Raises:
      FpganError: it is none of SEARCHES.
    """
    if search is None:
        return "none" if getattr(model, "aligner", None) is None else "fast"
    if search not in SEARCHES:
        raise FpganError(f"there is no search {search!r}; expected one of {', '.join(SEARCHES)}")
    return search


def searched(model: _Model, search: str | None = None) -> str:
    """Says in words where a search looks for the picture, and why that costs no factor."""
    search = search_of(model, search)
    words = SEARCHED[search]
    if getattr(model, "aligner", None) is None:
        words = words.replace("where the aligner finds the picture in it", _INSTEAD).replace(", near there", "")
    return words if search == "none" else f"{words};\n  the image alone decides which, so that p needs no factor"


def poses_tried(model: _Model, search: str | None = None) -> int:
    """Counts the poses at which an image that is not clearly right is read, itself among them."""
    search, aligned = search_of(model, search), getattr(model, "aligner", None) is not None
    fast = 1 + (1 if aligned else len(poses.turns()))
    near = poses.around(np.eye(3)[None], model.resolution).shape[1] if aligned else 0
    return {"none": 1, "fast": fast, "full": fast + near + sum(map(len, poses.grids(model.resolution)))}[search]


def threshold_for(model: _Model, search: str | None = None) -> float | None:
    """Returns the evenness from which on an image counts as fingerprinted, as calibrated for a search; None if it is not.

    The most even of several poses is more even by chance, so that each search has a threshold of its own.
    """
    search = search_of(model, search)
    if search == "none":
        return model.info.get("evenness_threshold")
    return (model.info.get("search_thresholds") or {}).get(search)


def read(model: _Model, images: np.ndarray, search: str | None = None, batch_size: int = 64,
         wholes: Sequence[np.ndarray | None] | None = None, exact: bool = False) -> Reading:
    """Reads images, see `fpgan.Model.read`.

    Args:
      model: a Model, or anything with its `resolution`, `n_bits`, `aligner`, `decode` and `locate`.
      images: uint8 [N, R, R, channels], or floats in [-1, 1].
      search: one of SEARCHES, or None for the model's own (`search_of`).
      wholes: of images that had another size, all of each, as `fpgan.io.images.read_whole` gives it: what is looked up is
        looked up in these.
      batch_size: images, or poses of one, per call of the compiled program.
      exact: use programs of this very batch size throughout, however few images are left to be looked for: what is read from
        an image is then the same to the bit whatever others are read with it.
    """
    search, images, batches = search_of(model, search), _Images.of(images, wholes), _Batches(batch_size, exact)
    sure = _BELL + _SURE * _deviation(model.n_bits)
    logits = model.decode(images.fitted, **batches._asdict())
    best = _Best(logits, np.tile(np.eye(3, dtype=np.float32), (len(logits), 1, 1)), evenness(logits))
    if search != "none" and getattr(model, "aligner", None) is not None:
        located = model.locate(images.whole, **batches._asdict())  # [N, 3, 3]
        pixels = poses.distances(located) * model.resolution / 2
        moved = np.flatnonzero(images.was_fitted | (pixels > TOLERANCE))
        _improve(best, model, images, moved, located[moved, None], batches)
        if search == "full":
            unsure = np.flatnonzero(best.scores < sure)
            _improve(best, model, images, unsure, poses.around(located[unsure], model.resolution), batches)
    elif search != "none":
        for which, tried in ((images.was_fitted, np.eye(3)[None]), (np.full(len(logits), True), poses.turns())):
            _improve(best, model, images, np.flatnonzero(which), tried[None], batches)
    for grid in poses.grids(model.resolution) if search == "full" else ():
        unsure = np.flatnonzero(best.scores < sure)
        _improve(best, model, images, unsure, grid[None], batches)
    return Reading(best.logits, Alignment(search, best.poses, model.resolution))


def read_at(model: _Model, images: np.ndarray, places: np.ndarray, wholes: Sequence[np.ndarray | None] | None = None,
            batch_size: int = 64) -> np.ndarray:
    """Reads images where their pictures are known to lie: what `read` gives at these poses.

    Args:
      model, images, wholes, batch_size: see `read`.
      places: float [N, 3, 3], poses other than the identity (`Alignment.poses`).

    Returns:
      Logits float32 [N, n_bits].
    """
    images = _Images.of(images, wholes)
    return _read_at(model, images, np.arange(len(places)), np.asarray(places, np.float32), _Batches(batch_size, False))


class _Images(NamedTuple):
    """N images, as they are read without a search, and whole.

    Attributes:
      fitted: [N, R, R, C], what had another size cropped to its central square and resized.
      whole: [N, R, R, C], what had another size squeezed instead.
      fine: [N, 2 R, 2 R, C], the same at twice the resolution; only for images that had another size, empty if none had.
      was_fitted: bool [N], which had another size.
    """

    fitted: np.ndarray
    whole: np.ndarray
    fine: np.ndarray
    was_fitted: np.ndarray

    @classmethod
    def of(cls, images: np.ndarray, wholes: Sequence[np.ndarray | None] | None) -> _Images:
        """Puts them together."""
        images = np.asarray(images)
        was_fitted = np.array([whole is not None for whole in wholes or len(images) * [None]], bool)
        if not was_fitted.any():
            return cls(images, images, images[:0], was_fitted)
        n, height, width, channels = images.shape
        fine = np.zeros((n, 2 * height, 2 * width, channels), images.dtype)
        fine[was_fitted] = [whole for whole in wholes if whole is not None]
        blocks_of_four = fine[was_fitted].reshape(-1, height, 2, width, 2, channels)
        whole = images.copy()
        whole[was_fitted] = np.rint(blocks_of_four.mean(axis=(2, 4)))
        return cls(images, whole, fine, was_fitted)


class _Batches(NamedTuple):
    """How a model's programs are called, see `fpgan.Model.decode`."""

    batch_size: int
    exact: bool


class _Best(NamedTuple):
    """The best pose so far of N images: logits [N, n], poses [N, 3, 3], scores [N]; changed in place."""

    logits: np.ndarray
    poses: np.ndarray
    scores: np.ndarray


def _improve(best: _Best, model, images: _Images, which: np.ndarray, tried: np.ndarray, batches: _Batches) -> None:
    """Reads some images at further poses, and keeps the most even logits.

    The evenness of the best of K poses is by chance sqrt(2 ln K) standard deviations above that of one, which it has to make
    up for.

    Args:
      best: of all images so far.
      model, images: see `read`.
      which: int [M], places among the images.
      tried: [M or 1, K, 3, 3].
      batches: how the programs are called.
    """
    count = tried.shape[1]
    allowance = math.sqrt(2 * math.log(count)) * _deviation(model.n_bits)
    for part in blocks(len(which), max(1, max(_AT_ONCE, batches.batch_size) // count)):
        rows = which[part]
        here = np.broadcast_to(tried[part] if len(tried) > 1 else tried, (len(rows), count, 3, 3))
        logits = _read_at(model, images, np.repeat(rows, count), here.reshape(-1, 3, 3), batches)
        logits = logits.reshape(len(rows), count, -1)
        scores = evenness(logits) - allowance  # [M, K]
        for i, (row, k) in enumerate(zip(rows, scores.argmax(axis=1), strict=True)):
            if scores[i, k] > best.scores[row]:
                best.logits[row], best.poses[row], best.scores[row] = logits[i, k], here[i, k], scores[i, k]


def _read_at(model, images: _Images, rows: np.ndarray, tried: np.ndarray, batches: _Batches) -> np.ndarray:
    """Reads images, by their places [M], at a pose each [M, 3, 3]: logits [M, n]. Small pictures are seen in fine images."""
    logits = np.empty((len(rows), model.n_bits), np.float32)
    is_fine = images.was_fitted[rows] & (poses.sizes(tried) < _SMALL)
    for source, chosen in ((images.whole, ~is_fine), (images.fine, is_fine)):
        if chosen.any():
            logits[chosen] = model.decode(source[rows[chosen]], poses=tried[chosen], **batches._asdict())
    return logits


def _deviation(n_bits: int) -> float:
    """The standard deviation of the evenness of n normal logits: sqrt((1 - 3 / pi) / n), to first order in 1 / n."""
    return math.sqrt((1 - 3 / math.pi) / n_bits)
