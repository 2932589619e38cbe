"""Runs of several real processes, for the tests: start them as a user would, wait for them, look at what they leave."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tiny

TINY = Path(tiny.__file__)
WHOLE = [sys.executable, "-c", "import sys, fpgan.cli; sys.exit(fpgan.cli.main())"]
LIGHT = [sys.executable, str(TINY.with_name("light.py"))]
CACHE = Path(tempfile.gettempdir()) / f"fpgan-test-cache-{os.getuid()}"


def start(program, workdir, count, devices, *overrides, own=lambda i: [], address=None, **variables):
    """Starts `fpgan train` with the tiny config in `count` processes of `devices` virtual devices each.

    Args:
      program: WHOLE or LIGHT.
      workdir, overrides: of the command.
      count, devices: how many processes, and devices of each.
      own: process -> overrides of its own.
      address: where they meet; a free port of this machine if None.
      variables: of the environment.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = address or f"127.0.0.1:{free.getsockname()[1]}"
    flags = ("--xla_backend_optimization_level=0 --xla_cpu_collective_call_terminate_timeout_seconds=600 "
             f"--xla_force_host_platform_device_count={devices}")
    environment = {**os.environ, **variables, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu",
                   "JAX_COMPILATION_CACHE_DIR": str(CACHE), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                   "PYTHONPATH": os.pathsep.join([str(TINY.parents[1]), str(TINY.parent)])}
    command = [*program, "train", "--config", str(TINY), "--workdir", str(workdir), *overrides]
    several = ["--coordinator", address, "--num-processes", str(count), "--process-id"]
    return [_start([*command, *own(i), *(several + [str(i)] if count > 1 else [])], environment) for i in range(count)]


def _start(command, environment):
    with tempfile.NamedTemporaryFile("w", suffix=".log", delete=False) as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    process.output = output.name
    return process


def finish(processes, timeout=1200):
    """Waits for all: their exit codes (-9 for those that had to be killed in the end) and their output."""
    end = time.time() + timeout
    while time.time() < end and any(process.poll() is None for process in processes):
        time.sleep(0.1)
    for process in processes:
        process.kill()
    codes, output = [process.wait() for process in processes], [Path(process.output).read_text() for process in processes]
    for process in processes:
        os.unlink(process.output)
    return codes, output


def run(*args, **variables):
    """Starts, waits, and expects success; the output of the main process."""
    codes, output = finish(start(*args, **variables))
    assert codes == [0] * len(codes), "\n\n".join(output)
    return output[0]


def losses(workdir):
    """(step, name) -> value in the training log."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {(line["step"], name): value for line in lines for name, value in line.items()
            if name not in ("images_per_second", "seconds")}


def saved(workdir, step, like):
    """Name -> array of a saved state."""
    import jax

    from fpgan.training.checkpoint import Checkpoints
    state = Checkpoints(workdir, read_only=True).restore(like, step)
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(state)}
