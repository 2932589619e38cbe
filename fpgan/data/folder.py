"""The user's own images: a folder or a zip file, listed and read so that every file left out is named."""

import contextlib
import dataclasses
import functools
import hashlib
import os
import zipfile
import zlib
from concurrent import futures
from pathlib import Path, PurePosixPath

import numpy as np

from fpgan.errors import FpganError
from fpgan.io.images import crop_and_resize, read_image
from fpgan.io.listing import EXTENSIONS
from fpgan.io.provenance import cpu_count

_CHUNK = 64  # files in memory at once
_MAX_ENCODED = 2**28  # bytes of one file in a zip: more than any photo, less than what would fill the memory


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a folder or zip holds.

    Attributes:
      path: the folder or zip file, absolute.
      images: names of the files that look like images by their extension, sorted, with / between folders.
      others: names of all other files, sorted; hidden files and macOS resource forks are in neither list.
      digest: hex; changes when any image file is added, removed, renamed, rewritten or changes its size.
    """

    path: Path
    images: tuple[str, ...]
    others: tuple[str, ...]
    digest: str


@dataclasses.dataclass(frozen=True)
class Item:
    """One image file after reading.

    Attributes:
      name: its name in the listing.
      image: uint8 [R, R, 3], or None if the file was left out.
      side: side length in pixels of the square it was made from; 0 if left out.
      problem: why it was left out; "" if it was not.
    """

    name: str
    image: np.ndarray | None
    side: int = 0
    problem: str = ""


def list_own_images(path):
    """Lists the files of a folder (with its subfolders) or of a zip file.

    Args:
      path: a folder or a zip file.

    Returns:
      Listing.

    Raises:
      FpganError: if there is no such folder or zip, or it holds no file with an image's extension.
    """
    path = Path(path).expanduser().resolve()
    if path.is_dir():
        stamps = dict(_walk(path, frozenset()))
    else:
        with _open_zip(path) as archive:
            stamps = {info.filename: f"{info.file_size} {info.CRC:x}" for info in archive.infolist()
                      if not info.is_dir()}
    names = sorted(name for name in stamps if not _is_hidden(name))
    images = tuple(name for name in names if PurePosixPath(name).suffix.lower() in EXTENSIONS)
    if not images:
        raise FpganError(f"{path} holds no images; expected files named {', '.join(sorted(EXTENSIONS))}")
    lines = "".join(f"{name}\0{stamps[name]}\n" for name in images)
    digest = hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
    return Listing(path, images, tuple(name for name in names if name not in set(images)), digest)


def read_own_images(listing, resolution, crop):
    """Reads the listed images in order, on several threads; a damaged file comes with its problem instead.

    Args:
      listing: what to read.
      resolution: side length in pixels.
      crop: as in `crop.crop_box`.

    Yields:
      One Item per name in `listing.images`, in that order.
    """
    with contextlib.ExitStack() as stack:
        if listing.path.is_dir():
            read = functools.partial(_read_file, listing.path)
        else:
            read = functools.partial(_read_member, stack.enter_context(_open_zip(listing.path)))
        pool = stack.enter_context(futures.ThreadPoolExecutor(cpu_count()))
        for start in range(0, len(listing.images), _CHUNK):
            names = listing.images[start:start + _CHUNK]
            yield from pool.map(functools.partial(_read_item, read, resolution, crop), names)


def _read_item(read, resolution, crop, name):
    try:
        image, side = crop_and_resize(read_image(read(name))[0], resolution, crop)
    except OSError as error:
        return Item(name, None, problem=error.strerror or str(error))
    except FpganError as error:
        return Item(name, None, problem=str(error).split(" bytes>: ")[-1])  # read_image saw only bytes
    return Item(name, image, side)


def _walk(folder, above, prefix=""):
    """Yields (name, stamp) of all files; links to folders are followed, but not back to a folder above."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise FpganError(f"{folder} cannot be read ({error.strerror}); mend its permissions") from error
    above = above | {os.path.realpath(folder)}
    for entry in entries:
        if entry.is_dir():
            if not _is_hidden(entry.name) and os.path.realpath(entry.path) not in above:
                yield from _walk(entry.path, above, f"{prefix}{entry.name}/")
        else:
            status = entry.stat(follow_symlinks=entry.is_file())  # a dangling link is stamped itself
            yield prefix + entry.name, f"{status.st_size} {status.st_mtime_ns}"


def _is_hidden(name):
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _open_zip(path):
    if not path.exists():
        raise FpganError(f"{path} does not exist; expected a folder or a zip file of images")
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise FpganError(f"{path} is neither a folder nor a readable zip file ({error})") from error


def _read_file(folder, name):
    return (folder / name).read_bytes()


def _read_member(archive, name):
    """Reads one file of a zip; what is wrong with it becomes FpganError."""
    if archive.getinfo(name).file_size > _MAX_ENCODED:
        raise FpganError(f"larger than {_MAX_ENCODED >> 20} MiB")
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise FpganError(f"damaged in the zip file ({error})") from error
