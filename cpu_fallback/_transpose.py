"""Frames of an array that is stored with navigation fastest, put together through tiles that stay in the L1 cache.

A tile is a few pixels of many frames. It is loaded along navigation and stored along the pixels of a frame, so that memory is
read and written in whole cache lines, each once. It has memory of its own: the runs of neighbouring pixels are often a power of
two apart, and so would push each other out of a cache that they were gathered from directly.

Within the tile, blocks as wide as a vector are transposed in registers (`_make_block`).
"""

from __future__ import annotations

import threading
import types as python_types
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpuio.cpu_fallback._driver import jit
from gpuio.engine import TransposeTable
from gpuio.layout import Piece

#: Bytes of a frame that a tile stores at a time: two cache lines.
ROW_BYTES = 128
#: Frames of a tile.
TALL = 64
#: Bytes of a vector that every processor has.
VECTOR = 16

# Globals of a variant; `_compiled` puts its own in their place.
ITEM = LANES = WIDE = 0
block: Any = None
move: Any = None


def transpose(staged: np.ndarray, out: np.ndarray, piece: Piece, table: TransposeTable) -> None:
    """See `gpuio.engine.Engine.transpose`; the arguments have been checked."""
    tile = np.empty((2, ROW_BYTES * TALL), np.uint8)
    places = np.empty((2, ROW_BYTES // out.itemsize), np.int64)
    loaded, turned = (half.ctypes.data for half in tile)
    _compiled(out.itemsize)(staged.ctypes.data, table.starts, table.frames, out.ctypes.data, out.shape[1], loaded, turned, places,
                            np.empty(TALL, np.int64), piece.src, piece.row_src, piece.rep_src, piece.pos, piece.row_pos,
                            piece.rep_pos, piece.rows * piece.repeats, piece.repeats)


def loop(staged: int, starts: np.ndarray, frames: np.ndarray, out: int, frame_pixels: int, loaded: int, turned: int, places: np.ndarray,
         ends: np.ndarray, src: int, row_src: int, rep_src: int, pos: int, row_pos: int, rep_pos: int, pixels: int, repeats: int) -> None:
    """`staged`, `out` and the two halves of the tile are addresses; `places`, int64[2, pixels of a tile], and
    `ends`, int64[frames of a tile], are scratch."""
    for first in range(0, pixels, WIDE):
        wide = min(WIDE, pixels - first)
        for i in range(wide):
            row, repeat = divmod(first + i, repeats)
            places[0, i] = staged + src + row * row_src + repeat * rep_src
            places[1, i] = out + (pos + row * row_pos + repeat * rep_pos) * ITEM
        in_a_row = True
        for i in range(wide):
            in_a_row &= places[1, i] == places[1, 0] + i * ITEM
        for frame in range(0, starts.shape[0], TALL):
            tall = min(TALL, starts.shape[0] - frame)
            n_runs = 0
            for j in range(1, tall + 1):                # frames side by side are loaded together
                if j == tall or starts[frame + j] != starts[frame + j - 1] + ITEM:
                    ends[n_runs] = j
                    n_runs += 1
            for i in range(wide):
                j = 0
                for run in range(n_runs):
                    to, start = loaded + (i * TALL + j) * ITEM, places[0, i] + starts[frame + j]
                    if ends[run] == j + 1:
                        move(to, start)
                    else:
                        copy(to, start, (ends[run] - j) * ITEM)
                    j = ends[run]
            for i in range(0, wide, LANES):
                for j in range(0, tall, LANES):
                    block(turned + (j * WIDE + i) * ITEM, WIDE * ITEM, loaded + (i * TALL + j) * ITEM, TALL * ITEM)
            for j in range(tall):
                target = frames[frame + j] * frame_pixels * ITEM
                if in_a_row:
                    copy(target + places[1, 0], turned + j * WIDE * ITEM, wide * ITEM)
                else:
                    for i in range(wide):
                        move(target + places[1, i], turned + (j * WIDE + i) * ITEM)


def _copy(typing: Any, to: Any, start: Any, n_bytes: Any) -> Any:
    """Bytes from one address to another."""
    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        cgutils.raw_memcpy(b, b.inttoptr(args[0], byte), b.inttoptr(args[1], byte), args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), emit


copy: Any = intrinsic(_copy)


def _make_move(item: ir.Type) -> Any:
    """``move(to, start)``: one item from one address to another."""
    def move(typing: Any, to: Any, start: Any) -> Any:
        def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
            b.store(b.load(b.inttoptr(args[1], item.as_pointer()), align=1), b.inttoptr(args[0], item.as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), emit

    return intrinsic(move)


def _make_block(item: ir.Type, lanes: int) -> Any:
    """``block(to, to_pitch, start, pitch)``: lanes x lanes items transposed; pitches are the bytes from one row to the next.

    Each stage interleaves the lanes of rows i and i + lanes / 2 into rows 2 i and 2 i + 1. In the number of an item, the bits
    of the row followed by those of the lane, that is a rotation by one place; after log2(lanes) of them row and lane have
    changed places.
    """
    vector = ir.VectorType(item, lanes)

    def block(typing: Any, to: Any, to_pitch: Any, start: Any, pitch: Any) -> Any:
        def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
            def row(i: int, address: ir.Value, step: ir.Value) -> ir.Value:
                return b.inttoptr(b.add(address, b.mul(step, step.type(i))), vector.as_pointer())

            rows = [b.load(row(i, args[2], args[3]), align=1) for i in range(lanes)]
            half = lanes // 2
            for _ in range(lanes.bit_length() - 1):
                rows = [b.shuffle_vector(rows[i // 2], rows[i // 2 + half], ir.Constant(
                    ir.VectorType(ir.IntType(32), lanes), [(i % 2) * half + lane // 2 + (lane % 2) * lanes for lane in range(lanes)]))
                    for i in range(lanes)]
            for i, value in enumerate(rows):
                b.store(value, row(i, args[0], args[1]), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64, types.int64), emit

    return intrinsic(block)


_lock = threading.Lock()
_variants: dict[int, Any] = {}


def _compiled(item_bytes: int) -> Any:
    """`loop` as machine code for items of a size."""
    with _lock:
        if item_bytes not in _variants:
            item, lanes = ir.IntType(8 * item_bytes), VECTOR // item_bytes
            own = {**globals(), "ITEM": item_bytes, "LANES": lanes, "WIDE": ROW_BYTES // item_bytes, "move": _make_move(item),
                   "block": _make_block(item, lanes)}
            function = python_types.FunctionType(loop.__code__, own)
            # numba's cache knows this file and the name of a function in it, but no globals.
            function.__module__, function.__qualname__ = __name__, f"transpose_{item_bytes}"
            table, number = types.Array(types.int64, 1, "C", readonly=True), types.int64
            signature = types.void(number, table, table, *[number] * 4, number[:, ::1], number[::1], *[number] * 8)
            _variants[item_bytes] = jit(function, signature)
        return _variants[item_bytes]
