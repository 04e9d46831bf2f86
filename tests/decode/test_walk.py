"""How the CPU's loop walks: repeats of single steps, few at a time. The pixels stay the same."""

from __future__ import annotations

import numpy as np
import pytest

from gpuio.cpu_fallback import CpuEngine
from gpuio.cpu_fallback._table import STREAMS, plan_walk
from gpuio.layout import Encoding, Piece, placement_table
from tests.decode.cases import pack_uint12_le

UINT12 = Encoding("uint12_le", np.dtype("u2"), 3, 2)


def blocks(repeats: int, rows: int, pixels: int = 16) -> tuple[Piece, ...]:
    """Blocks from right to left, two halves, 7 bytes between blocks."""
    size, width = pixels // 2 * 3 * rows + 7, repeats * pixels
    common = {"pixels": pixels, "rows": rows, "row_src": pixels // 2 * 3, "row_pos": width, "rep_src": size, "rep_pos": -pixels}
    return tuple(Piece(half * repeats * size, half * rows * width + width - pixels, repeats=repeats, **common) for half in (0, 1))


@pytest.mark.parametrize(("repeats", "entries", "together"), [(16, 8, 4), (8, 4, 4), (4, 2, 4), (5, 2, 5), (6, 2, 6), (1, 2, 1)])
def test_single_steps_side_by_side_are_walked_four_at_a_time(repeats: int, entries: int, together: int) -> None:
    walk = plan_walk(placement_table(blocks(repeats, 7)), UINT12, 16, 0)
    assert STREAMS == 4
    assert len(walk.table) == entries
    assert walk.table[:, 2].tolist() == [together] * entries
    assert (walk.known_pixels, walk.known_repeats) == ((16, together) if together > 1 else (0, 0))


def test_longer_runs_and_cut_ones_stay_together() -> None:
    assert len(plan_walk(placement_table(blocks(8, 7, pixels=32)), UINT12, 16, 0).table) == 2
    cut = placement_table(blocks(8, 7))
    cut[:, 8], cut[:, 9] = 15, 1
    assert len(plan_walk(cut, UINT12, 16, 0).table) == 2


@pytest.mark.parametrize("repeats", [1, 4, 5, 8, 12, 16])
@pytest.mark.parametrize("rows", [1, 13])
def test_pixels_are_those_before_packing(repeats: int, rows: int) -> None:
    rng = np.random.default_rng(repeats)
    frames = rng.integers(0, 4096, (3, 2 * rows, repeats * 16)).astype("u2")
    staged, starts = bytearray(rng.bytes(5)), []
    for frame in frames:
        starts.append([len(staged)])
        for half in (frame[:rows], frame[rows:]):
            for k in reversed(range(repeats)):
                staged += pack_uint12_le(np.ascontiguousarray(half[:, 16 * k:16 * k + 16]).ravel())[0].tobytes() + rng.bytes(7)
    pixels = frames[0].size
    for dtype in ("u2", "f4"):
        out = np.full((3, pixels), 9, dtype)
        CpuEngine().decoder(UINT12, placement_table(blocks(repeats, rows)), pixels, dtype).bind(
            np.frombuffer(bytes(staged), "u1"), np.array(starts), out)(0, 3)
        np.testing.assert_array_equal(out, frames.reshape(3, -1))
