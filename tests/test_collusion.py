"""Mixed pictures of several users, and pooled ones of one: the counts of the two reports on a model without networks."""

import json

import numpy as np
import pytest
from fake_model import FakeModel

import fpgan.model
from fpgan.cli import app
from fpgan.errors import FpganError
from fpgan.evaluation import collusion as mixing
from fpgan.evaluation import pooling as pools
from fpgan.evaluation.collusion import collusion
from fpgan.evaluation.pooling import pooling


def test_mixes_take_from_all_pictures_and_from_nowhere_else():
    rng = np.random.default_rng(0)
    images = np.stack([np.full((30, 34, 3), value, np.uint8) for value in (10, 60, 201)])
    assert (mixing.mean(images[1:], rng) == 130).all()  # 130.5 is rounded to even
    for mix in (mixing.pixels, mixing.patches):
        mixed = mix(images, rng)
        assert mixed.shape == images.shape[1:] and mixed.dtype == np.uint8 and set(np.unique(mixed)) == {10, 60, 201}
        assert (mixed == mixed[..., :1]).all()  # a pixel's channels stay together
    same = np.repeat(rng.integers(0, 256, (1, 32, 32, 3), dtype=np.uint8), 4, axis=0)
    assert all((mix(same, rng) == same[0]).all() for mix in mixing.MIXES.values())
    changes = (np.diff(mixing.patches(images[:, :32, :32], rng)[..., 0].astype(int), axis=1) != 0).any(axis=0)
    assert set(np.flatnonzero(changes) + 1) <= {8, 16, 24}


def test_the_report_on_collusion_counts_whom_the_verdict_names():
    wanted = {"colluders": (1, 2, 8), "registry_sizes": (50, 5000), "trials": 40, "false_positive_rate": 1e-3}
    rows = collusion(FakeModel(), **wanted)
    assert [(row["mix"], row["colluders"], row["users"]) for row in rows] == [
        (mix, k, users) for mix in mixing.MIXES for k in (1, 2, 8) for users in (50, 5000)]
    for row in rows:
        assert row["accused"] == 0 and row["trials"] == 40 and 0 <= row["caught"] <= 40
        if row["colluders"] == 1:  # nothing is mixed
            assert row["caught"] == row["first"] == row["caught_by_hard_bits"] == 40 and row["named"] == 1
        assert row["named"] <= row["colluders"] and row["caught"] <= row["first"]
    found = {(row["mix"], row["colluders"], row["users"]): row["caught"] for row in rows}
    assert found["mean", 2, 50] == 40 and found["pixels", 8, 5000] < 40
    assert all(found[mix, k, 50] >= found[mix, k, 5000] for mix in mixing.MIXES for k in (1, 2, 8))
    assert rows == collusion(FakeModel(), **wanted)
    assert len(mixing.lines(rows)) == 1 + len(rows)


def test_the_report_on_pooling_rises_with_the_images():
    rows = pooling(FakeModel(), ("png", "noise:128+noise:128"), counts=(1, 4, 16), suspects=30,
                   registry_size=1000)
    assert [(row["perturbation"], row["images"]) for row in rows] == [
        (name, count) for name in ("png", "noise:128+noise:128") for count in (1, 4, 16)]
    assert all(row["attributed"] == row["attributed_by_hard_bits"] == 30 for row in rows[:3])
    noisy = [row["attributed"] for row in rows[3:]]
    assert noisy[0] < noisy[1] < noisy[2] == 30 and all(row["wrong"] == 0 for row in rows)
    assert rows[3]["median_log10_p"] > rows[4]["median_log10_p"] > rows[5]["median_log10_p"]
    assert len(pools.lines(rows)) == 1 + len(rows)


@pytest.mark.parametrize("wrong", [
    {"colluders": (0, 2)}, {"colluders": (60,)}, {"trials": 0}, {"mixes": ("median",)}, {"registry_sizes": ()}])
def test_senseless_numbers_are_refused(wrong):
    with pytest.raises(FpganError):
        collusion(FakeModel(), **{"colluders": (2,), "registry_sizes": (50,), "trials": 1} | wrong)
    with pytest.raises(FpganError):
        pooling(FakeModel(), (), suspects=2)


@pytest.mark.parametrize("suite, named", [("collusion", "patches"), ("pooling", "jpeg:50")])
def test_the_command_prints_and_writes_the_rows(suite, named, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fpgan.model, "load", lambda name: FakeModel(), raising=False)
    command = ["evaluate", "--suite", suite, "--images", "12", "--registry-size", "1200", "--seed", "3", "--out",
               str(tmp_path)]
    assert app.main(command) == 0
    shown = capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / f"{suite}.jsonl").read_text().splitlines()]
    rows = [row for line in lines for row in line["found"]["rows"]]
    assert named in shown and f"written to {tmp_path}" in shown
    assert {row["users"] for row in rows} == ({1000, 1200} if suite == "collusion" else {1200})
    assert all(line["key"]["model"] == "fake 00112233aabbccdd" and line["key"]["seed"] == 3 for line in lines)
    assert {row.get("trials", row.get("suspects")) for row in rows} == {12}
    assert app.main([*command[:3], "--registry-size", "5"]) == 2 and "expected numbers" in capsys.readouterr().err
