"""Interleaved rounds: candidates take turns, so that a machine that speeds up or slows down does so for all of them.

In each round the order is another one (drawn, but the same at every run): a drive that is fast after a rest, or a cache that a
neighbour has emptied, would favour or harm whoever always comes at the same place.
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
    """

    run: Callable[[], object]
    before: Callable[[], object] = lambda: None


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


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one candidate: by the clock, and of all its threads on the CPU."""

    wall: Spread
    cpu: Spread


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
    done, total = 0, (warmup + rounds) * len(candidates)
    for turn in range(warmup + rounds):
        order = list(candidates)
        random.Random(turn).shuffle(order)
        for name in order:
            candidate = candidates[name]
            progress(done, total, name)
            candidate.before()
            wall, cpu = time.perf_counter(), time.process_time()
            candidate.run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if turn >= warmup:
                walls[name].append(wall)
                cpus[name].append(cpu)
            done += 1
    return {name: Timing(Spread.of(walls[name]), Spread.of(cpus[name])) for name in candidates}
