"""Bits and bytes put back in their order.

Bitshuffle turns a block of `m` elements into bit planes: bit `j` of byte `k` of all elements is plane ``8 k + j``, `m / 8` bytes.
Eight planes are undone into one byte plane; byte planes are undone as those of the byte shuffle are.

Eight vectors, one from each bit plane, hold an 8 x 8 matrix of bits in each lane. Three rounds of exchanging bits between pairs of
vectors transpose all of them; then vector `e` holds the bytes of elements ``8 i + e``, and `_interleave` puts these side by side.
Byte planes of zeros, which counting detectors have many of, are looked for first.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuio.cpu_fallback._memory import clear, compiled, copy, load8, store8
from gpuio.cpu_fallback._vectors import I8, I32, I64, const, lanes, shuffle

#: Bytes of a vector: eight of them, and what is computed from them, fit the registers of AVX2.
WIDE = 32
#: Bytes of a part of a vector within which every processor interleaves lanes.
PART = 16
#: Bytes that are looked at together where planes of zeros are looked for.
LOOKED_AT = 256
N = types.int64


def _interleave(b: Any, vectors: list[Any]) -> list[Any]:
    """Bytes of 2, 4 or 8 vectors side by side: byte 0 of each, then byte 1 of each, and so on.

    Each round interleaves vectors `i` and ``i + n / 2`` into ``2 i`` and ``2 i + 1``: in the number of a byte, the bits of the vector
    followed by those of the lane, that is a rotation by one place. Lanes are interleaved within parts of 16 bytes, which is what
    processors have instructions for. So that the parts come out in their order, granule `g` (``16 / n`` bytes) of each vector goes to
    part ``g % parts`` before.
    """
    n, wide = len(vectors), vectors[0].type.count
    parts, granule = wide // PART, ir.IntType(8 * PART // n)
    order = [part + parts * i for part in range(parts) for i in range(n)]
    vectors = [lanes(b, shuffle(b, lanes(b, v, granule), order), I8) for v in vectors]
    for _ in range(n.bit_length() - 1):
        vectors = [b.shuffle_vector(vectors[i // 2], vectors[i // 2 + n // 2], const(I32, (
            part + i % 2 * PART // 2 + lane // 2 + lane % 2 * wide for part in range(0, wide, PART) for lane in range(PART))))
            for i in range(n)]
    return vectors


def _transpose_bits(b: Any, vectors: list[Any]) -> list[Any]:
    """Bit `e` of vector `j` becomes bit `j` of vector `e`, in each byte."""
    words = [lanes(b, v, I64) for v in vectors]
    for distance in (4, 2, 1):
        low = 0xff // ((1 << distance) + 1) * 0x0101010101010101
        mask, shift = (const(I64, [value] * words[0].type.count) for value in (low, distance))
        for i in range(8):
            if not i & distance:
                one, other = words[i], words[i + distance]
                moved = b.and_(b.xor(b.lshr(one, shift), other), mask)
                words[i], words[i + distance] = b.xor(one, b.shl(moved, shift)), b.xor(other, moved)
    return [lanes(b, w, I8) for w in words]


def _uniter(planes: int, bits: bool) -> Any:
    """``unite(to, s, pitch)``: `WIDE` bytes of each of some planes that are `pitch` bytes apart, transposed to ``planes * WIDE`` bytes."""
    vector = ir.VectorType(I8, WIDE)

    def unite(typing: Any, to: Any, s: Any, pitch: Any) -> Any:
        def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
            to, s, pitch = args
            rows = [b.load(b.inttoptr(b.add(s, b.mul(pitch, I64(k))), vector.as_pointer()), align=1) for k in range(planes)]
            for k, row in enumerate(_interleave(b, _transpose_bits(b, rows) if bits else rows)):
                b.store(row, b.inttoptr(b.add(to, I64(k * WIDE)), vector.as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(N, N, N), emit

    return intrinsic(unite)


unite_8_bits, unite_2, unite_4, unite_8 = _uniter(8, True), _uniter(2, False), _uniter(4, False), _uniter(8, False)


def _any(typing: Any, s: Any) -> Any:
    """``any_bit(s)``: whether one of `LOOKED_AT` bytes is not zero."""
    vector = ir.VectorType(I8, WIDE)

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        found = ir.Constant(vector, [0] * WIDE)
        for k in range(0, LOOKED_AT, WIDE):
            found = b.or_(found, b.load(b.inttoptr(b.add(args[0], I64(k)), vector.as_pointer()), align=1))
        bits = ir.IntType(8 * WIDE)
        return b.icmp_unsigned("!=", b.bitcast(found, bits), bits(0))

    return types.boolean(N), emit


any_bit: Any = intrinsic(_any)


@compiled(types.boolean(N, N), "_unshuffle")
def is_zero(s: int, size: int) -> bool:
    """Whether `size` bytes are all zero."""
    done = 0
    while done + LOOKED_AT <= size:
        if any_bit(s + done):
            return False
        done += LOOKED_AT
    found = 0
    for i in range(done, size):
        found |= load8(s + i)
    return found == 0


@compiled(types.void(N, N, N), "_unshuffle")
def unite_few_bits(to: int, s: int, groups: int) -> None:
    """Eight bit planes of `groups` bytes each, one behind the other, into ``8 * groups`` bytes; for blocks that are less than a tile."""
    for i in range(groups):
        for e in range(8):
            value = 0
            for j in range(8):
                value |= (load8(s + j * groups + i) >> e & 1) << j
            store8(to + 8 * i + e, value)


@compiled(types.void(N, N, N, N, N), "_unshuffle")
def unite_bytes(to: int, s: int, pitch: int, elements: int, item: int) -> None:
    """`item` byte planes of `elements` bytes, `pitch` bytes apart, into elements."""
    if elements >= WIDE and item in (2, 4, 8):
        last = elements - WIDE
        for i in range(0, elements, WIDE):
            i = min(i, last)
            if item == 2:
                unite_2(to + i * item, s + i, pitch)
            elif item == 4:
                unite_4(to + i * item, s + i, pitch)
            else:
                unite_8(to + i * item, s + i, pitch)
        return
    for k in range(item):
        for i in range(elements):
            store8(to + i * item + k, load8(s + k * pitch + i))


@compiled(types.void(N, N, N, N, N), "_unshuffle")
def unite_planes(to: int, s: int, elements: int, item: int, scratch: int) -> None:
    """A block of bitshuffle: `elements`, a multiple of 8, of `item` bytes; `scratch` has room for two.

    Goes through the block in tiles of ``8 * WIDE`` elements: byte planes of a tile are made in `scratch`, from where they go to `to`.
    """
    groups = elements // 8
    here = min(WIDE, groups)
    pitch = 8 * here
    empty = scratch + item * pitch                  # flags of byte planes
    for k in range(item):
        zero = is_zero(s + k * elements, elements)
        store8(empty + k, zero)
        if zero:
            clear(scratch + k * pitch, pitch)
    for i in range(0, groups, WIDE):
        i = min(i, groups - here)
        for k in range(item):
            if load8(empty + k):
                continue
            target = to + 8 * i if item == 1 else scratch + k * pitch
            if here == WIDE:
                unite_8_bits(target, s + k * elements + i, groups)
            else:
                unite_few_bits(target, s + k * elements, groups)
        if item > 1:
            unite_bytes(to + 8 * i * item, scratch, pitch, pitch, item)
        elif load8(empty):
            clear(to + 8 * i, pitch)


@compiled(types.void(N, N, N, N), "_unshuffle")
def unshuffle(to: int, s: int, size: int, item: int) -> None:
    """HDF5's byte shuffle; bytes behind the last whole element stay where they are."""
    elements = size // item
    unite_bytes(to, s, elements, elements, item)
    copy(to + elements * item, s + elements * item, size - elements * item)
