"""What a registry can show to others: its log's entries as text, signed heads, proofs of registration; and what checks them.

An entry is a JSON object; its canonical text is what is hashed:

    {"detail":{"fingerprint":"5b83...","n_bits":128},"kind":"issue","nonce":"...","number":7,"time":"2026-11-25T04:30:00Z",
     "user":"alice"}

A proof holds a user's entries, the hashes that lead from each to a signed head, and the head. It says that the provider had
registered the fingerprint when the head was signed. That the head is no younger than its time only others can say: publish
heads, or have them time-stamped (RFC 3161).
"""

from __future__ import annotations

import hmac
import time as clock
from collections.abc import Iterable, Iterator, Sequence
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fpgan.errors import FpganError
from fpgan.io import ledger

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    class _Log(Protocol):
        """What is asked of a registry: `fpgan.attribution.database.Database`, which is built on this file."""

        path: str
        id: str
        n_bits: int
        public_key: str | None

        @property
        def size(self) -> int: ...
        def entries(self, first: int = 0, user: str | None = None) -> Iterator[dict]: ...
        def tile(self, level: int, number: int) -> bytes: ...
        def heads(self) -> list[dict]: ...
        def add_head(self, document: dict) -> dict: ...
        def users_among(self, size: int) -> int: ...
        def damage(self) -> Iterator[str]: ...

HEAD, PROOF, CONSISTENCY = "fpgan registry head 1", "fpgan registry proof 1", "fpgan registry consistency 1"


def entry(secret: bytes, number: int, kind: str, user: str, time: int, detail: dict) -> dict:
    """Returns an entry of the log.

    Args:
      secret: the registry's, from which the nonce comes that keeps hashes from being guessed.
      number: its place in the log, from 0.
      kind: "issue", "revoke" or "release".
      user: whom it is about.
      time: seconds since 1970.
      detail: plain JSON values.
    """
    return {"number": number, "kind": kind, "user": user, "time": utc(time), "nonce": _nonce(secret, number),
            "detail": detail}


def issue_detail(packed: bytes, n_bits: int) -> dict:
    """Returns the detail of an entry by which a fingerprint was issued."""
    return {"fingerprint": packed.hex()[:-(-n_bits // 4)], "n_bits": n_bits}


def leaf(entry: dict) -> bytes:
    """Returns the hash of an entry."""
    return ledger.leaf_hash(ledger.canonical(entry))


def issue_leaves(secret: bytes, number: int, time: int, users: Sequence[str], packed: np.ndarray,
                 n_bits: int) -> list[bytes]:
    """Returns `leaf(entry(...))` of users who are issued together, their texts put together faster.

    Args:
      secret, time, n_bits: as above.
      number: of the first of the entries.
      users: N ids.
      packed: uint8 [N, ceil(n_bits / 8)], their fingerprints.
    """
    stream, step, digits, at = packed.tobytes().hex(), 2 * packed.shape[1], -(-n_bits // 4), utc(time)
    return [ledger.leaf_hash(
        (f'{{"detail":{{"fingerprint":"{stream[i * step:i * step + digits]}","n_bits":{n_bits}}},"kind":"issue",'
         f'"nonce":"{_nonce(secret, number + i)}","number":{number + i},"time":"{at}",'
         f'"user":{encode_basestring_ascii(user)}}}').encode("ascii")) for i, user in enumerate(users)]


def utc(time: int) -> str:
    """Writes seconds since 1970 as date and time, such as 2026-11-25T04:30:00Z."""
    return clock.strftime("%Y-%m-%dT%H:%M:%SZ", clock.gmtime(time))


def sign_head(database: _Log, key: Ed25519PrivateKey) -> dict:
    """Signs the log as it is now, and keeps the head in the registry; of equal logs the first head stays.

    Args:
      database: an open Database.
      key: the private key to the registry's public key.

    Raises:
      FpganError: the key of somebody else, or a registry that was made without one.
    """
    check_key(database, key)
    head = ledger.signed(unsigned_head(database) | {"time": utc(int(clock.time()))}, key)
    return database.add_head(head)


def check_key(database: _Log, key: Ed25519PrivateKey) -> None:
    """Raises FpganError if heads of a registry are not signed with this private key."""
    if database.public_key != ledger.public_key(key):
        signed = "cannot be signed" if database.public_key is None else f"are signed with the key {database.public_key}"
        raise FpganError(f"{database.path}: its heads {signed}, this one is {ledger.public_key(key)}; give the key that the "
                         "registry was made with (fpgan registry init --signing-key)")


def unsigned_head(database: _Log, size: int | None = None) -> dict:
    """Returns what a head says of the first `size` entries (of all by default), but for its time."""
    size = database.size if size is None else size
    return {"format": HEAD, "registry": database.id, "n_bits": database.n_bits, "size": size,
            "users": database.users_among(size), "root": ledger.root(database.tile, size).hex()}


def newest_head(database: _Log) -> dict:
    """Returns the last signed head; FpganError if there is none."""
    heads = database.heads()
    if not heads:
        raise FpganError(f"{database.path} has no signed head; sign one: fpgan registry head {database.path} "
                         "--signing-key FILE")
    return heads[-1]


def prove(database: _Log, user: str) -> dict:
    """Returns the proof of all that the newest head covers of a user: issue, releases, revocation.

    Raises:
      FpganError: no such user, or no signed head since the user was issued.
    """
    head = newest_head(database)
    entries = [found for found in database.entries(user=user) if found["number"] < head["size"]]
    if not entries:
        raise FpganError(f"{user!r} was issued after the last signed head; sign one: fpgan registry head {database.path} "
                         "--signing-key FILE")
    return {"format": PROOF, "head": head, "entries": [included(database, found, head["size"]) for found in entries]}


def included(database: _Log, entry: dict, size: int) -> dict:
    """Returns an entry with the hashes that lead from it to the root of the first `size` entries."""
    path = ledger.inclusion_path(database.tile, entry["number"], size)
    return {"entry": entry, "path": [step.hex() for step in path]}


def prove_consistency(database: _Log, old: dict) -> dict:
    """Returns the proof that the log of an older head is the beginning of that of the newest."""
    head = newest_head(database)
    _require(old.get("registry") == database.id, "the head is of another registry")
    _require(isinstance(old.get("size"), int) and 0 <= old["size"] <= head["size"],
             "the head is younger than this registry's newest")
    path = ledger.consistency_path(database.tile, old["size"], head["size"])
    return {"format": CONSISTENCY, "old": old, "head": head, "path": [step.hex() for step in path]}


def check(document: dict, public_key: str | None = None) -> list[str]:
    """Checks a head, a proof or a consistency proof, without the registry.

    Args:
      document: the JSON object.
      public_key: the provider's, 64 hexadecimal digits, from a source that the checker trusts; without it, the proof only
        holds for whoever has signed it.

    Returns:
      Lines that say what has been shown.

    Raises:
      FpganError: it does not hold, or is none of these documents.
    """
    try:
        kind = document.get("format")
        if kind == HEAD:
            return check_head(document, public_key)
        if kind == PROOF:
            lines = [_checked_head(document["head"], public_key)]
            return lines + [check_included(each, document["head"]) for each in document["entries"]]
        if kind == CONSISTENCY:
            old, head = document["old"], document["head"]
            lines = [_checked_head(old, public_key), _checked_head(head, public_key)]
            _require(old["registry"] == head["registry"] and old["public_key"] == head["public_key"],
                     "the heads are of two registries")
            _require(ledger.is_consistent(old["size"], bytes.fromhex(old["root"]), head["size"], bytes.fromhex(head["root"]),
                                          [bytes.fromhex(step) for step in document["path"]]),
                     "the newer log does not begin with the older one: something was changed or taken away")
            return lines + [f"the log of {head['size']} entries begins with that of {old['size']}: nothing was changed"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FpganError("the document is damaged: something is missing or of another kind") from error
    raise FpganError(f"no document that this fpgan can check (format {str(kind)[:40]!r}); expected a head, a proof or a "
                     "consistency proof of fpgan registry")


def check_head(head: dict, public_key: str | None = None) -> list[str]:
    """Checks a signed head as `check` does, and takes nothing else."""
    return [_checked_head(head, public_key)]


def check_included(proof: dict, head: dict) -> str:
    """Checks that an entry is in the log of a head, whose signature is checked elsewhere; returns a line that says so."""
    found = proof["entry"]
    path = [bytes.fromhex(step) for step in proof["path"]]
    _require(ledger.is_included(leaf(found), found["number"], head["size"], path, bytes.fromhex(head["root"])),
             f"the entry {found['number']} is not in the log of the head")
    what = f", fingerprint {found['detail']['fingerprint']}" if found["kind"] == "issue" else ""
    return f"entry {found['number']}: {found['kind']} {found['user']}{what} (recorded as {found['time']})"


def audit(database: _Log, published: Iterable[dict] = ()) -> Iterator[str]:
    """Recomputes the whole log, and yields what is wrong; nothing if all is as it was written.

    Args:
      database: an open Database.
      published: heads that were handed out earlier; they tell whether the registry was put back to an older state.
    """
    yield from database.damage()
    tiles: dict[tuple[int, int], bytes] = {}
    size = 0
    for chunk in _chunks(database.entries(), 256 * ledger.TILE):
        gap = next((i for i, found in enumerate(chunk, size) if found["number"] != i), None)
        if gap is not None:
            yield f"entry {gap} is missing"
            return
        grown = ledger.grow(lambda *place, tiles=tiles: tiles.get(place, b""), size, list(map(leaf, chunk)))
        wrong = [place for place, tile in grown.items() if not database.tile(*place).startswith(tile)]
        for level, number in wrong[:10]:
            yield (_first_difference(chunk, size, number, grown[0, number], database.tile(0, number)) if level == 0 else
                   "the upper levels of the tree do not follow from its leaves")
        if wrong:
            return
        size += len(chunk)
        tiles = {place: tile for place, tile in (tiles | grown).items() if place[0] or len(tile) < ledger.TILE * 32}
    if any(database.tile(*place) != tile for place, tile in tiles.items()):
        yield "the tree has more leaves than the log has entries"
    for head in [*database.heads(), *published]:
        yield from _head_problems(database, head)


def _head_problems(database, head: dict) -> Iterator[str]:
    try:
        _checked_head(head, database.public_key)
        _require(head["registry"] == database.id, "it is of another registry")
        _require(head["size"] <= database.size, f"it has {head['size']} entries, the registry {database.size}: "
                 "it was put back to an older state")
        _require(head.items() >= unsigned_head(database, head["size"]).items(), "the log is another than the one it signed")
    except (FpganError, KeyError, TypeError, ValueError) as error:
        yield f"the head of {head.get('time')} with {head.get('size')} entries: {error}"


def _first_difference(chunk: list[dict], start: int, number: int, tile: bytes, stored: bytes) -> str:
    at = next((i for i in range(0, len(tile), 32) if tile[i:i + 32] != stored[i:i + 32]), 0) // 32
    place = number * ledger.TILE + at
    name = f" ({chunk[place - start]['kind']} {chunk[place - start]['user']})" if 0 <= place - start < len(chunk) else ""
    return f"entry {place}{name} is another than the one that was hashed"


def _checked_head(head: dict, public_key: str | None) -> str:
    _require(head["format"] == HEAD, "there is no head in it")
    ledger.check_signature(head, public_key)
    return (f"head of {head['time']}: {head['size']} entries, {head['users']} users, root {head['root'][:16]}..., "
            f"signed by {head['public_key']}" + ("" if public_key else " (whose key that is has not been checked)"))


def _chunks(items: Iterable, size: int) -> Iterator[list]:
    items, chunk = iter(items), []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _nonce(secret: bytes, number: int) -> str:
    return hmac.digest(secret, number.to_bytes(8, "big"), "sha256")[:16].hex()


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise FpganError(text)
