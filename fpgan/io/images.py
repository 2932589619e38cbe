"""Images as files and as arrays: grey levels, reading anything, deterministic PNG, crops, grids."""

from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from fpgan.errors import FpganError
from fpgan.io.files import reason

# What Pillow raises for damaged files, by format; anything else is a bug and shows its traceback.
_DAMAGED = (OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, OverflowError,
            struct.error, zlib.error, Image.DecompressionBombError)
_RUNS = 3  # Z_RLE of zlib
_LANCZOS = Image.Resampling.LANCZOS
CROPS = ("center", "none", "celeba128")
_CELEBA_CENTRE, _CELEBA_SIDE = (89, 121), 128  # x, y in the aligned 178 x 218 images


def to_uint8(x) -> np.ndarray:
    """Turns float [-1, 1] into 8-bit grey levels: clip(floor(127.5 x + 128), 0, 255), any shape."""
    scaled = np.floor(np.asarray(x, np.float32) * np.float32(127.5) + np.float32(128))
    return np.clip(scaled, 0, 255).astype(np.uint8)


def read_image(source: str | os.PathLike | bytes, resolution: int | None = None) -> tuple[np.ndarray, bool]:
    """Reads an image of any common format as RGB.

    The EXIF orientation is applied, grey and palette images become RGB, transparency is laid over white,
    16-bit grey is scaled to 8 bits; of an animation the first frame counts. An image of another size is
    cropped to its central square and resized with an antialiasing (Lanczos) filter.

    Args:
      source: a path, or the bytes of an encoded image.
      resolution: side of the wanted square in pixels; without it the image keeps its size.

    Returns:
      uint8 [R, R, 3] (or [H, W, 3] without a resolution), and whether it had to be cropped or resized.

    Raises:
      FpganError: the file does not exist, is damaged or is no image; its name is in the message.
    """
    name = f"<{len(source)} bytes>" if isinstance(source, bytes) else os.fspath(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            image = _as_rgb(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError as error:
        raise FpganError(f"{name}: not an image, or none of a known format") from error
    except _DAMAGED as error:
        raise FpganError(f"{name}: cannot be read as an image ({reason(error)})") from error
    if resolution is None or image.size == (resolution, resolution):
        return np.array(image), False
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return np.array(square.resize((resolution, resolution), _LANCZOS)), True


def encode_png(image: np.ndarray) -> bytes:
    """Encodes uint8 [H, W, 3] or [H, W] as PNG, without metadata: equal pixels give equal bytes (of one Pillow and zlib).

    Deflate looks for runs alone: as small as with the search for repeated strings, to a few per cent, and faster.
    """
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG", compress_type=_RUNS)
    return buffer.getvalue()


def encode_webp(image: np.ndarray) -> bytes:
    """Encodes uint8 [H, W, 3] as lossless WebP, without metadata: equal pixels give equal bytes (of one libwebp).

    Raises:
      FpganError: this Pillow was built without WebP.
    """
    if not features.check("webp"):
        raise FpganError("this Pillow cannot write WebP; install one that can, or choose PNG")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "WEBP", lossless=True, exact=True, method=0, quality=75)
    return buffer.getvalue()


ENCODERS = {"png": encode_png, "webp": encode_webp}


def grid(images: np.ndarray, scale: int = 1, pad: int = 2) -> np.ndarray:
    """Arranges images in rows and columns on white.

    Args:
      images: [R, C, H, W, 3], uint8 or float in [-1, 1].
      scale: each pixel becomes scale x scale pixels.
      pad: white pixels between and around the images.

    Returns:
      uint8 [R (H scale + pad) + pad, C (W scale + pad) + pad, 3].
    """
    images = np.asarray(images)
    images = images if images.dtype == np.uint8 else to_uint8(images)
    images = images.repeat(scale, axis=2).repeat(scale, axis=3)  # [R, C, H s, W s, 3]
    rows, columns, height, width, channels = images.shape
    padded = np.full((rows, columns, height + pad, width + pad, channels), 255, np.uint8)
    padded[:, :, pad:, pad:] = images
    picture = padded.transpose(0, 2, 1, 3, 4)  # [R, H s + pad, C, W s + pad, 3]
    picture = picture.reshape(rows * (height + pad), columns * (width + pad), channels)
    return np.pad(picture, ((0, pad), (0, pad), (0, 0)), constant_values=255)


def _as_rgb(image: Image.Image) -> Image.Image:
    """Brings any Pillow mode to RGB, transparency over white."""
    if image.mode.startswith("I"):  # 16-bit grey
        levels = np.asarray(image).astype(np.int64)
        levels = levels >> 8 if levels.max(initial=0) > 255 else levels
        image = Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def crop_box(width, height, crop):
    """Finds the square window of an image that is kept.

    Args:
      width, height: size of the image in pixels.
      crop: "center": the largest central square; "none": all of it, which must be square; "celeba128": the
        128 x 128 window centred at x = 89, y = 121, for the aligned images of CelebA.

    Returns:
      (left, top, side) in pixels.

    Raises:
      FpganError: if the crop is unknown or does not fit this image; the text names no file.
    """
    if crop == "center":
        side = min(width, height)
        return (width - side) // 2, (height - side) // 2, side
    if crop == "none":
        if width != height:
            raise FpganError(f"{width} x {height} is not square, as crop=none expects; use crop=center")
        return 0, 0, width
    if crop == "celeba128":
        left, top = (c - _CELEBA_SIDE // 2 for c in _CELEBA_CENTRE)
        if width < left + _CELEBA_SIDE or height < top + _CELEBA_SIDE:
            raise FpganError(f"{width} x {height} is too small for crop=celeba128, which expects CelebA's"
                             " aligned images of 178 x 218; use crop=center")
        return left, top, _CELEBA_SIDE
    raise FpganError(f"there is no crop {crop!r}; expected one of: {', '.join(CROPS)}")


def crop_and_resize(image, resolution, crop):
    """Crops an image to a square and scales it with an antialiasing (Lanczos) filter.

    Args:
      image: uint8 [H, W, 3].
      resolution: side length of the result in pixels.
      crop: as in `crop_box`.

    Returns:
      uint8 [R, R, 3], and the side length of the window it was made from, in pixels.

    Raises:
      FpganError: as `crop_box`.
    """
    height, width = image.shape[:2]
    left, top, side = crop_box(width, height, crop)
    window = image[top:top + side, left:left + side]  # [side, side, 3]
    if side == resolution:
        return np.ascontiguousarray(window), side
    size = (resolution, resolution)
    return np.array(Image.fromarray(window).resize(size, Image.Resampling.LANCZOS)), side
