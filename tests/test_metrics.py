"""Measures against closed forms, SciPy and a reader with a known error rate."""

import math

import numpy as np
import pytest
import scipy.stats

from fpgan.attribution import attribute, issue, registry
from fpgan.attribution.statistics import threshold
from fpgan.errors import FpganError
from fpgan.evaluation import metrics


def random_bits(rng, count, n_bits=128):
    return rng.integers(0, 2, (count, n_bits), dtype=np.uint8)


def noisy_logits(rng, bits, error_rate):
    wrong = rng.random(bits.shape) < error_rate
    return np.where(wrong, -1.0, 1.0) * (2.0 * bits - 1)


def count_attributions(logits, owners, users, needed):
    registered = registry.from_fingerprints([f"user {i}" for i in range(len(users))], users, users.shape[1])
    return metrics.count_attributions(*registered.best_matches(logits > 0), owners, needed)


@pytest.mark.parametrize("successes, count", [(0, 10_000), (37, 50), (50, 50), (1, 1), (9_993, 10_000)])
def test_share_has_the_wilson_interval(successes, count):
    expected = scipy.stats.binomtest(successes, count).proportion_ci(method="wilson")
    got = metrics.share(successes, count)
    assert got.value == successes / count
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_mean_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    estimates = [metrics.mean(rng.normal(3.0, 2.0, 200)) for _ in range(1000)]
    covered = sum(e.low <= 3.0 <= e.high for e in estimates)
    assert 925 <= covered <= 970


def test_accuracy_of_a_reader_with_a_known_error_rate():
    rng = np.random.default_rng(1)
    bits = random_bits(rng, 2000)
    logits = noisy_logits(rng, bits, 0.1)
    logits[:, 5] = -(2.0 * bits[:, 5] - 1)  # one bit is always read wrong
    accuracy = metrics.bit_accuracy(logits, bits)
    assert accuracy.shape == (2000,)
    assert accuracy.mean() == pytest.approx(0.9 * 127 / 128, abs=0.002)
    assert metrics.worst_bit_accuracy(logits, bits) == 0.0
    assert metrics.bit_accuracy(np.zeros((1, 8)), np.zeros((1, 8), np.uint8))[0] == 1.0  # 0 is no 1


def test_capacity_is_shannons():
    assert metrics.capacity(128, 1.0) == 128
    assert metrics.capacity(128, 0.0) == 128
    assert metrics.capacity(128, 0.5) == pytest.approx(0, abs=1e-12)
    entropy = scipy.stats.entropy([0.11, 0.89], base=2)
    assert metrics.capacity(100, 0.89) == pytest.approx(100 * (1 - entropy))


def test_attributions_are_counted_against_owner_others_and_nobody():
    rng = np.random.default_rng(2)
    users = random_bits(rng, 500)
    needed = threshold(128, 1e-6, 500)
    logits = 2.0 * users[[0, 1, 2, 3]] - 1
    logits[1] = 2.0 * users[7] - 1  # carries another user's fingerprint
    logits[2, :60] *= -1  # destroyed
    logits[3, :128 - needed] *= -1  # just enough
    got = count_attributions(logits, np.arange(4), users, needed)
    assert got[:3] == (2, 1, 1) and got.most_wrong_matches == 128
    logits[3, 128 - needed] *= -1  # one too many
    assert count_attributions(logits, np.arange(4), users, needed)[:3] == (1, 1, 2)


def test_images_of_nobody_are_attributed_to_nobody():
    rng = np.random.default_rng(3)
    logits, users = rng.normal(size=(300, 128)), random_bits(rng, 1000)
    got = count_attributions(logits, np.full(300, -1), users, threshold(128, 1e-6, 1000))
    assert got[:3] == (0, 0, 300)
    assert 75 < got.most_wrong_matches < 100


@pytest.mark.parametrize("n_bits", [16, 128])
def test_binomial_counts_fit_and_others_do_not(n_bits):
    rng = np.random.default_rng(4)
    p_values = [metrics.binomial_fit(rng.binomial(n_bits, 0.5, 2000), n_bits).p_value for _ in range(400)]
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 1e-3
    assert metrics.binomial_fit(rng.binomial(n_bits, 0.53, 2000), n_bits).p_value < 1e-4
    overdispersed = rng.binomial(n_bits, rng.choice([0.4, 0.6], 2000))  # the mean alone would not show it
    assert metrics.binomial_fit(overdispersed, n_bits).p_value < 1e-6


def test_binomial_fit_equals_scipy_on_pooled_cells():
    counts = np.repeat([2, 3, 4, 5, 6], [10, 30, 30, 25, 5])
    got = metrics.binomial_fit(counts, 8)
    expected = 100 * scipy.stats.binom.pmf(np.arange(9), 8, 0.5)
    cells = [expected[:3].sum(), *expected[3:6], expected[6:].sum()]
    reference = scipy.stats.chisquare([10, 30, 30, 25, 5], cells)
    assert got == pytest.approx((reference.statistic, 4, reference.pvalue))


def test_psnr_and_differences_have_their_closed_forms():
    a = np.full((2, 4, 4, 3), 100, np.uint8)
    b = a.copy()
    b[0] += 10
    got = metrics.psnr(a, b)
    assert got[0] == pytest.approx(20 * math.log10(25.5))
    assert got[1] == pytest.approx(10 * math.log10(255**2 * 48)) and np.isfinite(got[1])
    assert metrics.rms_difference(np.stack([a[0], b[0]])) == pytest.approx(10)
    images = np.random.default_rng(5).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    pairs = [(images[i] - images[j].astype(float)) ** 2 for i in range(6) for j in range(i)]
    assert metrics.rms_difference(images) == pytest.approx(math.sqrt(np.mean(pairs)))


@pytest.mark.parametrize("call", [
    lambda: metrics.share(3, 2),
    lambda: metrics.share(0, 0),
    lambda: metrics.capacity(128, 1.2),
    lambda: metrics.mean(np.zeros(0)),
    lambda: metrics.bit_accuracy(np.zeros((2, 8)), np.zeros((2, 9))),
    lambda: metrics.binomial_fit(np.array([4, 4]), 8),
    lambda: metrics.binomial_fit(np.array([9] * 100), 8),
    lambda: metrics.psnr(np.zeros((1, 2, 2, 3)), np.zeros((1, 2, 2, 3))),
    lambda: metrics.rms_difference(np.zeros((1, 2, 2, 3), np.uint8)),
])
def test_senseless_input_is_refused(call):
    with pytest.raises(FpganError):
        call()


def test_soft_attributions_are_those_of_the_verdict():
    rng = np.random.default_rng(7)
    issued = issue(map(str, range(200)), 128, b"k" * 16)
    owners = rng.integers(0, 200, 60)
    logits = (issued.bits[owners] * 2.0 - 1 + rng.normal(0, 2.2, (60, 128))).astype(np.float32)
    found = metrics.attributed_softly(logits, issued.bits[owners], 1e-6, 200)
    verdicts = attribute(logits, issued, 1e-6)
    assert found.tolist() == [verdict.user == str(owner) for verdict, owner in zip(verdicts, owners, strict=True)]
    assert 0 < found.sum() < 60
