"""Rows of robustness, on a stand-in whose images show their bits and whose errors are known."""

import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from linear_model import LinearModel
from test_evaluate import PaintedBits

from fpgan.attribution.statistics import threshold
from fpgan.cli.app import main
from fpgan.errors import FpganError
from fpgan.evaluation import robustness
from fpgan.evaluation.robustness import Trial, draw_sample, markdown, measure, measure_named, read_rows

TRIAL = Trial(count=300, seed=5)


@pytest.fixture
def loaded(monkeypatch):
    calls = []

    class Counting(PaintedBits):
        def decode(self, images):
            calls.append(len(images))
            return super().decode(images)

    monkeypatch.setattr("fpgan.model.load", lambda name: Counting())
    return calls


def test_known_errors_are_found_in_accuracy_and_share():
    model = PaintedBits(error_rate=0.2)
    sample = draw_sample(model, TRIAL)
    (row,) = measure(model, ["png"], sample, TRIAL)
    assert row["bit_accuracy"]["value"] == pytest.approx(0.8, abs=0.01)
    assert 0.005 < row["bit_accuracy"]["high"] - row["bit_accuracy"]["low"] < 0.01  # 4 sqrt(0.8 * 0.2 / 128 / 300)
    expected = scipy.stats.binom.sf(threshold(128, 1e-6, 10**6) - 1, 128, 0.8)
    assert row["hard"]["low"] - 0.02 < expected < row["hard"]["high"] + 0.02
    assert row["soft"]["value"] == pytest.approx(row["hard"]["value"], abs=0.03)  # every bit is as sure as the others


def test_soft_decisions_find_the_bits_that_are_sure():
    class Doubtful(PaintedBits):
        """Reads 64 bits right and doubts the rest, which are as good as random."""

        def decode(self, images):
            logits = super().decode(images)
            logits[:, 64:] = np.random.default_rng(0).choice([-0.01, 0.01], (len(logits), 64))
            return logits

    model = Doubtful()
    (row,) = measure(model, ["png"], draw_sample(model, TRIAL), TRIAL)
    assert row["bit_accuracy"]["value"] == pytest.approx(0.75, abs=0.01)
    assert row["hard"]["value"] < 0.2 and row["soft"]["value"] == 1


def test_what_ends_the_bits_and_what_does_not():
    model = PaintedBits()
    sample = draw_sample(model, TRIAL)
    specs = ["png", "crop_as_is:1", "flip", "invert", "scale:2"]
    rows = {row["perturbation"]: row for row in measure(model, specs, sample, TRIAL)}
    assert all(rows[spec]["bit_accuracy"]["value"] == 1 == rows[spec]["hard"]["value"] for spec in ("png", "crop_as_is:1"))
    assert rows["scale:2"]["hard"]["value"] == 1  # another size is fitted to the model's
    assert rows["invert"]["bit_accuracy"]["value"] == 0
    assert rows["flip"]["bit_accuracy"]["value"] == pytest.approx(0.5, abs=0.02)
    assert rows["flip"]["hard"]["value"] == 0


def test_every_image_has_its_own_draw_of_what_is_random():
    model, seen = PaintedBits(), []
    sample = draw_sample(model, TRIAL)._replace(images=np.full((300, 16, 16, 3), 128, np.uint8))
    model.decode = lambda images: seen.append(images) or np.zeros((len(images), 128), np.float32)
    list(measure(model, ["noise:8"], sample, TRIAL))
    assert [len(part) for part in seen] == [256, 44] and len({one.tobytes() for part in seen for one in part}) == 300


def test_rows_are_kept_and_only_what_is_missing_is_measured(loaded, tmp_path, capsys):
    out, trial = tmp_path / "rows.jsonl", Trial(count=20)
    first = measure_named("any", ["jpeg:90", "flip"], trial, out=out)
    assert len(loaded) == 2 and read_rows(out) == first
    again = measure_named("any", ["flip", "unmarker", "jpeg:90"], trial, out=out)
    assert len(loaded) == 2 + 6 and [again[0], again[-1]] == first[::-1]
    assert [json.loads(line)["perturbation"] for line in out.read_text().splitlines()][:2] == ["jpeg:90", "flip"]
    measure_named("any", ["flip"], Trial(count=20, seed=1), out=out)  # another trial is another row
    assert len(loaded) == 9 and len(read_rows(out)) == 9


def test_a_run_that_is_stopped_keeps_its_rows(loaded, tmp_path, monkeypatch):
    out, trial = tmp_path / "rows.jsonl", Trial(count=20)
    apply = robustness.apply

    def stop(spec, *arguments):
        if spec == "grey":
            raise KeyboardInterrupt
        return apply(spec, *arguments)

    monkeypatch.setattr(robustness, "apply", stop)
    with pytest.raises(KeyboardInterrupt):
        measure_named("any", ["jpeg:90", "flip", "grey"], trial, out=out)
    assert [row["perturbation"] for row in read_rows(out)] == ["jpeg:90", "flip"]


def test_few_bits_have_no_share_and_foreign_files_are_left_alone(tmp_path):
    class Few(PaintedBits):
        n_bits = 16

        def generate(self, bits, seeds, *, batch_size):
            return super().generate(np.tile(bits, (1, 8)), seeds, batch_size=batch_size)

        def decode(self, images):
            return super().decode(images)[:, :16]

    model, trial = Few(), Trial(count=10)
    rows = list(measure(model, ["png"], draw_sample(model, trial), trial))
    assert rows[0]["hard"] is None and rows[0]["soft"] is None and "| - | - |" in markdown(rows)
    (tmp_path / "notes.txt").write_text("a note\n")
    with pytest.raises(FpganError, match="line 1 is no row"):
        read_rows(tmp_path / "notes.txt")


def test_the_table_is_markdown():
    model, trial = PaintedBits(), Trial(count=10)
    lines = markdown(list(measure(model, ["png", "shift:3,-2"], draw_sample(model, trial), trial))).splitlines()
    assert len(lines) == 4 and {line.count("|") for line in lines} == {5}
    assert lines[2].startswith("| `png` | 1.0000 (1.0000-1.0000) | 1.000 (0.722-1.000) |")


def test_the_command_prints_the_table_and_goes_on(loaded, tmp_path, capsys):
    out = str(tmp_path / "rows.jsonl")
    arguments = ["evaluate", "--model", "any", "--images", "20", "--out", out, "--perturbations", "jpeg:90", "unmarker"]
    assert main(arguments) == 0 and len(loaded) == 7
    shown = capsys.readouterr().out
    assert "painted 0123456789abcdef: 20 images, 1,000,000 users at 1e-06, seed 0" in shown and shown.count("| `") == 7
    assert f"written to {out}" in shown
    assert main(arguments) == 0 and len(loaded) == 7
    assert capsys.readouterr().out == shown
    assert main(["evaluate", "--model", "any", "--perturbations", "wave"]) == 2
    assert "the nearest suite is 'waves'" in capsys.readouterr().err


def test_moved_pictures_are_found_again_by_a_search():
    model = LinearModel(n_bits=64)
    trial = Trial(count=40, n_users=1000, false_positive_rate=1e-6)
    sample = draw_sample(model, trial)
    rows = {search: measure(model, ["png", "flip"], sample, replace(trial, search=search)) for search in ("none", "fast")}
    shares = {search: [row["soft"]["value"] for row in found] for search, found in rows.items()}
    assert shares == {"none": [1.0, 0.0], "fast": [1.0, 1.0]}


def test_rows_of_another_search_are_measured_again(tmp_path, monkeypatch):
    monkeypatch.setattr("fpgan.model.load", lambda name: LinearModel(places=np.eye(3)))
    trial, path = Trial(count=20, n_users=100), tmp_path / "rows.jsonl"
    for search, rows in (("none", 1), ("fast", 2), (None, 2), ("full", 3)):  # with an aligner, fast is what None means
        (row,) = measure_named("m", ["png"], replace(trial, search=search), out=path)
        assert row["search"] == (search or "fast") and len(read_rows(path)) == rows
    old = [{name: value for name, value in row.items() if name != "search"} for row in read_rows(path)[:1]]
    path.write_text("".join(json.dumps(row) + "\n" for row in old))
    measure_named("m", ["png"], trial, out=path)
    assert read_rows(path) == old


def test_what_has_no_place_in_the_model_is_not_recorded(capsys):
    assert main(["evaluate", "--perturbations", "png", "--record"]) == 2
    assert "leave it out with --suite and --perturbations" in capsys.readouterr().err
