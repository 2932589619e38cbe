"""How even the logits of a model's own images are, beside those of its training images, for each search for the picture.

The most even of several poses is more even by chance; so each search has a threshold of its own.
"""

import numpy as np

from fpgan.attribution.verdict import evenness
from fpgan.model.model import Model
from fpgan.model.reading import SEARCHES

_COUNTS = {"none": 512, "fast": 512, "full": 128}  # images of each kind: a full search takes a few hundred decodes for some
LEAST_ACCURACY = 0.75  # of a decoder whose logits mean anything: halfway between chance and certainty


def calibrated(model: Model, source, seed: int) -> dict:
    """Returns what config.json says of thresholds: "evenness_threshold", and "search_thresholds" of the further searches.

    Args:
      model, source, seed: see `evenness_threshold`.

    Returns:
      The fields, without those for which there is no threshold.
    """
    found = {search: evenness_threshold(model, source, seed, _COUNTS[search], search) for search in SEARCHES}
    found = {search: threshold for search, threshold in found.items() if threshold is not None}
    plain = {"evenness_threshold": found.pop("none")} if "none" in found else {}
    return plain | ({"search_thresholds": found} if found else {})


def evenness_threshold(model: Model, source, seed: int, count: int = 512, search: str = "none") -> float | None:
    """An evenness of logits that tells the model's own images from its training images.

    It is empirical; the p-value of an attribution does not depend on it.

    Args:
      model: the model.
      source: the training images (fpgan.data.sources.open_source), or a sample of their kind.
      seed: of the choice of images, fingerprints and latents.
      count: images of each kind.
      search: where the picture is looked for in each image, see `fpgan.model.reading`.

    Returns:
      The midpoint between the 99th percentile over training images and the first percentile over generated images. None
      where the decoder reads its own images too poorly for any such claim (as in a model trained without fingerprints), or
      the percentiles are the other way round.
    """
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (count, model.n_bits), np.uint8)
    own = model.generate(bits, rng.integers(0, 2**32, count, np.uint32))
    others = np.stack([source[int(i)] for i in rng.integers(0, len(source), count)])
    logits, other_logits = (model.decode(images) if search == "none" else model.read(images, search).logits
                            for images in (own, others))
    low = np.percentile(evenness(logits), 1)
    high = np.percentile(evenness(other_logits), 99)
    if np.mean((logits > 0) == bits) < LEAST_ACCURACY or low <= high:
        return None
    return float((low + high) / 2)
