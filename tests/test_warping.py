"""Looking up between pixels: against a plain twin, and the same for reading and for training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fpgan.networks.alignment import look_up
from fpgan.networks.warping import bicubic, bilinear, places_of, sample
from fpgan.perturbations import differentiable as twins

SIDE = 7


def kernel(taps, distance):
    """What a neighbour at some distance weighs: the triangle, or Keys' cubic with a = -1/2."""
    x = abs(distance)
    if taps is bilinear:
        return max(0.0, 1 - x)
    return 1.5 * x**3 - 2.5 * x**2 + 1 if x < 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def plain(image, column, row, taps):
    """One place, over all pixels of an image whose border is repeated far enough."""
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="edge").astype(np.float64)
    return sum(kernel(taps, row - (i - 4)) * kernel(taps, column - (j - 4)) * padded[i, j]
               for i in range(len(padded)) for j in range(len(padded)))


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).uniform(-1, 1, (SIDE, SIDE, 3)).astype(np.float32)


@pytest.mark.parametrize("taps", [bilinear, bicubic])
def test_it_is_a_sum_over_neighbours_also_beyond_the_border(image, taps):
    rng = np.random.default_rng(1)
    edges = np.array([(-1, -1), (SIDE, SIDE), (-0.5, SIDE - 0.5), (0, 0), (SIDE - 1, SIDE - 1), (3, 2.25)])
    places = np.concatenate([edges, rng.uniform(-1, SIDE, (40, 2))]).astype(np.float32)
    found = np.asarray(sample(image, places[:, 0], places[:, 1], taps))
    np.testing.assert_allclose(found, [plain(image, *place, taps) for place in places], atol=2e-6)


def turned(degrees, size):
    cosine, sine = size * np.cos(np.radians(degrees)), size * np.sin(np.radians(degrees))
    return np.array([[cosine, sine, 0.1], [-sine, cosine, -0.2], [0.1, 0, 1]], np.float32)


def test_reading_looks_up_bicubically_and_training_bilinearly_at_the_same_places(image):
    homography = turned(20, 0.6)  # all within the image
    x, y = (np.asarray(v) for v in places_of(jnp.asarray(homography), SIDE))
    for (i, j), there in (((0, 0), (-6 / 7, -6 / 7)), ((2, 6), (6 / 7, -2 / 7))):
        expected = homography @ [*there, 1]
        np.testing.assert_allclose([x[i, j], y[i, j]], expected[:2] / expected[2], atol=1e-6)
    assert max(np.abs(x).max(), np.abs(y).max()) < 1
    columns, rows = (v * SIDE / 2 + SIDE / 2 - 0.5 for v in (x, y))
    read = look_up(jnp.asarray(image)[None], jnp.asarray(homography)[None], SIDE)[0]
    trained = twins.warp(jnp.asarray(image), jnp.asarray(homography), jnp.array([-1.0, -1, 1, 1]), jnp.zeros(3),
                         jnp.array(False))
    for found, taps in ((read, bicubic), (trained, bilinear)):
        flat = [plain(image, *place, taps) for place in zip(columns.ravel(), rows.ravel(), strict=True)]
        np.testing.assert_allclose(np.asarray(found).reshape(-1, 3), flat, atol=5e-6)


def test_gradients_reach_the_image_with_the_weights_of_its_pixels(image):
    for taps in (bilinear, bicubic):
        gradient = jax.grad(lambda pixels, taps=taps: sample(pixels, jnp.array([2.25]), jnp.array([3.5]), taps)[0, 0])(image)
        expected = [[kernel(taps, 3.5 - i) * kernel(taps, 2.25 - j) for j in range(SIDE)] for i in range(SIDE)]
        np.testing.assert_allclose(gradient[..., 0], expected, atol=1e-6)
        assert not gradient[..., 1:].any()
