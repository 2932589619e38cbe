"""Where a number comes from: the command, the versions and the device, to stand beside it."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fpgan.version import __version__

if TYPE_CHECKING:
    import jax

_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "scipy", "pillow", "safetensors")


def provenance(command: str, packages: Sequence[str] = ()) -> dict:
    """Describes the circumstances of a measurement as plain values, ready for JSON.

    Args:
      command: what was typed, or any text that says how to repeat the measurement.
      packages: names of further distributions whose versions matter.

    Returns:
      command, utc (ISO 8601), fpgan, python, versions (name -> version), device (name, platform, count).
    """
    import jax

    device = jax.devices()[0]
    return {
        "command": command,
        "utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "fpgan": __version__,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in (*_PACKAGES, *packages)},
        "device": {"name": device_name(device), "platform": device.platform, "count": jax.device_count()},
    }


def device_name(device: jax.Device) -> str:
    """Names a JAX device: its kind on an accelerator, model and usable threads of the processor on a CPU."""
    if device.platform != "cpu":
        return device.device_kind
    return f"{_processor()}, {cpu_count()} threads"


def cpu_count() -> int:
    """Returns how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = [line.split(":", 1) for line in file if ":" in line]
    except OSError:
        lines = []
    names = [value.strip() for key, value in lines if key.strip() == "model name"]
    return names[0] if names else platform.processor() or platform.machine()
