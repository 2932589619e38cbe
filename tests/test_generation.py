"""Sample sets: the same bytes from any number of processes and after any kill, true manifests, folders not mixed."""

import hashlib
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from fake_model import N_BITS, FakeModel

from fpgan.attribution import Registry, from_fingerprints, issue
from fpgan.distributed.environment import Process
from fpgan.distributed.work import claim
from fpgan.errors import FpganError
from fpgan.fingerprint import Fingerprint
from fpgan.generation.generate import IN_FLIGHT, generate_set
from fpgan.generation.manifest import read_manifest, read_settings
from fpgan.generation.shards import FileShard, RecordShard
from fpgan.io.images import read_image
from fpgan.io.records import record_reader

USERS = issue(["alice", "bob/..", "Carol"], N_BITS, b"k" * 16)
ARGUMENTS = {"per_user": 17, "seed": 2**32 - 3, "batch_size": 4, "shard_size": 10}
RUN = """
import sys
sys.path.insert(0, {tests!r})
from fake_model import FakeModel
from fpgan.attribution import issue
from fpgan.generation.generate import generate_set
from fpgan.distributed.environment import detect_process
users = issue(["alice", "bob/..", "Carol"], 64, b"k" * 16)
generate_set(FakeModel(delay={delay}), users, sys.argv[1], process=detect_process(), devices=1, **{arguments!r})
"""
CONTAINERS = ["files", "array_record"]


@pytest.fixture(params=CONTAINERS)
def container(request):
    if request.param == "array_record":
        pytest.importorskip("array_record")
    return request.param


def make(folder, model=None, **changes):
    return generate_set(model or FakeModel(), USERS, folder, **ARGUMENTS | {"devices": 1} | changes)


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


class Killed(BaseException):
    """Ends a run in the middle, as a signal may."""


def killed_after(count):
    calls = itertools.count(1)

    def die(*_):
        if next(calls) == count:
            raise Killed

    return die


def test_the_manifest_is_true_of_every_file(tmp_path):
    told = []
    outcome = make(tmp_path / "set", progress=lambda done, total: told.append((done, total)))
    lines = list(read_manifest(tmp_path / "set"))
    assert outcome.total == outcome.made == len(lines) == 51 and outcome.present == outcome.missing == 0
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
    names = {f"manifest/{shard:05d}-of-00006.jsonl" for shard in range(6)} | {"settings.json"}
    assert set(tree(tmp_path / "set")) == names | {line["file"] for line in lines}
    assert read_settings(tmp_path / "set").total == 51


@pytest.mark.parametrize("encoding", ["png", "webp"])
def test_shards_hold_the_records_that_the_manifest_names(tmp_path, encoding):
    pytest.importorskip("array_record")
    make(tmp_path / "records", container="array_record", encoding=encoding)
    make(tmp_path / "files", encoding=encoding)
    lines = list(read_manifest(tmp_path / "records"))
    assert len({line["file"] for line in lines}) == 6 and lines[50]["file"] == "images-00005-of-00006.array_record"
    for line in lines:
        with record_reader(tmp_path / "records" / line["file"]) as reader:
            assert hashlib.sha256(reader.read([line["record"]])[0]).hexdigest() == line["sha256"]
    of_files = list(read_manifest(tmp_path / "files"))
    assert [line["sha256"] for line in of_files] == [line["sha256"] for line in lines]
    image = read_image(tmp_path / "files" / of_files[18]["file"])[0]
    assert (image == FakeModel().generate(USERS.bits[[1]], np.array([2**32 - 2], np.uint32))[0])[..., :2].all()


def test_a_complete_set_is_left_alone(tmp_path, container):
    make(tmp_path, container=container)
    before, model = tree(tmp_path), FakeModel()
    outcome = make(tmp_path, model, container=container)
    assert outcome.made == 0 and outcome.present == outcome.total == 51 and model.generated == 0 and tree(tmp_path) == before


@pytest.mark.parametrize("count", [2, 3, 7])
def test_any_number_of_processes_makes_the_same_files(tmp_path, container, count):
    make(tmp_path / "one", container=container)
    outcomes = [make(tmp_path / "many", container=container, process=Process(i, count)) for i in reversed(range(count))]
    assert tree(tmp_path / "many") == tree(tmp_path / "one")
    assert sum(outcome.made for outcome in outcomes) == outcomes[0].total == 51
    assert not any(outcome.present for outcome in outcomes)
    assert outcomes[0].missing == 6 - len(range(count - 1, 6, count)) and outcomes[-1].missing == 0


def test_a_job_of_another_size_finishes_what_is_left(tmp_path, container):
    make(tmp_path / "straight", container=container)
    model = FakeModel()
    with pytest.raises(Killed):
        make(tmp_path / "set", model, container=container, process=Process(1, 2), progress=killed_after(5))
    made = [make(tmp_path / "set", model, container=container, process=Process(i, 3)).made for i in range(3)]
    assert tree(tmp_path / "set") == tree(tmp_path / "straight") and sum(made) == 51 - 18
    assert model.generated <= 51 + 4 * IN_FLIGHT  # no more than the batches on their way is made twice


@pytest.mark.parametrize("where, after", [("append", 1), ("append", 4), ("finish", 2), ("encode", 9), ("encode", 30)])
def test_stopped_anywhere_it_goes_on_to_the_same_bytes(tmp_path, monkeypatch, container, where, after):
    make(tmp_path / "straight", container=container)
    kind = {"files": FileShard, "array_record": RecordShard}[container]
    plain, die = getattr(kind, where), killed_after(after)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(kind, where, lambda self, *rest: (plain(self, *rest), die())[0])
        make(tmp_path / "set", container=container)
    left = tmp_path / "set" / "manifest" / ".00000-of-00006.journal"
    left.parent.mkdir(exist_ok=True)
    left.touch()  # as if it was killed between the manifest and the removal of the journal
    (tmp_path / "set" / ".settings.json.0011aabb.tmp").write_bytes(b"half")
    make(tmp_path / "set", container=container)
    assert tree(tmp_path / "set") == tree(tmp_path / "straight")


@pytest.mark.parametrize("cut", [0, 1, 31, 32, 100, 128, 129, 200, -1])
def test_a_journal_cut_anywhere_is_gone_on_with(tmp_path, container, cut):
    make(tmp_path / "straight", container=container)
    model, journal = FakeModel(), tmp_path / "set" / "manifest" / ".00000-of-00006.journal"
    with pytest.raises(Killed):
        make(tmp_path / "set", container=container, progress=killed_after(2))  # 8 images are in the journal
    whole = journal.read_bytes()
    journal.write_bytes(whole[:cut])
    make(tmp_path / "set", model, container=container)
    assert tree(tmp_path / "set") == tree(tmp_path / "straight")
    entries = cut // 32 if container == "files" else 0 if cut < 200 else 1  # records are longer, and so are their entries
    assert 51 - model.generated == (4 if cut == -1 else entries - entries % 4)


def test_a_damaged_journal_or_file_is_not_believed(tmp_path, container):
    make(tmp_path / "straight", container=container)
    with pytest.raises(Killed):
        make(tmp_path / "set", container=container, progress=killed_after(2))
    if container == "files":
        (tmp_path / "set/alice/000005.png").write_bytes(b"something else")
        (tmp_path / "set/alice/000009.png").write_bytes(b"half")
    else:
        journal = tmp_path / "set" / "manifest" / ".00000-of-00006.journal"
        content = bytearray(journal.read_bytes())
        content[len(content) * 3 // 4] ^= 1
        journal.write_bytes(content)
        (tmp_path / "set/.images-00000-of-00006.array_record.0011aabb.tmp").write_bytes(b"half")
    model = FakeModel()
    make(tmp_path / "set", model, container=container)
    assert tree(tmp_path / "set") == tree(tmp_path / "straight") and model.generated == 51 - 4


def test_entries_are_in_the_journal_when_images_count_as_done(tmp_path):
    seen = []
    make(tmp_path, shard_size=100, progress=lambda done, total: seen.append(
        (done, sum(len(path.read_bytes()) // 32 for path in tmp_path.glob("manifest/.*.journal")))))
    assert len(seen) > 10 and all(in_journal == done for done, in_journal in seen[:-1])


def test_a_removed_manifest_has_its_shard_made_again(tmp_path, container):
    make(tmp_path, container=container)
    before, model = tree(tmp_path), FakeModel()
    (tmp_path / "manifest" / "00001-of-00006.jsonl").unlink()
    data = "alice/000012.png" if container == "files" else "images-00001-of-00006.array_record"
    (tmp_path / data).write_bytes(b"damaged")
    assert make(tmp_path, model, container=container).made == 10 and tree(tmp_path) == before and model.generated == 10


def test_a_shard_that_another_process_makes_is_waited_for_or_taken_over(tmp_path, monkeypatch):
    pytest.importorskip("fcntl")
    monkeypatch.setattr("fpgan.distributed.work._POLL", 0.02)
    make(tmp_path / "straight")
    held = [claim(tmp_path / "set" / "manifest" / f".0000{shard}-of-00006.journal") for shard in (1, 2)]
    (tmp_path / "set" / "settings.json").write_bytes((tmp_path / "straight" / "settings.json").read_bytes())
    told, model = [], FakeModel()
    job = threading.Thread(target=lambda: make(tmp_path / "set", model, report=told.append))
    job.start()
    until = time.monotonic() + 60
    while not told and time.monotonic() < until:
        time.sleep(0.01)
    assert model.generated == 31 and "shard 1" in told[0]  # all but the two shards of ten
    finished = "manifest/00001-of-00006.jsonl"
    (tmp_path / "set" / finished).write_bytes((tmp_path / "straight" / finished).read_bytes())
    held[0].remove()
    held[1].release()  # its process died
    job.join(60)
    assert not job.is_alive() and model.generated == 41
    after = tree(tmp_path / "set")
    straight = tree(tmp_path / "straight")
    assert after == {name: straight[name] for name in after} and len(after) == len(straight) - 10


def test_two_whole_jobs_at_once_share_the_work(tmp_path):
    pytest.importorskip("fcntl")
    make(tmp_path / "straight")
    models = [FakeModel(delay=0.01), FakeModel(delay=0.01)]
    jobs = [threading.Thread(target=make, args=(tmp_path / "set", model)) for model in models]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(120)
    assert tree(tmp_path / "set") == tree(tmp_path / "straight") and sum(model.generated for model in models) == 51


def start(folder, delay, **environment):
    arguments = ARGUMENTS | {"container": environment.pop("kind")}
    script = RUN.format(tests=str(Path(__file__).parent), delay=delay, arguments=arguments)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment
    return subprocess.Popen([sys.executable, "-c", script, str(folder)], env=environment)


@pytest.mark.slow
def test_kill_9_anywhere_and_the_same_command_ends_with_the_same_bytes(tmp_path, container):
    make(tmp_path / "straight", container=container)
    rng = random.Random(container)
    for kills in range(4):
        run = start(tmp_path / "set", 0.05, kind=container)
        while not (tmp_path / "set" / "settings.json").exists() and run.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0.02, 0.4))
        run.send_signal(signal.SIGKILL if kills < 3 else 0)
        if run.wait(300) == 0:
            break
    assert kills and run.returncode == 0
    assert tree(tmp_path / "set") == tree(tmp_path / "straight")


@pytest.mark.slow
def test_three_processes_one_of_them_killed_and_then_two(tmp_path, container):
    make(tmp_path / "straight", container=container)
    jobs = [start(tmp_path / "set", 10 * (i == 1), kind=container, FPGAN_PROCESS_ID=str(i), FPGAN_NUM_PROCESSES="3")
            for i in range(3)]
    journal = tmp_path / "set" / "manifest" / ".00001-of-00006.journal"
    until = time.monotonic() + 200
    while not (journal.exists() and journal.stat().st_size) and time.monotonic() < until:
        time.sleep(0.005)
    jobs[1].kill()
    assert [job.wait(300) for job in jobs] == [0, -signal.SIGKILL, 0]
    assert journal.exists() and not list(tmp_path.glob("set/manifest/00001*"))
    jobs = [start(tmp_path / "set", 0, kind=container, SLURM_PROCID=str(i), SLURM_STEP_NUM_TASKS="2") for i in range(2)]
    assert [job.wait(300) for job in jobs] == [0, 0]
    assert tree(tmp_path / "set") == tree(tmp_path / "straight")


def test_a_million_images_start_and_resume_in_little_memory_and_time(tmp_path):
    """One shard of 245 is left; all else is there as far as a run looks at it."""
    users = issue([f"user-{i}" for i in range(1000)], N_BITS)
    arguments = {"per_user": 1000, "seed": 0, "batch_size": 64, "process": Process(3, 1000)}
    generate_set(FakeModel(), users, tmp_path, **arguments)  # shard 3
    for shard in range(245):
        (tmp_path / "manifest" / f"{shard:05d}-of-00245.jsonl").touch()
    (tmp_path / "manifest" / "00007-of-00245.jsonl").unlink()
    model, started = FakeModel(), time.process_time()
    tracemalloc.start()
    outcome = generate_set(model, users, tmp_path, **arguments | {"process": Process()})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert outcome.total == 10**6 and outcome.made == model.generated == 4096 and outcome.missing == 0
    assert peak < 30e6 and time.process_time() - started < 60


def test_other_arguments_in_a_used_folder_are_refused(tmp_path):
    make(tmp_path)
    before = tree(tmp_path)
    other = FakeModel()
    other.hash = "ffff"
    for changes, complaint in (({"per_user": 18}, "per_user 17, not 18"), ({"seed": 1}, "seed"),
                               ({"model": other}, "model 0011"), ({"container": "array_record"}, "container files"),
                               ({"batch_size": 5}, "batch_size 4"),
                               ({"encoding": "webp"}, "encoding png"), ({"shard_size": 11}, "shard_size 10")):
        with pytest.raises(FpganError, match=complaint):
            make(tmp_path, **changes)
    with pytest.raises(FpganError, match="other fingerprints"):
        generate_set(FakeModel(), from_fingerprints(USERS.users, USERS.bits[::-1], N_BITS), tmp_path, **ARGUMENTS)
    with pytest.raises(FpganError, match="other users"):
        generate_set(FakeModel(), from_fingerprints(["a", "b", "c"], USERS.bits, N_BITS), tmp_path, **ARGUMENTS)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"fpgan_sample_set": 2}', '{"fpgan_sample_set": 1, "model": "x"}'])
def test_damaged_settings_are_refused(tmp_path, content):
    make(tmp_path)
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(FpganError, match=r"settings\.json|other arguments"):
        make(tmp_path)


def test_folders_of_somebody_else_are_refused(tmp_path):
    (tmp_path / "photo.png").write_bytes(b"mine")
    with pytest.raises(FpganError, match=r"photo\.png"):
        make(tmp_path)
    with pytest.raises(FpganError):
        make(tmp_path / "photo.png")
    assert tree(tmp_path) == {"photo.png": b"mine"}


def test_a_bare_fingerprint_has_a_folder_of_its_digits(tmp_path):
    one = Fingerprint.random(N_BITS)
    generate_set(FakeModel(), Registry.single(one), tmp_path, per_user=2, seed=0)
    assert [(line["user"], line["file"]) for line in read_manifest(tmp_path)] == [
        (None, f"{one.hex}/000000.png"), (None, f"{one.hex}/000001.png")]


@pytest.mark.parametrize("changes", [{"per_user": 0}, {"seed": -1}, {"seed": 2**32}, {"batch_size": 0}, {"encoding": "jpeg"},
                                     {"container": "zip"}, {"shard_size": 0}])
def test_arguments_out_of_range_are_refused_before_anything_is_written(tmp_path, changes):
    with pytest.raises(FpganError):
        make(tmp_path / "set", **changes)
    assert not (tmp_path / "set").exists()


def test_what_is_not_installed_is_told_and_the_folder_stays_free(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "array_record.python", None)
    with pytest.raises(FpganError, match=r"fpgan\[records\]"):
        make(tmp_path / "set", container="array_record")
    monkeypatch.setattr("PIL.features.check", lambda name: False)
    with pytest.raises(FpganError, match="WebP"):
        make(tmp_path / "set", encoding="webp")
    assert not (tmp_path / "set").exists()
    assert make(tmp_path / "set").made == 51


def test_a_reader_of_the_progress_that_goes_away_is_not_a_full_disk(tmp_path):
    def progress(done, total):
        raise BrokenPipeError
    with pytest.raises(BrokenPipeError):
        make(tmp_path, progress=progress)


def test_an_error_of_the_model_or_the_disk_ends_the_run(tmp_path, monkeypatch):
    model = FakeModel()
    monkeypatch.setattr(model, "generate", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make(tmp_path, model)
    (tmp_path / "bob%2F.%2E").write_bytes(b"in the way")
    with pytest.raises(FpganError, match="cannot be written"):
        make(tmp_path)
    (tmp_path / "bob%2F.%2E").unlink()
    assert make(tmp_path).missing == 0 and not list(tmp_path.glob("manifest/.*"))


def test_users_have_to_fit(tmp_path):
    with pytest.raises(FpganError, match="at least one user"):
        generate_set(FakeModel(), issue([], N_BITS), tmp_path, per_user=1, seed=0)
    with pytest.raises(FpganError, match="twice"):
        generate_set(FakeModel(), Registry(("a", "a"), USERS.packed[:2], N_BITS), tmp_path, per_user=1, seed=0)
    with pytest.raises(FpganError, match="user id"):
        generate_set(FakeModel(), Registry(("a\n",), USERS.packed[:1], N_BITS), tmp_path, per_user=1, seed=0)
    with pytest.raises(FpganError, match="32 bits, but the model reads 64"):
        generate_set(FakeModel(), issue(["a"], 32), tmp_path, per_user=1, seed=0)
    assert not list(tmp_path.iterdir())
