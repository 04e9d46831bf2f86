"""Reading ahead: blocks of frames come out of storage in order, each ready to be decoded.

A block is the unit of reading, a tile the unit of delivery; neither need divide the other. `BlockReader` keeps a ring of
slots, each with a staging buffer, and fills those of the next blocks while the caller decodes the present one. Three ways
to fill a slot, chosen by the transport and the layout:

- **staged**: extents are read into the staging buffer, and pushed to the device unless the transport brought them there;
- **mapped**: the extents are mapped, frames start at addresses in the page cache, nothing is copied;
- **gathered**: the layout is strided (navigation fastest) or sparse; frames are put together in the engine's memory.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from gpuio.engine import Engine
from gpuio.errors import BackendUnavailable
from gpuio.geometry.plan import MERGE_GAP, STAGING_ALIGNMENT, Plan, make_plan
from gpuio.io.readahead import Pending
from gpuio.layout import Layout

#: Frames planned at a time: large enough that planning costs nothing per frame, small enough that its tables stay small.
PLAN_FRAMES = 65536


@dataclass(slots=True)
class Slot:
    """One place in the ring: a staging buffer and what it holds at present."""

    staging: Any = None
    mapped: Any = None
    pending: Any = None
    bound: dict[tuple[int, ...], Callable[..., None]] = field(default_factory=dict)
    plan: Any = None
    in_use: list[Any] = field(default_factory=list)      # decode calls that still read from this slot


@dataclass(slots=True)
class Block:
    """Frames ``first:stop`` of the selection, ready to be decoded."""

    first: int
    stop: int
    base: int               # index of the plan's first frame in the selection
    plan: Any               # Plan, or another one that says where frames start
    slot: Slot
    used_bytes: int         # of the staging buffer
    first_extent: int       # of the plan's, in this block
    fill: Callable[[], None] | None = None      # still to be called, by everyone who decodes: the first fills, others wait

    def bind(self, decoder: Any, *out: Any) -> Callable[..., None]:
        """A call that decodes frames of this block, numbered as in the plan, into `out`; kept for further blocks of the plan.

        `decoder` may also be a `FrameAdder`, and `out` the sums that it adds to.
        """
        key = (id(decoder), *map(id, out))
        call = self.slot.bound.get(key)
        if call is None:
            call = self.slot.bound[key] = self.bind_once(decoder, *out)
        return call

    def bind_once(self, decoder: Any, *out: Any) -> Callable[..., None]:
        """The same, for a decoder that may be gone when the next block comes."""
        staged = None if self.slot.staging is None else self.slot.staging.device
        call: Callable[..., None] = decoder.bind(staged, self.plan.starts, *out)
        return call

    def check(self) -> None:
        """Raise ReadError if a mapped file has become too short, rather than letting its pages kill the process."""
        if self.slot.mapped is not None:
            self.slot.mapped.check()

    def bytes_of(self, first: int, stop: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Host memory that holds the frames ``first:stop`` of the selection as they are stored, and where in it each begins.

        Returns
        -------
        uint8[n], int64[stop - first], or None
            None if frames are not all in one extent that is mapped.
        """
        frames = slice(first - self.base, stop - self.base)
        extent_of = self.plan.extent_of[frames, 0]
        if self.slot.mapped is None or (extent_of != extent_of[0]).any():
            return None
        view: np.ndarray = self.slot.mapped.views[int(extent_of[0]) - self.first_extent]
        return view, self.plan.starts[frames, 0] - view.__array_interface__["data"][0]


class Ring:
    """Slots that are filled ahead of who takes their blocks. Iterate over it once; use it as a context manager, so that nothing is left
    open or running. Subclasses say what there is to do.
    """

    def __init__(self) -> None:
        self._slots: list[Any] = []
        self._started: deque[Any] = deque()           # being filled, in order
        self._closers: list[Callable[[], None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading, join threads, close files."""
        while self._closers:
            self._closers.pop()()

    def __iter__(self) -> Iterator[Block]:
        idle, started = deque(self._slots), self._started
        tasks = self._tasks()
        exhausted = False
        process = os.getpid()
        while True:
            if os.getpid() != process:      # its threads were not taken along
                raise BackendUnavailable("a stream that was begun before this process was forked cannot go on in it; begin one here")
            while idle and not exhausted and not (started and self._is_busy(idle[0])):
                task = next(tasks, None)
                if task is None:
                    exhausted = True
                    break
                slot = idle.popleft()
                for done in slot.in_use:        # a slot is filled again only when nothing reads from it
                    done.result()
                slot.in_use.clear()
                started.append(self._start(slot, *task))
            if not started:
                return
            block = started.popleft()
            if block.slot.pending is not None:
                block.slot.pending.wait()
            self._arrive(block)
            yield block
            idle.append(block.slot)

    def _is_busy(self, slot: Any) -> bool:
        """Whether filling a slot would wait: for decode calls, or for a device, that still read from it."""
        return any(not call.done() for call in slot.in_use)

    def _tasks(self) -> Iterator[tuple[Any, ...]]:
        """What `_start` needs to know of each block, in order."""
        raise NotImplementedError

    def _start(self, slot: Any, *task: Any) -> Block:
        """Begin to fill a slot."""
        raise NotImplementedError

    def _arrive(self, block: Any) -> None:
        """The block's bytes are in host memory: bring them to where they are decoded."""
        raise NotImplementedError


class BlockReader(Ring):
    """Iterate over it once for the blocks; use it as a context manager, so that nothing is left open or running.

    Parameters
    ----------
    frames : int64[n]
        File frames wanted, none blank.
    edges : int64[n_blocks + 1]
        Block boundaries in `frames`.
    backend
        A transport of `gpuio.io`.
    slots, threads
        Size of the ring and number of reading threads; with no threads blocks are read when asked for.
    deferred
        Blocks are handed out before they are filled: whoever decodes some of one calls `Block.fill` first, on its own thread, and
        appends the call that does to ``block.slot.in_use``. Reading and decoding then share a core's cache. Mapping copies nothing, and
        while a thread unmaps all others that touch the file wait, so mapped blocks are large and never left to the threads.
    piece_bytes
        Where frames are gathered: bytes of the file in memory at a time, see `GatherReader`.
    """

    def __init__(self, layout: Layout, engine: Engine, backend: Any, frames: np.ndarray, edges: np.ndarray,
                 placements: np.ndarray, *, slots: int = 1, threads: int = 0, gap: int = MERGE_GAP,
                 deferred: bool = False, piece_bytes: int = 0) -> None:
        super().__init__()
        self._layout, self._engine, self._frames, self._edges = layout, engine, frames, edges
        self._placements, self._gap = placements, gap
        self._on_device = False                 # whether the transport ends in the engine's memory,
        self._by_stream = False                 # and copies to it in the order of a stream
        if layout.strided is not None:
            from gpuio.io.gather import GatherReader

            self._reader: Any = GatherReader(layout.strided, layout.sig_shape, engine, piece_bytes, max(1, threads))
        elif layout.sparse is not None:
            from gpuio.io.scatter import ScatterReader

            self._reader = ScatterReader(layout.sparse, layout.sig_size, engine, backend, piece_bytes)
        if layout.is_gathered:
            self._alignment, self._mapped, threads, slots, deferred = 1, False, 0, 1, False
        else:
            files = layout.numbered_files()[0]
            self._reader = backend.open([f.path for f in files], [f.size for f in files])
            self._alignment, self._mapped = backend.alignment, engine.name == "cpu" and hasattr(self._reader, "map")
            self._on_device = backend.memory == "device"
            self._by_stream = self._on_device and not backend.read_threads
        self._closers.append(self._reader.close)
        self._ahead: Any = None
        if threads and not self._mapped:
            from gpuio.io.readahead import ReadAhead

            self._ahead = ReadAhead(self._reader, threads)
            self._closers.append(self._ahead.close)
        elif not deferred:
            slots = 1
        self._deferred = deferred and not self._mapped
        self._slots = [Slot() for _ in range(slots)]

    def close(self) -> None:
        """Stop reading, join threads, close files."""
        super().close()
        for slot in self._slots:
            _release_map(slot)

    def _is_busy(self, slot: Slot) -> bool:
        if super()._is_busy(slot):
            return True
        return self._ahead is not None and slot.staging is not None and not slot.staging.is_free("device" if self._on_device else "host")

    def _tasks(self) -> Iterator[tuple[Plan, int, int, list[tuple[int, int, int, int]]]]:
        """Plan as many blocks at a time as hold `PLAN_FRAMES`; yield (plan, its first frame, number of the block, extents)."""
        edges = self._edges
        a = 0
        while a < len(edges) - 1:
            b = max(a + 1, int(np.searchsorted(edges, edges[a] + PLAN_FRAMES, side="right")) - 1)
            base, stop = int(edges[a]), int(edges[b])
            plan = self._plan(self._frames[base:stop], edges[a:b + 1] - base)
            extents = [tuple(e) for e in plan.extents.tolist()]
            bounds = plan.extent_starts.tolist()
            for i in range(b - a):
                yield plan, base, i, extents[bounds[i]:bounds[i + 1]]
            a = b

    def _plan(self, frames: np.ndarray, blocks: np.ndarray) -> Plan:
        if not self._layout.is_gathered:
            return make_plan(self._layout, frames, blocks, self._placements, alignment=self._alignment, gap=self._gap)
        frame_bytes = self._layout.sig_size * self._layout.dtype.itemsize
        within = np.arange(len(frames), dtype=np.int64) - np.repeat(blocks[:-1], np.diff(blocks))
        return Plan(blocks=blocks, extents=np.zeros((0, 4), np.int64), extent_starts=np.zeros(len(blocks), np.int64),
                    starts=np.ascontiguousarray((within * frame_bytes)[:, None]), extent_of=np.zeros((len(frames), 1), np.int64),
                    staging_bytes=int(np.diff(blocks).max(initial=0)) * frame_bytes, needed_bytes=len(frames) * frame_bytes)

    def _start(self, slot: Slot, plan: Plan, base: int, index: int, extents: list[tuple[int, int, int, int]]) -> Block:
        """Begin to fill `slot` with block `index` of `plan`."""
        if slot.plan is not plan:
            slot.plan = plan
            slot.bound.clear()
        first, stop = int(plan.blocks[index]), int(plan.blocks[index + 1])
        used = extents[-1][2] + extents[-1][3] if extents else plan.staging_bytes
        block = Block(base + first, base + stop, base, plan, slot, used, int(plan.extent_starts[index]))
        if not self._mapped and (slot.staging is None or slot.staging.device.size < plan.staging_bytes):
            slot.bound.clear()
            slot.staging = self._staging(plan.staging_bytes)
        if self._ahead is not None:
            slot.pending = self._ahead.submit(extents, self._target(slot))
        elif self._deferred:
            block.fill = _once(lambda: self._fill(block, extents))
        else:
            try:
                self._fill(block, extents)
            except OSError as error:        # surfaces at this block: those before may not have been taken yet
                slot.pending = Pending(error=error)
        return block

    def _arrive(self, block: Block) -> None:
        if block.slot.staging is not None and not (self._mapped or self._on_device) and not self._layout.is_gathered:
            block.slot.staging.push(block.used_bytes)

    def _target(self, slot: Slot) -> Any:
        """Where the transport puts bytes; waits until what was there before has been read, unless a stream sees to that."""
        if not self._on_device:
            return slot.staging.host
        return slot.staging.device if self._by_stream else slot.staging.landing

    def _staging(self, n_bytes: int) -> Any:
        if not self._layout.is_gathered:
            return self._engine.staging(n_bytes)
        from gpuio.io.gather import Gathered

        with self._engine.computing():
            return Gathered(self._engine.empty((-(-n_bytes // STAGING_ALIGNMENT) * STAGING_ALIGNMENT,), np.uint8))

    def _fill(self, block: Block, extents: list[tuple[int, int, int, int]]) -> None:
        """Bring the block's bytes to where its frames are said to start."""
        slot, plan = block.slot, block.plan
        if self._layout.is_gathered:
            with self._engine.computing():
                self._reader.gather(self._frames[block.first:block.stop], slot.staging.device)
        elif not self._mapped:
            with self._engine.computing(joined=True) if self._by_stream else nullcontext():
                self._reader.read(extents, self._target(slot))
        else:
            _release_map(slot)
            slot.mapped = self._reader.map(extents)
            if extents:
                frames = slice(block.first - block.base, block.stop - block.base)
                shift = np.asarray(slot.mapped.addresses) - plan.extents[block.first_extent:block.first_extent + len(extents), 3]
                plan.starts[frames] += shift[plan.extent_of[frames] - block.first_extent]


def _once(fill: Callable[[], None]) -> Callable[[], None]:
    """A call that fills when it is first made; threads that make it meanwhile wait. What failed is tried again."""
    lock, filled = threading.Lock(), False

    def call() -> None:
        nonlocal filled
        with lock:
            if not filled:
                fill()
                filled = True

    return call


def _release_map(slot: Slot) -> None:
    if slot.mapped is not None:
        slot.mapped.close()
        slot.mapped = None
