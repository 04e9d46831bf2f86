"""Chunks inflated on the CPU: the steps of `gpuio.inflation`, chunk by chunk, without the GIL.

`run` goes through a table of chunks. Deflate is a library's, called for each chunk from Python, which lets go of the GIL in it;
the steps before and after it are `run` again.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import types

from gpuio.cpu_fallback._codecs import fletcher32, lz4, lzf
from gpuio.cpu_fallback._memory import compiled, copy, load32
from gpuio.cpu_fallback._unshuffle import unite_planes, unshuffle
from gpuio.engine import Inflate
from gpuio.inflation import (
    AT,
    CHUNK_COLUMNS,
    GROUP,
    LAST_BLOCK,
    MASK,
    RULE_BITS,
    SIZE,
    SRC,
    Kind,
    Rule,
    Step,
    check_buffer,
    check_chunks,
    plan_steps,
    status,
)
from gpuio.layout import Filter

try:
    # The same interface, two to three times as fast.
    from zlib_ng import zlib_ng as zlib
except ImportError:
    import zlib  # type: ignore[no-redef]

ZlibError: Any = zlib.error
#: Bytes behind a scratch buffer that may be written.
SLACK = 64
#: Scratch buffers of a thread: two for what one step hands to the next, one for a block, two for its byte planes.
BUFFERS = 5

FLETCHER32, SHUFFLE, BITSHUFFLE, BITSHUFFLE_LZ4, LZ4, LZF = (
    int(k) for k in (Kind.FLETCHER32, Kind.SHUFFLE, Kind.BITSHUFFLE, Kind.BITSHUFFLE_LZ4, Kind.LZ4, Kind.LZF))
HEADER, TOTAL, BLOCK_SIZE, BEYOND, LEFT_OVER, STORED = (
    int(r) for r in (Rule.HEADER, Rule.TOTAL, Rule.BLOCK_SIZE, Rule.BEYOND, Rule.LEFT_OVER, Rule.STORED))
#: Columns of the table of steps.
KIND, BIT, GIVES, ITEM, BLOCK = range(5)
COLUMNS = len(CHUNK_COLUMNS)
MODULES = ("_codecs", "_unshuffle", "_inflate")
N = types.int64
TABLE = types.Array(N, 2, "C", readonly=True)


@compiled(N(N, N), *MODULES)
def coded(rule: int, block: int) -> int:
    """`gpuio.inflation.status`."""
    return (LAST_BLOCK - min(block, LAST_BLOCK)) << RULE_BITS | rule


@compiled(N(N), *MODULES)
def big32(address: int) -> int:
    """A big-endian number of 32 bits."""
    v = load32(address)
    return (v & 0xff) << 24 | (v & 0xff00) << 8 | v >> 8 & 0xff00 | v >> 24


@compiled(N(N, N, N, N), *MODULES)
def walk(s: int, end: int, blocks: int, tail: int) -> int:
    """Status of `blocks` blocks that lie behind their sizes, and `tail` bytes behind them, from `s` to exactly `end`."""
    for k in range(blocks):
        if end - s < 4:
            return coded(BEYOND, k)
        size = big32(s)
        if size > end - s - 4:
            return coded(BEYOND, k)
        s += 4 + size
    return 0 if end - s == tail else coded(LEFT_OVER, blocks)


@compiled(N(N, N, N, N, N, N, N, N), *MODULES)
def bitshuffle_lz4(s: int, size: int, to: int, gives: int, item: int, most: int, scratch: int, room: int) -> int:
    """Header: bytes in all (64 bits), bytes of a block (32). Blocks: size (32), LZ4. Then up to seven elements as they are."""
    if size < 12:
        return coded(HEADER, 0)
    if big32(s) or big32(s + 4) != gives:
        return coded(TOTAL, 0)
    block, end = big32(s + 8), s + size
    if block == 0 or block % (GROUP * item) or block > most:
        return coded(BLOCK_SIZE, 0)
    s += 12
    whole = gives - gives % (GROUP * item)
    blocks = (whole + block - 1) // block
    bad = walk(s, end, blocks, gives - whole)
    if bad:
        return bad
    for k in range(blocks):
        stored, here = big32(s), min(block, whole - k * block)
        bad = lz4(s + 4, stored, scratch, here, end, scratch + here + SLACK)
        if bad:
            return coded(bad, k)
        unite_planes(to + k * block, scratch, here // item, item, scratch + room)
        s += 4 + stored
    copy(to + whole, s, gives - whole)
    return 0


@compiled(N(N, N, N, N, N, N), *MODULES)
def bitshuffle(s: int, to: int, gives: int, item: int, block: int, scratch: int) -> int:
    """Blocks of shuffled bits, back to back, the last one shorter; then up to seven elements as they are."""
    whole = gives - gives % (GROUP * item)
    for done in range(0, whole, block):
        unite_planes(to + done, s + done, min(block, whole - done) // item, item, scratch)
    copy(to + whole, s + whole, gives - whole)
    return 0


@compiled(N(N, N, N, N, N), *MODULES)
def lz4_blocks(s: int, size: int, to: int, gives: int, writeable: int) -> int:
    """Header: bytes in all (64 bits), bytes of a block (32). Blocks: size (32), LZ4, or as they are if the size is that of the block."""
    if size < 12:
        return coded(HEADER, 0)
    if big32(s) or big32(s + 4) != gives:
        return coded(TOTAL, 0)
    block, end = big32(s + 8), s + size
    if block == 0:
        return coded(BLOCK_SIZE, 0)
    s += 12
    blocks = (gives + block - 1) // block
    bad = walk(s, end, blocks, 0)
    if bad:
        return bad
    for k in range(blocks):
        stored, here = big32(s), min(block, gives - k * block)
        s += 4
        if stored == here:
            copy(to + k * block, s, here)
        else:
            bad = lz4(s, stored, to + k * block, here, end, writeable)
            if bad:
                return coded(bad, k)
        s += stored
    return 0


@compiled(types.void(TABLE, N, N, N, types.int32[::1], TABLE, N, N), *MODULES)
def run(chunks: np.ndarray, chunk_bytes: int, src: int, out: int, statuses: np.ndarray, steps: np.ndarray, scratch: int, room: int) -> None:
    """All steps of all chunks. `src`, `out` and `scratch` are addresses; scratch buffers are `room` bytes apart."""
    for i in range(chunks.shape[0]):
        s, size, mask, to = src + chunks[i, SRC], chunks[i, SIZE], chunks[i, MASK], out + chunks[i, AT]
        bad = use = 0
        for j in range(steps.shape[0]):
            if mask >> steps[j, BIT] & 1:
                continue
            kind, gives, item = steps[j, KIND], steps[j, GIVES], steps[j, ITEM]
            if kind == FLETCHER32:
                if size < 4:
                    bad = coded(HEADER, 0)
                else:
                    size -= 4
                    bad = fletcher32(s, size)
                    if bad:
                        bad = coded(bad, 0)
            else:
                if kind <= BITSHUFFLE and size != gives:
                    bad = coded(STORED, 0)
                    break
                target, writeable = scratch + use * room, gives + SLACK
                last = gives == chunk_bytes
                for later in range(j + 1, steps.shape[0]):
                    last &= mask >> steps[later, BIT] & 1
                if last:
                    target, writeable = to, gives
                use = 1 - use
                if kind == SHUFFLE:
                    unshuffle(target, s, size, item)
                elif kind == BITSHUFFLE:
                    bitshuffle(s, target, gives, item, steps[j, BLOCK], scratch + 2 * room)
                elif kind == BITSHUFFLE_LZ4:
                    bad = bitshuffle_lz4(s, size, target, gives, item, steps[j, BLOCK], scratch + 2 * room, room)
                elif kind == LZ4:
                    bad = lz4_blocks(s, size, target, gives, target + writeable)
                else:
                    bad = lzf(s, size, target, gives, s + size, target + writeable)
                    if bad:
                        bad = coded(bad, 0)
                s, size = target, gives
            if bad:
                break
        if not bad and size != chunk_bytes:
            bad = coded(STORED, 0)
        if not bad and s != to:
            copy(to, s, size)
        statuses[i] = bad


def unzip(stored: Any, gives: int) -> bytes | int:
    """A zlib stream of `gives` bytes, or the status of a bad one. Never makes more bytes than it should."""
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(stored, gives)
        rest = b"" if stream.eof else stream.decompress(stream.unconsumed_tail, 1)      # the checksum is only looked at here
    except ZlibError:
        return status(Rule.DEFLATE)
    if rest:
        return status(Rule.OUTPUT)
    if not stream.eof:
        return status(Rule.INPUT)
    if len(data) < gives:
        return status(Rule.SHORT)
    return status(Rule.LEFT_OVER) if stream.unused_data else data


class CpuInflater:
    """`gpuio.engine.Inflater` of the CPU engine; parameters as `gpuio.engine.Engine.inflater`."""

    def __init__(self, filters: Sequence[Filter], chunk_bytes: int, item_bytes: int) -> None:
        steps = plan_steps(filters, chunk_bytes, item_bytes)
        self.chunk_bytes = chunk_bytes
        cut = next((i for i, step in enumerate(steps) if step.kind == Kind.DEFLATE), len(steps))
        self._steps, self._before, self._after = _table(steps), steps[:cut], _table(steps[cut + 1:])
        self._deflate = steps[cut] if cut < len(steps) else None
        self._room = max(chunk_bytes, *(step.gives for step in steps), 0) + SLACK
        self._own = threading.local()

    def bind(self, staged: np.ndarray, out: np.ndarray) -> Inflate:
        """See `gpuio.engine.Inflater.bind`."""
        check_buffer(staged, "staged")
        check_buffer(out, "out")
        if not out.flags.writeable:
            raise ValueError("out is read-only")
        src, to, chunk_bytes = staged.ctypes.data, out.ctypes.data, self.chunk_bytes

        def inflate(chunks: np.ndarray) -> np.ndarray:
            check_chunks(chunks, len(staged), len(out), chunk_bytes)
            chunks = np.ascontiguousarray(chunks)
            statuses = np.zeros(len(chunks), dtype=np.int32)
            if self._deflate is None:
                run(chunks, chunk_bytes, src, to, statuses, self._steps, self._scratch(), self._room)
                return statuses
            for i in range(len(chunks)):
                one, found = chunks[i:i + 1], statuses[i:i + 1]
                if one[0, MASK] >> self._deflate.bit & 1:
                    run(one, chunk_bytes, src, to, found, self._steps, self._scratch(), self._room)
                else:
                    self._inflate(one, staged, to, found)
            return statuses

        inflate.owners = (staged, out)          # type: ignore[attr-defined]  # keeps alive what addresses point into
        return inflate

    def _inflate(self, chunk: np.ndarray, staged: np.ndarray, out: int, found: np.ndarray) -> None:
        """One deflated chunk, a row of a table; `out` is an address. Its status goes to ``found[0]``."""
        src, size, mask, at = chunk[0].tolist()
        for step in self._before:
            if mask >> step.bit & 1:
                continue
            if size < 4:
                found[0] = status(Rule.HEADER)
                return
            size -= 4
            if fletcher32(staged.ctypes.data + src, size):
                found[0] = status(Rule.CHECKSUM)
                return
        assert self._deflate is not None
        data = unzip(staged[src:src + size], self._deflate.gives)
        if isinstance(data, int):
            found[0] = data
            return
        row = np.array([[0, len(data), mask, at]])
        run(row, self.chunk_bytes, np.frombuffer(data, np.uint8).ctypes.data, out, found, self._after, self._scratch(), self._room)

    def _scratch(self) -> int:
        """Address of this thread's scratch buffers."""
        if not hasattr(self._own, "memory"):
            self._own.memory = np.empty(BUFFERS * self._room, dtype=np.uint8)
        address: int = self._own.memory.ctypes.data
        return address


def _table(steps: Sequence[Step]) -> np.ndarray:
    return np.array([(step.kind, step.bit, step.gives, step.item, step.block) for step in steps], dtype=np.int64).reshape(-1, 5)
