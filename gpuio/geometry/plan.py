"""From frames to bytes: which extents to read, and where each frame starts in what was read. Pure arithmetic on int64.

A plan covers many frames at once and is cut into **blocks**, the unit of reading. All of it is made by a handful of
vectorised steps, so that a million frames take a fraction of a second and the stream does no arithmetic per frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpuio.kept import kept
from gpuio.layout import (
    PART,
    PIXELS,
    POS,
    REP_POS,
    REP_SRC,
    REPEATS,
    REVERSED,
    ROW_POS,
    ROW_SRC,
    ROWS,
    SKIPPED,
    SRC,
    Encoding,
    Layout,
)

#: Bytes between two frames that are read along rather than skipped: copying them costs about as much as a further request.
MERGE_GAP = 16 << 10
#: Extents start at multiples of this in the staging buffer, so that wide loads of a device stay aligned.
STAGING_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """What to read for a run of blocks of frames.

    Attributes
    ----------
    blocks : int64[n_blocks + 1]
        Block b holds the frames ``blocks[b]:blocks[b + 1]`` of the selection.
    extents : int64[n_extents, 4]
        File (numbered through all parts), offset, size, position in the block's staging buffer; all in bytes.
    extent_starts : int64[n_blocks + 1]
        Block b needs ``extents[extent_starts[b]:extent_starts[b + 1]]``.
    starts : int64[n_frames, parts]
        Where a frame's part begins in its block's staging buffer. What placements call byte 0; may lie outside of what
        is read if a box needs only later bytes. 0 for parts that are not read.
    extent_of : int64[n_frames, parts]
        The extent that holds a frame's part; of parts that are not read, the block's first one.
    staging_bytes : int
        The largest block.
    needed_bytes : int
        Bytes that the pixels need, for read amplification.
    missing : bool[n_frames, parts] or None
        Parts that pixels are wanted of and that a frame lacks; None: no frame lacks any.
    """

    blocks: np.ndarray
    extents: np.ndarray
    extent_starts: np.ndarray
    starts: np.ndarray
    extent_of: np.ndarray
    staging_bytes: int
    needed_bytes: int
    missing: np.ndarray | None = None

    @property
    def read_bytes(self) -> int:
        """Bytes of all extents."""
        return int(self.extents[:, 2].sum())


def make_plan(layout: Layout, frames: np.ndarray, blocks: np.ndarray, placements: np.ndarray, *,
              alignment: int = 1, gap: int = MERGE_GAP) -> Plan:
    """Plan the reading of `frames`.

    Parameters
    ----------
    frames : int64[n]
        File frames, in the order in which they are wanted; any order, repeats allowed, each with at least one part.
    blocks : int64[n_blocks + 1]
        Boundaries of blocks in `frames`.
    placements : int64[entries, 12]
        The layout's, or those of a box; only bytes that they touch are read.
    alignment
        Offsets and sizes of extents become multiples of it; the last extent may then reach past the end of its file.
    gap
        Extents of a file whose distance is at most this are read as one.
    """
    n, n_parts = len(frames), len(layout.parts)
    span = layout.spans_of(placements)
    needed = span[:, 1] - span[:, 0]
    file, origin = _located(layout, frames)
    if n_parts == 1 and n:
        plain = _one_extent_a_block(file[:, 0], origin[:, 0], blocks, int(span[0, 0]), int(span[0, 1]), alignment, gap)
        if plain is not None:
            return plain
    there = file >= 0
    complete = bool(there.all())
    if not complete and not there.any(axis=1).all():
        raise ValueError("blank frames cannot be planned; the caller leaves them out")
    read = there & (needed > 0)
    missing = None if complete else ~there & (needed > 0)
    block = np.repeat(np.arange(len(blocks) - 1, dtype=np.int64), blocks[1:] - blocks[:-1])

    key_block, key_file = block if n_parts == 1 else np.repeat(block, n_parts), file.ravel()
    low, high = (origin + span[:, 0]).ravel(), (origin + span[:, 1]).ravel()
    some = None if read.all() else np.flatnonzero(read)
    if some is not None:
        key_block, key_file, low, high = key_block[some], key_file[some], low[some], high[some]
    order = None
    if n_parts > 1 or not _ascending(key_block, key_file, low):
        order = np.lexsort((low, key_file, key_block))
        key_block, key_file, low, high = key_block[order], key_file[order], low[order], high[order]

    opens = np.ones(len(low), dtype=bool)       # a new extent opens where block or file change, or the gap is too wide
    opens[1:] = (key_block[1:] != key_block[:-1]) | (key_file[1:] != key_file[:-1]) | (low[1:] - high[:-1] > gap)
    first = np.flatnonzero(opens)
    offset, stop = low[first], np.maximum.reduceat(high, first) if len(low) else low
    if alignment > 1:
        offset, stop = offset // alignment * alignment, -(-stop // alignment) * alignment
    size, extent_block = stop - offset, key_block[first]

    room = -(-size // max(alignment, STAGING_ALIGNMENT)) * max(alignment, STAGING_ALIGNMENT)
    before = np.zeros(len(room) + 1, dtype=np.int64)
    np.cumsum(room, out=before[1:])
    extent_starts = np.searchsorted(extent_block, np.arange(len(blocks)))
    at = before[:-1] - before[extent_starts[extent_block]]
    staging = before[extent_starts[1:]] - before[extent_starts[:-1]]

    extent_of = np.cumsum(opens) - 1
    if order is not None:
        unsorted = np.empty_like(extent_of)
        unsorted[order] = extent_of
        extent_of = unsorted
    shift = at - offset
    if some is None:
        starts = origin.ravel() + shift[extent_of]
    else:
        starts = np.zeros(n * n_parts, dtype=np.int64)
        starts[some] = origin.ravel()[some] + shift[extent_of]
        known, extent_of = extent_of, np.repeat(extent_starts[block], n_parts)
        extent_of[some] = known
    extents = np.empty((len(first), 4), dtype=np.int64)
    extents[:, 0], extents[:, 1], extents[:, 2], extents[:, 3] = key_file[first], offset, size, at
    return Plan(
        blocks=blocks, extents=extents, extent_starts=extent_starts, starts=starts.reshape(n, n_parts),
        extent_of=extent_of.reshape(n, n_parts), staging_bytes=int(staging.max(initial=0)),
        needed_bytes=int(needed.sum()) * n if complete else int((there @ needed).sum()),
        missing=missing if missing is not None and missing.any() else None,
    )


def _one_extent_a_block(file: np.ndarray, origin: np.ndarray, blocks: np.ndarray, first: int, stop: int, alignment: int,
                        gap: int) -> Plan | None:
    """The plan of frames that follow each other in one file, as nearly all do, in a fifth of the steps; None: these do not.

    Parameters
    ----------
    file, origin : int64[n_frames]
        As `FileSet.locate` gives them.
    first, stop
        Bytes that are needed of a frame, counted from its origin.
    """
    number, lengths = int(file.min()), blocks[1:] - blocks[:-1]
    step = origin[1:] - origin[:-1]
    if number < 0 or number != file.max() or stop <= first or not lengths.all() or (
            len(step) and not 0 <= step.min() <= step.max() <= gap + stop - first):
        return None
    extents = np.zeros((len(lengths), 4), dtype=np.int64)
    begin, end = origin[blocks[:-1]] + first, origin[blocks[1:] - 1] + stop
    begin -= begin % alignment
    extents[:, 0], extents[:, 1], extents[:, 2] = number, begin, end + -end % alignment - begin
    numbers, room = np.arange(len(blocks)), max(alignment, STAGING_ALIGNMENT)
    return Plan(blocks=blocks, extents=extents, extent_starts=numbers, starts=(origin - np.repeat(begin, lengths))[:, None],
                extent_of=np.repeat(numbers[:-1], lengths)[:, None], staging_bytes=-(-int(extents[:, 2].max()) // room) * room,
                needed_bytes=(stop - first) * len(file))


def _located(layout: Layout, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """File of each part of frames, numbered as `Layout.numbered_files` says, and the first byte in it: two int64[frames, parts]; -1 for
    the file of a part that a frame lacks.
    """
    if len(layout.parts) == 1:
        where, at = layout.parts[0].locate(frames)
        return where[:, None], at[:, None]
    file = np.empty((len(frames), len(layout.parts)), dtype=np.int64)
    origin = np.empty_like(file)
    for part, (fileset, numbers) in enumerate(zip(layout.parts, layout.numbered_files()[1], strict=True)):
        where, origin[:, part] = fileset.locate(frames)
        file[:, part] = np.where(where < 0, -1, numbers[where])
    return file, origin


def _ascending(block: np.ndarray, file: np.ndarray, low: np.ndarray) -> bool:
    """Whether entries are already in the order (block, file, offset), as they are for every plain selection."""
    follows = (file[1:] == file[:-1]) & (low[1:] >= low[:-1])
    return bool(follows.all()) or bool((follows | (block[1:] > block[:-1]) | (file[1:] > file[:-1])).all())


@kept
def clip(placements: np.ndarray, encoding: Encoding, sig_shape: tuple[int, ...],
         origin: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray | None:
    """Placements that produce only a box of the detector, with positions counted in the box.

    Parameters
    ----------
    origin, shape
        The box, one entry for each sig axis.

    Returns
    -------
    int64[entries, 12] or None
        None if the box is not a run of rows times a run of columns (possible with three and more sig axes); then
        the frame has to be decoded whole and cropped.
    """
    rows = _row_range(sig_shape, origin, shape)
    if rows is None:
        return None
    (top, height), width = rows, sig_shape[-1]
    left, box_width = origin[-1], shape[-1]
    result: list[list[int]] = []
    for row in placements.tolist():
        for piece in _within_rows(row, width, encoding):
            result.extend(_clip_piece(piece, encoding, width, top, height, left, box_width))
    return np.array(result, dtype=np.int64).reshape(-1, 12)


def is_rectangle(sig_shape: tuple[int, ...], origin: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a box is a run of rows times a run of columns, so that placements can be clipped to it."""
    return _row_range(sig_shape, origin, shape) is not None


def _row_range(sig_shape: tuple[int, ...], origin: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, int] | None:
    """The box as a run of rows (all sig axes but the last flattened): first row and number of rows."""
    first, count, contiguous = 0, 1, True
    for size, start, extent in zip(sig_shape[:-1], origin[:-1], shape[:-1], strict=True):
        if count > 1 and extent != size:
            contiguous = False
        first = first * size + start
        count *= extent
    return (first, count) if contiguous else None


def _within_rows(p: list[int], width: int, encoding: Encoding) -> list[list[int]]:
    """`p` as pieces none of whose runs crosses the end of a detector row, and whose rows step by whole detector rows."""
    way = -1 if p[REVERSED] else 1
    x = p[POS] % width
    ends = [x + k * p[REP_POS] + way * i for k in (0, p[REPEATS] - 1) for i in (0, p[PIXELS] - 1)]
    if min(ends) >= 0 and max(ends) < width and (p[ROWS] == 1 or p[ROW_POS] % width == 0):
        return [p]
    pieces = []
    if p[REPEATS] > 1 and p[REP_POS] % width == 0:      # repeats go to other detector rows: one piece each
        for k in range(p[REPEATS]):
            piece = list(p)
            piece[SRC] += k * p[REP_SRC]
            piece[POS] += k * p[REP_POS]
            piece[REPEATS], piece[REP_SRC], piece[REP_POS] = 1, 0, 0
            pieces.extend(_within_rows(piece, width, encoding))
        return pieces
    for r in range(p[ROWS]):
        for k in range(p[REPEATS]):
            src = p[SRC] + r * p[ROW_SRC] + k * p[REP_SRC]
            pos = p[POS] + r * p[ROW_POS] + k * p[REP_POS]
            done = 0
            while done < p[PIXELS]:
                x = (pos + way * done) % width
                count = min(p[PIXELS] - done, x + 1 if way < 0 else width - x)
                skipped = p[SKIPPED] + done
                piece = [0] * 12
                piece[SRC] = src + skipped // encoding.group_pixels * encoding.group_bytes
                piece[POS] = pos + way * done
                piece[REPEATS] = piece[ROWS] = 1
                piece[PIXELS], piece[SKIPPED] = count, skipped % encoding.group_pixels
                piece[REVERSED], piece[PART] = p[REVERSED], p[PART]
                pieces.append(piece)
                done += count
    return pieces


def _clip_piece(p: list[int], encoding: Encoding, width: int, top: int, height: int, left: int, box_width: int) -> list[list[int]]:
    """The part of a piece (of `_within_rows`) inside the box. Repeats that lie in it whole stay together."""
    y, x = divmod(p[POS], width)
    step = p[ROW_POS] // width if p[ROWS] > 1 else 0
    kept = _inside(p[ROWS], y, step, top, top + height)
    way = -1 if p[REVERSED] else 1
    lowest = x if way > 0 else x - p[PIXELS] + 1
    repeats = _inside(p[REPEATS], lowest, p[REP_POS], left - p[PIXELS] + 1, left + box_width)
    if not kept or not repeats:
        return []
    rows = list(p)
    rows[ROWS] = len(kept)
    rows[SRC] += kept[0] * p[ROW_SRC]
    rows[ROW_POS] = step * box_width
    y += kept[0] * step
    result: list[list[int]] = []
    was_whole = False
    for k in repeats:
        run_x = x + k * p[REP_POS]
        cut = max(0, left - run_x) if way > 0 else max(0, run_x - (left + box_width - 1))
        stop = min(p[PIXELS], left + box_width - run_x) if way > 0 else min(p[PIXELS], run_x - left + 1)
        is_whole = stop - cut == p[PIXELS]
        if is_whole and was_whole:
            result[-1][REPEATS] += 1
            continue
        piece = list(rows)
        skipped = p[SKIPPED] + cut
        piece[SRC] += k * p[REP_SRC] + skipped // encoding.group_pixels * encoding.group_bytes
        piece[SKIPPED], piece[PIXELS], piece[REPEATS] = skipped % encoding.group_pixels, stop - cut, 1
        piece[POS] = (y - top) * box_width + run_x + way * cut - left
        result.append(piece)
        was_whole = is_whole
    return result


def _inside(count: int, start: int, step: int, low: int, high: int) -> range:
    """Those i below `count` with ``low <= start + i * step < high``."""
    if step == 0:
        return range(count if low <= start < high else 0)
    if step > 0:
        first, last = -((start - low) // step), (high - 1 - start) // step
    else:
        first, last = -((high - 1 - start) // -step), (start - low) // -step
    return range(max(0, first), min(count - 1, last) + 1)
