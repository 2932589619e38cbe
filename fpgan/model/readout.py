"""The decoder's last layer in closed form: ridge regression from its features to the bits, when training is over.

Adam, at a learning rate that suits the whole of training, does not leave the best linear reading of what the generator has
come to make. A fit to generated images finds that; with the ways in which images are saved among them, it is
also one that survives those. What is gained in certainty can be spent on a weaker fingerprint
(NetworkConfig.fingerprint_strength). No training image is used.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from fpgan.errors import FpganError
from fpgan.model.model import from_params
from fpgan.networks.config import NetworkConfig
from fpgan.networks.decoder import Decoder, with_readout
from fpgan.perturbations.codecs import PERTURBATIONS, perturb_all

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)  # to choose from, in units of the mean variance of the features
HELD_OUT = 10  # every tenth batch chooses the ridge and the scale
BATCH = 500  # images, each saved in every way, whose moments are added at once
_NETWORK_BATCH = 50  # images that the networks see at once
_MOST_FEATURES = 16_000  # moments of 2 GB each, of which four are in memory at once
LEAST_FIT = 1_000  # images to fit a readout to


def fit_readout(config: NetworkConfig, params: dict, count: int, seed: int,
               progress: Callable[[int, int], None] = lambda done, total: None) -> tuple[dict, dict]:
    """Fits how the decoder reads bits out of its features.

    The weights minimise the squared error of [hidden, details, 1] @ weights to the bits as -1 and 1, over images that are
    saved in every way of PERTURBATIONS, plus a ridge penalty that images held out choose; then they are scaled so that
    the logits are log-odds.

    Args:
      config: the architecture; its fingerprint_strength is that of the images.
      params: {"generator", "decoder"} -> nested dict of arrays.
      count: images to generate, in whole batches, of which every tenth is held out.
      seed: of fingerprints and latents.
      progress: is given the numbers of images done and in all.

    Returns:
      The decoder's new parameters, and what was done: "images", "saved_as", "ridge".

    Raises:
      FpganError: fewer than LEAST_FIT images, or too many features.
    """
    width = len(params["decoder"]["output"]["weight"])
    features = width + (len(params["decoder"]["linear"]["patterns"]) if config.decoder_linear else 0)
    batches = count // BATCH
    if count < LEAST_FIT:
        raise FpganError(f"there are {count} images to fit a readout to; expected {LEAST_FIT} or more")
    if features > _MOST_FEATURES:
        raise FpganError(f"the decoder has {features:,} features to fit, expected {_MOST_FEATURES:,} at most; set "
                         "export.readout_images to 0")
    model = from_params(config, params, {})
    extract = jax.jit(functools.partial(_features, config, params["decoder"]))
    fitted, held_out = np.zeros((2, *[features + 1 + config.fingerprint_bits] * 2))
    rng = np.random.default_rng([seed, 3])
    for batch in range(batches):
        bits = rng.integers(0, 2, (BATCH, config.fingerprint_bits), np.uint8)
        images = model.generate(bits, rng.integers(0, 2**32, BATCH, np.uint32), batch_size=_NETWORK_BATCH)
        saved = np.concatenate([perturb_all(images, name) for name in PERTURBATIONS])
        parts = np.split(saved, len(saved) // _NETWORK_BATCH)
        moments = held_out if batch % HELD_OUT == 0 else fitted
        moments += np.asarray(_second_moments([extract(part) for part in parts], np.tile(bits, (len(PERTURBATIONS), 1))))
        progress((batch + 1) * BATCH, batches * BATCH)
    candidates = {ridge: _ridge_regression(fitted, width, features, ridge) for ridge in RIDGES}
    ridge = min(RIDGES, key=lambda ridge: _squared_error(held_out, candidates[ridge]))
    weights = candidates[ridge] * _log_odds_scale(held_out, candidates[ridge])
    done = {"images": batches * BATCH, "saved_as": list(PERTURBATIONS), "ridge": ridge}
    return with_readout(config, params["decoder"], weights.astype(np.float32)), done


def _features(config: NetworkConfig, decoder: dict, images: jax.Array) -> jax.Array:
    """[hidden, details, 1] of 8-bit images: uint8 [N, R, R, C] -> [N, P]."""
    images = images.astype(jnp.float32) * (2 / 255) - 1
    hidden, details = Decoder(config).apply({"params": decoder}, images, method="features")
    return jnp.concatenate([hidden, details, jnp.ones((len(images), 1))], axis=1)


@jax.jit
def _second_moments(features: list[jax.Array], bits: jax.Array) -> jax.Array:
    """The sum over images of x^T x, x = [features, bits as -1 and 1]: parts of [N, P], [N, n] -> [P + n, P + n]."""
    x = jnp.concatenate([jnp.concatenate(features), 2.0 * bits - 1], axis=1)
    return jnp.matmul(x.T, x, precision="highest")


def _ridge_regression(moments: np.ndarray, width: int, features: int, ridge: float) -> np.ndarray:
    """Weights [P, n]. The ridge is relative to the mean variance of the hidden features, and to that of the details."""
    p, count = features + 1, moments[features, features]
    squares, crossed = moments[:p, :p] / count, moments[:p, p:] / count
    variances = np.diag(squares) - squares[features] ** 2
    for group in (np.arange(width), np.arange(width, features)):
        if group.size:
            squares[group, group] += ridge * variances[group].mean()
    return scipy.linalg.solve(squares, crossed, assume_a="pos", overwrite_a=True)


def _squared_error(moments: np.ndarray, weights: np.ndarray) -> float:
    """Mean squared error of the bits, on the images of the moments."""
    power, right, count = _powers(moments, weights)
    return 1 + (power - 2 * right) / count


def _log_odds_scale(moments: np.ndarray, weights: np.ndarray) -> float:
    """2 mean / variance of what is read, times its bit: by this factor a normal reading becomes the log-odds of its bit."""
    power, right, count = _powers(moments, weights)
    return 2 * (right / count) / (power / count - (right / count) ** 2)


def _powers(moments: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    """Sums over the images, mean over the bits: of the squared reading, of reading times bit, and of 1."""
    p, n = weights.shape
    power = np.sum(weights * (moments[:p, :p] @ weights)) / n
    return power, np.sum(weights * moments[:p, p:]) / n, moments[p - 1, p - 1]
