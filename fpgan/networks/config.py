"""The architecture of the three networks as plain data: what a model file must state so that its arrays make sense."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from fpgan.errors import FpganError, shown

BIT_CODINGS = ("zero_one", "plus_minus_one")
NOISE_KINDS = ("random", "fixed", "learned", "none")
GROUP_ORDERS = ("contiguous", "strided")
COMPUTE_DTYPES = ("float32", "bfloat16")

MAX_RESOLUTION = 4096
_LIMITS = {  # of every size, so that no config.json can ask for more than a machine has before its arrays are seen
    "channels": (1, 64), "latent_size": (1, 1 << 16), "style_size": (1, 1 << 16), "channel_base": (1, 1 << 22),
    "channel_max": (1, 1 << 14), "decoder_channel_base": (0, 1 << 22), "decoder_channel_max": (0, 1 << 14),
    "decoder_features": (0, 1 << 16), "decoder_linear_gain": (-1e6, 1e6), "discriminator_channel_base": (0, 1 << 22),
    "discriminator_channel_max": (0, 1 << 14), "mapping_layers": (1, 64), "mapping_lr_multiplier": (1e-9, 1e6),
    "modulated_min": (0, MAX_RESOLUTION), "modulated_max": (0, MAX_RESOLUTION), "minibatch_stddev_group": (1, 1 << 16),
    "label_size": (0, 1 << 20),
}


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Sizes and choices of the generator, the decoder and the discriminator.

    The defaults are the paper's (config-e of StyleGAN2 with a fingerprint), but for the minibatch grouping.

    Attributes:
      resolution: height and width of the images in pixels, a power of two from 8 up.
      channels: colour channels of the images.
      fingerprint_bits: n, the number of bits of a fingerprint, 8 to 512.
      latent_size: length of the latent z.
      style_size: length of the style vector, and width of the mapping's layers.
      channel_base: the feature maps at resolution 2^k have min(channel_base / 2^(k-1), channel_max) channels.
      channel_max: see channel_base.
      decoder_channel_base, decoder_channel_max: the same for the decoder; 0 means as in the generator.
      decoder_features: width of the decoder's last hidden layer; 0 means what the formula for channels gives at 2x2 (the
        paper). It must well exceed fingerprint_bits: fewer features than bits cannot be read out into independent bits.
      decoder_linear: add to the decoder's logits a linear reading of all pixels of the high-pass filtered image, the
        correlation detector of spread-spectrum watermarks (Cox et al. 1997). The trunk low-passes and halves the
        image before it reads much; the linear part sees every frequency. It has resolution^2 * channels * fingerprint_bits
        parameters.
      decoder_linear_gain: factor on the filtered image, and so on the speed at which the linear reading learns. 8 brings
        what the filter leaves near unit variance.
      decoder_linear_levels: number of scales that the linear reading sees: the high-pass filtered image, then that of the
        low-pass filtered image at half the resolution, and so on (a Laplacian pyramid, Burt and Adelson 1983). What JPEG,
        blur and resizing leave of a fingerprint is in the coarser ones.
      discriminator_channel_base, discriminator_channel_max: the same for the discriminator; 0 likewise.
      mapping_layers: dense layers from bits to style. 1 is a linear map, without activation; the paper has 8.
      mapping_lr_multiplier: factor on weights and biases of the mapping, which scales their learning rate.
      bit_coding: "zero_one" (the paper) or "plus_minus_one": how bits enter the mapping.
      fingerprint_strength: the size at which "plus_minus_one" bits enter the mapping: how strongly the fingerprint marks the
        image. Trained at 1; export may turn it down.
      modulated_min, modulated_max: the resolutions between which the fingerprint modulates the convolutions
        (0: no limit). Outside them the convolutions are plain.
      noise: what is added to the feature maps: "random" per sample (the paper, in training), "fixed" stored
        maps (the authors' samples), "learned" maps, one per channel, or "none". Maps that are the same in all images are
        carriers that the fingerprint can modulate at every spatial frequency; without them it is left with the smooth
        patterns that upsampling passes on.
      minibatch_stddev_group: group size of the minibatch standard deviation in the discriminator.
      minibatch_stddev_order: "contiguous" groups of neighbours, so that the result does not depend on how many
        devices share a batch, or "strided" as in the authors' code.
      label_size: number of classes of a conditional model; 0 without labels.
      compute_dtype: "float32" or "bfloat16", for the convolutions; parameters stay in float32.
    """

    resolution: int = 128
    channels: int = 3
    fingerprint_bits: int = 128
    latent_size: int = 512
    style_size: int = 512
    channel_base: int = 8192
    channel_max: int = 512
    decoder_channel_base: int = 0
    decoder_channel_max: int = 0
    decoder_features: int = 0
    decoder_linear: bool = False
    decoder_linear_gain: float = 8.0
    decoder_linear_levels: int = 1
    discriminator_channel_base: int = 0
    discriminator_channel_max: int = 0
    mapping_layers: int = 8
    mapping_lr_multiplier: float = 0.01
    bit_coding: str = "zero_one"
    fingerprint_strength: float = 1.0
    modulated_min: int = 0
    modulated_max: int = 0
    noise: str = "random"
    minibatch_stddev_group: int = 4
    minibatch_stddev_order: str = "contiguous"
    label_size: int = 0
    compute_dtype: str = "float32"

    def __post_init__(self):
        r = self.resolution
        _require(isinstance(r, int) and 8 <= r <= MAX_RESOLUTION and r & (r - 1) == 0, "resolution", r,
                 f"a power of two, 8 to {MAX_RESOLUTION:,}")
        _require(8 <= self.fingerprint_bits <= 512, "fingerprint_bits", self.fingerprint_bits, "8 to 512")
        _require(1 <= self.decoder_linear_levels <= 12 and 4 << self.decoder_linear_levels <= 2 * r, "decoder_linear_levels",
                 self.decoder_linear_levels, "1 or more, with 4 or more pixels at the coarsest")
        for name, (least, most) in _LIMITS.items():
            value = getattr(self, name)
            _require(least <= value <= most, name, value, f"{least:,} to {most:,}")
        for name, allowed in (("bit_coding", BIT_CODINGS), ("noise", NOISE_KINDS),
                              ("minibatch_stddev_order", GROUP_ORDERS), ("compute_dtype", COMPUTE_DTYPES)):
            _require(getattr(self, name) in allowed, name, getattr(self, name), "one of " + ", ".join(allowed))
        _require(0 < self.fingerprint_strength < math.inf, "fingerprint_strength", self.fingerprint_strength,
                 "a number above 0")
        _require(self.fingerprint_strength == 1 or self.bit_coding == "plus_minus_one", "fingerprint_strength",
                 self.fingerprint_strength, "1, since network.bit_coding is not 'plus_minus_one'")

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The resolutions of the blocks: 4, 8, ..., resolution."""
        return tuple(2**k for k in range(2, self.resolution.bit_length()))

    @property
    def num_layers(self) -> int:
        """L = 2 log2(resolution) - 2, the number of styles that the synthesis network takes."""
        return 2 * len(self.resolutions)

    def width(self, resolution: int, network: str = "generator") -> int:
        """Computes the number of feature maps at a resolution in one of the networks."""
        prefix = "" if network == "generator" else network + "_"
        base = getattr(self, prefix + "channel_base") or self.channel_base
        most = getattr(self, prefix + "channel_max") or self.channel_max
        return max(1, min(int(base / (resolution / 2)), most))

    def modulated(self, resolution: int) -> bool:
        """Returns whether the fingerprint modulates the convolutions at a resolution."""
        return self.modulated_min <= resolution <= (self.modulated_max or self.resolution)

    def to_dict(self) -> dict:
        """Returns the fields as a plain dict, fit for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "NetworkConfig":
        """Builds the config from a mapping; an unknown field raises FpganError."""
        unknown = sorted(set(fields) - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise FpganError(f"unknown network field {shown(unknown[0])!r}; this version of fpgan does not have it")
        for field in dataclasses.fields(cls):
            value = fields.get(field.name, field.default)
            expected = (int, float) if isinstance(field.default, float) else (type(field.default),)
            if type(value) not in expected:
                raise FpganError(f"network.{field.name} is {shown(value)}, expected a value such as {field.default!r}")
        return cls(**fields)


def _require(condition: bool, name: str, value, expected: str) -> None:
    if not condition:
        raise FpganError(f"network.{name} is {shown(repr(value))}, expected {expected}")
