"""Where training images come from: one small interface over rendered cats and prepared sets."""

import abc

import numpy as np

from fpgan.data import robohash
from fpgan.data.records import find_public_set, is_prepared, open_records, read_description
from fpgan.data.settings import prepare_command, prepared_folder, read_settings
from fpgan.errors import FpganError
from fpgan.io.images import crop_and_resize, read_image

_CHUNK = 512  # images between two reports of progress


class ImageSource(abc.ABC):
    """A numbered collection of square 8-bit RGB images.

    Attributes:
      name: short name, e.g. "robohash_cats".
      licence: of the images, as a sentence or an identifier.
      resolution: side length R in pixels.
    """

    def __init__(self, name, licence, resolution, length):
        self.name, self.licence, self.resolution, self._length = name, licence, resolution, length

    @abc.abstractmethod
    def read(self, indices):
        """Reads images: integer array [N], each in [0, len), to uint8 [N, R, R, 3]."""

    def __len__(self):
        return self._length

    def __getitem__(self, index):
        if not 0 <= index < self._length:
            raise IndexError(f"image {index} of {self._length}")
        return self.read(np.array([index]))[0]

    def load_all(self, progress=None):
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


class RenderedCats(ImageSource):
    """RoboHash cats, made when they are asked for: image i is `robohash.render_cats(i)`."""

    def __init__(self, resolution, count):
        super().__init__("robohash_cats", robohash.LICENCE, resolution, count)

    def read(self, indices):
        """Renders these cats: integer array [N] to uint8 [N, R, R, 3]."""
        return robohash.render_cats(indices, self.resolution)


class PreparedImages(ImageSource):
    """A set prepared by TFDS; copies of it can be sent to worker processes.

    Args:
      name: short name of the set.
      folder: the folder of a prepared version.
      settings: DataSettings; its split, resolution, crop and take apply.
    """

    def __init__(self, name, folder, settings):
        licence, self.metadata = read_description(folder)
        self._folder, self._records = folder, open_records(folder, settings.split)
        self._crop = settings.crop if settings.name == "tfds" else "none"  # own sets are square
        length = _first(settings.take, len(self._records), folder)
        super().__init__(name, licence or f"not stated; see the description of {name} by TFDS",
                         settings.resolution, length)

    def read(self, indices):
        """Reads and decodes these records: integer array [N] to uint8 [N, R, R, 3]."""
        images = np.empty((len(indices), self.resolution, self.resolution, 3), np.uint8)
        records = self._records.__getitems__([int(index) for index in indices])
        for image, index, record in zip(images, indices, records, strict=True):
            try:
                image[...] = crop_and_resize(read_image(record["image"])[0], self.resolution, self._crop)[0]
            except FpganError as error:
                raise FpganError(f"image {index} of {self._folder}: {error}") from error
        return images


def open_source(data):
    """Opens the images that a config's `data` part asks for.

    Cats are read from the prepared set of this number and resolution where there is one, and otherwise
    rendered on the fly: the images are the same. The user's own images and public sets have to be prepared
    first.

    Args:
      data: a mapping with the fields of `settings.DataSettings`.

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
                             f" where TFDS already keeps it, or prepare it with: {prepare_command(settings)}")
        return PreparedImages(settings.tfds_name, folder, settings)
    folder = prepared_folder(settings)
    if is_prepared(folder):
        return PreparedImages(settings.name, folder, settings)
    if settings.name == "robohash_cats":
        robohash.check(settings.resolution)
        return RenderedCats(settings.resolution, _first(settings.take, settings.count, "the set"))
    raise FpganError(f"the images of {settings.path} are not prepared in {settings.data_dir!r} at this"
                     f" resolution and crop; prepare them with: {prepare_command(settings)}")


def _first(take, length, what):
    """Returns how many images to use: the first `take`, or all of them for 0."""
    if take > length:
        raise FpganError(f"data.take is {take}, but {what} has {length} images; take at most {length}")
    return take or length
