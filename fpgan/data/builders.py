"""The TFDS builders of fpgan. All write array_record files of encoded PNG images and need no TensorFlow.

Import this module only where TFDS is wanted: importing TFDS takes half a second.
"""

import collections
import dataclasses

import numpy as np
import tensorflow_datasets as tfds

from fpgan.data import settings
from fpgan.data.folder import Listing, read_own_images
from fpgan.data.robohash import ROBOHASH_SETS
from fpgan.errors import FpganError, printable
from fpgan.io.images import encode_png

_CHUNK = 256  # images rendered at a time


def _no_progress(done, total):
    """Tells nobody."""


@dataclasses.dataclass
class RobohashConfig(tfds.core.BuilderConfig):
    """How many images, and their side length in pixels."""

    resolution: int = 0
    count: int = 0


@dataclasses.dataclass
class FolderConfig(tfds.core.BuilderConfig):
    """Which files, the side length of the result in pixels, and the crop (see `crop.crop_box`)."""

    resolution: int = 0
    crop: str = "center"
    listing: Listing | None = None


class _PngBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set with one feature, a square PNG image, kept in the order in which it is made.

    `progress(done, total)`, settable on the builder, is called while images are made. What is worth knowing
    about them goes into `info.metadata`, which TFDS writes to metadata.json in the same atomic step.
    """

    VERSION = tfds.core.Version(settings.VERSION)
    progress = staticmethod(_no_progress)
    code_path = None  # TFDS would look for checksums there, by means of a package that it does not declare

    def _dataset_info(self, description, licence, classes=()):
        shape = (self.builder_config.resolution, self.builder_config.resolution, 3)
        features = {"image": tfds.features.Image(shape=shape, encoding_format="png")}
        if classes:
            features["label"] = tfds.features.ClassLabel(names=[printable(name) for name in classes])
        return tfds.core.DatasetInfo(builder=self, description=description, license=licence,
                                     features=tfds.features.FeaturesDict(features),
                                     metadata=tfds.core.MetadataDict(), disable_shuffling=True)

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing is downloaded
        return {"train": self._generate_examples()}


class _Robohash(_PngBuilder, skip_registration=True):
    """A RoboHash set: record i is image i of the set that bears the builder's name."""

    def _info(self):
        return self._dataset_info("RoboHash art, every image another combination of parts, on white.", self._set.licence)

    @property
    def _set(self):
        return ROBOHASH_SETS[self.name]

    def _generate_examples(self):
        count = self.builder_config.count
        for start in range(0, count, _CHUNK):
            numbers = np.arange(start, min(start + _CHUNK, count))
            for number, image in zip(numbers, self._set.render(numbers, self.builder_config.resolution), strict=True):
                yield int(number), {"image": encode_png(image)}
            self.progress(int(numbers[-1]) + 1, count)
        self.info.metadata.update(images=count)


class RobohashCats(_Robohash):
    """Cartoon cats."""


class RobohashMonsters(_Robohash):
    """Monsters."""


class RobohashHeads(_Robohash):
    """Heads of robots."""


ROBOHASH_BUILDERS = {builder.name: builder for builder in (RobohashCats, RobohashMonsters, RobohashHeads)}


class FolderImages(_PngBuilder):
    """The user's own images: cropped, resized, in the order of their names; damaged ones are listed."""

    def _info(self):
        listing = self.builder_config.listing
        return self._dataset_info(f"Images of {listing.path}.", "not stated (your own images)", listing.classes)

    def _generate_examples(self):
        listing, resolution = self.builder_config.listing, self.builder_config.resolution
        counts, skipped = collections.Counter(), []
        for done, item in enumerate(read_own_images(listing, resolution, self.builder_config.crop), 1):
            if item.image is None:
                skipped.append([printable(item.name), item.problem])
            else:
                label = {"label": listing.label(item.name)} if listing.classes else {}
                yield counts["images"], {"image": encode_png(item.image)} | label
                counts.update(images=1, reduced=item.side > resolution, enlarged=item.side < resolution)
            self.progress(done, len(listing.images))
        if not counts["images"]:
            raise FpganError(f"none of the {len(skipped)} images in {listing.path} can be used; the first:"
                             f" {skipped[0][0]}: {skipped[0][1]}")
        self.info.metadata.update(counts, source=printable(str(listing.path)), digest=listing.digest,
                                  skipped=skipped, others=[printable(name) for name in listing.others],
                                  classes=len(listing.classes))
