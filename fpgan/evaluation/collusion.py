"""Collusion: what is left of the fingerprints when several users mix their instances' images into one.

The colluders generate the same latent, each from their own instance, and mix the pictures. The report counts how often the
verdict names at least one of them and nobody else, which is what a provider can act on, and how often anybody innocent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fpgan.attribution.search import blocks
from fpgan.attribution.soft_decision import Found, find_users
from fpgan.errors import FpganError
from fpgan.evaluation.samples import random_packed

if TYPE_CHECKING:
    from fpgan.model.model import Model

_MIXES_AT_ONCE = 64
_PATCHES = 4  # a side


def mean(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Computes the mean of the colluders' pictures, uint8 [K, H, W, C] -> uint8 [H, W, C], rounded."""
    return np.rint(images.mean(axis=0)).astype(np.uint8)


def pixels(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Takes each pixel from one of the colluders' pictures at random, uint8 [K, H, W, C] -> uint8 [H, W, C]."""
    owner = rng.integers(0, len(images), images.shape[1:3])  # [H, W]
    return np.take_along_axis(images, owner[None, :, :, None], axis=0)[0]


def patches(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Takes each of 4 x 4 patches from one of the pictures at random, uint8 [K, H, W, C] -> uint8 [H, W, C]."""
    height, width = images.shape[1:3]
    owner = rng.integers(0, len(images), (_PATCHES, _PATCHES))
    rows, columns = (np.arange(side) * _PATCHES // side for side in (height, width))
    return np.take_along_axis(images, owner[rows[:, None], columns][None, :, :, None], axis=0)[0]


MIXES: Mapping[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "mean": mean, "pixels": pixels, "patches": patches}


def collusion(model: Model, *, colluders: Sequence[int] = (2, 3, 5, 10), registry_sizes: Sequence[int] = (1_000, 1_000_000),
              mixes: Sequence[str] = tuple(MIXES), trials: int = 200, seed: int = 0, false_positive_rate: float = 1e-6,
              batch_size: int = 16) -> list[dict]:
    """Measures whom the verdict names when K users mix their images.

    Args:
      model: a Model.
      colluders: values of K.
      registry_sizes: numbers of registered users, at least max(colluders) each; smaller registries are the beginning of the
        largest one, and everybody who colludes is in the smallest.
      mixes: some of MIXES.
      trials: mixed pictures for each K and mix, each of other users and another latent.
      seed: of registry, users, latents and mixes.
      false_positive_rate: of the verdicts, per picture over all users.
      batch_size: images per call of the generator.

    Returns:
      A row for each mix, K and registry size: mix, colluders, users, trials, caught (pictures for which at least one
      colluder and nobody innocent is named), accused (pictures for which anybody innocent is named), named (mean number of
      colluders named), first (pictures whose best user is a colluder, named or not), caught_by_hard_bits (as caught, by
      numbers of matching bits).

    Raises:
      FpganError: senseless numbers, or an unknown mix.
    """
    _check(colluders, registry_sizes, mixes, trials)
    streams = np.random.default_rng(seed).spawn(3)
    packed = random_packed(streams[0], max(registry_sizes), model.n_bits)
    places = np.stack([streams[1].choice(min(registry_sizes), max(colluders), replace=False) for _ in range(trials)])
    latents = streams[1].choice(2**32, trials, replace=False).astype(np.uint32)
    logits = _mixed_logits(model, packed[places], latents, colluders, mixes, streams[2], batch_size)
    return [_row(packed[:users], values, places[:, :k], false_positive_rate, mix)
            for (mix, k), values in logits.items() for users in registry_sizes]


def lines(rows: Sequence[dict]) -> list[str]:
    """Lays out what `collusion` returned as lines of at most 100 columns."""
    table = [f"{'mix':<9}{'K':>3}{'users':>12}{'pictures':>9}{'caught':>8}{'(hard bits)':>13}{'innocent named':>16}"
             f"{'colluders named':>16}{'best is one':>13}"]
    for row in rows:
        count = row["trials"]
        table.append(f"{row['mix']:<9}{row['colluders']:>3}{row['users']:>12,}{count:>9}{row['caught'] / count:>8.1%}"
                     f"{row['caught_by_hard_bits'] / count:>13.1%}{row['accused']:>16}{row['named']:>16.2f}"
                     f"{row['first'] / count:>13.1%}")
    return table


def _mixed_logits(model, packed: np.ndarray, latents: np.ndarray, colluders: Sequence[int], mixes: Sequence[str],
                  rng: np.random.Generator, batch_size: int) -> dict[tuple[str, int], np.ndarray]:
    """Generates each trial's pictures once, mixes the first K of them, and decodes: (mix, K) -> float32 [trials, n]."""
    most = packed.shape[1]
    logits = {(mix, k): np.empty((len(packed), model.n_bits), np.float32) for mix in mixes for k in colluders}
    for part in blocks(len(packed), _MIXES_AT_ONCE):
        bits = np.unpackbits(packed[part].reshape(-1, packed.shape[2]), axis=1, count=model.n_bits)  # [trials K, n]
        images = model.generate(bits, np.repeat(latents[part], most), batch_size=batch_size)
        images = images.reshape(-1, most, *images.shape[1:])  # [trials, K, H, W, C]
        for mix, k in logits:
            mixed = np.stack([MIXES[mix](one[:k], rng) for one in images])
            logits[mix, k][part] = model.decode(mixed)
    return logits


def _row(packed: np.ndarray, logits: np.ndarray, places: np.ndarray, rate: float, mix: str) -> dict:
    """Counts verdicts over the mixed pictures of K users: logits [trials, n], places [trials, K]."""
    found, guilty = find_users(packed, logits, rate), [set(row) for row in places.tolist()]
    by_soft, by_hard = _named(found), _named(find_users(packed, logits > 0, rate))
    return {"mix": mix, "colluders": places.shape[1], "users": len(packed), "trials": len(logits),
            "caught": _caught(by_soft, guilty),
            "accused": sum(not named <= those for named, those in zip(by_soft, guilty, strict=True)),
            "named": sum(len(named & those) for named, those in zip(by_soft, guilty, strict=True)) / len(logits),
            "first": sum(int(one.places[0]) in those for one, those in zip(found, guilty, strict=True)),
            "caught_by_hard_bits": _caught(by_hard, guilty)}


def _named(found: Sequence[Found]) -> list[set[int]]:
    return [set(one.places[:one.attributed].tolist()) for one in found]


def _caught(named: Sequence[set[int]], guilty: Sequence[set[int]]) -> int:
    """Counts the pictures for which somebody is named, and colluders alone."""
    return sum(bool(who) and who <= those for who, those in zip(named, guilty, strict=True))


def _check(colluders: Sequence[int], registry_sizes: Sequence[int], mixes: Sequence[str], trials: int) -> None:
    unknown = [mix for mix in mixes if mix not in MIXES]
    if unknown or not mixes:
        raise FpganError(f"there is no mix {', '.join(unknown)!r}; expected some of {', '.join(MIXES)}")
    if not colluders or not registry_sizes or trials < 1 or min(colluders) < 1 or max(colluders) > min(registry_sizes):
        raise FpganError(f"{list(colluders)} colluders among {list(registry_sizes)} users in {trials} trials; expected "
                         "numbers of at least 1, and registries that hold them all")
