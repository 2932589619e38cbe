"""Finds images: in files, folders, patterns and array_record files."""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fpgan.errors import FpganError
from fpgan.io.files import reason
from fpgan.io.records import record_reader

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})
RECORDS = ".array_record"


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


@dataclass(frozen=True)
class Source:
    """Where an image is.

    Attributes:
      path: its file.
      record: its number in an array_record file, or None.
      error: why there is nothing to be read, or None.
    """

    path: str
    record: int | None = None
    error: FpganError | None = None

    @property
    def name(self) -> str:
        """The path; of a record, `path#number`."""
        return self.path if self.record is None else f"{self.path}#{self.record}"


def image_sources(paths: Iterable[str | os.PathLike]) -> Iterator[Source]:
    """Finds the images in files, folders, globs and array_record files, as `decode_files` does, without reading them."""
    for path, error in iter_images(paths, EXTENSIONS | {RECORDS}):
        if error or not path.endswith(RECORDS):
            yield Source(path, error=error)
            continue
        try:
            with record_reader(path) as reader:
                count = reader.num_records()
        except FpganError as damage:
            yield Source(path, error=damage)
        else:
            yield from (Source(path, record) for record in range(count))


def contents_of(sources: Iterable[Source]) -> Iterator[tuple[str, str | bytes | FpganError]]:
    """Yields the name of each image with its path or encoded bytes, or with the error met on the way."""
    for path, group in itertools.groupby(sources, lambda source: source.path):
        with contextlib.ExitStack() as stack:
            reader = None
            for source in group:
                if source.error or source.record is None:
                    yield source.name, source.error or path
                    continue
                try:
                    reader = reader or stack.enter_context(record_reader(path))
                    yield source.name, reader.read([source.record])[0]
                except FpganError as error:
                    yield source.name, error
                except RuntimeError:
                    yield source.name, FpganError("the record is damaged")
