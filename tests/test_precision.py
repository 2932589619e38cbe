"""A TPU's default precision: the emulation against NumPy, and which products ask for more."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax

import fpgan
from fpgan.benchmarks.bench import bench, table
from fpgan.benchmarks.precision import always, as_on_tpu, bench_precision
from fpgan.benchmarks.timing import Settings
from fpgan.distributed.devices import AXIS
from fpgan.errors import FpganError
from fpgan.model.programs import decode_fn, generate_fn
from fpgan.networks.config import NetworkConfig
from fpgan.networks.parameters import init_params

TINY = NetworkConfig(resolution=8, channel_base=16, channel_max=8, fingerprint_bits=16, latent_size=8, style_size=8,
                     mapping_layers=1, mapping_lr_multiplier=1.0, noise="none", decoder_linear=True)


def rounded(x):
    """Rounds to bfloat16 and back, in NumPy."""
    return np.asarray(x).astype(ml_dtypes.bfloat16).astype(np.float64)


@pytest.fixture
def matrices():
    rng = np.random.default_rng(0)
    return rng.normal(size=(5, 300)).astype(np.float32), rng.normal(size=(300, 7)).astype(np.float32)


def test_operands_are_rounded_as_numpy_rounds_them(matrices):
    a, b = matrices
    found = np.asarray(jax.jit(as_on_tpu(jnp.matmul))(a, b))
    np.testing.assert_allclose(found, rounded(a) @ rounded(b), atol=1e-4)
    assert np.abs(found - a.astype(np.float64) @ b).max() > 0.01


def test_convolutions_are_rounded_and_sums_are_not():
    x, kernel = np.linspace(0, 1, 9, dtype=np.float32).reshape(1, 3, 3, 1), np.full((1, 1, 1, 1), 1.001, np.float32)

    def convolve(x, kernel):
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) + 1e-6

    np.testing.assert_allclose(as_on_tpu(convolve)(x, kernel), rounded(x) * rounded(kernel) + 1e-6, rtol=1e-6)
    np.testing.assert_array_equal(as_on_tpu(lambda x: x * 1.001 + jnp.sum(x))(x), x * np.float32(1.001) + jnp.sum(x))


def test_what_asks_for_more_is_left_alone_and_gradients_are_looked_into(matrices):
    a, b = matrices
    exact = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    np.testing.assert_array_equal(as_on_tpu(exact)(a, b), exact(a, b))
    np.testing.assert_allclose(as_on_tpu(exact, always)(a, b), rounded(a) @ rounded(b), atol=1e-4)
    wide = np.ones((5, 7), np.float32)
    gradient = as_on_tpu(jax.grad(lambda a: jnp.sum(jax.jit(jnp.matmul)(a, b) * wide)))(a)
    np.testing.assert_allclose(gradient, wide @ rounded(b).T, rtol=1e-5)
    with pytest.raises(NotImplementedError, match="inside scan"):
        as_on_tpu(lambda a: lax.scan(lambda carry, row: (carry, row @ b), 0.0, a))(a)


def asks(function, *args):
    """The scopes of all products of a function, and those of the ones that ask for more than the default precision."""
    products, asking = set(), set()

    def note(scope, asked):
        (asking if asked else products).add(scope)
        return False

    jax.eval_shape(as_on_tpu(function, note), *args)
    return products, asking


def test_the_linear_readout_asks_for_full_precision_and_nothing_else_does():
    params = jax.eval_shape(lambda: init_params(TINY, jax.random.key(0), ("generator", "decoder")))
    images, bits = jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.float32), jax.ShapeDtypeStruct((4, 16), jnp.float32)
    products, asking = asks(decode_fn(TINY), params["decoder"], images)
    assert asking == {"Decoder/linear/dot_general"} and len(products) > 5
    products, asking = asks(generate_fn(TINY), params["generator"], bits, jax.ShapeDtypeStruct((4,), jnp.uint32))
    assert not asking and any("conv" in scope for scope in products)


def test_in_training_it_is_the_readout_and_its_gradients_alone():
    default = pytest.importorskip("fpgan.training.config").default
    from fpgan.training.state import init_state
    from fpgan.training.step import phases

    config = default()
    config.network.update(TINY.to_dict())
    config.batch_size = 4
    state = jax.eval_shape(lambda: init_state(config))
    images = jax.ShapeDtypeStruct((1, 4, 8, 8, 3), jnp.uint8)
    one_device = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), state)
    for phase in phases(config, 4, resident=False):
        products, asking = set(), set()

        def note(scope, asked, products=products, asking=asking):
            (asking if asked else products).add(scope)
            return False

        jax.eval_shape(jax.pmap(as_on_tpu(phase.run, note), axis_name=AXIS, devices=jax.local_devices()[:1]),
                       one_device, images)
        expected = {"jvp(Decoder)/linear/dot_general", "transpose(jvp(Decoder))/linear/dot_general"}
        assert asking == (expected if phase.name == "generator" else set()), phase.name
        assert len(products) > 10


def test_the_model_that_ships_is_read_alike_on_a_tpu():
    model = fpgan.load("robohash32")
    part = bench_precision(model, None, Settings(batches=(16,)))
    images, decode = part["generate"], part["decode"]
    for result in images.values():
        assert 0.02 < result["changed"] < 0.4 and result["most_levels"] <= 5 and result["bits_read_otherwise"] < 0.005
    assert decode["by_default"]["relative"] < 0.5 * decode["always"]["relative"]  # what the readout's precision is for
    assert decode["by_default"]["relative"] < 0.005 and decode["by_default"]["bits_changed"] < 0.002


def test_the_table_says_what_was_compared():
    results = bench(["precision"], TINY, Settings(batches=(2,)))
    assert set(results["precision"]) == {"generate", "decode"}
    shown = table(results)
    assert "grey levels RMS" in shown and "as set" in shown and max(map(len, shown.splitlines())) <= 125
    with pytest.raises(FpganError, match="no program 'r1'"):
        bench(["precision"], TINY, Settings(programs=("r1",)))
    with pytest.raises(FpganError, match="expected float32"):
        bench(["precision"], NetworkConfig(**TINY.to_dict() | {"compute_dtype": "bfloat16"}), Settings(batches=(2,)))
