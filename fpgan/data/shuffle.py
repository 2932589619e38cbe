"""The order in which images are seen: a keyed permutation of the data set per epoch, computed, never stored.

`shuffled_index` says which image stands at which place of an epoch. It needs no state, so a run resumes at
any step by arithmetic alone, and every process finds its share by itself. It is written once, in 32-bit
unsigned operators that mean the same on NumPy arrays and on JAX arrays, so the host pipeline and data
resident on a device follow the same order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fpgan.errors import FpganError

if TYPE_CHECKING:
    import jax

_ROUNDS = 40  # of `_swap_or_not`; each moves about half of all images
_MAX_SIZE = 2**31


def _mix(x):
    """Scrambles uint32 values (a bijection of [0, 2^32) in which every input bit reaches every output bit).

    Constants: "lowbias32" from the public-domain survey of integer hashes by C. Wellons.
    """
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def _swap_or_not(index, key, size):
    """Permutes [0, size) under a key: in each round x and its mirror image (c - x) mod size swap, or not.

    Both of a pair look up the same keyed coin, so each round is a bijection of [0, size) for any size: unlike
    in a Feistel network no value ever falls outside and none has to be walked back.

    Args:
      index: uint32 array, values in [0, size).
      key: uint32 array, broadcast against index.
      size: int in [1, 2^31].

    Returns:
      uint32 array of index's shape.

    Source: Hoang, Morris, Rogaway, "An Enciphering Scheme Based on a Card Shuffle", CRYPTO 2012.
    """
    xp = index.__array_namespace__()
    size = np.uint32(size)
    for round_number in range(_ROUNDS):
        round_key = _mix(key + np.uint32(round_number * 0x9E3779B9 & 0xFFFFFFFF))
        centre = round_key % size
        mirror = xp.where(index <= centre, centre - index, centre + (size - index))
        coin = _mix(xp.maximum(index, mirror) ^ _mix(round_key)) >> np.uint32(31)
        index = xp.where(coin == 1, mirror, index)
    return index


def split_position(position: int | np.ndarray, size: int):
    """Splits positions in the endless stream of images into (epoch, offset within the epoch).

    Args:
      position: int or integer array, >= 0, of any size that int64 holds.
      size: number of images in an epoch.

    Returns:
      Two uint32 NumPy arrays of position's shape: epoch (modulo 2^32) and offset in [0, size).
    """
    epoch, offset = np.divmod(np.asarray(position, np.int64), size)
    return (epoch & 0xFFFFFFFF).astype(np.uint32), offset.astype(np.uint32)


def shuffled_index(seed: int | np.uint32 | jax.Array,
                   position: int | np.ndarray | tuple[np.ndarray, np.ndarray] | tuple[jax.Array, jax.Array], size: int):
    """Returns the index of the image at a position of the shuffled, endlessly repeated data set.

    For every seed and epoch the map from offset to index is a bijection of [0, size): each image comes once
    per epoch, in an order that differs from epoch to epoch. The result is part of a run's identity, so it
    never changes between versions.

    Args:
      seed: int in [0, 2^32), or a uint32 scalar array.
      position: either integers >= 0 (NumPy or Python), counted from the start of the run, or a pair (epoch,
        offset) of uint32 arrays, NumPy or JAX, with 0 <= offset < size. The pair form works inside `jax.jit`.
      size: int in [1, 2^31], the number of images.

    Returns:
      uint32 array of the shape of the position, values in [0, size): NumPy for NumPy, JAX for JAX.

    Raises:
      FpganError: if size is out of range.
    """
    if not 1 <= size <= _MAX_SIZE:
        raise FpganError(f"cannot shuffle {size} images; expected 1 to 2^31 of them; is the data set empty?")
    epoch, offset = position if isinstance(position, tuple) else split_position(position, size)
    seed = np.uint32(seed) if isinstance(seed, int) else seed
    with np.errstate(over="ignore"):  # uint32 wraps around by design; NumPy warns about it for scalars only
        key = _mix(_mix(seed ^ np.uint32(0x66706731)) ^ epoch)
        return _swap_or_not(offset, key, size)


def batch_indices(seed: int, step: int, batch_size: int, size: int, process_index: int = 0, process_count: int = 1):
    """Says which images one process reads in one step: its contiguous share of the global batch.

    Args:
      seed: int in [0, 2^32).
      step: int >= 0; sample i of the global batch of step s stands at position s * batch_size + i.
      batch_size: images per step over all processes, a multiple of process_count.
      size: number of images in the data set.
      process_index: this process's number, in [0, process_count).
      process_count: how many processes share the batch.

    Returns:
      uint32 [batch_size // process_count].

    Raises:
      FpganError: if the processes cannot share the batch evenly.
    """
    if batch_size < 1 or process_count < 1 or batch_size % process_count:
        raise FpganError(f"a batch of {batch_size} images cannot be shared by {process_count} processes;"
                         " make batch_size a multiple of the number of processes")
    if not 0 <= process_index < process_count:
        raise FpganError(f"process_index is {process_index}; expected 0 to {process_count - 1}")
    share = batch_size // process_count
    start = step * batch_size + process_index * share
    return shuffled_index(seed, np.arange(start, start + share), size)
