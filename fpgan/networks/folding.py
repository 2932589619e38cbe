"""The generator for one fingerprint: mapping and modulation multiplied into plain kernels.

For one fingerprint the style of every layer is a constant, so the convolution whose input channels it scales and whose
output channels the demodulation scales (Karras et al. 2020, section 2.2, equations 1 and 3) is a convolution with the kernel

    K'[., ., i, o] = s[i] K[., ., i, o] / sqrt(sum over ., ., i of (s[i] K[., ., i, o])^2 + 1e-8)

What is left is latents, plain convolutions, biases and activations. The mapping, the modulation's weights and the bits are
not in it, and no other fingerprint can be set.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fpgan.errors import FpganError
from fpgan.networks.config import NetworkConfig
from fpgan.networks.convolution import conv
from fpgan.networks.layers import leaky_relu
from fpgan.networks.resampling import conv_up

NOISE = ("random", "maps", "none")  # see FoldedConfig.noise
_EPSILON = 1e-8  # of the demodulation, as in layers.modulated_conv


@dataclasses.dataclass(frozen=True)
class FoldedConfig:
    """The architecture of a folded generator: what its weights mean, and nothing of where they come from.

    Attributes:
      resolution: height and width of the images in pixels, a power of two from 8 up.
      channels: colour channels of the images.
      latent_size: length of the latent z.
      widths: feature maps at 4x4, 8x8, ..., resolution.
      noise: "random": the network takes normal numbers beside the latents; "maps": noise that is the same in all images is
        part of the biases, which have a value for every pixel; "none".
      compute_dtype: "float32" or "bfloat16", for the convolutions.
    """

    resolution: int
    channels: int
    latent_size: int
    widths: tuple[int, ...]
    noise: str
    compute_dtype: str

    @classmethod
    def of(cls, config: NetworkConfig) -> "FoldedConfig":
        """Returns the architecture that the generator of `config` has when a fingerprint is folded into it."""
        noise = {"fixed": "maps", "learned": "maps"}.get(config.noise, config.noise)
        widths = tuple(map(config.width, config.resolutions))
        return cls(config.resolution, config.channels, config.latent_size, widths, noise, config.compute_dtype)

    @property
    def layers(self) -> tuple[tuple[str, int], ...]:
        """Name and resolution of the styled convolutions, in order: ("b4/conv", 4), ("b8/conv_up", 8), ("b8/conv", 8) ..."""
        names = [("b4/conv", 4)]
        for k in range(1, len(self.widths)):
            names += [(f"b{4 << k}/conv_up", 4 << k), (f"b{4 << k}/conv", 4 << k)]
        return tuple(names)

    @property
    def noise_size(self) -> int:
        """How many normal numbers an image takes beside its latent: one per pixel of each layer, or 0."""
        return sum(resolution**2 for _, resolution in self.layers) if self.noise == "random" else 0

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every weight by its name."""
        width = self.widths[0]
        shapes: dict[str, tuple[int, ...]] = {"latent/kernel": (self.latent_size, 16 * width), "latent/bias": (16 * width,)}
        for name, size in self.layers:
            before, width = width, self.widths[size.bit_length() - 3]
            shapes[f"{name}/kernel"] = (3, 3, before, width)
            shapes[f"{name}/bias"] = (size, size, width) if self.noise == "maps" else (width,)
            if self.noise == "random":
                shapes[f"{name}/noise_strength"] = ()
            if not name.endswith("conv_up"):
                shapes[f"b{size}/to_rgb/kernel"] = (1, 1, width, self.channels)
                shapes[f"b{size}/to_rgb/bias"] = (self.channels,)
        return shapes


def fold(config: NetworkConfig, params: Mapping, bits: np.ndarray, label: int | None = None,
         dtype: np.dtype | type = np.float32) -> dict[str, np.ndarray]:
    """Computes the plain weights of the generator for one fingerprint; in float64, rounded at the end.

    Args:
      config: the architecture.
      params: the generator's parameters, nested as Flax has them ("mapping", "synthesis").
      bits: [n] of zeros and ones.
      label: the class in [0, label_size) of a conditional model, which becomes part of the instance; else None.
      dtype: of the weights.

    Returns:
      {name: array} as `FoldedConfig.shapes` lists them.

    Raises:
      FpganError: a conditional model without a label, or a label that the model does not have.
    """
    params = jax.tree.map(lambda array: np.asarray(array, np.float64), dict(params))
    style = _style(config, params["mapping"], np.asarray(bits, np.float64), label)  # [S]
    synthesis = params["synthesis"]
    latent = synthesis["latent"]
    folded = {"latent/kernel": latent["weight"] / math.sqrt(len(latent["weight"])), "latent/bias": latent["bias"]}
    for resolution in config.resolutions:
        for name, layer in synthesis[f"b{resolution}"].items():
            kernel = layer["weight"] / math.sqrt(math.prod(layer["weight"].shape[:-1]))
            if config.modulated(resolution):
                kernel = _modulated(kernel, layer, style, demodulate=name != "to_rgb")
            folded[f"b{resolution}/{name}/kernel"] = kernel
            folded |= _offsets(f"b{resolution}/{name}", layer)
    return {name: np.array(array, dtype, order="C") for name, array in folded.items()}


def folded_generator(config: FoldedConfig, weights: Mapping[str, jax.Array], latents: jax.Array,
                     noise: jax.Array | None = None, *, plain: bool = False) -> jax.Array:
    """Generates images with a folded generator: pure, differentiable, of any batch size.

    Args:
      config: the architecture.
      weights: what `fold` returns.
      latents: [N, latent_size] float32, z ~ N(0, I).
      noise: [N, noise_size] float32 of N(0, 1), all layers' maps one after the other; only with random noise.
      plain: without a choice by platform (`conv_up`), for programs that run elsewhere.

    Returns:
      Images [N, resolution, resolution, channels] float32, nominally in [-1, 1], not clipped.
    """
    dtype = weights["latent/kernel"].dtype
    compute = jnp.bfloat16 if config.compute_dtype == "bfloat16" else dtype
    x = leaky_relu(latents @ weights["latent/kernel"] + weights["latent/bias"])
    x = x.reshape(-1, 4, 4, config.widths[0]).astype(compute)  # [N, 4, 4, C]
    rgb, start = None, 0
    for name, resolution in config.layers:
        up = name.endswith("conv_up")
        kernel = weights[f"{name}/kernel"].astype(compute)
        x = conv_up(x, kernel, plain=plain) if up else conv(x, kernel)  # [N, H, W, O]
        if config.noise == "random":
            drawn = noise[:, start:start + resolution**2].reshape(-1, resolution, resolution, 1)  # [N, H, W, 1]
            x = x + (drawn * weights[f"{name}/noise_strength"]).astype(compute)
            start += resolution**2
        x = leaky_relu(x + weights[f"{name}/bias"].astype(compute))
        if not up:
            to_rgb = f"b{resolution}/to_rgb"
            skip = conv(x, weights[f"{to_rgb}/kernel"].astype(compute)) + weights[f"{to_rgb}/bias"].astype(compute)
            skip = skip.astype(dtype)  # [N, H, W, channels]
            rgb = skip if rgb is None else _upsample(rgb) + skip
    return rgb


def _upsample(x: jax.Array) -> jax.Array:
    """Doubles height and width as layers.upsample does, even and odd pixels alone. [N, H, W, C] -> [N, 2H, 2W, C]."""
    for axis in (1, 2):
        pad = [(1, 1) if i == axis else (0, 0) for i in range(4)]
        padded = jnp.pad(x, pad)
        before, after = (lax.slice_in_dim(padded, start, start + x.shape[axis], axis=axis) for start in (0, 2))
        pair = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis=axis + 1)  # [N, H, 2, W, C]
        x = pair.reshape(*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1:])
    return x


def _style(config: NetworkConfig, mapping: Mapping, bits: np.ndarray, label: int | None) -> np.ndarray:
    """Computes the style [S] of bits [n], as networks.generator.Mapping does."""
    if (label is None) != (config.label_size == 0) or (label is not None and not 0 <= label < config.label_size):
        raise FpganError(f"the class {label} of a model with {config.label_size} classes; an instance of a conditional "
                         "model is for one class in [0, classes), one of another model for none")
    x = config.fingerprint_strength * (2 * bits - 1) if config.bit_coding == "plus_minus_one" else bits
    if label is not None:
        x = np.concatenate([x, mapping["label_concat"]["weight"][label]])
    for i in range(config.mapping_layers):
        layer = mapping[f"dense{i}"]
        x = (x @ layer["weight"] / math.sqrt(len(x)) + layer["bias"]) * config.mapping_lr_multiplier
        if config.mapping_layers > 1:
            x = math.sqrt(2) * np.where(x > 0, x, 0.2 * x)
    return x


def _modulated(kernel: np.ndarray, layer: Mapping, style: np.ndarray, demodulate: bool) -> np.ndarray:
    """Scales a kernel [k, k, I, O] by the style of its input channels, and to unit norm per output channel."""
    scale = style @ layer["mod_weight"] / math.sqrt(len(style)) + layer["mod_bias"] + 1  # [I]
    kernel = kernel * scale[:, None]
    return kernel / np.sqrt(np.sum(kernel**2, axis=(0, 1, 2)) + _EPSILON) if demodulate else kernel


def _offsets(name: str, layer: Mapping) -> dict[str, np.ndarray]:
    """Returns what is added to the convolution's output: bias [O], or bias and constant noise as one map [H, W, O]."""
    noise, strength = layer.get("noise_map"), layer.get("noise_strength")
    if noise is None:
        return {f"{name}/bias": layer["bias"]} | ({} if strength is None else {f"{name}/noise_strength": strength})
    noise = noise if strength is None else noise[..., None] * strength  # learned [H, W, O], or fixed [H, W, 1]
    return {f"{name}/bias": layer["bias"] + noise}
