"""From image files to rows: which fingerprint an image carries, how sure the decoder is, and whose it is.

A `DecodeJob` is the whole of it: `run` passes a row for each image to sinks, such as a table on the terminal, a file of
rows, or each part of a folder of them (`fpgan.decoding.shards`). Files are read in threads a few batches ahead of the
decoder, and rows leave in the order of the files, so a folder of any size needs little memory. A file that cannot be read
becomes a row that says why; the others are done.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fpgan.attribution.registry import Registry
from fpgan.attribution.verdict import attribute, explain
from fpgan.decoding.pooling import pool_rows, suspects_by
from fpgan.decoding.rows import Counts, Row, write_rows
from fpgan.distributed.devices import local_devices
from fpgan.errors import FpganError, reason
from fpgan.io.images import read_image, read_whole
from fpgan.io.inputs import read_bytes
from fpgan.io.listing import MAX_MEMBER, Source, contents_of, image_sources
from fpgan.model.programs import check_batch_size, fitting_batch
from fpgan.model.reading import search_of, searched, threshold_for

if TYPE_CHECKING:
    from fpgan.model.model import Model

_BATCHES_AHEAD = 4
_BYTES_AHEAD = 1 << 26  # of encoded images from records
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class DecodeJob:
    """What is asked about images, and how to read them.

    Attributes:
      model: the Model that decodes them.
      registry: the users to compare with; None if only the bits are asked for.
      false_positive_rate: see `fpgan.attribution.attribute`.
      batch_size: images per call of the compiled program, on each of this process's devices.
      workers: threads that read files.
      hashed: whether rows say what they were read from, by SHA-256; files are in memory whole then, some at a time.
      pool: if the images of a suspect are to have one verdict, by what they belong together, see
        `fpgan.decoding.pooling.suspects_by`.
      search: where the picture is looked for in an image, see `fpgan.model.reading`; None for the model's own search.
    """

    model: object
    registry: Registry | None = None
    false_positive_rate: float = 1e-6
    batch_size: int = 64
    workers: int = 8
    pool: str | None = None
    search: str | None = None
    hashed: bool = False

    @property
    def evenness_threshold(self) -> float | None:
        """The model's own for this search; None where there is none, and for pools, for which it is not calibrated."""
        return threshold_for(self.model, self.search) if self.pool is None else None

    def rows(self, sources: Iterable[Source]) -> Iterator[Row]:
        """Yields what is known about each image that `image_sources` has found, in order; or about each pool of them."""
        return self.rows_of(contents_of(sources))

    def rows_of(self, contents: Iterable[tuple[str, str | bytes | FpganError]]) -> Iterator[Row]:
        """Yields rows as `rows` does, of images as they come: names with paths, with the bytes of image files, or with
        errors.
        """
        rows = decode_contents(self.model, contents, batch_size=self.batch_size, workers=self.workers, search=self.search,
                               hashed=self.hashed)
        if self.pool is not None:
            rows = pool_rows(rows, suspects_by(self.pool))
        if self.registry is None:
            return rows
        return attribute_rows(rows, self.registry, self.false_positive_rate, self.evenness_threshold)

    def run(self, sources: Iterable[Source], sinks: Iterable[Callable[[Row], None]] = ()) -> Counts:
        """Passes a row for each image to each sink, and counts."""
        return write_rows(self.rows(sources), *sinks)

    def meaning(self) -> str | None:
        """Says in a few lines what the verdicts mean; None without a registry.

        Raises:
          FpganError: there can be none: no users, or a rate that no match reaches.
        """
        if self.registry is None:
            return None
        return explain(self.registry, self.false_positive_rate, self.evenness_threshold, searched(self.model, self.search))

    def settings(self) -> dict:
        """Returns all of it that decides the rows, as plain values."""
        settings, search = {"model": self.model.hash, "batch_size": self.batch_size}, search_of(self.model, self.search)
        if search != "none":
            settings |= {"search": search, "aligner": (self.model.info.get("aligner") or {}).get("hash")}
        if self.registry is None:
            return settings
        digest = hashlib.sha256()
        for place, user in enumerate(self.registry.users):  # which may be millions in a file
            digest.update((f"\n{user or ''}" if place else user or "").encode())
        digest.update(b"\0" + self.registry.packed.tobytes())
        if self.registry.revoked:
            digest.update(repr(sorted(self.registry.revoked.items())).encode())
        return settings | {"users": len(self.registry), "registry_sha256": digest.hexdigest(),
                           "false_positive_rate": self.false_positive_rate,
                           "evenness_threshold": self.evenness_threshold}


def decode_files(model: Model, paths: Iterable[str | os.PathLike], *, batch_size: int = 64, workers: int = 8,
                 search: str | None = None) -> Iterator[Row]:
    """Reads the fingerprints in image files.

    Args:
      model: a Model.
      paths: files, folders, globs and array_record files of encoded images (as `fpgan.io.listing.iter_images`
        takes them).
      batch_size: images per call of the compiled program, on each of this process's devices.
      workers: threads that read files.
      search: where the picture is looked for in an image, see `DecodeJob`.

    Yields:
      A Row per image, in order.

    Raises:
      FpganError: a path that does not exist or holds no images. Images and folders below it that cannot be
        read are rows, not errors.
    """
    return decode_sources(model, image_sources(paths), batch_size=batch_size, workers=workers, search=search)


def decode_sources(model: Model, sources: Iterable[Source], *, batch_size: int = 64, workers: int = 8,
                   search: str | None = None, hashed: bool = False) -> Iterator[Row]:
    """Decodes as `decode_files` does, of images that `image_sources` has found; `hashed` as in DecodeJob."""
    return decode_contents(model, contents_of(sources), batch_size=batch_size, workers=workers, search=search, hashed=hashed)


def decode_contents(model: Model, contents: Iterable[tuple[str, str | bytes | FpganError]], *, batch_size: int = 64,
                    workers: int = 8, search: str | None = None, hashed: bool = False) -> Iterator[Row]:
    """Decodes as `decode_sources` does, of images as they come: names with paths, with the bytes of image files, or with
    errors.
    """
    search = search_of(model, search)
    check_batch_size(batch_size, model.resolution)
    devices = len(local_devices())
    with _reading_threads(workers) as pool:
        waiting: deque[tuple[str, Future]] = deque()
        contents, first = iter(contents), True
        while True:
            encoded = 0  # bytes of records that are in memory
            for name, content in contents:
                waiting.append((name, pool.submit(_read, content, model.resolution, search != "none", hashed)))
                encoded += len(content) if isinstance(content, bytes) else 0
                if len(waiting) >= _BATCHES_AHEAD * batch_size * devices or encoded >= _BYTES_AHEAD:
                    break
            if not waiting:
                return
            group = [waiting.popleft() for _ in range(min(batch_size * devices, len(waiting)))]  # a batch for each device
            if first:  # few images need no large batch; later ones get the same program
                batch_size, first = fitting_batch(batch_size, len(group)), False
            yield from _decoded(model, group, batch_size, search)


@contextlib.contextmanager
def _reading_threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that read files; on an error or Ctrl-C nothing is read that has not been begun."""
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def attribute_rows(rows: Iterable[Row], registry: Registry, false_positive_rate: float = 1e-6,
                   evenness_threshold: float | None = None) -> Iterator[Row]:
    """Adds to each row the verdict of `fpgan.attribution.attribute`; rows that could not be read get none."""
    rows = iter(rows)
    while group := list(itertools.islice(rows, _ROWS_AT_ONCE)):
        known = [row for row in group if row.logits is not None]
        logits = np.reshape([row.logits for row in known], (len(known), registry.n_bits))  # [K, n]
        verdicts = iter(attribute(logits, registry, false_positive_rate, evenness_threshold))
        for row in group:
            yield row if row.logits is None else replace(row, verdict=replace(next(verdicts), undone=row.undone))


class _Read(NamedTuple):
    """An image from a file: fitted to the model, all of it where that is wanted, and what else its row says of it."""

    image: np.ndarray | None
    whole: np.ndarray | None
    known: dict


def _read(source: str | bytes | FpganError, resolution: int, is_searched: bool, hashed: bool) -> _Read:
    """Reads an image, in a thread."""
    try:
        if isinstance(source, FpganError):
            raise source
        content, whole = _whole(source) if hashed else source, None
        if is_searched:
            image, whole = read_whole(content, resolution)
            resized = whole is not None
        else:
            image, resized = read_image(content, resolution)
        hashes = {"sha256": _sha256(content), "pixels_sha256": _sha256(image)} if hashed else {}
        return _Read(image, whole, {"resized": resized} | hashes)
    except FpganError as error:
        return _Read(None, None, {"error": str(error)})


def _whole(source: str | bytes) -> bytes:
    """Returns the bytes of an encoded image, so that what is hashed is what is decoded."""
    try:
        return source if isinstance(source, bytes) else read_bytes(source, MAX_MEMBER)
    except OSError as error:
        raise FpganError(f"{source}: cannot be read ({reason(error)})") from error


def _sha256(content: bytes | np.ndarray) -> str:
    return hashlib.sha256(content if isinstance(content, bytes) else content.tobytes()).hexdigest()


def _decoded(model, group: list[tuple[str, Future]], batch_size: int, search: str) -> Iterator[Row]:
    """Decodes one group of images, which may hold unreadable ones."""
    results = [(name, future.result()) for name, future in group]
    logits = iter(_logits(model, [read for _, read in results if read.image is not None], batch_size, search))
    for name, read in results:
        values, undone, pose = (None, "", None) if read.image is None else next(logits)
        yield Row(name, values, undone=undone, pose=pose, **read.known)


def _logits(model, reads: list[_Read], batch_size: int,
            search: str) -> Iterable[tuple[np.ndarray, str, np.ndarray | None]]:
    """Decodes images: the logits of each, what was undone, and where the search found the picture."""
    if not reads:
        return ()
    images = np.stack([read.image for read in reads])
    if search == "none":  # all that some models can do
        return ((logits, "", None) for logits in model.decode(images, batch_size=batch_size, exact=True))
    reading = model.read(images, search, wholes=[read.whole for read in reads], batch_size=batch_size,
                         exact=True)
    return zip(reading.logits, reading.alignment.undone, reading.alignment.poses, strict=True)
