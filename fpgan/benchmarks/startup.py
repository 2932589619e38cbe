"""How much CPU time a command takes until its first answer, beside that of `import jax` alone.

Processes are started in turns: `import jax`; `fpgan attribute` of one image with an empty cache (cold), and with the cache
that this has filled (warm); and without a cache. CPU time is the user's and the system's of the process and all its threads,
so that other programs on the machine disturb it less than the time on the clock, which is reported beside it. All caches are
in a temporary folder; nothing of the user's is read or written.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from fpgan.attribution.registry import Registry
from fpgan.errors import FpganError
from fpgan.fingerprint import Fingerprint
from fpgan.generation.generate import generate_set
from fpgan.io.cache import VARIABLE
from fpgan.model.model import load

_COMMAND = "import sys; from fpgan.cli import main; sys.exit(main())"
_OWN = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "XDG_CACHE_HOME", VARIABLE)


def bench_startup(name: str, repeats: int) -> dict:
    """Times whole processes.

    Args:
      name: of the model, or its folder.
      repeats: turns; a time is the median over them.

    Returns:
      {"model", "repeats", "rows"}: a row for each process, with what it is, cpu_seconds, seconds, and cpu_over_import, what
      it takes more than `import jax` in the same turn.

    Raises:
      FpganError: the command does not attribute the image to whom it belongs.
    """
    with tempfile.TemporaryDirectory() as folder:
        folder, model = Path(folder), load(name)
        mine = Fingerprint.random(model.n_bits)
        generate_set(model, Registry.single(mine), folder / "set", per_user=1, seed=0)
        (folder / "registry.csv").write_text(f"user,fingerprint\nalice,{mine.hex}\n")
        image = next((folder / "set").rglob("*.png"))
        attribute = [sys.executable, "-c", _COMMAND, "attribute", str(image), "--registry", str(folder / "registry.csv"),
                     "--model", str(name)]
        times: dict[str, list[tuple[float, float]]] = {}
        for turn in range(repeats):
            cache = str(folder / f"cache-{turn}")
            for what, command, kept in (("import jax", [sys.executable, "-c", "import jax"], "off"),
                                        ("attribute, no cache", attribute, "off"),
                                        ("attribute, cold", attribute, cache), ("attribute, warm", attribute, cache)):
                times.setdefault(what, []).append(_timed(command, {VARIABLE: kept}))
    return {"model": str(name), "repeats": repeats, "rows": [_row(what, times) for what in times]}


def lines(result: dict) -> list[str]:
    """Lays out what `bench_startup` returned as lines of at most 100 columns."""
    head = f"{'process':<22}{'CPU s':>8}{'(least-most)':>16}{'more than import jax':>23}{'on the clock s':>17}"
    rows = [f"{row['what']:<22}{row['cpu_seconds']:>8.2f}{_range(row):>16}{row['cpu_over_import']:>23.2f}"
            f"{row['seconds']:>17.2f}" for row in result["rows"]]
    return [f"startup: fpgan attribute one.png, model {result['model']}, medians over {result['repeats']} turns", head,
            *rows, "cold: with an empty cache of compiled programs; warm: the same command again"]


def _row(what: str, times: Mapping[str, list[tuple[float, float]]]) -> dict:
    cpu = [cpu for cpu, _ in times[what]]
    more = [own - jax for (own, _), (jax, _) in zip(times[what], times["import jax"], strict=True)]
    return {"what": what, "cpu_seconds": statistics.median(cpu), "least": min(cpu), "most": max(cpu),
            "seconds": statistics.median(seconds for _, seconds in times[what]), "cpu_over_import": statistics.median(more)}


def _range(row: dict) -> str:
    return f"({row['least']:.2f}-{row['most']:.2f})"


def _timed(command: list[str], variables: Mapping[str, str]) -> tuple[float, float]:
    """Runs a process: its CPU seconds, with those of its threads, and the seconds that it took."""
    environment = {name: value for name, value in os.environ.items() if name not in _OWN} | variables
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode or (command[-1] != "import jax" and "user alice" not in done.stdout):
        raise FpganError(f"{' '.join(command[3:])} did not find whose image it is: {done.stderr.strip()[-200:]!r}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, seconds
