"""LZ4, LZF and Fletcher-32 on addresses. Each returns 0 or the `Rule` that was broken; none reads or writes outside of what it is given."""

from __future__ import annotations

import numpy as np
from numba import types

from gpuio.cpu_fallback._memory import WORDS, compiled, copy, copy16, fill, load8, load16, load32, load64, store8, store64
from gpuio.inflation import Rule

INPUT, OUTPUT, DISTANCE, SHORT, CHECKSUM = (int(rule) for rule in (Rule.INPUT, Rule.OUTPUT, Rule.DISTANCE, Rule.SHORT, Rule.CHECKSUM))
N = types.int64
CODEC = N(N, N, N, N, N, N)

#: Matches up to this length are copied word by word, which writes up to `WILD` bytes behind them.
SHORT_MATCH, WILD = 64, 8
#: What a sequence of LZ4 whose lengths fit its token needs: bytes that are read of it, the next token included, and bytes that are written.
INPUT_ROOM, OUTPUT_ROOM = 19, 40
#: By distance, 8 standing for all that are larger: the bytes of a word that are there already; what repeats them in the rest of
#: it; and the least multiple of the distance that is 8 or more.
LOW_BYTES = np.array([0, *((1 << 8 * d) - 1 for d in range(1, 9))], dtype=np.uint64)
REPEATED = np.array([0, *(sum(1 << bits for bits in range(0, 64, 8 * d)) for d in range(1, 9))], dtype=np.uint64)
STRIDES = np.array([0, *(-(-8 // d) * d for d in range(1, 9))], dtype=np.int64)


@compiled(types.void(N, N, N), "_codecs")
def repeat(d: int, distance: int, count: int) -> None:
    """A match: `count` bytes at `d` that repeat the `distance` bytes before it. Writes no more than these."""
    if distance <= 8 and 8 % distance == 0:
        word = np.uint64(0)
        for i in range(8):
            word |= np.uint64(load8(d - distance + i % distance)) << np.uint64(8 * i)
        end = d + count
        while d <= end - 8 * WORDS:
            fill(d, word)
            d += 8 * WORDS
        while d <= end - 8:
            store64(d, word)
            d += 8
        while d < end:
            store8(d, np.int64(word & np.uint64(255)))
            word >>= np.uint64(8)
            d += 1
        return
    done = 0
    while done < count:                             # what is there already, a multiple of the distance, is copied behind itself
        n = min(distance + done, count - done)
        copy(d + done, d - distance, n)
        done += n


@compiled(types.void(N, N, N, N), "_codecs")
def copy_literals(d: int, s: int, count: int, room: int) -> None:
    """`count` bytes; `room` bytes can be read at `s` and written at `d`."""
    if count + 16 <= room:
        copy16(d, s)
        for i in range(16, count, 16):
            copy16(d + i, s + i)
    else:
        copy(d, s, count)


@compiled(types.void(N, N, N, N), "_codecs")
def copy_match(d: int, distance: int, count: int, room: int) -> None:
    """`count` bytes that repeat the `distance` bytes before `d`; `room` bytes can be written at `d`."""
    if count <= SHORT_MATCH and count + WILD <= room:
        near = np.uint64(min(distance, 8))
        stride = max(STRIDES[near], distance)
        store64(d, (load64(d - distance) & LOW_BYTES[near]) * REPEATED[near])
        for i in range(8, count, 8):
            store64(d + i, load64(d + i - stride))
    else:
        repeat(d, distance, count)


@compiled(CODEC, "_codecs")
def lz4(s: int, size: int, d: int, gives: int, readable: int, writeable: int) -> int:
    """An LZ4 block of `size` bytes at `s` into `gives` bytes at `d`.

    Bytes up to the addresses `readable` and `writeable` may be read and written, too: they are not part of the block, but let short
    copies be of a fixed length.
    """
    first, end, full = d, s + size, d + gives
    last_input, last_output = end - INPUT_ROOM, full - OUTPUT_ROOM
    while s < end:
        token = load8(s)
        count, length = token >> 4, token & 15
        if count < 15 and length < 15 and s <= last_input and d <= last_output:        # no length needs to be looked at
            copy16(d, s + 1)
            s += count + 3
            d += count
            distance = load16(s - 2)
            if distance == 0 or distance > d - first:
                return DISTANCE
            near = np.uint64(min(distance, 8))
            stride = max(STRIDES[near], distance)
            store64(d, (load64(d - distance) & LOW_BYTES[near]) * REPEATED[near])
            if length > 4:
                store64(d + 8, load64(d + 8 - stride))
                store64(d + 16, load64(d + 16 - stride))
            d += length + 4
            continue
        s += 1
        if count == 15:
            more = 255
            while more == 255:
                if s >= end:
                    return INPUT
                more = load8(s)
                s += 1
                count += more
        if count > end - s:
            return INPUT
        if count > full - d:
            return OUTPUT
        copy_literals(d, s, count, min(readable - s, writeable - d))
        s += count
        d += count
        if s == end:
            return 0 if d == full else SHORT
        if end - s < 2:
            return INPUT
        distance = load16(s)
        s += 2
        count = length + 4
        if count == 19:
            more = 255
            while more == 255:
                if s >= end:
                    return INPUT
                more = load8(s)
                s += 1
                count += more
        if distance == 0 or distance > d - first:
            return DISTANCE
        if count > full - d:
            return OUTPUT
        copy_match(d, distance, count, writeable - d)
        d += count
    return INPUT


@compiled(CODEC, "_codecs")
def lzf(s: int, size: int, d: int, gives: int, readable: int, writeable: int) -> int:
    """A bare LZF stream; parameters as of `lz4`."""
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
            copy_literals(d, s, count, min(readable - s, writeable - d))
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
            copy_match(d, distance, count, writeable - d)
        d += count
    return 0 if d == full else SHORT


@compiled(N(N), "_codecs")
def fold(total: int) -> int:
    """A sum of 16 bits as adding the carries to it gives it: modulo 65535, but 65535 instead of 0 for what is not 0."""
    return (total - 1) % 65535 + 1 if total else 0


@compiled(N(N, N), "_codecs")
def fletcher32(s: int, size: int) -> int:
    """Check the sum that follows `size` bytes at `s`.

    Two sums, of words of 16 bits, highest byte first, and of the sums so far; an odd byte at the end is the high one of a word.
    HDF5 before 1.6.3 swapped the bytes of both halves on little-endian hosts; it takes such sums to this day.
    """
    low = high = 0
    words = size // 2
    for done in range(0, words, 4096):
        n, total, weighted = min(4096, words - done), 0, 0
        for i in range(n):
            word = load16(s + 2 * (done + i))
            word = (word & 255) << 8 | word >> 8
            total += word
            weighted += (n - i) * word
        high = fold(high + n * low + weighted)
        low = fold(low + total)
    if size % 2:
        low = fold(low + (load8(s + size - 1) << 8))
        high = fold(high + low)
    found, swapped = high << 16 | low, (high & 255) << 24 | (high >> 8) << 16 | (low & 255) << 8 | low >> 8
    stored = load32(s + size)
    return 0 if stored in (found, swapped) else CHECKSUM
