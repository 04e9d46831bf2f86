"""Packed HDF5 chunks beside h5py with hdf5plugin: every frame as the dtype on disk and as float32, page cache warm, one run, interleaved.

``python -m benchmarks.bench_hdf5`` prints the table; ``pytest benchmarks/bench_hdf5.py`` records it with pytest-benchmark. The scan is
what a 4D-STEM detector counts: a disc of Poisson numbers and a weak tail, 192 x 192 uint16, one frame a chunk. MB/s are unpacked bytes
by the wall clock, on all cores that there are (gpuio) and on the one that h5py takes. Opening is included on both sides. h5py reads as
people do: 64 frames at a time into an array, and `read_direct` into one that is used again. Names of cases as arguments run these only.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

import gpuio
from benchmarks import quick
from benchmarks.measure import interleaved, record, show, words

FRAMES, SIG = 4096, (192, 192)
AT_ONCE = 64
#: name, arguments of h5py's create_dataset, least ratio over h5py that we want to see
CASES: list[tuple[str, dict[str, Any], float]] = [
    ("bitshuffle lz4", dict(hdf5plugin.Bitshuffle(cname="lz4")), 3),
    ("lz4", dict(hdf5plugin.LZ4()), 1.7),
    ("gzip", {"compression": "gzip", "compression_opts": 4}, 1.7),
    ("gzip shuffle", {"compression": "gzip", "compression_opts": 4, "shuffle": True}, 1.7),
    ("lzf shuffle", {"compression": "lzf", "shuffle": True}, 1.7),
    ("no filter", {}, 1),
]


def disc_frames(n: int, seed: int = 1, counts: float = 20, radius: float = 30) -> np.ndarray:
    """uint16[n, 192, 192]: Poisson numbers of a disc of `counts` and a tail."""
    rng = np.random.default_rng(seed)
    y, x = np.ogrid[:SIG[0], :SIG[1]]
    r = np.hypot(y - SIG[0] / 2, x - SIG[1] / 2)
    mean = np.where(r < radius, counts, counts * 0.25 * np.exp(-(r - radius) / 25))
    return np.concatenate([rng.poisson(mean, (min(64, n - i), *SIG)).astype(np.uint16) for i in range(0, n, 64)])


def ours(path: str, dtype: str) -> Callable[[], object]:
    def run() -> int:
        return sum(tile.shape[0] for tile in gpuio.open(path, device="cpu").tiles(dtype=dtype))

    return run


def theirs(path: str, dtype: str) -> Callable[[], object]:
    def run() -> int:
        with h5py.File(path) as file:
            found = file["data"]
            count = 0
            for i in range(0, len(found), AT_ONCE):
                count += len(found[i:i + AT_ONCE].astype(dtype, copy=False))
            return count

    return run


def theirs_direct(path: str, dtype: str) -> Callable[[], object]:
    raw, out = np.empty((AT_ONCE, *SIG), np.uint16), np.empty((AT_ONCE, *SIG), dtype)

    def run() -> int:
        with h5py.File(path) as file:
            found = file["data"]
            for i in range(0, len(found), AT_ONCE):
                found.read_direct(raw, np.s_[i:i + AT_ONCE])
                if dtype != "u2":
                    np.copyto(out, raw)
            return len(found)

    return run


def measure(rounds: int = 5, names: Collection[str] = (), n: int = FRAMES) -> list[dict[str, object]]:
    """Two rows a case, one for each dtype of the tiles."""
    rows: list[dict[str, object]] = []
    frames = disc_frames(n)
    for name, storage, wanted in CASES:
        if names and name not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder, "scan.h5"))
            with h5py.File(path, "w") as file:
                file.create_dataset("data", data=frames, chunks=(1, *SIG), **storage)
            if storage:
                np.testing.assert_array_equal(gpuio.open(path, device="cpu")[::97], frames[::97])
            for dtype in ("u2", "f4"):
                times = interleaved({"gpuio": ours(path, dtype), "h5py": theirs(path, dtype), "direct": theirs_direct(path, dtype)}, rounds)
                size = frames.nbytes / 1e6
                rows.append({
                    "case": f"{name} to {dtype}", "packed to": f"{os.path.getsize(path) / frames.nbytes:.0%}",
                    "gpuio MB/s": size / times["gpuio"].wall, "h5py MB/s": size / times["h5py"].wall,
                    "read_direct MB/s": size / times["direct"].wall, "ratio": times["h5py"].wall / times["gpuio"].wall,
                    "ratio to read_direct": times["direct"].wall / times["gpuio"].wall, "wanted": wanted,
                    "CPU ratio": times["h5py"].cpu / times["gpuio"].cpu, "spread": times["gpuio"].spread,
                })
    return rows


def test_hdf5(benchmark: Any) -> None:
    """Few frames; recorded as extra_info."""
    record(benchmark, lambda: measure(quick.ROUNDS, n=quick.CHUNKS), "case", ["ratio", "ratio to read_direct"])


if __name__ == "__main__":
    show(measure(names=words()))
