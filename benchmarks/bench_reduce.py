"""Sums of a whole scan: of each frame and over all frames. gpuio does both in one pass; LiberTEM's `SumUDF` and `SumSigUDF` do one each.

Page cache warm, one thread, integers exact on gpuio's side. ``python -m benchmarks.bench_reduce`` prints the table; names of cases as
arguments run these only. Raw MB/s are packed bytes per CPU second, "touched" is the rate of one pass that looks at each byte of the
mapped file and does nothing else (`numpy.bitwise_or` over 64-bit words): the page cache's own limit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

import gpuio
from benchmarks import quick
from benchmarks.bench_peers import CASES, VIEW_BYTES, make, raw_bytes
from benchmarks.measure import interleaved, record, show, words

#: Least ratio over `SumUDF` that we want to see.
WANTED = {"mib u16": 4.0, "raw <u2": 4.0, "raw >u2": 4.0, "mib r6": 6.0, "mib r12": 6.0, "quad r12": 6.0}


def libertem_sums(fmt: str, path: str, load: dict[str, Any]) -> Callable[[], object]:
    """`SumUDF` over the data set, in this process and thread."""
    from libertem.api import Context
    from libertem.udf.sum import SumUDF

    ctx = Context.make_with("inline")
    ds = ctx.load(fmt, path=path, **load)
    ds.set_num_cores(1)
    return lambda: ctx.run_udf(dataset=ds, udf=SumUDF())


def touched(path: str) -> Callable[[], object]:
    words = raw_bytes(path) // 8
    return lambda: np.bitwise_or.reduce(np.memmap(path, dtype=np.uint64, mode="r", shape=(words,)))


def measure(rounds: int = 7, names: Collection[str] = (), n_bytes: int = VIEW_BYTES) -> list[dict[str, object]]:
    """One row a case; all of them, or those named."""
    rows: list[dict[str, object]] = []
    for case in CASES:
        if case[0] not in (names or WANTED):
            continue
        with tempfile.TemporaryDirectory() as folder:
            fmt, path, load = make(Path(folder), case, n_bytes)
            ds = gpuio.load(fmt, path=path, device="cpu", **load)
            times = interleaved({"gpuio": ds.summary, "libertem": libertem_sums(fmt, path, load), "touched": touched(path)}, rounds)
            size = raw_bytes(path) / 1e6
            rows.append({"case": case[0], "gpuio MB/s": size / times["gpuio"].cpu, "LiberTEM MB/s": size / times["libertem"].cpu,
                         "ratio": times["libertem"].cpu / times["gpuio"].cpu, "wanted": WANTED.get(case[0], 1.0),
                         "touched MB/s": size / times["touched"].cpu,
                         "of touching": times["touched"].cpu / times["gpuio"].cpu, "spread": times["gpuio"].spread})
    return rows


def test_reduce(benchmark: Any) -> None:
    """Small files; recorded as extra_info."""
    record(benchmark, lambda: measure(quick.ROUNDS, n_bytes=quick.LARGE_BYTES), "case", ["ratio", "of touching"])


if __name__ == "__main__":
    show(measure(names=words()))
