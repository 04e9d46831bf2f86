"""MIB frames and headers against bytes written by hand and arrays before encoding; whole data sets in files."""

from __future__ import annotations

import json
import os
import pickle
import warnings

import numpy as np
import pytest

import gpuio
from gpuio.errors import DataSetException, FormatError, ShapeError
from gpuio.formats.mib import MIBDataSet, parse, sniff
from gpuio.synth import mib as synth
from tests.formats.mib_files import DACS, Files, header, pixels, random_frames, u16_file

# -- pixels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind,dtype,top", [("U08", "u1", 1 << 8), ("U16", "u2", 1 << 16), ("U32", "u4", 1 << 32)])
def test_integers_are_big_endian_behind_each_header(kind, dtype, top):
    frames = np.random.default_rng(1).integers(0, top, (3, 7, 13)).astype(dtype)
    files = Files({"a.mib": b"".join(header(i + 1, 340, width=13, height=7, kind=kind, dacs=False) + f.astype(f">{dtype}").tobytes()
                                     for i, f in enumerate(frames))})
    layout = parse(files, "a.mib")
    assert (layout.sig_shape, layout.dtype, layout.image_count, layout.nav_shape) == ((7, 13), np.dtype(dtype), 3, None)
    assert np.array_equal(pixels(layout, files), frames)
    assert layout.notes == ()


@pytest.mark.parametrize("kind,dtype,shape,top", [
    ("R1", "u1", (5, 192), 2), ("R6", "u1", (7, 24), 64), ("R12", "u2", (7, 20), 4096), ("R24", "u4", (7, 20), 1 << 24)])
def test_packed_frames_of_one_chip(tmp_path, kind, dtype, shape, top):
    frames = np.random.default_rng(2).integers(0, top, (3, *shape)).astype("u4")
    path = str(tmp_path / "a.mib")
    synth.write(path, [frames], nav_shape=(3,), sig_shape=shape, kind=kind, hdr=False)
    files = Files({path: (tmp_path / "a.mib").read_bytes()})
    layout = parse(files, path)
    assert (layout.sig_shape, layout.dtype) == (shape, np.dtype(dtype))
    assert np.array_equal(pixels(layout, files), frames)


@pytest.mark.parametrize("kind,dtype,side,top", [("R1", "u1", 128, 2), ("R6", "u1", 48, 64), ("R12", "u2", 40, 4096)])
@pytest.mark.parametrize("chips", ["2x2", "2x2G"])
def test_packed_quads(tmp_path, kind, dtype, side, top, chips):
    frames = np.random.default_rng(3).integers(0, top, (3, side, side)).astype("u2")
    path = str(tmp_path / "a.mib")
    synth.write(path, [frames], nav_shape=(3,), sig_shape=(side, side), kind=kind, layout=chips, hdr=False)
    files = Files({path: (tmp_path / "a.mib").read_bytes()})
    layout = parse(files, path)
    assert (layout.sig_shape, layout.dtype) == ((side, side), np.dtype(dtype))
    assert np.array_equal(pixels(layout, files), frames)


def test_gap_leaves_a_cross_free_between_the_chips(tmp_path):
    frames = np.random.default_rng(4).integers(1, 4096, (2, 40, 40)).astype("u2")
    path = str(tmp_path / "a.mib")
    synth.write(path, [frames], nav_shape=(2,), sig_shape=(40, 40), kind="R12", layout="2x2G", hdr=False)
    files = Files({path: (tmp_path / "a.mib").read_bytes()})
    layout = parse(files, path, gap=True)
    expected = np.zeros((2, 42, 42), "u2")
    for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
        expected[:, 22 * y:22 * y + 20, 22 * x:22 * x + 20] = frames[:, 20 * y:20 * y + 20, 20 * x:20 * x + 20]
    assert layout.sig_shape == (42, 42)
    assert np.array_equal(pixels(layout, files), expected)


@pytest.mark.parametrize("depth,data,expected", [
    (1, "0100000000000080", {7: 1, 56: 1}),
    (6, "0001020304050607", dict(enumerate([7, 6, 5, 4, 3, 2, 1, 0]))),
    (12, "0001000200030FFF", dict(enumerate([4095, 3, 2, 1]))),
    (24, "0000000000000ABC" "0000000000000DEF", {0: 0xABCDEF}),
])
def test_worked_examples_of_a_group(depth, data, expected):
    width = {1: 64, 6: 8, 12: 4, 24: 4}[depth]
    stored = width * (2 if depth == 24 else 1)
    files = Files({"a.mib": header(kind="R64", width=stored, height=1, depth=depth) + bytes.fromhex(data)})
    frame = pixels(parse(files, "a.mib"), files)[0, 0]
    assert frame.tolist() == [expected.get(x, 0) for x in range(width)]


@pytest.mark.parametrize("row,block,x,target", [
    (0, 3, 0, (0, 0)), (0, 2, 0, (0, 256)), (0, 1, 0, (511, 255)), (0, 0, 0, (511, 511)),
    (255, 3, 255, (255, 255)), (255, 0, 255, (256, 256)), (10, 1, 20, (501, 235)),
])
def test_worked_examples_of_a_quad(row, block, x, target):
    stored = np.zeros((256, 4, 256), ">u2")
    stored[row, block, x ^ 3] = 1234
    files = Files({"a.mib": header(length=768, chips=4, width=1024, kind="R64", layout="   2x2") + stored.tobytes()})
    frame = pixels(parse(files, "a.mib"), files)[0]
    assert frame.shape == (512, 512)
    assert {tuple(map(int, at)) for at in np.argwhere(frame)} == {target} and frame[target] == 1234


def test_a_quad_is_two_pieces_that_write_each_pixel_once():
    files = Files({"a.mib": header(length=768, chips=4, width=1024, kind="R64", layout="   2x2") + bytes(1024 * 256 * 2)})
    layout = parse(files, "a.mib")
    assert len(layout.pieces) == 2
    written = np.zeros(512 * 512, int)
    for p in layout.pieces:
        row, repeat, i = np.ogrid[:p.rows, :p.repeats, :p.pixels]
        np.add.at(written, p.pos + row * p.row_pos + repeat * p.rep_pos + (-i if p.reversed else i), 1)
    assert (written == 1).all()


# -- headers ---------------------------------------------------------------------------------------------------------


def test_metadata_has_units_in_its_keys():
    files = Files({"a.mib": header(1, length=768, chips=4) + bytes(131072)
                   + header(2, length=768, chips=4, time="2021-04-15T13:44:43.200924481") + bytes(131072)})
    metadata = parse(files, "a.mib").metadata
    assert metadata["exposure_s"] == 0.001
    assert metadata["thresholds_keV"] == [2.0, 511.0, 0, 0, 0, 0, 0, 0]
    assert metadata["time_utc_first"] == "2021-04-15T13:44:43.100924481Z"
    assert metadata["time_utc_last"] == "2021-04-15T13:44:43.200924481Z"
    assert metadata["time_local"] == "2021-04-15 14:44:43.100924"
    assert (metadata["counter_depth_bit"], metadata["chip_select"], metadata["n_chips"]) == (12, 15, 4)
    assert (metadata["counter"], metadata["is_colour"], metadata["gain_mode"]) == (0, False, "HGM")
    assert metadata["dacs"] == [[int(n) for n in DACS.split(",")]] * 4
    json.dumps(metadata)


def test_thresholds_and_dacs_may_be_missing():
    files = Files({"a.mib": header(thresholds=False, dacs=False) + bytes(131072)})
    metadata = parse(files, "a.mib").metadata
    assert not {"thresholds_keV", "dacs"} & metadata.keys()
    assert metadata["counter_depth_bit"] == 12 and metadata["exposure_s"] == 0.001


def test_text_after_the_extension_does_not_disturb_the_depth():
    files = Files({"a.mib": header(kind="R64", depth=6, after="future,3\r\n") + bytes(65536)})
    assert parse(files, "a.mib").encoding.name == "mib_r6"


def test_sequence_numbers_may_outgrow_their_six_digits():
    frames = random_frames(5, 3)
    files = Files({"a.mib": u16_file(frames, sequence=1234567)})
    assert np.array_equal(pixels(parse(files, "a.mib"), files), frames)


def test_a_header_longer_than_what_is_read_at_once():
    frames = random_frames(6, 2)
    files = Files({"a.mib": u16_file(frames, length=9001)})
    assert np.array_equal(pixels(parse(files, "a.mib"), files), frames)


def test_depth_of_raw_frames_comes_from_the_hdr_if_the_header_lacks_it():
    data = np.random.default_rng(7).integers(0, 64, (256, 256)).astype("u1")
    packed = data.reshape(256, 32, 8)[:, :, ::-1].tobytes()
    files = Files({"a.mib": header(kind="R64", extension=False) + packed, "a.hdr": b"HDR,\t\r\nCounter Depth (number):\t6\r\nEnd\t"})
    assert np.array_equal(pixels(parse(files, "a.mib"), files)[0], data)
    del files["a.hdr"]
    with pytest.raises(FormatError, match=r"a\.mib: RAW frames with a counter depth of None bit; expected 1, 6, 12 or 24"):
        parse(files, "a.mib")


# -- recognition and the data set --------------------------------------------------------------------------------------


@pytest.mark.parametrize("head,path,expected", [
    (header(), "a.mib", True), (header(), "a.dat", True), (b"MPX,0000131457,MQ1,000001", "a.mib", True),
    (b"HDR,\t\r\n", "a.hdr", True), (b"HDR,\t\r\n", "a.HDR", True), (b"HDR,\t\r\n", "a.txt", False),
    (b"[measurementInfo]\n", "a.hdr", False), (b"ENVI\n", "a.hdr", False), (b"HDRADIANCE\n", "a.hdr", False),
    (b"MQ1", "a.mib", False), (b"", "a.mib", False),
])
def test_sniff(head, path, expected):
    assert sniff(head, path) is expected and MIBDataSet.sniff(head, path) is expected


def written(folder, nav_shape=(3, 5), kind="R12", shape=(7, 20), **kwargs):
    top = synth.KINDS[kind][0]
    frames = np.random.default_rng(33).integers(0, top, (int(np.prod(nav_shape)), *shape), endpoint=True)
    paths = synth.write(folder / "scan.mib", [frames], nav_shape=nav_shape, sig_shape=shape, kind=kind, **kwargs)
    return paths, frames.reshape(*nav_shape, *shape)


def test_the_constructor_touches_no_file():
    ds = MIBDataSet("/nowhere/a.mib", nav_shape=[2, 3], sig_shape=(4, 5), sync_offset=1)
    assert ds.meta is None
    with pytest.raises(FileNotFoundError):
        ds.initialize(None)


def test_deprecated_arguments_warn():
    with pytest.warns(FutureWarning, match="scan_size is deprecated"):
        assert MIBDataSet("a.mib", scan_size=(2, 3))._nav_shape == (2, 3)
    with pytest.warns(FutureWarning, match="tileshape"):
        MIBDataSet("a.mib", (1, 2, 3))
    with pytest.raises(ValueError, match="nav_shape"):
        MIBDataSet("a.mib", scan_size=(2, 3), nav_shape=(2, 3))


def test_a_hdr_gives_the_scan_and_the_user_overrules_it(tmp_path):
    paths, frames = written(tmp_path)
    assert tuple(gpuio.open(paths[0], device="cpu").shape) == (3, 5, 7, 20)
    ds = gpuio.load("mib", path=paths[1], nav_shape=(5, 3), device="cpu")
    assert tuple(ds.shape) == (5, 3, 7, 20)
    assert np.array_equal(ds[:], frames.reshape(5, 3, 7, 20))


@pytest.mark.parametrize("kind,shape,layout", [
    ("U08", (7, 13), "1x1"), ("U16", (7, 13), "2x2G"), ("U32", (7, 13), "Nx1"), ("R1", (5, 192), "1x1"), ("R6", (7, 24), "1x1"),
    ("R12", (7, 20), "1x1"), ("R24", (7, 20), "1x1"), ("R1", (128, 128), "2x2"), ("R6", (48, 48), "2x2"), ("R12", (40, 40), "2x2"),
])
def test_scans_in_files_come_back_exactly(tmp_path, kind, shape, layout):
    paths, frames = written(tmp_path, kind=kind, shape=shape, layout=layout, frames_per_file=4)
    ds = gpuio.load("mib", path=paths[0], device="cpu")
    assert tuple(ds.shape) == frames.shape and ds.notes == ()
    whole = ds[:]
    assert whole.dtype == ds.dtype and np.array_equal(whole, frames)
    flat = frames.reshape(-1, *shape)
    seen = np.zeros(len(flat), int)
    for tile in ds.tiles(dtype="float32"):
        first, depth = tile.tile_slice.origin[0], tile.tile_slice.shape[0]
        assert np.array_equal(tile.data, flat[first:first + depth].astype("float32"))
        seen[first:first + depth] += 1
    assert (seen == 1).all()


def test_partitions_with_a_sync_offset_are_the_scan_moved(tmp_path):
    paths, frames = written(tmp_path, frames_per_file=4)
    flat = frames.reshape(15, 7, 20)
    for offset in (2, -4):
        ds = gpuio.load("mib", path=paths[0], sync_offset=offset, device="cpu")
        ds.set_num_cores(4)
        expected = np.zeros_like(flat)
        expected[max(0, -offset):15 - max(0, offset)] = flat[max(0, offset):15 - max(0, -offset)]
        found = np.concatenate([np.asarray(p.get_macrotile(dest_dtype="uint16").data) for p in ds.get_partitions()])
        assert np.array_equal(found, expected)


def test_a_hole_in_a_series_reads_as_zeros(tmp_path):
    paths, frames = written(tmp_path, frames_per_file=4)
    os.remove(paths[2])
    ds = gpuio.load("mib", path=paths[0], device="cpu")
    expected = frames.reshape(15, 7, 20).copy()
    expected[4:8] = 0
    assert np.array_equal(ds[:], expected.reshape(3, 5, 7, 20))


def test_gap_option_of_the_data_set(tmp_path):
    paths, frames = written(tmp_path, nav_shape=(2, 3), kind="R6", shape=(48, 48), layout="2x2G")
    ds = gpuio.load("mib", path=paths[0], gap=True, device="cpu")
    rows = np.r_[0:24, 26:50]
    expected = np.zeros((2, 3, 50, 50), "u1")
    expected[:, :, rows[:, None], rows] = frames
    assert np.array_equal(ds[:], expected)


def test_shapes_and_offsets_that_do_not_fit_are_refused(tmp_path):
    paths, _ = written(tmp_path)
    with pytest.raises(ShapeError, match=r"scan\.mib: sig_shape \(7, 21\)"):
        gpuio.load("mib", path=paths[1], sig_shape=(7, 21))
    with pytest.raises(DataSetException, match=r"sync_offset should be in \(-15, 15\)"):
        gpuio.load("mib", path=paths[1], sync_offset=15)


def test_a_data_set_pickles_small_and_reads_again(tmp_path):
    paths, frames = written(tmp_path, frames_per_file=4)
    ds = gpuio.load("mib", path=paths[0], device="cpu")
    packed = pickle.dumps(ds)
    assert len(packed) < 8192
    assert np.array_equal(pickle.loads(packed)[:], frames)


def test_messages_detection_and_cache_key(tmp_path):
    paths, _ = written(tmp_path)
    assert MIBDataSet.get_supported_extensions() == {"mib", "hdr"}
    message = {"type": "MIB", "path": paths[0], "nav_shape": [3, 5], "sync_offset": 0}
    assert MIBDataSet.get_msg_converter()().to_python(message) == {"path": paths[0], "nav_shape": (3, 5), "sync_offset": 0}
    found = gpuio.detect(paths[0])
    assert found["format"] == "mib" and found["parameters"]["nav_shape"] == (3, 5) and found["info"]["image_count"] == 15
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one, other = (gpuio.load("mib", path=paths[1], disable_glob=flag).get_cache_key() for flag in (False, True))
    assert one != other and json.loads(json.dumps(one))["path"] == paths[1]
    assert all(isinstance(entry["name"], str) for entry in gpuio.load("mib", path=paths[0]).diagnostics)
