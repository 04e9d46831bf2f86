"""The same files through gpuio, LiberTEM and NumPy: float32 tiles, one thread, page cache warm, one run, interleaved.

``python -m benchmarks.bench_peers`` prints the table; ``pytest benchmarks/bench_peers.py`` records it with pytest-benchmark.
Raw MB/s are packed bytes per CPU second. LiberTEM gets the tiling scheme that it negotiates for a UDF by tile.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gpuio
from benchmarks.measure import interleaved, table

RAW_BYTES = 48 << 20
#: name, writer, writer's options, load's options, bits a pixel, sig shape, least ratio over LiberTEM that we want to see
CASES: list[tuple[str, str, dict[str, Any], int, tuple[int, int], float]] = [
    ("mib r1", "mib", {"kind": "R1"}, 1, (256, 256), 5),
    ("mib r6", "mib", {"kind": "R6"}, 8, (256, 256), 3),
    ("mib r12", "mib", {"kind": "R12"}, 16, (256, 256), 2),
    ("mib r24", "mib", {"kind": "R24"}, 32, (256, 256), 6),
    ("quad r1", "mib", {"kind": "R1", "layout": "2x2"}, 1, (512, 512), 8),
    ("quad r6", "mib", {"kind": "R6", "layout": "2x2"}, 8, (512, 512), 6),
    ("quad r12", "mib", {"kind": "R12", "layout": "2x2"}, 16, (512, 512), 4),
    ("mib u16", "mib", {"kind": "U16"}, 16, (256, 256), 1.5),
    ("raw <u2", "raw", {"dtype": "<u2"}, 16, (256, 256), 2),
    ("raw >u2", "raw", {"dtype": ">u2"}, 16, (256, 256), 2),
]


def make(folder: Path, case: tuple[str, str, dict[str, Any], int, tuple[int, int], float]) -> tuple[str, str, dict[str, Any]]:
    """Write a file of honest random counts; returns format, path and what to load it with."""
    from gpuio import synth

    name, fmt, options, bits, sig, _ = case
    n = max(8, RAW_BYTES * 8 // (bits * sig[0] * sig[1])) // 8 * 8
    rng = np.random.default_rng(1)
    top = {1: 2, 8: 64, 16: 4096, 32: 1 << 24}[bits]

    def frames() -> Any:
        for first in range(0, n, 64):
            yield rng.integers(0, top, (min(64, n - first), *sig), dtype=np.uint32)

    nav = (n // 8, 8)
    path = folder / f"{name.replace(' ', '_').replace('<', 'le').replace('>', 'be')}.{fmt}"
    synth.write(fmt, str(path), frames(), nav_shape=nav, sig_shape=sig, **options)
    load = {"nav_shape": nav} if fmt == "mib" else {"nav_shape": nav, "sig_shape": sig, "dtype": options["dtype"]}
    return fmt, str(path), load


def gpuio_tiles(fmt: str, path: str, load: dict[str, Any]) -> Callable[[], object]:
    ds = gpuio.load(fmt, path=path, device="cpu", **load)

    def run() -> object:
        count = 0
        for tile in ds.tiles(dtype="float32"):
            count += tile.shape[0]
        assert count == ds.image_count
        return count

    return run


def libertem_tiles(fmt: str, path: str, load: dict[str, Any]) -> Callable[[], object]:
    from libertem.api import Context
    from libertem.io.dataset.base import Negotiator
    from libertem.udf.sum import SumUDF

    ctx = Context.make_with("inline")
    backend: dict[str, Any] = {}
    if fmt == "mib" and "r1" in Path(path).name:      # its default backend refuses 1-bit data
        from libertem.io.dataset.base import BufferedBackend

        backend = {"io_backend": BufferedBackend()}
    ds = ctx.load(fmt, path=path, **load, **backend)
    ds.set_num_cores(1)
    parts = list(ds.get_partitions())
    scheme = Negotiator().get_scheme(udfs=[SumUDF()], dataset=ds, read_dtype=np.float32, approx_partition_shape=parts[0].shape)

    def run() -> object:
        count = 0
        for part in ds.get_partitions():
            for tile in part.get_tiles(scheme, dest_dtype=np.float32):
                count += tile.size
        assert count == ds.shape.size
        return count

    return run


def raw_bytes(path: str) -> int:
    return Path(path).stat().st_size


def measure(rounds: int = 7) -> list[dict[str, object]]:
    """One row a case."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            fmt, path, load = make(Path(folder), case)
            copy = np.fromfile(path, dtype=np.uint8)
            target = np.empty_like(copy)
            times = interleaved({
                "gpuio": gpuio_tiles(fmt, path, load),
                "libertem": libertem_tiles(fmt, path, load),
                "memcpy": lambda copy=copy, target=target: np.copyto(target, copy),
            }, rounds)
            size = raw_bytes(path) / 1e6
            rows.append({
                "case": case[0], "gpuio MB/s": size / times["gpuio"].cpu, "LiberTEM MB/s": size / times["libertem"].cpu,
                "ratio": times["libertem"].cpu / times["gpuio"].cpu, "wanted": float(case[5]),
                "share of memcpy": times["memcpy"].cpu / times["gpuio"].cpu, "spread": times["gpuio"].spread,
            })
            Path(path).unlink()
    return rows


def measure_views(rounds: int = 9) -> dict[str, object]:
    """Native tiles of an NPY file, every byte touched, beside slices of `np.memmap`; opening included on both sides."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "scan.npy")
        np.save(path, np.random.default_rng(1).integers(0, 4096, (2048, 256, 256), dtype=np.uint16))

        def ours() -> int:
            return max(int(tile.data.max()) for tile in gpuio.open(path, device="cpu").tiles())

        def theirs() -> int:
            array = np.load(path, mmap_mode="r")
            return max(int(array[i:i + 16].max()) for i in range(0, len(array), 16))

        assert ours() == theirs()
        times = interleaved({"gpuio": ours, "memmap": theirs}, rounds)
        size = raw_bytes(path) / 1e6
        return {"case": "npy native", "gpuio MB/s": size / times["gpuio"].cpu, "np.memmap MB/s": size / times["memmap"].cpu,
                "ratio": times["memmap"].cpu / times["gpuio"].cpu, "spread": times["gpuio"].spread}


def test_peers(benchmark: Any) -> None:
    """Recorded as extra_info; never judged in a test, since shared machines are noisy."""
    rows: list[dict[str, object]] = []
    benchmark.pedantic(lambda: rows.extend(measure(3)), rounds=1)
    benchmark.extra_info["rows"] = rows
    print("\n" + table(rows))


if __name__ == "__main__":
    result = measure()
    views = measure_views()
    print(json.dumps({"tiles": result, "views": views}, indent=1) if "--json" in sys.argv else f"{table(result)}\n\n{table([views])}")
