"""A run of several processes: they join before anything touches a device, and end together."""

import contextlib
import json
import os
import secrets
import sys
import threading
import traceback
from collections.abc import Callable
from typing import NoReturn

import jax
import numpy as np
from jax import lax
from jax._src import distributed  # for the key-value store that the processes share; it has no public name
from jax.experimental import multihost_utils

from fpgan.distributed.devices import AXIS
from fpgan.distributed.environment import PATIENCE, Process, detect_process
from fpgan.distributed.process_group import Fleet, Hub, listen
from fpgan.errors import FpganError
from fpgan.io.files import reason
from fpgan.version import __version__


@contextlib.contextmanager
def together(name: str, coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None):
    """Runs the block as one process of a run: joins the others first, and ends together with them.

    In a run of several processes an exception in one of them ends all, with its message told once, by process 0, and its
    exit code; so does the loss of one. In a run of one process nothing of this happens.

    Args:
      name: of the command, for the message.
      coordinator, num_processes, process_id: see environment.detect_process.

    Raises:
      FpganError: if the processes are named in part, or do not find each other.
    """
    def say(text):
        print(f"{name}: error: {text}", file=sys.stderr, flush=True)

    initialize(say, detect_process(process_id, num_processes, coordinator, meeting=True))
    try:
        yield
    except BaseException as error:
        if _fleet:
            _fail(error)
        raise
    if _fleet:
        _fleet.meet(last=True)


def initialize(say: Callable[[str], None], process: Process) -> None:
    """Joins the other processes of a job, where there are any: JAX's runtime, and the fleet that watches over them.

    To be called before anything touches a device. If the others cannot be joined, the process ends.

    Args:
      say: is given the message with which a run ends.
      process: this one.
    """
    global _fleet
    if process.count == 1 or _fleet:
        return
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM away from preemption.py
    too_late = f"for {PATIENCE} seconds, not all {process.count} processes came"
    patience = threading.Timer(PATIENCE, _give_up, (say, process, too_late))  # JAX would abort without saying so
    patience.daemon = True
    patience.start()
    try:
        if process.index == 0:
            listen(int(process.coordinator.rsplit(":", 1)[1])).close()  # JAX crashes where the port is in use
        jax.distributed.initialize(process.coordinator, process.count, process.index, process.devices,
                                   cluster_detection_method="deactivate", initialization_timeout=PATIENCE + 60)
        _fleet = _join_fleet(say, process)
    except (RuntimeError, OSError) as error:
        _give_up(say, process, reason(error))
    _fleet.meet({"fpgan": __version__, "jax": jax.__version__})
    patience.cancel()
    # CPU processes have 30 seconds to connect to each other, one device for each or all: now, while they are all here.
    multihost_utils.sync_global_devices("joined")
    jax.pmap(lambda x: lax.psum(x, AXIS), AXIS)(np.ones(jax.local_device_count())).block_until_ready()


def fleet() -> Fleet | None:
    """What holds the processes of this run together; None if there is only this one."""
    return _fleet


_fleet: Fleet | None = None


def _join_fleet(say, process: Process) -> Fleet:
    """Connects to process 0, whose address goes through the key-value store of JAX's coordinator."""
    store, host = distributed.global_state.client, process.coordinator.rsplit(":", 1)[0]
    hub = None
    if process.index == 0:
        token = secrets.token_hex(16)
        hub = Hub(process.count, token)
        store.key_value_set("fpgan/fleet", json.dumps([hub.port, token]))
    port, token = json.loads(store.blocking_key_value_get("fpgan/fleet", PATIENCE * 1000))
    return Fleet((host.strip("[]"), port), token, process.index, say, hub)


def _give_up(say, process: Process, why: str) -> NoReturn:
    """Ends a process that did not find the others; a regular end would make JAX wait for them once more."""
    say(f"process {process.index} cannot meet the others at {process.coordinator} ({why}); expected the same command in "
        f"each of {process.count} processes, and an address of process 0 that all of them reach and no other program uses")
    os._exit(2)


def _fail(error: BaseException) -> None:
    """Ends the whole run because of an exception in this process."""
    if isinstance(error, FpganError):
        _fleet.fail(2, str(error))
    if isinstance(error, KeyboardInterrupt):
        _fleet.fail(130, "stopped")
    if isinstance(error, OSError):
        _fleet.fail(2, f"{error.filename}: {reason(error)}" if error.filename else reason(error))
    _fleet.await_verdict()  # a collective operation fails in many ways when another process is lost
    traceback.print_exception(error)
    _fleet.fail(1, f"{type(error).__name__}: {reason(error)}")
