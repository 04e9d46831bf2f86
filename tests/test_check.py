"""`gpuio.check`: undamaged sets give no finding, and every kind of damage is found and named with its file and frame.

Sets are written whole and then damaged by hand, so that where the damage is is known.
"""

from __future__ import annotations

import os
import pathlib

import numpy as np
import pytest

import gpuio
from gpuio import synth
from gpuio.candidates import find_candidates, find_flyback, find_lines
from gpuio.check import Report, check
from gpuio.findings import UNKNOWN, FrameRecords
from gpuio.formats import _mib_records
from gpuio.formats._mib_header import parse_header
from gpuio.formats._mib_times import parse_utc
from gpuio.source import HostFiles
from tests.formats.mib_files import header

NAV, SIG = (13, 17), (7, 11)
N = NAV[0] * NAV[1]
PER_FILE = 61
HEADER = 384
STRIDE = HEADER + 2 * SIG[0] * SIG[1]


def random_frames(seed: int = 5, n: int = N) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 4096, (n, *SIG)).astype(np.uint16)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """scan.hdr and scan1.mib to scan4.mib with 61, 61, 61 and 38 frames, and a pause after each line."""
    synth.write("mib", tmp_path / "scan.mib", [random_frames()], nav_shape=NAV, sig_shape=SIG, kind="U16", frames_per_file=PER_FILE,
                line_pause_s=0.0004)
    return tmp_path


def told(report: Report) -> list[tuple[str, str]]:
    """Severity, and name of the file with the frame, of each finding."""
    return [(f.severity, os.path.basename(f.where)) for f in report.findings]


def overwrite(path: pathlib.Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def cut_out(path: pathlib.Path, start: int, stop: int) -> None:
    """Take frames of a file away, so that those behind move up."""
    data = path.read_bytes()
    path.write_bytes(data[:start * STRIDE] + data[stop * STRIDE:])


# -- undamaged ---------------------------------------------------------------------------------------------------------


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


def test_tvips_frames_lost_inside_a_file_are_found(tmp_path: pathlib.Path) -> None:
    synth.write("tvips", tmp_path / "a.tvips", [random_frames(n=35)], nav_shape=(5, 7), sig_shape=SIG, frames_per_file=20)
    path, stride = tmp_path / "a_000.tvips", 108 + 154
    data = path.read_bytes()
    path.write_bytes(data[:256 + 8 * stride] + data[256 + 11 * stride:])
    report = check(tmp_path / "a_001.tvips")
    assert ("error", "a_000.tvips, frame 8") in told(report)


# -- files -------------------------------------------------------------------------------------------------------------


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


# -- headers of frames -------------------------------------------------------------------------------------------------


def test_frames_lost_inside_a_file_are_found_at_the_frame_after_them(folder: pathlib.Path) -> None:
    cut_out(folder / "scan4.mib", 11, 14)
    (folder / "scan.hdr").unlink()
    report = check(folder / "scan1.mib")
    assert told(report) == [("error", "scan4.mib, frame 194")]
    found = report.findings[0]
    assert "3 frames are missing" in found.what
    seconds = found.evidence["seconds_since_frame_before"]
    assert found.evidence == {"frame": 194, "byte": 11 * STRIDE, "found": 198, "expected": 195, "seconds_since_frame_before": seconds}
    assert seconds == pytest.approx(0.004)


def test_frames_stored_twice_are_found(folder: pathlib.Path) -> None:
    data = (folder / "scan4.mib").read_bytes()
    (folder / "scan4.mib").write_bytes(data[:9 * STRIDE] + data[4 * STRIDE:])
    report = check(folder / "scan4.mib", disable_glob=True)
    assert ("error", "scan4.mib, frame 9") in told(report)
    found = next(f for f in report.findings if f.where.endswith("frame 9"))
    assert (found.evidence["found"], found.evidence["expected"]) == (188, 193)
    assert "repeated" in found.what


def test_one_damaged_sequence_number_is_one_finding(folder: pathlib.Path) -> None:
    overwrite(folder / "scan2.mib", 23 * STRIDE + 4, b"000019")
    report = check(folder / "scan.hdr")
    assert told(report) == [("error", "scan2.mib, frame 84")]
    assert (report.findings[0].evidence["found"], report.findings[0].evidence["expected"]) == (19, 85)


def test_a_header_that_is_none_is_found(folder: pathlib.Path) -> None:
    overwrite(folder / "scan3.mib", 60 * STRIDE, np.random.default_rng(8).bytes(HEADER))
    report = check(folder / "scan.hdr")
    assert told(report) == [("error", "scan3.mib, frame 182")]
    assert "not the header of a MIB frame" in report.findings[0].what
    assert report.findings[0].evidence == {"frame": 182, "byte": 60 * STRIDE}


def test_a_frame_of_another_form_is_found(folder: pathlib.Path) -> None:
    data = (folder / "scan1.mib").read_bytes()[7 * STRIDE:8 * STRIDE]
    overwrite(folder / "scan1.mib", 7 * STRIDE, data.replace(b",U16,", b",U08,"))
    report = check(folder / "scan.hdr")
    assert told(report) == [("error", "scan1.mib, frame 7")]
    assert "pixel type 'U08'; expected 'U16'" in report.findings[0].what


def test_much_damage_is_told_in_few_findings(folder: pathlib.Path) -> None:
    for k in range(5, 61, 2):
        overwrite(folder / "scan2.mib", k * STRIDE, b"no header")
    report = check(folder / "scan.hdr")
    assert len(report.findings) == 21
    assert told(report)[:2] == [("error", "scan2.mib, frame 66"), ("error", "scan2.mib, frame 68")]
    assert report.findings[-1].evidence == {"frames": 8}


def write_mib(path: pathlib.Path, times_ns: np.ndarray, exposures_ns: np.ndarray | None = None) -> None:
    """A file of frames that were taken at these times after noon."""
    frames = random_frames(n=len(times_ns))
    noon = np.datetime64("2023-03-05T12:00:00", "ns")
    blobs = []
    for i, time in enumerate(times_ns):
        blob = header(i + 1, HEADER, width=SIG[1], height=SIG[0], dacs=False, time=str(noon + np.timedelta64(int(time), "ns")))
        if exposures_ns is not None:
            blob = blob.replace(b",1000000ns,", f",{exposures_ns[i]}ns,".encode())[:HEADER].ljust(HEADER, b"\0")
        blobs.append(blob + frames[i].astype(">u2").tobytes())
    path.write_bytes(b"".join(blobs))


def steps(n: int, step: int = 1_000_000) -> np.ndarray:
    """Distances of n frames in ns, with a jitter of 50 ns."""
    return np.full(n, step) + np.random.default_rng(3).integers(-50, 51, n)


def test_a_gap_in_time_is_found(tmp_path: pathlib.Path) -> None:
    distance = steps(83)
    distance[29] += 7_000_000
    write_mib(tmp_path / "a.mib", np.cumsum(distance))
    report = check(tmp_path / "a.mib")
    assert told(report) == [("warning", "a.mib, frame 29")]
    assert report.findings[0].evidence["frames_in_that_time"] == 7
    assert report.is_clean


def test_a_gap_in_time_between_the_pauses_of_lines_is_found(tmp_path: pathlib.Path) -> None:
    distance = steps(13 * 19)
    distance[::19] += 5_000_000
    distance[19 * 6] += 20_000_000          # a pause that is far longer than others
    distance[100] += 600_000                # one inside a line
    write_mib(tmp_path / "a.mib", np.cumsum(distance))
    assert told(check(tmp_path / "a.mib")) == [("warning", "a.mib, frame 100"), ("warning", "a.mib, frame 114")]


def test_times_that_go_back_are_found(tmp_path: pathlib.Path) -> None:
    times = np.cumsum(steps(60))
    times[31] -= 4_000_000
    write_mib(tmp_path / "a.mib", times)
    report = check(tmp_path / "a.mib")
    assert ("warning", "a.mib, frame 31") in told(report)
    assert report.findings[0].evidence["seconds_since_frame_before"] == pytest.approx(-0.003, abs=1e-6)


def test_irregular_times_are_not_judged(tmp_path: pathlib.Path) -> None:
    write_mib(tmp_path / "a.mib", np.cumsum(np.random.default_rng(4).integers(1_000_000, 90_000_000, 60)))
    assert check(tmp_path / "a.mib").findings == ()


@pytest.mark.parametrize("first", [1, 999_970])         # numbers get longer in the middle
def test_records_read_in_columns_are_those_of_each_header(tmp_path: pathlib.Path, first: int) -> None:
    synth.write("mib", tmp_path / "a.mib", [random_frames()], nav_shape=NAV, sig_shape=SIG, kind="U16", first_sequence=first,
                line_pause_s=3e-7)
    for k, text in ((40, b"2024-13-41T"), (41, b"2024-01-02T"), (43, b"never")):
        data = bytearray((tmp_path / "a.mib").read_bytes())
        at = data.index(b"MQ1A,", k * STRIDE) + 5
        data[at:at + len(text)] = text
        (tmp_path / "a.mib").write_bytes(data)
    layout = gpuio.load("mib", path=str(tmp_path / "a.mib"), device="cpu").layout
    done: list[tuple[int, int]] = []
    records = _mib_records.frame_records(HostFiles(), layout, lambda *state: done.append(state))
    data = (tmp_path / "a.mib").read_bytes()
    headers = [parse_header(data[k * STRIDE:], "a") for k in range(N)]
    times = [parse_utc(h.time_utc) for h in headers]
    assert records.frames.tolist() == list(range(N))
    assert records.counter.tolist() == [h.sequence for h in headers] == list(range(first, first + N))
    assert records.time_ns.tolist() == [UNKNOWN if t is None else t for t in times]
    assert times[40] is None and times[43] is None and times[41] is not None
    assert set(records.exposure_ns.tolist()) == {1_000_000}
    assert records.findings == () and done[-1] == (N, N)


def test_damage_anywhere_never_crashes(folder: pathlib.Path) -> None:
    path = folder / "scan4.mib"
    whole = path.read_bytes()
    rng = np.random.default_rng(9)
    reports = 0
    for _ in range(60):
        data = bytearray(whole[:rng.integers(STRIDE, len(whole))] if rng.integers(2) else whole)
        for at in rng.integers(0, len(data), 40) // STRIDE * STRIDE + rng.integers(0, HEADER, 40):
            if at < len(data):
                data[at] = rng.integers(256)
        path.write_bytes(data)
        reports += check(path, disable_glob=True).path == str(path)
    assert reports == 60


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


# -- K2IS --------------------------------------------------------------------------------------------------------------

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


# -- candidates --------------------------------------------------------------------------------------------------------


def records(time_ns: np.ndarray, exposure_ns: np.ndarray | None = None, resolution_ns: int = 1) -> FrameRecords:
    n = len(time_ns)
    exposure = np.full(n, UNKNOWN) if exposure_ns is None else exposure_ns
    return FrameRecords(np.arange(n), np.arange(n), time_ns, exposure, resolution_ns=resolution_ns)


@pytest.mark.parametrize("idle,rows,columns,pause,after", [
    (0, 13, 17, 1_500, 0), (5, 13, 17, 1_500, 3), (40, 11, 23, 4_000_000, 50), (0, 2, 4, 20_000, 0), (3, 5, 2, 9_000, 1)])
def test_pauses_show_lines_and_where_the_scan_begins(idle: int, rows: int, columns: int, pause: int, after: int) -> None:
    stop = idle + rows * columns
    distance = np.full(stop + after, 1_000_000) + np.random.default_rng(2).integers(-20, 21, stop + after)
    distance[idle:stop:columns] += pause
    lines = find_lines(records(np.cumsum(distance)))
    assert lines is not None
    assert (lines.rows, lines.length, lines.first, lines.support) == (rows, columns, idle, 1.0)
    starts = lines.is_start(np.arange(idle, stop))
    assert np.flatnonzero(starts).tolist() == list(range(0, rows * columns, columns))


def test_two_pauses_in_a_long_recording_are_no_scan() -> None:
    distance = np.full(400, 1_000_000)
    distance[[100, 117]] += 50_000
    assert find_lines(records(np.cumsum(distance))) is None


@pytest.mark.parametrize("before,first", [(0, 0), (6, 6), (-5, 9)])
def test_exposures_of_the_flyback_show_lines(before: int, first: int) -> None:
    exposure = np.full(70 + 9 * 14, 1_000_000)
    exposure[70 + 13::14] = 2_500_000
    exposure = exposure[70 - before:]               # negative: the first line is cut
    seen = find_flyback(records(np.cumsum(exposure), exposure))
    assert seen is not None
    assert (seen.rows, seen.length, seen.first, seen.support) == (9 if before >= 0 else 8, 14, first, 1.0)


def test_flyback_exposures_in_a_file_become_the_best_candidate(tmp_path: pathlib.Path) -> None:
    exposure = np.full(9 * 14, 1_000_000)
    exposure[13::14] = 2_500_000
    write_mib(tmp_path / "a.mib", np.cumsum(steps(9 * 14)), exposure)
    report = check(tmp_path / "a.mib")
    best = report.candidates[0]
    assert report.findings == ()
    assert (best.nav_shape, best.sync_offset) == ((9, 14), 0)
    assert "exposure of 2.5 ms" in best.reasons[0] and "126 = 9 x 14" in best.reasons[1]


@pytest.mark.parametrize("seed", range(4))
def test_jitter_is_not_taken_for_lines(seed: int) -> None:
    times = np.cumsum(np.random.default_rng(seed).integers(900_000, 1_100_000, 400))
    assert find_lines(records(times)) is None


def test_coarse_times_are_not_taken_for_lines() -> None:
    times = np.arange(200) * 2_500_000 // 1_000_000 * 1_000_000         # 2 ms and 3 ms in turn
    assert find_lines(records(times)) is not None
    assert find_lines(records(times, resolution_ns=1_000_000)) is None


def test_without_evidence_shapes_near_a_square_are_proposed(tmp_path: pathlib.Path) -> None:
    def shapes(n: int) -> list[tuple[int, ...]]:
        layout = gpuio.load("raw", path=str(tmp_path / "a.bin"), dtype="u1", sig_shape=(1, 1), device="cpu").layout
        assert layout.image_count == n
        return [c.nav_shape for c in find_candidates(layout, None, None)]

    for n, expected in ((144, [(12, 12), (9, 16), (8, 18)]), (221, [(13, 17)]), (127, [])):
        (tmp_path / "a.bin").write_bytes(bytes(range(1, n + 1)))
        assert shapes(n) == expected


# -- recordings --------------------------------------------------------------------------------------------------------

REAL = pathlib.Path(os.environ.get("GPUIO_REAL_DATA", "/nonexistent"))


@pytest.mark.skipif(not (REAL / "mib").is_dir(), reason="GPUIO_REAL_DATA does not name a folder with recorded files")
def test_recorded_mib_files_have_no_errors() -> None:
    paths = sorted((REAL / "mib").glob("*.mib"))
    assert len(paths) >= 9
    for path in paths:
        report = check(path, disable_glob=True)
        assert (path.name, report.findings) == (path.name, ())
        assert report.headers_read == report.image_count
    assert check(REAL / "mib" / "001_4x2_6bit.mib").candidates[0].nav_shape == (2, 4)
