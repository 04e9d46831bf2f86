"""Pixels handed over whole: to NumPy, to CuPy, and by DLPack to whoever takes it."""

from __future__ import annotations

import os

import numpy as np
import pytest

import gpuio
from gpuio import engine as engines
from gpuio.base import DataTile
from tests.integrations.scans import NAMES
from tests.kernels.cuda_on_host import host_engine, why_no_compiler


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sync_offset", [0, 4, -6])
def test_a_data_set_becomes_a_numpy_array(scan, name, sync_offset):
    ds, truth = scan(name).open(sync_offset=sync_offset), scan(name).truth(sync_offset)
    whole = ds.to_numpy()
    assert whole.dtype == truth.dtype
    np.testing.assert_array_equal(whole, truth)
    np.testing.assert_array_equal(np.asarray(ds), truth)
    np.testing.assert_array_equal(np.asarray(ds, dtype="f8"), truth.astype("f8"))
    np.testing.assert_array_equal(ds.to_numpy(dtype="c8"), truth.astype("c8"))
    with pytest.raises(ValueError, match="without a copy"):
        np.array(ds, copy=False)


def test_pixels_take_an_index_a_dtype_and_corrections(scan):
    ds, truth = scan("mib").open(), scan("mib").truth().astype("f8")
    dark = np.random.default_rng(2).integers(0, 99, (13, 20)).astype("f8")
    corrections = gpuio.CorrectionSet(dark=dark)
    np.testing.assert_array_equal(ds.pixels(dtype="f8", corrections=corrections), truth - dark)
    np.testing.assert_array_equal(ds.to_numpy(dtype="f8", corrections=corrections), truth - dark)
    np.testing.assert_array_equal(ds.pixels(np.s_[2:5, ::3, 4:, 3], dtype="f8", corrections=corrections), (truth - dark)[2:5, ::3, 4:, 3])
    assert ds.output_dtype() == np.uint16 and ds.output_dtype(corrections=corrections) == ds.output_dtype("f4") == np.float32
    assert ds.pixels(np.s_[:0], dtype="f8").shape == (0, 11, 13, 20)
    with pytest.raises(TypeError, match="floating"):
        ds.pixels(np.s_[0], dtype="u2", corrections=corrections)


@pytest.mark.skipif(why_no_compiler() is not None, reason=str(why_no_compiler()))
def test_a_device_gives_its_own_arrays_and_numpy_ones(scan, tmp_path, monkeypatch):
    engine = host_engine(tmp_path, kinds=lambda file: ["decode<swap<f32>, f32, f32, 0>"])
    monkeypatch.setitem(engines._engines, (os.getpid(), "cuda:0"), engine)
    monkeypatch.setattr(engines, "why_no_cuda", lambda device=0: None)
    ds, truth = scan("raw").open(sync_offset=5), scan("raw").truth(5)
    np.testing.assert_array_equal(ds.to_cupy(), truth)
    np.testing.assert_array_equal(ds.to("cuda").to_cupy(), truth)
    downloads = []
    monkeypatch.setattr(engine, "download", lambda array: downloads.append(len(array)) or np.array(array))
    np.testing.assert_array_equal(ds.to("cuda").to_numpy(), truth)
    assert sum(downloads) == 66                                     # blank positions are not


def test_without_a_gpu_there_is_no_cupy_array(scan, monkeypatch):
    monkeypatch.setattr(engines, "why_no_cuda", lambda device=0: "no driver")
    with pytest.raises(gpuio.BackendUnavailable, match="'cuda' is not available: no driver"):
        scan("npy").open().to_cupy()


# -- DLPack --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_arrays_and_tiles_are_taken_by_dlpack(scan, name):
    ds, frames = scan(name).open(), scan(name).frames
    taken = np.from_dlpack(ds[...])
    np.testing.assert_array_equal(taken, scan(name).truth())
    seen = 0
    for tile in ds.tiles(depth=5):
        given = np.from_dlpack(tile)
        first = int(tile.tile_slice.origin[0])
        np.testing.assert_array_equal(given, frames[first:first + len(given)])
        assert np.shares_memory(given, tile.data)
        seen += len(given)
    assert seen == len(frames)


class OldConsumer:
    """Asks as consumers did before DLPack 1.0, which have no flag for memory that may only be read."""

    def __init__(self, tile: DataTile, **keywords: object) -> None:
        self._tile, self._keywords = tile, keywords

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._tile.__dlpack_device__()

    def __dlpack__(self, **_: object) -> object:
        return self._tile.__dlpack__(**self._keywords)


def test_views_of_a_file_are_copied_for_those_who_might_write_to_them(scan):
    ds, truth = scan("npy").open(), scan("npy").frames
    tile = next(iter(ds.tiles(depth=5)))
    assert not tile.data.flags.writeable
    given = np.from_dlpack(OldConsumer(tile))
    np.testing.assert_array_equal(given, truth[:5])
    assert not np.shares_memory(given, tile.data)
    with pytest.raises(BufferError, match="without a copy"):
        np.from_dlpack(OldConsumer(tile, copy=False))
    assert np.shares_memory(np.from_dlpack(OldConsumer(tile, max_version=(1, 0))), tile.data)


def test_torch_takes_arrays_and_tiles(scan):
    torch = pytest.importorskip("torch", reason="torch is not installed; what it takes is tested with NumPy's own from_dlpack")
    ds = scan("mib").open()
    np.testing.assert_array_equal(torch.from_dlpack(ds.pixels(dtype="i4")).numpy(), scan("mib").truth())
    for tile in scan("npy").open().tiles(depth=50):
        first = int(tile.tile_slice.origin[0])
        np.testing.assert_array_equal(torch.from_dlpack(tile).numpy(), scan("npy").frames[first:first + len(tile)])
