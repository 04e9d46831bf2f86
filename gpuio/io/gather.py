"""Frames of an array that is stored with navigation fastest (Fortran-ordered NPY, transposed DM4), put together on the host.

A frame of such an array has one pixel in each run of the file, so a few frames cost a pass over nearly all of it. The
stream therefore asks for as many frames at once as its memory budget holds; here the file is read front to back in
pieces of bounded size, and each piece is scattered into the frames.
"""

from __future__ import annotations

import numpy as np

from gpuio.io.backends import BufferedBackend
from gpuio.io.staging import aligned_empty
from gpuio.layout import Strided

#: Bytes of the file that are in memory at a time, if one pixel of all frames fits.
PIECE_BYTES = 8 << 20


class GatherReader:
    """Reads whole frames of a strided array.

    Parameters
    ----------
    strided
        Where the array's elements lie; nav strides must be smaller than sig strides.
    sig_shape
        Detector axes.
    """

    def __init__(self, strided: Strided, sig_shape: tuple[int, ...]) -> None:
        self._strided, self._sig_shape = strided, sig_shape
        self._reader = BufferedBackend().open([strided.path], [None])
        size = strided.dtype.itemsize
        self._item = np.dtype("c16") if size == 16 else np.dtype(f"u{size}")      # moved, not interpreted
        self._buffer = np.empty(0, dtype=np.uint8)

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def gather(self, frames: np.ndarray, into: np.ndarray) -> None:
        """Frames `frames` (int64[n]) one after another into `into` (uint8[>= n * frame bytes]), in the byte order of the file."""
        n_bytes = len(frames) * self._item.itemsize * int(np.prod(self._sig_shape))
        out = into[:n_bytes].view(self._item).reshape(len(frames), *self._sig_shape)
        nav = np.unravel_index(frames, self._strided.nav_shape)
        reach = sum(index * stride for index, stride in zip(nav, self._strided.nav_strides, strict=True))
        self._low, self._high = int(np.min(reach)), int(np.max(reach)) + self._item.itemsize
        slowest_first = sorted(range(len(self._sig_shape)), key=lambda axis: -self._strided.sig_strides[axis])
        self._gather(out, nav, slowest_first, [slice(None)] * len(self._sig_shape), 0)

    def _gather(self, out: np.ndarray, nav: tuple[np.ndarray, ...], axes: list[int], box: list[slice], offset: int) -> None:
        """The pixels of `box`, whose axes not in `axes` are single; cut along the slowest of `axes` as finely as needed."""
        shape, strides = self._sig_shape, self._strided.sig_strides
        within = sum((shape[a] - 1) * strides[a] for a in axes[1:]) + self._high - self._low
        axis = axes[0] if axes else None
        count = 1 if axis is None else max(1, (PIECE_BYTES - within) // strides[axis] + 1)
        for first in range(0, 1 if axis is None else shape[axis], count):
            piece = list(box)
            at, reach = offset, within
            if axis is not None:
                last = min(first + count, shape[axis])
                piece[axis] = slice(first, last)
                at, reach = offset + first * strides[axis], within + (last - first - 1) * strides[axis]
                if within > PIECE_BYTES and len(axes) > 1:
                    self._gather(out, nav, axes[1:], piece, at)
                    continue
            self._copy(out, nav, piece, at, reach)

    def _copy(self, out: np.ndarray, nav: tuple[np.ndarray, ...], box: list[slice], at: int, reach: int) -> None:
        """Read `reach` bytes from the first wanted element of the box and scatter them."""
        if len(self._buffer) < reach:
            self._buffer = aligned_empty(reach)
        start = self._strided.offset + at + self._low
        self._reader.read([(0, start, reach, 0)], self._buffer)
        elements = self._buffer[:reach].view(self._item)
        target = out[(slice(None), *box)]
        picks = (sum(i * s for i, s in zip(nav, self._strided.nav_strides, strict=True)) - self._low) // self._item.itemsize
        span = (self._high - self._low) // self._item.itemsize
        runs = np.lib.stride_tricks.as_strided(       # every pixel of the box has its run of nav elements
            elements, shape=(*target.shape[1:], span), strides=(*self._strided.sig_strides, self._item.itemsize), writeable=False)
        target[...] = np.moveaxis(runs[..., picks], -1, 0)
