"""What was read from images, a row for each: as values, and counted."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from fpgan.attribution.verdict import Verdict, evenness
from fpgan.fingerprint import Fingerprint
from fpgan.io.tables import table_file

# The types of a row's columns, see `fpgan.io.tables.table_file`; what is not here is a string.
_TYPES = {"images": "int32", "matches": "int32", "log10_p": "float64", "confidence": "float64", "evenness": "float64",
          "resized": "bool"}


@dataclass(frozen=True, eq=False)
class Row:
    """What was read from one image, or from several that were pooled.

    Attributes:
      file: its path; record i of an array_record file is `path#i`; the name of a pool.
      logits: float32 [n_bits], or None when the image could not be read.
      resized: whether it had another size than the model's images; how many had, of a pool.
      error: why it could not be read, or None.
      verdict: whose it is, if that was asked.
      images: how many were pooled.
      undone: what was done to the picture and undone before it was read, in words; empty if nothing.
      pose: float32 [3, 3], where a search found the picture (`fpgan.model.reading.Alignment`); None without a search.
      sha256, pixels_sha256: of the encoded image, and of the uint8 [R, R, 3] that were decoded, if that was asked.
    """

    file: str
    logits: np.ndarray | None = None
    resized: int = False
    error: str | None = None
    verdict: Verdict | None = None
    images: int = 1
    undone: str = ""
    pose: np.ndarray | None = None
    sha256: str | None = None
    pixels_sha256: str | None = None

    @property
    def fingerprint(self) -> str:
        """The bits read (logit > 0), in hexadecimal digits: the verdict's, where there is one."""
        return self.verdict.fingerprint if self.verdict else Fingerprint.from_bits(self.logits > 0).hex

    @property
    def confidence(self) -> float:
        """How sure the decoder is of its bits: the mean of |2 sigmoid(logit) - 1|, 0 (guessing) to 1."""
        return float(np.abs(np.tanh(self.logits.astype(np.float64) / 2)).mean())

    @property
    def evenness(self) -> float:
        """How alike the logits' magnitudes are (`fpgan.attribution.evenness`), for a model's `evenness_threshold`."""
        return float(evenness(self.logits))

    def columns(self, with_verdict: bool) -> dict:
        """Returns the row as plain values, None where nothing is known; `others`, further users who fit as well, as a JSON
        list.
        """
        known, verdict = self.logits is not None, self.verdict
        others = verdict and verdict.users[1:] or None
        whose = {"verdict": verdict and str(verdict.kind), "user": verdict and verdict.user,
                 "revoked": verdict and verdict.revoked, "others": others and json.dumps(others, ensure_ascii=False),
                 "images": self.images, "matches": verdict and verdict.matches,
                 "log10_p": verdict and round(verdict.log10_p, 4)}
        return {"file": self.file} | (whose if with_verdict else {}) | {
            "fingerprint": self.fingerprint if known else None,
            "confidence": round(self.confidence, 4) if known else None,
            "evenness": round(self.evenness, 4) if known else None, "undone": self.undone or None,
            "resized": bool(self.resized), "error": self.error}


@dataclass
class Counts:
    """Counts over rows: images read, resized ones, failed ones, and verdicts by kind."""

    read: int = 0
    resized: int = 0
    failed: int = 0
    verdicts: Counter = field(default_factory=Counter)

    def add(self, row: Row) -> None:
        """Counts one row."""
        self.read += row.images * (row.error is None)
        self.failed += row.error is not None
        self.resized += int(row.resized)
        if row.verdict is not None:
            self.verdicts[row.verdict.kind] += 1

    def add_all(self, other: Counts) -> None:
        """Counts what another one has counted."""
        self.read += other.read
        self.failed += other.failed
        self.resized += other.resized
        self.verdicts.update(other.verdicts)


def write_rows(rows: Iterable[Row], *sinks: Callable[[Row], None]) -> Counts:
    """Passes each row to each sink, and counts."""
    counts = Counts()
    for row in rows:
        for sink in sinks:
            sink(row)
        counts.add(row)
    return counts


def column_types(with_verdict: bool) -> dict[str, str]:
    """Returns the names and types of the columns that rows have, see `fpgan.io.tables.table_file`."""
    return {name: _TYPES.get(name, "string") for name in Row("").columns(with_verdict)}


@contextlib.contextmanager
def row_file(path: str | os.PathLike | None, format: str | None, with_verdict: bool,
             sync: bool = False) -> Iterator[Callable[[Row], None]]:
    """Opens a file of rows, see `fpgan.io.tables.table_file`.

    Args:
      path: the file; standard output without it.
      format: one of `fpgan.io.tables.FORMATS`; by the ending of the path when None.
      with_verdict: whether the rows have verdicts.
      sync: wait until the disk has the file before it takes its place.

    Yields:
      A function that writes one Row.
    """
    with table_file(path, format, column_types(with_verdict), sync) as write:
        yield lambda row: write(row.columns(with_verdict))
