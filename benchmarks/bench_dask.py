"""dask over a scan: what do its workers make of two threads or processes, beside ``ds.summary()`` in one thread?

``python -m benchmarks.bench_dask`` prints the table: the sum over all frames of a scan of 12-bit frames, page cache warm, wall time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gpuio
from benchmarks import quick
from benchmarks.measure import interleaved, record, show
from gpuio import synth

NAV, SIG = (32, 64), (256, 256)


def measure(rounds: int = 5, workers: tuple[int, ...] = (1, 2), lines: int = NAV[0]) -> list[dict[str, object]]:
    """A row a kind and number of workers."""
    import dask
    from distributed import Client

    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(1)
        frames = (rng.integers(0, 4096, (NAV[1], *SIG), dtype=np.uint16) for _ in range(lines))
        paths = synth.write("mib", Path(folder) / "scan.mib", frames, nav_shape=(lines, NAV[1]), sig_shape=SIG, kind="R12")
        path = next(path for path in paths if path.endswith(".mib"))
        ds = gpuio.open(path, device="cpu")
        total = ds.to_dask().sum(axis=(0, 1), dtype=np.float64)
        truth = ds.sum_nav()

        def threads(n: int) -> Callable[[], object]:
            def run() -> object:
                with dask.config.set(scheduler="threads", num_workers=n):
                    return total.compute()
            return run

        candidates: dict[str, Callable[[], object]] = {"ds.sum_nav(), no dask": ds.sum_nav}
        candidates |= {f"dask, {n} threads": threads(n) for n in workers}
        clients = {n: Client(n_workers=n, threads_per_worker=1, processes=True, dashboard_address=None) for n in workers}
        try:
            candidates |= {f"dask, {n} processes": lambda n=n: clients[n].compute(total).result() for n in workers}
            for run in candidates.values():
                np.testing.assert_array_equal(np.asarray(run(), dtype=np.float64), truth.astype(np.float64))
            times = interleaved(candidates, rounds)
        finally:
            for client in clients.values():
                client.close()
        size = Path(path).stat().st_size / 1e9
        base = times["ds.sum_nav(), no dask"].wall
        return [{"sum over all frames": name, "GB/s": size / t.wall, "of ds.sum_nav()": base / t.wall, "spread": t.spread}
                for name, t in times.items()]


def test_dask(benchmark: Any) -> None:
    """A small scan; recorded as extra_info."""
    record(benchmark, lambda: measure(quick.ROUNDS, lines=quick.DASK_LINES), "sum over all frames", ["of ds.sum_nav()"])


if __name__ == "__main__":
    show(measure())
