"""Compressed chunks: how their filters are undone, in which order and sizes, and what a bad one is called.

Both engines inflate by the same `Step` list and give the same statuses. A status is one int32 for each chunk: 0 for a good
one, else the rule it broke in the low `RULE_BITS` bits and above them the block of the chunk, counted down from the highest
number, so that the largest status of a chunk is that of its first bad block. Blocks are looked at only if the sizes in
front of them are right, so every engine finds the same.

Rules that a stream of each filter is held to (sizes in bytes; `hdf5` is the source of all of these formats):

- the plan knows how many bytes each step gives: the size of a chunk, four more inside of a Fletcher-32 checksum;
- what a header says must be that size; blocks must lie within the stored bytes and end where they end;
- literals and matches must lie within the block, and fill it exactly;
- checksums must be right;
- zlib streams are held to what zlib holds them to; all that it calls wrong data is one rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from gpuio.layout import Filter

#: Columns of a chunk table.
CHUNK_COLUMNS = ("src", "size", "mask", "at")
SRC, SIZE, MASK, AT = range(4)

#: HDF5 stores sizes of chunks in 32 bits.
LARGEST_CHUNK = (1 << 32) - 1
#: Filters of a chunk whose skipping HDF5's mask can tell.
MOST_FILTERS = 32

RULE_BITS = 5
#: The block of a status is counted down from here; later blocks are all called by this number.
LAST_BLOCK = (1 << (31 - RULE_BITS)) - 1


class Rule(IntEnum):
    """What a bad chunk broke. Values are shared with ``inflate.cuh``."""

    HEADER = 1
    TOTAL = 2
    BLOCK_SIZE = 3
    BEYOND = 4
    LEFT_OVER = 5
    INPUT = 6
    OUTPUT = 7
    DISTANCE = 8
    SHORT = 9
    CHECKSUM = 10
    STORED = 11
    DEFLATE = 12


RULES = {
    Rule.HEADER: "the stored bytes end within the header",
    Rule.TOTAL: "the header announces another size than that of the chunk",
    Rule.BLOCK_SIZE: "the block size is zero, cuts groups of eight elements, or is larger than the filter's parameters say",
    Rule.BEYOND: "the block reaches beyond the stored bytes",
    Rule.LEFT_OVER: "the blocks do not end where the stored bytes end",
    Rule.INPUT: "the compressed bytes end within a sequence",
    Rule.OUTPUT: "the compressed bytes hold more pixels than there are",
    Rule.DISTANCE: "a match begins before the first byte",
    Rule.SHORT: "the compressed bytes hold fewer pixels than there are",
    Rule.CHECKSUM: "the Fletcher-32 checksum is wrong",
    Rule.STORED: "the stored bytes are not as many as the chunk has without this filter",
    Rule.DEFLATE: "the zlib stream is damaged or its checksum is wrong",
}
#: Rules that single blocks are held to.
_OF_BLOCKS = {Rule.BEYOND, Rule.INPUT, Rule.OUTPUT, Rule.DISTANCE, Rule.SHORT}


def status(rule: Rule, block: int = 0) -> int:
    """The status of a chunk whose first bad block is number `block`."""
    return (LAST_BLOCK - min(block, LAST_BLOCK)) << RULE_BITS | rule


def inflate_status(code: int) -> str:
    """What a status of `gpuio.engine.Inflate` says, in words."""
    if code == 0:
        return "good"
    rule = Rule(code & (1 << RULE_BITS) - 1)
    return RULES[rule] + (f" (block {LAST_BLOCK - (code >> RULE_BITS)})" if rule in _OF_BLOCKS else "")


class Kind(IntEnum):
    """What a step does."""

    FLETCHER32 = 1
    SHUFFLE = 2
    BITSHUFFLE = 3
    BITSHUFFLE_LZ4 = 4
    LZ4 = 5
    LZF = 6
    DEFLATE = 7


#: Kinds whose stored bytes have a size of their own.
COMPRESSING = {Kind.BITSHUFFLE_LZ4, Kind.LZ4, Kind.LZF, Kind.DEFLATE}
_KINDS = {"fletcher32": Kind.FLETCHER32, "shuffle": Kind.SHUFFLE, "lz4": Kind.LZ4, "lzf": Kind.LZF, "deflate": Kind.DEFLATE}
#: Names of filters that are registered with the HDF Group and are not inflated here.
_REGISTERED = {
    4: "SZIP", 5: "n-bit", 6: "scale-offset", 307: "bzip2", 32001: "Blosc", 32013: "ZFP", 32015: "Zstandard", 32017: "SZ",
    32018: "FCIDECOMP", 32019: "JPEG", 32024: "SZ3", 32026: "Blosc2", 32027: "JPEG-XL", 32028: "SPERR",
}
#: Elements that blocks of bitshuffle are a multiple of, and the fewest that they have by default.
GROUP, _FEWEST = 8, 128
#: Bytes of a usual block of bitshuffle; what shared memory of a device has room for.
BLOCK_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Step:
    """Undoes one filter.

    Attributes
    ----------
    kind
    bit
        Of the filter in a chunk's mask of skipped filters.
    gives : int
        Bytes after this step; -1 for a checksum around compressed bytes, which are as many as they are.
    item : int
        Bytes of an element, for shuffles.
    block : int
        Bytes of a block: exactly, where no header says it (bitshuffle without a codec); else the most that a header may say
        (bitshuffle with LZ4), so that memory for blocks does not depend on streams, or what is to be expected (LZ4).
    """

    kind: Kind
    bit: int
    gives: int
    item: int = 1
    block: int = 0


def kind_of(item: Filter) -> Kind | str:
    """What undoes a filter, or why it cannot be undone."""
    if item.name == "bitshuffle":
        codec = item.params[4] if len(item.params) > 4 else 0
        if codec not in (0, 2):
            called = f"{codec} (Zstandard)" if codec == 3 else codec
            return f"filter 32008 (bitshuffle) with codec {called} is not inflated; 0 (none) and 2 (LZ4) are"
        return Kind.BITSHUFFLE_LZ4 if codec else Kind.BITSHUFFLE
    if item.name in _KINDS:
        return _KINDS[item.name]
    number = item.name.removeprefix("hdf5_")
    if number == item.name or not number.isdecimal():
        return f"filter {item.name!r} is unknown"
    name = _REGISTERED.get(int(number))
    return f"filter {number}{f' ({name})' if name else ''} is not inflated"


def why_not(filters: Sequence[Filter]) -> str | None:
    """None if these filters are undone, by either engine, else the reason."""
    found = []
    for item in filters:
        kind = kind_of(item)
        if isinstance(kind, str):
            return kind
        found.append(kind)
    outer = [kind for i, kind in enumerate(found) if any(k in COMPRESSING for k in found[:i]) and kind != Kind.FLETCHER32]
    if outer:
        return f"filter {outer[0].name.lower()} is applied to bytes that are compressed already; that is not inflated"
    if len(found) > MOST_FILTERS:
        return f"{len(found)} filters; expected {MOST_FILTERS} or fewer"
    return None


def plan_steps(filters: Sequence[Filter], chunk_bytes: int, item_bytes: int) -> tuple[Step, ...]:
    """The steps that undo filters, first to last.

    Parameters
    ----------
    filters
        In order of writing.
    chunk_bytes
        Of a chunk when all is undone.
    item_bytes
        Of an element, for filters that do not say it.

    Raises
    ------
    ValueError
        Filters that are not undone (see `why_not`), or sizes that do not fit them.
    """
    if reason := why_not(filters):
        raise ValueError(reason)
    if not 0 < chunk_bytes <= LARGEST_CHUNK:
        raise ValueError(f"chunks of {chunk_bytes} bytes; expected 1 to {LARGEST_CHUNK}")
    steps: list[Step] = []
    size = chunk_bytes
    for bit, item in enumerate(filters):
        kind = kind_of(item)
        assert isinstance(kind, Kind)
        element, block = 1, 0
        if kind in (Kind.SHUFFLE, Kind.BITSHUFFLE, Kind.BITSHUFFLE_LZ4):
            at = 0 if kind == Kind.SHUFFLE else 2
            element = item.params[at] if len(item.params) > at else item_bytes
            if not 0 < element <= LARGEST_CHUNK:
                raise ValueError(f"{item.name} of elements of {element} bytes; expected 1 or more")
        if kind in (Kind.BITSHUFFLE, Kind.BITSHUFFLE_LZ4):
            if size % element:
                raise ValueError(f"{item.name} of elements of {element} bytes in {size} bytes; expected a multiple")
            elements = (item.params[3] if len(item.params) > 3 else 0) or max(BLOCK_BYTES // element // GROUP * GROUP, _FEWEST)
            if elements < 0 or elements % GROUP:
                raise ValueError(f"bitshuffle in blocks of {elements} elements; expected a multiple of {GROUP}")
            block = elements * element if kind == Kind.BITSHUFFLE else max(elements * element, BLOCK_BYTES)
        elif kind == Kind.LZ4:
            block = max(item.params[0] if item.params else 0, BLOCK_BYTES)
        steps.append(Step(kind, bit, size, element, block))
        size = -1 if size < 0 or kind in COMPRESSING else size + 4 * (kind == Kind.FLETCHER32)
    return tuple(reversed(steps))


def check_chunks(chunks: np.ndarray, staged_bytes: int, out_bytes: int, chunk_bytes: int) -> None:
    """Check that all chunks lie within the staged bytes, and what they become within the output.

    Raises
    ------
    ValueError
        Naming the first that does not, or a table of another form.
    """
    if chunks.dtype != np.int64 or chunks.ndim != 2 or chunks.shape[1] != len(CHUNK_COLUMNS):
        raise ValueError(f"chunks are {chunks.dtype}{list(chunks.shape)}; expected int64[n, {len(CHUNK_COLUMNS)}]")
    src, size, mask, at = chunks.T
    # No sums: they might leave int64.
    fits = ((src >= 0) & (src <= staged_bytes) & (size >= 0) & (size <= LARGEST_CHUNK) & (size <= staged_bytes - src)
            & (mask >= 0) & (mask < 1 << MOST_FILTERS) & (at >= 0) & (at <= out_bytes - chunk_bytes))
    if not fits.all():
        bad = int(np.argmin(fits))
        raise ValueError(f"chunk {bad}: {chunks[bad].tolist()} ({', '.join(CHUNK_COLUMNS)}) does not lie within {staged_bytes} staged "
                         f"bytes, and its {chunk_bytes} bytes within {out_bytes} of output")


def check_buffer(array: Any, name: str) -> None:
    """TypeError or ValueError if `array` is not contiguous uint8[n]."""
    if array.dtype != np.uint8:
        raise TypeError(f"{name} is {array.dtype}; expected uint8")
    if array.ndim != 1 or not array.flags.c_contiguous:
        raise ValueError(f"{name} has shape {list(array.shape)} and strides {list(array.strides)}; expected contiguous [n]")
