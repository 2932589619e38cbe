"""A model of how long a training step takes on real accelerators: predictions, nothing measured.

    step = sum over the phases of (compute + all-reduce) / interval
    compute = FLOPs per device / (peak FLOP/s x utilisation)
    all-reduce of b bytes over a ring of n devices = 2 (n - 1) / n x b / bandwidth + 2 (n - 1) x latency

A ring is optimal in bandwidth (Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of
workstations"). Between hosts that are joined by a network instead of links, each device reduces its part of the gradients
with its like on the other hosts: the inner ring, then an outer one over 1/n of the bytes. Compute and all-reduce are taken
not to overlap, input and logging not to count. No JAX here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

TPU_V5E_SOURCE = ("https://cloud.google.com/tpu/docs/v5e: 197 TFLOP/s bf16, 16 GB HBM at 819 GB/s, 4 MXUs, 400 GB/s "
                  "bidirectional ICI per chip (4 links; a ring uses 2 of them), 2D torus")
TPU_V5P_SOURCE = ("https://cloud.google.com/tpu/docs/v5p: 459 TFLOP/s bf16, 95 GB HBM at 2765 GB/s, 2 x 4 MXUs, 1200 GB/s "
                  "bidirectional ICI per chip (6 links; a ring uses 2 of them), 3D torus; v5p-128 has 64 chips")
H100_SOURCE = ("NVIDIA H100 and DGX H100 data sheets: 1979 TFLOP/s bf16 with sparsity, so 989 dense; 80 GB at 3.35 TB/s; "
               "NVLink 900 GB/s in both directions; a 400 Gb/s adapter per GPU")


@dataclass(frozen=True)
class Device:
    """One chip.

    Attributes:
      name: of the product.
      flops: FLOP/s in bfloat16, dense, at its peak.
      bandwidth: bytes/s that it sends as a part of a ring.
      latency: seconds of one message along the ring; assumed, vendors do not publish it.
      source: where the numbers are from.
      memory: bytes that it holds.
      memory_bandwidth: bytes/s between it and its memory.
      multipliers: 128x128 matrix units of a TPU chip, each 2 x 128^2 FLOP a cycle; 0 where cycles are not counted.
    """

    name: str
    flops: float
    bandwidth: float
    latency: float
    source: str
    memory: float
    memory_bandwidth: float
    multipliers: int = 0

    @property
    def clock(self) -> float:
        """Cycles per second, as the peak implies them."""
        return self.flops / (self.multipliers * 2 * 128**2) if self.multipliers else 0.0


@dataclass(frozen=True)
class System:
    """Devices that train together.

    Attributes:
      name: as it is ordered.
      device: one of them.
      ring: how many are joined by the device's own links.
      rings: how many such groups there are.
      hosts: machines, that is processes.
      network: bytes/s that a device sends to another group; 0 with one group.
      network_latency: seconds of one message to another group; assumed.
    """

    name: str
    device: Device
    ring: int
    rings: int = 1
    hosts: int = 1
    network: float = 0.0
    network_latency: float = 0.0

    @property
    def count(self) -> int:
        """All devices."""
        return self.ring * self.rings


V5E = Device("TPU v5e", 197e12, 400e9 / 4, 1e-6, TPU_V5E_SOURCE, 16e9, 819e9, 4)  # 2 links, half their bandwidth each way
V5P = Device("TPU v5p", 459e12, 1200e9 / 6, 1e-6, TPU_V5P_SOURCE, 95e9, 2765e9, 8)
H100 = Device("H100 SXM", 989e12, 900e9 / 2, 2e-6, H100_SOURCE, 80e9, 3.35e12)
CHIPS = {"TPU v5 lite": V5E, "TPU v5": V5P}  # by the name that JAX gives them
SYSTEMS = (
    System("v5e-1", V5E, 1), System("v5e-8", V5E, 8), System("v5e-64", V5E, 64, hosts=8),
    System("v5p-128", V5P, 64, hosts=16),
    System("1 H100", H100, 1), System("8xH100, 1 host", H100, 8),
    *(System(f"8xH100, {hosts} hosts", H100, 8, hosts, hosts, network=400e9 / 8, network_latency=5e-6)
      for hosts in (2, 4, 16)),
)


class Work(NamedTuple):
    """What a phase of a step does on each device.

    Attributes:
      name: of the phase.
      interval: steps between its turns.
      flops: of one turn, on one device.
      reduced_bytes: averaged over all devices in one turn.
    """

    name: str
    interval: int
    flops: float
    reduced_bytes: float


def ring_seconds(size: float, count: int, bandwidth: float, latency: float = 0.0) -> float:
    """Seconds of an all-reduce of `size` bytes over a ring of `count` devices."""
    if count == 1:
        return 0.0
    return 2 * (count - 1) / count * size / bandwidth + 2 * (count - 1) * latency


def all_reduce_seconds(system: System, size: float) -> float:
    """Seconds of an all-reduce of `size` bytes over all devices of a system."""
    inner = ring_seconds(size, system.ring, system.device.bandwidth, system.device.latency)
    return inner + ring_seconds(size / system.ring, system.rings, system.network, system.network_latency)


def predict(system: System, work: Sequence[Work], device_batch: int, utilization: float) -> dict:
    """Predicts a step.

    Args:
      system: the devices.
      work: the phases, with the FLOPs of `device_batch` images.
      device_batch: images per device and step.
      utilization: of the peak FLOP/s, in (0, 1].

    Returns:
      A row of the table: seconds of a step and of its two parts, images/s, and what part of the step is communication.
    """
    compute = sum(w.flops / w.interval for w in work) / (system.device.flops * utilization)
    reduce = sum(all_reduce_seconds(system, w.reduced_bytes) / w.interval for w in work)
    batch = device_batch * system.count
    step = compute + reduce
    return {"system": system.name, "devices": system.count, "hosts": system.hosts, "batch": batch,
            "compute_seconds": compute, "all_reduce_seconds": reduce, "step_seconds": step,
            "images_per_second": batch / step, "communication": reduce / step}


def bound(device: Device, count: int, program: dict) -> dict:
    """Bounds the time of a compiled program by the roofline of its chip (Williams, Waterman and Patterson 2009).

    Args:
      device: the chip.
      count: chips that share a batch, and all-reduce.
      program: "flops", "batch", "traffic" and "collectives" of one call on one chip, and "cycles", by operation
        (fpgan.benchmarks.compile.compile_cached).

    Returns:
      intensity, FLOP per byte of memory traffic; compute_seconds, memory_seconds and all_reduce_seconds; seconds, the larger
      of the first two and the third, which is a bound from below; mfu, the part of the peak FLOP/s that it leaves. And the
      same by the cycles that the compiler expects: expected_seconds, expected_mfu, which is no bound but a guess.
    """
    compute, memory = program["flops"] / device.flops, program["traffic"]["bytes"] / device.memory_bandwidth
    reduced = program["collectives"].get("all-reduce", {"bytes": 0})["bytes"]
    reduce = ring_seconds(reduced, count, device.bandwidth, device.latency)
    seconds = max(compute, memory) + reduce
    expected = sum(program["cycles"].values()) / device.clock + reduce
    return {"intensity": program["flops"] / max(1, program["traffic"]["bytes"]), "compute_seconds": compute,
            "memory_seconds": memory, "all_reduce_seconds": reduce, "seconds": seconds, "mfu": compute / seconds,
            "expected_seconds": expected, "expected_mfu": compute / expected}
