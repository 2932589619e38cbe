"""Registry files and verdicts: errors that name the line, matches against a plain count, and the false-positive rate."""

import argparse
import dataclasses
import math
import multiprocessing
import types

import numpy as np
import pytest

from fpgan.attribution import Registry, append, attribute, issue, read, read_key, read_users, write
from fpgan.attribution.csv_store import issue_missing
from fpgan.attribution.registry import from_fingerprints
from fpgan.attribution.statistics import log10_p_value, matches, threshold
from fpgan.attribution.stores import open_store
from fpgan.attribution.verdict import ATTRIBUTED, NOBODY, NOT_OURS, UNREGISTERED, Match, explain
from fpgan.cli.options import registry_of
from fpgan.errors import FpganError
from fpgan.fingerprint import Fingerprint

A, B = "00112233445566778899aabbccddeeff", "ffeeddccbbaa99887766554433221100"


def saved(tmp_path, text, name="registry.csv"):
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("n_bits", [13, 64, 128])
def test_a_registry_survives_the_way_through_a_file(tmp_path, n_bits):
    registry = issue(["alice", "Bob, the \"builder\"", "Zoë"], n_bits)
    write(registry, tmp_path / "r.csv")
    again = read(tmp_path / "r.csv", n_bits)
    assert again.users == registry.users and (again.packed == registry.packed).all() and again.n_bits == n_bits
    assert again.fingerprint("Zoë").hex in (tmp_path / "r.csv").read_text(encoding="utf-8")
    assert (again.bits[1] == registry.fingerprint(registry.users[1]).bits).all()


def test_files_from_spreadsheets_are_read(tmp_path):
    path = saved(tmp_path, b"\xef\xbb\xbfuser,fingerprint\r\nalice," + A.upper().encode() + b"\r\n\r\n\"b,c\"," + B.encode())
    registry = read(path)
    assert registry.users == ("alice", "b,c") and registry.fingerprint("alice").hex == A


@pytest.mark.parametrize("text, line, complaint", [
    (f"alice,{A}\n", 1, "header"), ("", 1, "header"), (f"user,fingerprint\nalice,{A}\nalice,{B}\n", 3, "already on line 2"),
    (f"user,fingerprint\nalice,{A}\nbob,{A}\n", 3, "already on line 2"), ("user,fingerprint\nalice,xyz\n", 2, "hexadecimal"),
    (f"user,fingerprint\n\nalice,{A[:-1]}\n", 3, "31 hexadecimal"), (f"user,fingerprint\nalice,{A},x\n", 2, "3 fields"),
    ("user,fingerprint\nalice\n", 2, "1 fields"), (f"user,fingerprint\n,{A}\n", 2, "user id"),
    (f"user,fingerprint\n bob ,{A}\n", 2, "user id"), (f"user,fingerprint\n\x1b[2J,{A}\n", 2, "user id"),
    (f"user,fingerprint\nx,{'a' * 200_000}\n", 2, "CSV"),
])
def test_errors_name_file_and_line(tmp_path, text, line, complaint):
    path = saved(tmp_path, text)
    with pytest.raises(FpganError, match=complaint) as caught:
        read(path)
    assert f"{path}, line {line}:" in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_not_there_or_no_text(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path, saved(tmp_path, b"user,fingerprint\n\xff\xfe,00\n")):
        with pytest.raises(FpganError, match=str(path)):
            read(path)


def test_issue_is_random_or_keyed_and_refuses_bad_names():
    key = b"k" * 32
    keyed = issue(["alice", "bob"], 128, key)
    assert keyed.fingerprint("bob") == Fingerprint.derive(key, "bob") and issue(["bob", "alice"], 128, key).users[0] == "bob"
    assert (issue(["alice"]).packed != issue(["alice"]).packed).any()
    for users in (["a", "b", "a"], [""], ["a\n"], [" a"], ["\udc80"]):
        with pytest.raises(FpganError):
            issue(users)
    with pytest.raises(FpganError, match="same fingerprint"):
        from_fingerprints(["a", "b"], [A, A])
    with pytest.raises(FpganError, match="one each"):
        from_fingerprints(["a", "b"], [A])


def test_append_adds_or_changes_nothing(tmp_path):
    path = tmp_path / "r.csv"
    first = append(path, issue(["alice"]))
    whole = append(path, issue(["bob", "carol"]))
    assert whole.users == ("alice", "bob", "carol") and whole.fingerprint("alice") == first.fingerprint("alice")
    before = path.read_bytes()
    for clash in (issue(["dora", "bob"]), from_fingerprints(["dora"], whole.fingerprint("bob"))):
        with pytest.raises(FpganError):
            append(path, clash)
        assert path.read_bytes() == before
    assert issue_missing(path, ["bob", "dora"]).users == ("alice", "bob", "carol", "dora")
    again = path.read_bytes()
    assert issue_missing(path, ["bob", "dora"]).users[-1] == "dora" and path.read_bytes() == again


def _append_one(path, i):
    append(path, issue([f"user{i}"], 64))


def test_processes_that_append_at_once_lose_nobody(tmp_path):
    pytest.importorskip("fcntl")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append_one, args=(tmp_path / "r.csv", i)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(read(tmp_path / "r.csv", 64).users) == [f"user{i}" for i in range(4)]


def test_keys_and_user_files(tmp_path):
    assert read_key(saved(tmp_path, "00" * 31 + "fF\n", "hex")) == bytes(31) + b"\xff"
    raw = bytes(range(32)) + b"\n"
    assert read_key(saved(tmp_path, raw, "raw")) == raw
    for short in (b"", b"secret\n", b"ab" * 15):
        with pytest.raises(FpganError, match="or more|looks like text"):
            read_key(saved(tmp_path, short, "short"))
    assert read_users(saved(tmp_path, "alice\r\n\nbob\n", "users")) == ["alice", "bob"]
    for text, complaint in (("alice\nbob\nalice\n", "line 3.*line 1"), ("alice\n bob\n", "line 2"), ("\n", "no user ids")):
        with pytest.raises(FpganError, match=complaint):
            read_users(saved(tmp_path, text, "users"))


def found(n_bits=128, **options):
    none = {"fingerprint": None, "user": [], "users": None, "registry": None, "key_file": None, "issue": False,
            "allow_revoked": False}
    return registry_of(argparse.Namespace(**none | options), n_bits)


def test_instances_are_found_in_every_way(tmp_path):
    path, key = tmp_path / "r.csv", saved(tmp_path, (b"k" * 32).hex(), "key")
    with pytest.raises(FpganError, match="fingerprint or users"):
        found(fingerprint=A, user=["alice"])
    with pytest.raises(FpganError, match="name the users"):
        found(registry=path, issue=True)
    for ignored in ({"fingerprint": A}, {"user": ["alice"], "key_file": key}):
        with pytest.raises(FpganError, match="leave out --issue"):
            found(registry=path, issue=True, **ignored)
    assert not path.exists()
    bare = found(fingerprint=A)
    assert bare.users == (None,) and (bare.bits == Fingerprint.from_hex(A).bits).all()
    issued = found(user=["alice", "bob"], registry=path, issue=True)
    everybody = found(registry=path)
    assert issued.users == everybody.users == ("alice", "bob") and (issued.packed == everybody.packed).all()
    only = found(user=["bob"], registry=path)
    assert only.users == ("bob",) and (only.packed == everybody.packed[1:]).all()
    assert found(users=path).users == everybody.users
    assert found(users=saved(tmp_path, "bob\n", "ids"), user=["alice"], registry=path).users == ("alice", "bob")
    assert found(user=["bob"], key_file=key).fingerprint("bob") == Fingerprint.derive(b"k" * 32, "bob")
    for wrong in ({}, {"registry": path, "key_file": key}, {"key_file": key}, {"registry": path, "user": ["eve"]},
                  {"registry": path, "user": ["bob", "bob"]}):
        with pytest.raises(FpganError):
            found(**wrong)


def test_a_store_is_opened_as_what_it_is(tmp_path):
    key, path = saved(tmp_path, (b"k" * 32).hex(), "key"), tmp_path / "r.csv"
    for wrong in ({}, {"path": path, "key_file": key}):
        with pytest.raises(FpganError, match="one of the two"):
            open_store(**wrong)
    by_key = open_store(key_file=key, n_bits=64)
    derived = Fingerprint.derive(b"k" * 32, "a", 64)
    assert by_key.select(["a"]).fingerprint("a") == by_key.issue(["a"]).fingerprint("a") == derived
    with pytest.raises(FpganError, match="name the users"):
        by_key.registry()
    by_file = open_store(path, n_bits=64)
    first = by_file.issue(["bob", "alice"])
    assert by_file.issue(["carol", "bob"]).users == ("carol", "bob")
    assert by_file.registry().users == ("bob", "alice", "carol")
    assert by_file.select(["alice"]).fingerprint("alice") == first.fingerprint("alice")


def test_a_registry_is_unpacked_a_few_places_at_a_time():
    registry = issue(["a", "b", "c"], 100)
    assert (registry.unpacked(np.array([2, 0, 2])) == registry.bits[[2, 0, 2]]).all()
    assert (registry.unpacked(slice(1, 3)) == registry.bits[1:]).all() and registry.at(1) == registry.fingerprint("b")
    one = Registry.single(registry.at(2))
    assert one.users == (None,) and (one.bits == registry.bits[2:]).all() and one.at(0) == registry.at(2)


@pytest.mark.parametrize("n_bits, users, images", [(13, 3, 5), (128, 40_000, 3), (64, 17, 1500), (100, 1, 1)])
def test_best_matches_are_those_of_a_plain_count(n_bits, users, images):
    rng = np.random.default_rng(users)
    prints = rng.integers(0, 2, (users, n_bits), dtype=np.uint8)
    registry = Registry(tuple(map(str, range(users))), np.packbits(prints, axis=1), n_bits)
    bits = rng.integers(0, 2, (images, n_bits), dtype=np.uint8)
    place, count = registry.best_matches(bits)
    for i in range(0, images, 1 + images // 20):
        plain = matches(prints, bits[i])
        assert count[i] == plain.max() and place[i] == plain.argmax()


def test_verdicts_with_and_without_a_calibrated_threshold():
    registry = issue(["alice", "bob"], 128)
    signs = registry.bits[[1, 1, 0, 1]] * 2.0 - 1
    signs[1, :37] *= -1  # 91 of 128 match: too few for one user, and so for two
    signs[2, :30] *= -1  # 98 of 128
    signs[3] = np.where(np.arange(128) % 2, 1, -1)
    logits = signs * 3
    logits[3, ::2] /= 100
    alone, sure = attribute(logits, registry), attribute(logits, registry, evenness_threshold=0.9)
    assert [v.kind for v in alone] == [ATTRIBUTED, NOBODY, ATTRIBUTED, NOBODY]
    assert [v.kind for v in sure] == [ATTRIBUTED, UNREGISTERED, ATTRIBUTED, NOT_OURS]
    assert [v.user for v in sure] == ["bob", None, "alice", None] and str(sure[0]) == "user bob"
    assert [v.matches for v in sure[:3]] == [128, 91, 98]
    assert sure[0].fingerprint == registry.fingerprint("bob").hex
    assert sure[2].log10_p == pytest.approx(float(log10_p_value(98, 128)) + math.log10(2))
    assert sure[3].log10_p <= 0
    hard = attribute(logits > 0, registry, evenness_threshold=0.9)  # bits alone have no evenness
    assert [v.kind for v in hard] == [v.kind for v in alone] and hard[:3] == [
        dataclasses.replace(v, log10_p=h.log10_p, score=h.score, named=h.named)
        for v, h in zip(alone[:3], hard[:3], strict=True)]
    assert [v.log10_p for v in hard[:3]] == pytest.approx([v.log10_p for v in alone[:3]], rel=1e-12)  # all equally sure


def test_attribution_begins_exactly_at_the_threshold():
    registry = issue(map(str, range(1000)), 128)
    needed = threshold(128, 1e-6, 1000)
    for wrong, named in ((128 - needed, True), (129 - needed, False)):
        bits = registry.bits[7].copy()
        bits[:wrong] ^= 1
        verdict, = attribute(bits[None], registry)
        assert (verdict.user == "7") == named and (verdict.log10_p <= -6) == named


def test_sure_bits_count_for_more_than_unsure_ones():
    registry = issue(["alice", "bob"], 128, b"k" * 16)
    logits = registry.bits[[0, 0]] * 2.0 - 1
    logits[:, :45] *= -1  # 83 of 128 match: far too few
    logits[0, :45] *= 0.2  # but where they do not, the decoder was not sure
    logits[1, 45:] *= 0.2
    right, wrong = attribute(logits, registry)
    assert right.user == "alice" and right.matches == 83 and right.log10_p < -15
    assert wrong.user is None and attribute(logits > 0, registry)[0].user is None
    reading = types.SimpleNamespace(logits=logits)  # what `Model.read` gives
    assert attribute(reading, registry) == [right, wrong]


def test_everybody_who_mixed_an_image_is_named():
    registry = issue(map(str, range(3000)), 128, b"k" * 16)
    signs = registry.bits[[5, 17, 2999]] * 2.0 - 1
    rng = np.random.default_rng(0)
    mixed = (signs.mean(axis=0) + rng.normal(0, 0.05, 128))[None]
    verdict, = attribute(mixed, registry)
    assert sorted(verdict.users) == ["17", "2999", "5"] and verdict.user == verdict.users[0] and verdict.kind == ATTRIBUTED
    assert str(verdict) == "users " + ", ".join(verdict.users)
    first = verdict.named[0]
    assert (verdict.user, verdict.matches, verdict.log10_p) == (first.user, first.matches, first.log10_p)
    for match in verdict.named:
        assert match.log10_p <= -6
        assert match.matches == matches(registry.fingerprint(match.user).bits, (mixed[0] > 0).astype(np.uint8))
    long = dataclasses.replace(verdict, named=tuple(Match(str(i), 128, -38.0, 2048) for i in range(5)), user="0")
    assert str(long) == "users 0, 1, 2 and 2 more"


def test_nobody_innocent_is_named_for_mixed_images():
    """Two users mix; over fresh registries of others, at most the stated share of images names one of the others."""
    rng = np.random.default_rng(4)
    hits, rate = 0, 0.05
    for _ in range(300):
        registry = from_fingerprints(map(str, range(40)), rng.integers(0, 2, (40, 64), dtype=np.uint8), 64)
        guilty = registry.bits[:2] * 2.0 - 1
        mixed = np.where(rng.random(64) < 0.5, *guilty) * rng.exponential(size=64)
        named = attribute(mixed[None], registry, rate)[0].users
        hits += any(user not in ("0", "1") for user in named)
    assert hits / 300 < rate + 5 * math.sqrt(rate / 300)


def test_attribute_refuses_what_it_cannot_judge():
    registry = issue(["alice"], 16)
    with pytest.raises(FpganError, match="larger rate"):
        attribute(np.zeros((1, 16)), registry)
    for outputs in (np.zeros((1, 17)), np.full((1, 16), np.nan)):
        with pytest.raises(FpganError):
            attribute(outputs, registry, 0.01)
    with pytest.raises(FpganError, match="no users"):
        attribute(np.zeros((1, 128)), issue([], 128))
    assert attribute(np.zeros((0, 16)), registry, 0.01) == []


@pytest.mark.parametrize("image", ["random", "all ones", "half"])
def test_the_false_positive_rate_holds_for_any_image(image):
    """Over random registries, whatever the image: exact for one user, bounded by the union for many."""
    rng = np.random.default_rng(0)
    n, trials = 64, 20_000
    bits = {"random": rng.integers(0, 2, n), "all ones": np.ones(n, int), "half": np.arange(n) % 2}[image].astype(np.uint8)
    prints = rng.integers(0, 2, (trials, n), dtype=np.uint8)
    exact = 10 ** float(log10_p_value(threshold(n, 0.01), n))
    hits = sum(attribute(bits[None], from_fingerprints(["u"], row, n), 0.01)[0].user is not None for row in prints[:2000])
    hits += int((matches(prints[2000:], bits) >= threshold(n, 0.01)).sum())
    assert abs(hits / trials - exact) < 5 * math.sqrt(exact / trials) and exact <= 0.01


def test_the_rate_over_many_users_is_bounded():
    rng = np.random.default_rng(1)
    registry = issue(map(str, range(200)), 128, b"k" * 16)
    bits = rng.integers(0, 2, (10_000, 128), dtype=np.uint8)
    share = np.mean([v.user is not None for v in attribute(bits, registry, 0.05)])
    assert 0.01 < share < 0.05 + 5 * math.sqrt(0.05 / 10_000)


def test_the_explanation_says_what_is_claimed():
    registry = issue(["alice"], 128)
    assert "92 or more of 128" in explain(registry, 1e-6, None) and "1 registered user" in explain(registry, 1e-6, None)
    assert NOBODY in explain(registry, 1e-6, None) and NOT_OURS not in explain(registry, 1e-6, None)
    assert "no p-value" in explain(registry, 1e-6, 2.5) and "2.5" in explain(registry, 1e-6, 2.5)
