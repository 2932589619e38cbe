"""A grown model: the images of the old one, doubled; what the old one read, read; what cannot grow, refused."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny

from fpgan.errors import FpganError
from fpgan.model.format import save_model
from fpgan.networks.decoder import Decoder
from fpgan.networks.discriminator import Discriminator
from fpgan.networks.generator import Generator
from fpgan.networks.growing import can_grow, grow
from fpgan.networks.parameters import init_params
from fpgan.networks.resampling import fir, upsample
from fpgan.training.state import init_state, params_from_model

OLD = tiny.network(noise="learned", decoder_linear=True, channel_base=16, decoder_features=8)
NEW = dataclasses.replace(OLD, resolution=16, channel_base=32, decoder_linear_levels=2)  # 4 channels at 8x8 become 8


@pytest.fixture(scope="module")
def grown():
    """The parameters of a model of random ones, of the model that it grew into, and what there was before."""
    draw = jax.jit(init_params, static_argnums=0)
    old, fresh = draw(OLD, jax.random.key(0)), draw(NEW, jax.random.key(1))
    old["decoder"]["linear"]["patterns"] = jax.random.normal(jax.random.key(5), (192, 8)) / 4
    return old, grow(OLD, NEW, old, fresh), fresh


def inputs():
    rng = np.random.default_rng(0)
    return rng.standard_normal((6, OLD.latent_size)).astype(np.float32), rng.integers(0, 2, (6, OLD.fingerprint_bits))


@functools.cache
def images_of(config):
    return jax.jit(Generator(config).apply)


def test_the_images_of_a_grown_generator_are_those_of_the_old_one_doubled(grown):
    old, new, fresh = grown
    assert can_grow(OLD, NEW) and not can_grow(NEW, OLD)
    assert jax.tree.map(np.shape, new) == jax.tree.map(np.shape, fresh)
    images = images_of(OLD)({"params": old["generator"]}, *inputs())
    larger = images_of(NEW)({"params": new["generator"]}, *inputs())
    np.testing.assert_allclose(larger, upsample(images), atol=1e-5)
    with_new_details = jax.tree.map(lambda x: x, new["generator"])
    with_new_details["synthesis"]["b16"]["to_rgb"] = fresh["generator"]["synthesis"]["b16"]["to_rgb"]
    assert np.abs(images_of(NEW)({"params": with_new_details}, *inputs()) - larger).max() > 0.1


def test_a_grown_trunk_passes_on_what_the_old_one_saw(grown):
    """Where nothing is cut off by a leaky ReLU, the added blocks are the low-pass filter of the old input's features."""
    old, new, _ = grown
    images = jax.random.uniform(jax.random.key(3), (4, 16, 16, 3), minval=-1)
    halved = fir(images, (1, 1))[:, ::2, ::2]
    high = np.full(4, 50.0, np.float32)  # a bias that keeps all above 0
    for network, module in (("discriminator", Discriminator), ("decoder", Decoder)):
        seen = []
        for config, params, x in ((OLD, old, halved), (NEW, new, images)):
            params = jax.tree.map(np.asarray, params[network])
            layer = params["trunk"]["from_rgb"]
            bias = np.zeros_like(layer["bias"])
            bias[:4] = high
            params = {**params, "trunk": {**params["trunk"], "from_rgb": {**layer, "bias": bias}}}
            if network == "decoder":
                params.pop("linear")
                config = dataclasses.replace(config, decoder_linear=False)
            see = jax.jit(functools.partial(module(config).apply, capture_intermediates=True))
            _, state = see({"params": params}, x)
            block = state["intermediates"]["trunk"][f"b{config.resolution}" if config is OLD else "b8"]
            seen.append(np.asarray(block["skip"]["__call__"][0]))
        inside = np.s_[:, 1:-1, 1:-1]  # the filter pads with zeros, where a bias is not
        correlation = np.corrcoef(seen[0][inside].ravel(), seen[1][inside].ravel())[0, 1]
        assert correlation > 0.9, (network, correlation)


def test_a_grown_correlation_reads_the_old_resolution_where_the_pyramid_has_it(grown):
    old, new, _ = grown
    patterns = np.asarray(new["decoder"]["linear"]["patterns"])
    details = np.asarray(old["decoder"]["linear"]["patterns"])
    weights = patterns / np.sqrt(len(patterns))
    assert not weights[:16 * 16 * 3].any()
    np.testing.assert_allclose(weights[-192:], details / np.sqrt(192), rtol=1e-6)


def test_a_run_starts_from_a_model_of_less_resolution(grown, tmp_path):
    old, _, _ = grown
    save_model(tmp_path / "old", OLD, {name: old[name] for name in ("generator", "decoder")}, {})
    fields = {field: getattr(NEW, field) for field in ("resolution", "noise", "decoder_linear", "channel_base",
                                                       "decoder_features", "decoder_linear_levels")}
    config = tiny.config(init_from=str(tmp_path / "old"), network=fields)
    fresh = init_state(config).params
    params = params_from_model(config, fresh)
    jax.tree.map(np.testing.assert_array_equal, params["discriminator"], fresh["discriminator"])
    images = images_of(OLD)({"params": old["generator"]}, *inputs())
    larger = images_of(NEW)({"params": params["generator"]}, *inputs())
    np.testing.assert_allclose(larger, upsample(images), atol=1e-5)
    narrow = tiny.config(init_from=str(tmp_path / "old"), network=fields | {"channel_base": 16})
    with pytest.raises(FpganError, match="network.resolution is 16, there 8"):
        params_from_model(narrow, init_state(narrow).params)


@pytest.mark.parametrize("changes", [{"resolution": 8, "decoder_linear_levels": 1}, {"latent_size": 8}, {"noise": "none"},
                                     {"channel_base": 16}, {"channel_max": 16, "channel_base": 128}, {"modulated_max": 4}])
def test_what_would_change_its_meaning_does_not_grow(changes):
    assert not can_grow(OLD, dataclasses.replace(NEW, **changes))
