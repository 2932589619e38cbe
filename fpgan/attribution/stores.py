"""Where registries are kept: one way to open any of them.

A store of another kind is a class with the methods of `Store`, and a line in `is_registry` and `open_store`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fpgan.attribution import csv_store
from fpgan.attribution.csv_store import CsvStore
from fpgan.attribution.database import Database
from fpgan.attribution.key_store import KeyStore
from fpgan.attribution.registry import Registry
from fpgan.attribution.sqlite_tables import is_sqlite
from fpgan.errors import FpganError


class Store(Protocol):
    """What keeps the fingerprints of users: a CSV file, a database, or a provider's key from which they are derived."""

    def registry(self) -> Registry:
        """Returns everybody."""

    def select(self, users: Sequence[str]) -> Registry:
        """Returns these users alone, in this order; raises FpganError for unknown or repeated ones."""

    def issue(self, users: Sequence[str]) -> Registry:
        """Issues fingerprints to those of the users who have none yet; returns them all, in this order."""


@dataclass(frozen=True)
class DatabaseStore:
    """A registry in SQLite (`fpgan.attribution.database`), as a Store; it stays open for names to be looked up in it.

    Attributes:
      path: the file.
      n_bits: the length that its fingerprints have to have.
    """

    path: str | os.PathLike
    n_bits: int = 128

    def registry(self) -> Registry:
        """Reads all fingerprints; names are looked up when they are asked for."""
        return open_database(self.path, self.n_bits).registry()

    def select(self, users: Sequence[str]) -> Registry:
        """Reads these users alone, in this order; refuses unknown or repeated ones."""
        return open_database(self.path, self.n_bits).select(users)

    def issue(self, users: Sequence[str]) -> Registry:
        """Issues random fingerprints to those of the users who have none yet, and returns them all, in this order."""
        database = open_database(self.path, self.n_bits)
        database.issue(users, skip_known=True)
        return database.select(users)


def open_database(path: str | os.PathLike, n_bits: int | None = None) -> Database:
    """Opens a registry in SQLite; FpganError if it is none, or its fingerprints have not the n_bits of the model."""
    database = Database(path)
    if n_bits is not None and database.n_bits != n_bits:
        raise FpganError(f"{os.fspath(path)}: its fingerprints have {database.n_bits} bits, but the model reads {n_bits}; "
                         "was it made for another model?")
    return database


def is_registry(path: str | os.PathLike) -> bool:
    """Returns whether a file is a registry by its first bytes, and not for instance a list of user ids."""
    return is_sqlite(path) or csv_store.is_registry(path)


def open_store(path: str | os.PathLike | None = None, key_file: str | os.PathLike | None = None,
               n_bits: int = 128, report: Callable[[str], None] = lambda line: None) -> Store:
    """Opens a registry as what it is by its first bytes; users are not read yet.

    Args:
      path: a registry file, CSV or SQLite.
      key_file: a provider's key instead, see `fpgan.attribution.read_key`.
      n_bits: length of the fingerprints, that of the model.
      report: is told in a line what a key file was taken for.

    Raises:
      FpganError: neither is given, or both are.
    """
    if (path is None) == (key_file is None):
        raise FpganError("expected either a registry file or a provider's key, one of the two")
    if key_file is not None:
        return KeyStore(key_file, n_bits, report)
    return DatabaseStore(path, n_bits) if is_sqlite(path) else CsvStore(path, n_bits)
