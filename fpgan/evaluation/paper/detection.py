"""Deepfake detection and attribution, in a closed and an open world, beside a classifier that is trained on images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from fpgan.attribution.search import scores
from fpgan.attribution.soft_decision import decisions, find_users, log10_p_value, tail
from fpgan.attribution.verdict import evenness
from fpgan.errors import FpganError
from fpgan.evaluation.metrics import share
from fpgan.evaluation.paper.blocks import Block, Charts, Table, Text, percent
from fpgan.evaluation.paper.charts import Panel, Series, line_chart
from fpgan.evaluation.paper.classifier import train_classifier
from fpgan.evaluation.paper.sources import other_images, real_images, twin_images
from fpgan.evaluation.paper.study import Study, identity
from fpgan.evaluation.samples import random_packed
from fpgan.io.images import encode_png, read_image
from fpgan.perturbations.registry import apply, expand

ENROLLED, SAMPLED = 1_000, 100  # users
CONDITIONS = ("png", "jpeg:82", "jpeg:55", "noise:5", "blur:0.8", "resize:0.6", "crop:0.95")
FOREIGN = ("robohash_monsters", "robohash_heads")  # with cats as real images
_RATES = np.arange(-30, 0)  # log10 of false-positive rates of the curve
_TAILS = np.arange(-6, 0)  # log10 of p-values that are counted


def detection(study: Study) -> list[Block]:
    """Measures detection and attribution before and after perturbations, of ours, of real and of foreign images."""
    world = _World(study)
    conditions = expand(study.plan.perturbations or CONDITIONS)
    ours = [_part(study, world, "ours", condition) for condition in conditions]
    real = [_part(study, world, "real", condition) for condition in conditions]
    rivals = [study.measured("detection", f"classifier, {part}", make, **_settings(study, conditions=conditions))
              for part, make in (("real or ours", lambda: _rival_detection(world, conditions)),
                                 ("users", lambda: _rival_attribution(world, conditions)))]
    blocks: list[Block] = [
        Text(f"{ENROLLED:,} users are enrolled, {SAMPLED} of them make the images. One counts as fake, and as a user's, if "
             f"the verdict names somebody at a rate of {study.plan.trial.false_positive_rate:g} over all of them. The "
             "classifiers see half of the images in training, as they are, and are tested on the others. The one for users "
             "has to be trained anew for each further user, the decoder does not."),
        _closed(conditions, ours, real, rivals), _roc(conditions, ours), *_open(study, world)]
    return [*blocks, _calibration(study, world)]


class _World:
    """The images of each kind, made when they are needed, and the registry."""

    def __init__(self, study: Study):
        self.study, self.count = study, study.plan.trial.count
        self.packed = random_packed(study.rng(60), ENROLLED, study.model.n_bits)
        self.owners = np.arange(self.count) % SAMPLED

    @cached_property
    def ours(self) -> np.ndarray:
        bits = np.unpackbits(self.packed[self.owners], axis=1, count=self.study.model.n_bits)
        return self.study.generate(bits, self.study.latents(self.count, 60))

    @cached_property
    def real(self) -> np.ndarray:
        return real_images(self.study, self.count)[0]

    def images(self, kind: str) -> np.ndarray:
        """Returns uint8 [N, R, R, 3]: "ours", "real", or one of the kinds of the open world."""
        study = self.study
        if kind in ("ours", "real"):
            return getattr(self, kind)
        if kind == "ours, not enrolled":
            return study.generate(study.bits(self.count, 61), study.latents(self.count, 61))
        if kind == "without fingerprint":
            return twin_images(study, self.count, 62)[0]
        return other_images(study, kind, self.count)

    def perturbed(self, kind: str, condition: str) -> np.ndarray:
        """The images of a kind after a perturbation, at the model's size."""
        made = apply(condition, self.images(kind), self.study.plan.trial.seed)
        return np.stack([read_image(encode_png(one), self.study.model.resolution)[0] for one in made])


def _settings(study: Study, **more) -> dict:
    return {"data": study.plan.data, "data_options": study.plan.data_options, **more}


def _part(study: Study, world: _World, kind: str, condition: str) -> dict:
    def make() -> dict:
        logits = study.model.decode(world.perturbed(kind, condition))
        return _verdicts(study, world, logits, world.owners if kind == "ours" else None)

    twin = {"twin": identity(study.twin)} if study.twin and kind == "without fingerprint" else {}
    found = study.measured("detection", f"{kind}, {condition}", make, **_settings(study, **twin))
    study.progress(f"detection, {kind}", 1, 1)
    return found


def _verdicts(study: Study, world: _World, logits: np.ndarray, owners: np.ndarray | None) -> dict:
    """Counts verdicts: images, named, right, even; for our own also the share found at each of _RATES."""
    found = find_users(world.packed, logits, study.plan.trial.false_positive_rate)
    threshold = study.model.info.get("evenness_threshold") if hasattr(study.model, "info") else None
    counts = {"images": len(logits), "named": sum(one.attributed > 0 for one in found),
              "even": None if threshold is None else int((evenness(logits) >= threshold).sum())}
    if owners is not None:
        best = np.array([one.places[0] for one in found]) == owners
        log10_p = np.array([one.log10_p[0] for one in found])
        named = np.array([one.attributed > 0 for one in found])
        counts |= {"right": int((best & named).sum()),
                   "roc": [int((best & (log10_p <= rate)).sum()) for rate in _RATES]}
    return counts


def _rival_detection(world: _World, conditions: Sequence[str]) -> dict:
    """Trains a classifier on half of the real and of our images, and tests it on the rest."""
    half = world.count // 2
    images = np.concatenate([world.real[:half], world.ours[:half]])
    rival = train_classifier(images, np.repeat([0, 1], half), 2, seed=world.study.plan.trial.seed,
                             progress=_shown(world.study, "classifier, real or ours"))
    right = []
    for condition in conditions:
        says = [rival.scores(world.perturbed(kind, condition)[half:]).argmax(axis=1) for kind in ("real", "ours")]
        right.append({"real_right": int((says[0] == 0).sum()), "ours_right": int((says[1] == 1).sum()),
                      "each": len(says[0])})
    return {"conditions": right, "trained_on": 2 * half}


def _rival_attribution(world: _World, conditions: Sequence[str]) -> dict:
    """Trains a classifier of the sampled users on half of our images, and tests it on the rest."""
    half = max(SAMPLED, world.count // 2) if world.count > SAMPLED else world.count // 2
    rival = train_classifier(world.ours[:half], world.owners[:half], SAMPLED, epochs=40, seed=world.study.plan.trial.seed,
                             progress=_shown(world.study, "classifier, users"))
    right = []
    for condition in conditions:
        says = rival.scores(world.perturbed("ours", condition)[half:]).argmax(axis=1)
        right.append({"right": int((says == world.owners[half:]).sum()), "images": len(says)})
    return {"conditions": right, "trained_on": half}


def _shown(study: Study, name: str) -> Callable[[int, int], None]:
    return lambda done, total: study.progress(name, done, total)


def _closed(conditions: Sequence[str], ours: Sequence[dict], real: Sequence[dict], rivals: Sequence[dict]) -> Table:
    rows = []
    for condition, own, others, says, names in zip(conditions, ours, real, *(rival["conditions"] for rival in rivals),
                                                   strict=True):
        right = own["named"] + others["images"] - others["named"]
        rows.append([f"`{condition}`", percent(share(right, own["images"] + others["images"])),
                     percent(share(own["right"], own["images"])), str(own["named"] - own["right"]),
                     f"{others['named']} of {others['images']:,}",
                     percent(share(says["real_right"] + says["ours_right"], 2 * says["each"])),
                     percent(share(says["each"] - says["real_right"], says["each"])),
                     percent(share(names["right"], names["images"]))])
    head = ["after", "real or ours", "right user", "wrong user", "real ones named", "classifier: real or ours",
            "classifier: real ones called fake", f"classifier: right of {SAMPLED} users"]
    return Table(f"Closed world: {ours[0]['images']:,} of our images and as many real ones; the classifiers learned from "
                 f"{rivals[0]['trained_on']:,} and {rivals[1]['trained_on']:,} images", head, rows)


def _roc(conditions: Sequence[str], ours: Sequence[dict]) -> Charts:
    """The share of images attributed to the right user against the false-positive rate, which is exact."""
    svgs = []
    for condition, found in zip(conditions, ours, strict=True):
        shares = [share(count, found["images"]) for count in found["roc"]]
        series = Series("right user", (10.0 ** _RATES).tolist(), [one.value for one in shares], [one.low for one in shares],
                        [one.high for one in shares], points=False)
        svgs.append(line_chart(f"After {condition}", f"false-positive rate over {ENROLLED:,} users",
                               [Panel("attributed to the right user", [series])], log=True))
    return Charts("Share attributed to the right user against the false-positive rate. The rate is the exact tail of the "
                  "score, not an estimate, and so reaches below what any number of images could show", svgs)


def _open(study: Study, world: _World) -> list[Block]:
    """What is said of images that nobody enrolled has made."""
    foreign = study.plan.negatives or (FOREIGN if study.plan.data == "robohash_cats" else ())
    rows, notes, named, total = [], [], 0, 0
    for kind in ("real", "ours, not enrolled", "without fingerprint", *foreign):
        for condition in ("png", "jpeg:82"):
            try:
                found = _part(study, world, kind, condition)
            except FpganError as error:
                notes.append(Text(f"{kind}: not measured, {error}", "skipped"))
                break
            named, total = named + found["named"], total + found["images"]
            even = "-" if found["even"] is None else percent(share(found["even"], found["images"]))
            rows.append([kind, f"`{condition}`", f"{found['images']:,}", str(found["named"]),
                         percent(share(found["named"], found["images"])), even])
    head = ["images", "after", "number", "somebody named", "share", "called fingerprinted, nobody registered"]
    caption = (f"Open world: images of nobody who is enrolled. In all, {named} of {total:,} were said to be an enrolled "
               f"user's: {percent(share(named, total))}")
    return [Table(caption, head, rows), *notes]


def _calibration(study: Study, world: _World) -> Table:
    """Counts p-values of real images against all enrolled users: they must be as rare as they say."""
    def make() -> dict:
        decided = decisions(study.model.decode(world.real))
        table = scores(world.packed, decided)  # [users, images]
        values = [log10_p_value(table[:, i], tail(one)) for i, one in enumerate(decided)]
        return {"pairs": table.size, "counts": [sum(int((each <= rate).sum()) for each in values) for rate in _TAILS]}

    found = study.measured("detection", "calibration", make, **_settings(study))
    rows = [[f"1e{rate}", f"{found['pairs'] * 10.0**rate:,.5g}", f"{count:,}"]
            for rate, count in reversed(list(zip(_TAILS.tolist(), found["counts"], strict=True)))]
    return Table(f"Do p-values hold? All {found['pairs']:,} pairs of a real image and an enrolled user. Real images that "
                 "are read alike fit the same users, so that counts scatter more than those of independent pairs",
                 ["p at most", "expected at most, on average", "counted"], rows)
