"""Arrays in memory: every element, by every way, for any strides, against the array itself."""

from __future__ import annotations

import array
import pickle
import time

import numpy as np
import pytest

import gpuio
from gpuio.base import CorrectionSet, MMapBackend, Shape, TilingScheme
from gpuio.errors import BackendUnavailable, DataSetException, ShapeError, UnsupportedFeature
from gpuio.formats import memory
from tests.formats.items import DTYPES, assert_same, random_items

NAV, SIG = (5, 7), (11, 13)
BASE = random_items(1, (10, 14, 22, 26), "u2")

#: Arrays of shape NAV + SIG whose items lie in memory in all sorts of ways.
ARRAYS = {
    "C order": np.ascontiguousarray(BASE[:5, :7, :11, :13]),
    "Fortran order": np.asfortranarray(BASE[:5, :7, :11, :13]),
    "a cut": BASE[2:7, 3:10, 4:15, 5:18],
    "every second position": BASE[::2, ::2, :11, :13],
    "every second pixel": BASE[:5, :7, ::2, ::2],
    "backwards": BASE[4::-1, 6::-1, 10::-1, 12::-1],
    "detector axes exchanged": np.ascontiguousarray(BASE[:5, :7, :13, :11]).swapaxes(2, 3),
    "navigation fastest": np.ascontiguousarray(BASE[:5, :7, :11, :13].transpose(2, 3, 0, 1)).transpose(2, 3, 0, 1),
    "one frame again and again": np.broadcast_to(BASE[0, 0, :11, :13], NAV + SIG),
    "one row again and again": np.broadcast_to(BASE[:5, :7, :1, :13], NAV + SIG),
    "frames that overlap": np.lib.stride_tricks.as_strided(BASE, NAV + SIG, (700, 100, 52, 2), writeable=False),
    "big-endian": BASE[:5, :7, :11, :13].astype(">u2"),
    "big-endian in Fortran order": np.asfortranarray(BASE[:5, :7, :11, :13].astype(">u2")),
}


def load(data, **parameters):
    return gpuio.load("memory", data=data, device="cpu", **parameters)


def whole(ds, **options):
    """What a stream delivers, put together; blanks are zero."""
    out = np.zeros((ds.shape.nav.size, *ds.shape.sig), options.get("dtype") or ds.dtype)
    for tile in ds.tiles(**options):
        out[tile.tile_slice.get(nav_only=True)] = tile.data
    return out


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_with_any_strides_give_their_items(name):
    data = ARRAYS[name]
    before = data.copy()
    ds, truth = load(data), np.ascontiguousarray(data.astype("u2"))
    assert ds.dtype == "u2" and ds.dtype.isnative and ds.meta.raw_dtype == data.dtype
    assert_same(ds[...], truth)
    assert_same(ds[1:4, ::-2, 3:9, 2:-1], truth[1:4, ::-2, 3:9, 2:-1])
    flat = truth.reshape(-1, *SIG)
    for options in ({}, {"memory": 9000 + 64 * 8}, {"depth": 3, "threads": 2}, {"dtype": "float64"}):
        np.testing.assert_array_equal(whole(ds, **options), flat)
    roi = np.random.default_rng(2).random(NAV) < 0.4
    np.testing.assert_array_equal(np.concatenate([t.data.copy() for t in ds.tiles(roi=roi, depth=3)]), flat[roi.ravel()])
    scan, pattern = ds.summary()
    np.testing.assert_array_equal(scan, truth.sum(axis=(2, 3), dtype="u8"))
    np.testing.assert_array_equal(pattern, truth.sum(axis=(0, 1), dtype="u8"))
    np.testing.assert_array_equal(data, before)


@pytest.mark.parametrize("sync_offset, nav", [(0, NAV), (4, NAV), (-4, NAV), (0, (6, 7)), (3, (2, 5)), (-30, (6, 7)), (34, NAV)])
@pytest.mark.parametrize("name", ["C order", "every second pixel", "big-endian in Fortran order"])
def test_position_i_shows_frame_i_plus_sync_offset(name, sync_offset, nav):
    data = ARRAYS[name]
    ds = load(data, nav_shape=nav, sync_offset=sync_offset, num_partitions=4)
    frames = data.astype("u2").reshape(-1, *SIG)
    k = np.arange(int(np.prod(nav))) + sync_offset
    there = (k >= 0) & (k < len(frames))
    scan = np.zeros((len(k), *SIG), "u2")
    scan[there] = frames[k[there]]
    assert_same(ds[...], scan.reshape(*nav, *SIG))
    chosen = np.random.default_rng(3).random(nav) < 0.5
    scheme = TilingScheme.make_for_shape(Shape((3, 4, 13), sig_dims=2), ds.shape)
    for roi in (None, chosen):
        expected, has = (scan, there) if roi is None else (scan[roi.ravel()], there[roi.ravel()])
        seen = np.zeros(expected.shape, int)
        reached = 0
        parts = list(ds.get_partitions())
        assert len(parts) == 4
        for part in parts:
            for tile in part.get_tiles(scheme, dest_dtype="uint16", roi=roi):
                np.testing.assert_array_equal(tile.data, expected[tile.tile_slice.get()])
                seen[tile.tile_slice.get()] += 1
            macrotile = part.get_macrotile("float32", roi=roi)
            np.testing.assert_array_equal(macrotile.data, expected[reached:reached + len(macrotile)])
            reached += len(macrotile)
        assert reached == len(expected)
        np.testing.assert_array_equal(seen, np.broadcast_to(has[:, None, None], seen.shape))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_in_either_byte_order(dtype):
    data = random_items(4, (3, 5, 7, 11), dtype)[:, ::-1]
    ds = load(data)
    assert_same(ds[...], data)
    assert_same(load(np.ascontiguousarray(data))[1:, :, 2:5], data[1:, :, 2:5])


def test_tiles_of_an_array_that_needs_nothing_are_views_of_it():
    data = ARRAYS["C order"]
    tiles = list(load(data).tiles(depth=6))
    assert len(tiles) == 6
    for tile in tiles:
        assert np.shares_memory(tile.data, data) and not tile.data.flags.writeable
    np.testing.assert_array_equal(np.concatenate([t.data for t in tiles]), data.reshape(-1, *SIG))
    assert data.flags.writeable


def test_only_what_is_asked_for_is_copied():
    asked = []

    class Watched(np.ndarray):
        def __getitem__(self, key):
            got = super().__getitem__(key)
            if isinstance(got, np.ndarray):
                asked.append(got.size)
            return got

    from gpuio.io.computed import ComputedBackend

    data = np.asfortranarray(BASE[:5, :7, :11, :13]).view(Watched)
    reader = ComputedBackend({"a": data}.__getitem__).open(["a"], [None])
    into = np.zeros(3 * 143 * 2, "u1")
    reader.read([(0, 9 * 143 * 2, into.size, 0)], into)
    np.testing.assert_array_equal(into.view("u2"), np.asarray(data).reshape(-1)[9 * 143:12 * 143])
    assert asked and max(asked) <= 7 * 143


@pytest.mark.parametrize("parameters, nav, sig", [
    ({}, NAV, SIG), ({"sig_dims": 1}, (*NAV, 11), (13,)), ({"sig_dims": 3}, (5,), (7, *SIG)), ({"nav_shape": (35,)}, (35,), SIG),
    ({"nav_shape": (7, 5), "sig_shape": (13, 11)}, (7, 5), (13, 11)), ({"sig_dims": None, "sig_shape": (143,)}, NAV, (143,)),
    ({"sig_dims": None, "nav_shape": (5, 7, 11)}, (5, 7, 11), (13,)), ({"sig_dims": None}, NAV, SIG),
    ({"sig_dims": None, "sig_shape": (7, 11, 13)}, (5,), (7, 11, 13)), ({"sig_dims": 4}, (1,), (*NAV, *SIG)),
    ({"sig_dims": None, "sig_shape": (77,)}, (65,), (77,)),
])
def test_shapes_are_taken_from_the_array_or_from_the_user(parameters, nav, sig):
    data = ARRAYS["every second position"]
    ds = load(data, **parameters)
    assert (tuple(ds.shape.nav), tuple(ds.shape.sig)) == (nav, sig)
    assert_same(ds[...].ravel(), data.ravel())


def test_one_frame_has_a_nav_axis():
    ds = load(ARRAYS["a cut"][0, 0])
    assert tuple(ds.shape) == (1, *SIG)
    assert_same(ds[0], ARRAYS["a cut"][0, 0])


def test_buffers_maps_and_arrays_of_other_libraries(tmp_path):
    data = ARRAYS["C order"]
    np.save(tmp_path / "a.npy", data)

    class Foreign:
        """Knows DLPack only."""
        shape, dtype = data.shape, "float of some library"
        __dlpack__, __dlpack_device__ = data.__dlpack__, data.__dlpack_device__

    class Interface:
        __array_interface__ = data.__array_interface__

    shapes = {"nav_shape": NAV, "sig_shape": SIG}
    for given, parameters in ((np.load(tmp_path / "a.npy", mmap_mode="r"), {}), (memoryview(data), {}), (Foreign(), {}), (Interface(), {}),
                              (array.array("H", data.tobytes()), shapes), (data.ravel(), shapes)):
        assert_same(load(given, **parameters)[...], data)
    assert_same(load(data.tobytes(), nav_shape=NAV, sig_shape=(11, 26))[...].view("u2"), data)


def test_zeros_of_a_shape_where_there_are_no_data():
    ds = gpuio.load("memory", datashape=(3, 5, 7, 11), device="cpu")
    assert_same(ds[...], np.zeros((3, 5, 7, 11), "f4"))


def test_corrections_are_applied():
    data, rng = ARRAYS["backwards"], np.random.default_rng(5)
    corrections = CorrectionSet(dark=rng.normal(size=SIG), gain=rng.normal(size=SIG).astype("f4"), excluded_pixels=rng.random(SIG) < 0.05)
    expected = data.astype("f4").reshape(-1, *SIG)
    from gpuio.base import Slice
    corrections.apply(expected, Slice.from_shape(expected.shape, sig_dims=2))
    np.testing.assert_array_equal(whole(load(data), corrections=corrections, dtype="float32"), expected)


@pytest.mark.parametrize("name", ["C order", "backwards"])
def test_reduced_frames(name):
    data = ARRAYS[name]
    ds = load(data, num_partitions=3).reduce(crop=(slice(1, 11), slice(3, 13)), bin_sig=(5, 2))
    expected = data[:, :, 1:11, 3:13].reshape(*NAV, 2, 5, 5, 2).sum(axis=(3, 5), dtype="u8")
    np.testing.assert_array_equal(ds[...], expected)
    np.testing.assert_array_equal(np.concatenate([p.get_macrotile("u4").data for p in ds.get_partitions()]), expected.reshape(35, 2, 5))


def test_tileshape_rules_the_tiles_of_partitions_and_not_macrotiles():
    data = ARRAYS["C order"].reshape(35, *SIG)[:10]
    ds = load(data, tileshape=(3, 11, 13), num_partitions=1)
    scheme = TilingScheme.make_for_shape(Shape((2, 4, 13), sig_dims=2), ds.shape)
    part, = ds.get_partitions()
    tiles = [tile.copy() for tile in part.get_tiles(scheme)]
    assert [tile.shape for tile in tiles] == [(3, 11, 13)] * 3 + [(1, 11, 13)]
    np.testing.assert_array_equal(np.concatenate([t.data for t in tiles]), data)
    assert part.get_macrotile().shape == (10, *SIG)


def test_what_steers_the_negotiation():
    data = ARRAYS["C order"]
    ds = load(data)
    assert not ds.need_decode("u2", None, None) and ds.need_decode("f4", None, None)
    assert load(ARRAYS["Fortran order"]).need_decode("u2", None, None)
    assert load(data, force_need_decode=True).need_decode("u2", None, None)
    assert ds.get_base_shape(None) == (1, 1, 13) and load(data, base_shape=(1, 11, 13)).get_base_shape(None) == (1, 11, 13)
    assert ds.get_num_partitions() == min(35, memory.physical_cores()) and ds.get_supported_io_backends() == []
    assert load(data, num_partitions=100).get_num_partitions() == 35


def test_tiledelay_waits_after_each_tile(monkeypatch):
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    ds = load(ARRAYS["C order"], tiledelay=0.25, num_partitions=2, tileshape=(10, *SIG))
    scheme = TilingScheme.make_for_shape(Shape((1, *SIG), sig_dims=2), ds.shape)
    assert sum(1 for part in ds.get_partitions() for _ in part.get_tiles(scheme)) == len(waited) == 4 and set(waited) == {0.25}


def test_it_travels_whole():
    ds = pickle.loads(pickle.dumps(load(ARRAYS["backwards"], sync_offset=2)))
    np.testing.assert_array_equal(ds[0, 0], ARRAYS["backwards"][0, 2])
    part = pickle.loads(pickle.dumps(next(iter(ds.get_partitions()))))
    np.testing.assert_array_equal(part.get_macrotile().data[0], ARRAYS["backwards"][0, 2])
    assert ds.get_cache_key() != load(ARRAYS["backwards"]).get_cache_key(), "nobody knows whether the array is as it was"
    assert ds.get_cache_key() != load(ARRAYS["backwards"], sync_offset=2).get_cache_key()


def test_facts_are_told():
    ds = load(ARRAYS["backwards"])
    said = {entry["name"]: entry["value"] for entry in ds.diagnostics}
    assert said["shape"] == str(NAV + SIG) and said["device"] == "cpu" and said["c_contiguous"] == "False"
    assert said["strides_bytes"] == str(ARRAYS["backwards"].strides)
    assert "computed: the pixels are in no file" in repr(ds.explain()) and "array in memory" in repr(ds) and "memory" in ds._repr_html_()
    assert ds.check_valid() is True and ds.files == []
    assert memory.MemoryDataSet.detect_params("a.npy") is False and memory.MemoryDataSet.detect_params([[1]]) is False
    assert memory.MemoryDataSet.detect_params(ARRAYS["a cut"])["info"] == {"image_count": 35, "native_sig_shape": SIG}


def test_messages_become_arguments():
    converter = memory.MemoryDataSet.get_msg_converter()()
    arguments = converter.to_python({"type": "MEMORY", "tileshape": [2, 7, 11], "num_partitions": 3, "datashape": [3, 5, 7, 11]})
    assert tuple(memory.MemoryDataSet(**arguments).shape) == (3, 5, 7, 11)
    with pytest.raises(Exception, match="num_partitions"):
        converter.to_python({"type": "MEMORY", "tileshape": [2, 7, 11]})


def sparse_items(dtype="u2"):
    return np.where(np.random.default_rng(6).random(NAV + SIG) < 0.1, random_items(7, NAV + SIG, dtype), 0).astype(dtype)


@pytest.mark.parametrize("form", ["csr_matrix", "csc_matrix", "coo_array", "lil_matrix", "bsr_array"])
def test_sparse_matrices_of_scipy_have_a_row_a_frame(form):
    scipy_sparse = pytest.importorskip("scipy.sparse", reason="SciPy is not installed; it is part of the test extra")
    items = sparse_items("f4")
    matrix = getattr(scipy_sparse, form)(items.reshape(35, 143))
    ds = load(matrix, sig_shape=SIG, nav_shape=NAV, num_partitions=3, sync_offset=2)
    expected = np.concatenate([items.reshape(35, *SIG)[2:], np.zeros((2, *SIG), "f4")])
    assert_same(ds[...], expected.reshape(NAV + SIG))
    assert_same(ds[3, ::-2, 2:4], expected.reshape(NAV + SIG)[3, ::-2, 2:4])
    np.testing.assert_array_equal(np.concatenate([p.get_macrotile().data for p in ds.get_partitions()]), expected)
    assert ds.metadata["entries"] == np.count_nonzero(items) and ds.metadata["shape"] == (35, 143)
    assert_same(load(matrix, sig_shape=SIG)[...], items.reshape(35, *SIG))
    again = pickle.loads(pickle.dumps(ds))
    assert_same(again[1], expected.reshape(NAV + SIG)[1])


def test_entries_of_scipy_that_repeat_add_up():
    scipy_sparse = pytest.importorskip("scipy.sparse", reason="SciPy is not installed; it is part of the test extra")
    matrix = scipy_sparse.csr_matrix((np.array([7, 1, 5], "u1"), np.array([1, 1, 0]), np.array([0, 2, 3])), shape=(2, 6))
    assert_same(load(matrix, sig_shape=(2, 3))[...].reshape(2, 6), np.array([[0, 8, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0]], "u1"))


@pytest.mark.parametrize("parameters, nav, sig", [({}, NAV, SIG), ({"sig_dims": 1}, (*NAV, 11), (13,)),
                                                  ({"nav_shape": (7, 5), "sig_shape": (13, 11)}, (7, 5), (13, 11))])
@pytest.mark.parametrize("kind", ["COO", "GCXS", "DOK"])
def test_sparse_arrays_of_pydata_have_the_shape_of_the_scan(kind, parameters, nav, sig):
    sparse = pytest.importorskip("sparse", reason="sparse is not installed; it is part of the test extra")
    items = sparse_items()
    ds = load(sparse.COO.from_numpy(items).asformat(kind.lower()), **parameters)
    assert_same(ds[...], items.reshape(*nav, *sig))


@pytest.mark.parametrize("make, parameters, error, message", [
    (lambda s, p: s.csr_matrix((3, 20)), {"sig_shape": (4, 7)}, ShapeError, "60 items, no multiple of the 28 pixels"),
    (lambda s, p: s.csr_matrix((3, 20)), {"sig_shape": (2, 5)}, ShapeError, r"has shape \(3, 20\); expected a row a frame .* \(6, 10\)"),
    (lambda s, p: s.csr_matrix((0, 20)), {"sig_shape": (4, 5)}, ShapeError, "has no frames"),
    (lambda s, p: s.csr_matrix((3, 20)).astype("longdouble"), {"sig_shape": (4, 5)}, UnsupportedFeature, "cannot be decoded"),
    (lambda s, p: p.COO.from_numpy(np.ones((3, 4, 5), "f2")), {}, UnsupportedFeature, "float16 cannot be added up"),
    (lambda s, p: p.COO.from_numpy(np.ones((3, 4, 5)), fill_value=1.0), {}, UnsupportedFeature, r"is 1\.0 where nothing is stored"),
])
def test_sparse_arrays_that_do_not_fit_are_refused(make, parameters, error, message):
    scipy_sparse = pytest.importorskip("scipy.sparse", reason="SciPy is not installed; it is part of the test extra")
    sparse = pytest.importorskip("sparse", reason="sparse is not installed; it is part of the test extra")
    with pytest.raises(error, match=message):
        load(make(scipy_sparse, sparse), **parameters)


@pytest.mark.parametrize("data, parameters, error, message", [
    (None, {}, DataSetException, "neither data nor a datashape"),
    ([[1, 2], [3, 4]], {}, DataSetException, r"data is list; expected an array in memory; pass np\.asarray"),
    (7, {}, DataSetException, "data is int; expected an array"),
    (np.ma.masked_array([[1, 2]], [[0, 1]]), {}, UnsupportedFeature, r"masked array .* data\.filled\(value\)"),
    (np.array([[1, "a"]], object), {}, UnsupportedFeature, "dtype object cannot be decoded"),
    (np.zeros((2, 3), [("a", "u1"), ("b", "f4")]), {}, UnsupportedFeature, "cannot be decoded"),
    (np.array([["a", "b"]]), {}, UnsupportedFeature, "cannot be decoded"),
    (np.zeros((2, 3), "M8[s]"), {}, UnsupportedFeature, "cannot be decoded"),
    (np.zeros((2, 3), "longdouble"), {}, UnsupportedFeature, "cannot be decoded"),
    (np.zeros((2, 0, 3)), {}, ShapeError, "has no frames"),
    (np.array(3.0), {}, ShapeError, "has no frames"),
    (np.zeros((2, 3)), {"sig_dims": 0}, ShapeError, "sig_dims is 0"),
    (np.zeros((2, 3)), {"sig_dims": -1}, ShapeError, "sig_dims is -1"),
    (np.zeros((2, 3)), {"sig_dims": True}, ShapeError, "sig_dims is True"),
    (np.zeros((2, 3)), {"sig_dims": 1.0}, ShapeError, r"sig_dims is 1\.0"),
    (np.zeros((2, 3)), {"sig_dims": 3}, ShapeError, "has 2 axes; expected at least sig_dims=3"),
    (np.zeros((2, 3, 4, 5)), {"sig_shape": (7,)}, ShapeError, r"sig_shape \(7,\) has 1 axes, but sig_dims is 2"),
    (np.zeros((2, 3, 4, 5)), {"sig_shape": (7, 1)}, ShapeError, "120 items, no multiple of the 7 pixels"),
    (np.zeros((2, 3, 4, 5)), {"sync_offset": 6}, ShapeError, r"sync_offset should be in \(-6, 6\)"),
    (np.zeros((2, 3, 4, 5)), {"tileshape": (1, 4)}, ShapeError, r"tileshape \(1, 4\) has 2 axes; expected 3"),
    (np.zeros((2, 3, 4, 5)), {"base_shape": (1, 1, 1, 5)}, ShapeError, "base_shape"),
    (np.zeros((2, 3, 4, 5)), {"num_partitions": 0}, ShapeError, "num_partitions is 0"),
    (np.zeros((2, 3, 4, 5)), {"io_backend": MMapBackend()}, ValueError, "in memory, not in files"),
])
def test_what_makes_no_sense_is_refused(data, parameters, error, message):
    with pytest.raises(error, match=message):
        load(data, **parameters)


def test_partitions_take_no_other_backend():
    part = next(iter(load(ARRAYS["C order"]).get_partitions()))
    part.set_io_backend(None)
    with pytest.raises(ValueError, match="in memory, not in files"):
        part.set_io_backend(MMapBackend())


def test_a_device_that_is_not_there_is_named():
    class OnDevice:
        @property
        def __cuda_array_interface__(self):
            return ARRAYS["C order"].__array_interface__

    class Elsewhere:
        def __dlpack__(self, **kwargs): ...
        def __dlpack_device__(self):
            return 10, 0

    from gpuio.engine import why_no_cuda
    if why_no_cuda() is not None:
        with pytest.raises(BackendUnavailable, match="cuda:0"):
            load(OnDevice())
    with pytest.raises(UnsupportedFeature, match="DLPack's kind 10"):
        load(Elsewhere())


class Unwilling:
    """What a library hands over whose array cannot be taken now, such as a tensor that is differentiated."""

    def __dlpack_device__(self):
        return 1, 0

    def __dlpack__(self, **options):
        raise BufferError("cannot export what requires a gradient")


class Broken:
    __array_interface__ = {"shape": (2, 2), "typestr": "<f4", "version": 3}     # noqa: RUF012 -- as libraries have it


@pytest.mark.parametrize(("data", "says"), [(Unwilling(), "requires a gradient"), (Broken(), "cannot coerce"), ("text", "memoryview")])
def test_arrays_that_cannot_be_taken_are_told_by_what_their_library_says(data, says):
    with pytest.raises(DataSetException, match=f"^data is .*; expected an array in memory; pass .*{says}"):
        gpuio.load("memory", data=data)
