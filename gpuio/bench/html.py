"""A report as one page: style and drawings within it, nothing fetched, no scripts; light and dark as the reader's system is.

The drawing is a roofline turned on its side: a bar a stage on one logarithmic axis of GB/s, a mark where its limit is, a line from
quartile to quartile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from gpuio.bench import text

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --soft: #5b6875; --rule: #d9dfe5; --paper: #fff; --bar: #2f7fc1; --slow: #c8641f;
        --roof: #1c2733; --track: #eef2f5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf0; --soft: #9dabb8; --rule: #33404d; --paper: #141b22; --bar: #5aa9e6;
        --slow: #e8924f; --roof: #e6ebf0; --track: #1f2932; } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 76rem; background: var(--paper); color: var(--ink);
       font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem }
p { margin: .4rem 0; color: var(--soft) }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem; margin: 1.2rem 0 }
dt { color: var(--soft) } dd { margin: 0; overflow-wrap: anywhere }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .5rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap }
th { color: var(--soft); font-weight: 500 } th.word, td.word { text-align: left }
svg { display: block; width: 100%; min-width: 46rem; height: auto }
svg text { fill: var(--ink); font: 13px system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif } svg .soft { fill: var(--soft) }
.track { fill: var(--track) } .bar { fill: var(--bar) } .slow { fill: var(--slow) } .grid { stroke: var(--rule) }
.roof { stroke: var(--roof); stroke-width: 2.5 } .spread { stroke: var(--ink); stroke-width: 1.2; opacity: .75 }
.warn { color: var(--slow); font-weight: 600 } code { font-size: .92em; overflow-wrap: anywhere }
"""

#: Of the drawing, in its own units.
_WIDTH, _LEFT, _RIGHT, _ROW, _TOP = 1000, 190, 210, 34, 30


def page(report: Mapping[str, Any]) -> str:
    """The whole page."""
    return "\n".join(_page(report)) + "\n"


def _page(report: Mapping[str, Any]) -> Iterator[str]:
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>gpuio bench, {escape(report['data']['format'])}</title>\n<style>{_STYLE}</style>\n</head>\n<body>"
    yield f"<h1>gpuio bench</h1>\n<p>{escape(report['date'])} &middot; <code>{escape(report['command'])}</code></p>\n<dl>"
    for name, value in text.facts(report):
        warn = ' class="warn"' if name == "page cache" and report["cache"]["confirmed"] is not True else ""
        yield f"<dt>{escape(name)}</dt><dd{warn}>{escape(value)}</dd>"
    yield "</dl>\n<h2>Each stage under its roof</h2>"
    yield ("<p>Bars are medians, thin lines go from quartile to quartile. The mark is the limit of the machine for that stage, measured in "
           "the same run; shares are of the runs of the limit right before and after each run of the stage. The bottleneck of the stream "
           "to float32 has another colour.</p>")
    yield '<div class="scroll">' + "".join(_drawing(report)) + "</div>"
    heads = ["stage", "GB/s", "quartiles", "GB/CPU s", "frames/s", "limit", "share", "per core"]
    yield "<h2>Stages</h2>"
    yield _table(heads, [text.stage_cells(row) for row in report["stages"]])
    yield "<h2>Limits of this machine</h2>"
    yield _table(["limit", *heads[1:4], "how"], [[*text.limit_cells(row), row["what"]] for row in report["limits"]])
    for title, heads, rows in text.further(report):
        yield f"<h2>{escape(title)}</h2>"
        if rows:
            yield _table(heads, rows)
    if report["notes"]:
        yield "<h2>Notes</h2>\n<ul>" + "".join(f"<li>{escape(note)}</li>" for note in report["notes"]) + "</ul>"
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    yield f"<p>{escape(versions)}</p>\n</body>\n</html>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    words = {i for i, head in enumerate(heads) if i == 0 or head in text.WORDS}

    def row(cells: Sequence[str], tag: str) -> str:
        opened = [f'<{tag} class="word">' if i in words else f"<{tag}>" for i in range(len(cells))]
        return "<tr>" + "".join(f"{start}{escape(cell)}</{tag}>" for start, cell in zip(opened, cells, strict=True)) + "</tr>"

    return '<div class="scroll"><table>' + row(heads, "th") + "".join(row(cells, "td") for cells in rows) + "</table></div>"


def _drawing(report: Mapping[str, Any]) -> Iterator[str]:
    """A bar a stage."""
    rows = report["stages"]
    values = [value for row in rows for value in (*row["GB_per_s"].values(), row["limit_GB_per_s"]) if value]
    low, high = (math.floor(math.log10(min(values)) - 0.05), math.ceil(math.log10(max(values)) + 0.05)) if values else (0, 1)
    bottom = _TOP + _ROW * len(rows)

    def x(rate: float) -> float:
        return _LEFT + (math.log10(rate) - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    yield f'<svg viewBox="0 0 {_WIDTH} {bottom + 10}" role="img" aria-label="Rates of the stages and their limits in GB/s">'
    for decade in range(low, high + 1):
        for times in (1, 2, 5) if decade < high else (1,):
            at = x(times * 10.0 ** decade)
            yield f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP - 6}" y2="{bottom}"/>'
            yield f'<text class="soft" x="{at:.1f}" y="{_TOP - 12}" text-anchor="middle">{times * 10.0 ** decade:g}</text>'
    yield f'<text class="soft" x="{_WIDTH - _RIGHT + 24}" y="{_TOP - 12}">GB/s</text>'
    for i, row in enumerate(rows):
        yield from _bar(row, _TOP + i * _ROW, x, row["name"] == report["bottleneck"])
    yield "</svg>"


def _bar(row: Mapping[str, Any], top: float, x: Any, slowest: bool) -> Iterator[str]:
    rate, limit, middle = row["GB_per_s"], row["limit_GB_per_s"], top + _ROW / 2
    share = f", {row['share']['median']:.0%} of {row['limit']}" if limit else ""
    yield f"<g><title>{escape(row['name'])}: {rate['median']:.3g} GB/s{escape(share)}</title>"
    yield f'<text x="{_LEFT - 10}" y="{middle + 4.5:.1f}" text-anchor="end">{escape(row["name"])}</text>'
    if limit:
        yield f'<rect class="track" x="{_LEFT}" y="{top + 6:.1f}" width="{x(limit) - _LEFT:.1f}" height="{_ROW - 12}"/>'
    yield (f'<rect class="{"slow" if slowest else "bar"}" x="{_LEFT}" y="{top + 9:.1f}" width="{x(rate["median"]) - _LEFT:.1f}" '
           f'height="{_ROW - 18}" rx="2"/>')
    yield f'<line class="spread" x1="{x(rate["low"]):.1f}" x2="{x(rate["high"]):.1f}" y1="{middle:.1f}" y2="{middle:.1f}"/>'
    if limit:
        yield f'<line class="roof" x1="{x(limit):.1f}" x2="{x(limit):.1f}" y1="{top + 4:.1f}" y2="{top + _ROW - 4:.1f}"/>'
    label = f"{rate['median']:.3g} GB/s" + (f", {row['share']['median']:.0%} of limit" if limit else "")
    yield f'<text class="soft" x="{_WIDTH - _RIGHT + 24}" y="{middle + 4.5:.1f}">{label}</text></g>'
