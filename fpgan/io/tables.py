"""Tables in files, a row at a time: CSV, JSON lines or Parquet."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import IO, BinaryIO

from fpgan.decoding.rows import Row
from fpgan.errors import FpganError, missing_extra
from fpgan.io.files import replacing, writing

FORMATS = ("csv", "jsonl", "parquet")
_ENDINGS = {"json": "jsonl", "ndjson": "jsonl", "pq": "parquet"}
_ROWS_PER_GROUP = 4096  # of a Parquet file


def row_writer(stream: IO[str], format: str, with_verdict: bool) -> Callable[[Row], None]:
    """Returns a function that writes a row to a text stream, as CSV (header first) or JSON lines."""
    if format == "jsonl":
        return lambda row: print(json.dumps(row.columns(with_verdict)), file=stream)
    writer = csv.DictWriter(stream, list(Row("").columns(with_verdict)), lineterminator="\n")
    writer.writeheader()
    return lambda row: writer.writerow(row.columns(with_verdict))


def format_of(path: str | os.PathLike | None, format: str | None) -> str:
    """The format to write: the given one, else by the ending of the path, else CSV on standard output.

    Raises:
      FpganError: neither says it, or it needs a package that is not installed.
    """
    if format is None and path is None:
        return "csv"
    ending = os.path.splitext(path or "")[1].lstrip(".").lower()
    format = format or _ENDINGS.get(ending, ending)
    if format not in FORMATS:
        raise FpganError(f"{os.fspath(path)}: the name does not say what to write; expected one that ends in .csv, .jsonl "
                         "or .parquet, or --format, or a folder")
    if format == "parquet":
        if path is None:
            raise FpganError("Parquet goes into a file or a folder; give --out")
        import_pyarrow()
    return format


@contextlib.contextmanager
def row_file(path: str | os.PathLike | None, format: str | None, with_verdict: bool, sync: bool = False) -> Iterator:
    """Opens a file of rows that takes its place when the block ends well; standard output without a path.

    Rows of text are UTF-8, and file names that are not come out byte by byte as they are; in Parquet, such bytes are
    escaped.

    Args:
      path: the file; its ending says the format when `format` is None.
      format: one of FORMATS.
      with_verdict: whether the rows have verdicts.
      sync: wait until the disk has the file before it takes its place.

    Yields:
      A function that writes one Row.

    Raises:
      FpganError: neither format nor ending say what to write, or the file cannot be written.
    """
    format = format_of(path, format)
    if path is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
        yield row_writer(sys.stdout, format, with_verdict)
        return
    with replacing(path, sync) as file:
        if format == "parquet":
            with _parquet_writer(file, with_verdict) as write:
                yield write
            return
        text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        yield row_writer(text, format, with_verdict)
        with writing(path):
            text.flush()
        text.detach()


def import_pyarrow() -> tuple[ModuleType, ModuleType]:
    """Imports pyarrow and pyarrow.parquet, or raises FpganError when they are not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet") from error
    return pyarrow, pyarrow.parquet


@contextlib.contextmanager
def _parquet_writer(file: BinaryIO, with_verdict: bool) -> Iterator[Callable[[Row], None]]:
    """Yields a function that writes a row to a Parquet file, in groups of rows."""
    arrow, parquet = import_pyarrow()
    kinds = {"images": arrow.int32(), "matches": arrow.int32(), "log10_p": arrow.float64(), "confidence": arrow.float64(),
             "evenness": arrow.float64(), "resized": arrow.bool_()}
    schema = arrow.schema([(name, kinds.get(name, arrow.string())) for name in Row("").columns(with_verdict)])
    rows: list[dict] = []

    def flush():
        writer.write_table(arrow.Table.from_pylist(rows, schema))
        rows.clear()

    def write(row: Row):
        columns = row.columns(with_verdict)
        rows.append({name: _as_utf8(value) if isinstance(value, str) else value for name, value in columns.items()})
        if len(rows) == _ROWS_PER_GROUP:
            flush()

    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        yield write
        if rows:
            flush()


def _as_utf8(text: str) -> str:
    """Escapes the bytes of a file's name that are not UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
