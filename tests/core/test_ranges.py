"""Read ranges: the examples of the specification, the model frame by frame, and functions of users."""

from __future__ import annotations

import numpy as np
import pytest

from gpuio.errors import ShapeError
from gpuio.geometry.ranges import default_get_read_ranges, default_px_to_bytes, default_read_ranges_tile_block, make_get_read_ranges
from gpuio.geometry.tiling import TilingScheme
from gpuio.shape import Shape

ONE_FILE = [[0, 5, 0, 0]]
TWO_FILES = [[0, 2, 0, 10], [2, 5, 1, 20]]


def boxes(tileshape: tuple[int, ...], sig: tuple[int, ...]) -> np.ndarray:
    return TilingScheme.make_for_shape(Shape(tileshape, sig_dims=len(sig)), Shape((1, *sig), sig_dims=len(sig))).slices_array


def ranges_of(start, stop, tileshape, sig=(4, 4), bpp=8, files=ONE_FILE, roi=None, function=default_get_read_ranges, **kwargs):
    roi = None if roi is None else np.array(roi, dtype=bool)
    return function(start, stop, roi, tileshape[0], boxes(tileshape, sig), np.array(files), sig, bpp, **kwargs)


def lines(found) -> list[tuple]:
    """Tiles as the specification writes them: origin and shape, ranges, number of the box."""
    assert all(a.dtype == np.int64 for a in found)
    return [(s.ravel().tolist(), r.tolist(), i) for s, r, i in zip(found[0], found[1], found[2].tolist(), strict=True)]


EXAMPLES = {
    "A": ({"start": 0, "stop": 3, "tileshape": (2, 2, 4), "bpp": 16}, [
        ([0, 0, 0, 2, 2, 4], [[0, 0, 16], [0, 32, 48]], 0),
        ([0, 2, 0, 2, 2, 4], [[0, 16, 32], [0, 48, 64]], 1),
        ([2, 0, 0, 1, 2, 4], [[0, 64, 80], [0, 0, 0]], 0),
        ([2, 2, 0, 1, 2, 4], [[0, 80, 96], [0, 0, 0]], 1)]),
    "B": ({"start": 0, "stop": 3, "tileshape": (2, 2, 4), "files": [[0, 5, 0, 100]], "frame_header_bytes": 8, "frame_footer_bytes": 2}, [
        ([0, 0, 0, 2, 2, 4], [[0, 108, 116], [0, 134, 142]], 0),
        ([0, 2, 0, 2, 2, 4], [[0, 116, 124], [0, 142, 150]], 1),
        ([2, 0, 0, 1, 2, 4], [[0, 160, 168], [0, 0, 0]], 0),
        ([2, 2, 0, 1, 2, 4], [[0, 168, 176], [0, 0, 0]], 1)]),
    "C": ({"start": 0, "stop": 5, "tileshape": (3, 4, 4), "files": TWO_FILES}, [
        ([0, 0, 0, 3, 4, 4], [[0, 10, 26], [0, 26, 42], [1, 20, 36]], 0),
        ([3, 0, 0, 2, 4, 4], [[1, 36, 52], [1, 52, 68], [0, 0, 0]], 0)]),
    "D": ({"start": 0, "stop": 5, "tileshape": (2, 4, 4), "files": TWO_FILES, "roi": [1, 0, 1, 1, 0]}, [
        ([0, 0, 0, 2, 4, 4], [[0, 10, 26], [1, 20, 36]], 0),
        ([2, 0, 0, 1, 4, 4], [[1, 36, 52], [0, 0, 0]], 0)]),
    "E": ({"start": 3, "stop": 5, "tileshape": (4, 4, 4), "sync_offset": 1}, [([2, 0, 0, 2, 4, 4], [[0, 48, 64], [0, 64, 80]], 0)]),
    "F": ({"start": -2, "stop": 1, "tileshape": (4, 4, 4), "sync_offset": -2}, [([2, 0, 0, 1, 4, 4], [[0, 0, 16]], 0)]),
    "G": ({"start": -2, "stop": 1, "tileshape": (4, 4, 4), "sync_offset": -2, "roi": [1, 0, 1, 1, 0]},
          [([1, 0, 0, 1, 4, 4], [[0, 0, 16]], 0)]),
    "H": ({"start": 1, "stop": 3, "tileshape": (4, 4, 4), "sync_offset": -2, "roi": [1, 0, 1, 1, 0]},
          [([2, 0, 0, 1, 4, 4], [[0, 16, 32]], 0)]),
    "I": ({"start": 4, "stop": 5, "tileshape": (4, 4, 4), "sync_offset": 1, "roi": [1, 0, 1, 1, 1]},
          [([2, 0, 0, 1, 4, 4], [[0, 64, 80]], 0)]),
    "K, 1 bit": ({"start": 0, "stop": 1, "tileshape": (1, 4, 8), "sig": (8, 8), "bpp": 1}, [
        ([0, 0, 0, 1, 4, 8], [[0, 0, 4]], 0), ([0, 4, 0, 1, 4, 8], [[0, 4, 8]], 1)]),
    "K, 12 bit": ({"start": 0, "stop": 2, "tileshape": (1, 2, 4), "bpp": 12}, [
        ([0, 0, 0, 1, 2, 4], [[0, 0, 12]], 0), ([0, 2, 0, 1, 2, 4], [[0, 12, 24]], 1),
        ([1, 0, 0, 1, 2, 4], [[0, 24, 36]], 0), ([1, 2, 0, 1, 2, 4], [[0, 36, 48]], 1)]),
    "L": ({"start": 0, "stop": 3, "tileshape": (2, 2, 4), "sig": (5, 4)}, [
        ([0, 0, 0, 2, 2, 4], [[0, 0, 8], [0, 20, 28]], 0), ([0, 2, 0, 2, 2, 4], [[0, 8, 16], [0, 28, 36]], 1),
        ([0, 4, 0, 2, 1, 4], [[0, 16, 20], [0, 36, 40]], 2), ([2, 0, 0, 1, 2, 4], [[0, 40, 48], [0, 0, 0]], 0),
        ([2, 2, 0, 1, 2, 4], [[0, 48, 56], [0, 0, 0]], 1), ([2, 4, 0, 1, 1, 4], [[0, 56, 60], [0, 0, 0]], 2)]),
    "M": ({"start": 0, "stop": 2, "tileshape": (2, 5), "sig": (10,)}, [
        ([0, 0, 2, 5], [[0, 0, 5], [0, 10, 15]], 0), ([0, 5, 2, 5], [[0, 5, 10], [0, 15, 20]], 1)]),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_the_specification(name):
    arguments, expected = EXAMPLES[name]
    assert lines(ranges_of(**arguments)) == expected


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_default_functions_run_one_by_one_give_the_same(name):
    # Another object than the default, so that the general loop runs, not the NumPy expressions.
    def px_to_bytes(*args):
        default_px_to_bytes(*args)

    arguments, expected = EXAMPLES[name]
    assert lines(ranges_of(**arguments, function=make_get_read_ranges(px_to_bytes))) == expected


@pytest.mark.parametrize("nothing", [
    {"start": 0, "stop": 5, "roi": [0] * 5}, {"start": 3, "stop": 3}, {"start": 4, "stop": 2}, {"start": -4, "stop": 0},
])
def test_nothing_selected_gives_empty_tables(nothing):
    slices, ranges, indices = ranges_of(tileshape=(3, 2, 4), **nothing)
    assert (slices.shape, ranges.shape, indices.shape) == ((0, 2, 3), (0, 3, 3), (0,))


@pytest.mark.parametrize("seed", range(40))
def test_tables_agree_with_the_model_range_by_range(seed):
    rng = np.random.default_rng(seed)
    sig = tuple(int(n) for n in rng.integers(1, 8, rng.integers(1, 4)))
    tileshape = [int(rng.integers(1, 6)), *(1,) * (len(sig) - 1), sig[-1]]
    tileshape[1] = int(rng.integers(1, sig[0] + 1))
    if len(sig) == 3:
        tileshape[2] = sig[1]
    edges = np.concatenate(([0], np.cumsum(rng.integers(1, 6, rng.integers(1, 5)))))
    files = np.stack((edges[:-1], edges[1:], np.arange(len(edges) - 1), rng.integers(0, 99, len(edges) - 1)), axis=1)
    header, footer = (int(n) for n in rng.integers(0, 30, 2))
    bpp = int(rng.choice([8, 16, 24, 64]))
    m, n = int(rng.integers(1, 20)), int(edges[-1])
    s = int(rng.integers(-n + 1, n))
    roi = rng.random(m) < 0.5 if seed % 2 else None
    first, stop = sorted(int(x) for x in rng.integers(0, m + 1, 2))

    selected = []       # (compressed nav index, file frame) of positions with data
    compressed = 0
    for i in range(m):
        if roi is None or roi[i]:
            if first <= i < stop and 0 <= i + s < n:
                selected.append((i if roi is None else compressed, i + s))
            compressed += 1
    table = boxes(tuple(tileshape), sig)
    expected = []
    for at in range(0, len(selected), tileshape[0]):
        block = selected[at:at + tileshape[0]]
        for number, (origin, shape) in enumerate(table.tolist()):
            rows = []
            for _, k in block:
                start_idx, _, index, file_header = next(f for f in files.tolist() if f[0] <= k < f[1])
                stride = header + int(np.prod(sig)) * bpp // 8 + footer
                begin = file_header + (k - start_idx) * stride + header + int(np.ravel_multi_index(origin, sig)) * bpp // 8
                rows.append([index, begin, begin + int(np.prod(shape)) * bpp // 8])
            rows += [[0, 0, 0]] * (min(tileshape[0], len(selected)) - len(rows))
            expected.append(([block[0][0], *origin, len(block), *shape], rows, number))
    found = default_get_read_ranges(first + s, min(stop + s, n), roi, tileshape[0], table, files, sig, bpp, s,
                                    frame_header_bytes=header, frame_footer_bytes=footer)
    assert lines(found) == expected


@pytest.mark.parametrize(("tileshape", "sig", "bpp"), [
    ((1, 4, 2), (4, 4), 8), ((1, 2, 2, 4), (4, 4, 4), 8), ((1, 1, 4), (3, 4), 1), ((1, 3, 3), (3, 3), 1), ((1, 1, 3), (3, 3), 12),
])
def test_boxes_that_are_no_run_of_whole_bytes_are_refused(tileshape, sig, bpp):
    with pytest.raises(ShapeError, match=r"whole (rows|bytes)"):
        ranges_of(0, 1, tileshape, sig=sig, bpp=bpp)


def test_boxes_outside_of_the_detector_are_refused():
    for box in ([[0, 0], [5, 4]], [[-1, 0], [2, 4]], [[3, 0], [2, 4]]):
        with pytest.raises(ShapeError, match="leaves the sig shape"):
            default_get_read_ranges(0, 1, None, 1, np.array([box]), np.array(ONE_FILE), (4, 4), 8)


def test_a_depth_of_zero_is_refused():
    with pytest.raises(ShapeError, match="depth 0"):
        default_get_read_ranges(0, 1, None, 0, boxes((1, 4, 4), (4, 4)), np.array(ONE_FILE), (4, 4), 8)


@pytest.mark.parametrize(("files", "stop", "frame"), [(ONE_FILE, 7, 5), ([[0, 2, 0, 0], [3, 5, 1, 0]], 5, 2), ([[1, 5, 0, 0]], 5, 0)])
def test_frames_in_no_file_are_an_index_error(files, stop, frame):
    with pytest.raises(IndexError, match=f"frame {frame} is in no file"):
        ranges_of(0, stop, (2, 4, 4), files=files)


def test_a_file_table_without_headers_is_taken():
    assert lines(ranges_of(0, 2, (2, 4, 4), files=[[0, 5, 0]])) == [([0, 0, 0, 2, 4, 4], [[0, 0, 16], [0, 16, 32]], 0)]


def test_a_million_frames_take_no_loop():
    files = [[0, 10**6, 0, 0]]
    slices, ranges, _ = ranges_of(0, 10**6, (1000, 256, 256), sig=(256, 256), bpp=16, files=files, frame_header_bytes=384)
    assert ranges.shape == (1000, 1000, 3)
    assert ranges[-1, -1].tolist() == [0, 999999 * 131456 + 384, 999999 * 131456 + 131456]
    assert slices[-1].tolist() == [[999000, 0, 0], [1000, 256, 256]]


def fourth_column(bpp, frame_in_file_idx, slice_sig_size, sig_size, sig_origin, frame_footer_bytes, frame_header_bytes, file_header_bytes,
                  file_idx, read_ranges):
    read_ranges.append((file_idx, 1000 * frame_in_file_idx, 1000 * frame_in_file_idx + 16, 42))


def two_for_each_frame(bpp, frame_in_file_idx, slice_sig_size, sig_size, sig_origin, frame_footer_bytes, frame_header_bytes,
                       file_header_bytes, file_idx, read_ranges):
    for plane in range(2):
        start = file_header_bytes + 100 * frame_in_file_idx + 50 * plane + sig_origin
        read_ranges.append((file_idx, start, start + slice_sig_size))


def whole_frames_only(slices_arr, fileset_arr, slice_sig_sizes, sig_origins, inner_indices_start, inner_indices_stop, frame_indices,
                      sig_size, px_to_bytes, bpp, frame_header_bytes, frame_footer_bytes, file_idxs, slice_offset, extra, sig_shape):
    """One range for a block; `extra` says how many bytes more."""
    tile_slice = np.zeros((2, 3), dtype=np.int64)
    tile_slice[0, 0] = slice_offset + inner_indices_start
    tile_slice[1] = (inner_indices_stop - inner_indices_start, sig_shape[0], sig_shape[1])
    first, last = frame_indices[inner_indices_start], frame_indices[inner_indices_stop - 1]
    return [(0, tile_slice, [(file_idxs[0], first * sig_size, (last + 1) * sig_size + extra[0])])]


def plain(function):
    return function


def compiled(function):
    return pytest.importorskip("numba").njit(function)


def inlined(function):
    return pytest.importorskip("numba").njit(inline="always")(function)


as_given = pytest.mark.parametrize("given", [plain, compiled, inlined])


@as_given
def test_ranges_may_carry_further_columns(given):
    _, ranges, _ = ranges_of(0, 3, (2, 4, 4), function=make_get_read_ranges(given(fourth_column)))
    assert ranges.tolist() == [[[0, 0, 16, 42], [0, 1000, 1016, 42]], [[0, 2000, 2016, 42], [0, 0, 0, 0]]]


@as_given
def test_frames_may_have_several_ranges(given):
    found = ranges_of(1, 4, (2, 2, 4), files=TWO_FILES, function=make_get_read_ranges(given(two_for_each_frame)))
    assert lines(found) == [
        ([1, 0, 0, 2, 2, 4], [[0, 110, 118], [0, 160, 168], [1, 20, 28], [1, 70, 78]], 0),
        ([1, 2, 0, 2, 2, 4], [[0, 118, 126], [0, 168, 176], [1, 28, 36], [1, 78, 86]], 1),
        ([3, 0, 0, 1, 2, 4], [[1, 120, 128], [1, 170, 178], [0, 0, 0], [0, 0, 0]], 0),
        ([3, 2, 0, 1, 2, 4], [[1, 128, 136], [1, 178, 186], [0, 0, 0], [0, 0, 0]], 1),
    ]


@as_given
def test_blocks_may_be_made_by_the_user(given):
    function = make_get_read_ranges(read_ranges_tile_block=given(whole_frames_only))
    found = ranges_of(-1, 5, (3, 2, 4), sync_offset=-1, function=function, extra=(7,))
    assert lines(found) == [([1, 0, 0, 3, 4, 4], [[0, 0, 55]], 0), ([4, 0, 0, 2, 4, 4], [[0, 48, 87]], 0)]


@pytest.mark.parametrize("name", ["A", "D", "M"])       # compiling takes seconds; one and two sig axes, with and without a roi
def test_the_default_functions_can_be_compiled(name):
    numba = pytest.importorskip("numba")
    function = make_get_read_ranges(numba.njit(default_px_to_bytes), numba.njit(default_read_ranges_tile_block))
    arguments, expected = EXAMPLES[name]
    assert lines(ranges_of(**arguments, function=function)) == expected
