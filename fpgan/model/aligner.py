"""The aligner of a model: trained when all else is, on images that the model makes itself.

The network of networks/alignment.py learns from views (perturbations/views.py) of generated images with random fingerprints
to name the homography of each. No training image is used, so that a model of any origin can be given one. What it finds is
decided by the image alone, never by a registry: the p-value of what is read at its answer needs no factor.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fpgan.errors import FpganError
from fpgan.model.format import about_aligner
from fpgan.model.model import Model
from fpgan.networks.alignment import CORNERS, MOST_PIXELS, Aligner, corners_of, locate, project, reduced
from fpgan.networks.levels import to_float
from fpgan.perturbations.views import draw_views

LEAST_IMAGES = 64
_LEAST_PIXELS = 32  # side of what an aligner sees, if the model's images are so large; else half of them, up to MOST_PIXELS
VIEWS = 12  # of each image
BATCH = 64
HELD_OUT = 512
_LEARNING_RATE = 3e-3
_WARM_UP = 0.03  # share of the steps
_TURN_WEIGHT = 0.1  # of the turn's cross entropy, beside the corners' error in halves of the picture's side
_STREAM = 5  # of random numbers, apart from those of training and of the readout


class _State(NamedTuple):
    params: dict
    optimizer: tuple


def fit_aligner(model: Model, images: int, steps: int = 0, seed: int = 0,
                progress: Callable[[int, int], None] = lambda done, total: None) -> tuple[Aligner, dict, dict]:
    """Trains an aligner for a model.

    Adam (Kingma and Ba 2015) with a warm-up and cosine decay minimises the L1 distance of the corners, relative to the size
    of the picture, and the cross entropy of the turn.

    Args:
      model: whose images it shall align.
      images: how many to generate; as many as HELD_OUT more are kept to measure it.
      steps: of BATCH views; 0 for VIEWS views of each image.
      seed: of fingerprints, latents, views and initial weights; equal seeds give equal aligners on one device.
      progress: is given the numbers of views done and in all.

    Returns:
      The network; its parameters, a nested dict of float32 arrays; and what config.json says of it: the fields of the
      network, "images", "views", "seed", and on views of images held out the mean distance of the corners in pixels of the
      model's images, "median_pixels" and "most_pixels" (of 95%), and the share of right turns, "turns".

    Raises:
      FpganError: fewer than LEAST_IMAGES images.
    """
    if images < LEAST_IMAGES:
        raise FpganError(f"there are {images} images to train an aligner on; expected {LEAST_IMAGES} or more")
    steps = steps or -(-images * VIEWS // BATCH)
    pictures = _pictures(model, images + HELD_OUT, seed)
    network = Aligner(pictures.shape[1])
    params, key = train(network, pictures[:images], steps, seed, progress)
    errors, right = measure(network, params, pictures[images:], key)
    pixels = errors * model.resolution / 2
    about = about_aligner(network) | {
        "images": images, "views": steps * BATCH, "seed": seed, "median_pixels": round(float(np.median(pixels)), 3),
        "most_pixels": round(float(np.quantile(pixels, 0.95)), 3), "turns": round(float(right.mean()), 4)}
    return network, params, about


def train(aligner: Aligner, pictures: np.ndarray, steps: int, seed: int,
          progress: Callable[[int, int], None] = lambda done, total: None) -> tuple[dict, jax.Array]:
    """Trains an aligner on pictures.

    Args:
      aligner: the network.
      pictures: uint8 [N, S, S, C], N >= 1.
      steps: of BATCH views.
      seed: of everything that is drawn.
      progress: see fit_aligner.

    Returns:
      The parameters, and a random key for what comes after.
    """
    import optax

    start, views, after = jax.random.split(jax.random.key(seed, impl="threefry2x32"), 3)
    params = aligner.init(start, jnp.zeros((1, *pictures.shape[1:])))["params"]
    warm_up = math.ceil(_WARM_UP * steps)
    rate = optax.warmup_cosine_decay_schedule(0.0, _LEARNING_RATE, warm_up, max(steps, warm_up + 1))
    optimizer = optax.adam(rate, b2=0.99)
    state = _State(params, optimizer.init(params))
    step = jax.jit(functools.partial(_step, aligner, optimizer), donate_argnums=0)
    rng = np.random.default_rng([seed, _STREAM, 1])
    for number in range(steps):
        batch = pictures[rng.integers(0, len(pictures), BATCH)]
        state, _ = step(state, batch, jax.random.fold_in(views, number))
        if (number + 1) % 50 == 0 or number + 1 == steps:
            jax.block_until_ready(state)
            progress((number + 1) * BATCH, steps * BATCH)
    return state.params, after


def measure(aligner: Aligner, params: dict, pictures: np.ndarray, key: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Measures an aligner on a view of each picture.

    Args:
      aligner: the network.
      params: of it.
      pictures: uint8 [N, S, S, C].
      key: of the views.

    Returns:
      The mean distance [N] of the four corners from where they are, in halves of the image's side; and whether each is
      nearest to its own, bool [N].
    """
    @jax.jit
    def compare(batch, keys):
        views, quadrangles, turns = draw_views(to_float(batch), keys)
        found = project(locate(aligner, params, views), jnp.asarray(CORNERS))  # [N, 4, 2]
        pairs = jnp.linalg.norm(found[:, :, None] - corners_of(quadrangles, turns)[:, None], axis=-1)  # [N, 4, 4]
        own = jnp.diagonal(pairs, axis1=1, axis2=2)
        return own.mean(axis=1), (own <= pairs.min(axis=2)).all(axis=1)

    parts = [compare(pictures[start:start + BATCH], jax.random.split(jax.random.fold_in(key, start), len(
        pictures[start:start + BATCH]))) for start in range(0, len(pictures), BATCH)]
    errors, right = zip(*parts, strict=True)
    return np.concatenate(errors), np.concatenate(right)


def _pictures(model: Model, count: int, seed: int) -> np.ndarray:
    """What the model makes with random fingerprints, at the aligner's size: uint8 [N, S, S, C]."""
    rng = np.random.default_rng([seed, _STREAM])
    size, parts = min(model.resolution, MOST_PIXELS, max(_LEAST_PIXELS, model.resolution // 2)), []
    for start in range(0, count, 1024):
        bits = rng.integers(0, 2, (min(1024, count - start), model.n_bits), np.uint8)
        images = model.generate(bits, rng.integers(0, 2**32, len(bits), np.uint32), batch_size=32)
        parts.append(np.asarray(jnp.round(reduced(images.astype(np.float32), size))).astype(np.uint8))
    return np.concatenate(parts)


def _losses(aligner: Aligner, params: dict, pictures: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draws a view of each picture, and compares: distances of corners [N], cross entropies of turns [N]."""
    views, quadrangles, turns = draw_views(to_float(pictures), jax.random.split(key, len(pictures)))
    found, logits = aligner.apply({"params": params}, views)
    sizes = jnp.linalg.norm(quadrangles[:, 2] - quadrangles[:, 0], axis=-1) / math.sqrt(8)
    distances = jnp.mean(jnp.abs(found - quadrangles), axis=(1, 2)) / sizes
    return distances, -jnp.take_along_axis(jax.nn.log_softmax(logits), turns[:, None], axis=1)[:, 0]


def _step(aligner: Aligner, optimizer, state: _State, pictures: jax.Array, key: jax.Array) -> tuple[_State, jax.Array]:
    """One step of Adam on a view of each picture."""
    def loss(params):
        distances, entropies = _losses(aligner, params, pictures, key)
        return jnp.mean(distances) + _TURN_WEIGHT * jnp.mean(entropies)

    value, gradient = jax.value_and_grad(loss)(state.params)
    updates, slots = optimizer.update(gradient, state.optimizer)
    return _State(jax.tree.map(jnp.add, state.params, updates), slots), value
