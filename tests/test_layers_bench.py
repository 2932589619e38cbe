"""Single layers are timed beside PyTorch's, which runs elsewhere and has to compute the same."""

import importlib.util
import json
import sys

import pytest

from fpgan.benchmarks import layers
from fpgan.benchmarks.bench import bench, table
from fpgan.benchmarks.timing import Settings
from fpgan.errors import FpganError
from fpgan.networks.config import NetworkConfig

TINY = NetworkConfig(resolution=8, channel_base=16, channel_max=8, fingerprint_bits=16, latent_size=8, style_size=8)
HAS_TORCH = importlib.util.find_spec("torch") is not None


def interpreter(tmp_path, code):
    """Makes a program that stands in for a Python with PyTorch."""
    path = tmp_path / "python"
    path.write_text(f"#!{sys.executable}\n{code}\n")
    path.chmod(0o755)
    return str(path)


def test_every_layer_is_timed_both_ways():
    results = bench(["layers"], TINY, Settings(batches=(2,), repeats=2))
    rows = results["layers"]["rows"]
    assert [(row["layer"], row["way"]) for row in rows] == [(name, way) for name in layers.LAYERS for way in layers.WAYS]
    assert all(row["seconds"] > 0 and row["torch"] is None and row["ratio"] is None for row in rows)
    shown = table(results)
    assert "layers: 8x8" in shown and shown.count("not run") == 16 and max(map(len, shown.splitlines())) <= 100


def test_shapes_are_those_of_the_network():
    network = NetworkConfig(resolution=64, channel_base=4096, channel_max=256)
    shapes = layers.layer_shapes(network, 3)
    assert shapes["conv_up"] == ((3, 32, 32, 256), (3, 3, 256, 128))
    assert shapes["skip"] == ((3, 64, 64, 128), (1, 1, 128, 256))


def test_what_answers_is_timed_in_turns(tmp_path):
    honest = layers._arrays(layers.layer_shapes(TINY, 2), 0, tmp_path)
    norms = layers._programs(honest)[1]
    code = ("import json, sys\n"
            f"print({json.dumps(json.dumps({'version': '9.9', 'layouts': ['NCHW', 'NHWC'], 'norms': norms}))}, flush=True)\n"
            "for line in sys.stdin: print(flush=True)")
    results = bench(["layers"], TINY, Settings(batches=(2,), repeats=3, torch=interpreter(tmp_path, code)))
    assert results["layers"]["torch"] == "9.9"
    assert all(row["ratio"] > 0 and set(row["torch"]) == {"NCHW", "NHWC"} for row in results["layers"]["rows"])
    assert "PyTorch 9.9" in table(results)


def test_another_function_is_not_timed(tmp_path):
    norms = {name: [0.0, 0.0, 0.0] for name in layers.LAYERS}
    code = f"print({json.dumps(json.dumps({'version': '9.9', 'layouts': ['NCHW'], 'norms': norms}))})"
    with pytest.raises(FpganError, match="another function in PyTorch"):
        bench(["layers"], TINY, Settings(batches=(2,), repeats=1, torch=interpreter(tmp_path, code)))


def test_who_has_no_pytorch_is_told_what_to_give(tmp_path):
    for python, told in ((str(tmp_path / "none"), "cannot be run"),
                         (interpreter(tmp_path, "raise ModuleNotFoundError('no torch')"), "no torch; --torch is")):
        with pytest.raises(FpganError, match=told):
            bench(["layers"], TINY, Settings(batches=(2,), repeats=1, torch=python))


@pytest.mark.skipif(not HAS_TORCH, reason="needs torch, which fpgan does not")
def test_pytorch_computes_the_same_layers():
    results = bench(["layers"], TINY, Settings(batches=(2,), repeats=1, torch=sys.executable))
    assert all(row["ratio"] > 0 for row in results["layers"]["rows"])
