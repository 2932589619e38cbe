"""Reads state dicts that PyTorch has saved, in its old and its new layout, without PyTorch and without executing anything.

The new layout (since PyTorch 1.6) is a zip with a pickle, data.pkl, and the raw numbers of each storage in data/KEY. In the
old one pickles follow each other (magic number, version, system, the object, the keys of its storages), and then, storage by
storage, its length and its numbers.
"""

from __future__ import annotations

import io
import math
import os
import pickletools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fpgan.errors import FpganError, printable
from fpgan.io.inputs import open_regular
from fpgan.io.pickle_machine import Name, Refused, brief, run

_MAGIC = 0x1950A86A20F9469CFC6C
_HEADERS = 3  # pickles before the object, in the old layout
_KINDS = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
          "ByteStorage": "|u1", "BoolStorage": "|b1"}


@dataclass(frozen=True)
class _Storage:
    """Numbers of the file that are read later."""

    key: str
    kind: str


@dataclass(eq=False)
class _Tensor:
    """A view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the tensors of a state dict.

    Args:
      path: a file of torch.save, of a dict from names to tensors.

    Returns:
      The arrays by name.

    Raises:
      FpganError: the file cannot be read, is damaged, or holds anything else.
    """
    try:
        with open_regular(path) as file:
            content = file.read()
        if zipfile.is_zipfile(io.BytesIO(content)):
            tensors, storages = _read_zip(content)
        else:
            tensors, storages = _read_old(io.BytesIO(content))
        return _arrays(_tensors(tensors), storages, len(content))
    except OSError as error:
        raise FpganError(f"cannot read {path}: {error.strerror or error}; expected a state dict of PyTorch") from None
    except Refused as error:
        raise FpganError(f"{path} is refused: {error}. Nothing in it was executed") from None
    except (ValueError, IndexError, KeyError, struct.error, zipfile.BadZipFile) as error:
        raise FpganError(f"{path} is damaged, truncated or no state dict of PyTorch ({printable(str(error)[:80])}); copy it "
                         "again") from None


def _read_zip(content: bytes) -> tuple[object, Callable[[_Storage], bytes]]:
    archive = zipfile.ZipFile(io.BytesIO(content))
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise Refused("it is a compressed zip, which PyTorch does not write")
    pickles = [name for name in archive.namelist() if Path(name).name == "data.pkl"]
    if len(pickles) != 1:
        raise ValueError("no data.pkl in it")
    folder = pickles[0].removesuffix("data.pkl")
    result = run(archive.read(pickles[0]), _NAMES, _storage)
    return result, lambda storage: archive.read(f"{folder}data/{storage.key}")


def _read_old(file: BinaryIO) -> tuple[object, Callable[[_Storage], bytes]]:
    numbers = [argument for instruction, argument, _ in pickletools.genops(file) if instruction.name == "LONG1"]
    if numbers != [_MAGIC]:
        raise ValueError("no magic number of PyTorch")
    for _ in range(_HEADERS - 1):
        for _ in pickletools.genops(file):
            pass
    result, kinds = run(file, _NAMES, _storage), {}
    for _, tensor in _tensors(result):
        kinds[tensor.storage.key] = tensor.storage.kind
    keys, contents = run(file), {}
    if not isinstance(keys, list):
        raise ValueError("no list of storages")
    for key in keys:
        count, = struct.unpack("<q", file.read(8))
        size = count * np.dtype(kinds[key]).itemsize
        contents[key] = file.read(max(size, 0))
        if len(contents[key]) != size:
            raise ValueError("too short")
    return result, lambda storage: contents[storage.key]


def _tensors(result) -> list[tuple[str, _Tensor]]:
    if not isinstance(result, dict) or not all(isinstance(value, _Tensor) for value in result.values()):
        raise Refused(f"it holds {brief(result)}, where a dict of tensors is expected")
    return list(result.items())


def _arrays(tensors: list[tuple[str, _Tensor]], storages: Callable[[_Storage], bytes], size: int) -> dict[str, np.ndarray]:
    """The arrays of tensors that, in all, have no more bytes than the file."""
    total = sum(math.prod(tensor.shape) * np.dtype(tensor.storage.kind).itemsize for _, tensor in tensors)
    if total > size:
        raise Refused(f"its tensors have {total:,} bytes in all, more than the {size:,} bytes of the file")
    return {name: _view(tensor, storages) for name, tensor in tensors}


def _view(tensor: _Tensor, storages: Callable[[_Storage], bytes]) -> np.ndarray:
    """The array of a tensor, whose numbers must all lie in its storage."""
    numbers = np.frombuffer(storages(tensor.storage), tensor.storage.kind)
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if math.prod(tensor.shape) and last >= len(numbers):
        raise ValueError("a tensor beyond its storage")
    strides = [stride * numbers.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(numbers[tensor.offset:], tensor.shape, strides, writeable=False).copy()


def _storage(identity) -> _Storage:
    """What a persistent id stands for: ("storage", kind, key, place, count, ...)."""
    if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage" or not isinstance(identity[1], Name):
        raise Refused("it refers to something that is no storage of numbers")
    if not isinstance(identity[2], str) or identity[1].storage is None:
        raise Refused(f"it refers to {brief(identity[2])}, which is no storage of numbers")
    return _Storage(identity[2], identity[1].storage)


def _tensor(storage, offset, shape, strides, *rest) -> _Tensor:
    sizes = (offset, *shape, *strides) if isinstance(shape, tuple) and isinstance(strides, tuple) else (None,)
    if not isinstance(storage, _Storage) or not all(type(size) is int and size >= 0 for size in sizes):
        raise Refused("it contains a tensor of something else than numbers")
    if len(shape) != len(strides) or len(shape) > 8:
        raise ValueError("a tensor with an unknown shape")
    return _Tensor(storage, offset, shape, strides)


def _ordered(*items) -> dict:
    if items:
        raise Refused("it makes a dict of other things than it sets")
    return {}


_NAMES = {("collections", "OrderedDict"): Name(call=_ordered), ("torch._utils", "_rebuild_tensor_v2"): Name(call=_tensor)}
_NAMES |= {("torch", name): Name(storage=kind) for name, kind in _KINDS.items()}
