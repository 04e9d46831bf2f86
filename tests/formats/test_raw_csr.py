"""Sparse raw files: bytes worked out by hand, every element of random scans, entries that make no sense."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

import gpuio
from gpuio import synth
from gpuio.base import CorrectionSet, DirectBackend, MMapBackend
from gpuio.check import check
from gpuio.errors import DataSetException, FormatError, ReadError, ShapeError, TruncatedFile, UnsupportedFeature
from gpuio.formats import raw_csr
from tests.formats.every_way import check_every_way
from tests.formats.items import assert_same, random_items

NAV, SIG = (5, 7), (11, 13)

TOML = """
[params]
filetype = "{filetype}"
nav_shape = [2, 2]
sig_shape = [2, 3]
[{section}]
indptr_file = "indptr.raw"
indptr_dtype = "{indptr}"
indices_file = "indices.raw"
indices_dtype = "{indices}"
data_file = "data.raw"
data_dtype = "{data}"
"""
FRAMES = np.array([[[0, 7, 0], [0, 0, 1]], [[0, 0, 0], [0, 0, 0]], [[3, 0, 0], [0, 0, 0]], [[0, 0, 2], [0, 9, 0]]])


def put(folder, *, toml=TOML, filetype="raw_csr", section="raw_csr", indptr="<i4", indices="<i4", data="<i4",
        bounds=(0, 2, 2, 3, 5), pixels=(1, 5, 0, 2, 4), values=(7, 1, 3, 2, 9)):
    """The example of four frames."""
    path = folder / "scan.toml"
    path.write_text(toml.format(filetype=filetype, section=section, indptr=indptr, indices=indices, data=data))
    for name, items, dtype in (("indptr", bounds, indptr), ("indices", pixels, indices), ("data", values, data)):
        np.array(items, dtype).tofile(folder / f"{name}.raw")
    return path


def load(path, **parameters):
    return gpuio.load("raw_csr", path=path, device="cpu", **parameters)


def sparse_scan(seed=1, dtype="u2", nav=NAV, share=0.08):
    """Random frames, most of whose pixels are zero; the first and the last frame are empty, one is full."""
    rng = np.random.default_rng(seed)
    scan = random_items(seed, (*nav, *SIG), dtype)
    scan[rng.random(scan.shape) >= share] = 0
    scan[0, 0] = scan[-1, -1] = 0
    scan[1, 2] = random_items(seed + 1, SIG, dtype)
    return scan


def written(folder, scan, **options):
    return synth.write("raw_csr", folder / "scan.toml", [scan.reshape(-1, *SIG)], nav_shape=scan.shape[:2], sig_shape=SIG, **options)[0]


@pytest.mark.parametrize("indptr, indices, data", [
    ("<i4", "<i4", "<i4"), (">i8", ">u2", ">f4"), ("<u8", "<u1", "<i8"), (">u4", "<i8", ">c8"),
])
def test_the_example_byte_by_byte(tmp_path, indptr, indices, data):
    path = put(tmp_path, indptr=indptr, indices=indices, data=data)
    if indptr == "<i4":
        assert (tmp_path / "indptr.raw").read_bytes().hex(" ", 4) == "00000000 02000000 02000000 03000000 05000000"
    ds = gpuio.open(path, device="cpu")
    assert ds.format == "raw_csr" and ds.dtype == np.dtype(data).newbyteorder("=") and tuple(ds.shape) == (2, 2, 2, 3)
    assert_same(ds[...], FRAMES.reshape(2, 2, 2, 3).astype(data))
    assert ds.sum_sig().ravel().tolist() == [8, 0, 3, 11] and ds.sum_nav().tolist() == [[3, 7, 2], [0, 9, 1]]
    said = {"entries": 5, "density": 5 / 24, "mean_entries_per_frame": 1.25, "max_entries_per_frame": 2, "indptr_dtype": indptr,
            "indices_dtype": indices.replace("<u1", "|u1"), "data_dtype": data}
    assert dict(ds.metadata) == said and ds.notes == ()


@pytest.mark.parametrize("filetype, section", [("RAW_CSR", "raw_csr"), ("raw_csr", "RAW_CSR"), ("Raw_Csr", "raw_CSR")])
def test_names_are_understood_in_any_case(tmp_path, filetype, section):
    assert_same(gpuio.open(put(tmp_path, filetype=filetype, section=section), device="cpu")[1, 1], FRAMES[3].astype("i4"))


def test_entries_of_one_pixel_add_up_in_any_order(tmp_path):
    path = put(tmp_path, pixels=(1, 1, 4, 4, 2), bounds=(0, 2, 5, 5, 5), values=(7, 1, 3, 2, 9))
    assert_same(load(path)[...].reshape(4, 6), np.array([[0, 8, 0, 0, 0, 0], [0, 0, 9, 0, 5, 0], [0] * 6, [0] * 6], "i4"))


def test_entries_before_the_first_bound_and_after_the_last_belong_to_no_frame(tmp_path):
    ds = load(put(tmp_path, bounds=(1, 2, 2, 3, 4)))
    assert_same(ds[...].reshape(4, 6), np.array([[0, 0, 0, 0, 0, 1], [0] * 6, [3, 0, 0, 0, 0, 0], [0, 0, 2, 0, 0, 0]], "i4"))
    assert ds.notes == ("2 of 5 entries belong to no frame",)


def test_files_without_entries_are_blank_frames(tmp_path):
    ds = load(put(tmp_path, bounds=(0,) * 5, pixels=(), values=()), io_backend=MMapBackend())
    assert_same(ds[...], np.zeros((2, 2, 2, 3), "i4"))
    assert [tile.data.nnz for tile in ds.csr_tiles()] == [0]


@pytest.mark.parametrize("backend, sync_offset", [("mmap", 0), ("buffered", 0), ("buffered", 4), ("buffered", -9), ("mmap", 30)])
def test_every_way_gives_the_frames(tmp_path, backend, sync_offset):
    scan = sparse_scan()
    path = written(tmp_path, scan, indptr_dtype=">u8", indices_dtype="<u2", dtype=">u2")
    check_every_way(lambda **parameters: load(path, **parameters), scan.reshape(-1, *SIG), backend, sync_offset, tile=(3, 4, 13))


@pytest.mark.parametrize("dtype", ["?", "u1", "i1", "<u2", ">i2", "<u4", ">i4", "<u8", ">i8", "<f4", ">f8", "<c8", ">c16"])
def test_every_dtype(tmp_path, dtype):
    scan = sparse_scan(2, dtype)
    ds = load(written(tmp_path, scan))
    assert_same(ds[...], scan)
    wide = "complex64" if ds.dtype.kind == "c" else "float32"
    np.testing.assert_array_equal(np.concatenate([t.data.copy() for t in ds.tiles(dtype=wide)]), scan.astype(wide).reshape(-1, *SIG))


@pytest.mark.parametrize("memory", [5_000, 20_000, 100_000])
def test_memory_may_be_small_and_frames_crowded(tmp_path, memory):
    scan = sparse_scan(3, "f4", share=0.7)
    ds = load(written(tmp_path, scan))
    roi = np.random.default_rng(1).random(NAV) < 0.5
    flat = scan.reshape(-1, *SIG)
    np.testing.assert_array_equal(np.concatenate([t.data.copy() for t in ds.tiles(memory=memory)]), flat)
    np.testing.assert_array_equal(np.concatenate([t.data.copy() for t in ds.tiles(memory=memory, roi=roi, threads=2)]), flat[roi.ravel()])
    np.testing.assert_array_equal(ds[::-1, [3, 3, 0], 2:5], scan[::-1, [3, 3, 0], 2:5])


def test_corrections_are_those_of_dense_frames(tmp_path):
    scan, rng = sparse_scan(4), np.random.default_rng(4)
    corrections = CorrectionSet(dark=rng.normal(size=SIG), gain=rng.normal(size=SIG).astype("f4"), excluded_pixels=rng.random(SIG) < 0.05)
    dense = gpuio.load("memory", data=scan, device="cpu")
    for ours, theirs in zip(load(written(tmp_path, scan)).tiles(corrections=corrections, depth=5),
                            dense.tiles(corrections=corrections, depth=5), strict=True):
        np.testing.assert_array_equal(ours.data, theirs.data)


@pytest.mark.parametrize("sync_offset", [0, 3, -4])
@pytest.mark.parametrize("depth", [None, 1, 6])
def test_sparse_tiles(tmp_path, sync_offset, depth):
    scan = sparse_scan(5)
    ds = load(written(tmp_path, scan, dtype=">u2", indices_dtype=">u4"), sync_offset=sync_offset)
    roi = np.random.default_rng(6).random(NAV) < 0.6
    shown = np.zeros((35, 143), "u2")
    k = np.arange(35) + sync_offset
    shown[(k >= 0) & (k < 35)] = scan.reshape(35, 143)[k[(k >= 0) & (k < 35)]]
    for chosen in (None, roi):
        expected = shown if chosen is None else shown[chosen.ravel()]
        found = np.zeros_like(expected)
        for tile in ds.csr_tiles(chosen, depth=depth):
            assert tile.data.format == "csr" and tile.data.dtype == "u2" and tile.data.shape == (tile.tile_slice.shape[0], 143)
            assert tile.data.indices.dtype == "i4" and tuple(tile.tile_slice.shape.sig) == SIG
            assert depth is None or tile.data.shape[0] <= depth
            found[tile.tile_slice.get(nav_only=True)] = tile.data.toarray()
        np.testing.assert_array_equal(found, expected)


def test_reduced_frames(tmp_path):
    scan = sparse_scan(8)
    ds = load(written(tmp_path, scan)).reduce(crop=(slice(1, 11), slice(3, 13)), bin_sig=(5, 2))
    expected = scan[:, :, 1:11, 3:13].reshape(*NAV, 2, 5, 5, 2).sum(axis=(3, 5), dtype="u8")
    np.testing.assert_array_equal(ds[...], expected)
    np.testing.assert_array_equal(np.concatenate([p.get_macrotile("u4").data for p in ds.get_partitions()]), expected.reshape(35, 2, 5))
    with pytest.raises(ShapeError, match="sparse tiles have the whole detector"):
        next(ds.csr_tiles())


def test_shapes_and_what_travels(tmp_path):
    scan = sparse_scan(6)
    path = written(tmp_path, scan)
    ds = load(path, nav_shape=(3, 4), sig_shape=(13, 11))
    assert_same(ds[...], scan.reshape(35, 13, 11)[:12].reshape(3, 4, 13, 11))
    assert load(path, nav_shape=(6, 7))[5].max() == 0
    part = pickle.loads(pickle.dumps(list(load(path).get_partitions())[-1]))
    assert np.array_equal(part.get_macrotile("u2").data[-7:], scan[-1]) and len(pickle.dumps(ds)) < 3000
    assert ds.check_valid() and [os.path.basename(f) for f in ds.files] == ["scan_indptr.raw", "scan_indices.raw", "scan_data.raw"]
    assert "gathered" in repr(ds.explain()) and ds.need_decode("u2", None, None)
    found = gpuio.detect(path)
    assert found["format"] == "raw_csr" and found["parameters"]["nav_shape"] == NAV and found["info"]["image_count"] == 35
    arguments = raw_csr.RawCSRDataSet.get_msg_converter()().to_python({"type": "RAW_CSR", "path": path, "sync_offset": 1})
    assert_same(gpuio.load("raw_csr", device="cpu", **arguments)[0, 0], scan[0, 1])


def test_a_scan_of_another_size_is_noted(tmp_path):
    path = put(tmp_path, toml=TOML.replace("[2, 2]", "[3, 3]"))
    assert load(path).notes == ("nav_shape (3, 3) has 9 positions; there are 4 frames",)
    assert check(path).findings[0].what.endswith("5 too few: the end is blank")


@pytest.mark.parametrize("head, yes", [
    (b'[params]\nfiletype = "raw_csr"\n', True), (b"params.filetype='RAW_CSR'  # sparse", True), (b'filetype = "k2is"\n', False),
    (b"[raw_csr]\nx = 1", False), (b'filetype = "raw_csr"\0', False), (b'# filetype is not "raw_csr"', False), (b"", False),
])
def test_sniffing(head, yes):
    assert raw_csr.sniff(head, "a.toml") is yes


@pytest.mark.parametrize("pixels, pixel_dtype, where, number", [
    ((1, 6, 0, 2, 4), "<i4", "entry 1, of frame 0", 6), ((1, 5, 0, 2, -1), "<i4", "entry 4, of frame 3", -1),
    ((1, 5, 255, 2, 4), "u1", "entry 2, of frame 2", 255), ((1, 5, 0, 2, 2**63), ">u8", "entry 4, of frame 3", 2**63),
    ((1, 5, 0, -2**63, 4), ">i8", "entry 3, of frame 3", -2**63),
])
def test_pixels_that_a_frame_does_not_have_are_found(tmp_path, pixels, pixel_dtype, where, number):
    path = put(tmp_path, pixels=pixels, indices=pixel_dtype)
    ds = load(path)
    message = rf"indices\.raw: {where}, is of pixel {number}; expected 0 to 5"
    with pytest.raises(FormatError, match=message):
        ds[...]
    with pytest.raises(FormatError, match=message):
        list(ds.csr_tiles())
    with pytest.raises(FormatError, match=message):
        for part in ds.get_partitions():
            part.get_macrotile()
    report = check(path)
    assert [f.severity for f in report.findings] == ["error"] and f"is of pixel {number}" in report.findings[0].what
    good = [i for i in range(4) if f"frame {i}" not in where]
    assert_same(ds[np.isin(np.arange(4), good).reshape(2, 2)], FRAMES[good].astype("i4"))


@pytest.mark.parametrize("changes, error, message", [
    ({"bounds": (0, 2, 1, 3, 5)}, FormatError, r"indptr\.raw: bound 2 is 1, less than the one before it"),
    ({"bounds": (0, 1, 1, 1, -1 << 63), "indptr": "<i8"}, FormatError, r"indptr\.raw: bound 4 is -9223372036854775808, less than"),
    ({"bounds": (-1, 2, 2, 3, 5)}, FormatError, r"indptr\.raw: the first bound is -1"),
    ({"bounds": (0, 2, 2, 3, 6)}, TruncatedFile, r"indptr\.raw: the last bound is 6; there are 5 entries"),
    ({"bounds": (0, 2, 2, 3, 2**62), "indptr": "<i8"}, TruncatedFile, "the last bound is 4611686018427387904; there are 5"),
    ({"bounds": (0, 2, 2, 3, 2**63), "indptr": "<u8"}, FormatError, "a bound is 9223372036854775808"),
    ({"bounds": (0,)}, FormatError, r"has 1 bounds; expected at least 2"),
    ({"bounds": ()}, FormatError, r"has 0 bounds"),
    ({"pixels": (1, 5, 0, 2)}, FormatError, r"indices\.raw: has 4 indices; .*data\.raw has 5 values"),
    ({"indptr": "<u2"}, UnsupportedFeature, "dtype uint16 is not supported; expected integers of 32 or 64 bits"),
    ({"indptr": "<f8"}, UnsupportedFeature, "dtype float64 is not supported"),
    ({"indices": "<f4"}, UnsupportedFeature, r"indices\.raw: dtype float32 is not supported; expected integers"),
    ({"data": "<f2"}, UnsupportedFeature, "float16 cannot be added up"),
    ({"data": "<M8[s]"}, UnsupportedFeature, "not supported; expected numbers"),
    ({"filetype": "raw"}, FormatError, r"params\.filetype is 'raw'; expected 'raw_csr'"),
    ({"section": "csr"}, FormatError, "raw_csr is missing"),
    ({"toml": TOML.replace("nav_shape", "shape")}, FormatError, r"params\.nav_shape is missing"),
    ({"toml": TOML.replace("[2, 2]", '"2, 2"')}, FormatError, r"params\.nav_shape is '2, 2'; expected list"),
    ({"toml": TOML.replace("[2, 3]", "[2, -3]")}, FormatError, r"params\.sig_shape is \(2, -3\); expected positive integers"),
    ({"toml": TOML.replace("[2, 3]", "[4294967296, 4294967296]")}, FormatError, "too large"),
    ({"toml": TOML.replace("[params]", "[parameters]")}, FormatError, "params is missing"),
    ({"toml": "params = 3"}, FormatError, "params is 3; expected a table"),
    ({"toml": TOML.replace('"data.raw"', "7")}, FormatError, r"raw_csr\.data_file is 7; expected str"),
    ({"toml": TOML + "`"}, FormatError, r"is no TOML: .*line 13"),
    ({"toml": TOML + "\n[RAW_CSR]\n"}, FormatError, r"has the sections \['raw_csr', 'RAW_CSR'\]"),
    ({"toml": TOML.replace('"data.raw"', '"../data.raw"')}, DataSetException,
     r"refers to \.\./data\.raw, which is outside of .*; pass allow_outside=True"),
    ({"toml": TOML.replace('"data.raw"', '"/etc/passwd"')}, DataSetException, "refers to /etc/passwd, which is outside of"),
    ({"toml": TOML.replace('"data.raw"', '""')}, FormatError, "expected the name of a file"),
    ({"toml": TOML.replace('"data.raw"', '"no.raw"')}, FileNotFoundError, r"no\.raw"),
    ({"toml": TOML.replace("{data}", "O")}, UnsupportedFeature, r"data_dtype is 'O'; expected a number"),
    ({"toml": TOML.replace("{data}", "nonsense")}, FormatError, r"data_dtype is 'nonsense'; expected a dtype"),
    ({"toml": TOML.replace("{data}", "(3,)<i4")}, UnsupportedFeature, "expected a number"),
])
def test_what_makes_no_sense_is_refused(tmp_path, changes, error, message):
    path = put(tmp_path, **changes)
    with pytest.raises(error, match=message):
        load(path)


def test_sizes_that_are_no_whole_items_are_named(tmp_path):
    path = put(tmp_path)
    (tmp_path / "data.raw").write_bytes(bytes(21))
    with pytest.raises(FormatError, match=r"data\.raw: has 21 bytes; expected a multiple of the 4 bytes of <i4"):
        load(path)


def test_links_and_names_that_lead_elsewhere_are_followed_only_if_allowed(tmp_path):
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    inner.mkdir(), outer.mkdir()
    path = put(inner)
    os.rename(inner / "data.raw", outer / "data.raw")
    os.symlink(outer / "data.raw", inner / "data.raw")
    with pytest.raises(DataSetException, match=r"refers to data\.raw, which is outside of"):
        load(path)
    assert_same(load(path, allow_outside=True)[1, 1], FRAMES[3].astype("i4"))


def test_files_that_are_no_descriptions(tmp_path):
    path = tmp_path / "a.toml"
    path.write_bytes(b'filetype = "raw_csr"\n' + b"#" * (1 << 20))
    with pytest.raises(FormatError, match="expected a description in TOML of at most"):
        load(path)
    path.write_bytes(b'filetype = "raw_csr"\n\xff')
    with pytest.raises(FormatError, match="is no TOML"):
        load(path)
    path.write_text("a = " + "[" * 100_000)
    with pytest.raises(FormatError, match="is no TOML"):
        load(path)
    path.write_text("[tool]\nname = 'other'\n")
    assert gpuio.detect(path) is None


def test_files_that_change_after_opening_are_noticed(tmp_path):
    path = put(tmp_path)
    ds = load(path)
    np.array((0, 2, 1, 3, 5), "<i4").tofile(tmp_path / "indptr.raw")
    with pytest.raises(ReadError, match=r"indptr\.raw: frame 1 has entries 2 to 1 of 5; the file has changed"):
        ds[...]
    ds = load(put(tmp_path))
    (tmp_path / "data.raw").write_bytes(bytes(8))
    with pytest.raises(ReadError, match=r"data\.raw"):
        ds[...]


def test_what_does_not_fit_the_file_is_refused(tmp_path):
    path = put(tmp_path)
    with pytest.raises(ShapeError, match=r"sig_shape \(7,\) has 7 pixels; the file's \(2, 3\) has 6"):
        load(path, sig_shape=(7,))
    with pytest.raises(ShapeError, match=r"sync_offset should be in \(-4, 4\)"):
        load(path, sync_offset=4)
    with pytest.raises(DataSetException, match="reads aligned blocks"):
        load(path, io_backend=DirectBackend())


def test_the_writer_refuses_what_does_not_fit(tmp_path):
    with pytest.raises(DataSetException, match="indices: value 128 cannot be written as int8"):
        written(tmp_path, np.ones((1, 1, *SIG), "u2"), indices_dtype="i1")
    assert os.listdir(tmp_path) == []
    with pytest.raises(ShapeError, match="there are 0 frames; expected 1"):
        synth.write("raw_csr", tmp_path / "a.toml", [], nav_shape=(1,), sig_shape=SIG)


def test_sparse_tiles_hold_as_many_entries_wherever_these_are(tmp_path, monkeypatch):
    monkeypatch.setattr(raw_csr, "TILE_ENTRIES", 10)
    rng = np.random.default_rng(71)
    values = np.zeros((40, *SIG), "i4")
    values[:5] = rng.integers(1, 9, (5, *SIG))                  # all pixels, then hardly any
    values[5:, 0, 0] = rng.integers(0, 2, 35)
    ds = load(written(tmp_path, values.reshape(5, 8, *SIG)))
    tiles = list(ds.csr_tiles())
    np.testing.assert_array_equal(np.concatenate([tile.data.toarray() for tile in tiles]), values.reshape(40, -1))
    assert [tile.tile_slice.shape[0] for tile in tiles[:4]] == [1] * 4
    assert all(tile.data.nnz <= 10 + np.diff(tile.data.indptr).max() for tile in tiles) and len(tiles) < 12
