"""Distances between two sets of feature vectors: Frechet and kernel (maximum mean discrepancy), in float64.

Which features the vectors hold is the caller's affair; a distance is named after them ("Frechet distance over
vgg16 features"), because its value means nothing without them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fpgan.errors import FpganError


class Moments(NamedTuple):
    """Mean and scatter of a set of vectors.

    Attributes:
      count: N, the number of vectors.
      mean: float64 [F].
      scatter: float64 [F, F], the sum over the vectors of (x - mean) (x - mean)^T.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased covariance, float64 [F, F]; needs two vectors or more."""
        if self.count < 2:
            raise FpganError(f"a covariance needs at least 2 images, but there is {self.count}; "
                             "raise the count")
        return self.scatter / (self.count - 1)


def moments(features: np.ndarray) -> Moments:
    """Computes the moments of a set of feature vectors, real [N, F] with N >= 1, in float64."""
    features = _checked(features).astype(np.float64)
    mean = features.mean(axis=0)
    centred = features - mean
    return Moments(len(features), mean, centred.T @ centred)


def frechet_distance(a: Moments, b: Moments) -> float:
    """Computes the squared Frechet (2-Wasserstein) distance between the Gaussians of two sets of features.

    d = |m_a - m_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a S_b)^(1/2))   (Dowson and Landau 1982).

    With S = R R^T the last trace is the sum of the singular values of R_a^T R_b. So no square root is taken
    of a matrix without symmetry, and singular covariances (fewer images than features) lose no digits.

    Args:
      a, b: moments of two sets with the same features, at least 2 vectors each.

    Returns:
      d >= 0, in squared feature units. It is biased upwards for few images: compare at equal counts.
    """
    if a.mean.shape != b.mean.shape:
        raise FpganError(f"the sets have {a.mean.size} and {b.mean.size} features; "
                         "a distance needs the same features")
    cov_a, cov_b = a.covariance, b.covariance
    cross = np.linalg.svd(_root(cov_a).T @ _root(cov_b), compute_uv=False).sum()
    shift = a.mean - b.mean
    return max(0.0, float(shift @ shift + np.trace(cov_a) + np.trace(cov_b) - 2 * cross))


class KernelDistance(NamedTuple):
    """An estimate of the squared maximum mean discrepancy.

    Attributes:
      value: mean of the block estimates; unbiased, so it may be negative when the sets are alike.
      standard_error: of the mean, from the spread between the blocks.
      blocks: how many there are.
      block_size: vectors of each set in a block.
    """

    value: float
    standard_error: float
    blocks: int
    block_size: int


def polynomial_mmd2(a: np.ndarray, b: np.ndarray) -> float:
    """Computes the unbiased estimate of the squared MMD with the kernel k(x, y) = (x.y / F + 1)^3.

    Gretton et al. 2012, equation 3 (a vector is never paired with itself); the kernel is that of Binkowski et
    al. 2018.

    Args:
      a, b: real [N, F] and [M, F], N and M at least 2.
    """
    a, b = _checked(a).astype(np.float64), _checked(b).astype(np.float64)
    if min(len(a), len(b)) < 2 or a.shape[1] != b.shape[1]:
        raise FpganError("a kernel distance needs 2 vectors of equal length or more from each set, "
                         f"not {a.shape} and {b.shape}")
    kernel_a, kernel_b = _kernel(a, a), _kernel(b, b)
    within_a = (kernel_a.sum() - np.trace(kernel_a)) / (len(a) * (len(a) - 1))
    within_b = (kernel_b.sum() - np.trace(kernel_b)) / (len(b) * (len(b) - 1))
    return float(within_a + within_b - 2 * _kernel(a, b).mean())


def kernel_distance(a: np.ndarray, b: np.ndarray, *, seed: int, blocks: int = 10,
                    max_block: int = 1000) -> KernelDistance:
    """Estimates the squared MMD from disjoint random blocks, whose spread gives an honest standard error.

    Args:
      a, b: real [N, F] and [M, F].
      seed: of the shuffles that make the blocks.
      blocks: the least number of blocks; larger sets than blocks * max_block vectors have more.
      max_block: the most vectors in a block; cost grows with its square.

    Raises:
      FpganError: fewer than 2 vectors of a set for each block.
    """
    a, b = _checked(a), _checked(b)
    count = min(len(a), len(b))
    size = min(max_block, count // blocks)
    if size < 2 or blocks < 2:
        raise FpganError(f"a kernel distance over {blocks} blocks needs {2 * max(blocks, 2)} images "
                         f"of each kind or more, but there are {count}")
    rng = np.random.default_rng(seed)
    order_a, order_b = rng.permutation(len(a)), rng.permutation(len(b))
    cuts = [slice(start, start + size) for start in range(0, count - size + 1, size)]
    values = np.array([polynomial_mmd2(a[order_a[cut]], b[order_b[cut]]) for cut in cuts])
    error = values.std(ddof=1) / np.sqrt(len(values))
    return KernelDistance(float(values.mean()), float(error), len(values), size)


class Manifolds(NamedTuple):
    """How two sets of features cover each other.

    Attributes:
      precision: share of the generated vectors that lie among the real ones.
      recall: share of the real vectors that lie among the generated ones.
    """

    precision: float
    recall: float


def precision_recall(generated: np.ndarray, real: np.ndarray, neighbours: int = 3) -> Manifolds:
    """Computes improved precision and recall (Kynkaanniemi et al. 2019, equations 1 and 2).

    A vector lies among a set if it is within the ball of any of its vectors, which reaches to its k-th nearest neighbour.

    Args:
      generated, real: real [N, F] and [M, F], more than `neighbours` each. Both measures depend on N and M: compare at
        equal counts.
      neighbours: k.
    """
    generated, real = (_checked(x).astype(np.float64) for x in (generated, real))
    if min(len(generated), len(real)) <= neighbours:
        raise FpganError(f"{len(generated)} and {len(real)} images have no {neighbours} neighbours each; raise the count")
    return Manifolds(_share_within(generated, real, neighbours), _share_within(real, generated, neighbours))


def _share_within(vectors: np.ndarray, centres: np.ndarray, neighbours: int) -> float:
    """The share of vectors that lie in the ball of any of the centres."""
    radii = np.partition(_squared_distances(centres, centres), neighbours, axis=1)[:, neighbours]  # [M]; 0 is itself
    return float(np.mean((_squared_distances(vectors, centres) <= radii).any(axis=1)))


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances [N, M], at least 0."""
    squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)[None, :]  # [N, M]
    return np.maximum(squares - 2 * a @ b.T, 0)


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T / a.shape[1] + 1) ** 3  # [N, M]


def _root(covariance: np.ndarray) -> np.ndarray:
    """Returns R [F, F] with R R^T = covariance; eigenvalues that are rounding noise count as zero."""
    values, vectors = np.linalg.eigh(covariance)
    noise = len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return vectors * np.sqrt(np.where(values > noise, values, 0.0))


def _checked(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features)
    if features.ndim != 2 or not len(features):
        raise FpganError("features are an array [images, features] of at least one image, "
                         f"not of shape {features.shape}")
    if not np.isfinite(features).all():
        raise FpganError("the features hold NaN or infinity; the images or the extractor are damaged")
    return features
