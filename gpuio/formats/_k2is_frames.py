"""Frames of a K2IS capture: sectors in step, complete frames, blocks that frames lack. `k2is` has the tables.

Sectors start and end at any block, each at another one. Block counts put them in step; the frame id, which changes every 32 blocks,
says where frames begin. Frame 0 is the first one that begins when all sectors record; frames follow every 32 counts, whether all
their blocks are there or not, so that a loss moves no later frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from gpuio.errors import FormatError, TruncatedFile
from gpuio.fileset import File
from gpuio.formats._k2is_blocks import (
    BLOCK_BYTES,
    BLOCK_HEIGHT,
    BLOCK_WIDTH,
    BLOCKS_PER_FRAME,
    HEADER_BYTES,
    SECTOR_WIDTH,
    Block,
    Run,
    Sector,
)

#: First pixel (x, y) of a block in its sector.
Place = tuple[int, int]
#: Places of the blocks of a frame in the order in which recordings have them.
USUAL_ORDER: tuple[Place, ...] = tuple(
    (x, y) for y in (0, BLOCK_HEIGHT) for x in range(SECTOR_WIDTH - BLOCK_WIDTH, -1, -BLOCK_WIDTH))
#: Intervals that a note names before it says "and more".
SHOWN = 8
COUNTS = 1 << 32


class Recording:
    """The complete frames of eight sectors.

    Parameters
    ----------
    sectors
        As `open_sector` found them, from left to right.
    every_block
        As in `Sector.find_runs`.

    Attributes
    ----------
    first
        Count at which frame 0 begins, relative to `reference`.
    n_frames
        Complete frames.

    Raises
    ------
    FormatError
        The sectors do not belong together, or frames are not as they should be.
    TruncatedFile
        No frame is complete.
    """

    def __init__(self, sectors: Sequence[Sector], *, every_block: bool = False) -> None:
        self.sectors = sectors
        first_block = sectors[0].block(0)
        self.reference = first_block.count if first_block is not None else 0
        for sector in sectors:
            sector.find_runs(self.reference, every_block)
        self.first, self.n_frames = self._complete_frames()
        self._check_frame_ids()

    @property
    def stop(self) -> int:
        """One past the count of the last frame's last block."""
        return self.first + self.n_frames * BLOCKS_PER_FRAME

    def _complete_frames(self) -> tuple[int, int]:
        common = max(sector.runs[0].start for sector in self.sectors)
        for sector in self.sectors:
            if sector.index_of(common) is None:
                raise FormatError(f"{sector.path}: block count {self._count(common)} is missing; expected it in all sectors, as the last "
                                  "one begins there: the block was lost, or the files do not belong together")
        ids = {sector.path: block.frame_id for sector in self.sectors for block in filter(None, [sector.block_of(common)])}
        for path, frame_id in ids.items():
            other, expected = next(iter(ids.items()))
            if frame_id != expected:
                raise FormatError(f"{path}: frame id {frame_id} at block count {self._count(common)}; expected {expected} as in {other}: "
                                  "the files do not belong together")
        first = common + self._blocks_to_next_id(common)
        end = min(sector.runs[-1].stop for sector in self.sectors)
        n_frames = (end - first) // BLOCKS_PER_FRAME
        if n_frames < 1:
            raise TruncatedFile(f"{self.sectors[0].path}: no complete frame: the sectors have {end - common} blocks in common, from block "
                                f"count {self._count(common)} on; expected the {BLOCKS_PER_FRAME} of a frame")
        return first, n_frames

    def _blocks_to_next_id(self, count: int) -> int:
        """How many blocks after `count` the frame id changes; 0 if not within a frame's length: then a frame begins at `count`."""
        here = self.sectors[0].block_of(count)
        for k in range(1, BLOCKS_PER_FRAME):
            ids = {block.frame_id for block in self._blocks(range(count + k, count + k + 1))}
            if ids and here is not None and ids != {here.frame_id}:
                return k
        return 0

    def _check_frame_ids(self) -> None:
        """The first and the last frame have one id each in all sectors, and the id changes after 32 blocks."""
        for frame in (0, self.n_frames - 1):
            ids: dict[int, str] = {}
            for sector in self.sectors:
                for block in filter(None, map(sector.block_of, self.counts(frame))):
                    ids.setdefault(block.frame_id, sector.path)
            if len(ids) > 1:
                (one, _), (other, path) = list(ids.items())[:2]
                raise FormatError(f"{path}: complete frame {frame} has frame id {other}; expected {one} in all sectors and all of its "
                                  f"{BLOCKS_PER_FRAME} blocks: the files do not belong together, or have another mode of readout")
        before, after = (self.sectors[0].block_of(self.first + k) for k in (0, BLOCKS_PER_FRAME))
        if before is not None and after is not None and before.frame_id == after.frame_id:
            raise FormatError(f"{self.sectors[0].path}: frame id {before.frame_id} in more than {BLOCKS_PER_FRAME} blocks; expected "
                              f"{BLOCKS_PER_FRAME} blocks a frame: other modes of readout are not known")

    def counts(self, frame: int) -> range:
        """Counts of the blocks of a frame."""
        start = self.first + frame * BLOCKS_PER_FRAME
        return range(start, start + BLOCKS_PER_FRAME)

    def _blocks(self, counts: range) -> Iterator[Block]:
        """Headers of the blocks with these counts, of all sectors, as far as they are there."""
        return filter(None, (sector.block_of(count) for count in counts for sector in self.sectors))

    def _count(self, count: int) -> int:
        """A count as the camera wrote it."""
        return (count + self.reference) % COUNTS

    def first_flagged(self) -> int | None:
        """The first frame with the shutter flag, by the first of its blocks that is there; None if there is none."""
        for frame in range(self.n_frames):
            block = next(self._blocks(self.counts(frame)), None)
            if block is not None and block.shutter:
                return frame
        return None

    def _runs(self, sector: Sector) -> list[Run]:
        """What a sector has of the complete frames; counts are relative to the first one's."""
        runs = []
        for run in sector.runs:
            start, stop = max(run.start, self.first), min(run.stop, self.stop)
            if start < stop:
                runs.append(Run(start - self.first, stop - self.first, run.index + start - run.start))
        return runs

    def parts(self, sector: Sector) -> Iterator[tuple[int, int, list[File]]]:
        """Blocks ``first:stop`` of a frame, and the files of those: cut so that each frame has all of these blocks, or none.

        There is one such part where no block is missing. Frames of a `File` begin with their block `first`.
        """
        runs = self._runs(sector)
        cuts = {0, BLOCKS_PER_FRAME, *(edge % BLOCKS_PER_FRAME for run in runs for edge in (run.start, run.stop))}
        for a, b in pairwise(sorted(cuts)):
            files = []
            for run in runs:
                frame, stop = -((a - run.start) // BLOCKS_PER_FRAME), (run.stop - b) // BLOCKS_PER_FRAME + 1
                if frame < stop:
                    at = sector.byte(run.index + frame * BLOCKS_PER_FRAME + a - run.start)
                    files.append(File(sector.path, frame, stop, "u1", (BLOCKS_PER_FRAME * BLOCK_BYTES - HEADER_BYTES,),
                                      frame_header=HEADER_BYTES, file_header=at, size=sector.size))
            if files:
                yield a, b, files

    def block_order(self, sector: Sector) -> list[Place]:
        """Where the blocks of a frame go, as the first whole frame of a sector says.

        Raises
        ------
        FormatError
            Two blocks go to the same place, or the last whole frame says otherwise.
        """
        order = list(USUAL_ORDER)
        spans = [(run, -(-run.start // BLOCKS_PER_FRAME), run.stop // BLOCKS_PER_FRAME) for run in self._runs(sector)]
        frames = [(run, frame) for run, start, stop in spans if start < stop for frame in (start, stop - 1)]
        for run, frame in frames[:1] + frames[-1:]:
            at = run.index + frame * BLOCKS_PER_FRAME - run.start
            blocks = [sector.block(at + b) for b in range(BLOCKS_PER_FRAME)]
            found = [usual if block is None else (block.x, block.y) for usual, block in zip(order, blocks, strict=True)]
            if (run, frame) == frames[0]:
                order = found
            if len(set(found)) < BLOCKS_PER_FRAME or found != order:
                raise FormatError(f"{sector.path}, byte {sector.byte(at)}: the blocks of complete frame {frame} go to {len(set(found))} "
                                  f"different places; expected {BLOCKS_PER_FRAME}, in the order of complete frame {frames[0][1]}")
        return order

    def notes(self) -> list[str]:
        """What was odd in the files."""
        notes = []
        for sector in self.sectors:
            if sector.first_byte:
                notes.append(f"{sector.name}: begins inside a block; the first {sector.first_byte} bytes are left out")
            missing = sector.missing(self.first, self.stop)
            counted = ((sum(stop - start for start, stop in missing), "missing"), (sector.repeated, "repeated"),
                       (sector.damaged, "without a valid header"))
            odd = [f"{n} {what}" for n, what in counted if n]
            if odd:
                spans = [((start - self.first) // BLOCKS_PER_FRAME, (stop - 1 - self.first) // BLOCKS_PER_FRAME) for start, stop in missing]
                shown = ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in dict.fromkeys(spans[:SHOWN]))
                lacking = f"; complete frames {shown}{' and more' if len(spans) > SHOWN else ''} lack pixels, which are blank"
                notes.append(f"{sector.name}: blocks {', '.join(odd)}{lacking if spans else ''}")
        return notes

    def metadata(self) -> dict[str, Any]:
        """Frame ids, block counts, and what is left out at both ends of each sector."""
        ids = [next((block.frame_id for block in self._blocks(self.counts(frame))), None) for frame in (0, self.n_frames - 1)]
        return {
            "complete_frames": self.n_frames, "frame_id_first": ids[0], "frame_id_last": ids[1],
            "block_count_first": self._count(self.first), "block_count_last": self._count(self.stop - 1),
            "recorded_block_counts": [[self._count(s.runs[0].start), self._count(s.runs[-1].stop - 1)] for s in self.sectors],
            "blocks_skipped_start": [max(0, self.first - s.runs[0].start) for s in self.sectors],
            "blocks_skipped_end": [max(0, s.runs[-1].stop - self.stop) for s in self.sectors],
        }
