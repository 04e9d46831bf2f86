"""Where the bytes of an HDF5 data set are, by its layout. From h5py, without reading a pixel.

==============  ======================================================  =====================================================
layout          where items are                                         how they are read
==============  ======================================================  =====================================================
contiguous      one run of bytes at `get_offset`                        as frames of a file with a header
external        runs of bytes in other files                            the same, a file each
chunked         boxes of equal shape, each on its own, at any byte,     no filters, boxes of whole frames one after the other:
                full size also at the edges; those never written are    as frames of a file; else as `gpuio.chunks`
                not there
compact         in the header of the data set, up to 64 KiB             by the library
any             not as numpy has them (12 of 16 bits, bfloat16)         by the library, which converts them
virtual         pieces of other data sets                               by the library
==============  ======================================================  =====================================================

Quirks:

- A data set that nothing was written to has a meaningless offset: its storage size is 0, its items have the fill value.
- Names of external files are relative to the working directory of the writer; here they are looked for beside the HDF5 file.
- The library shows virtual sources that are missing as fill values; here they are an error.

Sources: the HDF5 File Format Specification and library documentation (The HDF Group).
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from gpuio.chunks import FILE, OFFSET, STORED, ChunkGrid, Chunks
from gpuio.engine import get_engine
from gpuio.errors import DataSetException, FormatError, TruncatedFile, UnsupportedFeature
from gpuio.fileset import File, FileSet
from gpuio.formats._hdf5_chunks import MAX_CHUNKS, check_plugins, check_user_block, chunk_pieces, chunk_table, fill_bytes, filters_of
from gpuio.formats._hdf5_library import LibraryArray, LibrarySource
from gpuio.formats._hdf5_structure import Place, dataset, is_plain, opened, pixel_dtype, resolve
from gpuio.formats._siblings import outside
from gpuio.layout import MAX_FRAMES, Piece, Strided, plain_pieces

#: Layout classes of HDF5.
COMPACT, CONTIGUOUS, CHUNKED, VIRTUAL = range(4)
#: Runs of frames in a file that are still described as frames of a file rather than as chunks.
MAX_RUNS = 16
#: Bytes that the library is asked for at a time, about, where it gives no boxes itself.
LIBRARY_BYTES = 4 << 20
MAX_VIRTUAL_DEPTH = 8


@dataclass(frozen=True)
class Stored:
    """Where frames are, as a layout has it: in parts, or strided, or in chunks."""

    pieces: tuple[Piece, ...]
    parts: tuple[FileSet, ...] = ()
    strided: Strided | None = None
    chunks: Chunks | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def storage(found: Any, place: Place, sig_dims: int, *, frames_last: bool = False, folder: str = "", allow_outside: bool = False) -> Stored:
    """Where the frames of a data set are.

    Parameters
    ----------
    found
        The data set, of an open file.
    sig_dims
        Detector axes: the last ones, or the first if `frames_last`.

    Raises
    ------
    FormatError
        The table of chunks is damaged, or files that belong to the data set are not there.
    UnsupportedFeature
        Chunks are packed by a filter that nothing here can undo, or there are too many of them, or of frames.
    """
    plist = found.id.get_create_plist()
    kind = plist.get_layout()
    box = _Box.of(found, sig_dims, frames_last)
    if (frames := math.prod(box.nav_shape)) > MAX_FRAMES:
        raise UnsupportedFeature(f"{place} of shape {found.shape} has {frames} frames; expected at most {MAX_FRAMES}")
    facts = {"hdf5_layout": ("compact", "contiguous", "chunked", "virtual")[kind]}
    if kind == CONTIGUOUS and found.external:
        return _external(found, place, box, folder, allow_outside, facts)
    if kind == CHUNKED:
        return _chunked(found, place, box, plist, facts)
    if kind == CONTIGUOUS and is_plain(found):
        return _contiguous(found, place, box, facts)
    if kind == VIRTUAL:
        check_sources(found, place, folder, allow_outside)
    return replace(by_library([(found, place)], box.sig_dims, frames_last), metadata=facts)


@dataclass(frozen=True, slots=True)
class _Box:
    """Axes of a data set, nav before sig, and of its chunks."""

    nav_shape: tuple[int, ...]
    sig_shape: tuple[int, ...]
    nav_chunk: tuple[int, ...]
    sig_chunk: tuple[int, ...]
    item: np.dtype
    frames_last: bool

    @classmethod
    def of(cls, found: Any, sig_dims: int, frames_last: bool) -> _Box:
        shape, chunk = found.shape, found.chunks or found.shape
        if frames_last:
            shape, chunk = shape[sig_dims:] + shape[:sig_dims], chunk[sig_dims:] + chunk[:sig_dims]
        cut = len(shape) - sig_dims
        return cls(shape[:cut] or (1,), shape[cut:], chunk[:cut] or (1,), chunk[cut:], pixel_dtype(found), frames_last)

    @property
    def sig_dims(self) -> int:
        return len(self.sig_shape)

    @property
    def sig_grid(self) -> tuple[int, ...]:
        return tuple(-(-n // c) for n, c in zip(self.sig_shape, self.sig_chunk, strict=True))

    @property
    def frame_bytes(self) -> int:
        return math.prod(self.sig_shape) * self.item.itemsize

    @property
    def plane_bytes(self) -> int:
        """Of a frame of a chunk."""
        return math.prod(self.sig_chunk) * self.item.itemsize

    @property
    def pixel_step(self) -> int:
        """Bytes from a pixel of a chunk to its neighbour in the row."""
        return self.item.itemsize * (math.prod(self.nav_chunk) if self.frames_last else 1)

    @property
    def frame_step(self) -> int:
        """Bytes from a frame of a chunk to the next."""
        return self.item.itemsize if self.pixel_step != self.item.itemsize else self.plane_bytes


def _contiguous(found: Any, place: Place, box: _Box, facts: dict[str, Any]) -> Stored:
    size = os.path.getsize(place.path)
    n_bytes = math.prod(box.nav_shape) * box.frame_bytes
    if found.id.get_storage_size() == 0:
        return replace(_never_written(found, place, box), metadata=facts)
    offset = found.id.get_offset()
    if offset is None or offset + n_bytes > size:
        raise TruncatedFile(f"{place}: its {n_bytes} bytes begin at byte {offset}; the file has {size}")
    facts["data_offset_bytes"] = offset
    if box.frames_last and math.prod(box.nav_shape) > 1:
        steps = _steps((*box.sig_shape, *box.nav_shape), box.item.itemsize)
        strided = Strided(place.path, offset, box.item, box.nav_shape, steps[box.sig_dims:], steps[:box.sig_dims])
        return Stored(_plain(box), strided=strided, metadata=facts)
    file = File(place.path, 0, math.prod(box.nav_shape), box.item, box.sig_shape, file_header=offset, size=size)
    return Stored(_plain(box), (FileSet([file]),), metadata=facts)


def _external(found: Any, place: Place, box: _Box, folder: str, allow_outside: bool, facts: dict[str, Any]) -> Stored:
    """Frames in raw files beside."""
    if not is_plain(found):
        raise UnsupportedFeature(f"{place}: its items are in external files, and not as {box.item} has them; those are not converted")
    count, frame = math.prod(box.nav_shape), box.frame_bytes
    files: list[File] = []
    done = 0
    for name, offset, size in found.external:
        path = outside(place.path, os.fsdecode(name), folder, allow_outside)
        if not os.path.exists(path):
            raise FormatError(f"{place}: its items are in {os.fsdecode(name)}, which is not there (looked for {path})")
        here = min(size, count * frame - done)
        if done % frame or here % frame or box.frames_last:
            raise UnsupportedFeature(f"{place}: a frame of {frame} bytes goes on from one external file to the next at {path}; "
                                     "expected whole frames in each")
        there = os.path.getsize(path)
        if there < offset + here:
            raise TruncatedFile(f"{path}: has {there} bytes; {place} has {here} from byte {offset} on")
        if here:
            files.append(File(path, done // frame, (done + here) // frame, box.item, box.sig_shape, file_header=offset, size=there))
        done += here
    if done < count * frame:
        raise FormatError(f"{place}: its external files hold {done} bytes; expected {count * frame}")
    return Stored(_plain(box), (FileSet(files),), metadata=facts)


def _never_written(found: Any, place: Place, box: _Box) -> Stored:
    """All pixels have the fill value: one chunk of everything, of which nothing is stored."""
    grid = ChunkGrid(0, box.nav_shape, box.nav_shape)
    chunks = Chunks((place.path,), (os.path.getsize(place.path),), (grid,), np.full((1, 1, 4), -1, dtype=np.int64),
                    (1,) * box.sig_dims, box.sig_shape, box.item.itemsize, box.frame_bytes, fill=fill_bytes(found))
    return Stored(_plain(box), chunks=chunks, notes=("nothing was ever written to the data set: all pixels have its fill value",))


def _chunked(found: Any, place: Place, box: _Box, plist: Any, facts: dict[str, Any]) -> Stored:
    filters = filters_of(plist)
    facts |= {"chunks": found.chunks, "filters": [each.name for each in filters]}
    if not is_plain(found) or (filters and get_engine("cpu").inflates(filters) is not None):
        check_plugins(place, plist)
        return replace(by_library([(found, place)], box.sig_dims, box.frames_last), metadata=facts)
    table = chunk_table(found, place, box.sig_dims, box.frames_last, len(filters))
    check_user_block(found, place)
    facts["stored_bytes"] = int(table[:, :, STORED].sum())
    grid = ChunkGrid(0, box.nav_shape, box.nav_chunk)
    if not filters and (files := _runs(table, grid, place, box)) is not None:
        return Stored(_plain(box), (FileSet(files),), metadata=facts)
    chunks = Chunks((place.path,), (os.path.getsize(place.path),), (grid,), table, box.sig_grid, box.sig_chunk, box.item.itemsize,
                    box.frame_step, filters, fill_bytes(found))
    missing = int((table[:, :, FILE] < 0).sum())
    note = f"{missing} of {table.shape[0] * table.shape[1]} chunks were never written: their pixels have the fill value"
    return Stored(chunk_pieces(box.sig_shape, box.sig_chunk, box.item.itemsize, box.pixel_step, chunks.pitch), chunks=chunks,
                  metadata=facts, notes=(note,) if missing else ())


def _runs(table: np.ndarray, grid: ChunkGrid, place: Place, box: _Box) -> list[File] | None:
    """Frames as those of a file, if each lies whole, and they follow each other in few runs; else None."""
    if box.sig_chunk != box.sig_shape or not grid.is_linear or box.pixel_step != box.item.itemsize or (table[:, :, FILE] < 0).any():
        return None
    row = grid.locate(np.arange(math.prod(box.nav_shape)))[0]
    starts = np.append(np.flatnonzero(np.diff(row, prepend=-1)), len(row))
    offset = table[row[starts[:-1]], 0, OFFSET]
    breaks = np.flatnonzero(np.diff(offset) != np.diff(starts)[:-1] * box.frame_bytes) + 1
    if len(breaks) >= MAX_RUNS:
        return None
    size = os.path.getsize(place.path)
    runs = [0, *breaks.tolist(), len(offset)]
    return [File(place.path, int(starts[a]), int(starts[b]), box.item, box.sig_shape, file_header=int(offset[a]), size=size)
            for a, b in pairwise(runs)]


def _plain(box: _Box) -> tuple[Piece, ...]:
    return plain_pieces(box.sig_shape, box.sig_shape[-1] * box.item.itemsize)


def _steps(shape: tuple[int, ...], item_bytes: int) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1:]) * item_bytes for i in range(len(shape)))


# -- by the library ----------------------------------------------------------------------------------------------------


def by_library(arrays: Sequence[tuple[Any, Place]], sig_dims: int, frames_last: bool = False) -> Stored:
    """Frames that h5py is asked for, of arrays one after the other; whole chunks at a time where there are any."""
    boxes = [_Box.of(found, sig_dims, frames_last) for found, _ in arrays]
    first = boxes[0]
    nav_chunk = first.nav_chunk if arrays[0][0].chunks else _run_of_frames(first)
    grids: list[ChunkGrid] = []
    start = row = 0
    for box in boxes:
        grids.append(ChunkGrid(start, box.nav_shape, nav_chunk, row))
        start, row = start + math.prod(box.nav_shape), row + math.prod(grids[-1].counts)
    if row > MAX_CHUNKS:
        raise UnsupportedFeature(f"{arrays[0][1]}: the library would be asked {row} times for chunks of {nav_chunk} frames; "
                                 f"expected at most {MAX_CHUNKS}")
    table = np.zeros((row, 1, 4), dtype=np.int64)
    for i, grid in enumerate(grids):
        table[grid.first_row:, :, FILE] = i
    places = [place for _, place in arrays]
    source = LibrarySource(tuple(LibraryArray(place.path, place.name, grid, first.sig_shape, first.item, frames_last)
                                 for place, grid in zip(places, grids, strict=True)))
    chunks = Chunks(tuple(place.path for place in places), tuple(os.path.getsize(place.path) for place in places), tuple(grids), table,
                    (1,) * sig_dims, first.sig_shape, first.item.itemsize, first.frame_bytes, source=source)
    return Stored(_plain(first), chunks=chunks)


def _run_of_frames(box: _Box) -> tuple[int, ...]:
    """Frames of some MiB together, along the last nav axes."""
    left, chunk = max(1, LIBRARY_BYTES // max(1, box.frame_bytes)), [1] * len(box.nav_shape)
    for axis in reversed(range(len(chunk))):
        chunk[axis] = min(left, box.nav_shape[axis])
        if chunk[axis] < box.nav_shape[axis]:
            break
        left //= chunk[axis]
        if not left:
            break
    return tuple(chunk)


def check_sources(found: Any, place: Place, folder: str, allow_outside: bool, depth: int = 0, seen: set[Place] | None = None) -> None:
    """Look for the files of a virtual data set, since the library shows missing ones as fill values.

    Raises
    ------
    DataSetException
        One is missing, or outside of `folder`, and that is not allowed.
    """
    if depth > MAX_VIRTUAL_DEPTH:
        raise FormatError(f"{place}: virtual data sets refer to each other more than {MAX_VIRTUAL_DEPTH} deep")
    seen = set() if seen is None else seen
    for name, inner in sorted({(source.file_name, source.dset_name) for source in found.virtual_sources()}):
        if "%b" in name or "%b" in inner:
            raise UnsupportedFeature(f"{place}: names of its sources are made by counting ({name}); expected a fixed list")
        path = place.path if name == "." else outside(place.path, name, folder, allow_outside)
        if not os.path.exists(path):
            raise FormatError(f"{place}: is made of {name}, which is not there (looked for {path})")
        if os.path.realpath(path) == os.path.realpath(place.path):
            source = resolve(place.path, inner, folder, allow_outside)
        else:
            source = resolve(path, inner, folder, allow_outside)
        if source in seen:
            continue
        with opened(source.path) as file:
            there = dataset(file, source)
            kind = there.id.get_create_plist().get_layout()
            if kind == VIRTUAL:
                check_sources(there, source, folder, allow_outside, depth + 1, seen)
            elif kind == CONTIGUOUS and there.external:
                raise DataSetException(f"{place}: its source {source} is stored in external files; open that data set itself")
        seen.add(source)
