"""`fpgan plot`: what is read from logs, and the picture that is made of it."""

import io
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from fpgan.cli.app import main
from fpgan.errors import FpganError
from fpgan.evaluation import plots


def record(step, **scalars):
    return json.dumps({"step": step, "images": 16 * step, "images_per_second": None} | scalars)


def log(folder, *lines, end="\n"):
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("\n".join(lines) + end)
    return folder


@pytest.fixture
def runs(tmp_path):
    """Two runs; the second has no measurements."""
    high = [record(s, accuracy=1 - 0.5 / s, **({"eval_accuracy": 1 - 0.6 / s, "eval_frechet_pixels_8": 40 / s} if s % 5 == 0
                                                else {})) for s in range(1, 51)]
    low = [record(s, accuracy=0.5 + 0.01 * s) for s in range(1, 31)]
    return str(log(tmp_path / "high", *high)), str(log(tmp_path / "low", *low))


def test_restarts_and_a_last_line_cut_short(tmp_path):
    folder = log(tmp_path / "run", record(1, a=1), record(2, a=2), record(3, a=3), record(2, a=20), record(4, a=40),
                 record(4, a=41), '{"step": 5, "ima', end="")
    run = plots.read_run(folder)
    assert run.name == "run"
    np.testing.assert_array_equal(run.x["step"], [1, 2, 4])
    np.testing.assert_array_equal(run.x["images"], [16, 32, 64])
    np.testing.assert_array_equal(run.scalars["a"], [1, 20, 41])


def test_a_curve_has_only_the_records_with_its_metric(tmp_path):
    lines = record(1, a=1), record(2, b=5), record(3, a=float("nan"), b=None), record(4, a=2)
    run = plots.read_run(log(tmp_path / "run", *lines))
    np.testing.assert_array_equal(run.curve("a"), [[16, 64], [1, 2]])
    np.testing.assert_array_equal(run.curve("b", "step"), [[2], [5]])
    assert run.curve("none")[0].size == run.curve("images_per_second")[0].size == 0


def test_a_curve_is_broken_where_a_metric_was_switched_off(tmp_path):
    lines = [record(s, a=1, **({} if 4 <= s < 14 else {"r1": s}), **({"often": s} if s % 3 == 0 else {})) for s in range(20)]
    run = plots.read_run(log(tmp_path / "run", *lines))
    assert [list(run.curve("r1")[1][piece]) for piece in run.pieces("r1")] == [[0, 1, 2, 3], [14, 15, 16, 17, 18, 19]]
    assert len(run.pieces("a")) == len(run.pieces("often")) == 1


@pytest.mark.parametrize("lines, message", [
    (["nonsense", record(2)], "line 1 is no record"),
    ([record(1), '{"step": 2}', record(3)], "line 2 is no record"),
    ([record(1), "[1, 2]", record(3)], "line 2 is no record"),
    (["{"], "no records yet"),
])
def test_damaged_logs_are_told(tmp_path, lines, message):
    with pytest.raises(FpganError, match=message):
        plots.read_run(log(tmp_path / "run", *lines))


def test_names_of_runs(tmp_path, runs):
    named = plots.read_runs([f"first one={runs[0]}", runs[1], f"{runs[1]}/metrics.jsonl"])
    assert [run.name for run in named] == ["first one", runs[1], f"{runs[1]}/metrics.jsonl"]
    odd = log(tmp_path / "lr=1", record(1, accuracy=0.5))
    assert plots.read_runs([str(odd)])[0].name == "lr=1"
    with pytest.raises(FpganError, match="no training log nowhere"):
        plots.read_runs(["nowhere"])
    with pytest.raises(FpganError, match="13 runs; expected 1 to 12"):
        plots.read_runs([runs[0]] * 13)


def test_metrics_are_names_and_patterns(runs):
    read = plots.read_runs(runs)
    assert plots.choose_metrics(read, ()) == ["accuracy", "eval_accuracy", "eval_frechet_pixels_8"]
    assert plots.choose_metrics(read[1:], ()) == ["accuracy"]
    assert plots.choose_metrics(read, ["eval_*", "accuracy"]) == ["eval_accuracy", "eval_frechet_pixels_8", "accuracy"]
    with pytest.raises(FpganError, match="no run has a metric 'eval_acuracy'; did you mean 'eval_accuracy'"):
        plots.choose_metrics(read, ["eval_acuracy"])
    with pytest.raises(FpganError, match="no run has a metric 'images_per_second'"):  # null in every record
        plots.choose_metrics(read, ["images_per_second"])


def test_smoothing_is_a_weighted_mean_by_half_life():
    rng = np.random.default_rng(0)
    x, values = np.cumsum(rng.uniform(1, 9, 40)), rng.normal(size=40)
    weights = np.tril(0.5 ** ((x[:, None] - x) / 7.0))
    np.testing.assert_allclose(plots.smoothed(x, values, 7.0), weights @ values / weights.sum(axis=1))
    np.testing.assert_allclose(plots.smoothed(x, np.full(40, 3.0), 7.0), 3.0)


def test_labels_name_the_features():
    assert plots.panel_label("eval_frechet_pixels_8") == "Fr\u00e9chet distance over pixels@8"
    assert plots.panel_label("eval_frechet_vgg16_relu5_3_64") == "Fr\u00e9chet distance over vgg16:relu5_3@64"
    assert plots.panel_label("fake_score") == "fake score"


@pytest.mark.parametrize("smooth", [0.0, 100.0])
def test_the_picture_is_the_same_every_time_and_shows_the_runs(runs, smooth):
    read = plots.read_runs(runs)
    metrics = plots.choose_metrics(read, ())
    first = plots.draw(read, metrics, smooth=smooth)
    assert first == plots.draw(read, metrics, smooth=smooth)
    pixels = np.array(Image.open(io.BytesIO(first)).convert("RGB")).reshape(-1, 3)
    for colour in (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00):  # the first two of the palette
        assert (pixels == colour).all(axis=1).sum() > 100
    assert not (pixels == (0x00, 0x9E, 0x73)).all(axis=1).any()  # no third run


def test_svg_holds_labels_and_no_date(runs, tmp_path):
    plots.plot([f"a & b={runs[0]}", runs[1]], tmp_path / "new" / "picture.svg", metrics=["accuracy"], x="step")
    content = (tmp_path / "new" / "picture.svg").read_bytes()
    assert ElementTree.fromstring(content).tag.endswith("svg")
    assert b"a &amp; b" in content and b"<dc:date>" not in content
    plots.plot([f"a & b={runs[0]}", runs[1]], tmp_path / "again.svg", metrics=["accuracy"], x="step")
    assert (tmp_path / "again.svg").read_bytes() == content


def test_the_verb_draws_and_prints_the_last_values(runs, tmp_path, capsys):
    assert main(["plot", f"best={runs[0]}", runs[1], "--out", str(tmp_path / "c.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "images", "accuracy", "eval_accuracy", "eval_frechet_pixels_8"]
    assert lines[1].split() == ["best", "800", "0.99", "0.988", "0.8"]
    assert lines[2].split() == ["low", "480", "0.8", "-", "-"]
    assert Image.open(tmp_path / "c.png").size[0] > 1000
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["c.png"]


def test_mistakes_are_told_and_nothing_is_written(runs, tmp_path, capsys):
    assert main(["plot", runs[0], "--out", str(tmp_path / "c.jpg")]) == 2
    assert "written as .png or .svg" in capsys.readouterr().err
    assert main(["plot", runs[0], "--smooth", "-1", "--out", str(tmp_path / "c.png")]) == 2
    assert "0 or more" in capsys.readouterr().err
    assert not [p for p in tmp_path.iterdir() if p.is_file()]


def test_without_matplotlib_the_extra_is_named(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["plot", runs[0], "--out", str(tmp_path / "c.png")]) == 2
    assert "fpgan[plot]" in capsys.readouterr().err


def test_reading_needs_neither_jax_nor_matplotlib():
    code = ("import sys, fpgan.evaluation.plots, fpgan.cli.plot;"
            "sys.exit(any(name in sys.modules for name in ('jax', 'matplotlib')))")
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0
