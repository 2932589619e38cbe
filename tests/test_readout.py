"""The readout in closed form: it is the ridge regression it says it is, and reads more than the decoder it replaces."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from fpgan.errors import FpganError
from fpgan.model import readout
from fpgan.model.model import from_params
from fpgan.networks.decoder import Decoder, with_readout
from fpgan.networks.parameters import init_params
from fpgan.perturbations.codecs import PERTURBATIONS, perturb_all


@pytest.fixture(scope="module")
def network():
    return tiny.network(bit_coding="plus_minus_one", noise="learned", decoder_linear=True)


@pytest.fixture(scope="module")
def params(network):
    """Random networks, whose fingerprints are strong enough to be read from eight bits of grey."""
    return init_params(network, jax.random.key(0), ("generator", "decoder"))


def test_another_reading_is_what_the_logits_become(network, params):
    images = np.random.default_rng(0).uniform(-1, 1, (5, 8, 8, 3)).astype(np.float32)
    decoder = Decoder(network)
    hidden, details = decoder.apply({"params": params["decoder"]}, images, method="features")
    weights = np.random.default_rng(1).normal(size=(hidden.shape[1] + details.shape[1] + 1, 8)).astype(np.float32)
    old_latents = decoder.apply({"params": params["decoder"]}, images)[1]
    logits, latents = decoder.apply({"params": with_readout(network, params["decoder"], weights)}, images)
    np.testing.assert_allclose(logits, np.concatenate([hidden, details, np.ones((5, 1))], 1) @ weights, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(latents, old_latents)


@pytest.mark.parametrize("linear", [True, False])
def test_a_fit_is_ridge_regression_and_reads_unseen_images_better(network, params, linear, monkeypatch):
    network = dataclasses.replace(network, decoder_linear=linear)
    monkeypatch.setattr(readout, "RIDGES", (1e-3,))
    decoder, done = readout.fit_readout(network, params, 2400, seed=0)
    assert done == {"images": 2000, "saved_as": list(PERTURBATIONS), "ridge": 1e-3}
    rng = np.random.default_rng([0, 3])
    rows, targets = [], []
    for batch in range(4):
        bits = rng.integers(0, 2, (500, 8), np.uint8)
        images = from_params(network, params, {}).generate(bits, rng.integers(0, 2**32, 500, np.uint32), batch_size=500)
        for name in PERTURBATIONS if batch else ():  # the first batch is held out
            x = perturb_all(images, name).astype(np.float32) * (2 / 255) - 1
            hidden, details = Decoder(network).apply({"params": params["decoder"]}, x, method="features")
            rows.append(np.concatenate([hidden, details], axis=1, dtype=np.float64))
            targets.append(2.0 * bits - 1)
    x, y, width = np.concatenate(rows), np.concatenate(targets), hidden.shape[1]
    ridge = 1e-3 * np.repeat([x[:, :width].var(0).mean(), x[:, width:].var(0).mean() if linear else 0],
                             [width, x.shape[1] - width])
    centred = x - x.mean(0)
    expected = np.linalg.solve(centred.T @ centred / len(x) + np.diag(ridge), centred.T @ (y - y.mean(0)) / len(x))
    found = decoder["output"]["weight"][:, 4:] / np.sqrt(width)
    if linear:
        found = np.concatenate([found, decoder["linear"]["patterns"] / np.sqrt(192)])
    scale = np.sum(found * expected) / np.sum(expected**2)
    assert scale > 1  # the log-odds of what is mostly read right
    np.testing.assert_allclose(found, scale * expected, atol=2e-3 * np.abs(found).max())
    fitted = from_params(network, {**params, "decoder": decoder}, {})
    bits = np.random.default_rng(7).integers(0, 2, (500, 8), np.uint8)
    images = fitted.generate(bits, np.arange(500))
    right = ((fitted.decode(images) > 0) == bits).mean()
    before = ((from_params(network, params, {}).decode(images) > 0) == bits).mean()
    assert before < 0.54 and right > (0.75 if linear else 0.56)


def test_the_ridge_is_that_which_reads_what_was_held_out_and_the_scale_makes_log_odds(network, params, monkeypatch):
    monkeypatch.setattr(readout, "RIDGES", (1e9, 1e-3, 1e8))
    decoder, done = readout.fit_readout(network, params, 1000, seed=0)
    assert done["ridge"] == 1e-3
    rng = np.random.default_rng([0, 3])
    bits = rng.integers(0, 2, (500, 8), np.uint8)  # the first batch
    fitted = from_params(network, {**params, "decoder": decoder}, {})
    images = fitted.generate(bits, rng.integers(0, 2**32, 500, np.uint32), batch_size=50)
    right = np.concatenate([fitted.decode(perturb_all(images, name)) * (2.0 * bits - 1) for name in PERTURBATIONS])
    assert 2 * right.mean() / right.var() == pytest.approx(1, rel=1e-3)


def test_what_cannot_be_fitted_is_told(network, params, monkeypatch):
    with pytest.raises(FpganError, match="999 images to fit a readout to; expected 1000 or more"):
        readout.fit_readout(network, params, 999, seed=0)
    monkeypatch.setattr(readout, "_MOST_FEATURES", 100)
    with pytest.raises(FpganError, match=r"has 2\d\d features to fit, expected 100 at most; set export.readout_images to 0"):
        readout.fit_readout(network, params, 1000, seed=0)
