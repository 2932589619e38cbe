"""Everything about many devices and many hosts."""

import os

import jax
import numpy as np

from fpgan.errors import FpganError

AXIS = "devices"  # the name of the mapped axis, for lax.pmean in per-device functions


def pmap(function, **options):
    """Maps a per-device function over the devices; the first argument, the state, is donated."""
    return jax.pmap(function, axis_name=AXIS, donate_argnums=0, **options)


def replicate(tree):
    """Puts a copy of every array on every local device: [...] -> [local devices, ...]."""
    count = jax.local_device_count()
    # NumPy's broadcasting is a view: no device ever holds more than its own copy.
    return jax.pmap(lambda x: x)(jax.tree.map(lambda x: np.broadcast_to(np.asarray(x), (count, *np.shape(x))), tree))


def unreplicate(tree):
    """This process's first copy of a replicated tree, as NumPy arrays."""
    return jax.tree.map(lambda x: np.asarray(x.addressable_data(0))[0], tree)


def is_main() -> bool:
    """Whether this process is the one that writes logs, pictures and the config."""
    return jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process; all processes have to ask at the same step."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def shard(batch: np.ndarray) -> np.ndarray:
    """Splits a process's share of a batch over its devices: [B, ...] -> [local devices, B / local devices, ...]."""
    return batch.reshape(jax.local_device_count(), -1, *batch.shape[1:])


def initialize() -> None:
    """Joins the other processes of a run, where there are any.

    Under Slurm, Open MPI, Kubernetes and on TPU pods JAX finds them by itself (FPGAN_DISTRIBUTED=auto); elsewhere the
    variables FPGAN_COORDINATOR (host:port), FPGAN_NUM_PROCESSES and FPGAN_PROCESS_ID name them. Without any of these
    variables the run has one process. To be called before anything touches a device.
    """
    if os.environ.get("FPGAN_DISTRIBUTED") == "auto":
        jax.distributed.initialize()
    elif "FPGAN_COORDINATOR" in os.environ:
        try:
            count, number = int(os.environ["FPGAN_NUM_PROCESSES"]), int(os.environ["FPGAN_PROCESS_ID"])
        except (KeyError, ValueError):
            raise FpganError("FPGAN_COORDINATOR is set; expected whole numbers in FPGAN_NUM_PROCESSES and FPGAN_PROCESS_ID "
                             "as well") from None
        jax.distributed.initialize(os.environ["FPGAN_COORDINATOR"], count, number)
