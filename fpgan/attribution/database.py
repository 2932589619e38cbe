"""A registry of millions of users in one SQLite file, in which nothing can be changed unseen.

    users    place, user id, the entries by which they were issued and revoked
    codes    the fingerprints, packed, in blocks of 4096: what attribution reads, as one array
    entries  the log: what happened, to whom, when (issue, revoke, release)
    tiles    the Merkle tree over the entries (io/ledger.py)
    heads    signed roots of that tree

Any number of processes may write; SQLite lets them take turns. In WAL mode a commit is there after a kill or a power cut, or
it never was. Every entry is hashed with a nonce of its own, so that what one user can prove says nothing about the others.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
import time as clock
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from fpgan.attribution import proofs
from fpgan.attribution import sqlite_tables as tables
from fpgan.attribution.registry import Registry, refuse_repeated
from fpgan.attribution.sqlite_tables import BLOCK, PROVIDER, VERIFIER
from fpgan.errors import FpganError
from fpgan.fingerprint import Fingerprint, check_n_bits, check_user
from fpgan.io import ledger
from fpgan.io.files import writing


def create(path: str | os.PathLike, n_bits: int = 128, public_key: str | None = None) -> Database:
    """Makes an empty registry.

    Args:
      path: the file, which must not exist.
      n_bits: length of the fingerprints, that of the model.
      public_key: the key that will sign its heads, 64 hexadecimal digits; it cannot be changed later.

    Raises:
      FpganError: the file exists or cannot be made.
    """
    facts = {"n_bits": check_n_bits(n_bits), "role": PROVIDER, "id": secrets.token_hex(16),
             "secret": secrets.token_bytes(32), "created": int(clock.time())}
    tables.create(path, facts if public_key is None else facts | {"public_key": public_key})
    return Database(path)


class Database:
    """An open registry file. Nothing is read before it is asked for.

    Attributes:
      path: the file.
      n_bits: length of the fingerprints.
      role: PROVIDER, or VERIFIER for a copy that is read only.
      id: 32 hexadecimal digits, drawn when the registry was made.
      public_key: the key that signs its heads, or None.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
        with self._telling():
            self._connection = tables.connect(self.path)
            self._facts = tables.read_facts(self._connection, self.path)
            self.n_bits, self.role, self.id = (self._facts[name] for name in ("n_bits", "role", "id"))
            self.public_key = self._facts.get("public_key")
            self._connection.execute("PRAGMA query_only = ON" if self.role == VERIFIER else "PRAGMA synchronous = FULL")

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def __len__(self) -> int:
        return (self._one("SELECT max(place) FROM users") or 0) + 1 if self.size else 0

    @property
    def size(self) -> int:
        """How many entries the log has."""
        newest = self._one("SELECT max(number) FROM entries")
        return 0 if newest is None else newest + 1

    def registry(self, count: int | None = None) -> Registry:
        """Returns the users as the value that attribution takes: fingerprints in one array, names looked up when asked for.

        Args:
          count: the first so many users; all of them by default.
        """
        count = len(self) if count is None else count
        with self._telling(*tables.ODD_VALUES):
            found = self._rows("SELECT user, time FROM users JOIN entries ON number = revoked "
                               "WHERE revoked IS NOT NULL AND users.place < ?", count)
            revoked = {user: proofs.utc(time) for user, time in found}
        return Registry(_Names(self, count), self._codes(0, count), self.n_bits, revoked)

    def select(self, users: Sequence[str]) -> Registry:
        """Returns the registry of these users alone, in this order; refuses unknown or repeated ones."""
        refuse_repeated(users)
        places = [place for place, in self._rows(
            "SELECT place FROM json_each(?) JOIN users ON user = value ORDER BY json_each.key", json.dumps(list(users)))]
        if len(places) < len(users):
            self.place(self.missing(users)[0])  # raises
        needed = {place // BLOCK for place in places}
        blocks = {number: self._codes(number * BLOCK, (number + 1) * BLOCK) for number in needed}
        packed = [blocks[place // BLOCK][place % BLOCK] for place in places]
        revoked = {user: self.revoked(user) for user in users}
        return Registry(tuple(users), np.reshape(np.asarray(packed, np.uint8), (len(users), -1)), self.n_bits,
                        {user: time for user, time in revoked.items() if time})

    def place(self, user: str) -> int:
        """Returns a user's place, counted from 0 in the order of issuing; FpganError if there is no such user."""
        place = self._one("SELECT place FROM users WHERE user = ?", user)
        if place is None:
            raise FpganError(f"the user {user!r} is not in the registry of {len(self)} users; issue a fingerprint first "
                             "(fpgan registry issue, or fpgan generate --issue)")
        return place

    def missing(self, users: Sequence[str]) -> list[str]:
        """Returns those of the users who are not in the registry."""
        return [user for user, in self._rows(
            "SELECT value FROM json_each(?) WHERE NOT EXISTS (SELECT 1 FROM users WHERE user = value)",
            json.dumps(list(users)))]

    def revoked(self, user: str) -> str | None:
        """Returns when a user was revoked, or None."""
        time = self._one("SELECT time FROM users JOIN entries ON number = revoked WHERE user = ?", user)
        with self._telling(*tables.ODD_VALUES):
            return None if time is None else proofs.utc(time)

    def issue(self, users: Iterable[str], key: bytes | None = None, fingerprints: np.ndarray | None = None,
              skip_known: bool = False) -> int:
        """Issues a fingerprint to each user: all of them, or with an error none.

        Args:
          users: distinct user ids.
          key: a provider's secret from which the fingerprints are derived; without it they are random.
          fingerprints: uint8 [N, ceil(n_bits / 8)], packed, instead: given ones, of another registry.
          skip_known: pass over users who are there already, instead of refusing them.

        Returns:
          How many were issued.

        Raises:
          FpganError: a user who is there, or a bad user id, or a fingerprint that somebody else has.
        """
        users = list(map(check_user, users))
        refuse_repeated(users)
        with self._writing():
            known = set(users) - set(self.missing(users)) if len(self) else set()
            if known and not skip_known:
                raise FpganError(f"the user {min(known)!r} is in the registry already; choose another id")
            kept = [i for i, user in enumerate(users) if user not in known]
            users = [users[i] for i in kept]
            self._append_users(users, self._fingerprints(users, key) if fingerprints is None else
                               self._given(users, fingerprints[kept]))
        return len(users)

    def revoke(self, user: str, why: str = "") -> None:
        """Marks a user as revoked; fingerprint and place stay, and images are still attributed, with that remark."""
        with self._writing():
            place = self.place(user)
            if self.revoked(user):
                raise FpganError(f"the user {user!r} was revoked at {self.revoked(user)} already")
            number = self._append_entry("revoke", place, {"why": why} if why else {})
            self._connection.execute("UPDATE users SET revoked = ? WHERE place = ?", (number, place))

    def record_release(self, user: str, detail: dict) -> None:
        """Writes into the log that an instance was handed out: plain JSON values such as its model and hashes."""
        with self._writing():
            self._append_entry("release", self.place(user), detail)

    def releases(self, user: str | None = None) -> Iterator[dict]:
        """Yields the inventory, the instances that were handed out: user, time, and what was recorded."""
        query = "SELECT user, time, detail FROM entries JOIN users USING (place) WHERE kind = 'release'"
        rows = (self._rows(f"{query} ORDER BY number") if user is None else
                self._rows(f"{query} AND users.place = ? ORDER BY number", self.place(user)))
        with self._telling(*tables.ODD_VALUES):
            for name, time, detail in rows:
                yield {"user": name, "time": proofs.utc(time)} | json.loads(detail)

    def rows(self) -> Iterator[dict]:
        """Yields all users in order: user, fingerprint (hexadecimal digits), n_bits, issued and revoked (UTC, or None)."""
        count = len(self)
        found = self._rows(
            "SELECT user, first.time, last.time FROM users JOIN entries first ON first.number = issued "
            "LEFT JOIN entries last ON last.number = revoked ORDER BY users.place")
        codes = (code for start in range(0, count, BLOCK) for code in self._codes(start, min(start + BLOCK, count)))
        with self._telling(*tables.ODD_VALUES):
            for (user, issued, revoked), code in zip(found, codes, strict=True):
                fingerprint = proofs.issue_detail(code.tobytes(), self.n_bits)["fingerprint"]
                yield {"user": user, "fingerprint": fingerprint, "issued": proofs.utc(issued),
                       "revoked": None if revoked is None else proofs.utc(revoked)}

    def entries(self, first: int = 0, user: str | None = None) -> Iterator[dict]:
        """Yields the entries of the log as they are hashed, from a number on; those of all users, or of one."""
        where, value = ("number >= ?", first) if user is None else ("place = ?", self.place(user))
        found = self._rows("SELECT number, kind, place, time, detail, user FROM entries JOIN users USING (place) "
                           f"WHERE {where} ORDER BY number", value)
        block, packed = -1, None
        with self._telling(*tables.ODD_VALUES):
            for number, kind, place, time, detail, name in found:
                if kind == "issue" and place // BLOCK != block:
                    block = place // BLOCK
                    packed = self._codes(block * BLOCK, (block + 1) * BLOCK)
                known = (proofs.issue_detail(packed[place % BLOCK].tobytes(), self.n_bits) if kind == "issue" else
                         json.loads(detail))
                yield proofs.entry(self._facts["secret"], number, kind, name, time, known)

    def tile(self, level: int, number: int) -> bytes:
        """Reads a tile of the tree, see io/ledger.py."""
        return self._one("SELECT hashes FROM tiles WHERE level = ? AND number = ?", level, number) or b""

    def heads(self) -> list[dict]:
        """Returns the signed heads, the oldest first."""
        with self._telling(*tables.ODD_VALUES):
            return [json.loads(text) for text, in self._rows("SELECT document FROM heads ORDER BY size")]

    def add_head(self, document: dict) -> dict:
        """Keeps a signed head, and returns the one that is kept for this size: the first."""
        with self._writing():
            self._connection.execute("INSERT OR IGNORE INTO heads VALUES (?, ?)", (document["size"], json.dumps(document)))
        return json.loads(self._one("SELECT document FROM heads WHERE size = ?", document["size"]))

    def users_among(self, size: int) -> int:
        """Returns how many users the first `size` entries have issued."""
        last = self._one("SELECT place FROM users WHERE issued < ? ORDER BY place DESC LIMIT 1", size)
        return 0 if last is None else last + 1

    def damage(self) -> Iterator[str]:
        """Yields what is wrong with the tables, apart from what the log's hashes show."""
        yield from (f"the file is damaged: {text}" for text, in self._rows("PRAGMA integrity_check") if text != "ok")
        for user, in self._rows(
                "SELECT user FROM users LEFT JOIN entries AS first ON first.number = issued AND first.kind = 'issue' "
                "AND first.place = users.place LEFT JOIN entries AS last ON last.kind = 'revoke' "
                "AND last.place = users.place WHERE first.number IS NULL OR last.number IS NOT revoked LIMIT 10"):
            yield f"the row of {user!r} does not agree with the log"

    def copy(self, path: str | os.PathLike) -> None:
        """Writes a whole copy for a verifier: one file with the same log, read only."""
        temporary = f"{os.fspath(path)}.{secrets.token_hex(4)}.tmp"
        try:
            with writing(path):
                tables.create_private(temporary)
            with self._telling(), contextlib.closing(sqlite3.connect(temporary)) as copy:
                self._connection.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")
                copy.execute("UPDATE facts SET value = ? WHERE name = 'role'", (VERIFIER,))
                copy.commit()
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)

    def _one(self, query: str, *values):
        """Returns the first value of the first row, or None."""
        with self._telling():
            row = self._connection.execute(query, values).fetchone()
        return None if row is None else row[0]

    def _rows(self, query: str, *values) -> Iterator[tuple]:
        with self._telling():
            yield from map(tuple, self._connection.execute(query, values))  # map, so that no cursor outlives the connection

    def _telling(self, *more: type[Exception]) -> contextlib.AbstractContextManager:
        return tables.telling(self.path, *more)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Runs the block as one transaction: all of it is there afterwards, or nothing."""
        if self.role == VERIFIER:
            raise FpganError(f"{self.path} is a verifier's copy, which is read only; ask the provider")
        with self._telling():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.rollback()
                raise
            self._connection.commit()

    def _codes(self, start: int, stop: int) -> np.ndarray:
        with self._telling():
            return tables.read_codes(self._connection, self.n_bits, start, stop)

    def _fingerprints(self, users: Sequence[str], key: bytes | None) -> np.ndarray:
        """Draws or derives fingerprints that nobody has: uint8 [N, bytes]."""
        if key is None:
            return tables.draw_codes(self._connection, self.n_bits, len(users), len(self))
        derived = b"".join(Fingerprint.derive(key, user, self.n_bits).packed for user in users)
        return self._given(users, np.frombuffer(derived, np.uint8).reshape(len(users), -1))

    def _given(self, users: Sequence[str], packed: np.ndarray) -> np.ndarray:
        """Returns given fingerprints, or raises FpganError when somebody else has one of them."""
        taken = tables.taken_codes(self._connection, self.n_bits, packed, len(self))
        if taken.any():
            raise FpganError(f"the fingerprint of {users[int(taken.argmax())]!r} is somebody else's already; issue another")
        return packed

    def _append_users(self, users: Sequence[str], packed: np.ndarray) -> None:
        """Adds users with their fingerprints and entries; within a transaction."""
        place, number, time = len(self), self.size, int(clock.time())
        self._connection.executemany("INSERT INTO users VALUES (?, ?, ?, NULL)", (
            (place + i, user, number + i) for i, user in enumerate(users)))
        self._connection.executemany("INSERT INTO entries VALUES (?, 'issue', ?, ?, NULL)", (
            (number + i, place + i, time) for i in range(len(users))))
        tables.append_codes(self._connection, place, packed)
        self._append_leaves(number, proofs.issue_leaves(self._facts["secret"], number, time, users, packed, self.n_bits))

    def _append_entry(self, kind: str, place: int, detail: dict) -> int:
        """Adds another entry; within a transaction. Returns its number."""
        number = self.size
        self._connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", (
            number, kind, place, int(clock.time()), json.dumps(detail)))
        self._append_leaves(number, [proofs.leaf(entry) for entry in self.entries(number)])
        return number

    def _append_leaves(self, size: int, leaves: Sequence[bytes]) -> None:
        self._connection.executemany("INSERT OR REPLACE INTO tiles VALUES (?, ?, ?)", (
            (*place, tile) for place, tile in ledger.grow(self.tile, size, leaves).items()))


class _Names(Sequence):
    """User ids by place, each looked up when it is asked for."""

    def __init__(self, database: Database, count: int):
        self._database, self._count = database, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place):
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(self._count))]
        place = int(place) + (self._count if place < 0 else 0)
        if not 0 <= place < self._count:
            raise IndexError(place)
        return self._database._one("SELECT user FROM users WHERE place = ?", place)

    def __iter__(self) -> Iterator[str]:
        rows = self._database._rows("SELECT user FROM users WHERE place < ? ORDER BY place", self._count)
        return (user for user, in rows)
