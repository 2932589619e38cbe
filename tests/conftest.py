"""Eight virtual CPU devices for all tests, quick compilation, and a cache of what was compiled that is not the user's."""

import gc
import os
import tempfile

QUICK = "--xla_backend_optimization_level=0"  # tiny networks spend their time in the compiler
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK} --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), f"fpgan-test-cache-{os.getuid()}"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ["FPGAN_CACHE"] = "off"


def pytest_xdist_auto_num_workers(config):
    """One worker for each core; none for a single file, or for slow tests: these start processes and look at the clock."""
    single = len(config.args) == 1 and ".py" in config.args[0]
    return 0 if single or "not slow" not in config.option.markexpr else min(os.cpu_count() or 1, 8)


def pytest_collection_modifyitems(items):
    """Starts with what takes longest, so that no worker is left with it when the others are done."""
    items.sort(key=lambda item: item.path.stem not in ("test_training", "test_step"))


def pytest_unconfigure(config):
    """Spares pytest's last collections of garbage what JAX holds: xdist interrupts a worker that takes 5 seconds to end."""
    gc.freeze()
