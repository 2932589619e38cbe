"""Attacks by people who mean it: copying a fingerprint, taking one off, changing the weights; at what cost to the picture.

All are by the literature: copying by averages of residuals (Kutter et al. 2000; Yang et al. 2024), subtraction of one's own,
pruning and quantising a network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fpgan.errors import FpganError
from fpgan.evaluation import metrics
from fpgan.evaluation.paper.blocks import Block, Table, Text, accuracy, interval, percent
from fpgan.evaluation.paper.sources import real_images
from fpgan.evaluation.paper.study import Study
from fpgan.io.images import to_uint8

COUNTS = (1, 10, 100)  # images of a victim
_VICTIMS, _TESTED = 25, 8  # and images that each fingerprint is put on, at most
_CROWD = 10  # instances whose mean stands for no fingerprint
WEIGHTS = ("quantise:8", "quantise:6", "quantise:5", "quantise:4", "prune:0.1", "prune:0.3", "prune:0.5", "noise:0.01",
           "noise:0.03", "noise:0.1")


def binding(study: Study) -> list[Block]:
    """Measures framing with 1, 10 and 100 images of a victim, subtraction, transplants to real images, changed weights."""
    rows = []
    for place, count in enumerate(COUNTS):
        found = study.measured("binding", f"framing, {count}", lambda count=count: {"rows": _framing(study, count)},
                               data=study.plan.data, data_options=study.plan.data_options)
        rows += found["rows"]
        study.progress("binding", place + 1, len(COUNTS) + 1)
    removal = study.measured("binding", "subtraction", lambda: _subtraction(study))
    study.progress("binding", len(COUNTS) + 1, len(COUNTS) + 1)
    trial = study.plan.trial
    head = ["attack", "images of the victim", "bits of the victim", "attributed to the victim", "PSNR, dB"]
    victims, tested = _size(study)
    return [
        Text(f"{victims} victims, {tested} pictures each. Attributed: to one of {trial.n_users:,} users at "
             f"{trial.false_positive_rate:g}, by soft decisions. PSNR: what the attack does to the picture. A p-value "
             "speaks of instances, not of people: who holds images of a victim may imitate the fingerprint, as these rows "
             "show."),
        Table("Framing: a victim's fingerprint is estimated from images of theirs and put on another picture", head,
              [_framing_row(row) for row in rows]),
        Table("Taking off one's own: the mean difference to ten other instances is subtracted",
              ["images of each instance", "own bits left", "still attributed", "PSNR, dB"],
              [[str(row["images"]), interval(row["bits"], 1), percent(row["attributed"]), interval(row["psnr_db"], 1)]
               for row in removal["rows"]]),
        *_weights(study)]


def _framing_row(row: dict) -> list[str]:
    return [row["attack"], str(row["images"]), interval(row["bits"], 1), percent(row["attributed"]),
            interval(row["psnr_db"], 1)]


def _framing(study: Study, count: int) -> list[dict]:
    """Puts fingerprints of victims, estimated from `count` images of each, on images of the attacker and on real ones."""
    victims, tested = _size(study)
    own = study.bits(1, 70)
    bits = study.bits(victims, 71)
    latents = study.latents(count * 2 + tested, 72)
    known, unknown, others = latents[:count], latents[count:2 * count], latents[2 * count:]
    mine, canvas = study.generate(own, known).astype(np.float32), study.generate(own, others)
    mine_fine = _fine(study.generate(own, study.latents(max(COUNTS), 73)).astype(np.float32)).mean(axis=0)
    photos = _photos(study, tested)
    tries: dict[str, list] = {}
    for one in bits:
        same = (study.generate(one[None], known) - mine).mean(axis=0)  # [R, R, 3]
        guessed = _fine(study.generate(one[None], unknown).astype(np.float32)).mean(axis=0) - mine_fine
        tries.setdefault("own image, same latents known", []).append(_put(canvas, same))
        tries.setdefault("own image, latents unknown", []).append(_put(canvas, guessed))
        if photos is not None:
            tries.setdefault("real image, same latents known", []).append(_put(photos, same))
            tries.setdefault("real image, that three times", []).append(_put(photos, 3 * same))
    return [_measured(study, name, count, np.stack(images), bits, photos if name.startswith("real") else canvas)
            for name, images in tries.items()]


def _subtraction(study: Study) -> dict:
    """Subtracts the mean difference between one's instance and a crowd of others from one's own images."""
    victims, tested = _size(study)
    bits, crowd, rows = study.bits(victims, 74), study.bits(_CROWD, 75), []
    latents = study.latents(max(COUNTS) + tested, 74)
    for count in COUNTS:
        known, others = latents[:count], latents[max(COUNTS):]
        mean = np.mean([study.generate(one[None], known).astype(np.float32) for one in crowd], axis=0)  # [count, R, R, 3]
        cleaned, before = [], []
        for one in bits:
            before.append(study.generate(one[None], others))
            residual = (study.generate(one[None], known) - mean).mean(axis=0)
            cleaned.append(_put(before[-1], -residual))
        rows.append(_measured(study, "subtraction", count, np.stack(cleaned), bits, np.stack(before)))
    return {"rows": rows}


def _measured(study: Study, attack: str, count: int, images: np.ndarray, bits: np.ndarray, before: np.ndarray) -> dict:
    """Reads images [victims, tested, R, R, 3] and compares with the victims' bits and with the pictures before."""
    victims, tested = images.shape[:2]
    flat, wanted = images.reshape(-1, *images.shape[2:]), np.repeat(bits, tested, axis=0)
    before = np.broadcast_to(before, images.shape).reshape(flat.shape)
    logits = study.model.decode(flat)
    return {"attack": attack, "images": count, "attributed": _attributed(study, logits, wanted),
            "bits": metrics.mean(((logits > 0) == (wanted > 0)).sum(axis=1))._asdict(),
            "psnr_db": metrics.mean(metrics.psnr(flat, before))._asdict()}


def _attributed(study: Study, logits: np.ndarray, bits: np.ndarray) -> dict:
    trial = study.plan.trial
    found = metrics.attributed_softly(logits, bits, trial.false_positive_rate, trial.n_users)
    return metrics.share(int(found.sum()), len(found))._asdict()


def _weights(study: Study) -> list[Block]:
    """Quantises, prunes and disturbs the weights of the generator."""
    if not hasattr(study.model, "params"):
        return [Text("Changed weights: not measured, this model has none", "skipped")]
    rows = []
    for place, change in enumerate(WEIGHTS):
        found = study.measured("binding", change, lambda change=change: _with_changed_weights(study, change))
        kind, amount = change.split(":")
        text = {"quantise": f"weights in {amount} bits", "prune": f"{float(amount):.0%} smallest weights set to 0",
                "noise": f"noise of {float(amount):.0%} of each tensor's spread"}[kind]
        rows.append([text, accuracy(found["bit_accuracy"]), percent(found["attributed"]), interval(found["psnr_db"], 1)])
        study.progress("changed weights", place + 1, len(WEIGHTS))
    return [Table("Changing the generator's weights; PSNR to its own images before", ["change", "bit accuracy", "attributed",
                                                                                    "PSNR, dB"], rows)]


def _with_changed_weights(study: Study, change: str) -> dict:
    from fpgan.model.model import Model

    victims, tested = _size(study)
    count = victims * tested
    bits, seeds = study.bits(count, 76), study.latents(count, 76)
    changed = change_weights(study.model.params["generator"], change, study.rng(77))
    model = Model(study.model.config, study.model.params | {"generator": changed}, study.model.info, study.model.hash)
    images = study.generate(bits, seeds, model)
    logits = study.model.decode(images)
    return {"bit_accuracy": metrics.mean(metrics.bit_accuracy(logits, bits))._asdict(),
            "attributed": _attributed(study, logits, bits),
            "psnr_db": metrics.mean(metrics.psnr(images, study.generate(bits, seeds)))._asdict()}


def change_weights(params: dict, change: str, rng: np.random.Generator) -> dict:
    """Changes every tensor of a nested dict of arrays.

    Args:
      params: the weights; tensors of one dimension and less stay as they are.
      change: "quantise:BITS" (even levels from the least to the largest weight), "prune:SHARE" (the smallest ones become
        0), or "noise:SHARE" (Gaussian, as a share of the tensor's standard deviation).
      rng: of the noise.

    Raises:
      FpganError: another change.
    """
    kind, _, amount = change.partition(":")
    changes: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "quantise": lambda w: _quantised(w, int(amount)),
        "prune": lambda w: np.where(np.abs(w) < np.quantile(np.abs(w), float(amount)), 0, w),
        "noise": lambda w: w + rng.normal(0, float(amount) * w.std(), w.shape)}
    if kind not in changes:
        raise FpganError(f"there is no change {change!r} of weights; expected quantise:8, prune:0.1 or noise:0.01")
    return {name: change_weights(value, change, rng) if isinstance(value, dict) else
            changes[kind](np.asarray(value)).astype(np.float32) if np.ndim(value) > 1 else value
            for name, value in params.items()}


def _quantised(weights: np.ndarray, bits: int) -> np.ndarray:
    low, high = weights.min(), weights.max()
    step = (high - low) / (2**bits - 1)
    return low + np.rint((weights - low) / step) * step if step > 0 else weights


def _fine(images: np.ndarray) -> np.ndarray:
    """What a blur by 3 x 3 takes away: [N, R, R, 3] -> [N, R, R, 3]."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    side = images.shape[1]
    return images - sum(padded[:, i:i + side, j:j + side] for i in range(3) for j in range(3)) / 9


def _put(canvas: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """Adds a residual in grey levels to 8-bit images."""
    return to_uint8((canvas + residual - 127.5) / 127.5)


def _photos(study: Study, count: int) -> np.ndarray | None:
    try:
        return real_images(study, count)[0]
    except FpganError:
        return None


def _size(study: Study) -> Sequence[int]:
    """How many victims, and images for each: fewer where the plan has few images."""
    return max(1, min(_VICTIMS, study.plan.trial.count // _TESTED)), _TESTED
