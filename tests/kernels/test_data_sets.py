"""Data sets on a CUDA device, all the way from the file: the pipeline drives the engine as it does on a GPU."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import gpuio
from gpuio import engine as engines
from gpuio.corrections import CorrectionSet
from tests.kernels.cuda_on_host import host_engine, why_no_compiler

pytestmark = pytest.mark.skipif(why_no_compiler() is not None, reason=str(why_no_compiler()))

NAV, SIG = (7, 5), (33, 29)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cuda_data_sets")


@pytest.fixture
def frames(folder: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Frames of a file; "cuda" is the engine whose kernels run on the host."""
    def kinds(file: str) -> list[str]:
        if file == "corrections":
            return ["repair<f32>", "repair<f64>"]
        if file == "transpose":
            return ["transpose<u16>"]
        return ["decode<swap<u16>, u16, f32, 0>"] + [f"decode<swap<u16>, {out}, f64, 3>" for out in ("f32", "f64")]

    monkeypatch.setitem(engines._engines, (os.getpid(), "cuda:0"), host_engine(folder, kinds=kinds))
    monkeypatch.setattr(engines, "why_no_cuda", lambda device=0: None)
    values = np.random.default_rng(11).integers(0, 65536, (*NAV, *SIG), dtype="u2")
    values.astype(">u2").tofile(folder / "scan.raw")
    np.save(folder / "scan.npy", np.asfortranarray(values.astype(">u2")))
    return values


def load(folder: Path, device: str) -> gpuio.dataset.DataSet:
    return gpuio.load("raw", path=str(folder / "scan.raw"), nav_shape=NAV, sig_shape=SIG, dtype=">u2", device=device)


def test_indexing_and_tiles_give_the_frames(folder: Path, frames: np.ndarray) -> None:
    ds = load(folder, "cuda")
    assert ds.engine.name == "cuda:0"
    assert np.array_equal(ds[2:5, ::2], frames[2:5, ::2]) and np.array_equal(ds[6, 4], frames[6, 4])
    tiles = [np.array(tile.data) for tile in ds.tiles(memory=60_000)]
    assert len(tiles) > 1 and np.array_equal(np.concatenate(tiles), frames.reshape(-1, *SIG))


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "float16"])
def test_corrected_tiles_are_those_of_the_cpu_bit_for_bit(folder: Path, frames: np.ndarray, dtype: str) -> None:
    rng = np.random.default_rng(12)
    dark, gain = rng.normal(100, 3, SIG), rng.normal(1, 0.1, SIG).astype("f4")
    corrections = CorrectionSet(dark=dark, gain=gain, excluded_pixels=rng.random(SIG) < 0.1)
    cuda, cpu = (np.concatenate([np.array(tile.data) for tile in load(folder, device).tiles(dtype=dtype, corrections=corrections)])
                 for device in ("cuda", "cpu"))
    assert cuda.dtype == dtype and cuda.shape == (35, *SIG)
    assert np.array_equal(cuda, cpu)
    assert not np.allclose(cuda, frames.reshape(-1, *SIG))


@pytest.mark.parametrize("memory", [40_000, 100_000, None])
def test_frames_of_an_array_with_navigation_fastest_are_put_together_on_the_device(folder: Path, frames: np.ndarray, memory: int) -> None:
    ds = gpuio.load("npy", path=str(folder / "scan.npy"), device="cuda")
    assert ds.layout.strided is not None
    flat, roi = frames.reshape(-1, *SIG), np.random.default_rng(13).random(NAV) < 0.4
    engine = ds.engine
    before = len(engine._runtime.launches)
    assert np.array_equal(np.concatenate([np.array(tile.data) for tile in ds.tiles(memory=memory)]), flat)
    assert {name.partition("<")[0] for name, *_ in engine._runtime.launches[before:]} == {"transpose", "decode"}
    assert np.array_equal(np.concatenate([np.array(tile.data) for tile in ds.tiles(memory=memory, roi=roi)]), flat[roi.ravel()])
    assert np.array_equal(ds[5:1:-2, 3], frames[5:1:-2, 3]) and np.array_equal(ds[6, 4], frames[6, 4])
