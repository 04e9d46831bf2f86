"""Chunks as h5py and its plugins store them, read back as they lie in the file; and streams packed by hand."""

from __future__ import annotations

import io
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from gpuio.layout import Filter

NAMES = {1: "deflate", 2: "shuffle", 3: "fletcher32", 32000: "lzf", 32004: "lz4", 32008: "bitshuffle"}


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
    "lz4 shuffle": dict(hdf5plugin.LZ4(), shuffle=True),
    "bitshuffle lz4": dict(hdf5plugin.Bitshuffle()),
    "bitshuffle lz4 fletcher32": dict(hdf5plugin.Bitshuffle(), fletcher32=True),
    "bitshuffle": dict(hdf5plugin.Bitshuffle(cname="none")),
}
