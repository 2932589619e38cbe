"""Files of array_record, where that package is installed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from types import ModuleType

from fpgan.errors import FpganError, missing_extra


def import_array_record() -> ModuleType:
    """Imports what reads and writes array_record files.

    Returns:
      The module with ArrayRecordReader and ArrayRecordWriter.

    Raises:
      FpganError: array_record is not installed.
    """
    try:
        from array_record.python import array_record_module
    except ImportError as error:
        raise missing_extra("array_record", "records") from error
    return array_record_module


@contextlib.contextmanager
def record_reader(path: str | os.PathLike) -> Iterator:
    """Opens an array_record file for reading.

    Yields:
      An ArrayRecordReader: num_records(), read([i]) -> [bytes], read_all(); these raise RuntimeError on
        damage.

    Raises:
      FpganError: array_record is not installed, or the file is none or damaged.
    """
    reader = import_array_record().ArrayRecordReader(os.fspath(path))
    try:
        if not reader.ok():
            raise FpganError(f"{path}: no array_record file, or a damaged one")
        yield reader
    finally:
        with contextlib.suppress(RuntimeError):  # closing a damaged file raises
            reader.close()
