"""The CUDA engine: decoding, dark, gain and cast in one launch, repair in a second small one, and transposing before both
for arrays that are stored with navigation fastest.

``driver.cuh`` holds the loop and its theory, ``<encoding>.cu`` what an encoding adds to it, ``_launch`` turns placements
into launches, ``_runtime`` is all that touches CUDA, and has the theory of its streams; ``_available`` tells why it may not
be touched. Kernels are compiled when first needed, only the instantiation that is needed, and kept by CuPy under the text of
their source. CuPy is imported when an engine is made.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from gpuio import engine
from gpuio.conversion import ConvertingDecoder, bin_generally, is_native, repair_widened
from gpuio.engine import Add, Blocks, Entries, FrameDecoder, Inflater, Output, RepairTable, Staging, TransposeTable
from gpuio.inflation import why_not
from gpuio.kernels import _bin, _launch, _scatter, _transpose
from gpuio.kernels._available import available, forked
from gpuio.kernels._decoder import CudaDecoder, JoinedDecoder, reading
from gpuio.kernels._inflate import CudaInflater
from gpuio.kernels._runtime import CupyRuntime, Kernel, Runtime
from gpuio.layout import Encoding, Filter, Piece
from gpuio.prepare import check_bin, check_range, check_repair, check_scatter, check_sums, check_transpose

__all__ = ["CudaEngine", "available", "forked"]


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

    Notes
    -----
    Every method raises BackendUnavailable in a process that was forked from the one that made the engine.
    """

    encodings = _launch.ENCODINGS

    def __init__(self, device: int = 0, *, runtime: Runtime | None = None) -> None:
        self._runtime = CupyRuntime(device) if runtime is None else runtime
        self.name, self.xp = self._runtime.name, self._runtime.xp
        self._lock = threading.Lock()
        self._kernels: dict[tuple[str, str], Kernel] = {}
        self._buffers: weakref.WeakValueDictionary[int, Staging] = weakref.WeakValueDictionary()
        self._repairs: tuple[RepairTable, tuple[Any, ...]] | None = None
        self._transposed: tuple[TransposeTable, tuple[Any, ...]] | None = None

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Uninitialised device memory of the current stream."""
        with self._runtime.active():
            return self.xp.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Device memory of zeros, of the current stream."""
        with self._runtime.active():
            return self.xp.zeros(shape, dtype)

    def upload(self, array: np.ndarray) -> Any:
        """A copy on the device, of the current stream."""
        with self._runtime.active():
            return self._runtime.upload(array)

    def download(self, array: Any) -> np.ndarray:
        """A copy on the host, when all work given to the current stream is done."""
        with self._runtime.active():
            return self._runtime.download(array)

    def staging(self, n_bytes: int) -> Staging:
        """Device memory of `n_bytes`, rounded up to a multiple of 16, and as much page-locked host memory once `host` is asked for."""
        buffer = self._runtime.staging(n_bytes)
        self._buffers[self._runtime.address(buffer.device)] = buffer
        return buffer

    def output(self, items: int, dtype: Any) -> Output:
        """See `gpuio.engine.Output`; it belongs to the current stream."""
        return self._runtime.output(items, dtype)

    def computing(self, *, joined: bool = False) -> AbstractContextManager[Any]:
        """See `gpuio.engine.Engine.computing`."""
        return self._runtime.computing(joined=joined)

    def free_bytes(self) -> int | None:
        """Device memory that can still be had."""
        return self._runtime.free_bytes()

    def decoder(self, encoding: Encoding, placements: np.ndarray, frame_pixels: int, dtype: Any, *,
                dark: np.ndarray | None = None, gain: np.ndarray | None = None) -> FrameDecoder:
        """See `gpuio.engine.Engine.decoder`; compiles the kernel if this process has not had it yet."""
        dtype = np.dtype(dtype)
        if encoding.name not in self.encodings:
            raise ValueError(f"encoding {encoding.name!r} is unknown; expected one of {', '.join(sorted(self.encodings))}")
        if not is_native(encoding.dtype, dtype):
            with self.computing():
                return JoinedDecoder(self._runtime, ConvertingDecoder(self, encoding, placements, frame_pixels, dtype, dark, gain))
        return CudaDecoder(self._runtime, self._kernel, self._buffers, encoding, placements, frame_pixels, dtype, dark, gain)

    def repair(self, out: Any, table: RepairTable) -> None:
        """See `gpuio.engine.Engine.repair`."""
        check_repair(out, table)
        if not (len(out) and len(table.pixels)):
            return
        with self.computing(joined=True):
            if out.dtype.char not in "fdFD":
                repair_widened(self, out, table)
                return
            pixels, starts, neighbours = self._repair_tables(table)
            call, address = np.zeros((), dtype=_launch.REPAIR_CALL), self._runtime.address
            call["out"], call["pixels"], call["starts"], call["neighbours"] = map(address, (out, pixels, starts, neighbours))
            call["items"] = items = 2 if out.dtype.kind == "c" else 1
            call["n"], call["frames"], call["frame_pixels"] = len(table.pixels), out.shape[0], out.shape[1]
            grid, block = _launch.repair_geometry(len(table.pixels) * items, len(out))
            self._kernel("corrections", f"repair<f{8 * out.dtype.itemsize // items}>")(grid, block, (call,))

    def bin(self, frames: Any, out: Any, blocks: Blocks) -> None:
        """See `gpuio.engine.Engine.bin`."""
        planes = check_bin(frames, out, blocks)
        if not planes:
            return
        with self._runtime.active():         # has no memory of its own, so any stream will do
            if any(a.dtype not in _launch.C_TYPES for a in (frames, out)):
                bin_generally(frames, out, blocks)
                return
            call = _bin.call(planes, blocks)
            call["pixels"], call["out"] = map(self._runtime.address, (frames, out))
            grid, block = _bin.geometry(planes, blocks)
            self._kernel("bin", _bin.expression(frames.dtype, out.dtype))(grid, block, (call,))

    def adder(self, frames: Any, of_frames: Any, of_pixels: Any) -> Add:
        """See `gpuio.engine.Engine.adder`. Two reductions of the array module: device memory is read faster than packed bytes arrive."""
        check_sums(frames.dtype, frames.shape[1], of_frames, of_pixels)

        def add(first: int, count: int, at: int) -> None:
            check_range(first, count, at, len(frames), len(of_frames))
            with self._runtime.active():
                of_frames[at:at + count] += frames[first:first + count].sum(axis=1, dtype=of_frames.dtype)
                of_pixels[:] += frames[first:first + count].sum(axis=0, dtype=of_pixels.dtype)

        return add

    def frame_adder(self, encoding: Encoding, placements: np.ndarray, frame_pixels: int) -> None:
        """See `gpuio.engine.Engine.frame_adder`: frames are decoded first."""

    def transpose(self, staged: Any, out: Any, piece: Piece, table: TransposeTable) -> None:
        """See `gpuio.engine.Engine.transpose`."""
        check_transpose(staged, out, piece, table)
        if not len(table.starts):
            return
        size, address = out.dtype.itemsize, self._runtime.address
        if address(staged) % size or address(out) % size:
            raise ValueError(f"staged or out does not start at a multiple of the {size} bytes of an item; expected memory of this engine")
        kernel = self._kernel("transpose", f"transpose<{_transpose.ITEMS[size]}>")
        with self.computing(joined=True), reading(self._buffers.get(address(staged))):
            kept = self._transposed
            if kept is None or kept[0] is not table:
                kept = self._transposed = table, tuple(self.upload(a) for a in (table.starts // size, table.frames))
            call = _transpose.call(piece, size)
            call["staged"], call["out"], call["starts"], call["frames"] = map(address, (staged, out, *kept[1]))
            call["n"], call["frame_pixels"] = len(table.starts), out.shape[1]
            grid, block = _transpose.geometry(piece.rows * piece.repeats, len(table.starts))
            kernel(grid, block, (call,))

    def inflates(self, filters: Sequence[Filter]) -> str | None:
        """See `gpuio.engine.Engine.inflates`."""
        return why_not(filters)

    def inflater(self, filters: Sequence[Filter], chunk_bytes: int, item_bytes: int) -> Inflater:
        """See `gpuio.engine.Engine.inflater`; compiles the kernels if this process has not had them yet."""
        return CudaInflater(self._runtime, self._kernel, self._buffers, filters, chunk_bytes, item_bytes)

    def scatter(self, staged: Any, out: Any, entries: Entries) -> None:
        """See `gpuio.engine.Engine.scatter`."""
        check_scatter(staged, out, entries)
        if not entries.count:
            return
        call, address = np.zeros((), dtype=_scatter.CALL), self._runtime.address
        base = address(staged)
        call["pixels"], call["values"], call["starts"] = base + entries.pixels, base + entries.values, base + entries.starts
        call["out"], call["frames"], call["count"], call["frame_pixels"] = address(out), entries.frames, entries.count, out.shape[1]
        call["items"] = 2 if out.dtype.kind == "c" else 1
        grid, block = _scatter.geometry(entries.frames, entries.count)
        kernel = self._kernel("scatter", _scatter.expression(entries.pixel_dtype, out.dtype))
        with self.computing(joined=True), reading(self._buffers.get(base)):
            kernel(grid, block, (call,))

    def csr(self, values: np.ndarray, pixels: np.ndarray, starts: np.ndarray, frame_pixels: int) -> Any:
        """See `gpuio.engine.Engine.csr`."""
        with self._runtime.active():
            return self._runtime.csr(values, pixels, starts, frame_pixels)

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
                with engine.on_compile(expression), self._runtime.active():
                    kernel = self._runtime.kernel(_launch.source(file), expression)
                self._kernels[file, expression] = kernel
        return kernel
