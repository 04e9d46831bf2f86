"""Counters of other formats than MIB, and blocks of K2IS sectors."""

from __future__ import annotations

import os
import pathlib

import numpy as np
import pytest

import gpuio
from gpuio import synth
from gpuio.check import check
from gpuio.findings import FrameRecords
from tests.check.sets import SIG, STRIDE, N, overwrite, random_frames, told, write_mib


def test_tvips_frames_lost_inside_a_file_are_found(tmp_path: pathlib.Path) -> None:
    synth.write("tvips", tmp_path / "a.tvips", [random_frames(n=35)], nav_shape=(5, 7), sig_shape=SIG, frames_per_file=20)
    path, stride = tmp_path / "a_000.tvips", 108 + 154
    data = path.read_bytes()
    path.write_bytes(data[:256 + 8 * stride] + data[256 + 11 * stride:])
    report = check(tmp_path / "a_001.tvips")
    assert ("error", "a_000.tvips, frame 8") in told(report)


def test_frms6_frames_lost_inside_a_file_are_found(tmp_path: pathlib.Path) -> None:
    paths = synth.write("frms6", tmp_path / "f.hdr", [random_frames(n=35)[:, :6, :10]], nav_shape=(5, 7), sig_shape=(6, 10))
    path = pathlib.Path(next(p for p in paths if p.endswith("_001.frms6")))
    data, stride = path.read_bytes(), 64 + 6 * 10 * 2
    path.write_bytes(data[:1020] + (31).to_bytes(4, "little") + data[1024:1024 + 9 * stride] + data[1024 + 13 * stride:])
    report = check(tmp_path / "f.hdr")
    assert told(report) == [("error", "f_001.frms6, frame 31"), ("error", "f_001.frms6, frame 9")]
    evidence = report.findings[1].evidence
    assert (evidence["found"] - evidence["expected"], evidence["byte"]) == (4, 1024 + 9 * stride)
    assert evidence["seconds_since_frame_before"] == pytest.approx(0.005)


def test_missing_dark_frames_are_named_and_the_scan_still_checked(tmp_path: pathlib.Path) -> None:
    paths = synth.write("frms6", tmp_path / "f.hdr", [random_frames(n=35)[:, :6, :10]], nav_shape=(5, 7), sig_shape=(6, 10))
    os.unlink(next(p for p in paths if p.endswith("_000.frms6")))
    report = check(tmp_path / "f.hdr")
    assert [f.severity for f in report.findings] == ["error"]
    assert "f_000.frms6" in report.findings[0].what + report.findings[0].where
    assert (report.image_count, report.headers_read) == (35, 35)


def test_a_dark_reference_of_another_shape_is_named_and_the_sequence_still_checked(tmp_path: pathlib.Path) -> None:
    frames = random_frames(n=35)
    synth.write("seq", tmp_path / "a.seq", [frames], nav_shape=(5, 7), sig_shape=SIG, dark=np.ones(SIG, np.float32))
    synth.write("seq", tmp_path / "b.seq", [frames[:, :5]], nav_shape=(5, 7), sig_shape=(5, 11))
    dark = next(tmp_path.glob("a*.dark.mrc"))
    dark.rename(tmp_path / dark.name.replace("a.", "b.", 1))
    report = check(tmp_path / "b.seq")
    assert [f.severity for f in report.findings] == ["error"]
    assert "dark" in report.findings[0].what + report.findings[0].where
    assert (report.image_count, report.headers_read) == (35, 35)


def test_parameters_that_do_not_fit_are_the_users_mistake(folder: pathlib.Path) -> None:
    with pytest.raises(gpuio.ShapeError, match="sync_offset"):
        check(folder / "scan.hdr", sync_offset=N)


def test_a_file_that_is_something_else_after_its_start_is_not_read_to_its_end(tmp_path: pathlib.Path) -> None:
    write_mib(tmp_path / "a.mib", np.arange(3) * 1_000_000)
    n_frames = 40_000
    os.truncate(tmp_path / "a.mib", n_frames * STRIDE)          # sparse
    report = check(tmp_path / "a.mib")
    assert 10_000 < report.headers_read < n_frames
    assert len(report.findings) == 21
    assert f"after frame {report.headers_read - 1} were not read" in report.findings[-1].what
    assert report.image_count == n_frames


def test_a_counter_that_does_not_count_is_one_warning(tmp_path: pathlib.Path) -> None:
    paths = synth.write("frms6", tmp_path / "f.hdr", [random_frames(n=35)[:, :6, :10]], nav_shape=(5, 7), sig_shape=(6, 10))
    path = pathlib.Path(next(p for p in paths if p.endswith("_001.frms6")))
    numbers = np.random.default_rng(7).integers(0, 1000, 35)
    for k, number in enumerate(numbers.tolist()):
        overwrite(path, 1024 + k * 184 + 12, number.to_bytes(4, "little"))
    assert told(check(tmp_path / "f.hdr")) == [("warning", "f_001.frms6")]


def test_damage_that_a_format_refuses_to_go_on_with_is_an_error(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> FrameRecords:
        raise gpuio.FormatError(f"{folder / 'scan2.mib'}, byte 77: no frame here")

    monkeypatch.setattr("gpuio.formats.mib.frame_records", refuse)
    report = check(folder / "scan.hdr")
    assert [(f.severity, f.where, f.what) for f in report.findings] == [("error", f"{folder / 'scan2.mib'}, byte 77", "no frame here")]
    assert (report.image_count, report.headers_read) == (N, 0)


BLOCK = 22360


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A scan of 2 x 3 positions with a frame more at either end; its sectors begin and end at different blocks."""
    folder = tmp_path_factory.mktemp("capture")
    frames = np.random.default_rng(11).integers(0, 4096, (6, 1860, 2048)).astype(np.uint16)
    synth.write("k2is", folder / "scan.gtg", [frames], nav_shape=(2, 3), lead=1, trail=1, cut_start=(3, 0, 7, 1, 0, 2, 4, 5),
                cut_end=(0, 5, 0, 9, 1, 0, 0, 2))
    return folder


@pytest.fixture
def damaged(capture: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with the capture, of which ``scan3.bin`` may be changed."""
    for path in capture.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "scan3.bin").unlink()
    (tmp_path / "scan3.bin").write_bytes((capture / "scan3.bin").read_bytes())
    return tmp_path


def test_an_undamaged_capture_gives_no_finding(capture: pathlib.Path) -> None:
    report = check(capture / "scan.gtg")
    assert (report.findings, report.format, len(report.files)) == ((), "k2is", 8)
    assert (report.candidates[0].nav_shape, report.candidates[0].sync_offset) == ((2, 3), 0)
    assert report.candidates[0].reasons[0] == "as the files say"


def test_blocks_that_a_sector_lacks_are_found(damaged: pathlib.Path) -> None:
    path = damaged / "scan3.bin"
    data = path.read_bytes()
    start = 25 + 32 * 2                      # 7 of the first frame's blocks are cut: this is the first block of a frame
    path.write_bytes(data[:(start + 30) * BLOCK] + data[(start + 35) * BLOCK:])
    report = check(damaged / "scan1.bin")
    assert told(report) == [("error", "scan3.bin, frame 2")]
    evidence = report.findings[0].evidence
    assert (evidence["first_frame"], evidence["last_frame"], evidence["blocks"]) == (2, 3, 5)
    assert evidence["block_count"] == 1000 + 32 * 3 + 30


def test_a_block_stored_twice_and_one_without_header_are_found(damaged: pathlib.Path) -> None:
    path = damaged / "scan3.bin"
    data = path.read_bytes()
    data = data[:70 * BLOCK] + data[69 * BLOCK:119 * BLOCK] + b"noise" * 8 + data[119 * BLOCK + 40:]      # block 126 of the recording
    path.write_bytes(data)
    report = check(damaged / "scan.gtg")
    assert told(report) == [("error", "scan3.bin, frame 2"), ("error", "scan3.bin"), ("warning", "scan3.bin")]
    assert [f.evidence["blocks"] for f in report.findings] == [1, 1, 1]
    assert "no valid header" in report.findings[1].what and "repeated" in report.findings[2].what
