"""The decoder's readout, fitted when training is over: least squares from its features to the bits, under perturbations.

Adam, at a learning rate that suits the whole of training, does not leave the best linear readout of what the generator has
come to make. A fit to generated images, perturbed in ways drawn from ranges, finds a better one. What is gained in certainty
can be spent on a weaker fingerprint (NetworkConfig.fingerprint_strength). No training image is used.

The normal equations of a readout that sees every pixel do not fit into memory at the larger resolutions. So the fit runs
conjugate gradients from the readout that there is, and stops where images held out are read best: early stopping is the
ridge (Hansen 1998, chapter 6).
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fpgan.errors import FpganError
from fpgan.model.model import from_params
from fpgan.networks.config import NetworkConfig
from fpgan.networks.decoder import Decoder, readout_weights, with_readout
from fpgan.networks.levels import to_float
from fpgan.perturbations.sampling import parse_ranges, perturb

HELD_OUT = 10  # every tenth batch says where to stop, and what the scale is
BATCH = 500  # images
LEAST_FIT = 1_000  # images to fit a readout to
MOST_STEPS = 60
_PATIENCE = 3  # steps without a better reading of what is held out
_NETWORK_BATCH = 50  # images that the networks see at once
_MOST_BYTES = 8 << 30  # of features in memory


class Examples(NamedTuple):
    """What a readout is fitted to: features [N, P], and bits as -1 and 1 [N, n], float32."""

    features: np.ndarray
    bits: np.ndarray


def fit_readout(config: NetworkConfig, params: dict, count: int, seed: int, perturbations: str = "",
                progress: Callable[[int, int], None] = lambda done, total: None) -> tuple[dict, dict]:
    """Fits how the decoder reads bits out of its features.

    The weights minimise the squared error of [hidden, details, 1] @ weights to the bits as -1 and 1; then they are scaled so
    that the logits are log-odds.

    Args:
      config: the architecture; its fingerprint_strength is that of the images.
      params: {"generator", "decoder"} -> nested dict of arrays.
      count: images to generate, in whole batches, of which every tenth is held out.
      seed: of fingerprints, latents and perturbations.
      perturbations: ranges that they are drawn from, such as "jpeg:40-95@0.5" (perturbations.sampling); empty for none.
      progress: is given the numbers of images done and in all.

    Returns:
      The decoder's new parameters, and what was done: "images", "perturbations", "steps", and "error" [before, after], the
      mean squared error on the images held out.

    Raises:
      FpganError: fewer than LEAST_FIT images, or more features than memory has room for.
    """
    weights = readout_weights(config, params["decoder"])  # [P, n]
    if count < LEAST_FIT:
        raise FpganError(f"there are {count} images to fit a readout to; expected {LEAST_FIT} or more")
    most = _MOST_BYTES // (4 * len(weights))
    if count > most:
        raise FpganError(f"{count:,} images of {len(weights):,} features do not fit into memory; set "
                         f"export.readout_images to {most // BATCH * BATCH:,} or less")
    fitted, held_out = _examples(config, params, count // BATCH, seed, perturbations, progress)
    scales = _feature_scales(fitted.features, len(params["decoder"]["output"]["weight"]))  # [P]
    for examples in (fitted, held_out):
        examples.features[...] *= scales
    start = weights / scales[:, None]
    start *= _best_factor(held_out, start)
    found, steps = _conjugate_gradients(fitted, held_out, start)
    done = {"images": len(fitted.bits) + len(held_out.bits), "perturbations": perturbations, "steps": steps,
            "error": [round(_squared_error(held_out, w), 4) for w in (start, found)]}
    found = found * _log_odds_scale(held_out, found) * scales[:, None]
    return with_readout(config, params["decoder"], found.astype(np.float32)), done


def _examples(config: NetworkConfig, params: dict, batches: int, seed: int, perturbations: str,
              progress: Callable[[int, int], None]) -> tuple[Examples, Examples]:
    """Generates, perturbs and reads images: those to fit to, and those held out."""
    model = from_params(config, params, {})
    extract = jax.jit(functools.partial(_features, config, params["decoder"], parse_ranges(perturbations)))
    size = len(readout_weights(config, params["decoder"]))
    held = -(-batches // HELD_OUT)
    fitted, held_out = (Examples(np.empty((BATCH * n, size), np.float32),
                                 np.empty((BATCH * n, config.fingerprint_bits), np.float32)) for n in (batches - held, held))
    rng = np.random.default_rng([seed, 3])
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), 0)
    for batch in range(batches):
        bits = rng.integers(0, 2, (BATCH, config.fingerprint_bits), np.uint8)
        images = model.generate(bits, rng.integers(0, 2**32, BATCH, np.uint32), batch_size=_NETWORK_BATCH)
        keys = jax.random.split(jax.random.fold_in(key, batch), BATCH)
        examples, turn = (held_out, batch // HELD_OUT) if batch % HELD_OUT == 0 else (fitted, batch - batch // HELD_OUT - 1)
        rows = np.s_[turn * BATCH:(turn + 1) * BATCH]
        examples.features[rows] = np.concatenate([extract(images[i:i + _NETWORK_BATCH], keys[i:i + _NETWORK_BATCH])
                                                  for i in range(0, BATCH, _NETWORK_BATCH)])
        examples.bits[rows] = 2.0 * bits - 1
        progress((batch + 1) * BATCH, batches * BATCH)
    return fitted, held_out


def _features(config: NetworkConfig, decoder: dict, ranges: tuple, images: jax.Array, keys: jax.Array) -> jax.Array:
    """[hidden, details, 1] of perturbed 8-bit images: uint8 [N, R, R, C], keys [N] -> [N, P]."""
    images = to_float(images)
    if ranges:
        images = perturb(ranges, 1.0, images, keys, jnp.ones(()))
    hidden, details = Decoder(config).apply({"params": decoder}, images, method="features")
    return jnp.concatenate([hidden, details, jnp.ones((len(images), 1))], axis=1)


def _feature_scales(features: np.ndarray, width: int) -> np.ndarray:
    """Factors [P] that bring the hidden features, and the details, to a mean variance of 1."""
    variances = np.var(features[:2 * BATCH], axis=0)
    scales = np.ones_like(variances)
    for group in (np.s_[:width], np.s_[width:-1]):
        if variances[group].size:
            scales[group] = 1 / math.sqrt(max(float(variances[group].mean()), 1e-20))
    return scales


def _conjugate_gradients(fitted: Examples, held_out: Examples, start: np.ndarray) -> tuple[np.ndarray, int]:
    """Least squares by conjugate gradients (CGLS), each bit with steps of its own, stopped at the least held-out error.

    Args:
      fitted, held_out: the examples.
      start: [P, n].

    Returns:
      The weights [P, n], and the number of steps after which they were the best.
    """
    x, weights = fitted.features, start.astype(np.float32)
    residual = fitted.bits - x @ weights  # [N, n]
    gradient = x.T @ residual  # [P, n]
    direction, power = gradient, np.sum(np.square(gradient), axis=0)
    best, best_error, best_step = weights, _squared_error(held_out, weights), 0
    for step in range(1, MOST_STEPS + 1):
        moved = x @ direction
        rate = power / np.maximum(np.sum(np.square(moved), axis=0), 1e-30)
        weights = weights + rate * direction
        residual -= rate * moved
        gradient = x.T @ residual
        last, power = power, np.sum(np.square(gradient), axis=0)
        direction = gradient + power / np.maximum(last, 1e-30) * direction
        error = _squared_error(held_out, weights)
        if error < best_error:
            best, best_error, best_step = weights, error, step
        elif step - best_step >= _PATIENCE:
            break
    return best, best_step


def _squared_error(examples: Examples, weights: np.ndarray) -> float:
    """Mean squared error of the bits."""
    return float(np.mean(np.square(examples.bits - examples.features @ weights)))


def _best_factor(examples: Examples, weights: np.ndarray) -> float:
    """The factor on the weights with the least squared error."""
    read = examples.features @ weights
    power = float(np.mean(np.square(read)))
    return float(np.mean(read * examples.bits)) / power if power else 1.0


def _log_odds_scale(examples: Examples, weights: np.ndarray) -> float:
    """2 mean / variance of what is read, times its bit: by this factor a normal reading becomes the log-odds of its bit."""
    right = (examples.features @ weights) * examples.bits
    mean = float(np.mean(right))
    return 2 * mean / (float(np.mean(np.square(right))) - mean**2)
