"""Planning: how long until the bytes of N frames are known? It should never be noticed.

``python -m benchmarks.bench_plan`` prints the table.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from benchmarks.measure import interleaved, table
from gpuio.fileset import File, FileSet
from gpuio.geometry.plan import make_plan
from gpuio.layout import Encoding, Layout, plain_pieces

FRAMES = [10**3, 10**4, 10**5, 10**6, 10**7]
SIG = (256, 256)


def layout(frames: int, files: int) -> Layout:
    """A scan of u2 frames with headers of 384 bytes, in equal files."""
    edges = np.linspace(0, frames, files + 1).astype(int).tolist()
    members = [File(f"f{i}", a, b, np.dtype("u2"), SIG, 0, 384) for i, (a, b) in enumerate(pairwise(edges))]
    return Layout(format="bench", parts=(FileSet(members),), encoding=Encoding.of("u2"), pieces=plain_pieces(SIG, 512),
                  sig_shape=SIG, image_count=frames)


def plan(lay: Layout, sparse: bool) -> Any:
    """All frames in blocks of two, or a random tenth of them."""
    frames = np.arange(lay.image_count)
    if sparse:
        frames = frames[np.random.default_rng(1).random(len(frames)) < 0.1]
    edges = np.append(np.arange(0, len(frames), 2), len(frames)).astype(np.int64)
    placements = lay.placements
    return lambda: make_plan(lay, frames, edges, placements)


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("files", [1, 100])
@pytest.mark.parametrize("sparse", [False, True], ids=["all", "tenth"])
def test_plan(benchmark: Any, frames: int, files: int, sparse: bool) -> None:
    result = benchmark(plan(layout(frames, files), sparse))
    benchmark.extra_info["read amplification"] = result.read_bytes / result.needed_bytes


if __name__ == "__main__":
    rows = []
    for n in FRAMES:
        runs = {f"{files} files, {'a tenth' if sparse else 'all'}": plan(layout(n, files), sparse)
                for files in (1, 100) for sparse in (False, True)}
        times = interleaved(runs, 5)
        rows.append({"frames": n, **{name: times[name].wall * 1e3 for name in runs}})
    print("milliseconds to plan")
    print(table(rows))
