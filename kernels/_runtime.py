"""What the engine asks of CUDA, and CuPy's answer. Everything that needs a driver is in this file.

Order of work. Kernels run on the caller's current stream. Copies to the device have a stream of their own, so that the
bytes of the next block travel while this one is decoded and used; two events for each staging buffer keep them apart:

- *decoded*, on the stream that reads the buffer: the next copy into it waits for that;
- *arrived*, on the copy stream: the stream that pushes goes on only after it, and so do later decode calls.

The host waits for neither. It waits only where it wants to fill host memory whose last copy is still under way.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from importlib import metadata
from typing import Any, Protocol

import numpy as np

from gpuio.engine import Staging
from gpuio.kernels._launch import VECTOR

#: Launches a kernel: ``kernel(grid, block, (argument record,))``.
Kernel = Callable[[tuple[int, int, int], tuple[int, int, int], tuple[np.ndarray]], None]

#: Compute capability of the oldest devices that kernels are made for (Volta), and that CUDA 13 compiles for (Turing).
OLDEST, OLDEST_OF_CUDA_13 = (7, 0), (7, 5)
#: Results equal those of the CPU bit for bit, so nothing may be contracted.
COMPILE_OPTIONS = ("-std=c++17", "--fmad=false")


class Buffer(Staging, Protocol):
    """A staging buffer that is told when it is read."""

    def decoded(self) -> None:
        """Work that reads the buffer has been given to the current stream."""


class Runtime(Protocol):
    """Memory, compiler and streams of one device."""

    name: str
    xp: Any

    def active(self) -> AbstractContextManager[Any]:
        """Make the device the current one."""

    def kernel(self, source: str, expression: str) -> Kernel:
        """The function `expression` of `source`, compiled when first asked for."""

    def address(self, array: Any) -> int:
        """Where device memory begins."""

    def upload(self, array: np.ndarray) -> Any:
        """A copy on the device, there when this returns."""

    def download(self, array: Any) -> np.ndarray:
        """A copy on the host."""

    def staging(self, n_bytes: int) -> Buffer:
        """A staging buffer; its device side starts at a multiple of 16 and has a size that is one."""


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
        self._device = cupy.cuda.Device(device)
        with self._device:
            self._copies = cupy.cuda.Stream(non_blocking=True)

    def active(self) -> AbstractContextManager[Any]:
        device: AbstractContextManager[Any] = self._device
        return device

    def kernel(self, source: str, expression: str) -> Kernel:
        module = self.xp.RawModule(code=source, options=COMPILE_OPTIONS, name_expressions=(expression,))
        kernel: Kernel = module.get_function(expression)
        return kernel

    def address(self, array: Any) -> int:
        return int(array.data.ptr)

    def upload(self, array: np.ndarray) -> Any:
        on_device = self.xp.asarray(array)
        self.xp.cuda.get_current_stream().synchronize()     # it may be used on any stream from now on
        return on_device

    def download(self, array: Any) -> np.ndarray:
        host: np.ndarray = self.xp.asnumpy(array)
        return host

    def staging(self, n_bytes: int) -> Buffer:
        return CupyStaging(self.xp, self._copies, n_bytes)


class CupyStaging:
    """Page-locked host memory and device memory of the same size, a multiple of 16."""

    def __init__(self, cupy: Any, copies: Any, n_bytes: int) -> None:
        n_bytes = max(VECTOR, -(-n_bytes // VECTOR) * VECTOR)
        # Not from the pool, which rounds up to a power of two; cudaHostAlloc gives whole pages.
        memory = cupy.cuda.PinnedMemoryPointer(cupy.cuda.PinnedMemory(n_bytes), 0)
        self._host = np.frombuffer(memory, dtype=np.uint8, count=n_bytes)
        self.device = cupy.empty(n_bytes, dtype=np.uint8)
        self._copies, self._current = copies, cupy.cuda.get_current_stream
        self._arrived, self._decoded = (cupy.cuda.Event(disable_timing=True) for _ in range(2))
        # The device memory may still be in use by whoever had it before.
        self._decoded.record(self._current())
        # Neither side is given back while a copy is under way.
        weakref.finalize(self, self._arrived.synchronize).atexit = False

    @property
    def host(self) -> np.ndarray:
        """uint8[n], aligned to 4096. Waits until the last `push` has read it, so that it may be filled again."""
        self._arrived.synchronize()
        return self._host

    def push(self, n_bytes: int) -> None:
        if not 0 <= n_bytes <= len(self._host):
            raise ValueError(f"push of {n_bytes} bytes; the staging buffer has {len(self._host)}")
        self._copies.wait_event(self._decoded)
        self.device.data.copy_from_host_async(self._host.ctypes.data, n_bytes, self._copies)
        self._arrived.record(self._copies)
        self._current().wait_event(self._arrived)

    def decoded(self) -> None:
        self._decoded.record(self._current())


@cache
def available(device: int = 0) -> str | None:
    """None if CUDA device number `device` can be used, else the reason and the remedy in one line."""
    installed = [name for name in ("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x") if _has(name)]
    if len(installed) > 1:
        return f"{' and '.join(installed)} are installed together, and either may be imported; uninstall all but one"
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed; install gpuio[cuda13] or gpuio[cuda12], whichever fits the driver"
    if not _has_driver():
        return "no NVIDIA driver is installed, or it is not visible here (containers need the NVIDIA runtime)"
    try:
        import cupy
    except ImportError as error:
        return f"CuPy is installed but cannot be imported: {_line(error)}"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except RuntimeError as error:
        return f"CUDA does not start: {_line(error)}; check the driver with nvidia-smi"
    if device >= count:
        return f"there is no CUDA device {device}; {count} found" + (", check CUDA_VISIBLE_DEVICES" if count == 0 else "")
    try:
        toolkit = cupy.cuda.nvrtc.getVersion()[0]
    except (RuntimeError, ImportError, OSError) as error:
        return f"the CUDA compiler library NVRTC is not found ({_line(error)}); install gpuio[cuda13] or gpuio[cuda12]"
    number = str(cupy.cuda.Device(device).compute_capability)
    capability = int(number[:-1]), int(number[-1])
    if capability < OLDEST:
        return f"CUDA device {device} has compute capability {capability[0]}.{capability[1]}; expected {OLDEST[0]}.{OLDEST[1]} or above"
    if toolkit >= 13 and capability < OLDEST_OF_CUDA_13:
        return (f"CUDA {toolkit} does not compile for device {device} of compute capability {capability[0]}.{capability[1]}; "
                "install gpuio[cuda12]")
    return None


def _has(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _has_driver() -> bool:
    """Whether the driver's library loads: asked before CuPy is imported, which takes much longer."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
