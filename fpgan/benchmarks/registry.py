"""How long the registry in SQLite takes, by its number of users: issuing, opening, proving, attributing, verifying.

One file in a temporary folder grows from size to size; 10^7 users take 1.3 GB there. What is timed of attribution is all
but the decoder, from the closed file to the verdict; the image's logits are those of one of the users under so much noise
that about 84 of 100 bits are right, and it is checked that this user is named.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fpgan.attribution import proofs
from fpgan.attribution.database import Database, create
from fpgan.attribution.search import blocks
from fpgan.attribution.verdict import attribute
from fpgan.benchmarks.timing import time_interleaved
from fpgan.errors import FpganError
from fpgan.io import ledger

MOST_VERIFIED = 1_000_000  # users up to which the whole log is verified; the time is linear in them
_AT_ONCE = 1 << 18  # users issued in one transaction, as by fpgan registry issue


def bench_registry(sizes: Sequence[int], repeats: int, seed: int, n_bits: int = 128) -> dict:
    """Times a registry of several sizes.

    Args:
      sizes: numbers of users.
      repeats: turns; a time is the median over them, but for issuing and verifying, which happen once.
      seed: of the image's noise; fingerprints are random in any case.
      n_bits: length of the fingerprints.

    Returns:
      {"n_bits", "rows"}; a row for each size: users, file_megabytes, and the seconds of: issue (of all that were added, as
      issue_per_second), open (and count), issue_one, prove, attribute (one image, from the closed file), with
      attribute_megabytes of memory, and verify, None above MOST_VERIFIED.

    Raises:
      FpganError: senseless sizes, no package cryptography, no space, or a verdict or a log that is not right.
    """
    if not sizes or min(sizes) < 1:
        raise FpganError(f"registry sizes are {list(sizes)}; expected whole numbers of at least 1")
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory(prefix="fpgan-bench-") as folder:
        path = Path(folder) / "registry.sqlite"
        key = ledger.create_signing_key(Path(folder) / "key.pem")
        create(path, n_bits, ledger.public_key(key)).close()
        return {"n_bits": n_bits, "rows": [_row(path, key, users, repeats, rng) for users in sorted(set(sizes))]}


def lines(result: dict) -> list[str]:
    """Lays out what `bench_registry` returned as lines of at most 100 columns."""
    found = [f"registry: one SQLite file, {result['n_bits']} bits; ms are medians, attribute is one image against all users",
             f"{'users':>12}{'issued/s':>11}{'file MB':>9}{'open ms':>9}{'issue one':>11}{'prove':>8}{'attribute':>11}"
             f"{'in MB':>8}{'verify s':>10}"]
    for row in result["rows"]:
        verified = "-" if row["verify"] is None else f"{row['verify']:.3g}"
        found.append(f"{row['users']:>12,}{row['issue_per_second']:>11,.0f}{row['file_megabytes']:>9.4g}"
                     f"{row['open'] * 1e3:>9.3g}{row['issue_one'] * 1e3:>11.3g}{row['prove'] * 1e3:>8.3g}"
                     f"{row['attribute'] * 1e3:>11.3g}{row['attribute_megabytes']:>8.4g}{verified:>10}")
    return found


def _row(path: Path, key, users: int, repeats: int, rng: np.random.Generator) -> dict:
    """Lets the registry grow to a size, and times what is done with it."""
    with Database(path) as base:
        first, started = len(base), time.perf_counter()
        for part in blocks(users - first, _AT_ONCE):
            base.issue([f"user-{first + i}" for i in range(part.start, part.stop)])
        rate = (users - first) / (time.perf_counter() - started)
        proofs.sign_head(base, key)
        user = f"user-{int(rng.integers(users))}"
        signs = base.select([user]).bits * 2.0 - 1  # [1, n]
    logits = signs + rng.normal(size=signs.shape)
    calls = {"open": lambda: _opened(path, len), "prove": lambda: _opened(path, lambda base: proofs.prove(base, user)),
             "attribute": lambda: _opened(path, lambda base: attribute(logits, base.registry())),
             "issue_one": lambda: _opened(path, lambda base: base.issue([f"late-{len(base)}"]))}
    seconds = {name: statistics.median(times) for name, times in time_interleaved(calls, repeats).items()}
    tracemalloc.start()
    verdict, = calls["attribute"]()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    if verdict.user != user:
        raise FpganError(f"the verdict is {verdict}, expected user {user}; please report this")
    return {"users": users, "issue_per_second": rate, "file_megabytes": path.stat().st_size / 1e6, **seconds,
            "attribute_megabytes": peak / 1e6, "verify": _verified(path) if users <= MOST_VERIFIED else None}


def _opened(path: Path, use):
    with Database(path) as base:
        return use(base)


def _verified(path: Path) -> float:
    """Verifies the whole log; returns the seconds that it took."""
    started = time.perf_counter()
    problems = _opened(path, lambda base: list(proofs.audit(base)))
    if problems:
        raise FpganError(f"{problems[0]}; please report this")
    return time.perf_counter() - started
