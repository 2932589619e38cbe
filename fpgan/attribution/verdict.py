"""Verdicts: whose instance made an image, with a false-positive rate that holds for every image.

What is claimed, and what is not:

* "attributed": what the decoder read from the image fits a registered user's fingerprint so well that by chance it would
  happen with at most the stated probability. Registered fingerprints are uniform and independent of an image that their
  users' instances did not make, so the tail of an innocent user's score is exact (`soft_decision`), and over N users the
  union bound N P(score >= t) holds, whatever the image and however wrong the decoder is, or is about its own certainty.
  It does not hold for fingerprints that somebody chose instead of drawing them. All users who pass are named: an image that
  several of them have mixed may fit several. The rate is per verdict; whoever tests many images should choose it
  accordingly. It is about chance: somebody who holds a user's images may imitate their fingerprint, which no p-value sees.
* "fingerprinted, but nobody registered" is an empirical judgement without a p-value: the logits are as even in size
  (`evenness`) as they are on the images of the decoder's own model, by a threshold that was calibrated when the model
  was exported. Images of another origin may give logits as even.
* "no fingerprint found" says that neither holds, in any place of the picture that was searched (`explain` says which). It
  does not say that the image is of another origin: one whose fingerprint was destroyed, or is out of place, looks the same.
* Where the picture lies in an image is decided by the image alone (`fpgan.Model.read`), never by the registry. What was read
  there is as independent of an innocent user's fingerprint as any other bits, so p needs no factor for the places tried.
* "nobody registered" stands in place of the last two when the model brings no calibrated threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fpgan.attribution.registry import Registry
from fpgan.attribution.soft_decision import Found, find_users, outputs_of
from fpgan.attribution.statistics import matches, threshold
from fpgan.errors import FpganError
from fpgan.fingerprint import Fingerprint, as_bits

if TYPE_CHECKING:
    from fpgan.attribution.soft_decision import HasLogits

ATTRIBUTED = "attributed"
UNREGISTERED = "fingerprinted, but nobody registered"
NO_FINGERPRINT = "no fingerprint found"
NOBODY = "nobody registered"
_SHOWN = 3  # users in the text of a verdict


@dataclass(frozen=True, slots=True)
class Match:
    """How well one image fits one user.

    Attributes:
      user: the user's id.
      matches: bits that the image shares with the user's fingerprint.
      log10_p: log10 of the bound on the probability that any innocent user's fingerprint fits the image as well, at most 0.
      score: the same with sure bits counting for more (`fpgan.attribution.soft_decision`), from which log10_p is computed.
      revoked: since when the user may no longer use the instance, if the registry says so, else None.
    """

    user: str
    matches: int
    log10_p: float
    score: int
    revoked: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known about one image, or about several that were pooled.

    Attributes:
      kind: ATTRIBUTED, UNREGISTERED, NO_FINGERPRINT or NOBODY, as the head of this module explains them.
      user: the user to whom the image is attributed, the best of several, else None.
      matches: bits shared with the fingerprint of the best user, registered to whoever it may be.
      log10_p: log10 of the bound on the probability that an innocent user fits as well as the best one, over all users and
        with sure bits counting for more; at most 0.
      fingerprint: the bits read from the image, in hexadecimal digits.
      score: of the best user, as in Match.
      named: everybody to whom the image is attributed, the best first.
      undone: what was done to the picture and undone before it was read, as "flipped, cropped to 92%"; empty if nothing.
    """

    kind: str
    user: str | None
    matches: int
    log10_p: float
    fingerprint: str
    score: int
    named: tuple[Match, ...] = ()
    undone: str = ""

    @property
    def users(self) -> list[str]:
        """The ids of all users to whom the image is attributed, the best first."""
        return [match.user for match in self.named]

    @property
    def revoked(self) -> str | None:
        """Since when `user` may no longer use the instance, if the registry says so, else None."""
        return self.named[0].revoked if self.named else None

    def __str__(self) -> str:
        told = self.undone and self.kind in (ATTRIBUTED, UNREGISTERED)  # without a fingerprint the place is chance
        return self._whose() + (f" ({self.undone})" if told else "")

    def _whose(self) -> str:
        if self.user is None:
            return self.kind
        more = len(self.named) - _SHOWN
        shown = ", ".join(f"{match.user} (revoked {match.revoked[:10]})" if match.revoked else match.user
                          for match in self.named[:_SHOWN])
        return f"user{'s' * (len(self.named) > 1)} {shown}" + (f" and {more} more" if more > 0 else "")


def attribute(outputs: np.ndarray | HasLogits | list[HasLogits] | tuple[HasLogits, ...], registry: Registry,
              false_positive_rate: float = 1e-6, evenness_threshold: float | None = None) -> list[Verdict]:
    """Says for each image whose instance made it.

    Args:
      outputs: what was read from M images: logits (floating point) or bits (bool or integer), [M, n_bits]; or a Reading of
        `fpgan.Model.read`, which has such `logits` and says what was undone, or several of them. Logits are worth more: sure
        bits count for more than unsure ones.
      registry: the users to compare with, at least one.
      false_positive_rate: the largest tolerated probability that an image which none of the users' instances
        made is attributed to any of them.
      evenness_threshold: evenness of the logits from which on an unattributed image counts as fingerprinted
        (`fpgan.Model.evenness_threshold` of the search that was made); without it, or with bits, that question stays open.

    Returns:
      M verdicts.

    Raises:
      FpganError: no users, another number of bits, or so few bits that no match reaches the rate.
    """
    if not len(registry):
        raise FpganError("the registry has no users; issue a fingerprint first")
    undone = _undone(outputs)
    outputs = outputs_of(outputs)
    is_logits = outputs.dtype.kind not in "bui"
    bits = as_bits(outputs > 0 if is_logits else outputs, registry.n_bits)  # [M, n]
    threshold(registry.n_bits, false_positive_rate, len(registry))  # refuses a rate that not even a perfect match reaches
    found = find_users(registry.packed, outputs.reshape(bits.shape), false_positive_rate)
    below = kinds_below(outputs if is_logits else None, evenness_threshold, len(bits))
    return [_verdict(*each, registry) for each in zip(bits, found, below, undone or len(bits) * [""], strict=True)]


def evenness(logits: np.ndarray) -> np.ndarray:
    """Computes how alike the magnitudes of an image's logits are: their mean over their root mean square, [..., n_bits] ->
    [...].

    A fingerprinted image gives logits of two values, +a and -a, and so nearly 1. Another image gives a bell curve around 0,
    and so nearly sqrt(2/pi) = 0.80, however large its logits are: sharp edges make them large as well.
    """
    magnitudes = np.abs(np.asarray(logits, np.float64))
    power = np.mean(np.square(magnitudes), axis=-1)
    return np.mean(magnitudes, axis=-1) / np.sqrt(np.where(power > 0, power, 1))


def explain(registry: Registry, false_positive_rate: float, evenness_threshold: float | None,
            searched: str = "each image as it is") -> str:
    """Says in a few lines what the verdicts of `attribute` with these arguments mean.

    Args:
      registry, false_positive_rate, evenness_threshold: as in `attribute`.
      searched: where the picture was looked for, such as `fpgan.model.reading.searched` says it.
    """
    n_bits, users = registry.n_bits, len(registry)
    needed = threshold(n_bits, false_positive_rate, users)
    attributed = (f"user: so good a fit happens by chance with probability {false_positive_rate:g} at most, over {users} "
                  f"registered user{'s' * (users != 1)}\n  (log10 p of {math.log10(false_positive_rate):.3g} or less; sure "
                  f"bits count for more: were all equally sure, {needed} or more of {n_bits} match)")
    where = f"\nsearched: {searched}"
    if evenness_threshold is None:
        return attributed + (f"\n{NOBODY}: no fit is so good; with no calibrated threshold it stays open whether "
                             "there is a fingerprint") + where
    return attributed + (f"\n{UNREGISTERED}: no fit is so good, but the logits are as even as on its own model's "
                         f"images (evenness of\n  {evenness_threshold:.3g} or more: empirical, no p-value)"
                         f"\n{NO_FINGERPRINT}: neither, where it was searched; a destroyed one looks the same") + where


def _verdict(bits: np.ndarray, found: Found, below: str, undone: str, registry: Registry) -> Verdict:
    """Puts what was found for one image into words."""
    prints = np.unpackbits(registry.packed[found.places], axis=1, count=registry.n_bits)  # [K, n]
    counts = matches(prints, bits)
    users = [registry.users[place] for place in found.places[:found.attributed].tolist()]
    named = tuple(Match(user, int(counts[i]), float(found.log10_p[i]), int(found.scores[i]), registry.revoked.get(user))
                  for i, user in enumerate(users))
    return Verdict(kind=ATTRIBUTED if named else below, user=named[0].user if named else None, matches=int(counts[0]),
                   log10_p=float(found.log10_p[0]), fingerprint=Fingerprint.from_bits(bits).hex,
                   score=int(found.scores[0]), named=named, undone=undone)


def _undone(read) -> list[str]:
    """What was undone in each image of a reading, or of several; empty where the logits alone are given."""
    readings = read if isinstance(read, (list, tuple)) else [read]
    return [words for each in readings if hasattr(each, "alignment") for words in each.alignment.undone]


def kinds_below(logits: np.ndarray | None, evenness_threshold: float | None, count: int) -> list[str]:
    """Names the verdicts for images that fit nobody well enough.

    Args:
      logits: [M, n_bits], or None where there are bits alone.
      evenness_threshold: as in `attribute`.
      count: M.
    """
    if logits is None or evenness_threshold is None:
        return [NOBODY] * count
    sure = evenness(logits) >= evenness_threshold  # [M]
    return [UNREGISTERED if each else NO_FINGERPRINT for each in np.atleast_1d(sure)]
