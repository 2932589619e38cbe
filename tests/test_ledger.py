"""The Merkle tree against its recursive definition, proofs that hold and those that must not, signatures."""

import hashlib
import json

import pytest

from fpgan.errors import FpganError
from fpgan.io import ledger


def plain_root(leaves):
    """The definition of RFC 9162, section 2.1.1."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + plain_root(leaves[:k]) + plain_root(leaves[k:])).digest()


def leaves_of(count):
    return [ledger.leaf_hash(b"entry %d" % i) for i in range(count)]


def tiles_of(*parts):
    tiles, size = {}, 0
    for part in parts:
        tiles |= ledger.grow(lambda *place, tiles=tiles: tiles.get(place, b""), size, part)
        size += len(part)
    return lambda level, number: tiles.get((level, number), b"")


SIZES = [0, 1, 2, 3, 7, 8, 255, 256, 257, 511, 512, 700]


def test_the_root_is_that_of_the_definition_and_of_the_rfc():
    leaves = leaves_of(700)
    read = tiles_of(leaves)
    for size in SIZES:
        assert ledger.root(read, size) == plain_root(leaves[:size])
    # The first test vectors of Certificate Transparency: the empty tree, and the entry of no bytes.
    assert ledger.EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert ledger.leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"


def test_a_tree_of_three_levels_of_tiles_has_the_root_of_the_definition():
    leaves = leaves_of(256 * 256 + 300)
    read = tiles_of(leaves)
    assert len(read(2, 0)) == 32
    assert ledger.root(read, len(leaves)) == plain_root(leaves)
    path = ledger.inclusion_path(read, 65_000, len(leaves))
    assert ledger.is_included(leaves[65_000], 65_000, len(leaves), path, plain_root(leaves))


def test_appending_in_parts_gives_the_tiles_of_appending_at_once():
    leaves = leaves_of(700)
    whole, parts = tiles_of(leaves), tiles_of(leaves[:1], leaves[1:255], leaves[255:258], leaves[258:])
    for tile in [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (2, 0)]:
        assert whole(*tile) == parts(*tile)


@pytest.mark.parametrize("size", SIZES[1:])
def test_every_inclusion_is_proven_and_nothing_else(size):
    leaves = leaves_of(700)
    read, root = tiles_of(leaves), plain_root(leaves[:size])
    for place in {0, size // 3, size // 2, size - 1}:
        path = ledger.inclusion_path(read, place, size)
        assert len(path) <= 10
        assert ledger.is_included(leaves[place], place, size, path, root)
        assert not ledger.is_included(ledger.leaf_hash(b"another"), place, size, path, root)
        assert not ledger.is_included(leaves[place], place, size, path, leaves[0] if size > 1 else b"\0" * 32)
        assert not ledger.is_included(leaves[place], place, size, [*path, root], root)
        assert not ledger.is_included(leaves[place], place + size, size, path, root)
        if path:
            assert not ledger.is_included(leaves[place], place, size, path[:-1], root)
            assert not ledger.is_included(leaves[place], place ^ 1, size, path, root)


def test_every_beginning_is_proven_and_no_other():
    leaves = leaves_of(40)
    read, roots = tiles_of(leaves), [plain_root(leaves[:size]) for size in range(41)]
    for size in range(41):
        for old in range(size + 1):
            path = ledger.consistency_path(read, old, size)
            assert ledger.is_consistent(old, roots[old], size, roots[size], path), (old, size)
            if 0 < old < size:
                assert not ledger.is_consistent(old, roots[old - 1], size, roots[size], path)
                assert not ledger.is_consistent(old, roots[old], size, roots[size - 1], path)
                assert not ledger.is_consistent(old, roots[old], size, roots[size], [*path, roots[1]])
                assert not ledger.is_consistent(old, roots[old], size, roots[size], path[:-1])


def test_a_signature_holds_until_anything_changes(tmp_path):
    pytest.importorskip("cryptography", reason="pip install 'fpgan[provider]'")
    key = ledger.create_signing_key(tmp_path / "keys" / "provider.pem")
    assert (tmp_path / "keys" / "provider.pem").stat().st_mode & 0o777 == 0o600
    assert ledger.public_key(ledger.create_signing_key(tmp_path / "keys" / "provider.pem")) == ledger.public_key(key)
    document = json.loads(json.dumps(ledger.signed({"size": 3, "root": "ab", "text": "é\n"}, key)))
    ledger.check_signature(document)
    ledger.check_signature(document, ledger.public_key(key))
    other = ledger.create_signing_key(tmp_path / "other.pem")
    for wrong in (document | {"size": 4}, document | {"more": 1}, document | {"signature": "00" * 64},
                  {k: v for k, v in document.items() if k != "signature"}, document | {"signature": 5},
                  document | {"public_key": ledger.public_key(other)}, document | {"public_key": "zz"}):
        with pytest.raises(FpganError, match="signature does not hold"):
            ledger.check_signature(wrong)
    with pytest.raises(FpganError, match="expected"):
        ledger.check_signature(ledger.signed({"size": 3}, other), ledger.public_key(key))


@pytest.mark.parametrize("content", [b"", b"hello", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_key_is_refused(tmp_path, content):
    pytest.importorskip("cryptography", reason="pip install 'fpgan[provider]'")
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(FpganError, match="no signing key"):
        ledger.read_signing_key(tmp_path / "key")
    with pytest.raises(FpganError, match="cannot be read"):
        ledger.read_signing_key(tmp_path / "none")
