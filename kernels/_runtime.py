"""What the engine asks of CUDA, and CuPy's answer. Here alone streams and events are handled.

**Order of work.** CUDA runs the work of one stream in the order in which it was given, that of different streams in any order.
Three kinds of streams touch the same memory: *copies* (host to device) and *compute* (all kernels and all arithmetic), which are
the engine's own, and those of consumers, whichever is current when they ask. What two of them touch has an event for each
direction, one that lets it be read and one that lets it be overwritten, and that is all the order there is::

    memory              written by     read by      before it is read               before it is overwritten
    ------------------  -------------  -----------  ------------------------------  ----------------------------------
    Staging.host        the host       copies       the host pushes when it is      the host waits for *arrived*
                                                    full
    Staging.device      copies         compute      compute waits for *arrived*     copies wait for *decoded*
    the same            a transport    compute      the host has seen it arrive     the host waits for *decoded*
    Output.array        compute        consumers    each that takes it waits for    compute waits for each that took it,
                                                    *filled*                        and for who asks for more (*used*)
    arrays of others    compute        consumers    joined: compute waits for the current stream first, and the current
                                                    stream for compute in the end
    maps, tables,       compute        compute      one stream
    scratch

**To let go is to overwrite.** CuPy's pool gives memory that is freed to the next array that is made on the same stream, at once.
So memory is made on the stream that is the last to use it. The engine's own is made with compute as the current stream. An
output is made on its consumer's, its *home*, which has to wait for compute and all takers before the output is freed
(`Output.release`). Memory that is new has had owners, too: staging counts as read by compute, and an output as taken by its
home, from the beginning. The copies stream owns no memory; what it works on outlives the copy, since staging has a finalizer
that waits for *arrived*.

**The host waits** in two places, `Staging.host` and `Staging.landing`: a transport wants memory that is still in use. A ring of
buffers makes that rare, and `Staging.is_free` lets the ring take another one first.

**A fork** takes no CUDA along. Whatever touches the device asks `CupyRuntime.active`, which refuses in any other process than the
one that made the runtime.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import numpy as np

from gpuio.engine import DLPACK_DEFAULT, DLPACK_NO_WAIT, PAGE, Output, Staging
from gpuio.errors import BackendUnavailable
from gpuio.kernels._available import FORKED
from gpuio.kernels._launch import VECTOR

#: Launches a kernel on the current stream: ``kernel(grid, block, (argument record,))``.
Kernel = Callable[[tuple[int, int, int], tuple[int, int, int], tuple[np.ndarray]], None]

#: Results equal those of the CPU bit for bit, so nothing may be contracted.
COMPILE_OPTIONS = ("-std=c++17", "--fmad=false")


class Runtime(Protocol):
    """Memory, compiler and streams of one device."""

    name: str
    xp: Any

    def active(self) -> AbstractContextManager[Any]:
        """Make the device the current one; the current stream stays that of the caller.

        Raises
        ------
        BackendUnavailable
            This process was forked from the one that made the runtime.
        """

    def computing(self, *, joined: bool = False) -> AbstractContextManager[Any]:
        """See `gpuio.engine.Engine.computing`."""

    def kernel(self, source: str, expression: str) -> Kernel:
        """The function `expression` of `source`, compiled when first asked for."""

    def address(self, array: Any) -> int:
        """Where device memory begins."""

    def upload(self, array: np.ndarray) -> Any:
        """A copy on the device, made on the current stream."""

    def download(self, array: Any) -> np.ndarray:
        """A copy on the host, when the current stream is done."""

    def staging(self, n_bytes: int) -> Staging:
        """A staging buffer; its device side starts at a multiple of 4096 and has a size that is a multiple of 16."""

    def output(self, items: int, dtype: Any) -> Output:
        """Memory that consumers of the current stream will take."""

    def free_bytes(self) -> int | None:
        """Device memory that can still be had."""

    def csr(self, values: np.ndarray, pixels: np.ndarray, starts: np.ndarray, frame_pixels: int) -> Any:
        """A sparse matrix on the device."""


class CupyRuntime:
    """`Runtime` on CuPy.

    Parameters
    ----------
    device
        Number of the CUDA device.
    """

    def __init__(self, device: int) -> None:
        import cupy

        self.name = f"cuda:{device}"
        self.xp = cupy
        self._process = os.getpid()
        self._device = cupy.cuda.Device(device)
        with self._device:
            self.copies, self.compute = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))

    @property
    def is_forked(self) -> bool:
        """Whether this process is not the one that made the runtime."""
        return os.getpid() != self._process

    def active(self) -> AbstractContextManager[Any]:
        if self.is_forked:
            raise BackendUnavailable(f"device '{self.name}' is not available: {FORKED}")
        device: AbstractContextManager[Any] = self._device
        return device

    def current(self) -> Any:
        """The stream that the caller works on."""
        return self.xp.cuda.get_current_stream()

    def event(self) -> Any:
        return self.xp.cuda.Event(disable_timing=True)

    @contextmanager
    def computing(self, *, joined: bool = False) -> Iterator[None]:
        with self.active():
            caller = self.current()
            joined = joined and caller.ptr != self.compute.ptr
            if joined:
                self._join(caller, self.compute)
            with self.compute:
                try:
                    yield
                finally:
                    if joined:
                        self._join(self.compute, caller)

    def _join(self, first: Any, then: Any) -> None:
        """Let stream `then` go on after what was given to `first`. The event is its own: threads join at the same time."""
        event = self.event()
        event.record(first)
        then.wait_event(event)

    def kernel(self, source: str, expression: str) -> Kernel:
        module = self.xp.RawModule(code=source, options=COMPILE_OPTIONS, name_expressions=(expression,))
        kernel: Kernel = module.get_function(expression)
        return kernel

    def address(self, array: Any) -> int:
        return int(array.data.ptr)

    def upload(self, array: np.ndarray) -> Any:
        return self.xp.asarray(array)

    def download(self, array: Any) -> np.ndarray:
        host: np.ndarray = self.xp.asnumpy(array)
        return host

    def staging(self, n_bytes: int) -> Staging:
        return CupyStaging(self, n_bytes)

    def output(self, items: int, dtype: Any) -> Output:
        return CupyOutput(self, items, dtype)

    def free_bytes(self) -> int | None:
        with self.active():
            return int(self.xp.cuda.runtime.memGetInfo()[0]) + int(self.xp.get_default_memory_pool().free_bytes())

    def csr(self, values: np.ndarray, pixels: np.ndarray, starts: np.ndarray, frame_pixels: int) -> Any:
        from cupyx.scipy.sparse import csr_matrix

        return csr_matrix(tuple(map(self.upload, (values, pixels, starts))), shape=(len(starts) - 1, frame_pixels))


class CupyStaging:
    """`gpuio.engine.Staging`: device memory, and page-locked host memory of the same size as soon as it is asked for."""

    def __init__(self, runtime: CupyRuntime, n_bytes: int) -> None:
        self._runtime, self._n_bytes = runtime, max(VECTOR, -(-n_bytes // VECTOR) * VECTOR)
        self._host: np.ndarray | None = None
        self._arrived, self._decoded = runtime.event(), runtime.event()
        with runtime.computing():
            room = runtime.xp.empty(self._n_bytes + PAGE, dtype=np.uint8)
            start = -runtime.address(room) % PAGE
            self.device = room[start:start + self._n_bytes]
            self._decoded.record(runtime.compute)
        weakref.finalize(self, _finish_copy, runtime, self._arrived).atexit = False

    @property
    def host(self) -> np.ndarray:
        with self._runtime.active():
            if self._host is None:
                self._host = _page_locked(self._runtime.xp, self._n_bytes)
            self._arrived.synchronize()
        return self._host

    @property
    def landing(self) -> Any:
        with self._runtime.active():
            self._decoded.synchronize()
        return self.device

    def push(self, n_bytes: int) -> None:
        if not 0 <= n_bytes <= self._n_bytes:
            raise ValueError(f"push of {n_bytes} bytes; the staging buffer has {self._n_bytes}")
        with self._runtime.active():
            assert self._host is not None, "what is pushed was written to `host`"
            copies = self._runtime.copies
            copies.wait_event(self._decoded)
            self.device.data.copy_from_host_async(self._host.ctypes.data, n_bytes, copies)
            self._arrived.record(copies)

    @contextmanager
    def reading(self) -> Iterator[None]:
        with self._runtime.active():
            reader = self._runtime.current()
            reader.wait_event(self._arrived)
            try:
                yield
            finally:
                self._decoded.record(reader)

    def is_free(self, memory: str) -> bool:
        with self._runtime.active():
            return bool((self._decoded if memory == "device" else self._arrived).done)


class CupyOutput:
    """`gpuio.engine.Output` in device memory."""

    def __init__(self, runtime: CupyRuntime, items: int, dtype: Any) -> None:
        self._runtime = runtime
        with runtime.active():
            self._home = runtime.current()
            self.array = runtime.xp.empty((items,), dtype)
            self._filled, self._used = runtime.event(), runtime.event()
        #: Streams whose work compute has to wait for, by address. The memory's last owner worked on the first.
        self._takers = {self._home.ptr: self._home}

    @contextmanager
    def filling(self) -> Iterator[None]:
        runtime = self._runtime
        with runtime.active():
            caller = runtime.current()
            for stream in {**self._takers, caller.ptr: caller}.values():
                self._wait_for(stream, runtime.compute)
            self._takers = {}
            with runtime.compute:
                try:
                    yield
                finally:
                    self._filled.record(runtime.compute)

    def take(self, stream: int | None = None) -> None:
        with self._runtime.active():
            taker = self._runtime.current()
            if stream not in (None, DLPACK_NO_WAIT):        # CUDA's number of the default stream is 0
                taker = self._runtime.xp.cuda.ExternalStream(0 if stream == DLPACK_DEFAULT else stream)
            if taker.ptr not in self._takers:
                taker.wait_event(self._filled)
                self._takers[taker.ptr] = taker

    def release(self) -> None:
        if self._runtime.is_forked:
            return
        with self._runtime.active():
            for stream in self._takers.values():
                self._wait_for(stream, self._home)
            self._home.wait_event(self._filled)

    def _wait_for(self, user: Any, then: Any) -> None:
        """Let stream `then` go on after what `user` was given up to now."""
        self._used.record(user)
        then.wait_event(self._used)


def _page_locked(cupy: Any, n_bytes: int) -> np.ndarray:
    """uint8[n_bytes] in whole pages; not from CuPy's pool, which rounds up to a power of two.

    Raises
    ------
    MemoryError
        The system gives no more of it.
    """
    try:
        memory = cupy.cuda.PinnedMemoryPointer(cupy.cuda.PinnedMemory(n_bytes), 0)
    except RuntimeError as error:
        if "cudaErrorMemoryAllocation" not in str(error):
            raise
        raise MemoryError(f"{n_bytes} bytes of page-locked host memory are not to be had") from error
    return np.frombuffer(memory, dtype=np.uint8, count=n_bytes)


def _finish_copy(runtime: CupyRuntime, arrived: Any) -> None:
    """Wait until a copy is over, before either of its sides is given back."""
    if not runtime.is_forked:
        with runtime.active():
            arrived.synchronize()
