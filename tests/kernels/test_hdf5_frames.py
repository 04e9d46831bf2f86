"""HDF5 on a CUDA device whose kernels run on the host: chunks unpacked on the host and pushed, and chunks that travel packed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import gpuio
from gpuio import engine as engines
from gpuio.corrections import CorrectionSet
from gpuio.errors import FormatError
from gpuio.kernels import CudaEngine
from tests.formats.hdf5_files import BY_LIBRARY, PACKED, counts
from tests.kernels.cuda_on_host import expressions, host_engine, why_no_compiler

pytestmark = pytest.mark.skipif(why_no_compiler() is not None, reason=str(why_no_compiler()))

NAV, SIG = (5, 7), (13, 11)
STORAGE: dict[str, dict[str, Any]] = {
    "contiguous": {}, "boxes": dict(chunks=(2, 3, 4, 5)), "gzip": dict(chunks=(2, 3, 4, 5), **PACKED["gzip shuffle"]),
    "bitshuffle": dict(chunks=(1, 1, *SIG), **PACKED["bitshuffle lz4"]), "lz4": dict(chunks=(1, 3, *SIG), **PACKED["lz4"]),
    "zstd": dict(chunks=(2, 3, 4, 5), **BY_LIBRARY["zstd"]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cuda_hdf5")


@pytest.fixture(scope="module")
def engine(folder: Path) -> CudaEngine:
    def kinds(file: str) -> list[str]:
        if file == "corrections":
            return ["repair<f32>", "repair<f64>"]
        if file != "plain":
            return expressions(file)
        return ["decode<plain<u16>, u16, f32, 0>", "decode<plain<u16>, f32, f32, 0>", "decode<plain<u16>, f32, f32, 3>"]

    return host_engine(folder / "kernels", kinds=kinds)


@pytest.fixture(autouse=True)
def on_cuda(engine: CudaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine on the host."""
    monkeypatch.setitem(engines._engines, (os.getpid(), "cuda:0"), engine)
    monkeypatch.setattr(engines, "why_no_cuda", lambda device=0: None)


def write(folder: Path, name: str, values: np.ndarray, **storage: Any) -> str:
    path = str(folder / f"{name}.h5")
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=values, **storage)
    return path


@pytest.mark.parametrize("storage", STORAGE)
def test_frames_are_those_that_were_written(folder: Path, storage: str) -> None:
    values = counts(1, NAV + SIG)
    ds = gpuio.load("hdf5", path=write(folder, storage, values, **STORAGE[storage]), device="cuda")
    assert ds.engine.name == "cuda:0"
    roi = np.random.default_rng(1).random(NAV) < 0.4
    for memory in (60_000, None):
        assert np.array_equal(np.concatenate([np.array(tile.data) for tile in ds.tiles(memory=memory)]), values.reshape(-1, *SIG))
        assert np.array_equal(np.concatenate([np.array(tile.data) for tile in ds.tiles(memory=memory, roi=roi)]), values[roi])
    assert np.array_equal(ds[4:1:-2, 1::2, 3:9, 2:7], values[4:1:-2, 1::2, 3:9, 2:7])
    assert np.array_equal(ds[:, 3], values[:, 3])


@pytest.mark.parametrize("storage", ["boxes", "gzip", "bitshuffle"])
def test_corrected_tiles_are_those_of_the_cpu_bit_for_bit(folder: Path, storage: str) -> None:
    path = write(folder, storage, counts(2, NAV + SIG), **STORAGE[storage])
    rng = np.random.default_rng(2)
    corrections = CorrectionSet(dark=rng.normal(100, 3, SIG).astype("f4"), gain=rng.normal(1, 0.1, SIG).astype("f4"),
                                excluded_pixels=rng.random(SIG) < 0.1)
    cuda, cpu = (np.concatenate([np.array(tile.data) for tile in gpuio.load("hdf5", path=path, device=device).tiles(
        corrections=corrections, depth=4)]) for device in ("cuda", "cpu"))
    assert cuda.dtype == np.float32
    assert np.array_equal(cuda, cpu)


@pytest.mark.parametrize("storage", ["boxes", "gzip", "bitshuffle"])
def test_chunks_that_were_never_written_have_the_fill_value(folder: Path, storage: str) -> None:
    path = str(folder / f"{storage}.h5")
    values = counts(3, NAV + SIG)
    with h5py.File(path, "w") as file:
        found = file.create_dataset("data", NAV + SIG, "u2", fillvalue=4711, **STORAGE[storage])
        found[1:3, 2:5] = values[1:3, 2:5]
        truth = found[...]
    ds = gpuio.load("hdf5", path=path, device="cuda")
    for _ in range(2):
        assert np.array_equal(np.concatenate([np.array(tile.data) for tile in ds.tiles(depth=4, memory=60_000)]), truth.reshape(-1, *SIG))


def test_a_damaged_chunk_gives_no_pixels(folder: Path) -> None:
    values = counts(4, (8, *SIG))
    path = write(folder, "damaged", values, chunks=(1, *SIG), **PACKED["bitshuffle lz4"])
    with h5py.File(path) as file:
        info = file["data"].id.get_chunk_info(5)
    with open(path, "r+b") as raw:
        raw.seek(info.byte_offset)
        raw.write(b"\xff" * 16)
    got = []
    with pytest.raises(FormatError, match=rf"chunk \(5, 0, 0\), {info.size} bytes at byte {info.byte_offset}: "):
        for tile in gpuio.load("hdf5", path=path, device="cuda").tiles(depth=2, memory=9000):
            got.append(np.array(tile.data))
    assert 1 <= len(got) <= 2
    assert np.array_equal(np.concatenate(got), values[:2 * len(got)])
