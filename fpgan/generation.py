"""Sets of generated images on disk, with a manifest that says of each image whose instance made it.

A set is a folder: `settings.json` (what was asked for), the images (`USER/000000.png`, or array_record shards
of PNG records) and `manifest.jsonl`, one line per image, put there when the set is complete. Until then the
lines stand in `manifest.partial.jsonl`, appended once the images that they name are written, so that a killed
run goes on after the last whole line. Image i of a set is the same whenever, and in whatever pieces, it is
made.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fpgan.errors import FpganError
from fpgan.files import (
    folder_names,
    import_array_record,
    locked,
    reason,
    record_reader,
    replacing,
    write_file,
    writing,
)
from fpgan.fingerprint import as_bits
from fpgan.images import encode_png

FORMATS = ("png", "array_record")
SHARD_SIZE = 4096
SETTINGS, MANIFEST, PARTIAL = "settings.json", "manifest.jsonl", "manifest.partial.jsonl"
_LOCK = ".lock"
_BATCHES_PER_CHUNK = 4
_LINES_PER_CHECK = 1024


@dataclass(frozen=True, eq=False)
class SampleSet:
    """What to generate: `count` images for each of U instances, one instance after the other.

    Attributes:
      users: U user ids, None for an instance without one.
      bits: uint8 [U, n_bits], their fingerprints.
      count: images per instance.
      seed: image k of every instance has the latent seed (seed + k) mod 2^32.
      format: "png" or "array_record".
      model_hash: identifies the parameters.
      batch_size: images per call of the compiled program.
      shard_size: images per array_record file.
    """

    users: tuple[str | None, ...]
    bits: np.ndarray
    count: int
    seed: int
    format: str
    model_hash: str
    batch_size: int
    shard_size: int

    @property
    def total(self) -> int:
        """Number of images of the set."""
        return len(self.users) * self.count

    @functools.cached_property
    def names(self) -> list[str]:
        """Folder names of the instances, made of their labels."""
        return folder_names(self.labels())

    def labels(self) -> list[str]:
        """What the instances are called: the user id, else the fingerprint."""
        return [self.hex(instance) if user is None else user for instance, user in enumerate(self.users)]

    def hex(self, instance: int) -> str:
        """The fingerprint of an instance in hexadecimal digits."""
        return np.packbits(self.bits[instance]).tobytes().hex()[:-(-self.bits.shape[1] // 4)]

    def settings(self) -> dict:
        """All that decides the bytes of the set, as plain values."""
        who = json.dumps(self.users).encode() + np.packbits(self.bits, axis=1).tobytes()
        settings = {"model": self.model_hash, "users": len(self.users), "bits": self.bits.shape[1],
                    "users_sha256": hashlib.sha256(who).hexdigest(), "count": self.count, "seed": self.seed,
                    "format": self.format, "batch_size": self.batch_size}
        return settings | ({"shard_size": self.shard_size} if self.format == "array_record" else {})

    def file(self, i: int) -> str:
        """Path of the file with image i, relative to the folder."""
        if self.format == "array_record":
            shards = -(-self.total // self.shard_size)
            return f"images-{i // self.shard_size:05d}-of-{shards:05d}.array_record"
        return f"{self.names[i // self.count]}/{i % self.count:0{max(6, len(str(self.count - 1)))}d}.png"

    def line(self, i: int, sha256: str) -> bytes:
        """The manifest's line for image i, whose PNG bytes have this hash."""
        instance, k = divmod(i, self.count)
        record = {"record": i % self.shard_size} if self.format == "array_record" else {}
        entry = {"file": self.file(i)} | record | {
            "sha256": sha256, "user": self.users[instance], "fingerprint": self.hex(instance),
            "seed": (self.seed + k) % 2**32, "model": self.model_hash}
        return json.dumps(entry, ensure_ascii=False).encode() + b"\n"


@dataclass(frozen=True)
class Outcome:
    """What a run did.

    Attributes:
      total: images of the set.
      made: how many of them this run made; the others were there.
      manifest: path of the manifest.
    """

    total: int
    made: int
    manifest: Path


def generate_set(model, users: Sequence[str | None], fingerprints, folder: str | os.PathLike, *, count: int,
                 seed: int, batch_size: int = 16, format: str = "png", shard_size: int = SHARD_SIZE,
                 workers: int = 8, progress: Callable[[int, int], None] | None = None) -> Outcome:
    """Generates images of many instances of a model into a folder, going on where an earlier run ended.

    Args:
      model: a Model.
      users: U distinct user ids; None for a fingerprint without a user.
      fingerprints: U of them, in any form that `as_bits` takes.
      folder: a new or empty folder, or one that was used with the same arguments.
      count: images per instance.
      seed: image k of every instance has the latent seed (seed + k) mod 2^32.
      batch_size: images per call of the compiled program; equal bytes are promised for equal batch sizes.
      format: "png" for one file per image, "array_record" for shards of PNG records.
      shard_size: images per array_record file.
      workers: threads that encode and write while the device works on.
      progress: called with (images done, images in all).

    Raises:
      FpganError: the folder holds something else, another process works in it, an argument is out of range,
        or the format needs a package that is not installed; nothing is written then.
    """
    folder, users = Path(folder), tuple(users)
    bits = as_bits(fingerprints, model.n_bits)
    what = SampleSet(users, bits, count, seed, format, model.hash, batch_size, shard_size)
    _check(what)
    _refuse_foreign(folder)
    with locked(folder / _LOCK, wait=False), ThreadPoolExecutor(workers) as pool:
        _claim(folder, what.settings())
        done = _resume(folder, what, pool)
        if done < what.total or not (folder / MANIFEST).exists():
            _clear_temporaries(folder, what, done)
            chunks = _images(model, what, done)
            write = _write_pngs if format == "png" else _write_shards
            _record(folder, write(folder, what, chunks, pool), done, what.total, progress)
    return Outcome(what.total, what.total - done, folder / MANIFEST)


def _check(what: SampleSet) -> None:
    """Refuses arguments that make no set."""
    if len(what.users) != len(what.bits) or not len(what.users):
        raise FpganError(f"{len(what.users)} users and {len(what.bits)} fingerprints; expected as many of "
                         "each, at least one")
    label, often = Counter(what.labels()).most_common(1)[0]
    if often > 1:
        raise FpganError(f"{label!r} is given twice; expected distinct users and fingerprints")
    for name in ("count", "batch_size", "shard_size"):
        if getattr(what, name) < 1:
            raise FpganError(f"{name} is {getattr(what, name)}; expected at least 1")
    if not 0 <= what.seed < 2**32:
        raise FpganError(f"the seed is {what.seed}; expected a whole number from 0 to {2**32 - 1}")
    if what.format not in FORMATS:
        raise FpganError(f"there is no format {what.format!r}; expected one of {', '.join(FORMATS)}")
    if what.format == "array_record":
        import_array_record()


def _refuse_foreign(folder: Path) -> None:
    """Refuses a folder that holds files of somebody else."""
    try:
        if (folder / SETTINGS).exists() or not folder.exists():
            return
        foreign = [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise FpganError(f"{folder}: not a folder to write to ({reason(error)})") from error
    if foreign:
        raise FpganError(f"{folder} holds other files, {min(foreign)!r} for one; choose another folder")


def _claim(folder: Path, settings: dict) -> None:
    """Marks a folder as that of one set, or makes sure that it is already."""
    path = folder / SETTINGS
    if not path.exists():
        write_file(path, json.dumps(settings, indent=1).encode() + b"\n", sync=True)
        return
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise FpganError(f"{path}: cannot be read ({reason(error)}); choose another folder") from error
    if found == settings:
        return
    if not isinstance(found, dict):
        raise FpganError(f"{path} is not of fpgan generate; choose another folder")
    differing = [key for key in settings | found if settings.get(key) != found.get(key)]
    told = ["other users or fingerprints" if key == "users_sha256" else
            f"{key} {found.get(key)}, not {settings.get(key)}" for key in differing]
    raise FpganError(f"{folder} was begun with other arguments: {'; '.join(told)}. Choose another folder, or "
                     "give the same arguments to go on")


def _resume(folder: Path, what: SampleSet, pool: Executor) -> int:
    """Counts the leading images that are on disk as the manifest says; cuts the manifest after them."""
    partial, manifest = folder / PARTIAL, folder / MANIFEST
    source = partial if partial.exists() else manifest
    if not source.exists():
        return 0
    done, length = _verified(source, what, pool)
    if source == manifest and done < what.total:
        os.replace(manifest, partial)  # a set with missing or damaged files is not complete any more
    if partial.exists():
        os.truncate(partial, length)
    return done


def _verified(source: Path, what: SampleSet, pool: Executor) -> tuple[int, int]:
    """Returns how many leading lines are right, their images too, and the length of these lines in bytes."""
    contents = _png_contents if what.format == "png" else _shard_contents
    window = _LINES_PER_CHECK if what.format == "png" else what.shard_size
    done = length = 0
    with open(source, "rb") as lines:
        while done < what.total:
            images = range(done, min(done + window, what.total))
            found = [lines.readline() for _ in images]
            hashes = contents(source.parent, what, images, pool)
            right = [line == what.line(i, sha256)
                     for i, line, sha256 in zip(images, found, hashes, strict=True)]
            good = right.index(False) if False in right else len(right)
            if what.format == "array_record" and good < len(right):
                good = 0  # a shard is redone as a whole
            done += good
            length += sum(map(len, found[:good]))
            if good < len(right):
                break
    return done, length


def _png_contents(folder: Path, what: SampleSet, images: range, pool: Executor) -> list[str]:
    """Hashes the files of these images; "" for one that cannot be read."""
    def sha256(i):
        try:
            return hashlib.sha256((folder / what.file(i)).read_bytes()).hexdigest()
        except OSError:
            return ""
    return list(pool.map(sha256, images))


def _shard_contents(folder: Path, what: SampleSet, images: range, pool: Executor) -> list[str]:
    """Hashes the records of the shard with these images; "" when it cannot be read."""
    try:
        with record_reader(folder / what.file(images.start)) as reader:
            if reader.num_records() == len(images):
                return [hashlib.sha256(record).hexdigest() for record in reader.read_all()]
    except (FpganError, RuntimeError):  # missing or damaged: to be made again
        pass
    return [""] * len(images)


def _clear_temporaries(folder: Path, what: SampleSet, done: int) -> None:
    """Removes what a killed run was just writing: temporary files in the folders that were next."""
    ahead = range(done, min(done + 3 * _BATCHES_PER_CHUNK * what.batch_size, what.total))
    for place in {folder} | {(folder / what.file(i)).parent for i in ahead}:
        for temporary in place.glob(".*.tmp"):
            temporary.unlink(missing_ok=True)


def _images(model, what: SampleSet, done: int) -> Iterator[tuple[range, np.ndarray]]:
    """Generates the images from number `done` on.

    Batches begin where an uninterrupted run would begin them, so that every batch is made of the same images.

    Yields:
      The numbers of some images, and the images: uint8 [N, R, R, 3].
    """
    size = _BATCHES_PER_CHUNK * what.batch_size
    for start in range(done - done % what.batch_size, what.total, size):
        numbers = np.arange(start, min(start + size, what.total), dtype=np.int64)
        seeds = ((what.seed + numbers % what.count) % 2**32).astype(np.uint32)
        images = model.generate(what.bits[numbers // what.count], seeds, batch_size=what.batch_size)
        first = max(start, done)
        yield range(first, start + len(images)), images[first - start:]


def _write_pngs(folder: Path, what: SampleSet, chunks: Iterable, pool: Executor) -> Iterator[list[bytes]]:
    """Writes each image to its own file; yields the manifest's lines of those that are written."""
    def save(i, image):
        data = encode_png(image)
        write_file(folder / what.file(i), data)
        return what.line(i, hashlib.sha256(data).hexdigest())
    for _, lines in _in_threads(pool, save, chunks):
        yield lines


def _write_shards(folder: Path, what: SampleSet, chunks: Iterable, pool: Executor) -> Iterator[list[bytes]]:
    """Writes array_record files of PNG records; yields the manifest's lines of each file that is complete."""
    array_record = import_array_record()
    lines: list[bytes] = []
    with ExitStack() as stack:
        for numbers, records in _in_threads(pool, lambda _, image: encode_png(image), chunks):
            for i, record in zip(numbers, records, strict=True):
                if not lines:
                    temporary = stack.enter_context(replacing(folder / what.file(i)))
                    writer = array_record.ArrayRecordWriter(temporary.name, "group_size:1,uncompressed")
                writer.write(record)
                lines.append(what.line(i, hashlib.sha256(record).hexdigest()))
                if (i + 1) % what.shard_size == 0 or i + 1 == what.total:
                    writer.close()
                    stack.close()  # the shard takes its place
                    yield lines
                    lines = []


def _in_threads(pool: Executor, function: Callable, chunks: Iterable) -> Iterator[tuple[range, list]]:
    """Applies function(number, image) in threads to the images of a chunk while the next one is generated."""
    waiting: deque = deque()
    for numbers, images in chunks:
        waiting.append((numbers, [pool.submit(function, i, x) for i, x in zip(numbers, images, strict=True)]))
        if len(waiting) > 1:
            earlier, futures = waiting.popleft()
            yield earlier, [future.result() for future in futures]
    for earlier, futures in waiting:
        yield earlier, [future.result() for future in futures]


def _record(folder: Path, written: Iterator[list[bytes]], done: int, total: int, progress) -> None:
    """Appends the lines of written images to the partial manifest, which becomes the manifest at the end."""
    with writing(folder):
        journal = open(folder / PARTIAL, "ab")
    with journal:
        for lines in written:
            with writing(folder):
                journal.write(b"".join(lines))
                journal.flush()
            done += len(lines)
            if progress:
                progress(done, total)
        with writing(folder):
            os.fsync(journal.fileno())
    with writing(folder):
        os.replace(folder / PARTIAL, folder / MANIFEST)
