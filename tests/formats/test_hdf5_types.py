"""HDF5: items that are not stored as numpy has them are converted by the library, or refused; never taken for what they are not."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

import gpuio
from gpuio.errors import UnsupportedFeature
from tests.formats.hdf5_files import counts

SHAPE = (5, 7, 11)


def typed(base, size, **changes):
    """A type like `base` with `size` bytes and some properties of its own."""
    kind = base.copy()
    for name, value in changes.items():
        getattr(kind, f"set_{name}")(*value)
    kind.set_size(size)
    return kind


def write(path, kind, values, chunked=False):
    """A data set of an HDF5 type, from values that the library converts to it."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if chunked:
        plist.set_chunk((2, *values.shape[1:]))
        plist.set_deflate(3)
    with h5py.File(path, "w") as file:
        h5py.h5d.create(file.id, b"data", kind, h5py.h5s.create_simple(values.shape), plist).write(h5py.h5s.ALL, h5py.h5s.ALL, values)
    return str(path)


def twelve_bits(base, offset):
    return typed(base, 2, precision=(12,), offset=(offset,))


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("base", "offset", "low"), [
    (h5py.h5t.STD_I16LE, 0, -2048), (h5py.h5t.STD_I16BE, 3, -2048), (h5py.h5t.STD_U16LE, 4, 0)])
def test_integers_of_twelve_bits(tmp_path, base, offset, low, chunked):
    values = np.random.default_rng(1).integers(low, low + 4096, SHAPE).astype("u2" if low == 0 else "i2")
    ds = gpuio.load("hdf5", path=write(tmp_path / "a.h5", twelve_bits(base, offset), values, chunked), device="cpu")
    assert ds.dtype == values.dtype
    np.testing.assert_array_equal(ds[...], values)
    np.testing.assert_array_equal(ds.read([4, 1]), values[[4, 1]])


@pytest.mark.parametrize("chunked", [False, True])
def test_floats_of_sixteen_bits_with_the_exponent_of_float32(tmp_path, chunked):
    values = np.random.default_rng(2).integers(-128, 128, SHAPE).astype("f4")           # 8 bits of mantissa hold them
    kind = typed(h5py.h5t.IEEE_F32LE, 2, fields=(15, 7, 8, 0, 7))
    ds = gpuio.load("hdf5", path=write(tmp_path / "a.h5", kind, values, chunked), device="cpu")
    np.testing.assert_array_equal(ds[...], values)


def test_truth_values_of_two_bytes(tmp_path):
    values = counts(3, SHAPE, bool)
    kind = h5py.h5t.enum_create(h5py.h5t.STD_I16LE)
    kind.enum_insert(b"FALSE", 0)
    kind.enum_insert(b"TRUE", 1)
    ds = gpuio.load("hdf5", path=write(tmp_path / "a.h5", kind, values), device="cpu")
    assert ds.dtype == bool
    np.testing.assert_array_equal(ds[...], values)


@pytest.mark.parametrize("dtype", ["?", "i1", ">u2", "<i8", "<f2", ">f4", "<c8", ">c16", "enum"])
def test_items_that_numpy_has_are_read_from_the_file_itself(tmp_path, dtype):
    values, stored = counts(4, SHAPE, ">i2" if dtype == "enum" else dtype), h5py.enum_dtype({"A": 3, "B": 4}, basetype=">i2")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data", data=values, dtype=stored if dtype == "enum" else dtype)
    ds = gpuio.load("hdf5", path=str(tmp_path / "a.h5"), device="cpu")
    assert ds.layout.parts
    np.testing.assert_array_equal(ds[...], values)


def test_converted_items_in_external_files_are_refused(tmp_path):
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_external(b"a.raw", 0, 2 * int(np.prod(SHAPE)))
    (tmp_path / "a.raw").write_bytes(bytes(2 * int(np.prod(SHAPE))))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        h5py.h5d.create(file.id, b"data", twelve_bits(h5py.h5t.STD_U16LE, 4), h5py.h5s.create_simple(SHAPE), plist)
    with pytest.raises(UnsupportedFeature, match=r"a\.h5: data set /data: its items are in external files, and not as uint16 has them"):
        gpuio.load("hdf5", path=str(tmp_path / "a.h5"), device="cpu")
