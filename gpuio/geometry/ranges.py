"""Read ranges: the bytes of each tile as the specification's tables, for decoders that work range by range.

gpuio's own streams plan in extents and placements (`plan`); these tables are made for those who ask for them, from the
same model of selection. For the T tiles of a partition they are three int64 arrays:

* ``tile_slices[T, 2, 1 + sig_dims]``: origin and shape, nav first; nav is compressed by the roi.
* ``ranges[T, R, E]``: rows (file, start byte, stop byte, further columns); short lists end with rows of zeros.
* ``scheme_indices[T]``: number of the box in the tiling scheme.

Depth blocks are the outer loop, boxes the inner one; within a tile frames ascend, with one range each by default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpuio.errors import ShapeError
from gpuio.geometry.selection import selected_frames
from gpuio.shape import flat_index, is_run

Ranges = tuple[np.ndarray, np.ndarray, np.ndarray]


def default_px_to_bytes(bpp: int, frame_in_file_idx: int, slice_sig_size: int, sig_size: int, sig_origin: int,
                        frame_footer_bytes: int, frame_header_bytes: int, file_header_bytes: int, file_idx: int,
                        read_ranges: list[Any]) -> None:
    """Append the range of one box of one frame, for frames whose pixels lie in C order.

    Parameters
    ----------
    bpp
        Bits per pixel.
    frame_in_file_idx
        Frame, counted in its file.
    slice_sig_size, sig_size
        Pixels of the box and of the frame.
    sig_origin
        C-order index of the first pixel of the box.
    frame_footer_bytes, frame_header_bytes, file_header_bytes
        Bytes around the pixels.
    file_idx
        Position of the file in its set.
    read_ranges
        Appended to: (file, start byte, stop byte). Functions of this form may append any number of tuples, with further
        columns if they like.
    """
    start = (file_header_bytes + (frame_in_file_idx + 1) * frame_header_bytes + frame_in_file_idx * frame_footer_bytes
             + frame_in_file_idx * sig_size * bpp // 8 + sig_origin * bpp // 8)
    read_ranges.append((file_idx, start, start + slice_sig_size * bpp // 8))


def default_read_ranges_tile_block(
        slices_arr: np.ndarray, fileset_arr: np.ndarray, slice_sig_sizes: np.ndarray, sig_origins: np.ndarray, inner_indices_start: int,
        inner_indices_stop: int, frame_indices: np.ndarray, sig_size: int, px_to_bytes: Callable[..., None], bpp: int,
        frame_header_bytes: int, frame_footer_bytes: int, file_idxs: np.ndarray, slice_offset: int, extra: Any,
        sig_shape: tuple[int, ...]) -> list[Any]:
    """Make the tiles of one depth block.

    Parameters
    ----------
    slices_arr : int64[boxes, 2, sig_dims]
        Origins and shapes of the boxes.
    fileset_arr : int64[files, 4]
        First frame, one past the last, position, bytes of the file header.
    slice_sig_sizes, sig_origins : int64[boxes]
        Pixels of each box, and C-order index of its first one.
    inner_indices_start, inner_indices_stop
        The block is ``frame_indices[inner_indices_start:inner_indices_stop]``.
    frame_indices : int64[frames]
        File frames of the whole partition.
    file_idxs : int64[frames of the block]
        Row of `fileset_arr` for each frame of the block.
    slice_offset
        Nav index of ``frame_indices[0]``.
    extra
        Whatever was handed to `get_read_ranges`.

    Returns
    -------
    list of (number of the box, int64[2, 1 + sig_dims], list of ranges)
    """
    tiles = []
    sig_dims = slices_arr.shape[2]
    for box in range(slices_arr.shape[0]):
        ranges: list[Any] = []
        for inner in range(inner_indices_start, inner_indices_stop):
            row = file_idxs[inner - inner_indices_start]
            px_to_bytes(bpp, frame_indices[inner] - fileset_arr[row, 0], slice_sig_sizes[box], sig_size, sig_origins[box],
                        frame_footer_bytes, frame_header_bytes, fileset_arr[row, 3], fileset_arr[row, 2], ranges)
        tile_slice = np.zeros((2, 1 + sig_dims), dtype=np.int64)
        tile_slice[0, 0] = slice_offset + inner_indices_start
        tile_slice[1, 0] = inner_indices_stop - inner_indices_start
        for axis in range(sig_dims):
            tile_slice[0, 1 + axis] = slices_arr[box, 0, axis]
            tile_slice[1, 1 + axis] = slices_arr[box, 1, axis]
        tiles.append((box, tile_slice, ranges))
    return tiles


def _check_boxes(slices_arr: np.ndarray, sig_shape: tuple[int, ...]) -> None:
    origin, shape = slices_arr[:, 0], slices_arr[:, 1]
    wrong = np.flatnonzero(((origin < 0) | (shape < 0) | (origin + shape > np.array(sig_shape))).any(axis=1))
    if len(wrong):
        raise ShapeError(f"box {wrong[0]} at {tuple(origin[wrong[0]].tolist())} of shape {tuple(shape[wrong[0]].tolist())} "
                         f"leaves the sig shape {sig_shape}")


def _file_rows(files: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Row of the file table that holds each frame, int64[frames]."""
    rows = np.searchsorted(files[:, 1], frames, side="right")
    missing = rows == len(files)
    missing |= frames < files[np.minimum(rows, len(files) - 1), 0]
    if missing.any():
        raise IndexError(f"frame {frames[missing][0]} is in no file; there are frames {files[0, 0]} to {files[-1, 1]}")
    return rows


def _plain_tiles(depth: int, slices_arr: np.ndarray, files: np.ndarray, sizes: np.ndarray, origins: np.ndarray, frames: np.ndarray,
                 sig_size: int, bpp: int, header: int, footer: int, file_rows: np.ndarray, slice_offset: int, extra: Any,
                 sig_shape: tuple[int, ...]) -> Ranges:
    """What the two default functions give, for all tiles at once."""
    for box, (origin, shape) in enumerate(slices_arr.tolist()):
        if not is_run(shape, sig_shape):
            raise ShapeError(f"box {box} at {tuple(origin)} of shape {tuple(shape)} is no run of pixels of the sig shape {sig_shape}; "
                             "one range for each frame needs whole rows")
    if ((np.array([sig_size, *sizes, *origins]) * bpp) % 8).any():
        raise ShapeError(f"boxes of {sizes.tolist()} pixels of {bpp} bits in frames of {sig_size} do not begin and end at whole bytes")
    n, boxes = len(frames), len(slices_arr)
    blocks, per_tile = -(-n // depth), min(depth, n)
    in_file = frames - files[file_rows, 0]
    start = files[file_rows, 3] + (in_file + 1) * header + in_file * footer + in_file * (sig_size * bpp // 8)

    def in_blocks(values: np.ndarray) -> np.ndarray:
        padded = np.zeros(blocks * per_tile, dtype=np.int64)
        padded[:n] = values
        return padded.reshape(blocks, 1, per_tile)

    ranges = np.empty((blocks, boxes, per_tile, 3), dtype=np.int64)
    ranges[..., 0] = in_blocks(files[file_rows, 2])
    ranges[..., 1] = in_blocks(start) + (origins * bpp // 8)[:, np.newaxis]
    ranges[..., 2] = ranges[..., 1] + (sizes * bpp // 8)[:, np.newaxis]
    in_last = n - (blocks - 1) * depth
    ranges[-1, :, in_last:] = 0

    tile_slices = np.empty((blocks, boxes, 2, 1 + slices_arr.shape[2]), dtype=np.int64)
    tile_slices[..., 1:] = slices_arr
    tile_slices[:, :, 0, 0] = slice_offset + depth * np.arange(blocks)[:, np.newaxis]
    tile_slices[:, :, 1, 0] = per_tile
    tile_slices[-1, :, 1, 0] = in_last
    return (tile_slices.reshape(blocks * boxes, 2, -1), ranges.reshape(blocks * boxes, per_tile, 3),
            np.tile(np.arange(boxes, dtype=np.int64), blocks))


def _tiles_of(px_to_bytes: Callable[..., Any], read_ranges_tile_block: Callable[..., Any]) -> Callable[..., Ranges]:
    """The same loop around other functions, compiled if one of them is."""
    is_compiled = [hasattr(f, "py_func") for f in (px_to_bytes, read_ranges_tile_block)]
    if any(is_compiled):
        from numba import njit

        # Inlined, because numba learns only from the body of px_to_bytes what the empty list of ranges will hold.
        px_to_bytes, read_ranges_tile_block = (
            njit(inline="always")(getattr(f, "py_func", f)) for f in (px_to_bytes, read_ranges_tile_block))

    def tiles(depth: int, slices_arr: np.ndarray, files: np.ndarray, sizes: np.ndarray, origins: np.ndarray, frames: np.ndarray,
              sig_size: int, bpp: int, header: int, footer: int, file_rows: np.ndarray, slice_offset: int, extra: Any,
              sig_shape: tuple[int, ...]) -> Ranges:
        made = []
        for first in range(0, len(frames), depth):
            stop = min(first + depth, len(frames))
            for tile in read_ranges_tile_block(slices_arr, files, sizes, origins, first, stop, frames, sig_size, px_to_bytes, bpp,
                                               header, footer, file_rows[first:stop], slice_offset, extra, sig_shape):
                made.append(tile)
        most, columns = 0, 3
        for tile in made:
            if len(tile[2]):
                columns = max(columns, len(tile[2][0]))
            most = max(most, len(tile[2]))
        tile_slices = np.zeros((len(made), 2, 1 + slices_arr.shape[2]), dtype=np.int64)
        ranges = np.zeros((len(made), most, columns), dtype=np.int64)
        scheme_indices = np.zeros(len(made), dtype=np.int64)
        for i in range(len(made)):
            scheme_indices[i] = made[i][0]
            tile_slices[i] = made[i][1]
            rows = made[i][2]
            for r in range(len(rows)):
                for c in range(len(rows[r])):
                    ranges[i, r, c] = rows[r][c]
        return tile_slices, ranges, scheme_indices

    if any(is_compiled):
        compiled: Callable[..., Ranges] = njit(tiles)
        return compiled
    return tiles


def make_get_read_ranges(px_to_bytes: Callable[..., None] = default_px_to_bytes,
                         read_ranges_tile_block: Callable[..., list[Any]] = default_read_ranges_tile_block) -> Callable[..., Ranges]:
    """Make a function that turns a selection and a tiling scheme into read ranges.

    Parameters
    ----------
    px_to_bytes, read_ranges_tile_block
        Functions of the form of `default_px_to_bytes` and `default_read_ranges_tile_block`. Functions compiled by numba
        are inlined into one compiled loop; plain ones run in Python; the defaults are evaluated as NumPy expressions.

    Returns
    -------
    callable
        ``get_read_ranges(start_at_frame, stop_before_frame, roi, depth, slices_arr, fileset_arr, sig_shape, bpp,
        sync_offset=0, extra=None, frame_header_bytes=0, frame_footer_bytes=0)``, see `default_get_read_ranges`.
    """
    if px_to_bytes is default_px_to_bytes and read_ranges_tile_block is default_read_ranges_tile_block:
        make_tiles: Callable[..., Ranges] = _plain_tiles
    else:
        make_tiles = _tiles_of(px_to_bytes, read_ranges_tile_block)

    def get_read_ranges(start_at_frame: int, stop_before_frame: int, roi: Any, depth: int, slices_arr: np.ndarray, fileset_arr: np.ndarray,
                        sig_shape: Sequence[int], bpp: int, sync_offset: int = 0, extra: Any = None, frame_header_bytes: int = 0,
                        frame_footer_bytes: int = 0) -> Ranges:
        """Read ranges of the tiles of a partition.

        Parameters
        ----------
        start_at_frame, stop_before_frame
            File frames of the partition; `start_at_frame` may be negative, where there are only blanks.
        roi : bool[nav] or None
            Positions wanted, of the whole data set.
        depth
            Frames of a tile at most.
        slices_arr : int64[boxes, 2, sig_dims]
            Origins and shapes of the boxes, as `TilingScheme.slices_array`.
        fileset_arr : int64[files, 4]
            First frame, one past the last, position, bytes of the file header, as `FileSet.get_as_arr`. Without the last
            column there are no headers.
        sig_shape
            Of the data set.
        bpp
            Bits per pixel, padding included.
        sync_offset
            File frame minus flat nav index.
        extra
            Handed to `read_ranges_tile_block` as it is.
        frame_header_bytes, frame_footer_bytes
            Before and after the pixels of each frame.

        Returns
        -------
        tile_slices : int64[tiles, 2, 1 + sig_dims]
        ranges : int64[tiles, ranges, 3 or more]
        scheme_indices : int64[tiles]

        Raises
        ------
        ShapeError
            A box leaves the detector, or (with the default functions) is no run of whole bytes of the frame.
        IndexError
            A frame is in no file.
        """
        if depth < 1:
            raise ShapeError(f"a tile of depth {depth} holds no frames")
        slices_arr = np.ascontiguousarray(slices_arr, dtype=np.int64)
        files = np.asarray(fileset_arr, dtype=np.int64)
        if files.shape[1] == 3:
            files = np.column_stack((files, np.zeros(len(files), dtype=np.int64)))
        sig = tuple(int(n) for n in sig_shape)
        _check_boxes(slices_arr, sig)
        nav, frames = selected_frames(start_at_frame, stop_before_frame, sync_offset, stop_before_frame, roi)
        if not len(frames):
            sig_dims = slices_arr.shape[2]
            return np.zeros((0, 2, 1 + sig_dims), np.int64), np.zeros((0, int(depth), 3), np.int64), np.zeros(0, np.int64)
        origins = np.array([flat_index(origin, sig) for origin in slices_arr[:, 0].tolist()], dtype=np.int64)
        return make_tiles(int(depth), slices_arr, files, slices_arr[:, 1].prod(axis=1), origins, frames, int(np.prod(sig)), int(bpp),
                          int(frame_header_bytes), int(frame_footer_bytes), _file_rows(files, frames), int(nav[0]), extra, sig)

    return get_read_ranges


#: `make_get_read_ranges` of the default functions.
default_get_read_ranges = make_get_read_ranges()
