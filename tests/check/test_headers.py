"""Counters, times and headers of MIB frames: what is lost, repeated, late or damaged is found at its frame."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

import gpuio
from gpuio import synth
from gpuio.check import check
from gpuio.findings import UNKNOWN
from gpuio.formats import _mib_records
from gpuio.formats._mib_header import parse_header
from gpuio.formats._mib_times import parse_utc
from gpuio.source import HostFiles
from tests.check.sets import HEADER, NAV, SIG, STRIDE, N, cut_out, overwrite, random_frames, steps, told, write_mib


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
