"""Sums of a whole stream in one pass: of each frame over its pixels, and over all frames.

Frames that an engine can add as they are stored are never decoded to memory: blocks go from the reader to the engine's
`FrameAdder`. All others are added tile by tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpuio import pipeline
from gpuio.boxes import Box, Cut
from gpuio.corrections import CorrectionSet
from gpuio.engine import Engine, FrameAdder
from gpuio.layout import Layout
from gpuio.reduction import Reduction
from gpuio.sizing import block_edges, stream_sizes, tile_edges


def add_frames(layout: Layout, engine: Engine, backend: Any, nav: np.ndarray, frames: np.ndarray, of_frames: Any, of_pixels: Any, *,
               dtype: np.dtype, corrections: CorrectionSet, memory: int | str | None, cold: bool,
               reduction: Reduction | None) -> Iterator[int]:
    """Add to sums; yields how many frames have been added.

    Parameters
    ----------
    nav, frames : int64[n]
        Place in `of_frames` and file frame; `nav` ascends.
    of_frames, of_pixels
        As in `gpuio.engine.FrameAdder.bind`.
    dtype
        What frames are decoded to before they are added.

    Others and errors as `pipeline.tiles`.
    """
    as_stored = (len(layout.parts) == 1 and not corrections.have_corrections() and reduction is None
                 and dtype == layout.encoding.dtype)
    adder = engine.frame_adder(layout.encoding, layout.placements, layout.sig_size) if as_stored else None
    if adder is not None:
        yield from _add_stored(layout, engine, backend, nav, frames, adder, of_frames, of_pixels, memory, cold)
        return
    done = 0
    for tile in pipeline.tiles(layout, engine, backend, nav, frames, dtype=dtype, corrections=corrections, memory=memory, cold=cold,
                               reduction=reduction):
        stack = tile.flat_data
        engine.adder(stack, of_frames, of_pixels)(0, len(stack), int(tile.tile_slice.origin[0]))
        done += len(stack)
        yield done


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
