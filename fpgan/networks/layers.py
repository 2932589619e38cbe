"""The building blocks that generator, decoder and discriminator share.

Arrays are NHWC, kernels [height, width, in, out]. Weights are stored with unit variance and scaled at run time by
1/sqrt(fan_in) (equalised learning rate, Karras et al. 2018, section 4.1), so that one learning rate suits them all.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from fpgan.networks.convolution import add_to_batch, conv
from fpgan.networks.resampling import conv_down, conv_up


def leaky_relu(x: jax.Array) -> jax.Array:
    """Applies a leaky ReLU of slope 0.2 times sqrt(2), which keeps the variance (StyleGAN2)."""
    return nn.leaky_relu(x, 0.2) * jnp.asarray(math.sqrt(2), x.dtype)


def modulated_conv(x: jax.Array, kernel: jax.Array, style: jax.Array, *, demodulate: bool = True,
                   up: bool = False) -> jax.Array:
    """Computes a convolution whose kernel is scaled per sample and input channel (Karras et al. 2020, section 2.2).

    The input channels are scaled by the style, the whole batch is convolved with the one shared kernel, and the output
    channels are scaled by the demodulation factor: the same function as a kernel per sample, as one dense convolution.

    Args:
      x: [N, H, W, I].
      kernel: [k, k, I, O], scaled to run time.
      style: [N, I] float32, the factor of each input channel.
      demodulate: divide by the norm that the per-sample kernel of each output channel has.
      up: double height and width (k = 3).

    Returns:
      [N, H, W, O], or [N, 2H, 2W, O] with `up`.
    """
    x = x * style[:, None, None, :].astype(x.dtype)
    x = (conv_up if up else conv)(x, kernel.astype(x.dtype))
    if demodulate:
        power = jnp.sum(jnp.square(kernel), axis=(0, 1))  # [I, O]
        sigma = lax.rsqrt(jnp.square(style) @ power + 1e-8)  # [N, O]
        x = x * sigma[:, None, None, :].astype(x.dtype)
    return x


def minibatch_stddev(x: jax.Array, group_size: int, order: str) -> jax.Array:
    """Appends a feature map with the standard deviation over a group of samples (Karras et al. 2018, section 3).

    Args:
      x: [N, H, W, C].
      group_size: G; the groups have min(G, N) samples, which must divide N.
      order: "contiguous": the samples of a group are neighbours; "strided": they are N/G apart.

    Returns:
      [N, H, W, C + 1].
    """
    n, height, width, _ = x.shape
    group = min(group_size, n)
    shape = (n // group, group) if order == "contiguous" else (group, n // group)
    axis = 1 if order == "contiguous" else 0
    y = x.astype(jnp.float32).reshape(*shape, *x.shape[1:])
    y = jnp.sqrt(jnp.var(y, axis=axis, keepdims=True) + 1e-8)
    y = jnp.mean(y, axis=(2, 3, 4), keepdims=True)  # one number a group
    y = jnp.broadcast_to(y, (*shape, height, width, 1)).reshape(n, height, width, 1)
    return jnp.concatenate([x, y.astype(x.dtype)], axis=-1)


class Scaled(nn.Module):
    """Base of the layers with an equalised learning rate: gives the run-time weight and bias.

    Attributes:
      lr_multiplier: factor on weight and bias; the stored weights start at N(0, 1/lr_multiplier^2).
    """

    lr_multiplier: float = 1.0

    def weight(self, shape: tuple[int, ...], name: str = "weight") -> jax.Array:
        """Returns the run-time weight: stored * lr_multiplier / sqrt(fan_in), fan_in = product of all but the last axis."""
        if self.has_variable("params", name):  # Flax would trace the initialiser, to compare shapes
            stored = self.get_variable("params", name)
        else:
            stored = self.param(name, nn.initializers.normal(1 / self.lr_multiplier), shape)
        return stored * (self.lr_multiplier / math.sqrt(math.prod(shape[:-1])))

    def bias(self, size: int, name: str = "bias") -> jax.Array:
        """Returns the run-time bias, starting at 0."""
        return self.param(name, nn.initializers.zeros, (size,)) * self.lr_multiplier


class Dense(Scaled):
    """Dense layer [N, I] -> [N, features], with bias; leaky ReLU if `activate`."""

    features: int = 1
    activate: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, I] -> [N, features]."""
        x = x @ self.weight((x.shape[-1], self.features)).astype(x.dtype) + self.bias(self.features).astype(x.dtype)
        return leaky_relu(x) if self.activate else x


class Conv(Scaled):
    """Convolution with bias and leaky ReLU (or neither, with `linear`), halving the resolution if `down`."""

    features: int = 1
    size: int = 3
    down: bool = False
    linear: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, I] -> [N, H, W, features], or half of H and W with `down`."""
        kernel = self.weight((self.size, self.size, x.shape[-1], self.features)).astype(x.dtype)
        x = (conv_down if self.down else conv)(x, kernel)
        return x if self.linear else leaky_relu(x + self.bias(self.features).astype(x.dtype))


class StyledConv(Scaled):
    """One layer of the synthesis network: (modulated) convolution, noise, bias, activation.

    Attributes:
      features: output channels.
      size: of the kernel, 3, or 1 for RGB.
      modulated: whether the style scales the input channels; else the convolution is plain.
      demodulate: see modulated_conv.
      up: double height and width.
      noise: "random", "fixed", "learned" or "none" (NetworkConfig.noise).
      linear: no noise and no activation (RGB).
    """

    features: int = 1
    size: int = 3
    modulated: bool = True
    demodulate: bool = True
    up: bool = False
    noise: str = "none"
    linear: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, style: jax.Array, noise_keys: jax.Array | None = None) -> jax.Array:
        """x [N, H, W, I], style [N, S], noise_keys [N] -> [N, H, W, features], or twice H and W with `up`."""
        kernel = self.weight((self.size, self.size, x.shape[-1], self.features))
        if self.modulated:
            scale = style @ self.weight((style.shape[-1], x.shape[-1]), "mod_weight")
            scale = scale + self.bias(x.shape[-1], "mod_bias") + 1  # [N, I]
            x = modulated_conv(x, kernel, scale, demodulate=self.demodulate, up=self.up)
        else:
            x = (conv_up if self.up else conv)(x, kernel.astype(x.dtype))
        if self.noise != "none" and not self.linear:
            noise = self.noise_map(x.shape, noise_keys).astype(x.dtype)
            x = add_to_batch(x, noise) if self.noise == "learned" else x + noise
        x = x + self.bias(self.features).astype(x.dtype)
        return x if self.linear else leaky_relu(x)

    def noise_map(self, shape: tuple[int, ...], noise_keys: jax.Array | None) -> jax.Array:
        """Returns what is added to [N, H, W, C]: noise of one channel times its learned strength, or a learned map [H, W,
        C].
        """
        if self.noise == "learned":
            return self.param("noise_map", nn.initializers.normal(0.1), shape[1:])
        strength = self.param("noise_strength", nn.initializers.zeros, ())
        if self.noise == "fixed":
            noise = lax.stop_gradient(self.param("noise_map", nn.initializers.normal(1.0), shape[1:3]))[None]
        elif noise_keys is None:
            raise ValueError("a generator with random noise needs noise_keys, one PRNG key per sample")
        else:
            noise = jax.vmap(lambda key: jax.random.normal(key, shape[1:3]))(noise_keys)
        return noise[..., None] * strength
