"""What a set of generated images is, and how it lies on disk; generate.py makes one, verify.py checks it.

A set is a folder:

    settings.json                          what was asked for, and so which bytes there are to be
    manifest/00003-of-00010.jsonl          of each image of a shard a line; it appears when the shard is finished
    alice/000000.png ...                   the images: a folder for each user,
    images-00003-of-00010.array_record     or a file of encoded images for each shard

Image i of a set is that of instance i // per_user with the latent seed (seed + i % per_user) mod 2^32; shard s has the
images from s * shard_size on. While a shard is being made, manifest/.00003-of-00010.journal says how far it is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fpgan.attribution.registry import Registry, check_user
from fpgan.distributed.work import shard_name
from fpgan.errors import FpganError
from fpgan.fingerprint import Fingerprint
from fpgan.io.images import ENCODERS
from fpgan.io.inputs import Field, check_fields, read_json
from fpgan.io.records import import_array_record

if TYPE_CHECKING:
    from _hashlib import HASH

    from fpgan.model.model import Model

CONTAINERS = ("files", "array_record")
ENCODINGS = tuple(ENCODERS)
SETTINGS, MANIFEST = "settings.json", "manifest"
SHARD_SIZE = 4096
_FORMAT = 1
MAX_SHARDS = 10**6
_DIGEST = Field(str, 64, 64)
_SCHEMA = {
    "model": Field(str, 1, 64), "bits": Field(int, 8, 512), "users": Field(int, 1, 2**40), "users_sha256": _DIGEST,
    "fingerprints_sha256": _DIGEST, "per_user": Field(int, 1, 2**40), "seed": Field(int, 0, 2**32 - 1),
    "container": Field(str, choices=CONTAINERS), "encoding": Field(str, choices=ENCODINGS),
    "batch_size": Field(int, 1, 2**31), "shard_size": Field(int, 1, 2**40),
}
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d|settings|manifest)(\.|$)", re.IGNORECASE)
_CAPITAL = re.compile("[A-Z]")
_MAX_NAME = 120


@dataclass(frozen=True)
class Settings:
    """All that decides the bytes of a set: the content of settings.json.

    Attributes:
      model: hash of the model's parameters.
      bits: length of a fingerprint.
      users: number of model instances.
      users_sha256: of their names, see `names_digest`.
      fingerprints_sha256: of their fingerprints as packed bytes, one after the other.
      per_user: images of each instance.
      seed: latent seed of each instance's first image.
      container: "files" or "array_record".
      encoding: "png" or "webp" (lossless).
      batch_size: images per call of the compiled program; every shard begins with a batch of its own.
      shard_size: images per shard; the last one may have fewer.
    """

    model: str
    bits: int
    users: int
    users_sha256: str
    fingerprints_sha256: str
    per_user: int
    seed: int
    container: str
    encoding: str
    batch_size: int
    shard_size: int

    @property
    def total(self) -> int:
        """Number of images."""
        return self.users * self.per_user

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.total // self.shard_size)

    def samples(self, shard: int) -> range:
        """Returns the numbers of a shard's images."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.total))

    def manifest_file(self, shard: int) -> str:
        """Returns the path of a shard's manifest, relative to the folder."""
        return f"{MANIFEST}/{shard_name(shard, self.shards)}.jsonl"

    def journal_file(self, shard: int) -> str:
        """Returns the path of the journal of a shard that is being made."""
        return f"{MANIFEST}/.{shard_name(shard, self.shards)}.journal"

    def record_file(self, shard: int) -> str:
        """Returns the path of the array_record file of a shard."""
        return f"images-{shard_name(shard, self.shards)}.array_record"

    def image_file(self, i: int, label: str) -> str:
        """Returns the path of the file with image i, whose instance is called `label`."""
        width = max(6, len(str(self.per_user - 1)))
        return f"{folder_name(label)}/{i % self.per_user:0{width}d}.{self.encoding}"

    def line(self, i: int, user: str | None, fingerprint: str, sha256: str) -> bytes:
        """Returns the manifest's line for image i.

        Args:
          i: number of the image.
          user: id of its user, or None.
          fingerprint: hexadecimal digits.
          sha256: of the encoded image, hexadecimal digits.
        """
        if self.container == "array_record":
            where = {"file": self.record_file(i // self.shard_size), "record": i % self.shard_size}
        else:
            where = {"file": self.image_file(i, fingerprint if user is None else user)}
        entry = where | {"sha256": sha256, "user": user, "fingerprint": fingerprint,
                         "seed": (self.seed + i % self.per_user) % 2**32, "model": self.model}
        return json.dumps(entry, ensure_ascii=False).encode() + b"\n"

    def to_dict(self) -> dict:
        """Returns the content of settings.json."""
        return {"fpgan_sample_set": _FORMAT} | dataclasses.asdict(self)


@dataclass(frozen=True, eq=False)
class SampleSet:
    """A set that somebody asks for.

    Attributes:
      settings: what decides its bytes.
      registry: the instances; the user of a bare fingerprint is None.
    """

    settings: Settings
    registry: Registry

    def inputs(self, numbers: range) -> tuple[np.ndarray, np.ndarray]:
        """Returns the bits uint8 [N, n_bits] and the seeds uint32 [N] of some images; here fingerprints are unpacked."""
        i = np.arange(numbers.start, numbers.stop, dtype=np.int64)
        bits = self.registry.unpacked(i // self.settings.per_user)  # [N, n]
        return bits, ((self.settings.seed + i % self.settings.per_user) % 2**32).astype(np.uint32)

    def image_file(self, i: int) -> str:
        """Returns the path of the file with image i."""
        return self.settings.image_file(i, label(self.registry, i // self.settings.per_user))

    def line(self, i: int, digest: bytes) -> bytes:
        """Returns the manifest's line for image i, whose encoded bytes have this SHA-256."""
        instance = i // self.settings.per_user
        return self.settings.line(i, self.registry.users[instance], self.registry.at(instance).hex, digest.hex())


def label(registry: Registry, instance: int) -> str:
    """Returns what an instance is called: its user, else its fingerprint."""
    user = registry.users[instance]
    return registry.at(instance).hex if user is None else user


def sample_set(model: Model, registry: Registry, *, per_user: int, seed: int, container: str = "files",
               encoding: str = "png", batch_size: int = 16, shard_size: int = SHARD_SIZE) -> SampleSet:
    """Describes a set, see `Settings` for the arguments.

    Raises:
      FpganError: an argument is out of range, or container or encoding need a package that is not installed.
    """
    check_arguments(per_user, seed, container, encoding, batch_size, shard_size)
    if registry.n_bits != model.n_bits:
        raise FpganError(f"the fingerprints have {registry.n_bits} bits, but the model reads {model.n_bits}; give "
                         "fingerprints that were issued for it")
    if not len(registry):
        raise FpganError("there are no instances to make images of; expected at least one user")
    prints = hashlib.sha256(np.ascontiguousarray(registry.packed)).hexdigest()
    settings = Settings(model.hash, model.n_bits, len(registry), names_digest(registry.users).hexdigest(), prints, per_user,
                        seed, container, encoding, batch_size, shard_size)
    labels: set[str] = set()
    for instance, user in enumerate(registry.users):
        name = label(registry, instance) if user is None else check_user(user)
        if name in labels:
            raise FpganError(f"{name!r} is given twice; expected distinct users and fingerprints")
        labels.add(name)
    _check_shards(settings.shards)
    return SampleSet(settings, registry)


def _check_shards(shards: int, where: str = "") -> None:
    if shards > MAX_SHARDS:
        raise FpganError(f"{where}the set has {shards:,} shards; expected {MAX_SHARDS:,} at most: raise --shard-size")


def names_digest(users: Sequence[str | None], digest: HASH | None = None):
    """Goes on with (or begins) the SHA-256 of user ids: a line each, empty for an instance without one."""
    digest = digest or hashlib.sha256()
    digest.update("".join(f"{user or ''}\n" for user in users).encode("utf-8", "surrogatepass"))
    return digest


def read_settings(folder: str | os.PathLike) -> Settings:
    """Reads what a folder's set is; FpganError if it holds none, or one of another fpgan."""
    path = Path(folder) / SETTINGS
    found = read_json(path, "; expected a folder that fpgan generate made")
    if found.pop("fpgan_sample_set", None) != _FORMAT:
        raise FpganError(f"{path} is not of this fpgan's generate; choose another folder")
    check_fields(found, _SCHEMA, f"{path}", "; choose another folder")
    settings = Settings(**found)
    _check_shards(settings.shards, f"{path}: ")
    return settings


def read_manifest(folder: str | os.PathLike) -> Iterator[dict]:
    """Yields the manifest's lines of all finished shards, in order, as {"file", "sha256", "user", ...}."""
    settings = read_settings(folder)
    for shard in sorted(finished_shards(folder, settings)):
        with open(Path(folder) / settings.manifest_file(shard), "rb") as lines:
            yield from map(json.loads, lines)


class ManifestError(FpganError):
    """A line of a manifest that is not that of its image."""


def manifest_entry(settings: Settings, i: int, line: bytes, before: dict | None = None) -> dict:
    """Reads the manifest's line for image i.

    Args:
      settings: of the set.
      i: number of the image.
      line: its line, with the end of line.
      before: the entry before it, where that is known.

    Returns:
      {"file", "sha256", "user", "fingerprint", ...}, checked.

    Raises:
      ManifestError: it is no line of a manifest, that of another image, or of another instance than the one before.
    """
    try:
        entry = json.loads(line)
        if entry["user"] is not None:
            check_user(entry["user"])
        bytes.fromhex(entry["sha256"])
        fingerprint = Fingerprint.from_hex(entry["fingerprint"], settings.bits).hex
        expected = settings.line(i, entry["user"], fingerprint, entry["sha256"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, FpganError) as error:
        raise ManifestError("no line of a manifest") from error
    if line != expected:
        raise ManifestError(f"not the line for image {i} of this set")
    if i % settings.per_user and of_other_instances(before, entry):
        raise ManifestError("another user or fingerprint than in the line before")
    return entry


def of_other_instances(before: dict | None, entry: dict | None) -> bool:
    """Returns whether two entries are known and of different instances."""
    return None not in (before, entry) and any(before[key] != entry[key] for key in ("user", "fingerprint"))


def finished_shards(folder: str | os.PathLike, settings: Settings) -> set[int]:
    """Returns the shards that have a manifest, and, if their images are in one file, this file."""
    places = [(MANIFEST, settings.manifest_file)]
    if settings.container == "array_record":
        places.append((".", settings.record_file))
    finished = set(range(settings.shards))
    for place, name in places:
        try:
            there = set(os.listdir(Path(folder) / place))
        except FileNotFoundError:
            return set()
        finished = {shard for shard in finished if os.path.basename(name(shard)) in there}
    return finished


def check_arguments(per_user: int, seed: int, container: str, encoding: str, batch_size: int, shard_size: int) -> None:
    """Refuses arguments that make no set, see `Settings`.

    Raises:
      FpganError: one is out of range, or container or encoding need a package that is not installed.
    """
    for name, value in (("per_user", per_user), ("batch_size", batch_size), ("shard_size", shard_size)):
        if value < 1:
            raise FpganError(f"{name} is {value}; expected at least 1")
    if not 0 <= seed < 2**32:
        raise FpganError(f"the seed is {seed}; expected a whole number from 0 to {2**32 - 1}")
    for name, value, choices in (("container", container, CONTAINERS), ("encoding", encoding, ENCODINGS)):
        if value not in choices:
            raise FpganError(f"there is no {name} {value!r}; expected one of {', '.join(choices)}")
    ENCODERS[encoding](np.zeros((1, 1, 3), np.uint8))  # raises what it lacks
    if container == "array_record":
        import_array_record()


def folder_name(label: str) -> str:
    """Makes a name that every file system takes.

    Different labels have different names, also where case does not count. What is not a letter of ASCII, a digit or
    one of `_.-` is percent-encoded; a label that is long or has capital letters gets `~` and a piece of its hash; a
    name that a system or a sample set reserves gets its first letter encoded.

    Args:
      label: any text but the empty one.
    """
    name = urllib.parse.quote(label, safe="").replace("~", "%7E")
    if name[0] == "." or _RESERVED.match(name):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if name[-1] == ".":
        name = name[:-1] + "%2E"
    if len(name) <= _MAX_NAME and not _CAPITAL.search(label):
        return name
    return f"{name[:_MAX_NAME - 17]}~{hashlib.sha256(label.encode()).hexdigest()[:16]}"
