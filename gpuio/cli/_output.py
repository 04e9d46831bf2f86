"""What commands show: tables, reports and JSON on stdout, progress on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from gpuio.check import Report

#: Of findings, on a terminal.
COLOURS = {"error": "red", "warning": "yellow"}


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[..., None]]:
    """A bar on stderr that is fed ``(done, total)`` or ``(done, total, label)``; nothing is shown where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total, label=label: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    with Progress(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
                  console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total, label=label: bar.update(task, completed=done, total=total, description=label)


def plain(value: Any) -> Any:
    """`value` as JSON knows it: NumPy scalars and arrays, paths, dates and tuples are converted, NaN and infinities are null."""
    if hasattr(value, "tolist"):                # NumPy scalars and arrays
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def print_json(value: Any) -> None:
    """One JSON value on stdout."""
    click.echo(json.dumps(plain(value), indent=2, allow_nan=False))


def print_rows(rows: Mapping[str, Any], title: str | None = None) -> None:
    """Names and values in two columns on stdout, a row a line."""
    if title and rows:
        click.echo(click.style(title, bold=True))
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        click.echo(f"{name:<{width}}  {_text(value)}".rstrip())


def print_report(report: Report) -> None:
    """What `gpuio.check.check` has found: a line a finding, errors first, then the guesses at the scan."""
    click.echo(click.style(printable(report.path), bold=True) + f": {_summary(report)}")
    for finding in report.findings:
        severity = click.style(f"{finding.severity}:", fg=COLOURS[finding.severity], bold=True)
        click.echo(f"{severity} {printable(finding.where)}: {printable(finding.what)}")
    for note in report.notes:
        click.echo(f"note: {printable(note)}")
    if report.candidates:
        click.echo(click.style("scan, the best guess first", bold=True))
    for candidate in report.candidates:
        shape = ",".join(map(str, candidate.nav_shape))
        click.echo(f"  -p nav_shape={shape} -p sync_offset={candidate.sync_offset}  {printable('; '.join(candidate.reasons))}")


def _summary(report: Report) -> str:
    """Of a report, in a clause."""
    found = [_counted(report.count(severity), severity) for severity in COLOURS if report.count(severity)]
    verdict = ", ".join(found) or click.style("no errors, no warnings", fg="green")
    if report.image_count is None:
        return f"{report.format}, cannot be opened; {verdict}"
    headers = f", {_counted(report.headers_read, 'frame header')} read" if report.headers_read else ""
    return f"{report.format}, {_counted(len(report.files), 'file')}, {_counted(report.image_count, 'frame')}{headers}; {verdict}"


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _text(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ", ".join(_text(v) for v in value)
    return f"{value:.6g}" if isinstance(value, float) else printable(value)


def printable(value: Any) -> str:
    """Text for a terminal: control characters of headers and undecodable bytes of file names are replaced."""
    return "".join(c if c.isprintable() else "\ufffd" for c in str(value))


def by(shape: Sequence[int]) -> str:
    """A shape as ``256 x 256``."""
    return " x ".join(str(n) for n in shape)
