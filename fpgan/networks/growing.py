"""Growing a model: more resolution and wider layers, with what was learned kept.

A generator of half the resolution is a good start for a larger one: its image, doubled by the skip connection's own filter,
is what the larger one makes at first (progressive growing, Karras et al. 2018), and layers get wider without a change of
their function (Net2Net, Chen et al. 2016). The decoder and the discriminator get a block in front that halves the image and
passes on what the old first layer saw.
"""

import math

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from fpgan.networks.config import NetworkConfig

# What may differ, beside the widths: it is no parameter, or grows with the resolution.
_FREE = {"resolution", "channel_base", "channel_max", "decoder_channel_base", "decoder_channel_max",
         "discriminator_channel_base", "discriminator_channel_max", "decoder_linear_levels", "compute_dtype",
         "modulated_min", "modulated_max", "minibatch_stddev_group", "minibatch_stddev_order"}


def can_grow(old: NetworkConfig, new: NetworkConfig) -> bool:
    """Tells whether models of one architecture can grow into another.

    The resolution is at least doubled, no layer gets narrower, and at 4x4 all stays as wide as it is, so that the dense
    layers there keep their shape. With twice the channel_base for twice the resolution that is so.
    """
    ours, theirs = new.to_dict(), old.to_dict()
    if new.resolution <= old.resolution or any(ours[key] != theirs[key] for key in ours.keys() - _FREE):
        return False
    if any(old.modulated(size) != new.modulated(size) for size in old.resolutions):
        return False
    return all(new.width(4, network) == old.width(4, network) and new.width(2, network) == old.width(2, network)
               and all(new.width(size, network) >= old.width(size, network) for size in old.resolutions)
               and all(new.width(size, network) >= old.width(old.resolution, network) for size in new.resolutions
                       if size > old.resolution)
               for network in ("generator", "decoder", "discriminator"))


def grow(old: NetworkConfig, new: NetworkConfig, params: dict, fresh: dict) -> dict:
    """Puts the parameters of a model into random ones of a larger architecture.

    Args:
      old: the architecture of the model.
      new: the larger one; `can_grow(old, new)`.
      params: of the model: {network} -> nested dict of arrays.
      fresh: random ones of `new`; a network that the model does not have stays as it is.

    Returns:
      As `fresh`: a generator whose images are those of the old one, doubled; a decoder, and a discriminator, that see their
      input at the old resolution first, and learn to see more.
    """
    grown = {}
    for network, tree in fresh.items():
        if network not in params:
            grown[network] = tree
            continue
        there = flatten_dict(params[network])
        width = old.width(old.resolution, network)
        grown[network] = unflatten_dict({
            place: _patterns(old, new, there[place]) if place[-1] == "patterns"
            else _widened(there[place], initial) if place in there else _neutral(place, initial, width)
            for place, initial in flatten_dict(tree).items()})
    return grown


def _widened(old: jax.Array, initial: jax.Array) -> np.ndarray:
    """Puts an array into a corner of a larger one: [..., I, O] -> [..., I', O'], or [O] -> [O'].

    What was added to the inputs counts for nothing as yet, what was added to the outputs is random. Weights are divided by
    the root of their fan-in at run time, so that they grow with it.
    """
    old, wide = np.asarray(old), np.array(initial)
    if old.shape == wide.shape:
        return old
    if old.ndim < 2 or old.shape[:-1] == wide.shape[:-1]:
        wide[..., :old.shape[-1]] = old
        return wide
    wide[..., :old.shape[-1]] = 0
    wide[..., :old.shape[-2], :old.shape[-1]] = old * math.sqrt(wide.shape[-2] / old.shape[-2])
    return wide


def _neutral(place: tuple[str, ...], initial: jax.Array, width: int) -> np.ndarray:
    """Returns a parameter of a block that was added, such that the block passes on what the old network knows.

    Args:
      place: names on the way to it.
      initial: the random one.
      width: of the old network at its first, or last, block.
    """
    value, layer = np.array(initial), place[-2:]
    if layer == ("to_rgb", "weight"):
        value[...] = 0  # adds nothing to the image
    elif layer == ("conv_down", "weight"):
        value[..., :width] = 0  # the old channels come by the skip connection alone
    elif layer == ("skip", "weight"):
        value[..., :width] = 0
        value[0, 0, :width, :width] = np.eye(width) * math.sqrt(2 * value.shape[-2])  # a block divides its sum by sqrt(2)
    return value


def _patterns(old: NetworkConfig, new: NetworkConfig, patterns: jax.Array) -> np.ndarray:
    """Puts the correlation's patterns [D, bits] where the new pyramid has the old resolution; finer levels count for 0."""
    sizes = [config.channels * (config.resolution >> level) ** 2
             for config in (new, old) for level in range(config.decoder_linear_levels)]
    levels, there = sizes[:new.decoder_linear_levels], sizes[new.decoder_linear_levels:]
    wide, rows = np.zeros((sum(levels), patterns.shape[1]), np.float32), dict(zip(there, np.split(
        np.asarray(patterns), np.cumsum(there)[:-1]), strict=True))
    start = 0
    for size in levels:
        wide[start:start + size] = rows.get(size, 0)
        start += size
    return wide * math.sqrt(len(wide) / len(patterns))
