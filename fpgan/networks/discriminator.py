"""The residual discriminator of StyleGAN2, and the trunk that the fingerprint decoder shares with it."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from fpgan.networks.config import NetworkConfig
from fpgan.networks.layers import Conv, Dense, minibatch_stddev


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, the second halving the resolution, beside a 1x1 skip; their sum over sqrt(2)."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, H/2, W/2, features]."""
        skip = Conv(features=self.features, size=1, down=True, linear=True, name="skip")(x)
        x = Conv(features=x.shape[-1], name="conv")(x)
        x = Conv(features=self.features, down=True, name="conv_down")(x)
        return (x + skip) * jnp.asarray(1 / math.sqrt(2), x.dtype)


class Trunk(nn.Module):
    """Images -> features: residual blocks down to 4x4, a convolution, a dense layer.

    Attributes:
      network: "decoder" or "discriminator", whose widths to take.
      stddev: append the minibatch standard deviation at 4x4.
      features: width of the dense layer; 0 for the width that the config gives at 2x2, as in StyleGAN2.
    """

    config: NetworkConfig
    network: str
    stddev: bool
    features: int = 0

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """[N, resolution, resolution, channels] -> [N, features] float32."""
        c = self.config
        sizes = c.resolutions[::-1]
        x = Conv(features=c.width(sizes[0], self.network), size=1, name="from_rgb")(images.astype(c.compute_dtype))
        for size in sizes[:-1]:
            x = ResidualBlock(c.width(size // 2, self.network), name=f"b{size}")(x)
        if self.stddev:
            x = minibatch_stddev(x, c.minibatch_stddev_group, c.minibatch_stddev_order)
        width = c.width(4, self.network)
        x = Conv(features=width, name="conv")(x)
        x = x.astype(jnp.float32).reshape(x.shape[0], -1)  # [N, 16 width], in the order H, W, C
        return Dense(features=self.features or c.width(2, self.network), activate=True, name="dense")(x)


class Discriminator(nn.Module):
    """The discriminator D: one realness score per image."""

    config: NetworkConfig

    @nn.compact
    def __call__(self, images: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        """Scores images.

        Args:
          images: [N, resolution, resolution, channels] float32.
          labels: [N, label_size] one-hot float32, for a conditional model: picks one score of label_size.

        Returns:
          [N] float32 logits; high means real.
        """
        x = Trunk(self.config, "discriminator", stddev=True, name="trunk")(images)
        scores = Dense(features=max(1, self.config.label_size), name="output")(x)
        return jnp.sum(scores * labels, axis=1) if self.config.label_size else scores[:, 0]
