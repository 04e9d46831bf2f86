"""Damaged, missing and foreign files of a FRMS6 set: one clear line, or what is whole of them; never made-up pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuio
from gpuio.errors import DataSetException, FormatError, TruncatedFile, UnsupportedFeature
from gpuio.formats.frms6 import parse
from tests.formats.frms6_files import data_set, file_header, frame_header, frms6, hdr, random_stored, unfolded
from tests.formats.mib_files import Files

STORED, DARK = random_stored(1, 15), random_stored(2, 3)
FRAME = 64 + 60
HDR, FIRST, LAST = "/data/scan.hdr", "/data/scan_001.frms6", "/data/scan_004.frms6"


def files(**changes):
    """The set with changed members, by the end of their names; None takes one away."""
    made = data_set(STORED, DARK)
    for name, content in changes.items():
        path = HDR if name == "hdr" else f"/data/scan_{name[1:]}.frms6"
        made[path] = content
        if content is None:
            del made[path]
    return Files(made)


def refused(error, message, path=HDR, **changes):
    with pytest.raises(error, match=message) as caught:
        parse(files(**changes), path)
    assert "\n" not in str(caught.value)


def loaded(folder, path=HDR, enable_offset_correction=False, **changes):
    for name, content in files(**changes).items():
        (folder / name.rpartition("/")[2]).write_bytes(content)
    return gpuio.load("frms6", path=folder / path.rpartition("/")[2], enable_offset_correction=enable_offset_correction, device="cpu")


# -- the text file ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "message"), [
    (b"", r"has no section \[measurementInfo\]"),
    (b"[other]\r\nx = 1\r\n", r"has no section \[measurementInfo\]"),
    (b"\x00\xff[=" * 300, r"has no section \[measurementInfo\]"),
    (hdr().replace(b"=", b" "), "has no stemimagesize"),
    (hdr(stemImageSize=None), r"the section \[measurementInfo\] has no stemimagesize"),
    (hdr(signalFrames=None), "has no signalframes"),
    (hdr(readoutMode=None), "has no readoutmode"),
    (hdr(stemImageSize="3"), "stemimagesize is '3'; expected two positive numbers such as 64x64"),
    (hdr(stemImageSize="0x5"), "stemimagesize is '0x5'"),
    (hdr(stemImageSize="-3x5"), "stemimagesize is '-3x5'"),
    (hdr(stemImageSize="9999999999x1"), "stemimagesize is '9999999999x1'"),
    (hdr(signalFrames="many"), "signalframes is 'many'; expected a positive number"),
    (hdr(signalFrames="0"), "signalframes is '0'"),
    (hdr(signalFrames="-4"), "signalframes is '-4'"),
    (hdr(signalFrames="\xb2"), "signalframes is '\xb2'"),
    (hdr(readoutMode='"full frame"'), "readoutmode is '\"full frame\"'; expected such as"),
    (hdr(binning=3), "a binning of 3; expected 1, 2, 4"),
    (hdr(binning=0), "a binning of 0; expected 1, 2, 4"),
], ids=range(18))
def test_text_files_that_say_too_little_are_refused_by_key_and_value(text, message):
    refused(FormatError, rf"^/data/scan\.hdr: .*{message}", hdr=text)


def test_without_a_text_file_the_error_names_it():
    refused(FormatError, r"^/data/scan_001\.frms6: there is no /data/scan\.hdr", path=FIRST, hdr=None)


def test_files_that_are_not_there_are_errors_of_the_operating_system(tmp_path):
    for name in ("scan.hdr", "scan_001.frms6"):
        with pytest.raises(FileNotFoundError, match=name):
            gpuio.load("frms6", path=tmp_path / name)


def test_files_of_other_names_are_refused():
    others = Files({"/data/scan.frms6": frms6(STORED), "/data/x_1\xb2.frms6": frms6(STORED), "/data/scan.txt": hdr()})
    for path in ("/data/scan.frms6", "/data/x_1\xb2.frms6"):
        with pytest.raises(FormatError, match="does not end in _<number>"):
            parse(others, path)
    with pytest.raises(FormatError, match=r"/data/scan\.txt: expected a \.hdr or \.frms6 file"):
        parse(others, "/data/scan.txt")


# -- missing members -------------------------------------------------------------------------------------------------


def test_a_missing_dark_file_is_said_and_no_other_is_taken_for_it(tmp_path):
    refused(FormatError, r"^/data/scan_000\.frms6: the file of the dark frames is missing; pass enable_offset_correction=False", _000=None)
    ds = loaded(tmp_path, _000=None)
    np.testing.assert_array_equal(ds[0], unfolded(STORED, 1))


@pytest.mark.parametrize(("content", "message"), [
    (b"", "ends after 0 of the 1024 bytes of its header"),
    (frms6(DARK)[:1024 + FRAME - 1], "1147 bytes hold no dark frame of 124 bytes"),
    (frms6(DARK[:0]), "1024 bytes hold no dark frame"),
    (frms6(DARK, version=5), "not a FRMS6 file"),
    (frms6(DARK, lines=5), "the first frame has 5 lines"),
])
def test_a_dark_file_without_use_is_said_and_is_no_obstacle_without_correction(tmp_path, content, message):
    refused(DataSetException, rf"^/data/scan_000\.frms6: .*{message}.*enable_offset_correction=False", _000=content)
    np.testing.assert_array_equal(loaded(tmp_path, _000=content)[0], unfolded(STORED, 1))


def test_a_set_of_dark_frames_only_has_no_signal_frames():
    refused(FormatError, r"^/data/scan\.hdr: no signal frames: there is no file /data/scan_001\.frms6",
            _001=None, _002=None, _003=None, _004=None)


@pytest.mark.parametrize("missing", ["_001", "_002", "_003"])
def test_a_missing_file_in_the_series_is_named(missing):
    refused(FormatError, rf"^/data/scan{missing}\.frms6: this file of the set is missing", **{missing: None})


def test_two_files_of_one_number_are_refused():
    refused(FormatError, r"scan_2\.frms6: has the same number as /data/scan_002\.frms6", _2=frms6(STORED))


def test_missing_files_at_the_end_leave_blanks(tmp_path):
    ds = loaded(tmp_path, _004=None)
    assert ds.notes == ("the .hdr announces 15 signal frames; the files hold 12: the others are blank",)
    expected = unfolded(STORED, 1)
    expected[12:] = 0
    np.testing.assert_array_equal(ds[0], expected)
    np.testing.assert_array_equal(ds.blank()[0], np.arange(15) >= 12)


# -- headers of files and frames -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "error", "message"), [
    (frms6(STORED[:4], lengths=(1000, 64)), FormatError,
     r"not a FRMS6 file: header lengths \(1000, 64\), version \[6\]; expected \(1024, 64\), \[6\]"),
    (frms6(STORED[:4], lengths=(1024, 0)), FormatError, "not a FRMS6 file"),
    (frms6(STORED[:4], version=5), FormatError, r"version \[5\]"),
    (b"\x93NUMPY" + bytes(2000), FormatError, "not a FRMS6 file"),
    (file_header(0, 3) + bytes(5000), FormatError, "frames of 0 x 3 stored pixels; expected an even number of columns, and rows"),
    (file_header(10, 0) + bytes(5000), FormatError, "frames of 10 x 0 stored pixels"),
    (file_header(9, 3) + bytes(5000), FormatError, "frames of 9 x 3 stored pixels"),
    (frms6(random_stored(3, 4, 3, 12)), FormatError, r"frames of 12 x 3 stored pixels; expected 10 x 3, as in .*scan_001"),
    (frms6(random_stored(3, 4, 5, 10)), FormatError, "frames of 10 x 5 stored pixels; expected 10 x 3"),
    (frms6(STORED[:4], lines=2), UnsupportedFeature, "the first frame has 2 lines; expected 3 as in the header of the file"),
], ids=range(10))
def test_headers_that_say_what_they_must_not_are_refused(content, error, message):
    refused(error, rf"^/data/scan_002\.frms6: .*{message}", _002=content)


def test_the_largest_frames_that_a_header_can_tell_of_need_a_file_that_holds_them():
    with pytest.raises(TruncatedFile, match=r"no signal frames: 1 files hold not one whole frame of 8589541444 bytes"):
        parse(Files({HDR: hdr(), FIRST: file_header(65534, 65535, 3) + bytes(5000)}), HDR, enable_offset_correction=False)


def test_frames_without_a_number_of_lines_are_taken_as_the_file_says(tmp_path):
    ds = loaded(tmp_path, _002=frms6(STORED[4:8], lines=0))
    np.testing.assert_array_equal(ds[0], unfolded(STORED, 1))


# -- truncation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [1, FRAME - 1, FRAME, FRAME + 1, 3 * FRAME])
@pytest.mark.parametrize("announced", [True, False])
def test_whole_frames_of_a_truncated_file_are_read_and_the_rest_is_blank(tmp_path, missing, announced):
    last = frms6(STORED[12:], None if announced else 0)
    kept = max(0, 3 * FRAME - missing) // FRAME
    ds = loaded(tmp_path, _004=last[:len(last) - missing])
    expected = unfolded(STORED, 1)
    expected[12 + kept:] = 0
    np.testing.assert_array_equal(ds[0], expected)
    np.testing.assert_array_equal(ds.blank()[0], np.arange(15) >= 12 + kept)
    assert any(f"the files hold {12 + kept}: the others are blank" in note for note in ds.notes)
    assert any(path.name in note for note in ds.notes for path in tmp_path.glob("scan_004*")) == (announced or missing % FRAME != 0)


def test_frames_keep_their_place_behind_a_file_that_is_cut_short(tmp_path):
    ds = loaded(tmp_path, _002=frms6(STORED[4:8])[:-FRAME - 5])
    expected = unfolded(STORED, 1)
    expected[6:8] = 0
    np.testing.assert_array_equal(ds[0], expected)
    assert any("is cut short: the header announces 4 frames, 2 are there" in note for note in ds.notes)
    for tile in ds.tiles():
        np.testing.assert_array_equal(tile.data, expected[tile.tile_slice.get(nav_only=True)])


def test_what_follows_the_announced_frames_is_left_out(tmp_path):
    ds = loaded(tmp_path, _002=frms6(STORED[4:8]) + frms6(STORED[:2])[1024:] + b"tail")
    np.testing.assert_array_equal(ds[0], unfolded(STORED, 1))
    assert any("scan_002.frms6: 2 frames and 4 bytes after 4 whole frames are left out" in note for note in ds.notes)


def test_more_frames_than_the_text_file_announces_are_left_out(tmp_path):
    ds = loaded(tmp_path, hdr=hdr((2, 5), 10, window="6 x 5"))
    assert ds.image_count == 10 and ds.notes == ("the .hdr announces 10 signal frames; the files hold 15: what is beyond is left out",)
    np.testing.assert_array_equal(ds[:], unfolded(STORED, 1)[:10].reshape(2, 5, 6, 5))


def test_numbers_that_do_not_agree_are_noted():
    layout = parse(files(hdr=hdr((4, 5), 15, window="264 x 264")), HDR)
    assert layout.nav_shape == (4, 5) and layout.image_count == 15
    assert layout.notes == ("the .hdr announces a window of 264 x 264 pixels; frames with a binning of 1 have 6 x 5",
                            "the .hdr announces 4 x 5 scan positions and 15 signal frames")


def test_every_prefix_of_a_file_gives_its_whole_frames_or_one_clear_error():
    whole = frms6(STORED[:4])
    alone = {HDR: hdr((1, 4), 4, window="6 x 5"), "/data/scan_000.frms6": frms6(DARK)}
    for n in range(len(whole) + 1):
        source = Files({**alone, FIRST: whole[:n]})
        kept = max(0, n - 1024) // FRAME
        if kept == 0:
            with pytest.raises(TruncatedFile, match="^/data/scan_001"):
                parse(source, HDR)
        else:
            layout = parse(source, HDR)
            assert [(f.start_idx, f.end_idx) for f in layout.parts[0]] == [(0, kept)]
            assert len(layout.notes) == (0 if n == len(whole) else 2)


def test_every_prefix_of_the_text_file_is_refused_or_says_what_the_whole_says():
    whole = hdr((1, 15), 15, window="6 x 5")
    reference = parse(files(hdr=whole), HDR)
    understood = 0
    for n in range(len(whole)):
        try:
            layout = parse(files(hdr=whole[:n]), HDR)
        except FormatError as error:
            assert str(error).startswith(HDR) and "\n" not in str(error)
        else:
            understood += 1
            assert layout.sig_shape == reference.sig_shape
            assert layout.image_count == reference.image_count
    assert understood < 12      # the last line alone may be cut: its numbers are then those that are left


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([HDR, FIRST, LAST, "/data/scan_000.frms6"]),
       st.lists(st.tuples(st.integers(0, 1100), st.sampled_from([b"\0", b"\1", b"\xff", b"\xff\xff\xff\xff", b"9", b"x", b"[", b"\n"])),
                min_size=1, max_size=6))
def test_damaged_headers_give_a_layout_inside_the_files_or_an_error(path, damage):
    source = files()
    content = bytearray(source[path])
    for at, new in damage:
        at %= len(content)
        content[at:at + len(new)] = new[:len(content) - at]
    source[path] = bytes(content)
    try:
        layout = parse(source, HDR)
    except DataSetException as problem:
        assert "\n" not in str(problem)
    else:
        for each in (layout, layout.dark):
            for file in each.parts[0]:
                assert file.file_header + file.num_frames * file.stride <= len(source[file.path])


def test_a_file_that_shrinks_after_it_was_opened_is_an_error_at_its_frames(tmp_path):
    ds = loaded(tmp_path)
    path = tmp_path / "scan_002.frms6"
    path.write_bytes(path.read_bytes()[:-FRAME])
    np.testing.assert_array_equal(ds[0, :4], unfolded(STORED, 1)[:4])
    with pytest.raises((gpuio.ReadError, DataSetException), match=r"scan_002\.frms6"):
        _ = ds[0, 4:8]


def test_frame_headers_of_other_meaning_do_not_matter(tmp_path):
    garbage = np.random.default_rng(5).integers(0, 256, 24, dtype="u1").tobytes()
    content = file_header(10, 3, 4) + b"".join(garbage + frame_header(lines=3)[24:] + frame.tobytes() for frame in STORED[4:8])
    np.testing.assert_array_equal(loaded(tmp_path, _002=content)[0], unfolded(STORED, 1))
