"""Decoding into a box of the detector: what surrounds an engine's decoder, so that any layout and any box give the right pixels.

Clipped placements where the box allows them, whole frames and a crop where it does not; pixels that nothing is stored for
become zero, frames that lack parts get decoders without these, excluded pixels are repaired.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from gpuio.blocks import Block
from gpuio.corrections import CorrectionSet
from gpuio.engine import Blocks, Decode, Engine, RepairTable, cpu_vendor
from gpuio.geometry.plan import clip, is_rectangle
from gpuio.layout import PART, PIXELS, REPEATS, ROWS, Layout
from gpuio.reduction import Reduction
from gpuio.shape import Shape, Slice

#: Output of a tile on the CPU: whoever reads the tile should find it in the cache. Measured on AMD EPYC (L2 of 1 MiB, fast L3),
#: 2 MiB is 1.4 times as fast as 512 KiB for 16-bit pixels; on Intel Cascade Lake (L2 of 1 MiB) it is a third slower.
CPU_TILE_BYTES = 2 << 20 if cpu_vendor() == "AuthenticAMD" else 512 << 10
#: Decoded frames on a device that a box is cut from, or that are binned, at a time.
DEVICE_SCRATCH_BYTES = 32 << 20
#: Decoders to keep for frames that lack parts, one for each set of parts; each may hold dark and gain maps.
PARTIAL_DECODERS = 8


@dataclass(frozen=True, slots=True)
class Box:
    """A box of the detector (of the reduced one, where there is a reduction) that tiles are cut to, and its number in the tiling scheme."""

    origin: tuple[int, ...]
    shape: tuple[int, ...]
    index: int = 0

    @classmethod
    def whole(cls, layout: Layout, reduction: Reduction | None = None) -> Box:
        """All of it."""
        shape = layout.sig_shape if reduction is None else reduction.shape
        return cls((0,) * len(shape), shape)

    def on_detector(self, reduction: Reduction | None) -> Box:
        """The pixels of the detector that this box is made from."""
        return self if reduction is None else Box(*reduction.area(self.origin, self.shape), self.index)


class BoxDecoder:
    """Decodes frames into a box: directly by clipped placements, or whole and cropped where that is needed."""

    def __init__(self, layout: Layout, engine: Engine, box: Box, placements: np.ndarray, dtype: np.dtype,
                 corrections: CorrectionSet | None, repair_whole: bool, reduction: Reduction | None = None) -> None:
        self.box, self._engine, self._layout, self.dtype = box, engine, layout, dtype
        self.pixels = int(np.prod(box.shape))
        self._target = box.on_detector(reduction)
        self._corrected = corrections is not None and corrections.have_corrections()
        self._blocks = _blocks(box, reduction)
        self.is_whole = self._target.shape == layout.sig_shape and self._blocks is None
        self._cropped = self._needs_crop(layout, self._target, corrections, repair_whole)
        area = Box.whole(layout) if self._cropped else self._target
        self._area_pixels = int(np.prod(area.shape))
        #: What pixels are before they are summed: as stored, or as wide as corrections need.
        self._stored = dtype if self._blocks is None else np.result_type(np.float32, layout.dtype) if self._corrected else layout.dtype
        dark = gain = None
        self._repair: RepairTable | None = None
        if corrections is not None and self._corrected:
            corrections.check(layout.sig_shape)
            dark, gain = (_cut(m, layout.sig_shape, area) for m in (corrections.dark_flat(), corrections.gain_flat()))
            cut = None if area.shape == layout.sig_shape else Slice(area.origin, Shape(area.shape, sig_dims=len(area.shape)))
            self._repair = corrections.repair_table(layout.sig_shape, cut)
        if self._corrected and dtype.kind not in "fc":
            raise TypeError(f"corrections need a floating output dtype; {dtype} was asked for")
        # Pixels that no placement names (gaps between chips) are zero.
        self._clear = int(placements[:, PIXELS] @ (placements[:, REPEATS] * placements[:, ROWS])) < self._area_pixels
        self._make = lambda table: engine.decoder(layout.encoding, table, self._area_pixels, self._stored, dark=dark, gain=gain)
        self._placements = placements
        self._decoder = self._make(placements)
        self._partial: dict[bytes, Any] = {}        # decoders for frames that lack parts
        self._local = threading.local()             # scratch: threads that decode at the same time need their own

    @staticmethod
    def _needs_crop(layout: Layout, box: Box, corrections: CorrectionSet | None, repair_whole: bool) -> bool:
        if box.shape == layout.sig_shape:
            return False
        if repair_whole and corrections is not None and corrections.get_excluded_pixels() is not None:
            return True
        return not is_rectangle(layout.sig_shape, box.origin, box.shape)

    @classmethod
    def placements(cls, layout: Layout, whole: np.ndarray, box: Box, corrections: CorrectionSet | None, repair_whole: bool,
                   reduction: Reduction | None = None) -> np.ndarray:
        """What a decoder of this box takes from the frame, whose own placements are `whole`."""
        box = box.on_detector(reduction)
        if box.shape == layout.sig_shape or cls._needs_crop(layout, box, corrections, repair_whole):
            return whole
        clipped = clip(whole, layout.encoding, layout.sig_shape, box.origin, box.shape)
        assert clipped is not None
        return clipped

    def is_view(self, dtype: np.dtype) -> bool:
        """Whether stored frames are already what is wanted, so that a mapped file can be handed out as it is."""
        if not (self._engine.name == "cpu" and self.is_whole and not self._corrected and self._layout.encoding.name == "plain"
                and dtype == self._layout.dtype and dtype.kind != "b" and len(self._layout.pieces) == 1):
            return False
        piece = self._layout.pieces[0]
        rows_follow = piece.rows == 1 or (piece.row_src == piece.pixels * dtype.itemsize and piece.row_pos == piece.pixels)
        return rows_follow and piece.repeats == 1 and not (piece.pos or piece.skipped or piece.reversed)

    def bind(self, block: Block, out: Any) -> Decode:
        """As `Block.bind`, with what has to happen around the decoding; `out` is dtype[depth, pixels]."""
        if not (self._cropped or self._blocks or self._repair is not None or self._clear):
            return self._bind_parts(block, out)
        if not self._cropped and self._blocks is None:
            inner = self._bind_parts(block, out)

            def decode(first: int, count: int, at: int = 0) -> None:
                if self._clear:
                    out[at:at + count] = 0
                inner(first, count, at=at)
                if self._repair is not None:
                    self._engine.repair(out[at:at + count], self._repair)

            return decode
        return self._bind_through_scratch(block, out)

    def _bind_parts(self, block: Block, out: Any) -> Decode:
        """As `Block.bind`; pixels of parts that a frame lacks become zero."""
        whole = block.bind(self._decoder, out)
        missing = block.plan.missing
        if missing is None:
            return whole

        def decode(first: int, count: int, at: int = 0) -> None:
            lacks = missing[first:first + count]
            edges = np.flatnonzero((lacks[1:] != lacks[:-1]).any(axis=1)) + 1
            for start, stop in pairwise((0, *edges.tolist(), count) if count else ()):
                call = whole
                if lacks[start].any():
                    out[at + start:at + stop] = 0
                    call = block.bind_once(self._without(lacks[start]), out)
                call(first + start, stop - start, at=at + start)

        return decode

    def _without(self, lacks: np.ndarray) -> Any:
        """A decoder that leaves out parts: bool[parts]."""
        key = lacks.tobytes()
        decoder = self._partial.get(key)
        if decoder is None:
            if len(self._partial) >= PARTIAL_DECODERS:
                self._partial.clear()
            decoder = self._partial[key] = self._make(self._placements[~lacks[self._placements[:, PART]]])
        return decoder

    def _bind_through_scratch(self, block: Block, out: Any) -> Decode:
        """Decode into scratch, repair there, cut the box out of it, sum blocks: few frames at a time, so that all stays in the cache."""
        room = CPU_TILE_BYTES if self._engine.name == "cpu" else DEVICE_SCRATCH_BYTES
        few = max(1, min(len(out), room // (self._area_pixels * self._stored.itemsize)))
        scratch = getattr(self._local, "scratch", None)
        if scratch is None or len(scratch) < few:
            scratch = self._local.scratch = self._engine.empty((few, self._area_pixels), self._stored)
        inner = self._bind_parts(block, scratch)
        crop = (slice(None), *(slice(o, o + n) for o, n in zip(self._target.origin, self._target.shape, strict=True)))

        def decode(first: int, count: int, at: int = 0) -> None:
            for done in range(0, count, few):
                n = min(few, count - done)
                if self._clear:
                    scratch[:n] = 0
                inner(first + done, n)
                if self._repair is not None:
                    self._engine.repair(scratch[:n], self._repair)
                pixels, to = scratch[:n], out[at + done:at + done + n]
                if self._cropped:
                    pixels = pixels.reshape(n, *self._layout.sig_shape)[crop].reshape(n, -1)
                if self._blocks is not None:
                    self._engine.bin(pixels, to, self._blocks)
                else:
                    to[...] = pixels

        return decode


def _blocks(box: Box, reduction: Reduction | None) -> Blocks | None:
    """The blocks that the pixels of a box are sums of; None if nothing is summed."""
    if reduction is None or not reduction.bins:
        return None
    rows, columns = (1, *box.shape)[-2:]
    down, across = (1, *reduction.factors)[-2:]
    return Blocks(rows, columns, down, across)


def _cut(flat: np.ndarray | None, sig_shape: tuple[int, ...], area: Box) -> np.ndarray | None:
    if flat is None or area.shape == sig_shape:
        return flat
    crop = tuple(slice(o, o + n) for o, n in zip(area.origin, area.shape, strict=True))
    return np.ascontiguousarray(flat.reshape(sig_shape)[crop]).ravel()
