"""A run of several processes: they join before anything touches a device, and end together."""

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

import jax
import numpy as np
from jax import lax
from jax._src import distributed  # for the key-value store that the processes share; it has no public name
from jax.experimental import multihost_utils

from fpgan.distributed.devices import AXIS
from fpgan.distributed.environment import PATIENCE, Process
from fpgan.distributed.process_group import VERDICT, ProcessGroup, listen
from fpgan.errors import FpganError, reason
from fpgan.version import __version__

_HEARTBEAT = 40  # seconds without a heartbeat after which JAX ends the run: a process that hangs, but holds its connection
_group: ProcessGroup | None = None


def process_group() -> ProcessGroup | None:
    """Returns what holds the processes of this run together; None if there is only this one."""
    return _group


@contextlib.contextmanager
def run(name: str, process: Process) -> Iterator[None]:
    """Runs the block as one process of a run: joins the others first, and ends together with them.

    In a run of several processes an exception in one of them ends all, with its message told once, by process 0, and its
    exit code; so does the loss of one. In a run of one process nothing of this happens.

    Args:
      name: of the command, for the message.
      process: this one, as detect_process(meeting=True) returns it.
    """
    def say(text):
        print(f"{name}: error: {text}", file=sys.stderr, flush=True)

    if process.count > 1:
        _join(process, say)
    try:
        yield
        if _group:
            _group.finish()
    except BaseException as error:
        if _group:
            _fail(error)
        raise


def _join(process: Process, say: Callable[[str], None]) -> None:
    """Joins the other processes, before anything touches a device; ends this one if they cannot be joined."""
    global _group
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM away from preemption.py
    too_late = f"for {PATIENCE} seconds, not all {process.count} processes came"
    patience = threading.Timer(PATIENCE, _give_up, (process, say, too_late))  # JAX would abort without saying so
    patience.daemon = True
    patience.start()
    try:
        if process.index == 0:
            listen(int(process.coordinator.rsplit(":", 1)[1])).close()  # JAX does not say that the port is in use
        jax.distributed.initialize(process.coordinator, process.count, process.index, process.devices,
                                   cluster_detection_method="deactivate", initialization_timeout=PATIENCE + 60,
                                   heartbeat_timeout_seconds=_HEARTBEAT)
        _group = ProcessGroup(process, distributed.global_state.client, say)
    except (RuntimeError, OSError) as error:
        _give_up(process, say, reason(error))
    _group.barrier({"fpgan": __version__, "jax": jax.__version__})
    patience.cancel()
    # CPU processes have 30 seconds to connect to each other, one device for each or all: now, while they are all here.
    multihost_utils.sync_global_devices("joined")
    jax.pmap(lambda x: lax.psum(x, AXIS), AXIS)(np.ones(jax.local_device_count())).block_until_ready()


def _give_up(process: Process, say: Callable[[str], None], why: str) -> NoReturn:
    """Ends a process that did not find the others; a regular end would make JAX wait for them once more."""
    say(f"process {process.index} cannot meet the others at {process.coordinator} ({why}); expected the same command in "
        f"each of {process.count} processes, and an address of process 0 that all of them reach and no other program uses")
    os._exit(2)


def _fail(error: BaseException) -> None:
    """Ends the whole run because of an exception in this process."""
    if isinstance(error, FpganError):
        _group.fail(2, str(error))
    if isinstance(error, KeyboardInterrupt):
        _group.fail(130, "stopped")
    if isinstance(error, OSError):
        _group.fail(2, f"{error.filename}: {reason(error)}" if error.filename else reason(error))
    time.sleep(VERDICT)  # a collective operation fails in many ways when another process is lost, which ends this one
    traceback.print_exception(error)
    _group.fail(1, f"{type(error).__name__}: {reason(error)}")
