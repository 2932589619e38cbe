"""How fast images are compared with all registered users: soft scores, beside hard matches by faiss's flat binary index.

Both search every user, so both are exact; faiss counts differing bits alone and gives no p-value. It is timed with one
thread and with all, since on a busy machine its threads wait for each other, and the faster counts. What is timed of fpgan
is all that a verdict needs after decoding: weights, exact tails, thresholds and the search. The registry is random packed
codes. Each image's logits are those of one of the users under so much noise that about 84 of 100 bits are right, and it is
checked that the search names this user and nobody else.
"""

from __future__ import annotations

import statistics
import tracemalloc
from collections.abc import Sequence
from functools import partial

import numpy as np

from fpgan.attribution.search import blocks
from fpgan.attribution.soft_decision import find_users
from fpgan.benchmarks.timing import time_interleaved
from fpgan.errors import FpganError
from fpgan.io.provenance import cpu_count

_RATE = 1e-6  # of false attributions, over all users
_CODES_AT_ONCE = 1 << 20


def bench_attribution(sizes: Sequence[int], batches: Sequence[int], repeats: int, seed: int, n_bits: int = 128) -> dict:
    """Times the search over registries of several sizes, in turns with faiss where that is installed.

    Args:
      sizes: numbers of users; the largest one's packed codes are in memory, and once more for faiss.
      batches: numbers of images that are compared in one call.
      repeats: turns; a time is the median over them.
      seed: of codes and logits.
      n_bits: length of the fingerprints, a multiple of 8.

    Returns:
      {"n_bits", "false_positive_rate", "peer", "rows"}; a row for each size and batch: users, images, seconds of the whole
      call, seconds_per_image, megabytes (of memory used beside the packed codes), and of faiss faiss_seconds_per_image and
      faiss_threads.
      "peer" says which faiss, or why there is none.

    Raises:
      FpganError: senseless sizes, or a search that does not find what it has to.
    """
    if not sizes or not batches or min(*sizes, *batches) < 1 or n_bits % 8:
        raise FpganError(f"registry sizes are {list(sizes)}, batches {list(batches)}, bits {n_bits}; expected whole numbers "
                         "of at least 1, and bits in whole bytes")
    rng = np.random.default_rng(seed)
    packed = _random_codes(rng, max(sizes), n_bits)
    faiss, peer = _import_faiss()
    rows = []
    for users in sorted(sizes):
        index = None
        if faiss:
            index = faiss.IndexBinaryFlat(n_bits)
            index.add(packed[:users])
        for images in batches:
            rows.append(_row(rng, packed[:users], images, repeats, index, faiss))
    return {"n_bits": n_bits, "false_positive_rate": _RATE, "peer": peer, "rows": rows}


def lines(result: dict) -> list[str]:
    """Lays out what `bench_attribution` returned as lines of at most 100 columns."""
    lines = [f"attribute: soft scores of all users and exact p-values, {result['n_bits']} bits",
             f"beside it, hard matches alone: {result['peer']}",
             f"{'users':>12}{'images':>8}{'ms/image':>10}{'ns/user,image':>15}{'MB beside codes':>17}{'faiss ms/image':>16}"
             f"{'(threads)':>11}{'x faiss':>9}"]
    for row in result["rows"]:
        own, other = row["seconds_per_image"], row["faiss_seconds_per_image"]
        beside = f"{'-':>16}{'-':>11}{'-':>9}"
        if other:
            beside = f"{other * 1e3:>16.3g}{row['faiss_threads']:>11}{own / other:>9.2f}"
        lines.append(f"{row['users']:>12,}{row['images']:>8}{own * 1e3:>10.3g}{own / row['users'] * 1e9:>15.3g}"
                     f"{row['megabytes']:>17.1f}{beside}")
    return lines


def _row(rng: np.random.Generator, packed: np.ndarray, images: int, repeats: int, index, faiss) -> dict:
    """Times one registry with one number of images."""
    owners = rng.integers(0, len(packed), images)
    signs = np.unpackbits(packed[owners], axis=1).astype(np.float32) * 2 - 1  # [M, n]
    logits = signs + rng.normal(size=signs.shape).astype(np.float32)
    queries = np.packbits(logits > 0, axis=1)
    calls = {0: lambda: find_users(packed, logits, _RATE)}  # and by faiss, with so many threads
    if index is not None:
        calls |= {threads: partial(_search, faiss, index, queries, threads) for threads in {1, cpu_count()}}
    seconds = {name: statistics.median(times) for name, times in time_interleaved(calls, repeats).items()}
    own, threads = seconds.pop(0), min(seconds, key=seconds.get, default=None)
    tracemalloc.start()
    named = find_users(packed, logits, _RATE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    named = [found.places[:found.attributed].tolist() for found in named]
    if any(places not in ([], [owner]) for places, owner in zip(named, owners.tolist(), strict=True)):
        raise FpganError("the search named somebody who made none of the images; please report this")
    if sum(map(len, named)) < images / 2:
        raise FpganError("the search found few of the images' users; please report this")
    return {"users": len(packed), "images": images, "seconds": own, "megabytes": peak / 1e6,
            "seconds_per_image": own / images, "faiss_threads": threads,
            "faiss_seconds_per_image": seconds[threads] / images if threads else None}


def _search(faiss, index, queries: np.ndarray, threads: int) -> tuple[np.ndarray, np.ndarray]:
    faiss.omp_set_num_threads(threads)
    return index.search(queries, 1)


def _random_codes(rng: np.random.Generator, count: int, n_bits: int) -> np.ndarray:
    """Draws packed codes uint8 [count, n_bits / 8], a block at a time."""
    packed = np.empty((count, n_bits // 8), np.uint8)
    for part in blocks(count, _CODES_AT_ONCE):
        packed[part] = rng.integers(0, 256, packed[part].shape, dtype=np.uint8)
    return packed


def _import_faiss() -> tuple[object | None, str]:
    """Imports faiss, if it is there; returns it, and what to call it or why there is none."""
    try:
        import faiss
    except ImportError:
        return None, "faiss (left out: not installed, pip install 'fpgan[peers]')"
    return faiss, f"faiss {faiss.__version__}, IndexBinaryFlat, the faster of 1 and {cpu_count()} threads"
