"""Frames of an array that is stored with navigation fastest (Fortran-ordered NPY, transposed DM4).

A frame of such an array has one pixel in each run of the file, so a few frames cost a pass over nearly all of it. The stream
therefore asks for as many frames at once as its memory budget holds. Here the wanted bytes are read in pieces of bounded size,
one while the engine transposes the other, and each is scattered into the frames: packed bytes travel to a device, and frames
are put together there.

A **piece** is a box of pixels, and of each the bytes of the wanted frames, its **cell**. The box is at least as wide along the
frame's rows as a cache line, so that frames are written line by line even where the file runs along their columns; then it
grows along the file, so that reads are long. Frames so far apart in the file that reading along costs more than another
request lie in **spans** of their own; so many of them that a piece would become too narrow are left to another pass.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np

from gpuio.engine import Engine, TransposeTable
from gpuio.io.backends import BufferedBackend
from gpuio.io.base import Extent
from gpuio.io.readahead import Pending, ReadAhead
from gpuio.layout import Piece, Strided

#: Bytes of a piece, if memory allows.
PIECE_BYTES = 8 << 20
#: Pieces in memory at a time: one is read while the other is transposed.
PIECES = 2
#: Bytes to read along rather than asking again: as long as the request itself takes, from the page cache.
GAP = 16 << 10
#: Requests of a piece, which bounds what describing them costs.
EXTENTS = 4096
#: Bytes of a frame that are written together: two cache lines, as the tiles of the CPU engine and a transaction of a device.
LINE_BYTES = 128


class Gathered:
    """What takes the place of a staging buffer where frames are put together: engine memory, nothing to push.

    Parameters
    ----------
    device : uint8[n], engine memory
    """

    def __init__(self, device: Any) -> None:
        self.device = device


@dataclass(frozen=True, slots=True)
class _Cell:
    """Frames that are taken from the file in one pass, and where their items lie in the bytes kept of each pixel."""

    table: TransposeTable
    spans: list[tuple[int, int, int]]       # bytes from the pixel's run in the file, size, position in the cell
    size: int
    pitch: int                              # bytes from one cell to the next
    joined: bool                            # whether cells of neighbouring pixels are read along


class GatherReader:
    """Reads whole frames of a strided array.

    Parameters
    ----------
    strided
        Where the array's elements lie. Strides are multiples of the item size.
    sig_shape
        Detector axes.
    engine
        What transposes, and whose memory the frames go to.
    piece_bytes
        Size of a piece; `PIECES` of them are held.
    threads
        Requests in flight.
    """

    def __init__(self, strided: Strided, sig_shape: tuple[int, ...], engine: Engine, piece_bytes: int = PIECE_BYTES,
                 threads: int = 1) -> None:
        self._strided, self._sig_shape, self._engine = strided, sig_shape, engine
        self._size = strided.dtype.itemsize
        self._piece_bytes = max(piece_bytes // self._size, 1) * self._size
        self._item = np.dtype("c16") if self._size == 16 else np.dtype(f"u{self._size}")       # moved, not interpreted
        self._reader = BufferedBackend().open([strided.path], [None])
        self._ahead = ReadAhead(self._reader, threads)
        self._buffers: list[Any] = []
        # Axes longer than 1, those that are fastest in the file first; and the one along which a frame's pixels follow each other.
        self._axes = sorted((a for a, n in enumerate(sig_shape) if n > 1), key=lambda a: strided.sig_strides[a])
        self._along = max(self._axes, default=0)
        self._line = min(LINE_BYTES // self._size, sig_shape[self._along])
        self._steps = [math.prod(sig_shape[a + 1:]) for a in range(len(sig_shape))]

    def close(self) -> None:
        """Close the file."""
        self._ahead.close()
        self._reader.close()

    def gather(self, frames: np.ndarray, into: Any) -> None:
        """Frames `frames` (int64[n]) one after another into `into` (uint8[>= n * frame bytes], engine memory), in the file's byte order.

        Raises
        ------
        ReadError, OSError
            Bytes could not be read.
        """
        out = into[:len(frames) * math.prod(self._sig_shape) * self._size].view(self._item).reshape(len(frames), -1)
        while len(self._buffers) < PIECES:
            self._buffers.append(self._engine.staging(self._piece_bytes))
        started: deque[tuple[Pending, Any, _Cell, list[Piece], int]] = deque()
        for number, (cell, pieces, extents) in enumerate(self._plan(frames)):
            staging = self._buffers[number % PIECES]
            started.append((self._ahead.submit(extents, staging.host), staging, cell, pieces, extents[-1][2] + extents[-1][3]))
            if len(started) == PIECES:
                self._finish(out, *started.popleft())
        while started:
            self._finish(out, *started.popleft())

    def _finish(self, out: Any, pending: Pending, staging: Any, cell: _Cell, pieces: list[Piece], used: int) -> None:
        pending.wait()
        staging.push(used)
        for piece in pieces:
            self._engine.transpose(staging.device, out, piece, cell.table)

    def _plan(self, frames: np.ndarray) -> Iterator[tuple[_Cell, list[Piece], list[Extent]]]:
        """What to read and what to make of it, piece by piece."""
        slowest_first = self._axes[::-1]
        for cell in self._cells(frames):
            counts = self._box(cell)
            for corner in product(*(range(0, self._sig_shape[a], counts[a]) for a in slowest_first)):      # front to back in the file
                first = [0] * len(counts)
                for axis, at in zip(slowest_first, corner, strict=True):
                    first[axis] = at
                box = [min(n, self._sig_shape[a] - first[a]) for a, n in enumerate(counts)]
                cells, step = {}, cell.pitch        # bytes from one cell to the next along each axis
                for axis in self._axes:
                    cells[axis], step = step, step * box[axis]
                yield cell, self._pieces(first, box, cells), self._extents(cell, first, box, cells)

    def _cells(self, frames: np.ndarray) -> Iterator[_Cell]:
        """Frames by where they lie in the file, cut so that a piece holds a line of the frame."""
        nav = np.unravel_index(frames, self._strided.nav_shape)
        reach = np.zeros(len(frames), dtype=np.int64)
        for index, stride in zip(nav, self._strided.nav_strides, strict=True):
            reach += index * stride
        order = np.argsort(reach, kind="stable").astype(np.int64)
        reach = reach[order]
        widest = max(self._piece_bytes // self._line // self._size, 1) * self._size
        starts = np.empty_like(reach)
        spans: list[tuple[int, int, int]] = []
        first = size = 0
        for start, end in pairwise([0, *(np.flatnonzero(np.diff(reach) > GAP) + 1).tolist(), len(reach)]):
            while start < end:
                if size == widest or len(spans) == EXTENTS // self._line:
                    yield self._cell(TransposeTable(starts[first:start], order[first:start]), spans, size)
                    spans, first, size = [], start, 0
                low = int(reach[start])
                stop = min(end, int(np.searchsorted(reach, low + widest - size - self._size, side="right")))
                starts[start:stop] = reach[start:stop] - low + size
                spans.append((low, int(reach[stop - 1]) - low + self._size, size))
                size += spans[-1][1]
                start = stop
        if spans:
            yield self._cell(TransposeTable(starts[first:], order[first:]), spans, size)

    def _cell(self, table: TransposeTable, spans: list[tuple[int, int, int]], size: int) -> _Cell:
        step = self._strided.sig_strides[self._axes[0]] if self._axes else 0
        joined = len(spans) == 1 and size <= step <= size + GAP and step * self._line <= self._piece_bytes
        return _Cell(table, spans, size, step if joined else size, joined)

    def _box(self, cell: _Cell) -> list[int]:
        """How many pixels a piece has along each detector axis."""
        room = max(1, self._piece_bytes // cell.pitch)
        if not cell.joined:
            room = min(room, EXTENTS // len(cell.spans))
        counts = [1] * len(self._sig_shape)
        if self._axes:
            counts[self._along] = min(self._line, room)
        for axis in self._axes:
            length = self._sig_shape[axis]
            counts[axis] = max(counts[axis], min(length, room // (math.prod(counts) // counts[axis])))
            if counts[axis] < length:
                break
        return counts

    def _pieces(self, first: list[int], box: list[int], cells: dict[int, int]) -> list[Piece]:
        """What goes where: the axis along which pixels follow each other as repeats, the longest other one as rows."""
        if not self._axes:
            return [Piece(0, 0, 1)]
        others = [a for a in self._axes if a != self._along]
        rows = max(others, key=lambda a: box[a], default=self._along)
        outer = [a for a in others if a != rows]
        pos = sum(n * step for n, step in zip(first, self._steps, strict=True))
        return [Piece(sum(n * cells[a] for a, n in zip(outer, index, strict=True)),
                      pos + sum(n * self._steps[a] for a, n in zip(outer, index, strict=True)), 1,
                      rows=box[rows] if others else 1, row_src=cells[rows], row_pos=self._steps[rows],
                      repeats=box[self._along], rep_src=cells[self._along], rep_pos=self._steps[self._along])
                for index in product(*(range(box[a]) for a in outer))]

    def _extents(self, cell: _Cell, first: list[int], box: list[int], cells: dict[int, int]) -> list[Extent]:
        """Requests in the order of the file; each fills a run of cells, or a part of one."""
        strides, axes, run = self._strided.sig_strides, list(self._axes), 1
        if cell.joined:
            while axes and strides[axes[0]] == run * cell.pitch:
                run *= box[axes.pop(0)]
        offsets = np.array([self._strided.offset + sum(n * stride for n, stride in zip(first, strides, strict=True))], dtype=np.int64)
        at = np.zeros(1, dtype=np.int64)
        for axis in axes:
            steps = np.arange(box[axis], dtype=np.int64)[:, None]
            offsets, at = (steps * strides[axis] + offsets).ravel(), (steps * cells[axis] + at).ravel()
        lows, sizes, places = np.array(cell.spans, dtype=np.int64).T
        table = np.zeros((len(offsets), len(lows), 4), dtype=np.int64)
        table[..., 1], table[..., 2], table[..., 3] = offsets[:, None] + lows, sizes + (run - 1) * cell.pitch, at[:, None] + places
        return [(file, offset, size, place) for file, offset, size, place in table.reshape(-1, 4).tolist()]
