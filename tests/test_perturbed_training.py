"""The differentiable twins against the real operations of Pillow, and the draws inside a training step."""

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image, ImageEnhance

from fpgan.errors import FpganError
from fpgan.networks.decoder import Decoder, laplacian_pyramid
from fpgan.perturbations import differentiable as twins
from fpgan.perturbations.sampling import OPERATIONS, parse_ranges, perturb
from fpgan.training import losses

SIZE = 32


@pytest.fixture(scope="module")
def picture():
    """A smooth colour picture with an edge and some texture, uint8 [32, 32, 3]."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    planes = np.stack([200 * x, 120 + 80 * np.sin(7 * y), 255 * (x + y > 1)], axis=-1)
    return np.clip(planes + np.random.default_rng(0).normal(0, 6, planes.shape), 0, 255).astype(np.uint8)


def as_float(picture):
    return jnp.asarray(picture, jnp.float32) * (2 / 255) - 1


def levels(image):
    return np.asarray(twins.to_levels(image))


def saved(picture, **options):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, **options)
    return np.asarray(Image.open(buffer).convert("RGB"), np.float32)


@pytest.mark.parametrize("quality", [30, 50, 75, 95])
@pytest.mark.parametrize("subsampled", [True, False])
def test_jpeg_is_that_of_libjpeg(picture, quality, subsampled):
    real = saved(picture, format="JPEG", quality=quality, subsampling="4:2:0" if subsampled else "4:4:4")
    twin = levels(jax.jit(twins.jpeg)(as_float(picture), float(quality), subsampled))
    assert np.abs(twin - real).mean() < 1.2
    assert np.abs(twin - real).mean() < 0.25 * np.abs(real - picture).mean() + 0.3


def test_jpeg_of_odd_sizes_and_of_grey(picture):
    odd = picture[:20, :20]
    twin = levels(twins.jpeg(as_float(odd), 75.0, True))
    assert np.abs(twin - saved(odd, format="JPEG", quality=75, subsampling="4:2:0")).mean() < 2.0
    grey = picture[..., :1]
    buffer = io.BytesIO()
    Image.fromarray(grey[..., 0]).save(buffer, "JPEG", quality=60)
    assert np.abs(levels(twins.jpeg(as_float(grey), 60.0, True))[..., 0] - np.asarray(Image.open(buffer))).mean() < 0.5


def test_jpeg_passes_gradients(picture):
    gradient = jax.grad(lambda x: jnp.sum(jnp.square(twins.jpeg(x, 40.0, True))))(as_float(picture))
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


@pytest.mark.parametrize("fraction", [0.5, 0.75, 1.0, 1.5])
def test_resize_is_that_of_pillow(picture, fraction):
    small = Image.fromarray(picture).resize((round(SIZE * fraction),) * 2, Image.Resampling.BICUBIC)
    real = np.asarray(small.resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float32)
    twin = levels(twins.filtered(as_float(picture), twins.resize_matrix(SIZE, fraction)))
    assert np.abs(np.clip(twin, 0, 255) - real).mean() < 1.0


def test_blur_is_gaussian(picture):
    import scipy.ndimage

    twin = levels(twins.filtered(as_float(picture), twins.blur_matrix(SIZE, 1.3)))
    real = scipy.ndimage.gaussian_filter(picture.astype(np.float64), (1.3, 1.3, 0), mode="nearest", truncate=12)
    assert np.abs(twin - real).max() < 0.01
    assert np.allclose(twins.blur_matrix(SIZE, 0.0), np.eye(SIZE))


@pytest.mark.parametrize("name, enhance", [("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast),
                                           ("saturation", ImageEnhance.Color)])
@pytest.mark.parametrize("factor", [0.0, 0.7, 1.3])
def test_colours_are_those_of_pillow(picture, name, enhance, factor):
    real = np.asarray(enhance(Image.fromarray(picture)).enhance(factor), np.float32)
    assert np.abs(levels(getattr(twins, name)(as_float(picture), factor)) - real).max() <= 1.5


def test_warp_moves_as_named(picture):
    def moved(x=0.0, y=0.0, scale=1.0, degrees=0.0, window=(-1, -1, 1, 1), fills=False):
        homography = twins.similarity(*(jnp.float32(v) for v in (x, y, scale, degrees)))
        window = jnp.array(window, jnp.float32)
        return levels(twins.warp(as_float(picture), homography, window, jnp.ones(3), jnp.array(fills)))

    assert np.allclose(moved(), picture, atol=1e-2)
    assert np.allclose(moved(x=4 / SIZE)[:, 2:], picture[:, :-2], atol=1e-2)  # two pixels to the right
    assert np.allclose(moved(y=-4 / SIZE)[:-2], picture[2:], atol=1e-2)  # two pixels up
    assert np.allclose(moved(degrees=90), np.rot90(picture), atol=1e-2)
    half = SIZE // 2
    grown = moved(scale=2)
    assert np.abs(grown[::2, ::2] - np.asarray(picture, np.float32)[half // 2:-half // 2, half // 2:-half // 2]).mean() < 20
    repeated, painted = (moved(window=(-0.5, -0.5, 0.5, 0.5), fills=fills) for fills in (False, True))
    inner = np.s_[half // 2:-half // 2, half // 2:-half // 2]
    assert np.allclose(repeated[inner], picture[inner], atol=1e-2) and np.allclose(painted[inner], picture[inner], atol=1e-2)
    assert np.allclose(repeated[:half // 2, half // 2], picture[half // 2, half // 2], atol=1e-2)
    assert np.allclose(painted[:half // 2 - 1], 255)


def test_erase_covers_its_area(picture):
    twin = levels(twins.erase(as_float(picture), jnp.array([0.25, 0.5, 0.75, 0.75]), jnp.ones(3)))
    assert (twin[16:24, 8:24] == 255).all()
    assert np.allclose(np.delete(twin, np.s_[16:24], axis=0), np.delete(picture, np.s_[16:24], axis=0), atol=1e-3)


ALL = ("shift:1.5@0.5 scale:0.03@0.5 rotate:2@0.5 window:0.7-1@0.5 erase:0.05-0.1@0.5 brightness:0.7-1.3@0.5 "
       "contrast:0.7-1.3@0.5 saturation:0-1.3@0.5 blur:0.3-1.5@0.5 resize:0.5-1@0.5 noise:2-12@0.5 jpeg:40-95@0.5")


def test_every_sample_is_perturbed_in_its_own_way(picture):
    ranges = parse_ranges(ALL)
    assert {r.name for r in ranges} == set(OPERATIONS)
    images = jnp.tile(as_float(picture), (64, 1, 1, 1))
    keys = jax.random.split(jax.random.key(0), 64)
    run = jax.jit(lambda level, keys: perturb(ranges, 0.8, images[:len(keys)], keys, level))
    twin = levels(run(1.0, keys))
    assert np.allclose(twin, np.round(twin), atol=1e-3) and twin.min() >= 0 and twin.max() <= 255
    untouched = (np.abs(twin - picture).max(axis=(1, 2, 3)) < 0.01).mean()
    assert 0.05 < untouched < 0.4
    touched = {t.tobytes() for t in twin.astype(np.uint8)}
    assert len(touched) >= (1 - untouched) * 64
    alone = levels(perturb(ranges, 0.8, images[:1], keys[5:6], 1.0))
    assert np.abs(alone[0] - twin[5]).max() <= 1  # an image's draws are its own, whoever shares the batch
    nothing = levels(run(0.0, keys))
    weak = np.abs(nothing - picture).mean(axis=(1, 2, 3))
    assert weak.max() < 2.5  # JPEG of quality 100 is the most that is left
    assert weak.mean() < 0.2 * np.abs(twin - picture).mean()


def test_perturb_passes_finite_gradients(picture):
    images, keys = jnp.tile(as_float(picture), (8, 1, 1, 1)), jax.random.split(jax.random.key(1), 8)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(perturb(parse_ranges(ALL), 1.0, x, keys, 0.7) ** 2)))(images)
    assert np.isfinite(gradient).all() and (np.abs(gradient).max(axis=(1, 2, 3)) > 0).all()


@pytest.mark.parametrize("text, words", [
    ("jpg:50@0.5", "nearest known one is 'jpeg'"), ("jpeg:50", "NAME:LOW-HIGH@PROBABILITY"), ("jpeg:0-50@1", "within 1-100"),
    ("jpeg:60-50@1", "LOW-HIGH"), ("blur:1@0", "probability"), ("blur:1@1.5", "probability"), ("blur:1@1 blur:2@1", "twice"),
    ("blur:1.2.3@1", "malformed")])
def test_bad_ranges_are_refused(text, words):
    with pytest.raises(FpganError, match=words):
        parse_ranges(text)


def test_pyramid_splits_scales():
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    details = laplacian_pyramid(images, 3)
    assert details.shape == (2, 3 * (256 + 64 + 16))
    assert np.array_equal(details[:, :768], laplacian_pyramid(images, 1))
    smooth = jnp.broadcast_to(jnp.linspace(-1, 1, 16)[:, None, None], (1, 16, 16, 3))
    assert np.abs(laplacian_pyramid(smooth, 1)[:, 3 * 32:-3 * 32]).max() < 1e-5
    with pytest.raises(FpganError, match="decoder_linear_levels"):
        tiny.network(decoder_linear_levels=9)


def test_decoder_of_several_levels_reads():
    network = dataclasses.replace(tiny.network(decoder_linear=True), decoder_linear_levels=2)
    images = jnp.zeros((2, network.resolution, network.resolution, 3))
    params = Decoder(network).init(jax.random.key(0), images)["params"]
    assert params["linear"]["patterns"].shape[0] == 3 * network.resolution**2 * 5 // 4


def test_visibility_weighs_flat_areas_more():
    rng = np.random.default_rng(0)
    image = np.zeros((1, 16, 16, 3), np.float32)
    image[:, :, 8:] = rng.uniform(-1, 1, (1, 16, 8, 3))
    flat, textured = np.zeros((2, 1, 16, 16, 3), np.float32)
    flat[:, :, 2:5], textured[:, :, 11:14] = 0.1, 0.1
    plain = [float(losses.consistency(image, image + d)[0]) for d in (flat, textured)]
    seen = [float(losses.consistency(image, image + d, 1.0)[0]) for d in (flat, textured)]
    assert np.isclose(*plain) and seen[0] > 2 * seen[1]
