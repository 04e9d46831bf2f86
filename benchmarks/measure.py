"""Interleaved medians: candidates take turns, so that a machine that speeds up or slows down does so for all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Timing:
    """Medians of one candidate over all rounds, in seconds."""

    wall: float
    cpu: float
    spread: float       # (third quartile - first quartile) / median of the wall time


def interleaved(candidates: dict[str, Callable[[], object]], rounds: int = 7, warmup: int = 1,
                before: Callable[[], object] = lambda: None) -> dict[str, Timing]:
    """Time each candidate `rounds` times, in turn, after `warmup` uncounted rounds; `before` each time, which is not timed."""
    walls: dict[str, list[float]] = {name: [] for name in candidates}
    cpus: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(warmup + rounds):
        for name, run in candidates.items():
            before()
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if turn >= warmup:
                walls[name].append(wall)
                cpus[name].append(cpu)
    result = {}
    for name in candidates:
        middle = statistics.median(walls[name])
        low, high = np.percentile(walls[name], [25, 75])
        result[name] = Timing(middle, statistics.median(cpus[name]), float(high - low) / middle)
    return result


def table(rows: list[dict[str, object]]) -> str:
    """Rows of equal keys as an aligned text table."""
    if not rows:
        return ""
    heads = list(rows[0])
    cells = [heads] + [[f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(heads))]
    return "\n".join("  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
                     for line in cells)
