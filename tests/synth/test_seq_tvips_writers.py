"""Writers of SEQ and TVIPS: every byte that means something, by hand; what they refuse; nothing half written."""

from __future__ import annotations

import os
import struct

import numpy as np
import pytest

from gpuio import synth
from gpuio.errors import DataSetException, ShapeError
from gpuio.synth import seq, tvips
from tests.formats.items import random_items

NAV, SIG = (3, 5), (7, 11)
N = 15


def frames(dtype="u2", seed=1):
    return random_items(seed, (N, *SIG), dtype)


def write(format, path, array, **options):
    return synth.write(format, path, iter(np.split(array, [4, 5])), nav_shape=NAV, sig_shape=SIG, **options)


# -- SEQ ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [8, 16, 32])
@pytest.mark.parametrize(("version", "begins", "footer"), [(5, 8192, 8), (5, 8192, 100), (4, 1024, 8)])
@pytest.mark.parametrize("chunk_bytes", [1, 400, 1 << 20])
def test_a_sequence_byte_by_byte(tmp_path, monkeypatch, depth, version, begins, footer, chunk_bytes):
    monkeypatch.setattr(seq, "CHUNK_BYTES", chunk_bytes)
    array = frames(f"u{depth // 8}")
    (path,) = write("seq", tmp_path / "a.seq", array, depth=depth, version=version, footer_bytes=footer, frame_rate=1250.0)
    blob = (tmp_path / "a.seq").read_bytes()
    assert path == str(tmp_path / "a.seq")
    assert blob[:24] == b"\xed\xfe\0\0N\0o\0r\0p\0i\0x\0 \0s\0e\0q\0"
    assert struct.unpack_from("<ii", blob, 28) == (version, 1024)
    size, stride = array[0].nbytes, array[0].nbytes + footer
    assert struct.unpack_from("<9Id", blob, 548) == (11, 7, depth, depth, size, 100, N, 0, stride, 1250.0)
    assert struct.unpack_from("<I", blob, 620) == (0,)
    assert len(blob) == begins + N * stride
    for i in range(N):
        frame = blob[begins + i * stride:begins + (i + 1) * stride]
        assert frame[:size] == array[i].tobytes()
        seconds, milliseconds, microseconds = struct.unpack_from("<IHH", frame, size)
        expected = 1704067200_000_000 + 800 * i
        found = seconds * 1_000_000 + milliseconds * 1000 + (microseconds if version >= 5 else expected % 1000)
        assert found == expected
        assert not any(frame[size + 8:])


def test_frames_lie_on_8_kib_by_default(tmp_path):
    write("seq", tmp_path / "a.seq", frames())
    assert os.path.getsize(tmp_path / "a.seq") == (1 + N) * 8192


@pytest.mark.parametrize("short_names", [False, True])
def test_files_beside_a_sequence(tmp_path, short_names):
    dark, gain = np.random.default_rng(2).normal(size=(2, *SIG))
    paths = write("seq", tmp_path / "a.seq", frames(), dark=dark, gain=gain, defects=[{"Rows": "1-2"}, {"Row": "3", "Column": '"'}],
                  offset=(6, 10), binning=2, short_names=short_names)
    stem = str(tmp_path / ("a" if short_names else "a.seq"))
    assert paths == [str(tmp_path / "a.seq"), f"{stem}.dark.mrc", f"{stem}.gain.mrc", f"{stem}.metadata", f"{stem}.Config.Metadata.xml"]
    for path, image in zip(paths[1:3], (dark, gain), strict=True):
        with open(path, "rb") as file:
            blob = file.read()
        assert struct.unpack_from("<4i", blob) == (11, 7, 1, 2)
        assert blob[208:214] == b"MAP \x44\x44"
        assert blob[1024:] == image.astype("<f4").tobytes()
    with open(paths[3], "rb") as file:
        assert struct.unpack_from("<7i", file.read(), 282) == (327, 1, 22, 14, 10, 6, 2)
    with open(paths[4], encoding="utf-8") as file:
        assert file.read() == (
            '<?xml version="1.0" encoding="UTF-8"?>\n<Configuration>\n  <BadPixelMap Rows="10" Columns="16" Binning="2">\n'
            '    <Defect Rows="1-2"/>\n    <Defect Row="3" Column=\'"\'/>\n  </BadPixelMap>\n</Configuration>\n')


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"depth": 12}, DataSetException, "depth is 12; expected one of 8, 16, 32"),
    ({"depth": 8}, DataSetException, "cannot be written as uint8"),
    ({"footer_bytes": 7}, ShapeError, "footer_bytes is 7; expected at least 8"),
    ({"footer_bytes": 9}, ShapeError, "whole pixels of 2 bytes"),
    ({"version": 4, "footer_bytes": 4}, ShapeError, "expected at least 6"),
    ({"dark": np.zeros((11, 7))}, ShapeError, r"dark has shape \(11, 7\); expected \(7, 11\)"),
    ({"gain": np.zeros(77)}, ShapeError, "gain has shape"),
])
def test_sequences_that_cannot_be_written_are_refused_and_nothing_is_left(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        write("seq", tmp_path / "a.seq", frames(), **options)
    assert os.listdir(tmp_path) == []


# -- TVIPS -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize(("options", "size"), [({}, 108), ({"frame_header_bytes": 60}, 60), ({"frame_header_bytes": 13}, 13),
                                               ({"version": 1}, 12), ({"frame_header_bytes": 200}, 200)])
@pytest.mark.parametrize("chunk_bytes", [1, 700, 1 << 20])
def test_a_recording_byte_by_byte(tmp_path, monkeypatch, bits, options, size, chunk_bytes):
    monkeypatch.setattr(tvips, "CHUNK_BYTES", chunk_bytes)
    array = frames(f"u{bits // 8}")
    paths = write("tvips", tmp_path / "a.tvips", array, bits=bits, idle_before=3, idle_after=2, frames_per_file=6, dwell_time_ms=700,
                  **options)
    assert paths == [str(tmp_path / f"a_{i:03d}.tvips") for i in range(4)]
    blob = b""
    for i, path in enumerate(paths):
        with open(path, "rb") as file:
            content = file.read()
        assert len(content) == 256 * (i == 0) + (6 if i < 3 else 2) * (size + array[0].nbytes)
        blob += content
    assert struct.unpack_from("<5i", blob) == (256, options.get("version", 2), 11, 7, bits)
    assert struct.unpack_from("<i", blob, 48) == (0 if "version" in options else size,)
    recorded = np.concatenate([np.zeros((3, *SIG), array.dtype), array, np.zeros((2, *SIG), array.dtype)])
    for k in range(20):
        frame = blob[256 + k * (size + array[0].nbytes):][:size + array[0].nbytes]
        assert frame[size:] == recorded[k].tobytes()
        number, seconds, milliseconds = struct.unpack_from("<3I", frame)
        assert (number, seconds * 1000 + milliseconds) == (k, 1704067200_000 + 700 * k)
        assert milliseconds < 1000
        position = k - 3 if 3 <= k < 18 else None
        if size >= 52:
            assert struct.unpack_from("<I", frame, 48) == (0 if position is None else position + 1,)
        if size >= 76:
            assert struct.unpack_from("<2f", frame, 68) == ((0, 0) if position is None else (position % 5, position // 5))


def test_a_number_at_the_end_of_the_name_is_not_doubled(tmp_path):
    assert write("tvips", tmp_path / "a_000.tvips", frames()) == [str(tmp_path / "a_000.tvips")]
    assert write("tvips", tmp_path / "b_12.tvips", frames()) == [str(tmp_path / "b_12_000.tvips")]


def test_headers_may_say_nothing_of_the_scan(tmp_path):
    (path,) = write("tvips", tmp_path / "a.tvips", frames(), scan_headers=False)
    with open(path, "rb") as file:
        headers = np.frombuffer(file.read()[256:], "u1").reshape(N, 108 + 154)[:, :108]
    assert not headers[:, 48:].any()


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"bits": 12}, DataSetException, "12 bits a pixel"), ({"version": 3}, DataSetException, "version 3"),
    ({"frame_header_bytes": 11}, DataSetException, "frame headers of 11 bytes"),
    ({"bits": 8}, DataSetException, "cannot be written as uint8"),
    ({"idle_before": -1}, ShapeError, "idle_before is -1"), ({"frames_per_file": 0}, ShapeError, "frames_per_file 0"),
    ({"frames_per_file": 1, "idle_after": 1000}, DataSetException, "would make 1015 files; expected at most 1000"),
])
def test_recordings_that_cannot_be_written_are_refused_and_nothing_is_left(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        write("tvips", tmp_path / "a.tvips", frames(), **options)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("format", ["seq", "tvips"])
def test_frames_that_were_not_promised_are_refused_and_nothing_is_left(tmp_path, format):
    for array in (frames()[:14], frames()[:, 1:], np.concatenate([frames(), frames()])):
        with pytest.raises(ShapeError):
            write(format, tmp_path / f"a.{format}", array)
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("format", ["seq", "tvips"])
def test_sig_shapes_have_two_axes(tmp_path, format):
    with pytest.raises(ShapeError, match=r"sig_shape is \(77,\); expected \(height, width\)"):
        synth.write(format, tmp_path / f"a.{format}", [frames().reshape(N, 77)], nav_shape=NAV, sig_shape=(77,))


@pytest.mark.parametrize("format", ["seq", "tvips"])
def test_progress_counts_the_frames_of_the_scan(tmp_path, format):
    seen = []
    write(format, tmp_path / f"a.{format}", frames(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, N), (5, N), (N, N)]
