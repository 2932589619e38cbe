"""The authors' pickles are read without executing anything; what is no such file is refused on one line."""

import io
import os
import pickle
import re
import struct
import tracemalloc
import types

import numpy as np
import pytest
from official_pickles import ORACLES, Network, dump, edited, networks, part

from fpgan.cli import app
from fpgan.io.unpickle import read_networks


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "official.pkl").write_bytes(dump(networks(ORACLES[0])))
    return tmp_path


@pytest.mark.parametrize("protocol, old_numpy", [(3, False), (3, True), (4, False), (5, False)])
def test_pickles_of_every_kind_give_the_same_arrays(tmp_path, protocol, old_numpy):
    content = dump(networks(ORACLES[0]), protocol)
    if old_numpy:
        assert b"numpy._core." in content
        content = content.replace(b"numpy._core.", b"numpy.core.")
    (tmp_path / "official.pkl").write_bytes(content)
    read = read_networks(tmp_path / "official.pkl")
    assert [network.name for network in read] == ["E", "G", "D", "G"]
    assert read[3].components["synthesis"].arguments["architecture"] == "skip"
    for title, network in (("E", read[0]), ("D", read[2]), ("G", read[3]), *(
            (f"G_{key}", component) for key, component in read[3].components.items())):
        expected = part(ORACLES[0], f"vars:{title}/")
        assert list(expected) == list(network.variables)
        for key, value in expected.items():
            np.testing.assert_array_equal(network.variables[key], value, strict=True)


def test_arrays_of_other_types_and_orders_are_read(tmp_path):
    arrays = [np.arange(6, dtype=">f4").reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)),
              np.arange(4, dtype=np.float16)[::2], np.array(7, np.int32)]
    network = Network("N", {}, [(str(i), array) for i, array in enumerate(arrays)])
    for protocol in (3, 5):
        (tmp_path / "n.pkl").write_bytes(dump((network,), protocol))
        for array, read in zip(arrays, read_networks(tmp_path / "n.pkl")[0].variables.values(), strict=True):
            np.testing.assert_array_equal(array, read)
            assert read.dtype.kind == array.dtype.kind


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def with_argument(value):
    """A whole model with one more static argument."""
    changed = networks(ORACLES[0])
    changed[0].state["static_kwargs"] = changed[0].state["static_kwargs"] | {"num_channels": value}
    return dump(changed)


def array_call(shape, data, code="f4"):
    """The instructions that rebuild an array, with a shape and a content that may not fit."""
    pickler = io.BytesIO()
    pickler.write(pickle.PROTO + b"\4cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85C\1btR(K\1")
    for item in (shape, np.dtype(code), False, data):
        pickler.write(pickle.dumps(item, 4)[11 if len(pickle.dumps(item, 4)) > 14 else 2:-1])
    return pickler.getvalue() + b"tb."


def evil_module_class():
    """A class of the authors' module that is not Network."""
    return pickle.PROTO + b"\4cdnnlib.tflib.network\nTensor\n)\x81."


HUGE = 1 << 40
HOSTILE = {
    "os.system": (lambda: pickle.dumps(Calls(os.system, "touch harm")), "system"),
    "inside a model": (lambda: with_argument(Calls(os.system, "touch harm")), "system"),
    "eval": (lambda: pickle.dumps(Calls(eval, "open('harm', 'w')")), "builtins.eval"),
    "protocol 0": (lambda: pickle.dumps(Calls(os.system, "touch harm"), 0), "system"),
    "inst": (lambda: b"(S'touch harm'\nios\nsystem\n.", "os.system|instruction STRING"),
    "code object": (lambda: pickle.PROTO + b"\4cbuiltins\ncompile\n(\x8c\1x\x8c\1x\x8c\4evaltR.", "builtins.compile"),
    "code type": (lambda: pickle.PROTO + b"\4ctypes\nCodeType\n.", "CodeType"),
    "getattr": (lambda: pickle.dumps(Calls(getattr, "", "format")), "builtins.getattr"),
    "numpy.load": (lambda: pickle.dumps(np.load), "numpy.load"),
    "attribute of an allowed class": (lambda: pickle.PROTO + b"\4\x8c\5numpy\x8c\x0fndarray.tofile_\x93.", "ndarray.tofile"),
    "another class": (lambda: pickle.dumps(types.SimpleNamespace(a=1)), "types.SimpleNamespace"),
    "another class of the module": (evil_module_class, r"dnnlib\.tflib\.network\.Tensor"),
    "a name over lines": (lambda: pickle.PROTO + b"\4\x8c\3a\nb\x8c\3c\nd\x93.", r"a\\nb"),
    "call of the class": (lambda: pickle.PROTO + b"\4cdnnlib.tflib.network\nNetwork\n)R.", "may be called"),
    "object array": (lambda: pickle.dumps(np.array([1, "a"], object)), "of the type 'O8'"),
    "structured array": (lambda: pickle.dumps(np.zeros(2, "f4,f4")), "of the type 'V8'"),
    "huge array": (lambda: array_call((HUGE,), b"1234"), "1099511627776 numbers with 4 bytes"),
    "huge zero-sized array": (lambda: array_call((HUGE, 0), b""), "positive sizes"),
    "huge bytes": (lambda: pickle.PROTO + b"\4\x8e" + struct.pack("<Q", HUGE) + b"1234.", "truncated"),
    "huge bytearray": (lambda: pickle.PROTO + b"\5\x96" + struct.pack("<Q", HUGE) + b"1234.", "truncated"),
    "huge memo": (lambda: pickle.PROTO + b"\4Nr" + struct.pack("<I", 2**32 - 1) + b".", "holds None"),
    "huge integer": (lambda: pickle.dumps(1 << 100_000), "integer of 100,001 bits"),
    "many instructions": (lambda: pickle.PROTO + b"\4" + b"N" * 1_100_000 + b".", "1,000,000 instructions"),
    "exponential structure": (lambda: pickle.PROTO + b"\4)" + b"\x94h\0\x86" * 200 + b".", "holds a tuple of 2"),
    "persistent id": (lambda: pickle.PROTO + b"\4NQ.", "BINPERSID"),
    "extension": (lambda: pickle.PROTO + b"\4\x82\1.", "EXT1"),
    "empty file": (lambda: b"", "damaged, truncated or no pickle"),
    "text": (lambda: b"version https://git-lfs.github.com/spec/v1\n", "no pickle|instruction"),
    "no network": (lambda: pickle.dumps({"a": 1}), "holds a dict of 1"),
    "three networks": (lambda: dump(networks(ORACLES[0])[:3]), "3 networks; expected the four"),
    "old version": (lambda: edited(lambda n: n[1].state.update(version=1)), "version 1"),
    "state is no dict": (lambda: pickle.PROTO + b"\4cdnnlib.tflib.network\nNetwork\n)\x81K\1b.", "with 1 as its state"),
    "variable is no array": (lambda: edited(lambda n: n[0].state.update(variables=[("a", "b")])), "'a' .* is 'b'"),
}


def check_refused(folder, content, capsys):
    """Imports with the command line; asserts that it is refused on one line and leaves nothing. Returns the line."""
    (folder / "bad.pkl").write_bytes(content)
    before = sorted(folder.iterdir())
    assert app.main(["import-official", str(folder / "bad.pkl"), "--out", str(folder / "out/model")]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("fpgan import-official: error: ") and captured.err.count("\n") == 1
    assert sorted(folder.iterdir()) == before
    return captured.err


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_and_leaves_nothing(kind, tmp_path, monkeypatch, capsys):
    make, message = HOSTILE[kind]
    content = make()
    monkeypatch.chdir(tmp_path)
    tracemalloc.start()
    line = check_refused(tmp_path, content, capsys)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert re.search(message, line), line
    assert peak < 30e6


def test_a_file_truncated_anywhere_is_refused(folder, capsys):
    content = (folder / "official.pkl").read_bytes()
    for end in (1, 2, 11, 100, 1000, len(content) // 2, len(content) - 1):
        assert "truncated" in check_refused(folder, content[:end], capsys)


def test_damaged_bytes_never_give_a_traceback(folder, capsys):
    rng = np.random.default_rng(0)
    content = np.frombuffer((folder / "official.pkl").read_bytes()[:3000], np.uint8)
    for _ in range(300):
        damaged = content.copy()
        damaged[rng.integers(0, len(content), 3)] = rng.integers(0, 256, 3)
        check_refused(folder, damaged.tobytes(), capsys)


def change(network, variables=None, remove=(), rename=None, **arguments):
    """Changes one of the networks: arrays set, removed or renamed, static arguments set."""
    def edit(networks):
        decoder, _, discriminator, generator = networks
        targets = {"E": decoder, "D": discriminator, "G": generator} | generator.state["components"]
        state = targets[network].state
        arrays = dict(state["variables"]) | (variables or {})
        names = {name: (rename or {}).get(name, name) for name in arrays if name not in remove}
        state["variables"] = [(new, arrays[old]) for old, new in names.items()]
        state["static_kwargs"] = state["static_kwargs"] | arguments
    return lambda: edited(edit)


OTHER_ARCHITECTURES = {
    "residual generator": (change("synthesis", architecture="resnet"), "generator has the architecture 'resnet'"),
    "original discriminator": (change("D", architecture="orig"), "discriminator has the architecture 'orig'"),
    "skip decoder": (change("E", architecture="skip"), "decoder has the architecture 'skip'"),
    "progressive growing": (change("synthesis", rename={f"{r}x{r}/ToRGB/weight": f"ToRGB_lod{i}/weight"
                                                        for i, r in enumerate((16, 8, 4))}),
                            "no RGB layer .* no progressive growing"),
    "ReLU": (change("D", nonlinearity="relu"), "nonlinearity 'relu'"),
    "another filter": (change("E", resample_kernel=[1, 2, 1]), "resample_kernel a list of 3"),
    "unknown argument": (change("G", attention=True), "unknown argument 'attention'"),
    "without skip": (change("E", remove=["8x8/Skip/weight"]), "decoder has no array '8x8/Skip/weight'"),
    "one array more": (change("D", variables={"8x8/Attention": np.ones(3, np.float32)}), "Attention. too many"),
    "another shape": (change("E", variables={"8x8/Conv0/weight": np.ones((3, 3, 16, 8), np.float32)}),
                      "'8x8/Conv0/weight' .* shape"),
    "linear mapping": (change("mapping", remove=[f"Dense{i}/{leaf}" for i in range(1, 8) for leaf in ("weight", "bias")]),
                       "mapping has 1 layers"),
    "gap in the modulation": (change("synthesis", variables={
        "4x4/ToRGB/mod_weight": np.ones((16, 32), np.float32), "4x4/ToRGB/mod_bias": np.ones(32, np.float32),
        "16x16/ToRGB/mod_weight": np.ones((16, 8), np.float32)}), "modulated from 4 to 16|has no array"),
    "not finite": (change("D", variables={"Output/bias": np.array([np.nan], np.float32)}), "not finite"),
    "wrong bits": (change("E", watermark_size=9), "watermark_size 9, but its arrays are of a model with 8"),
    "wrong range": (change("synthesis", res_modulated_max_log2=4), "modulated from 8 to 8"),
    "wider mapping": (change("mapping", mapping_fmaps=32), "mapping_fmaps 32"),
}


@pytest.mark.parametrize("kind", OTHER_ARCHITECTURES)
def test_another_architecture_is_refused(kind, tmp_path, capsys):
    make, message = OTHER_ARCHITECTURES[kind]
    line = check_refused(tmp_path, make(), capsys)
    assert re.search(message, line), line
