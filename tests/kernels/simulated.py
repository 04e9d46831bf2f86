"""A CUDA device with CuPy on it, on host memory, that is as late and as disorderly as CUDA allows.

Streams are queues. Nothing that is given to one runs before something waits for it or chance has it run, and only events
order streams: which of them goes on next is drawn, with odds that make some of them lag far behind in some seeds. Events are
as in CUDA: to wait is to wait for the latest record at the time of the call, and an event that was never recorded has happened.

Memory is as in CuPy's pool: freed memory belongs to the stream on which it was made. It is filled with poison in that stream's
order, as if by the next owner, and is the first to be given out again. So whatever is read too early, written too early, or
freed too early shows as wrong pixels.

Kernels are worked out from their argument records (`simulated_kernels`), or are the CUDA sources compiled for the host.
"""

from __future__ import annotations

import ctypes
import os
import random
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from typing import Any, ClassVar

import numpy as np
import pytest

from gpuio import engine as engines
from gpuio.io.backends import BufferedBackend
from gpuio.io.base import Extent
from gpuio.io.buffered import PreadReader
from gpuio.kernels import CudaEngine
from tests.kernels.simulated_kernels import numpy_kernel

POISON = 0xEB
#: Addresses are multiples of this, as those of CUDA's allocator are of 256.
ALIGNMENT = 256
Work = Callable[[], None]


class OutOfMemory(MemoryError):
    """As CuPy's OutOfMemoryError."""


class Device:
    """The device; `cupy` is what stands for CuPy.

    Parameters
    ----------
    seed
        Of the order in which things happen.
    capacity
        Bytes of device memory that can be had.
    pinned
        Bytes of page-locked memory that can be had.
    kernel
        ``kernel(source, expression)`` gives what launches a kernel; default those of `simulated_kernels`.
    """

    def __init__(self, seed: int = 0, *, capacity: int = 64 << 20, pinned: int = 64 << 20,
                 kernel: Callable[[str, str], Callable[..., None]] | None = None) -> None:
        self.random = random.Random(seed)
        self.capacity, self.pinned = capacity, pinned
        self.live = self.most_live = self.allocations = self.pinned_live = self.most_pinned = 0
        self._slab = np.empty(4 * capacity + ALIGNMENT, dtype=np.uint8)         # what is in pieces is not put together again
        self.base = self._slab.ctypes.data
        self._top = -self.base % ALIGNMENT
        self._free: dict[int, list[tuple[int, int]]] = {}       # by stream: (position, size), the last freed last
        self._pinned: list[np.ndarray] = []                     # kept: what is freed too early shall be wrong, not crash
        self.eagerness = self.random.choice((0.0, 0.0, 0.2, 0.8))     # how often chance has something run
        self.streams: list[Stream] = []
        self.errors: list[Exception] = []
        self.waits = 0                  # how often a stream was told to wait for an event,
        self.blocked = 0                # and the host had to
        self.null = Stream(self, ptr=0)
        self.current = [self.null]
        self._kernel = kernel or numpy_kernel
        self.cupy = _module(self)

    # ---- time ---------------------------------------------------------------------------------------------------------

    def give(self, stream: Stream, work: Work, ready: Callable[[], bool] | None = None) -> None:
        """Put work at the end of a stream."""
        stream.queue.append((work, ready))
        while self.random.random() < self.eagerness and self.step():
            pass

    def step(self) -> bool:
        """Run one thing that may run; False if there is none."""
        may = [s for s in self.streams if s.queue and (s.queue[0][1] is None or s.queue[0][1]())]
        if not may:
            return False
        work = self.random.choices(may, [s.haste for s in may])[0].queue.popleft()[0]
        try:
            work()
        except Exception as error:          # such as tables that are no tables any more: whoever happens to wait is not to blame
            self.errors.append(error)
        return True

    def run_until(self, done: Callable[[], bool]) -> None:
        while not done():
            assert self.step(), "streams wait for each other"

    def synchronize(self) -> None:
        self.run_until(lambda: not any(s.queue for s in self.streams))

    # ---- memory -------------------------------------------------------------------------------------------------------

    def bytes_at(self, address: int, size: int) -> np.ndarray:
        """uint8[size] of device memory."""
        start = address - self.base
        assert start >= 0 and start + size <= self._top, f"{size} bytes at {address} are not device memory"
        return self._slab[start:start + size]

    def allocate(self, n_bytes: int) -> Memory:
        size = max(ALIGNMENT, -(-n_bytes // ALIGNMENT) * ALIGNMENT)
        stream = self.current[-1]
        if self.live + size > self.capacity:
            raise OutOfMemory(f"Out of memory allocating {n_bytes} bytes")
        self.live += size
        self.most_live = max(self.most_live, self.live)
        self.allocations += 1
        places = self._free.setdefault(stream.ptr, [])
        for i in reversed(range(len(places))):
            at, room = places[i]
            if room >= size:
                places[i] = at + size, room - size
                return Memory(self, stream, at, size)
        at, self._top = self._top, self._top + size
        assert self._top <= len(self._slab), "memory lies in pieces"
        self._slab[at:at + size] = POISON
        return Memory(self, stream, at, size)

    def free(self, stream: Stream, at: int, size: int) -> None:
        self.live -= size
        self._free[stream.ptr].append((at, size))
        place = self._slab[at:at + size]
        stream.queue.append((lambda: place.fill(POISON), None))         # nothing runs here: memory is freed at any time

    def page_locked(self, n_bytes: int) -> Any:
        if self.pinned_live + n_bytes > self.pinned:
            raise RuntimeError("cudaErrorMemoryAllocation: out of memory")
        self.pinned_live += n_bytes
        self.most_pinned = max(self.most_pinned, self.pinned_live)
        memory = np.full(n_bytes + 4096, POISON, dtype=np.uint8)
        self._pinned.append(memory)
        start = -memory.ctypes.data % 4096
        owner = type("PageLocked", (ctypes.c_uint8 * n_bytes,), {}).from_buffer(memory, start)      # NumPy keeps it, and no part of it
        weakref.finalize(owner, self._unlock, memory, n_bytes).atexit = False
        return owner

    def _unlock(self, memory: np.ndarray, n_bytes: int) -> None:
        self.pinned_live -= n_bytes
        memory[:] = POISON

    def kernel(self, source: str, expression: str) -> Callable[..., None]:
        run = self._kernel(source, expression)

        def launch(grid: tuple[int, int, int], block: tuple[int, int, int], arguments: tuple[np.ndarray]) -> None:
            record = arguments[0].copy()
            if self._kernel is numpy_kernel:
                self.give(self.current[-1], lambda: run(self, grid, record))
            else:
                self.give(self.current[-1], lambda: run(grid, block, (record,)))

        return launch


class Memory:
    """Device memory; freed when nobody has it any more."""

    def __init__(self, device: Device, stream: Stream, at: int, size: int) -> None:
        self.ptr = device.base + at
        weakref.finalize(self, device.free, stream, at, size).atexit = False


class Stream:
    """Of CuPy. Those with a number of their own must not block on the default stream: that kind of order is not simulated."""

    def __init__(self, device: Device, ptr: int | None = None) -> None:
        self.device, self.queue = device, deque[tuple[Work, Callable[[], bool] | None]]()
        self.ptr = 4096 + 16 * len(device.streams) if ptr is None else ptr
        self.haste = 10 ** device.random.uniform(-2, 2)
        device.streams.append(self)

    def wait_event(self, event: Event) -> None:
        latest = event.latest
        self.device.waits += 1
        self.device.give(self, lambda: None, lambda: latest[0])

    def synchronize(self) -> None:
        self.device.run_until(lambda: not self.queue)

    def __enter__(self) -> Stream:
        self.device.current.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        self.device.current.pop()


class Event:
    """Of CuPy. Later records do not change what was waited for before."""

    def __init__(self, device: Device) -> None:
        self.device, self.latest = device, [True]       # of each record, whether it has been reached

    def record(self, stream: Stream) -> None:
        self.latest = latest = [False]
        self.device.give(stream, lambda: latest.__setitem__(0, True))

    @property
    def done(self) -> bool:
        return self.latest[0]

    def synchronize(self) -> None:
        latest = self.latest
        self.device.blocked += not latest[0]
        self.device.run_until(lambda: latest[0])


class Array:
    """As much of a CuPy array as gpuio uses. All it does, it does later: operations are given to the current stream."""

    def __init__(self, device: Device, memory: Memory, view: np.ndarray) -> None:
        self.device, self._memory, self.view_ = device, memory, view

    shape = property(lambda self: self.view_.shape)
    dtype = property(lambda self: self.view_.dtype)
    ndim = property(lambda self: self.view_.ndim)
    size = property(lambda self: self.view_.size)
    nbytes = property(lambda self: self.view_.nbytes)
    itemsize = property(lambda self: self.view_.itemsize)
    flags = property(lambda self: self.view_.flags)

    @property
    def data(self) -> Any:
        """As CuPy's MemoryPointer."""
        return types.SimpleNamespace(ptr=self.view_.ctypes.data, copy_from_host_async=self._copy_from_host_async)

    def _copy_from_host_async(self, address: int, n_bytes: int, stream: Stream) -> None:
        source = np.ctypeslib.as_array((ctypes.c_uint8 * n_bytes).from_address(address)) if n_bytes else np.zeros(0, np.uint8)
        target = self.view_[:n_bytes]
        self.device.give(stream, lambda: np.copyto(target, source))

    def __len__(self) -> int:
        return len(self.view_)

    def _same_memory(self, view: np.ndarray) -> Array:
        return Array(self.device, self._memory, view)

    def _later(self, function: Callable[..., Any], *arguments: Any) -> Array:
        """What a function gives; its shape and dtype are found on an array of ones."""
        with np.errstate(all="ignore"):
            like = function(*(np.ones(a.shape, a.dtype) if isinstance(a, Array) else a for a in arguments))
        out = self.device.cupy.empty(np.shape(like), np.asarray(like).dtype)
        target, views = out.view_, [a.view_ if isinstance(a, Array) else a for a in arguments]

        def work() -> None:
            with np.errstate(all="ignore"):
                target[...] = function(*views)

        self.device.give(self.device.current[-1], work)
        return out

    def __getitem__(self, key: Any) -> Array:
        parts = key if isinstance(key, tuple) else (key,)
        if all(isinstance(p, (int, np.integer, slice, type(None), type(Ellipsis))) for p in parts):
            view = self.view_[key]
            return self._same_memory(view if isinstance(view, np.ndarray) else self.view_.reshape(-1)[:1].reshape(()))
        indices = [p for p in parts if isinstance(p, Array)]
        return self._later(lambda source, *found: source[_with(parts, iter(found))], self, *indices)

    def __setitem__(self, key: Any, value: Any) -> None:
        parts = key if isinstance(key, tuple) else (key,)
        views, target = [p.view_ for p in parts if isinstance(p, Array)], self.view_
        source = value.view_ if isinstance(value, Array) else value

        def work() -> None:
            with np.errstate(all="ignore"):
                target[_with(parts, iter(views))] = source

        self.device.give(self.device.current[-1], work)

    def reshape(self, *shape: Any, order: str = "C") -> Array:
        shape = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape
        view = self.view_.reshape(shape, order=order)
        return self._same_memory(view) if np.shares_memory(view, self.view_) or not view.size else self.copy().reshape(shape, order=order)

    def view(self, dtype: Any) -> Array:
        return self._same_memory(self.view_.view(dtype))

    def ravel(self) -> Array:
        return self.reshape(-1)

    @property
    def real(self) -> Array:
        return self._same_memory(self.view_.real)

    def astype(self, dtype: Any) -> Array:
        return self._later(lambda a: a.astype(dtype), self)

    def copy(self) -> Array:
        return self._later(lambda a: a.copy(), self)

    def sum(self, axis: int | None = None, dtype: Any = None) -> Array:
        return self._later(lambda a: a.sum(axis=axis, dtype=dtype), self)

    def __sub__(self, other: Any) -> Array:
        return self._later(lambda a, b: a - b, self, other)

    def __mul__(self, other: Any) -> Array:
        return self._later(lambda a, b: a * b, self, other)

    def __add__(self, other: Any) -> Array:
        return self._later(lambda a, b: a + b, self, other)

    __radd__ = __add__

    def __iadd__(self, other: Any) -> Array:
        self[...] = self._later(lambda a, b: a + b, self, other)
        return self

    def __ne__(self, other: Any) -> Any:
        return self._later(lambda a, b: a != b, self, other)

    __hash__ = object.__hash__

    def get(self) -> np.ndarray:
        return self.device.cupy.asnumpy(self)

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("implicit conversion to a NumPy array is not allowed")

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self.data.ptr, False), "version": 3,
                "stream": self.device.current[-1].ptr or 1}

    def __dlpack__(self, *, stream: int | None = None) -> tuple[Array, int | None]:
        """What a consumer on the device would make of the capsule: the array, and the stream that was made to wait here."""
        return self, stream

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0


def _with(parts: tuple[Any, ...], found: Any) -> tuple[Any, ...]:
    """A key with arrays of the device replaced by those found."""
    return tuple(next(found) if isinstance(p, Array) else p for p in parts)


def _module(device: Device) -> Any:
    """The module `cupy`."""
    def empty(shape: Any, dtype: Any = "f8") -> Array:
        dtype = np.dtype(dtype)
        shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
        n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        memory = device.allocate(n_bytes)
        return Array(device, memory, device.bytes_at(memory.ptr, n_bytes).view(dtype).reshape(shape))

    def zeros(shape: Any, dtype: Any = "f8") -> Array:
        out = empty(shape, dtype)
        out[...] = 0
        return out

    def asarray(array: np.ndarray) -> Array:
        out = empty(array.shape, array.dtype)
        out[...] = array.copy()         # CuPy copies pageable memory before it returns
        return out

    def asnumpy(array: Array) -> np.ndarray:
        host = np.empty(array.shape, array.dtype)
        device.give(device.current[-1], lambda source=array.view_: np.copyto(host, source))
        device.current[-1].synchronize()
        return host

    def external(ptr: int) -> Stream:
        return next(s for s in device.streams if s.ptr == ptr)

    def stream(*, non_blocking: bool) -> Stream:
        assert non_blocking, "streams that wait for the default stream are not simulated"
        return Stream(device)

    def event(*, disable_timing: bool) -> Event:
        assert disable_timing, "timing makes events slow"
        return Event(device)

    def raw_module(*, code: str, options: tuple[str, ...], name_expressions: tuple[str, ...]) -> Any:
        assert "--fmad=false" in options
        return types.SimpleNamespace(get_function=lambda expression: device.kernel(code, expression))

    runtime = types.SimpleNamespace(memGetInfo=lambda: (device.capacity - device.live, device.capacity))
    pool = types.SimpleNamespace(free_bytes=lambda: 0)
    cuda = types.SimpleNamespace(
        Device=lambda number: _Nothing(), Stream=stream, ExternalStream=external, Event=event,
        get_current_stream=lambda: device.current[-1], runtime=runtime, PinnedMemory=device.page_locked,
        PinnedMemoryPointer=lambda memory, offset: memory)
    module = types.ModuleType("cupy")
    module.__spec__ = ModuleSpec("cupy", None)
    module.__dict__.update(cuda=cuda, empty=empty, zeros=zeros, asarray=asarray, asnumpy=asnumpy, RawModule=raw_module, ndarray=Array,
                           get_default_memory_pool=lambda: pool)
    return module


class _Nothing:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


@contextmanager
def data_sets_on(device: Device) -> Iterator[CudaEngine]:
    """Data sets with device "cuda" are decoded on the simulated one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", device.cupy)
        engine = CudaEngine(0)
        patch.setitem(engines._engines, (os.getpid(), "cuda:0"), engine)
        patch.setattr(engines, "why_no_cuda", lambda device=0: None)
        yield engine


class ToDevice(BufferedBackend):
    """A transport that brings bytes into device memory by itself, at once, as a drive does that is not asked to wait."""

    memory: ClassVar[str] = "device"

    def open(self, paths: Sequence[str], sizes: Sequence[int | None]) -> Any:
        return _ToDeviceReader(paths, sizes)


class _ToDeviceReader(PreadReader):
    def read(self, extents: Sequence[Extent], into: Array) -> None:
        super().read(extents, into.view_)
