"""Images as files and as arrays: grey levels, reading anything, deterministic PNG, finding files, grids."""

from __future__ import annotations

import glob
import io
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from fpgan.errors import FpganError
from fpgan.files import reason

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})
# What Pillow raises for damaged files, by format; anything else is a bug and shows its traceback.
_DAMAGED = (OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, OverflowError,
            struct.error, zlib.error, Image.DecompressionBombError)
_RUNS = 3  # Z_RLE of zlib
_LANCZOS = Image.Resampling.LANCZOS


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


def list_images(paths: Iterable[str | os.PathLike]) -> list[Path]:
    """Lists the image files that `iter_images` finds; a folder that cannot be read is a FpganError."""
    images = []
    for path, error in iter_images(paths):
        if error:
            raise error
        images.append(Path(path))
    return images


def iter_images(paths: Iterable[str | os.PathLike],
                extensions: frozenset[str] = EXTENSIONS) -> Iterator[tuple[str, FpganError | None]]:
    """Finds image files lazily, one folder at a time.

    Links to folders are followed, but not back to a folder that they lie in.

    Args:
      paths: files (taken whatever their names), folders (searched recursively, hidden files left out) and
        glob patterns (`**` reaches into folders).
      extensions: endings, in lower case, of the files to take from folders and patterns.

    Yields:
      (path, None) in the order of the arguments, sorted within each; (folder, error) for a folder that cannot
        be read.

    Raises:
      FpganError: a path does not exist, or an argument holds no image.
    """
    paths = [os.fspath(path) for path in paths]
    for path in paths:  # all of them before the first, which may be large
        if not os.path.lexists(path) and not glob.has_magic(path):
            raise FpganError(f"{path}: no such file or folder")
    for path in paths:
        found = False
        for image_and_error in _images_at(path, extensions):
            found = True
            yield image_and_error
        if not found:
            raise FpganError(f"{path}: no images found; expected a file, a folder or a pattern of files "
                             f"ending in {' '.join(sorted(extensions))}")


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


def _images_at(path: str, extensions: frozenset[str]) -> Iterator[tuple[str, FpganError | None]]:
    if os.path.isdir(path):
        yield from _walk(path, extensions)
    elif os.path.lexists(path):
        yield path, None
    else:
        found = set(glob.iglob(path, recursive=True))
        yield from ((match, None) for match in sorted(found) if _ends_in(match, extensions) and os.path.isfile(match))


def _walk(folder: str, extensions: frozenset[str],
          above: frozenset[str] = frozenset()) -> Iterator[tuple[str, FpganError | None]]:
    try:
        with os.scandir(folder) as entries:
            names = sorted((entry.name, _is_folder(entry)) for entry in entries if entry.name[0] != ".")
    except OSError as error:
        yield folder, FpganError(f"{folder}: cannot be read ({reason(error)})")
        return
    above |= {os.path.realpath(folder)}
    for name, is_folder in names:
        path = os.path.join(folder, name)
        if is_folder:
            if os.path.realpath(path) not in above:
                yield from _walk(path, extensions, above)
        elif _ends_in(name, extensions):
            yield path, None


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself: if it is named like an image, reading it says what is wrong
        return False


def _ends_in(name: str, extensions: frozenset[str]) -> bool:
    return os.path.splitext(name)[1].lower() in extensions
