"""Partitions as chunks of a dask array."""

from __future__ import annotations

import numpy as np
import pytest

import gpuio
from gpuio.errors import ShapeError
from tests.formats.items import random_items

pytest.importorskip("dask.array", reason="dask is not installed; it is part of the test extra")

ITEMS = random_items(1, (4, 5, 7, 11), "u2")


def load(**parameters):
    return gpuio.load("memory", data=ITEMS, device="cpu", num_partitions=2, **parameters)


def test_a_chunk_is_a_partition():
    from gpuio.integrations.dask import make_dask_array

    ds = load()
    array, workers = make_dask_array(ds)
    assert array.shape == ITEMS.shape and array.dtype == "f4" and array.chunks == ((2, 2), (5,), (7,), (11,))
    assert len(workers) == 2 and set(workers.values()) == {None}
    np.testing.assert_array_equal(array.compute(), ITEMS.astype("f4"))
    for delayed, part in zip(workers, ds.get_partitions(), strict=True):
        np.testing.assert_array_equal(delayed.compute(), part.get_macrotile().data)


def test_partitions_that_end_inside_a_row():
    from gpuio.integrations.dask import make_dask_array

    array, _ = make_dask_array(gpuio.load("memory", data=ITEMS, device="cpu", num_partitions=3), dtype="uint16")
    assert array.shape == ITEMS.shape and array.dtype == "u2"
    np.testing.assert_array_equal(array.compute(), ITEMS)


@pytest.mark.parametrize("sync_offset", [0, 3, -12])
def test_a_region_of_interest_and_blanks(sync_offset):
    from gpuio.integrations.dask import make_dask_array

    k = np.arange(20) + sync_offset
    shown = np.zeros((20, 7, 11), "u2")
    shown[(k >= 0) & (k < 20)] = ITEMS.reshape(20, 7, 11)[k[(k >= 0) & (k < 20)]]
    ds = load(sync_offset=sync_offset)
    np.testing.assert_array_equal(make_dask_array(ds, dtype="u2")[0].compute(), shown.reshape(ITEMS.shape))
    roi = np.random.default_rng(2).random((4, 5)) < 0.5
    array, workers = make_dask_array(ds, dtype="u2", roi=roi)
    assert array.shape == (roi.sum(), 7, 11) and array.chunks[0] == (roi[:2].sum(), roi[2:].sum()) and len(workers) == 2
    np.testing.assert_array_equal(array.compute(), shown[roi.ravel()])


def test_nothing_selected_of_a_partition():
    from gpuio.integrations.dask import make_dask_array

    roi = np.zeros(20, bool)
    roi[13] = True
    array, _ = make_dask_array(load(), roi=roi)
    assert array.chunks[0] == (1,)         # dask leaves empty chunks out
    np.testing.assert_array_equal(array.compute(), ITEMS.reshape(20, 7, 11)[13:14].astype("f4"))
    with pytest.raises(ShapeError, match="has 3 entries"):
        make_dask_array(load(), roi=np.ones(3, bool))
