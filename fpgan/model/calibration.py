"""How even the logits of a model's own images are, beside those of its training images, for each search for the picture.

The most even of several poses is more even by chance; so each search has a threshold of its own.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fpgan.attribution.verdict import evenness
from fpgan.errors import FpganError
from fpgan.model.model import Model
from fpgan.model.reading import SEARCHES

if TYPE_CHECKING:
    class _Images(Protocol):
        """Numbered images, as an ImageSource: uint8 [R, R, 3] each."""

        def __len__(self) -> int: ...
        def __getitem__(self, index: int) -> np.ndarray: ...

_COUNTS = {"fast": 512, "full": 128}  # images of each kind: a full search takes a few hundred decodes for some
LEAST_ACCURACY = 0.75  # of a decoder whose logits mean anything: halfway between chance and certainty


class NotCalibrated(FpganError):
    """There is no evenness of logits that tells a model's own images from others; says why."""


def search_thresholds(model: Model, source: _Images, seed: int) -> dict[str, float]:
    """Returns the evenness thresholds of all searches but "none", by name, without those for which there is none.

    Args:
      model, source, seed: see `evenness_threshold`.
    """
    found = {}
    for search in SEARCHES[1:]:
        with contextlib.suppress(NotCalibrated):
            found[search] = evenness_threshold(model, source, seed, _COUNTS[search], search)
    return found


def evenness_threshold(model: Model, source: _Images, seed: int, count: int = 512, search: str = "none") -> float:
    """Returns an evenness of logits that tells the model's own images from its training images.

    It is empirical; the p-value of an attribution does not depend on it.

    Args:
      model: the model.
      source: the training images (fpgan.data.sources.open_source), or a sample of their kind.
      seed: of the choice of images, fingerprints and latents.
      count: images of each kind.
      search: where the picture is looked for in each image, see `fpgan.model.reading`.

    Returns:
      The midpoint between the 99th percentile over training images and the first percentile over generated images.

    Raises:
      NotCalibrated: the decoder reads its own images too poorly for any such claim (as in a model trained without
        fingerprints), or the percentiles are the other way round.
    """
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (count, model.n_bits), np.uint8)
    own = model.generate(bits, rng.integers(0, 2**32, count, np.uint32))
    others = np.stack([source[int(i)] for i in rng.integers(0, len(source), count)])
    logits, other_logits = (model.decode(images) if search == "none" else model.read(images, search).logits
                            for images in (own, others))
    low = np.percentile(evenness(logits), 1)
    high = np.percentile(evenness(other_logits), 99)
    accuracy = np.mean((logits > 0) == bits)
    if accuracy < LEAST_ACCURACY:
        raise NotCalibrated(f"the decoder reads {accuracy:.1%} of the bits of the model's own images, expected "
                            f"{LEAST_ACCURACY:.0%} or more")
    if low <= high:
        raise NotCalibrated(f"the logits are as even on training images (99th percentile {high:.3f}) as on the model's own "
                            f"(first percentile {low:.3f})")
    return float((low + high) / 2)
