"""LZ4, LZF and Fletcher-32 on addresses. Each returns 0 or the `Rule` that was broken; none reads or writes outside of what it is given."""

from __future__ import annotations

from numba import types

from gpuio.cpu_fallback._memory import compiled, copy, load8, load16, load32, store8
from gpuio.inflation import Rule

INPUT, OUTPUT, DISTANCE, SHORT, CHECKSUM = (int(rule) for rule in (Rule.INPUT, Rule.OUTPUT, Rule.DISTANCE, Rule.SHORT, Rule.CHECKSUM))
CODEC = types.int64(types.int64, types.int64, types.int64, types.int64)


@compiled(CODEC, "_codecs")
def lz4(s: int, size: int, d: int, gives: int) -> int:
    """An LZ4 block of `size` bytes at `s` into `gives` bytes at `d`."""
    first, end, full = d, s + size, d + gives
    while True:
        if s >= end:
            return INPUT
        token = load8(s)
        s += 1
        count = token >> 4
        if count == 15:
            while True:
                if s >= end:
                    return INPUT
                more = load8(s)
                s += 1
                count += more
                if more != 255:
                    break
        if count > end - s:
            return INPUT
        if count > full - d:
            return OUTPUT
        copy(d, s, count)
        s += count
        d += count
        if s == end:
            return 0 if d == full else SHORT
        if end - s < 2:
            return INPUT
        distance = load16(s)
        s += 2
        count = (token & 15) + 4
        if count == 19:
            while True:
                if s >= end:
                    return INPUT
                more = load8(s)
                s += 1
                count += more
                if more != 255:
                    break
        if distance == 0 or distance > d - first:
            return DISTANCE
        if count > full - d:
            return OUTPUT
        for i in range(count):
            store8(d + i, load8(d + i - distance))
        d += count


@compiled(CODEC, "_codecs")
def lzf(s: int, size: int, d: int, gives: int) -> int:
    """A bare LZF stream of `size` bytes at `s` into `gives` bytes at `d`."""
    first, end, full = d, s + size, d + gives
    while s < end:
        control = load8(s)
        s += 1
        if control < 32:
            count = control + 1
            if count > end - s:
                return INPUT
            if count > full - d:
                return OUTPUT
            copy(d, s, count)
            s += count
        else:
            count = (control >> 5) + 2
            if end - s < (2 if count == 9 else 1):
                return INPUT
            if count == 9:
                count += load8(s)
                s += 1
            distance = ((control & 31) << 8) + load8(s) + 1
            s += 1
            if distance > d - first:
                return DISTANCE
            if count > full - d:
                return OUTPUT
            for i in range(count):
                store8(d + i, load8(d + i - distance))
        d += count
    return 0 if d == full else SHORT


@compiled(types.int64(types.int64, types.int64), "_codecs")
def fletcher32(s: int, size: int) -> int:
    """Check the sum that follows `size` bytes at `s`.

    Sums run over words of 16 bits, highest byte first, and are kept modulo 65535, where a sum that is not 0 is never called 0.
    HDF5 before 1.6.3 swapped the bytes of both halves on little-endian hosts; it takes such sums to this day.
    """
    low = high = 0
    words = size // 2
    for i in range(words):
        low += (load8(s + 2 * i) << 8) + load8(s + 2 * i + 1)
        high += low
        if i % 256 == 255:
            low, high = low % 65535 if low % 65535 or not low else 65535, high % 65535 if high % 65535 or not high else 65535
    if size % 2:
        low += load8(s + size - 1) << 8
        high += low
    low = (low - 1) % 65535 + 1 if low else 0
    high = (high - 1) % 65535 + 1 if high else 0
    found, swapped = high << 16 | low, (high & 255) << 24 | (high >> 8) << 16 | (low & 255) << 8 | low >> 8
    stored = load32(s + size)
    return 0 if stored in (found, swapped) else CHECKSUM
