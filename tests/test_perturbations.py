"""Perturbations by name: spelling, seeds, and that each operation does to 8-bit images what it says."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, JpegImagePlugin

from fpgan.errors import FpganError
from fpgan.perturbations import PERTURBATIONS, SUITES, apply, expand, parse, shared_steps, spell, suite, table
from fpgan.perturbations.codecs import encode_jpeg
from fpgan.perturbations.registry import markdown_table
from fpgan.perturbations.suites import EDITS, REPORT

FLAT = np.full((1, 96, 96, 3), 128, np.uint8)


def smooth(count=3, height=48, width=48, seed=0):
    """Pictures of a few waves in each channel, full of colour and without sharp edges."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 48
    waves = [[sum(np.sin(2 * np.pi * (a * x + b * y + c)) for a, b, c in rng.uniform(-2, 2, (3, 3))) for _ in range(3)]
             for _ in range(count)]
    return np.clip(128 + 40 * np.moveaxis(np.array(waves), 1, -1), 0, 255).astype(np.uint8)


def busy(count=3, side=48, seed=0):
    """Pictures with detail: the smooth ones and noise."""
    noise = np.random.default_rng(seed).integers(-40, 41, (count, side, side, 3))
    return np.clip(smooth(count, side, side, seed) + noise, 0, 255).astype(np.uint8)


def error(one, other):
    return np.sqrt(np.mean((one.astype(float) - other) ** 2))


def test_every_example_is_spelt_as_it_is_read_and_gives_8_bit_pictures():
    images = busy(2)
    for name, operation in PERTURBATIONS.items():
        chain = parse(operation.example)
        assert [step.operation.name for step in chain] == [name] and spell(chain) == operation.example
        before = images.copy()
        for one in apply(operation.example, images):
            assert one.dtype == np.uint8 and one.ndim == 3 and one.shape[2] == 3 and one.flags.c_contiguous
        assert (images == before).all()  # nothing is written into the images that came in
        changed = [one.shape != image.shape or (one != image).any()
                   for one, image in zip(apply(operation.example, images), images, strict=True)]
        assert all(changed) == (name != "png")


def test_chains_run_in_their_order_and_have_one_spelling():
    images = busy(2)
    both = apply("crop:0.9+jpeg:80", images)
    np.testing.assert_array_equal(both, apply("jpeg:80", apply("crop:0.9", images)))
    assert (both != apply("jpeg:80+crop:0.9", images)).any()
    assert spell(parse(" crop:0.90 + jpeg:80.0+shift:3.0,-2")) == "crop:0.9+jpeg:80+shift:3,-2"
    np.testing.assert_array_equal(apply(parse("crop:0.9+jpeg:80"), images), both)


@pytest.mark.parametrize("spec", [example for example in (o.example for o in PERTURBATIONS.values())
                                  if parse(example)[0].operation.random] + ["noise:4+random_crop:0.8+noise:4"])
def test_draws_depend_on_seed_and_image_and_not_on_the_batch(spec):
    images = np.repeat(busy(1), 6, axis=0)  # one picture six times: what differs was drawn
    whole = list(apply(spec, images, seed=3))
    parts = [one for part in (slice(0, 1), slice(1, 4), slice(4, 6)) for one in apply(spec, images[part], 3, part.start)]
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len({one.tobytes() for one in whole}) > 1
    others = list(apply(spec, images, seed=4))
    assert {one.tobytes() for one in whole} != {one.tobytes() for one in others}


def test_places_in_a_chain_draw_apart():
    once, twice = (apply(spec, FLAT).astype(int) - 128 for spec in ("noise:8", "noise:8+noise:8"))
    assert twice.std() == pytest.approx(8 * 2**0.5, rel=0.02)
    assert np.corrcoef(once.ravel(), (twice - once).ravel())[0, 1] == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize("spec, told", [
    ("jpg:75", "the nearest one is 'jpeg', written like jpeg:75"),
    ("crop:0.9+jepg:75", "there is no 'jepg'"),
    ("jpeg", "takes quality, and was given 0 numbers; write it like jpeg:75"),
    ("jpeg:75,3", "given 2 numbers"),
    ("shift:3", "pixels to the right and pixels down, and was given 1 numbers"),
    ("jpeg:0", "quality is 0; expected a whole number from 1 to 100"),
    ("jpeg:75.5", "expected a whole number from 1 to 100"),
    ("jpeg:high", "'high' is no number"),
    ("crop:1.5", "expected a number from 0.05 to 1"),
    ("turn:4", "expected one of 1, 2, 3"),
    ("median:4", "expected one of 3, 5"),
    ("noise:nan", "expected a number from 0 to 128"),
    ("noise:inf", "expected a number from 0 to 128"),
    ("grey:1", "grey takes no strength"),
    ("", "there is no ''"),
    ("jpeg:75+", "there is no ''"),
])
def test_what_is_no_perturbation_is_refused_in_one_line(spec, told):
    with pytest.raises(FpganError, match=r"^[^\n]+$") as caught:
        parse(spec)
    assert told in str(caught.value)


def test_the_tables_name_every_operation_with_its_range():
    for text in (table(), markdown_table()):
        for operation in PERTURBATIONS.values():
            assert operation.example in text and operation.meaning in text
            assert all(strength.expected() in text for strength in operation.strengths)
    assert max(map(len, table().splitlines())) <= 100


def test_jpeg_is_that_of_pillow_and_its_chroma_sampling_is_the_one_named():
    images = busy(2)
    for name, options, sampling in (("jpeg", {}, 2), ("jpeg422", {"subsampling": 1}, 1), ("jpeg444", {"subsampling": 0}, 0)):
        for image, saved in zip(images, apply(f"{name}:75", images), strict=True):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "JPEG", quality=75, **options)
            np.testing.assert_array_equal(saved, np.asarray(Image.open(buffer)))
            with Image.open(io.BytesIO(PERTURBATIONS[name].encode(image, 75))) as opened:
                assert opened.format == "JPEG" and JpegImagePlugin.get_sampling(opened) == sampling
    assert error(apply("jpeg444:75", images), images) < error(apply("jpeg:75", images), images)
    assert len(encode_jpeg(images[0], 30)) < len(encode_jpeg(images[0], 90))


@pytest.mark.parametrize("name, format", [("webp", "WEBP"), ("avif", "AVIF"), ("jpeg", "JPEG")])
def test_lossy_codecs_are_themselves_and_better_at_higher_quality(name, format):
    images, low, high = smooth(), 20, 90
    data = PERTURBATIONS[name].encode(images[0], high)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.format == format
        np.testing.assert_array_equal(apply(f"{name}:{high}", images)[0], np.asarray(opened.convert("RGB")))
    fine, coarse = error(apply(f"{name}:{high}", images), images), error(apply(f"{name}:{low}", images), images)
    assert 0 < fine < coarse < 30


def test_png_changes_nothing_and_palettes_hold_so_many_colours():
    images = busy()
    np.testing.assert_array_equal(apply("png", images), images)
    for spec, most in (("colours:32", 32), ("colours:4", 4), ("gif", 256)):
        for one in apply(spec, images):
            assert most // 2 < len(np.unique(one.reshape(-1, 3), axis=0)) <= most
    assert error(apply("colours:64", images), images) < error(apply("colours:8", images), images)


@pytest.mark.parametrize("sigma", [2, 8, 25.5])
def test_noise_has_the_sigma_it_says(sigma):
    drawn = apply(f"noise:{sigma}", FLAT.repeat(4, axis=0)).astype(float) - 128
    assert drawn.std() == pytest.approx((sigma**2 + 1 / 12) ** 0.5, rel=0.01)  # rounding adds 1/12
    assert abs(drawn.mean()) < 0.02 * sigma
    assert abs(np.corrcoef(drawn[..., 0].ravel(), drawn[..., 1].ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("sigma", [0.5, 1, 2, 4])
def test_blur_has_the_width_it_says(sigma):
    impulse = np.zeros((1, 65, 65, 3), np.uint8)
    impulse[:, 30:35, 30:35] = 255  # 25 pixels, so that rounding does not matter
    spread = [(np.arange(65) - 32) ** 2 @ apply(spec, impulse)[0, :, :, 0].sum(1).astype(float)
              / apply(spec, impulse)[0, :, :, 0].sum() for spec in ("png", f"blur:{sigma}")]
    assert spread[1] - spread[0] == pytest.approx(sigma**2, rel=0.1)


def test_median_removes_single_pixels_and_keeps_edges():
    step = np.zeros((1, 20, 20, 3), np.uint8)
    step[:, :, 10:] = 200
    dotted = step.copy()
    dotted[:, 3::5, 3::5] = 255
    np.testing.assert_array_equal(apply("median:3", dotted), step)


def test_guided_blur_smooths_flat_areas_and_keeps_edges():
    step = np.full((1, 40, 40, 3), 60, np.uint8)
    step[:, :, 20:] = 190
    noisy = apply("noise:4", step)
    smoothed, blurred = apply("guided:5,0.01", noisy), apply("blur:1.5", noisy)
    assert smoothed[:, :, 5:15].astype(float).std() < 0.5 * noisy[:, :, 5:15].astype(float).std()
    def jump(images):
        return float(images[:, :, 20].mean()) - float(images[:, :, 19].mean())
    assert jump(smoothed) > 100 > jump(blurred)
    assert error(apply("guided:5,1e-06", noisy), noisy) < 0.6  # no variance counts as flat: nothing changes


def test_resizing_and_back_keeps_the_size_and_loses_more_the_smaller():
    images = busy()
    errors = [error(apply(f"resize:{fraction}", images), images) for fraction in (2, 0.75, 0.5, 0.25)]
    assert apply("resize:0.33", images).shape == images.shape and errors == sorted(errors) and errors[0] > 0
    small = Image.fromarray(images[0]).resize((24, 24), Image.Resampling.BICUBIC)
    back = small.resize((48, 48), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(apply("resize:0.5", images)[0], np.asarray(back))
    nearest = apply("resize_nearest:0.5", images)
    np.testing.assert_array_equal(nearest[:, ::2, ::2], nearest[:, 1::2, 1::2])
    assert len({apply(f"{name}:0.5", images).tobytes() for name in PERTURBATIONS if name.startswith("resize")}) == 4


def test_tone_and_colour_are_those_of_pillow_and_arithmetic():
    images = busy()
    kinds = {"brightness": "Brightness", "contrast": "Contrast", "saturation": "Color", "sharpen": "Sharpness"}
    for name, kind in kinds.items():
        for factor in (0.7, 1.3):
            expected = getattr(ImageEnhance, kind)(Image.fromarray(images[0])).enhance(factor)
            np.testing.assert_array_equal(apply(f"{name}:{factor}", images)[0], np.asarray(expected))
        np.testing.assert_array_equal(apply(f"{name}:1", images), images)
    assert error(apply("brightness:0.5", images), images * 0.5) < 1
    assert not apply("brightness:0", images).any()
    np.testing.assert_array_equal(apply("saturation:0", images), apply("grey", images))
    luma = images @ np.array([0.299, 0.587, 0.114])
    assert abs(apply("grey", images) - luma[..., None]).max() <= 1
    assert error(apply("gamma:2", images), images.astype(float) ** 2 / 255) < 0.5
    np.testing.assert_array_equal(apply("invert+invert", images), images)
    assert (apply("invert", images) + images == 255).all()


def test_hue_turns_around_the_circle():
    red, green, blue = (np.full((1, 4, 4, 3), colour, np.uint8) for colour in ([200, 0, 0], [0, 200, 0], [0, 0, 200]))
    for before, after in ((red, green), (green, blue), (blue, red)):
        assert error(apply("hue:0.333", before), after) < 5
        assert error(apply("hue:-0.333", after), before) < 5
    np.testing.assert_array_equal(apply("hue:0.5", red), apply("hue:-0.5", red))


def test_quantised_images_have_so_many_levels():
    images = busy()
    assert sorted(np.unique(apply("quantise:5", images))) == [0, 64, 128, 191, 255]
    assert abs(apply("quantise:5", images).astype(int) - images).max() <= 32
    np.testing.assert_array_equal(apply("quantise:256", images), images)
    np.testing.assert_array_equal(apply("posterize:3", images), images & 0b11100000)


def test_erasing_takes_its_share_of_the_area():
    images = np.full((40, 50, 30, 3), 9, np.uint8)
    erased = apply("erase:0.1", images) == 0
    assert (erased.all(axis=-1) == erased.any(axis=-1)).all()
    shares = erased.mean(axis=(1, 2, 3))
    assert (shares == shares[0]).all() and shares[0] == pytest.approx(0.1, abs=0.01)
    assert len(np.unique(erased.argmax(axis=1).max(axis=(1, 2)))) > 5  # at many heights


def test_caption_and_overlay_cover_what_they_say():
    images = busy(12, 60)
    captioned = apply("caption:0.1", images)
    for one, image in zip(captioned, images, strict=True):
        changed = (one != image).any(axis=(1, 2)).nonzero()[0]
        assert len(changed) == 6 and set(changed) in ({*range(6)}, {*range(54, 60)})
        bar = one[changed[0]:changed[-1] + 1]
        assert 0 < bar.mean() < 255 and np.median(bar) in (0, 255)  # a ground, and letters on it
    assert len({int(np.median(one[:6])) for one in captioned}) > 1
    assert 0.01 < (apply("overlay:0.2", images) != images).any(axis=-1).mean() < 0.25


def test_a_screenshot_is_a_jpeg_of_the_larger_picture_brought_back():
    image = busy(1)[0]
    shown = np.asarray(Image.fromarray(image).resize((72, 72), Image.Resampling.BICUBIC))
    caught = Image.fromarray(apply("jpeg:85", shown[None])[0]).resize((48, 48), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(apply("screenshot:1.5,85", image[None])[0], np.asarray(caught))


def test_suites_are_spelt_right_and_hold_each_perturbation_once():
    for name, specs in SUITES.items():
        assert suite(name) == specs and len(set(specs)) == len(specs) > 3
        assert [spell(parse(spec)) for spec in specs] == list(specs)
    assert REPORT in SUITES
    with pytest.raises(FpganError, match="the nearest suite is 'waves', expected one of saved"):
        suite("wave")


def test_being_saved_changes_little():
    images = smooth()
    for spec in suite("saved"):
        difference = np.abs(apply(spec, images).astype(int) - images).mean()
        assert difference == 0 if spec == "png" else 0 < difference < 6, (spec, difference)


def test_suites_become_their_perturbations_each_once():
    specs = expand(["jpeg:80", "unmarker", "jpeg:80.0", "flip"])
    assert specs == ["jpeg:80", "crop:0.9", "blur:1", "guided:5,0.01", "noise:12.75", "quantise:8", "flip"]
    assert expand(["ordinary"]) == list(suite("ordinary"))
    with pytest.raises(FpganError, match="the nearest suite is 'ordinary'"):
        expand(["ordinry"])


def test_the_ordinary_suite_has_every_edit_that_a_release_is_held_to():
    wanted = {f"{name}:{quality}" for name in ("jpeg", "jpeg444") for quality in (*range(70, 96), 50, 30)} | {
        "png", "webp:80", "avif:60", "noise:8", "noise:16", "blur:1", "blur:2", "resize:0.5", "resize:1.5", "resize:2",
        "median:3", "colours:32", "grey", "flip", "turn:1", "turn:3", "shift:8,-8", "crop:0.9", "crop_as_is:0.9",
        "crop:0.75", "crop:0.6", "rotate:3", "rotate:6", "rotate:15", "screenshot:1.5,85", "caption:0.1",
        "page:0.6", "phone:2", "combine:2", "combine:3"}
    assert wanted <= set(suite("ordinary"))


def test_lists_with_a_strength_in_common_are_found():
    assert shared_steps(["jpeg:80", "flip", "noise:8"], ["jpeg:81", "flip", "crop:0.9"]) == set()
    assert shared_steps(["noise:3+jpeg:80.0"], ["crop:0.9+jpeg:80"]) == {"jpeg:80"}
    assert shared_steps(["shift:1,2"], ["shift:2,1"]) == set()
    assert shared_steps(["combine:2"], ["rotate:15", "rotate:14"]) == {"rotate:15"}  # it draws from the ordinary suite


def test_combinations_draw_different_operations_of_the_ordinary_suite():
    images = np.repeat(smooth(1), 40, axis=0)
    singles = {one.tobytes() for edit in EDITS for one in apply(edit, images[:1])}
    combined = [one.tobytes() for one in apply("combine:2", images, seed=1)]
    assert len(set(combined)) > 35 and sum(one in singles for one in combined) <= 2


def test_the_page_of_the_docs_holds_the_table_and_counts_the_suites():
    page = (Path(__file__).parents[1] / "docs" / "perturbations.md").read_text()
    assert markdown_table() in page
    for name, specs in SUITES.items():
        assert f"| `{name}` | {len(specs)} |" in page
