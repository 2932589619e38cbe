"""Layers against plain NumPy, derivatives against JAX's own and finite differences, and what configs promise."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

from fpgan.errors import FpganError
from fpgan.model.format import param_shapes
from fpgan.model.programs import generate_fn
from fpgan.networks import convolution, layers, resampling
from fpgan.networks.config import NetworkConfig
from fpgan.networks.decoder import Decoder
from fpgan.networks.discriminator import Discriminator
from fpgan.networks.generator import Generator

TINY = NetworkConfig(resolution=8, fingerprint_bits=8, latent_size=4, style_size=6, channel_base=32, channel_max=8,
                     mapping_layers=2)
FIR = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def correlate(x, kernel, pad, stride=1):
    """Correlation of [N, H, W, I] with [k, k, I, O], one output position after the other, in float64."""
    x = np.pad(x.astype(np.float64), ((0, 0), pad, pad, (0, 0)))
    k = kernel.shape[0]
    rows = range(0, x.shape[1] - k + 1, stride)
    columns = range(0, x.shape[2] - k + 1, stride)
    return np.stack([np.stack([np.tensordot(x[:, i:i + k, j:j + k], kernel, 3) for j in columns], 1) for i in rows], 1)


def filtered(x, pad, gain=1.0):
    """FIR-filters every channel alone; the filter equals its mirror image."""
    kernel = FIR[:, :, None, None] * gain * np.eye(x.shape[-1])
    return correlate(x, kernel, pad)


def zero_inserted(x, size):
    n, height, width, channels = x.shape
    result = np.zeros((n, size, size, channels))
    result[:, :2 * height:2, :2 * width:2] = x
    return result


def conv_up(x, kernel):
    """The authors' order: zeros between the pixels, full correlation, and only then the filter."""
    full = correlate(zero_inserted(x, 2 * x.shape[1] - 1), kernel, (2, 2))
    return filtered(full, (1, 1), gain=4)


def test_fir_is_a_convolution_with_the_binomial_kernel():
    x = normal(0, 2, 5, 6, 3)
    np.testing.assert_allclose(resampling.fir(x, (2, 1), gain=4.0), filtered(x, (2, 1), gain=4), rtol=1e-5, atol=1e-6)


def test_upsample_inserts_zeros_and_filters():
    x = normal(1, 2, 4, 4, 3)
    expected = filtered(zero_inserted(x, 8), (2, 1), gain=4)
    np.testing.assert_allclose(resampling.upsample(x), expected, rtol=1e-5, atol=1e-6)


def test_upsample_keeps_a_constant_image_inside():
    result = resampling.upsample(np.ones((1, 6, 6, 1), np.float32))
    np.testing.assert_allclose(result[:, 2:-2, 2:-2], 1, rtol=1e-6)


def test_conv_up_filters_after_the_transposed_convolution():
    x, kernel = normal(2, 2, 4, 4, 3), normal(3, 3, 3, 3, 2)
    np.testing.assert_allclose(resampling.conv_up(x, kernel), conv_up(x, kernel), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size, pad", [(3, (2, 2)), (1, (1, 1))])
def test_conv_down_filters_before_the_strided_convolution(size, pad):
    x, kernel = normal(4, 2, 6, 6, 3), normal(5, size, size, 3, 2)
    expected = correlate(filtered(x, pad), kernel, (0, 0), stride=2)
    result = resampling.conv_down(x, kernel)
    assert result.shape == (2, 3, 3, 2)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_modulated_conv_equals_one_kernel_per_sample(up, demodulate):
    x, kernel, style = normal(6, 3, 4, 4, 5), normal(7, 3, 3, 5, 2), normal(8, 3, 5)
    plain = conv_up if up else functools.partial(correlate, pad=(1, 1))
    expected = []
    for sample, factors in zip(x, style, strict=True):
        own = kernel.astype(np.float64) * factors[:, None]  # [3, 3, I, O]
        if demodulate:
            own = own / np.sqrt(np.sum(own**2, axis=(0, 1, 2)) + 1e-8)
        expected.append(plain(sample[None], own)[0])
    result = layers.modulated_conv(x, kernel, style, demodulate=demodulate, up=up)
    np.testing.assert_allclose(result, np.stack(expected), rtol=1e-4, atol=1e-5)


def plain_conv(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def plain_transposed(small, kernel):
    pad = kernel.shape[0] - 1
    return lax.conv_general_dilated(small, kernel, (1, 1), [(pad, pad)] * 2, lhs_dilation=(2, 2),
                                    dimension_numbers=("NHWC", "HWIO", "NHWC"))


def plain_strided(large, kernel):
    return lax.conv_general_dilated(large, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def to_kernel(plain, size):
    """Returns the gradient of a plain convolution to its kernel, as a function of both other arrays."""
    def gradient(x, outer):
        zeros = jnp.zeros((size, size, x.shape[3], outer.shape[3]))
        return jax.grad(lambda kernel: jnp.vdot(plain(x, kernel), outer))(zeros)
    return gradient


def plain_fir(x, padding, gain=1.0, stride=1):
    kernel = jnp.asarray(FIR[:, :, None, None] * gain, jnp.float32)
    return lax.conv_general_dilated(x, jnp.tile(kernel, x.shape[3]), (stride, stride), [padding] * 2,
                                    dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[3])


def plain_conv_up(x, kernel):
    return plain_fir(plain_transposed(x, kernel), (1, 1), gain=4.0)


def plain_conv_down(x, kernel):
    pad = (kernel.shape[0] + 1) // 2
    return plain_strided(plain_fir(x, (pad, pad)), kernel)


CONVOLUTIONS = {
    "conv3": (convolution.conv, plain_conv, (2, 4, 4, 2), (3, 3, 2, 3)),
    "conv1": (convolution.conv, plain_conv, (2, 4, 4, 2), (1, 1, 2, 3)),
    "conv kernel3": (lambda x, y: convolution.conv_kernel_gradient(x, y, 3), to_kernel(plain_conv, 3), (2, 5, 4, 2),
                     (2, 5, 4, 3)),
    "conv kernel1": (lambda x, y: convolution.conv_kernel_gradient(x, y, 1), to_kernel(plain_conv, 1), (2, 5, 4, 2),
                     (2, 5, 4, 3)),
    "transposed3": (convolution.transposed_conv, plain_transposed, (2, 3, 3, 2), (3, 3, 2, 3)),
    "strided3": (convolution.strided_conv, plain_strided, (2, 7, 7, 2), (3, 3, 2, 3)),
    "strided1": (convolution.strided_conv, plain_strided, (2, 5, 5, 2), (1, 1, 2, 3)),
    "kernel3": (convolution.kernel_gradient, to_kernel(plain_strided, 3), (2, 7, 7, 2), (2, 3, 3, 3)),
    "add_to_batch": (convolution.add_to_batch, lambda x, offset: x + offset, (3, 4, 4, 2), (4, 4, 2)),
    "batch_sum": (lambda x, y: convolution.batch_sum(x * y), lambda x, y: jnp.sum(x * y, axis=0), (3, 4, 4, 2),
                  (3, 4, 4, 2)),
    "conv_up": (resampling.conv_up, plain_conv_up, (2, 3, 4, 2), (3, 3, 2, 3)),
    "conv_down3": (resampling.conv_down, plain_conv_down, (2, 6, 4, 2), (3, 3, 2, 3)),
    "conv_down1": (resampling.conv_down, plain_conv_down, (2, 6, 4, 2), (1, 1, 2, 3)),
}
# As large as it takes for a CPU to have a formulation of its own.
LARGE = {
    "conv3": (convolution.conv, plain_conv, (2, 32, 32, 2), (3, 3, 2, 3)),
    "conv_up": (resampling.conv_up, plain_conv_up, (2, 16, 16, 2), (3, 3, 2, 3)),
    "conv_up of 33": (resampling.conv_up, plain_conv_up, (2, 33, 32, 2), (3, 3, 2, 3)),
    "conv_down3": (resampling.conv_down, plain_conv_down, (2, 64, 64, 2), (3, 3, 2, 3)),
}


def first(f, weights, x, y):
    return jax.grad(lambda x, y: jnp.sum(weights * f(x, y)**2), (0, 1))(x, y)


def second(f, weights, x, y):
    return jax.grad(lambda x, y: sum(jnp.sum(jnp.sin(g)) for g in first(f, weights, x, y)), (0, 1))(x, y)


@pytest.mark.parametrize("name, sizes", [(name, CONVOLUTIONS) for name in CONVOLUTIONS] + [(name, LARGE) for name in LARGE])
def test_convolutions_have_the_derivatives_of_the_plain_ones(name, sizes):
    fast, plain, *shapes = sizes[name]
    x, y = normal(9, *shapes[0]), normal(10, *shapes[1])
    weights = normal(11, *jax.eval_shape(plain, x, y).shape) / np.sqrt(np.prod(shapes[0][1:3]))

    def derivatives(x, y):
        return [(f(x, y), first(f, weights, x, y), second(f, weights, x, y)) for f in (fast, plain)]

    for result, expected in zip(*map(jax.tree.leaves, jax.jit(derivatives)(x, y)), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fast, plain", [
    (lambda x: resampling.fir(x, (2, 0), 4.0), lambda x: plain_fir(x, (2, 0), 4.0)),
    (resampling.downsample, lambda x: plain_fir(x, (1, 1), stride=2)),
    (resampling.upsample, lambda x: plain_fir(lax.pad(x, 0.0, [(0, 0, 0), (2, 2, 1), (2, 2, 1), (0, 0, 0)]), (0, 0), 4.0)),
], ids=["fir", "downsample", "upsample"])
def test_filters_have_the_derivatives_of_the_plain_ones(fast, plain):
    x, y = normal(12, 2, 6, 4, 3), normal(13, 2, 6, 4, 3)
    weights = normal(14, *jax.eval_shape(plain, x).shape)

    def of(f, x, y):
        def scaled(x, y):
            return f(x * y)
        return scaled(x, y), first(scaled, weights, x, y), second(scaled, weights, x, y)

    def derivatives(x, y):
        return [of(f, x, y) for f in (fast, plain)]

    for result, expected in zip(*map(jax.tree.leaves, jax.jit(derivatives)(x, y)), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def test_the_kernel_gradient_of_a_wide_layer_is_that_of_the_plain_convolution():
    x, outer = normal(15, 2, 32, 32, 128), normal(16, 2, 32, 32, 128)
    result = jax.jit(lambda x, outer: convolution.conv_kernel_gradient(x, outer, 3))(x, outer)
    expected = jax.jit(to_kernel(plain_conv, 3))(x, outer)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-2)  # of sums over 2048 positions


def test_a_program_for_a_tpu_has_the_plain_convolutions():
    """CPUs have a formulation of their own, and nobody else."""
    x, kernel = normal(9, 2, 64, 64, 2), normal(10, 3, 3, 2, 3)

    def loss(x, kernel):
        return jnp.sum(resampling.conv_down(convolution.conv(x, kernel[:1, :1, :, :2]), kernel)**2)

    gradient = jax.jit(jax.grad(loss, (0, 1)))
    products = {platform: gradient.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text().count("dot_general")
                for platform in ("cpu", "tpu", "cuda")}
    assert products["cpu"] >= 10 and products["tpu"] == products["cuda"] == 0


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_have_the_derivatives_of_finite_differences(name):
    fast, _, *shapes = CONVOLUTIONS[name]
    inputs = [normal(12 + i, *shape) for i, shape in enumerate(shapes)]
    check_grads(jax.jit(fast), inputs, order=2, modes=["rev"], eps=0.03, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("order", ["contiguous", "strided"])
@pytest.mark.parametrize("samples, group", [(8, 4), (6, 2), (3, 4)])
def test_minibatch_stddev_takes_the_groups_that_it_says(order, samples, group):
    x = normal(14, samples, 2, 2, 3)
    size = min(group, samples)
    groups = np.arange(samples) // size if order == "contiguous" else np.arange(samples) % (samples // size)
    expected = [np.sqrt(x[groups == g].astype(np.float64).var(axis=0) + 1e-8).mean() for g in groups]
    result = np.asarray(layers.minibatch_stddev(x, group, order))
    np.testing.assert_array_equal(result[..., :3], x)
    np.testing.assert_allclose(result[..., 3], np.broadcast_to(np.reshape(expected, (-1, 1, 1)), (samples, 2, 2)), rtol=1e-5)


def test_weights_are_scaled_by_fan_in_and_multiplier():
    x = normal(15, 2, 9)
    dense = layers.Dense(features=4, lr_multiplier=0.01)
    params = {"weight": normal(16, 9, 4), "bias": normal(17, 4)}
    expected = x @ (params["weight"] * 0.01 / 3) + params["bias"] * 0.01
    np.testing.assert_allclose(dense.apply({"params": params}, x), expected, rtol=1e-5, atol=1e-7)
    start = dense.init(jax.random.key(0), jnp.zeros((1, 4000)))["params"]["weight"]
    assert float(start.std()) == pytest.approx(100, rel=0.03)


@functools.cache
def tiny_params():
    """Every parameter random, noise strengths included; the mapping's are larger, as its multiplier wants."""
    prefix, params = "generator/", {}
    for i, (name, shape) in enumerate(sorted(param_shapes(TINY).items())):
        if name.startswith(prefix):
            *parents, leaf = name[len(prefix):].split("/")
            node = functools.reduce(lambda node, parent: node.setdefault(parent, {}), parents, params)
            node[leaf] = normal(i, *shape) * (100 if "mapping" in name else 0.5 if "weight" not in name else 1)
    return params


@jax.jit
def apply_tiny(params, latents, bits, keys):
    return Generator(TINY).apply({"params": params}, latents, bits, keys)


def tiny_images(latents, bits, keys):
    return np.asarray(apply_tiny(tiny_params(), latents, bits, keys))


def test_an_image_depends_on_its_own_inputs_alone():
    latents, bits = normal(18, 3, 4), np.array([[0, 1] * 4, [1] * 8, [0] * 8], np.float32)
    keys = jax.random.split(jax.random.key(2), 3)
    together = tiny_images(latents, bits, keys)
    again = np.array([1, 1, 1])
    np.testing.assert_allclose(tiny_images(latents[again], bits[again], keys[again])[2], together[1], rtol=1e-4, atol=1e-5)
    for changed in ((latents, 1 - bits, keys), (-latents, bits, keys), (latents, bits, keys[::-1])):
        assert np.abs(tiny_images(*changed) - together)[0].max() > 1e-3


def test_random_noise_needs_keys():
    with pytest.raises(ValueError, match="noise_keys"):
        tiny_images(normal(18, 1, 4), np.zeros((1, 8)), None)


def test_a_plus_minus_one_coding_is_the_zero_one_coding_with_other_weights():
    bits = np.random.default_rng(19).integers(0, 2, (4, 8)).astype(np.float32)
    params = tiny_params()["mapping"]
    first = params["dense0"]
    signed = params | {"dense0": {"weight": first["weight"] / 2,
                                  "bias": first["bias"] + first["weight"].sum(axis=0) / 2 / np.sqrt(8)}}
    expected = Generator(TINY).apply({"params": {"mapping": params}}, bits, method="styles")
    config = dataclasses.replace(TINY, bit_coding="plus_minus_one")
    result = Generator(config).apply({"params": {"mapping": signed}}, bits, method="styles")
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-6)


def test_one_program_serves_every_fingerprint():
    traces = []

    def counted(*args):
        traces.append(args)
        return generate_fn(TINY)(*args)

    program = jax.jit(counted)
    rng = np.random.default_rng(20)
    images = [np.asarray(program(tiny_params(), rng.integers(0, 2, (2, 8)).astype(np.float32),
                                 rng.integers(0, 2**32, 2, np.uint32))) for _ in range(20)]
    assert len(traces) == 1
    assert len({image.tobytes() for image in images}) == 20


def test_networks_of_bfloat16_keep_float32_at_both_ends():
    config = dataclasses.replace(TINY, compute_dtype="bfloat16", noise="none")
    images, keys = normal(21, 4, 8, 8, 3), jax.random.split(jax.random.key(3), 1)
    decoder = jax.eval_shape(Decoder(config).init_with_output, keys[0], images)
    score = jax.eval_shape(Discriminator(config).init_with_output, keys[0], images)
    generator = jax.eval_shape(Generator(config).init_with_output, keys[0], np.zeros((4, 4), np.float32), np.zeros((4, 8)))
    assert {array.dtype for array in jax.tree.leaves([decoder, score, generator])} == {np.dtype("float32")}
    assert [a.shape for a in decoder[0]] == [(4, 8), (4, 4)] and score[0].shape == (4,)
    assert generator[0].shape == (4, 8, 8, 3)


def test_modulation_is_limited_to_the_stated_resolutions():
    config = NetworkConfig(resolution=16, fingerprint_bits=8, latent_size=4, style_size=4, channel_base=32,
                           modulated_min=8, modulated_max=8, noise="none")
    params = jax.eval_shape(Generator(config).init, jax.random.key(0), np.zeros((1, 4)), np.zeros((1, 8)))["params"]
    modulated = {block for block, layers in params["synthesis"].items() for layer in layers.values()
                 if isinstance(layer, dict) and "mod_weight" in layer}
    assert modulated == {"b8"}


@pytest.mark.parametrize("noise, expected", [
    ("random", {"noise_strength": ()}), ("fixed", {"noise_strength": (), "noise_map": (8, 8)}),
    ("learned", {"noise_map": (8, 8, 8)}), ("none", {})])
def test_noise_has_the_parameters_of_its_kind(noise, expected):
    shapes = param_shapes(dataclasses.replace(TINY, noise=noise))
    prefix = "generator/synthesis/b8/conv/noise"
    assert {name.split("/")[-1]: shape for name, shape in shapes.items() if name.startswith(prefix)} == expected
    assert not any("noise" in name for name in shapes if "to_rgb" in name)


def test_a_fixed_map_is_not_trained_and_a_learned_one_is():
    x, style = normal(22, 2, 4, 4, 3), normal(23, 2, 5)
    for noise, strength in (("fixed", True), ("learned", False)):
        layer = layers.StyledConv(features=2, noise=noise)
        params = layer.init(jax.random.key(4), x, style)["params"] | ({"noise_strength": 0.5} if strength else {})
        gradient = jax.grad(lambda params, layer=layer: jnp.sum(layer.apply({"params": params}, x, style)**2))(params)
        assert (np.abs(gradient["noise_map"]).max() > 0) == (noise == "learned")


def test_widths_follow_the_paper():
    config = NetworkConfig(resolution=256)
    assert [config.width(r) for r in config.resolutions] == [512, 512, 512, 512, 256, 128, 64]
    assert config.num_layers == 14
    narrow = dataclasses.replace(config, decoder_channel_base=1024, discriminator_channel_max=100)
    assert (narrow.width(64), narrow.width(64, "decoder"), narrow.width(64, "discriminator")) == (256, 32, 100)


@pytest.mark.parametrize("field, value", [
    ("resolution", 48), ("resolution", 4), ("resolution", 32.0), ("fingerprint_bits", 7), ("fingerprint_bits", 513),
    ("mapping_layers", 0), ("bit_coding", "ternary"), ("noise", "pink"), ("minibatch_stddev_order", "random"),
    ("compute_dtype", "float16"),
])
def test_a_wrong_field_is_named_with_its_value(field, value):
    with pytest.raises(FpganError, match=rf"network\.{field} is {value!r}, expected"):
        NetworkConfig(**{field: value})


def test_a_config_survives_its_dict_and_refuses_unknown_fields():
    assert NetworkConfig.from_dict(TINY.to_dict()) == TINY
    with pytest.raises(FpganError, match="'blur'"):
        NetworkConfig.from_dict(TINY.to_dict() | {"blur": 1})


def test_blur_is_a_convolution_with_the_binomial_kernel_and_repeats_the_border():
    x = normal(30, 2, 6, 7, 3)
    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1])[:, :, None, None] / 256 * np.eye(3)
    expected = correlate(np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge"), kernel, (0, 0))
    np.testing.assert_allclose(resampling.blur(x), expected, rtol=1e-5, atol=1e-6)


def test_the_linear_reading_starts_at_nothing_and_adds_to_the_logits_alone():
    images = normal(31, 3, 8, 8, 3)
    plain, linear = Decoder(TINY), Decoder(dataclasses.replace(TINY, decoder_linear=True))
    params = linear.init(jax.random.key(5), images)["params"]
    patterns = params.pop("linear")["patterns"]
    assert patterns.shape == (8 * 8 * 3, 8) and not patterns.any()
    logits, latents = plain.apply({"params": params}, images)
    patterns = normal(32, *patterns.shape)
    read, same = linear.apply({"params": params | {"linear": {"patterns": patterns}}}, images)
    details = 8 * (images - np.asarray(resampling.blur(images))).reshape(3, -1)
    np.testing.assert_allclose(read - logits, details @ patterns / np.sqrt(8 * 8 * 3), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(same, latents)
