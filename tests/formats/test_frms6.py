"""FRMS6 against the worked examples, the formulas of the format, and arrays before encoding."""

from __future__ import annotations

import json
import pickle
import re

import numpy as np
import pytest
from scipy.io import savemat

import gpuio
from gpuio import synth
from gpuio.corrections import CorrectionSet
from gpuio.errors import DataSetException, ShapeError
from gpuio.formats.frms6 import FRMS6DataSet, parse, sniff
from tests.formats.every_way import BACKENDS, check_every_way
from tests.formats.frms6_files import data_set, file_header, frms6, hdr, random_stored, unfolded
from tests.formats.mib_files import Files

OFF = CorrectionSet()


def on_disk(folder, files):
    """Write ``/data/...`` files into a folder."""
    for path, content in files.items():
        (folder / path.rpartition("/")[2]).write_bytes(content)
    return folder / "scan.hdr"


def scan(seed=1, n=15, sig=(6, 5), binning=1):
    """Frames and dark frames whose rows are equal in each bin."""
    rng = np.random.default_rng(seed)
    frames, dark = (np.repeat(rng.integers(0, top, (count, sig[0] // binning, sig[1])), binning, axis=1).astype("u2")
                    for count, top in ((n, 1 << 16), (7, 1000)))
    return frames, dark


def written(folder, nav_shape=(3, 5), sig=(6, 5), binning=1, **kwargs):
    frames, dark = scan(sig=sig, binning=binning)
    paths = synth.write("frms6", folder / "scan.hdr", [frames[:4], frames[4:]], nav_shape=nav_shape, sig_shape=sig, binning=binning,
                        **{"dark": dark, "frames_per_file": 4, **kwargs})
    return paths, frames, dark


def corrected(frames, dark):
    """Pixels minus the mean of the dark frames, which is rounded to float32, rounded once."""
    return (frames.astype("f8") - dark.astype("f8").mean(axis=0).astype("f4")).astype("f4")


# -- pixels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("binning", "expected"), [
    (1, [[1, 2], [5, 6], [8, 7], [4, 3]]),
    (2, [[1, 2], [1, 2], [5, 6], [5, 6], [8, 7], [8, 7], [4, 3], [4, 3]]),
])
def test_the_worked_example(tmp_path, binning, expected):
    stored = np.arange(1, 9, dtype="u2").reshape(1, 2, 4)
    ds = gpuio.load("frms6", path=on_disk(tmp_path, data_set(stored, stored, binning=binning)), enable_offset_correction=False,
                    device="cpu")
    assert ds[0, 0].tolist() == expected
    assert ds.dtype == np.uint16


@pytest.mark.parametrize(("row", "stored_row", "stored_column", "reverse"), [(32, 32, 0, False), (33, 32, 264, True), (65, 0, 264, True)])
def test_rows_of_the_full_camera_with_a_binning_of_4(tmp_path, row, stored_row, stored_column, reverse):
    stored = random_stored(2, 1, 33, 528)
    ds = gpuio.load("frms6", path=on_disk(tmp_path, data_set(stored, stored, binning=4)), enable_offset_correction=False, device="cpu")
    assert tuple(ds.shape.sig) == (264, 264)
    pixels = stored[0, stored_row, stored_column:stored_column + 264]
    for y in range(4 * row, 4 * row + 4):
        np.testing.assert_array_equal(ds[0, 0, y], pixels[::-1] if reverse else pixels)


@pytest.mark.parametrize("binning", [1, 2, 4])
@pytest.mark.parametrize(("height", "width"), [(3, 10), (1, 2), (7, 82)])
def test_stored_pixels_go_where_the_formulas_say(tmp_path, binning, height, width):
    stored = random_stored(3, 7, height, width)
    path = on_disk(tmp_path, data_set(stored, stored[:2], binning=binning, per_file=3))
    ds = gpuio.load("frms6", path=path, enable_offset_correction=False, device="cpu")
    np.testing.assert_array_equal(ds[0], unfolded(stored, binning))
    assert ds.notes == ()


@pytest.mark.parametrize("sync_offset", [0, 2, -3, 14, -14])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("binning", [1, 4])
def test_scans_come_back_exactly_every_way(tmp_path, backend, sync_offset, binning):
    paths, frames, dark = written(tmp_path, sig=(6 * binning, 5), binning=binning)
    check_every_way(lambda **kwargs: gpuio.load("frms6", path=paths[0], device="cpu", **kwargs), corrected(frames, dark), backend,
                    sync_offset, tile=(2, 3, 2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_uncorrected_scans_come_back_exactly_every_way(tmp_path, backend):
    paths, frames, _ = written(tmp_path, sig=(12, 7), binning=2)
    check_every_way(lambda **kwargs: gpuio.load("frms6", path=paths[0], enable_offset_correction=False, nav_shape=(2, 8), device="cpu",
                                                **kwargs), frames, backend, 0, tile=(3, 5, 7))


def test_another_sig_shape_keeps_the_order_of_pixels_and_their_corrections(tmp_path):
    paths, frames, dark = written(tmp_path)
    gain = np.random.default_rng(4).normal(1, 0.1, (6, 5)).astype("f4")
    np.save(tmp_path / "gain.npy", gain)
    ds = gpuio.load("frms6", path=paths[0], sig_shape=(3, 2, 5), gain_map_path=tmp_path / "gain.npy", device="cpu")
    expected = ((frames.astype("f8") - dark.mean(axis=0).astype("f4")) * gain).astype("f4")
    np.testing.assert_array_equal(ds[:], expected.reshape(3, 5, 3, 2, 5))


# -- corrections -----------------------------------------------------------------------------------------------------


def test_the_mean_of_the_dark_frames_is_subtracted(tmp_path):
    paths, frames, dark = written(tmp_path)
    ds = gpuio.open(paths[0], device="cpu")
    assert ds.dtype == np.float32
    found = ds.get_correction_data()
    assert found.get_gain_map() is None and found.get_excluded_pixels() is None
    np.testing.assert_array_equal(found.get_dark_frame(), dark.astype("f8").mean(axis=0).astype("f4"))
    assert found.get_dark_frame().dtype == np.float32
    np.testing.assert_array_equal(ds[:], corrected(frames, dark).reshape(3, 5, 6, 5))
    assert (ds[:] < 0).any()


def test_the_sum_of_many_bright_dark_frames_is_exact(tmp_path):
    dark = np.full((300, 2, 6), 0xFFFF, "u2")
    dark[0] -= 1                            # a sum in float32 would not notice
    stored = random_stored(5, 3, 2, 6)
    ds = gpuio.load("frms6", path=on_disk(tmp_path, data_set(stored, dark)), device="cpu")
    assert (ds.get_correction_data().get_dark_frame() == np.float32((300 * 0xFFFF - 1) / 300)).all()


def test_corrections_can_be_switched_off_or_replaced(tmp_path):
    paths, frames, dark = written(tmp_path)
    off = gpuio.load("frms6", path=paths[0], enable_offset_correction=False, device="cpu")
    assert off.dtype == np.uint16 and not off.get_correction_data().have_corrections()
    np.testing.assert_array_equal(off[:], frames.reshape(3, 5, 6, 5))
    ds = gpuio.load("frms6", path=paths[0], device="cpu")
    np.testing.assert_array_equal(ds.read(np.arange(15), corrections=OFF), frames.astype("f4"))
    np.testing.assert_array_equal(ds.read(np.arange(15), corrections=OFF, dtype="u2"), frames)
    for tile in ds.tiles(corrections=OFF):
        assert tile.data.dtype == ds.dtype
    np.testing.assert_array_equal(ds.sum_nav(corrections=OFF), frames.sum(axis=0, dtype="f8"))
    mine = CorrectionSet(dark=np.full((6, 5), 3.0))
    np.testing.assert_array_equal(ds.read(np.arange(15), corrections=mine), frames.astype("f4") - 3)
    with pytest.raises(TypeError, match="corrections need a floating output dtype; uint16 was asked for"):
        next(ds.tiles(dtype="uint16"))
    np.testing.assert_array_equal(ds.sum_sig(), corrected(frames, dark).sum(axis=(1, 2), dtype="f8").reshape(3, 5))


@pytest.mark.parametrize("kind", ["mat", "mat level 4", "mat uncompressed", "npy", "npy big-endian", "npy Fortran"])
def test_a_gain_map_is_multiplied_after_the_dark_is_subtracted(tmp_path, kind):
    paths, frames, dark = written(tmp_path)
    gain = np.random.default_rng(6).normal(1, 0.1, (6, 5))
    path = tmp_path / f"gain.{kind[:3]}"
    if kind.startswith("mat"):
        savemat(path, {"other": np.ones(3), "GainMap": gain}, format="4" if "4" in kind else "5", do_compression=kind == "mat")
    else:
        np.save(path, np.asfortranarray(gain) if "Fortran" in kind else gain.astype(">f8" if "big" in kind else "f8"))
    ds = gpuio.load("frms6", path=paths[0], gain_map_path=str(path), device="cpu")
    np.testing.assert_array_equal(ds.get_correction_data().get_gain_map(), gain)
    expected = ((frames.astype("f8") - dark.mean(axis=0).astype("f4")) * gain).astype("f4")
    np.testing.assert_array_equal(ds[:], expected.reshape(3, 5, 6, 5))
    alone = gpuio.load("frms6", path=paths[0], enable_offset_correction=False, gain_map_path=str(path), device="cpu")
    assert alone.dtype == np.float32 and alone.get_correction_data().get_dark_frame() is None
    np.testing.assert_array_equal(alone[:], (frames * gain).astype("f4").reshape(3, 5, 6, 5))


def test_a_gain_map_of_another_shape_is_refused_when_the_set_is_opened(tmp_path):
    paths, _, _ = written(tmp_path)
    np.save(tmp_path / "gain.npy", np.ones((5, 6)))
    with pytest.raises(ShapeError, match=r"gain\.npy: the gain map has shape \(5, 6\); expected \(6, 5\)"):
        gpuio.load("frms6", path=paths[0], gain_map_path=tmp_path / "gain.npy")
    with pytest.raises(FileNotFoundError):
        gpuio.load("frms6", path=paths[0], gain_map_path=tmp_path / "other.npy")


@pytest.mark.parametrize(("dest_dtype", "offset", "dtype"), [
    (None, True, "f4"), (None, False, "u2"), ("float64", True, "f8"), ("float32", False, "f4"), ("uint32", False, "u4"),
])
def test_dest_dtype_is_that_of_pixels_where_none_is_asked_for(tmp_path, dest_dtype, offset, dtype):
    paths, frames, dark = written(tmp_path)
    ds = gpuio.load("frms6", path=paths[0], enable_offset_correction=offset, dest_dtype=dest_dtype, device="cpu")
    mean = dark.mean(axis=0).astype("f4") if offset else np.zeros((6, 5), "f4")
    expected = (frames.astype("f8") - mean).astype(dtype).reshape(3, 5, 6, 5)
    assert ds.dtype == ds[0].dtype == next(ds.tiles()).data.dtype == np.dtype(dtype)
    assert ds.meta.raw_dtype == np.dtype("<u2")
    np.testing.assert_array_equal(ds[:], expected)


@pytest.mark.parametrize(("dest_dtype", "message"), [
    ("uint16", "dest_dtype uint16 cannot hold corrected pixels"), ("no dtype", "dest_dtype is 'no dtype'; expected a dtype"),
])
def test_a_dest_dtype_that_is_of_no_use_is_refused(dest_dtype, message):
    with pytest.raises(DataSetException, match=message):
        FRMS6DataSet("/nowhere/scan.hdr", dest_dtype=dest_dtype)


# -- headers and files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scan.hdr", "scan_000.frms6", "scan_001.frms6", "scan_004.frms6"])
def test_any_member_opens_the_set(tmp_path, name):
    _, frames, dark = written(tmp_path)
    ds = gpuio.open(tmp_path / name, device="cpu")
    assert ds.format == "frms6" and tuple(ds.shape) == (3, 5, 6, 5)
    assert [path.rpartition("/")[2] for path in ds.files] == [f"scan_{i:03d}.frms6" for i in range(1, 5)]
    np.testing.assert_array_equal(ds[:], corrected(frames, dark).reshape(3, 5, 6, 5))


def test_only_files_with_a_number_after_the_name_belong_to_the_set():
    stored, dark = random_stored(7, 15), random_stored(8, 2)
    files = data_set(stored, dark)
    foreign = frms6(random_stored(9, 3, 5, 8))
    for name in ("scan_old_001.frms6", "scan_.frms6", "scan.frms6", "scan_1a.frms6", "scan2_001.frms6", "scan_001.frms6.bak",
                 "Scan_005.frms6", "scan_005.mib", "other.hdr"):
        files[f"/data/{name}"] = foreign
    layout = parse(Files(files), "/data/scan.hdr")
    assert layout.parts[0].paths == [f"/data/scan_{i:03d}.frms6" for i in range(1, 5)]


def test_files_are_in_the_order_of_their_numbers_not_of_their_names():
    stored, dark = random_stored(10, 24), random_stored(11, 2)
    files = data_set(stored, dark, per_file=2)
    files = {re.sub("_0+(?=[0-9])", "_", path): content for path, content in files.items()}
    layout = parse(Files(files), "/data/scan_7.frms6")
    assert layout.parts[0].paths == [f"/data/scan_{i}.frms6" for i in range(1, 13)]
    assert [f.start_idx for f in layout.parts[0]] == list(range(0, 24, 2))


def test_names_with_brackets_and_stars_are_taken_as_they_are():
    files = {path.replace("scan", "scan[1]*"): content for path, content in data_set(random_stored(12, 5), random_stored(13, 2)).items()}
    assert parse(Files(files), "/data/scan[1]*_001.frms6").image_count == 5


@pytest.mark.parametrize("announced", [True, False])
def test_frames_are_counted_by_the_header_or_else_by_the_size(tmp_path, announced):
    paths, frames, dark = written(tmp_path, count_in_header=announced)
    ds = gpuio.load("frms6", path=paths[0], device="cpu")
    assert ds.notes == ()
    np.testing.assert_array_equal(ds[:], corrected(frames, dark).reshape(3, 5, 6, 5))


def test_metadata_has_units_in_its_keys():
    stored = random_stored(14, 6)
    files = data_set(stored, random_stored(15, 3), nav=(2, 3), gain="high", operator="50 % \xb5")
    metadata = parse(Files(files), "/data/scan.hdr").metadata
    expected = {"signal_frames": 6, "dark_frames": 2, "dark_frames_averaged": 3, "dwell_time_us": 1000, "stem_image_size": "2x3",
                "readout_mode": "bin: 1, windowing: 6 x 5", "binning": 1, "gain": "high", "operator": "50 % \xb5", "version": 6,
                "data_set_name": "measurement", "n_files": 2, "stored_shape": (3, 10), "time_first_s": 1000.0, "time_last_s": 1000.000001,
                "temperature_first_V": 0.5, "temperature_last_V": 0.5}
    assert {key: metadata[key] for key in expected} == expected


@pytest.mark.parametrize("text", [
    hdr(), b"\xef\xbb\xbf" + hdr(), b"a line\r\nx = 1\r\n" + hdr(), hdr() + b"\r\n  [\r\n=\r\n: x\r\n",
    hdr().replace(b" = ", b": "), hdr().lower(), hdr().upper(), hdr().replace(b" = ", b"="), hdr().replace(b"\r\n", b"\n"),
    b"; a comment\r\n[other]\r\npath = 100%\r\n" + hdr() + b"[more]\r\nx\r\n", hdr(readoutMode='"bin:1,windowing:264x264"'),
    hdr(readoutMode="bin : 1 , windowing : 264 x 264"), hdr(stemImageSize=" 3 x 5 "), hdr(extra="%(nothing)s"), hdr(signalframes=15),
])
def test_text_files_of_any_style_are_understood(text):
    stored = random_stored(16, 15, 132, 528)
    files = Files({**data_set(stored, stored[:1]), "/data/scan.hdr": text})
    layout = parse(files, "/data/scan.hdr")
    assert (layout.nav_shape, layout.image_count, layout.sig_shape, layout.notes) == ((3, 5), 15, (264, 264), ())


def test_nothing_but_headers_is_read_before_pixels_are_wanted():
    stored = random_stored(17, 200, 33, 528)
    files = Files(data_set(stored, stored[:3], per_file=100))
    parse(files, "/data/scan.hdr")
    assert sum(min(size, 1 << 12) for path, _, size in files.reads if path.endswith(".frms6")) < 6000


@pytest.mark.parametrize(("head", "path", "expected"), [
    (file_header(4, 2), "a.frms6", True), (file_header(4, 2), "a.bin", True), (file_header(4, 2, version=5), "a.frms6", False),
    (b"\0\4\x40\0", "a.frms6", False), (b"", "a.frms6", False), (hdr(), "a.hdr", True), (hdr(), "a.HDR", True), (hdr(), "a.txt", False),
    (hdr().upper(), "a.hdr", True), (b"HDR,\t\r\nChip ID:\tW1\r\n", "a.hdr", False), (b"ENVI\nsamples = 4\n", "a.hdr", False),
])
def test_only_files_of_the_format_are_recognised(head, path, expected):
    assert sniff(head, path) is expected


# -- the data set ----------------------------------------------------------------------------------------------------


def test_the_constructor_touches_no_file():
    ds = FRMS6DataSet("/nowhere/scan.hdr", True, None, None, (2, 3), (4, 5), 1)
    assert ds.meta is None
    with pytest.raises(FileNotFoundError):
        ds.initialize(None)


def test_shapes_and_offsets_that_do_not_fit_are_refused(tmp_path):
    paths, _, _ = written(tmp_path)
    with pytest.raises(ShapeError, match=r"scan\.hdr: sig_shape \(7, 5\)"):
        gpuio.load("frms6", path=paths[0], sig_shape=(7, 5))
    with pytest.raises(DataSetException, match=r"sync_offset should be in \(-15, 15\)"):
        gpuio.load("frms6", path=paths[0], sync_offset=15)


def test_a_data_set_pickles_small_and_reads_again(tmp_path):
    paths, frames, dark = written(tmp_path)
    ds = gpuio.load("frms6", path=paths[0], device="cpu")
    ds.get_correction_data()
    packed = pickle.dumps(ds)
    assert len(packed) < 8192
    np.testing.assert_array_equal(pickle.loads(packed)[:], corrected(frames, dark).reshape(3, 5, 6, 5))


def test_an_executor_in_another_process_may_read_the_headers(tmp_path):
    paths, frames, dark = written(tmp_path)

    class Elsewhere:
        def run_function(self, function, *args):
            return pickle.loads(pickle.dumps(function))(*args)

    ds = FRMS6DataSet(paths[0]).initialize(Elsewhere())
    np.testing.assert_array_equal(ds.to("cpu")[:], corrected(frames, dark).reshape(3, 5, 6, 5))


def test_messages_detection_and_cache_key(tmp_path):
    paths, _, _ = written(tmp_path)
    assert FRMS6DataSet.get_supported_extensions() == {"frms6", "hdr"}
    message = {"type": "FRMS6", "path": paths[0], "enable_offset_correction": False}
    assert FRMS6DataSet.get_msg_converter()().to_python(message) == {"path": paths[0], "enable_offset_correction": False}
    found = gpuio.detect(paths[1])
    assert found["format"] == "frms6" and found["parameters"]["nav_shape"] == (3, 5) and found["info"]["image_count"] == 15
    keys = [gpuio.load("frms6", path=paths[0], device="cpu", **kwargs).get_cache_key()
            for kwargs in ({}, {"enable_offset_correction": False}, {"dest_dtype": "f8"})]
    assert len({json.dumps(key) for key in keys}) == 3
    assert all(isinstance(entry["name"], str) for entry in gpuio.load("frms6", path=paths[0], device="cpu").diagnostics)


def test_tiles_have_to_be_decoded_even_in_the_native_dtype(tmp_path):
    paths, _, _ = written(tmp_path)
    assert gpuio.load("frms6", path=paths[0], device="cpu").need_decode("uint16", None, None)
