"""Dark frames, gain maps and excluded pixels that a layout brings: read from files of their own, applied unless others are given."""

from __future__ import annotations

import dataclasses
import pickle
from typing import ClassVar

import numpy as np
import pytest

from gpuio.corrections import CorrectionSet, RepairValueError
from tests.pipeline.plain_files import PlainFiles, random_frames, write_files

SIG, N = (5, 7), 6
#: A row, a column from the second row on, and a pixel.
EXCLUDED = (range(0, 7), range(7 + 3, 35, 7), range(4 * 7 + 5, 4 * 7 + 6))


def corrected(frames, dark, gain):
    """As the specification says: float64, rounded once, then repaired from the neighbours that are not excluded."""
    out = ((frames.astype(np.float64) - dark) * gain).astype(np.float32)
    bad = np.zeros(35, bool)
    bad[[i for r in EXCLUDED for i in r]] = True
    bad = bad.reshape(SIG)
    fixed = out.copy()
    for y, x in np.argwhere(bad):
        near = [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)
                if 0 <= y + dy < 5 and 0 <= x + dx < 7 and not bad[y + dy, x + dx]]
        total = np.zeros(len(out))
        for at in near:
            total += out[:, at[0], at[1]].astype(np.float64)
        fixed[:, y, x] = total / len(near)
    return fixed


@pytest.fixture
def carrying(tmp_path):
    """A data set of uint16 frames with two dark frames of int16 and a gain map of float32; and arrays of all of them."""
    rng = np.random.default_rng(40)
    arrays, layouts = {}, {}
    for name, dtype, n in (("frames", "<u2", N), ("dark", ">i2", 2), ("gain", "<f4", 1)):
        arrays[name] = random_frames(rng, n, SIG, np.dtype(dtype))
        (tmp_path / name).mkdir()
        paths = write_files(tmp_path / name, arrays[name], [n], 11, 0, 3, rng)
        ds = PlainFiles(paths, [n], dtype, SIG, None, file_header=11, frame_footer=3)
        layouts[name] = ds.initialize().layout

    class Carrying(PlainFiles):
        changes: ClassVar = {"dark": layouts["dark"], "gain": layouts["gain"], "excluded": EXCLUDED}

        def _parse(self, source):
            return dataclasses.replace(layouts["frames"], **self.changes)

    return Carrying, arrays


def load(cls, **kwargs):
    return cls([], [], "u2", SIG, (2, 3), **kwargs).initialize().to("cpu")


def test_they_are_applied_to_what_is_read(carrying):
    cls, arrays = carrying
    ds = load(cls)
    dark = arrays["dark"].astype(np.float64).mean(axis=0).astype(np.float32)
    expected = corrected(arrays["frames"], dark, arrays["gain"][0])
    assert ds.dtype == np.float32
    np.testing.assert_array_equal(ds[:], expected.reshape(2, 3, *SIG))
    np.testing.assert_array_equal(np.concatenate([t.data.copy() for t in ds.tiles()]), expected)
    found = ds.get_correction_data()
    np.testing.assert_array_equal(found.get_dark_frame(), dark)
    np.testing.assert_array_equal(found.get_gain_map(), arrays["gain"][0])
    assert np.flatnonzero(found.get_excluded_pixels()).tolist() == sorted({i for r in EXCLUDED for i in r})


def test_an_empty_set_switches_them_off(carrying):
    cls, arrays = carrying
    ds = load(cls)
    tiles = [t.data.copy() for t in ds.tiles(dtype="uint16", corrections=CorrectionSet())]
    np.testing.assert_array_equal(np.concatenate(tiles), arrays["frames"])


def test_a_data_set_without_any_has_the_dtype_of_the_file(carrying):
    cls, arrays = carrying
    cls.changes = {}
    ds = load(cls)
    assert ds.dtype == np.uint16
    assert not ds.get_correction_data().have_corrections()
    np.testing.assert_array_equal(ds[:], arrays["frames"].reshape(2, 3, *SIG))


def test_frames_may_have_another_shape_than_the_detector(carrying):
    cls, arrays = carrying
    cls.changes = {"dark": cls.changes["dark"], "gain": cls.changes["gain"]}
    ds = cls([], [], "u2", SIG, (2, 3))
    ds._sig_shape = (35,)
    ds = ds.initialize().to("cpu")
    dark = arrays["dark"].astype(np.float64).mean(axis=0).astype(np.float32)
    expected = ((arrays["frames"].astype(np.float64) - dark) * arrays["gain"][0]).astype(np.float32)
    np.testing.assert_array_equal(ds[:], expected.reshape(2, 3, 35))


def test_maps_do_not_travel_with_the_data_set(carrying):
    cls, _ = carrying
    ds = load(cls)
    before = len(_state(ds))
    ds.get_correction_data()
    assert ds._carried is not None
    assert len(_state(ds)) == before


def _state(ds):
    return pickle.dumps({key: value for key, value in ds.__getstate__().items() if key != "_layout"})


def test_a_cluster_too_large_to_repair_is_an_error_unless_it_may_stay(carrying):
    cls, arrays = carrying
    cls.changes = {"excluded": (range(7, 14), range(14, 21), range(21, 28))}
    with pytest.raises(RepairValueError, match="has no neighbours"):
        load(cls)[0, 0]
    ds = load(cls)
    ds._allow_unrepairable = True
    np.testing.assert_array_equal(ds[:][:, :, 2], arrays["frames"].reshape(2, 3, *SIG)[:, :, 2].astype("f4"))
