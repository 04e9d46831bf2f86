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
from benchmarks.measure import interleaved, table
from gpuio import synth
from gpuio.base import BufferedBackend, CorrectionSet, DirectBackend, MMapBackend

SIG = (512, 512)
FRAMES = 192


def make(folder: Path) -> str:
    """A quad MIB RAW scan of 12-bit counts, 96 MiB."""
    rng = np.random.default_rng(1)
    path = folder / "quad.mib"
    synth.write("mib", str(path), (rng.integers(0, 4096, (16, *SIG), dtype=np.uint16) for _ in range(FRAMES // 16)),
                nav_shape=(12, 16), sig_shape=SIG, kind="R12", layout="2x2")
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
    roi = rng.random((12, 16)) < 0.1
    return {
        "copy from the page cache": copy_from_cache(path),
        "native": stream(path),
        "float32": stream(path, dtype="float32"),
        "float32, dark and gain": stream(path, dtype="float32", corrections=maps),
        "float32, 2 threads": stream(path, dtype="float32", threads=2),
        "float32, mmap": stream(path, MMapBackend(), dtype="float32"),
        "float32, buffered": stream(path, BufferedBackend(), dtype="float32"),
        "float32, direct": stream(path, DirectBackend(), dtype="float32"),
        "float32, a tenth of the scan": stream(path, dtype="float32", roi=roi),
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


def measure(rounds: int = 7) -> tuple[list[dict[str, object]], dict[str, float]]:
    """A row a candidate, and the seconds to the first tile."""
    with tempfile.TemporaryDirectory() as folder:
        path = make(Path(folder))
        size = Path(path).stat().st_size / 1e6
        runs = candidates(path)
        times = interleaved(runs, rounds)
        bound = times["copy from the page cache"].wall
        rows = [{"stream": name, "MB/s": size * (0.1 if "tenth" in name else 1) / t.wall, "share of bound":
                 bound * (0.1 if "tenth" in name else 1) / t.wall, "CPU s / wall s": t.cpu / t.wall, "spread": t.spread}
                for name, t in times.items()]
        cache = str(Path(folder) / "cache")
        cold = first_tile(path, cache)
        warm = sorted(first_tile(path, cache) for _ in range(5))[2]
        return rows, {"nothing compiled before": cold, "compiled before": warm}


def test_pipeline(benchmark: Any) -> None:
    """Recorded as extra_info."""
    rows: list[dict[str, object]] = []
    first: dict[str, float] = {}

    def run() -> None:
        measured = measure(3)
        rows.extend(measured[0])
        first.update(measured[1])

    benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update({"rows": rows, "first tile": first, "shares": {row["stream"]: row["share of bound"] for row in rows}})


if __name__ == "__main__":
    lines, seconds = measure()
    print(table(lines))
    for what, value in seconds.items():
        print(f"first float32 tile, {what}: {value:.2f} s from the start of the process")
