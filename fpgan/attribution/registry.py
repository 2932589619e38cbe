"""The registry as a value: which user has which fingerprint."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fpgan.attribution.search import search
from fpgan.errors import FpganError
from fpgan.fingerprint import Fingerprint, as_bits, check_user


@dataclass(frozen=True, eq=False)
class Registry:
    """The users of one model and their fingerprints; both are distinct.

    Fingerprints stay packed, and are unpacked where bits are needed, a batch at a time.

    Attributes:
      users: N user ids; None for a bare fingerprint.
      packed: uint8 [N, ceil(n_bits / 8)], the bits of each fingerprint as in `Fingerprint.packed`.
      n_bits: length of every fingerprint.
      revoked: those who may no longer use their instance, each with the time; their images are attributed all the same.
    """

    users: Sequence[str | None]
    packed: np.ndarray
    n_bits: int
    revoked: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def single(cls, fingerprint: Fingerprint) -> Registry:
        """Makes the registry of one fingerprint that belongs to nobody known: its user is None."""
        return cls((None,), np.frombuffer(fingerprint.packed, np.uint8)[None], fingerprint.n_bits)

    def __len__(self) -> int:
        return len(self.users)

    @functools.cached_property
    def index(self) -> dict[str | None, int]:
        """The place of each user."""
        return {user: i for i, user in enumerate(self.users)}

    @property
    def bits(self) -> np.ndarray:
        """All fingerprints as uint8 [N, n_bits] of zeros and ones."""
        return self.unpacked(slice(None))

    def unpacked(self, places: slice | np.ndarray) -> np.ndarray:
        """Returns the fingerprints at some places, a slice or integers [K], as uint8 [K, n_bits] of zeros and ones."""
        return np.unpackbits(self.packed[places], axis=1, count=self.n_bits)

    def at(self, place: int) -> Fingerprint:
        """Returns the fingerprint at a place."""
        return Fingerprint(self.packed[place].tobytes(), self.n_bits)

    def fingerprint(self, user: str) -> Fingerprint:
        """Returns a user's fingerprint, or raises FpganError when there is no such user."""
        if check_user(user) not in self.index:
            raise FpganError(f"the user {user!r} is not in the registry of {len(self)} users; issue a "
                             "fingerprint first (fpgan generate --issue)")
        return self.at(self.index[user])

    def select(self, users: Sequence[str]) -> Registry:
        """Returns the registry of these users alone, in this order; refuses unknown or repeated ones."""
        refuse_repeated(users)
        missing = [user for user in users if user not in self.index]
        if missing:
            self.fingerprint(missing[0])
        rows = np.fromiter((self.index[user] for user in users), np.int64, len(users))
        revoked = {user: self.revoked[user] for user in users if user in self.revoked}
        return Registry(tuple(users), self.packed[rows], self.n_bits, revoked)

    def best_matches(self, bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Finds for each image the user whose fingerprint shares most bits with it (the first of equals).

        Args:
          bits: [M, n_bits] of zeros and ones.

        Returns:
          The users' places, int64 [M], and the numbers of matching bits, int64 [M].
        """
        signs = np.where(np.asarray(bits) > 0, 1, -1).astype(np.int8)  # their scores are 2 matches - n
        hits = search(self.packed, signs, np.full(len(signs), self.n_bits + 1))
        places, scores = (np.array([column[0] for column in columns], np.int64)
                          for columns in (zip(*hits, strict=True) if hits else ((), ())))
        return places, (scores + self.n_bits) // 2


def issue(users: Iterable[str], n_bits: int = 128, key: bytes | None = None) -> Registry:
    """Issues a fingerprint to each user.

    Args:
      users: distinct user ids.
      n_bits: length of the fingerprints.
      key: a provider's secret from which they are derived; without it they are random.

    Raises:
      FpganError: a user id that occurs twice, or is none (see `fpgan.fingerprint.check_user`).
    """
    users = tuple(users)
    refuse_repeated(users)
    for user in users:
        check_user(user)
    prints = (Fingerprint.random(n_bits) if key is None else Fingerprint.derive(key, user, n_bits)
              for user in users)
    return from_packed(users, (each.packed for each in prints), n_bits)


def from_fingerprints(users: Iterable[str], fingerprints: Fingerprint | str | np.ndarray | Sequence,
                      n_bits: int = 128) -> Registry:
    """Makes a registry of given fingerprints.

    Args:
      users: N distinct user ids.
      fingerprints: anything that `fpgan.fingerprint.as_bits` takes, N in all, distinct.
      n_bits: length of every fingerprint.
    """
    users = tuple(map(check_user, users))
    refuse_repeated(users)
    bits = as_bits(fingerprints, n_bits)
    if len(bits) != len(users):
        raise FpganError(f"there are {len(users)} users but {len(bits)} fingerprints; expected one each")
    packed = np.packbits(bits, axis=1)
    if len(np.unique(packed, axis=0)) != len(packed):
        raise FpganError("two users have the same fingerprint; issue one of them another")
    return Registry(users, packed, n_bits)


def refuse_repeated(users: Sequence[str]) -> None:
    """Raises FpganError if a user is given twice."""
    if len(set(users)) != len(users):
        seen: set[str] = set()
        repeated = next(user for user in users if user in seen or seen.add(user))
        raise FpganError(f"the user {repeated!r} is given twice; user ids have to be distinct")


def from_packed(users: tuple[str, ...], packed: Iterable[bytes], n_bits: int) -> Registry:
    """Makes a registry of fingerprints as in `Fingerprint.packed`, one for each of distinct users; nothing is checked."""
    rows = np.frombuffer(b"".join(packed), np.uint8).reshape(len(users), -(-n_bits // 8))  # [N, n / 8]
    return Registry(users, rows, n_bits)
