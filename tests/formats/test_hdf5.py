"""HDF5: pixels of every storage layout, beside the arrays that h5py wrote."""

from __future__ import annotations

import ctypes
import glob
import os
import pickle
from itertools import pairwise

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuio
from gpuio.base import BufferedBackend, Shape, TilingScheme
from gpuio.boxes import Box, Cut
from gpuio.errors import MemoryBudgetError
from gpuio.sizing import stream_blocks, stream_sizes, tile_edges
from tests.formats.every_way import check_every_way
from tests.formats.hdf5_files import BY_LIBRARY, PACKED, counts, write
from tests.formats.items import DTYPES

NAV, SIG = (5, 7), (13, 11)

#: Chunks, and how frames are then described: as frames of a file, frame by frame out of chunks, or by whole chunks.
CHUNKS = {
    None: "file", (1, 1, 13, 11): "file", (1, 3, 13, 11): "file", (2, 7, 13, 11): "file", (5, 7, 13, 11): "file",
    (2, 3, 13, 11): "frame", (1, 1, 4, 11): "frame", (1, 1, 13, 5): "frame", (1, 1, 4, 5): "frame", (2, 3, 4, 5): "frame",
    (5, 7, 1, 1): "frame",
}
BOXES = [chunk for chunk in CHUNKS if chunk is not None]


def load(path, **parameters):
    return gpuio.load("hdf5", path=path, device="cpu", **parameters)


def described(layout):
    """How a layout says where its frames are."""
    if layout.chunks is None:
        return "file"
    return "frame" if layout.chunks.by_frame else "chunk"


@pytest.mark.parametrize("userblock", [None, 512, 4096])
@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_every_layout_gives_the_array(tmp_path, chunks, userblock):
    values = counts(1, NAV + SIG)
    path = write(tmp_path / "scan.h5", values, chunks=chunks, userblock_size=userblock)
    ds = gpuio.open(path, device="cpu")
    assert (ds.format, tuple(ds.shape), ds.dtype, ds.notes) == ("hdf5", NAV + SIG, values.dtype, ())
    assert described(ds.layout) == CHUNKS[chunks]
    np.testing.assert_array_equal(ds[...], values)
    np.testing.assert_array_equal(ds[3, ::2, 3:9, 4:], values[3, ::2, 3:9, 4:])


@pytest.mark.parametrize(("backend", "sync_offset"), [("mmap", 3), ("buffered", 0), ("direct", -4)])
@pytest.mark.parametrize("storage", [
    {}, {"chunks": (1, 3, *SIG)}, {"chunks": (2, 3, 4, 5)}, {"chunks": (2, 3, 4, 5), **PACKED["gzip shuffle"]},
    {"chunks": (1, 1, *SIG), **PACKED["bitshuffle lz4"]}], ids=["contiguous", "frames", "boxes", "gzip", "bitshuffle"])
def test_every_way_to_the_pixels(tmp_path, storage, sync_offset, backend):
    values = counts(2, NAV + SIG)
    path = write(tmp_path / "scan.h5", values, **storage)
    check_every_way(lambda **k: load(path, **k), values.reshape(-1, *SIG), backend, sync_offset, tile=(4, 5, 11))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("storage", [{}, {"chunks": (2, 3, 4, 5)}, {"chunks": (2, 3, 4, 5), **PACKED["gzip shuffle"]}],
                         ids=["contiguous", "boxes", "packed"])
def test_every_dtype_in_either_byte_order(tmp_path, storage, dtype):
    values = counts(3, NAV + SIG, dtype)
    ds = load(write(tmp_path / "scan.h5", values, **storage))
    assert ds.dtype == values.dtype.newbyteorder("=")
    assert ds.metadata["dtype_on_disk"] == values.dtype.str
    np.testing.assert_array_equal(ds[...], values)


@pytest.mark.parametrize("filters", [*PACKED, *BY_LIBRARY])
@pytest.mark.parametrize("dtype", ["u1", ">i4"])
def test_every_filter(tmp_path, filters, dtype):
    if filters == "scale-offset":
        dtype = "i4"
    values = counts(4, NAV + SIG, dtype)
    path = write(tmp_path / "scan.h5", values, chunks=(2, 3, 13, 7), **(PACKED | BY_LIBRARY)[filters])
    with h5py.File(path) as file:
        truth = file["data"][...]
    np.testing.assert_array_equal(truth, values)
    ds = load(path)
    assert (ds.layout.chunks.source is not None) == (filters in BY_LIBRARY)
    np.testing.assert_array_equal(ds[...], values)


def test_filters_left_out_of_single_chunks(tmp_path):
    values = counts(5, (6, 13, 11))
    path = write(tmp_path / "scan.h5", values, chunks=(1, 13, 11), **PACKED["gzip shuffle"])
    with h5py.File(path, "r+") as file:
        for k in (1, 4):
            file["data"].id.write_direct_chunk((k, 0, 0), values[k].tobytes(), filter_mask=0b11)
    with h5py.File(path) as file:
        assert file["data"].id.get_chunk_info(4).filter_mask == 3
        np.testing.assert_array_equal(file["data"][...], values)
    np.testing.assert_array_equal(load(path)[...], values)


@pytest.mark.parametrize("filters", ["deflate", "shuffle"])
def test_filters_left_out_where_chunks_reach_beyond_the_array(tmp_path, filters):
    """h5py has no way to ask for it, so that its HDF5 library is called directly."""
    libraries = glob.glob(os.path.join(os.path.dirname(h5py.__file__), "..", "h5py.libs", "libhdf5-*"))
    if not libraries:
        pytest.skip("h5py does not bring its own HDF5 library")
    hdf5 = ctypes.CDLL(libraries[0])
    hdf5.H5Pset_chunk_opts.argtypes = (ctypes.c_int64, ctypes.c_uint)
    values = counts(16, (7, *SIG))
    path = str(tmp_path / "scan.h5")
    with h5py.File(path, "w", libver="latest") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((2, 4, 5))
        plist.set_shuffle()
        if filters == "deflate":
            plist.set_deflate(4)
        assert hdf5.H5Pset_chunk_opts(plist.id, 2) == 0
        h5py.h5d.create(file.id, b"data", h5py.h5t.py_create(values.dtype), h5py.h5s.create_simple(values.shape), plist)
        file["data"][...] = values
    with h5py.File(path) as file:
        last = file["data"].id.get_chunk_info_by_coord((6, 12, 10))
        assert (last.filter_mask, last.size) == (0, 80)
    np.testing.assert_array_equal(load(path)[...], values)


@pytest.mark.parametrize("memory", [12_000, 40_000, None])
@pytest.mark.parametrize("chunks", [(1, 1, *SIG), (1, 3, 4, 5), (2, 3, 13, 11), (5, 2, 13, 7), (5, 7, 13, 11)], ids=str)
@pytest.mark.parametrize("filters", ["none", "gzip shuffle", "zstd"])
def test_streams_keep_to_their_budget_whatever_is_selected(tmp_path, filters, chunks, memory):
    values = counts(6, NAV + SIG)
    path = write(tmp_path / "scan.h5", values, chunks=chunks, **(PACKED | BY_LIBRARY).get(filters, {}))
    ds = load(path)
    rng = np.random.default_rng(6)
    for roi in (None, rng.random(NAV) < 0.4, rng.random(NAV) < 0.1):
        truth = values.reshape(-1, *SIG) if roi is None else values[roi]
        for depth, threads in ((None, 0), (3, 0), (4, 2)):
            try:
                tiles = [np.array(tile.data) for tile in ds.tiles(roi=roi, memory=memory, depth=depth, threads=threads)]
            except MemoryBudgetError as error:
                assert memory is not None and memory < 300_000
                assert "at least" in str(error)
                continue
            np.testing.assert_array_equal(np.concatenate(tiles), truth)


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("chunks", [(1, 1, *SIG), (1, 3, 4, 5), (2, 3, 13, 11), (5, 2, 13, 7)], ids=str)
def test_deep_stacks_of_boxes_keep_to_the_budget(tmp_path, chunks, threads):
    values = counts(6, NAV + SIG)
    ds = load(write(tmp_path / "scan.h5", values, chunks=chunks, **PACKED["gzip shuffle"]))
    scheme = TilingScheme.make_for_shape(Shape((35, 5, 4), sig_dims=2), ds.shape)
    boxes = [Box(tuple(s.origin), tuple(s.shape), k) for k, s in scheme.slices]
    cuts = [Cut.of(ds.layout, box, ds.dtype, None) for box in boxes]
    table = np.concatenate([cut.placements(ds.layout) for cut in cuts])
    frames = np.arange(35)
    deep = stream_sizes(ds.layout, ds.engine, BufferedBackend(), frames, table, cuts, ds.dtype, depth=35, memory=None, threads=threads,
                        cold=False)
    for budget in (deep.least_bytes, deep.least_bytes * 2, deep.least_bytes * 4):
        sizes = stream_sizes(ds.layout, ds.engine, BufferedBackend(), frames, table, cuts, ds.dtype, depth=35, memory=budget,
                             threads=threads, cold=False)
        edges = tile_edges(frames, sizes.depth)
        rows = ds.layout.chunks.rows_of(frames)
        for start, stop in pairwise(stream_blocks(ds.layout, frames, edges, sizes, whole_tiles=True)):
            assert len(set(rows[start:stop])) <= sizes.block_rows
        assert sizes.host_bytes <= budget
        out = np.zeros((35, *SIG))
        for tile in ds.tiles(tiling_scheme=scheme, memory=budget, threads=threads):
            out[tile.tile_slice.get()] = tile.data
        np.testing.assert_array_equal(out, values.reshape(out.shape))


def test_tiles_of_boxes_that_cross_chunks(tmp_path):
    values = counts(7, NAV + SIG)
    ds = load(write(tmp_path / "scan.h5", values, chunks=(2, 3, 4, 5), **PACKED["gzip"]))
    ds.set_num_cores(3)
    scheme = TilingScheme.make_for_shape(Shape((4, 3, 11), sig_dims=2), ds.shape)
    seen = np.zeros(values.shape, int).reshape(-1, *SIG)
    for part in ds.get_partitions():
        part = pickle.loads(pickle.dumps(part))
        for tile in part.get_tiles(scheme, dest_dtype="u2"):
            np.testing.assert_array_equal(tile.data, values.reshape(-1, *SIG)[tile.tile_slice.get()])
            seen[tile.tile_slice.get()] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("sig_dims", [1, 2, 3])
@pytest.mark.parametrize("storage", [{}, {"chunks": (2, 3, 4, 5)}, {"chunks": (2, 2, 4, 3), **PACKED["gzip shuffle"]},
                                     {"chunks": (2, 2, 4, 3), **BY_LIBRARY["zstd"]}], ids=["contiguous", "boxes", "gzip", "zstd"])
def test_any_number_of_detector_axes(tmp_path, storage, sig_dims):
    values = counts(8, NAV + SIG)
    ds = load(write(tmp_path / "scan.h5", values, **storage), sig_dims=sig_dims)
    assert (tuple(ds.shape.sig), tuple(ds.shape.nav)) == (values.shape[4 - sig_dims:], values.shape[:4 - sig_dims])
    np.testing.assert_array_equal(ds[...], values)
    np.testing.assert_array_equal(ds[1:4, ..., 2:9], values[1:4, ..., 2:9])


@pytest.mark.parametrize("storage", [{}, {"chunks": (13, 5)}, {"chunks": (4, 5), **PACKED["bitshuffle lz4"]}],
                         ids=["contiguous", "boxes", "packed"])
def test_two_axes_are_one_frame(tmp_path, storage):
    values = counts(9, SIG)
    ds = load(write(tmp_path / "image.h5", values, **storage))
    assert tuple(ds.shape) == (1, *SIG)
    np.testing.assert_array_equal(ds[0], values)


@pytest.mark.parametrize("fillvalue", [None, 0, 4711])
@pytest.mark.parametrize("filters", ["none", "gzip shuffle", "zstd"])
@pytest.mark.parametrize(("chunks", "dtype"), [((1, 1, *SIG), "<u2"), ((2, 3, 4, 5), ">u2")], ids=str)
def test_chunks_that_were_never_written_have_the_fill_value(tmp_path, chunks, filters, fillvalue, dtype):
    values = counts(10, NAV + SIG, dtype)
    path = str(tmp_path / "scan.h5")
    with h5py.File(path, "w") as file:
        found = file.create_dataset("data", NAV + SIG, dtype, chunks=chunks, fillvalue=fillvalue, **(PACKED | BY_LIBRARY).get(filters, {}))
        found[1:3, 2:5] = values[1:3, 2:5]
        truth = found[...]
    assert (truth == (fillvalue or 0)).sum() > truth.size // 3
    ds = load(path)
    np.testing.assert_array_equal(ds[...], truth)
    if filters != "zstd":
        assert "never written" in ds.notes[0]
    np.testing.assert_array_equal(np.concatenate([np.array(tile.data) for tile in ds.tiles(depth=4)]), truth.reshape(-1, *SIG))
    assert not ds.blank().any()


@pytest.mark.parametrize("userblock", [None, 512])
@pytest.mark.parametrize("fillvalue", [None, 77])
def test_a_data_set_that_was_never_written_has_the_fill_value(tmp_path, fillvalue, userblock):
    path = str(tmp_path / "scan.h5")
    with h5py.File(path, "w", userblock_size=userblock) as file:
        file.create_dataset("data", NAV + SIG, "f4", fillvalue=fillvalue)
    ds = load(path)
    assert "nothing was ever written" in ds.notes[0]
    np.testing.assert_array_equal(ds[...], np.full(NAV + SIG, fillvalue or 0, "f4"))


def test_a_compact_data_set(tmp_path):
    values = counts(11, (3, 5, 7, 4), ">i2")
    path = str(tmp_path / "small.h5")
    with h5py.File(path, "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        h5py.h5d.create(file.id, b"data", h5py.h5t.py_create(values.dtype), h5py.h5s.create_simple(values.shape), plist)
        file["data"][...] = values
    ds = load(path)
    assert ds.metadata["hdf5_layout"] == "compact"
    np.testing.assert_array_equal(ds[...], values)
    np.testing.assert_array_equal(np.concatenate([np.array(tile.data) for tile in ds.tiles(depth=4)]), values.reshape(-1, 7, 4))


def test_each_chunk_is_read_and_unpacked_once(tmp_path, monkeypatch):
    """Even where frames of one scan line lie in several chunks, and lines come back to them."""
    from gpuio.chunk_blocks import ChunkBlockReader

    values = counts(12, (12, 9, 6, 5))
    path = write(tmp_path / "scan.h5", values, chunks=(4, 2, 3, 5), **PACKED["gzip"])
    brought = []
    original = ChunkBlockReader._bring

    def bring(self, slot, plan, extent, host):
        low, high = plan.chunk_starts[extent:extent + 2]
        brought.extend(map(tuple, plan.places[low:high].tolist()))
        original(self, slot, plan, extent, host)

    monkeypatch.setattr(ChunkBlockReader, "_bring", bring)
    np.testing.assert_array_equal(np.concatenate([np.array(tile.data) for tile in load(path).tiles(depth=5)]), values.reshape(-1, 6, 5))
    assert sorted(brought) == [(row, column) for row in range(15) for column in range(2)]
    brought.clear()
    np.testing.assert_array_equal(load(path)[5, 3, :2], values[5, 3, :2])
    assert brought == [(6, 0)]


def test_messages_and_keys(tmp_path):
    values = counts(13, NAV + SIG)
    ds = load(write(tmp_path / "scan.h5", values, name="a/b"), ds_path="a/b", nav_shape=(7, 6))
    np.testing.assert_array_equal(ds[...].reshape(-1, *SIG)[:35], values.reshape(-1, *SIG))
    assert not ds[...].reshape(-1, *SIG)[35:].any()
    assert ds.get_cache_key()["ds_path"] == "/a/b"
    converter = type(ds).get_msg_converter()()
    assert converter.to_python({"type": "HDF5", "path": "x.h5", "ds_path": "/a/b", "sig_dims": 2}) == {
        "path": "x.h5", "ds_path": "/a/b", "sig_dims": 2}
    found = gpuio.detect(ds._path)
    assert (found["format"], found["parameters"]["ds_path"], found["info"]["image_count"]) == ("hdf5", "/a/b", 35)
    assert tuple(gpuio.load("hdf5", **found["parameters"], device="cpu").shape) == NAV + SIG


def test_partitions_follow_the_target_size(tmp_path):
    values = counts(14, NAV + SIG)
    ds = load(write(tmp_path / "scan.h5", values), target_size=2 * values.nbytes // 7)
    assert len(list(ds.get_partitions())) == 4
    ds.set_num_cores(6)
    assert len(list(ds.get_partitions())) == 6


@pytest.mark.parametrize("fields", [("r", "i"), ("realFloat", "imagFloat")])
@pytest.mark.parametrize(("part", "storage"), [
    ("<f4", {}), (">f8", {"chunks": (2, 3, 4, 5), **PACKED["gzip shuffle"]}), ("<f4", BY_LIBRARY["zstd"])],
    ids=["contiguous", "packed", "library"])
def test_records_of_two_floats_are_complex_numbers(tmp_path, part, storage, fields):
    values = counts(15, NAV + SIG, "c16").astype(f"{part[0]}c{2 * int(part[2])}")
    records = values.view([(name, part) for name in fields])
    path = write(tmp_path / "scan.h5", records, **({"chunks": (1, 1, *SIG)} | storage if storage else storage))
    ds = load(path)
    assert ds.dtype == values.dtype.newbyteorder("=")
    np.testing.assert_array_equal(ds[...], values)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_array_in_any_storage(tmp_path_factory, data):
    """Axes, chunks, filters, dtypes, selections, offsets and budgets at random: the frames that h5py wrote, or too small a budget."""
    draw = data.draw
    nav = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    sig = tuple(draw(st.lists(st.integers(1, 9), min_size=2, max_size=2)))
    dtype = draw(st.sampled_from(["u1", "<u2", ">u2", ">i4", "<f4", "<f8", "?"]))
    filters = draw(st.sampled_from([*PACKED, "none", "none", "zstd"]))
    chunks = tuple(draw(st.integers(1, n)) for n in nav + sig) if filters != "none" or draw(st.booleans()) else None
    values = counts(draw(st.integers(0, 99)), nav + sig, dtype)
    path = str(tmp_path_factory.mktemp("any") / "scan.h5")
    with h5py.File(path, "w", userblock_size=draw(st.sampled_from([None, 512]))) as file:
        found = file.create_dataset("a/data", nav + sig, dtype, chunks=chunks, fillvalue=draw(st.sampled_from([None, 1])),
                                    **(PACKED | BY_LIBRARY).get(filters, {}))
        written = tuple(slice(0, draw(st.integers(0, n))) for n in nav) if draw(st.booleans()) else ...
        found[written] = values[written]
        truth = found[...]
    n = int(np.prod(nav))
    offset = draw(st.integers(1 - n, n - 1))
    ds = load(path, sync_offset=offset)
    k = np.arange(n) + offset
    there = (k >= 0) & (k < n)
    scan = np.zeros((n, *sig), truth.dtype)
    scan[there] = truth.reshape(-1, *sig)[k[there]]
    np.testing.assert_array_equal(ds[...].reshape(n, *sig), scan)
    roi = np.random.default_rng(draw(st.integers(0, 99))).random(nav) < draw(st.sampled_from([0.2, 0.7, 1.0]))
    try:
        tiles = [np.array(tile.data) for tile in ds.tiles(roi=roi, memory=draw(st.sampled_from([3_000, 20_000, None])),
                                                          depth=draw(st.sampled_from([None, 1, 3])), threads=draw(st.integers(0, 2)))]
    except MemoryBudgetError:
        return
    found = np.concatenate([*tiles, np.zeros((0, *sig), ds.dtype)])
    np.testing.assert_array_equal(found, scan[roi.ravel() & there])


@pytest.mark.parametrize("packing", [None, "gzip"])
@pytest.mark.parametrize("chunk", [(1, 1, 4), (2, 3, 4), (13, 1, 2), (1, 5, 7), (3, 4, 3), (13, 11, 1)])
def test_frames_in_the_last_axis_are_put_together_from_few_pieces(tmp_path, chunk, packing):
    values = counts(61, (13, 11, 7))
    path = tmp_path / "a.emd"
    with h5py.File(path, "w") as file:
        file["Version"] = '{"format": "Velox"}'
        file.create_dataset("Data/Image/ab/Data", data=values, chunks=chunk, **(PACKED[packing] if packing else {}))
    ds = gpuio.load("hdf5", path=path, device="cpu")
    rows, columns = (-(-n // c) for n, c in zip((13, 11), chunk, strict=False))
    assert len(ds.layout.pieces) == rows * min(columns, chunk[1])
    np.testing.assert_array_equal(ds[...], np.moveaxis(values, -1, 0))
    np.testing.assert_array_equal(ds[2, 3:9, 4:10], values[3:9, 4:10, 2])
    np.testing.assert_array_equal(ds.sum_nav(), values.sum(-1, dtype="u8"))
    np.testing.assert_array_equal(np.concatenate([tile.data for tile in ds.tiles(memory=100_000)]), np.moveaxis(values, -1, 0))
