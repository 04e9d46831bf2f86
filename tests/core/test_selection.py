"""Sync offset and roi: the one model, k = i + s."""

from __future__ import annotations

import numpy as np
import pytest
import sparse

from gpuio.errors import DataSetException, ShapeError
from gpuio.geometry.selection import check_roi, check_sync_offset, flat_indices, selected_frames, sync_offset_info


@pytest.mark.parametrize(("n", "m", "s", "expected"), [
    (64, 64, 2, (2, 0, 0, 2)), (64, 64, -2, (0, 2, 2, 0)),
    (64, 48, 0, (0, 16, 0, 0)), (64, 48, 10, (10, 6, 0, 0)), (64, 48, 20, (20, 0, 0, 4)), (64, 48, -5, (0, 21, 5, 0)),
    (64, 80, 0, (0, 0, 0, 16)), (64, 80, 3, (3, 0, 0, 19)), (64, 80, -20, (0, 4, 20, 0)),
    (64, 64, 63, (63, 0, 0, 63)),
])
def test_sync_offset_info(n, m, s, expected):
    info = sync_offset_info(s, n, m)
    assert info == dict(zip(
        ("frames_skipped_start", "frames_ignored_end", "frames_inserted_start", "frames_inserted_end"), expected, strict=True))


@pytest.mark.parametrize("s", [64, -64, 1000])
def test_a_sync_offset_out_of_range_is_refused(s):
    with pytest.raises(DataSetException, match=r"sync_offset should be in \(-64, 64\), which is \(-image_count, image_count\)"):
        check_sync_offset(s, 64)


@pytest.mark.parametrize("s", [-63, 0, 63])
def test_a_sync_offset_in_range_passes(s):
    check_sync_offset(s, 64)


ROI = np.zeros(10, dtype=bool)
ROI[[0, 1, 2, 6, 9]] = True


@pytest.mark.parametrize(("start", "stop", "s", "roi", "nav", "frames"), [
    (0, 5, 0, None, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
    (3, 8, 3, None, [0, 1, 2, 3, 4], [3, 4, 5, 6, 7]),
    (8, 13, 3, None, [5, 6], [8, 9]),
    (-3, 2, -3, None, [3, 4], [0, 1]),
    (2, 7, -3, None, [5, 6, 7, 8, 9], [2, 3, 4, 5, 6]),
    (-6, 0, -6, None, [], []),
    (10, 12, 0, None, [], []),
    (0, 5, 0, ROI, [0, 1, 2], [0, 1, 2]),
    (5, 10, 0, ROI, [3, 4], [6, 9]),
    (3, 8, 3, ROI, [0, 1, 2], [3, 4, 5]),
    (8, 13, 3, ROI, [3], [9]),
    (-3, 2, -3, ROI, [], []),
    (2, 7, -3, ROI, [3, 4], [3, 6]),
    (0, 5, 0, np.zeros(10, dtype=bool), [], []),
])
def test_positions_with_data_of_ten_frames(start, stop, s, roi, nav, frames):
    found = selected_frames(start, stop, s, 10, roi)
    assert [a.tolist() for a in found] == [nav, frames]
    assert all(a.dtype == np.int64 for a in found)


@pytest.mark.parametrize("seed", range(30))
def test_selection_agrees_with_the_model_position_by_position(seed):
    rng = np.random.default_rng(seed)
    m, n = (int(x) for x in rng.integers(1, 40, 2))
    s = int(rng.integers(-n + 1, n))
    roi = rng.random(m) < 0.4 if seed % 3 else None
    first, stop = sorted(int(x) for x in rng.integers(0, m + 1, 2))
    expected = []
    compressed = 0
    for i in range(m):
        if roi is not None and not roi[i]:
            continue
        if first <= i < stop and 0 <= i + s < n:
            expected.append((i if roi is None else compressed, i + s))
        compressed += 1
    nav, frames = selected_frames(first + s, stop + s, s, n, roi, nav_shape=(m,))
    assert list(zip(nav.tolist(), frames.tolist(), strict=True)) == expected


@pytest.mark.parametrize("roi", [ROI, ROI.reshape(2, 5), ROI.tolist(), sparse.COO.from_numpy(ROI.reshape(5, 2))])
def test_only_the_c_order_of_a_roi_counts(roi):
    assert flat_indices(roi, (2, 5)).tolist() == [0, 1, 2, 6, 9]
    assert flat_indices(roi).dtype == np.int64


def test_other_dtypes_are_cast_with_a_warning():
    with pytest.warns(UserWarning, match="int64"):
        assert np.array_equal(check_roi(ROI.astype(np.int64) * 7, (10,)), ROI)


@pytest.mark.parametrize("roi", [
    np.ones(11, dtype=bool), np.ones((3, 3), dtype=bool), sparse.COO.from_numpy(np.ones(4, dtype=bool)), [True],
])
def test_a_roi_of_another_size_is_refused(roi):
    with pytest.raises(ShapeError, match=r"\(2, 5\).*has \d+ entries.*expected 10"):
        selected_frames(0, 10, 0, 10, roi, nav_shape=(2, 5))


def test_a_huge_sparse_roi_is_refused_before_it_is_made_dense():
    roi = sparse.COO(coords=np.zeros((1, 1), dtype=int), data=[True], shape=(10**13,))
    with pytest.raises(ShapeError, match="10000000000000 entries"):
        check_roi(roi, (4, 4))
