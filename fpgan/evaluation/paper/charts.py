"""Small line charts as SVG elements for a page: no package needed, colours and letters by the page's style sheet.

The elements carry classes and no colours, so that one drawing serves light and dark. Each has a title and a description for
those who cannot see it.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

WIDTH = 340  # in the drawing's own units; the page scales it
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 12, 34, 36
_HEIGHT, _GAP = 104, 26  # of a panel, and between two
_NUMBERS = itertools.count()  # so that no two elements of a page share an id


class Series(NamedTuple):
    """A line.

    Attributes:
      name: what it is, for the description.
      x, y: its points.
      low, high: the edges of its confidence band, or () for none.
      style: classes of the line: a colour "a", "b", "c" ..., and "dashed" or "dotted".
      points: whether the points are marked.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    style: str = "a"
    points: bool = True


class Panel(NamedTuple):
    """One plot of a chart; all of a chart share the horizontal axis.

    Attributes:
      label: of the vertical axis.
      series: its lines.
      bounds: of the vertical axis; None for those of the values.
      mark: a value at which a line is drawn across, or None.
    """

    label: str
    series: Sequence[Series]
    bounds: tuple[float, float] | None = (0.0, 1.0)
    mark: float | None = None


class _Scale(NamedTuple):
    """Maps values from `low` ... `high` to places from `start` ... `stop`, by their logarithms if `log`."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, max(value, 1e-300)
                                                                     if self.log else value))
        return self.start + (value - low) / ((high - low) or 1) * (self.stop - self.start)


def line_chart(title: str, x_label: str, panels: Sequence[Panel], *, log: bool = False, reverse: bool = False,
               working: tuple[float, float] | None = None) -> str:
    """Draws panels, one below the other.

    Args:
      title: in bold above.
      x_label: of the horizontal axis.
      panels: what is drawn.
      log: whether the horizontal axis is logarithmic.
      reverse: whether it falls from left to right.
      working: a range of it to be marked, from and to.

    Returns:
      An SVG element.
    """
    xs = [x for panel in panels for series in panel.series for x in series.x]
    span = (min(xs), max(xs)) if xs else (0.0, 1.0)
    low, high = span[::-1] if reverse else span
    x = _Scale(low, high, _LEFT, WIDTH - _RIGHT, log)
    height = _TOP + len(panels) * _HEIGHT + (len(panels) - 1) * _GAP + _BOTTOM
    number = next(_NUMBERS)
    parts = [f'<svg class="chart" role="img" viewBox="0 0 {WIDTH} {height}" aria-labelledby="t{number} d{number}">',
             f'<title id="t{number}">{_text(title)}</title><desc id="d{number}">{_text(_described(x_label, panels))}</desc>',
             f'<text class="title" x="{_LEFT}" y="13">{_text(title)}</text>']
    for i, panel in enumerate(panels):
        top = _TOP + i * (_HEIGHT + _GAP)
        parts += _panel(panel, x, top, working if i == 0 else None)
    bottom = height - _BOTTOM
    parts += [f'<text class="tick" text-anchor="middle" x="{x(tick):.1f}" y="{bottom + 13}">{_number(tick)}</text>'
              for tick in _apart(_ticks(*span, log), x)]
    parts += [f'<text class="label" text-anchor="middle" x="{(_LEFT + WIDTH - _RIGHT) / 2}" y="{height - 6}">'
              f'{_text(x_label)}</text></svg>']
    return "".join(parts)


def _panel(panel: Panel, x: _Scale, top: float, working: tuple[float, float] | None) -> list[str]:
    """Draws the grid, the marks, the bands and the lines of one panel."""
    low, high = panel.bounds or _bounds(panel)
    y = _Scale(low, high, top + _HEIGHT, top)
    right = WIDTH - _RIGHT
    parts = [f'<text class="label" x="{_LEFT}" y="{top - 5}">{_text(panel.label)}</text>']
    if working:
        a, b = sorted((x(working[0]), x(working[1])))
        parts.append(f'<rect class="working" x="{a:.1f}" y="{top}" width="{b - a:.1f}" height="{_HEIGHT}"/>')
    for tick in _ticks(low, high, False):
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
                     f'<text class="tick" text-anchor="end" x="{_LEFT - 5}" y="{y(tick) + 3:.1f}">{_number(tick)}</text>')
    if panel.mark is not None:
        parts.append(f'<line class="mark" x1="{_LEFT}" x2="{right}" y1="{y(panel.mark):.1f}" y2="{y(panel.mark):.1f}"/>')
    for series in panel.series:
        parts += _line(series, x, y)
    return parts


def _line(series: Series, x: _Scale, y: _Scale) -> list[str]:
    """Draws one line with its band and its points."""
    def places(values):
        inside = [min(max(value, min(y.low, y.high)), max(y.low, y.high)) for value in values]
        return [f"{x(a):.1f},{y(b):.1f}" for a, b in zip(series.x, inside, strict=True)]

    parts, points = [], places(series.y)
    if len(series.low):
        band = " ".join(places(series.low) + places(series.high)[::-1])
        parts.append(f'<polygon class="band {series.style}" points="{band}"/>')
    parts.append(f'<polyline class="line {series.style}" points="{" ".join(points)}"/>')
    if series.points:
        parts += [f'<circle class="point {series.style}" cx="{cx}" cy="{cy}" r="1.9"><title>{_text(series.name)}: '
                  f'{_number(a)}, {b:.4g}</title></circle>'
                  for (cx, cy), a, b in zip((point.split(",") for point in points), series.x, series.y, strict=True)]
    return parts


def _described(x_label: str, panels: Sequence[Panel]) -> str:
    """Says in words where each line begins and ends."""
    lines = [f"{panel.label}, {series.name}: {series.y[0]:.3g} at {_number(series.x[0])}, {series.y[-1]:.3g} at "
             f"{_number(series.x[-1])}" for panel in panels for series in panel.series if len(series.x)]
    return f"Against {x_label}. " + "; ".join(lines) + "."


def _bounds(panel: Panel) -> tuple[float, float]:
    values = [v for s in panel.series for v in (*s.y, *s.low, *s.high) if math.isfinite(v)] or [0.0, 1.0]
    low, high = min(values), max(values)
    space = (high - low or abs(high) or 1) * 0.05
    return low - space, high + space


def _ticks(low: float, high: float, log: bool) -> list[float]:
    """Round numbers from low to high, about four to six; logarithmic ones are 1, 2 and 5 of each decade, or powers."""
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        steps = (1, 2, 5) if last - first <= 3 else (1,)
        every = max(1, (last - first) // 6)
        ticks = [m * 10.0**k for k in range(first, last + 1, every) for m in steps]
    else:
        rough = (high - low or 1) / 5
        unit = 10 ** math.floor(math.log10(rough))
        step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= rough * 0.999)
        ticks = [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    inside = [tick for tick in ticks if low * (1 - 1e-9) - 1e-12 <= tick <= high * (1 + 1e-9) + 1e-12]
    return inside or [low, high]


def _apart(ticks: Sequence[float], x: _Scale) -> list[float]:
    """Leaves out ticks whose numbers would touch."""
    kept: list[float] = []
    for tick in sorted(ticks, key=x):
        if not kept or x(tick) - x(kept[-1]) >= 6 * len(_number(tick)) + 6:
            kept.append(tick)
    return kept


def _number(value: float) -> str:
    value = 0.0 if abs(value) < 1e-12 and value > -1e-300 and value == 0 else value
    return f"{value:.4g}".replace("e-0", "e-").replace("e+0", "e")


def _text(text: str) -> str:
    return html.escape(text, quote=True)
