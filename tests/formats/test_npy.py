"""NumPy files: parsed layouts against `numpy.load`, headers packed by hand, then whole data sets."""

from __future__ import annotations

import io
import json
import os
import pickle

import numpy as np
import pytest

import gpuio
from gpuio.errors import DataSetException, ReadError, ShapeError, TruncatedFile
from gpuio.formats._npy_header import read_header
from gpuio.formats.npy import NPYDataSet, parse, sniff
from tests.formats.items import DTYPES, assert_same, decoded, random_items
from tests.formats.mib_files import Files
from tests.formats.npy_files import DATA, GOOD, layout_of, packed, saved

# -- layouts ----------------------------------------------------------------------------------------------------------


def test_worked_example():
    blob = saved(np.arange(12, dtype=">u2").reshape(2, 2, 3))
    assert len(blob) == 152
    layout = layout_of(blob)
    assert (layout.nav_shape, layout.sig_shape, layout.image_count) == ((2,), (2, 3), 2)
    assert layout.parts[0][0].file_header == 128
    assert blob[150:152] == b"\x00\x0b"
    frames = decoded(layout, {"a.npy": blob})
    assert frames[1, 1, 2] == 11
    assert frames.sum(axis=(1, 2)).tolist() == [15, 51]


def test_worked_example_in_fortran_order():
    blob = saved(np.asfortranarray(np.arange(12, dtype="f4").reshape(3, 4)))
    layout = layout_of(blob, sig_dims=1)
    assert np.frombuffer(blob, "f4", 1, 156)[0] == 6
    assert layout.strided.offset + 1 * layout.strided.nav_strides[0] + 2 * layout.strided.sig_strides[0] == 156
    np.testing.assert_array_equal(decoded(layout, {"a.npy": blob})[1], [4, 5, 6, 7])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_frames_are_those_that_numpy_loads(dtype, order):
    array = np.asarray(random_items(1, (3, 5, 7, 11), dtype), order=order)
    blob = saved(array)
    layout = layout_of(blob)
    assert (layout.nav_shape, layout.sig_shape, layout.image_count) == ((3, 5), (7, 11), 15)
    assert_same(decoded(layout, {"a.npy": blob}), np.load(io.BytesIO(blob)).reshape(15, 7, 11))


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_all_versions_of_the_header(version):
    array = random_items(2, (3, 5, 7), "<i4")
    blob = saved(array, version)
    layout = layout_of(blob)
    assert layout.metadata["npy_version"] == f"{version[0]}.0"
    assert_same(decoded(layout, {"a.npy": blob}), array)


@pytest.mark.parametrize("n_spaces", range(0, 9))
def test_the_array_may_begin_at_any_byte(n_spaces):
    array = random_items(3, (3, 5, 7), ">u4")
    blob = packed("{'descr': '>u4', 'fortran_order': False, 'shape': (3, 5, 7)}" + " " * n_spaces, array.tobytes())
    assert_same(decoded(layout_of(blob), {"a.npy": blob}), array)


@pytest.mark.parametrize("text", [
    '{"shape": (2, 3, 4, 5), "fortran_order": False, "descr": "<u2"}',
    "{'descr':'<u2','fortran_order':False,'shape':(2,3,4,5)}",
    "  {'descr': '<u2',\n 'fortran_order': False,\n 'shape': (2, 3, 4, 5,),\n}  \n",
    "{'descr': '<u2', 'fortran_order': False, 'shape': (2L, 3L, 4L, 5L)}",
    "{'descr': 'u2', 'fortran_order': False, 'shape': (2, 3, 4, 5)}",
    "{'descr': '=u2', 'fortran_order': False, 'shape': (2, 3, 4, 5)}",
])
def test_other_spellings_of_the_same_header(text):
    blob = packed(text, DATA)
    np.testing.assert_array_equal(decoded(layout_of(blob), {"a.npy": blob}).ravel(), np.arange(120))


@pytest.mark.parametrize(("shape", "sig_dims", "nav", "sig"), [
    ((4, 5, 6, 7), 2, (4, 5), (6, 7)), ((4, 5, 6, 7), 1, (4, 5, 6), (7,)), ((4, 5, 6, 7), 3, (4,), (5, 6, 7)),
    ((4, 5, 6, 7), 4, (1,), (4, 5, 6, 7)), ((6, 7), 2, (1,), (6, 7)), ((6, 7), 1, (6,), (7,)), ((7,), 1, (1,), (7,)),
    ((3, 1, 5, 1), 2, (3, 1), (5, 1)), ((3, 1, 1, 1, 5), 2, (3, 1, 1), (1, 5)),
])
@pytest.mark.parametrize("order", ["C", "F"])
def test_sig_dims_divide_the_axes(shape, sig_dims, nav, sig, order):
    array = np.asarray(random_items(4, shape, "u2"), order=order)
    blob = saved(array)
    layout = layout_of(blob, sig_dims=sig_dims)
    assert (layout.nav_shape, layout.sig_shape, layout.image_count) == (nav, sig, int(np.prod(nav)))
    assert_same(decoded(layout, {"a.npy": blob}), array.reshape(-1, *sig))


@pytest.mark.parametrize(("shape", "sig_dims", "sig_shape", "nav"), [
    ((4, 5, 6, 7), 2, (7, 6), (4, 5)), ((4, 5, 6, 7), None, (42,), (4, 5)), ((4, 5, 42), 2, (6, 7), (4, 5)),
    ((4, 5, 42), None, (2, 3, 7), (4, 5)), ((840,), 2, (6, 7), None), ((4, 5, 6, 7), 2, (3, 7), None), ((5, 6, 7), 2, (5, 42), (1,)),
    ((4, 3), 2, (1, 1), (4, 3)),
])
def test_another_sig_shape_takes_the_items_in_order(shape, sig_dims, sig_shape, nav):
    array = random_items(5, shape, "u2")
    blob = saved(array)
    layout = layout_of(blob, sig_dims=sig_dims, sig_shape=sig_shape)
    assert (layout.nav_shape, layout.sig_shape) == (nav, sig_shape)
    assert_same(decoded(layout, {"a.npy": blob}), array.reshape(-1, *sig_shape))


def test_items_left_over_are_noted():
    array = random_items(6, (5, 7), "u2")
    blob = saved(array)
    layout = layout_of(blob, sig_shape=(3, 4))
    assert layout.notes == ("11 items after the last whole frame of shape (3, 4) are not used",)
    assert_same(decoded(layout, {"a.npy": blob}), array.ravel()[:24].reshape(2, 3, 4))


def test_bytes_after_the_array_are_noted():
    array = random_items(7, (2, 5, 7), "u2")
    layout = layout_of(saved(array) + b"abc")
    assert layout.notes == ("3 bytes follow the array and are not used",)
    assert_same(decoded(layout, {"a.npy": saved(array)}), array)


@pytest.mark.parametrize("shape", [(1, 1, 1, 9), (1, 9, 1), (9, 1, 1), (1, 1, 1)])
def test_fortran_order_with_one_long_axis_is_a_plain_file(shape):
    array = random_items(8, shape, "u4")
    blob = packed(f"{{'descr': '<u4', 'fortran_order': True, 'shape': {shape}}}", array.tobytes())
    layout = layout_of(blob)
    assert layout.strided is None
    assert_same(decoded(layout, {"a.npy": blob}), array.reshape(-1, *shape[-2:]))


def test_only_the_header_is_read():
    files = Files({"a.npy": saved(random_items(9, (7, 11, 13), "u2"))})
    parse(files, "a.npy")
    assert max(offset + size for _, offset, size in files.reads) == 128


def test_facts_become_metadata():
    blob = saved(np.asfortranarray(random_items(10, (3, 5, 7), ">f4")))
    layout = layout_of(blob)
    assert dict(layout.metadata) == {"dtype_on_disk": ">f4", "shape": (3, 5, 7), "fortran_order": True, "npy_version": "1.0",
                                     "data_offset_bytes": 128}
    assert any("Fortran order" in note for note in layout.notes)


# -- shapes that do not fit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kwargs", "message"), [
    ({"sig_dims": 0}, "sig_dims is 0"),
    ({"sig_dims": -1}, "sig_dims is -1"),
    ({"sig_dims": 2.0}, "sig_dims is 2.0"),
    ({"sig_dims": "2"}, "sig_dims is '2'"),
    ({"sig_dims": None}, "sig_dims is None and sig_shape None"),
    ({"sig_dims": 5}, "has 4 axes; expected at least sig_dims=5"),
    ({"sig_shape": (20,)}, "has 1 axes, but sig_dims is 2; pass sig_dims=None"),
    ({"sig_dims": 3, "sig_shape": (4, 5)}, "has 2 axes, but sig_dims is 3"),
    ({"sig_shape": (11, 11)}, r"sig_shape \(11, 11\) need 121 items; the array of shape \(2, 3, 4, 5\) has 120"),
    ({"nav_shape": (7,)}, r"nav_shape \(7,\) and sig_shape \(4, 5\) need 140 items"),
    ({"nav_shape": (3, 3), "sig_shape": (4, 5)}, "need 180 items"),
    ({"nav_shape": (2**40,), "sig_shape": (2**40, 2**40)}, f"need {2**120} items"),
])
def test_shapes_that_do_not_fit_are_refused(kwargs, message):
    with pytest.raises(ShapeError, match=r"^a\.npy: .*" + message):
        layout_of(packed(GOOD, DATA), **kwargs)


def test_fortran_order_keeps_its_sig_shape():
    blob = saved(np.asfortranarray(random_items(15, (2, 3, 4, 5), "u2")))
    with pytest.raises(ShapeError, match=r"sig_shape \(5, 4\) cannot replace \(4, 5\) in an array in Fortran order"):
        layout_of(blob, sig_shape=(5, 4))
    assert layout_of(blob, sig_shape=(4, 5)).strided is not None


def test_sniff_looks_at_the_first_bytes_only():
    assert sniff(saved(np.zeros((2, 3))), "a.dat")
    assert not sniff(b"\x93NUMP", "a.npy")
    assert not sniff(b"", "a.npy")


def test_header_of_a_file_on_disk(tmp_path):
    from gpuio.source import HostFiles

    np.save(tmp_path / "a.npy", random_items(16, (3, 5), ">i2"))
    header = read_header(HostFiles(), str(tmp_path / "a.npy"))
    assert (header.shape, header.dtype, header.fortran_order, header.data_offset) == ((3, 5), np.dtype(">i2"), False, 128)


# -- the data set -----------------------------------------------------------------------------------------------------


def load(path, array=None, **kwargs):
    if array is not None:
        np.save(path, array)
    return gpuio.load("npy", path=path, device="cpu", **kwargs)


def test_the_constructor_touches_no_file():
    ds = NPYDataSet("/nowhere/a.npy")
    assert ds.meta is None
    with pytest.raises(FileNotFoundError, match=r"a\.npy"):
        ds.initialize()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back_exactly(tmp_path, dtype, order):
    array = np.asarray(random_items(17, (3, 5, 7, 11), dtype), order=order)
    ds = load(tmp_path / "a.npy", array)
    assert_same(ds[...], array)
    assert_same(ds[1, 2:4], array[1, 2:4])


@pytest.mark.parametrize("order", ["C", "F"])
def test_tiles_cover_the_array(tmp_path, order):
    array = np.asarray(random_items(18, (5, 7, 11, 13), ">u2"), order=order)
    ds = load(tmp_path / "a.npy", array)
    found = np.full((35, 11, 13), -1, "f4")
    for tile in ds.tiles(dtype="float32", depth=4):
        first = tile.tile_slice.origin[0]
        found[first:first + len(tile.data)] = tile.data
    np.testing.assert_array_equal(found, array.reshape(35, 11, 13).astype("f4"))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("sync_offset", [2, -2])
def test_subsets_and_sync_offsets_count_frames_in_c_order(tmp_path, order, sync_offset):
    array = np.asarray(random_items(19, (3, 5, 7, 11), "u2") | 1, order=order)
    ds = load(tmp_path / "a.npy", array, nav_shape=(2, 7), sync_offset=sync_offset)
    frames = array.reshape(15, 7, 11)
    expected = np.zeros((14, 7, 11), "u2")
    if sync_offset > 0:
        expected[:13] = frames[2:]
    else:
        expected[2:] = frames[:12]
    assert_same(ds[...], expected.reshape(2, 7, 7, 11))


def test_another_sig_shape(tmp_path):
    array = random_items(20, (3, 5, 7, 11), "u2")
    assert_same(load(tmp_path / "a.npy", array, sig_dims=None, sig_shape=(77,))[...], array.reshape(3, 5, 77))
    assert_same(load(tmp_path / "a.npy", nav_shape=(2, 3), sig_shape=(11, 7))[...], array.ravel()[:462].reshape(2, 3, 11, 7))


def test_frames_missing_from_a_truncated_file_are_blank(tmp_path):
    array = random_items(21, (3, 5, 7, 11), "u2") | 1
    np.save(tmp_path / "a.npy", array)
    os.truncate(tmp_path / "a.npy", 128 + 1999)
    with pytest.raises(TruncatedFile, match="allow_truncated=True"):
        load(tmp_path / "a.npy")
    ds = load(tmp_path / "a.npy", allow_truncated=True)
    expected = array.reshape(15, 7, 11).copy()
    expected[12:] = 0
    assert_same(ds[...], expected.reshape(3, 5, 7, 11))
    assert ds.blank().ravel().tolist() == [False] * 12 + [True] * 3


@pytest.mark.parametrize("name", ["a.npy", "a.NPY", "a.dat", "a.mib"])
def test_files_are_recognised_by_their_bytes(tmp_path, name):
    array = random_items(22, (3, 5, 7, 11), "u2")
    (tmp_path / name).write_bytes(saved(array))
    assert gpuio.detect(tmp_path / name) == {
        "format": "npy",
        "parameters": {"path": str(tmp_path / name), "nav_shape": (3, 5), "sig_shape": (7, 11)},
        "info": {"image_count": 15, "native_sig_shape": (7, 11)},
    }
    assert_same(gpuio.open(tmp_path / name, device="cpu")[...], array)


def test_a_file_with_the_extension_of_numpy_and_other_bytes_is_not_recognised(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPX" + bytes(200))
    assert gpuio.detect(tmp_path / "a.npy") is None


def test_a_data_set_pickles_small_and_reads_again(tmp_path):
    array = random_items(23, (3, 5, 7, 11), ">i4")
    blob = pickle.dumps(load(tmp_path / "a.npy", array))
    assert len(blob) < 4096
    assert_same(pickle.loads(blob)[...], array)


def test_the_cache_key_is_json_and_differs_wherever_pixels_do(tmp_path):
    np.save(tmp_path / "a.npy", random_items(24, (3, 5, 7, 11), "u2"))
    np.save(tmp_path / "b.npy", random_items(24, (3, 5, 7, 11), "u2"))
    changes = [("a", {}), ("b", {}), ("a", {"nav_shape": (3, 4)}), ("a", {"sync_offset": 1}), ("a", {"sig_shape": (11, 7)})]
    keys = {json.dumps(load(tmp_path / f"{name}.npy", **change).get_cache_key(), sort_keys=True) for name, change in changes}
    assert len(keys) == len(changes)


def test_messages_become_arguments():
    import jsonschema

    converter = NPYDataSet.get_msg_converter()()
    message = {"type": "NPY", "path": "p", "sig_dims": 2, "nav_shape": [2, 3], "sig_shape": [4, 5], "io_backend": "buffered"}
    arguments = converter.to_python(message)
    assert arguments.pop("io_backend").id_ == "buffered"
    assert arguments == {"path": "p", "sig_dims": 2, "nav_shape": (2, 3), "sig_shape": (4, 5)}
    for wrong in ({"path": None}, {"type": "RAW"}, {"nav_shape": [2]}, {"sig_dims": 0}):
        with pytest.raises(jsonschema.ValidationError):
            converter.to_python({**message, **wrong})


def test_folders_and_pipes_are_refused_by_name(tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    for name, kind in (("pipe.npy", "a pipe"), (".", "a folder")):
        with pytest.raises(DataSetException, match=f"is {kind}; expected a regular file"):
            load(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_the_error_of_the_system(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 3, 4)))
    (tmp_path / "a.npy").chmod(0)
    with pytest.raises(PermissionError, match=r"a\.npy"):
        load(tmp_path / "a.npy")


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_file_that_shrinks_while_open_is_an_error_and_no_old_pixels(tmp_path, order):
    array = np.asarray(random_items(25, (64, 64, 64), "u2"), order=order)
    ds = load(tmp_path / "a.npy", array)
    assert_same(ds[63], array[63])
    os.truncate(tmp_path / "a.npy", 40 * 8192 + 100)
    with pytest.raises(ReadError, match=r"a\.npy"):
        ds[63]
