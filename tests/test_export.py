"""Export: when a model gets a confidence threshold, and models trained without fingerprints."""

import json

import jax
import numpy as np
import pytest
import tiny

from fpgan.cli import main
from fpgan.training import export as exporting
from fpgan.training import loop
from fpgan.training.step import Phase


class Reader:
    """A stand-in for a model that reads a share of its bits right, and is as sure as told."""

    n_bits = 64

    def __init__(self, accuracy, own_sureness):
        self.accuracy, self.own_sureness = accuracy, own_sureness

    def generate(self, bits, seeds):
        rng = np.random.default_rng(0)
        self._logits = np.where((bits > 0) == (rng.random(bits.shape) < self.accuracy), 1.0, -1.0)
        return "own"

    def decode(self, images):
        sureness = np.random.default_rng(1).uniform(0.99, 1.01, (512, 1))
        if isinstance(images, str):
            return self._logits * self.own_sureness * sureness
        return np.ones((512, 64)) * sureness


@pytest.mark.parametrize("accuracy, sureness, expected", [
    (0.99, 5.0, 3.0),  # between 1 and 5
    (0.80, 1.5, 1.25),
    (0.50, 5.0, None),  # sure of what is wrong
    (0.99, 1.0, None),  # as sure of training images as of its own
])
def test_a_threshold_needs_bits_that_are_read_and_confidence_that_differs(accuracy, sureness, expected):
    found = exporting.confidence_threshold(Reader(accuracy, sureness), tiny.config())
    assert found == (expected and pytest.approx(expected, rel=0.02))


def test_a_model_trained_without_fingerprints_is_exported_and_measured(tmp_path, monkeypatch, capsys):
    def no_training(*args):
        return (Phase("none", 1, lambda state, images: (state.replace(step=state.step + 1), {"loss": state.accuracy})),)

    monkeypatch.setattr(loop, "phases", no_training)  # the bits of random networks are at chance as well
    config = tiny.config(objective=dict(fingerprint=0.0, consistency=0.0), total_images=64)
    state = loop.train(config, tmp_path / "run")
    model = exporting.export(tmp_path / "run", tmp_path / "model")
    assert "confidence_threshold" not in model.info
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, model.params), dict(state.ema))
    command = ["evaluate", "--model", str(tmp_path / "model"), "--count", "40", "--users", "100", "--out",
               str(tmp_path / "metrics.json")]
    assert main(command) == 0
    results = json.loads((tmp_path / "metrics.json").read_text())
    accuracy = results["bit_accuracy"]["png"]
    assert accuracy["low"] < 0.5 + 1 / 8 and accuracy["high"] > 0.5 - 1 / 8
    assert results["frechet_distance"]["value"] > 0
    assert "Frechet distance over pixels@8" in capsys.readouterr().out
