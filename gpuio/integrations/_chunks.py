"""How a data set is cut into chunks of whole frames.

Leading scan axes are cut into single positions until what is left fits the size of a chunk, one axis is cut into runs,
further ones stay whole. Runs end where files do, as far as that leaves them at least half as long.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from gpuio.base import DataSet

#: Bytes of a chunk, as dask has it.
CHUNK_BYTES = 128 << 20


def frame_chunks(ds: DataSet, dtype: np.dtype, n_bytes: int = CHUNK_BYTES) -> tuple[tuple[int, ...], ...]:
    """Sizes of chunks along each axis: whole frames of `dtype`, together at most about `n_bytes`, at least one."""
    nav, sig = tuple(ds.shape.nav), tuple(ds.shape.sig)
    depth = max(1, n_bytes // (math.prod(sig) * dtype.itemsize))
    parts = ds.layout.parts
    starts = parts[0].get_as_arr()[:, 0] - ds.sync_offset if parts else np.zeros(0, dtype=np.int64)
    return (*nav_chunks(nav, depth, starts), *((n,) for n in sig))


def nav_chunks(nav: tuple[int, ...], depth: int, file_starts: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """Chunks of at most `depth` positions.

    Parameters
    ----------
    file_starts : int64[n]
        Flat positions at which a file begins; those outside of the scan do not count.
    """
    axis = next((k for k in range(len(nav)) if math.prod(nav[k + 1:]) <= depth), len(nav) - 1)
    inner, outer = math.prod(nav[axis + 1:]), math.prod(nav[:axis])
    starts = file_starts[(file_starts > 0) & (file_starts < math.prod(nav)) & (file_starts % inner == 0)]
    # A file has to begin there in every repetition of the axis.
    cuts = np.flatnonzero(np.bincount(starts // inner % nav[axis], minlength=nav[axis]) == outer)
    return (*((1,) * n for n in nav[:axis]), _runs(nav[axis], max(1, depth // inner), cuts), *((n,) for n in nav[axis + 1:]))


def _runs(length: int, most: int, cuts: np.ndarray) -> tuple[int, ...]:
    """Cut an axis into runs of at most `most`, at `cuts` where they lie in the second half of a run, else evenly."""
    edges = [0]
    while (rest := length - edges[-1]) > 0:
        even = -(-rest // -(-rest // most))
        first, last = np.searchsorted(cuts, (edges[-1] + (most + 1) // 2, edges[-1] + most + 1))
        edges.append(int(cuts[last - 1]) if rest > most and last > first else edges[-1] + even)
    return tuple(np.diff(edges).tolist())
