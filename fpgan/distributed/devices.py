"""The devices of this process: a function mapped over them, arrays copied to them and split over them."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "devices"  # the name of the mapped axis, for lax.pmean in per-device functions


def pmap(function, **options):
    """Maps a per-device function over the devices; the first argument, the state, is donated."""
    return jax.pmap(function, axis_name=AXIS, donate_argnums=0, **options)


def replicate(tree, devices: Sequence | None = None):
    """Puts a copy of every array on every local device, or on some of them: [...] -> [devices, ...]."""
    devices = devices or jax.local_devices()
    # NumPy's broadcasting is a view: no device ever holds more than its own copy.
    stacked = jax.tree.map(lambda x: np.broadcast_to(np.asarray(x), (len(devices), *np.shape(x))), tree)
    # On a CPU, device_put may share the memory of its argument; what will be donated must not.
    return jax.pmap(lambda x: x, devices=devices)(jax.device_put(stacked, _split(devices)))


def unreplicate(tree):
    """Fetches this process's first copy of a replicated tree, as NumPy arrays."""
    return jax.tree.map(lambda x: x[0], jax.device_get(jax.tree.map(lambda x: x.addressable_data(0), tree)))


def is_main() -> bool:
    """Whether this process is the one that writes logs, pictures and the config."""
    return jax.process_index() == 0


def shard(batch: np.ndarray) -> jax.Array:
    """Puts a process's share of a batch on its devices: [B, ...] -> [local devices, B / local devices, ...]."""
    devices = jax.local_devices()
    return jax.device_put(batch.reshape(len(devices), -1, *batch.shape[1:]), _split(devices))


def _split(devices: Sequence) -> NamedSharding:
    """Returns the sharding of arrays [devices, ...] whose row i lies on device i, as pmap takes them."""
    return NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))
