"""What engines check before they decode: placement tables and maps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gpuio.layout import Encoding, Piece, placement_table
from gpuio.prepare import check_maps, check_placements
from tests.decode.cases import cases

R12 = Encoding("mib_r12", np.dtype("u2"), 8, 4)
R24 = Encoding("mib_r24", np.dtype("u4"), 8, 4, 1000)
GOOD = Piece(src=16, pos=3, pixels=10, rows=5, row_src=32, row_pos=20, repeats=2, rep_src=400, rep_pos=10, skipped=1)


def check(*pieces: Piece, frame_pixels: int = 103, encoding: Encoding = R12) -> np.ndarray:
    return check_placements(encoding, placement_table(pieces), frame_pixels)


def test_needed_bytes_of_a_table_worked_out_by_hand() -> None:
    """The last run starts at 16 + 4 * 32 + 400 = 544 and holds 1 + 10 pixels in 3 groups of 8 bytes."""
    assert check(GOOD).tolist() == [[16, 568]]
    assert check(GOOD, encoding=R24).tolist() == [[16, 1568]]
    assert check(replace(GOOD, row_src=-32)).tolist() == [[-112, 440]]
    assert check(replace(GOOD, part=2)).tolist() == [[0, 0], [0, 0], [16, 568]]
    assert check(Piece(0, 0, 4), Piece(80, 4, 4), Piece(8, 8, 1, part=1)).tolist() == [[0, 88], [8, 16]]
    assert check().tolist() == [[0, 0]]


def test_needed_bytes_are_exactly_those_that_the_cases_hold() -> None:
    for case in cases(dtypes=("u1", "u2", "u4")):
        limits = check_placements(case.encoding, case.placements, case.frame_pixels)
        ends = case.starts + limits[:, 1]
        assert (case.starts + limits[:, 0]).min() >= 0
        assert ends.max() == case.staged.size, f"{case.id}: the staged bytes should end with the last needed one"


@pytest.mark.parametrize("wrong, why", [
    (replace(GOOD, pixels=0), "has no pixels"),
    (replace(GOOD, rows=0), "has no pixels, rows"),
    (replace(GOOD, repeats=-1), "has no pixels, rows or repeats"),
    (replace(GOOD, skipped=4), "skips pixels beyond its first group of 4"),
    (replace(GOOD, skipped=-1), "skips pixels"),
    (replace(GOOD, part=-1), "belongs to a part"),
    (replace(GOOD, part=1 << 40), "belongs to a part"),
    (replace(GOOD, pos=-1), "reaches outside of the frame of 103 pixels"),
    (replace(GOOD, pos=4), "reaches outside"),
    (replace(GOOD, row_pos=-20), "reaches outside"),
    (replace(GOOD, reversed=True, pos=8), "reaches outside"),
    (replace(GOOD, rows=6), "reaches outside"),
    (replace(GOOD, row_pos=1 << 61), "has distances"),
    (replace(GOOD, rows=1 << 62, row_pos=0, row_src=4), "has distances"),
    (replace(GOOD, src=(1 << 63) - 1), "has distances"),
    (replace(GOOD, src=-(1 << 63)), "has distances"),
])
def test_tables_that_a_loop_must_not_see(wrong: Piece, why: str) -> None:
    with pytest.raises(ValueError, match=f"placement 1 {why}.*: src="):
        check(Piece(0, 0, 3), wrong, frame_pixels=103)


def test_a_table_may_not_name_more_pixels_than_there_are() -> None:
    """Rows without a step would keep the loop busy for ever, and pixels named twice depend on the order."""
    with pytest.raises(ValueError, match="placements name 1000000000000 pixels; expected at most the 100 of the frame"):
        check(Piece(0, 0, 10, rows=10**11), frame_pixels=100)
    with pytest.raises(ValueError, match="name 120 pixels"):
        check(Piece(0, 0, 60), Piece(0, 40, 60), frame_pixels=100)


def test_tables_of_another_form() -> None:
    good = placement_table([GOOD])
    for table in (good.astype(np.int32), good[:, :11], good[0], good.astype(float)):
        with pytest.raises(ValueError, match="placements are .* expected int64"):
            check_placements(R12, table, 103)
    flagged = good.copy()
    flagged[0, 10] = 2
    with pytest.raises(ValueError, match="flag `reversed`"):
        check_placements(R12, flagged, 103)


def test_maps_become_float32_only_if_that_loses_nothing() -> None:
    rng = np.random.default_rng(5)
    narrow, wide = rng.integers(0, 4096, 35).astype("f8"), rng.random(35)
    for dark, gain, dtype in ((narrow, None, "f4"), (None, wide, "f8"), (narrow, wide, "f8"), (narrow, narrow.astype("f4"), "f4")):
        maps = check_maps(np.dtype("f4"), 35, dark, gain)
        for given, made in zip((dark, gain), maps, strict=True):
            assert (given is None) == (made is None)
            if made is not None:
                assert made.dtype == dtype and made.shape == (35,) and np.array_equal(made, given)


def test_maps_may_have_the_shape_of_the_detector() -> None:
    dark = np.random.default_rng(6).random((7, 5)).astype("f4")
    made, none = check_maps(np.dtype("f8"), 35, dark.T, None)
    assert none is None and np.array_equal(made, dark.T.ravel())


def test_maps_that_are_refused() -> None:
    good = np.ones(35, "f4")
    with pytest.raises(TypeError, match="corrections need a real or complex dtype; uint16"):
        check_maps(np.dtype("u2"), 35, good, None)
    with pytest.raises(TypeError, match="gain is int64; expected float32 or float64"):
        check_maps(np.dtype("f4"), 35, good, np.ones(35, int))
    with pytest.raises(ValueError, match="dark has 36 pixels; expected 35"):
        check_maps(np.dtype("f4"), 35, np.ones(36), None)
