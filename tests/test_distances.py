"""Frechet and kernel distance against closed forms and naive loops."""

import numpy as np
import pytest
import scipy.linalg

from fpgan.errors import FpganError
from fpgan.evaluation import distances


def exact_moments(mean, covariance, count=1000):
    scatter = np.asarray(covariance, np.float64) * (count - 1)
    return distances.Moments(count, np.asarray(mean, np.float64), scatter)


def gaussian_distance(mean_a, covariance_a, mean_b, covariance_b):
    a, b = exact_moments(mean_a, covariance_a), exact_moments(mean_b, covariance_b)
    return distances.frechet_distance(a, b)


def random_covariance(rng, size):
    a = rng.normal(size=(size, size))
    return a @ a.T / size


def test_frechet_of_commuting_gaussians_has_the_closed_form():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    va, vb = rng.uniform(0.1, 9, 5), rng.uniform(0.1, 9, 5)
    ma, mb = rng.normal(size=5), rng.normal(size=5)
    expected = np.sum((ma - mb) ** 2) + np.sum((np.sqrt(va) - np.sqrt(vb)) ** 2)
    got = gaussian_distance(ma, basis * va @ basis.T, mb, basis * vb @ basis.T)
    assert got == pytest.approx(expected, rel=1e-12)


def test_frechet_equals_scipy_sqrtm():
    rng = np.random.default_rng(1)
    a, b = random_covariance(rng, 20), random_covariance(rng, 20)
    expected = np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    got = gaussian_distance(np.zeros(20), a, np.zeros(20), b)
    assert got == pytest.approx(expected, rel=1e-9)


def test_frechet_of_rank_deficient_covariances():
    """Ten vectors with 64 features: the covariance is singular; a shifted copy is |shift|^2 away, exactly."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(10, 64)) * 100
    shift = rng.normal(size=64)
    assert distances.frechet_distance(distances.moments(x), distances.moments(x)) < 1e-9
    got = distances.frechet_distance(distances.moments(x), distances.moments(x + shift))
    assert got == pytest.approx(shift @ shift, rel=1e-9)


def test_frechet_of_disjoint_subspaces_adds_the_variances():
    a, b = np.zeros((6, 6)), np.zeros((6, 6))
    a[0, 0], b[3, 3] = 4.0, 9.0
    assert gaussian_distance(np.zeros(6), a, np.zeros(6), b) == pytest.approx(13.0)


def test_moments_far_from_zero_lose_nothing():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(101, 7)) + 1e6  # E[x^2] - E[x]^2 would lose everything
    moments = distances.moments(x)
    assert moments.count == 101
    np.testing.assert_allclose(moments.mean, x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(moments.covariance, np.cov(x.T), rtol=1e-8, atol=1e-8)


def naive_mmd2(a, b):
    def kernel(x, y):
        return (np.dot(x, y) / len(x) + 1) ** 3
    n, m = len(a), len(b)
    total = sum(kernel(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    total += sum(kernel(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return total - 2 * sum(kernel(x, y) for x in a for y in b) / (n * m)


def test_kernel_estimate_equals_a_double_loop():
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(9, 5)), rng.normal(size=(7, 5)) + 0.5
    assert distances.polynomial_mmd2(a, b) == pytest.approx(naive_mmd2(a, b), rel=1e-12)


def test_kernel_distance_is_unbiased_and_sees_a_shift():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2000, 4)), rng.normal(size=(2100, 4))
    same = distances.kernel_distance(a, b, seed=0)
    assert (same.blocks, same.block_size) == (10, 200)
    assert abs(same.value) < 4 * same.standard_error
    moved = distances.kernel_distance(a, b + 0.6, seed=0)
    assert moved.value > 10 * moved.standard_error
    assert distances.kernel_distance(a, b, seed=0, max_block=50).blocks == 40


@pytest.mark.parametrize("call", [
    lambda: distances.moments(np.zeros((0, 3))),
    lambda: distances.moments(np.array([[np.nan, 0.0]])),
    lambda: distances.moments(np.zeros((1, 3))).covariance,
    lambda: distances.kernel_distance(np.zeros((5, 3)), np.zeros((50, 3)), seed=0),
    lambda: gaussian_distance(np.zeros(2), np.eye(2), np.zeros(3), np.eye(3)),
])
def test_senseless_input_is_refused(call):
    with pytest.raises(FpganError):
        call()
