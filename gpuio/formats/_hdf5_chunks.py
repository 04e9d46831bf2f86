"""Chunks of an HDF5 data set: the table of where they are, how they were packed, and where their pixels go.

Quirks:

- Offsets include the user block, in HDF5 2; before 1.14.4 those of chunks did not (HDF5 issue 3003). One chunk is compared with
  what the library reads.
- Writers may leave the filters out of chunks that reach beyond the array, without a word in their masks (`H5Pset_chunk_opts`).

Sources: as `_hdf5_storage`; HDF5's list of registered filters.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuio.chunks import FILE, STORED
from gpuio.errors import FormatError, UnsupportedFeature
from gpuio.formats._hdf5_index import read_index
from gpuio.formats._hdf5_structure import Place, library
from gpuio.layout import Filter, Piece

FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 32000: "lzf", 32004: "lz4", 32008: "bitshuffle"}
#: Filters that gpuio leaves to the library, by the name of what has to be installed for them.
LIBRARY_FILTERS = {
    4: "an HDF5 library built with SZIP", 5: "HDF5's own n-bit filter", 6: "HDF5's own scale-offset filter",
    **dict.fromkeys((307, 32001, 32013, 32015, 32017, 32018, 32024, 32026, 32027, 32028), "hdf5plugin: install gpuio[hdf5]"),
}
#: Entries of a table of chunks at most: half a GiB of them.
MAX_CHUNKS = 1 << 24


def filters_of(plist: Any) -> tuple[Filter, ...]:
    """The filters of a data set in the order of writing."""
    found = (plist.get_filter(i) for i in range(plist.get_nfilters()))
    return tuple(Filter(FILTERS.get(number, f"hdf5_{number}"), tuple(int(v) for v in values)) for number, _, values, _ in found)


def check_plugins(place: Place, plist: Any) -> None:
    """Raise UnsupportedFeature if the library lacks a filter."""
    h5py = library()
    for i in range(plist.get_nfilters()):
        number, _, _, name = plist.get_filter(i)
        if not h5py.h5z.filter_avail(number):
            told = name.decode("latin-1", errors="replace").partition(";")[0].strip() or "without a name"
            raise UnsupportedFeature(f"{place} is packed by HDF5 filter {number} ({told}), which cannot be undone here; "
                                     f"it needs {LIBRARY_FILTERS.get(number, 'a plugin of the HDF5 library')}")


def fill_bytes(found: Any) -> bytes:
    """The fill value as an item in the file's byte order."""
    value = found.fillvalue
    return np.asarray(0 if value is None else value).astype(found.dtype).tobytes()


def chunk_table(found: Any, place: Place, sig_dims: int, frames_last: bool, n_filters: int) -> np.ndarray:
    """Where each chunk is: int64[rows, columns, 4] as `gpuio.chunks` has it, with 0 as file.

    Raises
    ------
    FormatError
        A chunk that cannot be: outside of the grid, empty, reaching past the end of the file, or of another size than its pixels.
    UnsupportedFeature
        There are too many to hold a table of.
    """
    shape, chunk = np.array(found.shape, dtype=np.int64), np.array(found.chunks, dtype=np.int64)
    counts = [-(-int(n) // int(c)) for n, c in zip(shape, chunk, strict=True)]
    total = math.prod(counts)
    if total > MAX_CHUNKS:
        raise UnsupportedFeature(f"{place} of shape {found.shape} has {total} chunks of {found.chunks}; expected at most {MAX_CHUNKS}")
    origin, mask, offset, stored = _chunks_of(found, place, total)
    table = np.full((total, 4), -1, dtype=np.int64)
    table[:, STORED] = 0
    if len(origin):
        size, unpacked = os.path.getsize(place.path), int(np.prod(chunk)) * found.dtype.itemsize
        at = origin // chunk
        _refuse(place, origin, (origin % chunk != 0).any(axis=1) | (at < 0).any(axis=1) | (at >= counts).any(axis=1),
                lambda i: f"is in no place of the grid of {found.chunks}")
        _refuse(place, origin, (stored < 1) | (offset < 0) | (offset > size) | (stored > size - offset),
                lambda i: f"has {stored[i]} bytes at byte {offset[i]}; the file has {size} bytes")
        if n_filters:
            mask = np.where(_unfiltered_edges(found, place, origin, mask, offset, stored, unpacked), (1 << n_filters) - 1, mask)
        else:
            _refuse(place, origin, stored != unpacked, lambda i: f"has {stored[i]} bytes; expected {unpacked}, as nothing is packed")
        place_of = np.ravel_multi_index(tuple(at.T), counts)
        table[place_of] = np.stack((np.zeros_like(offset), offset, stored, mask), axis=1)
        if (table[:, FILE] >= 0).sum() != len(origin):
            twice = np.ones(len(origin), dtype=bool)
            twice[np.unique(place_of, return_index=True)[1]] = False
            _refuse(place, origin, twice, lambda i: "is listed twice")
    cut = sig_dims if frames_last else len(counts) - sig_dims
    by_axes = table.reshape(math.prod(counts[:cut]), math.prod(counts[cut:]), 4)
    return np.ascontiguousarray(by_axes.swapaxes(0, 1) if frames_last else by_axes)


def _chunks_of(found: Any, place: Place, at_most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """First element, mask of filters, byte offset and stored bytes of each chunk: int64[n, axes] and three int64[n]."""
    index = read_index(found, place.path, at_most)
    if index is not None:
        return index["origin"], index["mask"], index["offset"], index["stored"]
    listed: list[Any] = []
    try:
        found.id.chunk_iter(listed.append)
    except (OSError, RuntimeError, ValueError) as error:
        raise FormatError(f"{place}: its index of chunks cannot be read; HDF5 says: {error}") from error
    origin = np.array([entry[0] for entry in listed], dtype=np.int64).reshape(-1, found.ndim)
    mask, offset, stored = (np.array([int(entry[k]) for entry in listed], dtype=np.uint64).astype(np.int64) for k in (1, 2, 3))
    return origin, mask, offset, stored


def _unfiltered_edges(found: Any, place: Place, origin: np.ndarray, mask: np.ndarray, offset: np.ndarray, stored: np.ndarray,
                      unpacked: int) -> np.ndarray:
    """Chunks that reach beyond the array, if these are stored without filters and do not say so: bool[n]."""
    shape, chunk = np.array(found.shape), np.array(found.chunks)
    edge = (origin + chunk > shape).any(axis=1)
    if not edge.any() or (stored[edge] != unpacked).any() or mask[edge].any():
        return np.zeros(len(edge), dtype=bool)
    first = int(np.argmax(edge))
    with open(place.path, "rb") as file:
        file.seek(int(offset[first]))
        raw = np.frombuffer(file.read(unpacked), np.dtype((np.void, found.dtype.itemsize))).reshape(found.chunks)
    inside = tuple(slice(o, min(o + c, n)) for o, c, n in zip(origin[first].tolist(), found.chunks, found.shape, strict=True))
    there = raw[tuple(slice(0, s.stop - s.start) for s in inside)]
    same = found[inside].tobytes() == there.tobytes()
    return edge if same else np.zeros(len(edge), dtype=bool)


def _refuse(place: Place, origin: np.ndarray, bad: np.ndarray, why: Any) -> None:
    if bad.any():
        i = int(np.argmax(bad))
        raise FormatError(f"{place}: the index of chunks is damaged: chunk {tuple(origin[i].tolist())} {why(i)}")


def check_user_block(found: Any, place: Place) -> None:
    """Compare the first bytes of a chunk with what the library reads: HDF5 before 1.14.4 tells offsets without the user block.

    Raises
    ------
    UnsupportedFeature
        They differ.
    """
    if found.file.userblock_size == 0 or not found.id.get_num_chunks():
        return
    info = found.id.get_chunk_info(0)
    with open(place.path, "rb") as file:
        file.seek(info.byte_offset)
        there = file.read(info.size)
    if there != found.id.read_direct_chunk(info.chunk_offset)[1]:
        raise UnsupportedFeature(f"{place}: this HDF5 library tells places of chunks without the user block of {found.file.userblock_size} "
                                 "bytes; expected HDF5 1.14.4 or newer")


def chunk_pieces(sig_shape: Sequence[int], sig_chunk: Sequence[int], item_bytes: int, pixel_step: int, pitch: int) -> tuple[Piece, ...]:
    """Where the pixels of a frame lie in a row of chunks.

    Parameters
    ----------
    pixel_step
        Bytes from a pixel to its neighbour; more than `item_bytes` where frames are the fastest axis of a chunk.
    pitch
        Bytes from one chunk to the next.
    """
    *outer, height, width = (1, *sig_shape) if len(sig_shape) == 1 else sig_shape
    *outer_chunk, rows, columns = (1, *sig_chunk) if len(sig_chunk) == 1 else sig_chunk
    across, down = -(-width // columns), -(-height // rows)
    outer_grid = [-(-n // c) for n, c in zip(outer, outer_chunk, strict=True)]
    row_src, plane_src = columns * pixel_step, rows * columns * pixel_step
    found = []
    for index in np.ndindex(*outer):
        chunk = inner = plane = 0
        for i, n, c, g in zip(index, outer, outer_chunk, outer_grid, strict=True):
            chunk, inner, plane = chunk * g + i // c, inner * c + i % c, plane * n + i
        for y in range(down):
            src, pos = (chunk * down + y) * across * pitch + inner * plane_src, (plane * height + y * rows) * width
            high = min(rows, height - y * rows)
            if pixel_step == item_bytes:
                whole, rest = divmod(width, columns)
                if whole:
                    found.append(Piece(src, pos, columns, rows=high, row_src=row_src, row_pos=width, repeats=whole, rep_src=pitch,
                                       rep_pos=columns))
                if rest:
                    found.append(Piece(src + whole * pitch, pos + whole * columns, rest, rows=high, row_src=row_src, row_pos=width))
                continue
            if columns < across:        # the same column of all chunks in a row: fewer pieces than one for each chunk
                found += [Piece(src + x * pixel_step, pos + x, 1, rows=high, row_src=row_src, row_pos=width,
                                repeats=-(-(width - x) // columns), rep_src=pitch, rep_pos=columns) for x in range(columns)]
                continue
            for x in range(across):
                found.append(Piece(src + x * pitch, pos + x * columns, 1, rows=high, row_src=row_src, row_pos=width,
                                   repeats=min(columns, width - x * columns), rep_src=pixel_step, rep_pos=1))
    return tuple(found)
