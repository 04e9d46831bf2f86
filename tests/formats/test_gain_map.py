"""Gain maps: arrays out of MATLAB files beside SciPy, which writes them; and files that are of no use."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from gpuio.errors import DataSetException, FormatError, ShapeError, TruncatedFile, UnsupportedFeature
from gpuio.formats._gain_map import read_gain_map
from gpuio.formats._mat import read_array
from gpuio.source import HostFiles
from tests.formats.items import random_items

SHAPE = (6, 5)
GAIN = np.random.default_rng(18).normal(1, 0.1, SHAPE)


def saved(folder, **kwargs):
    savemat(folder / "any.mat", {"before": np.arange(7.0), "GainMap": GAIN, "after": "text"}, **kwargs)
    return (folder / "any.mat").read_bytes()


# -- MATLAB files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?"])
@pytest.mark.parametrize("shape", [(6, 5), (1, 1), (3, 1), (2, 3, 5)])
def test_arrays_of_level_5_are_those_that_were_saved(tmp_path, packed, dtype, shape):
    array = random_items(1, shape, dtype)
    path = tmp_path / "a.mat"
    savemat(path, {"text": "abc", "a_rather_long_name_for_a_variable": array, "cell": np.array([1, "x"], object)}, do_compression=packed,
            oned_as="row")
    found = read_array(path.read_bytes(), "a.mat", "a_rather_long_name_for_a_variable")
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, array)
    np.testing.assert_array_equal(found, loadmat(path)["a_rather_long_name_for_a_variable"])


@pytest.mark.parametrize("dtype", ["f8", "f4", "i4", "i2", "u2", "u1"])
def test_arrays_of_level_4_are_those_that_were_saved(tmp_path, dtype):
    array = random_items(2, (6, 5), dtype)
    savemat(tmp_path / "a.mat", {"complex": np.ones((2, 3)) * 1j, "a": array, "b": np.ones(3)}, format="4")
    found = read_array((tmp_path / "a.mat").read_bytes(), "a.mat", "a")
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, array)


def element(order, kind, data):
    return struct.pack(order + "II", kind, len(data)) + data + bytes(-len(data) % 8)


def level_5(order, name, shape, kind, data, word=6):
    """A file of level 5 by hand, with one array of class `word`."""
    short = struct.pack(order + "I", len(name) << 16 | 1) + name.encode().ljust(4, b"\0")
    body = (element(order, 6, struct.pack(order + "II", word, 0)) + element(order, 5, struct.pack(order + f"{len(shape)}i", *shape))
            + (short if len(name) <= 4 else element(order, 1, name.encode())) + element(order, kind, data))
    return b"by hand".ljust(124) + struct.pack(order + "H", 0x100) + (b"IM" if order == "<" else b"MI") + element(order, 14, body)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("kind", "stored"), [(1, "i1"), (2, "u1"), (3, "i2"), (4, "u2"), (5, "i4"), (6, "u4"), (7, "f4"), (9, "f8")])
@pytest.mark.parametrize("name", ["g", "GainMap"])
def test_numbers_may_be_stored_in_either_byte_order_and_in_a_narrower_type(order, kind, stored, name):
    array = np.arange(-14, 16).reshape(6, 5) if stored[0] != "u" else np.arange(30).reshape(6, 5)
    raw = level_5(order, name, (6, 5), kind, array.astype(order + stored).tobytes("F"))
    found = read_array(raw, "a.mat", name)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, array)


def test_level_4_in_big_endian_order():
    raw = struct.pack(">5i", 1030, 2, 3, 0, 2) + b"g\0" + np.arange(6, dtype=">i2").tobytes()
    np.testing.assert_array_equal(read_array(raw, "a.mat", "g"), [[0, 2, 4], [1, 3, 5]])


@pytest.mark.parametrize(("raw", "error", "message"), [
    (level_5("<", "g", (2, 3), 9, bytes(47)), FormatError, r"g has shape \(2, 3\) and 47 bytes of numbers; expected 48 bytes"),
    (level_5("<", "g", (-2, -3), 9, bytes(48)), FormatError, r"g has shape \(-2, -3\)"),
    (level_5("<", "g", (1 << 30, 1 << 30, 1 << 30), 9, bytes(48)), FormatError, "48 bytes of numbers; expected"),
    (level_5("<", "g", (1,) * 33, 9, bytes(8)), FormatError, "g has shape"),
    (level_5("<", "g", (), 9, bytes(8)), FormatError, r"g has shape \(\)"),
    (level_5("<", "g", (2, 3), 16, bytes(48)), FormatError, "g is stored as type 16; expected numbers"),
    (level_5("<", "g", (2, 3), 9, bytes(48), word=0x806), UnsupportedFeature, "g is complex"),
    (level_5("<", "g", (2, 3), 9, bytes(48), word=1), UnsupportedFeature, "g is of class 1"),
    (level_5("<", "g", (2, 3), 9, bytes(48), word=5), UnsupportedFeature, "g is of class 5"),
    (level_5("<", "g", (2, 3), 9, bytes(48))[:128] + element("<", 15, zlib.compress(struct.pack("<II", 14, 1 << 31) + level_5(
        "<", "g", (2, 3), 9, bytes(48))[136:])), FormatError, "an array of 2147483656 bytes; expected at most 67108864"),
    (level_5("<", "h", (2, 3), 9, bytes(48)), FormatError, "has no variable g; found 'h'"),
    (struct.pack("<5i", 1, 2, 3, 0, 2) + b"g\0" + bytes(48), UnsupportedFeature, "g is text or sparse"),
    (struct.pack("<5i", 0, 2, 3, 1, 2) + b"g\0" + bytes(96), UnsupportedFeature, "g is complex"),
    (struct.pack("<5i", 0, 1 << 30, 1 << 30, 0, 2) + b"g\0" + bytes(48), TruncatedFile, "holds 70 bytes; an array of its own needs"),
    (struct.pack("<5i", 0, -2, 3, 0, 2) + b"g\0" + bytes(48), FormatError, "byte 0 is not the header of an array"),
    (bytes(19), TruncatedFile, "ends inside the header of an array"),
    (b"x" * 200, FormatError, "not a MATLAB file: version and byte order are b'xxxx'"),
], ids=range(17))
def test_files_that_say_what_they_must_not_are_refused(raw, error, message):
    with pytest.raises(error, match=message) as caught:
        read_array(raw, "a.mat", "g")
    assert str(caught.value).startswith("a.mat: ") and "\n" not in str(caught.value)


def test_no_more_is_unpacked_than_the_array_that_is_looked_for(tmp_path):
    whole = saved(tmp_path, do_compression=True)
    bomb = zlib.compress(level_5("<", "h", (1, 1), 9, bytes(8))[128:] + bytes(200 << 20))
    raw = whole[:128] + struct.pack("<II", 15, len(bomb)) + bomb + whole[128:]
    tracemalloc.start()
    np.testing.assert_array_equal(read_array(raw, "a.mat", "GainMap"), GAIN)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("kwargs", [{}, {"do_compression": True}, {"format": "4"}], ids=str)
def test_every_prefix_is_refused(tmp_path, kwargs):
    savemat(tmp_path / "a.mat", {"GainMap": GAIN}, **kwargs)
    whole = (tmp_path / "a.mat").read_bytes()
    np.testing.assert_array_equal(read_array(whole, "a.mat", "GainMap"), GAIN)
    for n in range(len(whole)):
        with pytest.raises(FormatError, match=r"^a\.mat: ") as caught:
            read_array(whole[:n], "a.mat", "GainMap")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kwargs", [{}, {"do_compression": True}, {"format": "4"}], ids=str)
def test_damaged_files_give_an_array_or_one_clear_error(tmp_path, kwargs):
    if kwargs.get("format") == "4":
        savemat(tmp_path / "any.mat", {"before": np.arange(7.0), "GainMap": GAIN}, **kwargs)
        whole = (tmp_path / "any.mat").read_bytes()
    else:
        whole = saved(tmp_path, **kwargs)

    @settings(max_examples=500, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=6))
    def check(damage):
        damaged = bytearray(whole)
        for at, value in damage:
            damaged[at] = value
        try:
            found = read_array(bytes(damaged), "a.mat", "GainMap")
        except DataSetException as error:
            assert str(error).startswith("a.mat: ") and "\n" not in str(error)
        else:
            assert found.nbytes <= len(whole) * 8
            if kwargs.get("do_compression"):
                np.testing.assert_array_equal(found, GAIN)      # there is a checksum

    check()


# -- gain maps -------------------------------------------------------------------------------------------------------


def mat(folder, **variables):
    savemat(folder / "gain.mat", variables)
    return folder / "gain.mat"


def npy(folder, array):
    np.save(folder / "gain.npy", array, allow_pickle=True)
    return folder / "gain.npy"


def blob(folder, content, name="gain.mat"):
    (folder / name).write_bytes(content)
    return folder / name


GOOD = np.ones(SHAPE)


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda d: d / "gain.mat", FileNotFoundError, "gain.mat"),
    (lambda d: mat(d, GainMap=np.ones((5, 6))), ShapeError, r"gain\.mat: the gain map has shape \(5, 6\); expected \(6, 5\)"),
    (lambda d: mat(d, gainmap=GOOD), FormatError, "has no variable GainMap; found 'gainmap'"),
    (lambda d: mat(d, GainMap="text"), UnsupportedFeature, "GainMap is of class 4; expected an array of real numbers"),
    (lambda d: mat(d, GainMap=np.where(np.arange(30).reshape(6, 5) == 7, np.nan, 1)), FormatError,
     "1 values of the gain map are not finite"),
    (lambda d: mat(d, GainMap=GOOD + 1j), UnsupportedFeature, "GainMap is complex"),
    (lambda d: mat(d), FormatError, "found no variables"),
    (lambda d: blob(d, b"\x89HDF\r\n\x1a\n" + bytes(600)), (FormatError, UnsupportedFeature), "gain.mat: "),
    (lambda d: blob(d, b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(600)), UnsupportedFeature, "level 7.3"),
    (lambda d: blob(d, b""), FormatError, "not a MATLAB file"),
    (lambda d: blob(d, mat(d, GainMap=GOOD).read_bytes()[:-9]), TruncatedFile, "ends inside an element"),
    (lambda d: npy(d, np.ones((6, 6))), ShapeError, r"gain\.npy: the gain map has shape \(6, 6\)"),
    (lambda d: npy(d, np.full((6, 5), np.inf)), FormatError, "30 values of the gain map are not finite"),
    (lambda d: npy(d, GOOD.astype("c8")), UnsupportedFeature, "holds complex64"),
    (lambda d: npy(d, GOOD.astype(object)), UnsupportedFeature, "Python objects"),
    (lambda d: blob(d, npy(d, GOOD).read_bytes()[:-1], "gain.npy"), FormatError, "holds 239 of the 240 bytes"),
    (lambda d: blob(d, b"1;2\n", "gain.csv"), FormatError, r"expected a gain map in a file \.mat or \.npy"),
], ids=range(17))
def test_gain_maps_that_do_not_fit_are_refused(tmp_path, make, error, message):
    with pytest.raises(error, match=message) as caught:
        read_gain_map(HostFiles(), str(make(tmp_path)), SHAPE)
    assert "\n" not in str(caught.value)
