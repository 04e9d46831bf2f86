"""Decoders of the CUDA engine: what stays the same for a stream is prepared once, a call is one record and one launch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from gpuio.engine import Decode, FrameDecoder, Staging
from gpuio.kernels import _launch
from gpuio.kernels._runtime import Kernel, Runtime
from gpuio.layout import Encoding
from gpuio.prepare import check_maps, check_placements


class CudaDecoder:
    """`gpuio.engine.FrameDecoder` of the CUDA engine; parameters as `gpuio.engine.Engine.decoder`.

    Parameters
    ----------
    compiled
        Gives the kernel of a source file and expression.
    buffers
        Staging buffers by device address; they are told when they are read.
    """

    def __init__(self, runtime: Runtime, compiled: Callable[[str, str], Kernel], buffers: Mapping[int, Staging],
                 encoding: Encoding, placements: np.ndarray, frame_pixels: int, dtype: np.dtype,
                 dark: np.ndarray | None, gain: np.ndarray | None) -> None:
        self.limits = check_placements(encoding, placements, frame_pixels)
        maps = {name: m for name, m in zip(("dark", "gain"), check_maps(dtype, frame_pixels, dark, gain), strict=True) if m is not None}
        variant = _launch.variant(encoding, dtype, dark="dark" in maps, gain="gain" in maps,
                                  map_dtype=next((m.dtype for m in maps.values()), None))
        self.runtime, self.buffers, self.kernel = runtime, buffers, compiled(variant.file, variant.expression)
        self.dtype, self.frame_pixels, self.lanes = dtype, frame_pixels, variant.lanes
        loose = _launch.entries(placements, encoding, variant.lanes, variant.lanes - 1)
        whole = _launch.begins_whole(placements, frame_pixels, variant.lanes)
        #: For output that begins at a multiple of 16 bytes, and for output that does not.
        self.entries = _launch.entries(placements, encoding, variant.lanes, 0) if whole else loose, loose
        self.call = np.zeros((), dtype=_launch.CALL)
        self.call["frame_pixels"], self.call["param"] = frame_pixels, encoding.param
        with runtime.computing():
            self._maps = {name: runtime.upload(_padded(m)) for name, m in maps.items()}
        for name, on_device in self._maps.items():
            self.call[name] = runtime.address(on_device)

    def bind(self, staged: Any, starts: np.ndarray, out: Any) -> Decode:
        """See `gpuio.engine.FrameDecoder.bind`.

        `staged` has to start at a multiple of 16 bytes and to have a size that is one, as `CudaEngine.staging` makes it:
        loads are up to 16 bytes wide and must end inside of it.

        Raises
        ------
        TypeError, ValueError
            A buffer is not of the form described.
        """
        return _Bound(self, staged, starts, out)


class _Bound:
    """Decodes from and into the buffers it was made with, and keeps them alive."""

    def __init__(self, decoder: CudaDecoder, staged: Any, starts: np.ndarray, out: Any) -> None:
        _check(decoder, staged, starts, out)
        runtime = decoder.runtime
        self._decoder, self._staged, self._starts, self._out = decoder, staged, starts, out
        self._buffer = decoder.buffers.get(runtime.address(staged))
        self._address, self._depth, self._size = runtime.address(out), len(out), int(staged.size)
        limits = decoder.limits
        self._least, self._most = -limits[:, 0], self._size - limits[:, 1]
        unused = limits[:, 0] == limits[:, 1]
        self._least[unused], self._most[unused] = np.iinfo(np.int64).min, np.iinfo(np.int64).max
        self._at_once = _launch.STARTS // starts.shape[1]
        self._call = decoder.call.copy()
        self._call["staged"], self._call["parts"] = runtime.address(staged), starts.shape[1]

    def __call__(self, first: int, count: int, at: int = 0) -> None:
        """Frames ``starts[first:first + count]`` into ``out[at:at + count]``.

        Raises
        ------
        IndexError
            There are no such frames.
        ValueError
            A frame reaches outside of the staged bytes: on the device such a read would cost the process its CUDA context.
        """
        if count < 0 or first < 0 or first + count > len(self._starts) or at < 0 or at + count > self._depth:
            raise IndexError(f"frames {first} to {first + count} into {at} to {at + count}: "
                             f"there are {len(self._starts)} starts, and out holds {self._depth} frames")
        starts = self._starts[first:first + count]
        used = starts[:, :len(self._least)]
        fits = (used >= self._least) & (used <= self._most)
        if not fits.all():
            bad = int(np.argmin(fits.all(axis=1)))
            raise ValueError(f"frame {first + bad} starts at {starts[bad].tolist()}; expected starts from {self._least.tolist()} "
                             f"to {self._most.tolist()} in {self._size} staged bytes")
        with self._decoder.runtime.computing(joined=True), reading(self._buffer):
            for done in range(0, count, self._at_once):
                self._launch(starts[done:done + self._at_once], at + done)

    def _launch(self, starts: np.ndarray, at: int) -> None:
        """Frames that begin at `starts` into ``out[at:]``; one launch for each 16 entries."""
        decoder, item = self._decoder, self._decoder.dtype.itemsize
        address = self._address + at * decoder.frame_pixels * item
        lead = address % _launch.VECTOR
        entries = decoder.entries[lead > 0]
        call = self._call.copy()
        call["out"], call["lead"], call["frames"] = address - lead, lead // item, len(starts)
        call["starts"][:starts.size] = starts.ravel()
        for first in range(0, len(entries), _launch.ENTRIES):
            some = entries[first:first + _launch.ENTRIES]
            call["entries"][:len(some)] = some
            grid, block = _launch.geometry(int(some["work"].max()), len(some), len(starts), decoder.frame_pixels, decoder.lanes)
            decoder.kernel(grid, block, (call,))


class JoinedDecoder:
    """A decoder of whole-array arithmetic, `inner`, whose work and memory are those of the compute stream."""

    def __init__(self, runtime: Runtime, inner: FrameDecoder) -> None:
        self._runtime, self._inner = runtime, inner

    def bind(self, staged: Any, starts: np.ndarray, out: Any) -> Decode:
        """See `gpuio.engine.FrameDecoder.bind`."""
        with self._runtime.computing():
            call = self._inner.bind(staged, starts, out)

        def decode(first: int, count: int, at: int = 0) -> None:
            with self._runtime.computing(joined=True):
                call(first, count, at)

        return decode


def reading(buffer: Staging | None) -> AbstractContextManager[Any]:
    """Work given inside reads `buffer`; None: memory that no transport fills."""
    return nullcontext() if buffer is None else buffer.reading()


def _check(decoder: CudaDecoder, staged: Any, starts: np.ndarray, out: Any) -> None:
    """Raise if a buffer is not of the form that `CudaDecoder.bind` asks for."""
    if staged is None:
        raise ValueError("packed bytes in host memory cannot be decoded on a device; expected a buffer of CudaEngine.staging")
    if (staged.dtype != np.uint8 or staged.ndim != 1 or not staged.flags.c_contiguous or staged.size % _launch.VECTOR
            or decoder.runtime.address(staged) % _launch.VECTOR):
        raise ValueError(f"staged {staged.dtype}{list(staged.shape)} is not uint8[n] that starts at a multiple of 16 bytes, "
                         "n a multiple of 16, as CudaEngine.staging makes it")
    if starts.dtype != np.int64 or out.dtype != decoder.dtype:
        raise TypeError(f"starts are {starts.dtype} and out is {out.dtype}; expected int64 and {decoder.dtype}")
    if starts.ndim != 2 or not len(decoder.limits) <= starts.shape[1] <= _launch.STARTS:
        raise ValueError(f"starts have shape {list(starts.shape)}; expected [frames, parts] with {len(decoder.limits)} "
                         f"to {_launch.STARTS} parts")
    if out.ndim != 2 or out.shape[1] != decoder.frame_pixels or not out.flags.c_contiguous:
        raise ValueError(f"out has shape {list(out.shape)}; expected [depth, {decoder.frame_pixels}] in C order")


def _padded(m: np.ndarray) -> np.ndarray:
    """`m` with zeros behind it, up to a multiple of 16 bytes."""
    return np.concatenate((m, np.zeros(-m.nbytes % _launch.VECTOR // m.itemsize, dtype=m.dtype)))
