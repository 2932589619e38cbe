"""Reading on an engine that people have, such as Ray Data or Apache Beam: batches of images in, a table of rows out.

The engine lists the images, moves them, starts workers again that are lost, and writes; `BatchReader` is what it calls in
each worker. It knows no engine: what it takes and gives are the NumPy batches and Arrow tables that they speak.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from fpgan.attribution.registry import Registry
from fpgan.attribution.stores import open_store
from fpgan.decoding.decode import DecodeJob
from fpgan.decoding.rows import Row, column_types
from fpgan.errors import FpganError, shown
from fpgan.io.images import encode_png
from fpgan.io.tables import arrow_table
from fpgan.model import DEFAULT_MODEL
from fpgan.model.model import Model, load
from fpgan.model.reading import search_of

if TYPE_CHECKING:
    import pyarrow


class BatchReader:
    """Reads the fingerprints in batches of images, and says whose they are: made once in each worker, called for each batch.

    With Ray Data:

        images = ray.data.read_binary_files("found/", include_paths=True)
        rows = images.map_batches(BatchReader, fn_constructor_kwargs={"registry": "registry.csv"}, batch_size=1024,
                                  concurrency=8, num_gpus=1)
        rows.write_parquet("verdicts/")
    """

    def __init__(self, model: str | os.PathLike | Model = DEFAULT_MODEL,
                 registry: str | os.PathLike | Registry | None = None, *, false_positive_rate: float = 1e-6,
                 batch_size: int = 64, threads: int = 8, images: str = "bytes", names: str = "path",
                 search: str | None = None):
        """Loads the model and the registry.

        Args:
          model: its name or folder, which every worker reads, or a Model.
          registry: the users to compare with, a file that every worker reads, or a Registry; None to read the bits alone.
          false_positive_rate: of false attributions per image, over all users.
          batch_size: images per call of the compiled program, on each device; the rows do not depend on the engine's batches
            beyond the rounding of the last bits of the logits.
          threads: that decode files, beside the devices.
          images: the column with the images: the bytes of image files, or arrays uint8 [H, W, 3].
          names: the column with their names.
          search: where the picture is looked for in an image, see `fpgan.model.reading`; None for the model's own search.

        Raises:
          FpganError: model or registry cannot be read, there is no such search, or there can be no verdicts at this rate.
        """
        model = model if isinstance(model, Model) else load(model)
        if registry is not None and not isinstance(registry, Registry):
            registry = open_store(registry, n_bits=model.n_bits).registry()
        self.job = DecodeJob(model, registry, false_positive_rate, batch_size, threads,
                             search=search_of(model, search))
        self.images, self.names, self._verdicts = images, names, registry is not None
        self.job.meaning()  # refuses what can give no verdicts, before anything is read

    def __call__(self, batch: Mapping[str, np.ndarray]) -> pyarrow.Table:
        """Reads a batch.

        Args:
          batch: columns of equal length; those of the names and of the images are looked at.

        Returns:
          An Arrow table of the columns that `fpgan attribute --format parquet` writes (or `fpgan decode`, without a
          registry), a row for each image in the order of the batch; what cannot be read is a row with an error.

        Raises:
          FpganError: a column is missing, or pyarrow is.
        """
        missing = [repr(name) for name in (self.names, self.images) if name not in batch]
        if missing:
            raise FpganError(f"the batch has no column {' and no '.join(missing)}, but {shown(', '.join(batch))}; in "
                             "Ray Data, read_binary_files(..., include_paths=True) gives 'bytes' and 'path'; else name them "
                             "with images=... and names=...")
        rows = self.rows(zip(map(str, batch[self.names]), batch[self.images], strict=True))
        return arrow_table((row.columns(self._verdicts) for row in rows), column_types(self._verdicts))

    @property
    def schema(self) -> pyarrow.Schema:
        """The columns of the tables and their types."""
        return arrow_table((), column_types(self._verdicts)).schema

    def rows(self, images: Iterable[tuple[str, bytes | np.ndarray]]) -> Iterator[Row]:
        """Yields a Row for each name and image, in order; for engines that pass on one element at a time."""
        return self.job.rows_of((name, _content(image)) for name, image in images)


def _content(image) -> bytes | FpganError:
    """Returns an image as the bytes of a file, or why it is none."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        described = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        return FpganError(f"the image is {described}; expected the bytes of a file, or uint8 [H, W, 3]")
    return encode_png(image)
