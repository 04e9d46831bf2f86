"""Decoding into a box of the detector: what surrounds an engine's decoder, so that any layout and any box give the right pixels.

Clipped placements where the box allows them, whole frames and a crop where it does not; pixels that nothing is stored for
become zero, frames that lack parts get decoders without these, excluded pixels are repaired.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from gpuio.blocks import Block
from gpuio.conversion import is_native
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
#: Decoders without maps to keep with a layout, so that reading one frame or a few does not take longer to prepare than to do, nor does a
#: tile of a scheme. Schemes for K2IS have up to 256 boxes; a decoder takes some 10 KB.
KEPT_DECODERS = 512
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


@dataclass(frozen=True, slots=True)
class Cut:
    """How the pixels of a box are made from frames.

    Attributes
    ----------
    target
        The pixels of the detector that the box is made from.
    area
        Those that are decoded: the same, or the whole detector, which is then cropped.
    blocks
        Whose sums the pixels of the box are; None if nothing is summed.
    stored
        dtype of pixels before they are summed: as stored, or as wide as corrections need. Without sums that of the output.
    """

    box: Box
    target: Box
    area: Box
    blocks: Blocks | None
    stored: np.dtype

    @classmethod
    def of(cls, layout: Layout, box: Box, dtype: np.dtype, corrections: CorrectionSet | None, repair_whole: bool = True,
           reduction: Reduction | None = None) -> Cut:
        """Of a box of the (reduced) detector; `repair_whole` as in `gpuio.pipeline.tiles`."""
        target, blocks, stored = box.on_detector(reduction), _blocks(box, reduction), dtype
        repaired = repair_whole and corrections is not None and corrections.get_excluded_pixels() is not None
        whole = target.shape == layout.sig_shape or repaired or not is_rectangle(layout.sig_shape, target.origin, target.shape)
        if blocks is not None:
            corrected = corrections is not None and corrections.have_corrections()
            stored = np.result_type(np.float32, layout.dtype) if corrected else layout.dtype
        return cls(box, target, Box.whole(layout) if whole else target, blocks, stored)

    @property
    def crops(self) -> bool:
        """Whether more is decoded than the box is made from."""
        return self.area.shape != self.target.shape

    @property
    def scratch_frame_bytes(self) -> int:
        """Bytes of a frame that is decoded to be cropped or summed, and of its crop if that is summed; 0 if frames are decoded to where
        they are wanted.
        """
        if not self.crops and self.blocks is None:
            return 0
        copied = prod(self.target.shape) if self.crops and self.blocks is not None else 0
        return (prod(self.area.shape) + copied) * self.stored.itemsize

    def placements(self, layout: Layout) -> np.ndarray:
        """What is taken from a frame: int64[entries, 12]."""
        if self.area.shape == layout.sig_shape:
            return layout.placements
        clipped = clip(layout.placements, layout.encoding, layout.sig_shape, self.area.origin, self.area.shape)
        assert clipped is not None
        return clipped


class BoxDecoder:
    """Decodes frames into a box: directly by clipped placements, or whole and cropped where that is needed.

    Parameters
    ----------
    placements : int64[entries, 12]
        Those of `cut`.
    dtype
        Of the output.
    scratch_bytes
        For frames that are cropped or summed, in each thread that decodes.
    """

    def __init__(self, layout: Layout, engine: Engine, cut: Cut, placements: np.ndarray, dtype: np.dtype,
                 corrections: CorrectionSet | None, scratch_bytes: int) -> None:
        self.box, self._cut, self._engine, self._layout, self.dtype = cut.box, cut, engine, layout, dtype
        self.pixels = prod(cut.box.shape)
        self._corrected = corrections is not None and corrections.have_corrections()
        area, self._scratch_bytes = cut.area, scratch_bytes
        self._area_pixels = prod(area.shape)
        dark = gain = None
        self._repair: RepairTable | None = None
        if corrections is not None and self._corrected:
            corrections.check(layout.sig_shape)
            dark, gain = (_cropped(m, layout.sig_shape, area) for m in (corrections.dark_flat(), corrections.gain_flat()))
            part = None if area.shape == layout.sig_shape else Slice(area.origin, Shape(area.shape, sig_dims=len(area.shape)))
            self._repair = corrections.repair_table(layout.sig_shape, part)
        if self._corrected and dtype.kind not in "fc":
            raise TypeError(f"corrections need a floating output dtype; {dtype} was asked for")
        # Pixels that no placement names (gaps between chips) are zero.
        self._clear = int(placements[:, PIXELS] @ (placements[:, REPEATS] * placements[:, ROWS])) < self._area_pixels
        self._make = lambda table: engine.decoder(layout.encoding, table, self._area_pixels, cut.stored, dark=dark, gain=gain)
        self._placements = placements
        self._partial: dict[bytes, Any] = {}        # decoders for frames that lack parts
        self._local = threading.local()             # scratch: threads that decode at the same time need their own

    def prepare(self) -> None:
        """Make ready to decode, which the first frame does otherwise; where all are views, none is decoded."""
        _ = self._decoder

    @cached_property
    def _decoder(self) -> Any:
        """Of frames that lack no part. All streams of the layout share it, unless it holds memory worth speaking of: maps, or scratch."""
        kept, area, stored = self._layout.decoders, self._cut.area, self._cut.stored
        shared = not self._corrected and is_native(self._layout.dtype, stored)
        key = self._engine.name, area.origin, area.shape, stored
        decoder = kept.get(key) if shared else None
        if decoder is None:
            decoder = self._make(self._placements)
            if shared:
                if len(kept) >= KEPT_DECODERS:
                    kept.clear()
                kept[key] = decoder
        return decoder

    @property
    def is_view(self) -> bool:
        """Whether stored frames are already what is wanted, so that a mapped file can be handed out as it is."""
        cut, dtype = self._cut, self.dtype
        if not (self._engine.name == "cpu" and cut.target.shape == self._layout.sig_shape and cut.blocks is None and not self._corrected
                and self._layout.encoding.name == "plain" and dtype == self._layout.dtype and dtype.kind != "b"
                and len(self._layout.pieces) == 1):
            return False
        piece = self._layout.pieces[0]
        rows_follow = piece.rows == 1 or (piece.row_src == piece.pixels * dtype.itemsize and piece.row_pos == piece.pixels)
        return rows_follow and piece.repeats == 1 and not (piece.pos or piece.skipped or piece.reversed)

    def bind(self, block: Block, out: Any) -> Decode:
        """As `Block.bind`, with what has to happen around the decoding; `out` is dtype[depth, pixels]."""
        if not (self._cut.scratch_frame_bytes or self._repair is not None or self._clear):
            return self._bind_parts(block, out)
        if not self._cut.scratch_frame_bytes:
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
        cut = self._cut
        few = max(1, min(len(out), self._scratch_bytes // cut.scratch_frame_bytes))
        scratch = getattr(self._local, "scratch", None)
        if scratch is None or len(scratch) < few:
            scratch = self._local.scratch = self._engine.empty((few, self._area_pixels), cut.stored)
        inner = self._bind_parts(block, scratch)
        crop = (slice(None), *(slice(o, o + n) for o, n in zip(cut.target.origin, cut.target.shape, strict=True)))

        def decode(first: int, count: int, at: int = 0) -> None:
            for done in range(0, count, few):
                n = min(few, count - done)
                if self._clear:
                    scratch[:n] = 0
                inner(first + done, n)
                if self._repair is not None:
                    self._engine.repair(scratch[:n], self._repair)
                pixels, to = scratch[:n], out[at + done:at + done + n]
                if cut.crops:
                    pixels = pixels.reshape(n, *self._layout.sig_shape)[crop]
                if cut.blocks is not None:
                    self._engine.bin(pixels.copy().reshape(n, -1) if cut.crops else pixels, to, cut.blocks)
                else:
                    to.reshape(pixels.shape)[...] = pixels

        return decode


def _blocks(box: Box, reduction: Reduction | None) -> Blocks | None:
    """The blocks that the pixels of a box are sums of; None if nothing is summed."""
    if reduction is None or not reduction.bins:
        return None
    rows, columns = (1, *box.shape)[-2:]
    down, across = (1, *reduction.factors)[-2:]
    return Blocks(rows, columns, down, across)


def _cropped(flat: np.ndarray | None, sig_shape: tuple[int, ...], area: Box) -> np.ndarray | None:
    if flat is None or area.shape == sig_shape:
        return flat
    crop = tuple(slice(o, o + n) for o, n in zip(area.origin, area.shape, strict=True))
    return np.ascontiguousarray(flat.reshape(sig_shape)[crop]).ravel()
