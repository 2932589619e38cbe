"""Marks that are put on finished images, by other packages: what a fingerprint inside the generator is compared with.

They come with the extra "peers" and are left out, with the reason, where they are not installed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np

from fpgan.errors import missing_extra

_BLOCK = 8  # pixels a side that a bit takes: 4 x 4 coefficients of the halved image
_SCALES = (0, 36, 0)  # of dwtDctSvd, as the package has them: how strongly each channel is marked


class Peer(NamedTuple):
    """A mark.

    Attributes:
      name: of package and method.
      bits: how many it writes into an image of this size.
      embed: uint8 [H, W, 3] and bits uint8 [bits] -> uint8 [H, W, 3].
      read: uint8 [H, W, 3] -> bits uint8 [bits].
    """

    name: str
    bits: int
    embed: Callable[[np.ndarray, np.ndarray], np.ndarray]
    read: Callable[[np.ndarray], np.ndarray]


def dwt_dct_svd(resolution: int, n_bits: int) -> Peer:
    """Opens dwtDctSvd of the package invisible-watermark, which quantises the largest singular value of each block.

    Args:
      resolution: side of the images in pixels; a multiple of 8.
      n_bits: wanted; fewer where the image has fewer blocks.

    Raises:
      FpganError: the package is not installed.
    """
    bits = min(n_bits, (resolution // _BLOCK) ** 2)
    coder = _module("imwatermark", "dwtDctSvd").EmbedDwtDctSvd

    def embed(image: np.ndarray, message: np.ndarray) -> np.ndarray:
        bgr = np.ascontiguousarray(image[..., ::-1])
        return coder(message.tolist(), bits, list(_SCALES)).encode(bgr)[..., ::-1]

    def read(image: np.ndarray) -> np.ndarray:
        return coder([], bits, list(_SCALES)).decode(np.ascontiguousarray(image[..., ::-1])).astype(np.uint8)

    return Peer("invisible-watermark dwtDctSvd", bits, embed, read)


def blind_watermark(resolution: int, n_bits: int) -> Peer:
    """Opens the package blind-watermark, which quantises two singular values of each shuffled block, in all channels.

    Args:
      resolution: side of the images in pixels; a multiple of 8.
      n_bits: wanted; fewer where the image has fewer blocks, of which it wants more than bits.

    Raises:
      FpganError: the package is not installed.
    """
    bits = min(n_bits, (resolution // _BLOCK) ** 2 - 1)
    with contextlib.redirect_stdout(io.StringIO()):
        _module("blind_watermark", "bwm_core")
        from blind_watermark import WaterMark

    def marker():
        with contextlib.redirect_stdout(io.StringIO()):  # it greets
            return WaterMark(password_wm=1, password_img=1, mode="common", processes=1)

    def embed(image: np.ndarray, message: np.ndarray) -> np.ndarray:
        one = marker()
        one.read_img(img=np.ascontiguousarray(image[..., ::-1]))
        one.read_wm(message.astype(bool), mode="bit")
        return np.clip(np.rint(one.embed()), 0, 255).astype(np.uint8)[..., ::-1]

    def read(image: np.ndarray) -> np.ndarray:
        values = marker().extract(embed_img=np.ascontiguousarray(image[..., ::-1]), wm_shape=bits, mode="bit")
        return (np.asarray(values) > 0.5).astype(np.uint8)

    return Peer("blind-watermark", bits, embed, read)


PEERS = (dwt_dct_svd, blind_watermark)


def _module(package: str, name: str):
    """Imports one file of a package, without the rest of it, which wants more packages.

    Raises:
      FpganError: the package, or one that the file imports, is not installed.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise missing_extra(package, "peers")
    path = Path(found.submodule_search_locations[0], f"{name}.py")
    if package == "blind_watermark":
        with mock.patch("multiprocessing.set_start_method"):  # which it would set for this whole process, once
            return importlib.import_module(f"{package}.{name}")
    spec = importlib.util.spec_from_file_location(f"{package}_{name}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise missing_extra(error.name, "peers") from None
    return module
