"""Stand-ins for public sets: made-up images under the names, versions and features of TFDS's builders, written by TFDS."""

import io
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def write(name, data_dir, count, seed=0):
    """Writes a stand-in for a set of TFDS, such as "celeb_a" or "lsun/cat", as array_records of JPEGs.

    The builder is TFDS's own, with its features; only where it would download, images are made up.

    Returns:
      The folder of the prepared version.
    """
    base, _, variant = name.partition("/")
    real = tfds.builder_cls(base)

    class StandIn(real, skip_registration=True):
        """TFDS's builder, with images that nobody has to download."""

        code_path = None

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            rng = np.random.default_rng(seed)
            for number in range(count):
                yield str(number), _example(self.info.features, rng)

    StandIn.name = base
    builder = StandIn(data_dir=str(data_dir), file_format="array_record", **({"config": variant} if variant else {}))
    builder.download_and_prepare(download_dir=str(Path(data_dir) / "downloads"))
    return Path(builder.data_path)


def _example(features, rng):
    """An example with random values of all features; images of unknown size are as large as those of LSUN."""
    if isinstance(features, tfds.features.Image):
        height, width = (features.shape[i] or int(size) for i, size in enumerate((256, rng.integers(256, 400))))
        return io.BytesIO(_jpeg(height, width, rng))
    if isinstance(features, tfds.features.FeaturesDict):
        return {name: _example(feature, rng) for name, feature in features.items()}
    number = int(rng.integers(100))
    if np.issubdtype(features.np_dtype, np.integer):
        return number
    return number % 2 == 1 if features.np_dtype == np.bool_ else str(number)


def _jpeg(height, width, rng):
    """A smooth random picture, as a JPEG."""
    coarse = rng.integers(0, 256, (6, 5, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()
