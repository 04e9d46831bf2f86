"""Shape and Slice: every value of the specification's tables."""

from __future__ import annotations

import operator
import pickle

import numpy as np
import pytest
import sparse

from gpuio.errors import GpuioError
from gpuio.shape import Shape, Slice, SliceUsageError

x = Shape((3, 5, 16, 20), sig_dims=2)


def box(origin: tuple[int, ...], shape: tuple[int, ...], sig_dims: int = 2) -> Slice:
    return Slice(origin, Shape(shape, sig_dims=sig_dims))


def test_nav_and_sig_are_shapes_of_their_own():
    assert x.nav == Shape((3, 5), sig_dims=0)
    assert x.sig == Shape((16, 20), sig_dims=2)
    assert (x.nav.sig.dims, x.sig.dims, x.sig.nav.dims) == (0, 2, 0)


def test_sizes_and_dims():
    assert (x.size, x.nav.size, x.sig.size, x.dims, len(x)) == (4800, 15, 320, 4, 4)


@pytest.mark.parametrize(("flat", "entries", "nav_dims", "sig_dims"), [
    (x.flatten_nav(), (15, 16, 20), 1, 2),
    (x.flatten_sig(), (3, 5, 320), 2, 1),
    (x.nav.flatten_nav(), (15,), 1, 0),
    (Shape((4, 4), sig_dims=2).flatten_nav(), (0, 4, 4), 1, 2),
])
def test_flattening_keeps_the_other_axes(flat, entries, nav_dims, sig_dims):
    assert (tuple(flat), flat.nav.dims, flat.sig.dims) == (entries, nav_dims, sig_dims)


def test_an_empty_shape_has_size_0():
    assert Shape((4, 4), sig_dims=2).nav.size == 0


def test_a_shape_is_a_sequence_of_plain_ints():
    assert (x[0], x[-1], x[1:3]) == (3, 20, (5, 16))
    assert type(x[1:3]) is tuple
    assert tuple(x) == x.to_tuple() == (3, 5, 16, 20)
    assert repr(x) == "(3, 5, 16, 20)"
    numpy_ints = Shape(np.array([3, 5, 16, 20]), sig_dims=np.int64(2))
    assert numpy_ints == x
    assert all(type(n) is int for n in numpy_ints)
    assert np.zeros(x).shape == (3, 5, 16, 20)


def test_a_tuple_on_the_right_extends_sig():
    assert operator.add(x, (2,)) == Shape((3, 5, 16, 20, 2), sig_dims=3)


def test_a_tuple_on_the_left_extends_nav_behind_its_axes():
    assert operator.add((2,), x) == Shape((3, 5, 2, 16, 20), sig_dims=2)


@pytest.mark.parametrize("other", [x, 5, [2]])
def test_only_tuples_can_be_added(other):
    with pytest.raises(TypeError):
        x + other


def test_equality_takes_values_and_sig_dims():
    assert x == Shape((3, 5, 16, 20), sig_dims=2)
    assert x != Shape((3, 5, 16, 20), sig_dims=1)
    assert x != (3, 5, 16, 20)
    assert len({x, Shape((3, 5, 16, 20), sig_dims=2), Shape((3, 5, 16, 20), sig_dims=3)}) == 2


@pytest.mark.parametrize(("shape", "sig_dims", "message"), [
    ((3, -1), 1, "negative"), ((3, 4), 3, "sig_dims is 3"), ((3, 4), -1, "sig_dims is -1"),
])
def test_impossible_shapes_are_refused(shape, sig_dims, message):
    with pytest.raises(ValueError, match=message) as error:
        Shape(shape, sig_dims=sig_dims)
    assert isinstance(error.value, GpuioError)


def test_a_shape_of_fractions_is_refused():
    with pytest.raises(TypeError):
        Shape((3.0, 4), sig_dims=1)


def test_shapes_and_slices_survive_pickling():
    for value in (x, box((2, 0, 4), (4, 8, 8))):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert pickle.loads(pickle.dumps(value, protocol)) == value


a = box((2, 0, 4), (4, 8, 8))
b = box((4, 2, 0), (10, 3, 8))


@pytest.mark.parametrize(("found", "expected"), [
    (a.intersection_with(b), box((4, 2, 4), (2, 3, 4))),
    (a.intersection_with(box((20, 0, 0), (2, 8, 8))), box((20, 0, 4), (0, 8, 4))),
    (a.shift(b), box((-2, -2, 4), (4, 8, 8))),
    (a.shift_by((1, -1, 2)), box((3, -1, 6), (4, 8, 8))),
    (a.discard_nav(), box((0, 0, 4), (0, 8, 8))),
    (a.nav, box((2,), (4,), sig_dims=0)),
    (a.sig, box((0, 4), (8, 8))),
    (Slice.from_shape((3, 4, 5), sig_dims=2), box((0, 0, 0), (3, 4, 5))),
    (box((1, 2, 0, 0), (1, 3, 8, 8)).flatten_nav((4, 6, 8, 8)), box((8, 0, 0), (3, 8, 8))),
    (box((1, 0, 0, 0), (2, 6, 8, 8)).flatten_nav(Shape((4, 6, 8, 8), sig_dims=2)), box((6, 0, 0), (12, 8, 8))),
    (box((1, 2, 0, 0), (1, 1, 8, 8)).flatten_nav((4, 6, 8, 8)), box((8, 0, 0), (1, 8, 8))),
])
def test_slice_arithmetic(found, expected):
    assert found == expected


def test_a_slice_is_null_if_any_axis_is_empty():
    assert a.intersection_with(box((20, 0, 0), (2, 8, 8))).is_null()
    assert not a.is_null()


def test_get_makes_an_index():
    assert a.get() == (slice(2, 6), slice(0, 8), slice(4, 12))
    assert a.get(sig_only=True) == (slice(0, 8), slice(4, 12))
    assert a.get(nav_only=True) == (slice(2, 6),)


def test_get_cuts_arrays():
    stack = np.random.default_rng(1).random((7, 11, 13))
    assert np.array_equal(a.get(stack), stack[2:6, 0:8, 4:12])
    assert np.array_equal(a.get(stack, sig_only=True), stack[:, 0:8, 4:12])
    assert np.array_equal(a.get(stack[3], sig_only=True), stack[3, 0:8, 4:12])
    assert np.array_equal(a.get(stack, nav_only=True), stack[2:6])


def test_get_refuses_what_an_index_would_misread():
    with pytest.raises(SliceUsageError, match="outside"):
        a.shift(b).get(np.zeros((9, 9, 9)))
    with pytest.raises(SliceUsageError, match="exclude"):
        a.get(sig_only=True, nav_only=True)


@pytest.mark.parametrize(("whole", "step", "expected"), [
    (box((0, 0), (5, 7)), (2, 4),
     [((0, 0), (2, 4)), ((0, 4), (2, 3)), ((2, 0), (2, 4)), ((2, 4), (2, 3)), ((4, 0), (1, 4)), ((4, 4), (1, 3))]),
    (box((3, 0, 0), (5, 4, 4)), (2, 4, 4), [((3, 0, 0), (2, 4, 4)), ((5, 0, 0), (2, 4, 4)), ((7, 0, 0), (1, 4, 4))]),
    (box((3, 1), (5, 4)), (9, 9), [((3, 1), (5, 4))]),
    (box((3, 1), (0, 4)), (2, 2), []),
])
def test_subslices_cover_a_slice_in_c_order(whole, step, expected):
    assert list(whole.subslices(step)) == [box(o, s) for o, s in expected]


def test_adjust_for_roi_counts_selected_positions():
    roi = np.zeros(20, dtype=bool)
    roi[[1, 3, 5, 8, 13]] = True
    whole = box((4, 0, 0), (6, 8, 8))
    expected = box((2, 0, 0), (2, 8, 8))
    assert whole.adjust_for_roi(roi) == expected
    assert whole.adjust_for_roi(roi.reshape(4, 5)) == expected
    assert whole.adjust_for_roi(sparse.COO.from_numpy(roi.reshape(4, 5))) == expected
    assert whole.adjust_for_roi(None) is whole
    with pytest.raises(SliceUsageError, match="2 nav axes"):
        box((0, 0, 0, 0), (2, 2, 2, 2)).adjust_for_roi(roi)


def test_equality_and_repr():
    assert a == box((2, 0, 4), (4, 8, 8))
    assert a != box((2, 0, 4), (4, 8, 8), sig_dims=1)
    assert a != "a slice"
    assert hash(a) == hash(box((2, 0, 4), (4, 8, 8)))
    assert repr(a) == "<Slice origin=(2, 0, 4) shape=(4, 8, 8)>"


@pytest.mark.parametrize("misuse", [
    lambda: Slice((0, 0), (4, 4)),
    lambda: Slice((0, 0, 0), Shape((4, 4), sig_dims=2)),
    lambda: a.intersection_with(box((0, 0), (4, 4))),
    lambda: a.intersection_with(box((0, 0, 0), (4, 4, 4), sig_dims=1)),
    lambda: a.shift(box((0, 0), (4, 4))),
    lambda: a.shift_by((1, 2)),
    lambda: a.subslices((2, 2)),
    lambda: a.subslices((2, 2, 2, 2)),
    lambda: a.subslices((2, 0, 2)),
    lambda: box((1, 2, 0, 0), (2, 3, 8, 8)).flatten_nav((4, 6, 8, 8)),
    lambda: box((1, 1, 0, 0), (2, 6, 8, 8)).flatten_nav((4, 6, 8, 8)),
    lambda: box((1, 5, 0, 0), (1, 2, 8, 8)).flatten_nav((4, 6, 8, 8)),
    lambda: box((1, 5, 0, 0), (1, 1, 8, 8)).flatten_nav((6, 8, 8)),
])
def test_misuse_is_a_slice_usage_error(misuse):
    with pytest.raises(SliceUsageError) as error:
        misuse()
    assert isinstance(error.value, ValueError)
    assert "\n" not in str(error.value)
