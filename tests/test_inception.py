"""The 2015 Inception network against a plain NumPy twin, and state dicts of PyTorch in both layouts, written by hand."""

import collections
import io
import pickle
import struct
import sys
import types
import zipfile

import jax
import numpy as np
import pytest

from fpgan.errors import FpganError
from fpgan.evaluation import inception
from fpgan.io.torch_file import read_state_dict

WIDTH = 8  # channels are so many times fewer than in the real network


def channels():
    """What each convolution of the real network takes and gives, and its kernel: name -> (in, out, rows, columns)."""
    table = {"Conv2d_1a_3x3": (3, 32, 3, 3), "Conv2d_2a_3x3": (32, 32, 3, 3), "Conv2d_2b_3x3": (32, 64, 3, 3),
             "Conv2d_3b_1x1": (64, 80, 1, 1), "Conv2d_4a_3x3": (80, 192, 3, 3)}

    def block(name, **layers):
        table.update({f"{name}.{key}": value for key, value in layers.items()})

    for name, n, pool in (("Mixed_5b", 192, 32), ("Mixed_5c", 256, 64), ("Mixed_5d", 288, 64)):
        block(name, branch1x1=(n, 64, 1, 1), branch5x5_1=(n, 48, 1, 1), branch5x5_2=(48, 64, 5, 5),
              branch3x3dbl_1=(n, 64, 1, 1), branch3x3dbl_2=(64, 96, 3, 3), branch3x3dbl_3=(96, 96, 3, 3),
              branch_pool=(n, pool, 1, 1))
    block("Mixed_6a", branch3x3=(288, 384, 3, 3), branch3x3dbl_1=(288, 64, 1, 1), branch3x3dbl_2=(64, 96, 3, 3),
          branch3x3dbl_3=(96, 96, 3, 3))
    for name, c in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        block(name, branch1x1=(768, 192, 1, 1), branch7x7_1=(768, c, 1, 1), branch7x7_2=(c, c, 1, 7),
              branch7x7_3=(c, 192, 7, 1), branch7x7dbl_1=(768, c, 1, 1), branch7x7dbl_2=(c, c, 7, 1),
              branch7x7dbl_3=(c, c, 1, 7), branch7x7dbl_4=(c, c, 7, 1), branch7x7dbl_5=(c, 192, 1, 7),
              branch_pool=(768, 192, 1, 1))
    block("Mixed_7a", branch3x3_1=(768, 192, 1, 1), branch3x3_2=(192, 320, 3, 3), branch7x7x3_1=(768, 192, 1, 1),
          branch7x7x3_2=(192, 192, 1, 7), branch7x7x3_3=(192, 192, 7, 1), branch7x7x3_4=(192, 192, 3, 3))
    for name, n in (("Mixed_7b", 1280), ("Mixed_7c", 2048)):
        block(name, branch1x1=(n, 320, 1, 1), branch3x3_1=(n, 384, 1, 1), branch3x3_2a=(384, 384, 1, 3),
              branch3x3_2b=(384, 384, 3, 1), branch3x3dbl_1=(n, 448, 1, 1), branch3x3dbl_2=(448, 384, 3, 3),
              branch3x3dbl_3a=(384, 384, 1, 3), branch3x3dbl_3b=(384, 384, 3, 1), branch_pool=(n, 192, 1, 1))
    return table


@pytest.fixture(scope="module")
def state():
    """A state dict with random weights."""
    rng, found = np.random.default_rng(0), {}
    for name, (n, out, rows, columns) in channels().items():
        n, out = n if n == 3 else n // WIDTH, out // WIDTH
        found[f"{name}.conv.weight"] = rng.normal(0, (2 / (n * rows * columns)) ** 0.5, (out, n, rows, columns))
        found[f"{name}.bn.weight"], found[f"{name}.bn.bias"] = rng.uniform(0.5, 1.5, out), rng.normal(0, 0.3, out)
        found[f"{name}.bn.running_mean"], found[f"{name}.bn.running_var"] = rng.normal(0, 0.3, out), rng.uniform(0.5, 2, out)
    return {name: value.astype(np.float32) for name, value in found.items()}


class Twin:
    """The network written out in NumPy, channels first, as its PyTorch source is."""

    def __init__(self, state):
        self.state = {name: value.astype(np.float64) for name, value in state.items()}

    def conv(self, name, x, stride=1, pad=(0, 0)):
        kernel = self.state[f"{name}.conv.weight"]
        x = np.pad(x, ((0, 0), (0, 0), (pad[0],) * 2, (pad[1],) * 2))
        _, _, rows, columns = kernel.shape
        height, width = (x.shape[2] - rows) // stride + 1, (x.shape[3] - columns) // stride + 1
        y = sum(np.einsum("oi,nihw->nohw", kernel[:, :, i, j],
                          x[:, :, i:i + stride * height:stride, j:j + stride * width:stride], optimize=True)
                for i in range(rows) for j in range(columns))
        weight, bias, mean, var = (self.state[f"{name}.bn.{part}"][:, None, None]
                                   for part in ("weight", "bias", "running_mean", "running_var"))
        return np.maximum((y - mean) / np.sqrt(var + 0.001) * weight + bias, 0)

    @staticmethod
    def windows(x, stride, pad):
        x = np.pad(x, ((0, 0), (0, 0), (pad,) * 2, (pad,) * 2), constant_values=np.nan)
        return np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))[:, :, ::stride, ::stride]

    def halve(self, x):
        return self.windows(x, 2, 0).max((-1, -2))

    def average(self, x):
        return np.nanmean(self.windows(x, 1, 1), (-1, -2))

    def highest(self, x):
        return np.nanmax(self.windows(x, 1, 1), (-1, -2))

    def a(self, b, x):
        five = self.conv(f"{b}.branch5x5_2", self.conv(f"{b}.branch5x5_1", x), pad=(2, 2))
        three = self.conv(f"{b}.branch3x3dbl_2", self.conv(f"{b}.branch3x3dbl_1", x), pad=(1, 1))
        three = self.conv(f"{b}.branch3x3dbl_3", three, pad=(1, 1))
        pooled = self.conv(f"{b}.branch_pool", self.average(x))
        return np.concatenate([self.conv(f"{b}.branch1x1", x), five, three, pooled], 1)

    def b(self, b, x):
        three = self.conv(f"{b}.branch3x3dbl_2", self.conv(f"{b}.branch3x3dbl_1", x), pad=(1, 1))
        three = self.conv(f"{b}.branch3x3dbl_3", three, 2)
        return np.concatenate([self.conv(f"{b}.branch3x3", x, 2), three, self.halve(x)], 1)

    def c(self, b, x):
        seven = self.conv(f"{b}.branch7x7_2", self.conv(f"{b}.branch7x7_1", x), pad=(0, 3))
        seven = self.conv(f"{b}.branch7x7_3", seven, pad=(3, 0))
        double = self.conv(f"{b}.branch7x7dbl_1", x)
        for i, pad in ((2, (3, 0)), (3, (0, 3)), (4, (3, 0)), (5, (0, 3))):
            double = self.conv(f"{b}.branch7x7dbl_{i}", double, pad=pad)
        pooled = self.conv(f"{b}.branch_pool", self.average(x))
        return np.concatenate([self.conv(f"{b}.branch1x1", x), seven, double, pooled], 1)

    def d(self, b, x):
        three = self.conv(f"{b}.branch3x3_2", self.conv(f"{b}.branch3x3_1", x), 2)
        seven = self.conv(f"{b}.branch7x7x3_2", self.conv(f"{b}.branch7x7x3_1", x), pad=(0, 3))
        seven = self.conv(f"{b}.branch7x7x3_4", self.conv(f"{b}.branch7x7x3_3", seven, pad=(3, 0)), 2)
        return np.concatenate([three, seven, self.halve(x)], 1)

    def e(self, b, x, pool):
        three = self.conv(f"{b}.branch3x3_1", x)
        double = self.conv(f"{b}.branch3x3dbl_2", self.conv(f"{b}.branch3x3dbl_1", x), pad=(1, 1))
        return np.concatenate([
            self.conv(f"{b}.branch1x1", x), self.conv(f"{b}.branch3x3_2a", three, pad=(0, 1)),
            self.conv(f"{b}.branch3x3_2b", three, pad=(1, 0)), self.conv(f"{b}.branch3x3dbl_3a", double, pad=(0, 1)),
            self.conv(f"{b}.branch3x3dbl_3b", double, pad=(1, 0)), self.conv(f"{b}.branch_pool", pool(x))], 1)

    def __call__(self, x):
        x = self.conv("Conv2d_2a_3x3", self.conv("Conv2d_1a_3x3", x, 2))
        x = self.halve(self.conv("Conv2d_2b_3x3", x, pad=(1, 1)))
        x = self.halve(self.conv("Conv2d_4a_3x3", self.conv("Conv2d_3b_1x1", x)))
        for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
            x = self.a(name, x)
        x = self.b("Mixed_6a", x)
        for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
            x = self.c(name, x)
        x = self.e("Mixed_7b", self.d("Mixed_7a", x), self.average)
        return self.e("Mixed_7c", x, self.highest).mean((2, 3))


def test_the_network_is_its_numpy_twin(state):
    x = np.random.default_rng(1).uniform(-1, 1, (2, 95, 83, 3)).astype(np.float32)
    found = np.asarray(jax.jit(inception.network)(inception.weights_of(state, "f"), x))
    expected = Twin(state)(x.transpose(0, 3, 1, 2))
    assert found.shape == (2, inception.FEATURES // WIDTH)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-3 * np.abs(expected).max())
    assert np.abs(expected[0] - expected[1]).max() > 0.01 * np.abs(expected).max()


def test_the_table_of_layers_is_that_of_the_real_network():
    assert sorted(inception._layers()) == sorted(channels()) and len(channels()) == 94


@pytest.mark.parametrize("side", [9, 20])
def test_images_are_resized_as_pytorch_does(side):
    """Bilinear, align_corners=False, antialias=False: places (i + 1/2) scale - 1/2, held to the image."""
    images = np.random.default_rng(2).integers(0, 256, (2, side, side, 3), np.uint8)
    size = 13
    places = np.clip((np.arange(size) + 0.5) * side / size - 0.5, 0, side - 1)
    low = np.floor(places).astype(int)
    high, part = np.minimum(low + 1, side - 1), places - low
    x = images / 255.0
    x = x[:, low] * (1 - part)[None, :, None, None] + x[:, high] * part[None, :, None, None]
    x = x[:, :, low] * (1 - part)[None, None, :, None] + x[:, :, high] * part[None, None, :, None]
    np.testing.assert_allclose(inception.preprocess(images, size), 2 * x - 1, atol=1e-5)


def torch_modules(monkeypatch):
    """Modules with the names that a file of PyTorch's mentions."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})

    def _rebuild_tensor_v2(*arguments):
        raise AssertionError("called")

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    torch._utils = utils
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return torch


def pickled(torch, state):
    """The pickle of a state dict, whose numbers lie beside it."""
    class Storage:
        def __init__(self, key, count):
            self.identity = ("storage", torch.FloatStorage, key, "cpu", count)

    class Tensor:
        def __init__(self, key, value):
            self.key, self.value = key, value

        def __reduce__(self):
            strides = tuple(s // 4 for s in self.value.strides)
            storage = Storage(self.key, self.value.size)
            return torch._utils._rebuild_tensor_v2, (storage, 0, self.value.shape, strides, False, collections.OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return value.identity if isinstance(value, Storage) else None

    file = io.BytesIO()
    tensors = collections.OrderedDict((name, Tensor(str(i), value)) for i, (name, value) in enumerate(state.items()))
    Pickler(file, 2).dump(tensors)
    return file.getvalue()


def saved(torch, state, old):
    """A file of torch.save."""
    if not old:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", pickled(torch, state))
            for i, value in enumerate(state.values()):
                archive.writestr(f"archive/data/{i}", value.tobytes())
        return file.getvalue()
    heads = [pickle.dumps(head, 2) for head in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    keys = pickle.dumps([str(i) for i in range(len(state))], 2)
    numbers = [struct.pack("<q", value.size) + value.tobytes() for value in state.values()]
    return b"".join([*heads, pickled(torch, state), keys, *numbers])


@pytest.mark.parametrize("old", [False, True])
def test_state_dicts_are_read_in_both_layouts(old, tmp_path, monkeypatch):
    torch = torch_modules(monkeypatch)
    rng = np.random.default_rng(3)
    state = {"a.weight": rng.normal(size=(3, 2, 5)).astype(np.float32), "b": rng.normal(size=7).astype(np.float32)}
    content = saved(torch, state, old)
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    found = read_state_dict(path)
    assert list(found) == list(state)
    for name, value in state.items():
        np.testing.assert_array_equal(found[name], value)
    path.write_bytes(content[:-9])
    with pytest.raises(FpganError, match="damaged, truncated"):
        read_state_dict(path)


def test_files_that_call_something_else_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00echo\x85R.")
    with pytest.raises(FpganError, match=r"asks for os.system.*Nothing in it was executed"):
        read_state_dict(path)


def test_a_file_of_another_network_is_named(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    path.write_bytes(saved(torch_modules(monkeypatch), {"conv1.weight": np.ones((2, 3), np.float32)}, False))
    with pytest.raises(FpganError, match="holds no Conv2d_1a_3x3.conv.weight; expected a state dict of the 2015"):
        inception.open_inception(path)


def test_the_extractor_takes_images_of_any_number(state, tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    path.write_bytes(saved(torch_modules(monkeypatch), state, True))
    monkeypatch.setattr(inception, "SIZE", 75)
    monkeypatch.setattr(inception.preprocess, "__defaults__", (75,))
    inception._compiled.cache_clear()
    extractor = inception.open_inception(path)
    images = np.random.default_rng(4).integers(0, 256, (9, 16, 16, 3), np.uint8)
    found = extractor.extract(images)
    assert found.shape == (9, inception.FEATURES // WIDTH) and extractor.name == "inception-2015"
    np.testing.assert_allclose(extractor.extract(images[8:]), found[8:], rtol=1e-4, atol=1e-5)
    inception._compiled.cache_clear()
