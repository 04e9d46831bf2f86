"""FRMS6 files as they are written, against the format's table and formulas."""

from __future__ import annotations

import os

import numpy as np
import pytest

from gpuio import synth
from gpuio.errors import DataSetException, ShapeError
from tests.formats.frms6_files import random_stored, unfolded

NAV = (3, 5)


def write(folder, frames, nav_shape=NAV, **options):
    return synth.write("frms6", folder / "scan.hdr", [frames[:4], frames[4:]], nav_shape=nav_shape, sig_shape=frames.shape[1:], **options)


def content(path):
    with open(path, "rb") as file:
        return file.read()


@pytest.mark.parametrize("binning", [1, 2, 4])
def test_files_hold_headers_and_folded_frames(tmp_path, binning):
    stored = random_stored(1, 15, 3, 10)
    dark = random_stored(2, 5, 3, 10)
    paths = write(tmp_path, unfolded(stored, binning), binning=binning, dark=unfolded(dark, binning), frames_per_file=7,
                  dwell_time_us=400_000)
    assert paths == [str(tmp_path / name) for name in ("scan.hdr", "scan_000.frms6", "scan_001.frms6", "scan_002.frms6", "scan_003.frms6")]
    number = 0
    for path, expected in zip(paths[1:], (dark, stored[:7], stored[7:14], stored[14:]), strict=True):
        raw = content(path)
        assert raw[:8] == b"\0\4\x40\0\0\0\0\6" and raw[8:13] == b"scan\0" and raw[88:92] == b"\x0a\0\3\0"
        assert int.from_bytes(raw[1020:1024], "little") == len(expected)
        frames = np.frombuffer(raw[1024:], "u1").reshape(len(expected), 64 + 60)
        np.testing.assert_array_equal(frames[:, 64:].copy().view("<u2").reshape(expected.shape), expected)
        first = 0 if path == paths[1] else number
        header = frames[:, :64].copy().view("<u4")
        np.testing.assert_array_equal((header[:, 1].astype("i8") - 1704067200) * 1_000_000 + header[:, 2],
                                      400_000 * np.arange(first, first + len(expected)))
        np.testing.assert_array_equal(header[:, 3], np.arange(first, first + len(expected)))
        np.testing.assert_array_equal(header[:, 6], 3 << 16)        # start line 0, lines 3
        number += len(expected) if path != paths[1] else 0


def test_the_text_file_has_two_scan_axes(tmp_path):
    text = content(write(tmp_path, unfolded(random_stored(3, 30), 2), (2, 3, 5), binning=2)[0]).decode()
    assert text.startswith("[measurementInfo]\r\n")
    for line in ("stemImageSize = 6x5", "signalFrames = 30", "darkFrames = 4", 'readoutMode = "bin: 2, windowing: 12 x 5"'):
        assert f"\r\n{line}\r\n" in text


def test_dark_frames_may_be_one_number(tmp_path):
    paths = write(tmp_path, unfolded(random_stored(4, 15), 1), dark=258, dark_frames=3)
    frames = np.frombuffer(content(paths[1])[1024:], "u1").reshape(3, 124)[:, 64:]
    assert (frames.copy().view("<u2") == 258).all()


def test_old_files_do_not_say_how_many_frames_they_hold(tmp_path):
    for path in write(tmp_path, unfolded(random_stored(5, 15), 1), count_in_header=False)[1:]:
        assert content(path)[1020:1024] == bytes(4)


FRAMES = unfolded(random_stored(6, 15), 2)


@pytest.mark.parametrize(("frames", "options", "error", "message"), [
    (unfolded(random_stored(7, 15, 4), 1), {"binning": 2}, DataSetException, "rows that are read out as one differ; expected 2 equal"),
    (FRAMES, {"binning": 3}, DataSetException, "binning is 3; expected one of 1, 2, 4"),
    (FRAMES[:, :9], {}, ShapeError, r"sig_shape is \(9, 5\); expected \(height, width\), the height a multiple of 2"),
    (FRAMES, {"binning": 4}, ShapeError, "the height a multiple of 8"),
    (FRAMES[:14], {}, ShapeError, "there are 14 frames; expected 15"),
    (FRAMES.astype("i4") - 1 - FRAMES.max(), {}, DataSetException, "cannot be written as uint16"),
    (FRAMES, {"frames_per_file": 0}, ShapeError, "frames_per_file is 0"),
    (FRAMES, {"dark": FRAMES[:0]}, ShapeError, "dark frames have shape"),
    (FRAMES, {"dark": FRAMES[:, :4]}, ShapeError, "dark frames have shape"),
    (FRAMES, {"dark": 70000}, DataSetException, "value 70000 cannot be written as uint16"),
])
def test_what_cannot_be_written_is_refused_and_nothing_is_left(tmp_path, frames, options, error, message):
    with pytest.raises(error, match=message):
        write(tmp_path, frames, **options)
    assert os.listdir(tmp_path) == []
