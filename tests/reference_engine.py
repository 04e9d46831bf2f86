"""An engine in plain NumPy, pixel run by pixel run: slow, obvious, and independent of both real engines."""

from __future__ import annotations

import ctypes
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from gpuio.engine import Add, Blocks, Decode, HostOutput, RepairTable, TransposeTable
from gpuio.layout import PART, PIXELS, POS, REP_POS, REP_SRC, REPEATS, REVERSED, ROW_POS, ROW_SRC, ROWS, SKIPPED, SRC, Encoding, Piece


def unpack(blob: np.ndarray, encoding: Encoding, low_plane: np.ndarray | None) -> np.ndarray:
    """Whole groups of encoded bytes as pixels of the native dtype."""
    name, dtype = encoding.name, encoding.dtype
    if name == "plain":
        return blob.view(dtype)
    if name == "swap":
        return blob.view(dtype.newbyteorder(">")).astype(dtype)
    words = blob.reshape(-1, 8)[:, ::-1]
    if name == "mib_r1":
        return np.unpackbits(words, axis=1, bitorder="little").ravel()
    if name == "mib_r6":
        return words.ravel()
    if name == "mib_r12":
        return np.ascontiguousarray(words).view("<u2").ravel()
    if name == "mib_r24":
        low = np.ascontiguousarray(low_plane.reshape(-1, 8)[:, ::-1]).view("<u2").ravel()
        return np.ascontiguousarray(words).view("<u2").ravel().astype("u4") * 4096 + low
    raise ValueError(f"unknown encoding {name}")


def _bytes_at(staged: np.ndarray | None, start: int, size: int) -> np.ndarray:
    """A copy of bytes of the staging buffer, or of memory at an address."""
    if staged is None:
        return np.frombuffer(ctypes.string_at(start, size), np.uint8).copy()
    assert start >= 0 and start + size <= len(staged)
    return np.array(staged[start:start + size])


class _Staging:
    def __init__(self, n: int) -> None:
        base = np.empty(n + 4096, np.uint8)
        skip = -base.ctypes.data % 4096
        self.host = self.landing = self.device = base[skip:skip + n]

    def push(self, n_bytes: int) -> None:
        pass

    def reading(self) -> AbstractContextManager[None]:
        return nullcontext()

    def is_free(self, memory: str) -> bool:
        return True


class ReferenceEngine:
    """See `gpuio.engine.Engine`."""

    name, xp = "reference", np
    encodings = frozenset({"plain", "swap", "mib_r1", "mib_r6", "mib_r12", "mib_r24"})

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(bytearray(b"\xa5" * size), dtype=dtype).reshape(shape)      # never zeros by luck

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return np.zeros(shape, dtype)

    def upload(self, array: np.ndarray) -> np.ndarray:
        return array.copy()

    def download(self, array: np.ndarray) -> np.ndarray:
        return array

    def staging(self, n_bytes: int) -> _Staging:
        return _Staging(n_bytes)

    def output(self, items: int, dtype: Any) -> HostOutput:
        return HostOutput(self.empty((items,), dtype))

    def computing(self, *, joined: bool = False) -> AbstractContextManager[None]:
        return nullcontext()

    def free_bytes(self) -> None:
        return None

    def decoder(self, encoding, placements, frame_pixels, dtype, *, dark=None, gain=None):
        return _Decoder(encoding, placements, frame_pixels, np.dtype(dtype), dark, gain)

    def adder(self, frames: np.ndarray, of_frames: np.ndarray, of_pixels: np.ndarray) -> Add:
        def add(first: int, count: int, at: int) -> None:
            for i, frame in enumerate(frames[first:first + count]):
                of_frames[at + i] += frame.sum(dtype=of_frames.dtype)
                of_pixels[:] += frame.astype(of_pixels.dtype)

        return add

    def frame_adder(self, encoding, placements, frame_pixels) -> None:
        pass

    def repair(self, out: np.ndarray, table: RepairTable) -> None:
        before = out.copy()
        for i, pixel in enumerate(table.pixels.tolist()):
            mine = table.neighbours[table.starts[i]:table.starts[i + 1]]
            if len(mine):
                total = np.zeros(len(out), np.result_type(np.float64, out.dtype))
                for n in mine.tolist():
                    total = total + before[:, n]
                out[:, pixel] = total / len(mine)

    def bin(self, frames: np.ndarray, out: np.ndarray, blocks: Blocks) -> None:
        planes = frames.reshape(-1, blocks.rows * blocks.down, blocks.columns * blocks.across)
        wide = np.dtype({"b": "u8", "u": "u8", "i": "i8", "f": "f8", "c": "c16"}[frames.dtype.kind])
        for plane, to in zip(planes, out.reshape(-1, blocks.rows, blocks.columns), strict=True):
            for y in range(blocks.rows):
                for x in range(blocks.columns):
                    total = wide.type(0)
                    block = plane[y * blocks.down:(y + 1) * blocks.down, x * blocks.across:(x + 1) * blocks.across]
                    for value in block.astype(wide).ravel():
                        with np.errstate(over="ignore"):
                            total = total + value
                    with np.errstate(all="ignore"):
                        to[y, x] = np.asarray(total).astype(out.dtype)

    def transpose(self, staged: np.ndarray, out: np.ndarray, piece: Piece, table: TransposeTable) -> None:
        size = out.dtype.itemsize
        for start, frame in zip(table.starts.tolist(), table.frames.tolist(), strict=True):
            for r in range(piece.rows):
                for k in range(piece.repeats):
                    item = _bytes_at(staged, start + piece.src + r * piece.row_src + k * piece.rep_src, size)
                    out[frame, piece.pos + r * piece.row_pos + k * piece.rep_pos] = item.view(out.dtype)[0]


class _Decoder:
    def __init__(self, encoding, placements, frame_pixels, dtype, dark, gain):
        self.encoding, self.rows, self.pixels = encoding, placements.tolist(), frame_pixels
        self.dtype, self.dark, self.gain = dtype, dark, gain

    def bind(self, staged: np.ndarray, starts: np.ndarray, out: np.ndarray) -> Decode:
        def decode(first: int, count: int, at: int = 0) -> None:
            for i in range(count):
                self._frame(staged, starts[first + i], out[at + i])

        return decode

    def _frame(self, staged, starts, out):
        e = self.encoding
        for p in self.rows:
            groups = -(-(p[SKIPPED] + p[PIXELS]) // e.group_pixels)
            for r in range(p[ROWS]):
                for k in range(p[REPEATS]):
                    src = int(starts[p[PART]]) + p[SRC] + r * p[ROW_SRC] + k * p[REP_SRC]
                    pos = p[POS] + r * p[ROW_POS] + k * p[REP_POS]
                    blob = _bytes_at(staged, src, groups * e.group_bytes)
                    low = _bytes_at(staged, src + e.param, groups * e.group_bytes) if e.param else None
                    values = unpack(blob, e, low)[p[SKIPPED]:p[SKIPPED] + p[PIXELS]]
                    where = pos + np.arange(p[PIXELS]) * (-1 if p[REVERSED] else 1)
                    assert where.min() >= 0 and where.max() < self.pixels
                    with np.errstate(all="ignore"):
                        if values.dtype.kind == "c" and self.dtype.kind != "c":
                            values = values.real
                        v = values.astype(self.dtype)
                    if self.dark is not None or self.gain is not None:
                        wide = v.astype(np.result_type(v.dtype, np.float64))
                        if self.dark is not None:
                            wide = wide - self.dark[where]
                        if self.gain is not None:
                            wide = wide * self.gain[where]
                        v = wide.astype(self.dtype)
                    out[where] = v
