"""`fpgan perturb`: perturbed copies as files, and the contact sheet."""

import numpy as np
import pytest
from PIL import Image

from fpgan.cli.app import main
from fpgan.io.images import encode_png, read_image
from fpgan.perturbations import apply
from fpgan.perturbations.gallery import contact_sheet, perturb_files


@pytest.fixture
def folder(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    for i, image in enumerate(images):
        path = tmp_path / "images" / str(i) / "cat.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(encode_png(image))
    return tmp_path / "images", images


def test_copies_are_the_perturbed_images_in_the_codec_that_comes_last(folder, tmp_path):
    path, images = folder
    specs = ["crop:0.9+jpeg:80", "noise:9+webp:60", "rotate:6", "noise:9"]
    written = perturb_files([path], specs, tmp_path / "out", seed=2)
    assert len(written) == 13 and all(file.is_file() for file in written)
    endings = {"crop_0.9+jpeg_80": ".jpg", "noise_9+webp_60": ".webp", "rotate_6": ".png", "noise_9": ".png"}
    for spec, (name, ending) in zip(specs, endings.items(), strict=True):
        for stem, expected in zip(("cat", "cat-2", "cat-3"), apply(spec, images, seed=2), strict=True):
            np.testing.assert_array_equal(read_image(tmp_path / "out" / name / (stem + ending))[0], expected)
    with Image.open(tmp_path / "out" / "crop_0.9+jpeg_80" / "cat.jpg") as opened:
        assert opened.format == "JPEG"


def test_the_sheet_shows_each_row_at_its_place():
    red, tall = np.full((40, 40, 3), (255, 0, 0), np.uint8), np.full((300, 100, 3), (0, 0, 255), np.uint8)
    sheet = contact_sheet({"first": [red, tall], "second": [tall]})
    where = {colour: (sheet == colour).all(axis=-1) for colour in ((255, 0, 0), (0, 0, 255))}
    rows, columns = where[255, 0, 0].nonzero()
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (120, 120)  # three times its size
    blue = where[0, 0, 255]
    assert blue[:132].any() and blue[132:].any() and blue.sum() > 2 * 100 * 40  # both, shrunk to the cell
    assert (sheet[:, :20] != 255).any()  # names at the left


def test_the_command_writes_a_sheet_and_tells_mistakes_in_a_line(folder, tmp_path, capsys):
    path, _ = folder
    out = tmp_path / "out"
    assert main(["perturb", "--ops", "jpeg:75", "turn:1", "--out", str(out), str(path)]) == 0
    assert f"6 files written, and {out / 'sheet.png'}" in capsys.readouterr().out
    assert read_image(out / "sheet.png")[0].shape[0] == 3 * 132 + 4
    assert main(["perturb", "--ops", "unmarker", "--out", str(out), str(path / "0" / "cat.png")]) == 0
    for spec, told in (("jpgg:75", "the nearest one is 'jpeg'"), ("wave", "the nearest suite is 'waves'"),
                       ("crop:2", "expected a number from 0.05 to 1")):
        assert main(["perturb", "--out", str(tmp_path / "none"), str(path), "--ops", spec]) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1
    assert not (tmp_path / "none").exists()


def test_help_holds_the_table_and_the_suites(capsys):
    assert main(["perturb", "--help"]) == 0
    text = capsys.readouterr().out
    assert "screenshot:1.5,85" in text and "stable_signature" in text and "sigma in grey levels" in text
