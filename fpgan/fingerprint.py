"""Fingerprints as values, strings of 8 to 512 bits: as bits, in hexadecimal, random, derived from a key for a user's id."""

from __future__ import annotations

import hmac
import re
import secrets
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fpgan.errors import FpganError, shown

MIN_BITS, MAX_BITS = 8, 512
_DOMAIN = b"fpgan fingerprint v1\0"
_HEX_DIGITS = frozenset(string.hexdigits)
MAX_USER = 256  # characters of a user's id
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\ufe00-\ufe0f]|[\U000e0100-\U000e01ef]")
_ALIKE = ("LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC")  # scripts that share the shapes of many letters


@dataclass(frozen=True, slots=True, repr=False)
class Fingerprint:
    """The fingerprint of one model instance: an immutable, hashable value.

    Attributes:
      packed: the bits, eight to a byte, most significant first, the last byte filled with zero bits on the
        right.
      n_bits: how many bits there are, 8 to 512.
    """

    packed: bytes
    n_bits: int

    def __post_init__(self):
        check_n_bits(self.n_bits)
        if len(self.packed) != -(-self.n_bits // 8):
            raise FpganError(f"{self.n_bits} bits need {-(-self.n_bits // 8)} bytes, not {len(self.packed)}")
        if self.packed[-1] & ((1 << (-self.n_bits % 8)) - 1):
            raise FpganError(f"the bits after the {self.n_bits} of the fingerprint have to be zero")

    @classmethod
    def from_hex(cls, text: str, n_bits: int | None = None) -> Fingerprint:
        """Reads hexadecimal digits, most significant bit first.

        Args:
          text: ceil(n_bits / 4) digits of either case; blanks around them are ignored. When n_bits is no
            multiple of 4, the unused bits at the right end have to be zero.
          n_bits: how many bits there are; without it, four per digit.

        Raises:
          FpganError: something that is not a hexadecimal digit, or too many or too few digits.
        """
        digits = text.strip()
        if not digits or not _HEX_DIGITS.issuperset(digits):
            raise FpganError(f"{_shortened(text)!r} is not a fingerprint; expected hexadecimal digits")
        n_bits = check_n_bits(4 * len(digits) if n_bits is None else n_bits)
        if len(digits) != -(-n_bits // 4):
            raise FpganError(f"the fingerprint {_shortened(text)!r} has {len(digits)} hexadecimal digits, "
                             f"but {n_bits} bits are written with {-(-n_bits // 4)}; was it issued for "
                             "another model?")
        return cls(bytes.fromhex(digits + "0" * (len(digits) % 2)), n_bits)

    @classmethod
    def from_bits(cls, bits: np.ndarray | Sequence[int]) -> Fingerprint:
        """Makes a fingerprint from an array (or sequence) [n] of zeros and ones, most significant first."""
        bits = _checked_bits(np.asarray(bits))
        if bits.ndim != 1:
            raise FpganError(f"one fingerprint is an array [n]; this one has the shape {list(bits.shape)}")
        return cls(np.packbits(bits).tobytes(), len(bits))

    @classmethod
    def random(cls, n_bits: int = 128) -> Fingerprint:
        """Draws every bit uniformly from the entropy of the operating system."""
        return cls(_truncated(secrets.token_bytes(-(-check_n_bits(n_bits) // 8)), n_bits), n_bits)

    @classmethod
    def derive(cls, key: bytes, user: str, n_bits: int = 128) -> Fingerprint:
        """Derives the fingerprint of a user from a provider's secret key, so that no registry has to be kept.

        Block i is HMAC-SHA256(key, "fpgan fingerprint v1" 0x00 user-in-UTF-8 0x00 i), with i as four big-
        endian bytes; blocks 0, 1, ... are joined and cut to n_bits. Who does not have the key cannot tell the
        result from random bits (HMAC as a pseudo-random function, RFC 2104).

        Args:
          key: the secret, any length but zero (32 random bytes are right).
          user: the user's id, see `check_user`; used exactly as given (case and blanks count).
          n_bits: 8 to 512.
        """
        if not key:
            raise FpganError("the provider's key is empty; expected secret bytes (32 random ones are right)")
        message = _DOMAIN + check_user(user).encode("utf-8") + b"\0"
        blocks = -(-check_n_bits(n_bits) // 256)
        stream = b"".join(hmac.digest(key, message + i.to_bytes(4, "big"), "sha256") for i in range(blocks))
        return cls(_truncated(stream, n_bits), n_bits)

    @property
    def bits(self) -> np.ndarray:
        """The bits as a read-only uint8 array [n_bits] of zeros and ones."""
        bits = np.unpackbits(np.frombuffer(self.packed, np.uint8), count=self.n_bits)
        bits.flags.writeable = False
        return bits

    @property
    def hex(self) -> str:
        """The ceil(n_bits / 4) lower-case hexadecimal digits, most significant bit first."""
        return self.packed.hex()[:-(-self.n_bits // 4)]

    def __str__(self) -> str:
        return self.hex

    def __repr__(self) -> str:
        return f"Fingerprint.from_hex({self.hex!r}, n_bits={self.n_bits})"

    def __len__(self) -> int:
        return self.n_bits


def check_user(user: str) -> str:
    """Checks a user's id: one that people cannot tell from another by its looks would be another fingerprint.

    Args:
      user: 1 to 256 characters, in Unicode's normal form NFC, without control, format and other invisible characters,
        without blanks around it or other blanks than spaces in it, and without words of letters from two look-alike scripts.
        Lower and upper case are different ids.

    Returns:
      The id as it is.

    Raises:
      FpganError: any of this does not hold; the message names both forms where there are two.
    """
    if user.isascii() and user.isprintable() and user.strip() == user and 0 < len(user) <= MAX_USER:
        return user
    if len(user) > MAX_USER:
        raise FpganError(f"a user id has {len(user):,} characters ({shown(user, 40)!r}); expected {MAX_USER} at most")
    if not user or user != user.strip() or not all(map(_is_visible, user)):
        plain = "".join(letter if _is_visible(letter) else " " * letter.isspace() for letter in user).strip()
        raise FpganError(f"{ascii(user)} is no good user id; expected text without control or invisible characters, without "
                         "blanks around it" + (f", such as {plain!r}" if plain else ""))
    normal = unicodedata.normalize("NFC", user)
    if normal != user:
        raise FpganError(f"the user id {ascii(user)} is not in the normal form NFC; expected {ascii(normal)}, which looks "
                         "the same")
    for word in re.findall(r"[^\W\d_]+", user):
        scripts = {unicodedata.name(letter, "").split(" ")[0] for letter in word}.intersection(_ALIKE)
        if len(scripts) > 1:
            raise FpganError(f"the user id {user!r}, {ascii(user)}, mixes letters that look alike, of "
                             f"{' and '.join(name.title() for name in sorted(scripts))}; expected one script in a word")
    return user


def _is_visible(letter: str) -> bool:
    return letter == " " or letter.isprintable() and not _INVISIBLE.match(letter)


def check_n_bits(n_bits: int) -> int:
    """Returns n_bits, or raises FpganError when it is no whole number from 8 to 512."""
    if not isinstance(n_bits, (int, np.integer)) or not MIN_BITS <= n_bits <= MAX_BITS:
        raise FpganError(f"a fingerprint cannot have {n_bits} bits; expected a whole number from "
                         f"{MIN_BITS} to {MAX_BITS}")
    return int(n_bits)


def as_bits(fingerprints: Fingerprint | str | np.ndarray | Sequence, n_bits: int) -> np.ndarray:
    """Brings fingerprints in any form to one array.

    Args:
      fingerprints: a Fingerprint, its hexadecimal digits, an array [n_bits] or [N, n_bits] of zeros and ones,
        or a sequence of these.
      n_bits: the number of bits that each has to have.

    Returns:
      uint8 [N, n_bits]; one fingerprint gives N = 1.

    Raises:
      FpganError: a fingerprint of another length, or values other than 0 and 1.
    """
    if isinstance(fingerprints, str):
        return Fingerprint.from_hex(fingerprints, n_bits).bits[None]  # [1, n]
    if isinstance(fingerprints, Fingerprint):
        return _checked_length(fingerprints.bits[None], n_bits)  # [1, n]
    if isinstance(fingerprints, Sequence):
        if not len(fingerprints):
            return np.zeros((0, n_bits), np.uint8)
        if any(isinstance(item, (str, Fingerprint)) or np.ndim(item) for item in fingerprints):
            return np.concatenate([as_bits(item, n_bits) for item in fingerprints])  # [N, n]
    bits = np.atleast_2d(_checked_bits(np.asarray(fingerprints)))  # [N, n]
    if bits.ndim != 2:
        raise FpganError(f"fingerprints have the shape [N, {n_bits}]; these have {list(bits.shape)}")
    return _checked_length(bits, n_bits)


def _checked_bits(bits: np.ndarray) -> np.ndarray:
    if bits.dtype.kind not in "buif" or not ((bits == 0) | (bits == 1)).all():
        raise FpganError("the bits of a fingerprint have to be 0 or 1; of logits take `logits > 0` first")
    return bits.astype(np.uint8)


def _checked_length(bits: np.ndarray, n_bits: int) -> np.ndarray:
    if bits.shape[-1] != n_bits:
        raise FpganError(f"the fingerprint has {bits.shape[-1]} bits, but the model reads {n_bits}")
    return bits


def _truncated(stream: bytes, n_bits: int) -> bytes:
    """Cuts bytes to the first n_bits bits, filling the last byte with zero bits."""
    cut = bytearray(stream[:-(-n_bits // 8)])
    cut[-1] &= 0xFF << (-n_bits % 8) & 0xFF
    return bytes(cut)


def _shortened(text: str, limit: int = 40) -> str:
    return text if len(text) <= limit else text[:limit] + "..."
