"""Fingerprints as values, and the statistics against exact rational arithmetic."""

import hashlib
import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest

from fpgan.attribution.statistics import distance, log10_p_value, matches, threshold
from fpgan.errors import FpganError
from fpgan.fingerprint import MAX_BITS, Fingerprint, as_bits


def exact_tail(m, n):
    return Fraction(sum(math.comb(n, k) for k in range(m, n + 1)), 2**n)


@pytest.mark.parametrize("n", [8, 9, 13, 64, 100, 127, 128, 512])
def test_hex_and_bits_round_trip_for_any_length(n):
    bits = np.random.default_rng(n).integers(0, 2, n)
    one = Fingerprint.from_bits(bits)
    assert (one.bits == bits).all() and one.bits.dtype == np.uint8
    assert len(one) == one.n_bits == n and len(one.hex) == -(-n // 4)
    assert Fingerprint.from_hex(one.hex.upper(), n) == one
    padded = int("".join(map(str, bits)) + "0" * (-n % 4), 2)  # most significant bit first, zeros on the right
    assert int(one.hex, 16) == padded and str(one) == one.hex == one.hex.lower()


def test_fingerprints_are_values():
    one, same, other = Fingerprint.from_hex("a5f0"), Fingerprint.from_hex(" A5f0\n"), Fingerprint.from_hex("a5f1")
    assert one == same and hash(one) == hash(same) and one != other
    assert Fingerprint.from_hex("a5f0") != Fingerprint.from_hex("a5f0", 15)
    assert len({one, same, other}) == 2
    assert eval(repr(one), {"Fingerprint": Fingerprint}) == one
    with pytest.raises(AttributeError):
        one.n_bits = 8
    with pytest.raises(ValueError):
        one.bits[0] = 0


@pytest.mark.parametrize("text, n_bits, complaint", [
    ("xyz0", None, "hexadecimal"), ("", 8, "hexadecimal"), ("0xff", None, "hexadecimal"), ("ff ff", None, "hexadecimal"),
    ("f", None, "4 bits"), ("ffff", 20, "5"), ("ffff", 8, "4 hexadecimal"), ("ff" * 100, None, "800 bits"),
    ("fff", 10, "zero"), ("٣٣", None, "hexadecimal"),
])
def test_bad_hex_is_refused_with_a_reason(text, n_bits, complaint):
    with pytest.raises(FpganError, match=complaint):
        Fingerprint.from_hex(text, n_bits)


@pytest.mark.parametrize("bits", [np.array([0, 1, 2] * 4), np.full(16, 0.5), np.full(16, np.nan), np.zeros((2, 16)),
                                  np.zeros(7)])
def test_bad_bits_are_refused(bits):
    with pytest.raises(FpganError):
        Fingerprint.from_bits(bits)


def test_random_fingerprints_are_uniform_and_distinct():
    bits = np.stack([Fingerprint.random(128).bits for _ in range(500)])
    assert len(np.unique(bits, axis=0)) == 500
    assert abs(bits.mean() - 0.5) < 6 * 0.5 / math.sqrt(bits.size)
    assert (np.abs(bits.mean(axis=0) - 0.5) < 6 * 0.5 / math.sqrt(500)).all()
    assert Fingerprint.random(9).packed[1] & 0x7F == 0


def hmac_by_hand(key, message):
    """RFC 2104 from SHA-256 alone."""
    key = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    inner = hashlib.sha256(bytes(k ^ 0x36 for k in key) + message).digest()
    return hashlib.sha256(bytes(k ^ 0x5C for k in key) + inner).digest()


@pytest.mark.parametrize("n", [8, 12, 128, 256, 300, 512])
def test_derived_fingerprints_are_truncated_hmacs(n):
    key, user = bytes(range(80)), "Zoë"
    blocks = [hmac_by_hand(key, b"fpgan fingerprint v1\0Zo\xc3\xab\0" + bytes([0, 0, 0, i])) for i in range(2)]
    bits = np.unpackbits(np.frombuffer(b"".join(blocks), np.uint8))[:n]
    assert (Fingerprint.derive(key, user, n).bits == bits).all()


def test_a_derived_fingerprint_never_changes_between_versions():
    assert Fingerprint.derive(b"k" * 32, "alice").hex == "5b83d0e03bd8602d29549acd8054045f"
    assert Fingerprint.derive(b"k" * 32, "Alice") != Fingerprint.derive(b"k" * 32, "alice")


def test_derive_refuses_what_makes_no_sense():
    for key, user in ((b"", "alice"), (b"k", ""), (b"k", "\udc80")):
        with pytest.raises(FpganError):
            Fingerprint.derive(key, user)


def test_as_bits_takes_every_form():
    one, two = Fingerprint.from_hex("a5f0"), Fingerprint.from_hex("0001")
    both = np.stack([one.bits, two.bits])
    assert (as_bits(one, 16) == both[:1]).all() and (as_bits("a5f0", 16) == both[:1]).all()
    assert (as_bits(one.bits, 16) == both[:1]).all() and (as_bits(list(one.bits), 16) == both[:1]).all()
    for form in ([one, two], [one, "0001"], (one.bits, two), both, both.astype(bool), both.astype(float), both.tolist()):
        assert (as_bits(form, 16) == both).all() and as_bits(form, 16).dtype == np.uint8
    assert as_bits([], 16).shape == (0, 16)
    for bad in (np.zeros(8), "ff", [one, "ff"], np.zeros((2, 2, 16)), np.full(16, -1)):
        with pytest.raises(FpganError):
            as_bits(bad, 16)


def test_matches_broadcast_and_add_up_with_distance():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, (5, 1, 32)), rng.integers(0, 2, (1, 7, 32))
    plain = np.array([[sum(x == y for x, y in zip(a[i, 0], b[0, j], strict=True)) for j in range(7)] for i in range(5)])
    assert (matches(a, b) == plain).all() and (distance(a, b) == 32 - plain).all()
    one = Fingerprint.from_bits(a[0, 0])
    assert matches(one, one) == 32 and distance(one, Fingerprint.from_bits(1 - a[0, 0])) == 32
    with pytest.raises(FpganError):
        matches(np.zeros(16), np.zeros(15))


@pytest.mark.parametrize("n", [8, 13, 64, 128, 512])
def test_log10_p_value_is_the_exact_binomial_tail(n):
    for m in sorted({0, 1, 2, n // 4, n // 2, n // 2 + 1, 3 * n // 4, n - 1, n}):
        with localcontext(prec=320):
            p = exact_tail(m, n)
            expected = float((Decimal(p.numerator) / Decimal(p.denominator)).log10())
        assert log10_p_value(m, n) == pytest.approx(expected, rel=1e-12, abs=0), (m, n)


def test_log10_p_value_at_the_ends_and_in_arrays():
    values = log10_p_value(np.arange(513), 512)
    assert values[0] == 0 and values[512] == pytest.approx(-512 * math.log10(2), rel=1e-15)
    assert (np.diff(values) < 0).all() and values[1] > -1e-150
    assert log10_p_value(np.array([[1, 2], [3, 4]]), 8).shape == (2, 2)
    for bad in (-1, 9, 4.0):
        with pytest.raises(FpganError):
            log10_p_value(bad, 8)


def test_thresholds_are_the_published_ones():
    assert threshold(128, 1e-6) == 92 and threshold(128, 1e-2) == 78 and threshold(128, 1e-9) == 98
    assert threshold(128, 1e-6, 10**5) == 102 and threshold(128, 1e-6, 10**6) == 103 and threshold(128, 1e-6, 10**9) == 108


@pytest.mark.parametrize("n", [8, 21, 128, MAX_BITS])
@pytest.mark.parametrize("rate", [1.0, 0.5, 1 / 256, 1e-3, 1e-6, 1e-40])
@pytest.mark.parametrize("users", [1, 2, 1000])
def test_threshold_is_the_smallest_that_keeps_the_union_bound(n, rate, users):
    if users * exact_tail(n, n) > Fraction(rate):
        with pytest.raises(FpganError, match="larger rate"):
            threshold(n, rate, users)
        return
    m = threshold(n, rate, users)
    assert users * exact_tail(m, n) <= Fraction(rate)
    assert m == 0 or users * exact_tail(m - 1, n) > Fraction(rate)


@pytest.mark.parametrize("rate, users", [(0, 1), (-1, 1), (1.5, 1), (math.nan, 1), (0.1, 0)])
def test_threshold_refuses_what_is_no_rate(rate, users):
    with pytest.raises(FpganError):
        threshold(128, rate, users)
