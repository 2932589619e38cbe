"""Soft decisions: tails against brute force, whole numbers and the binomial; uniform p-values for the innocent."""

import itertools

import numpy as np
import pytest

from fpgan.attribution.search import scores
from fpgan.attribution.soft_decision import MAX_WEIGHT, decisions, find_users, least_score, log10_p_value, pool, tail
from fpgan.attribution.statistics import log10_p_value as binomial_log10_p
from fpgan.errors import FpganError
from fpgan.fingerprint import MAX_BITS


def whole_tail(weights):
    """The tail as whole numbers over 2^n, by the plain recursion: P(the differing weight <= u) 2^n."""
    counts = [1] + [0] * int(np.abs(weights).sum())
    for weight in np.abs(weights).tolist():
        counts = [there + (counts[u - weight] if u >= weight else 0) for u, there in enumerate(counts)]
    return list(itertools.accumulate(counts))


@pytest.mark.parametrize("weights", [
    [1], [0, 0, 5], [3, -3, 3, 3], [63, 1, -1], [2, 4, 8, 16, -32, 1], [7, 0, -7, 12, 12, 1, 0, 40, -13, 5, 5, 63]])
def test_tails_are_those_of_all_fingerprints_there_are(weights):
    decision = np.array(weights, np.int8)
    users = np.array(list(itertools.product([-1, 1], repeat=len(weights))))  # every one of the 2^n
    score, total = users @ decision.astype(int), int(np.abs(decision.astype(int)).sum())
    expected = [(score >= total - 2 * u).mean() for u in range(total + 1)]
    assert tail(decision).tolist() == expected
    shares = [(score >= t).mean() for t in score]
    assert np.allclose(log10_p_value(score, tail(decision)), np.log10(shares), rtol=0, atol=1e-15)


@pytest.mark.parametrize("n_bits", [1, 13, 64, 128, MAX_BITS])
def test_equal_weights_give_the_binomial(n_bits):
    for weight in (1, 16):
        table = tail(np.full(n_bits, weight, np.int8))
        matches = np.arange(n_bits + 1)
        found = log10_p_value(weight * (2 * matches - n_bits), table)
        assert np.allclose(found, binomial_log10_p(matches, n_bits), rtol=1e-13, atol=1e-15)
    if n_bits == 128:
        assert 10 ** log10_p_value(2 * 103 - 128, tail(np.ones(128, np.int8))) == pytest.approx(9.6667e-13, rel=1e-5)


@pytest.mark.parametrize("kind", ["random", "extreme", "normal"])
@pytest.mark.parametrize("n_bits", [128, MAX_BITS])
def test_the_tail_keeps_thirteen_digits_down_to_the_last_user(kind, n_bits):
    rng = np.random.default_rng(n_bits)
    weights = {"random": rng.integers(0, MAX_WEIGHT + 1, n_bits), "extreme": np.full(n_bits, MAX_WEIGHT),
               "normal": decisions(rng.normal(size=n_bits))}[kind].astype(int)
    table, exact = tail(weights), whole_tail(weights)
    assert len(table) == np.abs(weights).sum() + 1 and table[0] == 2.0 ** -np.count_nonzero(weights) and table[-1] == 1
    ratios = [found / (whole / 2**n_bits) for found, whole in zip(table, exact, strict=True)]
    assert max(abs(np.array(ratios) - 1)) < 1e-13


def test_nothing_known_is_no_evidence():
    silent = decisions(np.zeros((2, 128)))
    assert not silent.any() and tail(silent[0]).tolist() == [1.0] and log10_p_value(0, tail(silent[0])) == 0
    assert least_score(tail(silent[0]), 1e-6) == 1  # beyond what anybody can score
    half = decisions(np.r_[np.zeros(64), np.ones(64)])
    assert log10_p_value(32 * 64, tail(half)) == pytest.approx(-64 * np.log10(2))


def test_weights_come_from_the_magnitudes_of_one_image_alone():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 128)).astype(np.float32)
    flips = rng.choice([-1, 1], logits.shape)
    base = decisions(logits)
    assert (decisions(logits * flips) == base * flips).all()
    assert (decisions(logits[3]) == base[3]).all() and (decisions(logits * 2.0**-90) == base).all()
    assert (decisions(logits.astype(np.float64) * 1e300) == base).all()
    assert (np.sign(base) == np.sign(logits))[base != 0].all()
    assert np.abs(base).mean() == pytest.approx(16, rel=0.02)
    lonely = np.zeros(128)
    lonely[7] = -1e-30
    assert decisions(lonely)[7] == -MAX_WEIGHT and np.count_nonzero(decisions(lonely)) == 1
    assert decisions(np.array([True, False])).tolist() == [1, -1] == decisions(np.array([1, 0])).tolist()
    for wrong in (np.nan, np.inf):
        with pytest.raises(FpganError, match="not finite"):
            decisions(np.array([1.0, wrong]))


def test_the_least_score_is_the_least():
    table = tail(decisions(np.random.default_rng(1).normal(size=40)))
    for probability in (1e-11, 1e-6, 0.01, 0.5, 0.7, 1.0):
        score = least_score(table, probability)
        assert 10 ** log10_p_value(score, table) <= probability * (1 + 1e-12)
        if probability < 1:
            assert 10 ** log10_p_value(score - 2, table) > probability
    assert least_score(table, 1e-13) == len(table)  # one more than all weights together
    with pytest.raises(FpganError, match="cannot be"):
        log10_p_value(len(table), table)


@pytest.mark.parametrize("logits", ["certain", "biased", "heavy tails", "few bits", "integers"])
def test_innocent_users_get_uniform_p_values_whatever_the_logits(logits):
    """However absurd a decoder's certainty: a share of a of the innocent gets p <= a, exactly as the tail says."""
    rng = np.random.default_rng(2)
    image = {"certain": np.ones(128), "biased": np.abs(rng.normal(3, 1, 128)), "heavy tails": rng.standard_cauchy(128),
             "few bits": np.where(np.arange(128) < 9, 5.0, 0.01), "integers": rng.integers(-3, 4, 128).astype(float)}[logits]
    decision, count = decisions(image), 200_000
    users = rng.integers(0, 256, (count, 16), dtype=np.uint8)
    table, found = tail(decision), scores(users, decision[None])[:, 0]
    for level in (0.001, 0.01, 0.1, 0.3, 0.5, 0.9):
        needed = least_score(table, level)
        exact = 10 ** log10_p_value(needed, table) if needed < len(table) else 0.0
        share = np.mean(found >= needed)
        assert exact <= level * (1 + 1e-12) and abs(share - exact) <= 5 * np.sqrt(exact * (1 - exact) / count)
    p_values = 10 ** log10_p_value(found, table)
    assert np.mean(p_values <= 0.05) <= 0.05 + 5 * np.sqrt(0.05 / count)


def test_all_who_pass_are_found_with_the_union_bound():
    rng = np.random.default_rng(3)
    packed = rng.integers(0, 256, (5000, 16), dtype=np.uint8)
    signs = np.unpackbits(packed[[7, 4000]], axis=1) * 2.0 - 1
    logits = np.stack([np.where(rng.random(128) < 0.5, *signs), signs[1], rng.normal(size=128)])
    mixed, own, nobodys = find_users(packed, logits, 1e-3)
    assert sorted(mixed.places[:mixed.attributed]) == [7, 4000] and own.places[:own.attributed].tolist() == [4000]
    assert nobodys.attributed == 0 and len(nobodys.places) == 1 and nobodys.log10_p[0] > -3
    assert own.log10_p[0] == pytest.approx(np.log10(5000) - 128 * np.log10(2))
    for image, found in zip(logits, (mixed, own, nobodys), strict=True):
        decision = decisions(image)
        plain = scores(packed, decision[None])[:, 0]
        assert plain[found.places].tolist() == found.scores.tolist() and found.scores[0] == plain.max()
        bound = log10_p_value(found.scores, tail(decision)) + np.log10(5000)
        assert np.allclose(found.log10_p, np.minimum(bound, 0))
        passing = log10_p_value(plain, tail(decision)) + np.log10(5000) <= -3
        assert passing.sum() == found.attributed
    best = find_users(packed, logits[2:], keep=3)[0]
    assert len(best.places) == 3 and best.scores.tolist() == sorted(plain)[:-4:-1]


def test_pooling_weighs_images_alike_and_is_blind_to_their_order():
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(3, 64))
    pooled = pool(logits)
    assert pooled.shape == (1, 64) and np.allclose(pooled, pool(logits[::-1] * [[1e-3], [1], [1e6]]))
    assert np.allclose(pool(logits[:1]), logits[:1] / np.abs(logits[0]).mean())
    assert (decisions(pool(logits[:1])) == decisions(logits[:1])).all()
    silent = np.concatenate([logits, np.zeros((1, 64))])
    assert np.allclose(pool(silent), pooled)
    for wrong in (logits[:0], logits[0], np.full((1, 64), np.nan)):
        with pytest.raises(FpganError):
            pool(wrong)


def test_pooled_images_of_an_innocent_user_prove_nothing():
    """A decoder with a fixed bias reads the same wrong bits from every image: the pool is sure, and p is still uniform."""
    rng = np.random.default_rng(5)
    pooled = pool(rng.normal(size=128) * 3 + rng.normal(size=(50, 128)))
    users = rng.integers(0, 256, (100_000, 16), dtype=np.uint8)
    table, found = tail(decisions(pooled)[0]), scores(users, decisions(pooled))[:, 0]
    for level in (1e-3, 0.05, 0.5):
        exact = 10 ** log10_p_value(least_score(table, level), table)
        assert abs(np.mean(found >= least_score(table, level)) - exact) < 5 * np.sqrt(exact / len(users))
