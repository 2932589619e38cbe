"""Sample sets: manifests that are true, bytes that do not depend on interruptions, and folders that are not mixed."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fake_model import N_BITS, FakeModel

from fpgan.attribution import issue
from fpgan.errors import FpganError
from fpgan.files import locked, record_reader
from fpgan.fingerprint import Fingerprint
from fpgan.generation import generate_set
from fpgan.images import read_image

USERS = issue(["alice", "bob/..", "Carol"], N_BITS, b"k" * 16)
RUN = """
import sys
sys.path.insert(0, {tests!r})
from fake_model import FakeModel
from fpgan.attribution import issue
from fpgan.generation import generate_set
users = issue(["alice", "bob/..", "Carol"], 64, b"k" * 16)
generate_set(FakeModel(delay={delay}), users.users, users.bits, sys.argv[1], count=17, seed=2**32 - 3, batch_size=4,
             format={format!r}, shard_size=10)
"""


def make(folder, model=None, **changes):
    arguments = {"count": 17, "seed": 2**32 - 3, "batch_size": 4, "shard_size": 10} | changes
    return generate_set(model or FakeModel(), USERS.users, USERS.bits, folder, **arguments)


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def manifest(folder):
    return [json.loads(line) for line in (Path(folder) / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_manifest_is_true_of_every_file(tmp_path):
    told = []
    outcome = make(tmp_path / "set", progress=lambda done, total: told.append((done, total)))
    lines = manifest(tmp_path / "set")
    assert outcome.total == outcome.made == len(lines) == 51 and outcome.manifest == tmp_path / "set" / "manifest.jsonl"
    assert told[-1] == (51, 51) and told == sorted(told)
    for i, line in enumerate(lines):
        data = (tmp_path / "set" / line["file"]).read_bytes()
        assert line["sha256"] == hashlib.sha256(data).hexdigest()
        assert line["user"] == USERS.users[i // 17] and line["seed"] == (2**32 - 3 + i % 17) % 2**32
        assert line["fingerprint"] == USERS.fingerprint(line["user"]).hex and line["model"] == FakeModel.hash
        image = read_image(data)[0]
        assert (FakeModel().decode(image[None])[0] > 0).tolist() == USERS.bits[i // 17].tolist()
        assert image[0, 0, 1] == line["seed"] % 251
    assert lines[0]["file"] == "alice/000000.png" and lines[17]["file"] == "bob%2F.%2E/000000.png"
    on_disk = {name for name in tree(tmp_path / "set") if name.endswith(".png")}
    assert on_disk == {line["file"] for line in lines}


def test_a_complete_set_is_left_alone(tmp_path):
    make(tmp_path)
    before, model = tree(tmp_path), FakeModel()
    outcome = make(tmp_path, model)
    assert outcome.made == 0 and outcome.total == 51 and model.generated == 0 and tree(tmp_path) == before


@pytest.mark.parametrize("harm", ["delete", "change", "empty"])
def test_missing_or_damaged_files_are_made_again(tmp_path, harm):
    make(tmp_path)
    before = tree(tmp_path)
    file = tmp_path / "alice" / "000013.png"
    if harm == "delete":
        file.unlink()
    else:
        file.write_bytes(b"" if harm == "empty" else b"something else")
    model = FakeModel()
    outcome = make(tmp_path, model)
    assert tree(tmp_path) == before and outcome.made == 51 - 13 and model.generated == 51 - 12  # batches begin at 4 k


@pytest.mark.parametrize("format", ["png", "array_record"])
@pytest.mark.parametrize("cut", [0, 1, 100, 2000, 5001, -1])
def test_a_manifest_cut_anywhere_is_gone_on_with(tmp_path, cut, format):
    if format == "array_record":
        pytest.importorskip("array_record")
    make(tmp_path, format=format)
    before = tree(tmp_path)
    content = before["manifest.jsonl"]
    (tmp_path / "manifest.jsonl").unlink()
    (tmp_path / "manifest.partial.jsonl").write_bytes(content[:cut] + (b'{"file": "al' if cut == 100 else b""))
    make(tmp_path, format=format)
    assert tree(tmp_path) == before


def test_lines_are_on_disk_as_soon_as_images_count_as_done(tmp_path):
    seen = []
    partial = tmp_path / "manifest.partial.jsonl"
    make(tmp_path, progress=lambda done, total: seen.append((partial.read_bytes().count(b"\n"), done)))
    assert len(seen) > 1 and all(lines == done for lines, done in seen)


def test_what_a_killed_run_was_writing_is_removed(tmp_path):
    make(tmp_path)
    before = tree(tmp_path)
    (tmp_path / "alice" / "000014.png").unlink()
    for name in ("alice/.000014.png.0011aabb.tmp", "alice/.000015.png.0011aabb.tmp", ".manifest.jsonl.00aabbcc.tmp"):
        (tmp_path / name).write_bytes(b"half")
    make(tmp_path)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("format", ["png", "array_record"])
def test_kill_9_anywhere_and_the_same_command_ends_with_the_same_bytes(tmp_path, format):
    if format == "array_record":
        pytest.importorskip("array_record")
    make(tmp_path / "straight", format=format)
    script = RUN.format(tests=str(Path(__file__).parent), delay=0.05, format=format)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    rng = random.Random(format)
    killed = 0
    for _ in range(10):
        run = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "killed")], env=environment)
        begun = tmp_path / "killed" / "settings.json"
        while killed < 3 and not begun.exists() and run.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0.02, 0.2) if killed < 3 else 0)
        if killed < 3 and run.poll() is None:
            run.send_signal(signal.SIGKILL)
            killed += 1
        if run.wait() == 0:
            break
    assert killed and run.returncode == 0
    straight, after = tree(tmp_path / "straight"), tree(tmp_path / "killed")
    assert after.keys() == straight.keys()
    assert after == straight


def test_array_record_shards_hold_the_records_that_the_manifest_names(tmp_path):
    pytest.importorskip("array_record")
    make(tmp_path, format="array_record")
    lines = manifest(tmp_path)
    assert len({line["file"] for line in lines}) == 6 and lines[50]["file"] == "images-00005-of-00006.array_record"
    for line in lines:
        with record_reader(tmp_path / line["file"]) as reader:
            record = reader.read([line["record"]])[0]
        assert hashlib.sha256(record).hexdigest() == line["sha256"]
    make(tmp_path / "png")
    assert [line["sha256"] for line in manifest(tmp_path / "png")] == [line["sha256"] for line in lines]
    before = tree(tmp_path)
    (tmp_path / lines[25]["file"]).write_bytes(b"x" * 70_000)
    assert make(tmp_path, format="array_record").made == 31
    assert {k: v for k, v in tree(tmp_path).items() if "record" not in k} == {
        k: v for k, v in before.items() if "record" not in k}


def test_other_arguments_in_a_used_folder_are_refused(tmp_path):
    make(tmp_path)
    before = tree(tmp_path)
    other = FakeModel()
    other.hash = "ffff"
    for changes, complaint in (({"count": 18}, "count 17, not 18"), ({"seed": 1}, "seed"), ({"model": other}, "model 0011"),
                               ({"format": "array_record"}, "format png"), ({"batch_size": 5}, "batch_size 4")):
        with pytest.raises(FpganError, match=complaint):
            make(tmp_path, **changes)
    with pytest.raises(FpganError, match="other users or fingerprints"):
        generate_set(FakeModel(), USERS.users, USERS.bits[::-1], tmp_path, count=17, seed=2**32 - 3, batch_size=4)
    assert tree(tmp_path) == before


def test_folders_of_somebody_else_are_refused(tmp_path):
    (tmp_path / "photo.png").write_bytes(b"mine")
    with pytest.raises(FpganError, match="photo.png"):
        make(tmp_path)
    with pytest.raises(FpganError):
        make(tmp_path / "photo.png")
    assert tree(tmp_path) == {"photo.png": b"mine"}


def test_two_processes_do_not_work_in_one_folder(tmp_path):
    pytest.importorskip("fcntl")
    with locked(tmp_path / ".lock"), pytest.raises(FpganError, match="another process"):
        make(tmp_path)


def test_a_bare_fingerprint_has_a_folder_of_its_digits(tmp_path):
    one = Fingerprint.random(N_BITS)
    generate_set(FakeModel(), [None], one, tmp_path, count=2, seed=0)
    assert [(line["user"], line["file"]) for line in manifest(tmp_path)] == [
        (None, f"{one.hex}/000000.png"), (None, f"{one.hex}/000001.png")]


@pytest.mark.parametrize("changes", [{"count": 0}, {"seed": -1}, {"seed": 2**32}, {"batch_size": 0}, {"format": "jpeg"}])
def test_arguments_out_of_range_are_refused_before_anything_is_written(tmp_path, changes):
    with pytest.raises(FpganError):
        make(tmp_path / "set", **changes)
    assert not (tmp_path / "set").exists()


def test_without_array_record_the_format_is_refused_and_the_folder_stays_free(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "array_record.python", None)
    with pytest.raises(FpganError, match=r"fpgan\[records\]"):
        make(tmp_path / "set", format="array_record")
    assert not (tmp_path / "set").exists()
    assert make(tmp_path / "set").made == 51


def test_a_reader_of_the_progress_that_goes_away_is_not_a_full_disk(tmp_path):
    def progress(done, total):
        raise BrokenPipeError
    with pytest.raises(BrokenPipeError):
        make(tmp_path, progress=progress)


def test_users_have_to_fit(tmp_path):
    with pytest.raises(FpganError, match="as many"):
        generate_set(FakeModel(), ["a"], USERS.bits, tmp_path, count=1, seed=0)
    with pytest.raises(FpganError, match="twice"):
        generate_set(FakeModel(), ["a", "a"], USERS.bits[:2], tmp_path, count=1, seed=0, format="array_record")
    with pytest.raises(FpganError):
        generate_set(FakeModel(), ["a"], np.zeros((1, 32)), tmp_path, count=1, seed=0)
    assert not list(tmp_path.iterdir())
