"""One step of pixels: load, unpack, convert, correct, store. The intrinsic that the loop of `_driver` is built around.

Conversion is NumPy's ``astype``: integers wrap, integers become reals with a single rounding, reals are truncated towards
zero. What a real out of an integer's range becomes is left open by NumPy; here it saturates at 32 or 64 bits and then
wraps, a NaN becomes 0, so that no input is undefined behaviour.

Corrections are ``(value - dark) * gain`` as if in float64 and rounded once. A single operation on float32 operands gives
those bits in float32 arithmetic, too (53 >= 2 * 24 + 2), so one map alone is cheap. No fast-math flag is set, so nothing
is contracted or reordered.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpuio.cpu_fallback import CACHE_LINE
from gpuio.cpu_fallback._vectors import F32, F64, I8, I32, I64, LANES, Unpacker, const, shuffle, splat

#: LLVM's types of output and maps, by NumPy's names. LLVM's integers have no sign.
KINDS = {**{f"{sign}{n}": ir.IntType(8 * n) for sign in "ui" for n in (1, 2, 4, 8)}, "f4": F32, "f8": F64}


def size_of(element: Any) -> int:
    """Bytes of a lane."""
    return {F32: 4, F64: 8}[element] if element in (F32, F64) else element.width // 8


def suffix(vector: Any) -> str:
    """How LLVM calls a vector type in the names of its intrinsics."""
    element = vector.element
    return f"v{vector.count}" + (f"f{8 * size_of(element)}" if element in (F32, F64) else f"i{element.width}")


def call(b: Any, name: str, result: Any, *args: Any) -> Any:
    """Call an intrinsic of LLVM."""
    kind = ir.FunctionType(result, [a.type for a in args])
    return b.call(b.module.globals.get(name) or ir.Function(b.module, kind, name), args)


def convert(b: Any, v: Any, source: np.dtype, target: str) -> Any:
    """Lanes as `Unpacker.unpack` returns them, of dtype `source`, as lanes of dtype `target`."""
    element = KINDS[target]
    to, width = ir.VectorType(element, v.type.count), v.type.element.width
    real = element in (F32, F64)
    if source.kind == "f":
        stored = F32 if width == 32 else F64
        v = b.bitcast(v, ir.VectorType(stored, v.type.count))
        if stored == element:
            return v
        if real:
            return b.fptrunc(v, to) if element == F32 else b.fpext(v, to)
        return _truncate(b, v, target, to)
    if width == 1:
        one, zero = (1.0, 0.0) if real else (1, 0)
        return b.select(v, const(element, [one] * to.count), const(element, [zero] * to.count))
    signed = source.kind == "i"
    if real:
        return (b.sitofp if signed else b.uitofp)(v, to)
    if width < element.width:
        return (b.sext if signed else b.zext)(v, to)
    return v if width == element.width else b.trunc(v, to)


def _truncate(b: Any, v: Any, target: str, to: Any) -> Any:
    """Reals to integers by way of int32 or int64, as processors do, so that values just out of range wrap."""
    way = I32 if to.element.width < 32 else I64
    wide = ir.VectorType(way, to.count)
    sign = "u" if target == "u8" else "s"
    v = call(b, f"llvm.fpto{sign}i.sat.{suffix(wide)}.{suffix(v.type)}", wide, v)
    return v if wide == to else b.trunc(v, to)


def correct(b: Any, v: Any, dark: Any, gain: Any, element: Any) -> Any:
    """Subtract and multiply vectors of maps where there are any, for lanes of `element`; `v` may be wider."""
    to, maps = ir.VectorType(element, v.type.count), [m for m in (dark, gain) if m is not None]
    inner = v.type if len(maps) == 1 and maps[0].type == v.type else ir.VectorType(F64, to.count)

    def wide(x: Any) -> Any:
        return x if x.type == inner else b.fpext(x, inner)

    result = wide(v)
    if dark is not None:
        result = b.fsub(result, wide(dark))
    if gain is not None:
        result = b.fmul(result, wide(gain))
    return result if result.type == to else b.fptrunc(result, to)


def load(b: Any, address: Any, vector: Any, mask: Any) -> Any:
    """A vector from any address; with a mask, only the lanes that it names are touched."""
    pointer = b.inttoptr(address, vector.as_pointer())
    if mask is not None:
        return call(b, f"llvm.masked.load.{suffix(vector)}.p0", vector, pointer, I32(1), mask, ir.Constant(vector, ir.Undefined))
    value = b.load(pointer)
    value.align = 1
    return value


def store(b: Any, value: Any, address: Any, mask: Any, past_cache: bool = False) -> None:
    """The reverse of `load`. Past the cache only to addresses that are multiples of the vector's size, or of a cache line."""
    pointer = b.inttoptr(address, value.type.as_pointer())
    if mask is not None:
        call(b, f"llvm.masked.store.{suffix(value.type)}.p0", ir.VoidType(), value, pointer, I32(1), mask)
        return
    stored = b.store(value, pointer)
    stored.align = 1
    if past_cache:
        stored.align = min(value.type.count * size_of(value.type.element), CACHE_LINE)
        stored.set_metadata("nontemporal", b.module.add_metadata([I32(1)]))


def load_constant(b: Any, table: Any, index: Any) -> Any:
    """``table[index]`` of int64 at an address, which nothing changes while the loop runs: LLVM may read it early, and once."""
    value = b.load(b.gep(b.inttoptr(table, I64.as_pointer()), [index]))
    value.set_metadata("invariant.load", b.module.add_metadata([]))
    return value


def prefetch(b: Any, address: Any) -> None:
    """Have the cache line of an address fetched; it may be any address."""
    kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
    name = "llvm.prefetch.p0"
    function = b.module.globals.get(name) or ir.Function(b.module, kind, name)
    b.call(function, [b.inttoptr(address, I8.as_pointer()), I32(0), I32(3), I32(1)])        # to be read, again, as data


def make_step(unpacker: Unpacker, target: str, maps: str, backward: bool, partial: bool, ahead: int = 0, past_cache: bool = False) -> Any:
    """The intrinsic ``step(src, starts, parts, frames, position, out, frame_pixels, dark, gain, low, high, param)``.

    A step of pixels of each of `frames` frames. Maps are read, and made as wide as the arithmetic is, once for all of them. Frame f is
    read at ``src + starts[f * parts]`` and goes to `position` in ``out + f * frame_pixels``.

    Parameters
    ----------
    target
        Output dtype: u1 ... u8, i1 ... i8, f4, f8.
    maps
        "" or the maps' dtype and which there are: "f4d", "f8g", "f4dg" ...
    backward
        The first pixel goes to `position` and further ones before it; else behind it.
    partial
        Only pixels ``low <= k < high`` of the step are stored, and only the groups up to `high` are read.
    ahead
        Bytes behind those of the step that are fetched into the cache; 0: none.
    past_cache
        Pixels are stored past the cache; positions have to be multiples of a step, `out` and frames in it also, or of a cache line.
    """
    source, element = unpacker.dtype, KINDS[target]
    both = maps.endswith("dg")
    # Integers of up to 16 bits are the same in float32 and float64: where both maps are, they become float64 at once.
    inner = "f8" if both and source.kind in "ui" and source.itemsize <= 2 else target
    lanes = LANES // 2 if both else LANES       # of float64, as many as a register has
    step_bytes, group_bytes, group_pixels = unpacker.step_bytes, unpacker.group_bytes, unpacker.group_pixels

    def step(typing: Any, src: Any, starts: Any, parts: Any, frames: Any, position: Any, out: Any, frame_pixels: Any, dark: Any, gain: Any,
             low: Any, high: Any, param: Any) -> Any:
        def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
            src, starts, parts, frames, position, out, frame_pixels, dark, gain, low, high, param = args
            readable = b.mul(b.udiv(b.add(high, I64(group_pixels - 1)), I64(group_pixels)), I64(group_bytes)) if partial else None

            def place(first: int) -> tuple[Any, Any]:
                """Lowest position of the lanes that begin with the step's pixel `first`, and which of them are wanted."""
                mask = None
                if partial:
                    pixels = const(I64, list(range(first, first + lanes))[::-1 if backward else 1])
                    mask = b.and_(b.icmp_signed(">=", pixels, splat(b, low, lanes)), b.icmp_signed("<", pixels, splat(b, high, lanes)))
                return b.add(position, I64(-first - lanes + 1 if backward else first)), mask

            def read_map(letter: str, base: Any, lowest: Any, mask: Any) -> Any:
                if letter not in maps:
                    return None
                vector = ir.VectorType(KINDS[maps[:2]], lanes)
                values = load(b, b.add(base, b.mul(lowest, I64(size_of(vector.element)))), vector, mask)
                return b.fpext(values, ir.VectorType(F64, lanes)) if both and vector.element == F32 else values

            places = [place(first) for first in range(0, unpacker.step, lanes)]
            of_maps = [(read_map("d", dark, *where), read_map("g", gain, *where)) for where in places]
            with cgutils.for_range(b, frames) as turn:
                begin = b.add(src, load_constant(b, starts, b.mul(turn.index, parts)))
                to = b.add(out, b.mul(b.mul(turn.index, frame_pixels), I64(size_of(element))))
                if ahead:
                    prefetch(b, b.add(begin, I64(ahead)))

                def get(distance: Any = None) -> Any:
                    mask = b.icmp_unsigned("<", const(I64, range(step_bytes)), splat(b, readable, step_bytes)) if partial else None
                    return load(b, begin if distance is None else b.add(begin, distance), ir.VectorType(I8, step_bytes), mask)

                vectors = [shuffle(b, v, range(k, k + lanes)) for v in unpacker.unpack(b, get, param) for k in range(0, LANES, lanes)]
                for v, (lowest, mask), (dark_v, gain_v) in zip(vectors, places, of_maps, strict=True):
                    v = convert(b, v, source, inner)
                    if backward:
                        v = shuffle(b, v, range(lanes)[::-1])
                    if maps:
                        v = correct(b, v, dark_v, gain_v, element)
                    store(b, v, b.add(to, b.mul(lowest, I64(size_of(element)))), mask, past_cache)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 12), emit

    return intrinsic(step)
