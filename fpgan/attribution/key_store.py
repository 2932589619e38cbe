"""A registry without a file: the provider's secret key, from which fingerprints are derived."""

from __future__ import annotations

import os
import string
from collections.abc import Sequence
from dataclasses import dataclass

from fpgan.attribution.registry import Registry, issue
from fpgan.errors import FpganError
from fpgan.io.files import reason

MIN_KEY_BYTES = 16


@dataclass(frozen=True)
class KeyStore:
    """A provider's key file, as a `fpgan.attribution.stores.Store`: whoever is named has a fingerprint.

    Attributes:
      path: the file, see `read_key`.
      n_bits: length of the fingerprints.
    """

    path: str | os.PathLike
    n_bits: int = 128

    def registry(self) -> Registry:
        """Raises FpganError: a key knows nobody by itself."""
        raise FpganError("a provider's key knows nobody by itself; name the users")

    def select(self, users: Sequence[str]) -> Registry:
        """Derives the fingerprints of these users; refuses repeated ones."""
        return issue(users, self.n_bits, read_key(self.path))

    issue = select  # nothing has to be remembered


def read_key(path: str | os.PathLike) -> bytes:
    """Reads a provider's secret key: hexadecimal digits (from `openssl rand -hex 32`), else the raw bytes.

    Raises:
      FpganError: the file cannot be read, or the key has fewer than 16 bytes.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise FpganError(f"{os.fspath(path)}: the key cannot be read ({reason(error)})") from error
    digits = content.strip()
    is_hex = digits and len(digits) % 2 == 0 and not digits.strip(string.hexdigits.encode())
    key = bytes.fromhex(digits.decode("ascii")) if is_hex else content
    if len(key) < MIN_KEY_BYTES:
        raise FpganError(f"{os.fspath(path)}: the key has {len(key)} bytes; expected {MIN_KEY_BYTES} or more "
                         "(openssl rand -hex 32 makes a good one)")
    return key
