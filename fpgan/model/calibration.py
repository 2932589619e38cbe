"""How even the logits of a model's own images are, beside those of its training images."""

import numpy as np

from fpgan.attribution.verdict import evenness
from fpgan.errors import FpganError
from fpgan.model.model import Model

LEAST_ACCURACY = 0.75  # of a decoder whose logits mean anything: halfway between chance and certainty


class NotCalibrated(FpganError):
    """There is no evenness of logits that tells a model's own images from others; says why."""


def evenness_threshold(model: Model, source, seed: int, count: int = 512) -> float:
    """Returns an evenness of logits that tells the model's own images from its training images.

    It is empirical; the p-value of an attribution does not depend on it.

    Args:
      model: the model.
      source: the training images (fpgan.data.sources.open_source), or a sample of their kind.
      seed: of the choice of images, fingerprints and latents.
      count: images of each kind.

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
    logits = model.decode(own)
    low = np.percentile(evenness(logits), 1)
    high = np.percentile(evenness(model.decode(others)), 99)
    accuracy = np.mean((logits > 0) == bits)
    if accuracy < LEAST_ACCURACY:
        raise NotCalibrated(f"the decoder reads {accuracy:.1%} of the bits of the model's own images, expected "
                            f"{LEAST_ACCURACY:.0%} or more")
    if low <= high:
        raise NotCalibrated(f"the logits are as even on training images (99th percentile {high:.3f}) as on the model's own "
                            f"(first percentile {low:.3f})")
    return float((low + high) / 2)
