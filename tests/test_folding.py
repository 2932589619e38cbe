"""The folded generator is the fingerprinted one: against a plain NumPy generator in float64, and against the real one."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from test_networks import conv_up, correlate, filtered, zero_inserted

from fpgan.errors import FpganError
from fpgan.fingerprint import Fingerprint
from fpgan.io.images import to_uint8
from fpgan.model import from_params, load
from fpgan.model.instance import make_instance
from fpgan.networks.config import NetworkConfig
from fpgan.networks.folding import FoldedConfig, fold, folded_generator
from fpgan.networks.parameters import init_params

SMALL = dict(resolution=16, fingerprint_bits=16, latent_size=4, style_size=6, channel_base=32, channel_max=8,
             mapping_layers=2)
KINDS = [dict(noise="random"), dict(noise="fixed"),
         dict(noise="learned", bit_coding="plus_minus_one", fingerprint_strength=0.7, mapping_layers=1),
         dict(noise="none", modulated_min=8, modulated_max=8), dict(label_size=3, mapping_layers=3)]
BITS = np.random.default_rng(1).integers(0, 2, 16)


@functools.cache
def params_of(config):
    """Random parameters with biases and strengths that matter."""
    params = init_params(config, jax.random.key(0), ("generator",))["generator"]
    random = np.random.default_rng(2)
    return jax.tree.map(lambda array: np.asarray(array, np.float64) + 0.3 * random.standard_normal(array.shape), params)


def relu(x):
    return np.sqrt(2) * np.where(x > 0, x, 0.2 * x)


def scaled(layer, name="weight", multiplier=1.0):
    weight = layer[name]
    return weight * multiplier / np.sqrt(np.prod(weight.shape[:-1]))


def plain_style(config, mapping, label):
    x = config.fingerprint_strength * (2.0 * BITS - 1) if config.bit_coding == "plus_minus_one" else BITS.astype(float)
    if config.label_size:
        x = np.concatenate([x, np.eye(config.label_size)[label] @ mapping["label_concat"]["weight"]])
    for i in range(config.mapping_layers):
        layer = mapping[f"dense{i}"]
        x = x @ scaled(layer, multiplier=config.mapping_lr_multiplier) + layer["bias"] * config.mapping_lr_multiplier
        x = relu(x) if config.mapping_layers > 1 else x
    return x


def plain_layer(config, layer, x, style, resolution, noise, up=False, rgb=False):
    """One styled convolution as the paper has it: a kernel per image, modulated and demodulated."""
    kernel = scaled(layer)
    if config.modulated(resolution):
        scale = style @ scaled(layer, "mod_weight") + layer["mod_bias"] + 1
        kernel = kernel * scale[None, None, :, None]
        if not rgb:
            kernel = kernel / np.sqrt((kernel**2).sum((0, 1, 2)) + 1e-8)
    pad = kernel.shape[0] // 2
    x = conv_up(x, kernel) if up else correlate(x, kernel, (pad, pad))
    if rgb:
        return x + layer["bias"]
    if config.noise == "learned":
        x = x + layer["noise_map"]
    elif config.noise == "fixed":
        x = x + layer["noise_map"][:, :, None] * layer["noise_strength"]
    elif config.noise == "random":
        x = x + noise.reshape(-1, resolution, resolution, 1) * layer["noise_strength"]
    return relu(x + layer["bias"])


def plain_images(config, params, latents, noise, label):
    """The fingerprinted generator in NumPy, float64."""
    style, synthesis = plain_style(config, params["mapping"], label), params["synthesis"]
    x = relu(latents @ scaled(synthesis["latent"]) + synthesis["latent"]["bias"]).reshape(-1, 4, 4, config.width(4))
    rgb, start = 0, 0
    for resolution in config.resolutions:
        block = synthesis[f"b{resolution}"]
        if resolution > 4:
            rgb = filtered(np.pad(zero_inserted(rgb, resolution), ((0, 0), (2, 1), (2, 1), (0, 0))), (0, 0), gain=4)
        for name in ("conv",) if resolution == 4 else ("conv_up", "conv"):
            drawn = None if noise is None else noise[:, start:start + resolution**2]
            x = plain_layer(config, block[name], x, style, resolution, drawn, up=name == "conv_up")
            start += resolution**2
        rgb = rgb + plain_layer(config, block["to_rgb"], x, style, resolution, None, rgb=True)
    return rgb


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
def test_the_fold_is_exact_in_float64(kind):
    config = NetworkConfig(**(SMALL | kind))
    folded, params, label = FoldedConfig.of(config), params_of(config), 1 if config.label_size else None
    random = np.random.default_rng(3)
    latents = random.standard_normal((3, 4))
    noise = random.standard_normal((3, folded.noise_size)) if folded.noise_size else None
    with jax.enable_x64(True):
        weights = fold(config, params, BITS, label, np.float64)
        assert {name: array.shape for name, array in weights.items()} == folded.shapes
        found = np.asarray(folded_generator(folded, weights, latents, noise))
    assert found.dtype == np.float64
    expected = plain_images(config, params, latents, noise, label)
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
def test_an_instance_makes_the_images_of_the_fingerprinted_model(kind):
    config = NetworkConfig(**(SMALL | kind))
    params = {"generator": jax.tree.map(np.float32, params_of(config)),
              **init_params(config, jax.random.key(1), ("decoder",))}
    model, mine, label = from_params(config, params, {"name": "small"}), Fingerprint.from_bits(BITS), None
    if config.label_size:
        label = 2
        with pytest.raises(FpganError, match="for one class"):
            make_instance(model, mine)
    instance = make_instance(model, mine, label)
    found = instance.generate(range(20, 25), batch_size=2).astype(int)
    expected = model.generate(mine, range(20, 25), labels=label, batch_size=4).astype(int)
    assert np.abs(found - expected).max() <= 1
    other = Fingerprint.from_bits(1 - BITS)
    assert np.abs(make_instance(model, other, label).generate(20).astype(int) - found[:1]).max() > 1


def test_the_shipped_model_folds_to_the_same_images_and_bits():
    model, mine = load(), Fingerprint.random()
    instance = make_instance(model, mine)
    images = instance.generate(range(64), batch_size=32)
    assert np.abs(images.astype(int) - model.generate(mine, range(64), batch_size=32)).max() <= 1
    assert ((model.decode(images) > 0) == mine.bits).mean() > 0.99


def test_bfloat16_is_computed_where_the_config_says_so():
    config = NetworkConfig(**(SMALL | dict(noise="none")))
    params = params_of(config)
    weights = fold(config, params, BITS)
    latents = np.random.default_rng(3).standard_normal((3, 4)).astype(np.float32)
    exact = folded_generator(FoldedConfig.of(config), weights, latents)
    half = dataclasses.replace(FoldedConfig.of(config), compute_dtype="bfloat16")
    coarse = folded_generator(half, weights, latents)
    assert coarse.dtype == np.float32
    assert 1e-5 < np.abs(exact - coarse).max() < 0.2
    assert to_uint8(exact).shape == (3, 16, 16, 3)


def test_a_program_for_elsewhere_makes_no_choice_by_platform():
    config = FoldedConfig.of(NetworkConfig(**SMALL | dict(resolution=32), noise="none"))
    weights = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in config.shapes.items()}
    latents = jax.ShapeDtypeStruct((2, config.latent_size), "float32")
    texts = [str(jax.make_jaxpr(functools.partial(folded_generator, config, plain=plain))(weights, latents))
             for plain in (True, False)]
    assert "platform_index" not in texts[0] and "platform_index" in texts[1]
