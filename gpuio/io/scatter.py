"""Frames of which only pixels that are not zero are stored: entries are read, checked, and travel packed; the engine adds them up.

Entries are read in pieces of bounded size, wherever frames begin in them, so that neither a crowded frame nor a million empty
ones need much memory. Pixel numbers are checked on the host, while they are in its cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpuio.engine import Engine, Entries
from gpuio.errors import FormatError, ReadError
from gpuio.io.base import Extent
from gpuio.layout import Items, Sparse

#: Staging buffers: one is filled while the other travels.
BUFFERS = 2
#: Lists in a staging buffer begin at multiples of this.
_ALIGNMENT = 16


class EntryReader:
    """Reads entries into host memory.

    Parameters
    ----------
    frame_pixels
        Pixel numbers are below this.
    backend
        A transport that ends in host memory and asks for no alignment.
    """

    def __init__(self, sparse: Sparse, frame_pixels: int, backend: Any) -> None:
        self._sparse, self._pixels = sparse, frame_pixels
        lists = (sparse.bounds, sparse.pixels, sparse.values)
        self._reader = backend.open([items.path for items in lists], [items.count * items.dtype.itemsize for items in lists])

    def close(self) -> None:
        """Close the files."""
        self._reader.close()

    def bounds(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First entry of each frame and one past its last: two int64[n].

        Raises
        ------
        ReadError, OSError
            They cannot be read, or are no longer what they were when the data set was opened.
        """
        items = self._sparse.bounds
        run = np.concatenate(([0], np.cumsum(np.diff(frames) != 1))) if len(frames) else np.zeros(0, np.int64)
        first = np.flatnonzero(np.diff(run, prepend=-1))
        lengths = np.diff(first, append=len(frames)) + 1
        stored = np.empty(int(lengths.sum()), items.dtype)
        self._reader.read(_extents(0, frames[first], lengths, items), stored.view(np.uint8))
        at = np.arange(len(frames)) + run
        with np.errstate(all="ignore"):
            bounds = stored.astype(np.int64)
        low, high = bounds[at], bounds[at + 1]
        wrong = (low < 0) | (high < low) | (high > self._sparse.values.count)
        if wrong.any():
            frame = int(np.argmax(wrong))
            raise ReadError(f"{items.path}: frame {frames[frame]} has entries {low[frame]} to {high[frame]} of "
                            f"{self._sparse.values.count}; the file has changed since it was opened")
        return low, high

    def read(self, frames: np.ndarray, low: np.ndarray, high: np.ndarray, pixels: np.ndarray, values: np.ndarray) -> None:
        """The entries ``low[i]:high[i]`` of each frame, one frame's after the other's, in native byte order.

        Parameters
        ----------
        frames
            Their numbers, for messages.
        pixels, values : uint8[n], written
            As large as the entries.

        Raises
        ------
        FormatError
            An entry is of a pixel that the frame does not have.
        ReadError, OSError
            They cannot be read.
        """
        some = np.flatnonzero(high > low)
        first = some[np.flatnonzero(np.concatenate(([True], low[some][1:] != high[some][:-1])))] if len(some) else some
        last = np.concatenate((some[np.searchsorted(some, first[1:]) - 1], some[-1:]))
        lengths = high[last] - low[first]
        for number, items, into in ((1, self._sparse.pixels, pixels), (2, self._sparse.values, values)):
            self._reader.read(_extents(number, low[first], lengths, items), into)
            if not items.dtype.isnative:
                into.view(items.dtype).byteswap(inplace=True)
        self._check(frames, low, high, pixels.view(self._sparse.pixels.dtype.newbyteorder("=")))

    def _check(self, frames: np.ndarray, low: np.ndarray, high: np.ndarray, pixels: np.ndarray) -> None:
        if not len(pixels) or (pixels.min() >= 0 and pixels.max() < self._pixels):
            return
        at = int(np.argmax((pixels < 0) | (pixels >= self._pixels)))
        before = np.cumsum(high - low)
        frame = int(np.searchsorted(before, at, side="right"))
        entry = int(high[frame] - (before[frame] - at))
        raise FormatError(f"{self._sparse.pixels.path}: entry {entry}, of frame {frames[frame]}, is of pixel {pixels[at]}; "
                          f"expected 0 to {self._pixels - 1}")


class ScatterReader:
    """Puts frames together in the engine's memory.

    Parameters
    ----------
    piece_bytes
        Of entries in memory at a time.
    """

    def __init__(self, sparse: Sparse, frame_pixels: int, engine: Engine, backend: Any, piece_bytes: int) -> None:
        self._entries = EntryReader(sparse, frame_pixels, backend)
        self._engine, self._frame_pixels = engine, frame_pixels
        self._value, self._pixel = sparse.values.dtype.newbyteorder("="), np.dtype(f"u{sparse.pixels.dtype.itemsize}")
        self._most = max(1, piece_bytes // (self._value.itemsize + self._pixel.itemsize))
        self._buffers: list[Any] = []
        self._next = 0

    def close(self) -> None:
        """Close the files."""
        self._entries.close()

    def gather(self, frames: np.ndarray, into: Any) -> None:
        """Frames `frames` (int64[n]) one after another into `into` (uint8[>= n * frame bytes], engine memory), in native byte order.

        Raises
        ------
        ReadError, FormatError, OSError
            As `EntryReader`.
        """
        out = into[:len(frames) * self._frame_pixels * self._value.itemsize].view(self._value).reshape(len(frames), self._frame_pixels)
        out[...] = 0
        low, high = self._entries.bounds(frames)
        for first, stop, lows, highs, starts in _pieces(low, high, self._most):
            count = int(starts[-1])
            values, pixels = self._value.itemsize * count, self._pixel.itemsize * count
            at_pixels = _aligned(values)
            at_starts = at_pixels + _aligned(pixels)
            staging = self._staging(at_starts + starts.nbytes)
            host = staging.host
            self._entries.read(frames[first:stop], lows, highs, host[at_pixels:at_pixels + pixels], host[:values])
            host[at_starts:at_starts + starts.nbytes] = starts.view(np.uint8)
            staging.push(at_starts + starts.nbytes)
            self._engine.scatter(staging.device, out[first:stop], Entries(stop - first, count, at_starts, at_pixels, 0, self._pixel))

    def _staging(self, n_bytes: int) -> Any:
        """A buffer that nothing is read from any more."""
        self._next = (self._next + 1) % BUFFERS
        if len(self._buffers) < BUFFERS:
            self._buffers.append(self._engine.staging(n_bytes))
            self._next = len(self._buffers) - 1
        elif self._buffers[self._next].device.size < n_bytes:
            self._buffers[self._next] = self._engine.staging(n_bytes)
        return self._buffers[self._next]


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT) * _ALIGNMENT


def _extents(file: int, first: np.ndarray, lengths: np.ndarray, items: Items) -> list[Extent]:
    """Runs of items of a file, one after the other in memory."""
    size = items.dtype.itemsize
    ends = np.cumsum(lengths) * size
    return [(file, offset, n_bytes, end - n_bytes) for offset, n_bytes, end
            in zip((first * size).tolist(), (lengths * size).tolist(), ends.tolist(), strict=True)]


def _pieces(low: np.ndarray, high: np.ndarray, most: int) -> Iterator[tuple[int, int, np.ndarray, np.ndarray, np.ndarray]]:
    """Entries of frames cut into pieces of at most `most`: frames ``first:stop``, their first and last entries in the piece, and where
    they start in it, int64[stop - first + 1]."""
    before = np.concatenate(([0], np.cumsum(high - low)))
    for begin in range(0, int(before[-1]), most):
        end = min(begin + most, int(before[-1]))
        first = int(np.searchsorted(before, begin, side="right")) - 1
        stop = int(np.searchsorted(before, end, side="left"))
        starts = np.clip(before[first:stop + 1] - begin, 0, end - begin)
        lows = low[first:stop] + np.maximum(begin - before[first:stop], 0)
        yield first, stop, lows, lows + np.diff(starts), starts
