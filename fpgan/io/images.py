"""Images as files and as arrays: grey levels, reading anything, deterministic PNG, crops, grids."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from fpgan.errors import FpganError, reason, shown
from fpgan.io.inputs import Budget, open_regular

if TYPE_CHECKING:
    import jax

FORMATS = {  # of Pillow, and the endings of their files; no other is opened, whatever a file is named
    "PNG": (".png", ".apng"), "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "WEBP": (".webp",), "BMP": (".bmp",),
    "GIF": (".gif",), "TIFF": (".tif", ".tiff"), "PPM": (".ppm", ".pgm", ".pbm", ".pnm"), "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k", ".jpx"), "TGA": (".tga",),
}
_PLUGINS = ("Png", "Jpeg", "WebP", "Bmp", "Gif", "Tiff", "Ppm", "Avif", "Jpeg2K", "Tga")  # modules of Pillow that read them
EXTENSIONS = frozenset(ending for endings in FORMATS.values() for ending in endings)
MEMORY, ENCODED = Budget(768 << 20), Budget(128 << 20)  # bytes in all threads: for decoding, of files read at once
_BYTES = 13  # of memory for a pixel: as decoded, as RGB, and cropped, four each (measured: 8.1 to 12.6)
_BYTES_PER_PIXEL = {"WEBP": 22, "AVIF": 20, "JPEG2000": 32}  # whose decoders take more (measured: 20.9, 11.1, 25.0)
_BLOCK = 64 << 20  # bytes: what is larger than 32 MB the allocator of glibc does not keep for its thread
_STRIP = 1 << 20  # pixels that are brought to RGB at once
_BITS, _SAMPLE_FORMAT, _SMALLEST, _LARGEST = 258, 339, 340, 341  # tags of TIFF
_RUNS = 3  # Z_RLE of zlib
_LANCZOS = Image.Resampling.LANCZOS
CROPS = ("center", "none", "celeba128")
_CELEBA_CENTRE, _CELEBA_SIDE = (89, 121), 128  # x, y in the aligned 178 x 218 images


def to_uint8(x: np.ndarray | jax.Array) -> np.ndarray:
    """Turns float [-1, 1] into 8-bit grey levels: clip(floor(127.5 x + 128), 0, 255), any shape."""
    scaled = np.floor(np.asarray(x, np.float32) * np.float32(127.5) + np.float32(128))
    return np.clip(scaled, 0, 255).astype(np.uint8)


def read_image(source: str | os.PathLike | bytes, resolution: int | None = None) -> tuple[np.ndarray, bool]:
    """Reads an image of one of FORMATS as RGB.

    The EXIF orientation is applied, grey and palette images become RGB, transparency is laid over white, deep grey levels of
    a known range are scaled to 8 bits; of an animation the first frame counts. An image of another size is cropped to its
    central square and resized with an antialiasing (Lanczos) filter. All threads together decode no more at a time than
    MEMORY allows.

    Args:
      source: the path of a regular file, or the bytes of an encoded image.
      resolution: side of the wanted square in pixels; without it the image keeps its size.

    Returns:
      uint8 [R, R, 3] (or [H, W, 3] without a resolution), and whether it had to be cropped or resized.

    Raises:
      FpganError: the file does not exist, is damaged, too large or no image; its name is in the message.
    """
    if resolution is None:
        return _decoded(source, lambda image: (np.array(image), False))
    size = (resolution, resolution)
    return _decoded(source, lambda image: (
        (np.array(image), False) if image.size == size else (_square(image, resolution, "center")[0], True)))


def read_whole(source: str | os.PathLike | bytes, resolution: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads an image as `read_image` does, and beside it all of the image, for who looks where the picture lies in it.

    Args:
      source: as in `read_image`.
      resolution: R, side of the wanted square in pixels.

    Returns:
      uint8 [R, R, 3], as of `read_image`; and uint8 [2 R, 2 R, 3], the whole image squeezed into a square of twice the
      resolution, or None if the image has the wanted size.

    Raises:
      FpganError: as `read_image`.
    """
    def finish(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
        if image.size == (resolution, resolution):
            return np.array(image), None
        return _square(image, resolution, "center")[0], np.array(image.resize(2 * (2 * resolution,), _LANCZOS))

    return _decoded(source, finish)


def read_square(source: str | os.PathLike | bytes, resolution: int, crop: str) -> tuple[np.ndarray, int]:
    """Reads an image as `read_image` does, but with a crop of choice.

    Args:
      source: as in `read_image`.
      resolution: side length of the result in pixels.
      crop: as in `crop_box`.

    Returns:
      uint8 [R, R, 3], and the side length of the window it was made from, in pixels.

    Raises:
      FpganError: as `read_image` (the name is in the message) and `crop_box` (it is not).
    """
    return _decoded(source, lambda image: _square(image, resolution, crop))


def _square(image: Image.Image, resolution: int, crop: str) -> tuple[np.ndarray, int]:
    left, top, side = crop_box(*image.size, crop)
    window = image.crop((left, top, left + side, top + side))
    return np.array(window if side == resolution else window.resize((resolution, resolution), _LANCZOS)), side


def _decoded(source: str | os.PathLike | bytes, finish: Callable[[Image.Image], tuple]) -> tuple:
    """Decodes an image to RGB and returns what `finish` makes of it, both within the budgets of memory."""
    name = f"<{len(source)} bytes>" if isinstance(source, bytes) else os.fspath(source)
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open_regular(source) as file:
            with ENCODED.held(_read_at_once(file)), Image.open(file, formats=_known_formats()) as image:
                with MEMORY.held(_cost(image)):
                    try:
                        return finish(_as_rgb(image))
                    finally:
                        image.close()  # before its memory counts as free
    except UnidentifiedImageError as error:
        raise FpganError(f"{name}: not an image, or none of a known format") from error
    except FpganError:
        raise
    except Exception as error:  # whatever a decoder raises for a file is that file's
        raise FpganError(f"{name}: cannot be read as an image ({shown(reason(error))})") from error


@functools.cache
def _known_formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow reads; takes memory in blocks that, freed, go back to the system."""
    for plugin in _PLUGINS:  # Image.init would import thirty more
        with contextlib.suppress(ImportError):
            importlib.import_module(f"PIL.{plugin}ImagePlugin")
    Image.core.set_block_size(_BLOCK)
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _read_at_once(file: BinaryIO) -> int:
    """The bytes that opening a file reads into memory: all of some formats."""
    if isinstance(file, io.BytesIO):
        return 0
    head = file.read(12)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if head[:4] != b"RIFF" and head[4:8] != b"ftyp":
        return 0
    if size > ENCODED.total:
        raise ValueError(f"it has {size:,} bytes, more than the {ENCODED.total:,} that are expected at most")
    return size


def _cost(image: Image.Image) -> int:
    """The bytes of memory that decoding an image takes, at most."""
    per_pixel, (width, height) = _BYTES_PER_PIXEL.get(image.format, _BYTES), image.size
    if width * height * per_pixel > MEMORY.total:
        raise ValueError(f"it has {width:,} x {height:,} pixels, more than the {MEMORY.total // per_pixel // 10**6} million "
                         f"that are expected at most of a {image.format}")
    return width * height * per_pixel


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
    """Brings an image of any mode to RGB, upright, a strip at a time so that little is there twice."""
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    levels = _range_of(image) if image.mode.startswith(("I", "F")) else None
    rgb = Image.new("RGB", image.size)
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb.paste(_strip_as_rgb(strip, levels), (0, top))
    return rgb


def _strip_as_rgb(image: Image.Image, levels: tuple[float, float] | None) -> Image.Image:
    if levels is not None:
        low, high = levels
        values = (np.asarray(image).astype(np.float64) - low) * (255 / (high - low))
        image = Image.fromarray(np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _range_of(image: Image.Image) -> tuple[float, float]:
    """The levels of black and white in an image of deep grey levels; ValueError if the file leaves them open."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    stated = [np.ravel(tags[tag])[0] for tag in (_SMALLEST, _LARGEST) if tag in tags]
    if len(stated) == 2 and -np.inf < stated[0] < stated[1] < np.inf:
        return float(stated[0]), float(stated[1])
    bits = int(np.ravel(tags.get(_BITS, 16))[0])
    if image.mode == "F":
        values = np.asarray(image)
        if np.isfinite(values).all() and 0 <= values.min() and values.max() <= 1:
            return 0.0, 1.0
        raise ValueError("its levels are floating-point numbers beyond 0 to 1, of which the range is not known; convert it "
                         "to 8 or 16 bits")
    if bits > 16 or np.ravel(tags.get(_SAMPLE_FORMAT, 1))[0] != 1:
        raise ValueError(f"its levels are numbers of {bits} bits, of which the range is not known; convert it to 8 bits")
    largest = image.getextrema()[1]
    if bits == 16 and 0 < largest < 4096:
        raise ValueError(f"its levels have 16 bits but end at {largest}, so their range is not known; convert it to 8 bits")
    return 0.0, 2.0**bits - 1


def crop_box(width: int, height: int, crop: str) -> tuple[int, int, int]:
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


def crop_and_resize(image: np.ndarray, resolution: int, crop: str) -> tuple[np.ndarray, int]:
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
