"""Every term of the objective against its formula in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from fpgan.training import losses

RNG = np.random.default_rng(0)


def test_adversarial_losses_are_the_logistic_ones():
    real, fake = RNG.normal(size=(2, 5)).astype(np.float32) * 3
    np.testing.assert_allclose(losses.generator_adversarial(fake), -np.log(expit(fake)), rtol=1e-5)
    expected = -np.log(expit(real)) - np.log(1 - expit(fake))
    np.testing.assert_allclose(losses.discriminator_adversarial(real, fake), expected, rtol=1e-5)


def test_fingerprint_cross_entropy():
    logits = RNG.normal(size=(3, 10)).astype(np.float32) * 4
    bits = RNG.integers(0, 2, (3, 10)).astype(np.float32)
    p = expit(logits)
    expected = -(bits * np.log(p) + (1 - bits) * np.log(1 - p)).mean(axis=1)
    np.testing.assert_allclose(losses.fingerprint_cross_entropy(logits, bits), expected, rtol=1e-4)
    sure = losses.fingerprint_cross_entropy(jnp.array([[1e4, -1e4]]), jnp.array([[1.0, 0.0]]))
    np.testing.assert_allclose(sure, 0)


def test_means_of_squares():
    a, b = RNG.normal(size=(2, 3, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(losses.consistency(a, b), ((a - b) ** 2).mean((1, 2, 3)), rtol=1e-5)
    z, estimate = RNG.normal(size=(2, 3, 7)).astype(np.float32)
    np.testing.assert_allclose(losses.latent_reconstruction(z, estimate), ((z - estimate) ** 2).mean(1), rtol=1e-5)
    outside = np.maximum(np.abs(2 * a) - 1, 0) ** 2
    np.testing.assert_allclose(losses.out_of_range(2 * a), outside.mean((1, 2, 3)), rtol=1e-5)


def test_coarse_consistency_sees_cells_and_not_what_averages_out_in_them():
    fine = np.indices((8, 8)).sum(0) % 2 * 2.0 - 1  # a checkerboard
    image = np.zeros((1, 8, 8, 3), np.float32)
    np.testing.assert_allclose(losses.coarse_consistency(image + fine[None, :, :, None], image), 0, atol=1e-7)
    np.testing.assert_allclose(losses.coarse_consistency(image + 0.5, image), 0.25)


def test_path_length_penalty_updates_the_mean_first():
    gradients = RNG.normal(size=(4, 6, 5)).astype(np.float32)
    lengths = losses.path_lengths(gradients)
    expected = np.sqrt((gradients**2).sum(2).mean(1))
    np.testing.assert_allclose(lengths, expected, rtol=1e-5)
    penalty, mean = losses.path_length_penalty(lengths, jnp.float32(0.5), 0.1)
    new = 0.5 + 0.1 * (expected.mean() - 0.5)
    np.testing.assert_allclose(mean, new, rtol=1e-6)
    np.testing.assert_allclose(penalty, (expected - new) ** 2, rtol=1e-4)


def test_r1_gradient_agrees_with_finite_differences():
    def penalty(w):
        scores = lambda x: jnp.sum(jnp.tanh(x * w) ** 2)  # noqa: E731
        return jnp.sum(losses.r1(jax.grad(scores)(jnp.asarray(image))))

    image = RNG.normal(size=(2, 2, 2, 1)).astype(np.float32)
    w = jnp.float32(0.7)
    numeric = (penalty(w + 1e-2) - penalty(w - 1e-2)) / 2e-2
    assert float(jax.grad(penalty)(w)) == pytest.approx(float(numeric), rel=1e-2)
