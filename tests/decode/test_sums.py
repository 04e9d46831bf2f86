"""Sums of frames, decoded and packed: every sum is compared with NumPy's, or with the order of additions that is promised."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from gpuio.cpu_fallback import CpuEngine
from gpuio.cpu_fallback._sums import BLOCK, TOGETHER
from gpuio.kernels import CudaEngine
from gpuio.layout import Encoding, Piece, placement_table
from gpuio.prepare import sum_dtype
from tests.decode.cases import LAYOUTS, ROWS, SOURCES, Row, build, contiguous_rows, random_pixels
from tests.decode.memory import before_unreadable_page
from tests.kernels.cuda_on_host import HostRuntime
from tests.reference_engine import ReferenceEngine

engine = CpuEngine()
#: As many frames as are added together, and all numbers of those left over; less than a step of pixels, a block, and more than one.
DEPTH, SIZES = 2 * TOGETHER, (1, 37, BLOCK, BLOCK + 21)
INTEGERS = ("?", *(dtype for dtype in SOURCES if dtype[0] != "f"))
REALS = ("f2", "f4", "f8", "c8", "c16")


def random_sums(rng: np.random.Generator, n: int, dtype: np.dtype) -> np.ndarray:
    return rng.integers(1, 100, n).astype(sum_dtype(dtype))


def in_order(frame: np.ndarray) -> np.ndarray:
    """The sum of a frame as the engine's docstring says: lanes in a block, halves of the lanes, blocks."""
    items = 2 if frame.dtype.kind == "c" else 1
    values = frame.astype(sum_dtype(frame.dtype)).view("f8")
    total = np.zeros(items)
    for first in range(0, len(values), BLOCK):
        block = values[first:first + BLOCK]
        lanes = np.zeros(16)
        for row in np.pad(block, (0, -len(block) % 16)).reshape(-1, 16):
            lanes += row
        while len(lanes) > items:
            lanes = lanes[:len(lanes) // 2] + lanes[len(lanes) // 2:]
        total += lanes
    return total.view(sum_dtype(frame.dtype))[0]


def with_gaps(frames: np.ndarray, gap: int) -> np.ndarray:
    """The same frames in memory that starts at an odd address, `gap` bytes between them."""
    size = frames.shape[1] * frames.itemsize
    room = np.full(len(frames) * (size + gap) + 1, 0xA5, np.uint8)
    view = np.lib.stride_tricks.as_strided(room[1:], (len(frames), size), (size + gap, 1))
    view[:] = np.ascontiguousarray(frames).view(np.uint8)
    return view.view(frames.dtype)


@pytest.mark.parametrize("pixels", SIZES)
@pytest.mark.parametrize("dtype", INTEGERS)
def test_sums_of_integers_are_exact_and_added_to_what_is_there(dtype: str, pixels: int) -> None:
    rng = np.random.default_rng(pixels)
    frames = random_pixels(rng, DEPTH * pixels, np.dtype(dtype)).reshape(DEPTH, pixels)
    of_frames, of_pixels = random_sums(rng, DEPTH + 4, frames.dtype), random_sums(rng, pixels, frames.dtype)
    expected = of_frames.copy(), of_pixels.copy()
    expected[0][3:3 + DEPTH - 1] += frames[1:].sum(axis=1, dtype=of_frames.dtype)
    expected[1][:] += frames[1:].sum(axis=0, dtype=of_pixels.dtype)
    engine.adder(with_gaps(frames, 7), of_frames, of_pixels)(1, DEPTH - 1, 3)
    np.testing.assert_array_equal(of_frames, expected[0])
    np.testing.assert_array_equal(of_pixels, expected[1])


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2"])
@pytest.mark.parametrize("extreme", ["min", "max"])
def test_lanes_do_not_overflow(dtype: str, extreme: str) -> None:
    frames = np.full((TOGETHER, BLOCK), getattr(np.iinfo(dtype), extreme), dtype)
    wide = sum_dtype(frames.dtype)
    of_frames, of_pixels = np.zeros(TOGETHER, wide), np.zeros(BLOCK, wide)
    engine.adder(frames, of_frames, of_pixels)(0, TOGETHER, 0)
    assert of_frames.tolist() == [BLOCK * int(frames[0, 0])] * TOGETHER
    assert of_pixels.tolist() == [TOGETHER * int(frames[0, 0])] * BLOCK


@pytest.mark.parametrize("pixels", SIZES)
@pytest.mark.parametrize("dtype", REALS)
def test_reals_are_added_in_an_order_that_no_split_of_the_frames_changes(dtype: str, pixels: int) -> None:
    rng = np.random.default_rng(pixels)
    frames = (rng.normal(0, 1, (DEPTH, pixels)) * 10.0 ** rng.integers(-3, 4, (DEPTH, pixels))).astype(dtype)
    if frames.dtype.kind == "c":
        frames += (1j * rng.normal(0, 3, frames.shape)).astype(dtype)
    wide = sum_dtype(frames.dtype)
    expected = np.zeros(pixels, wide)
    for frame in frames:
        expected += frame.astype(wide)
    for splits in ((0, DEPTH), (0, 1, 4, DEPTH), tuple(range(DEPTH + 1))):
        of_frames, of_pixels = np.zeros(DEPTH, wide), np.zeros(pixels, wide)
        add = engine.adder(with_gaps(frames, 3), of_frames, of_pixels)
        for first, stop in pairwise(splits):
            add(first, stop - first, first)
        np.testing.assert_array_equal(of_frames, [in_order(frame) for frame in frames])
        np.testing.assert_array_equal(of_pixels, expected)


@pytest.mark.parametrize("name, dtype", [(row.name, dtype) for row in ROWS for dtype in row.dtypes if np.dtype(dtype).kind in "ui"])
def test_packed_frames_are_added_as_if_decoded(name: str, dtype: str) -> None:
    row = next(row for row in ROWS if row.name == name)
    case = build(row, dtype, contiguous_rows)
    check_packed(case.encoding, case.staged, case.starts, case.placements, case.expected)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_packed_frames_of_more_than_a_block(row: Row) -> None:
    rng = np.random.default_rng(7)
    pixels = (BLOCK // row.group_pixels + 5) * row.group_pixels
    expected = random_pixels(rng, DEPTH * pixels, np.dtype(row.dtypes[0]), row.bits).reshape(DEPTH, pixels)
    planes = [row.pack(frame) for frame in expected]
    staged, starts = rng.bytes(5), []
    for number in rng.permutation(DEPTH):
        starts.append((number, len(staged)))
        staged += b"".join(plane.tobytes() for plane in planes[number]) + rng.bytes(0 if len(starts) == DEPTH else 3)
    table = np.array([[start] for _, start in sorted(starts)])
    encoding = row.encoding(row.dtypes[0], planes[0][0].nbytes if len(planes[0]) > 1 else 0)
    check_packed(encoding, np.frombuffer(staged, np.uint8), table, placement_table([Piece(0, 0, pixels)]), expected)


def check_packed(encoding: Encoding, staged: np.ndarray, starts: np.ndarray, placements: np.ndarray, expected: np.ndarray) -> None:
    frames, pixels = expected.shape
    adder = engine.frame_adder(encoding, placements, pixels)
    assert adder is not None
    of_frames, of_pixels = (np.zeros(n, sum_dtype(expected.dtype)) for n in (frames, pixels))
    with before_unreadable_page(staged) as guarded:
        add = adder.bind(guarded, starts, of_frames, of_pixels)
        add(1, frames - 1, 1)
        add(0, 1, 0)
        np.testing.assert_array_equal(of_frames, expected.sum(axis=1, dtype=of_frames.dtype))
        np.testing.assert_array_equal(of_pixels, expected.sum(axis=0, dtype=of_pixels.dtype))
        adder.bind(None, starts + guarded.ctypes.data, of_frames, of_pixels)(0, frames, 0)      # by address
    np.testing.assert_array_equal(of_pixels, 2 * expected.sum(axis=0, dtype=of_pixels.dtype))


def test_frames_that_are_no_single_run_have_to_be_decoded() -> None:
    row = next(row for row in ROWS if row.name == "mib_r12")
    runs = [layout.__name__ for layout in LAYOUTS
            if engine.frame_adder((case := build(row, "u2", layout)).encoding, case.placements, case.frame_pixels) is not None]
    assert runs == ["contiguous_rows"]
    assert engine.frame_adder(Encoding.of("f2"), placement_table([Piece(0, 0, 9)]), 9) is None


def test_a_frame_outside_of_the_staged_bytes_is_refused_and_nothing_added() -> None:
    adder = engine.frame_adder(Encoding.of("u2"), placement_table([Piece(4, 0, 5)]), 5)
    assert adder is not None
    sums = np.zeros(3, "u8"), np.zeros(5, "u8")
    for bad in (-5, 7, 2**62):
        with pytest.raises(ValueError, match=rf"frame 2 starts at {bad}; expected -4 to 6"):
            adder.bind(np.ones(20, "u1"), np.array([[0], [6], [bad]]), *sums)(0, 3, 0)
    assert not any(s.any() for s in sums)


@pytest.mark.parametrize("which", ["cpu", "cuda"])
def test_arguments_that_do_not_fit_are_refused(which: str, tmp_path: Path) -> None:
    tested = engine if which == "cpu" else CudaEngine(runtime=HostRuntime(tmp_path))
    frames = np.ones((3, 5), "u2")
    for sums, error in (((np.zeros(3, "i8"), np.zeros(5, "u8")), TypeError), ((np.zeros(3, "u8"), np.zeros(4, "u8")), ValueError),
                        ((np.zeros(6, "u8")[::2], np.zeros(5, "u8")), ValueError)):
        with pytest.raises(error):
            tested.adder(frames, *sums)
    add = tested.adder(frames, np.zeros(4, "u8"), np.zeros(5, "u8"))
    for wrong in ((0, 4, 0), (-1, 1, 0), (1, 3, 0), (0, 3, 2), (0, 1, -1), (0, -1, 0)):
        with pytest.raises(IndexError):
            add(*wrong)


@pytest.mark.parametrize("dtype", [*INTEGERS, *REALS])
def test_the_cuda_engine_and_the_reference_add_the_same(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    frames = random_pixels(rng, 5 * 37, np.dtype(dtype), tame=True).reshape(5, 37)
    frames = np.round(frames.astype(sum_dtype(frames.dtype))).astype(dtype)         # sums of whole numbers are exact in any order
    found = []
    for tested in (engine, CudaEngine(runtime=HostRuntime(tmp_path)), ReferenceEngine()):
        sums = random_sums(np.random.default_rng(4), 9, frames.dtype), random_sums(np.random.default_rng(5), 37, frames.dtype)
        tested.adder(frames, *sums)(1, 4, 3)
        found.append(sums)
    for sums in found[1:]:
        np.testing.assert_array_equal(sums[0], found[0][0])
        np.testing.assert_array_equal(sums[1], found[0][1])
    assert CudaEngine(runtime=HostRuntime(tmp_path)).frame_adder(Encoding.of("u2"), placement_table([Piece(0, 0, 9)]), 9) is None
