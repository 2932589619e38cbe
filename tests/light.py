"""`fpgan train` on a model of two numbers that needs no time to compile, with faults where the variable FAULT wants them.

    FAULT="1 5 kill" python light.py train ...

In process 1, before step 5 begins: kill (SIGKILL), hang (SIGSTOP), term (SIGTERM), terms (SIGTERM, and Ctrl-C soon after),
error (a user's error), bug (another exception) or disk (of OSError's kind). "data" as the step: while the data is opened.
"""

import os
import signal
import sys
import threading
import time

import jax
import jax.numpy as jnp
from jax import lax

from fpgan.cli import app
from fpgan.distributed import devices
from fpgan.errors import FpganError
from fpgan.training import loop
from fpgan.training.state import TrainState
from fpgan.training.step import Phase


def init_state(config):
    """Two numbers for each network."""
    params = {name: {"w": jnp.ones(2)} for name in ("generator", "decoder", "discriminator")}
    number = jnp.zeros(())
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, ema={}, optimizer={}, path_length_mean=number,
                      accuracy=number, progress=number, image_terms=jnp.ones((), bool))


def phases(config, device_batch, resident):
    """Adds to the numbers what depends on the step, the images, and their order over the devices."""
    def run(state, images):
        weight = 1 + lax.axis_index(devices.AXIS) * device_batch + jnp.arange(device_batch)
        seen = lax.psum(jnp.sum(weight * images.astype(jnp.float32).mean((1, 2, 3))), devices.AXIS) / config.batch_size
        params = jax.tree.map(lambda w: 0.9 * w + seen * jnp.array([1.0, state.step]), state.params)
        return state.replace(step=state.step + 1, params=params), {"seen": seen}
    return (Phase("light", 1, run),)


def strike(kind):
    """Does the damage."""
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "hang":
        os.kill(os.getpid(), signal.SIGSTOP)
    if kind in ("term", "terms"):
        os.kill(os.getpid(), signal.SIGTERM)
    if kind == "terms":
        for delay, number in ((0.02, signal.SIGINT), (0.2, signal.SIGTERM), (0.5, signal.SIGINT)):
            threading.Timer(delay, os.kill, (os.getpid(), number)).start()
    if kind == "error":
        raise FpganError("the moon is full")
    if kind == "bug":
        raise ZeroDivisionError("one of those")
    if kind == "disk":
        raise OSError(28, "No space left on device", "metrics.jsonl")


def main():
    """Puts the small parts in place of the large ones."""
    process, when, kind = os.environ.get("FAULT", "-1 0 none").split()
    plain_batches, plain_source = loop.real_batches, loop.open_source

    def mine():
        return jax.process_index() == int(process)

    def real_batches(config, source, start):
        for step, batch in enumerate(plain_batches(config, source, start), start):
            time.sleep(float(os.environ.get("PACE", 0)))
            if when == str(step) and mine():
                print(f"struck at {time.time():.2f}", flush=True)
                strike(kind)
            yield batch

    def open_source(data, resolution):
        if when == "data" and mine():
            strike(kind)
        return plain_source(data, resolution)

    loop.init_state, loop.phases, loop.real_batches, loop.open_source = init_state, phases, real_batches, open_source
    return app.main([*sys.argv[1:6], "every.grid=0", *sys.argv[6:]])


if __name__ == "__main__":
    sys.exit(main())
