"""The fingerprinted generator: bits -> style, latent -> 4x4 feature maps, style-modulated synthesis -> image.

"Responsible Disclosure of Generative Models Using Scalable Fingerprinting" (Yu et al., ICLR 2022), section 3, on the
skip architecture of StyleGAN2 (Karras et al. 2020). Unlike in StyleGAN2 the latent is no style: it takes the place of
the learned constant, and the style comes from the fingerprint alone.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from fpgan.networks.config import NetworkConfig
from fpgan.networks.layers import Dense, Scaled, StyledConv
from fpgan.networks.resampling import upsample


class LabelConcat(Scaled):
    """Appends an embedding of a one-hot label, as wide as the fingerprint, to the fingerprint's bits."""

    @nn.compact
    def __call__(self, bits: jax.Array, labels: jax.Array) -> jax.Array:
        """bits [N, n], one-hot labels [N, label_size] -> [N, 2n]."""
        weight = self.param("weight", nn.initializers.normal(1.0), (labels.shape[-1], bits.shape[-1]))
        return jnp.concatenate([bits, labels @ weight], axis=-1)


class Mapping(nn.Module):
    """The fingerprint encoder: dense layers from bits to one style vector."""

    config: NetworkConfig

    @nn.compact
    def __call__(self, fingerprints: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        """Maps bits [N, n] in {0, 1} (and one-hot labels [N, label_size]) to styles [N, style_size]."""
        c = self.config
        x = fingerprints.astype(jnp.float32)
        x = c.fingerprint_strength * (2 * x - 1) if c.bit_coding == "plus_minus_one" else x
        if c.label_size:
            x = LabelConcat(name="label_concat")(x, labels)
        for i in range(c.mapping_layers):
            x = Dense(features=c.style_size, lr_multiplier=c.mapping_lr_multiplier,
                      activate=c.mapping_layers > 1, name=f"dense{i}")(x)
        return x


class SynthesisBlock(nn.Module):
    """One resolution: the convolutions and the RGB image that is added to the skip connection."""

    config: NetworkConfig
    resolution: int

    @nn.compact
    def __call__(self, x, rgb, styles, noise_keys):
        """x [N, H, W, C] and rgb [N, H, W, 3] of the resolution below (rgb None at 4x4); styles [N, layers, S]."""
        c, first = self.config, self.resolution == 4
        common = dict(modulated=c.modulated(self.resolution), noise=c.noise)
        features = c.width(self.resolution)
        layers = ["conv"] if first else ["conv_up", "conv"]
        for i, name in enumerate(layers):
            keys = None if noise_keys is None else jax.vmap(jax.random.fold_in, (0, None))(
                noise_keys, self.resolution + i)
            x = StyledConv(features=features, up=name == "conv_up", name=name, **common)(x, styles[:, i], keys)
        skip = StyledConv(features=c.channels, size=1, demodulate=False, linear=True, name="to_rgb", **common)(
            x, styles[:, len(layers)]).astype(jnp.float32)
        return x, skip if first else upsample(rgb) + skip


class Synthesis(nn.Module):
    """Latents and one style per layer -> images."""

    config: NetworkConfig

    @nn.compact
    def __call__(self, latents: jax.Array, styles: jax.Array, noise_keys: jax.Array | None = None) -> jax.Array:
        """Runs the blocks.

        Args:
          latents: [N, latent_size] float32, z ~ N(0, I).
          styles: [N, num_layers, style_size] float32, one style a layer; the layers' numbers are 0 for the 4x4
            convolution and, at 2^r, 2r-5 for conv_up, 2r-4 for conv, 2r-3 for RGB, which the next conv_up shares.
          noise_keys: [N] PRNG keys, needed if config.noise is "random".

        Returns:
          Images [N, resolution, resolution, channels] float32; [-1, 1] maps to 0..255, nothing is clipped.
        """
        c = self.config
        width = c.width(4)
        x = Dense(features=16 * width, activate=True, name="latent")(latents)
        x = x.reshape(-1, 4, 4, width).astype(c.compute_dtype)
        rgb = None
        for i, resolution in enumerate(c.resolutions):
            start = max(0, 2 * i - 1)
            x, rgb = SynthesisBlock(c, resolution, name=f"b{resolution}")(
                x, rgb, styles[:, start:start + 3], noise_keys)
        return rgb


class Generator(nn.Module):
    """The generator G(z, c): every fingerprint c is a distinct model instance."""

    config: NetworkConfig

    def setup(self):
        """Makes the two halves."""
        self.mapping = Mapping(self.config)
        self.synthesis = Synthesis(self.config)

    def __call__(self, latents, fingerprints, noise_keys=None, labels=None) -> jax.Array:
        """Generates one image per latent and fingerprint.

        Args:
          latents: [N, latent_size] float32, z ~ N(0, I).
          fingerprints: [N, fingerprint_bits], values 0 or 1.
          noise_keys: [N] PRNG keys, needed if config.noise is "random".
          labels: [N, label_size] one-hot float32, needed by a conditional model.

        Returns:
          Images [N, resolution, resolution, channels] float32, nominally in [-1, 1], not clipped.
        """
        return self.synthesis(latents, self.styles(fingerprints, labels), noise_keys)

    def styles(self, fingerprints: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        """Computes the style of every layer, [N, num_layers, style_size]: the same vector, repeated."""
        style = self.mapping(fingerprints, labels)
        return jnp.repeat(style[:, None], self.config.num_layers, axis=1)
