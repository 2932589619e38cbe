"""From image files to rows: which fingerprint an image carries, how sure the decoder is, and whose it is.

Files are read in threads a few batches ahead of the decoder, and rows leave in the order of the files, so a
folder of any size needs little memory. A file that cannot be read becomes a row that says why; the others are
done.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import IO

import numpy as np

from fpgan.attribution.registry import Registry
from fpgan.attribution.verdict import Verdict, attribute
from fpgan.errors import FpganError
from fpgan.files import record_reader, replacing, writing
from fpgan.images import EXTENSIONS, iter_images, read_image

FORMATS = ("csv", "jsonl")
RECORDS = ".array_record"
_BATCHES_AHEAD = 4
_ROWS_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Row:
    """What was read from one image.

    Attributes:
      file: its path; record i of an array_record file is `path#i`.
      logits: float32 [n_bits], or None when the image could not be read.
      resized: whether it had another size than the model's images.
      error: why it could not be read, or None.
      verdict: whose it is, if that was asked.
    """

    file: str
    logits: np.ndarray | None = None
    resized: bool = False
    error: str | None = None
    verdict: Verdict | None = None

    @property
    def fingerprint(self) -> str:
        """The bits read (logit > 0), in hexadecimal digits."""
        return np.packbits(self.logits > 0).tobytes().hex()[:-(-len(self.logits) // 4)]

    @property
    def confidence(self) -> float:
        """How sure the decoder is of its bits: the mean of |2 sigmoid(logit) - 1|, 0 (guessing) to 1."""
        return float(np.abs(np.tanh(self.logits.astype(np.float64) / 2)).mean())

    @property
    def mean_abs_logit(self) -> float:
        """The mean absolute logit, which the model's `confidence_threshold` is about."""
        return float(np.abs(self.logits.astype(np.float64)).mean())

    def columns(self, with_verdict: bool) -> dict:
        """The row as plain values, None where nothing is known."""
        known, verdict = self.logits is not None, self.verdict
        whose = {"verdict": verdict and str(verdict.kind), "user": verdict and verdict.user,
                 "matches": verdict and verdict.matches, "log10_p": verdict and round(verdict.log10_p, 4)}
        return {"file": self.file} | (whose if with_verdict else {}) | {
            "fingerprint": self.fingerprint if known else None,
            "confidence": round(self.confidence, 4) if known else None,
            "mean_abs_logit": round(self.mean_abs_logit, 4) if known else None,
            "resized": self.resized, "error": self.error}


@dataclass
class Tally:
    """Counts over rows: images read, resized ones, failed ones, and verdicts by kind."""

    read: int = 0
    resized: int = 0
    failed: int = 0
    verdicts: Counter = field(default_factory=Counter)

    def add(self, row: Row) -> None:
        """Counts one row."""
        self.read += row.error is None
        self.failed += row.error is not None
        self.resized += row.resized
        if row.verdict is not None:
            self.verdicts[row.verdict.kind] += 1


def decode_files(model, paths: Iterable[str | os.PathLike], *, batch_size: int = 64,
                 workers: int = 8) -> Iterator[Row]:
    """Reads the fingerprints in image files.

    Args:
      model: a Model.
      paths: files, folders, globs and array_record files of encoded images (as `fpgan.images.iter_images`
        takes them).
      batch_size: images per call of the compiled program.
      workers: threads that read files.

    Yields:
      A Row per image, in order.

    Raises:
      FpganError: a path that does not exist or holds no images. Images and folders below it that cannot be
        read are rows, not errors.
    """
    if batch_size < 1:
        raise FpganError(f"the batch size is {batch_size}; expected at least 1")
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[str, Future]] = deque()
        sources = _sources(paths)
        first = True
        while True:
            for name, source in sources:
                waiting.append((name, pool.submit(_read, source, model.resolution)))
                if len(waiting) >= _BATCHES_AHEAD * batch_size:
                    break
            if not waiting:
                return
            group = [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]
            if first:  # few images need no large batch
                batch_size = min(batch_size, 1 << (len(group) - 1).bit_length())
                first = False
            yield from _decoded(model, group, batch_size)


def attribute_rows(rows: Iterable[Row], registry: Registry, false_positive_rate: float = 1e-6,
                   confidence_threshold: float | None = None) -> Iterator[Row]:
    """Adds to each row the verdict of `fpgan.attribution.attribute`; rows that could not be read get none."""
    rows = iter(rows)
    while group := list(itertools.islice(rows, _ROWS_AT_ONCE)):
        known = [row for row in group if row.logits is not None]
        logits = np.reshape([row.logits for row in known], (len(known), registry.n_bits))  # [K, n]
        verdicts = iter(attribute(logits, registry, false_positive_rate, confidence_threshold))
        for row in group:
            yield row if row.logits is None else replace(row, verdict=next(verdicts))


def write_rows(rows: Iterable[Row], *sinks: Callable[[Row], None]) -> Tally:
    """Passes each row to each sink, and counts."""
    tally = Tally()
    for row in rows:
        for sink in sinks:
            sink(row)
        tally.add(row)
    return tally


def row_writer(stream: IO[str], format: str, with_verdict: bool) -> Callable[[Row], None]:
    """Returns a function that writes a row to a text stream, as CSV (header first) or JSON lines."""
    if format == "jsonl":
        return lambda row: print(json.dumps(row.columns(with_verdict)), file=stream)
    writer = csv.DictWriter(stream, list(Row("").columns(with_verdict)), lineterminator="\n")
    writer.writeheader()
    return lambda row: writer.writerow(row.columns(with_verdict))


@contextlib.contextmanager
def row_file(path: str | os.PathLike | None, format: str | None, with_verdict: bool) -> Iterator:
    """Opens a file of rows that takes its place when the block ends well; standard output without a path.

    Rows are UTF-8, and file names that are not come out byte by byte as they are.

    Args:
      path: the file; its ending says the format when `format` is None.
      format: "csv" or "jsonl".
      with_verdict: whether the rows have verdicts.

    Yields:
      A function that writes one Row.

    Raises:
      FpganError: neither format nor ending say what to write, or the file cannot be written.
    """
    if path is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
        yield row_writer(sys.stdout, format or "csv", with_verdict)
        return
    ending = os.path.splitext(path)[1].lstrip(".").lower()
    format = format or {"json": "jsonl", "ndjson": "jsonl"}.get(ending, ending)
    if format not in FORMATS:
        raise FpganError(f"{os.fspath(path)}: the name does not say what to write; expected one that ends in "
                         ".csv or .jsonl, or --format")
    with replacing(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        yield row_writer(text, format, with_verdict)
        with writing(path):
            text.flush()
        text.detach()


def _sources(paths: Iterable[str | os.PathLike]) -> Iterator[tuple[str, str | bytes | FpganError]]:
    """Yields the name of each image with its path or encoded bytes, or with the error met on the way."""
    for path, error in iter_images(paths, EXTENSIONS | {RECORDS}):
        if error:
            yield path, error
        elif path.endswith(RECORDS):
            yield from _records(path)
        else:
            yield path, path


def _records(path: str) -> Iterator[tuple[str, bytes | FpganError]]:
    try:
        with record_reader(path) as reader:
            for i in range(reader.num_records()):
                try:
                    yield f"{path}#{i}", reader.read([i])[0]
                except RuntimeError:
                    yield f"{path}#{i}", FpganError("the record is damaged")
    except FpganError as error:
        yield path, error


def _read(source: str | bytes | FpganError, resolution: int) -> tuple[np.ndarray | None, bool, str | None]:
    """Returns the image, whether it was resized, and what went wrong; in a thread."""
    try:
        if isinstance(source, FpganError):
            raise source
        return *read_image(source, resolution), None
    except FpganError as error:
        return None, False, str(error)


def _decoded(model, group: list[tuple[str, Future]], batch_size: int) -> Iterator[Row]:
    """Decodes one group of images, which may hold unreadable ones."""
    results = [(name, *future.result()) for name, future in group]
    images = [image for _, image, _, _ in results if image is not None]
    logits = iter(model.decode(np.stack(images), batch_size=batch_size) if images else ())
    for name, image, resized, error in results:
        yield Row(name, None if image is None else next(logits), resized, error)
