"""SEQ and TVIPS on a CUDA device whose kernels run on the host: references, bad pixels, frames at odd bytes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import gpuio
from gpuio import engine as engines
from gpuio import synth
from tests.formats.seq_files import corrected
from tests.kernels.cuda_on_host import host_engine, why_no_compiler

pytestmark = pytest.mark.skipif(why_no_compiler() is not None, reason=str(why_no_compiler()))


@pytest.fixture
def cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kinds(file: str) -> list[str]:
        if file == "corrections":
            return ["repair<f32>"]
        return ["decode<plain<u16>, u16, f32, 0>", "decode<plain<u16>, f32, f32, 3>", "decode<plain<f32>, f32, f32, 0>"]

    monkeypatch.setitem(engines._engines, (os.getpid(), "cuda:0"), host_engine(tmp_path, kinds=kinds))
    monkeypatch.setattr(engines, "why_no_cuda", lambda device=0: None)


@pytest.mark.usefixtures("cuda")
def test_sequences_are_corrected_as_by_hand(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 1 << 16, (15, 7, 11), dtype="u2")
    dark, gain = rng.normal(100, 30, (7, 11)).astype("f4"), rng.gamma(4, 0.25, (7, 11)).astype("f4")
    (path, *_) = synth.write("seq", tmp_path / "a.seq", [frames], nav_shape=(3, 5), sig_shape=(7, 11), dark=dark, gain=gain,
                             footer_bytes=30, defects=[{"Row": "2"}, {"Columns": "5-6"}])
    bad = np.zeros((7, 11), bool)
    bad[2] = bad[:, 5:7] = True
    expected = corrected(frames, dark, gain, bad)
    ds = gpuio.load("seq", path=path, nav_shape=(3, 5), device="cuda")
    assert ds.engine.name == "cuda:0"
    assert np.array_equal(np.concatenate([np.array(tile.data) for tile in ds.tiles()]), expected)
    assert np.array_equal(ds[1:, ::-2, 1:5, 4:9], expected.reshape(3, 5, 7, 11)[1:, ::-2, 1:5, 4:9])


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("frame_header_bytes", [13, 77, 108])
def test_recordings_are_decoded_from_any_byte(tmp_path: Path, frame_header_bytes: int) -> None:
    frames = np.random.default_rng(2).integers(0, 1 << 16, (15, 7, 11), dtype="u2")
    paths = synth.write("tvips", tmp_path / "a.tvips", [frames], nav_shape=(3, 5), sig_shape=(7, 11), frames_per_file=4, idle_before=2,
                        frame_header_bytes=frame_header_bytes)
    ds = gpuio.load("tvips", path=paths[2], nav_shape=(3, 5), sync_offset=2, device="cuda")
    assert ds.engine.name == "cuda:0"
    assert np.array_equal(np.concatenate([np.array(tile.data) for tile in ds.tiles()]), frames)
    assert np.array_equal(ds[..., 2:5, 1:], frames.reshape(3, 5, 7, 11)[..., 2:5, 1:])
