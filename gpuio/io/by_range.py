"""Tiles by way of read ranges and a user's `Decoder`: one call of the decoder for each range, as the specification describes.

Slow beside the stream, which decodes stacks of frames in one call, but open to any encoding. Memory stays bounded: one
tile, and at most one buffer of packed bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpuio.io.base import Extent, Reader
from gpuio.io.decoders import Decoder
from gpuio.io.staging import aligned_empty
from gpuio.shape import Shape, Slice
from gpuio.tile import DataTile

if TYPE_CHECKING:
    from gpuio.corrections import CorrectionSet

#: Bytes between two ranges that are read along rather than skipped.
GAP = 16 << 10

#: Tile slices int64[tiles, 2, 1 + sig_dims], ranges int64[tiles, ranges, columns], index of the sig box int64[tiles].
ReadRanges = tuple[np.ndarray, np.ndarray, np.ndarray]


def tiles_by_range(reader: Reader, read_ranges: ReadRanges, decoder: Decoder, native_dtype: np.dtype, read_dtype: np.dtype,
                   ds_shape: Sequence[int], corrections: CorrectionSet | None, *, alignment: int = 1,
                   max_bytes: int = 16 << 20) -> Iterator[DataTile]:
    """Decode tiles one after the other into one buffer; each is valid until the next is taken.

    Parameters
    ----------
    read_ranges
        What `FileSet.get_read_ranges` returns.
    native_dtype, read_dtype
        Of the file, and of the tiles.
    max_bytes
        Packed bytes to read at a time; one range at least.
    """
    tile_slices, ranges, scheme_indices = read_ranges
    if not len(tile_slices):
        return
    decode = decoder.get_decode(native_dtype=native_dtype, read_dtype=read_dtype)
    item = decoder.get_native_dtype(inp_native_dtype=native_dtype, read_dtype=read_dtype)
    shape_of_all = tuple(int(n) for n in ds_shape)
    buffer = np.zeros(int(tile_slices[:, 1].prod(axis=1).max()), dtype=read_dtype)
    staged = aligned_empty(0)
    for (origin, shape), rows, scheme_index in zip(tile_slices, ranges, scheme_indices.tolist(), strict=True):
        frames, *sig = shape.tolist()
        tile = buffer[:int(shape.prod())].reshape(frames, *sig)
        out = tile.reshape(frames, -1)
        count = _count(rows)
        if decoder.do_clear() or count != frames:       # only with one range a frame is every pixel known to be written
            out[:] = 0
        for first, stop, extents, positions, n_bytes in _batches(rows[:count, :3].tolist(), alignment, max_bytes):
            if len(staged) < n_bytes:
                staged = aligned_empty(n_bytes)
            reader.read(extents, staged)
            for idx, (at, size) in zip(range(first, stop), positions, strict=True):
                decode(staged[at:at + size], out, idx, item, rows[idx], origin, shape, shape_of_all)
        tile_slice = Slice(tuple(origin.tolist()), Shape((frames, *sig), sig_dims=len(sig)))
        if corrections is not None and corrections.have_corrections():
            corrections.apply(tile, tile_slice)
        yield DataTile(tile, tile_slice, scheme_index)


def _count(rows: np.ndarray) -> int:
    """Ranges of a tile: a row that starts and stops at 0 ends the list."""
    ends = np.flatnonzero((rows[:, 1] == 0) & (rows[:, 2] == 0))
    return int(ends[0]) if len(ends) else len(rows)


def _batches(rows: list[list[int]], alignment: int,
             max_bytes: int) -> Iterator[tuple[int, int, list[Extent], list[tuple[int, int]], int]]:
    """Ranges that are read together: (first, stop, extents, position and size of each range in the staging buffer, its bytes)."""
    first = 0
    while first < len(rows):
        extents: list[Extent] = []
        positions: list[tuple[int, int]] = []
        used = 0
        for file, start, stop in rows[first:]:
            low, high = start // alignment * alignment, -(-stop // alignment) * alignment
            last_file, last_low, last_size, last_at = extents[-1] if extents else (-1, 0, 0, 0)
            joined = file == last_file and last_low <= low <= last_low + last_size + GAP
            if joined:
                size, at = max(last_size, high - last_low), last_at
            else:
                low_of_extent, size, at = low, high - low, -(-used // alignment) * alignment
            if extents and at + size > max_bytes:
                break
            if joined:
                low_of_extent = last_low
                extents.pop()
            extents.append((file, low_of_extent, size, at))
            positions.append((at + start - low_of_extent, stop - start))
            used = at + size
        yield first, first + len(positions), extents, positions, used
        first += len(positions)
