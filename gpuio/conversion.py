"""Pairs of dtypes that the engines' loops do not know: bool, float16, complex, byte orders that are not the host's.

The loops decode integers of 1 to 8 bytes, float32 and float64. For the rest they decode stored bits as one of these, a few
frames at a time into scratch memory; conversion and corrections are then whole-array arithmetic of the engine's array
module. Works for any engine and costs two more passes over the scratch.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np

from gpuio.engine import Blocks, Decode, Engine, RepairTable
from gpuio.layout import PIXELS, POS, REP_POS, REP_SRC, REPEATS, REVERSED, ROW_POS, ROWS, SRC, Encoding, of_numbers
from gpuio.prepare import check_maps, check_placements

#: Scratch memory of a thread: about half of a usual L2, and never less than a frame.
SCRATCH_BYTES = 512 << 10
#: The same on a device, where launches are dear; each step of a conversion holds as much again, in the wider dtype up to four times.
DEVICE_CONVERSION_BYTES = 16 << 20


def is_native(source: np.dtype, target: np.dtype) -> bool:
    """Whether the engines' loops decode `source` into `target` by themselves.

    Raises
    ------
    TypeError
        Not dtypes of numbers of at most 64 bits a part.
    """
    return all(dtype.isnative and dtype.kind in "uif" and dtype.char != "e" for dtype in map(of_numbers, (source, target)))


class ConvertingDecoder:
    """`gpuio.engine.FrameDecoder` for pairs that are not native.

    ``out = (astype(value) - dark) * gain``: the value is converted as by NumPy's `astype` (of a complex value the real
    part, except to bool), corrected in float64 or complex128, and rounded once.
    """

    def __init__(self, engine: Engine, encoding: Encoding, placements: np.ndarray, frame_pixels: int, dtype: np.dtype,
                 dark: np.ndarray | None, gain: np.ndarray | None) -> None:
        check_placements(encoding, placements, frame_pixels)
        dark, gain = check_maps(dtype, frame_pixels, dark, gain)
        self._engine, self._source, self._dtype, self._pixels = engine, encoding.dtype, dtype, frame_pixels
        stored, table, items = _stored(encoding, placements)
        self._stored, self._items = stored.dtype, items
        self._inner = engine.decoder(stored, table, frame_pixels * items, stored.dtype)
        self._dark, self._gain = (None if m is None else engine.upload(m.astype(np.float64)) for m in (dark, gain))
        index = _written(placements)
        self._index = None if len(index) == frame_pixels else engine.upload(index)
        budget = SCRATCH_BYTES if engine.name == "cpu" else DEVICE_CONVERSION_BYTES
        self._few = max(1, budget // (frame_pixels * encoding.dtype.itemsize))
        self._local = threading.local()             # scratch: threads that decode at the same time need their own

    def bind(self, staged: Any, starts: np.ndarray, out: Any) -> Decode:
        """See `gpuio.engine.FrameDecoder.bind`."""
        if out.dtype != self._dtype:
            raise TypeError(f"out is {out.dtype}; expected {self._dtype}")
        if out.ndim != 2 or out.shape[1] != self._pixels or not out.flags.c_contiguous:
            raise ValueError(f"out has shape {list(out.shape)}; expected [depth, {self._pixels}] in C order")
        depth = len(out)
        few = min(self._few, max(1, depth))
        own = threading.local()
        own.bound = self._bind_scratch(few, staged, starts)     # what is wrong with `staged` and `starts` shows now

        def decode(first: int, count: int, at: int = 0) -> None:
            if first < 0 or at < 0 or count < 0 or first + count > len(starts) or at + count > depth:
                raise IndexError(f"frames {first} to {first + count} into {at} to {at + count}: "
                                 f"there are {len(starts)} starts, and out holds {depth} frames")
            if not hasattr(own, "bound"):
                own.bound = self._bind_scratch(few, staged, starts)
            inner, scratch = own.bound
            for done in range(0, count, few):
                n = min(few, count - done)
                inner(first + done, n)
                self._put(scratch[:n], out[at + done:at + done + n])

        return decode

    def _bind_scratch(self, few: int, staged: Any, starts: np.ndarray) -> tuple[Decode, Any]:
        """A call that decodes stored bits into this thread's scratch, and the scratch, which all calls of a thread share."""
        scratch = getattr(self._local, "scratch", None)
        if scratch is None or len(scratch) < few:
            scratch = self._local.scratch = self._engine.zeros((few, self._pixels * self._items), self._stored)
        return self._inner.bind(staged, starts, scratch), scratch

    def _put(self, stored: Any, out: Any) -> None:
        """Convert and correct decoded bits into `out`."""
        values = stored != 0 if self._source.kind == "b" else stored.view(self._source)
        if values.dtype.kind == "c" and self._dtype.kind not in "cb":
            values = values.real
        with np.errstate(all="ignore"):         # what does not fit is as in NumPy, without its warnings
            values = values.astype(self._dtype)
            if self._dark is not None or self._gain is not None:
                values = values.astype(np.complex128 if self._dtype.kind == "c" else np.float64)
                if self._dark is not None:
                    values = values - self._dark
                if self._gain is not None:
                    values = values * self._gain
                values = values.astype(self._dtype)
        if self._index is None:
            out[...] = values
        else:
            out[:, self._index] = values[:, self._index]


def repair_widened(engine: Engine, out: Any, table: RepairTable) -> None:
    """`Engine.repair` for a dtype that the engine does not repair itself: in float64 or complex128, a few frames at a time."""
    wider = np.complex128 if out.dtype.kind == "c" else np.float64
    few = max(1, SCRATCH_BYTES // (out.shape[1] * 8))
    pixels = engine.upload(np.asarray(table.pixels, dtype=np.int64))
    for first in range(0, len(out), few):
        wide = out[first:first + few].astype(wider)
        engine.repair(wide, table)
        out[first:first + few, pixels] = wide[:, pixels].astype(out.dtype)


def bin_generally(frames: Any, out: Any, blocks: Blocks) -> None:
    """`Engine.bin` for dtypes that an engine has no loop for (bool, float16, complex), array operation by array operation."""
    b = blocks
    planes = frames.reshape(-1, b.rows, b.down, b.columns, b.across)
    wide = np.dtype({"b": "u8", "u": "u8", "i": "i8", "f": "f8", "c": "c16"}[frames.dtype.kind])
    few = max(1, SCRATCH_BYTES // (b.rows * b.columns * wide.itemsize))
    for first in range(0, len(planes), few):
        some = planes[first:first + few]
        sums: Any = 0
        for dy in range(b.down):
            for dx in range(b.across):
                sums = sums + some[:, :, dy, :, dx].astype(wide)
        if wide.kind == "c" and out.dtype.kind != "c":
            sums = sums.real
        with np.errstate(all="ignore"):         # what does not fit is as in NumPy, without its warnings
            out.reshape(-1, b.rows, b.columns)[first:first + few] = sums.astype(out.dtype)


def _stored(encoding: Encoding, placements: np.ndarray) -> tuple[Encoding, np.ndarray, int]:
    """The encoding and table that decode the stored bits natively, and how many items make up a pixel."""
    source = encoding.dtype
    if source.kind == "b":
        return replace(encoding, dtype=np.dtype(np.uint8)), placements, 1
    if source.char == "e":
        return replace(encoding, dtype=np.dtype(np.uint16)), placements, 1
    if source.kind != "c":
        return encoding, placements, 1
    # Each half of a complex number is an item with its own byte order.
    half = np.dtype(f"f{source.itemsize // 2}")
    table = _unmirrored(placements, source.itemsize)
    table[:, [POS, REP_POS, ROW_POS, PIXELS]] *= 2
    return replace(encoding, dtype=half, group_bytes=half.itemsize), table, 2


def _unmirrored(placements: np.ndarray, pixel_bytes: int) -> np.ndarray:
    """The same without reversed runs, which would exchange the halves of a number: each becomes repeats of one pixel."""
    entries = []
    for entry in placements:
        if not entry[REVERSED]:
            entries.append(entry)
            continue
        for k in range(entry[REPEATS]):
            single = entry.copy()
            single[SRC] += k * entry[REP_SRC]
            single[POS] += k * entry[REP_POS]
            single[[REPEATS, REP_SRC, REP_POS, PIXELS, REVERSED]] = entry[PIXELS], pixel_bytes, -1, 1, 0
            entries.append(single)
    return np.array(entries, dtype=np.int64).reshape(-1, placements.shape[1])


def _written(placements: np.ndarray) -> np.ndarray:
    """Flat indices of all pixels that a checked table names: int64[n]."""
    runs = [np.zeros(0, dtype=np.int64)]
    for entry in placements:
        rows, repeats, pixels = (np.arange(entry[column], dtype=np.int64) for column in (ROWS, REPEATS, PIXELS))
        way = -1 if entry[REVERSED] else 1
        runs.append((entry[POS] + rows[:, None, None] * entry[ROW_POS] + repeats[:, None] * entry[REP_POS] + way * pixels).ravel())
    return np.concatenate(runs)
