"""A registry as a CSV file.

The file has the header `user,fingerprint` and one line per user, the fingerprint in hexadecimal digits, in UTF-8.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fpgan.attribution.registry import Registry, check_user, from_fingerprints, from_packed, issue
from fpgan.errors import FpganError
from fpgan.fingerprint import Fingerprint
from fpgan.io.files import locked, reason, write_file

HEADER = ["user", "fingerprint"]


def read(path: str | os.PathLike, n_bits: int = 128) -> Registry:
    """Reads a registry file.

    Args:
      path: a CSV file as described at the head of this module.
      n_bits: the length that each fingerprint has to have.

    Raises:
      FpganError: naming file and line: no such file, a wrong header, a line without two fields, a bad
        fingerprint or user id, or a user or fingerprint that is already there.
    """
    users: dict[str, int] = {}
    packed: dict[bytes, int] = {}
    for line, row in _rows(path):
        where = f"{os.fspath(path)}, line {line}"
        try:
            user, print_ = _parsed(row, n_bits)
        except FpganError as error:
            raise FpganError(f"{where}: {error}") from error
        if user in users:
            raise FpganError(f"{where}: the user {user!r} is already on line {users[user]}; keep one")
        if print_.packed in packed:
            raise FpganError(f"{where}: the fingerprint of {user!r} is already on line "
                             f"{packed[print_.packed]}; issue another")
        users[user] = packed[print_.packed] = line
    return from_packed(tuple(users), packed, n_bits)


@dataclass(frozen=True)
class CsvStore:
    """A registry file, as a `fpgan.attribution.stores.Store`.

    Attributes:
      path: the file.
      n_bits: the length that each fingerprint has to have.
    """

    path: str | os.PathLike
    n_bits: int = 128

    def registry(self) -> Registry:
        """Reads everybody."""
        return read(self.path, self.n_bits)

    def select(self, users: Sequence[str]) -> Registry:
        """Reads these users alone, in this order; refuses unknown or repeated ones."""
        return self.registry().select(users)

    def issue(self, users: Sequence[str]) -> Registry:
        """Issues random fingerprints to those of the users who have none yet, and returns them all, in this order."""
        return issue_missing(self.path, users, self.n_bits).select(users)


def is_registry(path: str | os.PathLike) -> bool:
    """Whether a file begins as a registry does: with the header user,fingerprint."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            return [field.strip() for field in file.readline(80).split(",")] == HEADER
    except OSError as error:
        raise FpganError(f"{os.fspath(path)}: cannot be read ({reason(error)})") from error


def write(registry: Registry, path: str | os.PathLike) -> None:
    """Writes a registry file atomically, replacing one that is there."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows((user, registry.at(place).hex) for place, user in enumerate(registry.users))
    write_file(path, text.getvalue().encode("utf-8"), sync=True)


def append(path: str | os.PathLike, new: Registry) -> Registry:
    """Adds users to a registry file, making it if need be; other processes may be adding at the same time.

    Returns:
      The whole registry, as it is now in the file.

    Raises:
      FpganError: a user or a fingerprint is already in the file; it is then unchanged.
    """
    with locked(f"{os.fspath(path)}.lock"):
        if not os.path.exists(path):
            write(new, path)
            return new
        old = read(path, new.n_bits)
        whole = from_fingerprints(old.users + new.users, np.concatenate([old.bits, new.bits]), new.n_bits)
        write(whole, path)
        return whole


def issue_missing(path: str | os.PathLike, users: Iterable[str], n_bits: int = 128) -> Registry:
    """Issues random fingerprints to those users who are not in a registry file yet.

    Returns:
      The whole registry, as it is now in the file.
    """
    old = read(path, n_bits) if os.path.exists(path) else None
    missing = [user for user in users if old is None or user not in old.index]
    return append(path, issue(missing, n_bits)) if missing or old is None else old


def read_users(path: str | os.PathLike) -> list[str]:
    """Reads user ids from UTF-8 text, one per line, blank lines left out; FpganError names a bad line."""
    places: dict[str, int] = {}
    for line, text in enumerate(_text(path).splitlines(), start=1):
        if not text.strip():
            continue
        try:
            user = check_user(text)
        except FpganError as error:
            raise FpganError(f"{os.fspath(path)}, line {line}: {error}") from error
        if user in places:
            raise FpganError(f"{os.fspath(path)}, line {line}: the user {user!r} is already on line "
                             f"{places[user]}; keep one")
        places[user] = line
    if not places:
        raise FpganError(f"{os.fspath(path)}: no user ids in this file; expected one per line")
    return list(places)


def _parsed(row: list[str], n_bits: int) -> tuple[str, Fingerprint]:
    if len(row) != 2:
        raise FpganError(f"there are {len(row)} fields; expected two: user,fingerprint")
    return check_user(row[0]), Fingerprint.from_hex(row[1], n_bits)


def _rows(path) -> Iterator[tuple[int, list[str]]]:
    """Yields line number and fields of a registry file, without header and blank lines."""
    reader = csv.reader(io.StringIO(_text(path), newline=""))
    try:
        header = next(reader, [])
        if [field.strip() for field in header] != HEADER:
            raise FpganError(f"{os.fspath(path)}, line 1: the header is {','.join(header)[:80]!r}; "
                             f"expected {','.join(HEADER)!r}")
        yield from ((reader.line_num, row) for row in reader if row)
    except csv.Error as error:
        raise FpganError(f"{os.fspath(path)}, line {reader.line_num}: no valid CSV ({error})") from error


def _text(path) -> str:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise FpganError(f"{os.fspath(path)}: cannot be read ({reason(error)})") from error
