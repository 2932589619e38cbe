"""The Inception network of 2015 over which the Frechet inception distance (FID, Heusel et al. 2017) is defined.

Its weights are in no package registry: a user supplies the published PyTorch conversion of them, a state dict such as
pt_inception-2015-12-05-6726825d.pth. The network differs from the usual Inception-v3 (Szegedy et al. 2016) as that one does:
averages leave out what lies beyond the border, and the last block has a maximum in place of an average.

Images are resized to 299 x 299 (bilinear, half-pixel centres, no antialiasing) and brought to [-1, 1], as in the PyTorch
implementation of the distance.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fpgan.errors import FpganError
from fpgan.evaluation.features import Extractor
from fpgan.io.torch_file import read_state_dict

if TYPE_CHECKING:
    import jax

SIZE = 299
FEATURES = 2048
_EPSILON = 1e-3  # of batch normalisation
_BATCH = 8
_PARTS = {"conv.weight": "kernel", "bn.weight": "scale", "bn.bias": "shift", "bn.running_mean": "mean",
          "bn.running_var": "variance"}
_BLOCKS = {  # the kind of each block, in order
    "Mixed_5b": "a", "Mixed_5c": "a", "Mixed_5d": "a", "Mixed_6a": "b", "Mixed_6b": "c", "Mixed_6c": "c", "Mixed_6d": "c",
    "Mixed_6e": "c", "Mixed_7a": "d", "Mixed_7b": "e", "Mixed_7c": "e_max"}
# The branches of each kind: convolutions in sequence, as (name, stride, padding of rows and columns), and pools by name. A
# list within a branch forks: its parts see the same input and are joined.
_FORK3 = [("branch3x3_2a", 1, (0, 1)), ("branch3x3_2b", 1, (1, 0))]
_FORK3DBL = [("branch3x3dbl_3a", 1, (0, 1)), ("branch3x3dbl_3b", 1, (1, 0))]
_E = ([("branch1x1", 1, (0, 0))], [("branch3x3_1", 1, (0, 0)), _FORK3],
      [("branch3x3dbl_1", 1, (0, 0)), ("branch3x3dbl_2", 1, (1, 1)), _FORK3DBL])
_POOLED = [("branch_pool", 1, (0, 0))]
_BRANCHES = {
    "a": ([("branch1x1", 1, (0, 0))], [("branch5x5_1", 1, (0, 0)), ("branch5x5_2", 1, (2, 2))],
          [("branch3x3dbl_1", 1, (0, 0)), ("branch3x3dbl_2", 1, (1, 1)), ("branch3x3dbl_3", 1, (1, 1))],
          ["average", *_POOLED]),
    "b": ([("branch3x3", 2, (0, 0))],
          [("branch3x3dbl_1", 1, (0, 0)), ("branch3x3dbl_2", 1, (1, 1)), ("branch3x3dbl_3", 2, (0, 0))], ["halve"]),
    "c": ([("branch1x1", 1, (0, 0))],
          [("branch7x7_1", 1, (0, 0)), ("branch7x7_2", 1, (0, 3)), ("branch7x7_3", 1, (3, 0))],
          [("branch7x7dbl_1", 1, (0, 0)), ("branch7x7dbl_2", 1, (3, 0)), ("branch7x7dbl_3", 1, (0, 3)),
           ("branch7x7dbl_4", 1, (3, 0)), ("branch7x7dbl_5", 1, (0, 3))], ["average", *_POOLED]),
    "d": ([("branch3x3_1", 1, (0, 0)), ("branch3x3_2", 2, (0, 0))],
          [("branch7x7x3_1", 1, (0, 0)), ("branch7x7x3_2", 1, (0, 3)), ("branch7x7x3_3", 1, (3, 0)),
           ("branch7x7x3_4", 2, (0, 0))], ["halve"]),
    "e": (*_E, ["average", *_POOLED]),
    "e_max": (*_E, ["maximum", *_POOLED]),
}
_STEM = (("Conv2d_1a_3x3", 2, (0, 0)), ("Conv2d_2a_3x3", 1, (0, 0)), ("Conv2d_2b_3x3", 1, (1, 1)), "halve",
         ("Conv2d_3b_1x1", 1, (0, 0)), ("Conv2d_4a_3x3", 1, (0, 0)), "halve")


def open_inception(path: str | os.PathLike) -> Extractor:
    """Opens the network with the weights of a file.

    Args:
      path: a PyTorch state dict of it.

    Returns:
      The extractor "inception-2015": uint8 [N, R, R, 3] -> float32 [N, 2048].

    Raises:
      FpganError: the file cannot be read, or is no state dict of this network.
    """
    weights = weights_of(read_state_dict(path), path)
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return Extractor("inception-2015", FEATURES, functools.partial(_extract, weights=weights),
                     f"{Path(path).name}, sha256 {digest[:16]}")


def weights_of(state: Mapping[str, np.ndarray], path: str | os.PathLike) -> dict[str, dict[str, np.ndarray]]:
    """Takes each convolution from a state dict: layer -> kernel [h, w, I, O], and scale, shift, mean, variance [O].

    Raises:
      FpganError: one is missing or of another shape.
    """
    weights: dict[str, dict[str, np.ndarray]] = {}
    for layer in _layers():
        for part, name in _PARTS.items():
            if f"{layer}.{part}" not in state:
                raise FpganError(f"{path}: holds no {layer}.{part}; expected a state dict of the 2015 Inception network, "
                                 "such as pt_inception-2015-12-05-6726825d.pth")
            weights.setdefault(layer, {})[name] = np.asarray(state[f"{layer}.{part}"], np.float32)
        kernel = weights[layer]["kernel"]
        if kernel.ndim != 4 or any(weights[layer][name].shape != kernel.shape[:1] for name in list(_PARTS.values())[1:]):
            raise FpganError(f"{path}: {layer} has the shape {list(kernel.shape)}; expected a convolution with its norm")
        weights[layer]["kernel"] = kernel.transpose(2, 3, 1, 0)  # [O, I, h, w] -> [h, w, I, O]
    return weights


def _layers() -> list[str]:
    """Names all convolutions."""
    def flat(steps):
        for step in steps:
            if isinstance(step, tuple):
                yield step[0]
            elif isinstance(step, list):
                yield from flat(step)

    return [*flat(_STEM), *(f"{block}.{name}" for block, kind in _BLOCKS.items()
                            for branch in _BRANCHES[kind] for name in flat(branch))]


def _extract(images: np.ndarray, *, weights: dict) -> np.ndarray:
    """Runs the network over uint8 [N, R, R, 3] in batches of one shape, the last padded: float32 [N, 2048]."""
    import jax

    program, weights, outputs = _compiled(), jax.device_put(weights), []
    for start in range(0, len(images), _BATCH):
        batch = images[start:start + _BATCH]
        padded = np.pad(batch, [(0, _BATCH - len(batch))] + [(0, 0)] * 3)
        outputs.append(np.asarray(program(weights, padded))[:len(batch)])
    return np.concatenate(outputs)


@functools.cache
def _compiled():
    import jax

    return jax.jit(lambda weights, images: network(weights, preprocess(images)))


def preprocess(images: np.ndarray | jax.Array, size: int = SIZE):
    """Resizes images and brings them to [-1, 1]: uint8 [N, H, W, 3] -> float32 [N, size, size, 3]."""
    import jax
    import jax.numpy as jnp

    x = images.astype(jnp.float32) / 255
    return 2 * jax.image.resize(x, (len(x), size, size, 3), "linear", antialias=False) - 1


def network(weights: dict, x: jax.Array):
    """Computes the pooled features: float32 [N, H, W, 3] in [-1, 1], 75 pixels a side or more -> float32 [N, 2048]."""
    x = _run(weights, "", _STEM, x)
    for block, kind in _BLOCKS.items():
        x = _joined([_run(weights, f"{block}.", branch, x) for branch in _BRANCHES[kind]])
    return x.mean(axis=(1, 2))


def _run(weights: dict, prefix: str, steps, x):
    """Applies steps in sequence: convolutions, pools by name, forks."""
    for step in steps:
        if isinstance(step, list):
            x = _joined([_run(weights, prefix, [part], x) for part in step])
        elif isinstance(step, str):
            x = _pool(step, x)
        else:
            x = _convolution(weights[prefix + step[0]], x, step[1], step[2])
    return x


def _joined(parts: list):
    import jax.numpy as jnp

    return jnp.concatenate(parts, axis=-1)


def _convolution(layer: dict, x, stride: int, padding: tuple[int, int]):
    """Convolution, batch normalisation by the stored moments, ReLU."""
    import jax
    from jax import lax

    x = lax.conv_general_dilated(x, layer["kernel"], (stride, stride), [(pad, pad) for pad in padding],
                                 dimension_numbers=("NHWC", "HWIO", "NHWC"))
    factor = layer["scale"] * lax.rsqrt(layer["variance"] + _EPSILON)
    return jax.nn.relu((x - layer["mean"]) * factor + layer["shift"])


def _pool(kind: str, x):
    """Pools over 3 x 3: "halve" (maximum at stride 2, no padding), "maximum" and "average" (at stride 1, size kept)."""
    import jax.numpy as jnp
    from jax import lax

    window, same = (1, 3, 3, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
    if kind == "halve":
        return lax.reduce_window(x, -jnp.inf, lax.max, window, (1, 2, 2, 1), "VALID")
    if kind == "maximum":
        return lax.reduce_window(x, -jnp.inf, lax.max, window, (1, 1, 1, 1), same)
    total, count = (lax.reduce_window(y, 0.0, lax.add, window, (1, 1, 1, 1), same) for y in (x, jnp.ones_like(x)))
    return total / count
