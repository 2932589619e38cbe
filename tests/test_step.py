"""The phases of a training step: independent of the device count, keyed randomness, curriculum."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from fpgan.data.pipeline import stream
from fpgan.data.sources import open_source
from fpgan.distributed.devices import AXIS
from fpgan.training import step
from fpgan.training.state import advance_curriculum, image_ramp, init_state, learning_rate

PHASES = ("generator", "path_length", "discriminator", "r1")


def mapped(phase, devices):
    """The phase on some devices, with everything replicated in and the first device's results out."""
    run = jax.pmap(phase.run, axis_name=AXIS, devices=jax.devices()[:devices])

    def call(state, images):
        copies = jax.tree.map(lambda x: jnp.broadcast_to(x, (devices, *x.shape)), (state, images))
        return jax.tree.map(lambda x: np.asarray(x[0]), run(*copies))
    return call


@functools.cache
def results(devices):
    """Name -> (state, scalars) after each phase from one state whose Adam is in mid-run, on some devices."""
    config = tiny.config()
    state = init_state(config)
    running = {name: moments._replace(count=jnp.int32(1000), nu=jax.tree.map(jnp.ones_like, moments.nu))
               for name, moments in state.optimizer.items()}
    state = state.replace(optimizer=running, step=jnp.int32(5))
    images = open_source(config.data, 8).load_all()
    listed = step.phases(config, config.batch_size // devices, resident=True)
    return {phase.name: mapped(phase, devices)(state, images) for phase in listed}


@pytest.mark.parametrize("name", PHASES)
def test_one_device_and_eight_give_the_same_gradients_and_parameters(name):
    (one, scalars_one), (eight, scalars_eight) = results(1)[name], results(8)[name]
    # beta1 = 0, so Adam's first moment is the gradient itself
    trained = [n for n in one.optimizer if one.optimizer[n].count > 1000]
    trains = {phase.name: phase.trains for phase in step.phases(tiny.config(), 32, True)}
    assert sorted(trained) == sorted(trains[name])
    for network in trained:
        gradients = [jax.tree.leaves(s.optimizer[network].mu) for s in (one, eight)]
        scale = max(np.abs(g).max() for g in gradients[0])
        assert scale > 0
        for a, b in zip(*gradients, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6 * scale)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(eight.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for a, b in zip(jax.tree.leaves(one.ema), jax.tree.leaves(eight.ema), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert scalars_one.keys() == scalars_eight.keys()
    for key in scalars_one:
        np.testing.assert_allclose(scalars_one[key], scalars_eight[key], rtol=1e-3, atol=1e-5, err_msg=key)
    np.testing.assert_allclose(one.path_length_mean, eight.path_length_mean, rtol=1e-4)


def on_one_device(function):
    """The result of a per-device function."""
    return jax.tree.map(lambda x: x[0], jax.pmap(function, axis_name=AXIS, devices=jax.devices()[:1])(jnp.zeros(1)))


def test_each_sample_has_its_own_draws_and_they_change_with_step_and_phase():
    config = tiny.config()
    setup = step.Setup(config, 4, True)
    draw = lambda state, stream: jax.pmap(  # noqa: E731
        lambda _: step.draw_inputs(setup, state, stream, 4), axis_name=AXIS)(jnp.arange(8))
    state = init_state(config)
    first = draw(state, 0)
    assert len(np.unique(np.asarray(first["latents"]).reshape(32, -1), axis=0)) == 32
    assert not np.array_equal(first["fingerprints"], first["other_fingerprints"])
    for other in (draw(state.replace(step=state.step + 1), 0), draw(state, 2)):
        assert not np.array_equal(first["latents"], other["latents"])


def test_few_fingerprints_are_always_the_same_ones():
    def seen(distinct, step_number, seed=3):
        key = jax.random.key(step_number)
        draw = jax.vmap(lambda key: step.draw_fingerprint(key, 32, distinct, seed))
        return {tuple(map(int, row)) for row in np.asarray(jax.jit(draw)(jax.random.split(key, 300)))}

    assert len(seen(5, 0)) == 5 and seen(5, 0) == seen(5, 1) and seen(5, 0).isdisjoint(seen(5, 0, seed=4))
    assert seen(5, 0) < seen(40, 0) and len(seen(0, 0)) == 300
    setup = step.Setup(tiny.config(objective=dict(distinct_fingerprints=2)), 4, True)
    drawn = jax.pmap(lambda _: step.draw_inputs(setup, init_state(setup.config), 0, 4), axis_name=AXIS)(jnp.arange(8))
    assert len(np.unique(np.concatenate([drawn["fingerprints"], drawn["other_fingerprints"]]).reshape(64, -1), axis=0)) == 2


def test_data_on_the_device_and_streamed_data_are_the_same_images():
    config = tiny.config()
    source = open_source(config.data, 8)
    setup = step.Setup(config, 4, True)
    images = jnp.asarray(source.load_all())
    streamed = stream(source, config.batch_size, config.seed, start_step=3)
    for number in (3, 4):
        draw = lambda _, n=number: step.draw_reals(setup, jnp.int32(n), images, None)[0]  # noqa: E731
        picked = jax.pmap(draw, axis_name=AXIS)(jnp.arange(8))
        expected = next(streamed).astype(np.float32) * (2 / 255) - 1
        np.testing.assert_allclose(np.asarray(picked).reshape(expected.shape), expected, atol=1e-6)


def test_the_curriculum_waits_rises_and_falls_with_the_accuracy():
    config = tiny.config(curriculum=dict(bits_first=True, start_accuracy=0.9, hold_accuracy=0.8, latent_images=64,
                                         ramp_images=128, accuracy_images=1))
    state = init_state(config)
    advance = functools.partial(advance_curriculum, config)
    seen = []
    for accuracy in (0.7, 0.85, 0.95, 0.85, 0.85, 0.85, 0.7, 0.85):
        state = advance(state, jnp.float32(accuracy))
        seen.append(round(float(state.progress), 3))
    # 32 images a step: waits below 0.9, then half a stage a step, then a quarter a step; back below 0.8
    assert seen == [0, 0, 0.5, 1.0, 1.25, 1.5, 1.25, 1.5]
    weights = step.term_weights(config, image_ramp(state))
    assert float(weights["adversarial"]) == 0.5 and weights["fingerprint"] == 2.0


def test_while_image_terms_are_held_back_only_the_bits_phase_runs():
    config = tiny.config(curriculum=dict(bits_first=True))
    state = init_state(config)
    assert not state.image_terms and init_state(tiny.config()).image_terms
    listed = step.phases(config, config.batch_size // 8, True)
    assert [p.name for p in listed if p.image_terms is not True] == ["bits"]
    assert [p.name for p in listed if p.image_terms is not False] == list(PHASES)
    bits = next(p for p in listed if p.name == "bits")
    after, scalars = mapped(bits, 8)(state, open_source(config.data, 8).load_all())
    assert "adversarial" not in scalars and scalars["fingerprint"] > 0.5
    before = jax.tree.map(np.asarray, state.params["discriminator"])
    jax.tree.map(np.testing.assert_array_equal, after.params["discriminator"], before)


def test_image_terms_are_let_in_and_out_every_sixteenth_step():
    config = tiny.config(curriculum=dict(bits_first=True, hold_accuracy=0.0))
    state = init_state(config).replace(progress=jnp.float32(1.5), step=jnp.int32(13))
    seen = []
    for _ in range(4):
        state = advance_curriculum(config, state, jnp.float32(0.9))
        seen.append(bool(state.image_terms))
    assert seen == [False, False, True, True]


def test_learning_rates_decay_and_are_corrected_for_lazy_regularisation():
    config = tiny.config(optimizer=dict(decay_images=32 * 12))
    state = init_state(config)
    assert float(learning_rate(config, "generator", state)) == pytest.approx(0.002 * 4 / 5)
    assert float(learning_rate(config, "discriminator", state)) == pytest.approx(0.002 * 16 / 17)
    late = state.replace(step=jnp.int32(18))
    assert float(learning_rate(config, "decoder", late)) == pytest.approx(0.002 * 4 / 5 / 2)


def test_quantize_rounds_as_png_does_and_lets_the_gradient_through():
    x = jnp.array([-1.5, -1.0, 0.0, 0.3, 1.0, 2.0])
    grey = np.clip(np.floor(np.asarray(x) * 127.5 + 128), 0, 255)
    np.testing.assert_allclose(step.quantize(x), grey / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(3 * step.quantize(x)))(x), np.full(6, 3.0))


def test_the_discriminator_sees_images_through_noise():
    images = jnp.zeros((2, 8, 8, 3))
    config = tiny.config(objective=dict(instance_noise=0.25))
    setup = step.Setup(config, 4, True)
    drawn = on_one_device(lambda _: step.draw_inputs(setup, init_state(config), 2, 4))
    noise = np.asarray(step.add_instance_noise(setup, images[:1], drawn["pixels"]))
    assert noise.std() == pytest.approx(0.25, rel=0.2)
    assert abs(np.corrcoef(np.ravel(drawn["pixels"]), np.ravel(drawn["real_pixels"]))[0, 1]) < 0.15
    quiet = step.Setup(tiny.config(), 4, True)
    assert step.add_instance_noise(quiet, images, None) is images


def test_terms_of_two_fingerprints_are_left_out_where_they_weigh_nothing():
    config = tiny.config(objective=dict(consistency=0.0, coarse_consistency=0.0, fingerprint=0.0))
    state = init_state(config)
    setup = step.Setup(config, 4, True)
    inputs = on_one_device(lambda _: step.draw_inputs(setup, state, 0, 4))
    discriminator = state.params["discriminator"]
    terms = jax.eval_shape(lambda: step.generator_terms(setup, state.params, discriminator, inputs, True, jnp.ones(())))
    assert "adversarial" in terms and "consistency" not in terms and "coarse_consistency" not in terms
