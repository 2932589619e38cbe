"""Sets in MNIST's format: images and classes as they stand in the files, and every damaged file refused by name."""

import gzip
import struct

import numpy as np
import pytest

from fpgan.data.idx import is_idx, read_idx, read_labels
from fpgan.data.prepare import prepare
from fpgan.data.sources import open_source
from fpgan.errors import FpganError

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 8), np.uint8)
LABELS = np.arange(12, dtype=np.uint8) * 7 % 3


def encoded(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def images(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(encoded(IMAGES)))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(encoded(LABELS)))
    return path


def test_images_and_labels_are_read_as_they_were_written(images, tmp_path):
    np.testing.assert_array_equal(read_idx(images), IMAGES)
    np.testing.assert_array_equal(read_labels(images), LABELS)
    plain = tmp_path / "t10k-images.idx3-ubyte"
    plain.write_bytes(encoded(IMAGES))
    np.testing.assert_array_equal(read_idx(plain), IMAGES)
    assert read_labels(plain) is None
    assert is_idx(plain) and not is_idx("photos.zip") and not is_idx(tmp_path / "train-labels-idx1-ubyte.gz")


def test_a_prepared_set_has_its_images_in_grey_and_its_classes(images, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    settings = dict(name="folder", path=str(images), data_dir=str(tmp_path / "data"))
    report = prepare(settings, 8)
    source = open_source(settings, 8)
    order = np.argsort(LABELS, kind="stable")
    assert report.images == 12 and source.classes == ("0", "1", "2") and not report.others
    np.testing.assert_array_equal(source.load_all(), np.repeat(IMAGES[order][..., None], 3, axis=-1))
    np.testing.assert_array_equal(source.labels(np.arange(12)), LABELS[order])
    assert prepare(settings, 8).nothing_to_do
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(encoded(LABELS[:5])))
    with pytest.raises(FpganError, match="holds 12 images, but beside it there are 5 labels"):
        prepare(settings, 8)


DAMAGES = (lambda data: data[:-1], lambda data: data + b"x", lambda data: data[:9], lambda data: b"",
           lambda data: b"\0\0\x0d" + data[3:], lambda data: data[:4] + b"\xff" * 12 + data[16:])


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_damaged_files_are_refused(tmp_path, damage, suffix):
    path, data = tmp_path / f"train-images-idx3-ubyte{suffix}", damage(encoded(IMAGES))
    path.write_bytes(gzip.compress(data) if suffix else data)
    with pytest.raises(FpganError, match="train-images-idx3-ubyte"):
        read_idx(path)


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(encoded(IMAGES))[:-20]])
def test_damaged_gzip_is_refused(tmp_path, content):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(FpganError, match="copy the file again"):
        read_idx(path)
