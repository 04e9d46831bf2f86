"""dask: a data set as an array whose chunks are read and decoded when they are wanted.

The graph holds the data set once, as paths and numbers, and chunks as a rule, not one by one: it has the same size for any
number of pixels, and no bytes of a file are in it. Chunks are independent and read-only, so that they run on threads,
processes and machines, and a lost one is computed again. Slicing is passed down: of a chunk, only the frames and detector
rows asked for are read.

The default chunks are whole frames. Leading scan axes are cut into single positions until what is left fits the size of a
chunk, one axis is cut into runs, further ones stay whole; runs end where files do, as far as that leaves them at least
half as long.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuio.extras import extra
from gpuio.integrations._outer import outer

with extra("dask"):
    import dask.array
    from dask.array.core import normalize_chunks
    from dask.tokenize import tokenize
    from dask.utils import SerializableLock, parse_bytes

if TYPE_CHECKING:
    from gpuio.base import CorrectionSet, DataSet
    from gpuio.layout import Layout


def to_dask(ds: DataSet, *, chunks: Any = "auto", device: str | None = None, dtype: Any = None, corrections: CorrectionSet | None = None,
            lock: Any = None) -> dask.array.Array:
    """A data set as a dask array.

    Parameters
    ----------
    ds
        Initialized.
    chunks
        ``"auto"``: whole frames of together about dask's ``array.chunk-size`` (128 MiB), aligned to files; a size such as
        ``"32 MiB"``: the same with another size. Otherwise as dask takes it (numbers, tuples, a dict by axis), where sig axes
        that are not named stay whole: a number is that of scan positions along each nav axis.
    device
        Where chunks are decoded: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; None is that of the data set here and now.
    dtype, corrections
        As `DataSet.tiles`.
    lock
        Held while a chunk is read and decoded: a lock, True for one of this array's own, False for none. None: one for each
        GPU and process, so that reads share neither bus nor memory; none on the CPU.

    Returns
    -------
    dask.array.Array
        dtype[nav, sig] of CuPy or NumPy chunks, zero where positions are blank. Its name is the same for the same files
        (path, size, time of change) and options, in any process.

    Raises
    ------
    ValueError
        `chunks` does not fit the shape.
    OSError
        A file is not there.
    """
    ds = ds.to(device or ds.device)
    pixels = _Pixels(ds, dtype, corrections)
    cut = _chunks(ds, chunks, pixels.dtype)
    if lock is None and ds.device != "cpu":
        lock = SerializableLock(f"gpuio-{ds.device}")
    name = f"gpuio-{ds.format}-{_token(pixels, cut)}"
    return dask.array.from_array(pixels, cut, name=name, lock=lock or False, asarray=False, meta=pixels[:0])


class _Pixels:
    """A data set with options, as something that dask can slice."""

    def __init__(self, ds: DataSet, dtype: Any, corrections: CorrectionSet | None) -> None:
        self.ds, self.corrections = ds, corrections
        self.shape, self.ndim = tuple(ds.shape), len(ds.shape)
        self.dtype = ds.output_dtype(dtype, corrections)

    def __getitem__(self, key: Any) -> Any:
        return outer(self.ds, key, dtype=self.dtype, corrections=self.corrections)


def _token(pixels: _Pixels, chunks: Any) -> str:
    """The same for the same pixels in the same chunks."""
    ds, corrections = pixels.ds, pixels.corrections
    maps = None if corrections is None else (
        corrections.get_dark_frame(), corrections.get_gain_map(), corrections.get_excluded_pixels())
    files = [(path, found.st_size, found.st_mtime_ns) for path in sorted(_files(ds.layout)) for found in (os.stat(path),)]
    return str(tokenize(ds.format, ds.get_cache_key(), ds.image_count, files, ds.device, pixels.dtype, maps, chunks))


def _files(layout: Layout) -> set[str]:
    """Absolute paths of all files with pixels, dark frames and gain maps."""
    paths = [layout.strided.path] if layout.strided is not None else [file.path for file in layout.numbered_files()[0]]
    found = set(map(os.path.abspath, paths))
    return found.union(*(_files(further) for further in (layout.dark, layout.gain) if further is not None))


# -- chunks ----------------------------------------------------------------------------------------------------------


def _chunks(ds: DataSet, chunks: Any, dtype: np.dtype) -> tuple[tuple[int, ...], ...]:
    """Sizes of chunks along each axis."""
    nav, sig = tuple(ds.shape.nav), tuple(ds.shape.sig)
    if isinstance(chunks, str):
        size = parse_bytes(dask.config.get("array.chunk-size") if chunks == "auto" else chunks)
        depth = max(1, size // (math.prod(sig) * dtype.itemsize))
        return (*_nav_chunks(nav, depth, _file_starts(ds)), *((n,) for n in sig))
    if not isinstance(chunks, dict):
        named = tuple(chunks) if isinstance(chunks, (list, tuple)) else (chunks,) * len(nav)
        chunks = named if len(named) != len(nav) else (*named, *(-1,) * len(sig))
    cut: tuple[tuple[int, ...], ...] = normalize_chunks(chunks, tuple(ds.shape), dtype=dtype)
    return cut


def _file_starts(ds: DataSet) -> np.ndarray:
    """Flat nav positions at which a file begins: int64[n]."""
    if not ds.layout.parts:
        return np.zeros(0, dtype=np.int64)
    return ds.layout.parts[0].get_as_arr()[:, 0] - ds.sync_offset


def _nav_chunks(nav: tuple[int, ...], depth: int, file_starts: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """Chunks of at most `depth` positions."""
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
