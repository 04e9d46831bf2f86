"""Recorded files on a CUDA device whose kernels run on the host: the pixels that two independent readers agree on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from gpuio import engine as engines
from gpuio.kernels import CudaEngine, _launch
from tests.formats.recorded import check, needs_recordings, rows
from tests.kernels.cuda_on_host import host_engine, why_no_compiler

pytestmark = [needs_recordings, pytest.mark.skipif(why_no_compiler() is not None, reason=str(why_no_compiler()))]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> CudaEngine:
    def kinds(file: str) -> list[str]:
        types = [c for c in _launch.C_TYPES.values() if file == "plain" or not c.endswith("8")]
        return [f"decode<{file}<{c}>, {c}, f32, 0>" for c in types]

    return host_engine(tmp_path_factory.mktemp("recorded"), kinds=kinds)


@pytest.mark.parametrize(("name", "shape", "dtype", "digest"),
                         [row for format in ("dm", "ser", "mrc", "blo", "hdf5") for row in rows(format)])
def test_recorded_pixels(engine: CudaEngine, monkeypatch: pytest.MonkeyPatch, name: str, shape: tuple[int, ...], dtype: str,
                         digest: str) -> None:
    monkeypatch.setitem(engines._engines, (os.getpid(), "cuda:0"), engine)
    monkeypatch.setattr(engines, "why_no_cuda", lambda device=0: None)
    launches = engine._runtime.launches     # type: ignore[attr-defined]
    before = len(launches)
    ds = check(name, shape, dtype, digest, device="cuda")
    assert ds.engine is engine and len(launches) > before
    assert np.array(ds[0]).dtype == np.dtype(dtype) and Path(ds.files[0]).name == name.split("/")[1]
