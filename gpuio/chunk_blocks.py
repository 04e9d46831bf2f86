"""Reading ahead where frames lie in chunks: rows of chunks are read, unpacked and put side by side, then decoded like any other block.

Where the engine of the stream unpacks, packed bytes travel and are unpacked in its memory. Where it cannot, several threads
read and unpack in host memory, a few chunks each: unpacking takes far longer than decoding what comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from gpuio.blocks import PLAN_FRAMES, Block, Ring, Slot
from gpuio.chunks import Chunks
from gpuio.engine import Engine, get_engine, inflate_status
from gpuio.errors import FormatError, UnsupportedFeature
from gpuio.geometry.chunks import ChunkPlan, plan_chunks
from gpuio.io.backends import BufferedBackend
from gpuio.io.base import Extent
from gpuio.io.readahead import Pending
from gpuio.io.staging import aligned_empty
from gpuio.layout import Layout


@dataclass(slots=True)
class ChunkSlot(Slot):
    """A place in the ring, and the packed bytes of its block."""

    packed: Any = None          # Staging if the engine unpacks, else `Unpacked` in host memory
    reads: list[Future[None]] = field(default_factory=list)
    is_pushed: bool = False     # whether packed bytes are on their way to the engine

    @property
    def is_read(self) -> bool:
        """Whether all that was to be read is there."""
        return all(read.done() and not read.cancelled() and read.exception() is None for read in self.reads)


@dataclass(slots=True)
class ChunkBlock(Block):
    """A block whose frames lie in rows of chunks."""

    slot: ChunkSlot

    def bytes_of(self, first: int, stop: int) -> tuple[np.ndarray, np.ndarray] | None:
        """As `Block.bytes_of`: unpacked frames are as good as stored ones."""
        return self.slot.staging.device, self.plan.starts[first - self.base:stop - self.base, 0]


class Unpacked:
    """What takes the place of a staging buffer where the engine unpacks: engine memory.

    Parameters
    ----------
    device : uint8[n], engine memory
    """

    def __init__(self, device: Any) -> None:
        self.device = device


class ChunkBlockReader(Ring):
    """As `gpuio.blocks.BlockReader`, for layouts with chunks. Iterate over it once; use it as a context manager.

    Parameters
    ----------
    frames : int64[n]
        File frames wanted.
    edges : int64[n_blocks + 1]
        Block boundaries in `frames`.
    slots, threads
        Size of the ring, and threads that read and unpack; with none, blocks are made when asked for.
    job_bytes
        Unpacked bytes that a thread makes at a time.

    Raises
    ------
    UnsupportedFeature
        Neither the engine nor the CPU unpacks these chunks.
    FormatError
        The filters cannot have packed chunks of this size.
    """

    def __init__(self, layout: Layout, engine: Engine, backend: Any, frames: np.ndarray, edges: np.ndarray, placements: np.ndarray, *,
                 slots: int = 1, threads: int = 0, job_bytes: int = 1 << 20) -> None:
        assert layout.chunks is not None
        super().__init__()
        self._chunks: Chunks = layout.chunks
        self._engine, self._frames, self._edges, self._placements = engine, frames, edges, placements
        self._job_chunks = max(1, job_bytes // self._chunks.chunk_bytes)
        self._inflater: Any = None
        self._on_engine = self._lands = False
        if self._chunks.filters and self._chunks.source is None:
            self._on_engine = engine.name != "cpu" and engine.inflates(self._chunks.filters) is None
            maker = engine if self._on_engine else get_engine("cpu")
            reason = maker.inflates(self._chunks.filters)
            if reason is not None:
                raise UnsupportedFeature(f"{self._chunks.files[0]}: {reason}")
            try:
                self._inflater = maker.inflater(self._chunks.filters, self._chunks.chunk_bytes, self._chunks.item_bytes)
            except ValueError as error:
                raise FormatError(f"{self._chunks.files[0]}: parameters of its filters do not fit the chunks: {error}") from error
        self._source: Any = None
        self._reader: Any = None
        self._alignment = 1
        if self._chunks.source is not None:
            self._source = self._chunks.source.open()
            self._closers.append(self._source.close)
        else:
            # Chunks that are not packed go straight to their place, which is at no multiple of an alignment. What is not unpacked on the
            # device, or put together there, comes by way of host memory.
            self._lands = backend.memory == "device" and self._on_engine
            if (backend.alignment > 1 and not self._chunks.is_packed) or (backend.memory == "device" and not self._lands):
                backend = BufferedBackend()
            self._reader = backend.open(self._chunks.files, self._chunks.sizes)
            self._alignment = backend.alignment
            self._closers.append(self._reader.close)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="gpuio-chunks") if threads else None
        if self._pool is not None:
            pool = self._pool
            self._closers.append(lambda: pool.shutdown(wait=True, cancel_futures=True))
        self._slots = [ChunkSlot() for _ in range(slots if threads else 1)]

    def _is_busy(self, slot: ChunkSlot) -> bool:
        if super()._is_busy(slot):
            return True
        filled = slot.packed if self._on_engine else slot.staging
        return self._pool is not None and filled is not None and not filled.is_free("device" if self._lands else "host")

    def _tasks(self) -> Iterator[tuple[ChunkPlan, int, int]]:
        """Plan some blocks at a time; yield (plan, its first frame, number of the block)."""
        edges, at_once = self._edges, max(1, PLAN_FRAMES // self._chunks.columns)
        a = 0
        while a < len(edges) - 1:
            b = max(a + 1, int(np.searchsorted(edges, edges[a] + at_once, side="right")) - 1)
            base, stop = int(edges[a]), int(edges[b])
            plan = plan_chunks(self._chunks, self._frames[base:stop], edges[a:b + 1] - base, self._placements, alignment=self._alignment,
                               chunks_at_once=self._job_chunks)
            for i in range(b - a):
                yield plan, base, i
            a = b

    def _start(self, slot: ChunkSlot, plan: ChunkPlan, base: int, index: int) -> Block:
        """Begin to fill `slot` with block `index` of `plan`."""
        if slot.plan is not plan:
            slot.plan = plan
            slot.bound.clear()
        self._make_room(slot, plan)
        low, high = plan.extent_starts[index:index + 2].tolist()
        used = int(plan.extents[low:high, 2:].sum(axis=1).max(initial=0)) if self._on_engine else plan.staging_bytes
        block = ChunkBlock(base + int(plan.blocks[index]), base + int(plan.blocks[index + 1]), base, plan, slot, used, index)
        packed = slot.packed.landing if self._lands else slot.packed.host if self._on_engine else None
        host = slot.staging.host if packed is None else packed
        jobs: list[Callable[[], None]] = [] if self._on_engine else [partial(self._fill, plan, index, host)]
        jobs += [partial(self._bring, slot, plan, extent, host) for extent in range(low, high)]
        slot.is_pushed = self._lands
        slot.reads, slot.pending = [], Pending()
        if self._pool is not None:
            slot.reads = [self._pool.submit(job) for job in jobs]
            slot.pending = Pending(slot.reads)
            return block
        try:
            for job in jobs:
                job()
        except Exception as error:
            slot.pending = Pending(error=error)
        return block

    def _make_room(self, slot: ChunkSlot, plan: ChunkPlan) -> None:
        """Have buffers that are large enough for any block of the plan."""
        if slot.staging is None or slot.staging.device.size < plan.staging_bytes:
            slot.bound.clear()
            if self._on_engine:
                with self._engine.computing():
                    slot.staging = Unpacked(self._engine.empty((plan.staging_bytes,), np.uint8))
            else:
                slot.staging = self._engine.staging(plan.staging_bytes)
        if self._inflater is not None and (slot.packed is None or slot.packed.device.size < plan.packed_bytes):
            slot.packed = self._engine.staging(plan.packed_bytes) if self._on_engine else Unpacked(aligned_empty(plan.packed_bytes))

    def _bring(self, slot: ChunkSlot, plan: ChunkPlan, extent: int, host: np.ndarray) -> None:
        """Read an extent; unpack what is in it, unless the engine will."""
        low, high = plan.chunk_starts[extent:extent + 2].tolist()
        if self._source is not None:
            for (row, column), at in zip(plan.places[low:high].tolist(), plan.chunks[low:high, 3].tolist(), strict=True):
                self._source.read(row + self._chunks.first_row, column, host[at:at + self._chunks.chunk_bytes])
            return
        extents: list[Extent] = [tuple(plan.extents[extent].tolist())]
        unpacks = self._inflater is not None and not self._on_engine
        self._reader.read(extents, slot.packed.device if unpacks else host)
        if unpacks:
            inflate = self._inflater.bind(slot.packed.device, host)
            self._check(plan, low, inflate(plan.chunks[low:high]))

    def _fill(self, plan: ChunkPlan, index: int, into: Any) -> None:
        """Give chunks of which nothing is stored their value. `into` is host or engine memory."""
        chunks, xp = self._chunks, np if isinstance(into, np.ndarray) else self._engine.xp
        size = chunks.frame_step if chunks.by_frame else chunks.chunk_bytes
        value = xp.asarray(np.frombuffer(chunks.fill, dtype=np.uint8))
        for at in plan.fills[plan.fill_starts[index]:plan.fill_starts[index + 1]].tolist():
            into[at:at + size].reshape(-1, chunks.item_bytes)[:] = value

    def _arrive(self, block: ChunkBlock) -> None:
        slot, plan, index = block.slot, block.plan, block.first_extent
        if not self._on_engine:
            slot.staging.push(block.used_bytes)
            return
        low, high = plan.chunk_starts[plan.extent_starts[index:index + 2]].tolist()
        self._push(block)
        with self._engine.computing():
            self._fill(plan, index, slot.staging.device)
            status = self._inflater.bind(slot.packed.device, slot.staging.device)(plan.chunks[low:high]) if low < high else None
            if self._started and self._started[0].slot.is_read:
                self._push(self._started[0])        # travels while the engine unpacks
            if status is not None:
                self._check(plan, low, self._engine.download(status))

    def _push(self, block: ChunkBlock) -> None:
        """Send the packed bytes of a block to the engine, once."""
        slot = block.slot
        if not slot.is_pushed:
            slot.packed.push(block.used_bytes)
            slot.is_pushed = True

    def _check(self, plan: ChunkPlan, first: int, status: np.ndarray) -> None:
        """Raise FormatError for the first of some chunks that could not be unpacked."""
        bad = np.flatnonzero(status)
        if len(bad):
            row, column = plan.places[first + int(bad[0])].tolist()
            raise FormatError(f"{self._chunks.where(row, column)}: {inflate_status(int(status[bad[0]]))}")
