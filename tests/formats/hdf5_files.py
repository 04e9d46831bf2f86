"""HDF5 files for tests, written by h5py, which knows nothing of gpuio."""

from __future__ import annotations

import h5py
import hdf5plugin
import numpy as np

#: Ways to pack chunks, as arguments of h5py's create_dataset.
PACKED = {
    "gzip": dict(compression="gzip", compression_opts=4),
    "gzip shuffle": dict(compression="gzip", shuffle=True),
    "gzip shuffle fletcher32": dict(compression="gzip", shuffle=True, fletcher32=True),
    "fletcher32": dict(fletcher32=True),
    "shuffle": dict(shuffle=True),
    "lzf": dict(compression="lzf"),
    "lzf shuffle": dict(compression="lzf", shuffle=True),
    "lz4": dict(hdf5plugin.LZ4()),
    "lz4 small blocks": dict(hdf5plugin.LZ4(nbytes=128)),
    "bitshuffle": dict(hdf5plugin.Bitshuffle(cname="none")),
    "bitshuffle lz4": dict(hdf5plugin.Bitshuffle(cname="lz4")),
    "bitshuffle lz4 small blocks": dict(hdf5plugin.Bitshuffle(nelems=64, cname="lz4")),
}
#: Filters that the library undoes.
BY_LIBRARY = {
    "bitshuffle zstd": dict(hdf5plugin.Bitshuffle(cname="zstd")),
    "zstd": dict(hdf5plugin.Zstd()),
    "blosc": dict(hdf5plugin.Blosc()),
    "blosc2": dict(hdf5plugin.Blosc2()),
    "szip": dict(compression="szip"),
    "scale-offset": dict(scaleoffset=0),
}


def counts(seed, shape, dtype="u2"):
    """Random values over the whole range of integers, few different ones in half of the frames, so that both can be packed and cannot."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind == "c":
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(dtype)
    if dtype.kind == "f":
        return (rng.normal(size=shape) * 100).astype(dtype)
    info = np.iinfo(dtype)
    values = rng.integers(info.min, info.max, shape, dtype=dtype.newbyteorder("="), endpoint=True)
    flat = values.reshape(-1, *shape[-2:])
    flat[::2] = rng.poisson(3, flat[::2].shape)
    return values.astype(dtype)


def write(path, values, name="data", userblock_size=None, **storage):
    """A file with one data set, stored as h5py's create_dataset is told."""
    with h5py.File(path, "w", userblock_size=userblock_size) as file:
        file.create_dataset(name, data=values, **storage)
    return str(path)
