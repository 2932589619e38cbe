"""Robustness: bit accuracy and attribution against the strength of every perturbation, and after the named suites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from fpgan.evaluation.paper import curves
from fpgan.evaluation.paper.blocks import Block, Charts, Table, Text, accuracy, percent
from fpgan.evaluation.paper.charts import Panel, Series, line_chart
from fpgan.evaluation.paper.curves import CURVES, Curve
from fpgan.evaluation.paper.study import Study, identity
from fpgan.evaluation.robustness import draw_sample, measure
from fpgan.perturbations.registry import expand
from fpgan.perturbations.suites import SUITES

WORKS = 0.75  # bit accuracy from which the paper calls a strength part of the working range
Rows = Mapping[str, dict]  # by perturbation


def robustness(study: Study) -> list[Block]:
    """Measures the model, and the one beside it, after every perturbation.

    With `plan.perturbations` only these (and suites of them) are tried, and curves have only their points.
    """
    chosen = expand(study.plan.perturbations or (*curves.specs(), *SUITES))
    specs = list(dict.fromkeys(["png", *chosen]))
    found = {identity(study.model): _measured(study, study.model, specs)}
    if study.against is not None:
        found[identity(study.against)] = _measured(study, study.against, specs)
    names = [name.split()[0] for name in found]
    names = names if len(set(names)) == len(names) else list(found)
    rows = list(found.values())
    return [_introduction(study, rows), *_drawn(names, rows), _ranges(names, rows), *_suites(names, rows),
            *_singles(names, rows), _everything(names, rows)]


class _Reader:
    """Makes the images of a model when the first perturbation is not in the journal yet."""

    def __init__(self, study: Study, model):
        self.study, self.model = study, model

    @cached_property
    def sample(self):
        if self.model is self.study.model:
            return self.study.sample
        return draw_sample(self.model, self.study.plan.trial, self.study.plan.batch_size)

    def row(self, spec: str) -> dict:
        row, = measure(self.model, [spec], self.sample, self.study.plan.trial)
        return {name: row[name] for name in ("bit_accuracy", "hard", "soft")}


def _measured(study: Study, model, specs: Sequence[str]) -> Rows:
    """A row for each perturbation: bit_accuracy, hard and soft, each with its interval or None."""
    reader, rows = _Reader(study, model), {}
    for place, spec in enumerate(specs):
        rows[spec] = study.measured("robustness", spec, lambda spec=spec: reader.row(spec), model=model)
        study.progress(f"robustness of {model.name}", place + 1, len(specs))
    return rows


def _introduction(study: Study, rows: Sequence[Rows]) -> Text:
    trial, clean = study.plan.trial, rows[0]["png"]
    shares = "" if clean["soft"] is None else (
        f"; {percent(clean['soft'])} are attributed to their user by soft decisions, {percent(clean['hard'])} by the number "
        "of matching bits")
    return Text(f"{trial.count:,} images, each with a fingerprint and a latent of its own, a registry of {trial.n_users:,} "
                f"users and a false-positive rate of {trial.false_positive_rate:g} over all of them, search "
                f"{trial.search}. Saved as PNG, "
                f"{accuracy(clean['bit_accuracy'], 4)} of the bits are read right{shares}. Each operation is the real one "
                "on 8-bit images; nothing is done to undo it. Bands and brackets are 95% intervals.")


def _drawn(names: Sequence[str], rows: Sequence[Rows]) -> list[Block]:
    """The charts of all curves of which two points or more were measured."""
    svgs = [_chart(curve, names, rows) for curve in CURVES if len(_points(curve, rows[0])) > 1]
    if not svgs:
        return []
    legend = {}
    for name, style in zip(names, "ab", strict=False):
        label = f"{name}: " if len(names) > 1 else ""
        legend |= {f"{label}bit accuracy; attributed by soft decisions": style, f"{label}attributed by hard bits":
                   f"{style} dashed"}
    return [Charts("Bit accuracy (above) and share of images attributed (below) against strength. Green: the working range "
                   f"of {names[0]}, bit accuracy {WORKS:.0%} and more", svgs, legend)]


def _chart(curve: Curve, names: Sequence[str], rows: Sequence[Rows]) -> str:
    lines: dict[str, list[Series]] = {"bit_accuracy": [], "attributed": []}
    for name, found, style in zip(names, rows, "ab", strict=False):
        points = _points(curve, found)
        x = [point for point, _ in points]
        lines["bit_accuracy"].append(_series(f"{name}", x, [row["bit_accuracy"] for _, row in points], style))
        if all(row["soft"] for _, row in points):
            soft, hard = ([row[kind] for _, row in points] for kind in ("soft", "hard"))
            lines["attributed"] += [_series(f"{name}, soft", x, soft, style),
                                    _series(f"{name}, hard", x, hard, f"{style} dashed", False)]
    panels = [Panel("bit accuracy", lines["bit_accuracy"], (0.4, 1.0), WORKS)]
    if lines["attributed"]:
        panels.append(Panel("attributed", lines["attributed"]))
    falls = curve.strengths[0] > curve.strengths[-1]
    working = working_range(curve, rows[0])
    return line_chart(curve.title, curve.x_label, panels, log=curve.log, reverse=falls, working=working)


def _series(name: str, x: Sequence[float], estimates: Sequence[dict], style: str, band: bool = True) -> Series:
    edges = [[one[edge] for one in estimates] if band else [] for edge in ("low", "high")]
    return Series(name, x, [one["value"] for one in estimates], *edges, style, points=band)


def _points(curve: Curve, rows: Rows) -> list[tuple[float, dict]]:
    """The strengths that were measured, with their rows; none where all there is is the neutral one."""
    points = [(x, rows[spec]) for x, (spec,) in ((x, expand([spec])) for x, spec in curve.specs()) if spec in rows]
    return points if any(x != curve.neutral for x, _ in points) else []


def working_range(curve: Curve, rows: Rows) -> tuple[float, float] | None:
    """Finds the strengths around the mildest one between which the bit accuracy stays at WORKS or more.

    Args:
      curve: the operation.
      rows: by perturbation, as `robustness` measures them.

    Returns:
      (from, to), the mildest first on one-sided curves; crossings are interpolated between the strengths tried. None if not
      even the mildest one works.
    """
    points = [(x, row["bit_accuracy"]["value"]) for x, row in _points(curve, rows)]
    if curve.strengths[0] > curve.strengths[-1]:
        points.reverse()  # mild first
    start = next((i for i, (x, _) in enumerate(points) if x == curve.neutral), 0)
    if not points or points[start][1] < WORKS:
        return None
    ends = [_crossing(points[start::step]) for step in (-1, 1)]
    return (points[start][0], ends[1]) if start == 0 else (ends[0], ends[1])


def _crossing(points: Sequence[tuple[float, float]]) -> float:
    """Walks along points from one that works to where the line through them falls under WORKS; its end if it does not."""
    for (x, y), (next_x, next_y) in zip(points, points[1:], strict=False):
        if next_y < WORKS:
            return x + (y - WORKS) / (y - next_y) * (next_x - x)
    return points[-1][0]


def _ranges(names: Sequence[str], rows: Sequence[Rows]) -> Table:
    """The working range of each curve, and how far it was looked."""
    lines = []
    for curve in CURVES:
        if len(_points(curve, rows[0])) < 2:
            continue
        tried = [x for x, _ in _points(curve, rows[0]) if x != curve.neutral]
        order = sorted(tried, reverse=curve.strengths[0] > curve.strengths[-1])
        looked = f"{order[0]:g}" + (f" to {order[-1]:g}" if len(order) > 1 else "")
        lines.append([curve.title, *(_range_text(working_range(curve, found)) for found in rows), looked, curve.x_label])
    head = ["perturbation", *(f"works, {name}" for name in names), "tried", "strength"]
    return Table(f"Working ranges: bit accuracy {WORKS:.0%} and more, interpolated between what was tried", head, lines)


def _range_text(found: tuple[float, float] | None) -> str:
    return "nowhere" if found is None else f"{found[0]:.3g} to {found[1]:.3g}"


def _suites(names: Sequence[str], rows: Sequence[Rows]) -> list[Block]:
    """What is left on average over each named suite that was measured as a whole."""
    lines = []
    for suite in SUITES:
        specs = expand([suite])
        if not all(spec in rows[0] for spec in specs):
            continue
        for name, found in zip(names, rows, strict=True):
            accuracies = [found[spec]["bit_accuracy"]["value"] for spec in specs]
            lines.append([suite, *([name] if len(names) > 1 else []), str(len(specs)), f"{np.mean(accuracies):.3f}",
                          str(sum(accuracy >= WORKS for accuracy in accuracies)),
                          *(_mean_share(found, specs, kind) for kind in ("soft", "hard"))])
    head = ["suite", *(["model"] if len(names) > 1 else []), "perturbations", "mean bit accuracy",
            f"of them at {WORKS:.0%} and more", "attributed, soft (mean)", "attributed, hard (mean)"]
    return [Table("Named suites, all their perturbations weighing the same", head, lines)] if lines else []


def _mean_share(found: Rows, specs: Sequence[str], kind: str) -> str:
    shares = [found[spec][kind] for spec in specs]
    return "-" if None in shares else f"{np.mean([share['value'] for share in shares]):.1%}"


def _singles(names: Sequence[str], rows: Sequence[Rows]) -> list[Block]:
    lines = _lines(names, rows, [spec for spec in expand(curves.SINGLES) if spec in rows[0]])
    return [Table("Operations without a strength to vary, and random combinations", _head(names), lines)] if lines else []


def _everything(names: Sequence[str], rows: Sequence[Rows]) -> Table:
    return Table(f"All {len(rows[0])} perturbations measured", _head(names), _lines(names, rows, list(rows[0])), folded=True)


def _head(names: Sequence[str]) -> list[str]:
    return ["perturbation", *(["model"] if len(names) > 1 else []), "bit accuracy", "attributed, soft", "attributed, hard"]


def _lines(names: Sequence[str], rows: Sequence[Rows], specs: Sequence[str]) -> list[list[str]]:
    return [[f"`{spec}`", *([name] if len(names) > 1 else []), accuracy(found[spec]["bit_accuracy"]),
             percent(found[spec]["soft"]), percent(found[spec]["hard"])]
            for spec in specs for name, found in zip(names, rows, strict=True)]
