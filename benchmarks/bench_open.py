"""Opening recordings of one file to a hundred thousand: how long until the data set is known, and until its first tile?

``python -m benchmarks.bench_open [FILES ...]`` prints the table, in CPU time; files are MIB of one frame of
8 x 8 pixels each, in the page cache. The limit is one ``os.stat`` for each file.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import gpuio
from benchmarks import quick
from benchmarks.measure import interleaved, record, show, words
from gpuio import synth

FILES = (1, 10, 100, 1000, 10_000, 100_000)
SIG = (8, 8)


def make(folder: Path, files: int) -> str:
    """As many files; the one to open."""
    rng = np.random.default_rng(1)
    frames = (rng.integers(1, 200, (min(1000, files - first), *SIG), dtype=np.uint8) for first in range(0, files, 1000))
    paths = synth.write("mib", folder / "scan.mib", frames, nav_shape=(1, files), sig_shape=SIG, kind="U08", frames_per_file=1)
    return next(path for path in paths if path.endswith(".hdr"))


def measure(counts: Sequence[int] = FILES, rounds: int = 5) -> list[dict[str, object]]:
    """A row a number of files."""
    rows: list[dict[str, object]] = []
    for files in counts:
        with tempfile.TemporaryDirectory() as folder:
            path = make(Path(folder), files)
            names = [str(name) for name in gpuio.open(path, device="cpu").files]

            def first(path: str = path) -> None:
                for _ in gpuio.open(path, device="cpu").tiles(depth=1):
                    break

            times = interleaved({"open": lambda path=path: gpuio.open(path, device="cpu"), "first tile": first,
                                 "stat": lambda names=names: [os.stat(name) for name in names]}, rounds)
        rows.append({"files": files, "open, ms": times["open"].cpu * 1e3, "first tile, ms": times["first tile"].cpu * 1e3,
                     "stat, ms": times["stat"].cpu * 1e3, "stat of open": times["stat"].cpu / times["open"].cpu})
    return rows


def test_open(benchmark: Any) -> None:
    """Few files; recorded as extra_info."""
    record(benchmark, lambda: measure(quick.FILES, quick.ROUNDS), "files", ["stat of open"])


if __name__ == "__main__":
    show(measure([int(word) for word in words()] or FILES))
