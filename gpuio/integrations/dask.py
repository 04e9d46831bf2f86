"""dask: a data set as an array whose chunks are read and decoded when they are wanted.

The graph holds the data set once, as paths and numbers, and chunks as a rule, not one by one: it has the same size for any
number of pixels, and no bytes of a file are in it. Chunks are independent and read-only, so that they run on threads,
processes and machines, and a lost one is computed again. Slicing is passed down: of a chunk, only the frames and detector
rows asked for are read.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuio.extras import extra
from gpuio.hostarray import host_array
from gpuio.integrations._chunks import frame_chunks
from gpuio.integrations._pixels import Pixels

with extra("dask"):
    import dask.array
    from dask.array.core import normalize_chunks
    from dask.base import tokenize
    from dask.utils import parse_bytes

if TYPE_CHECKING:
    from gpuio.base import CorrectionSet, DataSet


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
    """
    pixels = Pixels(ds, device=device, dtype=dtype, corrections=corrections, one_at_a_time=lock is None)
    cut = _chunks(ds, chunks, pixels.dtype)
    name = f"gpuio-{ds.format}-{_token(pixels, cut)}"
    return dask.array.from_array(pixels, cut, name=name, lock=lock or False, asarray=False, meta=pixels[:0])


def make_dask_array(dataset: DataSet, dtype: Any = "float32", roi: np.ndarray | None = None) -> tuple[dask.array.Array, dict[Any, Any]]:
    """A data set as a dask array with a chunk for each of its partitions, as LiberTEM makes it; `to_dask` has more choice.

    Parameters
    ----------
    dtype
        Of the pixels.
    roi : bool[nav], optional
        Positions wanted.

    Returns
    -------
    dask.array.Array
        dtype[nav, sig], or dtype[selected, sig] with a roi; zero where positions are blank. Without a roi, chunks that do not
        hold whole rows of the scan are merged with their neighbours.
    dict
        For the delayed macrotile of each partition, the workers that hold its data; None: any.

    Raises
    ------
    ShapeError
        The roi does not fit the nav shape.
    """
    from dask import delayed

    sig, chunks, workers = tuple(dataset.shape.sig), [], {}
    nav = dataset.shape.nav
    chosen = None if roi is None else np.flatnonzero(host_array(roi, f"roi for the nav shape {tuple(nav)}", nav.size))
    shared = delayed(roi, traverse=False)
    for partition in dataset.get_partitions():
        first, stop = int(partition.slice.origin[0]), int(partition.slice.origin[0] + partition.slice.shape[0])
        count = stop - first if chosen is None else int(np.diff(np.searchsorted(chosen, (first, stop)))[0])
        macrotile = delayed(_macrotile, pure=False)(delayed(partition, traverse=False), dtype, shared)
        workers[macrotile] = partition.get_locations()
        chunks.append(dask.array.from_delayed(macrotile, (count, *sig), dtype))
    array = dask.array.concatenate(chunks)
    return (array.reshape(tuple(dataset.shape)) if roi is None else array), workers


def _macrotile(partition: Any, dtype: Any, roi: np.ndarray | None) -> Any:
    return partition.get_macrotile(dtype, roi=roi).data


def _token(pixels: Pixels, chunks: Any) -> str:
    """The same for the same pixels in the same chunks."""
    ds, corrections = pixels.ds, pixels.corrections
    maps = None if corrections is None else (
        corrections.get_dark_frame(), corrections.get_gain_map(), corrections.get_excluded_pixels())
    files = [(path, found.st_size, found.st_mtime_ns) for path in sorted(_files(ds)) for found in (os.stat(path),)]
    return str(tokenize(ds.format, ds.get_cache_key(), ds.image_count, repr(ds.layout.excluded), files, ds.device, pixels.dtype, maps,
                        chunks))


def _files(ds: DataSet) -> set[str]:
    """Absolute paths of all files with pixels, dark frames and gain maps. Arrays in memory are no files."""
    carried = [file.path for layout in (ds.layout.dark, ds.layout.gain) if layout is not None for file in layout.numbered_files()[0]]
    return {os.path.abspath(path) for path in (*ds.files, *carried) if os.path.exists(path)}


def _chunks(ds: DataSet, chunks: Any, dtype: np.dtype) -> tuple[tuple[int, ...], ...]:
    """Sizes of chunks along each axis."""
    if isinstance(chunks, str):
        return frame_chunks(ds, dtype, parse_bytes(dask.config.get("array.chunk-size") if chunks == "auto" else chunks))
    if not isinstance(chunks, dict):
        nav, sig = ds.shape.nav.dims, ds.shape.sig.dims
        named = tuple(chunks) if isinstance(chunks, (list, tuple)) else (chunks,) * nav
        chunks = named if len(named) != nav else (*named, *(-1,) * sig)
    cut: tuple[tuple[int, ...], ...] = normalize_chunks(chunks, tuple(ds.shape), dtype=dtype)
    return cut
