"""Soft decisions: how well an image fits a fingerprint when sure bits count for more, with an exact p-value.

A logit says a bit by its sign, and by its magnitude how sure the decoder is. Each bit i of an image gets a whole weight w_i
from the magnitudes of that image's logits alone, and a user's score is

    score = sum_i w_i s_i c_i,    s_i the sign of the logit, c_i = +1 or -1 the registered bit.

The c_i of a user whose instance did not make the image are independent fair signs, whatever the image and however wrong the
decoder is about its own certainty. Given the image, the score is a sum of n independent two-point variables that are all
known, so its tail P(score >= t) is exact: a convolution of n distributions over whole numbers. Overconfident logits can
lower the power to find the right user, never the validity. With equal weights the score is 2 matches - n, the tail binomial.

In place of the score one may count the weight that speaks against a user, u = (W - score) / 2 with W = sum_i w_i: the sum of
the w_i whose bits differ. P(u' <= u) obeys F(u) <- (F(u) + F(u - w_i)) / 2, which adds positive numbers only, so that
float64 keeps a relative error under n 2^-53 all the way down to 2^-n. (It is the recursion of the exact tail of Wilcoxon's
signed-rank test, 1945, with any weights in place of ranks.)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from fpgan.attribution.search import blocks, search
from fpgan.errors import FpganError

if TYPE_CHECKING:
    class HasLogits(Protocol):
        """What was read from images, as a `fpgan.model.reading.Reading`."""

        @property
        def logits(self) -> np.ndarray:
            """Returns real [M, n]."""

MEAN_WEIGHT = 16  # of a bit whose logit has the mean magnitude of its image
MAX_WEIGHT = 63  # so that 512 bits of it, and a sign, fit into 16 bits
_IMAGES_AT_ONCE = 64


class Found(NamedTuple):
    """The users found for one image, the best first, and of equal ones the first registered.

    Attributes:
      places: int64 [K], their places in the registry; K is at least 1.
      scores: int64 [K].
      log10_p: float64 [K], log10 of the bound min(1, N p) on the probability that any innocent one of N users fits as well.
      attributed: how many of them, from the first on, pass the false-positive rate.
    """

    places: np.ndarray
    scores: np.ndarray
    log10_p: np.ndarray
    attributed: int


def scaled(logits: np.ndarray) -> np.ndarray:
    """Scales the logits of each image so that their mean magnitude is 1; logits that are all 0 stay 0.

    Args:
      logits: real [..., n].

    Returns:
      float64 [..., n].

    Raises:
      FpganError: logits that are not finite.
    """
    logits = np.asarray(logits, np.float64)
    if not np.isfinite(logits).all():
        raise FpganError("the decoder gave values that are not finite; is the model file damaged?")
    largest = np.abs(logits).max(axis=-1, keepdims=True, initial=0)  # [..., 1]
    logits = logits / np.where(largest > 0, largest, 1)  # in [-1, 1]: their mean neither overflows nor vanishes
    mean = np.abs(logits).mean(axis=-1, keepdims=True)  # [..., 1]
    return logits / np.where(mean > 0, mean, 1)


def pool(logits: np.ndarray) -> np.ndarray:
    """Pools what was read from several images of one suspect, so that they get one verdict with one exact p-value.

    The logits of each image are scaled to a mean magnitude of 1, so that no image drowns the others, and added up. An
    innocent user's bits are as independent of the sum as of each image, so everything in this module holds for it, whatever
    the images are, and also if some of them are no images of the suspect (they only blur it).

    Args:
      logits: real [M, n], of M images, at least one; or a Reading of `fpgan.Model.read`, which has such `logits`, each at
        its image's own alignment; or several readings.

    Returns:
      float64 [1, n], logits as of one image, for `fpgan.attribution.attribute`.

    Raises:
      FpganError: no images, or logits that are not finite.
    """
    logits = outputs_of(logits)
    if logits.ndim != 2 or not len(logits):
        raise FpganError(f"logits of shape {list(logits.shape)} cannot be pooled; expected [images, bits], not none")
    return scaled(logits).sum(axis=0, keepdims=True)


def outputs_of(read: np.ndarray | HasLogits | list[HasLogits] | tuple[HasLogits, ...]) -> np.ndarray:
    """Returns what was read as one array: an array as it is; the logits of a reading, or of several, one after the other."""
    if isinstance(read, (list, tuple)) and read and hasattr(read[0], "logits"):
        return np.concatenate([each.logits for each in read])
    return np.asarray(getattr(read, "logits", read))


def decisions(outputs: np.ndarray) -> np.ndarray:
    """Computes what each image says about each bit: the sign of the logit times its whole weight.

    The weight is 16 |l| / mean |l|, rounded, at most 63: a function of the magnitudes in this image, never of a registry.

    Args:
      outputs: [..., n], logits (floating point, finite; one of 0 weighs nothing) or bits (bool or integer; all weigh 1).

    Returns:
      int8 [..., n], from -63 to 63: positive for a 1, negative for a 0.

    Raises:
      FpganError: logits that are not finite.
    """
    outputs = np.asarray(outputs)
    if outputs.dtype.kind in "bui":
        return np.where(outputs > 0, 1, -1).astype(np.int8)
    return np.clip(np.rint(MEAN_WEIGHT * scaled(outputs)), -MAX_WEIGHT, MAX_WEIGHT).astype(np.int8)


def find_users(packed: np.ndarray, outputs: np.ndarray, false_positive_rate: float = 1e-6, keep: int = 1) -> list[Found]:
    """Finds for each image all users to whom it is attributed, and the best ones in any case.

    Over N users the bound on p is N P(score >= t): the union bound. It holds for all of them together, so that naming
    everybody who passes, as with an image that several users have mixed, costs nothing more.

    Args:
      packed: uint8 [N, ceil(n / 8)], the registered fingerprints as in `Registry.packed`, N at least 1.
      outputs: [M, n], logits or bits, as in `decisions`.
      false_positive_rate: tolerated per image that anybody is named whose instance did not make it.
      keep: how many of the best users are returned even if they do not pass.

    Returns:
      M Found.
    """
    found = []
    for images in blocks(len(outputs), _IMAGES_AT_ONCE):
        decided = decisions(outputs[images])
        tails = [tail(decision) for decision in decided]
        needed = np.array([least_score(one, false_positive_rate / len(packed)) for one in tails])
        for hits, one, least in zip(search(packed, decided, needed, keep), tails, needed, strict=True):
            log10_p = np.minimum(log10_p_value(hits.scores, one) + math.log10(len(packed)), 0)
            found.append(Found(*hits, log10_p, int(np.count_nonzero(hits.scores >= least))))
    return found


def tail(decision: np.ndarray) -> np.ndarray:
    """Computes the exact distribution of an innocent user's score for one image.

    Args:
      decision: int [n], signed weights (`decisions`), at most 512 of them.

    Returns:
      float64 [W + 1] with W = sum |decision|: entry u is P(score >= W - 2 u), the probability that the bits in which an
      innocent user's fingerprint differs from the image weigh u or less. From 2^-n' (n' weights are not 0) up to 1, with a
      relative error under 1e-13. If nothing has weight, the one entry is 1.
    """
    weights = np.abs(np.asarray(decision, np.int64))
    weights = np.sort(weights[weights > 0])
    total = int(weights.sum())
    half = total // 2 + 1
    counts = np.ones(half)  # 2^k P(u' <= u) over the first k weights, for u = 0 ... W / 2; exact below 2^53
    shifted = np.empty(half)
    for weight in weights.tolist():
        if weight < half:
            shifted[weight:] = counts[:half - weight]
            np.add(counts[weight:], shifted[weight:], out=counts[weight:])
    below = np.ldexp(counts, -len(weights))
    above = 1 - np.concatenate([[0.0], below])[:total + 1 - half][::-1]  # P(u' <= u) = 1 - P(u' <= W - u - 1), by symmetry
    return np.concatenate([below, above])


def log10_p_value(scores: np.ndarray | int, tail: np.ndarray) -> np.ndarray:
    """Computes log10 P(score >= t), the probability that an innocent user fits the image at least as well.

    Args:
      scores: int [...], scores t of users for one image, from -W to W.
      tail: float64 [W + 1], that image's (`tail`).

    Returns:
      float64 [...], at most 0.

    Raises:
      FpganError: a score beyond the image's total weight.
    """
    scores, total = np.asarray(scores, np.int64), len(tail) - 1
    if scores.size and np.abs(scores).max() > total:
        raise FpganError(f"a score of {np.abs(scores).max()} cannot be: the weights of this image sum up to {total}")
    return np.log10(tail[(total - scores) // 2])


def least_score(tail: np.ndarray, probability: float) -> int:
    """Finds the smallest score t with P(score >= t) <= probability; W + 1, which nobody reaches, if there is none.

    Args:
      tail: float64 [W + 1] (`tail`).
      probability: tolerated for one user; a false-positive rate over N users divided by N.
    """
    total = len(tail) - 1
    place = int(np.searchsorted(tail, probability, side="right")) - 1
    return total - 2 * place if place >= 0 else total + 1
