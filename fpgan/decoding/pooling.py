"""From rows of images to rows of suspects: what was read from several images of one suspect becomes one row.

Which images belong together is said by their folders or by a list, before anything is compared with a registry. Only a sum
of logits per suspect is kept, so any number of images needs little memory.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from fpgan.attribution.soft_decision import scaled
from fpgan.decoding.rows import Row
from fpgan.errors import FpganError, reason
from fpgan.io.listing import RECORDS

FOLDER, ALL = "folder", "all"
HEADER = ["file", "suspect"]


def pool_rows(rows: Iterable[Row], suspect_of: Callable[[str], str]) -> Iterator[Row]:
    """Pools the rows of each suspect as `fpgan.attribution.pool` does, but at the scale of one image's logits.

    Args:
      rows: of images.
      suspect_of: the file of a row -> the name of its suspect (`suspects_by`).

    Yields:
      The rows that could not be read, as they come; at last a Row for each suspect with an image that could, in the order
      of their first ones: `file` is the suspect's name, `images` says how many were pooled.
    """
    pools: dict[str, tuple] = {}  # suspect -> sum of scaled logits, of mean magnitudes, of resized, moved and all images
    for row in rows:
        if row.logits is None:
            yield row
            continue
        suspect = suspect_of(row.file)
        total, magnitude, resized, moved, images = pools.get(suspect, (0.0, 0.0, 0, 0, 0))
        pools[suspect] = (total + scaled(row.logits), magnitude + float(np.abs(row.logits).mean()),
                          resized + int(row.resized), moved + bool(row.undone), images + row.images)
    for suspect, (total, magnitude, resized, moved, images) in pools.items():
        yield Row(suspect, (total / images * (magnitude / images)).astype(np.float32), resized, images=images,
                  undone=f"{moved} of {images} put in place" if moved else "")


def suspects_by(what: str) -> Callable[[str], str]:
    """Returns a function that says to which suspect the image in a file belongs.

    Args:
      what: FOLDER, each folder and each array_record file is a suspect; ALL, all images are one; or a CSV file with the
        columns file and suspect, paths as seen from where the command runs.

    Raises:
      FpganError: a list that cannot be read, is not of that form, or has a file twice. The function that is returned raises
        it for a file that is not in the list.
    """
    if what == FOLDER:
        return lambda file: file.rpartition("#")[0] if _is_record(file) else os.path.dirname(file) or os.curdir
    if what == ALL:
        return lambda file: "all images"
    suspects = _read_list(what)

    def suspect_of(file: str) -> str:
        path = file.rpartition("#")[0] if _is_record(file) else file
        for name in (file, path):
            if os.path.abspath(name) in suspects:
                return suspects[os.path.abspath(name)]
        raise FpganError(f"{file} is in no line of {what}; add it, or leave it out of the images")

    return suspect_of


def _is_record(file: str) -> bool:
    """Whether this names a record of an array_record file, path#number."""
    path, _, number = file.rpartition("#")
    return path.endswith(RECORDS) and number.isdecimal()


def _read_list(path: str) -> dict[str, str]:
    """Reads which file belongs to which suspect: absolute path -> suspect."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(io.StringIO(file.read(), newline=""))
            rows = [(lines.line_num, row) for row in lines if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FpganError(f"{path}: cannot be read ({reason(error)}); expected {FOLDER!r}, {ALL!r}, or a CSV file with the "
                         f"header {','.join(HEADER)}") from error
    if not rows or [field.strip() for field in rows[0][1]] != HEADER:
        raise FpganError(f"{path}, line 1: the header is {','.join(rows[0][1] if rows else [])[:80]!r}; "
                         f"expected {','.join(HEADER)!r}")
    suspects: dict[str, str] = {}
    for line, row in rows[1:]:
        if len(row) != 2 or not row[0] or not row[1].strip():
            raise FpganError(f"{path}, line {line}: expected two fields, file and suspect")
        if os.path.abspath(row[0]) in suspects:
            raise FpganError(f"{path}, line {line}: {row[0]} is there twice; keep one line")
        suspects[os.path.abspath(row[0])] = row[1].strip()
    return suspects
