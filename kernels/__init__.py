"""The CUDA engine: decoding, dark, gain and cast in one launch, repair in a second small one.

``driver.cuh`` holds the loop and its theory, ``<encoding>.cu`` what an encoding adds to it, ``_launch`` turns placements
into launches, ``_runtime`` is all that touches CUDA. Kernels are compiled when first needed, only the instantiation that
is needed, and kept by CuPy under the text of their source. CuPy is imported when an engine is made.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np

from gpuio.engine import FrameDecoder, RepairTable, Staging
from gpuio.kernels import _launch
from gpuio.kernels._decoder import CudaDecoder
from gpuio.kernels._runtime import Buffer, CupyRuntime, Kernel, Runtime, available
from gpuio.layout import Encoding

__all__ = ["CudaEngine", "available"]


class CudaEngine:
    """`gpuio.engine.Engine` on one CUDA device.

    Parameters
    ----------
    device
        Number of the CUDA device.
    runtime
        What stands for CUDA; CuPy if None. Tests run the engine and its kernels on the host with another one.

    Raises
    ------
    ImportError, RuntimeError
        CUDA is not there; `available` says so beforehand, with the reason.
    """

    encodings = _launch.ENCODINGS

    def __init__(self, device: int = 0, *, runtime: Runtime | None = None) -> None:
        self._runtime = CupyRuntime(device) if runtime is None else runtime
        self.name, self.xp = self._runtime.name, self._runtime.xp
        self._lock = threading.Lock()
        self._kernels: dict[tuple[str, str], Kernel] = {}
        self._buffers: weakref.WeakValueDictionary[int, Buffer] = weakref.WeakValueDictionary()
        self._repairs: tuple[RepairTable, tuple[Any, ...]] | None = None

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Uninitialised device memory."""
        with self._runtime.active():
            return self.xp.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Device memory of zeros."""
        with self._runtime.active():
            return self.xp.zeros(shape, dtype)

    def upload(self, array: np.ndarray) -> Any:
        """A copy on the device."""
        with self._runtime.active():
            return self._runtime.upload(array)

    def download(self, array: Any) -> np.ndarray:
        """A copy on the host, when all work given to the current stream is done."""
        with self._runtime.active():
            return self._runtime.download(array)

    def staging(self, n_bytes: int) -> Staging:
        """Page-locked host memory and device memory of `n_bytes`, rounded up to a multiple of 16.

        Reading `host` waits until the last `push` has left it, so ask for it each time before it is filled.
        """
        with self._runtime.active():
            buffer = self._runtime.staging(n_bytes)
        self._buffers[self._runtime.address(buffer.device)] = buffer
        return buffer

    def decoder(self, encoding: Encoding, placements: np.ndarray, frame_pixels: int, dtype: Any, *,
                dark: np.ndarray | None = None, gain: np.ndarray | None = None) -> FrameDecoder:
        """See `gpuio.engine.Engine.decoder`; compiles the kernel if this process has not had it yet."""
        return CudaDecoder(self._runtime, self._kernel, self._buffers, encoding, placements, frame_pixels, np.dtype(dtype), dark, gain)

    def repair(self, out: Any, table: RepairTable) -> None:
        """See `gpuio.engine.Engine.repair`.

        Raises
        ------
        TypeError
            `out` is neither float32 nor float64.
        ValueError
            `out` is not a stack of whole frames in C order, or `table` names pixels outside of them.
        """
        if out.dtype not in (np.float32, np.float64):
            raise TypeError(f"excluded pixels of dtype {out.dtype} cannot be repaired; expected float32 or float64")
        if out.ndim != 2 or not out.flags.c_contiguous:
            raise ValueError(f"repair: an array of shape {out.shape} is not a stack of flat frames in C order")
        frames, frame_pixels = (int(n) for n in out.shape)
        if frames == 0 or len(table.pixels) == 0:
            return
        _check_repairs(table, frame_pixels)
        pixels, starts, neighbours = self._repair_tables(table)
        call = np.zeros((), dtype=_launch.REPAIR_CALL)
        address = self._runtime.address
        call["out"], call["pixels"], call["starts"], call["neighbours"] = map(address, (out, pixels, starts, neighbours))
        call["n"], call["frames"], call["frame_pixels"] = len(table.pixels), frames, frame_pixels
        grid, block = _launch.repair_geometry(len(table.pixels), frames)
        kernel = self._kernel("corrections", f"repair<{_launch.C_TYPES[out.dtype]}>")
        with self._runtime.active():
            kernel(grid, block, (call,))

    def _repair_tables(self, table: RepairTable) -> tuple[Any, ...]:
        """`table` on the device; the last one is kept, since a stream uses one again and again."""
        kept = self._repairs
        if kept is None or kept[0] is not table:
            arrays = (table.pixels, table.starts, table.neighbours if len(table.neighbours) else np.zeros(1, np.int64))
            kept = self._repairs = table, tuple(self.upload(np.ascontiguousarray(a, dtype=np.int64)) for a in arrays)
        return kept[1]

    def _kernel(self, file: str, expression: str) -> Kernel:
        with self._lock:
            kernel = self._kernels.get((file, expression))
            if kernel is None:
                with self._runtime.active():
                    kernel = self._runtime.kernel(_launch.source(file), expression)
                self._kernels[file, expression] = kernel
        return kernel


def _check_repairs(table: RepairTable, frame_pixels: int) -> None:
    """Raise ValueError if `table` is inconsistent or names pixels outside of a frame."""
    starts = table.starts
    if (len(starts) != len(table.pixels) + 1 or starts[0] != 0 or starts[-1] != len(table.neighbours) or (np.diff(starts) < 0).any()):
        raise ValueError(f"repair table: starts do not divide {len(table.neighbours)} neighbours among {len(table.pixels)} pixels")
    for name in ("pixels", "neighbours"):
        indices = getattr(table, name)
        if len(indices) and not 0 <= indices.min() <= indices.max() < frame_pixels:
            raise ValueError(f"repair table: {name} reach from {indices.min()} to {indices.max()}; expected 0 to {frame_pixels - 1}")
