"""How fast single layers are, forward and with their gradients, beside the same layers in plain PyTorch.

PyTorch need not be installed beside fpgan: `torch_layers.py` runs in an environment of the user's, is given the same
arrays, and is called in turns with the layers here. What it computes has to agree.
"""

from __future__ import annotations

import functools
import json
import math
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fpgan.benchmarks.timing import Settings, compile_program, time_interleaved
from fpgan.errors import FpganError
from fpgan.networks.config import NetworkConfig
from fpgan.networks.convolution import conv
from fpgan.networks.resampling import conv_down, conv_up

LAYERS = {"conv": conv, "conv_up": conv_up, "conv_down": conv_down, "skip": conv_down}
WAYS = ("forward", "gradients")  # "gradients": the forward pass, too
_AGREEMENT = 1e-3  # of norms, relative


def bench_layers(network: NetworkConfig, settings: Settings) -> dict:
    """Times the layers of a network's two highest resolutions, with random kernels.

    Args:
      network: the architecture; the widths are the generator's.
      settings: batch sizes, repeats, seed; `torch` is a Python interpreter that has PyTorch, or empty.

    Returns:
      {"rows", "torch"}: a row for each batch size and layer, "forward" and "gradients" (the forward pass and the gradients
      to input and kernel): seconds here, in PyTorch with either layout of memory (None without), and the ratio of the
      faster of these to ours, the median over the turns; "torch" is its version, or None.

    Raises:
      FpganError: the interpreter cannot be run, has no PyTorch, or computes something else.
    """
    rows, version = [], None
    for batch in settings.batches:
        shapes = layer_shapes(network, batch)
        with tempfile.TemporaryDirectory(prefix="fpgan-bench-") as folder:
            arrays = _arrays(shapes, settings.seed, Path(folder))
            calls, norms = _programs(arrays)
            with _peer(settings.torch, folder) as peer:
                if peer is not None:
                    version = peer.facts["version"]
                    _check(norms, peer.facts["norms"])
                    calls |= {(name, way, layout): functools.partial(peer.call, name, way, layout)
                              for name in LAYERS for way in WAYS for layout in peer.facts["layouts"]}
                seconds = time_interleaved(calls, settings.repeats)
        rows += [_row(batch, name, way, shapes[name], seconds) for name in LAYERS for way in WAYS]
    return {"rows": rows, "torch": version}


def layer_shapes(network: NetworkConfig, batch: int) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Returns the shapes of input [N, H, W, I] and kernel [k, k, I, O] of each of LAYERS."""
    side = network.resolution
    wide, narrow = network.width(side // 2), network.width(side)  # the lower resolution has more channels
    large, small = (batch, side, side, narrow), (batch, side // 2, side // 2, wide)
    return {"conv": (large, (3, 3, narrow, narrow)), "conv_up": (small, (3, 3, wide, narrow)),
            "conv_down": (large, (3, 3, narrow, wide)), "skip": (large, (1, 1, narrow, wide))}


def lines(result: dict) -> list[str]:
    """Lays out what `bench_layers` returned as lines of at most 100 columns."""
    found = [f"{'batch':>6} {'layer':<10}{'':<11}{'input':>14}{'channels':>10}{'ms':>9}{'PyTorch NCHW':>14}{'NHWC':>9}"
             f"{'ratio':>8}"]
    for row in result["rows"]:
        size = "x".join(map(str, row["input"][1:3]))
        peers = [row["torch"].get(layout) for layout in ("NCHW", "NHWC")] if row["torch"] else [None, None]
        told = [f"{1e3 * x:.1f}" if x is not None else "not run" for x in peers]
        ratio = f"{row['ratio']:.2f}" if row["ratio"] else "-"
        found.append(f"{row['batch']:>6} {row['layer']:<10}{row['way']:<11}{size:>14}"
                     f"{'{}>{}'.format(row['input'][3], row['outputs']):>10}{1e3 * row['seconds']:>9.1f}{told[0]:>14}"
                     f"{told[1]:>9}{ratio:>8}")
    return [*found, "ratio: how many times as long the faster of PyTorch's two layouts takes"
            + (f" (PyTorch {result['torch']})" if result["torch"] else "; --torch PYTHON measures it")]


def _arrays(shapes: dict, seed: int, folder: Path) -> dict[str, tuple[np.ndarray, ...]]:
    """Draws input, kernel and the gradient to the output of each layer, and leaves them in a folder for PyTorch."""
    rng, arrays = np.random.default_rng(seed), {}
    for name, (x, kernel) in shapes.items():
        output = jax.eval_shape(LAYERS[name], np.empty(x, np.float32), np.empty(kernel, np.float32)).shape
        arrays[name] = tuple(rng.standard_normal(shape, np.float32) for shape in (x, kernel, output))
        arrays[name][1][:] /= math.sqrt(math.prod(kernel[:-1]))
        np.savez(folder / f"{name}.npz", **dict(zip(("x", "kernel", "outer"), arrays[name], strict=True)))
    return arrays


def _programs(arrays: dict) -> tuple[dict[tuple, Callable], dict[str, list[float]]]:
    """Compiles each layer, and computes the norms of its output and of its gradients to input and kernel."""
    calls, norms = {}, {}
    for name, layer in LAYERS.items():
        def gradients(x, kernel, outer, layer=layer):
            output, backward = jax.vjp(layer, x, kernel)
            return output, *backward(outer)

        x, kernel, outer = map(jnp.asarray, arrays[name])
        calls[name, "forward", ""] = compile_program(layer, x, kernel).call
        calls[name, "gradients", ""] = compile_program(gradients, x, kernel, outer).call
        norms[name] = [float(jnp.linalg.norm(result)) for result in calls[name, "gradients", ""]()]
    return calls, norms


class _Peer:
    """PyTorch in another process: `facts` at its start, then one call after the other."""

    def __init__(self, process: subprocess.Popen, python: str):
        """Waits until it has imported PyTorch and computed everything once."""
        self._process, self._python = process, python
        self.facts = json.loads(self._line())

    def call(self, *name: str) -> None:
        """Computes one layer, and returns when it is done."""
        self._process.stdin.write(" ".join(name) + "\n")
        self._process.stdin.flush()
        self._line()

    def _line(self) -> str:
        if line := self._process.stdout.readline():
            return line
        last = self._process.stderr.read().strip().split("\n")[-1]
        raise FpganError(f"{self._python} does not compute the layers with PyTorch: {last}; --torch is the interpreter of "
                         "an environment with torch and numpy")


@contextmanager
def _peer(python: str, folder: str) -> Iterator[_Peer | None]:
    if not python:
        yield None
        return
    script, pipe = Path(__file__).with_name("torch_layers.py"), subprocess.PIPE
    try:
        process = subprocess.Popen([python, script, folder, *LAYERS], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    except OSError as error:
        raise FpganError(f"--torch is {python!r}, which cannot be run ({error.strerror}); expected the interpreter of an "
                         "environment with torch and numpy") from None
    try:
        yield _Peer(process, python)
    finally:
        process.kill()
        process.communicate()


def _check(ours: dict[str, list[float]], theirs: dict[str, list[float]]) -> None:
    for name, norms in ours.items():
        if not np.allclose(norms, theirs[name], rtol=_AGREEMENT):
            raise FpganError(f"{name} is another function in PyTorch: norms {theirs[name]} instead of {norms}; please "
                             "report this")


def _row(batch: int, name: str, way: str, shapes: tuple, seconds: dict) -> dict:
    own = seconds[name, way, ""]
    peers = {layout: times for (layer, of, layout), times in seconds.items() if (layer, of) == (name, way) and layout}
    medians = {layout: statistics.median(times) for layout, times in peers.items()}
    ratio = None
    if peers:
        fastest = peers[min(medians, key=medians.get)]
        ratio = statistics.median(theirs / ours for theirs, ours in zip(fastest, own, strict=True))
    return {"batch": batch, "layer": name, "way": way, "input": list(shapes[0]), "outputs": shapes[1][3],
            "seconds": statistics.median(own), "torch": medians or None, "ratio": ratio}
