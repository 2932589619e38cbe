"""What a report is made of: paragraphs, tables, pictures and charts as plain data; and tables as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fpgan.evaluation.metrics import Estimate


class Text(NamedTuple):
    """A paragraph.

    Attributes:
      text: plain; `code` between backquotes.
      kind: "text", or "skipped" for what was not measured and why.
    """

    text: str
    kind: str = "text"


class Table(NamedTuple):
    """A table.

    Attributes:
      caption: what it shows, a sentence without a full stop.
      head: the columns' names.
      rows: the cells, as text.
      folded: whether it is long, and shown when asked for.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False


class Picture(NamedTuple):
    """A picture.

    Attributes:
      caption: what it shows.
      alt: what somebody who cannot see it should know.
      png: the file.
      pixels: whether to show its pixels as squares, without smoothing.
    """

    caption: str
    alt: str
    png: bytes
    pixels: bool = True


class Charts(NamedTuple):
    """Small charts side by side, with one legend.

    Attributes:
      caption: what they show.
      svgs: each an SVG element (`charts.line_chart`).
      legend: what the lines are: name -> the class of the line, see `charts.Series`.
    """

    caption: str
    svgs: Sequence[str]
    legend: Mapping[str, str] = {}


Block = Text | Table | Picture | Charts


class Section(NamedTuple):
    """The part of a report that one suite makes.

    Attributes:
      name: of the suite.
      title: its heading.
      question: what it answers.
      blocks: what it found.
    """

    name: str
    title: str
    question: str
    blocks: Sequence[Block]


def markdown(table: Table) -> str:
    """Lays out a table as Markdown, with columns aligned so that it can be read on a terminal too."""
    lines = [[_escaped(cell) for cell in row] for row in (table.head, *table.rows)]
    widths = [max(3, *(len(row[i]) for row in lines)) for i in range(len(table.head))]
    texts = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in lines]
    return "\n".join([texts[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *texts[1:]])


def section_markdown(section: Section) -> str:
    """Lays out the words and the tables of a section as Markdown; pictures and charts are left to the page."""
    parts = [f"## {section.title}", section.question]
    for block in section.blocks:
        if isinstance(block, Text):
            parts.append(block.text)
        elif isinstance(block, Table):
            parts += [f"**{block.caption}**", markdown(block)]
    return "\n\n".join(parts) + "\n"


def interval(estimate: Mapping | Estimate | None, digits: int = 3) -> str:
    """Writes an estimate with its 95% interval, "0.854 (0.853-0.855)"; "-" without one."""
    if estimate is None:
        return "-"
    value, low, high = estimate.values() if isinstance(estimate, Mapping) else estimate
    return f"{value:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def accuracy(estimate: Mapping, digits: int = 3) -> str:
    """Writes a bit accuracy with its 95% interval, which ends at 1."""
    return interval(dict(estimate) | {"high": min(1.0, estimate["high"])}, digits)


def percent(estimate: Mapping | Estimate | None) -> str:
    """Writes a share with its 95% interval in per cent, "93.5% (91.0-95.3)"; "-" without one."""
    if estimate is None:
        return "-"
    value, low, high = (100 * part for part in (estimate.values() if isinstance(estimate, Mapping) else estimate))
    return f"{value:.1f}% ({low:.1f}-{high:.1f})"


def _escaped(cell: str) -> str:
    return str(cell).replace("|", "\\|").replace("\n", " ")
