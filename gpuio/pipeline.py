"""The stream: plan, read ahead, decode, correct, hand out tiles. Nothing here knows a format, a file system or a device.

`tiles` lends tiles one after the other: a tile is valid until the next step, its buffer is used again. `read_frames`
decodes frames into an array of the caller's. Both keep to a memory budget that covers staging and output.

A device is given its work without waiting for it, one tile ahead of the consumer: while that works on a tile, the next one
is decoded into the other of two buffers, and the bytes of later ones travel. Whoever takes a tile makes a stream of its own
wait for it (`gpuio.engine.Output`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from itertools import accumulate, islice
from operator import itemgetter, mul
from typing import Any, TypeVar

import numpy as np

from gpuio.blocks import Block, BlockReader
from gpuio.boxes import Box, BoxDecoder, Cut
from gpuio.chunk_blocks import ChunkBlockReader
from gpuio.corrections import CorrectionSet
from gpuio.engine import Engine, Output
from gpuio.errors import MemoryBudgetError
from gpuio.layout import Layout
from gpuio.reduction import Reduction
from gpuio.sizing import Sizes, name_of, output_dtype, stream_blocks, stream_sizes, tile_edges
from gpuio.tile import DataTile
from gpuio.workers import Call, Workers

T = TypeVar("T")


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
    cuts = [Cut.of(layout, box, out_dtype, corrections, repair_whole, reduction) for box in boxes]
    placements = [cut.placements(layout) for cut in cuts]
    table = np.concatenate(placements) if len(boxes) > 1 else placements[0]

    def divide(budget: int | str | None) -> Sizes:
        return stream_sizes(layout, engine, backend, frames, table, cuts, out_dtype, depth=depth, memory=budget, threads=threads,
                            cold=cold)

    def begin(sizes: Sizes) -> tuple[Generator[DataTile], list[DataTile]]:
        stream = _stream(layout, engine, backend, nav, frames, cuts, placements, table, out_dtype, corrections, sizes, threads, views)
        return stream, list(islice(stream, 1))

    stream, first = _within_memory(layout, engine, memory, divide, begin)       # by its first tile a stream has all its memory
    with closing(stream):
        while first:
            yield first.pop()
        yield from stream


def _stream(layout: Layout, engine: Engine, backend: Any, nav: np.ndarray, frames: np.ndarray, cuts: Sequence[Cut],
            placements: Sequence[np.ndarray], table: np.ndarray, dtype: np.dtype, corrections: CorrectionSet | None, sizes: Sizes,
            threads: int, views: bool) -> Generator[DataTile]:
    """`tiles` with the sizes chosen."""
    edges = tile_edges(nav, sizes.depth)
    decoders = [BoxDecoder(layout, engine, cut, rows, dtype, corrections, sizes.scratch_bytes)
                for cut, rows in zip(cuts, placements, strict=True)]
    views = views and len(cuts) == 1 and decoders[0].is_view
    for decoder in decoders if not views else ():
        decoder.prepare()
    threads = 0 if views or engine.name != "cpu" else threads       # a device decodes in the background by itself
    reader = open_blocks(layout, engine, backend, frames, stream_blocks(layout, frames, edges, sizes, len(cuts) > 1), table, sizes,
                         deferred=threads > 0 and not sizes.read_threads)
    largest = max(decoder.pixels for decoder in decoders)
    ring = _OutputRing(engine, sizes.depth * largest, dtype, 1 if views else sizes.outputs)
    with reader, closing(ring):
        workers = Workers(threads) if threads else None
        try:
            made = _decoded(reader, decoders, ring, nav, edges, workers, views)
            yield from map(itemgetter(0), made) if ring.count == 1 else _in_order(made, ring.count)
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
    cut = Cut.of(layout, box, out.dtype, corrections, reduction=reduction)
    rows = cut.placements(layout)
    runs = tile_edges(positions, len(frames))          # neighbours in `out`
    bounds = runs.tolist()
    flat = out.reshape(len(frames), -1)

    def divide(budget: int | str | None) -> Sizes:
        return stream_sizes(layout, engine, backend, wanted, rows, [cut], out.dtype, depth=1, memory=budget, threads=0, cold=cold)

    def read(sizes: Sizes) -> None:
        decoder = BoxDecoder(layout, engine, cut, rows, out.dtype, corrections, sizes.scratch_bytes)
        run = 0
        with open_blocks(layout, engine, backend, wanted, stream_blocks(layout, wanted, runs, sizes), rows, sizes) as reader:
            for block in reader:
                block.check()
                decode = decoder.bind(block, flat)
                pos = block.first
                while pos < block.stop:
                    stop = min(bounds[run + 1], block.stop)
                    decode(pos - block.base, stop - pos, at=int(positions[pos]))
                    run += stop == bounds[run + 1]
                    pos = stop

    with engine.computing(joined=True):
        _within_memory(layout, engine, memory, divide, read)


def _within_memory(layout: Layout, engine: Engine, memory: int | str | None, divide: Callable[[int | str | None], Sizes],
                   run: Callable[[Sizes], T]) -> T:
    """`run` with what `divide` makes of the budget; once more with less where a device has no more to give.

    Raises
    ------
    MemoryBudgetError
        That was too much as well; names what the device has.
    """
    sizes = divide(memory)
    try:
        return run(sizes)
    except MemoryError:
        if engine.free_bytes() is None:
            raise
    # Only now has the failed attempt let go of its own.
    free = engine.free_bytes() or 0
    fewer = divide(max(min(sizes.device_bytes // 2, free // 2), sizes.least_bytes))
    try:
        return run(fewer)
    except MemoryError as error:
        least = sizes.least_bytes
        fits = f"memory={max(least, fewer.device_bytes // 2)} may fit; " if free > least else ""
        raise MemoryBudgetError(f"{name_of(layout)}: {engine.name} has {free} bytes left, too few for a stream of {fewer.device_bytes} "
                                f"bytes and what it needs besides; {fits}one frame needs {least}") from error


def open_blocks(layout: Layout, engine: Engine, backend: Any, frames: np.ndarray, edges: np.ndarray, placements: np.ndarray, sizes: Sizes,
                *, deferred: bool = False) -> BlockReader | ChunkBlockReader:
    """The reader of a layout's blocks, with buffers of these sizes; other parameters as `BlockReader`."""
    if layout.chunks is not None:
        return ChunkBlockReader(layout, engine, backend, frames, edges, placements, slots=sizes.slots, threads=sizes.read_threads,
                                job_bytes=sizes.piece_bytes)
    return BlockReader(layout, engine, backend, frames, edges, placements, slots=sizes.slots, threads=sizes.read_threads, gap=sizes.gap,
                       deferred=deferred, piece_bytes=sizes.piece_bytes)


class _OutputRing:
    """Output buffers that are used in turn."""

    def __init__(self, engine: Engine, items: int, dtype: np.dtype, count: int) -> None:
        self._make: Callable[[], Output] = lambda: engine.output(items, dtype)
        self._buffers: list[Output] = []
        self.count, self._next = count, 0
        self._shaped: dict[tuple[int, int], tuple[Any, Any]] = {}

    def take(self) -> Output:
        if len(self._buffers) < self.count:
            self._buffers.append(self._make())
        buffer = self._buffers[self._next % self.count]
        self._next += 1
        return buffer

    def shaped(self, buffer: Output, decoder: BoxDecoder) -> tuple[Any, Any]:
        """Views of a buffer, the same ones each time: [depth, pixels] and [depth, *box]."""
        key = (id(buffer), id(decoder))
        if key not in self._shaped:
            depth = buffer.array.shape[0] // decoder.pixels
            rows = buffer.array[: depth * decoder.pixels].reshape(depth, decoder.pixels)
            self._shaped[key] = rows, rows.reshape(depth, *decoder.box.shape)
        return self._shaped[key]

    def close(self) -> None:
        """Give the memory back, in order with those who used it."""
        for buffer in self._buffers:
            buffer.release()


def _in_order(made: Iterator[tuple[DataTile, list[Call]]], ahead: int) -> Iterator[DataTile]:
    """Hand out a tile when `ahead` have been begun."""
    waiting: deque[tuple[DataTile, list[Call]]] = deque()
    failed = None
    while True:
        try:
            entry = next(made, None)
        except MemoryError:
            raise
        except Exception as error:          # those before come first
            failed = error
            break
        if entry is None:
            break
        waiting.append(entry)
        if len(waiting) == ahead:
            yield _finished(waiting.popleft())
    while waiting:
        yield _finished(waiting.popleft())
    if failed is not None:
        raise failed


def _decoded(reader: BlockReader | ChunkBlockReader, decoders: list[BoxDecoder], ring: _OutputRing, nav: np.ndarray, edges: np.ndarray,
             workers: Workers | None, views: bool) -> Iterator[tuple[DataTile, list[Call]]]:
    """Tiles, decoded or being decoded, and what has to be waited for before they can be handed out: nothing where no thread decodes."""
    bounds, origins = edges.tolist(), nav[edges[:-1]].tolist()
    tile = 0
    buffer: Any = None
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
                    yield DataTile.lent(view, origins[tile], decoders[0].box.origin, decoders[0].box.index), []
                    tile, pos = tile + 1, stop
                    continue
            for decoder in decoders:
                if pos == start or buffer is None:
                    buffer, work = ring.take(), []
                rows, stack = ring.shaped(buffer, decoder)
                arguments = block, decoder, buffer, rows, pos - block.base, stop - pos, pos - start
                if workers is None:
                    _decode(*arguments)
                else:
                    work.append(workers.submit(_decode, *arguments))
                    block.slot.in_use.append(work[-1])
                if stop == end:
                    yield DataTile.lent(stack[: end - start], origins[tile], decoder.box.origin, decoder.box.index, buffer), work
            if stop == end:
                tile += 1
            pos = stop


def _decode(block: Block, decoder: BoxDecoder, buffer: Output, rows: Any, first: int, count: int, at: int) -> None:
    """Read the block, if that was left to whoever decodes, and decode frames of it."""
    if block.fill is not None:
        block.fill()
    with buffer.filling():
        decoder.bind(block, rows)(first, count, at=at)


def _finished(entry: tuple[DataTile, list[Call]]) -> DataTile:
    tile, work = entry
    for call in work:
        call.result()
    return tile


def _view(block: Block, start: int, end: int, decoder: BoxDecoder) -> np.ndarray | None:
    """Frames ``start:end`` as a read-only view of the block's bytes, if they are evenly spaced in them."""
    found = block.bytes_of(start, end)
    if found is None:
        return None
    memory, at = found
    shape, itemsize = decoder.box.shape, decoder.dtype.itemsize
    frame_bytes = decoder.pixels * itemsize
    stride = int(at[1] - at[0]) if len(at) > 1 else frame_bytes
    if stride < frame_bytes or (at[1:] - at[:-1] != stride).any():
        return None
    within = accumulate(reversed(shape[1:]), mul, initial=itemsize)     # strides of the sig axes, the fastest first
    return np.ndarray((end - start, *shape), decoder.dtype, memory, int(at[0]), (stride, *reversed(tuple(within))))
