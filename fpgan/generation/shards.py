"""Shards of a sample set that are being made: their journals, and how they become finished.

A journal holds an entry for each image that need not be made again. It is only ever appended to, by the one process that
holds it locked, and is read again when another process goes on. An entry that was cut off by a kill, or whose hash is
wrong, ends the journal; what follows is made again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fpgan.distributed.work import Claim
from fpgan.errors import FpganError
from fpgan.generation.manifest import SampleSet
from fpgan.io.files import remove_temporaries, replacing, write_file, writing
from fpgan.io.images import ENCODERS
from fpgan.io.records import import_array_record

_DIGEST = 32  # bytes of a SHA-256
_LENGTH = 4


class Shard:
    """A shard that this process is making: what all kinds have in common.

    Attributes:
      samples: the numbers of its images.
      next: the first image that is to be made; the ones before it are in the journal.
    """

    def __init__(self, folder: Path, what: SampleSet, number: int, claim: Claim):
        self.folder, self.what, self.number = folder, what, number
        self.samples = what.settings.samples(number)
        self._claim, self._journal = claim, claim.file
        self.next = self.samples.start + self._kept()
        if claim.taken_over:
            remove_temporaries(self._files_to_replace())

    def batches(self, at_once: int = 1) -> Iterator[range]:
        """Returns the batches that are to be made, so many at once; they begin where those of an uninterrupted run do."""
        size = self.what.settings.batch_size * at_once
        for start in range(self.next, self.samples.stop, size):
            yield range(start, min(start + size, self.samples.stop))

    def encode(self, first: int, images: np.ndarray) -> list[bytes]:
        """Encodes images uint8 [N, R, R, 3], the first of which has this number; returns their journal entries."""
        raise NotImplementedError

    def append(self, entries: list[bytes]) -> None:
        """Adds the entries of the next images to the journal."""
        data = memoryview(b"".join(entries))
        with writing(self._journal.name):
            while data:
                data = data[self._journal.write(data):]

    def finish(self) -> None:
        """Makes a finished shard of one whose images are all in the journal: its data, its manifest, and no journal."""
        digests = list(self._finished())
        lines = [self.what.line(i, digest) for i, digest in zip(self.samples, digests, strict=True)]
        write_file(self.folder / self.what.settings.manifest_file(self.number), b"".join(lines), sync=True, private=True)
        self._claim.remove()

    def release(self) -> None:
        """Lets go of a shard, finished or not."""
        self._claim.release()

    def _kept(self) -> int:
        """Counts the images in the journal that are kept, whole batches, and cuts off the rest."""
        batch, kept, length = self.what.settings.batch_size, 0, 0
        for count, (end, _, _) in enumerate(self._entries(), start=1):
            if count % batch == 0 or count == len(self.samples):
                kept, length = count, end
        with writing(self._journal.name):
            self._journal.truncate(length)
        return kept

    def _entries(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Yields of each good entry where it ends, the SHA-256 of the encoded image and, if it is there, the image."""
        raise NotImplementedError

    def _finished(self) -> Iterator[bytes]:
        """Puts the data in place, and yields the SHA-256 of each image."""
        raise NotImplementedError

    def _files_to_replace(self) -> list[Path]:
        """The files that a killed process may have been writing under temporary names."""
        return [self.folder / self.what.settings.manifest_file(self.number)]


class FileShard(Shard):
    """A shard of a file per image; an entry of its journal is the SHA-256 of a file that is whole.

    The files are written in place, without a temporary name: one that a kill cut off has no entry, and is written again.
    """

    def encode(self, first: int, images: np.ndarray) -> list[bytes]:
        """Encodes and writes images."""
        entries = []
        encoder = ENCODERS[self.what.settings.encoding]
        for i, data in enumerate(map(encoder, images), start=first):
            path = os.path.join(self.folder, self.what.image_file(i))
            with writing(path), _opened(path) as file:
                file.write(data)
            entries.append(hashlib.sha256(data).digest())
        return entries

    def _entries(self) -> Iterator[tuple[int, bytes, bytes]]:
        self._journal.seek(0)
        for i in self.samples:
            digest = self._journal.read(_DIGEST)
            if len(digest) < _DIGEST:
                return
            try:
                data = (self.folder / self.what.image_file(i)).read_bytes()
            except OSError:  # it is made again
                return
            if hashlib.sha256(data).digest() != digest:
                return
            yield self._journal.tell(), digest, b""

    def _finished(self) -> Iterator[bytes]:
        self._journal.seek(0)
        for _ in self.samples:
            yield self._journal.read(_DIGEST)


class RecordShard(Shard):
    """A shard in an array_record file; an entry of its journal is length, SHA-256 and bytes of an encoded image."""

    def encode(self, first: int, images: np.ndarray) -> list[bytes]:
        """Encodes images."""
        encoded = map(ENCODERS[self.what.settings.encoding], images)
        return [len(data).to_bytes(_LENGTH, "big") + hashlib.sha256(data).digest() + data for data in encoded]

    def _entries(self) -> Iterator[tuple[int, bytes, bytes]]:
        end, size = 0, os.fstat(self._journal.fileno()).st_size
        self._journal.seek(0)
        with os.fdopen(os.dup(self._journal.fileno()), "rb") as journal:
            for _ in self.samples:
                head = journal.read(_LENGTH + _DIGEST)
                length, digest = int.from_bytes(head[:_LENGTH], "big"), head[_LENGTH:]
                end += len(head) + length
                if len(digest) < _DIGEST or end > size:
                    return
                data = journal.read(length)
                if hashlib.sha256(data).digest() != digest:
                    return
                yield end, digest, data

    def _finished(self) -> Iterator[bytes]:
        path, count = self.folder / self.what.settings.record_file(self.number), 0
        with replacing(path, sync=True) as temporary:
            writer = import_array_record().ArrayRecordWriter(temporary.name, "group_size:1,uncompressed")
            for _, digest, data in self._entries():
                writer.write(data)
                yield digest
                count += 1
            writer.close()
            if count < len(self.samples):
                raise FpganError(f"{self._journal.name} was damaged while it was written; the same command goes on")

    def _files_to_replace(self) -> list[Path]:
        return [*super()._files_to_replace(), self.folder / self.what.settings.record_file(self.number)]


def _opened(path: str) -> BinaryIO:
    """Opens a file for writing; makes its folder if it is missing."""
    try:
        return open(path, "wb")
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return open(path, "wb")


KINDS = {"files": FileShard, "array_record": RecordShard}  # container -> class
