"""Arrays with navigation fastest in the stream: tiles of any kind, and no more passes over the file than memory asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gpuio
from gpuio.base import CorrectionSet, DirectBackend, MMapBackend, TilingScheme
from gpuio.errors import MemoryBudgetError
from gpuio.io.gather import GatherReader
from gpuio.shape import Shape

NAV, SIG = (7, 13), (17, 11)


@pytest.fixture
def values(tmp_path: Path) -> np.ndarray:
    array = np.random.default_rng(9).integers(0, 65536, (*NAV, *SIG), dtype="u2")
    np.save(tmp_path / "scan.npy", np.asfortranarray(array.astype(">u2")))
    return array


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Frames of each pass over the file."""
    counts: list[int] = []
    gather = GatherReader.gather

    def counting(self, frames, into):
        counts.append(len(frames))
        gather(self, frames, into)

    monkeypatch.setattr(GatherReader, "gather", counting)
    return counts


@pytest.mark.parametrize("backend", [None, MMapBackend(), DirectBackend()])
@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("memory", [20_000, 60_000, None])
def test_tiles_are_those_of_the_array(tmp_path, values, backend, threads, memory):
    ds = gpuio.open(tmp_path / "scan.npy", device="cpu", io_backend=backend)
    flat = values.reshape(-1, *SIG)
    roi = np.random.default_rng(2).random(NAV) < 0.3
    for chosen, truth in ((None, flat), (roi, flat[roi.ravel()])):
        for dtype in ("u2", "f4"):
            got = [np.array(tile.data) for tile in ds.tiles(dtype=dtype, memory=memory, threads=threads, roi=chosen)]
            np.testing.assert_array_equal(np.concatenate(got), truth.astype(dtype))


def test_corrections_are_made_in_gathered_frames(tmp_path, values):
    dark = np.random.default_rng(4).normal(100, 3, SIG).astype("f4")
    tiles = gpuio.open(tmp_path / "scan.npy", device="cpu").tiles(corrections=CorrectionSet(dark=dark))
    np.testing.assert_array_equal(np.concatenate([np.array(t.data) for t in tiles]), values.reshape(-1, *SIG).astype("f4") - dark)


def test_tiles_cut_along_the_detector_cost_one_pass_a_partition(tmp_path, values, passes):
    ds = gpuio.open(tmp_path / "scan.npy", device="cpu")
    scheme = TilingScheme.make_for_shape(Shape((3, 5, 11), sig_dims=2), ds.shape)
    seen = np.zeros((91, *SIG), "u2")
    partitions = list(ds.get_partitions())
    for part in partitions:
        for tile in part.get_tiles(scheme):
            seen[tile.tile_slice.get()] = tile.data
    np.testing.assert_array_equal(seen, values.reshape(-1, *SIG))
    assert len(passes) == len(partitions) and sum(passes) == 91


def test_a_stream_takes_as_few_passes_as_memory_allows(tmp_path, values, passes):
    ds = gpuio.open(tmp_path / "scan.npy", device="cpu")
    frame_bytes = 2 * 17 * 11
    list(ds.tiles(depth=2, memory=40 * frame_bytes))
    assert len(passes) == -(-91 // passes[0])
    assert passes[0] >= 0.6 * 40, "a quarter is for the pieces, the rest but a tile for frames"


def test_a_budget_below_one_frame_is_refused(tmp_path, values):
    with pytest.raises(MemoryBudgetError, match="scan.npy"):
        list(gpuio.open(tmp_path / "scan.npy", device="cpu").tiles(memory=600))
