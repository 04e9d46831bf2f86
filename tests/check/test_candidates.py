"""Lines of a scan, found in times and exposures; shapes from numbers alone."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

import gpuio
from gpuio.candidates import find_candidates, find_flyback, find_lines
from gpuio.check import check
from gpuio.findings import UNKNOWN, FrameRecords
from tests.check.sets import steps, write_mib


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
