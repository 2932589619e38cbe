"""Where training images come from: one small interface over rendered cats and prepared sets."""

from __future__ import annotations

import abc
import os
import re
from collections.abc import Callable, Mapping

import numpy as np

from fpgan.data.folder import list_own_images
from fpgan.data.prepared import find_public_set, is_prepared, open_records, read_description
from fpgan.data.robohash import ROBOHASH_SETS
from fpgan.data.settings import DataSettings, prepare_command, prepared_folder, read_settings
from fpgan.errors import FpganError
from fpgan.io.images import read_image, read_square
from fpgan.io.listing import contents_of, image_sources

_CHUNK = 512  # images between two reports of progress


class ImageSource(abc.ABC):
    """A numbered collection of square 8-bit RGB images.

    Attributes:
      name: short name, e.g. "robohash_cats".
      licence: of the images, as a sentence or an identifier.
      resolution: side length R in pixels.
      classes: names of the classes that the images are of; empty if they have none.
      note: what somebody who trains on it should know, or "".
    """

    classes: tuple[str, ...] = ()
    note = ""

    def __init__(self, name, licence, resolution, length):
        self.name, self.licence, self.resolution, self._length = name, licence, resolution, length

    @abc.abstractmethod
    def read(self, indices: np.ndarray):
        """Reads images: integer array [N], each in [0, len), to uint8 [N, R, R, 3]."""

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """Reads the classes of images: integer array [N], each in [0, len), to int32 [N], places in `classes`."""
        raise FpganError(f"{self.name} has no classes; expected a set of TFDS with the feature 'label', or a folder with a "
                         "subfolder for each class")

    def __len__(self):
        return self._length

    def __getitem__(self, index):
        if not 0 <= index < self._length:
            raise IndexError(f"image {index} of {self._length}")
        return self.read(np.array([index]))[0]

    def load_all(self, progress: Callable[[int, int], None] | None = None):
        """Reads every image into memory.

        Args:
          progress: called as progress(images done, images in all) every now and then.

        Returns:
          uint8 [N, R, R, 3], in order.
        """
        images = np.empty((self._length, self.resolution, self.resolution, 3), np.uint8)
        for start in range(0, self._length, _CHUNK):
            stop = min(start + _CHUNK, self._length)
            images[start:stop] = self.read(np.arange(start, stop))
            if progress:
                progress(stop, self._length)
        return images


class Rendered(ImageSource):
    """RoboHash art, made when it is asked for: image i is `LayeredSet.render(i)`; all combinations are different.

    Args:
      name: one of ROBOHASH_SETS.
      resolution: side in pixels.
      count: how many images; all combinations once by default.
    """

    def __init__(self, name: str, resolution: int, count: int | None = None):
        self._set = ROBOHASH_SETS[name]
        self._set.check(resolution)
        super().__init__(name, self._set.licence, resolution, len(self._set) if count is None else count)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Renders these images: integer array [N] to uint8 [N, R, R, 3]."""
        return self._set.render(indices, self.resolution)


class PreparedImages(ImageSource):
    """A set prepared by TFDS; copies of it can be sent to worker processes.

    Args:
      name: short name of the set.
      folder: the folder of a prepared version.
      settings: DataSettings; its split, crop and take apply.
      resolution: side length in pixels, to which public sets are scaled.
    """

    def __init__(self, name, folder, settings, resolution):
        licence, self.metadata = read_description(folder)
        self._folder, self._records = folder, open_records(folder, settings.split)
        features = self._records.dataset_info.features
        self.classes = tuple(getattr(features["label"], "names", None) or ()) if "label" in features else ()
        self._crop = settings.crop if settings.name == "tfds" else "none"  # own sets are square
        length = _first(settings.take, len(self._records), folder)
        super().__init__(name, licence or f"not stated; see the description of {name} by TFDS",
                         resolution, length)

    def read(self, indices: np.ndarray):
        """Reads and decodes these records: integer array [N] to uint8 [N, R, R, 3]."""
        images = np.empty((len(indices), self.resolution, self.resolution, 3), np.uint8)
        records = self._records.__getitems__([int(index) for index in indices])
        for image, index, record in zip(images, indices, records, strict=True):
            try:
                image[...] = read_square(record["image"], self.resolution, self._crop)[0]
            except FpganError as error:
                raise FpganError(f"image {index} of {self._folder}: {error}") from error
        return images

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """Reads the classes of these records: integer array [N] to int32 [N]; of a whole set, a part at a time."""
        if not self.classes:
            return super().labels(indices)
        labels = np.empty(len(indices), np.int32)
        for start in range(0, len(indices), _CHUNK):
            records = self._records.__getitems__([int(index) for index in indices[start:start + _CHUNK]])
            labels[start:start + _CHUNK] = [record["label"] for record in records]
        return labels


def open_source(data: Mapping | DataSettings, resolution: int) -> ImageSource:
    """Opens the images that a config's `data` part asks for.

    RoboHash sets are read from the prepared set of this number and resolution where there is one, and otherwise
    rendered on the fly: the images are the same. The user's own images and public sets have to be prepared
    first.

    Args:
      data: a mapping with the fields of `settings.DataSettings`.
      resolution: side length in pixels.

    Returns:
      ImageSource.

    Raises:
      FpganError: if the settings are wrong, or the set is not prepared; the message says how to prepare it.
    """
    settings = read_settings(data)
    if settings.name == "tfds":
        folder = find_public_set(settings.data_dir, settings.tfds_name)
        if folder is None:
            raise FpganError(f"{settings.tfds_name} is not prepared in {settings.data_dir!r}; set data_dir to"
                             f" where TFDS already keeps it, or prepare it with: {prepare_command(settings, resolution)}")
        return PreparedImages(settings.tfds_name, folder, settings, resolution)
    folder = prepared_folder(settings, resolution)
    if is_prepared(folder):
        source = PreparedImages(settings.name, folder, settings, resolution)
        if settings.name == "folder" and _has_changed(settings.path, source.metadata.get("digest")):
            source.note = (f"warning: {settings.path} has changed since its images were prepared; this is the older set. To "
                           f"train on the images of today, in a new --workdir: {prepare_command(settings, resolution)}")
        return source
    if settings.name in ROBOHASH_SETS:
        return Rendered(settings.name, resolution, _first(settings.take, settings.count, "the set"))
    raise FpganError(f"the images of {settings.path} are not prepared in {settings.data_dir!r} at this"
                     f" resolution and crop; prepare them with: {prepare_command(settings, resolution)}")


def _has_changed(path: str, digest: str | None) -> bool:
    """Whether the user's own images are other ones than those that were prepared; False where they are gone."""
    try:
        return list_own_images(path).digest != digest
    except FpganError:
        return False


def _first(take, length, what):
    """Returns how many images to use: the first `take`, or all of them for 0."""
    if take > length:
        raise FpganError(f"data.take is {take}, but {what} has {length} images; take at most {length}")
    return take or length


def open_other(text: str, resolution: int, data_dir: str = "data") -> ImageSource:
    """Opens a source of images by a short name.

    Args:
      text: "robohash_monsters", "robohash_heads", "robohash_cats", "tfds:NAME" (prepared), or a folder, pattern or file. All
        but existing paths may have a range, as in "robohash_cats[50000:]".
      resolution: side in pixels; files are cropped and resized to it.
      data_dir: where prepared images are kept.

    Raises:
      FpganError: there are no such images, or the range is empty.
    """
    match = None if os.path.exists(text) else re.fullmatch(r"(.+)\[(\d*):(\d*)\]", text)
    if match:
        return Subset(open_other(match[1], resolution, data_dir), text, int(match[2] or 0), int(match[3] or 0))
    if os.path.exists(text):
        return Files(text, resolution)
    if text in ROBOHASH_SETS or text.startswith("tfds:"):
        return open_source(data_settings(text) | {"data_dir": data_dir}, resolution)
    return Files(text, resolution)


def data_settings(text: str) -> dict:
    """Turns a short name into the data part of a config.

    Args:
      text: "robohash_cats", "robohash_monsters" or "robohash_heads" (rendered, nothing to prepare), "tfds:NAME" (a
        prepared TFDS dataset), or the path of a prepared folder, zip or IDX file of images.
    """
    if text in ROBOHASH_SETS:
        return {"name": text}
    if text.startswith("tfds:"):
        return {"name": "tfds", "tfds_name": text.removeprefix("tfds:")}
    if os.path.exists(text):
        return {"name": "folder", "path": text}
    raise FpganError(f"there are no images {text!r}; expected {', '.join(ROBOHASH_SETS)}, tfds:NAME, or the "
                     "path of a folder or zip file")


class Files(ImageSource):
    """Images of a folder, a zip, a pattern or a file: read when asked for, cropped and resized.

    Args:
      path: see `fpgan.io.listing.image_sources`.
      resolution: side in pixels.
    """

    def __init__(self, path: str, resolution: int):
        self._files = list(image_sources([path]))
        super().__init__(path, "", resolution, len(self._files))

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Reads images: int [N] -> uint8 [N, R, R, 3]; FpganError names one that cannot be read."""
        images = []
        for name, content in contents_of(self._files[i] for i in indices):
            if isinstance(content, FpganError):
                raise content
            images.append(_named(name, lambda content=content: read_image(content, self.resolution)[0]))
        return np.stack(images)


class Subset(ImageSource):
    """The images start, start + 1, ..., stop - 1 of another source, under a name of its own; stop 0 means to its end."""

    def __init__(self, source: ImageSource, name: str, start: int, stop: int):
        stop = min(stop or len(source), len(source))
        if start >= stop:
            raise FpganError(f"{name}: there are no such images; {source.name} has {len(source)}, counted from 0")
        super().__init__(name, source.licence, source.resolution, stop - start)
        self._source, self._start = source, start

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Reads images: int [N], each in [0, stop - start) -> uint8 [N, R, R, 3]."""
        return self._source.read(np.asarray(indices) + self._start)


def _named(name: str, read: Callable[[], np.ndarray]) -> np.ndarray:
    """Reads an image; an error names it, which may come from its bytes alone."""
    try:
        return read()
    except FpganError as error:
        raise error if name in str(error) else FpganError(f"{name}: {str(error).split(' bytes>: ')[-1]}") from None
