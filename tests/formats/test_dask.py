"""Dask arrays: chunks merged as documented, every element by every way, blocks that are not what they should be."""

from __future__ import annotations

import pickle
import weakref
from collections import Counter

import numpy as np
import pytest

import gpuio
from gpuio.base import CorrectionSet, MMapBackend, Shape, TilingScheme
from gpuio.errors import DataSetException, ShapeError, UnsupportedFeature
from gpuio.formats._rechunk import merged, most_chunks_first
from gpuio.formats.dask import DaskDataSet
from tests.formats.items import DTYPES, assert_same, random_items

da = pytest.importorskip("dask.array", reason="dask is not installed; it is part of the test extra")

SHAPE = (4, 6, 7, 11)
ITEMS = random_items(1, SHAPE, "u2")


def load(array, sig_dims=2, **parameters):
    return gpuio.load("dask", array, sig_dims=sig_dims, device="cpu", **parameters)


def counted(items, chunks, make=lambda block: block, **options):
    """A dask array, and how often each of its blocks has been computed."""
    computed = Counter()

    def block(block_info=None):
        place = block_info[None]["array-location"]
        computed[tuple(first for first, _ in place)] += 1
        return make(items[tuple(slice(*p) for p in place)])

    chunks = da.core.normalize_chunks(chunks, items.shape)
    return da.map_blocks(block, chunks=chunks, dtype=items.dtype, meta=np.zeros((0,) * items.ndim, items.dtype), **options), computed


@pytest.mark.parametrize("shape, chunks, min_size, preserve, after, new_shape", [
    ((5, 25, 16, 16), (2, 5, -1, -1), 0, True, ((2, 2, 1), (25,)), (5, 25)),
    ((5, 25, 16, 16), (1, -1, 8, 8), 0, True, ((1,) * 5, (25,)), (5, 25)),
    ((5, 25, 16, 16), (5, 1, -1, -1), 0, False, ((1,) * 25, (5,)), (25, 5)),
    ((12, 25, 16, 16), (1, 2, -1, -1), 4096, True, ((1,) * 12, (6, 4, 4, 4, 7)), (12, 25)),
    ((5, 25, 16, 16), (1, -1, -1, -1), 51199, True, ((3, 2), (25,)), (5, 25)),
    ((8, 4, 5, 16, 16), (4, 2, 1, 8, 8), 0, True, ((4, 4), (4,), (5,)), (8, 4, 5)),
    ((6, 10, 16, 16), (1, -1, -1, -1), None, True, ((6,), (10,)), (6, 10)),
    ((6, 10, 16, 16), (1, -1, -1, -1), float("inf"), True, ((6,), (10,)), (6, 10)),
    ((6, 10, 16, 16), (1, 1, 8, 8), 0, True, ((1,) * 6, (1,) * 10), (6, 10)),
    ((4, 6, 8, 8), (4, 2, -1, -1), 1, False, ((2, 2, 2), (4,)), (6, 4)),
    ((3, 4, 8, 8), (1, 1, -1, -1), 300, True, ((1, 1, 1), (2, 2)), (3, 4)),
])
def test_chunks_are_merged_and_never_cut(shape, chunks, min_size, preserve, after, new_shape):
    ds = load(da.zeros(shape, chunks=chunks, dtype="f4"), min_size=min_size, preserve_dimensions=preserve)
    assert ds.metadata["partition_chunks"] == (*after, *((n,) for n in shape[-2:]))
    assert tuple(ds.shape) == (*new_shape, *shape[-2:])
    frames = np.array(1)
    for axis in after:
        frames = np.multiply.outer(frames, axis)
    parts = [(p.slice.origin[0], p.shape[0]) for p in ds.get_partitions()]
    assert [n for _, n in parts] == frames.ravel().tolist() and len(parts) == ds.get_num_partitions()
    assert [first for first, _ in parts] == [0, *np.cumsum(frames.ravel())[:-1]]


def test_the_example_of_the_page_has_five_partitions_if_the_size_allows():
    array = da.ones((10, 100, 256, 256), chunks=(2, -1, -1, -1))
    assert load(array, min_size=1).get_num_partitions() == 5
    assert load(array).metadata["partition_chunks"][0] == (6, 4)


def test_chunks_end_where_chunks_ended_and_none_is_too_small():
    rng = np.random.default_rng(5)
    for count in (*range(1, 40), 3000):
        sizes = tuple(rng.integers(1, 6, count).tolist())
        after = merged((sizes, (7, 4), (3, 4), (11,)), 2, 2, 11 * 20 * 77 * 2)
        assert after[1:] == ((11,), (7,), (11,)) and set(np.cumsum(after[0])) <= set(np.cumsum(sizes)) and sum(after[0]) == sum(sizes)
        assert min(after[0]) >= 20 or len(after[0]) == 1


def test_axes_with_the_most_chunks_come_first_and_equals_stay_in_order():
    assert most_chunks_first(((2, 2), (1, 1, 1), (4,), (2, 3), (5,), (3, 3)), 2) == (1, 0, 3, 2, 4, 5)


@pytest.mark.parametrize("chunks, parameters", [
    ((1, -1, -1, -1), {"min_size": 0}), ((1, 2, 3, 5), {"min_size": 0}), ((2, 2, -1, -1), {"min_size": 0}), ((3, 5, -1, -1), {}),
    ((4, 1, -1, -1), {"min_size": 0, "preserve_dimensions": False}), ((1, 1, -1, -1), {"min_size": 500}),
])
def test_every_way_gives_the_items(chunks, parameters):
    ds = load(da.from_array(ITEMS, chunks=chunks), **parameters)
    truth = ITEMS if parameters.get("preserve_dimensions", True) else ITEMS.transpose(1, 0, 2, 3)
    nav, sig = truth.shape[:2], truth.shape[2:]
    flat = truth.reshape(-1, *sig)
    assert_same(ds[...], truth)
    assert_same(ds[::-1, 1:5:2, 2:6, ::-3], truth[::-1, 1:5:2, 2:6, ::-3])
    assert_same(ds[2, 3], truth[2, 3])
    np.testing.assert_array_equal(ds.sum_nav(), truth.sum(axis=(0, 1), dtype="u8"))
    chosen = np.random.default_rng(2).random(nav) < 0.5
    scheme = TilingScheme.make_for_shape(Shape((3, 4, 11), sig_dims=2), ds.shape)
    for roi in (None, chosen):
        expected = flat if roi is None else flat[roi.ravel()]
        for options in ({}, {"depth": 5, "memory": 20_000}, {"dtype": "float64", "threads": 2}):
            np.testing.assert_array_equal(np.concatenate([t.data.copy() for t in ds.tiles(roi=roi, **options)]), expected)
        seen = np.zeros(expected.shape, int)
        macrotiles = []
        for part in ds.get_partitions():
            for tile in part.get_tiles(scheme, dest_dtype="float32", roi=roi):
                np.testing.assert_array_equal(tile.data, expected[tile.tile_slice.get()])
                seen[tile.tile_slice.get()] += 1
            macrotiles.append(part.get_macrotile("uint16", roi=roi).data)
        assert (seen == 1).all()
        np.testing.assert_array_equal(np.concatenate(macrotiles), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_in_either_byte_order(dtype):
    items = random_items(3, (3, 5, 7, 11), dtype)
    assert_same(load(da.from_array(items, chunks=(1, 5, 7, 11)), min_size=0)[...], items)


def test_corrections_are_applied():
    rng = np.random.default_rng(4)
    corrections = CorrectionSet(dark=rng.normal(size=(7, 11)), excluded_pixels=rng.random((7, 11)) < 0.05)
    ds = load(da.from_array(ITEMS, chunks=(1, -1, -1, -1)), min_size=0)
    theirs = gpuio.load("memory", data=ITEMS, device="cpu")
    for ours, expected in zip(ds.tiles(corrections=corrections, depth=6), theirs.tiles(corrections=corrections, depth=6), strict=True):
        np.testing.assert_array_equal(ours.data, expected.data)


def test_reduced_frames():
    ds = load(da.from_array(ITEMS, chunks=(1, -1, -1, -1)), min_size=0).reduce(bin_sig=(3, 2))
    expected = ITEMS[:, :, :6, :10].reshape(4, 6, 2, 3, 5, 2).sum(axis=(3, 5), dtype="u8")
    np.testing.assert_array_equal(ds[...], expected)
    np.testing.assert_array_equal(np.concatenate([p.get_macrotile("u4").data for p in ds.get_partitions()]), expected.reshape(24, 2, 5))


def test_a_stream_computes_each_block_once_and_only_those_that_it_needs():
    array, computed = counted(ITEMS, (1, 6, 7, 11))
    ds = load(array, min_size=0)
    assert not computed
    assert sum(len(t) for t in ds.tiles(depth=2)) == 24
    assert len(computed) == 4 and set(computed.values()) == {1}
    roi = np.zeros((4, 6), bool)
    roi[1, 2] = roi[3, 5] = True
    assert sum(len(t) for t in ds.tiles(roi=roi)) == 2
    assert sorted(computed.values()) == [1, 1, 2, 2]
    list(ds.get_partitions())[2].get_macrotile()
    assert computed[2, 0, 0, 0] == 2


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_that_decode_ahead_share_what_is_computed(threads):
    items = random_items(7, (5, 40, 32, 32), "u2")
    array, computed = counted(items, (1, 40, 32, 32))
    tiles = [tile.data.copy() for tile in load(array, min_size=0).tiles(threads=threads, depth=7, memory=200_000)]
    np.testing.assert_array_equal(np.concatenate(tiles), items.reshape(-1, 32, 32))
    assert len(computed) == 5 and set(computed.values()) == {1}


@pytest.mark.parametrize("depth", [2, 5, 100])
def test_one_block_is_in_memory_at_a_time(depth):
    made, alive = [], []

    def make(block):
        alive.append(sum(known() is not None for known in made))
        own = np.array(block)
        made.append(weakref.ref(own))
        return own

    array, _ = counted(ITEMS, (1, 6, 7, 11), make)
    tiles = [tile.data.copy() for tile in load(array, min_size=0).tiles(depth=depth)]
    np.testing.assert_array_equal(np.concatenate(tiles), ITEMS.reshape(-1, 7, 11))
    assert alive == [0, 0, 0, 0] and not any(known() is not None for known in made)


@pytest.mark.parametrize("make", [
    np.asfortranarray, lambda b: np.repeat(b, 2, axis=-1)[..., ::2], lambda b: np.broadcast_to(b, b.shape),
    lambda b: __import__("sparse").COO.from_numpy(b),
], ids=["Fortran order", "strided", "read-only", "sparse"])
def test_blocks_may_lie_in_memory_as_they_like(make):
    array, _ = counted(ITEMS, (2, 6, 7, 11), make)
    assert_same(load(array, min_size=0)[...], ITEMS)


@pytest.mark.parametrize("make, error, message", [
    (lambda b: b.astype("f8"), DataSetException, r"block 0: has dtype float64; the dask array says uint16\. .*dtype="),
    (lambda b: b.astype(">u2"), DataSetException, "has dtype >u2; the dask array says uint16"),
    (lambda b: b[:, :3], DataSetException, r"has shape \(1, 3, 7, 11\); the dask array says \(1, 6, 7, 11\)"),
    (lambda b: np.ma.masked_array(b), UnsupportedFeature, "block 0: a masked array"),
    (lambda b: b.tolist(), DataSetException, "block 0"),
    (lambda b: 1 // 0, DataSetException, "block 0: computing it failed: ZeroDivisionError: integer division or modulo by zero"),
])
def test_blocks_that_are_not_what_the_array_says_are_refused(make, error, message):
    array, _ = counted(ITEMS, (1, 6, 7, 11), make)
    ds = load(array, min_size=0)
    with pytest.raises(error, match=message):
        ds[0, 0]
    with pytest.raises(error, match=message.replace("block 0", "block 3")):
        list(ds.get_partitions())[3].get_macrotile()


def test_a_partition_travels_with_its_own_block_alone():
    ds = load(da.from_array(ITEMS, chunks=(1, 6, 7, 11)), min_size=0)
    parts = list(ds.get_partitions())
    sizes = [len(pickle.dumps(part)) for part in parts]
    for number, part in enumerate(parts):
        again = pickle.loads(pickle.dumps(part))
        np.testing.assert_array_equal(again.get_macrotile("u2").data, ITEMS[number])
    whole = pickle.loads(pickle.dumps(ds))
    np.testing.assert_array_equal(whole[...], ITEMS)
    many = list(load(da.zeros((500, 7, 11), chunks=(1, 7, 11)) + 1, min_size=0).get_partitions())
    assert len(pickle.dumps(many[7])) < 2 * max(sizes)


def test_facts_are_told():
    array = da.from_array(ITEMS, chunks=(2, 2, 7, 11))
    ds = load(array, min_size=0)
    said = {entry["name"]: entry["value"] for entry in ds.diagnostics}
    assert said["chunks"] == str(array.chunks) and said["Number of partitions"] == "2" and said["name"] == array.name
    assert set(ds.get_sync_offset_info().values()) == {0}
    assert ds.get_cache_key() == {"path": None, "dask": array.name, "shape": SHAPE, "sync_offset": 0} == load(array).get_cache_key()
    assert ds.get_cache_key() != load(array + 1).get_cache_key()
    assert ds.notes == ("6 chunks are merged into 2 partitions",)
    assert "computed" in repr(ds.explain()) and ds.check_valid() is True and ds.files == [] and "dask array" in repr(ds)
    assert DaskDataSet.detect_params("a.npy") is False and ds.need_decode("u2", None, None) is True
    arguments = DaskDataSet.get_msg_converter()().to_python({"type": "DASK", "sig_dims": 2, "min_size": 0})
    assert tuple(DaskDataSet(array, **arguments).initialize(None).shape) == SHAPE


@pytest.mark.parametrize("array, parameters, error, message", [
    (ITEMS, {}, DataSetException, r"dask_array is ndarray; expected a dask\.array\.Array.*gpuio\.load\('memory'"),
    (da.zeros(SHAPE), {"sig_dims": 4}, ShapeError, "sig_dims is 4; expected a number from 1 to 3"),
    (da.zeros(SHAPE), {"sig_dims": 0}, ShapeError, "sig_dims is 0"),
    (da.zeros(SHAPE), {"sig_dims": -1}, ShapeError, "sig_dims is -1"),
    (da.zeros(SHAPE), {"sig_dims": True}, ShapeError, "sig_dims is True"),
    (da.zeros(SHAPE), {"sig_dims": 2.0}, ShapeError, r"sig_dims is 2\.0"),
    (da.zeros(SHAPE), {"io_backend": MMapBackend()}, DataSetException, "expected io_backend=None"),
    (da.zeros(SHAPE), {"min_size": -1}, DataSetException, "min_size is -1"),
    (da.zeros(SHAPE), {"min_size": float("nan")}, DataSetException, "min_size is nan"),
    (da.zeros(SHAPE), {"min_size": "1 MiB"}, DataSetException, "min_size is '1 MiB'"),
    (da.zeros((3, 0, 7)), {}, ShapeError, "has no frames"),
    (da.zeros(SHAPE, dtype="M8[s]"), {}, UnsupportedFeature, "cannot be decoded"),
    (da.from_array(np.array([[["a"]]], object), chunks=1), {}, UnsupportedFeature, "cannot be decoded"),
    (da.from_array(np.ma.masked_array(ITEMS, ITEMS > 5)), {}, UnsupportedFeature, "masked array"),
    (da.from_array(ITEMS)[da.from_array(np.arange(4)) > 1], {}, DataSetException, r"unknown size; call compute_chunk_sizes\(\)"),
])
def test_what_makes_no_sense_is_refused(array, parameters, error, message):
    with pytest.raises(error, match=message):
        load(array, **parameters)


def test_merging_takes_the_smallest_chunk_of_equals_the_rightmost():
    """Step 4 of `_rechunk` as it is written there."""
    rng = np.random.default_rng(51)
    for _ in range(500):
        sizes = rng.integers(1, rng.integers(2, 9), rng.integers(1, 14)).tolist()
        least = int(rng.choice([0, 1, 3, 6, 17, 1000]))
        chunks = list(sizes)
        while len(chunks) > 1 and min(chunks) < least:
            at = max(i for i, n in enumerate(chunks) if n == min(chunks))
            left, right = (chunks[i] if 0 <= i < len(chunks) else np.inf for i in (at - 1, at + 1))
            first = at - 1 if left <= right else at
            chunks[first:first + 2] = [sum(chunks[first:first + 2])]
        assert merged((tuple(sizes), (5,)), 1, 1, 5 * least) == (tuple(chunks), (5,))


def test_as_many_chunks_as_frames_are_merged_in_time():
    (nav, _), n = merged(((1,) * 200_000, (5,)), 1, 1, 5 * 1000), 200_000
    assert sum(nav) == n and min(nav) >= 1000 and max(nav) < 4000


def test_empty_chunks_are_left_out():
    values = random_items(np.random.default_rng(52), (2, 4, 5, 7), "u2")
    array = da.from_array(values, chunks=((1, 0, 1), (0, 4), (5,), (3, 0, 4)))
    for least in (0, None):
        ds = gpuio.load("dask", array, sig_dims=2, min_size=least, device="cpu")
        np.testing.assert_array_equal(ds[...], values)
        assert all(part.shape.nav.size for part in ds.get_partitions())
