"""Launches of ``inflate.cu``, ``deflate.cu`` and ``filters.cu``: which chunk goes through which step, from where to where.

All of it is known on the host, since steps have known sizes, and only streams themselves can be wrong: so each step is one launch
(two where blocks are looked for first) with a table of the chunks that its filter was applied to. The last step of a chunk writes to
the output, those before it to scratch memory. Work, tables and scratch are those of the compute stream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuio.engine import Inflate, Staging
from gpuio.inflation import (
    AT,
    BLOCK_BYTES,
    GROUP,
    LARGEST_CHUNK,
    MASK,
    SIZE,
    SRC,
    Kind,
    Rule,
    Step,
    check_buffer,
    check_chunks,
    plan_steps,
    status,
)
from gpuio.kernels._decoder import reading
from gpuio.kernels._launch import VECTOR, Dim3
from gpuio.kernels._runtime import Kernel, Runtime
from gpuio.layout import Filter

#: Threads of a block in filters.cu, and bytes that each makes; warps of a block in inflate.cu.
THREADS, WARP, WARPS = 256, 32, 4
#: Warps, or blocks in filters.cu, of one launch.
MOST = 1 << 30

TASK = np.dtype([("src", "u8"), ("dst", "u8"), ("size", "u4"), ("chunk", "u4")])
CALL = np.dtype([
    ("tasks", "u8"), ("status", "u8"), ("runs", "u8"), ("scratch", "u8"), ("room", "i8"), ("per_task_inverse", "u8"),
    ("n", "u4"), ("per_task", "u4"), ("gives", "u4"), ("item", "u4"), ("block", "u4"), ("unused", "u4"),
])


@dataclass(frozen=True, slots=True)
class Work:
    """One step, and the chunks it is taken for."""

    step: Step
    tasks: np.ndarray
    moves: bool = False


def plan(steps: Sequence[Step], chunks: np.ndarray, chunk_bytes: int, staged: int, out: int, scratch: int, room: int) -> tuple[
        list[Work], np.ndarray]:
    """Distribute checked chunks over steps.

    Parameters
    ----------
    staged, out, scratch
        Addresses. There are as many scratch buffers of `room` bytes for each chunk as `scratches` says.

    Returns
    -------
    list of Work
    int32[n]
        Statuses of chunks whose sizes are wrong; they take part in the steps before that shows.
    """
    at, size, to = staged + chunks[:, SRC], chunks[:, SIZE].copy(), out + chunks[:, AT]
    statuses, used = np.zeros(len(chunks), dtype=np.int32), np.zeros(len(chunks), dtype=np.int64)
    numbers = np.arange(len(chunks), dtype=np.int64)
    works = []

    def take(step: Step, which: np.ndarray, target: np.ndarray, moves: bool = False) -> None:
        if which.any():
            tasks = np.zeros(int(which.sum()), dtype=TASK)
            tasks["src"], tasks["dst"], tasks["size"], tasks["chunk"] = at[which], target[which], size[which], numbers[which]
            works.append(Work(step, tasks, moves))

    for k, step in enumerate(steps):
        which = (chunks[:, MASK] >> step.bit & 1 == 0) & (statuses == 0)
        if step.kind == Kind.FLETCHER32:
            statuses[which & (size < 4)] = status(Rule.HEADER)
            which &= size >= 4
            size[which] -= 4
            take(step, which, to)
            continue
        if step.kind in (Kind.SHUFFLE, Kind.BITSHUFFLE):
            statuses[which & (size != step.gives)] = status(Rule.STORED)
            which &= size == step.gives
        later = sum(1 << other.bit for other in steps[k + 1:])
        target = np.where((chunks[:, MASK] & later == later) & (step.gives == chunk_bytes), to,
                          scratch + (used % 2 * len(chunks) + numbers) * room)
        take(step, which, target)
        used += which & (target != to)
        at, size = np.where(which, target, at), np.where(which, step.gives, size)
    statuses[(statuses == 0) & (size != chunk_bytes)] = status(Rule.STORED)
    take(Step(Kind.SHUFFLE, 0, chunk_bytes), (statuses == 0) & (at != to), to, moves=True)
    return works, statuses


def expressions(step: Step, moves: bool = False) -> tuple[tuple[str, str], ...]:
    """Source file and name of the kernels that take a step, in order."""
    if moves:
        return (("filters", "move"),)
    if step.kind == Kind.FLETCHER32:
        return (("filters", "fletcher32"),)
    if step.kind == Kind.SHUFFLE:
        return (("filters", f"unshuffle<{step.item if step.item in (2, 4, 8) else 0}>"),)
    if step.kind == Kind.LZF:
        return (("inflate", "streams<true>"),)
    if step.kind == Kind.DEFLATE:
        return (("deflate", "deflate"),)
    if step.kind == Kind.LZ4:
        return ("inflate", "walk<false>"), ("inflate", "streams<false>")
    item, packed = step.item if step.item in (1, 2, 4) else 0, step.kind == Kind.BITSHUFFLE_LZ4
    kernel = f"bitshuffle<{item}, {str(packed).lower()}, {str(in_shared_memory(step)).lower()}>"
    return (("inflate", "walk<true>"), ("inflate", kernel)) if packed else (("inflate", kernel),)


def in_shared_memory(step: Step) -> bool:
    """Whether blocks of bitshuffle go through shared memory: those that fit, of the usual items."""
    return step.item in (1, 2, 4) and min(step.block, step.gives) <= BLOCK_BYTES


def scratches(steps: Sequence[Step], chunk_bytes: int) -> int:
    """Buffers of a chunk for what one step hands to the next."""
    moving = [step for step in steps if step.kind != Kind.FLETCHER32]
    return min(2, len(moving) - (bool(moving) and moving[-1].gives == chunk_bytes))


def geometry(tasks: int, kernel: str, per_task: int) -> tuple[Dim3, Dim3]:
    """Grid and block."""
    if kernel in ("fletcher32", "deflate"):
        return (tasks, 1, 1), (WARP, 1, 1)
    if kernel.startswith("walk"):
        return (-(-tasks // (WARP * WARPS)), 1, 1), (WARP * WARPS, 1, 1)
    if kernel.startswith(("bitshuffle", "streams")):
        return (-(-tasks * per_task // WARPS), 1, 1), (WARP * WARPS, 1, 1)
    return (tasks * per_task, 1, 1), (THREADS, 1, 1)


def parts(step: Step, moves: bool = False) -> int:
    """Into how many parts a chunk is cut: warps for its blocks, as the filter's parameters have them; thread blocks for its bytes."""
    if moves or step.kind == Kind.SHUFFLE:
        return -(-step.gives // (THREADS * VECTOR))
    if step.kind in (Kind.FLETCHER32, Kind.LZF, Kind.DEFLATE):
        return 1
    whole = step.gives if step.kind == Kind.LZ4 else step.gives - step.gives % (GROUP * step.item)
    return max(1, -(-whole // step.block))


class CudaInflater:
    """`gpuio.engine.Inflater` of the CUDA engine; the last parameters as `gpuio.engine.Engine.inflater`.

    Parameters
    ----------
    compiled
        Gives the kernel of a source file and expression.
    buffers
        Staging buffers by device address; they are told when they have been read.
    """

    def __init__(self, runtime: Runtime, compiled: Callable[[str, str], Kernel], buffers: Mapping[int, Staging],
                 filters: Sequence[Filter], chunk_bytes: int, item_bytes: int) -> None:
        self.steps, self.chunk_bytes = plan_steps(filters, chunk_bytes, item_bytes), chunk_bytes
        self.runtime, self.buffers, self.compiled = runtime, buffers, compiled
        self.room = -(-max(chunk_bytes, *(step.gives for step in self.steps), 0) // VECTOR) * VECTOR
        for step in self.steps:
            for file, expression in expressions(step):
                compiled(file, expression)

    def bind(self, staged: Any, out: Any) -> Inflate:
        """See `gpuio.engine.Inflater.bind`."""
        check_buffer(staged, "staged")
        check_buffer(out, "out")
        buffer = self.buffers.get(self.runtime.address(staged))

        def inflate(chunks: np.ndarray) -> Any:
            check_chunks(chunks, int(staged.size), int(out.size), self.chunk_bytes)
            with self.runtime.computing(joined=True), reading(buffer):
                return self._inflate(chunks, self.runtime.address(staged), self.runtime.address(out))

        inflate.owners = (staged, out)          # type: ignore[attr-defined]  # keeps alive what addresses point into
        return inflate

    def _inflate(self, chunks: np.ndarray, staged: int, out: int) -> Any:
        """Launch all steps of `chunks`; `staged` and `out` are addresses."""
        xp, address = self.runtime.xp, self.runtime.address
        statuses = xp.zeros(len(chunks), np.int32)
        scratch = xp.empty(max(1, scratches(self.steps, self.chunk_bytes) * len(chunks) * self.room), np.uint8)
        works, wrong = plan(self.steps, chunks, self.chunk_bytes, staged, out, address(scratch), self.room)
        for work in works:
            self._take(work, address(statuses))
        return xp.where(statuses != 0, statuses, self.runtime.upload(wrong)) if wrong.any() else statuses

    def _take(self, work: Work, statuses: int) -> None:
        """Launch one step; `statuses` is an address."""
        step, n, per_task = work.step, len(work.tasks), parts(work.step, work.moves)
        if n * per_task > MOST:
            raise ValueError(f"{n} chunks in {per_task} parts each are too many for one launch; expected {MOST} parts or fewer")
        call, address = np.zeros((), dtype=CALL), self.runtime.address
        tasks = self.runtime.upload(work.tasks.view(np.uint8))
        runs = self.runtime.xp.empty(n * (per_task + 2), np.uint32)
        call["tasks"], call["status"], call["runs"] = address(tasks), statuses, address(runs)
        call["n"], call["per_task"], call["per_task_inverse"] = n, per_task, (1 << 63) // per_task + 1
        call["gives"], call["item"], call["block"] = max(0, step.gives), step.item, min(step.block, LARGEST_CHUNK)
        if step.kind in (Kind.BITSHUFFLE, Kind.BITSHUFFLE_LZ4) and not in_shared_memory(step):
            call["room"] = self.room
            planes = self.runtime.xp.empty(n * self.room, np.uint8)
            call["scratch"] = address(planes)
        for file, kernel in expressions(step, work.moves):
            grid, block = geometry(n, kernel, per_task)
            self.compiled(file, kernel)(grid, block, (call,))
