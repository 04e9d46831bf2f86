"""Scans written to NumPy, HDF5 and Zarr files: one streamed pass, in bounded memory, whole or not at all.

Frames are decoded (cropped, binned and corrected, if that is asked for) on the device of the data set, and collected to runs that
the chunks of the container divide. The file grows beside its destination under a name of its own and is renamed when it is
complete, so that a crash, a full disk or Ctrl-C leaves nothing half-written under the final name. Sums over the detector and
over the scan are made on the way.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuio.errors import ReadError, UnsupportedFeature
from gpuio.integrations._axes import axes
from gpuio.integrations._containers import COMPRESSIONS, Container, Positions, chunk_frames, container_of

if TYPE_CHECKING:
    from gpuio.base import CorrectionSet, DataSet

#: Pixels of a run, about.
RUN_BYTES = 32 << 20


@dataclass(frozen=True)
class Exported:
    """What `export` has written.

    Attributes
    ----------
    scan_image : nav shape
        Sum of each frame.
    summed_pattern : sig shape
        Sum over all positions. Both are uint64, int64, float64 or complex128: as wide as sums of integers stay exact.
    stored_bytes
        Of all files.
    verified
        Whether everything was read back and compared.
    """

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    stored_bytes: int
    scan_image: np.ndarray
    summed_pattern: np.ndarray
    verified: bool


def export(ds: DataSet, path: str | os.PathLike[str], *, dtype: Any = None, corrections: CorrectionSet | None = None,
           compression: str = "none", overwrite: bool = False, verify: bool = False, memory: int | str | None = None,
           threads: int | None = None, progress: Callable[[int, int], None] | None = None) -> Exported:
    """Write all positions of a data set; blank ones are zero.

    Parameters
    ----------
    ds
        Initialized; ``ds.reduce(crop, bin_sig)`` writes less of the detector.
    path
        Ends in ``.npy``, ``.h5``, ``.hdf5`` or ``.zarr``.
    dtype, corrections, memory, threads
        As `DataSet.tiles`.
    compression
        ``"none"``, ``"gzip"`` or ``"bitshuffle"`` (bitshuffle and LZ4); HDF5 and Zarr only.
    overwrite
        Replace what is there, when the new file is complete.
    verify
        Read everything back through the container's own library, compare it bit for bit with a second pass over the source, and only
        then give the file its name.
    progress
        Called with positions done and positions to do; twice as many with `verify`.

    Raises
    ------
    FileExistsError
        There is something by that name, and `overwrite` is not set.
    UnsupportedFeature
        A file name or a compression that no container has.
    ReadError
        What was read back is not what was written.
    OSError, DataSetException
        Reading or writing failed; a disk that is too small is noticed before anything is written, if nothing is compressed.
    BackendUnavailable
        The container's library is not installed; the message names the extra.
    """
    path = os.path.abspath(os.fspath(path))
    kind = container_of(path)
    if compression not in COMPRESSIONS:
        raise ValueError(f"compression {compression!r} is unknown; expected one of {', '.join(COMPRESSIONS)}")
    if compression != "none" and not kind.compresses:
        raise UnsupportedFeature(f"{path}: a {kind.suffixes[0]} file is not compressed; compression={compression!r} was asked for")
    if os.path.lexists(path) and not overwrite:
        raise FileExistsError(f"{path}: already exists; overwrite=True replaces it")
    pixels = ds.output_dtype(dtype, corrections)
    n_bytes = ds.shape.size * pixels.itemsize
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{folder}: no such folder to write {os.path.basename(path)} to")
    if compression == "none" and (free := shutil.disk_usage(folder).free) < n_bytes:
        raise OSError(f"{path}: {n_bytes} bytes of pixels do not fit into the {free} bytes that are free; crop, bin or compress them")
    options = {"dtype": dtype, "corrections": corrections, "memory": memory, "threads": threads}
    total = ds.shape.nav.size * (2 if verify else 1)
    tell = progress or (lambda done, total: None)
    try:
        room = tempfile.mkdtemp(prefix=f".{os.path.basename(path)}.", dir=folder)
    except OSError as e:            # it names what nobody has asked for
        raise OSError(e.errno, e.strerror, path) from e
    try:
        temporary = os.path.join(room, os.path.basename(path))
        attributes = {"source": [os.path.basename(f) for f in ds.files], "format": ds.format, "metadata": dict(ds.metadata),
                      "notes": list(ds.notes)}
        container: Container = kind(temporary, axes(ds), pixels, compression, attributes)
        try:
            sums = _Sums(ds, pixels)
            for run in _runs(ds, pixels, options):
                container.write(run.where, run.frames)
                sums.add(run)
                tell(run.stop, total)
            container.finish(*sums.arrays)
        finally:
            container.close()
        if verify:
            with kind.reading(temporary) as stored:
                _verify(stored, path, ds, pixels, options, lambda done: tell(ds.shape.nav.size + done, total))
        stored_bytes = _size(temporary)
        _put_in_place(temporary, path, room)
    finally:
        shutil.rmtree(room, ignore_errors=True)
    return Exported(path, tuple(ds.shape), pixels, stored_bytes, *sums.arrays, verify)


@dataclass(frozen=True, slots=True)
class _Run:
    """Positions ``first:stop`` of the flat nav axis, which are the box `where`; `frames` is lent until the next run."""

    first: int
    stop: int
    where: Positions
    frames: np.ndarray


def _runs(ds: DataSet, dtype: np.dtype, options: dict[str, Any]) -> Iterator[_Run]:
    """All positions in order, in host memory, blank ones as zeros."""
    nav, sig = tuple(ds.shape.nav), tuple(ds.shape.sig)
    boxes = _boxes(nav, math.prod(sig) * dtype.itemsize)
    buffer = np.empty((max(stop - first for first, stop, _ in boxes), *sig), dtype)
    engine, pending = ds.engine, iter(boxes)
    first, stop, where = next(pending)
    filled = first
    for tile in ds.tiles(**options):
        frames, begin = engine.download(tile.data), int(tile.tile_slice.origin[0])
        at = 0
        while at < len(frames):
            while begin + at >= stop:
                buffer[filled - first:stop - first] = 0
                yield _Run(first, stop, where, _shaped(buffer, first, stop, where, sig))
                first, stop, where = next(pending)
                filled = first
            position = begin + at
            count = min(len(frames) - at, stop - position)
            buffer[filled - first:position - first] = 0
            buffer[position - first:position - first + count] = frames[at:at + count]
            filled, at = position + count, at + count
    while True:
        buffer[filled - first:stop - first] = 0
        yield _Run(first, stop, where, _shaped(buffer, first, stop, where, sig))
        following = next(pending, None)
        if following is None:
            return
        first, stop, where = following
        filled = first


def _shaped(buffer: np.ndarray, first: int, stop: int, where: Positions, sig: tuple[int, ...]) -> np.ndarray:
    return buffer[:stop - first].reshape(*(s.stop - s.start for s in where), *sig)


def _boxes(nav: Sequence[int], frame_bytes: int) -> list[tuple[int, int, Positions]]:
    """The scan as boxes that are runs of flat indices: (first, one past the last, box).

    Several lines of the last two axes where these are short, else parts of a line that end where chunks do.
    """
    chunk = chunk_frames(nav, frame_bytes)
    frames = max(chunk, RUN_BYTES // max(1, frame_bytes))
    columns, rows = nav[-1], nav[-2] if len(nav) > 1 else 1
    high = max(1, frames // columns)
    wide = columns if frames >= columns else frames // chunk * chunk
    boxes = []
    for line in range(0, math.prod(nav[:-1]), rows):
        outer = np.unravel_index(line // rows, nav[:-2]) if len(nav) > 2 else ()
        for y in range(0, rows, high):
            for x in range(0, columns, wide):
                box = (*(slice(int(o), int(o) + 1) for o in outer), slice(y, min(y + high, rows)), slice(x, min(x + wide, columns)))
                first = (line + y) * columns + x
                count = (box[-2].stop - y) * (box[-1].stop - x)
                boxes.append((first, first + count, box[-len(nav):]))
    return boxes


class _Sums:
    """Sums over the detector and over the scan."""

    def __init__(self, ds: DataSet, dtype: np.dtype) -> None:
        self._wide = np.dtype({"b": "u8", "u": "u8", "i": "i8", "f": "f8", "c": "c16"}[dtype.kind])
        self._scan = np.zeros(ds.shape.nav.size, self._wide)
        self._pattern = np.zeros(tuple(ds.shape.sig), self._wide)
        self._nav = tuple(ds.shape.nav)

    def add(self, run: _Run) -> None:
        frames = run.frames.reshape(run.stop - run.first, *self._pattern.shape)
        self._scan[run.first:run.stop] = frames.reshape(len(frames), -1).sum(axis=1, dtype=self._wide)
        self._pattern += frames.sum(axis=0, dtype=self._wide)

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return self._scan.reshape(self._nav), self._pattern


def _verify(stored: Any, path: str, ds: DataSet, dtype: np.dtype, options: dict[str, Any], tell: Callable[[int], None]) -> None:
    """Compare what was stored with another pass over the source, bit for bit."""
    for run in _runs(ds, dtype, options):
        back = np.ascontiguousarray(stored[run.where])
        if back.dtype != dtype or back.shape != run.frames.shape:
            raise ReadError(f"{path}: holds {back.dtype}{list(back.shape)} where {dtype}{list(run.frames.shape)} was written")
        # As bytes: NaN is equal to itself.
        same = (back.view(np.uint8).reshape(run.stop - run.first, -1) == np.ascontiguousarray(run.frames).view(np.uint8).reshape(
            run.stop - run.first, -1)).all(axis=1)
        if not same.all():
            bad = np.unravel_index(run.first + int(np.argmin(same)), tuple(ds.shape.nav))
            raise ReadError(f"{path}: the frame at position {tuple(int(i) for i in bad)} is not what was written; "
                            "the disk or its memory is faulty, or the source has changed")
        tell(run.stop)


def _size(path: str) -> int:
    if not os.path.isdir(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names)


def _put_in_place(temporary: str, path: str, room: str) -> None:
    """Give what is complete its name; what was there goes away only then. Of a link, the link goes, not what it leads to."""
    if not os.path.isdir(temporary) and (os.path.islink(path) or not os.path.isdir(path)):
        os.replace(temporary, path)
        return
    before = os.path.join(room, "before")       # no folder can be replaced, nor replace anything, by renaming
    if there := os.path.lexists(path):
        os.rename(path, before)
    try:
        os.rename(temporary, path)
    except BaseException:
        if there:
            os.rename(before, path)
        raise
