"""Where geometry puts the picture: exact cases, and every matrix against an independent resampling by its inverse."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from test_perturbations import busy, smooth

from fpgan.perturbations import PERTURBATIONS, apply, corners, homography, parse, warp
from fpgan.perturbations.registry import placement

MOVING = [operation.example for operation in PERTURBATIONS.values() if operation.place and operation.name != "combine"]
SPECS = MOVING + ["crop:0.6", "rotate:-40", "rotate:90", "turn:2", "turn:3", "shift:-8,5", "perspective:0.8", "page:0.3",
                  "rotate:10+crop:0.6+flip", "turn:1+shift:5,2+crop_as_is:0.9", "page:0.7+jpeg:95+rotate:5",
                  "perspective:0.3+noise:2+random_crop:0.7", "phone:1.5+crop_as_is:0.9"]


def resampled(image, matrix, size):
    """Takes each pixel of the new image from where the inverse says: bilinear, NumPy and SciPy alone. NaN outside."""
    height, width = size
    y, x = np.mgrid[:height, :width] + 0.5
    after = np.stack([2 * x / width - 1, 2 * y / height - 1, np.ones(size)], axis=-1)  # [H', W', 3]
    before = after @ np.linalg.inv(matrix).T
    u, v = np.moveaxis(before[..., :2] / before[..., 2:], -1, 0)
    rows, columns = (v + 1) / 2 * image.shape[0] - 0.5, (u + 1) / 2 * image.shape[1] - 0.5
    taken = np.stack([map_coordinates(image[..., c].astype(float), (rows, columns), order=1, mode="nearest")
                      for c in range(3)], axis=-1)
    taken[(abs(u) > 0.93) | (abs(v) > 0.93)] = np.nan  # the border, where each resampling does as it likes
    return taken


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_the_matrix_says_where_every_pixel_went(spec, size):
    images = smooth(2, *size, seed=5)
    for index, one in enumerate(apply(spec, images, seed=9)):
        placed = placement(parse(spec), size, np.random.SeedSequence([9, index]))
        assert one.shape[:2] == tuple(placed.size)
        np.testing.assert_array_equal(placed.matrix, homography(spec, size, seed=9, index=index))
        expected = resampled(images[index], placed.matrix, placed.size)
        inside = np.isfinite(expected)
        assert inside.mean() > 0.04
        difference = abs(one[inside] - expected[inside])
        assert difference.mean() < 3 and np.quantile(difference, 0.99) < 14
        turned = resampled(images[index][::-1, ::-1], placed.matrix, placed.size)
        assert abs(one[inside] - turned[inside]).mean() > 20  # of another picture: the bounds above are tight


@pytest.mark.parametrize("spec, expected", [
    ("flip", [(1, -1), (-1, -1), (-1, 1), (1, 1)]),
    ("flip_vertical", [(-1, 1), (1, 1), (1, -1), (-1, -1)]),
    ("turn:1", [(-1, 1), (-1, -1), (1, -1), (1, 1)]),  # the upper left corner goes to the lower left
    ("turn:2", [(1, 1), (-1, 1), (-1, -1), (1, -1)]),
    ("rotate:90", [(-1, 1), (-1, -1), (1, -1), (1, 1)]),
    ("crop:0.5", [(-2, -2), (2, -2), (2, 2), (-2, 2)]),
    ("crop_as_is:0.5", [(-2, -2), (2, -2), (2, 2), (-2, 2)]),
    ("shift:16,-8", [(-0.5, -1.25), (1.5, -1.25), (1.5, 0.75), (-0.5, 0.75)]),
    ("border:0.5", [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]),
    ("scale:0.5", [(-1, -1), (1, -1), (1, 1), (-1, 1)]),
    ("jpeg:50+noise:3", [(-1, -1), (1, -1), (1, 1), (-1, 1)]),
])
def test_corners_go_where_they_should(spec, expected):
    np.testing.assert_allclose(corners(homography(spec, (64, 64))), expected, atol=1e-12)


def test_rotation_keeps_angles_in_pixels_and_its_inverse_undoes_it():
    matrix = homography("rotate:30", (40, 80))
    moved = corners(matrix) * [40, 20]  # in pixels from the centre
    sides = np.linalg.norm(np.roll(moved, -1, axis=0) - moved, axis=1)
    np.testing.assert_allclose(sides, [80, 40, 80, 40])
    there_and_back = homography("rotate:30+rotate:-30", (40, 80))
    np.testing.assert_allclose(there_and_back, np.eye(3), atol=1e-12)
    assert moved[1][1] < moved[0][1]  # counter-clockwise: the upper right corner rises above the upper left one


def test_exact_operations_are_exact():
    images = busy()
    np.testing.assert_array_equal(apply("flip", images), images[:, :, ::-1])
    for spec in ("flip+flip", "flip_vertical+flip_vertical", "turn:1+turn:3", "turn:2+turn:2", "turn:2+flip+flip_vertical",
                 "rotate:90+turn:3", "rotate:0", "crop:1", "shift:0,0", "scale:1", "window:1", "random_crop_as_is:1"):
        np.testing.assert_array_equal(apply(spec, images), images)
    shifted = apply("shift:3,-2", images)
    np.testing.assert_array_equal(shifted[:, :-2, 3:], images[:, 2:, :-3])
    assert (shifted[:, :, :3] == shifted[:, :, 3:4]).all() and (shifted[:, -2:] == shifted[:, -3:-2]).all()
    np.testing.assert_array_equal(apply("crop_as_is:0.75", images), images[:, 6:42, 6:42])
    for one, image in zip(apply("random_crop_as_is:0.5", images), images, strict=True):
        places = [(top, left) for top in range(25) for left in range(25)
                  if (image[top:top + 24, left:left + 24] == one).all()]
        assert len(places) == 1


def test_a_window_is_a_crop_put_back_in_place():
    for one, image in zip(apply("window:0.5", busy(4)), busy(4), strict=True):
        windows = [np.pad(image[top:top + 24, left:left + 24], ((top, 24 - top), (left, 24 - left), (0, 0)), mode="edge")
                   for top in range(25) for left in range(25)]
        assert sum(np.array_equal(one, window) for window in windows) == 1
    np.testing.assert_array_equal(homography("window:0.5", (48, 48)), np.eye(3))


@pytest.mark.parametrize("spec", ["page:0.5", "border:0.2"])
def test_pages_and_borders_hold_the_picture_pixel_by_pixel(spec):
    images = busy(6)
    for index, (one, image) in enumerate(zip(apply(spec, images), images, strict=True)):
        upper_left = corners(homography(spec, (48, 48), index=index))[0]
        left, top = np.rint((upper_left + 1) / 2 * one.shape[1::-1]).astype(int)
        np.testing.assert_array_equal(one[top:top + 48, left:left + 48], image)


def test_a_page_has_text_and_a_phone_is_upright():
    for one in apply("page:0.4", busy(6)):
        assert one.shape == (120, 120, 3) and len(np.unique(one[:6])) >= 1
    outside = np.concatenate([one[:10].ravel() for one in apply("page:0.3", busy(6))])
    assert len(np.unique(outside)) > 20  # letters with soft edges
    for one in apply("phone:2", busy(3)):
        assert one.shape == (208, 96, 3)


def test_perspective_stays_convex_and_moves_corners_inwards():
    drawn = np.array([corners(homography("perspective:0.8", (64, 64), index=index)) for index in range(300)])
    inwards = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)]) * (drawn - corners(np.eye(3)))
    assert (inwards >= -1e-9).all() and inwards.max() <= 0.8 + 1e-9 and inwards.max() > 0.7
    sides = np.roll(drawn, -1, axis=1) - drawn
    after = np.roll(sides, -1, axis=1)
    assert (sides[..., 0] * after[..., 1] - sides[..., 1] * after[..., 0] > 0).all()


def test_warping_back_by_the_inverse_recovers_the_picture():
    image = smooth(1, 64, 64)[0]
    for spec in ("rotate:20", "perspective:0.4", "crop:0.9"):
        moved = apply(spec, image[None])[0]
        back = warp(moved, np.linalg.inv(homography(spec, (64, 64))))
        centre = slice(20, 44)
        assert abs(back[centre, centre].astype(int) - image[centre, centre]).mean() < 2
        assert abs(moved[centre, centre].astype(int) - image[centre, centre]).mean() > 4


@pytest.mark.parametrize("spec", ["rotate:15", "shift:3,-2", "crop:0.8", "perspective:0.3", "rotate:10+crop:0.7"])
def test_the_differentiable_warp_undoes_and_does_the_same(spec):
    import jax.numpy as jnp

    from fpgan.perturbations import differentiable as twins

    image, whole = smooth(1, 64, 64)[0], jnp.array([-1.0, -1, 1, 1])
    matrix = homography(spec, (64, 64))
    done = twins.warp(twins.to_float(jnp.asarray(image, jnp.float32)), jnp.asarray(np.linalg.inv(matrix), jnp.float32),
                      whole, jnp.zeros(3), False)
    expected = resampled(image, matrix, (64, 64))
    inside = np.isfinite(expected)
    assert abs(np.asarray(twins.to_levels(done))[inside] - apply(spec, image[None])[0][inside]).mean() < 3
    assert abs(np.asarray(twins.to_levels(done))[inside] - expected[inside]).max() < 0.1


def test_training_and_reports_mean_the_same_by_shift_scale_and_turn():
    import jax.numpy as jnp

    from fpgan.perturbations import differentiable as twins

    def undone(x=0.0, y=0.0, scale=1.0, degrees=0.0):
        return np.asarray(twins.similarity(*map(jnp.float32, (x / 32, y / 32, scale, degrees))))

    for spec, inverse in (("shift:3,-2", undone(x=3, y=-2)), ("rotate:20", undone(degrees=20)),
                          ("crop:0.5", undone(scale=2)),
                          ("rotate:20+shift:3,-2", undone(3, -2, 1, 20))):
        np.testing.assert_allclose(inverse, np.linalg.inv(homography(spec, (64, 64))), atol=1e-6, err_msg=spec)
