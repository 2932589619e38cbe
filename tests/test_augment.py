"""Mirroring and DiffAugment: each operation against plain NumPy, draws per image, nothing where they are off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from fpgan.data.sources import open_source
from fpgan.distributed.devices import AXIS
from fpgan.errors import FpganError
from fpgan.training import augment, step
from fpgan.training.config import load
from fpgan.training.state import init_state

R = 16
IMAGES = np.random.default_rng(0).uniform(-1, 1, (40, R, R, 3)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(3), len(IMAGES))


def test_color_is_brightness_then_saturation_then_contrast():
    for image, key, result in zip(IMAGES[:5], KEYS, augment.augment(("color",), IMAGES[:5], KEYS[:5]), strict=False):
        brightness, saturation, contrast = np.asarray(jax.random.uniform(jax.random.fold_in(key, 0), (3,)))
        x = image + brightness - 0.5
        grey = x.mean(axis=2, keepdims=True)
        x = (x - grey) * (2 * saturation) + grey
        np.testing.assert_allclose(result, (x - x.mean()) * (contrast + 0.5) + x.mean(), atol=1e-5)


def test_translation_moves_by_up_to_an_eighth_and_uncovers_grey():
    results = np.asarray(augment.augment(("translation",), IMAGES, KEYS))
    moves = set()
    for image, result in zip(IMAGES, results, strict=True):
        fits = []
        for y in range(-2, 3):
            for x in range(-2, 3):
                moved = np.zeros_like(image)
                moved[max(0, y):R + min(0, y), max(0, x):R + min(0, x)] = image[max(0, -y):R - max(0, y),
                                                                                max(0, -x):R - max(0, x)]
                fits += [(y, x)] * np.array_equal(moved, result)
        assert len(fits) == 1
        moves |= set(fits)
    assert len(moves) > 12 and {abs(v) for move in moves for v in move} == {0, 1, 2}


def test_cutout_covers_one_square_of_half_the_side():
    results = np.asarray(augment.augment(("cutout",), IMAGES, KEYS))
    sizes = set()
    for image, result in zip(IMAGES, results, strict=True):
        covered = (result == 0).all(axis=2)
        rows, columns = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
        assert covered[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1].all() and covered.sum() == len(rows) * len(columns)
        np.testing.assert_array_equal(result[~covered], image[~covered])
        sizes.add((len(rows), len(columns)))
    assert (8, 8) in sizes and all(4 <= side <= 8 for size in sizes for side in size)


def test_mirroring_turns_about_half_of_the_images():
    results = np.asarray(augment.mirror(IMAGES, KEYS))
    same = [np.array_equal(a, b) for a, b in zip(IMAGES, results, strict=True)]
    turned = [np.array_equal(a[:, ::-1], b) for a, b in zip(IMAGES, results, strict=True)]
    assert all(a != b for a, b in zip(same, turned, strict=True)) and 10 < sum(turned) < 30


def test_an_image_has_its_own_draws_and_gradients_pass():
    policy = augment.parse_policy("color,translation,cutout")
    together = augment.augment(policy, IMAGES, KEYS)
    np.testing.assert_allclose(augment.augment(policy, IMAGES[7:8], KEYS[7:8])[0], together[7], atol=1e-6)
    gradient = np.asarray(jax.grad(lambda x: jnp.sum(augment.augment(policy, x, KEYS) ** 2))(jnp.asarray(IMAGES)))
    assert np.isfinite(gradient).all() and (np.abs(gradient).max(axis=(1, 2, 3)) > 0).all()


def test_what_is_off_touches_nothing_and_what_is_unknown_is_named(tmp_path):
    setup = step.Setup(tiny.config(), 4, True)
    assert step.show(setup, IMAGES, KEYS, None) is IMAGES
    path = tmp_path / "config.py"
    path.write_text("import tiny\nget_config = tiny.config\n")
    assert load(path, ["augment.policy=color,cutout", "augment.mirror=true"]).augment.mirror
    with pytest.raises(FpganError, match="augment.policy is 'colour'; expected names of color, .*mean 'color'"):
        load(path, ["augment.policy=colour"])


def test_the_discriminator_sees_augmented_images_on_any_number_of_devices():
    config = tiny.config(augment=dict(mirror=True, policy="color,translation,cutout"))
    state = init_state(config).replace(step=jnp.int32(1))
    images = open_source(config.data, 8).load_all()
    scalars = {}
    for name, settings, count in (("plain", tiny.config(), 1), ("one", config, 1), ("eight", config, 8)):
        phase = next(p for p in step.phases(settings, 32 // count, True) if p.name == "discriminator")
        copies = jax.tree.map(lambda x, n=count: jnp.broadcast_to(x, (n, *x.shape)), (state, images))
        run = jax.pmap(phase.run, axis_name=AXIS, devices=jax.devices()[:count])
        scalars[name] = {key: float(value[0]) for key, value in run(*copies)[1].items()}
    assert scalars["one"] == pytest.approx(scalars["eight"], rel=1e-3, abs=1e-5)
    assert abs(scalars["one"]["real_score"] - scalars["plain"]["real_score"]) > 1e-4
    assert abs(scalars["one"]["fake_score"] - scalars["plain"]["fake_score"]) > 1e-4
