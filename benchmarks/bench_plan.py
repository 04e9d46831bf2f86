"""Planning: how long until the bytes of N frames are known? It should never be noticed.

``python -m benchmarks.bench_plan`` prints the table; beside it, one pass of NumPy over as many numbers (`numpy.cumsum`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks import quick
from benchmarks.measure import interleaved, record, show
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


def measure(rounds: int = 5, counts: Sequence[int] = FRAMES) -> list[dict[str, object]]:
    """A row for each number of frames and files, of all frames and of a tenth."""
    rows: list[dict[str, object]] = []
    for frames in counts:
        numbers = np.arange(frames)
        runs = {f"{frames} frames in {files} files, {'a tenth' if sparse else 'all'}": plan(layout(frames, files), sparse)
                for files in (1, 100) for sparse in (False, True)}
        times = interleaved({**runs, "sum": lambda numbers=numbers: np.cumsum(numbers)}, rounds)
        rows += [{"plan": name, "ms": times[name].wall * 1e3, "of a running sum": times["sum"].wall / times[name].wall} for name in runs]
    return rows


def test_plan(benchmark: Any) -> None:
    """Not the largest numbers; recorded as extra_info."""
    record(benchmark, lambda: measure(quick.ROUNDS, quick.PLANNED), "plan", ["of a running sum"])


if __name__ == "__main__":
    show(measure())
