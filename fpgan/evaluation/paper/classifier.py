"""A small convolutional classifier of images, trained here and now: what somebody has who owns images but no decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_WIDTHS = (24, 32, 48)
_RATE = 2e-3


class Classifier(NamedTuple):
    """A trained classifier.

    Attributes:
      scores: uint8 [N, R, R, 3] -> float32 [N, classes], logits.
      steps: of training.
    """

    scores: Callable[[np.ndarray], np.ndarray]
    steps: int


def train_classifier(images: np.ndarray, labels: np.ndarray, classes: int, *, epochs: int = 12, batch: int = 64,
                     seed: int = 0, progress: Callable[[int, int], None] = lambda done, total: None) -> Classifier:
    """Trains a small network by Adam: the image and its high-pass, three strided convolutions, the mean over positions.

    High-pass filtering first is what steganalysis does (Fridrich & Kodovsky 2012; Xu et al. 2016): hidden patterns are fine.

    Args:
      images: uint8 [N, R, R, 3].
      labels: int [N], in [0, classes).
      classes: how many.
      epochs: passes over the images, each in another order; images are mirrored or not at random.
      batch: images per step; fewer images than that are one batch.
      seed: of weights and order.
      progress: is given the numbers of steps done and in all.

    Returns:
      A Classifier.
    """
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(seed)
    params = _initial(rng, classes)
    batch = min(batch, len(images))
    steps_an_epoch = len(images) // batch
    total = epochs * steps_an_epoch

    def loss(params, x, y):
        return -jnp.mean(jax.nn.log_softmax(_network(params, x))[jnp.arange(len(y)), y])

    @jax.jit
    def step(params, first, second, number, x, y):
        gradient = jax.grad(loss)(params, x, y)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
        second = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g * g, second, gradient)
        rate = _RATE * jnp.minimum(1.0, 2 * (1 - number / total))  # falls to 0 in the second half
        params = jax.tree.map(lambda p, m, v: p - rate * (m / (1 - 0.9**(number + 1))) / (
            jnp.sqrt(v / (1 - 0.99**(number + 1))) + 1e-8), params, first, second)
        return params, first, second

    first = second = jax.tree.map(jnp.zeros_like, params)
    number = 0
    for _ in range(epochs):
        order = rng.permutation(len(images))
        for start in range(0, steps_an_epoch * batch, batch):
            chosen = order[start:start + batch]
            x = np.where(rng.random(batch)[:, None, None, None] < 0.5, images[chosen], images[chosen][:, :, ::-1])
            params, first, second = step(params, first, second, float(number), x, labels[chosen])
            number += 1
        progress(number, total)
    scores = jax.jit(_network)

    def run(images: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(images), 256):
            part = images[start:start + 256]
            padded = np.pad(part, [(0, 256 - len(part))] + [(0, 0)] * 3)
            parts.append(np.asarray(scores(params, padded))[:len(part)])
        return np.concatenate(parts)

    return Classifier(run, number)


def _initial(rng: np.random.Generator, classes: int) -> dict:
    """Weights by He et al. 2015, the last layer small."""
    params, width = {}, 6
    for layer, features in enumerate(_WIDTHS):
        params[f"kernel{layer}"] = rng.normal(0, (2 / (9 * width)) ** 0.5, (3, 3, width, features)).astype(np.float32)
        params[f"bias{layer}"] = np.zeros(features, np.float32)
        width = features
    params["out"] = rng.normal(0, 0.1 / width**0.5, (2 * width, classes)).astype(np.float32)
    params["out_bias"] = np.zeros(classes, np.float32)
    return params


def _network(params: dict, images):
    """Computes logits: uint8 [N, R, R, 3] -> [N, classes]."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    x = images.astype(jnp.float32) / 127.5 - 1
    around = sum(jnp.roll(x, shift, axis) for axis in (1, 2) for shift in (-1, 1)) / 4
    x = jnp.concatenate([x, 8 * (x - around)], axis=-1)  # [N, R, R, 6]
    for layer in range(len(_WIDTHS)):
        x = lax.conv_general_dilated(x, params[f"kernel{layer}"], (1 + (layer > 0),) * 2, "SAME",
                                     dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.leaky_relu(x + params[f"bias{layer}"], 0.2)
    pooled = jnp.concatenate([x.mean(axis=(1, 2)), x.max(axis=(1, 2))], axis=-1)  # [N, 2 C]
    return pooled @ params["out"] + params["out_bias"]
