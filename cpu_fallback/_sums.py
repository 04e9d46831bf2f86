"""Sums of frames in one pass: of each frame over its pixels, and of each pixel over the frames.

Frames are packed ones, where each is a single run of pixels, which are then unpacked in registers and never stored; or decoded
ones, which are packed as `plain`. What this costs are the wide sums of the pixels, 8 bytes each that are read and written, where a
stored pixel has 1 or 2. So `TOGETHER` frames are added up before they are touched, and of those left over four, two and one (measured:
four frames of 16 bits take half of what they take one by one); and frames are walked in blocks of pixels whose sums stay in L2. A frame's
own sum stays in registers for the length of a block.

- **Integers** are exact modulo 2**64. Those of 8 and 16 bits are added up in lanes of 32 bits within a block, where they cannot overflow.
- **Reals** are added in float64, in an order that depends on nothing but the frame: a pixel's sum takes the frames one after the other;
  a frame's sum takes every 16th pixel of a block into the same lane, lanes are added in halves, blocks in order. So results depend
  neither on the tiles' depth nor on the processor.
- Complex pixels are two reals; lanes are added until one of each is left.
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

from gpuio.cpu_fallback._driver import at, digest, jit
from gpuio.cpu_fallback._step import KINDS, convert, load, store
from gpuio.cpu_fallback._vectors import I8, I64, Unpacker, const, shuffle, splat

#: Frames that are added up before the sums of the pixels are touched.
TOGETHER = 8
#: Values of a frame that are walked at a time: sums of 128 KiB, and runs long enough for the processor to read ahead (measured: of frames
#: in memory, 10 % faster than 4096). A lane of 32 bits takes a 16th of them: 2**10 * 2**16 < 2**31.
BLOCK = 16384
WIDE_BYTES = 8

# Globals of a variant; `compile_sums` puts its own in their place.
ITEMS = GROUP = GROUP_BYTES = 0
eight: Any = None
four: Any = None
two: Any = None
one: Any = None


def loop(src: int, starts: int, step: int, frames: int, low: int, high: int, values: int, of_frames: int, of_pixels: int,
         param: int) -> int:
    """Add frames of `values` numbers each to both sums. All arguments are int64; `src`, `starts` and the sums are addresses.

    Frame f begins ``starts[f * step]`` bytes from `src`. Returns -1, or the number of the frame whose start is not among
    `low` ... `high`; then nothing has been added.
    """
    for f in range(frames):
        if at(starts, f * step) < low or at(starts, f * step) > high:
            return f
    for first in range(0, values, BLOCK):
        count = min(BLOCK, values - first)
        block, sums = src + first // GROUP * GROUP_BYTES, of_pixels + first * WIDE_BYTES
        f = 0
        while frames - f >= TOGETHER:
            eight(block, starts + f * step * 8, step, count, of_frames + f * ITEMS * WIDE_BYTES, sums, param)
            f += TOGETHER
        if frames - f >= 4:
            four(block, starts + f * step * 8, step, count, of_frames + f * ITEMS * WIDE_BYTES, sums, param)
            f += 4
        if frames - f >= 2:
            two(block, starts + f * step * 8, step, count, of_frames + f * ITEMS * WIDE_BYTES, sums, param)
            f += 2
        if frames - f >= 1:
            one(block, starts + f * step * 8, step, count, of_frames + f * ITEMS * WIDE_BYTES, sums, param)
    return -1


SIGNATURE = types.int64(*[types.int64] * loop.__code__.co_argcount)


def make_rows(unpacker: Unpacker, items: int, frames: int) -> Any:
    """The intrinsic ``rows(src, starts, step, count, of_frames, of_pixels, param)``: adds `count` values of each of `frames` frames."""
    source, lanes, step_bytes = unpacker.dtype, unpacker.step, unpacker.step_bytes
    real, kind = source.kind == "f", source.kind
    #: What values are added up in, and how wide the sums are.
    inner, outer = (f"{kind}4" if not real and source.itemsize <= 2 else f"{kind}8"), np.dtype(f"{kind}8")
    wide = ir.VectorType(KINDS[outer.str[1:]], lanes)
    zeros = const(KINDS[inner], [0.0 if real else 0] * lanes)

    def add(b: Any, x: Any, y: Any) -> Any:
        return b.fadd(x, y) if real else b.add(x, y)

    def widen(b: Any, v: Any) -> Any:
        return v if inner == outer.str[1:] else convert(b, v, np.dtype(inner), outer.str[1:])

    def rows(typing: Any, src: Any, starts: Any, step: Any, count: Any, of_frames: Any, of_pixels: Any, param: Any) -> Any:
        def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
            src, starts, step, count, of_frames, of_pixels, param = args
            table = b.inttoptr(starts, I64.as_pointer())
            begins = [b.add(src, b.load(b.gep(table, [b.mul(step, I64(f))]))) for f in range(frames)]
            totals = [cgutils.alloca_once_value(b, zeros) for _ in range(frames)]

            def unpack(begin: Any, turn: Any, rest: Any) -> Any:
                """A step of a frame as `lanes` values of `inner`; those from `rest` on are zero and not read."""
                address, read = b.add(begin, b.mul(turn, I64(step_bytes))), None
                if rest is not None:
                    groups = b.udiv(b.add(rest, I64(unpacker.group_pixels - 1)), I64(unpacker.group_pixels))
                    end = splat(b, b.mul(groups, I64(unpacker.group_bytes)), step_bytes)
                    read = b.icmp_unsigned("<", const(I64, range(step_bytes)), end)

                def get(distance: Any = None) -> Any:
                    return load(b, address if distance is None else b.add(address, distance), ir.VectorType(I8, step_bytes), read)

                values = _join(b, [convert(b, v, source, inner) for v in unpacker.unpack(b, get, param)])
                if rest is not None:
                    values = b.select(b.icmp_unsigned("<", const(I64, range(lanes)), splat(b, rest, lanes)), values, zeros)
                return values

            def add_step(turn: Any, rest: Any = None) -> None:
                place = b.add(of_pixels, b.mul(turn, I64(lanes * WIDE_BYTES)))
                mask = None if rest is None else b.icmp_unsigned("<", const(I64, range(lanes)), splat(b, rest, lanes))
                sums, together = load(b, place, wide, mask), None
                for begin, total in zip(begins, totals, strict=True):
                    v = unpack(begin, turn, rest)
                    b.store(add(b, b.load(total), v), total)
                    if real:
                        sums = add(b, sums, v)          # in the order of the frames
                    else:
                        together = v if together is None else add(b, together, v)
                store(b, sums if together is None else add(b, sums, widen(b, together)), place, mask)

            turns, rest = b.udiv(count, I64(lanes)), b.urem(count, I64(lanes))
            with cgutils.for_range(b, turns) as turn:
                add_step(turn.index)
            with b.if_then(b.icmp_unsigned("!=", rest, I64(0))):
                add_step(turns, rest)
            for f, total in enumerate(totals):
                v, left = widen(b, b.load(total)), lanes
                while left > items:
                    left //= 2
                    v = add(b, shuffle(b, v, range(left)), shuffle(b, v, range(left, 2 * left)))
                place = b.add(of_frames, I64(f * items * WIDE_BYTES))
                store(b, add(b, load(b, place, v.type, None), v), place, None)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), emit

    return intrinsic(rows)


def _join(b: Any, vectors: list[Any]) -> Any:
    """Vectors one after the other as one."""
    while len(vectors) > 1:
        n = vectors[0].type.count
        order = const(ir.IntType(32), range(2 * n))
        vectors = [b.shuffle_vector(x, y, order) for x, y in zip(vectors[::2], vectors[1::2], strict=True)]
    return vectors[0]


def compile_sums(unpacker: Unpacker, items: int = 1) -> Any:
    """The loop for frames of an encoding, `items` of whose values are a pixel, as machine code."""
    module = type(unpacker).__module__.rpartition(".")[2]
    name = f"sums_{module}_{unpacker.dtype.str[1:]}_{items}_{digest(module, '_sums')}"
    with _lock:
        if name not in _compiled:
            own = {**globals(), "ITEMS": items, "GROUP": unpacker.group_pixels, "GROUP_BYTES": unpacker.group_bytes,
                   **{name: make_rows(unpacker, items, n) for name, n in (("eight", TOGETHER), ("four", 4), ("two", 2), ("one", 1))}}
            function = python_types.FunctionType(loop.__code__, own)
            function.__module__, function.__qualname__ = __name__, name
            _compiled[name] = jit(function, SIGNATURE)
        return _compiled[name]


_compiled: dict[str, Any] = {}
_lock = threading.Lock()
