"""Damaged and foreign TVIPS recordings: one clear line, or what is whole of them; never a crash, never made-up pixels."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuio
from gpuio.errors import DataSetException, FormatError, TruncatedFile
from gpuio.formats.tvips import parse
from tests.formats.items import assert_same, decoded, random_items
from tests.formats.tvips_files import FilesWithErrors, raster, recording, series

SIG = (7, 11)
FIRST = "/data/scan_000.tvips"
STRIDE = 108 + 154
FRAMES = random_items(1, (15, *SIG), "u2")
GOOD = recording(FRAMES, [6, 4, 5], scans=raster(3, 3, 4))


def changed(**fields):
    return series(**{"width": 11, "height": 7, **fields}) + GOOD[FIRST][256:]


@pytest.mark.parametrize(("content", "error", "message"), [
    (b"", TruncatedFile, "0 bytes; expected at least the 256 of a series header"), (GOOD[FIRST][:255], TruncatedFile, "255 bytes"),
    (changed(size=255), FormatError, "not a TVIPS file, a header of 255 bytes and version 2; expected 256 and 1 or 2"),
    (changed(version=3), FormatError, "version 3"), (changed(version=0), FormatError, "version 0"),
    (b"\x93NUMPY" * 100, FormatError, "not a TVIPS"),
    (changed(bits=12), FormatError, "12 bits a pixel; expected 8, 16, 32, 64"), (changed(bits=0), FormatError, "0 bits"),
    (changed(bits=-16), FormatError, "-16 bits"), (changed(width=0), FormatError, "frames of 0 x 7 pixels; expected at least one"),
    (changed(height=-7), FormatError, "frames of 11 x -7 pixels"),
    (changed(frame_header=0), FormatError, "frame headers of 0 bytes; expected 12 to 65536"),
    (changed(frame_header=11), FormatError, "of 11 bytes"), (changed(frame_header=65537), FormatError, "of 65537 bytes"),
    (changed(frame_header=-1), FormatError, "of -1 bytes"),
])
def test_bad_headers_are_refused_with_one_clear_line(content, error, message):
    with pytest.raises(error, match=message) as caught:
        parse(FilesWithErrors({**GOOD, FIRST: content}), "/data/scan_002.tvips")
    assert str(caught.value).startswith(f"{FIRST}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(1 << 31) - 1, 40_000])
def test_sizes_beyond_the_files_are_refused(size):
    files = FilesWithErrors({FIRST: series(size, size, 64) + bytes(1000)})
    with pytest.raises(TruncatedFile, match=rf"^{FIRST}: no whole frame of {size * size * 8 + 108} bytes, {size} x "):
        parse(files, FIRST)


@pytest.mark.parametrize(("path", "message"), [
    ("/data/scan.tvips", "does not end in _<three digits>.tvips"), ("/data/scan_00.tvips", "does not end in"),
    ("/data/scan_0000.tvips", "does not end in"), ("/data/scan000.tvips", "does not end in"), ("/data/scan_000.tvip", "does not end in"),
    ("/data/scan_\u0660\u0660\u0660.tvips", "does not end in"),
])
def test_names_without_three_digits_are_refused(path, message):
    with pytest.raises(FormatError, match=message) as caught:
        parse(FilesWithErrors({path: GOOD[FIRST]}), path)
    assert str(caught.value).startswith(f"{path}: ")


def test_holes_in_the_numbers_are_named():
    for number, message in ((0, r"the first file, which holds the header, scan_000\.tvips is missing"),
                            (1, r"file 1 of 2 scan_001\.tvips is missing")):
        files = FilesWithErrors(GOOD)
        del files[f"/data/scan_{number:03d}.tvips"]
        with pytest.raises(FormatError, match=rf"^/data/scan_002\.tvips: {message}$"):
            parse(files, "/data/scan_002.tvips")
    files = FilesWithErrors(GOOD)
    del files["/data/scan_002.tvips"]
    assert_same(decoded(parse(files, FIRST), files), FRAMES[:10])


def test_two_files_of_one_number_are_refused():
    files = FilesWithErrors({**GOOD, "/data/scan_001.TVIPS": b""})
    with pytest.raises(FormatError, match=r"scan_001\.(tvips|TVIPS): is there twice"):
        parse(files, FIRST)


def test_more_files_than_three_digits_count_are_refused():
    files = recording(random_items(2, (1000, 1, 1), "u1"), [1] * 1000, size=12)
    assert parse(files, FIRST).image_count == 1000
    files["/data/scan_1000.tvips"] = files["/data/scan_001.tvips"]
    with pytest.raises(FormatError, match=r"^/data/scan_1000\.tvips: more than 1000 files"):
        parse(files, FIRST)


@pytest.mark.parametrize("rest", [1, 107, 108, STRIDE - 1])
def test_an_interrupted_recording_has_its_whole_frames(rest):
    files = FilesWithErrors(GOOD)
    files["/data/scan_002.tvips"] = files["/data/scan_002.tvips"][:4 * STRIDE + rest]
    layout = parse(files, FIRST)
    assert layout.notes[0] == f"/data/scan_002.tvips: the last {rest} bytes are no whole frame of {STRIDE} and were left out"
    assert_same(decoded(layout, files), FRAMES[:14])


@pytest.mark.parametrize("name", [FIRST, "/data/scan_001.tvips"])
@pytest.mark.parametrize("cut", [1, 200, STRIDE - 1])
def test_a_file_before_the_last_that_is_cut_short_is_refused(name, cut):
    files = FilesWithErrors(GOOD)
    files[name] = files[name][:-cut]
    with pytest.raises(FormatError, match=rf"^{name}: {STRIDE - cut} bytes are left after [0-9]+ frames of {STRIDE}; expected whole"):
        parse(files, FIRST)


def test_a_second_recording_under_the_same_name_is_refused():
    files = FilesWithErrors({**GOOD, "/data/scan_002.tvips": GOOD[FIRST]})
    with pytest.raises(FormatError, match=r"^/data/scan_002\.tvips: begins with a series header; expected a frame"):
        parse(files, FIRST)


def test_every_prefix_of_a_recording_is_refused_or_has_its_whole_frames():
    frames = random_items(3, (3, 3, 5), "u1")
    whole = recording(frames, size=76, scans=raster(0, 1, 3))[FIRST]
    stride = 76 + 15
    for n in range(len(whole) + 1):
        files = FilesWithErrors({FIRST: whole[:n]})
        if n < 256 + stride:
            with pytest.raises(TruncatedFile, match=rf"^{FIRST}: "):
                parse(files, FIRST)
        else:
            layout = parse(files, FIRST)
            assert_same(decoded(layout, files), frames[:(n - 256) // stride])
            assert any("no whole frame" in note for note in layout.notes) == ((n - 256) % stride > 0)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(-(2**31), 2**31 - 1) | st.sampled_from([0, 1, 2, 8, 16, 60, 256])), max_size=4),
       st.lists(st.tuples(st.integers(256, len(GOOD[FIRST]) - 4), st.binary(min_size=4, max_size=4)), max_size=6))
def test_damaged_recordings_give_a_layout_inside_their_files_or_an_error(fields, elsewhere):
    blob = bytearray(GOOD[FIRST])
    for field, value in fields:
        struct.pack_into("<i", blob, 4 * field, value)
    for at, new in elsewhere:
        blob[at:at + 4] = new
    files = FilesWithErrors({**GOOD, FIRST: bytes(blob)})
    try:
        layout = parse(files, FIRST)
    except DataSetException as problem:
        assert "\n" not in str(problem)
    else:
        for file in layout.parts[0]:
            assert file.file_header + file.num_frames * file.stride <= len(files[file.path])
        assert np.prod(layout.nav_shape) >= 1 and 0 <= layout.sync_offset < layout.image_count


def test_files_that_change_after_opening_are_errors(tmp_path):
    for path, blob in GOOD.items():
        (tmp_path / path.rpartition("/")[2]).write_bytes(blob)
    ds = gpuio.open(tmp_path / "scan_001.tvips", device="cpu")
    assert_same(ds[:], FRAMES[3:].reshape(3, 4, *SIG))
    with open(tmp_path / "scan_002.tvips", "r+b") as file:
        file.truncate(3 * STRIDE)
    with pytest.raises(OSError, match=r"scan_002\.tvips"):
        ds[:]
    (tmp_path / "scan_002.tvips").unlink()
    with pytest.raises(FileNotFoundError, match=r"scan_002\.tvips"):
        ds[:]


def test_missing_files_and_folders_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a_000\.tvips"):
        gpuio.load("tvips", path=tmp_path / "a_000.tvips")
    (tmp_path / "a_000.tvips").mkdir()
    with pytest.raises((DataSetException, OSError), match=r"a_000\.tvips"):
        gpuio.load("tvips", path=tmp_path / "a_000.tvips")
