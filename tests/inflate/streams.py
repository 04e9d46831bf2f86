"""Chunks as h5py and its plugins store them, read back as they lie in the file; and streams packed by hand."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from gpuio.layout import Filter

NAMES = {1: "deflate", 2: "shuffle", 3: "fletcher32", 32000: "lzf", 32004: "lz4", 32008: "bitshuffle"}
NUMBERS = {name: number for number, name in NAMES.items()}


def stored(data: np.ndarray, **options: Any) -> tuple[tuple[Filter, ...], bytes, int]:
    """One chunk that holds `data`, written by h5py: its filters, its bytes, and the mask of skipped filters."""
    with h5py.File(io.BytesIO(), "w") as file:
        dataset = file.create_dataset("data", data=data, chunks=data.shape, **options)
        plist = dataset.id.get_create_plist()
        filters = []
        for k in range(plist.get_nfilters()):
            number, _, params, _ = plist.get_filter(k)
            filters.append(Filter(NAMES.get(number, f"hdf5_{number}"), tuple(int(p) for p in params)))
        mask, chunk = dataset.id.read_direct_chunk((0,) * data.ndim)
    return tuple(filters), chunk, mask


def through_h5py(filters: Sequence[Filter], chunk: bytes, mask: int, n: int, dtype: str) -> bytes:
    """What HDF5 and its plugins make of a chunk of `n` elements that is put into a file as it is."""
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((n,))
        for item in filters:
            plist.set_filter(NUMBERS[item.name], h5py.h5z.FLAG_OPTIONAL, item.params)
        dataset = h5py.h5d.create(file.id, b"data", h5py.h5t.py_create(np.dtype(dtype)), h5py.h5s.create_simple((n,)), plist)
        dataset.write_direct_chunk((0,), chunk, mask)
    with h5py.File(memory) as file:         # HDF5 takes no notice of the mask as long as the file stays open
        read: np.ndarray = file["data"][...]
        return read.tobytes()


#: Options of h5py by what they are called here.
OPTIONS: dict[str, dict[str, Any]] = {
    "gzip": dict(compression="gzip"),
    "gzip shuffle": dict(compression="gzip", shuffle=True),
    "gzip shuffle fletcher32": dict(compression="gzip", shuffle=True, fletcher32=True),
    "shuffle": dict(shuffle=True),
    "fletcher32": dict(fletcher32=True),
    "lzf": dict(compression="lzf"),
    "lzf shuffle": dict(compression="lzf", shuffle=True),
    "lz4": dict(hdf5plugin.LZ4()),
    "lz4 in blocks": dict(hdf5plugin.LZ4(nbytes=1000)),
    "lz4 shuffle": dict(hdf5plugin.LZ4(), shuffle=True),
    "bitshuffle lz4": dict(hdf5plugin.Bitshuffle()),
    "bitshuffle lz4 in blocks of 64": dict(hdf5plugin.Bitshuffle(nelems=64)),
    "bitshuffle lz4 in blocks of 1096": dict(hdf5plugin.Bitshuffle(nelems=1096)),
    "bitshuffle lz4 in blocks of 16384": dict(hdf5plugin.Bitshuffle(nelems=16384)),
    "bitshuffle lz4 fletcher32": dict(hdf5plugin.Bitshuffle(), fletcher32=True),
    "bitshuffle": dict(hdf5plugin.Bitshuffle(cname="none")),
    "bitshuffle in blocks of 16384": dict(hdf5plugin.Bitshuffle(nelems=16384, cname="none")),
}
#: What `data` makes.
CONTENTS = ("counts", "zeros", "noise", "ramp")


def data(content: str, n: int, dtype: Any, seed: int = 7) -> np.ndarray:
    """Few counts, as detectors have them; nothing; what cannot be compressed; or a slow ramp."""
    rng, dtype = np.random.default_rng([seed, n]), np.dtype(dtype)
    if content == "counts":
        return rng.poisson(3, n).astype(dtype)
    if content == "zeros":
        return np.zeros(n, dtype)
    if content == "noise":
        return rng.integers(0, 256, n * dtype.itemsize, dtype=np.uint8).view(dtype)
    return (np.arange(n) // 7).astype(dtype)


def lz4_block(sequences: Sequence[tuple[bytes, int, int]], last: bytes = b"") -> tuple[bytes, bytes]:
    """An LZ4 block of sequences (literals, distance, length of the match), and what it holds, copied byte by byte."""
    packed, out = bytearray(), bytearray()

    def lengths(count: int) -> bytes:
        return b"" if count < 15 else bytes([255] * ((count - 15) // 255) + [(count - 15) % 255])

    for literals, distance, length in sequences:
        packed += bytes([min(15, len(literals)) << 4 | min(15, length - 4)]) + lengths(len(literals)) + literals
        packed += distance.to_bytes(2, "little") + lengths(length - 4)
        out += literals
        for _ in range(length):
            out.append(out[-distance])
    packed += bytes([min(15, len(last)) << 4]) + lengths(len(last)) + last
    return bytes(packed), bytes(out + last)


def big(number: int, n_bytes: int) -> bytes:
    return number.to_bytes(n_bytes, "big")


def framed(blocks: Sequence[bytes], total: int, block_bytes: int, tail: bytes = b"") -> bytes:
    """Blocks behind their sizes, as the filters lz4 and bitshuffle have them."""
    return big(total, 8) + big(block_bytes, 4) + b"".join(big(len(b), 4) + b for b in blocks) + tail


def shuffled_bits(elements: np.ndarray) -> bytes:
    """The bit planes of a block of unsigned elements, by NumPy."""
    item = elements.dtype.itemsize
    bits = np.unpackbits(elements.view(np.uint8).reshape(-1, item), axis=1, bitorder="little")
    return np.packbits(bits.T, axis=1, bitorder="little").tobytes()


def unshuffled_bits(planes: bytes, dtype: Any) -> bytes:
    """The elements of a block of bit planes, by NumPy."""
    item = np.dtype(dtype).itemsize
    bits = np.unpackbits(np.frombuffer(planes, np.uint8).reshape(8 * item, -1), axis=1, bitorder="little")
    return np.packbits(bits.T, axis=1, bitorder="little").tobytes()
