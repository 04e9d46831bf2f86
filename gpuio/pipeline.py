"""The stream: plan, read ahead, decode, correct, hand out tiles. Nothing here knows a format, a file system or a device.

`tiles` lends tiles one after the other: a tile is valid until the next step, its buffer is used again. `read_frames`
decodes frames into an array of the caller's. Both keep to a memory budget that covers staging and output.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from gpuio.blocks import Block, BlockReader
from gpuio.corrections import CorrectionSet
from gpuio.engine import Decode, Engine, RepairTable, cpu_vendor
from gpuio.errors import MemoryBudgetError
from gpuio.geometry.plan import MERGE_GAP, STAGING_ALIGNMENT, clip, is_rectangle
from gpuio.io.gather import PIECE_BYTES, PIECES
from gpuio.layout import PART, PIXELS, REPEATS, ROWS, Layout, spans
from gpuio.shape import Shape, Slice
from gpuio.tile import DataTile

#: Output of a tile on the CPU: whoever reads the tile should find it in the cache. Measured on AMD EPYC (L2 of 1 MiB, fast L3),
#: 2 MiB is 1.4 times as fast as 512 KiB for 16-bit pixels; on Intel Cascade Lake (L2 of 1 MiB) it is a third slower.
CPU_TILE_BYTES = 2 << 20 if cpu_vendor() == "AuthenticAMD" else 512 << 10
#: The same where other threads decode: handing a tile over costs some 100 us, so that a tile has to be worth it.
THREADED_TILE_BYTES = 2 << 20
#: Packed bytes read at a time from the page cache: few system calls, and still decoded
#: from the last-level cache (measured). A little over 1 MiB, so that two frames of 512 KiB and their headers fit.
WARM_BLOCK_BYTES = (1 << 20) + (64 << 10)
#: Packed bytes read at a time from storage: large enough for its full rate.
COLD_BLOCK_BYTES = 8 << 20
#: Packed bytes of a part of frames mapped at a time: address space rather than memory, but touched pages count as resident.
MAPPED_BLOCK_BYTES = 32 << 20
#: Output of a tile on a device: enough frames that launches and copies run at full rate.
DEVICE_TILE_BYTES = 128 << 20
DEFAULT_MEMORY = 256 << 20
#: Decoders to keep for frames that lack parts, one for each set of parts; each may hold dark and gain maps.
PARTIAL_DECODERS = 8


@dataclass(frozen=True, slots=True)
class Box:
    """A box of the detector that tiles are cut to, and its number in the tiling scheme."""

    origin: tuple[int, ...]
    shape: tuple[int, ...]
    index: int = 0


@dataclass(frozen=True, slots=True)
class Sizes:
    """How a stream uses its memory."""

    depth: int              # frames of a tile
    block_frames: int       # frames of a block
    slots: int              # staging buffers
    read_threads: int
    gap: int
    memory_bytes: int       # staging and output together, at most
    piece_bytes: int = 0    # of the file at a time, where frames are gathered


def parse_bytes(value: int | float | str | None, default: int = DEFAULT_MEMORY) -> int:
    """Bytes from a number or a text such as ``"2 GiB"``, ``"500 MB"``.

    Raises
    ------
    ValueError
        Not a positive size.
    """
    if value is None:
        return default
    size = value
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([kMGT]?)(i?)B?\s*", value, flags=re.IGNORECASE)
        if match is None:
            raise ValueError(f"memory size {value!r} is not understood; expected for example '2 GiB'")
        number, prefix, binary = match.groups()
        size = float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " ")
    if isinstance(size, str) or not size > 0:
        raise ValueError(f"memory size {value!r} is not positive")
    return int(size)


def tiles(layout: Layout, engine: Engine, backend: Any, nav: np.ndarray, frames: np.ndarray, *, boxes: Sequence[Box] | None = None,
          dtype: Any = None, depth: int | None = None, corrections: CorrectionSet | None = None, repair_whole: bool = True,
          memory: int | str | None = None, threads: int = 0, views: bool = True, cold: bool = False) -> Iterator[DataTile]:
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

    Raises
    ------
    MemoryBudgetError
        One frame does not fit the budget.
    ReadError, OSError
        At the tile whose bytes could not be read.
    """
    out_dtype = output_dtype(layout.dtype, dtype, corrections)
    whole = Box((0,) * len(layout.sig_shape), layout.sig_shape)
    boxes = [whole] if boxes is None else list(boxes)
    table = layout.placements
    placements = [_BoxDecoder.placements(layout, table, box, corrections, repair_whole) for box in boxes]
    table = np.concatenate(placements) if len(boxes) > 1 else placements[0]
    sizes = stream_sizes(layout, engine, backend, frames, table, boxes, out_dtype, depth=depth, memory=memory, threads=threads, cold=cold)
    edges = _tile_edges(nav, sizes.depth)
    block_edges = _block_edges(edges, sizes.block_frames)
    decoders = [_BoxDecoder(layout, engine, box, rows, out_dtype, corrections, repair_whole)
                for box, rows in zip(boxes, placements, strict=True)]
    views = views and len(boxes) == 1 and decoders[0].is_view(out_dtype)
    threads = 0 if views else threads
    pool = ThreadPoolExecutor(threads, thread_name_prefix="gpuio-decode") if threads else None
    reader = BlockReader(layout, engine, backend, frames, block_edges, table, slots=sizes.slots, threads=sizes.read_threads, gap=sizes.gap,
                         deferred=threads > 0 and not sizes.read_threads, piece_bytes=sizes.piece_bytes)
    largest = max(int(np.prod(box.shape)) for box in boxes)
    ring = _OutputRing(engine, sizes.depth * largest, out_dtype, threads + 1 if threads else 1)
    with reader:
        try:
            yield from _deliver(reader, decoders, ring, nav, edges, pool, threads, views)
        finally:            # before the reader lets go of what the threads decode from
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)


def read_frames(layout: Layout, engine: Engine, backend: Any, frames: np.ndarray, out: Any, *, box: Box | None = None,
                corrections: CorrectionSet | None = None, memory: int | str | None = None, cold: bool = False) -> None:
    """Decode `frames` into `out`.

    Parameters
    ----------
    frames : int64[n]
        File frames in any order, repeats allowed; -1 is a blank frame and leaves its part of `out` alone.
    out : dtype[n, *box], C order, engine memory, written
    """
    box = box or Box((0,) * len(layout.sig_shape), layout.sig_shape)
    positions = np.flatnonzero(frames >= 0)
    if not len(positions):
        return
    wanted = frames[positions]
    rows = _BoxDecoder.placements(layout, layout.placements, box, corrections, True)
    decoder = _BoxDecoder(layout, engine, box, rows, out.dtype, corrections, True)
    sizes = stream_sizes(layout, engine, backend, wanted, rows, [box], out.dtype, depth=1, memory=memory, threads=0, cold=cold)
    runs = _tile_edges(positions, len(frames))          # neighbours in `out`
    bounds = runs.tolist()
    flat = out.reshape(len(frames), -1)
    run = 0
    with BlockReader(layout, engine, backend, wanted, _block_edges(runs, sizes.block_frames), rows, slots=sizes.slots,
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


def in_place(layout: Layout) -> bool:
    """Whether frames in the page cache are better decoded where they lie: if taken front to back, or too large for the CPU's cache."""
    return layout.is_sequential or int(np.diff(spans(layout.placements, layout.encoding, len(layout.parts))).sum()) > WARM_BLOCK_BYTES


def output_dtype(native: np.dtype, dtype: Any, corrections: CorrectionSet | None) -> np.dtype:
    """dtype of tiles: as asked; native without a wish; wide enough for corrections if there are any."""
    if dtype is not None:
        return np.dtype(dtype)
    if corrections is not None and corrections.have_corrections():
        return np.result_type(np.float32, native)
    return np.dtype(native)


def stream_sizes(layout: Layout, engine: Engine, backend: Any, frames: np.ndarray, placements: np.ndarray, boxes: Sequence[Box],
                 dtype: np.dtype, *, depth: int | None, memory: int | str | None, threads: int, cold: bool) -> Sizes:
    """Divide the memory budget among staging and output.

    Raises
    ------
    MemoryBudgetError
        One frame does not fit; the message says how much memory would.
    """
    budget = parse_bytes(memory)
    on_device = engine.name != "cpu"
    frame_out = max(int(np.prod(box.shape)) for box in boxes) * dtype.itemsize
    parts = max(1, len(layout.parts))
    needed = np.diff(spans(placements, layout.encoding, len(layout.parts)))[:, 0]       # bytes of a frame, for each part
    span = int(needed.sum()) if layout.parts else layout.sig_size * layout.dtype.itemsize
    gap, between = _gap(layout, frames, needed)
    mapped = backend.id == "mmap" and not on_device and layout.strided is None
    frame_staged = span + between + (2 * backend.alignment * parts if backend.alignment > 1 else 0)
    slots, read_threads = (3, 3) if (cold or on_device or backend.alignment > 1) and not mapped else (1, 0)
    outputs = threads + 1 if threads else 1
    if not read_threads:
        slots = outputs         # each decoding thread reads its own block
    piece_bytes = 0
    if layout.strided is not None:
        slots, read_threads = 1, max(1, read_threads)
        piece_bytes = min(PIECE_BYTES, budget // 8)
    padding = slots * STAGING_ALIGNMENT * parts + PIECES * piece_bytes
    share = 0 if mapped else slots * frame_staged
    least = frame_out * outputs + share + padding
    if budget < least:
        raise MemoryBudgetError(f"{_name(layout)}: memory={budget} bytes cannot hold one frame; at least {least} bytes are needed "
                                f"({outputs} x {frame_out} bytes of output, {slots} x {0 if mapped else frame_staged} bytes of staging)")
    if depth is None:
        wished = DEVICE_TILE_BYTES if on_device else THREADED_TILE_BYTES if threads else CPU_TILE_BYTES
        target = min(wished, budget // (2 * outputs))
        depth = max(1, min(target // frame_out, len(frames) or 1))
    depth = max(1, min(depth, len(frames) or 1))
    left = budget - depth * frame_out * outputs - padding
    target = max(span * depth, 4 << 20) if on_device else COLD_BLOCK_BYTES if read_threads or threads else WARM_BLOCK_BYTES
    if layout.strided is not None:
        target = left                       # every block is a pass over the file: as few of them as memory allows
    elif mapped:
        target = MAPPED_BLOCK_BYTES * parts
    block_frames = max(1, min(target, left // slots) // max(1, frame_staged))
    if len(boxes) > 1:                      # all boxes of a tile are taken from one block
        block_frames = max(depth, block_frames)
    if block_frames > depth:
        block_frames = depth if threads and not read_threads else block_frames - block_frames % depth
    return Sizes(depth, int(block_frames), slots, read_threads, gap, depth * frame_out * outputs + int(block_frames) * share + padding,
                 piece_bytes)


def _gap(layout: Layout, frames: np.ndarray, needed: np.ndarray) -> tuple[int, int]:
    """Widest gap to read along, and the bytes between frames that this costs at most for each; `needed` is int64[parts]."""
    if not layout.parts:
        return 0, 0
    headers = np.array([part[0].frame_header + part[0].frame_footer for part in layout.parts], dtype=np.int64)
    if len(frames) > 1 and not bool((np.diff(frames) == 1).all()):
        gap = int(max(min(MERGE_GAP, needed.sum()), headers.max()))     # scattered frames: never read more than twice what is needed
        return gap, gap * int((needed > 0).sum())
    between = np.diff(spans(layout.placements, layout.encoding, len(layout.parts)))[:, 0] - needed + headers
    gap = int(max(MERGE_GAP, headers.max()))
    return gap, int(between[(needed > 0) & (between <= gap)].sum())


def _name(layout: Layout) -> str:
    if layout.strided is not None:
        return layout.strided.path
    return layout.parts[0][0].path


def _tile_edges(nav: np.ndarray, depth: int) -> np.ndarray:
    """Boundaries of tiles of at most `depth` frames that do not cross a jump of `nav`: int64[n_tiles + 1]."""
    n = len(nav)
    if n == 0:
        return np.zeros(1, dtype=np.int64)
    runs = np.concatenate(([0], np.flatnonzero(np.diff(nav) != 1) + 1, [n])).astype(np.int64)
    return _split(runs, depth)


def _split(edges: np.ndarray, size: int) -> np.ndarray:
    """`edges` with further ones, so that no interval is longer than `size`."""
    counts = -(-np.diff(edges) // size)
    first = np.repeat(edges[:-1], counts)
    within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.append(first + within * size, edges[-1]).astype(np.int64)


def _block_edges(tile_edges: np.ndarray, block_frames: int) -> np.ndarray:
    """Boundaries of blocks: several whole tiles a block, or several blocks a tile."""
    if len(tile_edges) < 2:
        return tile_edges
    lengths = np.diff(tile_edges)
    if int(lengths.max()) >= block_frames:
        return _split(tile_edges, block_frames)
    # Greedy filling in one vectorised step: a tile opens a block when the grid of block_frames is crossed.
    index = tile_edges[:-1] // block_frames
    opens = np.flatnonzero(np.concatenate(([True], index[1:] != index[:-1])))
    return np.append(tile_edges[opens], tile_edges[-1])


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


class _BoxDecoder:
    """Decodes frames into a box: directly by clipped placements, or whole and cropped where that is needed."""

    def __init__(self, layout: Layout, engine: Engine, box: Box, placements: np.ndarray, dtype: np.dtype,
                 corrections: CorrectionSet | None, repair_whole: bool) -> None:
        self.box, self._engine, self._layout, self.dtype = box, engine, layout, dtype
        self.pixels = int(np.prod(box.shape))
        self.is_whole = box.shape == layout.sig_shape
        self._cropped = self._needs_crop(layout, box, corrections, repair_whole)
        whole = Box((0,) * len(box.shape), layout.sig_shape)
        area = whole if self._cropped else box
        self._area_pixels = int(np.prod(area.shape))
        dark = gain = None
        self._repair: RepairTable | None = None
        self._corrected = corrections is not None and corrections.have_corrections()
        if corrections is not None and self._corrected:
            corrections.check(layout.sig_shape)
            dark, gain = (_cut(m, layout.sig_shape, area) for m in (corrections.dark_flat(), corrections.gain_flat()))
            cut = None if area.shape == layout.sig_shape else Slice(area.origin, Shape(area.shape, sig_dims=len(area.shape)))
            self._repair = corrections.repair_table(layout.sig_shape, cut)
        if self._corrected and dtype.kind not in "fc":
            raise TypeError(f"corrections need a floating output dtype; {dtype} was asked for")
        # Pixels that no placement names (gaps between chips) are zero.
        self._clear = int(placements[:, PIXELS] @ (placements[:, REPEATS] * placements[:, ROWS])) < self._area_pixels
        self._make = lambda table: engine.decoder(layout.encoding, table, self._area_pixels, dtype, dark=dark, gain=gain)
        self._placements = placements
        self._decoder = self._make(placements)
        self._partial: dict[bytes, Any] = {}        # decoders for frames that lack parts
        self._scratch: Any = None

    @staticmethod
    def _needs_crop(layout: Layout, box: Box, corrections: CorrectionSet | None, repair_whole: bool) -> bool:
        if box.shape == layout.sig_shape:
            return False
        if repair_whole and corrections is not None and corrections.get_excluded_pixels() is not None:
            return True
        return not is_rectangle(layout.sig_shape, box.origin, box.shape)

    @classmethod
    def placements(cls, layout: Layout, whole: np.ndarray, box: Box, corrections: CorrectionSet | None, repair_whole: bool) -> np.ndarray:
        """What a decoder of this box takes from the frame, whose own placements are `whole`."""
        if box.shape == layout.sig_shape or cls._needs_crop(layout, box, corrections, repair_whole):
            return whole
        clipped = clip(whole, layout.encoding, layout.sig_shape, box.origin, box.shape)
        assert clipped is not None
        return clipped

    def is_view(self, dtype: np.dtype) -> bool:
        """Whether stored frames are already what is wanted, so that a mapped file can be handed out as it is."""
        if not (self._engine.name == "cpu" and self.is_whole and not self._corrected and self._layout.encoding.name == "plain"
                and dtype == self._layout.dtype and dtype.kind != "b" and len(self._layout.pieces) == 1):
            return False
        piece = self._layout.pieces[0]
        rows_follow = piece.rows == 1 or (piece.row_src == piece.pixels * dtype.itemsize and piece.row_pos == piece.pixels)
        return rows_follow and piece.repeats == 1 and not (piece.pos or piece.skipped or piece.reversed)

    def bind(self, block: Block, out: Any) -> Decode:
        """As `Block.bind`, with what has to happen around the decoding; `out` is dtype[depth, pixels]."""
        if not (self._cropped or self._repair is not None or self._clear):
            return self._bind_parts(block, out)
        if not self._cropped:
            inner = self._bind_parts(block, out)

            def decode(first: int, count: int, at: int = 0) -> None:
                if self._clear:
                    out[at:at + count] = 0
                inner(first, count, at=at)
                if self._repair is not None:
                    self._engine.repair(out[at:at + count], self._repair)

            return decode
        return self._bind_cropped(block, out)

    def _bind_parts(self, block: Block, out: Any) -> Decode:
        """As `Block.bind`; pixels of parts that a frame lacks become zero."""
        whole = block.bind(self._decoder, out)
        missing = block.plan.missing
        if missing is None:
            return whole

        def decode(first: int, count: int, at: int = 0) -> None:
            lacks = missing[first:first + count]
            edges = np.flatnonzero((lacks[1:] != lacks[:-1]).any(axis=1)) + 1
            for start, stop in pairwise((0, *edges.tolist(), count) if count else ()):
                call = whole
                if lacks[start].any():
                    out[at + start:at + stop] = 0
                    call = block.bind_once(self._without(lacks[start]), out)
                call(first + start, stop - start, at=at + start)

        return decode

    def _without(self, lacks: np.ndarray) -> Any:
        """A decoder that leaves out parts: bool[parts]."""
        key = lacks.tobytes()
        decoder = self._partial.get(key)
        if decoder is None:
            if len(self._partial) >= PARTIAL_DECODERS:
                self._partial.clear()
            decoder = self._partial[key] = self._make(self._placements[~lacks[self._placements[:, PART]]])
        return decoder

    def _bind_cropped(self, block: Block, out: Any) -> Decode:
        """Decode whole frames into scratch, repair there, copy the box: few frames at a time."""
        few = max(1, CPU_TILE_BYTES // (self._area_pixels * self.dtype.itemsize))
        if self._scratch is None:
            self._scratch = self._engine.empty((few, self._area_pixels), self.dtype)
        scratch = self._scratch
        inner = self._bind_parts(block, scratch)
        crop = (slice(None), *(slice(o, o + n) for o, n in zip(self.box.origin, self.box.shape, strict=True)))

        def decode(first: int, count: int, at: int = 0) -> None:
            for done in range(0, count, few):
                n = min(few, count - done)
                if self._clear:
                    scratch[:n] = 0
                inner(first + done, n)
                if self._repair is not None:
                    self._engine.repair(scratch[:n], self._repair)
                out[at + done:at + done + n] = scratch[:n].reshape(n, *self._layout.sig_shape)[crop].reshape(n, -1)

        return decode


def _cut(flat: np.ndarray | None, sig_shape: tuple[int, ...], area: Box) -> np.ndarray | None:
    if flat is None or area.shape == sig_shape:
        return flat
    crop = tuple(slice(o, o + n) for o, n in zip(area.origin, area.shape, strict=True))
    return np.ascontiguousarray(flat.reshape(sig_shape)[crop]).ravel()


def _deliver(reader: BlockReader, decoders: list[_BoxDecoder], ring: _OutputRing, nav: np.ndarray, edges: np.ndarray,
             pool: ThreadPoolExecutor | None, ahead: int, views: bool) -> Iterator[DataTile]:
    """Walk through blocks and tiles together; decode each intersection; hand out a tile when its last frame is there."""
    waiting: deque[tuple[DataTile, list[Future[None]]]] = deque()
    bounds, origins = edges.tolist(), nav[edges[:-1]].tolist()
    shaped: dict[tuple[int, int], Any] = {}
    tile = 0
    flat: Any = None
    work: list[Future[None]] = []
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
                if pool is None:
                    decoder.bind(block, rows)(pos - block.base, stop - pos, at=pos - start)
                else:
                    future = pool.submit(_work, block, decoder, rows, pos - block.base, stop - pos, pos - start)
                    work.append(future)
                    block.slot.in_use.append(future)
                if stop == end:
                    done = DataTile.lent(stack[: end - start], origins[tile], decoder.box.origin, decoder.box.index)
                    if pool is None:
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


def _work(block: Block, decoder: _BoxDecoder, rows: Any, first: int, count: int, at: int) -> None:
    """What a decoding thread does: read the block, if that was left to it, and decode frames of it."""
    if block.fill is not None:
        block.fill()
    decoder.bind(block, rows)(first, count, at=at)


def _finished(entry: tuple[DataTile, list[Future[None]]]) -> DataTile:
    tile, work = entry
    for future in work:
        future.result()
    return tile


def _view(block: Block, start: int, end: int, decoder: _BoxDecoder) -> np.ndarray | None:
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
