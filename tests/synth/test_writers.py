"""Writers of raw and NumPy files: what NumPy reads from them is what was given."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest

from gpuio import synth
from gpuio.errors import DataSetException, ShapeError
from tests.formats.items import DTYPES, random_items

NAV, SIG = (3, 5), (7, 11)


def stacks(array, sizes):
    """`array` (frames first) cut into stacks of these sizes."""
    return iter(np.split(array, np.cumsum(sizes)[:-1]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("fortran_order", "version"), [(False, 1), (False, 2), (False, 3), (True, 1), (True, 3)])
def test_numpy_loads_what_was_written(tmp_path, dtype, fortran_order, version):
    array = random_items(1, (*NAV, *SIG), dtype)
    path = str(tmp_path / "a.npy")
    assert synth.write("npy", path, stacks(array.reshape(15, *SIG), [4, 1, 10]), nav_shape=NAV, sig_shape=SIG,
                       fortran_order=fortran_order, version=version) == [path]
    found = np.load(path)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    assert found.flags.f_contiguous == fortran_order
    with open(path, "rb") as file:
        assert file.read(8) == b"\x93NUMPY" + bytes([version, 0])


@pytest.mark.parametrize("alignment", [1, 16, 64, 4096])
def test_the_array_begins_where_it_is_asked_to(tmp_path, alignment):
    array = random_items(2, (15, *SIG), "u2")
    synth.write("npy", tmp_path / "a.npy", [array], nav_shape=NAV, sig_shape=SIG, alignment=alignment)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array.reshape(*NAV, *SIG))
    assert (os.path.getsize(tmp_path / "a.npy") - array.nbytes) % alignment == 0


def test_other_versions_are_refused(tmp_path):
    with pytest.raises(DataSetException, match="NPY version 4"):
        synth.write("npy", tmp_path / "a.npy", [np.ones((15, *SIG))], nav_shape=NAV, sig_shape=SIG, version=4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_maps_what_was_written_raw(tmp_path, dtype):
    array = random_items(3, (15, *SIG), dtype)
    path = str(tmp_path / "a.raw")
    assert synth.write("raw", path, stacks(array, [4, 1, 10]), nav_shape=NAV, sig_shape=SIG) == [path]
    assert os.path.getsize(path) == array.nbytes
    np.testing.assert_array_equal(np.fromfile(path, dtype).reshape(array.shape), array)


def test_bytes_around_frames_of_raw_files(tmp_path):
    array = random_items(4, (15, *SIG), ">u4")
    synth.write("raw", tmp_path / "a.raw", stacks(array, [4, 11]), nav_shape=NAV, sig_shape=SIG, file_header=b"file", frame_header=b"h",
                frame_footer=b"foo")
    assert (tmp_path / "a.raw").read_bytes() == b"file" + b"".join(b"h" + frame.tobytes() + b"foo" for frame in array)


@pytest.mark.parametrize(("sizes", "frames_per_file"), [([15], 4), ([4, 4, 4, 3], 4), ([1] * 15, 7), ([2, 13], 1), ([15], 15), ([15], 99)])
def test_raw_files_of_a_series_are_cut_after_so_many_frames(tmp_path, sizes, frames_per_file):
    array = random_items(5, (15, *SIG), "u2")
    paths = synth.write("raw", tmp_path / "a.raw", stacks(array, sizes), nav_shape=NAV, sig_shape=SIG, frames_per_file=frames_per_file,
                        file_header=b"abc")
    count = math.ceil(15 / frames_per_file)
    assert paths == [str(tmp_path / f"a{i}.raw") for i in range(count)]
    for i, path in enumerate(paths):
        with open(path, "rb") as file:
            assert file.read() == b"abc" + array[i * frames_per_file:(i + 1) * frames_per_file].tobytes()


@pytest.mark.parametrize("format", ["raw", "npy"])
@pytest.mark.parametrize("dtype", ["u1", ">u2", "<i4", "f4", ">c8"])
def test_frames_are_converted_where_no_value_changes(tmp_path, format, dtype):
    array = random_items(6, (15, *SIG), "u1")
    synth.write(format, tmp_path / "a", [array.astype("u8")], nav_shape=NAV, sig_shape=SIG, dtype=dtype)
    blob = (tmp_path / "a").read_bytes()
    np.testing.assert_array_equal(np.frombuffer(blob[-15 * 77 * np.dtype(dtype).itemsize:], dtype).ravel(), array.ravel())


@pytest.mark.parametrize("format", ["raw", "npy"])
@pytest.mark.parametrize(("value", "dtype"), [(256, "u1"), (-1, "u2"), (2**24 + 1, "f4"), (0.5, "i4"), (1j, "f8"), (1e39, "f4")])
def test_values_that_do_not_fit_are_refused_and_nothing_is_left(tmp_path, format, value, dtype):
    array = np.zeros((15, *SIG), np.asarray(value).dtype)
    array[14, 6, 10] = value
    with pytest.raises(DataSetException, match="cannot be written as"):
        synth.write(format, tmp_path / "a", [array], nav_shape=NAV, sig_shape=SIG, dtype=dtype)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("stored", "dtype", "value"), [("u1", "i1", 128), ("i2", ">u2", -1), ("u8", "i8", 1 << 63)])
def test_values_that_would_come_back_are_refused_too(tmp_path, stored, dtype, value):
    with pytest.raises(DataSetException, match=f"value {value} cannot be written as"):
        synth.write("raw", tmp_path / "a", [np.full((15, *SIG), value, stored)], nav_shape=NAV, sig_shape=SIG, dtype=dtype)


@pytest.mark.parametrize("format", ["raw", "npy"])
@pytest.mark.parametrize(("stack", "message"), [
    ([np.ones((15, 7, 10))], r"shape \(15, 7, 10\); expected \(n, 7, 11\)"),
    ([np.ones((14, *SIG))], "there are 14 frames; expected 15"),
    ([np.ones((14, *SIG)), np.ones((2, *SIG))], "there are at least 16 frames; expected 15"),
    ([], "no frames|0 frames"),
])
def test_frames_that_were_not_promised_are_refused_and_nothing_is_left(tmp_path, format, stack, message):
    with pytest.raises(ShapeError, match=message):
        synth.write(format, tmp_path / "a", stack, nav_shape=NAV, sig_shape=SIG)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("format", ["raw", "npy"])
def test_a_file_keeps_its_old_content_until_the_new_is_complete(tmp_path, format):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def frames():
        yield np.ones((14, *SIG), "u2")
        assert path.read_bytes() == b"old"
        yield np.ones((1, *SIG), "u2")

    synth.write(format, path, frames(), nav_shape=NAV, sig_shape=SIG)
    assert os.listdir(tmp_path) == ["a"]
    assert path.stat().st_size >= 15 * 77 * 2


@pytest.mark.parametrize("format", ["raw", "npy", "mib"])
def test_progress_counts_frames(tmp_path, format):
    seen = []
    synth.write(format, tmp_path / f"a.{format}", stacks(random_items(7, (15, 8, 8), "u1"), [4, 1, 10]), nav_shape=NAV, sig_shape=(8, 8),
                progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (15, 15)
    assert all(total == 15 for _, total in seen)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_a_scene_brings_its_shapes(tmp_path):
    scene = synth.Scene(NAV, SIG, seed=1)
    synth.write("npy", tmp_path / "a.npy", scene)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), scene.frames(0, 15).reshape(*NAV, *SIG))
    with pytest.raises(ShapeError, match="need nav_shape and sig_shape"):
        synth.write("npy", tmp_path / "b.npy", [scene.frames(0, 15)])


def test_an_unknown_format_is_refused_with_those_that_can_be_written(tmp_path):
    with pytest.raises(DataSetException, match="'tiff' cannot be written; expected one of mib, .*npy, .*raw"):
        synth.write("tiff", tmp_path / "a", synth.Scene(NAV, SIG))


def test_frames_per_file_is_positive(tmp_path):
    with pytest.raises(ShapeError, match="frames_per_file is 0"):
        synth.write("raw", tmp_path / "a", synth.Scene(NAV, SIG), frames_per_file=0)
