"""How a data set is cut into chunks of whole frames.

Leading scan axes are cut into single positions until what is left fits the size of a chunk, one axis is cut into runs,
further ones stay whole. Runs end where files do, or chunks of HDF5, as far as that leaves them at least half as long. Where
chunks of HDF5 span several scan lines, all axes are cut in whole ones of them.
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
    return (*nav_chunks(nav, depth, _starts(ds), _unit(ds)), *((n,) for n in sig))


def nav_chunks(nav: tuple[int, ...], depth: int, starts: np.ndarray, unit: tuple[int, ...] | None = None) -> tuple[tuple[int, ...], ...]:
    """Chunks of at most `depth` positions, but of whole units.

    Parameters
    ----------
    starts : int64[n]
        Flat positions at which a file begins; those outside of the scan do not count.
    unit
        Positions along each axis that belong together. Default: single ones.
    """
    if unit is None:
        unit = (1,) * len(nav)
    for axis in range(len(nav)):
        inner, lines = math.prod(nav[axis + 1:]), math.prod(unit[:axis])
        if unit[axis] * inner * lines <= depth:
            break
    outer = math.prod(nav[:axis])
    starts = starts[(starts > 0) & (starts < math.prod(nav)) & (starts % inner == 0)]
    # A file has to begin there in every repetition of the axis.
    cuts = np.flatnonzero(np.bincount(starts // inner % nav[axis], minlength=nav[axis]) == outer)
    runs = _runs(nav[axis], max(1, depth // (inner * lines)), cuts, unit[axis])
    none = np.zeros(0, dtype=np.int64)
    return (*(_runs(n, u, none, u) for n, u in zip(nav[:axis], unit, strict=False)), runs, *((n,) for n in nav[axis + 1:]))


def _starts(ds: DataSet) -> np.ndarray:
    """Flat positions at which a file or a chunk of frames that follow each other begins: int64[n]."""
    chunks = ds.layout.chunks
    if chunks is None:
        return np.concatenate([np.zeros(0, dtype=np.int64), *(part.get_as_arr()[:, 0] for part in ds.layout.parts[:1])]) - ds.sync_offset
    found = [np.zeros(0, dtype=np.int64)]
    for grid in chunks.grids:
        if grid.is_linear:
            rows, _ = grid.locate(grid.start_idx + np.arange(math.prod(grid.nav_shape)))
            found.append(np.flatnonzero(np.diff(rows, prepend=-1)) + grid.start_idx)
    return np.concatenate(found) - ds.sync_offset


def _unit(ds: DataSet) -> tuple[int, ...] | None:
    """Positions of a chunk along each axis, where it spans several lines of the scan as it is shown."""
    chunks = ds.layout.chunks
    if chunks is None or len(chunks.grids) != 1 or ds.sync_offset:
        return None
    grid = chunks.grids[0]
    return None if grid.is_linear or grid.nav_shape != tuple(ds.shape.nav) else grid.nav_chunk


def _runs(length: int, most: int, cuts: np.ndarray, unit: int) -> tuple[int, ...]:
    """Cut an axis into runs of at most `most`, but of whole units: at `cuts` in the second half of a run, else evenly."""
    most = max(unit, most // unit * unit)
    edges = [0]
    while (rest := length - edges[-1]) > 0:
        even = -(-rest // -(-rest // most))
        first, last = np.searchsorted(cuts, (edges[-1] + (most + 1) // 2, edges[-1] + most + 1))
        end = int(cuts[last - 1]) if rest > most and last > first else edges[-1] + -(-even // unit) * unit
        edges.append(min(end, length))
    return tuple(np.diff(edges).tolist())
