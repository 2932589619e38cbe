"""Images -> arrays: runs a model and sources of other images, and keeps what the measures need.

Images pass through in chunks; only decoder outputs, features and a few hundred images stay in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fpgan.attribution.registry import Registry
from fpgan.errors import FpganError
from fpgan.evaluation.features import Extractor
from fpgan.io.images import to_uint8
from fpgan.perturbations.registry import apply
from fpgan.perturbations.suites import SAVED

if TYPE_CHECKING:
    from fpgan.data.sources import ImageSource
    from fpgan.model.model import Model

MOST_PAIRS = 500  # images kept for consistency and for diversity
_CHUNK = 256  # images in memory at a time
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Attributes:
      count: images of the model, and real images.
      seed: of fingerprints, latents, the registry and the choice of real images; a whole number from 0.
      features: name of the features of the two distances, see features.py.
      n_users: registered users, among them those of the model's images.
      false_positive_rate: that one image of nobody is attributed to any of them.
      batch_size: images per call of the generator.
      search: where the picture is looked for in an image, see `fpgan.model.reading`.
    """

    count: int = 1000
    seed: int = 0
    features: str = "pixels"
    n_users: int = 1_000_000
    false_positive_rate: float = 1e-6
    batch_size: int = 16
    search: str = "none"


class Draws(NamedTuple):
    """All that is random, drawn from one seed.

    Attributes:
      registry: n_users users with distinct streams of uniformly random bits.
      owners: int64 [count], the place in the registry of each image's user.
      bits: uint8 [count, n], the fingerprint of each image.
      other_bits: uint8 [pairs, n], a second fingerprint for the first images.
      innocent_bits: uint8 [count, n], one fresh fingerprint for each image that is not the model's.
      seeds: uint32 [count], distinct latents.
    """

    registry: Registry
    owners: np.ndarray
    bits: np.ndarray
    other_bits: np.ndarray
    innocent_bits: np.ndarray
    seeds: np.ndarray


class Generated(NamedTuple):
    """What was read from the model's images.

    Attributes:
      logits: by what was done to the images before ("float": nothing, or one of SAVED), float32 [count, n].
      features: float32 [count, F].
      images: uint8 [pairs, R, R, 3], the first images.
      refingerprinted: the same latents with other fingerprints.
      one_instance: the same latents with one fingerprint.
    """

    logits: dict[str, np.ndarray]
    features: np.ndarray
    images: np.ndarray
    refingerprinted: np.ndarray
    one_instance: np.ndarray


class Negatives(NamedTuple):
    """What was read from images that the model did not make.

    Attributes:
      name: of the source.
      logits: float32 [N, n].
      features: float32 [N, F]; None if they were not wanted.
      images: uint8 [at most MOST_PAIRS, R, R, 3], the first images.
    """

    name: str
    logits: np.ndarray
    features: np.ndarray | None
    images: np.ndarray


def draw(settings: Settings, n_bits: int) -> Draws:
    """Draws registry, fingerprints and latents; each has a stream of its own."""
    streams = np.random.default_rng(settings.seed).spawn(4)
    registered = random_packed(streams[0], settings.n_users, n_bits)
    registry = Registry(tuple(map(str, range(settings.n_users))), registered, n_bits)
    owners = np.arange(settings.count) % settings.n_users
    pairs = min(settings.count, MOST_PAIRS)
    return Draws(
        registry=registry,
        owners=owners,
        bits=np.unpackbits(registered[owners], axis=1, count=n_bits),
        other_bits=streams[1].integers(0, 2, (pairs, n_bits), dtype=np.uint8),
        innocent_bits=streams[2].integers(0, 2, (settings.count, n_bits), dtype=np.uint8),
        seeds=streams[3].choice(2**32, settings.count, replace=False).astype(np.uint32),
    )


def measure_generated(model: Model, draws: Draws, settings: Settings, extractor: Extractor, progress: Progress) -> Generated:
    """Generates the model's images, saves each in every way, and reads them.

    Raises:
      FpganError: the model gives values that are not finite.
    """
    count, pairs = settings.count, len(draws.other_bits)
    logits = {name: np.empty((count, model.n_bits), np.float32) for name in ("float", *SAVED)}
    features = np.empty((count, extractor.size), np.float32)
    kept = np.empty((pairs, model.resolution, model.resolution, 3), np.uint8)
    for part in _chunks(count):
        floats = model.generate_float(draws.bits[part], draws.seeds[part], batch_size=settings.batch_size)
        if not np.isfinite(floats).all():
            raise FpganError(f"the model {model.name} makes images with NaN or infinity; its training failed")
        images = to_uint8(floats)
        logits["float"][part] = _read(model, floats, settings)
        for name in SAVED:
            logits[name][part] = _read(model, apply(name, images, settings.seed, part.start), settings)
        features[part] = extractor.extract(images)
        if part.start < pairs:
            kept[part] = images[:pairs - part.start]
        progress("images of the model", part.stop, count)
    again = [model.generate(bits, draws.seeds[:pairs], batch_size=settings.batch_size)
             for bits in (draws.other_bits, draws.bits[0])]
    return Generated(logits, features, kept, *again)


def measure_negatives(model: Model, source: ImageSource, settings: Settings, extractor: Extractor | None,
                      progress: Progress) -> Negatives:
    """Reads a random choice of a source's images: `count` of them, or all if there are fewer."""
    rng = np.random.default_rng([settings.seed, 1])
    count = min(settings.count, len(source))
    chosen = np.sort(rng.choice(len(source), count, replace=False))
    logits = np.empty((count, model.n_bits), np.float32)
    features, kept = [], []
    for part in _chunks(count):
        images = source.read(chosen[part])
        logits[part] = _read(model, images, settings)
        if extractor:
            features.append(extractor.extract(images))
        if part.start < MOST_PAIRS:
            kept.append(images[:MOST_PAIRS - part.start])
        progress(f"images of {source.name}", part.stop, count)
    return Negatives(source.name, logits, np.concatenate(features) if extractor else None, np.concatenate(kept))


def _read(model, images: np.ndarray, settings: Settings) -> np.ndarray:
    """Reads images as they are, or where the search finds the picture: float32 [N, n]."""
    return model.decode(images) if settings.search == "none" else model.read(images, settings.search).logits


def random_packed(rng: np.random.Generator, count: int, n_bits: int) -> np.ndarray:
    """Draws uniform fingerprints as uint8 [count, ceil(n / 8)], the unused bits zero."""
    packed = rng.integers(0, 256, (count, -(-n_bits // 8)), dtype=np.uint8)
    packed[:, -1] &= 0xFF << (-n_bits % 8) & 0xFF
    return packed


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK))
