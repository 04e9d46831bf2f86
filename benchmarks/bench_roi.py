"""A part of a scan: how much more than needed is read, in how many requests, and how the time falls with the part?

``python -m benchmarks.bench_roi`` prints the table: scattered positions and whole lines of a scan of 16-bit frames of 128 x 128, page
cache warm. *Of all* is the rate in needed bytes beside that of the whole scan.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import gpuio
from benchmarks import quick
from benchmarks.measure import interleaved, record, show
from gpuio import synth

NAV, SIG = (64, 64), (128, 128)
PARTS = (1.0, 0.5, 0.1, 0.01, 0.001)


def masks() -> dict[str, np.ndarray]:
    """Regions of interest by what they are."""
    rng, found = np.random.default_rng(1), {}
    for part in PARTS:
        scattered = np.zeros(NAV[0] * NAV[1], bool)
        scattered[rng.choice(scattered.size, max(1, int(part * scattered.size)), replace=False)] = True
        found[f"scattered {part:g}"] = scattered.reshape(NAV)
    rectangle = np.zeros(NAV, bool)
    rectangle[10:30, 20:40] = True
    lines = np.zeros(NAV, bool)
    lines[::4] = True
    return {**found, "rectangle 0.1": rectangle, "every fourth line": lines}


def stream(ds: gpuio.DataSet, roi: np.ndarray) -> None:
    """All tiles of a region."""
    for _ in ds.tiles(dtype="float32", roi=roi):
        pass


def measure(rounds: int = 7, sig: tuple[int, int] = SIG,
            transports: tuple[str, ...] = ("buffered", "mmap", "direct")) -> list[dict[str, object]]:
    """A row a region and transport."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(2)
        path = synth.write("mib", Path(folder) / "scan.mib", (rng.integers(0, 4096, (64, *sig), dtype=np.uint16) for _ in range(64)),
                           nav_shape=NAV, sig_shape=sig, kind="U16")[0]
        for transport in transports:
            cls = gpuio.IOBackend.get_cls_by_id(transport)
            if cls is None or cls().unavailable(path) is not None:
                continue
            ds = gpuio.open(path, device="cpu", io_backend=cls())
            runs = {name: partial(stream, ds, roi) for name, roi in masks().items()}
            times = interleaved(dict(runs), rounds)
            plans = {name: ds.explain(dtype="float32", roi=roi) for name, roi in masks().items()}
            rate = {name: plans[name].needed_bytes / times[name].cpu / 1e9 for name in runs}
            rows += [{"region": f"{name}, {transport}", "frames": plans[name].frames, "requests": plans[name].extents or 0,
                      "bytes read for each needed": plans[name].amplification, "needed GB/CPU s": rate[name],
                      "of all": rate[name] / rate["scattered 1"]} for name in runs]
    return rows


def test_roi(benchmark: Any) -> None:
    """Recorded as extra_info."""
    record(benchmark, lambda: measure(quick.ROUNDS, quick.ROI_SIG), "region", ["of all"])


if __name__ == "__main__":
    show(measure())
