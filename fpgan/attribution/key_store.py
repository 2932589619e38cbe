"""A registry without a file: the provider's secret key, from which fingerprints are derived.

One key has many spellings, and each of them taken for raw bytes would be another key, which blames others for every image.
So text is read as text, and what looks like text and is no known form is refused.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fpgan.attribution.registry import Registry, issue
from fpgan.errors import FpganError, reason
from fpgan.io.inputs import decode_text, read_bytes

MIN_KEY_BYTES, MAX_KEY_FILE = 16, 1 << 16
_TEXT_BYTES = frozenset(string.printable.encode())
_TEXT_SHARE = 0.85  # of the bytes: a random key of 32 bytes has so many printable ones once in 10^8
_HEX_SHARE = 0.8  # of the letters: base64 of a random key has so many hexadecimal digits less than once in 10^5
_PAIRS = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2})+|[0-9a-fA-F]{2}(-[0-9a-fA-F]{2})+")


@dataclass(frozen=True)
class KeyStore:
    """A provider's key file, as a `fpgan.attribution.stores.Store`: whoever is named has a fingerprint.

    Attributes:
      path: the file, see `read_key`.
      n_bits: length of the fingerprints.
      report: is told in a line what the file was taken for.
    """

    path: str | os.PathLike
    n_bits: int = 128
    report: Callable[[str], None] = lambda line: None

    def registry(self) -> Registry:
        """Raises FpganError: a key knows nobody by itself."""
        raise FpganError("a provider's key knows nobody by itself; name the users")

    def select(self, users: Sequence[str]) -> Registry:
        """Derives the fingerprints of these users; refuses repeated ones."""
        return issue(users, self.n_bits, read_key(self.path, self.report))

    issue = select  # nothing has to be remembered


def read_key(path: str | os.PathLike, report: Callable[[str], None] = lambda line: None) -> bytes:
    """Reads a provider's secret key.

    Args:
      path: a file of hexadecimal digits (from `openssl rand -hex 32`; with or without 0x, colons or line breaks), of base64
        (from `openssl rand -base64 32`), or of raw bytes. Text may be UTF-8 or UTF-16.
      report: is told in a line for which of these the file was taken, and in another one if everybody may read it.

    Returns:
      16 bytes or more.

    Raises:
      FpganError: the file cannot be read, looks like text but is none of these forms, or the key has fewer than 16 bytes.
    """
    try:
        content = read_bytes(path, MAX_KEY_FILE)
        mode = os.stat(path).st_mode
    except OSError as error:
        raise FpganError(f"{os.fspath(path)}: the key cannot be read ({reason(error)})") from error
    try:
        key, form = parse_key(content)
    except ValueError as error:
        raise FpganError(f"{os.fspath(path)}: {error}; expected what openssl rand -hex 32 prints. If the key is meant to be "
                         "these very bytes, write them as digits: xxd -p -c 0 FILE") from error
    if len(key) < MIN_KEY_BYTES:
        raise FpganError(f"{os.fspath(path)}: the key has {len(key)} bytes; expected {MIN_KEY_BYTES} or more "
                         "(openssl rand -hex 32 makes a good one)")
    report(f"{os.fspath(path)}: a key of {len(key)} bytes, read as {form}")
    if os.name == "posix" and mode & stat.S_IROTH:
        report(f"warning: {os.fspath(path)} can be read by everybody on this machine; mend it with: chmod 600")
    return key


def parse_key(content: bytes) -> tuple[bytes, str]:
    """Turns the content of a key file into the key, and says what it was taken for.

    Raises:
      ValueError: it looks like text and is no known form; nothing of the content is in the message.
    """
    text = _text(content)
    if text is None:
        return content, "raw bytes"
    digits = "".join(text.split())
    digits = digits[2:] if digits[:2] in ("0x", "0X") else digits
    if _PAIRS.fullmatch(digits):
        digits = digits.replace(":", "").replace("-", "")
    hexadecimal = sum(letter in string.hexdigits for letter in digits)
    if hexadecimal == len(digits):
        if len(digits) % 2:
            raise ValueError(f"the key has {len(digits)} hexadecimal digits, an odd number, so one is missing or too many")
        return bytes.fromhex(digits), "hexadecimal digits"
    if hexadecimal >= _HEX_SHARE * len(digits):
        raise ValueError(f"the key looks like hexadecimal digits, but {len(digits) - hexadecimal} of its {len(digits)} "
                         "letters are none")
    return _from_base64(text), "base64"


def _from_base64(text: str) -> bytes:
    """Decodes base64 of either alphabet, wrapped or not, padded or not; ValueError if it is none beyond doubt."""
    letters = "".join(text.strip().splitlines())
    body = letters.rstrip("=")
    known = re.fullmatch("[A-Za-z0-9+/]+|[A-Za-z0-9_-]+", body) and letters in (body, body + "=" * (-len(body) % 4))
    mixed = all(re.search(kind, body) for kind in ("[a-z]", "[A-Z]", "[0-9+/_-]"))  # no word, and no base32
    try:
        key = base64.b64decode(body + "=" * (-len(body) % 4), b"-_" if re.search("[-_]", body) else b"+/")
    except (binascii.Error, ValueError):
        key = b""
    again = base64.b64encode(key, b"-_" if re.search("[-_]", body) else b"+/").decode().rstrip("=")
    if not (known and mixed and again == body):
        raise ValueError("the key looks like text, but is neither hexadecimal digits nor base64")
    return key


def _text(content: bytes) -> str | None:
    """The content as text if it looks like text, None if not; ValueError if it looks like text in no known encoding."""
    try:
        text = decode_text(content)
    except ValueError:
        text = None
    if text is not None and (all(letter.isprintable() or letter.isspace() for letter in text) and text or
                             _share_of_text(text.encode()) >= _TEXT_SHARE):
        return text
    if _share_of_text(content.replace(b"\0", b"")) >= _TEXT_SHARE:
        raise ValueError("the key looks like text, but in an unknown encoding, or with letters that are none")
    return None


def _share_of_text(content: bytes) -> float:
    return sum(byte in _TEXT_BYTES for byte in content) / max(len(content), 1)
