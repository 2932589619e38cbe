"""The user's own images: what is listed, what is read, what is left out and why."""

import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from fpgan.data.folder import list_own_images, read_own_images
from fpgan.errors import FpganError
from fpgan.io.images import crop_and_resize, crop_box


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def photos(tmp_path):
    """A folder of images of which some are damaged, with a zip file of the same."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    Image.fromarray(picture(20, 40)).save(folder / "sub" / "wide.png")
    Image.fromarray(picture(16, 16, 1)).save(folder / "exact.PNG")
    Image.fromarray(picture(8, 8, 2)).save(folder / "small.png")
    Image.fromarray(picture(64, 64, 3)).save(folder / "whole.jpg")
    data = (folder / "whole.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(data[:len(data) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not an image")
    (folder / "notes.txt").write_text("x")
    (folder / ".hidden.png").write_text("x")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
        archive.write(folder / "small.png", "__MACOSX/._small.png")
    os.symlink("..", folder / "sub" / "loop")  # back to where one came from
    return folder


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_damaged_files_are_named_and_the_others_read(photos, kind):
    listing = list_own_images(photos if kind == "folder" else photos.with_suffix(".zip"))
    assert listing.others == ("notes.txt",)
    items = {item.name: item for item in read_own_images(listing, 16, "center")}
    assert list(items) == sorted(["cut.jpg", "empty.png", "exact.PNG", "small.png", "sub/wide.png", "text.png",
                                  "whole.jpg"])
    assert {name for name, item in items.items() if item.image is None} == {"cut.jpg", "empty.png", "text.png"}
    assert "truncated" in items["cut.jpg"].problem and "format" in items["text.png"].problem
    assert not any("bytes>" in item.problem for item in items.values())
    assert not items["whole.jpg"].problem
    assert [items[name].side for name in ("exact.PNG", "small.png", "sub/wide.png")] == [16, 8, 20]
    np.testing.assert_array_equal(items["exact.PNG"].image, picture(16, 16, 1))
    expected = Image.fromarray(picture(20, 40)[:, 10:30]).resize((16, 16), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(items["sub/wide.png"].image, np.asarray(expected))


def test_a_damaged_member_of_a_zip_is_named(photos):
    path = photos.with_suffix(".zip")
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("exact.PNG").header_offset
    data[start + 100] ^= 0xFF  # the checksum no longer fits
    path.write_bytes(data)
    items = {item.name: item for item in read_own_images(list_own_images(path), 16, "center")}
    assert items["exact.PNG"].image is None and "damaged in the zip file" in items["exact.PNG"].problem
    assert items["small.png"].image is not None


def test_the_digest_sees_changes(photos):
    before = list_own_images(photos).digest
    assert list_own_images(photos).digest == before
    (photos / "notes.txt").write_text("no image, no matter")
    assert list_own_images(photos).digest == before
    Image.fromarray(picture(8, 8, 9)).save(photos / "small.png")
    assert list_own_images(photos).digest != before


def test_resizing_does_not_alias():
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255  # finer than the result can show: it has to come out grey
    small, side = crop_and_resize(stripes, 16, "center")
    assert side == 128 and np.abs(small[:, 2:-2].astype(int) - 127).max() <= 2


def test_crops():
    x, y = np.meshgrid(np.arange(178), np.arange(218))
    face = np.stack([x, y, 0 * x], axis=-1).astype(np.uint8)
    window, side = crop_and_resize(face, 128, "celeba128")
    assert side == 128 and window[0, 0].tolist() == [25, 57, 0] and window[-1, -1].tolist() == [152, 184, 0]
    assert window[64, 64].tolist() == [89, 121, 0]
    assert crop_box(30, 20, "center") == (5, 0, 20)
    assert crop_box(20, 20, "none") == (0, 0, 20)
    with pytest.raises(FpganError, match="not square"):
        crop_box(30, 20, "none")
    with pytest.raises(FpganError, match="too small"):
        crop_box(128, 128, "celeba128")
    with pytest.raises(FpganError, match="expected one of"):
        crop_box(8, 8, "centre")


def test_errors_name_the_path(tmp_path):
    with pytest.raises(FpganError, match="nowhere does not exist"):
        list_own_images(tmp_path / "nowhere")
    with pytest.raises(FpganError, match="holds no images"):
        list_own_images(tmp_path)
    (tmp_path / "fake.zip").write_text("x")
    with pytest.raises(FpganError, match="no readable zip"):
        list_own_images(tmp_path / "fake.zip")
