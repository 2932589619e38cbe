"""Verdicts: whose instance made an image, with a false-positive rate that holds for every image.

What is claimed, and what is not:

* "attributed": the bits read from the image match a registered user's fingerprint so well that by chance it would
  happen with at most the stated probability. Registered fingerprints are uniform and independent of an image that
  their users' instances did not make, so the matches with one of them are Binomial(n, 1/2), and over N users the union
  bound N P(Bin(n, 1/2) >= m) holds, whatever the image and however biased the decoder. It does not hold for
  fingerprints that somebody chose instead of drawing them. The rate is per image; whoever tests many images should
  choose it accordingly. It is about chance: somebody who has an instance's images may imitate its fingerprint.
* "fingerprinted, but nobody registered" is an empirical judgement without a p-value: the logits are as even in size
  (`evenness`) as they are on the images of the decoder's own model, by a threshold that was calibrated when the model
  was exported. Images of another origin may give logits as even.
* "not ours" says that neither holds. An image whose fingerprint was destroyed looks the same.
* "nobody registered" stands in place of the last two when the model brings no calibrated threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fpgan.attribution.registry import Registry
from fpgan.attribution.statistics import log10_p_value, threshold
from fpgan.errors import FpganError
from fpgan.fingerprint import Fingerprint, as_bits

ATTRIBUTED = "attributed"
UNREGISTERED = "fingerprinted, but nobody registered"
NOT_OURS = "not ours"
NOBODY = "nobody registered"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known about one image.

    Attributes:
      kind: ATTRIBUTED, UNREGISTERED, NOT_OURS or NOBODY, as the head of this module explains them.
      user: the user to whom the image is attributed, else None.
      matches: bits shared with the nearest registered fingerprint.
      log10_p: log10 of the bound on the probability of so many matches by chance with any registered user, at
        most 0.
      fingerprint: the bits read from the image, in hexadecimal digits.
    """

    kind: str
    user: str | None
    matches: int
    log10_p: float
    fingerprint: str

    def __str__(self) -> str:
        return f"user {self.user}" if self.user is not None else self.kind


def attribute(outputs, registry: Registry, false_positive_rate: float = 1e-6,
              evenness_threshold: float | None = None) -> list[Verdict]:
    """Says for each image whose instance made it.

    Args:
      outputs: what the decoder read from M images: logits (floating point) or bits (bool or integer), [M,
        n_bits].
      registry: the users to compare with, at least one.
      false_positive_rate: the largest tolerated probability that an image which none of the users' instances
        made is attributed to one of them.
      evenness_threshold: evenness of the logits from which on an unattributed image counts as fingerprinted
        (the model's `info["evenness_threshold"]`); without it, or with bits, that question stays open.

    Returns:
      M verdicts.

    Raises:
      FpganError: no users, another number of bits, or so few bits that no match reaches the rate.
    """
    if not len(registry):
        raise FpganError("the registry has no users; issue a fingerprint first")
    outputs = np.asarray(outputs)
    is_logits = outputs.dtype.kind not in "bui"
    if is_logits and not np.isfinite(outputs.astype(np.float32)).all():
        raise FpganError("the decoder gave values that are not finite; is the model file damaged?")
    bits = as_bits(outputs > 0 if is_logits else outputs, registry.n_bits)  # [M, n]
    needed = threshold(registry.n_bits, false_positive_rate, len(registry))
    places, counts = registry.best_matches(bits)
    log10_p = np.minimum(log10_p_value(counts, registry.n_bits) + math.log10(len(registry)), 0)
    below = _kinds_below(outputs if is_logits else None, evenness_threshold, len(bits))
    verdicts = []
    for i, packed in enumerate(np.packbits(bits, axis=1)):
        named = counts[i] >= needed
        verdicts.append(Verdict(
            kind=ATTRIBUTED if named else below[i], user=registry.users[places[i]] if named else None,
            matches=int(counts[i]), log10_p=float(log10_p[i]),
            fingerprint=Fingerprint(packed.tobytes(), registry.n_bits).hex))
    return verdicts


def evenness(logits) -> np.ndarray:
    """How alike the magnitudes of an image's logits are: their mean over their root mean square, [..., n_bits] -> [...].

    A fingerprinted image gives logits of two values, +a and -a, and so nearly 1. Another image gives a bell curve around 0,
    and so nearly sqrt(2/pi) = 0.80, however large its logits are: sharp edges make them large as well.
    """
    magnitudes = np.abs(np.asarray(logits, np.float64))
    power = np.mean(np.square(magnitudes), axis=-1)
    return np.mean(magnitudes, axis=-1) / np.sqrt(np.where(power > 0, power, 1))


def explain(registry: Registry, false_positive_rate: float, evenness_threshold: float | None) -> str:
    """Says in a few lines what the verdicts of `attribute` with these arguments mean."""
    n_bits, users = registry.n_bits, len(registry)
    needed = threshold(n_bits, false_positive_rate, users)
    attributed = (f"user: {needed} or more of {n_bits} bits match; by chance with probability {false_positive_rate:g} "
                  f"per image at most, over {users} registered user{'s' * (users != 1)}")
    if evenness_threshold is None:
        return attributed + (f"\n{NOBODY}: fewer match; this model has no calibrated threshold, so it stays "
                             "open whether the image carries a fingerprint")
    return attributed + (f"\n{UNREGISTERED}: fewer match, but the logits are as even as on its own model's "
                         f"images (evenness of {evenness_threshold:.3g} or more: empirical, no p-value)"
                         f"\n{NOT_OURS}: neither, so far as the bits can tell")


def _kinds_below(logits: np.ndarray | None, evenness_threshold: float | None, count: int) -> list[str]:
    """Names the verdicts for images that match nobody well enough."""
    if logits is None or evenness_threshold is None:
        return [NOBODY] * count
    sure = evenness(logits) >= evenness_threshold  # [M]
    return [UNREGISTERED if each else NOT_OURS for each in np.atleast_1d(sure)]
