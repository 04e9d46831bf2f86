"""TVIPS recordings against bytes written by hand and arrays before encoding."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

import gpuio
from gpuio import check
from gpuio.errors import DataSetException, ShapeError
from gpuio.formats.tvips import TVIPSDataSet, parse, sniff
from gpuio.synth import tvips as synth
from tests.formats.every_way import BACKENDS, check_every_way
from tests.formats.items import assert_same, decoded, random_items
from tests.formats.tvips_files import frame_header, raster, recording, series

SIG = (7, 11)
FIRST = "/data/scan_000.tvips"


# -- frames ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8"])
@pytest.mark.parametrize(("version", "size"), [(1, 12), (2, 12), (2, 60), (2, 108), (2, 77), (2, 200)])
@pytest.mark.parametrize("counts", [None, [1, 3, 2], [4, 0, 2], [1] * 6])
def test_pixels_follow_the_header_of_their_frame(dtype, version, size, counts):
    frames = random_items(1, (6, *SIG), dtype)
    files = recording(frames, counts, size=size, version=version)
    layout = parse(files, FIRST)
    assert (layout.sig_shape, layout.image_count, layout.nav_shape, layout.sync_offset, layout.notes) == (SIG, 6, (6,), 0, ())
    assert_same(decoded(layout, files), frames)


def test_version_1_has_frame_headers_of_12_bytes_whatever_the_field_says():
    frames = random_items(2, (4, *SIG), "u2")
    files = recording(frames, size=12, version=1)
    files[FIRST] = series(11, 7, version=1, frame_header=108) + files[FIRST][256:]
    assert_same(decoded(parse(files, FIRST), files), frames)


def test_the_worked_example():
    frames = np.arange(120, dtype="u2").reshape(6, 4, 5)
    files = recording(frames, size=60)
    assert len(files[FIRST]) == 856
    assert files[FIRST][416:418] == b"\x14\x00"
    assert_same(decoded(parse(files, FIRST), files), frames)
    split = recording(frames, [1, 3, 2], size=60)
    assert [len(blob) for blob in split.values()] == [356, 300, 200]
    assert_same(decoded(parse(split, FIRST), split), frames)


def test_no_field_beyond_a_short_frame_header_is_read():
    """What would be the scan position lies in the pixels, and counts up there."""
    frames = random_items(3, (6, 4, 5), "u2")
    for i, frame in enumerate(frames):
        frame.reshape(-1)[4:8] = np.array([i, 0], "<f4").view("<u2")
    layout = parse(recording(frames, size=60), FIRST)
    assert (layout.nav_shape, layout.sync_offset, layout.notes) == ((6,), 0, ())
    assert "temperature" in layout.metadata and "field_56" in layout.metadata
    layout = parse(recording(frames, size=59), FIRST)
    assert "temperature" in layout.metadata and "field_56" not in layout.metadata
    assert not {"temperature", "stage_x_nm", "magnification", "faraday_cup"} & parse(recording(frames, size=12), FIRST).metadata.keys()


def test_metadata_has_units_in_its_keys():
    metadata = parse(recording(random_items(4, (3, *SIG), "u2"), [2, 1], millisecond_steps=1500), FIRST).metadata
    assert metadata == {
        "version": 2, "bits_per_pixel": 16, "camera_offset": (3, 4), "binning": (1, 2), "pixel_size_nm": 15500, "high_tension_kV": 200,
        "total_magnification": 80, "frame_header_bytes": 108, "n_files": 2, "time_first": "2020-09-13T12:26:40.000",
        "time_last": "2020-09-13T12:26:43.000", "lut_index": 7, "faraday_cup": 1.5, "magnification": 8000, "mode": "diffraction",
        "stage_x_nm": 10.0, "stage_y_nm": 20.0, "stage_alpha_deg": 1.25, "stage_beta_deg": -2.5, "temperature": 21.5, "field_56": 3.5,
    }       # stage z is no number
    json.dumps(metadata)


# -- the scan ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [None, [1] * 20, [3, 3, 14], [7, 6, 7]])
def test_the_scan_is_found_over_all_files(counts):
    frames = random_items(5, (20, *SIG), "u1")
    layout = parse(recording(frames, counts, scans=raster(5, 3, 4, 3)), FIRST)
    assert (layout.nav_shape, layout.sync_offset) == ((3, 4), 5)
    assert layout.notes == ("scan positions in the frame headers start at frame 5, in lines of 4; 3 frames follow the last whole line: "
                            "sync_offset=5 and nav_shape=(3, 4) unless given",)


def test_scan_fields_that_are_no_numbers_are_no_scan():
    scans = [(float("nan"), 0.0), (0.0, float("inf")), (-1.0, 0.0), (0.0, 1e30)] * 3
    layout = parse(recording(random_items(6, (12, *SIG), "u1"), scans=scans), FIRST)
    assert (layout.nav_shape, layout.sync_offset, layout.notes) == ((12,), 0, ())


def test_where_headers_have_no_scan_position_the_rotator_index_tells():
    layout = parse(recording(random_items(7, (13, *SIG), "u1"), [4, 9], size=60, rotators=[0, 0, *range(1, 10), 0, 0]), FIRST)
    assert (layout.nav_shape, layout.sync_offset) == ((3, 3), 2)
    assert layout.notes == ("rotator indices in the frame headers count 9 scan positions from frame 2 on: sync_offset=2 and "
                            "nav_shape=(3, 3) unless given",)


def test_the_scan_position_comes_before_the_rotator_index():
    layout = parse(recording(random_items(8, (14, *SIG), "u1"), scans=raster(2, 3, 4), rotators=[*range(1, 15)]), FIRST)
    assert (layout.nav_shape, layout.sync_offset) == ((3, 4), 2)


def test_headers_of_version_1_tell_of_no_scan():
    layout = parse(recording(random_items(9, (9, *SIG), "u1"), size=12, version=1, scans=raster(0, 3, 3)), FIRST)
    assert (layout.nav_shape, layout.sync_offset, layout.notes) == ((9,), 0, ())


# -- members -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opened", ["scan_000.tvips", "scan_001.tvips", "scan_002.TVIPS"])
def test_any_file_opens_the_whole_recording(opened):
    frames = random_items(10, (6, *SIG), "u2")
    files = recording(frames, [1, 3, 2])
    files["/data/scan_002.TVIPS"] = files.pop("/data/scan_002.tvips")
    layout = parse(files, f"/data/{opened}")
    assert [f.path for f in layout.parts[0]] == ["/data/scan_000.tvips", "/data/scan_001.tvips", "/data/scan_002.TVIPS"]
    assert_same(decoded(layout, files), frames)


@pytest.mark.parametrize("stem", [
    "/data/scan_split", "/data/sca", "/data/scan_1", "/data/xscan", "/other/scan", "/data/[s]can", "/data/scan_000"])
def test_files_of_other_recordings_do_not_belong(stem):
    frames = random_items(11, (6, *SIG), "u2")
    files = recording(frames, [1, 3, 2])
    files.update(recording(random_items(12, (5, *SIG), "u2"), [2, 3], stem=stem))
    files |= {"/data/scan_3.tvips": b"", "/data/scan_0003.tvips": b"", "/data/scan_003.tvips.bak": b"", "/data/scan_003.txt": b"",
              "/data/Scan_003.tvips": b""}
    layout = parse(files, "/data/scan_001.tvips")
    assert len(layout.parts[0]) == 3
    assert_same(decoded(layout, files), frames)


@pytest.mark.parametrize("stem", ["/data/[ab]*_000", "/data/a b", "scan", "/data/scan_99", "/data/_"])
def test_names_mean_nothing_but_their_digits(stem):
    frames = random_items(13, (3, *SIG), "u2")
    files = recording(frames, [2, 1], stem=stem)
    assert_same(decoded(parse(files, f"{stem}_001.tvips"), files), frames)


@pytest.mark.parametrize(("head", "path", "expected"), [
    (series(5, 3), "a_000.tvips", True), (series(5, 3, version=1, filler=b"HYPERSPY "), "a.dat", True),
    (series(5, 3, 8), "a_000.TVIPS", True), (series(5, 3, 12), "a_000.tvips", False),
    (series(5, 3, version=3), "a_000.tvips", False), (series(5, 3, size=255), "a_000.tvips", False),
    (series(5, 3)[:255], "a_000.tvips", False), (b"", "a_000.tvips", False), (frame_header(5), "a_001.tvips", True),
    (frame_header(5), "/data/a_001.Tvips", True), (frame_header(5), "a_001.raw", False), (frame_header(5), "a001.tvips", False),
    (frame_header(5), "a_0001.tvips", False),
])
def test_sniff(head, path, expected):
    assert sniff(head, path) is expected
    assert TVIPSDataSet.sniff(head, path) is expected


# -- data sets in files ------------------------------------------------------------------------------------------------


def written(folder, frames, nav=(3, 5), **kwargs):
    return synth.write(str(folder / "scan.tvips"), np.split(frames, [4, 5]), nav_shape=nav, sig_shape=frames.shape[1:], **kwargs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sync_offset", [0, 4, -3, 14, -14])
def test_every_way_to_the_pixels(tmp_path, backend, sync_offset):
    frames = random_items(20, (15, *SIG), "u2")
    paths = written(tmp_path, frames, frames_per_file=4)
    check_every_way(lambda **kwargs: gpuio.load("tvips", path=paths[1], device="cpu", **kwargs), frames, backend, sync_offset,
                    tile=(4, 3, 5))


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_way_to_the_pixels_where_the_scan_starts_by_itself(tmp_path, backend):
    frames = random_items(21, (15, *SIG), "u1")
    paths = written(tmp_path, frames, bits=8, frames_per_file=4, idle_before=6, idle_after=2, frame_header_bytes=77)
    recorded = np.concatenate([np.zeros((6, *SIG), "u1"), frames, np.zeros((2, *SIG), "u1")])
    check_every_way(lambda io_backend, sync_offset: gpuio.load("tvips", path=paths[-1], device="cpu", io_backend=io_backend),
                    recorded, backend, 6, tile=(4, 3, 5))


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("kwargs", [{}, {"version": 1}, {"frame_header_bytes": 60}, {"frame_header_bytes": 13, "frames_per_file": 7}])
def test_scans_of_every_kind_come_back_exactly(tmp_path, bits, kwargs):
    frames = random_items(22, (16, *SIG), f"u{bits // 8}")
    paths = written(tmp_path, frames, (4, 4), bits=bits, **kwargs)
    ds = gpuio.load("tvips", path=paths[0], nav_shape=(4, 4), device="cpu")
    assert_same(ds[:], frames.reshape(4, 4, *SIG))


def test_what_the_user_says_goes_before_what_is_found(tmp_path):
    frames = random_items(23, (15, *SIG), "u2")
    paths = written(tmp_path, frames, idle_before=3)
    recorded = np.concatenate([np.zeros((3, *SIG), "u2"), frames])
    ds = gpuio.open(paths[0], device="cpu")
    assert (tuple(ds.shape.nav), ds.sync_offset) == ((3, 5), 3)
    assert_same(ds[:], frames.reshape(3, 5, *SIG))
    ds = gpuio.load("tvips", path=paths[0], sync_offset=1, device="cpu")
    assert (tuple(ds.shape.nav), ds.sync_offset) == ((3, 5), 1)
    assert_same(ds[:], recorded[1:16].reshape(3, 5, *SIG))
    ds = gpuio.load("tvips", path=paths[0], sync_offset=0, nav_shape=(2, 9), device="cpu")
    assert_same(ds[:], recorded.reshape(2, 9, *SIG))
    ds = gpuio.load("tvips", path=paths[0], nav_shape=(5, 3), sig_shape=(77,), device="cpu")
    assert (ds.sync_offset, tuple(ds.shape)) == (3, (5, 3, 77))
    assert_same(ds[:], frames.reshape(5, 3, 77))


def test_the_constructor_touches_no_file():
    ds = TVIPSDataSet("/nowhere/a_000.tvips", nav_shape=[2, 3], sync_offset=1)
    assert ds.meta is None
    with pytest.raises(FileNotFoundError):
        ds.initialize(None)


def test_shapes_and_offsets_that_do_not_fit_are_refused(tmp_path):
    paths = written(tmp_path, random_items(24, (15, *SIG), "u2"))
    with pytest.raises(ShapeError, match=r"scan_000\.tvips: sig_shape \(7, 12\)"):
        gpuio.load("tvips", path=paths[0], sig_shape=(7, 12))
    with pytest.raises(DataSetException, match=r"sync_offset should be in \(-15, 15\)"):
        gpuio.load("tvips", path=paths[0], sync_offset=15)


def test_a_data_set_pickles_small_and_reads_again(tmp_path):
    frames = random_items(25, (15, *SIG), "u2")
    ds = gpuio.open(written(tmp_path, frames, idle_before=2)[0], device="cpu")
    packed = pickle.dumps(ds)
    assert len(packed) < 8192
    assert_same(pickle.loads(packed)[:], frames.reshape(3, 5, *SIG))


def test_messages_detection_and_cache_key(tmp_path):
    paths = written(tmp_path, random_items(26, (15, *SIG), "u2"), idle_before=2, frames_per_file=9)
    assert TVIPSDataSet.get_msg_converter()().to_python({"type": "TVIPS", "path": paths[0]}) == {"path": paths[0]}
    for path in paths:
        found = gpuio.detect(path)
        assert (found["format"], found["parameters"], found["info"]["image_count"]) == (
            "tvips", {"path": path, "nav_shape": (3, 5), "sig_shape": SIG}, 17)
    one, other = (gpuio.load("tvips", path=paths[0], sync_offset=s).get_cache_key() for s in (None, 0))
    assert one != other and json.loads(json.dumps(one))["path"] == paths[0]
    assert all(isinstance(entry["name"], str) for entry in gpuio.open(paths[0]).diagnostics)


def test_numbers_and_times_of_frames_are_judged(tmp_path):
    paths = written(tmp_path, random_items(27, (15, *SIG), "u2"), frames_per_file=6)
    assert check.check(paths[0]).findings == ()
    stride = 108 + 154
    blob = bytearray((tmp_path / "scan_001.tvips").read_bytes())
    blob[2 * stride:2 * stride + 4] = (99).to_bytes(4, "little")
    (tmp_path / "scan_001.tvips").write_bytes(blob)
    (finding,) = check.check(paths[2]).findings
    assert (finding.where, finding.evidence["found"], finding.evidence["expected"]) == (f"{paths[1]}, frame 8", 99, 8)


def test_a_program_that_does_not_count_frames_is_no_finding(tmp_path):
    files = recording(random_items(28, (9, *SIG), "u2"))
    blob = bytearray(files[FIRST])
    for i in range(9):
        blob[256 + 262 * i:260 + 262 * i] = bytes(4)
    (tmp_path / "a_000.tvips").write_bytes(blob)
    assert check.check(tmp_path / "a_000.tvips").findings == ()
