"""IDX files, the format of MNIST and of the sets made like it: a head with the shape, then bytes; often under gzip.

    magic: 0, 0, 8 (unsigned bytes), number of axes; then each axis as 4 bytes, big-endian; then the values.

Debian's package dataset-fashion-mnist, for one, brings Fashion-MNIST (Xiao et al. 2017) so.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fpgan.errors import FpganError, reason

_IMAGES = re.compile(r"(.*)images([-.])idx3-ubyte(\.gz)?")  # and the labels beside them: ...labels-idx1-ubyte.gz
_MOST = 1 << 32  # bytes


def is_idx(path: str | os.PathLike) -> bool:
    """Tells by a file's name whether it holds images in this format: train-images-idx3-ubyte.gz."""
    return _IMAGES.fullmatch(Path(path).name) is not None


def read_idx(path: str | os.PathLike, axes: int = 3) -> np.ndarray:
    """Reads an IDX file of unsigned bytes.

    Args:
      path: of the file; under gzip if its name ends in .gz.
      axes: how many it must have; 3 for grey images, 1 for labels.

    Returns:
      uint8 [N, H, W], or [N].

    Raises:
      FpganError: it cannot be read, is no such file, or is cut off.
    """
    with _opened(path) as file:
        shape = _read_shape(file, path, axes)
        data = file.read(math.prod(shape) + 1)
    if len(data) != math.prod(shape):
        raise FpganError(f"{path} holds {len(data):,} bytes or more after its head, which says {math.prod(shape):,}; "
                         "copy the file again")
    return np.frombuffer(data, np.uint8).reshape(shape)


def count_images(path: str | os.PathLike) -> int:
    """Reads from the head of a file of images how many it holds; raises FpganError as `read_idx`."""
    with _opened(path) as file:
        return _read_shape(file, path, 3)[0]


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a file, under gzip if its name says so; says in a line what goes wrong while it is read."""
    try:
        with (gzip.open if str(path).endswith(".gz") else open)(path, "rb") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        why = reason(error) if isinstance(error, OSError) else "it is damaged"
        raise FpganError(f"{path}: cannot be read ({why}); copy the file again") from error


def _read_shape(file: BinaryIO, path: str | os.PathLike, axes: int) -> tuple[int, ...]:
    head = file.read(4 + 4 * axes)
    shape = tuple(int(size) for size in np.frombuffer(head[4:], ">u4")) if len(head) == 4 + 4 * axes else ()
    if head[:4] != bytes([0, 0, 8, axes]) or not 0 < math.prod(shape) <= _MOST:
        raise FpganError(f"{path} is no IDX file of bytes with {axes} axes; expected one as MNIST has")
    return shape


def read_labels(path: str | os.PathLike) -> np.ndarray | None:
    """Reads the labels that lie beside a file of images under the usual name: uint8 [N]; None if there are none."""
    before, dash, ending = _IMAGES.fullmatch(Path(path).name).groups()
    place = Path(path).with_name(f"{before}labels{dash}idx1-ubyte{ending or ''}")
    return read_idx(place, axes=1) if place.exists() else None
