"""The devices of this process: a function mapped over them, arrays copied to them and split over them."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fpgan.errors import FpganError

AXIS = "devices"  # the name of the mapped axis, for lax.pmean in per-device functions


def pmap(function: Callable, **options: Any):
    """Maps a per-device function over the devices; the first argument, the state, is donated."""
    return jax.pmap(function, axis_name=AXIS, donate_argnums=0, **options)


def replicate(tree: Any, devices: Sequence | None = None):
    """Puts a copy of every array on every local device, or on some of them: [...] -> [devices, ...]."""
    devices = devices or jax.local_devices()
    # NumPy's broadcasting is a view: no device ever holds more than its own copy.
    stacked = jax.tree.map(lambda x: np.broadcast_to(np.asarray(x), (len(devices), *np.shape(x))), tree)
    # On a CPU, device_put may share the memory of its argument; what will be donated must not.
    return jax.pmap(lambda x: x, devices=devices)(jax.device_put(stacked, _split(devices)))


def unreplicate(tree: Any):
    """Fetches this process's first copy of a replicated tree, as NumPy arrays."""
    return jax.tree.map(lambda x: x[0], jax.device_get(jax.tree.map(lambda x: x.addressable_data(0), tree)))


def is_main() -> bool:
    """Returns whether this process is the one that writes logs, pictures and the config."""
    return jax.process_index() == 0


def shard(batch: np.ndarray) -> jax.Array:
    """Puts a process's share of a batch on its devices: [B, ...] -> [local devices, B / local devices, ...]."""
    devices = jax.local_devices()
    return jax.device_put(batch.reshape(len(devices), -1, *batch.shape[1:]), _split(devices))


def _split(devices: Sequence) -> NamedSharding:
    """Returns the sharding of arrays [devices, ...] whose row i lies on device i, as pmap takes them."""
    return NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))


def local_devices(count: int | None = None) -> tuple:
    """Returns the first `count` of this process's devices, all of them by default.

    Raises:
      FpganError: there are fewer.
    """
    devices = tuple(jax.local_devices())
    if count is not None and not 1 <= count <= len(devices):
        raise FpganError(f"{count} devices are asked for; this process has {len(devices)}")
    return devices[:count]


def batch_parallel(function: Callable, devices: Sequence) -> Callable:
    """Compiles a function of parameters and batches so that each device works on its own part of the batches.

    Args:
      function: f(params, *arrays [B, ...]) -> array [B, ...], in which a sample depends on itself alone.
      devices: D devices of this process.

    Returns:
      f(params, *arrays [D B, ...]) -> array [D B, ...]; each device runs the program that one device alone would run with B.
    """
    if len(devices) == 1:
        return jax.jit(function)
    mesh = Mesh(np.array(devices), (AXIS,))
    whole, split = PartitionSpec(), PartitionSpec(AXIS)

    def each(params, arrays):
        return function(params, *arrays)

    mapped = jax.shard_map(each, mesh=mesh, in_specs=(whole, split), out_specs=split, check_vma=False)
    shares = NamedSharding(mesh, split)
    compiled = jax.jit(mapped, in_shardings=(NamedSharding(mesh, whole), shares))
    # Where a run has several processes, jit itself puts no NumPy arrays on the devices of one.
    return lambda params, *arrays: compiled(params, jax.device_put(arrays, shares))


def copies(tree: Any, devices: Sequence):
    """Puts a copy of every array on each of these devices, for `batch_parallel`: arrays of the same shapes."""
    mesh = Mesh(np.array(devices), (AXIS,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def copies_on(tree: Any, devices: Sequence):
    """Returns a view of `copies` on some of their devices; nothing is copied."""
    sharding = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec())

    def part(array):
        here = {shard.device: shard.data for shard in array.addressable_shards}
        return jax.make_array_from_single_device_arrays(array.shape, sharding, [here[device] for device in devices])

    return jax.tree.map(part, tree)


def memory() -> int:
    """Returns the bytes of memory of one of this process's devices, of the machine for a CPU; 0 if nobody says."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return int((device.memory_stats() or {}).get("bytes_limit", 0))
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0
