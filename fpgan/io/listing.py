"""Finds images, for whoever reads some: in files, folders, patterns, zip and array_record files. One walker for all."""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fpgan.errors import FpganError, reason
from fpgan.io.files import is_system_file
from fpgan.io.images import EXTENSIONS
from fpgan.io.inputs import open_regular
from fpgan.io.records import record_reader

RECORDS, ZIP = ".array_record", ".zip"
MAX_MEMBER = 1 << 27  # bytes of one image in a zip: more than any photo, less than what would fill the memory
_MAX_DEPTH = 200  # folders in each other
_DAMAGED_ZIP = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError, ValueError, KeyError)


def _nothing(path: str) -> None:
    """Passes over a file in silence."""


@dataclass(frozen=True)
class Source:
    """Where an image is.

    Attributes:
      path: its file.
      record: its number in an array_record or zip file, or None.
      error: why there is nothing to be read, or None.
      member: its name in a zip file, with / between folders, or None.
    """

    path: str
    record: int | None = None
    error: FpganError | None = None
    member: str | None = None

    @property
    def name(self) -> str:
        """The path; of a record `path#number`, of a member of a zip `path/member`."""
        if self.member is not None:
            return f"{self.path}/{self.member}"
        return self.path if self.record is None else f"{self.path}#{self.record}"


def image_sources(paths: Iterable[str | os.PathLike], passed_over: Callable[[str], None] = _nothing) -> Iterator[Source]:
    """Finds the images in files, folders, patterns, zip and array_record files, lazily and without reading them.

    Links to folders are followed, but not back to a folder that they lie in. Hidden files and what operating systems leave
    are no images. A zip inside a folder is not opened; one that is named itself is.

    Args:
      paths: files (taken whatever their names), folders (searched recursively) and patterns (`**` reaches into folders).
      passed_over: is told the path of each file below a folder whose name is not that of an image.

    Yields:
      A Source per image, in the order of the arguments, sorted within each; one with an error for a folder, zip or
        array_record file that cannot be read, and for a name that a zip has twice.

    Raises:
      FpganError: a path does not exist, or an argument holds no image.
    """
    for path, error in iter_images(paths, EXTENSIONS | {RECORDS}, passed_over):
        if error:
            yield Source(path, error=error)
        elif path.endswith(RECORDS):
            yield from _records(path)
        elif path.lower().endswith(ZIP):
            yield from _members(path, passed_over)
        else:
            yield Source(path)


def list_images(paths: Iterable[str | os.PathLike]) -> list[Path]:
    """Lists the image files that `iter_images` finds; a folder that cannot be read is a FpganError."""
    images = []
    for path, error in iter_images(paths):
        if error:
            raise error
        images.append(Path(path))
    return images


def iter_images(paths: Iterable[str | os.PathLike], extensions: frozenset[str] = EXTENSIONS,
                passed_over: Callable[[str], None] = _nothing) -> Iterator[tuple[str, FpganError | None]]:
    """Finds image files lazily, one folder at a time.

    Args:
      paths: as in `image_sources`.
      extensions: endings, in lower case, of the files to take from folders and patterns.
      passed_over: as in `image_sources`.

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
        for image_and_error in _images_at(path, extensions, passed_over):
            found = True
            yield image_and_error
        if not found:
            hint = "; in a pattern [ ] stand for one letter of a choice, and [[] for a bracket" if "[" in path else ""
            raise FpganError(f"{path}: no images found; expected a file, a folder or a pattern of files "
                             f"ending in {' '.join(sorted(extensions))}{hint}")


def contents_of(sources: Iterable[Source]) -> Iterator[tuple[str, str | bytes | FpganError]]:
    """Yields the name of each image with its path or encoded bytes, or with the error met on the way."""
    for path, group in itertools.groupby(sources, lambda source: source.path):
        with contextlib.ExitStack() as stack:
            opened = None
            for source in group:
                if source.error or source.record is None:
                    yield source.name, source.error or path
                    continue
                try:
                    if source.member is None:
                        opened = opened or stack.enter_context(record_reader(path))
                        yield source.name, opened.read([source.record])[0]
                    else:
                        opened = opened or stack.enter_context(open_zip(path))
                        yield source.name, read_member(opened, source.record)
                except FpganError as error:
                    yield source.name, error
                except RuntimeError:
                    yield source.name, FpganError("the record is damaged")


def open_zip(path: str | os.PathLike) -> zipfile.ZipFile:
    """Opens a zip file, a regular one; FpganError if it is none."""
    try:
        return zipfile.ZipFile(open_regular(path))
    except _DAMAGED_ZIP as error:
        raise FpganError(f"{os.fspath(path)} is no readable zip file ({reason(error)})") from error


def zip_members(archive: zipfile.ZipFile) -> Iterator[tuple[int, str, FpganError | None]]:
    """Yields number, name and error of the files in a zip, sorted by name; hidden ones are left out.

    Names are read as they are meant: with / between folders, also where the zip has backslashes. Of files with one name all
    but the first come with an error.
    """
    listed = enumerate(archive.infolist())
    names = [(info.filename.replace("\\", "/"), number) for number, info in listed if not info.is_dir()]
    before = None
    for name, number in sorted(names):
        if not is_hidden(name) and not name.endswith("/"):
            twice = FpganError(f"{name} is there twice in the zip file; the first one counts") if name == before else None
            yield number, name, twice
            before = name


def read_member(archive: zipfile.ZipFile, number: int) -> bytes:
    """Reads one file of a zip by its number; FpganError if it is damaged, encrypted or larger than MAX_MEMBER."""
    info = archive.infolist()[number]
    if info.file_size > MAX_MEMBER:
        raise FpganError(f"larger than {MAX_MEMBER >> 20} MiB")
    try:
        return archive.read(info)
    except _DAMAGED_ZIP as error:
        raise FpganError(f"damaged in the zip file ({reason(error)})") from error


def is_hidden(name: str) -> bool:
    """Returns whether a file or a folder that it lies in is hidden, or left by an operating system; `name` has / between
    folders.
    """
    return any(part.startswith(".") or is_system_file(part) for part in name.split("/"))


def _records(path: str) -> Iterator[Source]:
    try:
        open_regular(path).close()
        with record_reader(path) as reader:
            count = reader.num_records()
    except (FpganError, OSError) as damage:
        yield Source(path, error=damage if isinstance(damage, FpganError) else FpganError(f"{path}: {reason(damage)}"))
    else:
        yield from (Source(path, record) for record in range(count))


def _members(path: str, passed_over: Callable[[str], None]) -> Iterator[Source]:
    try:
        with open_zip(path) as archive:
            listed = list(zip_members(archive))
    except FpganError as damage:
        yield Source(path, error=damage)
        return
    for number, name, error in listed:
        if _ends_in(name, EXTENSIONS):
            yield Source(path, number, error, name)
        else:
            passed_over(f"{path}/{name}")


def _images_at(path: str, extensions: frozenset[str],
               passed_over: Callable[[str], None]) -> Iterator[tuple[str, FpganError | None]]:
    if os.path.isdir(path):
        yield from walk_images(path, extensions, passed_over)
    elif os.path.lexists(path):
        yield path, None
    else:  # a bracket that finds nothing as part of a pattern may be one of a name
        found = set(glob.iglob(path, recursive=True)) or set(glob.iglob(path.replace("[", "[[]"), recursive=True))
        yield from ((match, None) for match in sorted(found) if _ends_in(match, extensions) and os.path.isfile(match))


def walk_images(folder: str, extensions: frozenset[str] = EXTENSIONS, passed_over: Callable[[str], None] = _nothing,
                above: frozenset[str] = frozenset()) -> Iterator[tuple[str, FpganError | None]]:
    """Walks a folder and those in it, in the order of names; as `iter_images`, but an empty folder is no error.

    Args:
      folder: where to begin.
      extensions, passed_over: as in `iter_images`.
      above: real paths of the folders that this one lies in, back to which no link is followed.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted((entry.name, _is_folder(entry)) for entry in entries if not is_hidden(entry.name))
    except OSError as error:
        yield folder, FpganError(f"{folder}: cannot be read ({reason(error)})")
        return
    above |= {os.path.realpath(folder)}
    for name, is_folder in names:
        path = os.path.join(folder, name)
        if is_folder:
            if len(above) >= _MAX_DEPTH:
                yield path, FpganError(f"{path}: cannot be read (it lies deeper than {_MAX_DEPTH} folders)")
            elif os.path.realpath(path) not in above:
                yield from walk_images(path, extensions, passed_over, above)
        elif _ends_in(name, extensions):
            yield path, None
        else:
            passed_over(path)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself: if it is named like an image, reading it says what is wrong
        return False


def _ends_in(name: str, extensions: frozenset[str]) -> bool:
    return os.path.splitext(name)[1].lower() in extensions
