"""Secrecy: whether somebody without the decoder can tell that there is a fingerprint, by a classifier of images."""

from __future__ import annotations

import numpy as np

from fpgan.errors import FpganError
from fpgan.evaluation.metrics import share
from fpgan.evaluation.paper.blocks import Block, Charts, Table, Text, percent
from fpgan.evaluation.paper.charts import Panel, Series, line_chart
from fpgan.evaluation.paper.classifier import train_classifier
from fpgan.evaluation.paper.sources import twin_images
from fpgan.evaluation.paper.study import Study, identity

COUNTS = (50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)  # training images of both kinds together
_MOST_TESTED = 1_000  # images of each kind
KINDS = {"many": "a fingerprint for each image", "one": "one user's instance"}


def secrecy(study: Study) -> list[Block]:
    """Trains classifiers on more and more images, and tests them on images of other latents.

    Up to 2 `trial.count` images are used in training.
    """
    counts = [count for count in COUNTS if count <= 2 * study.plan.trial.count] or [2 * study.plan.trial.count]
    twin = {"twin": identity(study.twin) if study.twin else None}
    rows: dict[str, list[dict]] = {kind: [] for kind in KINDS}
    for kind, found in rows.items():
        for place, count in enumerate(counts):
            try:
                found.append(study.measured("secrecy", f"{kind}, {count}", lambda kind=kind, count=count: _trained(
                    study, kind, count), **twin))
            except FpganError as error:
                return [Text(f"Not measured: {error}", "skipped")]
            study.progress(f"secrecy, {KINDS[kind]}", place + 1, len(counts))
    return _shown(study, counts, rows)


def _trained(study: Study, kind: str, count: int) -> dict:
    """Trains on `count` images, half of them with a fingerprint, and tests on others."""
    half, tested = count // 2, min(_MOST_TESTED, study.plan.trial.count)
    total = half + tested
    bits = study.bits(total, 80) if kind == "many" else np.repeat(study.bits(1, 81), total, axis=0)
    marked = study.generate(bits, study.latents(total, 82))
    plain, _ = twin_images(study, total, 83)
    classifier = train_classifier(np.concatenate([marked[:half], plain[:half]]), np.repeat([1, 0], half), 2,
                                  epochs=max(12, min(60, 6_000 // count)), seed=study.plan.trial.seed)
    says = [classifier.scores(images[half:]).argmax(axis=1) for images in (plain, marked)]
    return {"trained_on": 2 * half, "steps": classifier.steps, "tested": 2 * tested,
            "right": int((says[0] == 0).sum() + (says[1] == 1).sum())}


def _shown(study: Study, counts: list[int], rows: dict[str, list[dict]]) -> list[Block]:
    who = (f"the twin trained without fingerprints ({study.twin.name}); what tells the two apart may also be something else "
           "than the fingerprint" if study.twin else
           "the same generator with its fingerprint turned off, which differs by nothing else: the strictest test")
    series = []
    for (kind, found), style in zip(rows.items(), "ab", strict=True):
        shares = [share(row["right"], row["tested"]) for row in found]
        series.append(Series(KINDS[kind], counts, [one.value for one in shares], [one.low for one in shares],
                             [one.high for one in shares], style))
    legend = dict(zip(KINDS.values(), "ab", strict=True))
    chart = line_chart("A classifier's accuracy", "training images", [
        Panel("fingerprinted or not", series, (0.4, 1.0), 0.5)], log=True)
    head = ["fingerprints", "training images", "accuracy", "tested on"]
    lines = [[KINDS[kind], f"{row['trained_on']:,}", percent(share(row["right"], row["tested"])), f"{row['tested']:,}"]
             for kind, found in rows.items() for row in found]
    return [Text(f"Images without a fingerprint are of {who}. The classifier is a small convolutional network that also "
                 "sees the high-pass of the image; 50% is chance, and the aim. Security does not rest on it here, but "
                 "on fingerprints that nobody else knows."),
            Charts("Accuracy on images that it has not seen, with 95% intervals", [chart], legend),
            Table("Steganalysis by number of training images", head, lines)]
