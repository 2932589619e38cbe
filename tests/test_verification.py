"""What is wrong with a sample set is found and named; what is right passes."""

import hashlib
import json
import os

import pytest
from fake_model import N_BITS, FakeModel

import fpgan
from fpgan.attribution import issue
from fpgan.cli import app
from fpgan.distributed.environment import Process
from fpgan.errors import FpganError
from fpgan.generation.generate import generate_set
from fpgan.generation.verify import verify_set
from fpgan.io.images import encode_png, read_image

USERS = issue(["alice", "bob/..", "Carol"], N_BITS, b"k" * 16)


@pytest.fixture(params=["files", "array_record"])
def container(request):
    if request.param == "array_record":
        pytest.importorskip("array_record")
    return request.param


def make(folder, container="files", users=USERS, **changes):
    arguments = {"per_user": 17, "seed": 2**32 - 3, "batch_size": 4, "shard_size": 10, "container": container} | changes
    return generate_set(FakeModel(), users, folder, **arguments)


def problems(folder, **arguments):
    found = verify_set(folder, FakeModel(), **arguments).problems
    assert found.count >= len(found.shown)
    return "\n".join(found.shown)


def test_a_right_set_passes(tmp_path, container):
    make(tmp_path, container, encoding="webp")
    told = []
    report = verify_set(tmp_path, FakeModel(), decode=20, progress=lambda *done: told.append(done))
    assert report.problems.count == 0 and (report.shards, report.listed, report.right) == (6, 51, 51)
    assert report.decoded == report.matched == 20 and report.needed == 51 and told[-1] == (51, 51)
    assert verify_set(tmp_path, FakeModel(), decode=1000).matched == 51
    assert verify_set(tmp_path).decoded == 0


def test_missing_shards_are_named_and_whether_they_were_begun(tmp_path, container):
    make(tmp_path, container, process=Process(0, 2))
    (tmp_path / "manifest" / ".00003-of-00006.journal").touch()
    told = problems(tmp_path)
    assert "shard 1 is missing" in told and "shard 3 is not finished" in told and "shard 5 is missing" in told
    assert told.count("\n") == 2 and verify_set(tmp_path).right == 30


def test_a_damaged_line_and_a_stranger_are_found_together(tmp_path):
    make(tmp_path)
    path = tmp_path / "manifest" / "00000-of-00006.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    (tmp_path / "stranger").mkdir()
    for harm in (b"no JSON\n", b"{}\n"):
        path.write_bytes(b"".join([*lines[:1], harm, *lines[2:]]))
        assert "stranger: not of this set" in problems(tmp_path) and "line 2" in problems(tmp_path)
    path.write_bytes(b"".join([b"no JSON\n"] * len(lines)))  # of the first user, and so no instance is known by name
    assert "line 1" in problems(tmp_path)


@pytest.mark.parametrize("harm, told", [
    ("delete", "No such file"), ("change", "other bytes"), ("swap", "other bytes"), ("stranger", "not of this set"),
    ("user", "not of this set"), ("half", "half-written"), ("number", "not of this set"), ("shard", "not of this set")])
def test_every_kind_of_harm_to_files_is_found(tmp_path, harm, told):
    make(tmp_path)
    alice, bob = tmp_path / "alice" / "000003.png", tmp_path / "bob%2F.%2E" / "000003.png"
    data = {"change": alice.read_bytes() + b"x", "swap": bob.read_bytes(), "stranger": b"", "number": b""}
    place = {"delete": alice, "change": alice, "swap": alice, "stranger": alice.with_name("a.png"),
             "user": tmp_path / "eve" / "000000.png", "half": alice.with_name(".000003.png.00aa00aa.tmp"),
             "number": alice.with_name("000017.png"), "shard": tmp_path / "manifest" / "00000-of-00007.jsonl"}[harm]
    place.parent.mkdir(exist_ok=True)
    place.unlink() if harm == "delete" else place.write_bytes(data.get(harm, b""))
    found = verify_set(tmp_path)
    assert found.problems.count == 1 and told in found.problems.shown[0]
    assert (place.name if harm != "user" else "eve") in found.problems.shown[0]
    assert found.right == 51 - (harm in ("delete", "change", "swap"))


def test_harm_to_record_files_is_found(tmp_path):
    pytest.importorskip("array_record")
    make(tmp_path, "array_record")
    name = "images-0000{}-of-00006.array_record"
    second, other = tmp_path / name.format(2), tmp_path / name.format(4)
    right = second.read_bytes()
    second.write_bytes(other.read_bytes())
    assert verify_set(tmp_path).problems.count == 10 and "#0: other bytes" in problems(tmp_path)
    second.write_bytes((tmp_path / name.format(5)).read_bytes())
    assert "1 records; expected 10" in problems(tmp_path)
    second.write_bytes(right[:-1000])
    assert "damaged" in problems(tmp_path)
    second.unlink()
    assert "No such file" in problems(tmp_path)
    second.write_bytes(right)
    (tmp_path / "images-00000-of-00005.array_record").write_bytes(right)
    assert "images-00000-of-00005.array_record: not of this set" in problems(tmp_path)


@pytest.mark.parametrize("field, value", [("seed", 3), ("user", "eve"), ("fingerprint", "0" * 16), ("model", "ffff"),
                                          ("file", "alice/000004.png"), ("sha256", 7), ("user", None)])
def test_a_changed_line_is_found(tmp_path, field, value):
    make(tmp_path)
    path = tmp_path / "manifest" / "00000-of-00006.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[3][field] = value
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "line 4" in problems(tmp_path)


def test_lines_of_somebody_else_are_found(tmp_path):
    """The manifest of a whole set of other users, at the same places."""
    other = issue(["alice", "bob/..", "Carol"], N_BITS, b"other key, 16 by")
    make(tmp_path / "set", shard_size=17)
    make(tmp_path / "other", users=other, shard_size=17)
    for shard in ("00000", "00002"):
        name = f"manifest/{shard}-of-00003.jsonl"
        os.replace(tmp_path / "other" / name, tmp_path / "set" / name)
    assert "other fingerprints than settings.json says" in problems(tmp_path / "set")
    make(tmp_path / "cut")
    make(tmp_path / "cut other", users=other)
    os.replace(tmp_path / "cut other/manifest/00001-of-00006.jsonl", tmp_path / "cut/manifest/00001-of-00006.jsonl")
    assert "00001-of-00006.jsonl: another user or fingerprint than in the shard before" in problems(tmp_path / "cut")


@pytest.mark.parametrize("content, told", [(b"", "0 lines"), (b"no JSON\n" * 10, "line 1: no line"),
                                           (b"{}\n" * 11, "11 lines")])
def test_manifests_that_are_none_are_told(tmp_path, content, told):
    make(tmp_path)
    (tmp_path / "manifest" / "00002-of-00006.jsonl").write_bytes(content)
    assert told in problems(tmp_path)


def test_images_of_another_fingerprint_are_found_by_decoding(tmp_path):
    make(tmp_path)
    image = read_image(tmp_path / "alice/000000.png")[0]
    image[..., 0] = 240 - image[..., 0]  # all bits turned
    lines = tmp_path / "manifest/00000-of-00006.jsonl"
    for file, wrong in (("alice/000000.png", encode_png(image)), ("alice/000001.png", encode_png(image[:8])),
                        ("alice/000002.png", b"no image")):
        right = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes(wrong)
        old, new = (hashlib.sha256(data).hexdigest() for data in (right, wrong))
        lines.write_text(lines.read_text().replace(old, new))  # whoever changed the files changed the manifest, too
    assert problems(tmp_path) == ""
    told = problems(tmp_path, decode=51)
    assert "alice/000000.png: 0 of 64 bits match" in told and "alice/000001.png: not of 16 x 16 pixels" in told
    assert "not an image" in told


def test_what_is_no_set_or_of_another_model_is_refused(tmp_path):
    make(tmp_path / "set")
    other = FakeModel()
    other.hash = "ffff"
    with pytest.raises(FpganError, match="the hash 0011"):
        verify_set(tmp_path / "set", other, decode=1)
    with pytest.raises(FpganError, match="expected a folder that fpgan generate made"):
        verify_set(tmp_path)


def test_the_verb_prints_a_table_and_names_ten_problems(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(fpgan.__dict__, "load", lambda name: FakeModel())
    make(tmp_path / "set")
    assert app.main(["verify", str(tmp_path / "set"), "--decode", "5", "--seed", "0"]) == 0
    shown = capsys.readouterr()
    assert [line.split() for line in shown.out.splitlines()] == [
        "images 51 listed of 51".split(), "shards 6 finished of 6".split(), "hashes 51 right".split(),
        "decoded 5, of which 5 match (51 or more of 64 bits)".split(), "problems 0".split()] and not shown.err
    for i in range(12):
        (tmp_path / "set" / "alice" / f"{i:06d}.png").write_bytes(b"")
    assert app.main(["verify", str(tmp_path / "set")]) == 1
    shown = capsys.readouterr()
    assert "problems       12" in shown.out and len(shown.err.splitlines()) == 11 and "and 2 more" in shown.err
    assert app.main(["verify", str(tmp_path)]) == 2 and "fpgan verify: error: " in capsys.readouterr().err
    assert app.main(["verify"]) == 2
