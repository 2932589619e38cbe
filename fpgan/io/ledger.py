"""An append-only log that strangers can check: a Merkle tree over entries, heads signed with Ed25519, and proofs.

The tree is that of RFC 9162 (Certificate Transparency 2.0), section 2.1: SHA-256 over a 0 byte and an entry makes a leaf,
over a 1 byte and two hashes a node. Whoever has a signed head, 32 bytes for a log of any size, can check that an entry is in
the log (inclusion) and that a later head has the same beginning (consistency), each by about log2(size) hashes.

Hashes are kept in tiles of 256, as public logs do (C2SP tlog-tiles): tile (level, number) holds the nodes at height 8 level,
from 256 number on. A proof reads a few tiles; an append writes the last of each level.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from fpgan.errors import FpganError, missing_extra, reason
from fpgan.io.files import create_file
from fpgan.io.inputs import read_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

TILE = 256
HASH_BYTES = 32
_MAX_KEY_FILE = 1 << 16
EMPTY_ROOT = hashlib.sha256().digest()
ReadTile = Callable[[int, int], bytes]  # (level, number) -> up to 256 hashes, one after the other; b"" if there is none


def canonical(value: dict) -> bytes:
    """Returns the one text of a JSON object that is hashed and signed: sorted keys, no blanks, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def leaf_hash(entry: bytes) -> bytes:
    """Returns the hash of an entry."""
    return hashlib.sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Returns the hash of the node above two."""
    return hashlib.sha256(b"\1" + left + right).digest()


def grow(read: ReadTile, size: int, leaves: Sequence[bytes]) -> dict[tuple[int, int], bytes]:
    """Computes the tiles that change when leaves are appended.

    Args:
      read: reads a tile as it is.
      size: leaves so far.
      leaves: hashes of the new ones.

    Returns:
      {(level, number): its whole new content}.
    """
    changed, level, start, hashes = {}, 0, size, list(leaves)
    while hashes:
        number, full = start // TILE, []
        stream = read(level, number) + b"".join(hashes)
        while stream:
            changed[level, number] = tile = stream[:TILE * HASH_BYTES]
            stream, number = stream[len(tile):], number + 1
            if len(tile) == TILE * HASH_BYTES:
                full.append(_top(tile))
        level, start, hashes = level + 1, start // TILE, full
    return changed


def root(read: ReadTile, size: int) -> bytes:
    """Computes the root hash of the first `size` leaves."""
    return _subtree(read, 0, size) if size else EMPTY_ROOT


def inclusion_path(read: ReadTile, place: int, size: int) -> list[bytes]:
    """Computes the hashes that lead from leaf `place` to the root of the first `size` leaves, from below (2.1.3.1)."""
    path, low, high = [], 0, size
    while high - low > 1:
        middle = low + _largest_power_below(high - low)
        if place < middle:
            path.append(_subtree(read, middle, high))
            high = middle
        else:
            path.append(_subtree(read, low, middle))
            low = middle
    return path[::-1]


def is_included(leaf: bytes, place: int, size: int, path: Iterable[bytes], root_hash: bytes) -> bool:
    """Returns whether a path proves that leaf `place` is this hash in the tree with this root (RFC 9162, 2.1.3.2)."""
    if not 0 <= place < size:
        return False
    position, last, found = place, size - 1, leaf
    for step in path:
        if last == 0:
            return False
        if position & 1 or position == last:
            found = node_hash(step, found)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            found = node_hash(found, step)
        position, last = position >> 1, last >> 1
    return last == 0 and found == root_hash


def consistency_path(read: ReadTile, old: int, size: int) -> list[bytes]:
    """Computes the hashes which show that the tree of `old` leaves is the beginning of that of `size` (2.1.4.1)."""
    path, low, high, whole = [], 0, size, True
    while old not in (0, size) and high > old:
        middle = low + _largest_power_below(high - low)
        if old <= middle:
            path.append(_subtree(read, middle, high))
            high = middle
        else:
            path.append(_subtree(read, low, middle))
            low, whole = middle, False
    if not whole:
        path.append(_subtree(read, low, high))
    return path[::-1]


def is_consistent(old: int, old_root: bytes, size: int, root_hash: bytes, path: Sequence[bytes]) -> bool:
    """Returns whether a path proves that the log with the old root is the beginning of the other (RFC 9162, 2.1.4.2)."""
    if old == size:
        return not path and old_root == root_hash
    if not 0 < old < size:
        return old == 0 and not path and old_root == EMPTY_ROOT
    steps = [old_root, *path] if old & (old - 1) == 0 else list(path)
    if not steps:
        return False
    first, second = old - 1, size - 1
    while first & 1:
        first, second = first >> 1, second >> 1
    found_old = found = steps[0]
    for step in steps[1:]:
        if second == 0:
            return False
        if first & 1 or first == second:
            found_old, found = node_hash(step, found_old), node_hash(step, found)
            while not first & 1 and first:
                first, second = first >> 1, second >> 1
        else:
            found = node_hash(found, step)
        first, second = first >> 1, second >> 1
    return second == 0 and found_old == old_root and found == root_hash


def read_signing_key(path: str | os.PathLike):
    """Reads a private key, as `create_signing_key` writes it.

    Returns:
      An Ed25519PrivateKey of the package cryptography.

    Raises:
      FpganError: the file cannot be read, or is no unencrypted Ed25519 key in PEM.
    """
    ed25519, serialization = _cryptography()
    try:
        key = serialization.load_pem_private_key(read_bytes(path, _MAX_KEY_FILE), None)
    except OSError as error:
        raise FpganError(f"{os.fspath(path)}: the signing key cannot be read ({reason(error)}); fpgan registry init "
                         "--signing-key makes one") from error
    except (ValueError, TypeError) as error:
        raise FpganError(f"{os.fspath(path)}: no signing key; expected an unencrypted Ed25519 key in PEM, as fpgan registry "
                         "init --signing-key makes it") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise FpganError(f"{os.fspath(path)}: a key of another kind; expected Ed25519")
    return key


def create_signing_key(path: str | os.PathLike):
    """Draws a private key and writes it as PEM (PKCS 8) that its owner alone can read; a file that is there is kept.

    Returns:
      The Ed25519PrivateKey that the file holds now.
    """
    ed25519, serialization = _cryptography()
    create_file(path, ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()), private=True)
    return read_signing_key(path)


def public_key(key: Ed25519PrivateKey) -> str:
    """Returns the 64 hexadecimal digits of the public key that belongs to a private one."""
    return key.public_key().public_bytes_raw().hex()


def signed(document: dict, key: Ed25519PrivateKey) -> dict:
    """Returns a JSON object with `public_key` and `signature` added, which is over the canonical text of all else."""
    document = document | {"public_key": public_key(key)}
    return document | {"signature": key.sign(canonical(document)).hex()}


def check_signature(document: dict, expected_key: str | None = None) -> None:
    """Checks what `signed` returned.

    Args:
      document: the JSON object.
      expected_key: the public key that has to have signed it; without it any key will do, which only shows that nothing
        was changed since.

    Raises:
      FpganError: another key, or a signature that does not hold.
    """
    ed25519, _ = _cryptography()
    from cryptography.exceptions import InvalidSignature

    if expected_key is not None and document.get("public_key") != expected_key.strip().lower():
        raise FpganError(f"signed with the key {str(document.get('public_key'))[:64]}, expected {expected_key[:64]}")
    try:
        unsigned = {name: value for name, value in document.items() if name != "signature"}
        key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(document["public_key"]))
        key.verify(bytes.fromhex(document["signature"]), canonical(unsigned))
    except (InvalidSignature, KeyError, ValueError, TypeError) as error:
        raise FpganError("the signature does not hold: the document was changed, or never signed") from error


def _subtree(read: ReadTile, low: int, high: int) -> bytes:
    """Computes the hash over leaves low ... high - 1; low is a multiple of the largest power of two in high - low."""
    count = high - low
    if count & (count - 1) == 0:
        height = count.bit_length() - 1
        level, rest = divmod(height, 8)
        number, first = divmod(low >> 8 * level, TILE)  # the nodes at height 8 level that lie below
        return _top(read(level, number)[first * HASH_BYTES:(first + (1 << rest)) * HASH_BYTES])
    middle = low + _largest_power_below(count)
    return node_hash(_subtree(read, low, middle), _subtree(read, middle, high))


def _top(hashes: bytes) -> bytes:
    """Computes the node above 2^k hashes that stand side by side."""
    sha256 = hashlib.sha256
    while len(hashes) > HASH_BYTES:
        hashes = b"".join([sha256(b"\1" + hashes[i:i + 64]).digest() for i in range(0, len(hashes), 64)])
    return hashes


def _largest_power_below(count: int) -> int:
    """Returns the largest power of two that is smaller than a count of 2 or more."""
    return 1 << (count - 1).bit_length() - 1


def _cryptography():
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise missing_extra("cryptography", "provider") from error
    return ed25519, serialization
