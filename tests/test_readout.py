"""The fit of the readout: least squares as it says, under perturbations, better than the readout that it replaces."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from fpgan.errors import FpganError
from fpgan.model import readout
from fpgan.model.model import from_params
from fpgan.networks.decoder import Decoder, readout_weights, with_readout
from fpgan.networks.parameters import init_params
from fpgan.perturbations.sampling import parse_ranges, perturb

RANGES = "noise:1-4@0.5 jpeg:80-95@0.5"


@pytest.fixture(scope="module")
def network():
    return tiny.network(bit_coding="plus_minus_one", noise="learned", decoder_linear=True)


@pytest.fixture(scope="module")
def params(network):
    """Random networks, whose fingerprints are strong enough to be read from eight bits of grey."""
    return init_params(network, jax.random.key(0), ("generator", "decoder"))


@pytest.mark.parametrize("linear", [True, False])
def test_another_readout_is_what_the_logits_become(network, params, linear):
    network = dataclasses.replace(network, decoder_linear=linear)
    images = np.random.default_rng(0).uniform(-1, 1, (5, 8, 8, 3)).astype(np.float32)
    decoder = Decoder(network)
    hidden, details = decoder.apply({"params": params["decoder"]}, images, method="features")
    weights = np.random.default_rng(1).normal(size=(hidden.shape[1] + details.shape[1] + 1, 8)).astype(np.float32)
    old_latents = decoder.apply({"params": params["decoder"]}, images)[1]
    fitted = with_readout(network, params["decoder"], weights)
    logits, latents = decoder.apply({"params": fitted}, images)
    np.testing.assert_allclose(logits, np.concatenate([hidden, details, np.ones((5, 1))], 1) @ weights, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(latents, old_latents)
    np.testing.assert_allclose(readout_weights(network, fitted), weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("perturbations", ["", RANGES])
def test_a_fit_reads_unseen_images_better(network, params, linear, perturbations):
    network = dataclasses.replace(network, decoder_linear=linear)
    decoder, done = readout.fit_readout(network, params, 2400, seed=0, perturbations=perturbations)
    assert done["images"] == 2000 and done["perturbations"] == perturbations and done["steps"] > 0
    assert done["error"][1] < done["error"][0] <= 1
    fitted = from_params(network, {**params, "decoder": decoder}, {})
    bits = np.random.default_rng(7).integers(0, 2, (500, 8), np.uint8)
    images = fitted.generate(bits, np.arange(500))
    if perturbations:
        keys = jax.random.split(jax.random.key(9), 500)
        moved = perturb(parse_ranges(RANGES), 1.0, jnp.float32(images) * (2 / 255) - 1, keys, jnp.ones(()))
        images = np.asarray(moved * 127.5 + 127.5).round().astype(np.uint8)
    right = ((fitted.decode(images) > 0) == bits).mean()
    before = ((from_params(network, params, {}).decode(images) > 0) == bits).mean()
    assert before < 0.54 and right > (0.75 if linear else 0.56) - 0.1 * bool(perturbations)


def test_conjugate_gradients_reach_the_least_squares_and_stop_where_unseen_examples_are_read_best(monkeypatch):
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(12, 3))

    def examples(count, noise):
        x = rng.normal(size=(count, 12)).astype(np.float32)
        return readout.Examples(x, (x @ truth + noise * rng.normal(size=(count, 3))).astype(np.float32))

    many, held_out = examples(400, 0.1), examples(4000, 0.1)
    monkeypatch.setattr(readout, "_PATIENCE", 60)
    found, steps = readout._conjugate_gradients(many, held_out, np.zeros((12, 3), np.float32))
    expected = np.linalg.lstsq(many.features, many.bits, rcond=None)[0]
    np.testing.assert_allclose(found, expected, atol=5e-3)
    few = examples(13, 3.0)  # as many unknowns as equations, nearly: the least squares fit the noise
    found, steps = readout._conjugate_gradients(few, held_out, np.zeros((12, 3), np.float32))
    unstopped = np.linalg.lstsq(few.features, few.bits, rcond=None)[0]
    assert steps < 12 and readout._squared_error(held_out, found) < 0.5 * readout._squared_error(held_out, unstopped)


def test_the_scale_makes_log_odds(network, params):
    decoder, _ = readout.fit_readout(network, params, 1000, seed=0)
    rng = np.random.default_rng([0, 3])
    bits = rng.integers(0, 2, (500, 8), np.uint8)  # the first batch, which is held out
    fitted = from_params(network, {**params, "decoder": decoder}, {})
    images = fitted.generate(bits, rng.integers(0, 2**32, 500, np.uint32), batch_size=50)
    right = fitted.decode(images) * (2.0 * bits - 1)
    assert 2 * right.mean() / right.var() == pytest.approx(1, rel=2e-3)


def test_what_cannot_be_fitted_is_told(network, params, monkeypatch):
    with pytest.raises(FpganError, match="999 images to fit a readout to; expected 1000 or more"):
        readout.fit_readout(network, params, 999, seed=0)
    monkeypatch.setattr(readout, "_MOST_BYTES", 600_000)
    with pytest.raises(FpganError, match=r"1,000 images of 2\d\d features .*; set export.readout_images to 500 or less"):
        readout.fit_readout(network, params, 1000, seed=0)
