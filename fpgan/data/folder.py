"""The user's own images: a folder, a zip or an IDX file, listed and read so that every file left out is named."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

import numpy as np

from fpgan.data.idx import count_images, is_idx, read_idx, read_labels
from fpgan.errors import FpganError, reason
from fpgan.io.images import EXTENSIONS, encode_png, read_square
from fpgan.io.inputs import Budget
from fpgan.io.listing import MAX_MEMBER, open_zip, read_member, walk_images, zip_members

_CHUNK = 64  # files in memory at once
_TELL = 1000  # files between two reports of progress
_MEMBERS = Budget(MAX_MEMBER)  # bytes of files of a zip in memory at once


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a folder, zip or IDX file holds.

    Attributes:
      path: the folder or file, absolute.
      images: names of the files that look like images by their extension, sorted, with / between folders.
      others: names of all other files, sorted; hidden files and macOS resource forks are in neither list.
      digest: hex; changes when any image file is added, removed, renamed, rewritten or changes its size.
      classes: names of the folders at the top, sorted, where every image is in one and there are two or more; else none.
      numbers: of a zip or an IDX file, the number of each image in it.
    """

    path: Path
    images: tuple[str, ...]
    others: tuple[str, ...]
    digest: str
    classes: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()

    def label(self, name: str) -> int:
        """Returns the place in `classes` of the class that an image has by its name."""
        return self._places[name.split("/")[0]]

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.classes)}


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


def list_own_images(path: str | os.PathLike,
                    progress: Callable[[int, int | None], None] = lambda done, total: None) -> Listing:
    """Lists the images of a folder (with its subfolders), of a zip or of an IDX file, in time linear in their number.

    Args:
      path: a folder, a zip file, or an IDX file (see `data.idx`).
      progress: called as progress(files so far, None) every now and then.

    Returns:
      What there is.

    Raises:
      FpganError: if there is no such folder or zip, or it holds no file with an image's extension.
    """
    path = Path(path).expanduser().resolve()
    if not path.exists():
        raise FpganError(f"{path} does not exist; expected a folder, a zip or an IDX file of images")
    stamps, others = _list_folder(path, progress) if path.is_dir() else _list_idx(path) if is_idx(path) else _list_zip(path)
    if not stamps:
        raise FpganError(f"{path} holds no images; expected files named {', '.join(sorted(EXTENSIONS))}")
    images = sorted(stamps)
    lines = "".join(f"{name}\0{stamps[name][0]}\n" for name in images)
    digest = hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
    numbers = () if path.is_dir() else tuple(stamps[name][1] for name in images)
    return Listing(path, tuple(images), tuple(sorted(others)), digest, _classes(images), numbers)


def read_own_images(listing: Listing, resolution: int, crop: str) -> Iterator[Item]:
    """Reads the listed images in order, on several threads; a damaged file comes with its problem instead.

    Args:
      listing: what to read.
      resolution: side length in pixels.
      crop: as in `fpgan.io.images.crop_box`.

    Yields:
      One Item per name in `listing.images`, in that order.
    """
    with contextlib.ExitStack() as stack:
        if listing.path.is_dir():
            read = functools.partial(_read_file, listing.path)
        elif is_idx(listing.path):
            read = functools.partial(_read_idx, read_idx(listing.path), _numbered(listing))
        else:
            archive = stack.enter_context(open_zip(listing.path))
            read = functools.partial(_read_member, archive, _numbered(listing))
        pool = stack.enter_context(futures.ThreadPoolExecutor(os.cpu_count()))
        for start in range(0, len(listing.images), _CHUNK):
            names = listing.images[start:start + _CHUNK]
            yield from pool.map(functools.partial(_read_item, read, resolution, crop), names)


def _numbered(listing: Listing) -> dict[str, int]:
    """Returns the number of each image in its file."""
    return dict(zip(listing.images, listing.numbers, strict=True))


def _classes(names: list[str]) -> tuple[str, ...]:
    """Returns the names of the folders at the top, sorted, where every file is in one and there are two or more; else ()."""
    tops = sorted({name.split("/")[0] for name in names})
    return tuple(tops) if len(tops) > 1 and all("/" in name for name in names) else ()


def _list_folder(path: Path, progress: Callable[[int, int | None], None]) -> tuple[dict[str, tuple[str, int]], list[str]]:
    """Returns the images of a folder with their stamps, and its other files; a folder that cannot be read is an error."""
    prefix, others, stamps = os.path.join(path, ""), [], {}
    for image, error in walk_images(str(path), EXTENSIONS, lambda name: others.append(name.removeprefix(prefix))):
        if error:
            raise FpganError(f"{error}; mend its permissions")
        try:
            status = os.stat(image)
        except OSError:  # a link to nothing is stamped itself, and told when it is read
            status = os.lstat(image)
        stamps[image.removeprefix(prefix)] = f"{status.st_size} {status.st_mtime_ns}", 0
        if len(stamps) % _TELL == 0:
            progress(len(stamps), None)
    return stamps, others


def _list_zip(path: Path) -> tuple[dict[str, tuple[str, int]], list[str]]:
    """Returns the images of a zip with their stamps and numbers, and its other files."""
    stamps, others = {}, []
    with open_zip(path) as archive:
        listed = archive.infolist()
        for number, name, twice in zip_members(archive):
            if os.path.splitext(name)[1].lower() not in EXTENSIONS:
                others.append(name)
            elif twice:
                others.append(f"{name} (there twice; the first one counts)")
            else:
                stamps[name] = f"{listed[number].file_size} {listed[number].CRC:x}", number
    return stamps, others


def _list_idx(path: Path) -> tuple[dict[str, tuple[str, int]], list[str]]:
    """Returns the images of an IDX file, named "class/number" if their labels lie beside it, with stamps and numbers."""
    status, count, labels = os.stat(path), count_images(path), read_labels(path)
    names = [f"{i:06d}" for i in range(count)] if labels is None else [f"{label}/{i:06d}" for i, label in enumerate(labels)]
    if len(names) != count:
        raise FpganError(f"{path} holds {count} images, but beside it there are {len(names)} labels; expected as many")
    return {name: (f"{status.st_size} {status.st_mtime_ns}", i) for i, name in enumerate(names)}, []


def _read_item(read: Callable, resolution: int, crop: str, name: str) -> Item:
    try:
        with read(name) as content:
            return Item(name, *read_square(content, resolution, crop))
    except OSError as error:
        return Item(name, None, problem=reason(error))
    except FpganError as error:  # which has a path before what is wrong, or says that it saw only bytes
        return Item(name, None, problem=str(error).split(f"/{name}: ")[-1].split(" bytes>: ")[-1])


@contextlib.contextmanager
def _read_file(folder: Path, name: str) -> Iterator[Path]:
    yield folder / name


@contextlib.contextmanager
def _read_idx(images: np.ndarray, numbers: dict[str, int], name: str) -> Iterator[bytes]:
    yield encode_png(images[numbers[name]])


@contextlib.contextmanager
def _read_member(archive, numbers: dict[str, int], name: str) -> Iterator[bytes]:
    with _MEMBERS.held(archive.infolist()[numbers[name]].file_size):
        yield read_member(archive, numbers[name])
