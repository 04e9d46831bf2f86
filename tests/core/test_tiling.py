"""TilingScheme and Negotiator: every number of the specification's tables."""

from __future__ import annotations

import enum
import math
from types import SimpleNamespace

import numpy as np
import pytest

from gpuio.corrections import CorrectionSet
from gpuio.geometry.tiling import Negotiator, Preference, TilingScheme, scale_factors
from gpuio.shape import Shape, Slice


def sig_slice(origin: tuple[int, ...], shape: tuple[int, ...]) -> Slice:
    return Slice(origin, Shape(shape, sig_dims=len(shape)))


def scheme(tileshape: tuple[int, ...], sig: tuple[int, ...], intent=None) -> TilingScheme:
    return TilingScheme.make_for_shape(Shape(tileshape, sig_dims=len(sig)), Shape((4, 6, *sig), sig_dims=len(sig)), intent=intent)


def test_a_scheme_cuts_the_sig_shape_in_c_order():
    made = scheme((3, 2, 3), (5, 7))
    assert len(made) == 9
    assert (made[0], made[2], made[8]) == (sig_slice((0, 0), (2, 3)), sig_slice((0, 6), (2, 1)), sig_slice((4, 6), (1, 1)))
    assert made.slices == list(enumerate(made))
    assert (made.depth, made.shape, made.dataset_shape, made.intent) == \
        (3, Shape((3, 2, 3), sig_dims=2), Shape((4, 6, 5, 7), sig_dims=2), None)


def test_boxes_as_array():
    made = scheme((3, 4, 32), (32, 32))
    assert made.slices_array.dtype == np.int64
    assert made.slices_array.tolist() == [[[y, 0], [4, 32]] for y in range(0, 32, 4)]
    assert scheme((2, 5), (7,)).slices_array.tolist() == [[[0], [5]], [[5], [2]]]


def test_boxes_cover_each_pixel_once():
    for tileshape, sig in [((1, 2, 3), (5, 7)), ((1, 4, 4, 4), (3, 5, 7)), ((1, 9), (4,))]:
        seen = np.zeros(sig, dtype=int)
        for box in scheme(tileshape, sig):
            seen[box.get()] += 1
        assert (seen == 1).all()


@pytest.mark.parametrize(("tileshape", "message"), [
    (Shape((2, 3, 2, 3), sig_dims=2), "2 nav axes"), (Shape((3, 2), sig_dims=1), "1 sig axes"), (Shape((3, 0, 2), sig_dims=2), "below 1"),
])
def test_impossible_schemes_are_refused(tileshape, message):
    with pytest.raises(ValueError, match=message):
        TilingScheme.make_for_shape(tileshape, Shape((4, 6, 5, 7), sig_dims=2))


def partition(frames: int) -> SimpleNamespace:
    return SimpleNamespace(shape=Shape((frames, 5, 7), sig_dims=2))


def test_only_partition_processing_adjusts_the_depth():
    whole = scheme((20, 5, 7), (5, 7), intent="partition")
    adjusted = whole.adjust_for_partition(partition(13))
    assert (adjusted.depth, adjusted.intent, list(adjusted)) == (13, "partition", list(whole))
    assert whole.adjust_for_partition(partition(20)) is whole
    for intent in ("tile", "frame", None):
        other = scheme((20, 5, 7), (5, 7), intent=intent)
        assert other.adjust_for_partition(partition(13)) is other


@pytest.mark.parametrize(("shape", "within", "target", "expected"), [
    ((930, 16), (1860, 2048), 1024, (1, 1)), ((930, 16), (1860, 2048), 930 * 16 * 16, (2, 8)),
    ((930, 16), (1860, 2048), 930 * 16 * 128, (2, 64)), ((930, 16), (1860, 2048), 930 * 16 * 129, (2, 64)),
    ((930, 16), (1860, 2048), math.inf, (2, 128)),
])
def test_scale_factors(shape, within, target, expected):
    assert scale_factors(shape, within, target) == expected


class FakeDataSet:
    def __init__(self, shape, dtype, sig_dims=2, base=None, io_size=None, backend_io_size=None, adjust=None):
        self.shape = Shape(shape, sig_dims=sig_dims)
        self.dtype, self.base, self.io_size, self.backend_io_size, self.adjust = np.dtype(dtype), base, io_size, backend_io_size, adjust

    def get_base_shape(self, roi):
        return self.base or (1,) * self.shape.sig.dims + (self.shape.sig[-1],)

    def get_min_sig_size(self):
        return 4 * 4096 // self.dtype.itemsize

    def get_max_io_size(self):
        return self.io_size

    def get_io_backend(self):
        size = self.backend_io_size
        return None if size is None else SimpleNamespace(get_impl=lambda: SimpleNamespace(get_max_io_size=lambda: size))

    def adjust_tileshape(self, tileshape, roi):
        return self.adjust or tileshape

    def need_decode(self, read_dtype, roi, corrections):
        return roi is not None or np.dtype(read_dtype) != self.dtype or (corrections is not None and corrections.have_corrections())


class Method(enum.Enum):
    TILE = "tile"
    FRAME = "frame"
    PARTITION = "partition"


def udf(method="tile", depth=Preference.DEFAULT_DEPTH, size=Preference.BEST_FIT):
    return SimpleNamespace(get_method=lambda: method, get_tiling_preferences=lambda: {"depth": depth, "total_size": size})


BEST_FIT, ENDLESS, FRAME, PARTITION = udf(), udf(size=np.inf), udf("frame"), udf("partition")


def negotiate(dataset, frames, udfs, dtype="f4", roi=None, corrections=None) -> TilingScheme:
    approx = Shape((frames, *dataset.shape.sig), sig_dims=dataset.shape.sig.dims)
    return Negotiator().get_scheme(udfs, dataset, dtype, approx, roi=roi, corrections=corrections)


FLOATS = FakeDataSet((16, 16, 128, 128), "f4")
BIG_ENDIAN = FakeDataSet((256, 256, 256, 256), ">u2")
LARGE = FakeDataSet((64, 64, 2048, 2048), "u2")


@pytest.mark.parametrize(("dataset", "frames", "udfs", "expected"), [
    (FLOATS, 128, [BEST_FIT], (64, 32, 128)), (FLOATS, 128, [ENDLESS], (128, 128, 128)), (FLOATS, 128, [FRAME], (16, 128, 128)),
    (FLOATS, 128, [PARTITION], (128, 128, 128)), (FLOATS, 128, [BEST_FIT, FRAME], (16, 128, 128)),
    (FLOATS, 128, [BEST_FIT, PARTITION], (128, 128, 128)),
    (BIG_ENDIAN, 2048, [ENDLESS], (32, 32, 256)), (BIG_ENDIAN, 2048, [BEST_FIT], (32, 32, 256)), (BIG_ENDIAN, 2048, [FRAME], (4, 256, 256)),
    (BIG_ENDIAN, 2048, [PARTITION], (2048, 256, 256)), (BIG_ENDIAN, 2048, [udf(depth=1)], (32, 32, 256)),
    (BIG_ENDIAN, 2048, [udf(depth=128)], (32, 32, 256)), (BIG_ENDIAN, 2048, [udf(size=128 << 10)], (4, 32, 256)),
    (BIG_ENDIAN, 2048, [udf(size=1000)], (1, 32, 256)),
    (FakeDataSet((256, 256, 256, 256), ">u2", io_size=16 << 20), 2048, [ENDLESS], (512, 32, 256)),
    (FakeDataSet((256, 256, 256, 256), ">u2", backend_io_size=16 << 20), 2048, [ENDLESS], (512, 32, 256)),
    (LARGE, 32, [BEST_FIT], (32, 4, 2048)), (LARGE, 32, [FRAME], (1, 2048, 2048)), (LARGE, 32, [PARTITION], (32, 2048, 2048)),
    (FakeDataSet((8, 4, 1860, 2048), "u2", base=(1, 930, 16)), 32, [udf(depth=128)], (17, 930, 16)),
    (FakeDataSet((1024, 144, 144), "f4"), 1024, [BEST_FIT], (65, 28, 144)),
    (FakeDataSet((100, 1000), "f4", sig_dims=1), 100, [BEST_FIT], (100, 1000)),
    (FakeDataSet((7, 11, 13, 17), "f4"), 77, [BEST_FIT], (77, 13, 17)),
    (FLOATS, 128, [udf(depth=np.inf, size=np.inf)], (128, 128, 128)), (FLOATS, 128, [udf(depth=0, size=0)], (1, 32, 128)),
])
def test_negotiated_tileshapes(dataset, frames, udfs, expected):
    found = negotiate(dataset, frames, udfs)
    assert tuple(found.shape) == expected
    assert found.dataset_shape == dataset.shape


def test_decoding_bounds_the_tile_by_the_io_size():
    roi = np.ones((16, 16), dtype=bool)
    assert tuple(negotiate(FLOATS, 128, [ENDLESS], roi=roi).shape) == (64, 32, 128)
    assert tuple(negotiate(FLOATS, 128, [ENDLESS], dtype="u2").shape) == (128, 32, 128)


def excluded(shape, *where) -> CorrectionSet:
    mask = np.zeros(shape, dtype=bool)
    for index in where:
        mask[index] = True
    return CorrectionSet(excluded_pixels=mask, allow_empty=True)


@pytest.mark.parametrize(("dataset", "frames", "one", "corrections", "expected"), [
    (BIG_ENDIAN, 2048, ENDLESS, CorrectionSet(dark=np.ones((256, 256))), (32, 32, 256)),
    (BIG_ENDIAN, 2048, ENDLESS, excluded((256, 256), (8, 8)), (34, 30, 256)),
    (BIG_ENDIAN, 2048, ENDLESS, excluded((256, 256), (15, 10)), (34, 30, 256)),
    (BIG_ENDIAN, 2048, ENDLESS, excluded((256, 256), (slice(None, None, 2), 8)), (4, 256, 256)),
    (FakeDataSet((32, 1860, 2048), "u2", base=(1, 930, 16)), 32, udf(depth=128), excluded((1860, 2048), (930, 16)), (4, 1860, 32)),
])
def test_borders_keep_away_from_excluded_pixels(dataset, frames, one, corrections, expected):
    assert tuple(negotiate(dataset, frames, [one], corrections=corrections).shape) == expected


@pytest.mark.parametrize(("methods", "expected"), [
    (["tile"], "tile"), (["tile", "frame"], "frame"), (["frame", "partition", "tile"], "partition"),
])
def test_intent_is_the_widest_method(methods, expected):
    for names in (methods, [Method(m) for m in methods]):
        assert negotiate(FLOATS, 128, [udf(m) for m in names]).intent == expected


def test_nothing_to_negotiate_for_is_an_error():
    with pytest.raises(ValueError, match="no udfs"):
        negotiate(FLOATS, 128, [])
    with pytest.raises(ValueError, match="'pixel'"):
        negotiate(FLOATS, 128, [udf("pixel")])


def test_the_data_set_has_the_last_word():
    assert tuple(negotiate(FakeDataSet((16, 16, 128, 128), "f4", adjust=(16, 128, 128)), 128, [BEST_FIT]).shape) == (16, 128, 128)


def test_a_data_set_that_moves_borders_is_warned_of():
    moved = FakeDataSet((16, 16, 128, 128), "f4", adjust=(64, 31, 128))
    with pytest.warns(RuntimeWarning, match=r"\(64, 32, 128\) to \(64, 31, 128\)"):
        negotiate(moved, 128, [BEST_FIT])
    with pytest.raises(ValueError, match="excluded pixels"):
        negotiate(moved, 128, [BEST_FIT], corrections=excluded((128, 128), (2, 2)))


def validate(shape, base=(1, 2, 2), size=10**6, corrections=None, itemsize=4, sig=(8, 8)):
    Negotiator().validate(shape, sig, size, 0, itemsize, base, corrections)


@pytest.mark.parametrize(("shape", "kwargs", "message"), [
    ((3, 9, 4), {}, "does not fit the sig shape"), ((1, 4, 3), {}, "along axis 2"), ((3, 4, 4), {"base": (2, 2, 2)}, "along axis 0"),
    ((3, 4, 4), {"size": 4 * 47}, "expected at most 47"), ((1, 4, 4), {"base": (2, 2)}, "same axes"),
    ((2, 4, 4), {"size": 4, "corrections": excluded((8, 8), (3, 3))}, "expected at most 1"),
])
def test_validation_refuses(shape, kwargs, message):
    with pytest.raises(ValueError, match=message):
        validate(shape, **kwargs)


def test_validation_passes_multiples_and_whole_axes():
    validate((3, 4, 4), size=4 * 48)
    validate((3, 8, 8), base=(1, 3, 5))


def test_excluded_pixels_may_force_a_frame_that_is_too_large():
    with pytest.warns(RuntimeWarning, match="64 pixels; expected at most 1"):
        validate((1, 8, 8), size=4, corrections=excluded((8, 8), (3, 3)))
