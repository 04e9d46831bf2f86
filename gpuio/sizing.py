"""How a stream divides its memory: frames of a tile, frames of a block, slots, and where tiles and blocks end. Pure arithmetic."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from gpuio import config
from gpuio.boxes import CPU_TILE_BYTES, DEVICE_SCRATCH_BYTES, Cut
from gpuio.chunks import Chunks
from gpuio.corrections import CorrectionSet
from gpuio.engine import PAGE, Engine
from gpuio.errors import MemoryBudgetError
from gpuio.geometry.chunks import block_edges as chunk_block_edges
from gpuio.geometry.chunks import group_edges, most_rows, room_of_row, rows_between
from gpuio.geometry.plan import MERGE_GAP, STAGING_ALIGNMENT
from gpuio.io.gather import PIECE_BYTES, PIECES
from gpuio.layout import Layout, of_numbers

#: Output of a tile where other threads decode: handing one over costs some 25 us, most of them with the interpreter's lock held,
#: so a tile has to be worth it. Measured with two threads on AMD EPYC: 4 MiB take two thirds of the time of 1 MiB; 8 MiB leave the cache.
THREADED_TILE_BYTES = 4 << 20
#: Packed bytes read at a time from the page cache: few system calls, and still decoded
#: from the last-level cache (measured). A little over 1 MiB, so that two frames of 512 KiB and their headers fit.
WARM_BLOCK_BYTES = (1 << 20) + (64 << 10)
#: Packed bytes read at a time from storage: large enough for its full rate.
COLD_BLOCK_BYTES = 8 << 20
#: Such blocks at a time, where memory holds so many: reading goes on while the decoder waits for a core. Measured on a virtual drive
#: and two busy cores, unbuffered to float32: 99 to 103 % of what 8 requests at a time reach, with 3 blocks and 3 threads 92 to 94 %.
COLD_SLOTS = 6
#: Packed bytes of a part of frames mapped at a time: address space rather than memory, but touched pages count as resident.
MAPPED_BLOCK_BYTES = 128 << 20
#: Output of a tile on a device: enough frames that launches and copies run at full rate.
DEVICE_TILE_BYTES = 128 << 20
#: Frames put together from entries at a time: these are few, so that a call costs more than the cache saves. With 1 or 16 MiB it
#: takes twice as long (measured).
SPARSE_BLOCK_BYTES = 4 << 20
DEFAULT_MEMORY = 256 << 20
#: The same at most where chunks span many frames, and no budget is given: with less, every chunk would be unpacked again and again.
CHUNKS_MEMORY = 2 << 30
#: Unpacked bytes that a thread makes at a time, from the page cache and from storage, where reads should be long. A block is a job for
#: each thread. Measured with two threads on AMD EPYC: jobs of 1 MiB take a third longer, since handing them over is Python.
CHUNK_JOB_BYTES, COLD_CHUNK_JOB_BYTES = 4 << 20, 16 << 20
MAX_UNPACK_THREADS = 16


@dataclass(frozen=True, slots=True)
class Sizes:
    """How a stream uses its memory."""

    depth: int              # frames of a tile
    block_frames: int       # frames of a block
    slots: int              # staging buffers
    outputs: int            # tiles that are begun before the first of them is handed out
    read_threads: int
    gap: int
    host_bytes: int         # of host memory, at most; page-locked where tiles are decoded on a device
    device_bytes: int       # of device memory, at most
    least_bytes: int        # the smallest budget that would do
    piece_bytes: int = 0    # of the file at a time, where frames are gathered; unpacked by a thread at a time, where they lie in chunks
    block_rows: int = 0     # rows of chunks of a block, where frames lie in chunks
    scratch_bytes: int = 0  # of each decoder in each thread, for frames that are decoded to be cropped or summed

    def with_scratch(self, each: int, total: int, on_device: bool) -> Sizes:
        """The same with `total` bytes more, of which a decoder in a thread has `each`."""
        if not total:
            return self
        return replace(self, scratch_bytes=each, least_bytes=self.least_bytes + total, host_bytes=self.host_bytes + total * (not on_device),
                       device_bytes=self.device_bytes + total * on_device)


def parse_bytes(value: int | float | str | None, default: int = DEFAULT_MEMORY) -> int:
    """Bytes as `gpuio.config.bytes_of` understands them; None is the default."""
    return default if value is None else config.bytes_of(value)


def memory_budget(memory: int | str | None) -> int:
    """Bytes that a stream may take: as asked, else as configured, else the default."""
    return parse_bytes(config.stream().memory if memory is None else memory)


def decode_threads(asked: int | None) -> int:
    """Threads that decode ahead: as asked, else as configured, else none."""
    return asked if asked is not None else config.stream().threads or 0


def in_place(layout: Layout) -> bool:
    """Whether frames in the page cache are better decoded where they lie: if taken front to back, or too large for the CPU's cache."""
    return layout.is_sequential or _is_row_by_row(layout) or frame_bytes(layout) > WARM_BLOCK_BYTES


def _is_row_by_row(layout: Layout) -> bool:
    """Whether all pieces take their share of the same stored rows, one row after the other, as those of a quad or a folded frame do."""
    if len(layout.parts) != 1 or not layout.pieces:
        return False
    group_bytes, group_pixels, row = layout.encoding.group_bytes, layout.encoding.group_pixels, layout.pieces[0].row_src
    first = min(piece.src for piece in layout.pieces)
    ends = [piece.src + (piece.repeats - 1) * piece.rep_src + piece.pixels // group_pixels * group_bytes for piece in layout.pieces]
    return all(piece.row_src == row and piece.rep_src >= 0 for piece in layout.pieces) and max(ends) - first <= row


def frame_bytes(layout: Layout) -> int:
    """Bytes of a frame in its files, from the first to the last that pixels lie in."""
    return sum(_lengths(layout.spans))


def _lengths(spans: np.ndarray) -> list[int]:
    """Bytes from the first to the last of each part."""
    return [stop - first for first, stop in spans.tolist()]


def output_dtype(native: np.dtype, dtype: Any, corrections: CorrectionSet | None) -> np.dtype:
    """dtype of tiles: as asked; native without a wish; wide enough for corrections if there are any. TypeError: pixels cannot have it."""
    if dtype is not None:
        return of_numbers(dtype)
    if corrections is not None and corrections.have_corrections():
        return np.result_type(np.float32, native)
    return np.dtype(native)


def stream_sizes(layout: Layout, engine: Engine, backend: Any, frames: np.ndarray, placements: np.ndarray, cuts: Sequence[Cut],
                 dtype: np.dtype, *, depth: int | None, memory: int | str | None, threads: int, cold: bool) -> Sizes:
    """Divide the memory budget among staging and output.

    On the CPU the budget holds both. With a device it bounds host and device memory separately: there staging and output,
    here the page-locked side of staging, or nothing where the transport ends on the device.

    Raises
    ------
    MemoryBudgetError
        One frame does not fit; the message says how much memory would.
    ValueError
        `memory` is not a size, `depth` not positive, or `threads` negative.
    """
    if threads < 0 or (depth is not None and depth < 1):
        raise ValueError(f"threads={threads}, depth={depth}; expected no negative number of threads, and a positive depth or None")
    wishes = config.stream()
    memory = wishes.memory if memory is None else memory
    budget = parse_bytes(memory)
    on_device = engine.name != "cpu"
    frame_out = max(prod(cut.box.shape) for cut in cuts) * dtype.itemsize
    each, scratch = _scratch(cuts, budget, threads, on_device)
    budget -= scratch
    parts = max(1, len(layout.parts))
    needed = _lengths(layout.spans_of(placements))       # bytes of a frame, for each part
    span = sum(needed) if layout.parts else layout.sig_size * layout.dtype.itemsize
    gap, between = _gap(layout, frames, needed)
    mapped = backend.gives_views and not on_device and not layout.is_gathered
    frame_staged = span + between + (2 * backend.alignment * parts if backend.alignment > 1 else 0)
    one_reads = threads > 0 and backend.read_threads == 1      # what is computed would be computed by each of the threads
    slots, read_threads = (3, backend.read_threads) if (cold or on_device or one_reads or backend.alignment > 1) and not mapped else (1, 0)
    outputs = 2 if on_device else threads + 1 if threads else 1
    if layout.chunks is not None:
        sizes = _chunk_sizes(layout, layout.chunks, backend, frames, frame_out, depth, memory, scratch, outputs, on_device, cold, len(cuts))
        return sizes.with_scratch(each, scratch, on_device)
    if not read_threads:        # each decoding thread reads its own block, or all share a window of the file and the next one
        slots = min(outputs, 2) if mapped else outputs
    piece_bytes = 0
    if layout.is_gathered:
        slots, read_threads = 1, max(1, read_threads) if layout.strided is not None else 0
        piece_bytes = min(PIECE_BYTES, budget // 8)
    padding = slots * STAGING_ALIGNMENT * parts + PIECES * piece_bytes
    if on_device:                       # to begin staging on a page costs up to one
        padding += PAGE * (PIECES if layout.is_gathered else slots)
    share = 0 if mapped else slots * frame_staged
    least = frame_out * outputs + share + padding
    if budget < least:
        raise _too_small(layout, budget, least, scratch, f"{outputs} x {frame_out} bytes of output, "
                         f"{slots} x {0 if mapped else frame_staged} bytes of staging")
    most = (budget - share - padding) // (outputs * frame_out)
    if depth is None:
        depth = (wishes.tile_bytes or (DEVICE_TILE_BYTES if on_device else THREADED_TILE_BYTES if threads else CPU_TILE_BYTES)) // frame_out
    # Half of the budget is for staging: with less, files would be read frame by frame.
    depth = max(1, min(depth, budget // (2 * outputs) // frame_out, most, len(frames) or 1))
    if len(cuts) > 1:                      # all boxes of a tile are taken from one block
        depth = max(1, min(depth, (budget - padding) // (outputs * frame_out + share)))
    left = budget - depth * frame_out * outputs - padding
    target = max(span * depth, 4 << 20) if on_device else COLD_BLOCK_BYTES if read_threads or threads else WARM_BLOCK_BYTES
    target = wishes.block_bytes or target
    if layout.strided is not None:
        target = left                       # every block is a pass over the file: as few of them as memory allows
    elif layout.sparse is not None and not on_device:
        target = SPARSE_BLOCK_BYTES
    elif mapped:
        target = MAPPED_BLOCK_BYTES * parts
    block_frames = max(1, min(min(target, left // slots) // max(1, frame_staged), len(frames)))
    if len(cuts) > 1:
        block_frames = max(depth, block_frames)
    if block_frames > depth and threads and not (read_threads or mapped):
        block_frames = depth
    elif len(frames) > block_frames > depth:
        block_frames -= block_frames % depth
    if read_threads and not on_device and not layout.is_gathered and (cold or backend.alignment > 1):
        block_bytes = int(block_frames) * frame_staged
        more = min(COLD_SLOTS - slots, (left - slots * block_bytes) // (block_bytes + STAGING_ALIGNMENT * parts))
        slots += more
        share, padding = slots * frame_staged, padding + more * STAGING_ALIGNMENT * parts
    staging = int(block_frames) * share + padding
    total = depth * frame_out * outputs + staging
    if not on_device:
        host_bytes = total
    elif layout.is_gathered:
        host_bytes = PIECES * piece_bytes       # frames are put together on the device
    else:
        host_bytes = staging if backend.memory == "host" else 0
    sizes = Sizes(depth, int(block_frames), slots, outputs, read_threads, gap, host_bytes, total if on_device else 0, least, piece_bytes)
    return sizes.with_scratch(each, scratch, on_device)


def _chunk_sizes(layout: Layout, chunks: Chunks, backend: Any, frames: np.ndarray, frame_out: int, depth: int | None,
                 memory: int | str | None, scratch: int, outputs: int, on_device: bool, cold: bool, n_cuts: int) -> Sizes:
    """The same, without scratch, where frames lie in chunks: rows of chunks are what blocks consist of."""
    room = room_of_row(chunks)
    cost = room + (2 * chunks.stored_row_bytes + 2 * max(STAGING_ALIGNMENT, backend.alignment) * chunks.columns if chunks.filters else 0)
    together = 1            # rows that have to be in memory at the same time, so that none is unpacked twice
    if not chunks.is_linear and len(frames):
        rows = chunks.rows_of(frames)
        together = int(rows_between(rows, group_edges(rows)).max())
    budget = parse_bytes(memory)
    if memory is None:
        budget = max(budget, min(CHUNKS_MEMORY, together * cost + budget // 2))
    budget -= scratch
    least = frame_out * outputs + cost
    if budget < least:
        raise _too_small(layout, budget, least, scratch, f"{outputs} x {frame_out} bytes of output, {cost} bytes for the chunks of a frame")
    if depth is None:
        wished = config.stream().tile_bytes or (DEVICE_TILE_BYTES if on_device else THREADED_TILE_BYTES if outputs > 1 else CPU_TILE_BYTES)
        depth = min(wished, budget // (4 * outputs)) // frame_out
        depth -= depth % chunks.frames_per_row if depth > chunks.frames_per_row else 0      # tiles that end where rows do
    depth = max(1, min(depth, len(frames) or 1, (budget - cost) // (frame_out * outputs)))
    left = min(budget - depth * frame_out * outputs, max(_half_of_memory(), cost))
    if n_cuts > 1 and len(frames):          # all boxes of a tile are taken from one block
        rows = chunks.rows_of(frames)
        while depth > 1 and most_rows(rows, depth) * cost > left:
            left += (depth - depth // 2) * frame_out * outputs
            depth //= 2
        together = max(together, most_rows(rows, depth))
    threads = min(MAX_UNPACK_THREADS, len(os.sched_getaffinity(0))) if chunks.is_packed else 3 if cold or on_device else 0
    job_bytes = COLD_CHUNK_JOB_BYTES if cold else CHUNK_JOB_BYTES
    target = max(threads * max(job_bytes, chunks.chunk_bytes if chunks.is_packed else 0), WARM_BLOCK_BYTES,
                 room * depth // chunks.frames_per_row if on_device else 0)
    rows_in_all = len(chunks.table) * (chunks.frames_per_row if chunks.by_frame else 1)
    block_rows = min(max(together, target // room), rows_in_all, len(frames) or 1)
    slots = next((n for n in (3, 2) if n * cost * block_rows <= left), 2 if together == 1 and left >= 2 * cost else 1)
    block_rows = min(block_rows, left // (slots * cost))
    if rows_in_all > block_rows > depth and chunks.frames_per_row == 1:
        block_rows -= block_rows % depth
    slots = slots if threads else 1
    block_frames = min(block_rows * (1 if chunks.by_frame else chunks.frames_per_row), len(frames) or 1)
    staging = slots * block_rows * cost
    total = depth * frame_out * outputs + staging
    return Sizes(depth, block_frames, slots, outputs, threads, 0, staging if on_device else total, total if on_device else 0, least,
                 job_bytes, block_rows)


def _scratch(cuts: Sequence[Cut], budget: int, threads: int, on_device: bool) -> tuple[int, int]:
    """Bytes for frames that are cropped or summed: of one decoder in one thread, and of all."""
    frame = max(cut.scratch_frame_bytes for cut in cuts)
    count = sum(cut.scratch_frame_bytes > 0 for cut in cuts) * max(1, threads)
    room = DEVICE_SCRATCH_BYTES if on_device else CPU_TILE_BYTES
    each = max(frame, min(room, budget // (8 * count)) // frame * frame) if frame else 0
    return each, each * count


def _too_small(layout: Layout, budget: int, least: int, scratch: int, needs: str) -> MemoryBudgetError:
    """The error that a budget holds not even one frame; `budget` and `least` are what remains without scratch."""
    more = f", {scratch} bytes for frames that are cropped or summed" if scratch else ""
    return MemoryBudgetError(f"{name_of(layout)}: memory={budget + scratch} bytes cannot hold one frame; at least {least + scratch} bytes "
                             f"are needed ({needs}{more})")


def _half_of_memory() -> int:
    """Of this machine, for streams without a budget of their own."""
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)


def stream_blocks(layout: Layout, frames: np.ndarray, tiles: np.ndarray, sizes: Sizes, whole_tiles: bool = False) -> np.ndarray:
    """Boundaries of blocks of a stream: int64[n_blocks + 1].

    Parameters
    ----------
    tiles : int64[n_tiles + 1]
        Boundaries of tiles.
    whole_tiles
        Whether blocks have to consist of whole tiles.
    """
    if layout.chunks is None:
        return block_edges(tiles, sizes.block_frames)
    return chunk_block_edges(layout.chunks.rows_of(frames), sizes.block_rows, tiles if whole_tiles else None)


def _gap(layout: Layout, frames: np.ndarray, needed: Sequence[int]) -> tuple[int, int]:
    """Widest gap to read along, and the bytes between frames that this costs at most for each; `needed` has one entry a part."""
    if not layout.parts:
        return 0, 0
    headers = [part[0].frame_header + part[0].frame_footer for part in layout.parts]
    if len(frames) > 1 and not _is_run(frames):
        gap = max(min(MERGE_GAP, sum(needed)), *headers)        # scattered frames: never read more than twice what is needed
        return gap, gap * sum(n > 0 for n in needed)
    gap = max(MERGE_GAP, *headers)
    between = [whole - n + header for whole, n, header in zip(_lengths(layout.spans), needed, headers, strict=True)]
    return gap, sum(rest for n, rest in zip(needed, between, strict=True) if n > 0 and rest <= gap)


def _is_run(numbers: np.ndarray) -> bool:
    """Whether each number is one more than the one before."""
    return bool((numbers[1:] - numbers[:-1] == 1).all())


def name_of(layout: Layout) -> str:
    """The (first) file, for messages."""
    return layout.paths[0]


def tile_edges(nav: np.ndarray, depth: int) -> np.ndarray:
    """Boundaries of tiles of at most `depth` frames that do not cross a jump of `nav`, which ascends: int64[n_tiles + 1]."""
    n = len(nav)
    if n == 0:
        return np.zeros(1, dtype=np.int64)
    if nav[-1] - nav[0] == n - 1:
        return _split(np.array((0, n), dtype=np.int64), depth)
    return _split(np.concatenate(([0], np.flatnonzero(np.diff(nav) != 1) + 1, [n])).astype(np.int64), depth)


def _split(edges: np.ndarray, size: int) -> np.ndarray:
    """`edges` with further ones, so that no interval is longer than `size`."""
    if len(edges) == 2:
        split = np.arange(edges[0], edges[1] + size, size, dtype=np.int64)
        split[-1] = edges[1]
        return split
    counts = -(-np.diff(edges) // size)
    first = np.repeat(edges[:-1], counts)
    within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.append(first + within * size, edges[-1]).astype(np.int64)


def block_edges(tiles: np.ndarray, block_frames: int) -> np.ndarray:
    """Boundaries of blocks of at most `block_frames`: several whole tiles a block, or several blocks a tile."""
    if len(tiles) < 2:
        return tiles
    if tiles[-1] <= block_frames:
        return tiles[[0, -1]]
    if int(np.diff(tiles).max()) >= block_frames:
        return _split(tiles, block_frames)
    stops, edges = tiles.tolist(), [0]
    while edges[-1] < stops[-1]:
        edges.append(stops[bisect_right(stops, edges[-1] + block_frames) - 1])
    return np.array(edges, dtype=np.int64)
