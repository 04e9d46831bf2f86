"""LiberTEM from the file to the result, read by gpuio and by LiberTEM itself: page cache warm, one run, interleaved.

``python -m benchmarks.bench_libertem`` prints the table; ``pytest benchmarks/bench_libertem.py`` records it with pytest-benchmark.
Times are CPU milliseconds of ``ctx.run_udf`` in the inline executor with one thread, everything included. Names of algorithms as
arguments run these only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

import gpuio
from benchmarks import quick
from benchmarks.measure import interleaved, record, show, words

FILE_BYTES = 192 << 20
#: name, layout of the chips, sig shape
FILES = [("quad r12", "2x2", (512, 512)), ("mib r12", "1x1", (256, 256))]
#: Least ratio over LiberTEM's own reader that we want to see: SumUDF over a quad.
WANTED = {("quad r12", "sum"): 3.0}


def algorithms(sig: tuple[int, int]) -> dict[str, Callable[[], Any]]:
    """What is run, by name."""
    from libertem.udf.com import CoMUDF
    from libertem.udf.masks import ApplyMasksUDF
    from libertem.udf.stddev import StdDevUDF
    from libertem.udf.sum import SumUDF
    from libertem.udf.sumsigudf import SumSigUDF

    def masks(count: int) -> Callable[[], Any]:
        return lambda: ApplyMasksUDF(lambda: np.random.default_rng(1).random((count, *sig), dtype="f4"), use_sparse=False,
                                     mask_count=count, mask_dtype=np.dtype("f4"))

    return {"sum": SumUDF, "sumsig": SumSigUDF, "com": CoMUDF.with_params, "stddev": StdDevUDF, "1 mask": masks(1), "16 masks": masks(16)}


def measure(rounds: int = 7, names: Collection[str] = (), n_bytes: int = FILE_BYTES) -> list[dict[str, object]]:
    """One row for each file and algorithm; all algorithms, or those named."""
    from libertem.api import Context
    from libertem.executor.inline import InlineJobExecutor

    from gpuio import synth

    rows: list[dict[str, object]] = []
    with Context(InlineJobExecutor(inline_threads=1)) as ctx:
        for file, layout, sig in FILES:
            n = n_bytes // (2 * sig[0] * sig[1])
            rng = np.random.default_rng(1)
            frames = (rng.integers(0, 4096, (16, *sig), dtype="u2") for _ in range(n // 16))
            with tempfile.TemporaryDirectory() as folder:
                hdr = synth.write("mib", str(Path(folder) / "scan.mib"), frames, nav_shape=(n // 16, 16), sig_shape=sig, layout=layout)[0]
                sets = {"gpuio": gpuio.libertem.load(ctx, "mib", path=hdr, device="cpu"), "libertem": ctx.load("mib", path=hdr)}
                for name, make in algorithms(sig).items():
                    if names and name not in names:
                        continue
                    times = interleaved({reader: lambda ds=ds, make=make: ctx.run_udf(ds, make()) for reader, ds in sets.items()}, rounds)
                    rows.append({
                        "case": f"{file}, {name}", "gpuio ms": times["gpuio"].cpu * 1e3, "LiberTEM ms": times["libertem"].cpu * 1e3,
                        "ratio": times["libertem"].cpu / times["gpuio"].cpu, "wanted": WANTED.get((file, name), 1.0),
                        "spread": times["gpuio"].spread,
                    })
    return rows


def test_libertem(benchmark: Any) -> None:
    """Small files; recorded as extra_info."""
    record(benchmark, lambda: measure(quick.ROUNDS, quick.ALGORITHMS, quick.LARGE_BYTES), "case", ["ratio"])


if __name__ == "__main__":
    show(measure(names=words()))
