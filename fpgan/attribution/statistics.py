"""The statistics of matching bits: exact tails of the binomial distribution, and the threshold that follows from them.

Registered fingerprints are drawn uniformly and independently of any image, so the number of bits that an image shares
with the fingerprint of somebody who did not make it is exactly Binomial(n, 1/2), whatever the decoder does. All
probabilities here are tails of that distribution, computed in integers.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import numpy as np

from fpgan.errors import FpganError
from fpgan.fingerprint import MAX_BITS, Fingerprint


def matches(a: Fingerprint | np.ndarray, b: Fingerprint | np.ndarray) -> np.ndarray:
    """Counts the bits in which two fingerprints are equal.

    Args:
      a: a Fingerprint, or an array [..., n] of zeros and ones.
      b: the same; the leading axes are broadcast against each other.

    Returns:
      int64 [...].
    """
    a, b = (np.asarray(x.bits if isinstance(x, Fingerprint) else x) for x in (a, b))
    if a.ndim == 0 or b.ndim == 0 or a.shape[-1] != b.shape[-1]:
        raise FpganError("fingerprints of different lengths cannot be compared: shapes "
                         f"{list(a.shape)} and {list(b.shape)}")
    return np.count_nonzero(a == b, axis=-1)


def distance(a: Fingerprint | np.ndarray, b: Fingerprint | np.ndarray) -> np.ndarray:
    """Counts the bits in which two fingerprints differ (Hamming distance), as `matches` does: int64 [...]."""
    n_bits = len(a) if isinstance(a, Fingerprint) else np.shape(a)[-1]
    return n_bits - matches(a, b)


def log10_p_value(matches: int | np.ndarray, n_bits: int) -> np.ndarray:
    """Computes log10 P(Bin(n, 1/2) >= m), the probability that an innocent user matches at least as well.

    The tail is summed in integers, so the result is right to the rounding of one division and one logarithm
    over the whole range, from 0 (m = 0) to -n log10 2 (m = n).

    Args:
      matches: int [...], numbers of equal bits, 0 to n_bits.
      n_bits: length of the fingerprint, 1 to 512.

    Returns:
      float64 [...], at most 0.
    """
    counts = np.asarray(matches)
    if counts.size and (counts.dtype.kind not in "iu" or counts.min() < 0 or counts.max() > n_bits):
        raise FpganError(f"numbers of matching bits have to be whole and from 0 to {n_bits}")
    return _log10_tails(int(n_bits))[counts.astype(np.int64)]


def threshold(n_bits: int, false_positive_rate: float = 1e-6, n_users: int = 1) -> int:
    """Finds how many bits have to match for an attribution.

    Args:
      n_bits: length of the fingerprint, 1 to 512.
      false_positive_rate: the largest tolerated probability, over 0 and at most 1, that an image of somebody
        else is attributed to any of the users (union bound).
      n_users: how many users are compared, at least 1.

    Returns:
      The smallest m with n_users * P(Bin(n_bits, 1/2) >= m) <= false_positive_rate, compared exactly.

    Raises:
      FpganError: not even a perfect match is that improbable.
    """
    if not 0 < false_positive_rate <= 1:
        raise FpganError(f"the false-positive rate {false_positive_rate} is not a probability; expected "
                         "over 0 and at most 1")
    if n_users < 1:
        raise FpganError(f"a threshold needs at least one user, not {n_users}")
    allowed = Fraction(false_positive_rate) * 2**n_bits / int(n_users)
    for m, tail in enumerate(_tail_counts(int(n_bits))):
        if tail <= allowed:
            return m
    raise FpganError(f"with {n_bits} bits and {n_users} users no match reaches a false-positive rate "
                     f"of {false_positive_rate:g}: a perfect one has {n_users} * 2^-{n_bits} = "
                     f"{n_users / 2**n_bits:.2g}; allow a larger rate or use a model with more bits")


@functools.lru_cache(maxsize=16)
def _tail_counts(n_bits: int) -> tuple[int, ...]:
    """Returns 2^n P(Bin(n, 1/2) >= m) for m = 0 ... n as integers."""
    if not 1 <= n_bits <= MAX_BITS:
        raise FpganError(f"statistics are for 1 to {MAX_BITS} bits, not {n_bits}")
    counts, total = [], 0
    for m in range(n_bits, -1, -1):
        total += math.comb(n_bits, m)
        counts.append(total)
    return tuple(reversed(counts))


@functools.lru_cache(maxsize=16)
def _log10_tails(n_bits: int) -> np.ndarray:
    """Returns log10 P(Bin(n, 1/2) >= m) for m = 0 ... n: float64 [n + 1], read-only."""
    whole = 2**n_bits
    logs = [math.log10(tail / whole) if 2 * tail < whole else
            math.log1p(-((whole - tail) / whole)) / math.log(10)  # near 1 the complement keeps the digits
            for tail in _tail_counts(n_bits)]
    table = np.asarray(logs, np.float64) + 0.0  # -0.0 becomes 0.0
    table.flags.writeable = False
    return table
