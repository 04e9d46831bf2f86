"""Buffers attached to the loop of `_sums`: decoded frames, and packed ones that are a single run of pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuio.cpu_fallback._sums import compile_sums
from gpuio.cpu_fallback._table import join_rows
from gpuio.cpu_fallback._vectors import Unpacker
from gpuio.engine import Add
from gpuio.layout import PART, PIXELS, POS, REPEATS, REVERSED, ROWS, SKIPPED, SRC, Encoding
from gpuio.prepare import allowed_starts, check_range, check_sums

_ANYWHERE = np.iinfo(np.int64)


def add_decoded(frames: np.ndarray, of_frames: np.ndarray, of_pixels: np.ndarray) -> Add:
    """See `gpuio.engine.Engine.adder`."""
    check_sums(frames.dtype, frames.shape[1], of_frames, of_pixels)
    if frames.dtype.char == "e" or not frames.dtype.isnative:
        known = np.dtype(np.float32) if frames.dtype.char == "e" else frames.dtype.newbyteorder("=")

        def add_converted(first: int, count: int, at: int) -> None:
            add_decoded(frames[first:first + count].astype(known), of_frames, of_pixels)(0, count, at)

        return add_converted
    from gpuio.cpu_fallback.plain import Plain

    items = 2 if frames.dtype.kind == "c" else 1
    source = np.dtype(f"f{frames.itemsize // 2}") if items == 2 else np.dtype("u1") if frames.dtype.kind == "b" else frames.dtype
    starts = np.arange(len(frames), dtype=np.int64)[:, None] * frames.strides[0]
    return _bind(compile_sums(Plain(source), items), frames.ctypes.data, starts, (_ANYWHERE.min, _ANYWHERE.max), frames.shape[1] * items,
                 of_frames, of_pixels, 0, frames)


class PackedAdder:
    """`gpuio.engine.FrameAdder` for frames that are a single run: they are unpacked in registers, and never stored."""

    def __init__(self, unpacker: Unpacker, encoding: Encoding, entry: np.ndarray, limits: np.ndarray) -> None:
        self._dtype, self._param, self._pixels = encoding.dtype, encoding.param, int(entry[PIXELS])
        self._part, self._src, self._limits = int(entry[PART]), int(entry[SRC]), limits
        self._loop = compile_sums(unpacker)

    def bind(self, staged: np.ndarray | None, starts: np.ndarray, of_frames: np.ndarray, of_pixels: np.ndarray) -> Add:
        """See `gpuio.engine.FrameAdder.bind`."""
        check_sums(self._dtype, self._pixels, of_frames, of_pixels)
        src, allowed = self._src, (_ANYWHERE.min, _ANYWHERE.max)
        if staged is not None:
            src, allowed = src + staged.ctypes.data, tuple(allowed_starts(self._limits, staged.size)[self._part].tolist())
        return _bind(self._loop, src, starts[:, self._part:], allowed, self._pixels, of_frames, of_pixels, self._param, staged)


def single_run(encoding: Encoding, placements: np.ndarray, frame_pixels: int) -> np.ndarray | None:
    """The only row of the placement table, if a frame is one run of pixels in storage order."""
    table = join_rows(placements, encoding)
    if len(table) != 1:
        return None
    entry: np.ndarray = table[0]
    plain = entry[ROWS] == entry[REPEATS] == 1 and not entry[[POS, SKIPPED, REVERSED]].any() and entry[PIXELS] == frame_pixels
    return entry if plain else None


def _bind(loop: Any, src: int, starts: np.ndarray, allowed: tuple[int, int], values: int, of_frames: np.ndarray, of_pixels: np.ndarray,
          param: int, staged: np.ndarray | None) -> Add:
    first_start, start_bytes, frames = starts.ctypes.data, starts.strides[0], len(starts)
    scan, pattern, sum_bytes, room = of_frames.ctypes.data, of_pixels.ctypes.data, of_frames.itemsize, len(of_frames)

    def add(first: int, count: int, at: int) -> None:
        check_range(first, count, at, frames, room)
        bad = loop(src, first_start + first * start_bytes, start_bytes // 8, count, *allowed, values, scan + at * sum_bytes, pattern, param)
        if bad >= 0:
            raise ValueError(f"frame {first + bad} starts at {starts[first + bad, 0]}; expected {allowed[0]} to {allowed[1]}")

    add.owners = (staged, starts, of_frames, of_pixels)     # type: ignore[attr-defined]  # keeps alive what addresses point into
    return add
