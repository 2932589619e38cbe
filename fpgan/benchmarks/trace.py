"""What a trace says in a few lines: where the time of each kind of step goes, by operation of the compiled programs.

A trace (`fpgan.distributed.profiler`) holds when each operation ran on which device or thread. An operation counts for the
step during which it began; what several threads do at a time is added up, so the sum may be more than the time on the clock.
"""

from __future__ import annotations

import os
import re
import statistics
from bisect import bisect_right
from collections import Counter, defaultdict
from pathlib import Path

from fpgan.errors import FpganError

COMPUTE, MOVE, REST, EXCHANGE = ("products and convolutions", "copies, paddings, transposes", "elementwise, sums",
                                 "between devices")
KINDS = (COMPUTE, MOVE, REST, EXCHANGE)
_NESTED = {"while", "conditional", "call"}  # their operations are in the trace themselves
_PRODUCTS = re.compile(r"ynn|dot|conv(olution|_general)|gemm|cudnn|cublas|custom-call|matmul")
_EXCHANGES = re.compile(r"all-|psum|reduce-scatter|collective|send|recv|nccl")
_MOVES = {"copy", "transpose", "pad", "slice", "concatenate", "broadcast", "reverse", "gather", "bitcast", "reshape",
          "tuple", "dynamic-slice", "dynamic-update-slice", "copy-start", "copy-done", "iota"}
_SHOWN = 4  # operations of each kind of step


def summary(folder: str | os.PathLike) -> list[str]:
    """Sums up the newest trace below a folder.

    Returns:
      Lines of at most 100 columns: for each kind of step its runs, the median of its time on the clock, the time of its
      operations by KINDS, and the operations that took longest.

    Raises:
      FpganError: there is no trace, or no step in it.
    """
    traces = sorted(Path(folder).rglob("*.xplane.pb"), key=os.path.getmtime)
    if not traces:
        raise FpganError(f"{os.fspath(folder)} holds no trace (*.xplane.pb); write one with --trace or --profile")
    steps, operations = _read(traces[-1])
    if not steps:
        raise FpganError(f"{traces[-1]} has no step that is named; write one with --trace or --profile")
    busy = _busy(steps, operations)
    head = f"{'step':<14}{'runs':>5}{'ms':>8}{COMPUTE:>26}{'copies':>15}{'elementwise':>15}{EXCHANGE:>16}"
    lines = [f"trace: {traces[-1]}", head]
    for name, times in _by_name(steps).items():
        kinds, runs, total = Counter(), len(times), sum(busy[name].values())
        for operation, seconds in busy[name].items():
            kinds[kind_of(operation)] += seconds
        cells = [f"{kinds[kind] / runs * 1e3:.1f} ms, {kinds[kind] / max(total, 1e-12):.0%}" for kind in KINDS]
        lines.append(f"{name:<14}{runs:>5}{statistics.median(times) * 1e3:>8.1f}{cells[0]:>26}{cells[1]:>15}{cells[2]:>15}"
                     f"{cells[3]:>16}")
        most = ", ".join(f"{operation} {seconds / total:.0%}" for operation, seconds in busy[name].most_common(_SHOWN))
        lines.append(f"    {most}"[:100])
    return [*lines, "ms: on the clock, median; beside it the time of operations a run, all threads or devices together"]


def kind_of(operation: str) -> str:
    """Returns which of KINDS an operation belongs to, by the name that XLA gives it."""
    if _EXCHANGES.search(operation):
        return EXCHANGE
    if _PRODUCTS.search(operation):
        return COMPUTE
    parts = set(operation.split("_")) - {"fusion", "wrapped"}
    return MOVE if parts <= _MOVES else REST


def _read(path: Path) -> tuple[list[tuple[float, float, str]], list[tuple[float, float, str]]]:
    """Reads the steps and the operations of a trace: when they began, how long they took, in seconds, and their names."""
    import jax

    steps, operations = [], []
    for plane in jax.profiler.ProfileData.from_file(os.fspath(path)).planes:
        for line in plane.lines:
            for event in line.events:
                facts = dict(event.stats)
                found = event.start_ns * 1e-9, event.duration_ns * 1e-9
                if "hlo_op" in facts:
                    operations.append((*found, re.sub(r"\.\d+", "", str(facts["hlo_op"]))))
                elif "step_num" in facts and not plane.name.startswith("/device"):
                    steps.append((*found, event.name))
    return sorted(steps), operations


def _busy(steps: list[tuple[float, float, str]], operations: list[tuple[float, float, str]]) -> dict[str, Counter]:
    """Adds up the seconds of each operation in each kind of step."""
    starts, busy = [start for start, _, _ in steps], defaultdict(Counter)
    for began, seconds, operation in operations:
        place = bisect_right(starts, began) - 1
        if place >= 0 and operation not in _NESTED and began <= steps[place][0] + steps[place][1]:
            busy[steps[place][2]][operation] += seconds
    return busy


def _by_name(steps: list[tuple[float, float, str]]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {}
    for _, seconds, name in steps:
        times.setdefault(name, []).append(seconds)
    return times
