"""What is measured: a data set, some of its frames, and how they are streamed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpuio.bench.cache import PageCache
from gpuio.bench.timing import Candidate
from gpuio.boxes import Box, Cut
from gpuio.corrections import CorrectionSet
from gpuio.dataset import DataSet
from gpuio.explain import Explanation
from gpuio.geometry.chunks import plan_chunks
from gpuio.geometry.plan import make_plan
from gpuio.sizing import Sizes, stream_blocks, stream_sizes, tile_edges
from gpuio.tile import DataTile

CACHE_LINE = 64


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes ``low:high`` of a file."""

    path: str
    low: int
    high: int

    @property
    def size(self) -> int:
        return self.high - self.low


@dataclass(frozen=True)
class Work:
    """Something to be measured, and what is known about it.

    Attributes
    ----------
    n_bytes
        Packed bytes that it stands for; of copies, bytes copied; 0: its duration is the result.
    limits
        Names of what it is set beside; the slowest of them counts. The first runs around it.
    on_the_way
        Whether the stream to float32 has this stage.
    frames
        That it stands for; 0: none.
    """

    name: str
    what: str
    n_bytes: int
    candidate: Candidate
    limits: tuple[str, ...] = ()
    on_the_way: bool = False
    frames: int = 0

    def beside_limit(self) -> Candidate:
        """The candidate, compared with the first of the limits."""
        return replace(self.candidate, beside=self.limits[0] if self.limits else None)


@dataclass(frozen=True)
class Pixels:
    """What frames are decoded to."""

    label: str
    dtype: np.dtype
    corrections: CorrectionSet


@dataclass(frozen=True)
class Subject:
    """A data set on a device, and a part of its scan.

    Attributes
    ----------
    reopen
        Opens the file anew.
    roi : bool[nav] or None
        The positions whose frames are used; None: all.
    options
        For `DataSet.tiles`: threads, depth, memory.
    plan
        Of the stream to float32.
    """

    ds: DataSet
    reopen: Callable[[], DataSet]
    cache: PageCache
    roi: np.ndarray | None
    options: dict[str, Any]
    plan: Explanation

    @property
    def threads(self) -> int:
        """That decode."""
        return max(1, self.plan.decode_threads)

    @property
    def pixels(self) -> tuple[Pixels, Pixels]:
        """As stored, and as most users want them: with what the files bring to correct them."""
        real = self.ds.dtype.kind != "c"
        return (Pixels("native", np.dtype(self.ds.layout.dtype), CorrectionSet()),
                Pixels("float32" if real else "complex64", np.dtype(np.float32 if real else np.complex64), self.ds.get_correction_data()))

    @property
    def unpacked_bytes(self) -> int:
        """Of the frames, as they are when they are decoded."""
        layout, plan = self.ds.layout, self.plan
        if layout.chunks is not None or layout.sparse is not None:
            return plan.frames * layout.sig_size * layout.dtype.itemsize
        return plan.needed_bytes

    def sizes(self, transport: Any, cold: bool) -> tuple[np.ndarray, Sizes, np.ndarray]:
        """Frames, sizes of the stream to float32, and boundaries of its blocks."""
        ds, options = self.ds, self.options
        nav, frames = ds._selected(self.roi)
        whole = Cut.of(ds.layout, Box.whole(ds.layout), self.pixels[1].dtype, None)
        sizes = stream_sizes(ds.layout, ds.engine, transport, frames, ds.layout.placements, [whole], whole.stored,
                             depth=options.get("depth"), memory=options.get("memory"), threads=self.plan.decode_threads, cold=cold)
        return frames, sizes, stream_blocks(ds.layout, frames, tile_edges(nav, sizes.depth), sizes)

    def ranges(self) -> list[Range]:
        """The bytes of each file from the first to the last that the frames need; whole files where frames are gathered."""
        layout, (_, frames) = self.ds.layout, self.ds._selected(self.roi)
        edges = np.array([0, len(frames)], dtype=np.int64)
        if layout.is_gathered or not len(frames):
            return [Range(path, 0, os.path.getsize(path)) for path in dict.fromkeys(map(str, self.ds.files))]
        if layout.chunks is not None:
            extents, paths = plan_chunks(layout.chunks, frames, edges, layout.placements).extents, list(layout.chunks.files)
        else:
            extents = make_plan(layout, frames, edges, layout.placements).extents
            paths = [file.path for file in layout.numbered_files()[0]]
        found = []
        for number in np.unique(extents[:, 0]).tolist():
            mine = extents[extents[:, 0] == number]
            found.append(Range(paths[number], int(mine[:, 1].min()), int((mine[:, 1] + mine[:, 2]).max())))
        return found

    def stream(self, pixels: Pixels) -> None:
        """All tiles, each looked at."""
        last = None
        for tile in self.ds.tiles(pixels.dtype, self.roi, corrections=pixels.corrections, **self.options):
            last = look(tile.data)
        self.wait(last)

    def first_tile(self) -> Iterator[DataTile]:
        """Open the file and take the first tile; the stream, which reads ahead and is still to be closed."""
        stream = self.reopen().tiles(self.pixels[1].dtype, self.roi, **self.options)
        for tile in stream:
            self.wait(look(tile.data))
            break
        return stream

    def wait(self, data: Any) -> None:
        """Until a tile is there: work on a device is done when a pixel of it has come back."""
        if data is not None and not isinstance(data, np.ndarray):
            self.ds.engine.download(data[-1:, -1:].copy())


def look(data: Any) -> Any:
    """See a value of every cache line of an array in host memory, as whoever works with it would; give the array back."""
    if not isinstance(data, np.ndarray):
        return data
    if data.flags.c_contiguous:
        data.reshape(-1).view(np.uint8)[::CACHE_LINE].max()
    else:
        data[..., ::max(1, CACHE_LINE // data.itemsize)].max()
    return data
