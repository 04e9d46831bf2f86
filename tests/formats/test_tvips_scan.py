"""Guesses at the scan of a TVIPS recording: from scan positions, from rotator indices; and how few headers they need."""

from __future__ import annotations

import numpy as np
import pytest

from gpuio.formats._tvips_scan import SEARCHED_FRAMES, scan_from_positions, scan_from_rotator
from tests.formats.tvips_files import raster


def by_hand(positions):
    """The published rule, frame by frame: the last (0, 0) before the first (0, 1), a line as long as x rises, whole lines only."""
    start = next((k - 1 for k in range(1, len(positions)) if positions[k] == (0, 1) and (0, 0) in positions[:k]), None)
    if start is None:
        return None
    largest = 0
    for y, x in positions[start:]:
        if y or x < largest:
            columns = largest + 1
            rows = min((len(positions) - start) // columns, 1 + int(max(y for y, _ in positions[start:])))
            return start, (rows, columns)
        largest = int(x)
    return start, (len(positions) - start,)


def guess(positions):
    return scan_from_positions(lambda k: None if positions[k] is None else (int(positions[k][0]), int(positions[k][1])), len(positions))


def found(positions):
    scan = guess(positions)
    return None if scan is None else (scan.start, scan.nav_shape)


@pytest.mark.parametrize(("idle", "rows", "columns", "after", "expected"), [
    (3, 3, 4, 0, (3, (3, 4))), (0, 3, 4, 0, (0, (3, 4))), (3, 3, 4, 1, (3, (3, 4))), (3, 3, 4, 9, (3, (3, 4))), (1, 2, 2, 0, (1, (2, 2))),
    (0, 1, 4, 0, (0, (4,))), (2, 1, 4, 3, (2, (1, 4))), (7, 5, 3, 1000, (7, (5, 3))), (997, 5, 3, 0, (997, (5, 3))),
    (0, 16, 31, 0, (0, (16, 31))),
])
def test_idle_frames_before_and_after_are_left_out(idle, rows, columns, after, expected):
    assert found(raster(idle, rows, columns, after)) == expected == by_hand(raster(idle, rows, columns, after))


@pytest.mark.parametrize("seed", range(40))
def test_scans_of_any_shape_are_found_as_by_the_published_rule(seed):
    rng = np.random.default_rng(seed)
    positions = raster(int(rng.integers(0, 60)), int(rng.integers(2, 12)), int(rng.integers(2, 40)), int(rng.integers(0, 60)))
    positions = positions[:int(rng.integers(1, len(positions) + 1))] if seed % 2 else positions
    assert found(positions) == by_hand(positions)


def test_lines_that_go_back_and_forth_are_lines():
    positions = [(0, 0)] * 5 + [(y, x if y % 2 == 0 else 6 - x) for y in range(5) for x in range(7)]
    assert found(positions) == (5, (5, 7))


def test_frames_before_the_scan_may_show_the_end_of_another():
    positions = [(4, 6)] * 5 + raster(2, 3, 4)
    assert found(positions) == (7, (3, 4))


def test_a_line_at_the_end_that_is_not_complete_is_left_out_and_told_of():
    positions = raster(3, 4, 5)[:-2]
    scan = guess(positions)
    assert (scan.start, scan.nav_shape) == (3, (3, 5))
    assert scan.reason == "scan positions in the frame headers start at frame 3, in lines of 5; 3 frames follow the last whole line"


def test_a_missing_frame_is_told_of():
    positions = raster(3, 6, 5)
    del positions[3 + 12]
    scan = guess(positions)
    assert (scan.start, scan.nav_shape) == (3, (5, 5))
    assert "but those from frame 18 on are not the expected ones: frames may be missing or doubled" in scan.reason


def test_a_missing_frame_in_the_first_line_does_not_change_its_length():
    positions = raster(3, 6, 5)
    del positions[5]
    scan = guess(positions)
    assert (scan.start, scan.nav_shape[1]) == (3, 5)
    assert "frames may be missing or doubled" in scan.reason


@pytest.mark.parametrize("positions", [
    [(0, 0)], [(0, 0)] * 9, [(1, 1)] * 9, [(0, 1), (0, 2)], [(0, 0), (0, 2), (0, 3)], [(0, 0), (1, 0), (2, 0)], [(3, 0), (0, 1)],
])
def test_where_no_scan_starts_none_is_found(positions):
    assert found(positions) is None


def test_values_that_are_no_positions_are_no_scan():
    assert found([None] * 100) is None
    assert found([None] * 5 + raster(1, 4, 5, 50)) == (6, (4, 5))


@pytest.mark.parametrize(("idle", "rows", "columns", "after"), [(123_456, 500, 700, 99_999), (0, 1024, 1024, 0), (1, 3, 300_000, 5)])
def test_a_million_frames_need_few_headers(idle, rows, columns, after):
    asked = set()

    def position(k):
        asked.add(k)
        return divmod(k - idle, columns) if idle <= k < idle + rows * columns else (0, 0)

    scan = scan_from_positions(position, idle + rows * columns + after)
    assert (scan.start, scan.nav_shape) == (idle, (rows, columns))
    assert len(asked) < 300


def test_a_million_frames_without_a_scan_need_a_bounded_number_of_headers():
    asked = set()
    assert scan_from_positions(lambda k: asked.add(k) or (0, 0), 1_000_000) is None
    assert len(asked) < SEARCHED_FRAMES + 100


# -- rotator -----------------------------------------------------------------------------------------------------------


def rotator(indices):
    scan = scan_from_rotator(lambda k: indices[k], len(indices))
    return None if scan is None else (scan.start, scan.nav_shape)


@pytest.mark.parametrize(("indices", "expected"), [
    ([0, 0, 0, *range(1, 26), 0, 0], (3, (5, 5))), ([*range(1, 26)], (0, (5, 5))), ([1, 1, 1, *range(2, 26), 25, 25], (2, (5, 5))),
    ([0, *range(1, 13)], (1, (12,))), ([0, 0, 1, 2], (2, (2,))), ([0] * 997 + [*range(1, 10)], (997, (3, 3))),
    ([0, *range(1, 10), 1, 2, 3], (1, (3, 3))),
])
def test_indices_count_the_positions(indices, expected):
    assert rotator(indices) == expected


@pytest.mark.parametrize(("indices", "start"), [([0, 1, 2, 3, 5, 6, 7], 1), ([5, 6, 7, 8], 0), ([7, 7, 8, 9], 1)])
def test_of_indices_that_do_not_count_from_1_only_the_start_is_used(indices, start):
    scan = scan_from_rotator(lambda k: indices[k], len(indices))
    assert (scan.start, scan.nav_shape) == (start, (len(indices) - start,))
    assert "not one by one from 1" in scan.reason


@pytest.mark.parametrize("indices", [[0], [0] * 9, [4] * 9, [0, 0, 5, 6, 7], [9, 8, 7]])
def test_constant_or_falling_indices_are_no_scan(indices):
    assert rotator(indices) is None
