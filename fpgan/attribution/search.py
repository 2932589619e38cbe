"""The best scores of all registered users, without ever unpacking their fingerprints.

The score of a user, sum_i d_i c_i with an image's signed weights d_i and the user's bits c_i = +-1, is a sum over the bytes
of the packed fingerprint: a table says for each byte and each of its 256 values what it adds. So one user costs one look-up
and one addition a byte, for a whole batch of images at once, since the look-ups of all its images lie side by side. (With
few images two bytes share a table.) Users pass through in blocks that fit into the cache, in as many threads as there are
processors: memory stays at a few megabytes beside the packed fingerprints, however many there are.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from fpgan.io.provenance import cpu_count

_USERS_AT_ONCE = {1: 1 << 14, 2: 1 << 16}  # by the bytes that a table serves
_IMAGES_AT_ONCE = 64
_FEW_IMAGES, _MANY_USERS = 4, 1 << 16  # from where on tables of two bytes are worth their making
_NOTHING = np.iinfo(np.int16).min  # below every score


class Hits(NamedTuple):
    """The users found for one image, the best first, and of equal ones the first registered.

    Attributes:
      places: int64 [K], their places in the registry.
      scores: int64 [K].
    """

    places: np.ndarray
    scores: np.ndarray


def search(packed: np.ndarray, decisions: np.ndarray, needed: np.ndarray, keep: int = 1) -> list[Hits]:
    """Finds for each image the users whose score is enough, and the best ones in any case.

    Args:
      packed: uint8 [N, ceil(n / 8)], packed fingerprints as in `Registry.packed`; of any size, for instance mapped from a
        file.
      decisions: int8 [M, n], signed weights of M images (`fpgan.attribution.soft_decision.decisions`).
      needed: int [M], from which score on a user is kept.
      keep: how many of the best users are kept even so, at least 1.

    Returns:
      M Hits, of at least min(keep, N) users each.
    """
    hits = []
    for images in blocks(len(decisions), _IMAGES_AT_ONCE):
        hits += _search(packed, decisions[images], np.asarray(needed)[images], keep)
    return hits


def scores(packed: np.ndarray, decisions: np.ndarray) -> np.ndarray:
    """Computes the scores of a few users: packed uint8 [K, ceil(n / 8)] and signed weights int [M, n] -> int64 [K, M]."""
    signs = np.unpackbits(packed, axis=1, count=decisions.shape[-1]).astype(np.int64) * 2 - 1  # [K, n]
    return signs @ np.asarray(decisions, np.int64).T


def blocks(total: int, size: int) -> Iterator[slice]:
    """Cuts 0 ... total into slices of at most `size`."""
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def _search(packed: np.ndarray, decisions: np.ndarray, needed: np.ndarray, keep: int) -> list[Hits]:
    """As `search`, for so many images as one set of tables holds."""
    two_bytes = len(decisions) <= _FEW_IMAGES and len(packed) >= _MANY_USERS and packed.shape[1] % 2 == 0
    tables, users_at_once = _tables(decisions, two_bytes), _USERS_AT_ONCE[1 + two_bytes]
    none = np.zeros(0, np.int64)
    hits = [Hits(none, none)] * len(decisions)
    least = np.full(len(decisions), _NOTHING, np.int64)  # what a user needs to be of interest; rises as good ones are found
    look = functools.partial(_look, packed, tables, needed, least, keep)
    several = len(packed) > users_at_once
    with ThreadPoolExecutor(cpu_count()) if several else contextlib.nullcontext() as pool:
        run = pool.map if several else map  # in order, so of equal users the first stays
        for found in run(look, blocks(len(packed), users_at_once)):
            for image, new in found:
                hits[image] = merged = _best(hits[image], new, needed[image], keep)
                if len(merged.scores) >= keep:
                    least[image] = min(needed[image], merged.scores[keep - 1] + 1)
    return hits


def _look(packed: np.ndarray, tables: np.ndarray, needed: np.ndarray, least: np.ndarray, keep: int,
          users: slice) -> list[tuple[int, Hits]]:
    """Finds what a block of users adds to the hits: (image, Hits) for the images to which it adds any."""
    block = _block_scores(packed[users], tables)  # [users, images]
    found = []
    for image in np.flatnonzero(block.max(axis=0) >= least):
        column = block[:, image]
        enough = max(least[image], min(needed[image], _kth_best(column, keep)))
        places = np.flatnonzero(column >= enough)
        found.append((int(image), Hits(places + users.start, column[places].astype(np.int64))))
    return found


def _block_scores(packed: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Adds up the tables' entries: packed [U, bytes] and tables int16 [columns, values, M] -> int16 [U, M]."""
    codes = np.ascontiguousarray(packed)
    if tables.shape[1] > 256:
        codes = codes.view("<u2")
    columns = codes.T.astype(np.intp)  # [columns, U]
    total = np.take(tables[0], columns[0], axis=0, mode="clip")  # [U, M]; "clip" spares a check of each index
    part = np.empty_like(total)
    for table, column in zip(tables[1:], columns[1:], strict=True):
        np.take(table, column, axis=0, out=part, mode="clip")
        np.add(total, part, out=total)
    return total


def _tables(decisions: np.ndarray, two_bytes: bool) -> np.ndarray:
    """Computes what each value of each byte (or pair of bytes, the first one low) adds to the scores.

    Args:
      decisions: int8 [M, n].
      two_bytes: whether a table serves two bytes.

    Returns:
      int16 [bytes, 256, M], or [bytes / 2, 65536, M]. 512 weights of 63 sum up to 32256 at most.
    """
    count, n_bits = decisions.shape
    padded = np.zeros((count, -(-n_bits // 8) * 8), np.float32)
    padded[:, :n_bits] = decisions
    signs = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float32) * 2 - 1  # [256, 8]
    tables = np.einsum("vb,mcb->cvm", signs, padded.reshape(count, -1, 8), optimize=True).astype(np.int16)
    if two_bytes:
        tables = (tables[0::2, None, :] + tables[1::2, :, None]).reshape(len(tables) // 2, 65536, count)
    return np.ascontiguousarray(tables)


def _kth_best(column: np.ndarray, keep: int) -> int:
    """Returns the score of the keep-th best user, or the least score if there are fewer."""
    if keep == 1 or keep >= len(column):
        return int(column.max() if keep == 1 else column.min())
    return int(np.partition(column, -keep)[-keep])


def _best(old: Hits, new: Hits, needed: int, keep: int) -> Hits:
    """Joins hits, and drops those that are neither enough nor among the best."""
    places, scores = np.concatenate([old.places, new.places]), np.concatenate([old.scores, new.scores])
    order = np.lexsort((places, -scores))
    places, scores = places[order], scores[order]
    count = max(keep, int(np.count_nonzero(scores >= needed)))
    return Hits(places[:count], scores[:count])
