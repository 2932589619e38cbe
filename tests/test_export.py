"""Export: evenness thresholds, strength and fit of the readout, models trained without fingerprints."""

import functools
import json
import re

import jax
import numpy as np
import pytest
import tiny

from fpgan.cli.app import main
from fpgan.data.sources import open_source
from fpgan.model import calibration
from fpgan.model.model import load
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


def test_strength_and_fit_are_the_configs_unless_given(tmp_path, monkeypatch):
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
    assert seen == [(0.5, 3000, "noise:1@1"), (0.5, 1000, "noise:1@1")]


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
