"""Every encoding from the page cache to tiles, beside the floor: packed bytes once into the CPU's cache, tiles written once.

``python -m benchmarks.bench_floor [NAME ...]`` prints the table: native, float32, and float32 with dark and gain, one thread, files
of `BYTES` in the page cache, *of floor* by CPU time. Tiles stay in the CPU's cache: those of K2IS are parts of frames. On a GPU the same
by ``python -m benchmarks.evidence``.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

import gpuio
from benchmarks import quick
from benchmarks.measure import interleaved, record, show, words
from gpuio.base import CorrectionSet
from gpuio.bench import data
from gpuio.bench.limits import reading, writing
from gpuio.bench.subject import Range, look

BYTES = 64 << 20
#: Name, format, options of the writer.
CASES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("u8", "raw", {"dtype": "u1"}), ("<u2", "raw", {"dtype": "<u2"}), (">u2", "raw", {"dtype": ">u2"}), ("<u4", "raw", {"dtype": "<u4"}),
    ("<f4", "raw", {"dtype": "<f4"}), (">f4", "raw", {"dtype": ">f4"}),
    ("R1", "mib", {"kind": "R1"}), ("R6", "mib", {"kind": "R6"}), ("R12", "mib", {"kind": "R12"}), ("R24", "mib", {"kind": "R24"}),
    ("R1 quad", "mib", {"kind": "R1", "layout": "2x2", "sig_shape": (512, 512)}),
    ("R6 quad", "mib", {"kind": "R6", "layout": "2x2", "sig_shape": (512, 512)}),
    ("R12 quad", "mib", {"kind": "R12", "layout": "2x2", "sig_shape": (512, 512)}),
    ("12 bit K2IS", "k2is", {"scan": False}), ("folded u2 FRMS6", "frms6", {"sig_shape": (264, 264)}), ("f4 EMPAD", "empad", {}),
)
TARGETS = ("native", "float32", "float32, dark and gain")


def measure(rounds: int = 7, n_bytes: int = BYTES, names: Collection[str] = ()) -> list[dict[str, object]]:
    """A row an encoding."""
    rows: list[dict[str, object]] = []
    for name, format, options in CASES:
        if names and name not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            path, parameters = data.make(Path(folder), format, n_bytes, options)
            ds = data.opened(path, format, "cpu", parameters, None)
            times = interleaved(candidates(ds), rounds)
            packed = ds.explain().needed_bytes / 1e9
            row: dict[str, object] = {"encoding": name}
            for target in TARGETS:
                floor = times[f"floor, {'native' if target == 'native' else 'float32'}"]
                row |= {f"{target}, GB/CPU s": packed / times[target].cpu, f"{target}, of floor": floor.cpu / times[target].cpu}
            rows.append({**row, "spread": times["float32"].spread})
    return rows


def candidates(ds: gpuio.DataSet) -> dict[str, Callable[[], object]]:
    """Streams and floors by name."""
    sig = tuple(ds.shape.sig)
    rng, plain = np.random.default_rng(2), CorrectionSet()
    maps = CorrectionSet(dark=rng.normal(10, 1, sig).astype("f4"), gain=rng.normal(1, 0.1, sig).astype("f4"))
    ranges = [Range(path, 0, os.path.getsize(path)) for path in map(str, ds.layout.paths)]
    whole = sum(part.size for part in ranges)

    def stream(dtype: Any, corrections: CorrectionSet) -> Callable[[], None]:
        def run() -> None:
            for tile in ds.tiles(dtype, corrections=corrections, tiling_scheme=ds.cache_scheme(dtype, corrections=corrections)):
                look(tile.data)
        return run

    def floor(itemsize: int) -> Callable[[], None]:
        after = writing(ds.image_count * ds.shape.sig.size * itemsize / whole)
        return lambda: reading(ranges, after=after)

    return {"native": stream(None, plain), "float32": stream("float32", plain), "float32, dark and gain": stream("float32", maps),
            "floor, native": floor(ds.layout.dtype.itemsize), "floor, float32": floor(4)}


def test_floor(benchmark: Any) -> None:
    """Small files; recorded as extra_info."""
    record(benchmark, lambda: measure(quick.ROUNDS, quick.BYTES), "encoding", [f"{target}, of floor" for target in TARGETS])


if __name__ == "__main__":
    show(measure(names=words()))
