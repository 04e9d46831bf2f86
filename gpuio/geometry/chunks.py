"""From frames to chunks: which to read, where they go, and how a stream is cut so that none is unpacked twice. Arithmetic on int64.

The frames of a block are grouped by the rows of chunks that they lie in (`gpuio.chunks`). Each row has a place in the block's
memory and is read and unpacked once, whatever the order of frames and however often they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpuio.chunks import FILE, MASK, OFFSET, STORED, Chunks
from gpuio.geometry.plan import STAGING_ALIGNMENT
from gpuio.layout import REP_SRC, REPEATS, SRC

#: Bytes between two stored chunks that are read along: in a file written chunk by chunk they are index nodes.
CHUNK_GAP = 64 << 10


@dataclass(frozen=True, slots=True)
class ChunkPlan:
    """What to read and unpack for a run of blocks of frames.

    Attributes
    ----------
    blocks : int64[n_blocks + 1]
        Block b holds the frames ``blocks[b]:blocks[b + 1]`` of the selection.
    extents : int64[n_extents, 4]
        File, offset, size, position; in the block's memory if chunks are stored as they are, else among its packed bytes.
    extent_starts : int64[n_blocks + 1]
        Block b reads ``extents[extent_starts[b]:extent_starts[b + 1]]``.
    chunks : int64[n_chunks, 4]
        To be unpacked: byte among the packed ones, stored size, mask of filters that were left out, byte of the block's memory.
    chunk_starts : int64[n_extents + 1]
        Extent e holds ``chunks[chunk_starts[e]:chunk_starts[e + 1]]``.
    places : int64[n_chunks, 2]
        Row and column of each, as the table counts them.
    fills, fill_starts : int64[n_fills], int64[n_blocks + 1]
        Bytes of a block's memory at which a chunk begins of which nothing is stored.
    starts : int64[n_frames, 1]
        Where a frame begins in its block's memory.
    staging_bytes, packed_bytes
        Memory of the largest block, and its packed bytes.
    needed_bytes
        Stored bytes that the frames need.
    missing
        None: no frame lacks pixels.
    """

    blocks: np.ndarray
    extents: np.ndarray
    extent_starts: np.ndarray
    chunks: np.ndarray
    chunk_starts: np.ndarray
    places: np.ndarray
    fills: np.ndarray
    fill_starts: np.ndarray
    starts: np.ndarray
    staging_bytes: int
    packed_bytes: int
    needed_bytes: int
    missing: None = None

    @property
    def read_bytes(self) -> int:
        """Bytes of all extents."""
        return int(self.extents[:, 2].sum())


def room_of_row(chunks: Chunks) -> int:
    """Bytes from one row to the next in a block's memory. Densely where they are read
    right there, so that neighbours in the file are read as one."""
    return -(-chunks.row_bytes // STAGING_ALIGNMENT) * STAGING_ALIGNMENT if chunks.is_packed else chunks.row_bytes


def plan_chunks(chunks: Chunks, frames: np.ndarray, blocks: np.ndarray, placements: np.ndarray, *, alignment: int = 1,
                chunks_at_once: int = 1 << 62) -> ChunkPlan:
    """Plan the reading of `frames`.

    Parameters
    ----------
    frames : int64[n]
        In the order in which they are wanted; any order, repeats allowed.
    blocks : int64[n_blocks + 1]
        Boundaries of blocks in `frames`.
    placements : int64[entries, 12]
        The layout's, or those of a box; only columns that they touch are read.
    alignment
        Offsets and sizes of extents become multiples of it, where chunks are packed.
    chunks_at_once
        An extent holds at most so many chunks.
    """
    n_blocks = len(blocks) - 1
    row, within = chunks.locate(frames)
    key = row * chunks.frames_per_row + (within if chunks.by_frame else 0)
    span = len(chunks.table) * chunks.frames_per_row
    block = np.repeat(np.arange(n_blocks, dtype=np.int64), np.diff(blocks))
    wanted, inverse = np.unique(block * span + key, return_inverse=True)
    row_block, wanted = np.divmod(wanted, span)
    wanted_row, wanted_frame = np.divmod(wanted, chunks.frames_per_row)
    first = np.searchsorted(row_block, np.arange(n_blocks + 1))
    room, direct = room_of_row(chunks), not chunks.is_packed
    base = (np.arange(len(wanted), dtype=np.int64) - first[row_block]) * room
    starts = base[inverse.ravel()]
    if not chunks.by_frame:
        starts = starts + within * chunks.frame_step

    columns = touched_columns(chunks, placements)
    entry = chunks.table[wanted_row[:, None], columns].reshape(-1, 4)
    place = np.stack((np.repeat(wanted_row, len(columns)), np.tile(columns, len(wanted_row))), axis=1)
    out = (base[:, None] + columns * chunks.pitch).ravel()
    entry_block = np.repeat(row_block, len(columns))
    offset, size = entry[:, OFFSET], entry[:, STORED]
    if chunks.by_frame:
        offset, size = offset + np.repeat(wanted_frame, len(columns)) * chunks.frame_step, np.full_like(size, chunks.frame_step)
    there = entry[:, FILE] >= 0
    fills, fill_block = out[~there], entry_block[~there]
    order = np.flatnonzero(there)
    order = order[np.lexsort((offset[order], entry[order, FILE], entry_block[order]))]
    file, offset, size, mask, out, entry_block, place = (a[order] for a in (
        entry[:, FILE], offset, size, entry[:, MASK], out, entry_block, place))

    opens = np.ones(len(order), dtype=bool)
    if len(order):
        gap = offset[1:] - (offset + size)[:-1]
        apart = (out[1:] - out[:-1] != size[:-1]) | (gap != 0) if direct else gap > chunk_gap(chunks)
        opens[1:] = (entry_block[1:] != entry_block[:-1]) | (file[1:] != file[:-1]) | apart
        if not direct:
            number = np.arange(len(order))
            opens |= (number - np.maximum.accumulate(np.where(opens, number, 0))) % chunks_at_once == 0
    head = np.flatnonzero(opens)
    ends = np.maximum.reduceat(offset + size, head) if len(order) else offset
    extent_block = entry_block[head]
    extent_starts = np.searchsorted(extent_block, np.arange(n_blocks + 1))
    low, sizes, at, packed = offset[head], ends - offset[head], out[head], 0
    unpacked = np.zeros((0, 4), dtype=np.int64)
    if not direct:
        step = max(alignment, STAGING_ALIGNMENT)
        low = low // alignment * alignment
        sizes = -(-ends // alignment) * alignment - low
        before = np.concatenate(([0], np.cumsum(-(-sizes // step) * step)))
        at = before[:-1] - before[extent_starts[extent_block]]
        packed = int((before[extent_starts[1:]] - before[extent_starts[:-1]]).max(initial=0))
        extent_of = np.cumsum(opens) - 1
        unpacked = np.stack((offset - low[extent_of] + at[extent_of], size, mask, out), axis=1)
    return ChunkPlan(
        blocks=blocks, extents=np.stack((file[head], low, sizes, at), axis=1), extent_starts=extent_starts,
        chunks=unpacked, chunk_starts=np.append(head, len(order)), places=place,
        fills=fills, fill_starts=np.searchsorted(fill_block, np.arange(n_blocks + 1)), starts=np.ascontiguousarray(starts[:, None]),
        staging_bytes=int(np.diff(first).max(initial=0)) * room, packed_bytes=packed, needed_bytes=int(size.sum()),
    )


def chunk_gap(chunks: Chunks) -> int:
    """Bytes between two stored chunks that are read along: never more than twice what is needed."""
    return min(CHUNK_GAP, chunks.stored_row_bytes // chunks.columns)


def touched_columns(chunks: Chunks, placements: np.ndarray) -> np.ndarray:
    """Columns that placements take anything from, ascending: int64[n]."""
    found = [np.unique((src + np.arange(repeats) * step) // chunks.pitch)
             for src, repeats, step in placements[:, [SRC, REPEATS, REP_SRC]].tolist()]
    return np.unique(np.concatenate(found)).astype(np.int64) if found else np.zeros(0, dtype=np.int64)


def group_edges(rows: np.ndarray, tiles: np.ndarray | None = None) -> np.ndarray:
    """Where a selection can be cut so that no row is needed on both sides: int64[n + 1], from 0 to the number of frames.

    Parameters
    ----------
    rows : int64[frames]
        From `Chunks.rows_of`.
    tiles : int64[n_tiles + 1], optional
        Cut at these places only.
    """
    n = len(rows)
    if not n:
        return np.zeros(1, dtype=np.int64)
    _, inverse = np.unique(rows, return_inverse=True)
    last = np.empty(int(inverse.max()) + 1, dtype=np.int64)
    last[inverse] = np.arange(n)                # later ones overwrite earlier ones
    edges = np.concatenate(([0], np.flatnonzero(np.maximum.accumulate(last[inverse]) == np.arange(n)) + 1))
    if tiles is not None:
        edges = np.intersect1d(edges, tiles)
    return edges.astype(np.int64)


def rows_between(rows: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Different rows in each interval of `edges`, of whose rows none is in two: int64[n]."""
    new = np.zeros(len(rows) + 1, dtype=np.int64)
    new[1 + np.unique(rows, return_index=True)[1]] = 1
    counted = np.cumsum(new)
    return counted[edges[1:]] - counted[edges[:-1]]


def most_rows(rows: np.ndarray, depth: int) -> int:
    """Rows that `depth` successive frames need at most; too many where frames of a few rows alternate."""
    changes = np.concatenate(([0], np.cumsum(np.diff(rows) != 0)))
    apart = max(0, min(depth, len(rows)) - 1)
    return int((changes[apart:] - changes[:len(changes) - apart]).max(initial=0)) + 1


def block_edges(rows: np.ndarray, most: int, tiles: np.ndarray | None = None) -> np.ndarray:
    """Boundaries of blocks of at most `most` rows each, at places where no row is cut wherever that is possible.

    Parameters
    ----------
    tiles : int64[n_tiles + 1], optional
        Blocks consist of whole tiles, however many rows these need.
    """
    edges = group_edges(rows, tiles)
    before = np.concatenate(([0], np.cumsum(rows_between(rows, edges))))
    result, at = [0], 0
    while at < len(edges) - 1:
        stop = int(np.searchsorted(before, before[at] + most, side="right")) - 1
        if stop <= at:              # a group of frames that needs more rows than fit
            stop = at + 1
            result.extend(_cut(rows, int(edges[at]), int(edges[stop]), most, tiles))
        result.append(int(edges[stop]))
        at = stop
    return np.array(result, dtype=np.int64)


def _cut(rows: np.ndarray, first: int, stop: int, most: int, tiles: np.ndarray | None) -> list[int]:
    """Further boundaries between `first` and `stop`."""
    changes = first + 1 + np.flatnonzero(np.diff(rows[first:stop])) if tiles is None else tiles[(tiles > first) & (tiles < stop)]
    found: list[int] = []
    held: set[int] = set()
    for low, high in zip([first, *changes.tolist()], [*changes.tolist(), stop], strict=True):
        more = set(rows[low:high].tolist() if tiles is not None else (int(rows[low]),))
        if held and len(held | more) > max(most, len(held)):
            found.append(low)
            held = set()
        held |= more
    return found
