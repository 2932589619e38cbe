"""A registry as a CSV file, and lists of users as text.

A registry has the header `user,fingerprint` and one line per user, the fingerprint in hexadecimal digits. It is written in
UTF-8 with commas; what a spreadsheet makes of it is read as well: UTF-16, semicolons or tabs, capitals in the header, blank
rows. A list of users has an id per line. An id that could be anything else (a header, a row of a table, a comment) is
refused unless it stands in double quotes, because a wrong id would be issued a fingerprint for good.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fpgan.attribution.registry import Registry, check_user, from_fingerprints, from_packed, issue
from fpgan.errors import FpganError, reason, shown
from fpgan.fingerprint import Fingerprint
from fpgan.io.files import locked, write_file
from fpgan.io.inputs import decode_text, open_regular, read_text

HEADER = ["user", "fingerprint"]
MAX_FILE = 1 << 31  # bytes
_DELIMITERS = ",;\t"
_HEADERS = re.compile(r"(users?|fingerprints?|ids?|names?|e-?mails?|accounts?|customers?|logins?)"
                      r"([ _-]?(ids?|names?|address))?|kunden?|benutzer|utilisateur|usuario", re.IGNORECASE)
_TABLE = re.compile(r"[,;\t|]")
_OTHER_FORM = re.compile(r"""[#{\[<'}\]]|[-*+] |//|%YAML|---|sep=""", re.IGNORECASE)
_WITH_FINGERPRINT = re.compile(r"[\s:=]+(0x)?[0-9a-fA-F]{16,}$")


def read(path: str | os.PathLike, n_bits: int = 128) -> Registry:
    """Reads a registry file.

    Args:
      path: a CSV file as described at the head of this module.
      n_bits: the length that each fingerprint has to have.

    Returns:
      The registry; of a file that holds the header alone, one without users.

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
    """Returns whether a file begins as a registry does: with the header user,fingerprint, in any form that `read` takes."""
    try:
        with open_regular(path) as file:
            head = file.read(160)
        text = decode_text(head[:len(head) // 4 * 4] if len(head) == 160 else head)
    except OSError as error:
        raise FpganError(f"{os.fspath(path)}: cannot be read ({reason(error)})") from error
    except ValueError:  # a letter may be cut in two; the header of a registry is all ASCII
        text = head.decode("ascii", "replace")
    return _delimiter(re.match(r"[^\r\n]*", text)[0]) is not None


def write(registry: Registry, path: str | os.PathLike) -> None:
    """Writes a registry file atomically, readable by its owner alone; one that is there is replaced and keeps its mode."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows((user, registry.at(place).hex) for place, user in enumerate(registry.users))
    write_file(path, text.getvalue().encode("utf-8"), sync=True, private=True)


def append(path: str | os.PathLike, new: Registry) -> Registry:
    """Adds users to a registry file, making it if need be; other processes may be adding at the same time.

    Returns:
      The whole registry, as it is now in the file.

    Raises:
      FpganError: a user or a fingerprint is already in the file; it is then unchanged.
    """
    with _locked(path):
        return _append(path, new)


def issue_missing(path: str | os.PathLike, users: Iterable[str], n_bits: int = 128) -> Registry:
    """Issues random fingerprints to those users who are not in a registry file yet.

    Several processes may do so at the same time: who comes second takes what the first has issued.

    Returns:
      The whole registry, as it is now in the file.
    """
    users = list(users)
    with _locked(path):
        old = read(path, n_bits) if os.path.lexists(path) else None
        missing = [user for user in users if old is None or user not in old.index]
        return _append(path, issue(missing, n_bits)) if missing or old is None else old


def read_users(path: str | os.PathLike) -> list[str]:
    """Reads user ids from text, one per line, blank lines left out.

    An id with a comma, a semicolon, a tab or a bar, or one that looks like a header, a comment or a piece of JSON, has to
    stand in double quotes (and a quote in it is doubled), as spreadsheets write a column.

    Raises:
      FpganError: naming file and line: an id that is none, that could be anything else, or that is already there.
    """
    places: dict[str, int] = {}
    for line, text in enumerate(re.split(r"\r\n|\n|\r", read_text(path, MAX_FILE)), start=1):
        if not text.strip(" " + _DELIMITERS):  # also the blank rows of a spreadsheet
            continue
        try:
            user = check_user(_listed_user(text, first=not places))
        except FpganError as error:
            raise FpganError(f"{os.fspath(path)}, line {line}: {error}") from error
        if user in places:
            raise FpganError(f"{os.fspath(path)}, line {line}: the user {user!r} is already on line "
                             f"{places[user]}; keep one")
        places[user] = line
    if not places:
        raise FpganError(f"{os.fspath(path)}: no user ids in this file; expected one per line")
    return list(places)


def _locked(path: str | os.PathLike):
    return locked(f"{os.path.realpath(path)}.lock")


def _append(path: str | os.PathLike, new: Registry) -> Registry:
    """As `append`, under the lock."""
    if not os.path.lexists(path):
        write(new, path)
        return new
    old = read(path, new.n_bits)
    whole = from_fingerprints(old.users + new.users, np.concatenate([old.bits, new.bits]), new.n_bits)
    write(whole, path)
    return whole


def _listed_user(text: str, first: bool) -> str:
    """The id that a line of a list stands for; FpganError if it could be anything else than an id."""
    if text[0] == '"':
        try:
            rows = list(csv.reader([text], strict=True))
        except csv.Error as error:
            raise FpganError(f"{shown(text, 80)!r} is badly quoted ({error}); expected one id per line") from error
        if len(rows) != 1 or len(rows[0]) != 1:
            raise FpganError(f"{shown(text, 80)!r} has {len(rows[0])} fields; expected one id per line and nothing else")
        return rows[0][0]
    if first and _HEADERS.fullmatch(text.strip()):
        raise FpganError(f"{shown(text, 80)!r} looks like a header; remove that line, or put an id in double quotes")
    if _TABLE.search(text) or _WITH_FINGERPRINT.search(text):
        raise FpganError(f"{shown(text, 80)!r} looks like a row of a table; expected one id per line and nothing else (an "
                         "id with such letters stands in double quotes; a registry has the header user,fingerprint)")
    if _OTHER_FORM.match(text):
        raise FpganError(f"{shown(text, 80)!r} looks like a comment, a list or another format; expected one id per line (an "
                         "id that begins so stands in double quotes)")
    return text


def _parsed(row: list[str], n_bits: int) -> tuple[str, Fingerprint]:
    if len(row) != 2:
        raise FpganError(f"there are {len(row)} fields; expected two: user,fingerprint")
    return check_user(row[0]), Fingerprint.from_hex(row[1], n_bits)


def _delimiter(header: str) -> str | None:
    """What stands between the fields of a registry with this first line; None if it is no header of one."""
    for delimiter in _DELIMITERS:
        try:
            fields = next(csv.reader([header], delimiter=delimiter), [])
        except csv.Error:
            return None
        if [field.strip().lower() for field in fields] == HEADER:
            return delimiter
    return None


def _rows(path: str | os.PathLike) -> Iterator[tuple[int, list[str]]]:
    """Yields line number and fields of a registry file, without header and blank rows."""
    text = read_text(path, MAX_FILE)
    header = re.match(r"[^\r\n]*", text)[0]
    delimiter = _delimiter(header)
    if delimiter is None:
        raise FpganError(f"{os.fspath(path)}, line 1: the header is {shown(header, 80)!r}; expected {','.join(HEADER)!r}")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    next(reader)
    try:
        yield from ((reader.line_num, row) for row in reader if any(field.strip() for field in row))
    except csv.Error as error:
        raise FpganError(f"{os.fspath(path)}, line {reader.line_num}: no valid CSV ({error})") from error
