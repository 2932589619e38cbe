"""Rows from files: right order and values, damaged and foreign files among good ones, bounded look-ahead."""

import csv
import io
import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_model import N_BITS, RESOLUTION, FakeModel

from fpgan.attribution import issue, pool
from fpgan.decoding import decode
from fpgan.decoding.decode import attribute_rows, decode_files
from fpgan.decoding.pooling import pool_rows, suspects_by
from fpgan.decoding.rows import Row, column_types, row_file, write_rows
from fpgan.errors import FpganError
from fpgan.fingerprint import Fingerprint
from fpgan.generation.generate import generate_set
from fpgan.io.files import write_file
from fpgan.io.images import encode_png
from fpgan.io.tables import table_writer

USERS = issue(["alice", "bob", "carol"], N_BITS, b"k" * 16)


@pytest.fixture
def samples(tmp_path):
    generate_set(FakeModel(), USERS, tmp_path / "set", per_user=10, seed=0)
    return tmp_path / "set"


@pytest.mark.parametrize("devices, batches", [(1, [(8, 8), (8, 8), (8, 8), (6, 8)]), (2, [(16, 8), (14, 8)])])
def test_rows_come_in_order_with_the_bits_of_their_images(samples, monkeypatch, devices, batches):
    monkeypatch.setattr("fpgan.decoding.decode.local_devices", lambda: range(devices))
    model = FakeModel()
    rows = list(decode_files(model, [samples], batch_size=8, workers=3))
    assert [Path(row.file).parent.name for row in rows] == [user for user in USERS.users for _ in range(10)]
    assert [row.fingerprint for row in rows] == [USERS.fingerprint(user).hex for user in USERS.users for _ in range(10)]
    assert model.decode_batches == batches
    assert not any(row.resized or row.error for row in rows)


def test_few_images_are_decoded_in_a_small_batch(samples):
    model = FakeModel()
    assert len(list(decode_files(model, [samples / "bob" / f"00000{i}.png" for i in range(5)]))) == 5
    assert model.decode_batches == [(5, 8)]


def test_confidence_is_as_documented():
    logits = np.array([0.0, 1.5, -3.0, 40.0] * 4, np.float32)
    plain = sum(abs(2 / (1 + math.exp(-x)) - 1) for x in logits.tolist()) / 16
    assert Row("x", logits).confidence == pytest.approx(plain, rel=1e-6)
    assert Row("x", logits).evenness == pytest.approx(44.5 / 4 / math.sqrt((1.5**2 + 3**2 + 40**2) / 4))
    assert Row("x", np.array([2.0, -2.0] * 4)).evenness == 1 and Row("x", np.zeros(8)).evenness == 0
    assert Row("x", logits).fingerprint == "5555"


def test_damaged_and_foreign_files_are_rows_among_the_others(samples):
    write_file(samples / "alice" / "000003.png", b"broken")
    write_file(samples / "alice" / "000004.png", (samples / "alice" / "000005.png").read_bytes()[:100])
    write_file(samples / "alice" / "000006.png", encode_png(np.zeros((50, 40, 3), np.uint8)))
    for i in range(10):
        write_file(samples / "bob" / f"00000{i}.png", b"")  # a whole batch of nothing
    rows = list(decode_files(FakeModel(), [samples], batch_size=10))
    assert [i for i, row in enumerate(rows) if row.error] == [3, 4, *range(10, 20)]
    assert [i for i, row in enumerate(rows) if row.resized] == [6]
    assert all((row.logits is None) == (row.error is not None) for row in rows)
    assert rows[5].fingerprint == USERS.fingerprint("alice").hex and rows[29].fingerprint == USERS.fingerprint("carol").hex
    counts = write_rows(attribute_rows(rows, USERS))
    assert (counts.read, counts.failed, counts.resized) == (18, 12, 1)
    assert counts.verdicts == {"attributed": 17, "nobody registered": 1}


def test_reading_runs_ahead_by_a_few_batches_only(samples, monkeypatch):
    read = []
    plain = decode.read_image
    monkeypatch.setattr(decode, "read_image", lambda path, size: (read.append(path), plain(path, size))[1])
    monkeypatch.setattr(decode, "local_devices", lambda: (0,))
    rows = decode_files(FakeModel(), [samples], batch_size=2)
    next(rows)
    assert len(read) <= 8
    assert len(list(rows)) == 29 and len(read) == 30


def test_records_are_decoded_and_a_damaged_file_is_a_row(tmp_path):
    pytest.importorskip("array_record")
    generate_set(FakeModel(), USERS, tmp_path, per_user=10, seed=0, container="array_record",
                 shard_size=16)
    (tmp_path / "images-00002-of-00002.array_record").write_bytes(b"x" * 70_000)
    rows = list(decode_files(FakeModel(), [tmp_path]))
    assert [row.fingerprint for row in rows[:30]] == [USERS.fingerprint(user).hex for user in USERS.users for _ in range(10)]
    assert rows[17].file == str(tmp_path / "images-00001-of-00002.array_record") + "#1"
    assert len(rows) == 31 and "array_record" in rows[30].error and rows[30].file.endswith("00002-of-00002.array_record")


def test_wrong_paths_are_told_before_any_work(samples):
    model = FakeModel()
    with pytest.raises(FpganError, match="typo"):
        list(decode_files(model, [samples, samples / "typo"]))
    assert not model.decode_batches


def test_csv_and_json_lines_say_the_same(samples, tmp_path):
    write_file(samples / "alice" / "a,\"b\".png", b"broken")
    rows = list(attribute_rows(decode_files(FakeModel(), [samples]), USERS, 1e-6, 2.0))
    for with_verdict in (True, False):
        text = io.StringIO()
        write = table_writer(text, "csv", column_types(with_verdict))
        write_rows(rows, lambda row, write=write, with_verdict=with_verdict: write(row.columns(with_verdict)))
        table = list(csv.DictReader(io.StringIO(text.getvalue())))
        with row_file(tmp_path / "out.jsonl", None, with_verdict) as write:
            write_rows(rows, write)
        lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert [list(line) for line in lines] == [list(table[0])] * 31
        assert [{k: "" if v is None else str(v) for k, v in line.items()} for line in lines] == table
        assert ("verdict" in lines[0]) == with_verdict
    good = [row.columns(True) for row in rows if row.logits is not None]
    assert {line["user"] for line in good} == {"alice", "bob", "carol"} and good[0]["matches"] == 64
    assert good[0]["log10_p"] == round(-64 * math.log10(2) + math.log10(3), 4)


def test_rows_are_pooled_by_suspect_in_one_pass():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 64)).astype(np.float32)
    rows = [Row(f"{'ab'[i % 2]}/{i}.png", logits[i], resized=i == 2) for i in range(6)]
    rows[3:3] = [Row("b/bad.png", error="broken"), Row("set.array_record#7", logits[0])]
    bad, a, b, record = pool_rows(iter(rows), suspects_by("folder"))
    assert bad.error == "broken" and [(row.file, row.images, row.resized) for row in (a, b, record)] == [
        ("a", 3, 1), ("b", 3, 0), ("set.array_record", 1, 0)]
    for row, own in ((a, logits[::2]), (b, logits[1::2]), (record, logits[:1])):
        assert np.allclose(row.logits, pool(own)[0] / len(own) * np.abs(own).mean(), rtol=1e-4)
    assert a.columns(True)["images"] == 3 and a.columns(True)["resized"] is True
    assert [row.file for row in pool_rows([Row("x.png", logits[0])], suspects_by("folder"))] == ["."]


def test_pooled_images_find_whom_none_of_them_finds():
    rng = np.random.default_rng(1)
    signs = USERS.bits[1] * 2.0 - 1
    rows = [Row(f"s/{i}.png", (signs + rng.normal(0, 2.5, 64)).astype(np.float32)) for i in range(16)]
    assert all(row.verdict.user is None for row in attribute_rows(rows, USERS, 1e-9))
    pooled, = attribute_rows(pool_rows(rows, suspects_by("folder")), USERS, 1e-9)
    assert pooled.verdict.user == USERS.users[1] and pooled.images == 16


def test_a_row_file_is_whole_or_not_there(tmp_path):
    with pytest.raises(RuntimeError), row_file(tmp_path / "rows.csv", None, False) as write:
        write(Row("a", np.zeros(8)))
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with pytest.raises(FpganError, match="does not say"), row_file(tmp_path / "rows.txt", None, False):
        pass
    with row_file(tmp_path / "rows.txt", "csv", False) as write:
        write(Row("caf\udce9.png", np.zeros(8)))
    assert b"caf\xe9.png,00,0.0" in (tmp_path / "rows.txt").read_bytes()


def test_standard_output_takes_any_file_name(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with row_file(None, None, False) as write:
        write(Row("caf\udce9 \u732b.png", np.zeros(8)))
    sys.stdout.flush()
    assert b"\ncaf\xe9 \xe7\x8c\xab.png,00,0.0" in raw.getvalue()


def test_a_folder_that_cannot_be_read_is_a_row_among_the_others(samples, monkeypatch):
    scandir = os.scandir

    def refuse(folder):
        if str(folder).endswith("bob"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    rows = list(decode_files(FakeModel(), [samples]))
    assert len(rows) == 21 and [row.file for row in rows if row.error] == [str(samples / "bob")]
    assert "Permission denied" in rows[10].error


def test_false_attributions_are_as_rare_for_pictures_of_others(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (40, RESOLUTION, RESOLUTION, 3), dtype=np.uint8)
    for i, picture in enumerate(pictures):
        write_file(tmp_path / f"{i}.png", encode_png(picture))
    registry = issue([f"u{i}" for i in range(500)], N_BITS)
    assert all(row.verdict.user is None for row in attribute_rows(decode_files(FakeModel(), [tmp_path]), registry))
    assert Fingerprint.from_hex(next(decode_files(FakeModel(), [tmp_path])).fingerprint).n_bits == N_BITS
