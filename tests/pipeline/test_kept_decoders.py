"""Streams of a layout share decoders without maps; nobody else gets them, and they do not travel."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gpuio
from gpuio import boxes
from gpuio.corrections import CorrectionSet

FRAMES = np.random.default_rng(1).integers(0, 4096, (12, 5, 7), dtype=np.uint16)


@pytest.fixture
def ds(tmp_path):
    path = tmp_path / "scan.raw"
    path.write_bytes(FRAMES.astype(">u2").tobytes())
    return gpuio.load("raw", path=str(path), dtype=">u2", nav_shape=(3, 4), sig_shape=(5, 7), device="cpu")


def stack(ds, **options):
    return np.concatenate([tile.data.copy() for tile in ds.tiles(**options)])


def test_streams_of_one_dtype_and_box_share_one(ds):
    for _ in range(3):
        np.testing.assert_array_equal(stack(ds, dtype="float32"), FRAMES)
    (first,) = ds.layout.decoders.values()
    np.testing.assert_array_equal(ds[1, 2], FRAMES[6])
    np.testing.assert_array_equal(ds[..., 1:3, 2:], FRAMES.reshape(3, 4, 5, 7)[..., 1:3, 2:])
    assert len(ds.layout.decoders) == 3 and first in ds.layout.decoders.values()
    np.testing.assert_array_equal(stack(ds, dtype="float32"), FRAMES)
    assert len(ds.layout.decoders) == 3


def test_decoders_with_maps_are_not_kept_and_new_maps_count(ds):
    dark = np.ones((5, 7), dtype=np.float32)
    corrections = CorrectionSet(dark=dark)
    np.testing.assert_array_equal(stack(ds, corrections=corrections), FRAMES.astype("f4") - 1)
    dark[...] = 3
    np.testing.assert_array_equal(stack(ds, corrections=CorrectionSet(dark=dark)), FRAMES.astype("f4") - 3)
    np.testing.assert_array_equal(stack(ds, dtype="float32"), FRAMES)
    assert len(ds.layout.decoders) == 1


@pytest.mark.parametrize("dtype", ["c8", "f2", "?"])
def test_decoders_with_scratch_are_not_kept(ds, dtype):
    np.testing.assert_array_equal(stack(ds, dtype=dtype), FRAMES.astype(dtype))
    assert ds.layout.decoders == {}


def test_they_do_not_travel(ds):
    ds[0, 0]
    before = len(pickle.dumps(ds))
    stack(ds, dtype="float32")
    assert len(ds.layout.decoders) == 2 and len(pickle.dumps(ds)) == before
    copy = pickle.loads(pickle.dumps(ds))
    assert copy.layout.decoders == {}
    np.testing.assert_array_equal(stack(copy), FRAMES)


def test_there_are_only_so_many(ds, monkeypatch):
    monkeypatch.setattr(boxes, "KEPT_DECODERS", 2)
    for dtype in ("f4", "f8", "u4", "i8", "f4"):
        np.testing.assert_array_equal(stack(ds, dtype=dtype), FRAMES)
        assert 0 < len(ds.layout.decoders) <= 2


def test_threads_that_stream_one_data_set_share_them(ds):
    def run(i):
        return np.array_equal(stack(ds, dtype=("f4", "f8", "u2")[i % 3], depth=1 + i % 4), FRAMES)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(run, range(30)))
    assert len(ds.layout.decoders) == 3


def test_views_need_none(tmp_path):
    path = tmp_path / "scan.npy"
    np.save(path, FRAMES)
    ds = gpuio.open(path, device="cpu", io_backend=gpuio.base.MMapBackend())
    np.testing.assert_array_equal(stack(ds), FRAMES)
    assert ds.layout.decoders == {}
