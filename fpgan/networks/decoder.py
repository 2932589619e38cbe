"""The fingerprint decoder: reads latent and fingerprint back from an image (Yu et al. 2022, section 3)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fpgan.networks.config import NetworkConfig
from fpgan.networks.discriminator import Trunk
from fpgan.networks.layers import Dense
from fpgan.networks.resampling import blur


class Correlation(nn.Module):
    """Correlates an image's details with one learned pattern per bit (Cox et al. 1997).

    In full precision also on a TPU: it sums thousands of pixels against weights that cancel, and rounding its operands to
    bfloat16 moves the logits several times as far as rounding those of all convolutions (`fpgan bench precision`).

    Attributes:
      features: number of patterns.
    """

    features: int

    @nn.compact
    def __call__(self, details: jax.Array) -> jax.Array:
        """[N, D] -> [N, features]; 0 at the start of training."""
        patterns = self.param("patterns", nn.initializers.zeros, (details.shape[1], self.features))
        weights = (patterns / math.sqrt(details.shape[1])).astype(details.dtype)
        return jnp.matmul(details, weights, precision=lax.Precision.HIGHEST)


def laplacian_pyramid(images: jax.Array, levels: int) -> jax.Array:
    """Computes the details of images, from fine to coarse: what each low-pass filter takes away, at half the size of the
    one before.

    Args:
      images: [N, R, R, C].
      levels: 1 or more; R is divisible by 2^(levels - 1).

    Returns:
      [N, R^2 C (1 + 1/4 + ...)].
    """
    n, details = images.shape[0], []
    for level in range(levels):
        low = blur(images)
        details.append((images - low).reshape(n, -1))
        if level + 1 < levels:
            _, height, width, channels = low.shape
            images = low.reshape(n, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
    return jnp.concatenate(details, axis=1) if levels > 1 else details[0]


class Decoder(nn.Module):
    """The decoder E: the discriminator's trunk without minibatch statistics, one dense head, and an optional correlation."""

    config: NetworkConfig

    def setup(self):
        """Makes the parts."""
        c = self.config
        self.trunk = Trunk(c, "decoder", stddev=False, features=c.decoder_features)
        self.output = Dense(features=c.latent_size + c.fingerprint_bits)
        if c.decoder_linear:
            self.linear = Correlation(features=c.fingerprint_bits)

    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Decodes images.

        Args:
          images: [N, resolution, resolution, channels] float32, nominally in [-1, 1].

        Returns:
          Fingerprint logits [N, fingerprint_bits], positive for a 1, and the latent estimate [N, latent_size].
        """
        c = self.config
        hidden, details = self.features(images)
        x = self.output(hidden)
        latents, logits = x[:, :c.latent_size], x[:, c.latent_size:]
        if c.decoder_linear:
            logits = logits + self.linear(details)
        return logits, latents

    def features(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Computes what the logits are linear in: the trunk's output [N, F], and the image's details [N, D] (or D = 0)."""
        c, n = self.config, images.shape[0]
        if not c.decoder_linear:
            return self.trunk(images), jnp.zeros((n, 0))
        details = c.decoder_linear_gain * laplacian_pyramid(images.astype(jnp.float32), c.decoder_linear_levels)
        return self.trunk(images), details


def readout_weights(config: NetworkConfig, params: dict) -> np.ndarray:
    """Returns the decoder's linear readout of its features: [F + D + 1, fingerprint_bits], see with_readout."""
    output, bits = params["output"], np.s_[..., config.latent_size:]
    hidden = np.asarray(output["weight"])[bits]
    parts = [hidden / math.sqrt(len(hidden))]  # the layers divide by the root of the fan-in
    if config.decoder_linear:
        patterns = np.asarray(params["linear"]["patterns"])
        parts.append(patterns / math.sqrt(len(patterns)))
    return np.concatenate([*parts, np.asarray(output["bias"])[bits][None]]).astype(np.float32)


def with_readout(config: NetworkConfig, params: dict, weights: np.ndarray) -> dict:
    """Puts another linear readout of the features into a decoder.

    Args:
      config: the architecture.
      params: the decoder's parameters; they are not changed.
      weights: [F + D + 1, fingerprint_bits]: logits = [hidden, details, 1] @ weights.

    Returns:
      New parameters, float32; the trunk and the latent estimate are the old ones.
    """
    old = params["output"]["weight"]
    hidden, details, bias = np.split(weights, [len(old), len(weights) - 1])
    bits = np.s_[..., config.latent_size:]
    output = {"weight": np.array(old), "bias": np.array(params["output"]["bias"])}
    output["weight"][bits] = hidden * math.sqrt(len(hidden))
    output["bias"][bits] = bias[0]
    fitted = {**params, "output": output}
    if config.decoder_linear:
        fitted["linear"] = {"patterns": (details * math.sqrt(len(details))).astype(np.float32)}
    return fitted
