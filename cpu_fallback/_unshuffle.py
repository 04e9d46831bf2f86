"""Bits and bytes put back in their order.

Bitshuffle turns a block of `m` elements into bit planes: bit `j` of byte `k` of all elements is plane ``8 k + j``, `m / 8` bytes.
Eight planes are undone into one byte plane; byte planes are undone as those of the byte shuffle are.
"""

from __future__ import annotations

from numba import types

from gpuio.cpu_fallback._memory import compiled, copy, load8, store8


@compiled(types.void(types.int64, types.int64, types.int64), "_unshuffle")
def unite_bits(to: int, s: int, groups: int) -> None:
    """Eight bit planes of `groups` bytes each, one behind the other, into ``8 * groups`` bytes."""
    for i in range(groups):
        for e in range(8):
            value = 0
            for j in range(8):
                value |= (load8(s + j * groups + i) >> e & 1) << j
            store8(to + 8 * i + e, value)


@compiled(types.void(types.int64, types.int64, types.int64, types.int64), "_unshuffle")
def unite_bytes(to: int, s: int, elements: int, item: int) -> None:
    """`item` byte planes of `elements` bytes each into elements."""
    for i in range(elements):
        for k in range(item):
            store8(to + i * item + k, load8(s + k * elements + i))


@compiled(types.void(types.int64, types.int64, types.int64, types.int64, types.int64), "_unshuffle")
def unite_planes(to: int, s: int, elements: int, item: int, scratch: int) -> None:
    """A block of bitshuffle: `elements`, a multiple of 8, of `item` bytes; `scratch` has room for them."""
    target = to if item == 1 else scratch
    for k in range(item):
        unite_bits(target + k * elements, s + k * elements, elements // 8)
    if item > 1:
        unite_bytes(to, scratch, elements, item)


@compiled(types.void(types.int64, types.int64, types.int64, types.int64), "_unshuffle")
def unshuffle(to: int, s: int, size: int, item: int) -> None:
    """HDF5's byte shuffle; bytes behind the last whole element stay where they are."""
    elements = size // item
    unite_bytes(to, s, elements, item)
    copy(to + elements * item, s + elements * item, size - elements * item)
