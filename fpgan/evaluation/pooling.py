"""Pooling: how many damaged images of one user make up for what each of them has lost.

A suspect is a user with several images of other latents, all damaged in the same way. Their logits are pooled into one
verdict; the report says which share of the suspects is attributed to the right user, by soft decisions and by hard bits of
the same pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fpgan.attribution.search import blocks
from fpgan.attribution.soft_decision import find_users, pool
from fpgan.errors import FpganError
from fpgan.evaluation.samples import random_packed
from fpgan.io.images import encode_png, read_image
from fpgan.perturbations.registry import apply

if TYPE_CHECKING:
    from fpgan.model.model import Model

COUNTS = (1, 2, 4, 8, 16)
DAMAGED = ("jpeg:50", "noise:16")  # beyond what one image survives
_SUSPECTS_AT_ONCE = 16


def pooling(model: Model, perturbations: Sequence[str] = DAMAGED, *, counts: Sequence[int] = COUNTS, suspects: int = 100,
            registry_size: int = 1_000_000, seed: int = 0, false_positive_rate: float = 1e-6,
            batch_size: int = 16) -> list[dict]:
    """Measures the share of suspects attributed to the right user, over numbers of pooled images.

    Args:
      model: a Model.
      perturbations: by name (fpgan.perturbations).
      counts: numbers of images per suspect; fewer images are the beginning of more.
      suspects: how many, each another user, all registered.
      registry_size: registered users, at least as many.
      seed: of registry, latents, and what perturbations draw.
      false_positive_rate: of a verdict, per suspect over all users.
      batch_size: images per call of the generator.

    Returns:
      A row for each perturbation and count: perturbation, images, suspects, users, attributed (to the right user), wrong (to
      anybody else), attributed_by_hard_bits, median_log10_p (of the best user, over all users).

    Raises:
      FpganError: senseless numbers.
    """
    if not counts or not perturbations or min(*counts, suspects) < 1 or suspects > registry_size:
        raise FpganError(f"{suspects} suspects of {list(counts)} images among {registry_size} users; expected numbers of at "
                         "least 1, and a registry that holds all suspects")
    rng = np.random.default_rng(seed)
    packed = random_packed(rng, registry_size, model.n_bits)
    latents = rng.choice(2**32, (suspects, max(counts)), replace=False).astype(np.uint32)
    bits = np.unpackbits(packed[:suspects], axis=1, count=model.n_bits)
    logits = _logits(model, perturbations, bits, latents, seed, batch_size)
    return [_row(packed, values[:, :count], false_positive_rate) | {"perturbation": name}
            for name, values in logits.items() for count in counts]


def lines(rows: Sequence[dict]) -> list[str]:
    """Lays out what `pooling` returned as lines of at most 100 columns."""
    table = [f"{'after':<20}{'images':>8}{'suspects':>10}{'users':>12}{'attributed':>12}{'(hard bits)':>13}{'wrong':>7}"
             f"{'median log10 p':>16}"]
    for row in rows:
        count = row["suspects"]
        table.append(f"{row['perturbation']:<20}{row['images']:>8}{count:>10}{row['users']:>12,}"
                     f"{row['attributed'] / count:>12.1%}{row['attributed_by_hard_bits'] / count:>13.1%}{row['wrong']:>7}"
                     f"{row['median_log10_p']:>16.1f}")
    return table


def _logits(model, perturbations: Sequence[str], bits: np.ndarray, latents: np.ndarray, seed: int,
            batch_size: int) -> dict[str, np.ndarray]:
    """Generates every suspect's images once, perturbs them in each way, and decodes: name -> [suspects, images, n]."""
    suspects, images = latents.shape
    logits = {name: np.empty((suspects, images, model.n_bits), np.float32) for name in perturbations}
    for part in blocks(suspects, _SUSPECTS_AT_ONCE):
        made = model.generate(np.repeat(bits[part], images, axis=0), latents[part].ravel(), batch_size=batch_size)
        for name in perturbations:
            saved = [encode_png(image) for image in apply(name, made, seed, part.start * images)]
            read = np.stack([read_image(image, model.resolution)[0] for image in saved])  # fitted as files are
            logits[name][part] = model.decode(read).reshape(-1, images, model.n_bits)
    return logits


def _row(packed: np.ndarray, logits: np.ndarray, rate: float) -> dict:
    """Counts verdicts over suspects, who are the first users: logits [suspects, images, n]."""
    pooled = np.concatenate([pool(one) for one in logits])  # [suspects, n]
    soft, hard = find_users(packed, pooled, rate), find_users(packed, pooled > 0, rate)
    right = [found.attributed > 0 and found.places[0] == i for i, found in enumerate(soft)]
    return {"images": logits.shape[1], "suspects": len(logits), "users": len(packed), "attributed": int(sum(right)),
            "wrong": sum(bool(np.any(found.places[:found.attributed] != i)) for i, found in enumerate(soft)),
            "attributed_by_hard_bits": sum(bool(found.attributed and found.places[0] == i) for i, found in enumerate(hard)),
            "median_log10_p": float(np.median([found.log10_p[0] for found in soft]))}
