"""Arrays that are stored as chunks: boxes of pixels, each packed on its own and anywhere in a file. Data, never code.

A box spans some scan positions and some of the detector. The boxes that hold the same frames form a **row**; the **columns** of
all rows are the boxes that the detector is cut into, in C order::

    table[row, column] = file, byte offset, stored bytes, mask of the filters that were left out

Rows are what is read and unpacked: in memory the chunk of column c begins ``c * pitch`` bytes after its row, and frame w of a row
``w * frame_step`` bytes after the first one. Chunks have their full size also where they reach beyond the array. Where nothing is
packed, single frames can be taken out of a chunk, and take the place of rows: see `Chunks.by_frame`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from gpuio.layout import Filter

#: Columns of the last axis of a table. File -1: nothing was stored.
FILE, OFFSET, STORED, MASK = range(4)


class ChunkReader(Protocol):
    """What `ChunkSource` opens. Any number of threads may read at the same time."""

    def read(self, row: int, column: int, into: np.ndarray) -> None:
        """Put the unpacked bytes of a chunk into `into`, uint8[chunk_bytes].

        Raises
        ------
        ReadError, OSError
        """

    def close(self) -> None: ...


class ChunkSource(Protocol):
    """Chunks that have to be asked for, since only a library knows how to unpack them. A value: it pickles, and holds no handles."""

    def open(self) -> ChunkReader: ...


@dataclass(frozen=True, slots=True)
class ChunkGrid:
    """Where the chunks of one array are in the table.

    Parameters
    ----------
    start_idx
        Its first frame, counted in all frames of the data set.
    nav_shape, nav_chunk
        Frames along each nav axis, of the array and of a chunk.
    first_row
        Of its first chunk.
    """

    start_idx: int
    nav_shape: tuple[int, ...]
    nav_chunk: tuple[int, ...]
    first_row: int = 0

    @property
    def counts(self) -> tuple[int, ...]:
        """Chunks along each nav axis."""
        return tuple(-(-n // c) for n, c in zip(self.nav_shape, self.nav_chunk, strict=True))

    @property
    def is_linear(self) -> bool:
        """Whether the frames of a chunk follow each other in the data set."""
        first = next((i for i, n in enumerate(self.nav_chunk) if n > 1), len(self.nav_chunk))
        return all(c >= n for n, c in zip(self.nav_shape[first + 1:], self.nav_chunk[first + 1:], strict=True))

    def locate(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row, and number in its chunk, of frames counted in the data set: two int64[n]."""
        at = np.unravel_index(frames - self.start_idx, self.nav_shape)
        boxes = tuple(k // c for k, c in zip(at, self.nav_chunk, strict=True))
        inner = tuple(k % c for k, c in zip(at, self.nav_chunk, strict=True))
        return (self.first_row + np.ravel_multi_index(boxes, self.counts).astype(np.int64),
                np.ravel_multi_index(inner, self.nav_chunk).astype(np.int64))


@dataclass(frozen=True, eq=False)
class Chunks:
    """Arrays in chunks, one after the other along the frames.

    Parameters
    ----------
    files, sizes
        Paths, and bytes of each.
    grids
        One for each array, in the order of frames; all with as many frames a chunk.
    table : int64[rows, columns, 4]
        File, byte offset, stored bytes, mask of filters; see above.
    sig_grid, sig_chunk
        Chunks along each detector axis, and pixels of a chunk.
    item_bytes, frame_step
        Bytes of a pixel, and from a frame of a chunk to the next.
    filters
        How chunks were packed, in the order of writing.
    fill
        A pixel, as bytes, where nothing was stored.
    source
        Asked for chunks that cannot be read from the files; the table then says only which are there.
    first_row
        Number of the table's first row: a partition has its own rows only.
    """

    files: tuple[str, ...]
    sizes: tuple[int, ...]
    grids: tuple[ChunkGrid, ...]
    table: np.ndarray
    sig_grid: tuple[int, ...]
    sig_chunk: tuple[int, ...]
    item_bytes: int
    frame_step: int
    filters: tuple[Filter, ...] = ()
    fill: bytes = b""
    source: ChunkSource | None = None
    first_row: int = 0

    @property
    def columns(self) -> int:
        """Chunks of a row."""
        return math.prod(self.sig_grid)

    @property
    def frames_per_row(self) -> int:
        """Frames that a chunk has room for."""
        return math.prod(self.grids[0].nav_chunk)

    @property
    def chunk_bytes(self) -> int:
        """Unpacked bytes of a chunk."""
        return self.frames_per_row * math.prod(self.sig_chunk) * self.item_bytes

    @property
    def by_frame(self) -> bool:
        """Whether the bytes of one frame can be read out of a chunk: nothing is packed, and frames lie one after the other."""
        return not self.is_packed and self.frame_step * self.frames_per_row == self.chunk_bytes

    @property
    def is_packed(self) -> bool:
        """Whether stored bytes have to be unpacked, here or by the source."""
        return bool(self.filters) or self.source is not None

    @property
    def pitch(self) -> int:
        """Bytes from one column of a row to the next, in memory; of a frame, where frames take the place of rows."""
        return self.frame_step if self.by_frame else self.chunk_bytes

    @property
    def row_bytes(self) -> int:
        """Of a row in memory."""
        return self.columns * self.pitch

    @property
    def stored_row_bytes(self) -> int:
        """The most that is stored of a row; 0 where it goes straight to its place."""
        if self.source is not None or not self.filters:
            return 0
        return int(self.table[:, :, STORED].sum(axis=1).max(initial=0))

    @property
    def is_linear(self) -> bool:
        """Whether frames that follow each other never come back to a row."""
        return self.by_frame or all(grid.is_linear for grid in self.grids)

    def locate(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row of the table, and number in its chunks, of frames: two int64[n]."""
        frames = np.asarray(frames, dtype=np.int64)
        if len(self.grids) == 1:
            row, within = self.grids[0].locate(frames)
            return row - self.first_row, within
        row, within = np.empty_like(frames), np.empty_like(frames)
        which = np.searchsorted([grid.start_idx for grid in self.grids[1:]], frames, side="right")
        for i, grid in enumerate(self.grids):
            mine = np.flatnonzero(which == i)
            if len(mine):
                row[mine], within[mine] = grid.locate(frames[mine])
        return row - self.first_row, within

    def rows_of(self, frames: np.ndarray) -> np.ndarray:
        """What frames have in common in memory, int64[n]: their row, or a number of their own where frames take the place of rows."""
        row, within = self.locate(frames)
        return row * self.frames_per_row + within if self.by_frame else row

    def between(self, start: int, stop: int) -> Chunks:
        """As much of it as the frames ``start:stop`` need; frames keep their numbers."""
        rows = self.locate(np.arange(max(start, 0), max(stop, 0)))[0]
        if not len(rows):
            return self
        low, high = int(rows.min()), int(rows.max()) + 1
        return dataclasses.replace(self, table=self.table[low:high], first_row=self.first_row + low)

    def where(self, row: int, column: int) -> str:
        """A chunk in words: its file, its first element, and where its bytes are."""
        number = row + self.first_row
        grid = self.grids[int(np.searchsorted([g.first_row for g in self.grids[1:]], number, side="right"))]
        at = (*np.unravel_index(number - grid.first_row, grid.counts), *np.unravel_index(column, self.sig_grid))
        origin = tuple(int(k) * c for k, c in zip(at, (*grid.nav_chunk, *self.sig_chunk), strict=True))
        file, offset, stored, _ = self.table[row, column].tolist()
        return f"{self.files[file]}: chunk {origin}, {stored} bytes at byte {offset}"

    def used_files(self) -> Iterator[str]:
        """Paths of files that hold any chunk."""
        for file in np.unique(self.table[:, :, FILE]).tolist():
            if file >= 0:
                yield self.files[file]
