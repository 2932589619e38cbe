"""Robustness: how much of the fingerprint is still read from a model's images after each perturbation.

A row for each perturbation, written as a JSON line as soon as it is measured: the same call again goes on after the last.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fpgan.attribution.statistics import threshold
from fpgan.errors import FpganError
from fpgan.evaluation import metrics
from fpgan.io.files import write_file
from fpgan.io.images import encode_png, read_image, read_whole
from fpgan.io.inputs import read_json_lines
from fpgan.model.reading import search_of
from fpgan.perturbations.registry import apply, expand

if TYPE_CHECKING:
    from fpgan.model.model import Model

Progress = Callable[[str, int, int], None]
_CHUNK = 256  # images in memory at a time, beside the unperturbed ones
_STREAM = 4  # of random numbers, apart from those of `samples.draw`
_SHARES = ("hard", "soft")


@dataclass(frozen=True)
class Trial:
    """What is tried, beside the perturbations.

    Attributes:
      count: images, each with a fingerprint and a latent of its own.
      seed: of fingerprints, latents and what perturbations draw; a whole number from 0.
      n_users: registered users, among whom an image is to be attributed.
      false_positive_rate: that one image of nobody is attributed to any of them.
      search: where the picture is looked for in an image, see `fpgan.model.reading`; None for the model's own.
    """

    count: int = 1000
    seed: int = 0
    n_users: int = 1_000_000
    false_positive_rate: float = 1e-6
    search: str | None = "none"


class Sample(NamedTuple):
    """Images of a model as they leave it.

    Attributes:
      images: uint8 [count, R, R, 3].
      bits: uint8 [count, n], the fingerprint of each.
    """

    images: np.ndarray
    bits: np.ndarray


def draw_sample(model: Model, trial: Trial, batch_size: int = 16) -> Sample:
    """Generates images, each with a fingerprint and a latent of its own.

    Args:
      model: a fpgan.Model, or anything with its n_bits and its generate.
      trial: `count` and `seed` of it.
      batch_size: images per call of the generator.
    """
    rng = np.random.default_rng([trial.seed, _STREAM])
    bits = rng.integers(0, 2, (trial.count, model.n_bits), np.uint8)
    seeds = rng.choice(2**32, trial.count, replace=False).astype(np.uint32)
    return Sample(model.generate(bits, seeds, batch_size=batch_size), bits)


def measure(model: Model, specs: Sequence[str], sample: Sample, trial: Trial,
            progress: Progress = lambda part, done, total: None) -> Iterator[dict]:
    """Perturbs images, reads them, and compares with what was put in.

    Args:
      model: a fpgan.Model, or anything with its attributes and its decode.
      specs: perturbations in their one spelling (`registry.expand`).
      sample: the images and their fingerprints (`draw_sample`).
      trial: what the rows record.
      progress: called as progress(perturbation, images done, images in all).

    Yields:
      For each perturbation a plain dict: "perturbation", "model" (its name and hash), the fields of the trial,
      "bit_accuracy", "hard" and "soft" (the share of images attributed to their own user by the number of matching bits, and
      by soft decisions; None if so few bits cannot suffice), all with their 95% intervals, and "seconds".
    """
    for spec in specs:
        started = time.monotonic()
        logits = np.concatenate(list(_read(model, spec, sample.images, trial, progress)))
        yield _key(model, spec, trial) | {
            "bit_accuracy": metrics.mean(metrics.bit_accuracy(logits, sample.bits))._asdict(),
            **{name: _share(attributed) for name, attributed in _attributed(logits, sample.bits, trial).items()},
            "seconds": round(time.monotonic() - started, 2),
        }


def measure_named(model_name: str, names: Iterable[str], trial: Trial, *, out: str | os.PathLike | None = None,
                  batch_size: int = 16, progress: Progress = lambda part, done, total: None) -> list[dict]:
    """Loads a model and measures it: `fpgan evaluate --perturbations`.

    Args:
      model_name: a shipped model's name, or a model directory.
      names: perturbations and suites.
      trial: how many images, and so on.
      out: a file of JSON lines, whole after each row. Rows that it holds already, of this model and this trial, are not
        measured again; others stay.
      batch_size: images per call of the generator.
      progress: as in `measure`.

    Returns:
      A row for each perturbation, in their order.

    Raises:
      FpganError: an unknown perturbation, fewer than 2 images, or an `out` that holds something else.
    """
    from fpgan.model import load

    if trial.count < 2 or trial.seed < 0:
        raise FpganError(f"{trial.count} images and seed {trial.seed}; expected 2, and 0, or more")
    specs = expand(names)
    model = load(model_name)
    trial = replace(trial, search=search_of(model, trial.search))
    written = [] if out is None else read_rows(out)
    known = {json.dumps(_key_of(row)): row for row in written}
    missing = [spec for spec in specs if json.dumps(_key(model, spec, trial)) not in known]
    if missing:
        sample = draw_sample(model, trial, batch_size)
        for row in measure(model, missing, sample, trial, progress):
            written.append(row)
            known[json.dumps(_key_of(row))] = row
            if out is not None:
                write_file(out, "".join(json.dumps(one) + "\n" for one in written).encode())
    return [known[json.dumps(_key(model, spec, trial))] for spec in specs]


def read_rows(path: str | os.PathLike) -> list[dict]:
    """Reads rows that were written before; none if there is no such file.

    Raises:
      FpganError: a line is no row.
    """
    return read_json_lines(path, _key_of, "no row of fpgan evaluate --perturbations; choose another file")


def markdown(rows: Sequence[dict]) -> str:
    """Lays out rows as a Markdown table: a line for each perturbation, intervals of 95% in brackets."""
    shares = [name for name in _SHARES if any(name in row for row in rows)]
    head = ["perturbation", "bit accuracy (95%)", *(f"attributed, {name} (95%)" for name in shares)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [f"`{row['perturbation']}`", _interval(row["bit_accuracy"], 4)]
        cells += [_interval(row.get(name), 3) for name in shares]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _read(model, spec: str, images: np.ndarray, trial: Trial, progress: Progress) -> Iterator[np.ndarray]:
    """Decodes perturbed images, part by part: float32 [part, n]. Other sizes are fitted as when files are read."""
    for start in range(0, len(images), _CHUNK):
        perturbed = apply(spec, images[start:start + _CHUNK], trial.seed, start)
        yield _logits(model, [encode_png(one) for one in perturbed], trial.search)
        progress(spec, min(start + _CHUNK, len(images)), len(images))


def _logits(model, encoded: list[bytes], search: str) -> np.ndarray:
    """Decodes images from files: float32 [N, n]."""
    if search == "none":
        return model.decode(np.stack([read_image(one, model.resolution)[0] for one in encoded]))
    images, wholes = zip(*(read_whole(one, model.resolution) for one in encoded), strict=True)
    return model.read(np.stack(images), search, wholes=wholes).logits


def _attributed(logits: np.ndarray, bits: np.ndarray, trial: Trial) -> dict[str, np.ndarray | None]:
    """Tells for each image whether it is attributed to its own user, bool [N], by each kind of decision."""
    try:
        needed = threshold(bits.shape[1], trial.false_positive_rate, trial.n_users)
    except FpganError:
        if 0 < trial.false_positive_rate <= 1 and trial.n_users > 0:
            return dict.fromkeys(_SHARES)
        raise
    return {"hard": ((logits > 0) == (bits > 0)).sum(axis=1) >= needed,
            "soft": metrics.attributed_softly(logits, bits, trial.false_positive_rate, trial.n_users)}


def _share(attributed: np.ndarray | None) -> dict | None:
    return None if attributed is None else metrics.share(int(attributed.sum()), len(attributed))._asdict()


def _key(model, spec: str, trial: Trial) -> dict:
    aligner = (model.info.get("aligner") or {}).get("hash") if trial.search != "none" else None
    name = f"{model.name} {model.hash}" + (f", aligner {aligner}" if aligner else "")
    return {"perturbation": spec, "model": name, **asdict(trial)}


def _key_of(row: dict) -> dict:
    row = {"search": "none"} | row  # rows of older versions do not tell
    return {name: row[name] for name in ("perturbation", "model", *Trial.__dataclass_fields__)}


def _interval(estimate: dict | None, digits: int) -> str:
    if estimate is None:
        return "-"
    value, low, high = (f"{estimate[name]:.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} ({low}-{high})"
