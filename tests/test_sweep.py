"""Sweeps: which runs there are, that they go on where they were stopped, and one for real."""

import json
from pathlib import Path

import pytest

from fpgan.cli.app import main
from fpgan.errors import FpganError
from fpgan.training.sweep import ROWS, Stopped, runs_of, sweep

TINY = str(Path(__file__).with_name("tiny.py"))


def estimate(value):
    return {"value": value, "low": value, "high": value}


def row(config_path, folder, overrides, images):
    return {"bits": 8, "images_seen": 768, "seconds": 90.0, "bit_accuracy": {"png": estimate(0.9), "jpeg:75": estimate(0.8)},
            "capacity_bits": 4.2, "frechet_distance": {"value": 1.5, "features": "pixels@8"}, "psnr_db": estimate(30.0),
            "diversity": None}


def test_runs_vary_one_field_at_a_time():
    assert [run.name for run in runs_of(["seed=1,2", "objective.latent=0", "seed=2"])] == [
        "base", "seed=1", "seed=2", "objective.latent=0"]
    assert [run.name for run in runs_of(["capacity"])][1:] == [
        f"network.fingerprint_bits={n}" for n in (32, 64, 128, 256, 512)]
    with pytest.raises(FpganError, match="or one of capacity, fingerprints, ablations"):
        runs_of(["capacities"])


def test_a_sweep_goes_on_and_a_failed_run_is_a_row(tmp_path):
    asked = []

    def measure(config_path, folder, overrides, images):
        asked.append((folder.name, tuple(overrides), images))
        if folder.name == "seed=1":
            raise FpganError("the loss is not finite")
        if folder.name == "seed=2" and len(asked) == 3:
            raise Stopped("stopped at step 3")
        return row(config_path, folder, overrides, images)

    def go(**options):
        return sweep(TINY, tmp_path, ["seed=1,2"], ["batch_size=64"], images=50, measure=measure, **options)

    with pytest.raises(Stopped):
        go()
    table = go().blocks[1]
    assert [name for name, *_ in asked] == ["base", "seed=1", "seed=2", "seed=2"]
    assert asked[-1] == ("seed=2", ("batch_size=64", "seed=2"), 50)
    assert table.rows[0][:3] == ["base", "8", "0.900 (0.900-0.900)"] and table.rows[0][-1] == "1.5 min"
    assert table.rows[1][-1] == "failed: the loss is not finite"
    assert len((tmp_path / ROWS).read_text().splitlines()) == 3 and "seed=2" in (tmp_path / "index.html").read_text()
    sweep(TINY, tmp_path, ["seed=1,2"], images=50, measure=measure)  # another config is another row
    assert len(asked) == 7


def test_mistakes_end_before_anything_is_trained(tmp_path, capsys):
    command = ["sweep", "--config", TINY, "--workdir", str(tmp_path), "--vary"]
    assert main([*command, "network.fingerprint_bit=8"]) == 2
    assert "the nearest known one is 'network.fingerprint_bits'" in capsys.readouterr().err
    assert main([*command, "seed"]) == 2 and "expected KEY=VALUE" in capsys.readouterr().err
    assert not (tmp_path / "base").exists()
    (tmp_path / ROWS).write_text('{"run": "base"}\n')
    assert main([*command, "seed=1"]) == 2 and "line 1 is no row of fpgan sweep" in capsys.readouterr().err
    assert not (tmp_path / "base").exists()


@pytest.mark.slow
def test_two_tiny_runs_for_real(tmp_path, capsys):
    pytest.importorskip("robohash")
    command = ["sweep", "--config", TINY, "--workdir", str(tmp_path), "--vary", "network.fingerprint_bits=16",
               "--images", "20", "--set", "total_images=96"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / ROWS).read_text().splitlines()]
    assert [(one["bits"], one["images_seen"]) for one in rows] == [(8, 96), (16, 96)]
    assert all(one["seconds"] > 0 for one in rows) and "| network.fingerprint_bits=16 |" in shown
    assert main(command) == 0 and "training" not in capsys.readouterr().out.split("## ")[0]
