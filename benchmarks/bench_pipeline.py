"""The stream as users have it: page cache to tiles, by dtype, threads and backend; a region of interest; the first tile.

``python -m benchmarks.bench_pipeline`` prints the tables. MB/s are packed bytes per second of wall time; the bound is a
copy of the same bytes from the page cache into a small buffer, measured in the same run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gpuio
from benchmarks import quick
from benchmarks.measure import interleaved, record, show
from gpuio import synth
from gpuio.base import BufferedBackend, CorrectionSet, DirectBackend, MMapBackend

SIG = (512, 512)
LINES, LINE = 12, 16


def make(folder: Path, lines: int) -> str:
    """A quad MIB RAW scan of 12-bit counts, 8 MiB a line."""
    rng = np.random.default_rng(1)
    path = folder / "quad.mib"
    synth.write("mib", str(path), (rng.integers(0, 4096, (LINE, *SIG), dtype=np.uint16) for _ in range(lines)),
                nav_shape=(lines, LINE), sig_shape=SIG, kind="R12", layout="2x2")
    return str(path)


def stream(path: str, backend: Any = None, **options: Any) -> Callable[[], int]:
    ds = gpuio.open(path, device="cpu", io_backend=backend)
    return lambda: sum(len(tile) for tile in ds.tiles(**options))


def copy_from_cache(path: str) -> Callable[[], None]:
    """The bound: every byte once from the page cache into a buffer that stays in L2."""
    buffer = np.empty(256 << 10, np.uint8)

    def run() -> None:
        with open(path, "rb", buffering=0) as f:
            while f.readinto(buffer):
                pass

    return run


def candidates(path: str) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    rng = np.random.default_rng(2)
    maps = CorrectionSet(dark=rng.normal(10, 1, SIG).astype("f4"), gain=rng.normal(1, 0.1, SIG).astype("f4"))
    ds = gpuio.open(path, device="cpu")
    roi = np.zeros(ds.shape.nav.size, bool)
    roi[rng.choice(roi.size, roi.size // 10, replace=False)] = True
    return {
        "copy from the page cache": copy_from_cache(path),
        "native": stream(path),
        "float32": stream(path, dtype="float32"),
        "float32, dark and gain": stream(path, dtype="float32", corrections=maps),
        "float32, 2 threads": stream(path, dtype="float32", threads=2),
        "float32, mmap": stream(path, MMapBackend(), dtype="float32"),
        "float32, buffered": stream(path, BufferedBackend(), dtype="float32"),
        "float32, direct": stream(path, DirectBackend(), dtype="float32"),
        "float32, a tenth of the scan": stream(path, dtype="float32", roi=roi.reshape(tuple(ds.shape.nav))),
    }


FIRST = """
import time; start = time.perf_counter()
import sys, gpuio
ds = gpuio.open(sys.argv[1], device="cpu")
next(ds.tiles(dtype="float32"))
print(time.perf_counter() - start)
"""


def first_tile(path: str, cache: str) -> float:
    """Seconds from the start of the program to the first tile, in a process of its own."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", FIRST, path], check=True, capture_output=True, env={**os.environ, "NUMBA_CACHE_DIR": cache})
    return time.perf_counter() - start


def measure(rounds: int = 7, lines: int = LINES) -> list[dict[str, object]]:
    """A row a candidate."""
    with tempfile.TemporaryDirectory() as folder:
        path = make(Path(folder), lines)
        size = Path(path).stat().st_size / 1e6
        times = interleaved(candidates(path), rounds)
        bound = times["copy from the page cache"].wall
        part = {name: lines * LINE // 10 / (lines * LINE) if "tenth" in name else 1 for name in times}
        return [{"stream": name, "MB/s": size * part[name] / t.wall, "share of bound": bound * part[name] / t.wall,
                 "CPU s / wall s": t.cpu / t.wall, "spread": t.spread} for name, t in times.items()]


def first_tiles() -> list[dict[str, object]]:
    """Seconds to the first tile, with and without what was compiled before."""
    with tempfile.TemporaryDirectory() as folder:
        path, cache = make(Path(folder), 1), str(Path(folder) / "cache")
        cold = first_tile(path, cache)
        warm = sorted(first_tile(path, cache) for _ in range(5))[2]
    return [{"first float32 tile": "nothing compiled before", "s from the start of the process": cold},
            {"first float32 tile": "compiled before", "s from the start of the process": warm}]


def test_pipeline(benchmark: Any) -> None:
    """A short scan; recorded as extra_info."""
    record(benchmark, lambda: measure(quick.ROUNDS, quick.LARGE_BYTES >> 23), "stream", ["share of bound"])


if __name__ == "__main__":
    show(measure(), first_tiles())
