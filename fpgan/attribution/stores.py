"""Where registries are kept: one way to open any of them.

A store of another kind is a class with the methods of `Store`, and a line in `is_registry` and `open_store`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Protocol

from fpgan.attribution import csv_store
from fpgan.attribution.csv_store import CsvStore
from fpgan.attribution.key_store import KeyStore
from fpgan.attribution.registry import Registry
from fpgan.errors import FpganError


class Store(Protocol):
    """What keeps the fingerprints of users: a CSV file, or a provider's key from which they are derived."""

    def registry(self) -> Registry:
        """Returns everybody."""

    def select(self, users: Sequence[str]) -> Registry:
        """Returns these users alone, in this order; raises FpganError for unknown or repeated ones."""

    def issue(self, users: Sequence[str]) -> Registry:
        """Issues fingerprints to those of the users who have none yet; returns them all, in this order."""


def is_registry(path: str | os.PathLike) -> bool:
    """Returns whether a file is a registry by its first bytes, and not for instance a list of user ids."""
    return csv_store.is_registry(path)


def open_store(path: str | os.PathLike | None = None, key_file: str | os.PathLike | None = None,
               n_bits: int = 128, report: Callable[[str], None] = lambda line: None) -> Store:
    """Opens a registry as what it is by its first bytes; users are not read yet.

    Args:
      path: a registry file: CSV.
      key_file: a provider's key instead, see `fpgan.attribution.read_key`.
      n_bits: length of the fingerprints, that of the model.
      report: is told in a line what a key file was taken for.

    Raises:
      FpganError: neither is given, or both are.
    """
    if (path is None) == (key_file is None):
        raise FpganError("expected either a registry file or a provider's key, one of the two")
    return CsvStore(path, n_bits) if key_file is None else KeyStore(key_file, n_bits, report)
