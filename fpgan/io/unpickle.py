"""Reads pickles of networks and of trees of arrays, and executes nothing in them."""

import mmap
import os

import numpy as np

from fpgan.errors import FpganError, printable
from fpgan.io.inputs import open_regular
from fpgan.io.pickle_machine import Array, Network, Refused, brief, run


def read_networks(path: str | os.PathLike) -> tuple[Network, ...]:
    """Reads the networks that a file holds.

    Args:
      path: a pickle (protocol 3 or later) of a tuple of networks.

    Returns:
      The networks in the file's order.

    Raises:
      FpganError: if the file cannot be read, is damaged, or asks for anything but networks, arrays and plain containers.
    """
    result = _read(path, "a pickle of the authors' networks")
    if not isinstance(result, tuple) or not all(isinstance(item, Network) for item in result):
        raise FpganError(f"{path} holds {brief(result)}; expected a tuple of the authors' networks")
    return result


def read_arrays(path: str | os.PathLike) -> dict:
    """Reads a tree of dicts with arrays of floating-point numbers at its leaves.

    Args:
      path: a pickle (protocol 2 or later).

    Raises:
      FpganError: if the file cannot be read, is damaged, or holds anything else.
    """
    return _arrays(_read(path, "a pickle of arrays"), path)


def _arrays(value, path: str | os.PathLike):
    if isinstance(value, dict):
        return {key: _arrays(item, path) for key, item in value.items()}
    if not isinstance(value, Array) or value.content is None or value.content.dtype.kind != "f":
        raise FpganError(f"{path} holds {brief(value)} where a dict or an array of floating-point numbers was expected")
    return value.content


def _read(path: str | os.PathLike, expected: str):
    """Runs a file's instructions; what goes wrong is told in one line."""
    try:
        with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            result = run(content)
            _check_total(result, len(content))
    except OSError as error:
        raise FpganError(f"cannot read {path}: {error.strerror or error}; expected {expected}") from None
    except Refused as error:
        raise FpganError(f"{path} is refused: {error}. Nothing in it was executed") from None
    except (ValueError, IndexError) as error:  # of pickletools; of a stack or memo that lacks something
        raise FpganError(f"{path} is damaged, truncated or no pickle ({printable(str(error)[:80])}); copy it again"
                         ) from None
    return result


def _check_total(result, size: int) -> None:
    """Refuses arrays of more bytes in all than the file has: one that is used again and again, which fills the memory."""
    waiting, seen, total = [result], set(), 0
    while waiting:
        item = waiting.pop()
        if isinstance(item, np.ndarray):
            total += item.nbytes
        elif isinstance(item, Array):
            waiting.append(item.content)
        elif id(item) not in seen:
            seen.add(id(item))
            parts = {**item.variables, **item.components} if isinstance(item, Network) else item
            waiting += parts.values() if isinstance(parts, dict) else parts if isinstance(parts, (tuple, list)) else ()
    if total > size:
        raise Refused(f"its arrays have {total:,} bytes in all, more than the {size:,} bytes of the file: some are "
                      "used several times")
