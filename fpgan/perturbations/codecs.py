"""Being saved: real encoders and decoders, by the functions with which fpgan reads and writes files."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable

import numpy as np
from PIL import Image, features

from fpgan.errors import FpganError
from fpgan.io.images import encode_png, read_image
from fpgan.perturbations.operation import Perturbation, Strength

_QUALITY = Strength("quality", 1, 100, whole=True)
_JPEG_CHROMA = {"jpeg": "4:2:0", "jpeg422": "4:2:2", "jpeg444": "4:4:4"}


def encode_jpeg(image: np.ndarray, quality: int, chroma: str = "4:2:0") -> bytes:
    """Encodes uint8 [H, W, 3] as baseline JPEG by libjpeg.

    Args:
      image: the picture.
      quality: 1 to 100, libjpeg's scale of its standard tables.
      chroma: sampling of the two colour channels: 4:2:0 halves both sides, 4:2:2 the width, 4:4:4 keeps them.
    """
    return _encode(image, "JPEG", quality=quality, subsampling=chroma)


def encode_webp(image: np.ndarray, quality: int) -> bytes:
    """Encodes uint8 [H, W, 3] as lossy WebP by libwebp, quality 1 to 100 (colour always at half resolution)."""
    return _encode(image, "WEBP", quality=quality)


def encode_avif(image: np.ndarray, quality: int) -> bytes:
    """Encodes uint8 [H, W, 3] as AVIF by libavif, quality 1 to 100, colour at half resolution."""
    return _encode(image, "AVIF", quality=quality, subsampling="4:2:0")


def encode_gif(image: np.ndarray) -> bytes:
    """Encodes uint8 [H, W, 3] as GIF: the 256 colours that suit the image best, by Pillow."""
    return _encode(image, "GIF")


def encode_colours(image: np.ndarray, count: int) -> bytes:
    """Encodes uint8 [H, W, 3] as PNG with a palette of `count` colours (2 to 256) by median cut, without dithering."""
    buffer = io.BytesIO()
    Image.fromarray(image).quantize(count, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(buffer, "PNG")
    return buffer.getvalue()


def _encode(image: np.ndarray, format: str, **options) -> bytes:
    if format in ("WEBP", "AVIF") and not features.check(format.lower()):
        raise FpganError(f"this Pillow cannot write {format}; install a newer one: pip install -U pillow")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format, **options)
    return buffer.getvalue()


def _codec(name: str, meaning: str, encode: Callable[..., bytes], suffix: str, *, example: str,
           strengths: tuple[Strength, ...] = ()) -> Perturbation:
    def run(image: np.ndarray, *values: float) -> np.ndarray:
        return read_image(encode(image, *values))[0]

    return Perturbation(name, meaning, example, run, strengths, encode=encode, suffix=suffix)


CODECS = (
    _codec("png", "saved as PNG: changes nothing", encode_png, ".png", example="png"),
    *(_codec(name, f"saved as JPEG (libjpeg), colour sampled {chroma}", functools.partial(encode_jpeg, chroma=chroma),
             ".jpg", example=f"{name}:75", strengths=(_QUALITY,)) for name, chroma in _JPEG_CHROMA.items()),
    _codec("webp", "saved as lossy WebP (libwebp)", encode_webp, ".webp", example="webp:80", strengths=(_QUALITY,)),
    _codec("avif", "saved as AVIF (libavif), colour sampled 4:2:0", encode_avif, ".avif", example="avif:60",
           strengths=(_QUALITY,)),
    _codec("gif", "saved as GIF, 256 colours of its own", encode_gif, ".gif", example="gif"),
    _codec("colours", "reduced to a palette by median cut, no dithering", encode_colours, ".png", example="colours:32",
           strengths=(Strength("number of colours", 2, 256, whole=True),)),
)
