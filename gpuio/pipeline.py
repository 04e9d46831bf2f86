"""The stream: plan, read ahead, decode, correct, hand out tiles. Nothing here knows a format, a file system or a device.

`tiles` lends tiles one after the other: a tile is valid until the next step, its buffer is used again. `read_frames`
decodes frames into an array of the caller's. Both keep to a memory budget that covers staging and output.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from gpuio.blocks import Block, BlockReader
from gpuio.boxes import Box, BoxDecoder
from gpuio.corrections import CorrectionSet
from gpuio.engine import Engine
from gpuio.layout import Layout
from gpuio.reduction import Reduction
from gpuio.sizing import block_edges, output_dtype, stream_sizes, tile_edges
from gpuio.tile import DataTile
from gpuio.workers import Call, Workers


def tiles(layout: Layout, engine: Engine, backend: Any, nav: np.ndarray, frames: np.ndarray, *, boxes: Sequence[Box] | None = None,
          dtype: Any = None, depth: int | None = None, corrections: CorrectionSet | None = None, repair_whole: bool = True,
          memory: int | str | None = None, threads: int = 0, views: bool = True, cold: bool = False,
          reduction: Reduction | None = None) -> Iterator[DataTile]:
    """Tiles of a selection, in order, blanks left out.

    Parameters
    ----------
    nav, frames : int64[n]
        Index on the (compressed) nav axis and file frame of each position that has data; `nav` ascends.
    boxes
        Detector boxes, one tile each for every stack of frames; default one box that is the whole detector.
    dtype
        Of the tiles; None is the native one, or float where corrections need it.
    depth
        Frames of a tile; None lets the stream choose. Tiles end where `nav` jumps.
    repair_whole
        Repair excluded pixels in whole frames before cutting boxes, so that a box does not change values;
        else within each box, as the specification's tiles do.
    memory
        Budget of staging and output in bytes.
    threads
        Decode ahead on that many threads; 0 decodes in the caller's.
    views
        Hand out views of mapped memory where nothing needs doing.
    cold
        Read ahead in large blocks, for files that are not in the page cache.
    reduction
        Crop and binning of the detector; `boxes` are boxes of its result.

    Raises
    ------
    MemoryBudgetError
        One frame does not fit the budget.
    ReadError, OSError
        At the tile whose bytes could not be read.
    """
    out_dtype = output_dtype(layout.dtype, dtype, corrections)
    boxes = [Box.whole(layout, reduction)] if boxes is None else list(boxes)
    table = layout.placements
    placements = [BoxDecoder.placements(layout, table, box, corrections, repair_whole, reduction) for box in boxes]
    table = np.concatenate(placements) if len(boxes) > 1 else placements[0]
    sizes = stream_sizes(layout, engine, backend, frames, table, boxes, out_dtype, depth=depth, memory=memory, threads=threads, cold=cold)
    edges = tile_edges(nav, sizes.depth)
    decoders = [BoxDecoder(layout, engine, box, rows, out_dtype, corrections, repair_whole, reduction)
                for box, rows in zip(boxes, placements, strict=True)]
    views = views and len(boxes) == 1 and decoders[0].is_view(out_dtype)
    threads = 0 if views else threads
    workers = Workers(threads) if threads else None
    reader = BlockReader(layout, engine, backend, frames, block_edges(edges, sizes.block_frames), table, slots=sizes.slots,
                         threads=sizes.read_threads, gap=sizes.gap, deferred=threads > 0 and not sizes.read_threads,
                         piece_bytes=sizes.piece_bytes)
    largest = max(int(np.prod(box.shape)) for box in boxes)
    ring = _OutputRing(engine, sizes.depth * largest, out_dtype, threads + 1 if threads else 1)
    with reader:
        try:
            yield from _deliver(reader, decoders, ring, nav, edges, workers, threads, views)
        finally:            # before the reader lets go of what the threads decode from
            if workers is not None:
                workers.close()


def read_frames(layout: Layout, engine: Engine, backend: Any, frames: np.ndarray, out: Any, *, box: Box | None = None,
                corrections: CorrectionSet | None = None, memory: int | str | None = None, cold: bool = False,
                reduction: Reduction | None = None) -> None:
    """Decode `frames` into `out`.

    Parameters
    ----------
    frames : int64[n]
        File frames in any order, repeats allowed; -1 is a blank frame and leaves its part of `out` alone.
    out : dtype[n, *box], C order, engine memory, written
    """
    box = box or Box.whole(layout, reduction)
    positions = np.flatnonzero(frames >= 0)
    if not len(positions):
        return
    wanted = frames[positions]
    rows = BoxDecoder.placements(layout, layout.placements, box, corrections, True, reduction)
    decoder = BoxDecoder(layout, engine, box, rows, out.dtype, corrections, True, reduction)
    sizes = stream_sizes(layout, engine, backend, wanted, rows, [box], out.dtype, depth=1, memory=memory, threads=0, cold=cold)
    runs = tile_edges(positions, len(frames))          # neighbours in `out`
    bounds = runs.tolist()
    flat = out.reshape(len(frames), -1)
    run = 0
    with BlockReader(layout, engine, backend, wanted, block_edges(runs, sizes.block_frames), rows, slots=sizes.slots,
                     threads=sizes.read_threads, gap=sizes.gap, piece_bytes=sizes.piece_bytes) as reader:
        for block in reader:
            block.check()
            decode = decoder.bind(block, flat)
            pos = block.first
            while pos < block.stop:
                stop = min(bounds[run + 1], block.stop)
                decode(pos - block.base, stop - pos, at=int(positions[pos]))
                run += stop == bounds[run + 1]
                pos = stop


class _OutputRing:
    """Output buffers that are used in turn."""

    def __init__(self, engine: Engine, items: int, dtype: np.dtype, count: int) -> None:
        self._make: Callable[[], Any] = lambda: engine.empty((items,), dtype)
        self._buffers: list[Any] = []
        self._count, self._next = count, 0

    def take(self) -> Any:
        if len(self._buffers) < self._count:
            self._buffers.append(self._make())
        buffer = self._buffers[self._next % self._count]
        self._next += 1
        return buffer


def _deliver(reader: BlockReader, decoders: list[BoxDecoder], ring: _OutputRing, nav: np.ndarray, edges: np.ndarray,
             workers: Workers | None, ahead: int, views: bool) -> Iterator[DataTile]:
    """Walk through blocks and tiles together; decode each intersection; hand out a tile when its last frame is there."""
    waiting: deque[tuple[DataTile, list[Call]]] = deque()
    bounds, origins = edges.tolist(), nav[edges[:-1]].tolist()
    shaped: dict[tuple[int, int], Any] = {}
    tile = 0
    flat: Any = None
    work: list[Call] = []
    for block in reader:
        pos = block.first
        whole = _view(block, block.first, block.stop, decoders[0]) if views else None
        while pos < block.stop:
            block.check()
            start, end = bounds[tile], bounds[tile + 1]
            stop = min(end, block.stop)
            if views and start >= block.first and end <= block.stop:
                # A block that lies in one file is viewed at once; of others, each tile that does.
                view = _view(block, start, end, decoders[0]) if whole is None else whole[start - block.first:end - block.first]
                if view is not None:
                    yield DataTile.lent(view, origins[tile], decoders[0].box.origin, decoders[0].box.index)
                    tile, pos = tile + 1, stop
                    continue
            for decoder in decoders:
                if pos == start or flat is None:
                    flat = ring.take()
                    work = []
                key = (id(flat), id(decoder))
                if key not in shaped:
                    depth = flat.shape[0] // decoder.pixels
                    rows = flat[: depth * decoder.pixels].reshape(depth, decoder.pixels)
                    shaped[key] = rows, rows.reshape(depth, *decoder.box.shape)
                rows, stack = shaped[key]
                if workers is None:
                    decoder.bind(block, rows)(pos - block.base, stop - pos, at=pos - start)
                else:
                    call = workers.submit(_work, block, decoder, rows, pos - block.base, stop - pos, pos - start)
                    work.append(call)
                    block.slot.in_use.append(call)
                if stop == end:
                    done = DataTile.lent(stack[: end - start], origins[tile], decoder.box.origin, decoder.box.index)
                    if workers is None:
                        yield done
                    else:
                        waiting.append((done, work))
                        work = []
                        while len(waiting) > ahead:
                            yield _finished(waiting.popleft())
            if stop == end:
                tile += 1
            pos = stop
    while waiting:
        yield _finished(waiting.popleft())


def _work(block: Block, decoder: BoxDecoder, rows: Any, first: int, count: int, at: int) -> None:
    """What a decoding thread does: read the block, if that was left to it, and decode frames of it."""
    if block.fill is not None:
        block.fill()
    decoder.bind(block, rows)(first, count, at=at)


def _finished(entry: tuple[DataTile, list[Call]]) -> DataTile:
    tile, work = entry
    for call in work:
        call.result()
    return tile


def _view(block: Block, start: int, end: int, decoder: BoxDecoder) -> np.ndarray | None:
    """Frames ``start:end`` as a read-only view of a mapped file, if they are evenly spaced in it."""
    mapped = block.mapped_bytes(start, end)
    if mapped is None:
        return None
    at = block.plan.starts[start - block.base:end - block.base, 0] - mapped.__array_interface__["data"][0]
    shape, dtype = decoder.box.shape, decoder.dtype
    frame_bytes = decoder.pixels * dtype.itemsize
    stride = int(at[1] - at[0]) if len(at) > 1 else frame_bytes
    if stride < frame_bytes or (np.diff(at) != stride).any():
        return None
    whole = mapped[int(at[0]):int(at[-1]) + frame_bytes]
    rows = np.lib.stride_tricks.as_strided(whole, (end - start, frame_bytes), (stride, 1), writeable=False)
    return rows.view(dtype).reshape(end - start, *shape) if stride == frame_bytes else _unflatten(rows.view(dtype), shape)


def _unflatten(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Rows of pixels with gaps between them as frames, still without a copy."""
    inner = tuple(int(np.prod(shape[i + 1:])) * rows.itemsize for i in range(len(shape)))
    return np.lib.stride_tricks.as_strided(rows, (len(rows), *shape), (rows.strides[0], *inner), writeable=False)
