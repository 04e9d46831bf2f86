"""Interleaved rounds: candidates take turns, so that a machine that speeds up or slows down does so for all of them.

In each round the order is another one (drawn, but the same at every run): a drive that is fast after a rest, or a cache that a
neighbour has emptied, would favour or harm whoever always comes at the same place.

What is set beside a limit runs between two runs of that limit, and its share is taken of those two: storage of a shared
machine easily changes by a third from one second to the next (measured), but less within the time that three runs take.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something to be timed.

    Attributes
    ----------
    run
        Timed.
    before
        Called before each `run`, not timed.
    beside
        Name of the candidate that it is compared with, which runs right before and right after it.
    """

    run: Callable[[], object]
    before: Callable[[], object] = lambda: None
    beside: str | None = None


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value or more."""
        low, median, high = np.percentile(values, [25, 50, 75]).tolist()
        return cls(median, low, high)

    def rate(self, amount: float) -> Spread:
        """`amount` per unit, where these are durations: the slow quartile of the one is the low one of the other."""
        return Spread(*(amount / max(value, 1e-9) for value in (self.median, self.high, self.low)))

    def times(self, factor: float) -> Spread:
        """In another unit."""
        return Spread(self.median * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Seconds of what a candidate is compared with, the mean of the runs before and after each of its own, by its own."""

    wall: Spread
    cpu: Spread


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one candidate: by the clock, and of all its threads on the CPU; and `Ratio`, if it is compared with another one."""

    wall: Spread
    cpu: Spread
    ratio: Ratio | None = None


def interleaved(candidates: Mapping[str, Candidate], rounds: int, *, warmup: int = 1,
                progress: Callable[[int, int, str], object] = lambda done, total, name: None) -> dict[str, Timing]:
    """Time each candidate `rounds` times, in turn, after `warmup` rounds that are not counted.

    Parameters
    ----------
    progress
        Told how many runs are done, how many there are, and the name of the next.
    """
    walls: dict[str, list[float]] = {name: [] for name in candidates}
    cpus: dict[str, list[float]] = {name: [] for name in candidates}
    ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    orders = [_order(candidates, turn) for turn in range(warmup + rounds)]
    done, total = 0, sum(map(len, orders))
    for turn, order in enumerate(orders):
        taken: list[tuple[float, float]] = []
        for name in order:
            candidate = candidates[name]
            progress(done, total, name)
            candidate.before()
            wall, cpu = time.perf_counter(), time.process_time()
            candidate.run()
            taken.append((time.perf_counter() - wall, time.process_time() - cpu))
            done += 1
        if turn < warmup:
            continue
        for i, name in enumerate(order):
            walls[name].append(taken[i][0])
            cpus[name].append(taken[i][1])
            if candidates[name].beside is not None:
                wall, cpu = ((before + after) / 2 / max(own, 1e-9)
                             for before, own, after in zip(taken[i - 1], taken[i], taken[i + 1], strict=True))
                ratios[name].append((wall, cpu))
    found = {}
    for name in candidates:
        ratio = Ratio(*map(Spread.of, zip(*ratios[name], strict=True))) if ratios[name] else None
        found[name] = Timing(Spread.of(walls[name]), Spread.of(cpus[name]), ratio)
    return found


def _order(candidates: Mapping[str, Candidate], turn: int) -> list[str]:
    """Of a round: those that are compared with the same one come together, with that one around each of them."""
    yardsticks = {candidate.beside for candidate in candidates.values()}
    names = [name for name in candidates if name not in yardsticks]
    random.Random(turn).shuffle(names)
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(candidates[name].beside or name, []).append(name)
    order: list[str] = []
    for key, members in groups.items():
        order.append(key)
        if key in yardsticks:
            for member in members:
                order += [member, key]
    return order
