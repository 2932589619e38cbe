"""The fingerprint decoder: reads latent and fingerprint back from an image (Yu et al. 2022, section 3)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from fpgan.networks.config import NetworkConfig
from fpgan.networks.discriminator import Trunk
from fpgan.networks.layers import Dense, blur


class Correlation(nn.Module):
    """Correlates the high-pass filtered image with one learned pattern per bit (Cox et al. 1997).

    Attributes:
      features: number of patterns.
      gain: factor on the filtered image.
    """

    features: int
    gain: float

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, features]; 0 at the start of training."""
        details = (self.gain * (images - blur(images))).reshape(images.shape[0], -1)
        patterns = self.param("patterns", nn.initializers.zeros, (details.shape[1], self.features))
        return details @ (patterns / math.sqrt(details.shape[1])).astype(details.dtype)


class Decoder(nn.Module):
    """The decoder E: the discriminator's trunk without minibatch statistics, one dense head, and an optional correlation."""

    config: NetworkConfig

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Decodes images.

        Args:
          images: [N, resolution, resolution, channels] float32, nominally in [-1, 1].

        Returns:
          Fingerprint logits [N, fingerprint_bits], positive for a 1, and the latent estimate [N, latent_size].
        """
        c = self.config
        x = Trunk(c, "decoder", stddev=False, features=c.decoder_features, name="trunk")(images)
        x = Dense(features=c.latent_size + c.fingerprint_bits, name="output")(x)
        latents, logits = x[:, :c.latent_size], x[:, c.latent_size:]
        if c.decoder_linear:
            correlation = Correlation(features=c.fingerprint_bits, gain=c.decoder_linear_gain, name="linear")
            logits = logits + correlation(images.astype(jnp.float32))
        return logits, latents
