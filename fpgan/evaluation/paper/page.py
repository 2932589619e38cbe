"""A report as one HTML page that needs nothing else: styles, charts and pictures are inside, and no script."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping, Sequence

from fpgan.evaluation.paper.blocks import Block, Charts, Picture, Section, Table, Text

_NUMBER = re.compile(r"[-+]?[\d.,]+(e-?\d+)?%?( \(.*\)| \xb1 .*)?|-|[\d.,]+ to [\d.,]+|[\d,]+ of [\d,]+|nowhere")
_LONG = 26  # letters of a row's name that stay on one line
_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c2126; --soft: #5b6570; --rule: #dde2e7; --shade: #f4f6f8;
  --link: #0b5cad; --a: #0b6fb8; --b: #cc5a0a; --c: #0c8a63; --d: #b0478a; --good: #0c8a6322; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181c; --ink: #e6e9ec; --soft: #9aa5b0; --rule: #313a43;
  --shade: #1c2228; --link: #74b7f5; --a: #5cb3f2; --b: #f2965a; --c: #4cc79c; --d: #e391c5; --good: #4cc79c22; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0 auto; max-width: 74rem; padding: 1.5rem clamp(1rem, 4vw, 2.5rem) 4rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; } h2 { font-size: 1.3rem; margin: 0 0 .2rem; }
header p, .question { color: var(--soft); margin: .2rem 0; max-width: 46rem; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .4rem; padding: 0; margin: 1rem 0 0; }
nav a { display: block; padding: .25rem .8rem; border: 1px solid var(--rule); border-radius: 2rem; text-decoration: none; }
a { color: var(--link); } section { margin-top: 2.6rem; border-top: 1px solid var(--rule); padding-top: 1.3rem; }
p { max-width: 46rem; } code, pre { font: .88em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
pre { background: var(--shade); padding: .6rem .8rem; border-radius: .4rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.skipped { border-left: 3px solid var(--b); padding: .1rem 0 .1rem .8rem; color: var(--soft); }
.scroll { overflow-x: auto; margin: .3rem 0 0; } .scroll:focus-visible { outline: 2px solid var(--link); }
figure, .table { margin: 1.4rem 0; } figcaption, summary { color: var(--soft); font-size: .92rem; text-align: left; }
.caption { max-width: 46rem; color: var(--soft); font-size: .92rem; margin: 0; } figcaption { max-width: 46rem; }
summary { cursor: pointer; }
table { border-collapse: separate; border-spacing: 0; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .9rem .28rem 0; border-bottom: 1px solid var(--rule); text-align: left; vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--rule); vertical-align: bottom; }
thead th { min-width: 4.5rem; max-width: 10rem; } .n { text-align: right; } td.n { white-space: nowrap; }
tbody th { font-weight: 500; position: sticky; left: 0; background: var(--paper); white-space: nowrap; }
tbody th.long { white-space: normal; min-width: 12rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(17.5rem, 100%), 1fr)); gap: 1.1rem 1.4rem;
  margin-top: .8rem; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0; margin: .4rem 0 0; list-style: none;
  font-size: .88rem; }
.legend svg { width: 2rem; height: .7rem; margin-right: .35rem; vertical-align: middle; }
svg.chart { width: 100%; height: auto; display: block; overflow: visible; }
svg text { fill: var(--soft); font: 9.5px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
svg .title { fill: var(--ink); font-size: 11.5px; font-weight: 600; } svg .label { font-size: 9.5px; }
svg .grid { stroke: var(--rule); stroke-width: .7; } svg .mark { stroke: var(--soft); stroke-dasharray: 2 2; }
svg .line { fill: none; stroke: currentColor; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
svg .band { fill: currentColor; opacity: .18; } svg .point { fill: currentColor; } svg .working { fill: var(--good); }
svg .a { color: var(--a); } svg .b { color: var(--b); } svg .c { color: var(--c); } svg .d { color: var(--d); }
svg .dashed { stroke-dasharray: 4 3; stroke-width: 1.3; } svg .dotted { stroke-dasharray: 1 3; }
img { max-width: 100%; height: auto; display: block; margin-top: .5rem; background: #fff; border-radius: .25rem; }
img.pixels { image-rendering: pixelated; } footer { margin-top: 3rem; color: var(--soft); font-size: .88rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 40rem) { h1 { font-size: 1.4rem; } dl { grid-template-columns: 1fr; } dt { margin-top: .4rem; } }
@media print { :root { color-scheme: light; --paper: #fff; --ink: #000; --soft: #444; --rule: #ccc; --shade: #f4f4f4;
  --a: #0b6fb8; --b: #cc5a0a; --c: #0c8a63; --d: #b0478a; --good: #0c8a6322; } body { max-width: none; padding: 0;
  font-size: 10pt; } nav { display: none; } section { break-before: auto; } figure, tr, svg { break-inside: avoid; }
  .caption { break-after: avoid; } table { font-size: 8pt; } td.n { white-space: normal; }
  thead { display: table-header-group; } .scroll { overflow: visible; } .charts { grid-template-columns: repeat(3, 1fr); }
  details::details-content { content-visibility: visible; block-size: auto; } }
"""


def page(title: str, lead: str, sections: Sequence[Section], about: Mapping[str, str]) -> str:
    """Writes a report.

    Args:
      title: its heading.
      lead: a paragraph below it.
      sections: of the suites, in order.
      about: where the numbers come from: name -> text, for the foot of the page.

    Returns:
      An HTML document.
    """
    links = "".join(f'<li><a href="#{_text(one.name)}">{_text(one.title)}</a></li>' for one in sections)
    facts = "".join(f"<dt>{_text(name)}</dt><dd>{_code(value)}</dd>" for name, value in about.items())
    return "\n".join([
        "<!doctype html>", '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>",
        f"<header><h1>{_text(title)}</h1><p>{_code(lead)}</p>",
        f'<nav aria-label="Suites"><ul>{links}</ul></nav></header><main>',
        *map(_section, sections),
        f"</main><footer><h2>About this page</h2><dl>{facts}</dl></footer></body></html>\n"])


def _section(section: Section) -> str:
    blocks = "\n".join(_block(block) for block in section.blocks)
    name = _text(section.name)
    return (f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{_text(section.title)}</h2>'
            f'<p class="question">{_code(section.question)}</p>\n{blocks}</section>')


def _block(block: Block) -> str:
    if isinstance(block, Text):
        return f'<p class="{block.kind}">{_code(block.text)}</p>'
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Picture):
        data = base64.b64encode(block.png).decode()
        return (f'<figure><figcaption>{_code(block.caption)}.</figcaption><img class="{"pixels" if block.pixels else ""}" '
                f'alt="{_text(block.alt)}" src="data:image/png;base64,{data}"></figure>')
    return _charts(block)


def _table(table: Table) -> str:
    """A table in a box of its own that scrolls sideways where it is too wide."""
    columns = list(zip(*table.rows, strict=True)) or [()] * len(table.head)
    numeric = [bool(i and column and all(_NUMBER.fullmatch(cell) for cell in column)) for i, column in enumerate(columns)]
    mark = [' class="n"' if number else "" for number in numeric]
    head = "".join(f'<th scope="col"{m}>{_code(cell)}</th>' for cell, m in zip(table.head, mark, strict=True))
    first = ' class="long"' if any(len(row[0]) > _LONG for row in table.rows) else ""
    body = "".join("<tr>" + f'<th scope="row"{first}>{_code(row[0])}</th>' + "".join(
        f"<td{m}>{_code(cell)}</td>" for cell, m in zip(row[1:], mark[1:], strict=True)) + "</tr>" for row in table.rows)
    grid = (f'<div class="scroll" role="region" tabindex="0" aria-label="{_text(table.caption)}"><table><thead><tr>{head}'
            f"</tr></thead><tbody>{body}</tbody></table></div>")
    if table.folded:
        return f'<details class="table"><summary>{_code(table.caption)}</summary>{grid}</details>'
    return f'<div class="table"><p class="caption">{_code(table.caption)}.</p>{grid}</div>'


def _charts(charts: Charts) -> str:
    keys = "".join(f'<li><svg viewBox="0 0 32 10" aria-hidden="true"><line class="line {style}" x1="1" x2="31" y1="5" '
                   f'y2="5"/></svg>{_text(name)}</li>' for name, style in charts.legend.items())
    legend = f'<ul class="legend">{keys}</ul>' if keys else ""
    return (f'<figure><figcaption>{_code(charts.caption)}.</figcaption>{legend}<div class="charts">'
            f'{"".join(charts.svgs)}</div></figure>')


def _code(text: str) -> str:
    """Escapes text, and sets what stands between backquotes as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _text(text))


def _text(text: str) -> str:
    return html.escape(str(text), quote=True)
