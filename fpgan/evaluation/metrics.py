"""Measures of detection and fidelity: functions from arrays to numbers, with intervals where they are cheap.

Intervals are 95% throughout.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fpgan.attribution.soft_decision import decisions, least_score, tail
from fpgan.errors import FpganError
from fpgan.fingerprint import MAX_BITS

_Z = 1.959963984540054  # the normal distribution holds 95% within +-_Z
_LEAST_EXPECTED = 5.0  # of a cell in a chi-square test


class Estimate(NamedTuple):
    """A number and its 95% confidence interval."""

    value: float
    low: float
    high: float


def share(successes: int, count: int) -> Estimate:
    """Estimates a probability from `successes` of `count` trials, with the interval of Wilson (1927).

    Unlike the textbook interval it also holds near 0 and 1: 0 of 10,000 still leaves up to 0.04%.
    """
    if not 0 <= successes <= count or count < 1:
        raise FpganError(f"{successes} of {count} is no share; expected 0 to count of at least one")
    value, z2 = successes / count, _Z**2 / count
    centre = (value + z2 / 2) / (1 + z2)
    half = _Z / (1 + z2) * math.sqrt(value * (1 - value) / count + z2 / (4 * count))
    low = 0.0 if successes == 0 else centre - half
    return Estimate(value, max(0.0, low), 1.0 if successes == count else min(1.0, centre + half))


def mean(values: np.ndarray) -> Estimate:
    """Estimates a mean from independent values [N], with the normal approximation's interval."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not len(values):
        raise FpganError(f"a mean needs an array [N] of at least one value, not {list(values.shape)}")
    half = _Z * values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    value = float(values.mean())
    return Estimate(value, value - float(half), value + float(half))


def bit_accuracy(logits: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Computes the share of bits read right in each image.

    Args:
      logits: real [N, n], the decoder's; positive means 1.
      bits: [N, n] of 0 and 1, those that were put in.

    Returns:
      float64 [N] in [0, 1].
    """
    return _right(logits, bits).mean(axis=1)


def worst_bit_accuracy(logits: np.ndarray, bits: np.ndarray) -> float:
    """Computes the share of images [N, n] in which the worst of the n bits was read right."""
    return float(_right(logits, bits).mean(axis=0).min())


def capacity(n_bits: int, accuracy: float) -> float:
    """Computes the capacity in bits of n binary symmetric channels: n (1 - H2(accuracy)) (Shannon 1948)."""
    if not 0 <= accuracy <= 1:
        raise FpganError(f"an accuracy is between 0 and 1, not {accuracy}")
    parts = [p * math.log2(p) for p in (accuracy, 1 - accuracy) if p > 0]
    return n_bits * (1 + sum(parts))


class Attributions(NamedTuple):
    """How many of a set of images were attributed, and to whom.

    Attributes:
      correct: to the user whose instance made them.
      wrong: to another user.
      nobody: the rest.
      most_wrong_matches: over the images whose best match is not their own user, the most bits shared with
        it; -1 if there are no such images.
    """

    correct: int
    wrong: int
    nobody: int
    most_wrong_matches: int


def count_attributions(places: np.ndarray, counts: np.ndarray, owners: np.ndarray,
                       needed: int) -> Attributions:
    """Attributes each image to the user whose fingerprint shares most bits with it, if enough do.

    Args:
      places: int [M], the best match of each image in the registry (`Registry.best_matches`).
      counts: int [M], the bits shared with it.
      owners: int [M], the place of the right user; -1 for images that nobody's instance made.
      needed: the least number of matching bits, `fpgan.attribution.statistics.threshold` for the registry's size.
    """
    found, right = counts >= needed, places == owners
    wrong_counts = counts[~right]
    return Attributions(correct=int((found & right).sum()), wrong=int((found & ~right).sum()),
                        nobody=int((~found).sum()), most_wrong_matches=int(wrong_counts.max(initial=-1)))


def attributed_softly(logits: np.ndarray, bits: np.ndarray, false_positive_rate: float, n_users: int) -> np.ndarray:
    """Tells which images soft decisions attribute to their own user (`fpgan.attribution.soft_decision`).

    Args:
      logits: float [N, n], what was read.
      bits: [N, n] of zeros and ones, what was put in.
      false_positive_rate: tolerated over all users, per image.
      n_users: registered users.

    Returns:
      bool [N].
    """
    decided = decisions(logits)  # int8 [N, n]
    scores = np.sum(decided.astype(np.int64) * np.where(bits > 0, 1, -1), axis=1)
    needed = np.array([least_score(tail(one), false_positive_rate / n_users) for one in decided], np.int64)
    return scores >= needed


class Fit(NamedTuple):
    """A chi-square test of goodness of fit.

    Attributes:
      chi_square: the statistic.
      degrees: of freedom, cells - 1.
      p_value: probability of such a statistic, or a larger one, if the distribution is the assumed one.
    """

    chi_square: float
    degrees: int
    p_value: float


def binomial_fit(matches: np.ndarray, n_bits: int) -> Fit:
    """Tests whether numbers of matching bits are drawn from Binomial(n, 1/2) (Pearson 1900).

    Counts in the tails are pooled until 5 or more are expected in every cell.

    Args:
      matches: int [N], independent of each other: a fresh random fingerprint for each image.
      n_bits: n.

    Raises:
      FpganError: too few counts for two cells.
    """
    from scipy.stats import chi2

    matches = np.asarray(matches)
    if not 1 <= n_bits <= MAX_BITS or (len(matches) and not 0 <= matches.min() <= matches.max() <= n_bits):
        raise FpganError(f"numbers of matching bits have to be from 0 to {n_bits}")
    expected = len(matches) * np.array([math.comb(n_bits, m) / 2**n_bits for m in range(n_bits + 1)])
    observed = np.bincount(matches, minlength=n_bits + 1)
    enough = (np.cumsum(expected) >= _LEAST_EXPECTED) & (np.roll(expected, -1) >= _LEAST_EXPECTED)
    low = int(enough.argmax())  # the cells below it are pooled with it, and likewise from `high` on
    high = n_bits - low
    if high <= low or not enough.any():
        raise FpganError(f"{len(matches)} images are too few to compare their matches with the binomial "
                         "distribution; raise the count")
    expected, observed = _pooled(expected, low, high), _pooled(observed, low, high)
    statistic = float(((observed - expected) ** 2 / expected).sum())
    return Fit(statistic, high - low, float(chi2.sf(statistic, high - low)))


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Computes the peak signal-to-noise ratio of pairs of 8-bit images: 10 log10(255^2 / squared error).

    Args:
      a, b: uint8 [N, H, W, C].

    Returns:
      float64 [N] in dB. Identical images count as if one value differed by one grey level: always finite.
    """
    if a.dtype != np.uint8 or b.dtype != np.uint8 or a.shape != b.shape:
        raise FpganError(f"PSNR compares 8-bit images of equal shape, not {a.dtype} {list(a.shape)} and "
                         f"{b.dtype} {list(b.shape)}")
    squares = np.square(a.astype(np.int32) - b).reshape(len(a), -1)
    errors = np.maximum(squares.sum(axis=1, dtype=np.int64), 1) / squares.shape[1]
    return 10 * np.log10(255**2 / errors)


def rms_difference(images: np.ndarray) -> float:
    """Computes the root mean square difference, in grey levels, over all pairs of images and all pixels.

    The mean over pairs of (x - y)^2 is twice the unbiased variance, so no pairs are formed.

    Args:
      images: uint8 [N, H, W, C], N at least 2. Equal images give 0; real ones say what is usual.
    """
    if len(images) < 2:
        raise FpganError("differences between images need at least two of them")
    return math.sqrt(2 * np.var(images, axis=0, ddof=1, dtype=np.float64).mean())


def _right(logits: np.ndarray, bits: np.ndarray) -> np.ndarray:
    logits, bits = np.asarray(logits), np.asarray(bits)
    if logits.shape != bits.shape or logits.ndim != 2 or not logits.size:
        raise FpganError("logits and bits have to be of one shape [N, n], "
                         f"not {list(logits.shape)} and {list(bits.shape)}")
    return (logits > 0) == (bits > 0)


def _pooled(cells: np.ndarray, low: int, high: int) -> np.ndarray:
    return np.concatenate([[cells[:low + 1].sum()], cells[low + 1:high], [cells[high:].sum()]])
