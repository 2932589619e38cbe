"""Tables in files, a row at a time: CSV, JSON lines or Parquet."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import IO, BinaryIO

from fpgan.errors import FpganError, missing_extra, printable
from fpgan.io.files import replacing, writing

FORMATS = ("csv", "jsonl", "parquet")
_ENDINGS = {"json": "jsonl", "ndjson": "jsonl", "pq": "parquet"}
_ROWS_PER_GROUP = 4096  # of a Parquet file


def table_writer(stream: IO[str], format: str, columns: Iterable[str]) -> Callable[[dict], None]:
    """Returns a function that writes a row, by column, to a text stream, as CSV (header first) or JSON lines."""
    if format == "jsonl":
        return lambda row: print(json.dumps(row), file=stream)
    writer = csv.DictWriter(stream, list(columns), lineterminator="\n")
    writer.writeheader()
    return lambda row: writer.writerow({key: _safe(text) if isinstance(text, str) else text for key, text in row.items()})


def format_of(path: str | os.PathLike | None, format: str | None) -> str:
    """Returns the format to write: the given one, else by the ending of the path, else CSV on standard output.

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
def table_file(path: str | os.PathLike | None, format: str | None, columns: Mapping[str, str],
               sync: bool = False) -> Iterator[Callable[[dict], None]]:
    """Opens a file for a table that takes its place when the block ends well; standard output without a path.

    Rows of text are UTF-8, and file names that are not come out byte by byte as they are; in Parquet, such bytes are
    escaped.

    Args:
      path: the file; its ending says the format when `format` is None.
      format: one of FORMATS.
      columns: name -> type by the name that Arrow has for it: string, bool, int32, float64 ...; each may be None in a row.
      sync: wait until the disk has the file before it takes its place.

    Yields:
      A function that writes one row, a dict with these keys in this order.

    Raises:
      FpganError: neither format nor ending say what to write, or the file cannot be written.
    """
    format = format_of(path, format)
    if path is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
        yield table_writer(sys.stdout, format, columns)
        return
    with replacing(path, sync) as file:
        if format == "parquet":
            with _parquet_writer(file, columns) as write:
                yield write
            return
        text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        yield table_writer(text, format, columns)
        with writing(path):
            text.flush()
        text.detach()


def _safe(text: str) -> str:
    """Escapes what would steer a terminal that shows the file; bytes of a name that are not UTF-8 stay."""
    return "".join(letter if "\udc80" <= letter <= "\udcff" else printable(letter) for letter in text)


def import_pyarrow() -> tuple[ModuleType, ModuleType]:
    """Imports pyarrow and pyarrow.parquet, or raises FpganError when they are not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet") from error
    return pyarrow, pyarrow.parquet


def arrow_table(rows: Iterable[dict], columns: Mapping[str, str]):
    """Returns a pyarrow.Table of rows with the columns of `table_file`."""
    arrow, _ = import_pyarrow()
    plain = [{name: _as_utf8(value) if isinstance(value, str) else value for name, value in row.items()} for row in rows]
    return arrow.Table.from_pylist(plain, _arrow_schema(columns))


def _arrow_schema(columns: Mapping[str, str]):
    arrow, _ = import_pyarrow()
    return arrow.schema([(name, arrow.type_for_alias(kind)) for name, kind in columns.items()])


@contextlib.contextmanager
def _parquet_writer(file: BinaryIO, columns: Mapping[str, str]) -> Iterator[Callable[[dict], None]]:
    """Yields a function that writes a row to a Parquet file, in groups of rows."""
    _, parquet = import_pyarrow()
    rows: list[dict] = []

    def flush():
        writer.write_table(arrow_table(rows, columns))
        rows.clear()

    def write(row: dict):
        rows.append(row)
        if len(rows) == _ROWS_PER_GROUP:
            flush()

    with parquet.ParquetWriter(file, _arrow_schema(columns), compression="zstd") as writer:
        yield write
        if rows:
            flush()


def _as_utf8(text: str) -> str:
    """Escapes the bytes of a file's name that are not UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
