"""The engine without a GPU: NumPy arrays, decoded by loops that numba compiles.

To add an encoding, add a module with its `Unpacker` and a row to `ENCODINGS` (and one to ``tests/decode/cases.py``).
numba is imported when the first decoder is made.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np

from gpuio.conversion import ConvertingDecoder, bin_generally, is_native, repair_widened
from gpuio.cpu_fallback._table import CACHED_FRAME, WIDE_MAPS, plan_walk
from gpuio.engine import PAGE, Add, Blocks, Decode, Entries, FrameAdder, FrameDecoder, HostOutput, Inflater, RepairTable, TransposeTable
from gpuio.errors import BackendUnavailable
from gpuio.extras import extra
from gpuio.inflation import why_not
from gpuio.layout import Encoding, Filter, Piece
from gpuio.prepare import allowed_starts, check_bin, check_maps, check_placements, check_repair, check_scatter, check_transpose

#: Encoding -> its module here and the class in it.
ENCODINGS = {
    "plain": ("plain", "Plain"),
    "swap": ("swap", "Swap"),
    "mib_r1": ("mib_r1", "R1"),
    "mib_r6": ("mib_r6", "R6"),
    "mib_r12": ("mib_r12", "R12"),
    "mib_r24": ("mib_r24", "R24"),
    "uint12_le": ("uint12_le", "UInt12LE"),
    "uint4_le": ("uint4_le", "UInt4LE"),
}

CACHE_LINE = 64


def aligned(n_bytes: int, alignment: int, make: Callable[..., np.ndarray] = np.empty) -> np.ndarray:
    """uint8[n_bytes] as NumPy's function makes it, whose address is a multiple of `alignment`."""
    room = make(n_bytes + alignment, dtype=np.uint8)
    start = -room.ctypes.data % alignment
    return room[start:start + n_bytes]


def array(shape: tuple[int, ...], dtype: Any, make: Callable[..., np.ndarray]) -> np.ndarray:
    """dtype[shape] as NumPy's function makes it. It starts at a cache line, so that vectors do not straddle two."""
    dtype = np.dtype(dtype)
    n_bytes = dtype.itemsize
    for n in shape:
        n_bytes *= n
    return aligned(n_bytes, CACHE_LINE, make).view(dtype).reshape(shape)


class CpuStaging:
    """`gpuio.engine.Staging` where host and device are the same memory."""

    def __init__(self, n_bytes: int) -> None:
        self.host = self.landing = self.device = aligned(n_bytes, PAGE)

    def push(self, n_bytes: int) -> None:
        """Nothing to do: what is in `host` is in `device`."""

    def reading(self) -> AbstractContextManager[None]:
        return nullcontext()

    def is_free(self, memory: str) -> bool:
        return True


class CpuEngine:
    """`gpuio.engine.Engine` on NumPy.

    Raises
    ------
    BackendUnavailable
        The host stores numbers with the highest byte first.
    """

    name = "cpu"
    xp: Any = np
    encodings = frozenset(ENCODINGS)

    def __init__(self) -> None:
        if sys.byteorder != "little":
            raise BackendUnavailable("the CPU engine is not available: this host is big-endian; expected a little-endian one")

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array that is not cleared; it starts at a cache line."""
        return array(shape, dtype, np.empty)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """The same, cleared."""
        return array(shape, dtype, np.zeros)

    def upload(self, array: np.ndarray) -> np.ndarray:
        """The array itself."""
        return array

    def download(self, array: Any) -> np.ndarray:
        """The array itself."""
        return np.asarray(array)

    def staging(self, n_bytes: int) -> CpuStaging:
        """Page-aligned memory, as direct I/O needs it."""
        return CpuStaging(n_bytes)

    def output(self, items: int, dtype: Any) -> HostOutput:
        return HostOutput(self.empty((items,), dtype))

    def computing(self, *, joined: bool = False) -> AbstractContextManager[None]:
        return nullcontext()

    def free_bytes(self) -> None:
        return None

    def decoder(self, encoding: Encoding, placements: np.ndarray, frame_pixels: int, dtype: Any, *,
                dark: np.ndarray | None = None, gain: np.ndarray | None = None) -> FrameDecoder:
        """See `gpuio.engine.Engine.decoder`. The first decoder of a kind on a machine takes a second to compile."""
        dtype = np.dtype(dtype)
        if encoding.name not in ENCODINGS:
            raise ValueError(f"encoding {encoding.name!r} is unknown; expected one of {', '.join(ENCODINGS)}")
        if not is_native(encoding.dtype, dtype):
            return ConvertingDecoder(self, encoding, placements, frame_pixels, dtype, dark, gain)
        return CpuDecoder(encoding, placements, frame_pixels, dtype, dark, gain)

    def repair(self, out: Any, table: RepairTable) -> None:
        """See `gpuio.engine.Engine.repair`."""
        check_repair(out, table)
        if out.dtype.char not in "fdFD" or not out.dtype.isnative:
            repair_widened(self, out, table)
            return
        from gpuio.cpu_fallback._repair import repair

        items = 2 if out.dtype.kind == "c" else 1
        values = out.view(f"f{out.dtype.itemsize // items}")
        repair(values, *(np.ascontiguousarray(column, dtype=np.int64) for column in (table.pixels, table.starts, table.neighbours)), items)

    def bin(self, frames: Any, out: Any, blocks: Blocks) -> None:
        """See `gpuio.engine.Engine.bin`."""
        check_bin(frames, out, blocks)
        if not is_native(frames.dtype, out.dtype):
            bin_generally(frames, out, blocks)
            return
        from gpuio.cpu_fallback._bin import bin_frames

        bin_frames(frames.reshape(-1, blocks.columns * blocks.across), out.reshape(-1, blocks.columns), blocks.down, blocks.across)

    def adder(self, frames: np.ndarray, of_frames: np.ndarray, of_pixels: np.ndarray) -> Add:
        """See `gpuio.engine.Engine.adder`."""
        from gpuio.cpu_fallback._adder import add_decoded

        return add_decoded(frames, of_frames, of_pixels)

    def frame_adder(self, encoding: Encoding, placements: np.ndarray, frame_pixels: int) -> FrameAdder | None:
        """See `gpuio.engine.Engine.frame_adder`: for frames that are a single run of pixels."""
        from gpuio.cpu_fallback._adder import PackedAdder, single_run
        from gpuio.cpu_fallback._driver import find

        ours = encoding.name in ENCODINGS and is_native(encoding.dtype, encoding.dtype)
        entry = single_run(encoding, placements, frame_pixels) if ours else None
        if entry is None:
            return None
        limits = check_placements(encoding, placements, frame_pixels)
        return PackedAdder(find(*ENCODINGS[encoding.name], encoding.dtype), encoding, entry, limits)

    def transpose(self, staged: Any, out: Any, piece: Piece, table: TransposeTable) -> None:
        """See `gpuio.engine.Engine.transpose`."""
        check_transpose(staged, out, piece, table)
        from gpuio.cpu_fallback._transpose import transpose

        transpose(staged, out, piece, table)

    def inflates(self, filters: Sequence[Filter]) -> str | None:
        """See `gpuio.engine.Engine.inflates`."""
        return why_not(filters)

    def inflater(self, filters: Sequence[Filter], chunk_bytes: int, item_bytes: int) -> Inflater:
        """See `gpuio.engine.Engine.inflater`. The first one on a machine takes some seconds to compile."""
        from gpuio.cpu_fallback._inflate import CpuInflater

        return CpuInflater(filters, chunk_bytes, item_bytes)

    def scatter(self, staged: Any, out: Any, entries: Entries) -> None:
        """See `gpuio.engine.Engine.scatter`."""
        check_scatter(staged, out, entries)
        from gpuio.cpu_fallback._scatter import scatter

        scatter(staged, out, entries)

    def csr(self, values: np.ndarray, pixels: np.ndarray, starts: np.ndarray, frame_pixels: int) -> Any:
        """See `gpuio.engine.Engine.csr`."""
        with extra("sparse"):
            from scipy.sparse import csr_matrix
        return csr_matrix((values, pixels, starts), shape=(len(starts) - 1, frame_pixels))


class CpuDecoder:
    """`gpuio.engine.FrameDecoder` around the compiled loop. Any number of threads may decode with it at once."""

    def __init__(self, encoding: Encoding, placements: np.ndarray, frame_pixels: int, dtype: np.dtype,
                 dark: np.ndarray | None, gain: np.ndarray | None) -> None:
        from gpuio.cpu_fallback._driver import compile_variant, find

        unpacker = find(*ENCODINGS[encoding.name], encoding.dtype)
        if (encoding.group_bytes, encoding.group_pixels) != (unpacker.group_bytes, unpacker.group_pixels):
            raise ValueError(f"encoding {encoding.name} of {encoding.dtype}: groups of {encoding.group_bytes} bytes and "
                             f"{encoding.group_pixels} pixels; expected {unpacker.group_bytes} and {unpacker.group_pixels}")
        self._limits = check_placements(encoding, placements, frame_pixels)
        self._dark, self._gain = check_maps(dtype, frame_pixels, dark, gain)
        if self._dark is not None and self._gain is not None and 2 * 8 * frame_pixels <= WIDE_MAPS:
            self._dark, self._gain = self._dark.astype(np.float64), self._gain.astype(np.float64)
        maps = [m for m in (self._dark, self._gain) if m is not None]
        kind = "" if not maps else maps[0].dtype.str[1:] + ("d" if self._dark is not None else "") + ("g" if self._gain is not None else "")
        self._walk = plan_walk(placements, encoding, unpacker.step, sum(m.nbytes for m in maps))
        walk = self._walk
        # Addresses that tiles have to be multiples of to be stored past the cache.
        self._unit = min(CACHE_LINE, unpacker.step * dtype.itemsize)
        frame_bytes = frame_pixels * dtype.itemsize
        self._past_cache = walk.past_cache and frame_bytes > CACHED_FRAME and frame_bytes % self._unit == 0
        self._compiled = partial(compile_variant, unpacker, _target(encoding.dtype, dtype), kind, walk.known_pixels, walk.known_repeats,
                                 walk.ahead, walk.halves and not kind.endswith("dg"))       # with both, stores are half as wide
        self._compiled(past_cache=self._past_cache)
        self._dtype, self._frame_pixels, self._param = dtype, frame_pixels, encoding.param

    def bind(self, staged: Any, starts: np.ndarray, out: np.ndarray) -> Decode:
        """See `gpuio.engine.FrameDecoder.bind`.

        Raises
        ------
        TypeError, ValueError
            Arrays of another dtype, shape or memory order than the protocol says. The returned call raises IndexError
            for frames that `starts` or `out` do not have, ValueError for a start outside of `staged`.
        """
        frames, parts = _shape(starts, "starts", np.dtype(np.int64))
        depth, pixels = _shape(out, "out", self._dtype)
        if parts < len(self._limits) or pixels != self._frame_pixels or not out.flags.writeable:
            raise ValueError(f"starts {list(starts.shape)} and out {list(out.shape)} do not fit; expected int64[frames, parts] of "
                             f"{len(self._limits)} parts or more, and writeable {self._dtype}[depth, {self._frame_pixels}]")
        src, allowed = 0, np.empty((0, 2), dtype=np.int64)          # addresses cannot be checked
        if staged is not None:
            if staged.dtype != np.uint8 or staged.ndim != 1 or not staged.flags.c_contiguous:
                raise ValueError(f"staged is {staged.dtype}{list(staged.shape)}; expected contiguous uint8[n]")
            src, allowed = staged.ctypes.data, allowed_starts(self._limits, staged.size)

        # Addresses are taken once: `array.ctypes.data` costs more than a call of the loop.
        walk, param, maps = self._walk, self._param, (self._dark, self._gain)
        dark, gain = (0 if m is None else m.ctypes.data for m in maps)
        table, entries, height, band, stripe = walk.table.ctypes.data, len(walk.table), walk.height, walk.band, walk.stripe
        limits, n_limits = allowed.ctypes.data, len(allowed)
        first_start, start_bytes = starts.ctypes.data, starts.strides[0]
        first_out, frame_bytes = out.ctypes.data, pixels * out.itemsize
        loop = self._compiled(past_cache=self._past_cache and first_out % self._unit == 0)

        def decode(first: int, count: int, at: int = 0) -> None:
            if first < 0 or at < 0 or count < 0 or first + count > frames or at + count > depth:
                raise IndexError(f"frames {first} to {first + count} into {at} to {at + count}: "
                                 f"there are {len(starts)} starts, and out holds {len(out)} frames")
            bad = loop(src, first_start + first * start_bytes, count, parts, limits, n_limits, table, entries, height, band, stripe,
                       first_out + at * frame_bytes, dark, gain, pixels, param)
            if bad >= 0:
                raise ValueError(f"frame {first + bad} starts at {starts[first + bad].tolist()}; expected starts from "
                                 f"{allowed[:, 0].tolist()} to {allowed[:, 1].tolist()} in {staged.size} staged bytes")

        decode.owners = (staged, starts, out, allowed, walk, maps)  # type: ignore[attr-defined]  # keeps alive what addresses point into
        return decode


def _target(source: np.dtype, dtype: np.dtype) -> str:
    """The loop's name of an output dtype. Bits of integers do not depend on the sign, but for reals beyond int64."""
    unsigned = dtype.kind == "i" and not (source.kind == "f" and dtype.itemsize == 8)
    return f"u{dtype.itemsize}" if unsigned else dtype.str[1:]


def _shape(array: np.ndarray, name: str, dtype: np.dtype) -> tuple[int, int]:
    if array.dtype != dtype:
        raise TypeError(f"{name} is {array.dtype}; expected {dtype}")
    if array.ndim != 2 or not array.flags.c_contiguous:
        raise ValueError(f"{name} has shape {list(array.shape)} and strides {list(array.strides)}; expected two axes in C order")
    return array.shape[0], array.shape[1]

