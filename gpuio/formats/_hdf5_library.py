"""Frames that only the HDF5 library can read: compact and virtual data sets, and chunks packed by filters that gpuio does not undo.

They are asked for as chunks (`gpuio.chunks`), whole frames each. The library works for one thread at a time.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuio.chunks import ChunkGrid
from gpuio.errors import ReadError
from gpuio.formats._hdf5_structure import library


@dataclass(frozen=True, slots=True)
class LibraryArray:
    """A data set, and how it is cut into chunks of whole frames. `item` has the byte order of the file."""

    path: str
    name: str
    grid: ChunkGrid
    sig_shape: tuple[int, ...]
    item: np.dtype
    frames_last: bool = False


@dataclass(frozen=True, slots=True)
class LibrarySource:
    """Arrays one after the other; a `gpuio.chunks.ChunkSource`."""

    arrays: tuple[LibraryArray, ...]

    def open(self) -> LibraryReader:
        """Open no file yet."""
        return LibraryReader(self.arrays)


class LibraryReader:
    """Opens a file when it is first needed and keeps the last one open; see `gpuio.chunks.ChunkReader`."""

    def __init__(self, arrays: tuple[LibraryArray, ...]) -> None:
        self._arrays = arrays
        self._first_rows = [array.grid.first_row for array in arrays[1:]]
        self._lock = threading.Lock()
        self._path, self._file = "", None

    def read(self, row: int, column: int, into: np.ndarray) -> None:
        """Frames of a row, in the byte order of the file."""
        array = self._arrays[int(np.searchsorted(self._first_rows, row, side="right"))]
        grid = array.grid
        origin = tuple(int(k) * c for k, c in zip(np.unravel_index(row - grid.first_row, grid.counts), grid.nav_chunk, strict=True))
        box = tuple(slice(o, min(o + c, n)) for o, c, n in zip(origin, grid.nav_chunk, grid.nav_shape, strict=True))
        frames = into.view(array.item).reshape(*grid.nav_chunk, *array.sig_shape)
        inner = tuple(slice(0, part.stop - part.start) for part in box)
        with self._lock:
            try:
                found = self._open(array.path)[array.name]
                if found.ndim == len(array.sig_shape):          # a single frame without a nav axis
                    frames[0] = found[...].view(array.item)
                elif array.frames_last:
                    sig_dims = len(array.sig_shape)
                    turned = found[(slice(None),) * sig_dims + box].view(array.item)
                    frames[inner] = np.moveaxis(turned, range(sig_dims), range(-sig_dims, 0))
                else:
                    frames[inner] = found[box].view(array.item)
            except (OSError, KeyError, RuntimeError, ValueError) as error:
                raise ReadError(f"{array.path}: data set {array.name}, frames from {origin} on: HDF5 says: {error}") from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _open(self, path: str) -> Any:
        if self._file is None or self._path != path:
            if self._file is not None:
                self._file.close()
            self._path, self._file = path, library().File(path, "r")
        return self._file
