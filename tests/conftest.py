"""Eight virtual CPU devices for all tests, quick compilation, and a cache of what was compiled that is not the user's."""

import os
import tempfile

QUICK = "--xla_backend_optimization_level=0"  # tiny networks spend their time in the compiler
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK} --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), f"fpgan-test-cache-{os.getuid()}"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ["FPGAN_CACHE"] = "off"
