"""Sums of a whole stream in one pass: of each frame over its pixels, and over all frames.

Frames that an engine can add as they are stored are never decoded to memory: blocks go from the reader to the engine's
`FrameAdder`. All others are added tile by tile.

Results do not depend on the number of threads. Sums of whole numbers are exact, so each thread adds a part of the frames to sums of
its own. Floating pixels are added in the order of the frames, by the caller, while threads decode the next ones. Frames that are
gathered, or that lie in chunks, which threads unpack anyway, are not divided either: that would bring the same bytes several times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from queue import SimpleQueue
from threading import Event
from typing import Any

import numpy as np

from gpuio import pipeline
from gpuio.boxes import CPU_TILE_BYTES, Box, Cut
from gpuio.corrections import CorrectionSet
from gpuio.engine import Engine, FrameAdder
from gpuio.errors import MemoryBudgetError
from gpuio.geometry.tiling import fitting_box
from gpuio.layout import Layout
from gpuio.reduction import Reduction
from gpuio.shape import Shape, Slice
from gpuio.sizing import block_edges, memory_budget, stream_sizes, tile_edges
from gpuio.tile import DataTile

#: Decoded frames are added so many at a time, as sums of pixels are wider than these and should be touched seldom; larger ones than so many
#: bytes in boxes, so that neither goes to memory and back with each frame. (Measured on Intel Cascade Lake: K2IS in boxes 0.8 to 1.8 GB/s,
#: quads of 512 x 512 pixels of 12 bits 1.5 to 3.3; half of the frames, or a quarter of the bytes, take up to half as long again.)
BOX_BYTES, BOX_DEPTH = 512 << 10, 8


def add_frames(layout: Layout, engine: Engine, backend: Any, nav: np.ndarray, frames: np.ndarray, of_frames: Any, of_pixels: Any, *,
               dtype: np.dtype, corrections: CorrectionSet, memory: int | str | None, cold: bool,
               reduction: Reduction | None, threads: int = 0, base: Sequence[int] | None = None) -> Iterator[int]:
    """Add to sums; yields how many frames have been added.

    Parameters
    ----------
    nav, frames : int64[n]
        Place in `of_frames` and file frame; `nav` ascends.
    of_frames, of_pixels
        As in `gpuio.engine.FrameAdder.bind`.
    dtype
        What frames are decoded to before they are added.
    base
        Box of the detector that suits the format, to cut frames by that do not fit the CPU's cache; None: they stay whole.

    Others and errors as `pipeline.tiles`.
    """
    if threads < 0:
        raise ValueError(f"threads={threads}; expected no negative number")
    divided = (threads > 1 and engine.name == "cpu" and dtype.kind in "bui" and backend.read_threads != 1 and len(frames) > 1
               and layout.chunks is None and not layout.is_gathered)
    if divided:
        add = partial(add_frames, layout, engine, backend, dtype=dtype, corrections=corrections, cold=cold, reduction=reduction,
                      base=base)
        yield from _add_in_parts(add, engine, nav, frames, of_frames, of_pixels, memory, min(threads, len(frames)))
        return
    as_stored = (len(layout.parts) == 1 and not corrections.have_corrections() and reduction is None
                 and dtype == layout.encoding.dtype)
    adder = engine.frame_adder(layout.encoding, layout.placements, layout.sig_size) if as_stored else None
    if adder is not None:
        yield from _add_stored(layout, engine, backend, nav, frames, adder, of_frames, of_pixels, memory, cold)
        return
    tiles = partial(pipeline.tiles, layout, engine, backend, nav, frames, dtype=dtype, corrections=corrections, memory=memory, cold=cold,
                    reduction=reduction, threads=threads)
    sig = layout.sig_shape if reduction is None else reduction.shape
    room = BOX_BYTES // dtype.itemsize
    if base is not None and engine.name == "cpu" and dtype.kind in "bui" and math.prod(sig) > room and not layout.is_gathered:
        yield from _add_in_boxes(tiles, engine, sig, fitting_box(sig, base, room), of_frames, of_pixels)
        return
    frame_bytes = math.prod(sig) * dtype.itemsize
    stacked = engine.name == "cpu" and not threads and frame_bytes <= BOX_BYTES
    depth = max(BOX_DEPTH, CPU_TILE_BYTES // frame_bytes) if stacked else None
    yield from add_tiles(engine, tiles(depth=depth), of_frames, of_pixels)


def add_tiles(engine: Engine, tiles: Iterator[DataTile], of_frames: Any, of_pixels: Any) -> Iterator[int]:
    """`add_frames` of whole decoded frames."""
    done = 0
    for tile in tiles:
        stack = tile.flat_data
        engine.adder(stack, of_frames, of_pixels)(0, len(stack), int(tile.tile_slice.origin[0]))
        done += len(stack)
        yield done


def _add_in_boxes(tiles: Callable[..., Iterator[DataTile]], engine: Engine, sig: tuple[int, ...], box: tuple[int, ...],
                  of_frames: Any, of_pixels: Any) -> Iterator[int]:
    """`add_frames` for whole numbers: boxes of `box` of some frames at a time, each with sums of its own."""
    areas = [Slice(area.origin, area.shape) for area in Slice.from_shape(sig, sig_dims=len(sig)).subslices(Shape(box, sig_dims=len(sig)))]
    sums = [engine.zeros((area.shape.size,), of_pixels.dtype) for area in areas]
    done = 0
    for tile in tiles(boxes=[Box(area.origin, tuple(area.shape), k) for k, area in enumerate(areas)], depth=BOX_DEPTH):
        stack = tile.flat_data
        engine.adder(stack, of_frames, sums[tile.scheme_idx])(0, len(stack), int(tile.tile_slice.origin[0]))
        if tile.scheme_idx == len(areas) - 1:
            done += len(stack)
            yield done
    pattern = of_pixels.reshape(sig)
    for area, total in zip(areas, sums, strict=True):
        pattern[area.get(sig_only=True)] += total.reshape(tuple(area.shape))


def _add_in_parts(add: Any, engine: Engine, nav: np.ndarray, frames: np.ndarray, of_frames: Any, of_pixels: Any,
                  memory: int | str | None, threads: int) -> Iterator[int]:
    """`add_frames` with as many threads, each of which adds its part of the frames, with its part of the memory."""
    each, stop = memory_budget(memory) // threads, Event()
    told: SimpleQueue[int | None] = SimpleQueue()           # frames that have been added, and None from each thread that has ended

    def add_part(nav: np.ndarray, frames: np.ndarray) -> Any:
        sums, before = engine.zeros(of_pixels.shape, of_pixels.dtype), 0
        try:
            with closing(add(nav, frames, of_frames, sums, memory=each)) as counts:
                for done in counts:
                    told.put(done - before)
                    before = done
                    if stop.is_set():
                        break
        except BaseException as error:
            stop.set()
            if isinstance(error, MemoryBudgetError):
                raise MemoryBudgetError(f"{error}, for each of {threads} threads") from error
            raise
        finally:
            told.put(None)
        return sums

    with ThreadPoolExecutor(threads, thread_name_prefix="gpuio-sum") as pool:
        parts = [pool.submit(add_part, *part) for part in zip(np.array_split(nav, threads), np.array_split(frames, threads), strict=True)]
        total, running = 0, len(parts)
        try:
            while running:
                done = told.get()
                if done is None:
                    running -= 1
                else:
                    yield (total := total + done)
        finally:
            stop.set()
    for part in parts:
        of_pixels += part.result()


def _add_stored(layout: Layout, engine: Engine, backend: Any, nav: np.ndarray, frames: np.ndarray, adder: FrameAdder,
                of_frames: Any, of_pixels: Any, memory: int | str | None, cold: bool) -> Iterator[int]:
    rows = layout.placements
    whole = Cut.of(layout, Box.whole(layout), layout.encoding.dtype, None)
    sizes = stream_sizes(layout, engine, backend, frames, rows, [whole], layout.encoding.dtype, depth=1, memory=memory,
                         threads=0, cold=cold)
    runs = tile_edges(nav, max(1, len(frames)))         # neighbours in `of_frames`
    bounds = runs.tolist()
    run = 0
    with pipeline.open_blocks(layout, engine, backend, frames, block_edges(runs, sizes.block_frames), rows, sizes) as reader:
        for block in reader:
            block.check()
            add = block.bind(adder, of_frames, of_pixels)
            pos = block.first
            while pos < block.stop:
                stop = min(bounds[run + 1], block.stop)
                add(pos - block.base, stop - pos, int(nav[pos]))
                run += stop == bounds[run + 1]
                pos = stop
            yield pos
