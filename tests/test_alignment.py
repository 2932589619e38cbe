"""Where the picture lies: geometry against the real operations, views, the aligner, words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_model import LinearModel

from fpgan.errors import FpganError
from fpgan.model import aligner as aligners
from fpgan.model import poses
from fpgan.networks.alignment import (
    CORNERS,
    TURNS,
    Aligner,
    corners_of,
    homography_of,
    is_sound,
    look_up,
    project,
    quadrangle_of,
)
from fpgan.perturbations import apply, geometry, homography
from fpgan.perturbations.views import draw_quadrangle, draw_views


def paintings(count, size, seed=0):
    """Smooth pictures, none of which looks the same when it is turned: uint8 [count, size, size, 3]."""
    rng = np.random.default_rng(seed)
    along = np.linspace(-1, 1, size)
    x, y = np.meshgrid(along, along)
    pictures = []
    for _ in range(count):
        hue = rng.uniform(0.7, 1.3, 3)
        layers = [80 + 60 * np.exp(-((x + 0.45) ** 2 + (y + 0.3) ** 2) / 0.08), 90 + 50 * x + 40 * y,
                  100 + 70 * np.exp(-((x - 0.4) ** 2 + (y - 0.5) ** 2) / 0.15) - 30 * y]
        pictures.append(np.stack([layer * gain for layer, gain in zip(layers, hue, strict=True)], axis=-1))
    return np.clip(np.rint(pictures), 0, 255).astype(np.uint8)


def test_a_homography_takes_the_corners_where_it_should_for_both_kinds_of_arrays():
    places = np.array(draw_quadrangle(jax.random.key(3)), np.float64)
    for corners in (places, jnp.asarray(places)):
        np.testing.assert_allclose(project(homography_of(corners), corners.__array_namespace__().asarray(CORNERS)), places,
                                   atol=1e-5)
    ours, theirs = homography_of(places), geometry.homography_of(CORNERS, places)
    np.testing.assert_allclose(ours, theirs, atol=1e-9)  # solved in closed form, and as linear equations


def test_quadrangle_and_turn_are_another_spelling_of_the_corners():
    corners = np.array(draw_quadrangle(jax.random.key(1)))
    for turn, matrix in enumerate(TURNS):
        own = project(homography_of(corners) @ matrix, CORNERS)
        np.testing.assert_allclose(quadrangle_of(own, np.array(turn)), corners, atol=1e-5)
        np.testing.assert_allclose(corners_of(corners, np.array(turn)), own, atol=1e-5)


def test_only_what_a_camera_may_see_is_sound():
    bow, dent = CORNERS[[0, 2, 1, 3]], np.array([(-1, -1), (1, -1), (-0.9, -0.8), (-1, 1)])
    assert list(is_sound(np.stack([CORNERS, CORNERS[::-1], bow, dent, CORNERS * 0.01]))) == [True] + 4 * [False]


@pytest.mark.parametrize("spec, least", [
    ("flip", 1e-4), ("turn:1", 1e-4), ("turn:3", 1e-4), ("flip_vertical", 1e-4), ("shift:3,-2", 1e-4), ("crop:0.8", 3.0),
    ("rotate:7", 3.0), ("perspective:0.25", 3.0), ("random_crop:0.75+flip", 3.0),
])
def test_looking_up_undoes_the_real_operations(spec, least):
    pictures = paintings(4, 32)
    moved = apply(spec, pictures, 5)
    places = np.stack([homography(spec, (32, 32), 5, i) for i in range(4)])
    found = np.asarray(look_up(moved.astype(np.float32), places.astype(np.float32), 32))
    error = np.abs(found - pictures.astype(np.float32)).max(axis=-1)  # [4, 32, 32]
    inner = np.abs(centres(32)).max(axis=-1) < 0.86  # away from the borders, which bicubic filters see
    seen = np.stack([inner & (np.abs(project(place, centres(32))).max(axis=-1) < 0.86) for place in places])
    seen = seen.reshape(error.shape)
    assert seen.mean() > 0.3 and np.quantile(error[seen], 0.99) <= least
    assert np.quantile(np.abs(moved.astype(float) - pictures).max(axis=-1)[seen], 0.99) > 4 * max(least, 1)


def centres(size):
    """The pixels' centres [size^2, 2]."""
    along = (np.arange(size) + 0.5) * (2 / size) - 1
    return np.stack(np.meshgrid(along, along), axis=-1).reshape(-1, 2)


@pytest.mark.slow
def test_views_are_where_they_say(monkeypatch):
    monkeypatch.setattr("fpgan.perturbations.views.LEVELS", ())
    pictures = jnp.asarray(paintings(64, 32)) / 127.5 - 1
    views, quadrangles, turns = jax.jit(draw_views)(pictures, jax.random.split(jax.random.key(0), 64))
    places = homography_of(corners_of(quadrangles, turns))
    found = look_up(views, places, 32)
    seen = jnp.stack([jnp.abs(project(place, jnp.asarray(centres(32)))).max(axis=-1) < 0.9 for place in places])
    error = jnp.abs(found - pictures).max(axis=-1).reshape(64, -1)
    errors = [float(jnp.median(one[mask])) for one, mask in zip(error, seen, strict=True) if mask.sum() > 50]
    assert len(errors) > 40 and np.quantile(errors, 0.9) < 0.06 and len(set(np.asarray(turns).tolist())) > 3


@pytest.mark.slow
def test_an_aligner_learns_where_the_picture_lies():
    network, pictures = Aligner(16, 256, 32, 64), paintings(160, 16)
    start, key = aligners.train(network, pictures, 1, 0)
    done = []
    params, again = aligners.train(network, pictures, 260, 0, lambda now, total: done.append((now, total)))
    (before, _), (after, right) = (aligners.measure(network, p, pictures, key) for p in (start, params))
    assert np.median(after) < 0.5 * np.median(before)
    assert right.mean() > 0.5  # of eight turns
    assert done[-1] == (260 * aligners.BATCH, 260 * aligners.BATCH)
    assert jnp.array_equal(jax.random.key_data(key), jax.random.key_data(again))


def test_too_few_images_for_an_aligner_are_refused():
    with pytest.raises(FpganError, match="63 images to train an aligner on; expected 64"):
        aligners.fit_aligner(LinearModel(), 63)


@pytest.mark.parametrize("spec, words", [
    ("png", ""), ("flip", "flipped"), ("turn:1", "turned 90 degrees"), ("turn:3", "turned 90 degrees clockwise"),
    ("turn:2", "turned 180 degrees"), ("crop:0.92+flip", "flipped, cropped to 92%"), ("rotate:3", "turned 3 degrees"),
    ("rotate:-20", "turned 20 degrees clockwise"), ("shift:-7,5", "shifted by (-7, 5) pixels"),
    ("flip+crop:0.8+rotate:3", "flipped, cropped to 80%, turned 3 degrees"), ("aspect:1.25", ""),
])
def test_poses_are_told_in_words(spec, words):
    assert poses.describe(homography(spec, (64, 64)), 64) == words


def test_pages_and_perspective_are_told_in_words():
    assert poses.describe(homography("page:0.6", (64, 64), 0), 64).startswith("shown at 60%, off centre by (")
    assert poses.describe(homography("perspective:0.4", (64, 64), 1), 64).endswith("seen at an angle")
    assert poses.describe(poses.placed(1.1, 1.0, 0, 0), 64) == "cropped to 95%, stretched by 1.10"


@pytest.mark.parametrize("resolution", [8, 32, 64])
def test_the_grids_hold_what_they_promise_once(resolution):
    tried = np.concatenate(poses.grids(resolution))
    assert len(tried) == len(np.unique(np.round(tried, 5).reshape(len(tried), -1), axis=0))
    for spec in ("flip", "turn:3", "shift:2,-1", "shift:-6,5", "crop:0.75", "rotate:-6", "flip+crop:0.75"):
        wanted = homography(spec, (resolution, resolution))
        assert np.abs(tried - wanted).max(axis=(1, 2)).min() < 1e-5, spec
    assert not poses.distances(np.eye(3)[None]).any() and poses.distances(tried).min() > 0
