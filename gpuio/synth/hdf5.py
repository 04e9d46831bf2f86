"""Writes HDF5 files with h5py: one data set, contiguous or in chunks, packed or not; or data files with a master as DECTRIS detectors do.

What such a set consists of is described in `gpuio.formats._hdf5_dectris`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np

from gpuio.errors import DataSetException, ShapeError
from gpuio.extras import extra
from gpuio.newfile import new_file
from gpuio.synth._writing import Progress, exact, stacks

#: Packing: what it is called by h5py, made when it is asked for.
PACKINGS = ("gzip", "lzf", "bitshuffle", "lz4")


def write(path: str, frames: Iterable[np.ndarray], *, nav_shape: Sequence[int], sig_shape: Sequence[int],
          progress: Progress | None = None, dtype: Any = None, ds_path: str = "/data", chunks: Sequence[int] | None = None,
          packing: str | None = None, user_block: int = 0, frames_per_file: int | None = None, flatfield: np.ndarray | None = None,
          flatfield_applied: bool = False, pixel_mask: np.ndarray | None = None) -> list[str]:
    """Write frames as an HDF5 file, or as a set of a DECTRIS detector.

    Parameters
    ----------
    path
        The file; of a set its master, ``NAME_master.h5``.
    frames
        Yields stacks of shape (n, *sig), all positions in C order.
    nav_shape, sig_shape
        Scan and detector axes.
    progress
        Called with the frames written and those in all.
    dtype
        dtype on disk, byte order included; None: that of the frames.
    ds_path
        Name of the data set.
    chunks
        Shape of a chunk, nav axes first. Default: none, or one frame where something is packed.
    packing
        ``gzip`` and ``lzf`` (with shuffle), ``bitshuffle`` (with LZ4), ``lz4``; None: nothing is packed.
    user_block
        Bytes before the HDF5 file proper: 512, 1024, 2048 ...
    frames_per_file
        Write a set with so many frames in each data file, one frame a chunk; packed by bitshuffle and LZ4 unless told otherwise.
    flatfield, pixel_mask : array of the sig shape, optional
        Of a set's master.
    flatfield_applied
        Whether the master says that the flatfield is in the pixels already.

    Returns
    -------
    list of str
        The path; of a set, the master and then the data files.

    Raises
    ------
    ShapeError
        Frames do not have the promised shape or number.
    DataSetException
        A value does not fit `dtype`, or there is no such packing.
    BackendUnavailable
        h5py, or hdf5plugin for ``bitshuffle`` and ``lz4``, is not installed.
    """
    nav, sig = tuple(nav_shape), tuple(sig_shape)
    checked = stacks(frames, nav, sig, progress)
    first = next(checked, None)
    if first is None:
        raise ShapeError(f"there are no frames; expected those of nav shape {nav}")
    item = np.dtype(dtype or first.dtype)
    pixels = (exact(stack, item) for stack in chain([first], checked))
    if frames_per_file is not None:
        return _set(path, pixels, nav, sig, item, int(frames_per_file), packing or "bitshuffle",
                    {"flatfield": flatfield, "pixel_mask": pixel_mask}, flatfield_applied)
    if packing is not None and chunks is None:
        chunks = (1,) * len(nav) + sig
    h5py = _library()
    with new_file(path) as temporary, h5py.File(temporary, "w", userblock_size=user_block or None) as file:
        found = file.create_dataset(ds_path, (*nav, *sig), item, chunks=None if chunks is None else tuple(chunks), **_packed(packing))
        done = 0
        for stack in pixels:
            for at, part in _lines(nav, done, stack):
                found[at] = part
            done += len(stack)
    return [path]


def _lines(nav: tuple[int, ...], done: int, stack: np.ndarray) -> Iterator[tuple[Any, np.ndarray]]:
    """A stack that begins with frame `done`, cut where scan lines end: index in the nav axes, and frames."""
    at = 0
    while at < len(stack):
        *lead, x = (int(i) for i in np.unravel_index(done + at, nav))
        count = min(len(stack) - at, nav[-1] - x)
        yield (*lead, slice(x, x + count)), stack[at:at + count]
        at += count


def _set(path: str, pixels: Iterator[np.ndarray], nav: tuple[int, ...], sig: tuple[int, ...], item: np.dtype, per_file: int, packing: str,
         maps: dict[str, np.ndarray | None], flatfield_applied: bool) -> list[str]:
    """Data files and their master."""
    if per_file < 1:
        raise DataSetException(f"frames_per_file is {per_file}; expected 1 or more")
    h5py = _library()
    base = os.path.splitext(path)[0].removesuffix("_master")
    total, stack, done = math.prod(nav), np.empty((0, *sig), item), 0
    names: list[str] = []
    for first in range(0, total, per_file):
        count = min(per_file, total - first)
        names.append(f"{base}_data_{len(names) + 1:06d}.h5")
        with new_file(names[-1]) as temporary, h5py.File(temporary, "w") as file:
            file.create_group("entry").attrs["NX_class"] = "NXentry"
            file.create_group("entry/data").attrs["NX_class"] = "NXdata"
            found = file.create_dataset("entry/data/data", (count, *sig), item, chunks=(1, *sig), **_packed(packing))
            found.attrs.update(image_nr_low=np.int32(first + 1), image_nr_high=np.int32(first + count))
            while done < first + count:
                if not len(stack):
                    stack = next(pixels)
                some = stack[:first + count - done]
                found[done - first:done - first + len(some)] = some
                done, stack = done + len(some), stack[len(some):]
    next(pixels, None)          # frames too many are noticed when more are asked for
    with new_file(path) as temporary, h5py.File(temporary, "w") as file:
        for name, kind in (("entry", "NXentry"), ("entry/data", "NXdata"), ("entry/instrument", "NXinstrument"),
                           ("entry/instrument/detector", "NXdetector"), ("entry/instrument/detector/detectorSpecific", "NXcollection")):
            file.create_group(name).attrs["NX_class"] = kind
        file["entry/definition"] = "NXmx"
        file["entry/data"].attrs["signal"] = "data_000001"
        for i, name in enumerate(names):
            file[f"entry/data/data_{i + 1:06d}"] = h5py.ExternalLink(os.path.basename(name), "/entry/data/data")
        detector = file["entry/instrument/detector"]
        detector["description"] = "gpuio: synthetic scan"
        detector["flatfield_correction_applied"] = flatfield_applied
        detector["pixel_mask_applied"] = False
        specific = detector["detectorSpecific"]
        specific["nimages"], specific["ntrigger"] = np.uint32(nav[-1]), np.uint32(total // nav[-1])
        for name, values in maps.items():
            if values is not None:
                specific[name] = np.asarray(values, dtype="f4" if name == "flatfield" else "u4").reshape(sig)
    return [path, *names]


def _library() -> Any:
    with extra("hdf5"):
        import h5py
    return h5py


def _packed(packing: str | None) -> dict[str, Any]:
    """Arguments of h5py's create_dataset."""
    if packing is None:
        return {}
    if packing not in PACKINGS:
        raise DataSetException(f"packing {packing!r} is unknown; expected one of {', '.join(PACKINGS)}")
    if packing in ("gzip", "lzf"):
        return {"compression": packing, "shuffle": True}
    with extra("hdf5"):
        import hdf5plugin
    return dict(hdf5plugin.Bitshuffle(cname="lz4") if packing == "bitshuffle" else hdf5plugin.LZ4())
