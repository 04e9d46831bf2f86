"""Does a second decoding thread help? ``ds.tiles(threads=2)`` beside one thread, and beside two processes that share the frames.

Two processes share nothing but caches and memory, so they are the limit of this machine: where they gain little, memory is the limit,
or the cores are not free. Wall time, page cache warm, float32 tiles. ``python -m benchmarks.bench_threads`` prints the table.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gpuio
from benchmarks import quick
from benchmarks.bench_peers import CASES, VIEW_BYTES, make
from benchmarks.measure import record, show

#: Cases, and by how much the recording is smaller: 1-bit pixels become 32 times as much.
SMALLER = {"seq u16 dark gain": 1, "mib u16": 1, "mib r1": 4}


def at_once(runs: list[Callable[[], object]]) -> None:
    """Each in a process of its own, which is forked now: compiled code and data sets are there already."""
    children = []
    for run in runs:
        child = os.fork()
        if child == 0:
            run()
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


def measure(rounds: int = 11, n_bytes: int = VIEW_BYTES) -> list[dict[str, object]]:
    """One row a case: milliseconds, and how many times as fast as one thread; medians of interleaved rounds, and the best ones."""
    rows: list[dict[str, object]] = []
    for case in CASES:
        if case[0] not in SMALLER:
            continue
        with tempfile.TemporaryDirectory() as folder:
            fmt, path, load = make(Path(folder), case, n_bytes // SMALLER[case[0]])
            ds = gpuio.load(fmt, path=path, device="cpu", **load)
            half = np.arange(ds.shape.nav.size).reshape(tuple(ds.shape.nav)) < ds.shape.nav.size // 2

            def run(threads: int = 0, roi: np.ndarray | None = None, ds: gpuio.DataSet = ds) -> None:
                for _ in ds.tiles(dtype="float32", threads=threads, roi=roi):
                    pass

            halves: list[Callable[[], object]] = [lambda run=run, half=half: run(0, half), lambda run=run, half=half: run(0, ~half)]
            ways: dict[str, Callable[[], object]] = {"one": run, "two": lambda run=run: run(2),
                                                     "processes": lambda halves=halves: at_once(halves)}
            seconds: dict[str, list[float]] = {way: [] for way in ways}
            for turn in range(rounds + 1):
                for way, call in ways.items():
                    start = time.perf_counter()
                    call()
                    if turn:
                        seconds[way].append(time.perf_counter() - start)
            middle = {way: statistics.median(values) for way, values in seconds.items()}
            best = {way: min(values) for way, values in seconds.items()}
            rows.append({"case": case[0], "one thread, ms": 1e3 * middle["one"], "two, ms": 1e3 * middle["two"],
                         "gain": middle["one"] / middle["two"], "of processes": middle["one"] / middle["processes"],
                         "best gain": best["one"] / best["two"], "best of processes": best["one"] / best["processes"]})
    return rows


def test_threads(benchmark: Any) -> None:
    """Recorded as extra_info."""
    record(benchmark, lambda: measure(quick.ROUNDS, quick.LARGE_BYTES), "case", ["gain", "of processes"])


if __name__ == "__main__":
    show(measure())
