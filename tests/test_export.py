"""Export: evenness thresholds, strength and fit of the readout, models trained without fingerprints."""

import functools
import json
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tiny

from fpgan.cli.app import main
from fpgan.data.sources import open_source
from fpgan.model import calibration, format
from fpgan.model.format import about_aligner, find
from fpgan.model.model import load
from fpgan.networks.alignment import Aligner
from fpgan.training import export as exporting
from fpgan.training import loop
from fpgan.training.step import Phase


class Reader:
    """A stand-in for a model that reads a share of its bits right, and gives a share of its logits any magnitude."""

    n_bits = 64

    def __init__(self, accuracy, share):
        self.accuracy, self.share = accuracy, share

    def generate(self, bits, seeds):
        rng = np.random.default_rng(0)
        self._logits = np.where((bits > 0) == (rng.random(bits.shape) < self.accuracy), 5.0, -5.0)
        return "own"

    def decode(self, images):
        own = isinstance(images, str)
        logits = self._logits.copy() if own else np.full((512, 64), 9.0)
        logits[:, int(64 * (self.share if own else 0.5)):] *= 1e-6
        return logits


@pytest.mark.parametrize("accuracy, share, expected", [
    (0.99, 1.0, (1 + 0.5**0.5) / 2),  # between sqrt(1/2) of the training images, large logits as they are, and 1
    (0.80, 0.75, (0.75**0.5 + 0.5**0.5) / 2),
    (0.50, 1.0, "the decoder reads 50.0% of the bits"),  # even in what is wrong
    (0.99, 0.4, "as even on training images"),
])
def test_a_threshold_needs_bits_that_are_read_and_evenness_that_differs(accuracy, share, expected):
    calibrate = functools.partial(calibration.evenness_threshold, Reader(accuracy, share),
                                  open_source(tiny.config().data, 8), 0)
    if isinstance(expected, str):
        with pytest.raises(calibration.NotCalibrated, match=expected):
            calibrate()
    else:
        assert calibrate() == pytest.approx(expected, rel=0.02)


def no_training(state, images):
    """A phase that counts steps."""
    return state.replace(step=state.step + 1), {"loss": state.accuracy}


def test_a_model_trained_without_fingerprints_is_exported_and_measured(tmp_path, monkeypatch, capsys):
    # The bits of random networks are at chance as well.
    monkeypatch.setattr(loop, "phases", lambda *args: (Phase("none", 1, no_training),))
    config = tiny.config(objective=dict(fingerprint=0.0, consistency=0.0), total_images=64)
    state = loop.train(config, tmp_path / "run")
    assert main(["export", "--workdir", str(tmp_path / "run"), "--out", str(tmp_path / "model")]) == 0
    told = capsys.readouterr().out
    assert "no evenness threshold" in told and re.search("the decoder reads [456].*% of the bits", told)
    model = load(tmp_path / "model")
    assert "evenness_threshold" not in model.info
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, model.params), dict(state.ema))
    command = ["evaluate", "--model", str(tmp_path / "model"), "--images", "40", "--registry-size", "100", "--out",
               str(tmp_path / "metrics.json")]
    assert main(command) == 0
    results = json.loads((tmp_path / "metrics.json").read_text())
    accuracy = results["bit_accuracy"]["png"]
    assert accuracy["low"] < 0.5 + 1 / 8 and accuracy["high"] > 0.5 - 1 / 8
    assert results["frechet_distance"]["value"] > 0
    assert "Frechet distance over pixels@8" in capsys.readouterr().out


def test_strength_and_fit_are_the_configs_unless_given(tmp_path, monkeypatch, capsys):
    seen = []

    def fit(network, params, count, seed, perturbations, progress):
        seen.append((network.fingerprint_strength, count, perturbations))
        bias = params["decoder"]["output"]["bias"] + 1
        return {**params["decoder"], "output": {**params["decoder"]["output"], "bias": bias}}, {"images": count}

    monkeypatch.setattr(exporting, "fit_readout", fit)
    monkeypatch.setattr(loop, "phases", lambda *args: (Phase("none", 1, no_training),))
    config = tiny.config(total_images=64, network=dict(bit_coding="plus_minus_one"),
                         export=dict(strength=0.5, readout_images=3000, perturbations="noise:1@1"))
    state = loop.train(config, tmp_path / "run")
    run = ["export", "--workdir", str(tmp_path / "run"), "--out", str(tmp_path / "model")]
    assert main([*run, "--dtype", "bfloat16"]) == 0
    model = load(tmp_path / "model")
    assert model.config.fingerprint_strength == 0.5 and model.info["readout"] == {"images": 3000}
    np.testing.assert_array_equal(model.params["decoder"]["output"]["bias"], state.ema["decoder"]["output"]["bias"] + 1)
    assert main([*run, "--strength", "0.25", "--readout-images", "0"]) == 0
    model = load(tmp_path / "model")
    assert model.config.fingerprint_strength == 0.25 and "readout" not in model.info
    assert main([*run, "--fit-images", "1000"]) == 0
    assert main([*run, "export.perturbations=jpeg:50-90@1", "export.readout_images=2000"]) == 0
    assert seen == [(0.5, 3000, "noise:1@1"), (0.5, 1000, "noise:1@1"), (0.5, 2000, "jpeg:50-90@1")]
    before = (tmp_path / "model" / "config.json").read_bytes()
    assert main([*run, "objective.latent=3"]) == main([*run, "export.perturbation=x"]) == 2
    assert "expected a field of the config's export part" in capsys.readouterr().err
    assert (tmp_path / "model" / "config.json").read_bytes() == before


def untrained(model, images, steps=0, seed=0, progress=None):
    """An aligner that has learned nothing, quickly."""
    network = Aligner(8, 64, 16, 8)
    params = network.init(jax.random.key(seed), np.zeros((1, 8, 8, 3)))["params"]
    return network, params, about_aligner(network) | {"images": images, "views": 64 * steps, "median_pixels": 4.0,
                                                      "most_pixels": 8.0, "turns": 0.125}


def test_an_aligner_is_trained_at_export_or_added_later(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(exporting, "fit_aligner", lambda *args, **options: calls.append(args[1:4]) or untrained(*args))
    monkeypatch.setattr(exporting, "evenness_threshold", lambda *args: 0.9)
    monkeypatch.setattr(exporting, "search_thresholds", lambda model, *args: {"fast": 0.91 if model.aligner else 0.8})
    monkeypatch.setattr(loop, "phases", lambda *args: (Phase("none", 1, no_training),))
    loop.train(tiny.config(total_images=64, export=dict(aligner_images=100, aligner_steps=7)), tmp_path / "run")
    run = ["export", "--workdir", str(tmp_path / "run"), "--out", str(tmp_path / "model")]
    assert main([*run, "--dtype", "bfloat16"]) == 0
    model = load(tmp_path / "model")
    assert model.aligner is not None and model.evenness_threshold() == 0.91 and calls == [(100, 7, 0)]
    assert main([*run, "--aligner-images", "0"]) == 0
    plain = load(tmp_path / "model")
    assert plain.aligner is None and plain.evenness_threshold("fast") == 0.8
    assert main(["export", "--model", str(tmp_path / "model"), "--aligner-images", "64", "--aligner-steps", "2"]) == 0
    model, shown = load(tmp_path / "model"), capsys.readouterr().out
    assert model.hash == plain.hash and model.aligner is not None and model.evenness_threshold() == 0.91
    assert main(["export", "--model", str(tmp_path / "model")]) == 0  # calibrates again, and trains nothing
    assert load(tmp_path / "model").aligner is not None and "turns right" not in capsys.readouterr().out
    assert calls[1:] == [(64, 2, 0)] and "fast 0.91" in shown and "12.5% of the turns right" in shown
    for arguments, told in ((["--model", "nonesuch"], "no model 'nonesuch'"),
                            (["--out", "m"], "--workdir and --out"),
                            (["--model", "robohash32"], "robohash32 ships with fpgan and stays as it is; give --out DIR"),
                            ([*run[1:], "--aligner-images", "63"], "export.aligner_images is 63; expected 64 or more, or 0"),
                            ([*run[1:], "--aligner-steps", "5"], "go with --model"),
                            (["--model", "m", "--aligner-images", "64", "--step", "1"], "without --workdir"),
                            (["--model", "m", "--name", "other"], "without --workdir"),
                            (["--model", "nonesuch", "--aligner-images", "64"], "no model 'nonesuch'")):
        assert main(["export", *arguments]) == 2 and told in capsys.readouterr().err


def test_a_model_that_ships_gets_an_aligner_in_a_copy(tmp_path, monkeypatch, capsys):
    """The files in the package stay as they are; the copy appears whole, or not at all."""
    monkeypatch.setattr(exporting, "fit_aligner", untrained)
    monkeypatch.setattr(exporting, "search_thresholds", lambda model, *args: {"fast": 0.91 if model.aligner else 0.8})
    shipped, copy = find("robohash32"), tmp_path / "models" / "copy"
    before = {path.name: path.read_bytes() for path in shipped.iterdir()}
    command = ["export", "--model", "robohash32", "--data", "robohash_cats"]
    assert main([*command, "--aligner-images", "64"]) == 2
    assert "ships with fpgan and stays as it is; give --out DIR" in capsys.readouterr().err
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(format, "_write_info", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        exporting.add_aligner("robohash32", 64, data="robohash_cats", out=copy)
    assert not list(copy.parent.iterdir())
    assert main([*command, "--aligner-images", "64", "--out", str(copy)]) == 0
    assert f"{copy}: aligner " in capsys.readouterr().out
    model, own = load(copy), load("robohash32")
    assert model.hash == own.hash and model.aligner is not None and own.aligner is None
    assert model.info["search_thresholds"] == {"fast": 0.91} and model.name == "robohash32"
    assert sorted(path.name for path in copy.iterdir()) == sorted([*before, "aligner.safetensors"])
    assert (copy / "README.md").read_bytes() == before["README.md"]
    assert main([*command, "--out", str(copy)]) == 0  # the calibration alone, of another copy, in the place of the first
    assert load(copy).aligner is None and load(copy).info["search_thresholds"] == {"fast": 0.8}
    assert {path.name: path.read_bytes() for path in shipped.iterdir()} == before
    (tmp_path / "else").mkdir()
    assert main([*command, "--out", str(tmp_path / "else")]) == 2
    assert "else exists and is no model directory" in capsys.readouterr().err


def test_each_search_has_a_threshold_of_its_own():
    class Searching(Reader):
        """Is more even over what is not its own the more it searches."""

        def read(self, images, search):
            logits = self.decode(images)
            if not isinstance(images, str):
                logits[:, int(64 * {"fast": 0.6, "full": 0.7}[search]):] *= 1e-6
                logits[:, :int(64 * {"fast": 0.6, "full": 0.7}[search])] = 9.0
            return SimpleNamespace(logits=logits)

    source = open_source(tiny.config().data, 8)
    found = calibration.search_thresholds(Searching(0.99, 1.0), source, 0)
    assert found == {search: pytest.approx((1 + (int(64 * share) / 64) ** 0.5) / 2, rel=0.02)
                     for search, share in (("fast", 0.6), ("full", 0.7))}
    assert calibration.search_thresholds(Searching(0.5, 1.0), source, 0) == {}


def test_what_cannot_be_exported_is_told_before_anything_is_computed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "phases", lambda *args: (Phase("none", 1, no_training),))
    loop.train(tiny.config(total_images=64), tmp_path / "run")
    monkeypatch.setattr(exporting, "Checkpoints", None)
    (tmp_path / "full").mkdir()
    for arguments, told in ((["--strength", "0.5"], "export.strength is 0.5; expected a number above 0, and 1 unless"),
                            (["--strength", "0"], "export.strength is 0.0"),
                            (["--strength", "nan"], "export.strength is nan"),
                            (["--readout-images", "999"], "export.readout_images is 999; expected 1000 or more, or 0"),
                            (["--out", str(tmp_path / "full")], "full exists and is no model directory")):
        assert main(["export", "--workdir", str(tmp_path / "run"), "--out", str(tmp_path / "model"), *arguments]) == 2
        assert told in capsys.readouterr().err
    path = tmp_path / "run" / "config.json"
    path.write_text(path.read_text().replace("{", '{"network.sharpness": 1,', 1))
    assert main(["export", "--workdir", str(tmp_path / "run"), "--out", str(tmp_path / "model")]) == 2
    assert "this fpgan does not know 'network.sharpness'" in capsys.readouterr().err
