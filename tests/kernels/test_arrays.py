"""Data sets that are no files, on a CUDA device whose kernels run on the host: arrays of the host and of the device."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuio
from gpuio import engine as engines
from gpuio import synth
from gpuio.corrections import CorrectionSet
from gpuio.errors import DataSetException
from tests.kernels import cuda_on_host
from tests.kernels.cuda_on_host import host_engine, why_no_compiler

pytestmark = pytest.mark.skipif(why_no_compiler() is not None, reason=str(why_no_compiler()))

NAV, SIG = (5, 7), (11, 13)
BASE = np.random.default_rng(1).integers(0, 65536, (10, 14, 22, 26), dtype="u2")
ARRAYS = {"C order": np.ascontiguousarray(BASE[:5, :7, :11, :13]), "Fortran order": np.asfortranarray(BASE[:5, :7, :11, :13]),
          "backwards": BASE[4::-1, 6::-1, 10::-1, 12::-1], "every second": BASE[::2, ::2, ::2, ::2],
          "big-endian": BASE[:5, :7, :11, :13].astype(">u2")}


class OnDevice(np.ndarray):
    """An array of another library on the device."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.__array_interface__, "version": 3}


def on_device(array: np.ndarray) -> OnDevice:
    return array.view(OnDevice)


class Exchanged:
    """The same for a library that knows DLPack only."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cuda_arrays")


@pytest.fixture(autouse=True)
def cuda(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """"cuda" is the engine whose kernels run on the host."""
    def kinds(file: str) -> list[str]:
        if file == "corrections":
            return ["repair<f32>"]
        if file == "scatter":
            return ["scatter<u16, u16>", "scatter<u32, u16>", "scatter<u64, u16>"]
        return [f"decode<{file}<u16>, u16, f32, 0>", f"decode<{file}<u16>, f32, f32, 3>", f"decode<{file}<u16>, f32, f64, 3>"]

    monkeypatch.setitem(engines._engines, (os.getpid(), "cuda:0"), host_engine(folder, kinds=kinds))
    monkeypatch.setattr(engines, "why_no_cuda", lambda device=0: None)


def same_everywhere(ds: gpuio.dataset.DataSet, truth: np.ndarray) -> None:
    flat, roi = truth.reshape(-1, *SIG), np.random.default_rng(2).random(NAV) < 0.4
    assert ds.engine.name == "cuda:0"
    assert np.array_equal(ds[...], truth) and np.array_equal(ds[3::-2, 2:5, 3:7, -5:], truth[3::-2, 2:5, 3:7, -5:])
    for options in ({}, {"memory": 30_000}, {"depth": 4, "threads": 2}):
        assert np.array_equal(np.concatenate([np.array(tile.data) for tile in ds.tiles(**options)]), flat)
    assert np.array_equal(np.concatenate([np.array(tile.data) for tile in ds.tiles(roi=roi, depth=3)]), flat[roi.ravel()])
    assert np.array_equal(ds.sum_sig(), truth.sum(axis=(2, 3), dtype="u8"))
    parts = [part.get_macrotile("uint16").data for part in ds.get_partitions()]
    assert len(parts) > 1 and np.array_equal(np.concatenate(parts), flat)


@pytest.mark.parametrize("name, wrapped", [*((name, on_device) for name in ARRAYS),
                                           *((name, Exchanged) for name in ARRAYS if name != "big-endian")])     # not in DLPack
def test_an_array_on_the_device_stays_there(name: str, wrapped: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def push(self: Any, n_bytes: int) -> None:
        raise AssertionError("bytes come from the host")

    monkeypatch.setattr(cuda_on_host.HostStaging, "push", push)
    array = ARRAYS[name]
    ds = gpuio.load("memory", data=wrapped(array), num_partitions=3)
    assert ds.device == "cuda:0" and ds.metadata["device"] == "cuda:0"
    same_everywhere(ds, array.astype("u2"))


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_of_the_host_is_decoded_on_the_device(name: str) -> None:
    same_everywhere(gpuio.load("memory", data=ARRAYS[name], num_partitions=3, device="cuda"), ARRAYS[name].astype("u2"))


@pytest.mark.parametrize("where", ["host", "device"])
def test_blocks_of_a_dask_array_stay_where_they_are(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    da = pytest.importorskip("dask.array", reason="dask is not installed; it is part of the test extra")
    items, pushes, push = ARRAYS["C order"], [], cuda_on_host.HostStaging.push
    monkeypatch.setattr(cuda_on_host.HostStaging, "push", lambda self, n: pushes.append(n) or push(self, n))
    array = da.from_array(items, chunks=(2, -1, -1, -1))
    if where == "device":
        array = array.map_blocks(on_device, dtype="u2", meta=on_device(items[:0]))
    ds = gpuio.load("dask", array, sig_dims=2, min_size=0, device="cuda")
    assert ds.device == "cuda:0" and ds.metadata["device"] == ("cuda:0" if where == "device" else "cpu")
    same_everywhere(ds, items)
    assert bool(pushes) == (where == "host")


def test_a_block_on_another_device_than_the_array_says_is_refused() -> None:
    da = pytest.importorskip("dask.array", reason="dask is not installed; it is part of the test extra")
    array = da.from_array(ARRAYS["C order"], chunks=(2, -1, -1, -1)).map_blocks(on_device, dtype="u2", meta=ARRAYS["C order"][:0])
    with pytest.raises(DataSetException, match="block 0: has device cuda:0; the dask array says cpu"):
        gpuio.load("dask", array, sig_dims=2, min_size=0, device="cuda")[0, 0]


SPARSE = np.where(np.random.default_rng(7).random(NAV + SIG) < 0.1, ARRAYS["C order"], 0)


@pytest.mark.parametrize("indices", ["<u2", ">i4", "<i8"])
def test_entries_travel_packed_and_frames_are_put_together_on_the_device(indices: str, tmp_path: Path) -> None:
    path = synth.write("raw_csr", tmp_path / "a.toml", [SPARSE.reshape(-1, *SIG)], nav_shape=NAV, sig_shape=SIG, dtype=">u2",
                       indices_dtype=indices)[0]
    ds = gpuio.open(path, device="cuda")
    ds.set_num_cores(3)
    launches = ds.engine._runtime.launches
    same_everywhere(ds, SPARSE)
    assert {name.partition("<")[0] for name, *_ in launches} == {"scatter", "decode"}


@pytest.mark.parametrize("kind", ["scipy", "sparse"])
def test_sparse_arrays_of_the_host(kind: str) -> None:
    library = pytest.importorskip(kind, reason=f"{kind} is not installed; it is part of the test extra")
    if kind == "scipy":
        from scipy.sparse import csr_matrix

        ds = gpuio.load("memory", data=csr_matrix(SPARSE.reshape(35, -1)), nav_shape=NAV, sig_shape=SIG, device="cuda", num_partitions=3)
    else:
        ds = gpuio.load("memory", data=library.COO.from_numpy(SPARSE), device="cuda", num_partitions=3)
    same_everywhere(ds, SPARSE)


def test_corrected_tiles_are_those_of_the_cpu_bit_for_bit() -> None:
    rng = np.random.default_rng(12)
    corrections = CorrectionSet(dark=rng.normal(100, 3, SIG), gain=rng.normal(1, 0.1, SIG), excluded_pixels=rng.random(SIG) < 0.1)
    array = ARRAYS["every second"]
    ours, theirs = (np.concatenate([np.array(tile.data) for tile in ds.tiles(corrections=corrections)])
                    for ds in (gpuio.load("memory", data=on_device(array)), gpuio.load("memory", data=array, device="cpu")))
    assert ours.dtype == "f4" and np.array_equal(ours, theirs)


def test_another_device_is_refused() -> None:
    ds = gpuio.load("memory", data=on_device(ARRAYS["C order"]), device="cpu")
    with pytest.raises(DataSetException, match="the array is on cuda:0 and stays there; device 'cpu' was asked for"):
        ds[0, 0]
