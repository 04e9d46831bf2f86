"""SEQ sequences against bytes written by hand and arrays before encoding; corrections from the files beside them."""

from __future__ import annotations

import json
import os
import pickle
import struct

import numpy as np
import pytest

import gpuio
from gpuio import check
from gpuio.corrections import CorrectionSet
from gpuio.errors import ShapeError
from gpuio.formats.seq import SEQDataSet, frame_records, parse, sniff
from gpuio.synth import seq as synth
from tests.formats.every_way import BACKENDS, check_every_way
from tests.formats.items import assert_same, decoded, random_items
from tests.formats.seq_files import FilesWithErrors, corrected, header, mrc, seq

NAV, SIG = (3, 5), (7, 11)
N = 15


def references(seed, sig=SIG):
    rng = np.random.default_rng(seed)
    return rng.normal(100, 30, sig).astype("f4"), rng.gamma(4, 0.25, sig).astype("f4")


# -- frames ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4"])
@pytest.mark.parametrize(("version", "footer"), [(5, 8), (3, 8), (4, 0), (6, 100), (5, 1016)])
def test_pixels_follow_each_other_row_by_row_before_the_footer(dtype, version, footer):
    frames = random_items(1, (6, *SIG), dtype)
    files = FilesWithErrors({"/data/a.seq": seq(frames, footer, version=version)})
    layout = parse(files, "/data/a.seq")
    assert (layout.sig_shape, layout.image_count, layout.nav_shape, layout.notes) == (SIG, 6, None, ())
    assert_same(decoded(layout, files), frames)


def test_frames_of_bytes_may_lie_at_odd_distances():
    frames = random_items(2, (5, 3, 5), "u1")
    files = FilesWithErrors({"a.seq": seq(frames, 12)})
    layout = parse(files, "a.seq")
    assert layout.parts[0][0].stride == 27
    assert_same(decoded(layout, files), frames)


def test_the_worked_example():
    frames = random_items(3, (6, 12, 20), "u2")
    blob = bytearray(seq(frames))
    assert len(blob) == 11120
    blob[8808:8810] = struct.pack("<H", 0xBEEF)
    blob[9160:9168] = struct.pack("<IHH", 1_600_000_000, 123, 456)
    files = FilesWithErrors({"a.seq": bytes(blob)})
    layout = parse(files, "a.seq")
    assert decoded(layout, files)[1, 3, 4] == 0xBEEF
    records = frame_records(files, layout, lambda done, total: None)
    assert records.time_ns[1] == 1_600_000_000_123_456_000
    files["a.seq"] = files["a.seq"][:-10]
    layout = parse(files, "a.seq")
    assert layout.image_count == 5
    assert layout.notes == ("the last 478 bytes are no whole frame of 488 and were left out",)


def test_metadata_has_units_in_its_keys():
    stamps = [(1_600_000_000, 999, 0), (1_600_000_001, 2, 345)]
    files = FilesWithErrors({"a.seq": seq(random_items(4, (2, *SIG), "u2"), 20, stamps=stamps)})
    metadata = parse(files, "a.seq").metadata
    assert metadata == {
        "description": "first scan", "version": 5, "bit_depth": 16, "real_bit_depth": 12, "allocated_frames": 14, "frame_stride_bytes": 174,
        "frame_footer_bytes": 20, "data_offset_bytes": 8192, "frame_rate_Hz": 400.5, "time_first": "2020-09-13T12:26:40.999000",
        "time_last": "2020-09-13T12:26:41.002345",
    }
    json.dumps(metadata)


def test_times_of_old_versions_have_milliseconds():
    files = FilesWithErrors({"a.seq": seq(random_items(5, (1, *SIG), "u2"), 8, stamps=[(1_600_000_000, 7, 888)], version=4)})
    assert parse(files, "a.seq").metadata["time_first"] == "2020-09-13T12:26:40.007"


@pytest.mark.parametrize(("description", "shown"), [("", ""), ("ä" * 255, "ä" * 255), ("\ud800x", "\ufffdx"), ("two\nlines", "two\nlines")])
def test_no_description_is_fatal(description, shown):
    frames = random_items(6, (1, *SIG), "u1")
    blob = bytearray(seq(frames))
    raw = description.encode("utf-16-le", "surrogatepass")
    blob[36:548] = raw.ljust(512, b"\0")
    files = FilesWithErrors({"a.seq": bytes(blob)})
    layout = parse(files, "a.seq")
    assert layout.metadata["description"] == shown
    assert_same(decoded(layout, files), frames)


def test_an_image_size_that_is_not_that_of_the_pixels_is_noted():
    frames = random_items(7, (3, *SIG), "u2")
    files = FilesWithErrors({"a.seq": seq(frames, 40, image_size=160)})
    layout = parse(files, "a.seq")
    assert layout.notes == ("the image size is said to be 160 bytes; 11 x 7 pixels of 16 bit have 154, and so many are read",)
    assert_same(decoded(layout, files), frames)


@pytest.mark.parametrize("image_size", [190, 0, 1 << 31])
def test_no_time_is_read_where_none_can_be(image_size):
    files = FilesWithErrors({"a.seq": seq(random_items(8, (3, *SIG), "u2"), 40, image_size=image_size)})
    assert not {"time_first", "time_last"} & parse(files, "a.seq").metadata.keys()


@pytest.mark.parametrize(("head", "expected"), [
    (header(5, 3, 40)[:4096], True), (b"\xed\xfe\x00\x00", True), (b"\xed\xfe\x00", False), (b"\xfe\xed\x00\x00", False), (b"", False),
    (b"FFF\0" + bytes(100), False), (b">chr1\nACGT\n", False),
])
def test_sniff(head, expected):
    assert sniff(head, "a.seq") is expected
    assert SEQDataSet.sniff(head, "a.dat") is expected


# -- data sets in files ------------------------------------------------------------------------------------------------


def written(folder, frames, **kwargs):
    return synth.write(str(folder / "scan.seq"), np.split(frames, [4, 5]), nav_shape=NAV, sig_shape=frames.shape[1:], **kwargs)[0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sync_offset", [0, 4, -3, 14, -14])
def test_every_way_to_the_pixels_as_recorded(tmp_path, backend, sync_offset):
    frames = random_items(10, (N, *SIG), "u2")
    path = written(tmp_path, frames, footer_bytes=30)
    check_every_way(lambda **kwargs: gpuio.load("seq", path=path, nav_shape=NAV, device="cpu", **kwargs), frames, backend, sync_offset,
                    tile=(4, 3, 5))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sync_offset", [0, 2, -4])
def test_every_way_to_corrected_pixels(tmp_path, backend, sync_offset):
    frames = random_items(11, (N, *SIG), "u2")
    dark, gain = references(11)
    path = written(tmp_path, frames, dark=dark, gain=gain)
    check_every_way(lambda **kwargs: gpuio.load("seq", path=path, nav_shape=NAV, device="cpu", **kwargs), corrected(frames, dark, gain),
                    backend, sync_offset, tile=(4, 3, 5))


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_way_to_repaired_pixels(tmp_path, backend):
    frames = random_items(12, (N, *SIG), "u1")
    dark, gain = references(12)
    path = written(tmp_path, frames, depth=8, dark=dark, gain=gain, defects=[{"Row": "0"}, {"Column": "6"}, {"Row": "4", "Column": "2"}])
    bad = np.zeros(SIG, bool)
    bad[0] = bad[:, 6] = bad[4, 2] = True
    check_every_way(lambda **kwargs: gpuio.load("seq", path=path, nav_shape=(2, 8), device="cpu", **kwargs),
                    corrected(frames, dark, gain, bad), backend, 1, tile=(4, *SIG))


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4"])
@pytest.mark.parametrize("version", [3, 5])
def test_scans_of_every_depth_come_back_exactly(tmp_path, dtype, version):
    frames = random_items(13, (N, *SIG), dtype)
    path = written(tmp_path, frames, depth=8 * frames.dtype.itemsize, version=version)
    assert_same(gpuio.open(path, nav_shape=NAV, device="cpu")[:], frames.reshape(*NAV, *SIG))


def test_a_dark_reference_alone_and_a_gain_reference_alone(tmp_path):
    frames = random_items(14, (N, *SIG), "u4")
    dark, gain = references(14)
    for name, maps in (("dark", {"dark": dark}), ("gain", {"gain": gain})):
        (tmp_path / name).mkdir()
        ds = gpuio.open(written(tmp_path / name, frames, depth=32, **maps), nav_shape=NAV, device="cpu")
        assert ds.dtype == np.float64         # as wide as float32 and uint32 together
        assert_same(ds[:], corrected(frames, **maps).reshape(*NAV, *SIG))


def test_corrections_can_be_looked_at_replaced_and_switched_off(tmp_path):
    frames = random_items(15, (N, *SIG), "u2")
    dark, gain = references(15)
    path = written(tmp_path, frames, dark=dark, gain=gain, defects=[{"Rows": "2-3"}])
    bad = np.zeros(SIG, bool)
    bad[2:4] = True
    ds = gpuio.load("seq", path=path, nav_shape=NAV, device="cpu")
    found = ds.get_correction_data()
    assert_same(found.get_dark_frame(), dark)
    assert_same(found.get_gain_map(), gain)
    assert_same(found.get_excluded_pixels(), bad)
    assert_same(np.concatenate([t.data.copy() for t in ds.tiles()]), corrected(frames, dark, gain, bad))
    assert_same(np.concatenate([t.data.copy() for t in ds.tiles(dtype="u2", corrections=CorrectionSet())]), frames)
    other = CorrectionSet(dark=gain)
    assert_same(np.concatenate([t.data.copy() for t in ds.tiles(corrections=other)]), corrected(frames, gain))
    plain = gpuio.load("seq", path=path, nav_shape=NAV, enable_corrections=False, device="cpu")
    assert not plain.get_correction_data().have_corrections()
    assert_same(plain[:], frames.reshape(*NAV, *SIG))


def test_switched_off_corrections_are_not_even_looked_for(tmp_path):
    frames = random_items(16, (N, *SIG), "u2")
    path = written(tmp_path, frames)
    (tmp_path / "scan.dark.mrc").write_bytes(b"no reference")
    with pytest.raises(gpuio.errors.FormatError, match=r"scan\.dark\.mrc"):
        gpuio.open(path)
    assert_same(gpuio.load("seq", path=path, nav_shape=NAV, enable_corrections=False, device="cpu")[:], frames.reshape(*NAV, *SIG))


# -- files beside ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scan.seq", "scan.SEQ", "scan.seq.seq", "scan.Seq.SEQ", "scan"])
@pytest.mark.parametrize("end", [".dark.mrc", ".seq.dark.mrc", ".SEQ.Dark.MRC"])
def test_references_are_found_under_either_name(name, end):
    image = references(20)[0]
    files = FilesWithErrors({f"/data/{name}": seq(random_items(20, (1, *SIG), "u2")), f"/data/scan{end}": mrc(image),
                             "/data/other.dark.mrc": b"", "/data/scan2.dark.mrc": b"", "/data/scan.dark.mrc.bak": b""})
    layout = parse(files, f"/data/{name}")
    assert layout.metadata["dark_file"] == f"scan{end}"
    assert layout.gain is None and layout.excluded == ()
    assert_same(decoded(layout.dark, files)[0], image)


def test_of_both_names_the_longer_is_used():
    dark, gain = references(21)
    files = FilesWithErrors({"scan.seq": seq(random_items(21, (1, *SIG), "u2")), "scan.dark.mrc": b"", "scan.seq.dark.mrc": mrc(dark),
                             "scan.gain.mrc": mrc(gain)})
    layout = parse(files, "scan.seq")
    assert (layout.metadata["dark_file"], layout.metadata["gain_file"]) == ("scan.seq.dark.mrc", "scan.gain.mrc")
    assert_same(decoded(layout.dark, files)[0], dark)
    assert_same(decoded(layout.gain, files)[0], gain)


@pytest.mark.parametrize(("mode", "dtype"), [(2, "<f4"), (1, "<i2"), (6, "<u2"), (12, "<f2"), (2, ">f4"), (6, ">u2")])
@pytest.mark.parametrize("extended", [0, 100])
def test_references_of_any_real_mode_in_either_byte_order(mode, dtype, extended):
    image = random_items(22, SIG, dtype)
    stamp = b"\x11\x11\x00\x00" if dtype[0] == ">" else b"\x44\x44\x00\x00"
    files = FilesWithErrors({"a.seq": seq(random_items(22, (1, *SIG), "u2")),
                             "a.gain.mrc": mrc(image, mode, dtype=dtype, extended=extended, stamp=stamp)})
    assert_same(decoded(parse(files, "a.seq").gain, files)[0], image)


# -- the data set ------------------------------------------------------------------------------------------------------


def test_the_constructor_touches_no_file():
    ds = SEQDataSet("/nowhere/a.seq", nav_shape=[2, 3], sync_offset=1)
    assert ds.meta is None
    with pytest.raises(FileNotFoundError):
        ds.initialize(None)


def test_the_former_name_of_nav_shape_warns():
    with pytest.warns(FutureWarning, match="scan_size is deprecated"):
        assert SEQDataSet("a.seq", (2, 3))._nav_shape == (2, 3)


def test_without_a_scan_shape_a_square_or_a_line_is_taken(tmp_path):
    frames = random_items(23, (N, *SIG), "u2")
    path = written(tmp_path, frames)
    assert tuple(gpuio.open(path).shape) == (15, *SIG)
    with open(path, "r+b") as file:
        file.truncate(8192 + 9 * 8192)
    assert tuple(gpuio.open(path).shape) == (3, 3, *SIG)


def test_frames_in_another_shape_are_corrected_alike(tmp_path):
    frames = random_items(24, (N, *SIG), "u2")
    dark, gain = references(24)
    path = written(tmp_path, frames, dark=dark, gain=gain)
    ds = gpuio.load("seq", path=path, nav_shape=NAV, sig_shape=(77,), device="cpu")
    assert_same(ds[:], corrected(frames, dark, gain).reshape(*NAV, 77))
    with pytest.raises(ShapeError, match=r"sig_shape \(7, 12\)"):
        gpuio.load("seq", path=path, nav_shape=NAV, sig_shape=(7, 12))


def test_a_data_set_pickles_small_and_reads_again(tmp_path):
    frames = random_items(25, (N, *SIG), "u2")
    dark, gain = references(25)
    ds = gpuio.load("seq", path=written(tmp_path, frames, dark=dark, gain=gain, defects=[{"Column": "3"}]), nav_shape=NAV, device="cpu")
    whole = ds[:]
    packed = pickle.dumps(ds)
    assert len(packed) < 8192
    assert_same(pickle.loads(packed)[:], whole)


def test_messages_detection_and_cache_key(tmp_path):
    path = written(tmp_path, random_items(26, (N, *SIG), "u2"))
    message = {"type": "SEQ", "path": path, "nav_shape": [3, 5]}
    assert SEQDataSet.get_msg_converter()().to_python(message) == {"path": path, "nav_shape": NAV}
    with pytest.raises(Exception, match="nav_shape"):
        SEQDataSet.get_msg_converter()().to_python({"type": "SEQ", "path": path})
    found = gpuio.detect(path)
    assert (found["format"], found["parameters"], found["info"]["image_count"]) == (
        "seq", {"path": path, "nav_shape": (15,), "sig_shape": SIG}, 15)
    one, other = (gpuio.load("seq", path=path, enable_corrections=flag).get_cache_key() for flag in (True, False))
    assert one != other and json.loads(json.dumps(one))["path"] == path
    assert all(isinstance(entry["name"], str) for entry in gpuio.load("seq", path=path).diagnostics)


def test_pauses_between_lines_show_in_the_times(tmp_path):
    frames = random_items(27, (12, *SIG), "u2")
    stamps = [(1_600_000_000, 10 * i + 30 * (i // 4), 0) for i in range(12)]
    (tmp_path / "a.seq").write_bytes(seq(frames, 8, stamps=stamps))
    report = check.check(tmp_path / "a.seq")
    assert report.is_clean and report.headers_read == 12
    assert (report.candidates[0].nav_shape, report.candidates[0].sync_offset) == ((3, 4), 0)


def test_a_gap_in_the_times_is_found(tmp_path):
    stamps = [(1_600_000_000, 10 * i + (70 if i >= 9 else 0), 0) for i in range(13)]
    (tmp_path / "a.seq").write_bytes(seq(random_items(28, (13, *SIG), "u2"), 8, stamps=stamps))
    (finding,) = check.check(tmp_path / "a.seq").findings
    assert finding.evidence["frame"] == 9 and finding.evidence["seconds_since_frame_before"] == 0.08


@pytest.mark.parametrize("stamps", [None, [(0, 0, 0)] * N])
def test_a_recording_without_times_is_no_finding(tmp_path, stamps):
    footer = 0 if stamps is None else 8
    (tmp_path / "a.seq").write_bytes(seq(random_items(29, (N, *SIG), "u2"), footer, stamps=stamps))
    assert check.check(tmp_path / "a.seq").findings == ()


def test_recorded_frames_lie_on_8_kib(tmp_path):
    frames = random_items(30, (N, *SIG), "u2")
    path = written(tmp_path, frames)
    (file,) = gpuio.open(path).layout.parts[0]
    assert (file.file_header, file.stride, os.path.getsize(path)) == (8192, 8192, 16 * 8192)
