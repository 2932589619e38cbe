"""Image files: grey levels, reading of all kinds, damage, finding files, grids."""

import io
import os
import random

import numpy as np
import pytest
from PIL import Image

from fpgan.errors import FpganError
from fpgan.io.files import write_file
from fpgan.io.images import encode_png, encode_webp, grid, read_image, to_uint8
from fpgan.io.listing import iter_images, list_images


def noise(height=12, width=12, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def test_grey_levels_survive_the_way_to_float_and_back():
    levels = np.arange(256, dtype=np.uint8)
    assert (to_uint8(levels * (2 / 255) - 1) == levels).all()
    assert to_uint8([-5, -1, -0.9999, 0, 1, 5, 0.9999]).tolist() == [0, 0, 0, 128, 255, 255, 255]


def test_png_round_trip_is_exact_and_deterministic(tmp_path):
    image = noise()
    assert encode_png(image) == encode_png(image.copy())
    write_file(tmp_path / "new" / "a.png", encode_png(image))
    for source in (tmp_path / "new" / "a.png", str(tmp_path / "new" / "a.png"), encode_png(image)):
        for resolution in (None, 12):
            read, resized = read_image(source, resolution)
            assert (read == image).all() and read.dtype == np.uint8 and not resized
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.png"]


def test_every_mode_becomes_rgb():
    image = Image.fromarray(noise())
    grey = np.asarray(image.convert("L"))
    assert (read_image(encoded(image.convert("L")))[0] == grey[..., None]).all()
    palette = image.quantize(16)
    assert (read_image(encoded(palette))[0] == np.asarray(palette.convert("RGB"))).all()
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    assert (read_image(encoded(deep))[0] == grey[..., None]).all()
    assert read_image(encoded(image.convert("CMYK"), "TIFF"))[0].shape == (12, 12, 3)
    assert read_image(encoded(image.convert("1")))[0].max() == 255


def test_transparency_is_laid_over_white():
    pixels = np.dstack([np.zeros((4, 4, 3), np.uint8), np.array([[0, 255] * 2] * 4, np.uint8)])
    read = read_image(encoded(Image.fromarray(pixels)))[0]
    assert (read[:, 0::2] == 255).all() and (read[:, 1::2] == 0).all()
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert read_image(encoded(palette, transparency=0))[0].tolist() == [[[255, 255, 255], [10, 20, 30]]]


def test_exif_orientation_is_applied():
    image = noise(6, 10)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    assert (read_image(encoded(Image.fromarray(image), exif=exif))[0] == np.rot90(image, -1)).all()


def test_other_sizes_are_cropped_to_the_centre_and_filtered():
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 200  # the central square
    read, resized = read_image(encode_png(wide), 10)
    assert resized and read.shape == (10, 10, 3) and (read == 200).all()
    checks = np.indices((64, 64)).sum(0) % 2 * np.uint8(255)
    read, _ = read_image(encode_png(np.repeat(checks[..., None], 3, -1).astype(np.uint8)), 16)
    assert np.ptp(read[2:-2, 2:-2].astype(int)) <= 4 and abs(read.mean() - 127.5) < 3  # no aliasing


@pytest.mark.filterwarnings("ignore")  # Pillow tells of odd metadata and of huge images, too
@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_damage_of_any_kind_is_one_clear_error(tmp_path, format):
    good = encoded(Image.fromarray(noise(40, 40)), format)
    rng = random.Random(0)
    broken = [good[:rng.randrange(len(good))] for _ in range(40)]
    for _ in range(60):
        bad = bytearray(good)
        for _ in range(rng.randrange(1, 8)):
            bad[rng.randrange(min(len(bad), 400))] = rng.randrange(256)
        broken.append(bytes(bad))
    failures = 0
    for data in broken:
        (tmp_path / "odd").write_bytes(data)
        try:
            assert read_image(tmp_path / "odd", 16)[0].shape == (16, 16, 3)
        except FpganError as error:
            failures += 1
            assert str(tmp_path / "odd") in str(error) and "\n" not in str(error)
    assert failures >= 10


def test_missing_and_foreign_files_are_named(tmp_path):
    (tmp_path / "notes.png").write_text("not an image")
    for name in ("notes.png", "missing.png", "."):
        with pytest.raises(FpganError, match=str(tmp_path / name)):
            read_image(tmp_path / name)


def test_images_are_found_sorted_in_files_folders_and_patterns(tmp_path):
    for name in ("b/2.png", "b/1.JPG", "b/deep/3.webp", "a.png", "b/notes.txt", "b/.hidden.png", "[x].png", "c/readme.md"):
        write_file(tmp_path / name, b"")
    def found(*paths):
        return [str(p.relative_to(tmp_path)) for p in list_images([tmp_path / p for p in paths])]
    assert found("b") == ["b/1.JPG", "b/2.png", "b/deep/3.webp"]
    assert found(".") == ["[x].png", "a.png", "b/1.JPG", "b/2.png", "b/deep/3.webp"]
    assert found("b/notes.txt", "a.png") == ["b/notes.txt", "a.png"]
    assert found("[x].png") == ["[x].png"]
    assert found("b/*") == ["b/1.JPG", "b/2.png"]
    assert found("**/*.png") == ["[x].png", "a.png", "b/2.png"]
    for nothing in ("c", "none", "*.gif", "b/c.png"):
        with pytest.raises(FpganError, match=r"no images found|no such file"):
            found("a.png", nothing)


def test_links_are_followed_but_not_in_circles(tmp_path):
    write_file(tmp_path / "other" / "1.png", b"")
    write_file(tmp_path / "set" / "deep" / "2.png", b"")
    links = {"deep/up": tmp_path / "set", "aside": tmp_path / "other", "self": "self", "self.png": "self.png"}
    for name, target in links.items():
        (tmp_path / "set" / name).symlink_to(target)
    found = [str(path.relative_to(tmp_path / "set")) for path in list_images([tmp_path / "set"])]
    assert found == ["aside/1.png", "deep/2.png", "self.png"]


def test_a_folder_that_cannot_be_read_is_told_and_the_others_are_searched(tmp_path, monkeypatch):
    for name in ("a/1.png", "b/2.png", "c/3.png"):
        write_file(tmp_path / name, b"")
    scandir = os.scandir

    def refuse(folder):
        if str(folder).endswith("/b"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    found = list(iter_images([tmp_path]))
    assert [os.path.relpath(path, tmp_path) for path, _ in found] == ["a/1.png", "b", "c/3.png"]
    assert [error is None for _, error in found] == [True, False, True] and "Permission denied" in str(found[1][1])
    with pytest.raises(FpganError, match="/b: cannot be read"):
        list_images([tmp_path])


def test_grid_places_every_image():
    images = np.random.default_rng(0).integers(0, 255, (2, 3, 4, 5, 3), dtype=np.uint8)
    picture = grid(images, scale=2, pad=1)
    assert picture.shape == (2 * 9 + 1, 3 * 11 + 1, 3)
    for row in range(2):
        for column in range(3):
            block = picture[1 + row * 9:9 + row * 9, 1 + column * 11:11 + column * 11]
            assert (block == images[row, column].repeat(2, 0).repeat(2, 1)).all()
    assert (picture[0] == 255).all() and (picture[:, -1] == 255).all() and (picture[9] == 255).all()
    assert (grid(images * np.float32(2 / 255) - 1) == grid(images)).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 3), (7, 5, 3), (6, 9), (3, 200, 3)])
@pytest.mark.parametrize("levels", [2, 256])
def test_png_and_webp_give_back_every_pixel(shape, levels):
    images = np.random.default_rng(0).integers(0, levels, (4, *shape), dtype=np.uint8)
    for image in images:
        file = encode_png(image)
        with Image.open(io.BytesIO(file)) as opened:
            assert opened.format == "PNG" and (np.asarray(opened) == image).all()
    if len(shape) == 3:
        for image in images:
            file = encode_webp(image)
            assert file == encode_webp(image.copy()) and file[:4] == b"RIFF"
            with Image.open(io.BytesIO(file)) as opened:
                assert opened.format == "WEBP" and (np.asarray(opened) == image).all()


def test_png_is_as_small_as_that_of_pillow():
    y, x = np.mgrid[:64, :64] / 10
    waves = np.stack([np.sin(x + k * y) for k in range(3)], -1) * 100 + 128
    image = (waves + np.random.default_rng(0).normal(size=waves.shape)).astype(np.uint8)
    other = io.BytesIO()
    Image.fromarray(image).save(other, "PNG", compress_level=9)
    assert len(encode_png(image)) < 1.05 * len(other.getvalue())
