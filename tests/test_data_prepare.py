"""Preparing sets: the round trip through TFDS, interruption, repetition, and public sets."""

import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from fpgan.cli import app
from fpgan.data.prepare import prepare
from fpgan.data.settings import prepared_folder, read_settings
from fpgan.data.sources import PreparedImages, Rendered, open_source
from fpgan.errors import FpganError
from fpgan.io.files import locked
from fpgan.io.images import encode_png


@pytest.fixture
def photos(tmp_path):
    """A folder of 100 square images of one grey level each, in the order of their names, and one damaged file."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for level in range(100):
        Image.fromarray(np.full((16, 16, 3), level, np.uint8)).save(folder / f"{level:03}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG")
    return folder


@pytest.fixture
def no_tensorflow():
    """Sees to it that nothing imports TensorFlow in between, where it is installed."""
    before = "tensorflow" in sys.modules
    yield
    assert before or "tensorflow" not in sys.modules


def settings_for(folder, **fields):
    return dict(name="folder", path=str(folder), data_dir=str(folder.parent / "data")) | fields


def test_prepared_cats_are_the_rendered_ones(tmp_path, no_tensorflow):
    data = dict(name="robohash_cats", count=300, data_dir=str(tmp_path), workers=2)
    rendered = open_source(data, 32)
    assert isinstance(rendered, Rendered) and len(rendered) == 300
    ticks = []
    report = prepare(data, 32, lambda done, total: ticks.append((done, total)))
    assert report.images == 300 and not report.nothing_to_do and ticks == [(256, 300), (300, 300)]
    assert "David Revoy" in report.licence and "CC-BY-4.0" in report.licence
    prepared = open_source(data, 32)
    assert isinstance(prepared, PreparedImages) and prepared.licence == rendered.licence == report.licence
    ticks.clear()
    np.testing.assert_array_equal(prepared.load_all(lambda *tick: ticks.append(tick)), rendered.load_all())
    assert ticks[-1] == (300, 300)
    np.testing.assert_array_equal(prepared[7], rendered[7])
    with pytest.raises(IndexError):
        rendered[300]
    assert prepare(data, 32).nothing_to_do


def test_own_images_come_back_in_order_and_losses_are_reported(photos):
    report = prepare(settings_for(photos), 16)
    assert (report.images, report.reduced, report.enlarged) == (100, 0, 0)
    assert [name for name, _ in report.skipped] == ["broken.png"]
    source = open_source(settings_for(photos, take=40), 16)
    assert len(source) == 40
    np.testing.assert_array_equal(source.load_all()[:, 3, 4, 0], np.arange(40))
    copy = pickle.loads(pickle.dumps(source))  # as a worker process gets it
    np.testing.assert_array_equal(copy[39], source[39])
    with pytest.raises(FpganError, match="take at most 100"):
        open_source(settings_for(photos, take=101), 16)


def test_a_second_run_does_nothing_unless_the_images_changed(photos):
    data = settings_for(photos)
    prepare(data, 16)
    folder = prepared_folder(read_settings(data), 16)
    stamp = (folder / "dataset_info.json").stat().st_mtime_ns
    again = prepare(data, 16)
    assert again.nothing_to_do and again.images == 100 and again.skipped[0][0] == "broken.png"
    assert (folder / "dataset_info.json").stat().st_mtime_ns == stamp
    (photos / "099.png").unlink()
    changed = prepare(data, 16)
    assert not changed.nothing_to_do and changed.images == 99 and len(open_source(data, 16)) == 99
    assert sorted(path.name for path in folder.parent.iterdir()) == [".lock", folder.name]


KILLED = """
import os, signal, sys
from fpgan.data.prepare import prepare
prepare({data!r}, 16, lambda done, total: done == 50 and os.kill(os.getpid(), signal.SIGKILL))
"""


def test_a_killed_run_leaves_no_set_and_the_next_one_makes_it_whole(photos):
    data = settings_for(photos)
    killed = subprocess.run([sys.executable, "-c", KILLED.format(data=data)], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    folder = prepared_folder(read_settings(data), 16)
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith("incomplete")]
    with pytest.raises(FpganError, match="fpgan data --name folder --resolution 16"):
        open_source(data, 16)
    assert not prepare(data, 16).nothing_to_do
    assert len(open_source(data, 16)) == 100
    assert sorted(path.name for path in folder.parent.iterdir()) == [".lock", folder.name]


def test_a_disk_that_takes_no_more_is_told_in_one_line_and_leaves_no_set(tmp_path):
    data = dict(name="robohash_cats", count=300, data_dir=str(tmp_path))
    command = ["data", "--name", "robohash_cats", "--resolution", "32", "--images", "300", "--data-dir", str(tmp_path)]
    script = ("import resource, sys; from fpgan.cli import main; "
              "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); "
              f"sys.exit(main({command!r}))")  # as on a full disk, a write fails half-way
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2, ended.stderr
    assert [line for line in ended.stderr.splitlines() if "File too large" in line] == [ended.stderr.splitlines()[-1]]
    assert "Traceback" not in ended.stderr and "run the same command again" in ended.stderr
    assert isinstance(open_source(data, 32), Rendered)
    assert prepare(data, 32).images == 300 and isinstance(open_source(data, 32), PreparedImages)


def test_two_at_once_are_refused(photos):
    data = settings_for(photos)
    with locked(prepared_folder(read_settings(data), 16).parent / ".lock"):
        with pytest.raises(FpganError, match="another process"):
            prepare(data, 16)
    prepare(data, 16)


def test_a_folder_of_nothing_usable_leaves_no_set(photos):
    for path in photos.glob("0*.png"):
        path.unlink()
    with pytest.raises(FpganError, match="none of the 1 images .*broken.png"):
        prepare(settings_for(photos), 16)
    with pytest.raises(FpganError, match="not prepared"):
        open_source(settings_for(photos), 16)


class ToyFaces(tfds.core.GeneratorBasedBuilder):
    """Stands for a public set: five images of the size of CelebA's whose red is x, green y, blue the number."""

    VERSION = tfds.core.Version("2.1.0")
    code_path = None

    def _info(self):
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(), "number": np.int64})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        x, y = np.meshgrid(np.arange(178), np.arange(218))
        for number in range(5):
            face = np.stack([x, y, np.full_like(x, number)], axis=-1).astype(np.uint8)
            yield number, {"image": encode_png(face), "number": number}


def test_public_sets_are_prepared_and_read_without_tensorflow(tmp_path, no_tensorflow):
    data = dict(name="tfds", tfds_name="toy_faces", crop="celeba128", data_dir=str(tmp_path))
    with pytest.raises(FpganError, match="fpgan data --name tfds --resolution 128 .*--tfds-name toy_faces"):
        open_source(data, 128)
    assert prepare(data, 128).images == 5
    assert prepare(data, 128).nothing_to_do
    faces = open_source(data, 128).load_all()
    assert faces.shape == (5, 128, 128, 3)
    assert faces[:, 0, 0].tolist() == [[25, 57, number] for number in range(5)]
    assert len(open_source(data | {"split": "train[:2]"}, 128)) == 2
    assert open_source(data | {"crop": "center"}, 16)[4].shape == (16, 16, 3)
    with pytest.raises(FpganError, match="no split 'valid'; expected one of: train"):
        open_source(data | {"split": "valid"}, 128)
    with pytest.raises(FpganError, match=r"image 3 of .*not square"):
        open_source(data | {"crop": "none"}, 128)[3]


def test_wrong_settings_are_refused_with_a_hint():
    for fields, message in [
            (dict(name="robohash_cat"), "did you mean 'robohash_cats'"),
            (dict(name="folder"), "data.path is empty"),
            (dict(name="tfds"), "data.tfds_name is empty"),
            (dict(name="robohash_cats", crop="centre"), "did you mean 'center'"),
            (dict(name="robohash_cats", count=-1), "data.count is -1"),
            (dict(name="robohash_cats", count=10, take=11), "take at most 10")]:
        with pytest.raises(FpganError, match=message):
            open_source(fields, 16)
    for resolution, message in ((0, "expected a whole number of at least 1"), (4, "expected 8 to 1024")):
        with pytest.raises(FpganError, match=message):
            prepare(dict(name="robohash_cats"), resolution)


def test_the_verb_reports(photos, capsys):
    arguments = ["data", "--name", "folder", "--path", str(photos), "--resolution", "16",
                 "--data-dir", str(photos.parent / "data")]
    assert app.main(arguments) == 0
    output = capsys.readouterr().out
    assert "100 images" in output and "  broken.png: " in output and "nothing to do" not in output
    assert app.main(arguments) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert app.main(["data", "--name", "folder", "--resolution", "16"]) == 2
    assert "data.path is empty" in capsys.readouterr().err
    assert app.main(["data", "--name", "folder"]) == 2
