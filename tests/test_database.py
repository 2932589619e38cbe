"""The registry in SQLite: what it promises of users and fingerprints, under many writers, kills and forgers."""

import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fpgan.attribution import database, proofs
from fpgan.attribution import sqlite_tables as tables
from fpgan.errors import FpganError
from fpgan.fingerprint import Fingerprint
from fpgan.io import ledger

KEY = bytes(range(32))


@pytest.fixture
def base(tmp_path):
    with database.create(tmp_path / "registry.sqlite", 128) as opened:
        yield opened


def packed_of(opened, user):
    return opened.select([user]).packed[0].tobytes()


def test_issued_users_are_there_when_it_is_opened_again(base):
    assert len(base) == 0 and base.size == 0
    assert base.issue(["alice", "bob", "Zoë 🐈"]) == 3
    base.issue(["carol"], key=KEY)
    with database.Database(base.path) as again:
        registry = again.registry()
        assert list(registry.users) == ["alice", "bob", "Zoë 🐈", "carol"] and len(registry) == 4
        assert registry.users[-1] == "carol" and registry.users[1:3] == ["bob", "Zoë 🐈"]
        assert len({row.tobytes() for row in registry.packed}) == 4
        assert again.select(["carol"]).fingerprint("carol") == Fingerprint.derive(KEY, "carol", 128)
        chosen = again.select(["carol", "alice"])
        np.testing.assert_array_equal(chosen.packed, registry.packed[[3, 0]])
        assert [row["user"] for row in again.rows()] == list(registry.users)
        assert [row["fingerprint"] for row in again.rows()] == [code.tobytes().hex() for code in registry.packed]
        assert list(proofs.audit(again)) == []


def test_fingerprints_of_many_blocks_are_read_back_in_order(base):
    given = np.random.default_rng(0).integers(0, 256, (2 * tables.BLOCK + 77, 16), np.uint8)
    parts = [0, 1, 500, tables.BLOCK - 1, tables.BLOCK, tables.BLOCK + 5, len(given)]
    for start, stop in zip(parts, parts[1:], strict=False):
        base.issue([f"u{i}" for i in range(start, stop)], fingerprints=given[start:stop])
    np.testing.assert_array_equal(base.registry().packed, given)
    np.testing.assert_array_equal(base.registry(5000).packed, given[:5000])
    assert len(base.registry(5000).users) == 5000
    places = [8200, 3, 4095, 4096]
    np.testing.assert_array_equal(base.select([f"u{i}" for i in places]).packed, given[places])
    assert list(proofs.audit(base)) == []


def test_attribution_against_the_file_is_attribution_against_its_users_in_memory(base):
    from fpgan.attribution import from_fingerprints
    from fpgan.attribution.verdict import attribute

    base.issue([f"u{i}" for i in range(5000)])
    stored = base.registry()
    plain = from_fingerprints(list(stored.users), stored.bits)
    bits = stored.bits[[7, 4999]].copy()
    bits[0, :10] ^= 1
    assert attribute(bits, stored) == attribute(bits, plain)
    assert attribute(bits, stored)[0].user == "u7"


def test_a_call_issues_all_or_nobody(base):
    base.issue(["alice"])
    before = base.size
    for users, message in ((["bob", "alice"], "'alice' is in the registry"),
                           (["bob", "carol", "bob"], "'bob' is given twice"),
                           (["bob", " carol"], "no good user id"), (["bob", "c\0"], "no good user id")):
        with pytest.raises(FpganError, match=message):
            base.issue(users)
    with pytest.raises(FpganError, match="somebody else's"):
        base.issue(["bob", "carol"], fingerprints=np.stack([np.zeros(16, np.uint8), base.registry().packed[0]]))
    with pytest.raises(FpganError, match="somebody else's"):
        base.issue(["bob", "carol"], fingerprints=np.zeros((2, 16), np.uint8))
    assert base.size == before and base.missing(["bob", "carol", "alice"]) == ["bob", "carol"]
    assert base.issue(["alice", "bob"], skip_known=True) == 1
    assert len(base) == 2 and list(proofs.audit(base)) == []


def test_short_fingerprints_are_distinct_as_long_as_there_are_any(tmp_path):
    with database.create(tmp_path / "r", 8) as base:
        base.issue([f"u{i}" for i in range(100)])
        base.issue([f"v{i}" for i in range(28)])
        assert len(np.unique(base.registry().packed)) == 128
        with pytest.raises(FpganError, match="too many for 8 bits"):
            base.issue(["one more"])


@pytest.mark.parametrize("n_bits", [8, 13, 64, 127, 512])
def test_fingerprints_of_every_length_are_kept_and_proven(tmp_path, n_bits):
    with database.create(tmp_path / "r", n_bits) as base:
        base.issue(["alice", "bob"])
        assert base.registry().fingerprint("bob").n_bits == n_bits
        assert [row["fingerprint"] for row in base.rows()] == [base.select([u]).fingerprint(u).hex for u in ("alice", "bob")]
        assert list(proofs.audit(base)) == []


def test_a_revoked_user_stays_and_is_marked(base):
    base.issue(["alice", "bob"])
    before = packed_of(base, "alice")
    base.revoke("alice", "sold it")
    assert list(base.registry().revoked) == ["alice"] and base.select(["alice", "bob"]).revoked.keys() == {"alice"}
    assert packed_of(base, "alice") == before
    assert [row["revoked"] is None for row in base.rows()] == [False, True]
    with pytest.raises(FpganError, match="was revoked"):
        base.revoke("alice")
    with pytest.raises(FpganError, match="not in the registry of 2 users"):
        base.revoke("carol")
    assert [entry["kind"] for entry in base.entries(user="alice")] == ["issue", "revoke"]
    assert list(proofs.audit(base)) == []


def test_releases_make_an_inventory(base):
    base.issue(["alice", "bob"])
    base.record_release("bob", {"model": "m", "sha256": {"generator.safetensors": "00"}})
    base.record_release("alice", {"model": "m"})
    assert [each["user"] for each in base.releases()] == ["bob", "alice"]
    assert list(base.releases("bob"))[0]["sha256"] == {"generator.safetensors": "00"}
    assert list(proofs.audit(base)) == []


def test_a_verifiers_copy_answers_the_same_and_takes_nothing(base, tmp_path):
    base.issue(["alice", "bob"])
    base.copy(tmp_path / "copy.sqlite")
    assert all(os.stat(path).st_mode & 0o777 == 0o600 for path in (base.path, tmp_path / "copy.sqlite"))
    os.chmod(tmp_path / "copy.sqlite", 0o400)
    with database.Database(tmp_path / "copy.sqlite") as copy:
        assert copy.role == "verifier" and copy.id == base.id
        np.testing.assert_array_equal(copy.registry().packed, base.registry().packed)
        assert list(proofs.audit(copy)) == []
        for change in (lambda: copy.issue(["eve"]), lambda: copy.revoke("bob"), lambda: copy.record_release("bob", {})):
            with pytest.raises(FpganError, match="read only"):
                change()
    assert sorted(path.name for path in tmp_path.iterdir() if "copy" in path.name) == ["copy.sqlite"]


def test_what_is_no_registry_is_refused_in_one_line(tmp_path, base):
    with pytest.raises(FpganError, match="there is a file already"):
        database.create(base.path)
    (tmp_path / "text").write_text("user,fingerprint\n")
    (tmp_path / "damaged").write_bytes(b"SQLite format 3\0" + b"\xff" * 4000)
    sqlite3.connect(tmp_path / "other").executescript("CREATE TABLE t (x); INSERT INTO t VALUES (1)")
    for name, message in (("text", "no registry"), ("none", "no registry"), ("damaged", "whole"),
                          ("other", "another program")):
        with pytest.raises(FpganError, match=message):
            database.Database(tmp_path / name)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


@pytest.mark.parametrize("damage, message", [
    ("DELETE FROM codes WHERE block = 0", "damaged at its block 0"),
    ("UPDATE codes SET packed = substr(packed, 1, 4096) WHERE block = 1", "damaged at its block 1"),
    ("UPDATE facts SET value = 'many' WHERE name = 'n_bits'", "n_bits is many; expected a whole number"),
    ("DELETE FROM facts WHERE name = 'secret'", "secret is missing"),
    ("DELETE FROM facts WHERE name = 'id'", "no field 'id'"), ("DROP TABLE facts", "is it a registry, whole")])
def test_a_damaged_file_names_nobody(base, damage, message):
    base.issue([f"u{i}" for i in range(tables.BLOCK + 3)])
    with sqlite3.connect(base.path) as connection:
        connection.executescript(damage)
    connection.close()
    with pytest.raises(FpganError, match=message):
        database.Database(base.path).registry()


def test_a_file_with_damage_anywhere_is_told_in_a_line_or_found_by_the_audit_or_whole(base, tmp_path):
    base.issue([f"u{i}" for i in range(300)])
    base.revoke("u3")
    base.record_release("u4", {"model": "m"})
    users, packed = list(base.registry().users), base.registry().packed
    base.close()
    whole, rng, ends = Path(base.path).read_bytes(), np.random.default_rng(0), []
    for i in range(90):
        content = bytearray(whole)
        page = int(rng.integers(1, len(whole) // 4096)) * 4096
        for place in page + rng.integers(0, (4096, 100)[i % 2], 1 + i % 5):
            content[place] = rng.integers(256)
        path = tmp_path / f"damaged{i}"
        path.write_bytes(content[:int(rng.integers(16, len(whole)))] if i % 9 == 8 else content)
        try:
            with database.Database(path) as damaged:
                list(damaged.rows()), list(damaged.releases()), damaged.select(["u3", "u299"]), damaged.heads()
                found = damaged.registry()
                ends.append("found" if list(proofs.audit(damaged)) else "whole")
                if ends[-1] == "whole":  # bytes that nobody reads
                    assert list(found.users) == users and found.revoked.keys() == {"u3"}
                    np.testing.assert_array_equal(found.packed, packed)
        except FpganError as error:
            assert "\n" not in str(error)
            ends.append("told")
    assert min(map(ends.count, ("told", "found", "whole"))) > 5, ends


def test_a_head_is_signed_and_proves_what_was_registered(base, tmp_path):
    pytest.importorskip("cryptography", reason="pip install 'fpgan[provider]'")
    key = ledger.create_signing_key(tmp_path / "key.pem")
    with database.create(tmp_path / "signed", 128, ledger.public_key(key)) as base:
        base.issue([f"u{i}" for i in range(600)])
        with pytest.raises(FpganError, match="no signed head"):
            proofs.prove(base, "u5")
        old = proofs.sign_head(base, key)
        assert proofs.sign_head(base, key) == old and (old["size"], old["users"]) == (600, 600)
        base.revoke("u5")
        base.issue(["late"])
        with pytest.raises(FpganError, match="after the last signed head"):
            proofs.prove(base, "late")
        head = proofs.sign_head(base, key)
        proof = json.loads(json.dumps(proofs.prove(base, "u5")))
        lines = proofs.check(proof, ledger.public_key(key))
        assert len(lines) == 3 and base.select(["u5"]).fingerprint("u5").hex in lines[1] and "revoke u5" in lines[2]
        assert len(json.dumps(proof)) < 4000
        other = [row["fingerprint"] for row in base.rows() if row["user"] != "u5"]
        assert not any(text in json.dumps(proof) for text in other) and "u6" not in json.dumps(proof)
        consistency = proofs.prove_consistency(base, old)
        assert len(proofs.check(consistency, ledger.public_key(key))) == 3
        assert "nothing was changed" in proofs.check(consistency)[-1]
        assert list(proofs.audit(base, [old, head])) == []

        forged = json.loads(json.dumps(proof))
        forged["entries"][0]["entry"]["user"] = "mallory"
        for wrong in (forged, proof | {"head": old}, proof | {"format": "x"}, proof | {"entries": 5}, {},
                      {"format": proofs.HEAD}, consistency | {"path": consistency["path"][:-1]},
                      consistency | {"old": head | {"size": 3}}):
            with pytest.raises(FpganError):
                proofs.check(wrong, ledger.public_key(key))
        stranger = ledger.create_signing_key(tmp_path / "stranger.pem")
        with pytest.raises(FpganError, match="signed with the key"):
            proofs.check(proof, ledger.public_key(stranger))
        with pytest.raises(FpganError, match="give the key"):
            proofs.sign_head(base, stranger)


FORGERIES = {
    "another name": ("UPDATE users SET user = 'mallory' WHERE place = 300", "entry 300"),
    "another fingerprint": ("UPDATE codes SET packed = zeroblob(4096 * 16) WHERE block = 0", "entry 0"),
    "two users swapped": ("UPDATE users SET place = -1 WHERE place = 3; UPDATE users SET place = 3 WHERE place = 4; "
                          "UPDATE users SET place = 4 WHERE place = -1", "entry 3|does not agree"),
    "an earlier time": ("UPDATE entries SET time = time - 86400 WHERE number = 550", "entry 550"),
    "a revocation undone": ("UPDATE users SET revoked = NULL", "'u5' does not agree"),
    "a revocation taken out": ("UPDATE users SET revoked = NULL; DELETE FROM entries WHERE kind = 'revoke'", "missing"),
    "a release rewritten": ("UPDATE entries SET detail = '{}' WHERE kind = 'release'", "entry 601"),
    "a revocation moved": ("UPDATE entries SET place = 6 WHERE kind = 'revoke'; UPDATE users SET revoked = NULL; "
                           "UPDATE users SET revoked = 600 WHERE place = 6", "entry 600"),
    "the tree": ("UPDATE tiles SET hashes = zeroblob(96) WHERE level = 1", "upper levels|root|signed"),
    "the end cut off": ("DELETE FROM entries WHERE number = 601; UPDATE tiles SET hashes = substr(hashes, 1, 32 * 89) "
                        "WHERE level = 0 AND number = 2", "older state"),
    "a user added": ("INSERT INTO users VALUES (600, 'eve', 3, NULL)", "'eve' does not agree"),
    "a head replaced": ("UPDATE heads SET document = replace(document, '\"users\": 600', '\"users\": 599')", "signature"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_every_change_is_found(tmp_path, forgery):
    pytest.importorskip("cryptography", reason="pip install 'fpgan[provider]'")
    key = ledger.create_signing_key(tmp_path / "key.pem")
    with database.create(tmp_path / "r", 128, ledger.public_key(key)) as base:
        base.issue([f"u{i}" for i in range(600)])
        base.revoke("u5")
        base.record_release("u6", {"model": "m"})
        proofs.sign_head(base, key)
        assert list(proofs.audit(base)) == []
    script, expected = FORGERIES[forgery]
    with sqlite3.connect(tmp_path / "r") as connection:
        connection.executescript(script)
    connection.close()
    with database.Database(tmp_path / "r") as base:
        found = list(proofs.audit(base))
    assert found and any(re.search(expected, problem) for problem in found), found


def test_a_forger_who_recomputes_the_tree_is_found_by_the_head(tmp_path):
    pytest.importorskip("cryptography", reason="pip install 'fpgan[provider]'")
    key = ledger.create_signing_key(tmp_path / "key.pem")
    with database.create(tmp_path / "r", 128, ledger.public_key(key)) as base:
        base.issue(["alice", "bob"])
        head = proofs.sign_head(base, key)
    with sqlite3.connect(tmp_path / "r") as connection:
        connection.execute("UPDATE users SET user = 'mallory' WHERE user = 'bob'")
    with database.Database(tmp_path / "r") as base:
        leaves = [proofs.leaf(entry) for entry in base.entries()]
    with sqlite3.connect(tmp_path / "r") as connection:
        connection.execute("UPDATE tiles SET hashes = ?", (b"".join(leaves),))
        connection.execute("DELETE FROM heads")
    with database.Database(tmp_path / "r") as base:
        assert list(proofs.audit(base)) == []  # nobody can tell from the file alone
        problem, = proofs.audit(base, [head])
        assert "another than the one it signed" in problem


ISSUE = """
import sys, itertools
from fpgan.attribution.database import Database
base = Database(sys.argv[1])
for i in itertools.count() if sys.argv[3] == "inf" else range(int(sys.argv[3])):
    users = [f"{sys.argv[2]}-{i}-{k}" for k in range(1 + i % 7)]
    base.issue(users)
    if i % 3 == 0:
        base.revoke(users[0])
    print(*users, flush=True)
"""


def start(path, name, count):
    return subprocess.Popen([sys.executable, "-c", ISSUE, path, name, str(count)], stdout=subprocess.PIPE, text=True)


def test_several_processes_issue_at_once_and_nobody_is_lost(base):
    workers = [start(base.path, f"w{i}", 40) for i in range(4)]
    said = [user for worker in workers for user in worker.communicate(timeout=120)[0].split()]
    assert all(worker.returncode == 0 for worker in workers)
    assert len(said) == 4 * sum(1 + i % 7 for i in range(40))
    assert sorted(base.registry().users) == sorted(said)
    assert len({row.tobytes() for row in base.registry().packed}) == len(said)
    assert list(proofs.audit(base)) == []


def test_a_kill_at_any_moment_loses_nothing_that_was_said(base):
    chance, said = random.Random(), []
    for round_ in range(6):
        worker = start(base.path, f"r{round_}", "inf")
        said += worker.stdout.readline().split()
        time.sleep(chance.uniform(0, 0.3))
        os.kill(worker.pid, signal.SIGKILL)
        said += worker.communicate()[0].rpartition("\n")[0].split()
        with database.Database(base.path) as again:
            assert set(said) <= set(again.registry().users)
            assert list(proofs.audit(again)) == []
            again.issue([f"after {round_}"])
    assert len(said) > 20
