"""K2IS captures on a CUDA device whose kernels run on the host: eight parts, lost blocks, boxes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import gpuio
from gpuio import engine as engines
from gpuio.corrections import CorrectionSet
from gpuio.synth import k2is as synth
from tests.formats.k2is_files import BLOCK
from tests.kernels.cuda_on_host import host_engine, why_no_compiler

pytestmark = pytest.mark.skipif(why_no_compiler() is not None, reason=str(why_no_compiler()))


def test_frames_with_lost_blocks_are_those_of_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kinds(file: str) -> list[str]:
        return ["decode<uint12_le, u16, f32, 0>", "decode<uint12_le, f32, f32, 1>"]

    monkeypatch.setitem(engines._engines, (os.getpid(), "cuda:0"), host_engine(tmp_path, kinds=kinds))
    monkeypatch.setattr(engines, "why_no_cuda", lambda device=0: None)
    frames = np.random.default_rng(1).integers(1, 4096, (3, 1860, 2048), dtype="u2")
    path, *sectors = synth.write(str(tmp_path / "a.gtg"), [frames], nav_shape=(3,), scan=False)
    stored = np.fromfile(sectors[5], "u1").reshape(-1, BLOCK)
    np.delete(stored, 33, axis=0).tofile(sectors[5])
    expected = frames.copy()
    expected[1, :930, 5 * 256 + 224:5 * 256 + 240] = 0
    cuda, cpu = (gpuio.load("k2is", path=path, device=device) for device in ("cuda", "cpu"))
    assert cuda.engine.name == "cuda:0"
    assert np.array_equal(np.concatenate([np.array(tile.data) for tile in cuda.tiles()]), expected)
    assert np.array_equal(cuda[::-1, 900:1000, 1300:1700], expected[::-1, 900:1000, 1300:1700])
    corrections = CorrectionSet(dark=np.random.default_rng(2).normal(size=(1860, 2048)).astype("f4"))
    ours, theirs = (np.concatenate([np.array(tile.data) for tile in ds.tiles(corrections=corrections)]) for ds in (cuda, cpu))
    assert ours.dtype == "f4" and np.array_equal(ours, theirs)
