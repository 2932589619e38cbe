"""Rows in parts: the same bytes from any number of processes and after any kill, failures counted, folders not mixed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fake_model import N_BITS, FakeModel

from fpgan.attribution import issue
from fpgan.decoding import shards
from fpgan.decoding.decode import DecodeJob, attribute_rows, decode_files
from fpgan.decoding.rows import Row, row_file, write_rows
from fpgan.decoding.shards import decode_folder, is_folder
from fpgan.distributed.environment import Process
from fpgan.distributed.work import claim
from fpgan.errors import FpganError
from fpgan.generation.generate import generate_set
from fpgan.io.files import write_file

USERS = issue(["alice", "bob", "carol"], N_BITS, b"k" * 16)
RUN = """
import sys, time
sys.path.insert(0, {tests!r})
from fake_model import FakeModel
from fpgan.attribution import issue
from fpgan.decoding.decode import DecodeJob
from fpgan.decoding.shards import decode_folder
from fpgan.distributed.environment import detect_process
job = DecodeJob(FakeModel(), issue(["alice", "bob", "carol"], 64, b"k" * 16), batch_size=4)
decode_folder(job, [sys.argv[1]], sys.argv[2], format={format!r}, shard_size=8, process=detect_process(),
              sinks=[lambda row: time.sleep({delay})])
"""


@pytest.fixture(params=["files", "array_record"])
def images(request, tmp_path):
    """Thirty images, one of them damaged: a file, or as a file beside records."""
    if request.param == "array_record":
        pytest.importorskip("array_record")
    generate_set(FakeModel(), USERS, tmp_path / "set", per_user=10, seed=0, container=request.param,
                 shard_size=13)
    write_file(tmp_path / "set" / ("alice/000003.png" if request.param == "files" else "x.png"), b"broken")
    return tmp_path / "set"


@pytest.fixture(params=["jsonl", "csv", "parquet"])
def format(request):
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
    return request.param


def decode(images, folder, model=None, **changes):
    arguments = {"format": "jsonl", "shard_size": 8, "batch_size": 4} | changes
    job = DecodeJob(model or FakeModel(), USERS, batch_size=arguments.pop("batch_size"))
    return decode_folder(job, [images], folder, **arguments)


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def lines(folder):
    return [json.loads(line) for part in sorted(Path(folder).glob("part-*.jsonl")) for line in part.read_text().splitlines()]


def test_parts_hold_the_rows_of_one_file(images, tmp_path):
    outcome, counts = decode(images, tmp_path / "rows")
    rows = list(attribute_rows(decode_files(FakeModel(), [images]), USERS))
    assert lines(tmp_path / "rows") == [row.columns(True) for row in rows]
    assert outcome.total == outcome.made == len(rows) and outcome.missing == outcome.present == 0
    assert counts == write_rows(rows) and counts.failed == 1
    assert {name.split("-")[0] for name in tree(tmp_path / "rows") if "/" not in name} == {"part"}


@pytest.mark.parametrize("count", [2, 3, 9])
def test_any_number_of_processes_writes_the_same_parts(images, tmp_path, format, count):
    decode(images, tmp_path / "one", format=format)
    done = [decode(images, tmp_path / "many", format=format, process=Process(i, count)) for i in range(count)]
    outcomes, counts = zip(*done, strict=True)
    assert tree(tmp_path / "many") == tree(tmp_path / "one")
    assert sum(outcome.made for outcome in outcomes) == outcomes[0].total and outcomes[0].missing > 0
    assert sum(each.failed for each in counts) == 1 and outcomes[-1].missing == 0


def test_finished_parts_are_not_made_again_and_count_on(images, tmp_path, format):
    decode(images, tmp_path / "straight", format=format)

    def die(row):
        seen.append(row)
        if len(seen) == 13:
            raise KeyboardInterrupt

    seen, model = [], FakeModel()
    with pytest.raises(KeyboardInterrupt):
        decode(images, tmp_path / "rows", format=format, sinks=[die])
    (tmp_path / "rows" / "_fpgan" / ".00000-of-00004.claim").touch()  # as if killed just before its removal
    (tmp_path / "rows" / f".part-00001-of-00004.{format}.00aa00aa.tmp").write_bytes(b"half")
    outcome, counts = decode(images, tmp_path / "rows", model, format=format)
    assert tree(tmp_path / "rows") == tree(tmp_path / "straight")
    assert outcome.made == outcome.total - 8 == sum(size for size, _ in model.decode_batches) + (outcome.total == 31)
    assert counts.failed == 1 and counts.read == outcome.total - 1 and outcome.present == 8
    again, counted = decode(images, tmp_path / "rows", model, format=format)
    assert again.made == 0 and again.present == outcome.total and counted == counts


def test_a_part_that_another_process_makes_is_waited_for(images, tmp_path, monkeypatch):
    pytest.importorskip("fcntl")
    monkeypatch.setattr("fpgan.distributed.work._POLL", 0.02)
    decode(images, tmp_path / "straight")
    decode(images, tmp_path / "rows", process=Process(1, 2))
    held, told = claim(tmp_path / "rows" / "_fpgan" / ".00002-of-00004.claim"), []
    job = threading.Thread(target=lambda: decode(images, tmp_path / "rows", report=told.append))
    job.start()
    until = time.monotonic() + 60
    while not told and time.monotonic() < until:
        time.sleep(0.01)
    assert "shard 2" in told[0] and not list(tmp_path.glob("rows/part-00002*"))
    held.release()
    job.join(60)
    assert not job.is_alive() and tree(tmp_path / "rows") == tree(tmp_path / "straight")


def test_parquet_has_typed_columns_and_folders_are_read_as_one_table(images, tmp_path):
    pytest.importorskip("pyarrow")
    from pyarrow import dataset, parquet

    decode(images, tmp_path / "rows", format="parquet")
    decode(images, tmp_path / "lines")
    table = dataset.dataset(tmp_path / "rows", format="parquet").to_table()
    assert table.to_pylist() == lines(tmp_path / "lines")
    kinds = {field.name: str(field.type) for field in table.schema}
    assert (kinds["file"], kinds["matches"], kinds["log10_p"], kinds["resized"]) == ("string", "int32", "double", "bool")
    with row_file(tmp_path / "one.parquet", None, False) as write:
        for _ in range(5000):
            write(Row("caf\udce9.png", np.zeros(8)))
    table = parquet.read_table(tmp_path / "one.parquet")
    assert table.num_rows == 5000 and table["file"][4999].as_py() == "caf\\xe9.png"
    with pytest.raises(FpganError, match="file or a folder"), row_file(None, "parquet", False):
        pass


def test_without_pyarrow_parquet_is_refused_before_any_work(images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(FpganError, match=r"fpgan\[parquet\]"):
        decode(images, tmp_path / "rows", format="parquet")
    with pytest.raises(FpganError, match=r"fpgan\[parquet\]"), row_file(tmp_path / "a.parquet", None, False):
        pass
    assert not (tmp_path / "rows").exists() and not (tmp_path / "a.parquet").exists()


def test_other_questions_other_images_and_other_folders_are_refused(images, tmp_path):
    decode(images, tmp_path / "rows")
    before, other = tree(tmp_path / "rows"), FakeModel()
    other.hash = "ffff"
    for changes, told in (({"format": "csv"}, "format jsonl"), ({"shard_size": 7}, "shard_size 8"),
                          ({"batch_size": 8}, "batch_size 4"), ({"model": other}, "model 0011")):
        with pytest.raises(FpganError, match=told):
            decode(images, tmp_path / "rows", **changes)
    with pytest.raises(FpganError, match="other registry"):
        decode_folder(DecodeJob(FakeModel(), issue(USERS.users, N_BITS), batch_size=4), [images], tmp_path / "rows",
                      shard_size=8)
    with pytest.raises(FpganError, match="users"):
        decode_folder(DecodeJob(FakeModel(), batch_size=4), [images], tmp_path / "rows", shard_size=8)
    write_file(images / "another.png", b"")
    with pytest.raises(FpganError, match="other images"):
        decode(images, tmp_path / "rows")
    assert tree(tmp_path / "rows") == before
    with pytest.raises(FpganError, match="other files"):
        decode(images, images)
    with pytest.raises(FpganError, match="at least 1"):
        decode(images, tmp_path / "none", shard_size=0)


def test_images_that_change_meanwhile_are_noticed(images, tmp_path, monkeypatch):
    listed = shards._listed

    def change_after(*arguments):
        result = listed(*arguments)
        write_file(images / "0.png", b"")
        return result

    monkeypatch.setattr(shards, "_listed", change_after)
    with pytest.raises(FpganError, match="changed"):
        decode(images, tmp_path / "rows")


def test_files_that_are_no_images_are_told_of_once(images, tmp_path):
    write_file(images / "notes.txt", b"not an image")
    told = []
    decode(images, tmp_path / "rows", passed_over=told.append)
    assert [os.path.basename(path) for path in told].count("notes.txt") == 1


def test_damaged_counts_are_told(images, tmp_path):
    decode(images, tmp_path / "rows")
    before = tree(tmp_path / "rows")
    counts = tmp_path / "rows" / "_fpgan" / "00001-of-00004.json"
    counts.write_bytes(b"{}")
    with pytest.raises(FpganError, match="remove it"):
        decode(images, tmp_path / "rows")
    counts.unlink()
    assert decode(images, tmp_path / "rows")[0].made == 8 and tree(tmp_path / "rows") == before


def test_which_names_are_folders(tmp_path):
    assert is_folder(tmp_path) and is_folder("rows/") and is_folder("rows.d/") and is_folder("new")
    assert not is_folder(None) and not is_folder("rows.csv") and not is_folder(tmp_path / "rows.txt")


@pytest.mark.slow
def test_two_processes_one_of_them_killed_and_then_three(images, tmp_path, format):
    decode(images, tmp_path / "straight", format=format)

    def start(index, count, delay):
        script = RUN.format(tests=str(Path(__file__).parent), format=format, delay=delay)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "FPGAN_PROCESS_ID": str(index),
                                    "FPGAN_NUM_PROCESSES": str(count)}
        return subprocess.Popen([sys.executable, "-c", script, str(images), str(tmp_path / "rows")], env=environment)

    jobs = [start(i, 2, 0.05) for i in range(2)]
    until = time.monotonic() + 200
    while not list(tmp_path.glob("rows/_fpgan/.0000[13]*.claim")) and time.monotonic() < until:
        time.sleep(0.005)
    jobs[1].kill()
    assert [job.wait(300) for job in jobs] == [0, -signal.SIGKILL]
    jobs = [start(i, 3, 0) for i in range(3)]
    assert [job.wait(300) for job in jobs] == [0, 0, 0]
    assert tree(tmp_path / "rows") == tree(tmp_path / "straight")
