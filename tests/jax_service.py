"""One process that joins others by jax.distributed alone, and does nothing but collective operations; see test_jax_service.

    python jax_service.py INDEX COUNT ADDRESS [recoverable] [preemption] [callback]
"""

import os
import sys
import time

import jax
import jax.numpy as jnp
from jax import lax
from jax._src import distributed
from jax.experimental import multihost_utils

HEARTBEAT = 10
START = 1500  # the first step


def main(index, count, address, *options):
    jax.config.update("jax_enable_recoverability", "recoverable" in options)
    jax.config.update("jax_enable_preemption_service", "preemption" in options)
    if "callback" in options:
        create = distributed._jax.get_distributed_runtime_client
        distributed._jax.get_distributed_runtime_client = lambda *args, **named: create(
            *args, **named, missed_heartbeat_callback=lambda status: os._exit(75))
    jax.distributed.initialize(address, int(count), int(index), cluster_detection_method="deactivate",
                               heartbeat_timeout_seconds=HEARTBEAT)
    total = jax.pmap(lambda x: lax.psum(x, "all"), "all")
    total(jnp.ones(1)).block_until_ready()
    print("ready", flush=True)
    time.sleep(2)  # the first step compiles
    try:
        for step in range(START, START + 100):
            total(jnp.ones(1)).block_until_ready()
            time.sleep(0.1)
            if "preemption" in options and multihost_utils.reached_preemption_sync_point(step):
                print(f"sync point {step}", flush=True)
                return
    except ValueError as error:  # a lost process
        print(f"collective operation: {error}", flush=True)
        everybody = list(range(int(count)))
        while "recoverable" in options and len(distributed.global_state.client.get_live_nodes(everybody)) == len(everybody):
            time.sleep(0.1)
        print(f"lost at {time.time():.1f}", flush=True)
        time.sleep(3 * HEARTBEAT)


if __name__ == "__main__":
    main(*sys.argv[1:])
