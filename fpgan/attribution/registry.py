"""The registry: which user has which fingerprint, as a CSV file or derived from a provider's secret key.

The file has the header `user,fingerprint` and one line per user, the fingerprint in hexadecimal digits, in
UTF-8.
"""

from __future__ import annotations

import csv
import functools
import io
import os
import re
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fpgan.errors import FpganError
from fpgan.fingerprint import Fingerprint, as_bits
from fpgan.io.files import locked, reason, write_file

HEADER = ["user", "fingerprint"]
MIN_KEY_BYTES = 16
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_USERS_AT_ONCE = 1 << 14
_IMAGES_AT_ONCE = 1 << 10


@dataclass(frozen=True, eq=False)
class Registry:
    """The users of one model and their fingerprints; both are distinct.

    Attributes:
      users: N user ids.
      packed: uint8 [N, ceil(n_bits / 8)], the bits of each fingerprint as in `Fingerprint.packed`.
      n_bits: length of every fingerprint.
    """

    users: tuple[str, ...]
    packed: np.ndarray
    n_bits: int

    def __len__(self) -> int:
        return len(self.users)

    @functools.cached_property
    def index(self) -> dict[str, int]:
        """The place of each user."""
        return {user: i for i, user in enumerate(self.users)}

    @property
    def bits(self) -> np.ndarray:
        """All fingerprints as uint8 [N, n_bits] of zeros and ones."""
        return np.unpackbits(self.packed, axis=1, count=self.n_bits)

    def fingerprint(self, user: str) -> Fingerprint:
        """Returns a user's fingerprint, or raises FpganError when there is no such user."""
        if user not in self.index:
            raise FpganError(f"the user {user!r} is not in the registry of {len(self)} users; issue a "
                             "fingerprint first (fpgan generate --issue)")
        return Fingerprint(self.packed[self.index[user]].tobytes(), self.n_bits)

    def select(self, users: Sequence[str]) -> Registry:
        """Returns the registry of these users alone, in this order; refuses unknown or repeated ones."""
        _refuse_repeated(users)
        missing = [user for user in users if user not in self.index]
        if missing:
            self.fingerprint(missing[0])
        rows = np.fromiter((self.index[user] for user in users), np.int64, len(users))
        return Registry(tuple(users), self.packed[rows], self.n_bits)

    def best_matches(self, bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Finds for each image the user whose fingerprint shares most bits with it (the first of equals).

        With bits coded as -1 and +1 the inner product is 2 matches - n, so all users are compared by matrix
        products, in blocks that keep the memory small for any number of users and images.

        Args:
          bits: [M, n_bits] of zeros and ones.

        Returns:
          The users' places, int64 [M], and the numbers of matching bits, int64 [M].
        """
        best = np.zeros(len(bits), np.int64)
        score = np.full(len(bits), -self.n_bits - 1, np.float32)
        for users in _blocks(len(self), _USERS_AT_ONCE):
            signs = _signs(np.unpackbits(self.packed[users], axis=1, count=self.n_bits)).T  # [n, U]
            for images in _blocks(len(bits), _IMAGES_AT_ONCE):
                products = _signs(bits[images]) @ signs  # [I, U]
                place = products.argmax(axis=1)
                product = products[np.arange(len(place)), place]
                better = product > score[images]
                best[images] = np.where(better, place + users.start, best[images])
                score[images] = np.where(better, product, score[images])
        return best, ((score + self.n_bits) // 2).astype(np.int64)


def issue(users: Iterable[str], n_bits: int = 128, key: bytes | None = None) -> Registry:
    """Issues a fingerprint to each user.

    Args:
      users: distinct user ids.
      n_bits: length of the fingerprints.
      key: a provider's secret from which they are derived; without it they are random.

    Raises:
      FpganError: a user id that is empty, occurs twice, or has control characters or blanks around it.
    """
    users = tuple(users)
    _refuse_repeated(users)
    for user in users:
        check_user(user)
    prints = (Fingerprint.random(n_bits) if key is None else Fingerprint.derive(key, user, n_bits)
              for user in users)
    return _from_packed(users, (each.packed for each in prints), n_bits)


def from_fingerprints(users: Iterable[str], fingerprints, n_bits: int = 128) -> Registry:
    """Makes a registry of given fingerprints.

    Args:
      users: N distinct user ids.
      fingerprints: anything that `fpgan.fingerprint.as_bits` takes, N in all, distinct.
      n_bits: length of every fingerprint.
    """
    users = tuple(map(check_user, users))
    _refuse_repeated(users)
    bits = as_bits(fingerprints, n_bits)
    if len(bits) != len(users):
        raise FpganError(f"there are {len(users)} users but {len(bits)} fingerprints; expected one each")
    packed = np.packbits(bits, axis=1)
    if len(np.unique(packed, axis=0)) != len(packed):
        raise FpganError("two users have the same fingerprint; issue one of them another")
    return Registry(users, packed, n_bits)


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
    return _from_packed(tuple(users), packed, n_bits)


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
    digits = -(-registry.n_bits // 4)
    writer.writerows((user, row.tobytes().hex()[:digits])
                     for user, row in zip(registry.users, registry.packed, strict=True))
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


def open_registry(n_bits: int, path: str | os.PathLike | None = None,
                  key_file: str | os.PathLike | None = None, users: Iterable[str] = ()) -> Registry:
    """Opens a registry file, or derives a registry from a key file: exactly one of the two.

    Args:
      n_bits: length of the fingerprints, that of the model.
      path: a registry file.
      key_file: a provider's key, see `read_key`.
      users: the users to take; none means all of a registry file, and with a key they have to be named.
    """
    if (path is None) == (key_file is None):
        raise FpganError("expected either a registry (--registry) or a provider's key (--key-file)")
    users = tuple(users)
    if path is not None:
        whole = read(path, n_bits)
        return whole.select(users) if users else whole
    if not users:
        raise FpganError("with a provider's key the users have to be named; give --users FILE or --user ID")
    return issue(users, n_bits, read_key(key_file))


def instances(n_bits: int, *, fingerprint: str | None = None, users: Sequence[str] = (),
              users_file: str | os.PathLike | None = None, path: str | os.PathLike | None = None,
              key_file: str | os.PathLike | None = None,
              issue_new: bool = False) -> tuple[tuple[str | None, ...], np.ndarray]:
    """Finds the model instances that somebody asks for by name, by key or by fingerprint.

    Args:
      n_bits: length of the fingerprints, that of the model.
      fingerprint: hexadecimal digits of a single one, instead of all else.
      users: user ids; none means all of the registry.
      users_file: more of them, one per line; or, without `path` and `key_file`, the registry file.
      path: a registry file.
      key_file: a provider's key, instead of a registry file.
      issue_new: issue random fingerprints to users who are not in the registry file, and add them to it.

    Returns:
      U user ids (None for a bare fingerprint) and their fingerprints, uint8 [U, n_bits].

    Raises:
      FpganError: the arguments do not go together, or name somebody who is not there.
    """
    if users_file is not None and is_registry(users_file):
        if path is not None or key_file is not None:
            raise FpganError(f"{os.fspath(users_file)} holds fingerprints; leave out --registry and --key-file, or give a "
                             "file of user ids, one per line")
        path = users_file
    elif users_file is not None:
        users = [*users, *read_users(users_file)]
    if issue_new and (fingerprint is not None or key_file is not None):
        raise FpganError("--issue draws random fingerprints and goes with --registry alone; leave out --issue, or "
                         f"leave out {'--fingerprint' if key_file is None else '--key-file'}")
    if fingerprint is not None:
        if users or path is not None or key_file is not None:
            raise FpganError("expected either a fingerprint or users, not both")
        return (None,), as_bits(fingerprint, n_bits)
    if issue_new and (path is None or not users):
        raise FpganError("to issue fingerprints, name the users (--user, --users) and their --registry")
    registry = (issue_missing(path, users, n_bits).select(users) if issue_new else
                open_registry(n_bits, path, key_file, users))
    return registry.users, registry.bits


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


def check_user(user: str) -> str:
    """Returns a user id; FpganError if it is empty, has control characters, or blanks around it."""
    if not user or user != user.strip() or _CONTROL.search(user):
        raise FpganError(f"{user[:80]!r} is no good user id; expected text without control characters, "
                         "without blanks around it")
    return user


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


def _refuse_repeated(users: Sequence[str]) -> None:
    if len(set(users)) != len(users):
        seen: set[str] = set()
        repeated = next(user for user in users if user in seen or seen.add(user))
        raise FpganError(f"the user {repeated!r} is given twice; user ids have to be distinct")


def _from_packed(users: tuple[str, ...], packed: Iterable[bytes], n_bits: int) -> Registry:
    rows = np.frombuffer(b"".join(packed), np.uint8).reshape(len(users), -(-n_bits // 8))  # [N, n / 8]
    return Registry(users, rows, n_bits)


def _blocks(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def _signs(bits: np.ndarray) -> np.ndarray:
    return bits.astype(np.float32) * 2 - 1
