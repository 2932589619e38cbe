"""A registry without a file: the provider's secret key, from which fingerprints are derived."""

from __future__ import annotations

import os
import string

from fpgan.errors import FpganError
from fpgan.io.files import reason

MIN_KEY_BYTES = 16


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
