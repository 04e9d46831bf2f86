"""CorrectionSet: arithmetic bit for bit, repair, and tables for engines."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
import sparse

from gpuio.corrections import CorrectionSet, RepairValueError
from gpuio.errors import DataSetException, ShapeError
from gpuio.shape import Shape, Slice


def at(origin: tuple[int, ...], shape: tuple[int, ...], frames: int = 1) -> Slice:
    """A tile slice of a box of the detector."""
    return Slice((7, *origin), Shape((frames, *shape), sig_dims=len(shape)))


def mask(shape: tuple[int, ...], *where) -> np.ndarray:
    result = np.zeros(shape, dtype=bool)
    for index in where:
        result[index] = True
    return result


def corrected(frame: np.ndarray, corrections: CorrectionSet, origin: tuple[int, ...] | None = None) -> np.ndarray:
    data = frame[np.newaxis].copy()
    corrections.apply(data, at(origin or (0,) * frame.ndim, frame.shape))
    return data[0]


def reference(frame: np.ndarray, dark, gain, excluded) -> np.ndarray:
    """The specification's arithmetic, pixel by pixel, with NumPy scalars."""
    wide = np.complex128 if frame.dtype.kind == "c" else np.float64
    out = np.empty_like(frame)
    for index in np.ndindex(frame.shape):
        value = wide(frame[index])
        value = (value - np.float64(0 if dark is None else dark[index])) * np.float64(1 if gain is None else gain[index])
        out[index] = frame.dtype.type(value)
    repaired = out.copy()
    for index in np.ndindex(frame.shape):
        if excluded is None or not excluded[index]:
            continue
        total, count = wide(0), 0
        for offset in itertools.product((-1, 0, 1), repeat=frame.ndim):
            there = tuple(i + o for i, o in zip(index, offset, strict=True))
            if any(offset) and all(0 <= i < n for i, n in zip(there, frame.shape, strict=True)) and not excluded[there]:
                total, count = total + wide(out[there]), count + 1
        if count:
            repaired[index] = frame.dtype.type(total / np.float64(count))
    return repaired


@pytest.mark.parametrize("seed", range(60))
def test_corrections_agree_with_the_arithmetic_pixel_by_pixel(seed):
    rng = np.random.default_rng(seed)
    shape = [(11, 13), (17,), (3, 5, 7)][seed % 3]
    dtype = np.dtype(["f4", "f8", "c8"][seed // 3 % 3])
    frame = (rng.normal(size=shape) * 10.0 ** rng.integers(-3, 6, shape)).astype(dtype)
    if dtype.kind == "c":
        frame += 1j * rng.normal(size=shape).astype("f4")
    dark = None if seed % 5 == 0 else rng.normal(size=shape).astype(["f4", "f8"][seed % 2])
    gain = None if seed % 7 == 0 else rng.uniform(0.5, 2, shape).astype(["f8", "f4"][seed % 2])
    excluded = None if seed % 11 == 0 else rng.random(shape) < 0.15
    found = corrected(frame, CorrectionSet(dark, gain, excluded, allow_empty=True))
    assert found.tobytes() == reference(frame, dark, gain, excluded).tobytes()


SIXTEEN = np.arange(16, dtype=np.float32).reshape(4, 4)


@pytest.mark.parametrize(("where", "expected"), [
    ([(0, 0)], {(0, 0): (1 + 4 + 5) / 3}), ([(0, 1)], {(0, 1): 3.4}), ([(1, 1), (1, 2)], {(1, 1): 34 / 7, (1, 2): 43 / 7}),
])
def test_excluded_pixels_become_the_mean_of_their_neighbours(where, expected):
    found = corrected(SIXTEEN, CorrectionSet(excluded_pixels=mask((4, 4), *where)))
    for index, value in expected.items():
        assert found[index] == np.float32(value)
    untouched = ~mask((4, 4), *where)
    assert np.array_equal(found[untouched], SIXTEEN[untouched])


def test_dark_is_subtracted_before_gain_multiplies():
    assert corrected(SIXTEEN, CorrectionSet(np.ones((4, 4)), np.full((4, 4), 2.0)))[0, 0] == -2


def test_the_corrections_of_an_excluded_pixel_do_not_matter():
    gain = np.ones((4, 4))
    gain[1, 1] = 100
    assert corrected(SIXTEEN, CorrectionSet(np.ones((4, 4)), gain, mask((4, 4), (1, 1))))[1, 1] == 4


def test_a_nan_counts_only_as_a_neighbour():
    frame = SIXTEEN.copy()
    frame[1, 1] = np.nan
    assert corrected(frame, CorrectionSet(excluded_pixels=mask((4, 4), (1, 1))))[1, 1] == 5
    assert np.isnan(corrected(frame, CorrectionSet(excluded_pixels=mask((4, 4), (0, 0))))[0, 0])


def test_three_sig_axes_have_a_cube_of_neighbours():
    frame = (np.arange(27, dtype=np.float64) ** 2).reshape(3, 3, 3)
    assert corrected(frame, CorrectionSet(excluded_pixels=mask((3, 3, 3), (1, 1, 1))))[1, 1, 1] == 232


def test_an_inner_pixel_without_neighbours():
    inner = mask((5, 5), (slice(1, 4), slice(1, 4)))
    with pytest.raises(RepairValueError, match="pixel number 4 "):
        CorrectionSet(excluded_pixels=inner)
    frame = np.arange(25, dtype=np.float32).reshape(5, 5)
    found = corrected(frame, CorrectionSet(excluded_pixels=inner, allow_empty=True))
    assert [found[i] for i in ((2, 2), (1, 1), (1, 3), (3, 1), (3, 3))] == [12, *np.float32([3.6, 6.4, 17.6, 20.4])]
    darker = corrected(frame, CorrectionSet(np.ones((5, 5)), np.full((5, 5), 3.0), inner, allow_empty=True))
    assert darker[2, 2] == 33


def test_emptiness_is_checked_in_each_box():
    corrections = CorrectionSet(excluded_pixels=mask((4, 4), (0, 0), (0, 1)))
    with pytest.raises(RepairValueError, match=r"pixel number 0 at \(0, 0\)"):
        corrected(SIXTEEN[:1, :2], corrections)


def test_neighbours_outside_of_the_box_are_missing():
    frame = np.arange(64, dtype=np.float64).reshape(8, 8)
    corrections = CorrectionSet(excluded_pixels=mask((8, 8), (4, 2)))
    assert corrected(frame, corrections)[4, 2] == 34
    assert corrected(frame[4:], corrections, origin=(4, 0))[0, 2] == 38.8


@pytest.mark.parametrize(("origin", "shape"), [((0, 0), (7, 9)), ((2, 3), (4, 5)), ((6, 0), (1, 9))])
def test_maps_are_cut_to_the_box(origin, shape):
    rng = np.random.default_rng(8)
    stack = rng.normal(size=(3, *shape)).astype("f4")
    dark, gain = rng.normal(size=(7, 9)).astype("f4"), rng.uniform(1, 2, (7, 9))
    excluded = mask((7, 9), (3, 4), (6, 8), (0, 1))
    found = stack.copy()
    CorrectionSet(dark, gain, excluded).apply(found, at(origin, shape, 3))
    cut = tuple(slice(o, o + n) for o, n in zip(origin, shape, strict=True))
    for frame, before in zip(found, stack, strict=True):
        assert np.array_equal(frame, reference(before, dark[cut], gain[cut], excluded[cut]))


def test_large_stacks_are_corrected_whole():
    rng = np.random.default_rng(9)
    stack = rng.normal(size=(23, 257, 263)).astype("f4")        # more pixels than are corrected at a time
    dark = rng.normal(size=(257, 263))
    expected = (stack.astype("f8") - dark).astype("f4")
    CorrectionSet(dark).apply(stack, at((0, 0), (257, 263), 23))
    assert np.array_equal(stack, expected)


def test_pixels_with_gaps_between_them_are_corrected_in_place():
    memory = np.zeros((3, 4, 9), dtype="f4")
    view = memory[:, :, 1:8:2]
    view[...] = SIXTEEN
    CorrectionSet(np.ones((4, 4)), None, mask((4, 4), (1, 1))).apply(view, at((0, 0), (4, 4), 3))
    assert np.array_equal(view[2], reference(SIXTEEN, np.ones((4, 4)), None, mask((4, 4), (1, 1))))
    assert not memory[:, :, ::2].any()


def test_no_frames_are_no_work():
    data = np.zeros((0, 4, 4), dtype="f4")
    CorrectionSet(np.ones((4, 4)), None, mask((4, 4), (1, 1))).apply(data, at((0, 0), (4, 4), 0))


@pytest.mark.parametrize("dtype", ["u2", "i4", "?"])
def test_integers_cannot_be_corrected(dtype):
    with pytest.raises(TypeError, match="floating"):
        CorrectionSet(np.ones((4, 4))).apply(np.zeros((1, 4, 4), dtype), at((0, 0), (4, 4)))


def test_an_empty_set_leaves_integers_alone():
    data = np.arange(16).reshape(1, 4, 4)
    CorrectionSet().apply(data, at((0, 0), (4, 4)))
    assert np.array_equal(data, np.arange(16).reshape(1, 4, 4))


def test_have_corrections_counts_maps_not_their_effect():
    assert not CorrectionSet().have_corrections()
    for name in ("dark", "gain", "excluded_pixels"):
        assert CorrectionSet(**{name: np.zeros((4, 4))}).have_corrections()


def test_getters_return_what_was_given():
    dark, gain, excluded = np.ones((4, 4), "f4"), np.full((4, 4), 2, "u1"), mask((4, 4), (1, 2))
    corrections = CorrectionSet(dark, gain, excluded)
    assert np.array_equal(corrections.get_dark_frame(), dark)
    assert np.array_equal(corrections.get_gain_map(), gain)
    assert np.array_equal(corrections.get_excluded_pixels(), excluded)
    empty = CorrectionSet()
    assert (empty.get_dark_frame(), empty.get_gain_map(), empty.get_excluded_pixels()) == (None, None, None)


def test_sparse_masks_are_taken_without_their_explicit_zeros():
    coo = sparse.COO(coords=[[1, 2], [1, 3]], data=[1, 0], shape=(4, 4), prune=False)
    assert np.array_equal(CorrectionSet(excluded_pixels=coo).get_excluded_pixels(), mask((4, 4), (1, 1)))
    scipy_sparse = pytest.importorskip("scipy.sparse")
    found = CorrectionSet(excluded_pixels=scipy_sparse.csr_matrix(mask((4, 4), (1, 1)))).get_excluded_pixels()
    assert type(found) is np.ndarray
    assert np.array_equal(found, mask((4, 4), (1, 1)))


def test_maps_that_differ_in_shape_are_refused():
    with pytest.raises(ShapeError, match=r"dark frame \(4, 4\), gain map \(4, 5\)"):
        CorrectionSet(np.ones((4, 4)), np.ones((4, 5)))


@pytest.mark.parametrize("name", ["dark", "gain", "excluded_pixels"])
def test_maps_of_another_shape_than_frames_are_refused(name):
    corrections = CorrectionSet(**{name: np.zeros((6, 6))})
    corrections.check((6, 6))
    for shape in ((4, 4), (36,), (1, 6, 6)):
        with pytest.raises(ShapeError, match=r"\(6, 6\)"):
            corrections.check(shape)
    with pytest.raises(ShapeError, match=r"\(6, 6\)"):
        corrections.apply(np.zeros((1, 7, 6), "f4"), at((0, 0), (7, 6)))


def test_complex_maps_are_refused():
    with pytest.raises(TypeError, match="complex128"):
        CorrectionSet(dark=np.ones((4, 4), dtype=complex))


def test_maps_for_engines_are_float32_where_that_is_exact():
    assert CorrectionSet(dark=np.arange(12.0).reshape(3, 4)).dark_flat().dtype == np.float32
    precise = np.arange(12.0).reshape(3, 4) + 1e-12
    assert CorrectionSet(gain=precise).gain_flat().dtype == np.float64
    assert np.array_equal(CorrectionSet(gain=precise).gain_flat(), precise.ravel())
    odd = np.array([[np.nan, np.inf], [-0.0, 1e300]])
    assert CorrectionSet(dark=odd).dark_flat().dtype == np.float64
    assert CorrectionSet(dark=odd[:, :1]).dark_flat().dtype == np.float32
    assert CorrectionSet(dark=np.full((2, 2), 2**24 + 1)).dark_flat().dtype == np.float64
    assert CorrectionSet().dark_flat() is CorrectionSet().gain_flat() is None


def neighbours_of(table) -> dict[int, list[int]]:
    assert table.pixels.dtype == table.starts.dtype == table.neighbours.dtype == np.int64
    return {p: table.neighbours[a:b].tolist() for p, a, b in zip(
        table.pixels.tolist(), table.starts[:-1].tolist(), table.starts[1:].tolist(), strict=True)}


def test_the_repair_table_of_a_frame_and_of_a_box():
    corrections = CorrectionSet(excluded_pixels=mask((4, 5), (1, 1), (1, 2), (3, 4)))
    assert neighbours_of(corrections.repair_table((4, 5))) == {
        6: [0, 1, 2, 5, 10, 11, 12], 7: [1, 2, 3, 8, 11, 12, 13], 19: [13, 14, 18],
    }
    box = Slice((1, 1), Shape((2, 4), sig_dims=2))
    assert neighbours_of(corrections.repair_table((4, 5), box)) == {0: [4, 5], 1: [2, 4, 5, 6]}
    assert corrections.repair_table((4, 5), at((1, 1), (2, 4))) is corrections.repair_table((4, 5), box)
    assert corrections.repair_table((4, 5), Slice((0, 3), Shape((2, 2), sig_dims=2))) is None


def test_the_repair_table_of_a_line_detector():
    assert neighbours_of(CorrectionSet(excluded_pixels=mask((6,), 0, 3)).repair_table((6,))) == {0: [1], 3: [2, 4]}


def test_pixels_without_neighbours_keep_an_empty_entry():
    table = CorrectionSet(excluded_pixels=mask((5, 5), (slice(1, 4), slice(1, 4))), allow_empty=True).repair_table((5, 5))
    assert neighbours_of(table)[12] == []
    assert len(table.pixels) == 9


def test_nothing_to_repair_is_no_table():
    assert CorrectionSet().repair_table((4, 4)) is None
    assert CorrectionSet(excluded_pixels=mask((4, 4))).repair_table((4, 4)) is None


def test_a_repair_table_needs_the_right_frame():
    corrections = CorrectionSet(excluded_pixels=mask((4, 4), (1, 1)))
    with pytest.raises(DataSetException, match=r"\(4, 4\)"):
        corrections.repair_table((4, 5))
    with pytest.raises(DataSetException, match="reaches out"):
        corrections.repair_table((4, 4), Slice((2, 2), Shape((3, 2), sig_dims=2)))


def test_corrections_survive_pickling():
    corrections = CorrectionSet(np.ones((4, 4)), None, mask((4, 4), (1, 1)))
    assert np.array_equal(corrected(SIXTEEN, pickle.loads(pickle.dumps(corrections))), corrected(SIXTEEN, corrections))


THIRD, FOURTH = list(range(0, 256, 3)), list(range(0, 256, 4))


@pytest.mark.parametrize(("tile", "sig", "base", "excluded", "expected"), [
    ((17, 42), (123, 456), (1, 1), ([17], [42]), (16, 41)), ((17, 42), (123, 456), (1, 1), ([33], [42]), (16, 41)),
    ((17, 42), (123, 456), (1, 1), ([122], [23]), (17, 42)), ((16, 41), (123, 456), (3, 3), ([17], [42]), (15, 39)),
    ((14, 42), (123, 456), (7, 1), ([14], [42]), (21, 41)), ((17, 1), (123, 456), (1, 1), ([122], [0]), (17, 2)),
    ((1, 256), (256, 256), (1, 256), ([8], [8]), (5, 256)), ((1, 256), (256, 256), (1, 256), ([0], [8]), (2, 256)),
    ((1, 256), (256, 256), (1, 256), ([255], [8]), (2, 256)), ((1, 256), (256, 256), (1, 256), (THIRD, [5]), (256, 256)),
    ((1, 256), (256, 256), (1, 256), (FOURTH, [5]), (87, 256)), ((930, 16), (1860, 2048), (930, 16), ([930], [16]), (1860, 32)),
    ((1, 256), (1, 256), (1, 256), ([0], [8]), (1, 256)), ((1, 3), (14, 3), (1, 3), ([3, 6], [1]), (8, 3)),
    ((18, 3), (18, 3), (5, 3), ([2, 4, 5, 6, 14], [1]), (18, 3)),
])
def test_tileshapes_keep_away_from_excluded_pixels(tile, sig, base, excluded, expected):
    corrections = CorrectionSet(excluded_pixels=mask(sig, np.ix_(*excluded)), allow_empty=True)
    assert corrections.adjust_tileshape(tile_shape=tile, sig_shape=sig, base_shape=base) == expected


def test_tileshapes_stay_without_excluded_pixels():
    for corrections in (CorrectionSet(dark=np.ones((123, 456))), CorrectionSet(excluded_pixels=mask((123, 456)))):
        assert corrections.adjust_tileshape((17, 42), (123, 456), (1, 1)) == (17, 42)
