"""The tables of a registry in an SQLite file, and its packed fingerprints, which attribution reads as one array.

A row for each fingerprint would cost a step of the database each; in blocks, 10^7 of 128 bits are 2442 reads.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Iterator

import numpy as np

from fpgan.errors import FpganError, reason, shown
from fpgan.fingerprint import MAX_BITS, MIN_BITS
from fpgan.io.inputs import Field, check_fields, open_regular

PROVIDER, VERIFIER = "provider", "verifier"
ODD_VALUES = (ValueError, TypeError, KeyError, OverflowError, OSError)  # what columns give that hold something else
BLOCK = 4096  # users whose fingerprints lie in one blob
APPLICATION, VERSION = 0x6670_6772, 1  # "fpgr" and the format, in the header of the file
_WAIT_SECONDS = 300  # for another process that writes
_CACHE_KIB = 1 << 18  # at most
_MAGIC = b"SQLite format 3\0"
_SCHEMA = f"""
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
CREATE TABLE facts (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE users (place INTEGER PRIMARY KEY, user TEXT NOT NULL UNIQUE, issued INTEGER NOT NULL, revoked INTEGER);
CREATE INDEX revoked_users ON users (revoked) WHERE revoked IS NOT NULL;
CREATE TABLE codes (block INTEGER PRIMARY KEY, packed BLOB NOT NULL);
CREATE TABLE entries (
  number INTEGER PRIMARY KEY, kind TEXT NOT NULL, place INTEGER NOT NULL, time INTEGER NOT NULL, detail TEXT);
CREATE INDEX other_entries ON entries (kind, place) WHERE kind <> 'issue';
CREATE TABLE tiles (level INTEGER NOT NULL, number INTEGER NOT NULL, hashes BLOB NOT NULL, PRIMARY KEY (level, number));
CREATE TABLE heads (size INTEGER PRIMARY KEY, document TEXT NOT NULL);
"""
_FACTS = {"n_bits": Field(int, MIN_BITS, MAX_BITS), "role": Field(str, choices=(PROVIDER, VERIFIER)),
          "id": Field(str, 32, 32), "created": Field(int), "public_key": Field(str, 64, 64, optional=True)}
_CERTAIN_BITS = 96  # so many random bits are distinct among 10^7 users, but for a probability of 2^-50
_BLOCKS_AT_ONCE = 256


@contextlib.contextmanager
def telling(path: str | os.PathLike, *more: type[Exception]) -> Iterator[None]:
    """Turns an error of SQLite into a FpganError that names the file; and `more`, for instance ODD_VALUES."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError, *more) as error:
        raise FpganError(f"{os.fspath(path)}: {shown(reason(error))}; is it a registry, whole, and on a local disk?"
                         ) from error


def is_sqlite(path: str | os.PathLike) -> bool:
    """Returns whether a file begins as an SQLite file does."""
    try:
        with open_regular(path) as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def create(path: str | os.PathLike, facts: dict) -> None:
    """Makes the file with its tables, whole or not at all; raises FpganError if there is one or it cannot be made."""
    temporary = f"{os.fspath(path)}.{secrets.token_hex(4)}.tmp"
    try:
        os.makedirs(os.path.dirname(temporary) or ".", exist_ok=True)
        create_private(temporary)
        with contextlib.closing(sqlite3.connect(temporary)) as connection:
            connection.executescript(_SCHEMA)
            connection.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())
            connection.commit()
            connection.execute("PRAGMA journal_mode = WAL")
        os.link(temporary, path)  # fails where a file is, unlike a rename
    except FileExistsError:
        raise FpganError(f"{os.fspath(path)}: there is a file already; a registry is made once, later commands add to it"
                         ) from None
    except (OSError, sqlite3.Error) as error:
        raise FpganError(f"{os.fspath(path)}: the registry cannot be made ({error})") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def create_private(path: str) -> None:
    """Makes an empty file that its owner alone can read; SQLite gives its journals the same mode."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def connect(path: str) -> sqlite3.Connection:
    """Opens the file; FpganError if it is of another kind, or of a newer format. Damage is an sqlite3.Error."""
    if not is_sqlite(path):
        raise FpganError(f"{path}: no registry of this kind; fpgan registry init makes one")
    connection = sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False)
    names = ("application_id", "user_version")
    application, version = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
    if application != APPLICATION:
        raise FpganError(f"{path}: an SQLite file of another program; fpgan registry init makes a registry")
    if version > VERSION:
        raise FpganError(f"{path} has the format version {version}, this fpgan reads up to {VERSION}; upgrade fpgan")
    connection.execute("PRAGMA trusted_schema = OFF")  # the file may come from somebody else
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    return connection


def read_facts(connection: sqlite3.Connection, path: str) -> dict:
    """Reads what is known about a registry as a whole; FpganError if it is not what `create` was given."""
    facts = dict(connection.execute("SELECT name, value FROM facts"))
    check_fields({name: value for name, value in facts.items() if name != "secret"}, _FACTS, path)
    if not isinstance(facts.get("secret"), bytes):
        raise FpganError(f"{path}: the registry is damaged: its secret is missing; take a copy that is whole")
    return facts


def read_codes(connection: sqlite3.Connection, n_bits: int, start: int, stop: int) -> np.ndarray:
    """Reads the fingerprints of places start ... stop - 1, as many as there are, zeros behind the last user of a block.

    Args:
      connection: of a file with the table.
      n_bits: length of the fingerprints.
      start, stop: places of users.

    Returns:
      uint8 [N, ceil(n_bits / 8)].

    Raises:
      FpganError: a block is missing, or of another size, so that fingerprints would be taken for those of others.
    """
    first, row_bytes = start // BLOCK, -(-n_bits // 8)
    blobs = connection.execute("SELECT block, packed FROM codes WHERE block BETWEEN ? AND ? ORDER BY block",
                               (first, (stop - 1) // BLOCK))
    codes, filled = np.empty((max(stop - start, 0), row_bytes), np.uint8), 0
    for number, (block, blob) in enumerate(blobs, first):
        if block != number or len(blob) != BLOCK * row_bytes:
            raise FpganError(f"the registry is damaged at its block {number} of fingerprints; take a copy that is whole")
        rows = np.frombuffer(blob, np.uint8).reshape(-1, row_bytes)
        rows = rows[max(start - number * BLOCK, 0):stop - number * BLOCK]
        codes[filled:filled + len(rows)] = rows
        filled += len(rows)
    return codes[:filled]


def append_codes(connection: sqlite3.Connection, place: int, packed: np.ndarray) -> None:
    """Writes fingerprints from a place on, the first free one; within a transaction.

    A block has its final size from the start, so that writing into it touches few pages.
    """
    start, row_bytes = 0, packed.shape[1]
    while start < len(packed):
        block, offset = divmod(place + start, BLOCK)
        if not offset:
            connection.execute("INSERT INTO codes VALUES (?, zeroblob(?))", (block, BLOCK * row_bytes))
        rows = packed[start:start + BLOCK - offset]
        with connection.blobopen("codes", "packed", block) as blob:
            blob.seek(offset * row_bytes)
            blob.write(rows.tobytes())
        start += len(rows)


def draw_codes(connection: sqlite3.Connection, n_bits: int, count: int, users: int) -> np.ndarray:
    """Draws random fingerprints that none of the first `users` has: uint8 [count, ceil(n_bits / 8)]."""
    packed = _random(n_bits, count)
    if n_bits >= _CERTAIN_BITS:
        return packed
    if users + count > 2**n_bits // 2:
        raise FpganError(f"{users + count} users are too many for {n_bits} bits; use a model with more bits")
    while (again := taken_codes(connection, n_bits, packed, users)).any():
        packed[again] = _random(n_bits, int(again.sum()))
    return packed


def taken_codes(connection: sqlite3.Connection, n_bits: int, packed: np.ndarray, users: int) -> np.ndarray:
    """Finds fingerprints that one of the first `users` has, or that stand earlier in the array: bool [N].

    Equal fingerprints have equal first 8 bytes; of those that do, the whole is compared.
    """
    heads = _heads(packed)  # [N]
    ordered = np.sort(heads)
    suspects, seen = [ordered[1:][ordered[1:] == ordered[:-1]]], set()
    for start in range(0, users if len(packed) else 0, _BLOCKS_AT_ONCE * BLOCK):
        codes = read_codes(connection, n_bits, start, min(start + _BLOCKS_AT_ONCE * BLOCK, users))
        theirs = _heads(codes)
        met = ordered[np.minimum(np.searchsorted(ordered, theirs), len(ordered) - 1)] == theirs
        suspects.append(theirs[met])
        seen.update(map(bytes, codes[met]))
    found = np.zeros(len(packed), bool)
    for i in np.flatnonzero(np.isin(heads, np.concatenate(suspects))):
        code = packed[i].tobytes()
        found[i] = code in seen
        seen.add(code)
    return found


def _random(n_bits: int, count: int) -> np.ndarray:
    row_bytes = -(-n_bits // 8)
    packed = np.frombuffer(bytearray(secrets.token_bytes(count * row_bytes)), np.uint8).reshape(count, row_bytes)
    packed[:, -1] &= 0xFF << (-n_bits % 8) & 0xFF
    return packed


def _heads(packed: np.ndarray) -> np.ndarray:
    """Returns the first 8 bytes of each fingerprint as a number: uint8 [N, bytes] -> uint64 [N]."""
    heads = np.zeros((len(packed), 8), np.uint8)
    heads[:, :min(8, packed.shape[1])] = packed[:, :8]
    return heads.view(np.uint64)[:, 0]
