"""The fingerprint decoder: reads latent and fingerprint back from an image (Yu et al. 2022, section 3)."""

import flax.linen as nn
import jax

from fpgan.networks.config import NetworkConfig
from fpgan.networks.discriminator import Trunk
from fpgan.networks.layers import Dense


class Decoder(nn.Module):
    """The decoder E: the discriminator's trunk without minibatch statistics, and one dense head."""

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
        return x[:, c.latent_size:], x[:, :c.latent_size]
