"""From image files to rows: which fingerprint an image carries, how sure the decoder is, and whose it is.

Files are read in threads a few batches ahead of the decoder, and rows leave in the order of the files, so a
folder of any size needs little memory. A file that cannot be read becomes a row that says why; the others are
done.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from fpgan.attribution.registry import Registry
from fpgan.attribution.verdict import attribute
from fpgan.errors import FpganError
from fpgan.files import record_reader
from fpgan.images import EXTENSIONS, iter_images, read_image
from fpgan.rows import Row

RECORDS = ".array_record"
_BATCHES_AHEAD = 4
_ROWS_AT_ONCE = 256


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


def decode_files(model, paths: Iterable[str | os.PathLike], *, batch_size: int = 64,
                 workers: int = 8) -> Iterator[Row]:
    """Reads the fingerprints in image files.

    Args:
      model: a Model.
      paths: files, folders, globs and array_record files of encoded images (as `fpgan.images.iter_images`
        takes them).
      batch_size: images per call of the compiled program.
      workers: threads that read files.

    Yields:
      A Row per image, in order.

    Raises:
      FpganError: a path that does not exist or holds no images. Images and folders below it that cannot be
        read are rows, not errors.
    """
    return decode_sources(model, image_sources(paths), batch_size=batch_size, workers=workers)


def decode_sources(model, sources: Iterable[Source], *, batch_size: int = 64, workers: int = 8) -> Iterator[Row]:
    """As `decode_files`, of images that `image_sources` has found."""
    if batch_size < 1:
        raise FpganError(f"the batch size is {batch_size}; expected at least 1")
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[str, Future]] = deque()
        contents = _contents(sources)
        first = True
        while True:
            for name, content in contents:
                waiting.append((name, pool.submit(_read, content, model.resolution)))
                if len(waiting) >= _BATCHES_AHEAD * batch_size:
                    break
            if not waiting:
                return
            group = [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]
            if first:  # few images need no large batch
                batch_size = min(batch_size, 1 << (len(group) - 1).bit_length())
                first = False
            yield from _decoded(model, group, batch_size)


def attribute_rows(rows: Iterable[Row], registry: Registry, false_positive_rate: float = 1e-6,
                   evenness_threshold: float | None = None) -> Iterator[Row]:
    """Adds to each row the verdict of `fpgan.attribution.attribute`; rows that could not be read get none."""
    rows = iter(rows)
    while group := list(itertools.islice(rows, _ROWS_AT_ONCE)):
        known = [row for row in group if row.logits is not None]
        logits = np.reshape([row.logits for row in known], (len(known), registry.n_bits))  # [K, n]
        verdicts = iter(attribute(logits, registry, false_positive_rate, evenness_threshold))
        for row in group:
            yield row if row.logits is None else replace(row, verdict=next(verdicts))


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


def _contents(sources: Iterable[Source]) -> Iterator[tuple[str, str | bytes | FpganError]]:
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


def _read(source: str | bytes | FpganError, resolution: int) -> tuple[np.ndarray | None, bool, str | None]:
    """Returns the image, whether it was resized, and what went wrong; in a thread."""
    try:
        if isinstance(source, FpganError):
            raise source
        return *read_image(source, resolution), None
    except FpganError as error:
        return None, False, str(error)


def _decoded(model, group: list[tuple[str, Future]], batch_size: int) -> Iterator[Row]:
    """Decodes one group of images, which may hold unreadable ones."""
    results = [(name, *future.result()) for name, future in group]
    images = [image for _, image, _, _ in results if image is not None]
    logits = iter(model.decode(np.stack(images), batch_size=batch_size) if images else ())
    for name, image, resized, error in results:
        yield Row(name, None if image is None else next(logits), resized, error)
