"""How runs went: scalars of metrics.jsonl against images seen, as a picture and as a table of last values."""

from __future__ import annotations

import difflib
import fnmatch
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fpgan.errors import FpganError, missing_extra, printable
from fpgan.io.files import write_file

DEFAULT_METRICS = ("accuracy", "eval_accuracy", "eval_frechet_*")
AXES = {"images": "training images seen", "step": "training steps"}
FORMATS = ("png", "svg")
_BASE = ("step", "images")
_LABELS = {  # what a panel shows; metrics with the same label share a panel
    "accuracy": "bit accuracy",
    "running_accuracy": "bit accuracy",
    "eval_accuracy": "bit accuracy",
    "eval_psnr": "PSNR of two fingerprints, one latent (dB)",
    "eval_seconds": "seconds per measurement",
    "images_per_second": "training images/s",
    "progress": "stage of the curriculum",
    "path_length": "path length penalty",
    "r1": "R1 penalty",
}
_MEANINGS = {  # how two metrics of one panel differ
    "accuracy": "training batches",
    "running_accuracy": "training batches, running mean",
    "eval_accuracy": "held-out 8-bit images, averaged weights",
}
_COLOURS = (  # the first seven after Okabe and Ito, told apart by the colour-blind
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#222222",
    "#7f5539", "#8a4fff", "#8f9a00", "#9a9a9a", "#c1121f")
MOST_RUNS = len(_COLOURS)
_LOOKS = (  # of the metrics in a panel, from the last to the first
    {}, dict(linewidth=0.9, alpha=0.55), dict(linewidth=1.1, linestyle=(0, (1, 1.2))))
_GAP = 4  # a curve is broken where it lacks so many times more records than usual
_FEW = 40  # points of a curve up to which each is marked
_HIGH = 0.97  # bit accuracy from which its axis is logit
_NEARLY_ONE = 0.9999  # where that axis ends; what lies beyond is drawn there
_LOGIT_TICKS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, _NEARLY_ONE)
_LOG_RANGE = 10  # largest over smallest value from which an axis is logarithmic
_INK = "#333333"
_SETTINGS = {
    "svg.hashsalt": "fpgan", "savefig.dpi": 160, "savefig.facecolor": "white",
    "font.size": 9.5, "axes.titlesize": 11, "axes.titlecolor": _INK, "axes.titlepad": 8, "axes.labelcolor": _INK,
    "axes.edgecolor": "#999999", "axes.linewidth": 0.8, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#dddddd", "grid.linewidth": 0.6,
    "xtick.color": "#999999", "ytick.color": "#999999", "xtick.labelcolor": _INK, "ytick.labelcolor": _INK,
    "lines.linewidth": 1.6, "lines.solid_capstyle": "round", "lines.solid_joinstyle": "round",
    "legend.frameon": False, "legend.fontsize": 8.5, "legend.labelcolor": _INK,
}


class Run(NamedTuple):
    """The curves of one run.

    Attributes:
      name: as shown.
      x: "images" and "step" -> float64 [K], rising.
      scalars: metric -> float64 [K]; NaN where a record does not have it.
    """

    name: str
    x: dict[str, np.ndarray]
    scalars: dict[str, np.ndarray]

    def curve(self, metric: str, x: str = "images") -> tuple[np.ndarray, np.ndarray]:
        """Returns the places and values of one metric, [k] each, without the records that lack it."""
        values = self.scalars.get(metric, np.zeros(0))
        there = np.isfinite(values)
        return self.x[x][:len(values)][there], values[there]

    def pieces(self, metric: str) -> list[slice]:
        """Computes the parts of a curve between which the metric was not recorded for long, as of a loss that was switched
        off.
        """
        steps = np.diff(np.flatnonzero(np.isfinite(self.scalars[metric])))
        ends = np.flatnonzero(steps > _GAP * np.median(steps)) + 1 if len(steps) else np.zeros(0, int)
        return [slice(a, b) for a, b in zip([0, *ends], [*ends, None], strict=True)]


def plot(runs: Sequence[str], out: str | os.PathLike, *, metrics: Sequence[str] = (), x: str = "images",
         smooth: float = 0.0) -> str:
    """Reads runs, draws their curves into a file, and tells their last values: `fpgan plot`.

    Args:
      runs: working directories or metrics.jsonl files, as PATH or NAME=PATH.
      out: a .png or .svg file, written whole or not at all.
      metrics: names of scalars, or patterns such as eval_*; DEFAULT_METRICS where a run has them, if empty.
      x: "images" or "step".
      smooth: half-life, in units of x, of the moving average that is drawn over the pale curve; 0: as recorded.

    Returns:
      The table of last values.

    Raises:
      FpganError: no such run or metric, a damaged file, another file type, or matplotlib is missing.
    """
    form = _form(out)
    if x not in AXES or not 0 <= smooth < float("inf"):
        raise FpganError(f"an axis of {x!r}, smoothed over {smooth}; expected {' or '.join(AXES)}, and 0 or more")
    read = read_runs(runs)
    chosen = choose_metrics(read, metrics)
    write_file(out, draw(read, chosen, form=form, x=x, smooth=smooth))
    return table(read, chosen, x)


def read_runs(texts: Sequence[str]) -> list[Run]:
    """Reads runs, given as PATH or NAME=PATH; equal names are told apart by their folders."""
    if not 1 <= len(texts) <= MOST_RUNS:
        raise FpganError(f"{len(texts)} runs; expected 1 to {MOST_RUNS} in one picture")
    named = [("", text) if os.path.exists(text) or "=" not in text else text.split("=", 1) for text in texts]
    runs = [read_run(path, name) for name, path in named]
    names = [run.name for run in runs]
    return [run._replace(name=printable(path)) if not name and names.count(run.name) > 1 else run
            for run, (name, path) in zip(runs, named, strict=True)]


def read_run(path: str | os.PathLike, name: str = "") -> Run:
    """Reads the records of a run.

    A record that goes back to an earlier step tells of a restart from there: what it repeats replaces what was. A last line
    that was cut short is passed over.

    Args:
      path: a working directory, or a metrics.jsonl file.
      name: of the run; the directory's if empty.

    Raises:
      FpganError: there is no such file, it holds no records, or a line of it is damaged.
    """
    path = Path(path)
    file = path / "metrics.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise FpganError(f"no training log {file}; expected the --workdir of fpgan train, or a metrics.jsonl file")
    records: list[dict] = []
    lines = file.read_text("utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        record = _record(line)
        if record is None and number < len(lines):
            raise FpganError(f"{file}: line {number} is no record of fpgan train (an object with step and images); "
                             "remove that line")
        if record:
            while records and records[-1]["step"] >= record["step"]:
                records.pop()
            records.append(record)
    if not records:
        raise FpganError(f"{file} holds no records yet; wait until the run has logged, see every.log")
    names = dict.fromkeys(key for record in records for key in record if key not in _BASE)
    place = file.resolve().parent.name
    return Run(name or printable(place), {key: _column(records, key) for key in _BASE},
               {key: _column(records, key) for key in names})


def choose_metrics(runs: Sequence[Run], wanted: Sequence[str]) -> list[str]:
    """Returns the metrics that names and patterns stand for, in their order.

    Raises:
      FpganError: one that no run has.
    """
    known = list(dict.fromkeys(name for run in runs for name in run.scalars if len(run.curve(name)[0])))
    chosen: dict[str, None] = {}
    for pattern in wanted or DEFAULT_METRICS:
        found = fnmatch.filter(known, pattern)
        if wanted and not found:
            near = difflib.get_close_matches(pattern, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(known))}"
            raise FpganError(f"no run has a metric {pattern!r}; {hint}")
        chosen |= dict.fromkeys(found)
    if not chosen:
        raise FpganError(f"the runs have none of {', '.join(DEFAULT_METRICS)}; there are: {', '.join(sorted(known))}")
    return list(chosen)


def table(runs: Sequence[Run], metrics: Sequence[str], x: str = "images") -> str:
    """Returns the last value of every metric, a line per run."""
    rows = [["run", x, *metrics]]
    for run in runs:
        last = [run.curve(metric, x)[1] for metric in metrics]
        rows.append([run.name, f"{int(run.x[x][-1]):,}", *(f"{v[-1]:.5g}" if len(v) else "-" for v in last)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows)


def smoothed(x: np.ndarray, values: np.ndarray, half_life: float) -> np.ndarray:
    """Computes the exponential moving average [K] of values at uneven places x, without a bias towards the start.

    A record counts half as much as one that is half_life further on.
    """
    result = np.empty_like(values)
    total = weight = 0.0
    for i, value in enumerate(values):
        kept = 0.5 ** ((x[i] - x[i - 1]) / half_life) if i else 0.0
        total, weight = kept * total + value, kept * weight + 1
        result[i] = total / weight
    return result


def draw(runs: Sequence[Run], metrics: Sequence[str], *, form: str = "png", x: str = "images",
         smooth: float = 0.0) -> bytes:
    """Draws a panel for each kind of metric, with a curve for each run; the same bytes every time.

    Args:
      runs: up to MOST_RUNS.
      metrics: names of scalars, each in one run at least.
      form: "png" or "svg".
      x: "images" or "step".
      smooth: see `plot`.

    Returns:
      The content of the file.

    Raises:
      FpganError: matplotlib is missing.
    """
    try:
        os.environ["MPLBACKEND"] = "agg"  # a notebook's, which matplotlib looks for when it is imported, may not be there
        import matplotlib
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise missing_extra(error.name, "plot") from None
    panels: dict[str, list[str]] = {}
    for metric in metrics:
        panels.setdefault(panel_label(metric), []).append(metric)
    columns = min(len(panels), 2 if len(panels) == 4 else 3)
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's matplotlibrc says
        matplotlib.rcParams.update(_SETTINGS)
        figure = Figure(figsize=(max(6.6, 4.7 * columns), 3.5 * rows + 0.5), layout="constrained")
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, (label, names) in zip(grid, panels.items(), strict=False):
            _draw_panel(axes, runs, names, label, x, smooth)
        for axes in grid[len(panels):]:
            axes.set_axis_off()
        _draw_legend(figure, runs, x, smooth)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=form, metadata={"png": {"Software": None}, "svg": {"Date": None}}[form])
    return buffer.getvalue()


def panel_label(metric: str) -> str:
    """Returns what a metric is, in words: the label of the panel in which it is drawn."""
    if metric.startswith("eval_frechet_"):
        base, _, rest = metric.removeprefix("eval_frechet_").partition("_")
        layer, _, size = rest.rpartition("_")
        return f"Fr\u00e9chet distance over {base}{layer and ':'}{layer}{size and '@'}{size}"
    return _LABELS.get(metric, metric.replace("_", " "))


def _draw_panel(axes, runs: Sequence[Run], metrics: list[str], label: str, x: str, smooth: float) -> None:
    """Draws the curves of all runs in the metrics of one panel: a colour per run, a look per metric."""
    from matplotlib.ticker import EngFormatter

    looks = dict(zip(reversed(metrics), _LOOKS * len(metrics), strict=False))
    for metric in metrics:
        for colour, run in zip(_COLOURS, runs, strict=False):
            if metric in run.scalars:
                _draw_curve(axes, run, metric, x, smooth, dict(color=colour) | looks[metric])
    _scale(axes, label, np.concatenate([run.curve(metric)[1] for run in runs for metric in metrics]))
    meaning = f", {_MEANINGS[metrics[0]]}" if len(metrics) == 1 and metrics[0] in _MEANINGS else ""
    axes.set_title(label + meaning, loc="left")
    axes.set_xlabel(AXES[x])
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=0)
    if len(metrics) > 1:
        keys = [axes.plot([], [], color=_INK, **looks[metric], label=_MEANINGS.get(metric, metric))[0]
                for metric in reversed(metrics)]
        axes.legend(handles=keys, loc="best")


def _draw_curve(axes, run: Run, metric: str, x: str, smooth: float, look: dict) -> None:
    """Draws one curve: with points where they are few, and pale below its moving average."""
    places, values = run.curve(metric, x)
    points = dict(marker="o", markersize=3) if len(values) <= _FEW and not smooth else {}
    average = smoothed(places, values, smooth) if smooth else values
    for piece in run.pieces(metric):
        if smooth:
            axes.plot(places[piece], values[piece], **look | dict(linestyle="-", linewidth=0.8, alpha=0.25))
        axes.plot(places[piece], average[piece], **look, **points)


def _scale(axes, label: str, values: np.ndarray) -> None:
    """Sets the vertical axis: zero or chance at the bottom; logit or logarithmic where a linear one would hide much."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator

    if label == _LABELS["accuracy"]:
        bottom = min(0.46, float(values.min()) - 0.01)
        axes.set_ylim(bottom, 1)
        if values.max() >= _HIGH:
            ticks = [tick for tick in _LOGIT_TICKS if tick >= bottom]
            axes.set_yscale("logit", nonpositive="clip")
            axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks[:-1]] + [f"{ticks[-1]:g}+"])
            axes.set_yticks([], minor=True)
            axes.set_ylim(bottom, 1 - 0.7 * (1 - _NEARLY_ONE))
            for line in axes.lines:
                line.set_ydata(np.minimum(line.get_ydata(), _NEARLY_ONE))
    elif values.min() > 0 and values.max() / values.min() >= _LOG_RANGE:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.set_yticks([], minor=True)
    elif values.min() >= 0:
        axes.set_ylim(bottom=0)


def _draw_legend(figure, runs: Sequence[Run], x: str, smooth: float) -> None:
    """Names the runs above the panels, and says below them how the curves were smoothed."""
    from matplotlib.lines import Line2D

    keys = [Line2D([], [], color=colour, linewidth=2.5, label=run.name)
            for colour, run in zip(_COLOURS, runs, strict=False)]
    figure.legend(handles=keys, loc="outside upper left", ncols=min(len(keys), 6), fontsize=10)
    if smooth:
        figure.supxlabel(f"Pale: as recorded. Strong: exponential moving average, half-life {smooth:,g} {x}.",
                         fontsize=8, color="#666666", x=0.01, ha="left")


def _form(out: str | os.PathLike) -> str:
    form = Path(out).suffix.lower().removeprefix(".")
    if form not in FORMATS:
        raise FpganError(f"{out}: pictures are written as {' or '.join('.' + f for f in FORMATS)}; give such a name")
    return form


def _record(line: str) -> dict | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and all(_is_number(record.get(key)) for key in _BASE) else None


def _column(records: list[dict], key: str) -> np.ndarray:
    values = (record.get(key) for record in records)
    return np.array([value if _is_number(value) else np.nan for value in values], np.float64)


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
