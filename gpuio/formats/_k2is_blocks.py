"""Blocks of a K2IS sector file: where they are, and which of them are missing. `k2is` has the table of a block's header.

Blocks of a sector are counted by the camera. A **run** is a stretch of a file in which each block counts one more than
the block before. A whole recording is one run; where blocks were lost, repeated or damaged, the next run begins. Only headers
are read, and of long recordings only some: where the first and the last block of a stretch are as far apart in count as in
the file, what lies between is taken to be whole; else the stretch is halved until the places are found.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from gpuio.errors import FormatError, TruncatedFile
from gpuio.source import Source

SYNC = b"\xff\xff\x00\x55"
HEADER_BYTES = 40
BLOCK_BYTES = 22360
BLOCKS_PER_FRAME = 32
SECTOR_WIDTH, SECTOR_HEIGHT = 256, 1860
BLOCK_WIDTH, BLOCK_HEIGHT = 16, 930

#: Up to this many blocks of a sector (32 frames) all headers are read; of more, `PROBES` are.
FEW_BLOCKS = 1024
PROBES = 128
#: A file with more places than this where counts do not go on is no recording.
MAX_RUNS = 4096
#: A jump by more blocks than this (80 s of recording) and than the file has is no loss but damage.
LARGE_JUMP = 1 << 20

_HEADER = struct.Struct(">I4xBB6xIHHIHHHHI")


@dataclass(slots=True)
class Block:
    """What the header of a block says. `x`, `y`: its first pixel in the sector."""

    shutter: bool
    count: int
    frame_id: int
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Run:
    """Blocks that follow each other in count and in the file: count of the first, one past the last, position of the first."""

    start: int
    stop: int
    index: int


def parse_block(raw: bytes) -> Block | str:
    """The header of a block, 40 bytes, or what is wrong with it."""
    if len(raw) < HEADER_BYTES:
        return f"the file ends in the header of a block, after {len(raw)} of {HEADER_BYTES} bytes"
    _, _, flags, count, width, height, frame_id, x, y, last_x, last_y, size = _HEADER.unpack_from(raw)
    if raw[:4] != SYNC:
        return f"no block begins here: {raw[:4].hex(' ')}; expected {SYNC.hex(' ')}"
    if (width, height, size) != (SECTOR_WIDTH, SECTOR_HEIGHT, BLOCK_BYTES):
        return (f"a block of {size} bytes, sector {width} x {height}; expected {BLOCK_BYTES} bytes, {SECTOR_WIDTH} x {SECTOR_HEIGHT}: "
                "other modes of readout are not known")
    is_inside = x % BLOCK_WIDTH == 0 and x < SECTOR_WIDTH and y in (0, BLOCK_HEIGHT)
    if not is_inside or (last_x - x, last_y - y) != (BLOCK_WIDTH - 1, BLOCK_HEIGHT - 1):
        return (f"a block of pixels ({x}, {y}) to ({last_x}, {last_y}); expected {BLOCK_WIDTH} x {BLOCK_HEIGHT} pixels, "
                f"from (0, 16 ... 240; 0 or {BLOCK_HEIGHT})")
    return Block(bool(flags & 1), count, frame_id, x, y)


def find_first_block(source: Source, path: str, size: int) -> int:
    """Byte of the first block; above 0 in a file that begins inside a block.

    Raises
    ------
    FormatError, TruncatedFile
        There is none.
    """
    head = source.read(path, 0, 2 * BLOCK_BYTES + HEADER_BYTES)
    if len(head) < HEADER_BYTES:
        raise TruncatedFile(f"{path}: no complete frame: {size} bytes; expected at least {BLOCKS_PER_FRAME * BLOCK_BYTES}")
    problem = ""
    at = head.find(SYNC)
    while 0 <= at < 2 * BLOCK_BYTES:
        # Pixels may look like a sync word, but hardly like two of them at the right distance.
        next_word = source.read(path, at + BLOCK_BYTES, len(SYNC))
        if next_word == SYNC or len(next_word) < len(SYNC) or at == 0:
            block = parse_block(head[at:at + HEADER_BYTES])
            if not isinstance(block, str) and (next_word == SYNC or len(next_word) < len(SYNC)):
                return at
            problem = problem or f"{path}, byte {at}: {block}" if isinstance(block, str) else problem
        at = head.find(SYNC, at + 1)
    raise FormatError(problem or f"{path}: not a K2IS sector file: no two blocks begin {BLOCK_BYTES} bytes apart "
                      f"({SYNC.hex(' ')}) in its first {2 * BLOCK_BYTES} bytes")


@dataclass
class Sector:
    """A sector file.

    Attributes
    ----------
    first_byte
        Where the first block begins.
    n_blocks
        Whole blocks.
    runs
        Ascending in count and position, without overlap. Counts are relative to `reference`.
    repeated, damaged
        Blocks that are in no run: those whose count came before, and those without a header or with an impossible count.
    """

    source: Source
    path: str
    size: int
    first_byte: int
    reference: int = 0
    runs: list[Run] = field(default_factory=list)
    repeated: int = 0
    damaged: int = 0

    def __post_init__(self) -> None:
        self.n_blocks = (self.size - self.first_byte) // BLOCK_BYTES
        self._starts: list[int] = []
        self._seen: dict[int, Block | None] = {}

    @property
    def name(self) -> str:
        """For notes."""
        return os.path.basename(self.path)

    def byte(self, index: int) -> int:
        """Where a block begins in the file."""
        return self.first_byte + index * BLOCK_BYTES

    def block(self, index: int) -> Block | None:
        """The header of a block; None if it is damaged. Some are remembered: those of the first and the last frame are asked for often."""
        seen = self._seen
        if index not in seen:
            if len(seen) >= FEW_BLOCKS:
                seen.clear()
            block = parse_block(self.source.read(self.path, self.byte(index), HEADER_BYTES))
            seen[index] = None if isinstance(block, str) else block
        return seen[index]

    def index_of(self, count: int) -> int | None:
        """Position of a block; None if it is not in the file."""
        at = bisect_right(self._starts, count) - 1
        if at < 0 or count >= self.runs[at].stop:
            return None
        return self.runs[at].index + count - self.runs[at].start

    def block_of(self, count: int) -> Block | None:
        """The header of a block by its count; None if it is not in the file."""
        index = self.index_of(count)
        return None if index is None else self.block(index)

    def find_runs(self, reference: int, every_block: bool) -> None:
        """Find out which blocks are there.

        Parameters
        ----------
        reference
            Count of a block of the recording; counts become relative to it, so that the counter may overflow.
        every_block
            Look at all headers.

        Raises
        ------
        FormatError
            Counts go on at no place for long.
        """
        self.reference = reference
        step = 1 if every_block or self.n_blocks <= FEW_BLOCKS else -(-self.n_blocks // PROBES)
        edges = [0]
        for edge in self._edges(step):
            edges.append(edge)
            if len(edges) > MAX_RUNS:
                raise FormatError(f"{self.path}: counts of blocks do not go on at more than {MAX_RUNS} places; this is no recording")
        kept: list[Run] = []
        for first, stop in pairwise([*edges, self.n_blocks]):
            start = self._count(first)
            if start is None:
                self.damaged += stop - first
                continue
            run = Run(start, start + stop - first, first)
            # Blocks that count ahead of more and longer ones that follow have a damaged count.
            while kept and kept[-1].start > run.start:
                new = max(run.start, kept[-2].stop) if len(kept) > 1 else run.start
                if new >= min(run.stop, kept[-1].start) or run.stop - new <= kept[-1].stop - kept[-1].start:
                    break
                out = kept.pop()
                self.damaged += out.stop - out.start
            again = max(0, min(run.stop, kept[-1].stop) - run.start) if kept else 0
            self.repeated += again
            if run.start + again < run.stop:
                kept.append(Run(run.start + again, run.stop, first + again))
        for one, other in pairwise(kept):
            if other.start - one.stop > max(LARGE_JUMP, self.n_blocks):
                raise FormatError(f"{self.path}, byte {self.byte(other.index)}: the count of blocks jumps by {other.start - one.stop}; "
                                  f"expected at most {max(LARGE_JUMP, self.n_blocks)}: these are two recordings, or damage")
        self.runs, self._starts = kept, [run.start for run in kept]

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Counts in ``start:stop`` that no block has, as intervals."""
        result, reached = [], start
        for run in self.runs:
            if run.start > reached:
                result.append((reached, min(run.start, stop)))
            reached = max(reached, run.stop)
            if reached >= stop:
                return result
        return [*result, (reached, stop)]

    def _count(self, index: int) -> int | None:
        """Count of a block, relative to the reference; None if its header is damaged."""
        block = self.block(index)
        if block is None:
            return None
        return (block.count - self.reference + (1 << 31)) % (1 << 32) - (1 << 31)

    def _edges(self, step: int) -> Iterator[int]:
        """Positions of blocks that do not count one more than the block before, ascending."""

        def shift(index: int) -> int | None:
            count = self._count(index)
            return None if count is None else count - index

        def between(low: int, low_shift: int | None, high: int, high_shift: int | None) -> Iterator[int]:
            if low_shift == high_shift:
                return
            if high - low == 1:
                yield high
                return
            middle = (low + high) // 2
            middle_shift = shift(middle)
            yield from between(low, low_shift, middle, middle_shift)
            yield from between(middle, middle_shift, high, high_shift)

        last = self.n_blocks - 1
        here, here_shift = 0, shift(0)
        for probe in [*range(step, last, step), last]:
            probe_shift = shift(probe)
            yield from between(here, here_shift, probe, probe_shift)
            here, here_shift = probe, probe_shift


def open_sector(source: Source, path: str) -> Sector:
    """Find the blocks of a sector file; `Sector.find_runs` looks at them.

    Raises
    ------
    FormatError
        It is no sector file.
    TruncatedFile
        It has fewer blocks than a frame.
    OSError
        The file is missing or may not be read.
    """
    size = source.size(path)
    sector = Sector(source, path, size, find_first_block(source, path, size))
    if sector.n_blocks < BLOCKS_PER_FRAME:
        raise TruncatedFile(f"{path}: no complete frame: {sector.n_blocks} whole blocks; expected at least {BLOCKS_PER_FRAME}")
    return sector
