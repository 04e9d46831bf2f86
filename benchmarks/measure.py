"""Interleaved medians: candidates take turns, so that a machine that speeds up or slows down does so for all of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gpuio.bench import timing


@dataclass(frozen=True)
class Timing:
    """Medians of one candidate over all rounds, in seconds."""

    wall: float
    cpu: float
    spread: float       # (third quartile - first quartile) / median of the wall time


def interleaved(candidates: dict[str, Callable[[], object]], rounds: int = 7, warmup: int = 1,
                before: Callable[[], object] = lambda: None) -> dict[str, Timing]:
    """Time each candidate `rounds` times, in turn, after `warmup` uncounted rounds; `before` each time, which is not timed."""
    found = timing.interleaved({name: timing.Candidate(run, before) for name, run in candidates.items()}, rounds, warmup=warmup)
    return {name: Timing(t.wall.median, t.cpu.median, (t.wall.high - t.wall.low) / t.wall.median) for name, t in found.items()}


def table(rows: list[dict[str, object]]) -> str:
    """Rows of equal keys as an aligned text table."""
    if not rows:
        return ""
    heads = list(rows[0])
    cells = [heads] + [[f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(heads))]
    return "\n".join("  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
                     for line in cells)


def words() -> list[str]:
    """Names and numbers on the command line."""
    return [word for word in sys.argv[1:] if word != "--json"]


def show(*tables: list[dict[str, object]]) -> None:
    """Print tables as text, or as JSON if ``--json`` is on the command line."""
    if "--json" in sys.argv:
        print(json.dumps(tables[0] if len(tables) == 1 else tables, indent=1))
    else:
        print("\n\n".join(map(table, tables)))


def record(benchmark: Any, measure: Callable[[], list[dict[str, object]]], name: str, shares: Sequence[str]) -> None:
    """Run `measure` once under pytest-benchmark and keep its rows; never judged, since shared machines are noisy.

    Parameters
    ----------
    name
        Column that names a row.
    shares
        Columns that are shares of a limit, or of a neighbour's rate: what `benchmarks.compare` looks at.
    """
    rows: list[dict[str, object]] = []
    benchmark.pedantic(lambda: rows.extend(measure()), rounds=1)
    if len(names := [row[name] for row in rows]) > len(set(names)):
        raise ValueError(f"two rows are called {max(names, key=names.count)}")
    benchmark.extra_info["rows"] = rows
    benchmark.extra_info["shares"] = {f"{row[name]}, {share}": row[share] for row in rows for share in shares}
    print("\n" + table(rows))
