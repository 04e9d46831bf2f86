"""Undamaged sets of any format give no finding; files that are cut, missing, foreign or empty are found and named."""

from __future__ import annotations

import os
import pathlib

import numpy as np
import pytest

from gpuio import synth
from gpuio.check import check
from tests.check.sets import HEADER, NAV, PER_FILE, SIG, STRIDE, N, random_frames, told


@pytest.mark.parametrize("name", ["scan.hdr", "scan1.mib", "scan3.mib"])
def test_an_undamaged_series_gives_no_finding_and_its_scan_first(folder: pathlib.Path, name: str) -> None:
    report = check(folder / name)
    assert (report.findings, report.notes, report.is_clean) == ((), (), True)
    assert (report.format, report.image_count, report.headers_read, len(report.files)) == ("mib", N, N, 4)
    best = report.candidates[0]
    assert (best.nav_shape, best.sync_offset) == (NAV, 0)
    assert best.reasons == ("as the files say", "a pause of 400 µs before 12 of 12 lines of 17 frames", "221 = 13 x 17 frames")


@pytest.mark.parametrize("kind,layout,sig", [
    ("R1", "2x2", (128, 128)), ("R12", "1x1", (8, 64)), ("R24", "1x1", (5, 64)), ("U08", "Nx1", SIG)])
def test_undamaged_sets_of_any_kind_give_no_finding(tmp_path: pathlib.Path, kind: str, layout: str, sig: tuple[int, int]) -> None:
    frames = np.random.default_rng(1).integers(0, 2, (35, *sig)).astype(np.uint8)
    synth.write("mib", tmp_path / "a.mib", [frames], nav_shape=(5, 7), sig_shape=sig, kind=kind, layout=layout)
    report = check(tmp_path / "a.mib")
    assert (report.findings, report.headers_read) == ((), 35)


def test_undamaged_files_of_other_formats_give_no_finding(tmp_path: pathlib.Path) -> None:
    np.save(tmp_path / "c.npy", random_frames().reshape(NAV + SIG))
    np.save(tmp_path / "fortran.npy", np.asfortranarray(random_frames().reshape(NAV + SIG)))
    (tmp_path / "raw.bin").write_bytes(random_frames().tobytes())
    synth.write("frms6", tmp_path / "f.hdr", [random_frames(n=35)[:, :6, :10]], nav_shape=(5, 7), sig_shape=(6, 10))
    for name, arguments in (("c.npy", {}), ("fortran.npy", {}), ("f.hdr", {}), ("raw.bin", dict(format="raw", dtype="u2", sig_shape=SIG))):
        report = check(tmp_path / name, **arguments)
        assert (name, report.findings) == (name, ())
        assert report.image_count == (35 if name == "f.hdr" else N)


@pytest.mark.parametrize("name", [name for name in synth.WRITERS if name not in ("k2is", "raw")])
def test_undamaged_sets_of_every_writer_give_no_finding_and_cut_ones_an_error(tmp_path: pathlib.Path, name: str) -> None:
    sig = (128, 128) if name == "empad" else (12, 12)
    frames = np.random.default_rng(6).integers(0, 200, (35, *sig)).astype(np.float32 if name == "empad" else np.uint16)
    path = tmp_path / {"empad": "a.xml", "frms6": "a.hdr"}.get(name, f"a.{name}")
    paths = synth.write(name, path, [frames.astype(np.uint8) if name == "blo" else frames], nav_shape=(5, 7), sig_shape=sig)
    report = check(paths[0])
    assert (report.format, report.findings, report.image_count) == (name, (), 35)
    largest = max(paths, key=os.path.getsize)
    os.truncate(largest, os.path.getsize(largest) - frames[0].nbytes // 2)
    damaged = check(paths[0])
    assert not damaged.is_clean
    assert os.path.basename(largest) in str(damaged.findings)


@pytest.mark.parametrize("dwell", [1, 7])
def test_frames_before_and_after_a_scan_are_no_finding(tmp_path: pathlib.Path, dwell: int) -> None:
    paths = synth.write("tvips", tmp_path / "a.tvips", [random_frames(n=35)], nav_shape=(5, 7), sig_shape=SIG, idle_before=4, idle_after=9,
                        dwell_time_ms=dwell)
    report = check(paths[0])
    assert (report.findings, report.image_count, report.headers_read) == ((), 48, 48)
    assert ((report.candidates[0].nav_shape), report.candidates[0].sync_offset) == ((5, 7), 4)


def test_a_file_that_ends_inside_a_frame_is_named(folder: pathlib.Path) -> None:
    os.truncate(folder / "scan4.mib", 37 * STRIDE + 500)
    report = check(folder / "scan.hdr")
    assert told(report) == [("error", "scan4.mib"), ("error", "scan1.mib")]
    assert "500 of 538 bytes of frame 220" in report.findings[0].what
    assert report.findings[0].evidence == {"bytes_left": 500, "frame_bytes": STRIDE, "frame": 220}
    assert report.findings[1].evidence == {"nav_shape": NAV, "positions": 221, "frames": 220}
    assert not report.is_clean


def test_a_missing_member_is_a_hole(folder: pathlib.Path) -> None:
    (folder / "scan2.mib").unlink()
    report = check(folder / "scan1.mib")
    assert told(report) == [("error", "scan1.mib, frame 61")]
    assert "frames 61 to 121 are in no file, between it and scan3.mib" in report.findings[0].what
    assert report.findings[0].evidence == {"first_frame": 61, "last_frame": 121, "frames": 61}
    assert report.headers_read == N - 61
    assert "a pause of 400 µs before 8 of 8 lines of 17 frames" in report.candidates[0].reasons


def test_a_missing_first_member_shows_in_the_sequence_numbers(folder: pathlib.Path) -> None:
    (folder / "scan1.mib").unlink()
    (folder / "scan.hdr").unlink()
    report = check(folder / "scan2.mib")
    assert told(report) == [("warning", "scan2.mib, frame 0")]
    assert report.findings[0].evidence == {"found": 62, "expected": 1}
    assert report.is_clean                  # what there is is whole


def test_a_missing_last_member_shows_in_the_hdr(folder: pathlib.Path) -> None:
    (folder / "scan4.mib").unlink()
    report = check(folder / "scan1.mib")
    assert told(report) == [("error", "scan1.mib")]
    assert report.findings[0].evidence == {"nav_shape": NAV, "positions": 221, "frames": 183}


def test_more_frames_than_the_hdr_announces_are_a_warning(folder: pathlib.Path) -> None:
    hdr = (folder / "scan.hdr").read_bytes()
    (folder / "scan.hdr").write_bytes(hdr.replace(b"ScanY:\t13", b"ScanY:\t12"))
    report = check(folder / "scan.hdr")
    assert told(report) == [("warning", "scan1.mib")]
    assert "204 positions; there are 221 frames for it, 17 too many" in report.findings[0].what


@pytest.mark.parametrize("size", [0, 40, HEADER + 5])
def test_a_member_without_a_frame_is_named(folder: pathlib.Path, size: int) -> None:
    (folder / "scan5.mib").write_bytes((folder / "scan1.mib").read_bytes()[:size])
    report = check(folder / "scan.hdr")
    assert told(report) == [("error", "scan5.mib")]
    assert f"holds {size} bytes, no whole frame of {STRIDE}" in report.findings[0].what


def test_a_foreign_member_is_named_and_the_file_itself_still_checked(folder: pathlib.Path) -> None:
    foreign = random_frames(n=15).astype(np.uint32)
    synth.write("mib", folder / "scan9.mib", [foreign], nav_shape=(3, 5), sig_shape=SIG, kind="U32", hdr=False)
    report = check(folder / "scan2.mib")
    assert told(report)[0][0] == "error" and "scan9.mib" in report.findings[0].where + report.findings[0].what
    assert "'U32'" in report.findings[0].what
    assert [os.path.basename(f) for f in report.files] == ["scan2.mib"]
    assert report.headers_read == PER_FILE
    assert "first sequence number is 62" in str(report.findings)


def test_a_file_that_cannot_be_opened_is_an_error(folder: pathlib.Path) -> None:
    os.truncate(folder / "scan1.mib", STRIDE - 1)
    report = check(folder / "scan1.mib", disable_glob=True)
    assert told(report) == [("error", "scan1.mib")]
    assert (report.is_clean, report.files, report.image_count, report.candidates) == (False, (), None, ())


def test_a_truncated_npy_file_is_an_error_and_its_whole_frames_are_counted(tmp_path: pathlib.Path) -> None:
    np.save(tmp_path / "a.npy", random_frames().reshape(NAV + SIG))
    os.truncate(tmp_path / "a.npy", 128 + 200 * 2 * 77 + 9)
    report = check(tmp_path / "a.npy")
    assert told(report) == [("error", "a.npy")] * 2
    assert "holds 30809 bytes of pixels; expected 34034" in report.findings[0].what
    assert report.findings[1].evidence == {"nav_shape": NAV, "positions": 221, "frames": 200}
    assert report.image_count == 200


def test_bytes_after_an_npy_array_are_a_warning(tmp_path: pathlib.Path) -> None:
    np.save(tmp_path / "a.npy", random_frames().reshape(NAV + SIG))
    with open(tmp_path / "a.npy", "ab") as file:
        file.write(b"seventeen bytes..")
    report = check(tmp_path / "a.npy")
    assert [(f.severity, f.evidence) for f in report.findings] == [("warning", {"bytes_left": 17})]


def test_a_raw_file_that_ends_inside_a_frame_is_an_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.bin").write_bytes(random_frames().tobytes()[:-1])
    report = check(tmp_path / "a.bin", "raw", dtype="<u2", sig_shape=SIG)
    assert told(report) == [("error", "a.bin")]
    assert report.findings[0].evidence == {"bytes_left": 153, "frame_bytes": 154, "frame": 220}


def test_what_opening_warns_of_is_a_warning(tmp_path: pathlib.Path) -> None:
    np.save(tmp_path / "a.npy", random_frames()[:5])
    os.truncate(tmp_path / "a.npy", 5 * 154)
    report = check(tmp_path / "a.npy", "raw", dtype="<u2", sig_shape=SIG)
    assert told(report) == [("warning", "a.npy")]
    assert report.findings[0].what.startswith("looks like a NumPy file")


def test_frms6_frames_that_are_not_there_are_named(tmp_path: pathlib.Path) -> None:
    paths = synth.write("frms6", tmp_path / "f.hdr", [random_frames(n=35)[:, :6, :10]], nav_shape=(5, 7), sig_shape=(6, 10))
    last = sorted(p for p in paths if p.endswith(".frms6"))[-1]
    os.truncate(last, os.path.getsize(last) - 7)
    report = check(tmp_path / "f.hdr")
    assert told(report) == [("error", os.path.basename(last)), ("error", os.path.basename(last) + ", frame 34")]
