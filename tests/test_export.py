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
    (0.50, 1.0, None),  # even in what is wrong
    (0.99, 0.4, None),  # as even on training images as on its own
])
def test_a_threshold_needs_bits_that_are_read_and_evenness_that_differs(accuracy, share, expected):
    found = exporting.evenness_threshold(Reader(accuracy, share), tiny.config())
    assert found == (expected and pytest.approx(expected, rel=0.02))


def test_a_model_trained_without_fingerprints_is_exported_and_measured(tmp_path, monkeypatch, capsys):
    def no_training(*args):
        return (Phase("none", 1, lambda state, images: (state.replace(step=state.step + 1), {"loss": state.accuracy})),)

    monkeypatch.setattr(loop, "phases", no_training)  # the bits of random networks are at chance as well
    config = tiny.config(objective=dict(fingerprint=0.0, consistency=0.0), total_images=64)
    state = loop.train(config, tmp_path / "run")
    model = exporting.export(tmp_path / "run", tmp_path / "model")
    assert "evenness_threshold" not in model.info
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, model.params), dict(state.ema))
    command = ["evaluate", "--model", str(tmp_path / "model"), "--count", "40", "--users", "100", "--out",
               str(tmp_path / "metrics.json")]
    assert main(command) == 0
    results = json.loads((tmp_path / "metrics.json").read_text())
    accuracy = results["bit_accuracy"]["png"]
    assert accuracy["low"] < 0.5 + 1 / 8 and accuracy["high"] > 0.5 - 1 / 8
    assert results["frechet_distance"]["value"] > 0
    assert "Frechet distance over pixels@8" in capsys.readouterr().out
