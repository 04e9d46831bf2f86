"""Position i shows frame i + sync_offset: random arrays, strides, scans and regions of interest, dense and sparse."""

from __future__ import annotations

import numpy as np
import pytest

import gpuio
from gpuio import synth


def random_view(rng):
    """An array whose items lie in memory in some order, and how many of its last axes are the detector's."""
    axes = int(rng.integers(1, 6))
    base = rng.integers(0, 1 << 16, tuple(2 * rng.integers(1, 8, axes)), dtype="u2").transpose(rng.permutation(axes))
    view = base[tuple(slice(None, None, step) for step in rng.choice([1, 2, -1, -2], axes))]
    view = np.asfortranarray(view) if rng.random() < 0.3 else view
    return view.astype(">u2") if rng.random() < 0.2 else view, int(rng.integers(1, axes + 1))


@pytest.mark.parametrize("seed", range(40))
def test_random_arrays(tmp_path, seed):
    rng = np.random.default_rng(seed)
    view, sig_dims = random_view(rng)
    sig = view.shape[view.ndim - sig_dims:]
    frames = np.ascontiguousarray(view).astype("u2").reshape(-1, *sig)
    count = len(frames)
    positions, offset = int(rng.integers(1, 2 * count + 2)), int(rng.integers(1 - count, count))
    k = np.arange(positions) + offset
    there = (k >= 0) & (k < count)
    roi = rng.random(positions) < 0.5
    thin = np.where(rng.random(frames.shape) < 0.2, frames, 0)
    path = synth.write("raw_csr", tmp_path / "a.toml", [thin], nav_shape=(count,), sig_shape=sig)[0]
    scan = {"nav_shape": (positions,), "sync_offset": offset, "device": "cpu"}
    dense = gpuio.load("memory", data=view, sig_dims=sig_dims, num_partitions=int(rng.integers(1, 5)), **scan)
    sparse = gpuio.load("raw_csr", path=path, **scan)
    for ds, stored in ((dense, frames), (sparse, thin)):
        expected = np.zeros((positions, *sig), "u2")
        expected[there] = stored[k[there]]
        np.testing.assert_array_equal(ds[...], expected)
        found, seen = np.zeros_like(expected[roi]), np.zeros(roi.sum(), int)
        for tile in ds.tiles(roi=roi, depth=int(rng.integers(1, 5)), threads=int(rng.integers(0, 3))):
            where = tile.tile_slice.get(nav_only=True)
            found[where] = tile.data
            seen[where] += 1
        np.testing.assert_array_equal(found, expected[roi])
        np.testing.assert_array_equal(seen, there[roi])
        np.testing.assert_array_equal(np.concatenate([part.get_macrotile("u2").data for part in ds.get_partitions()]), expected)
    found = np.zeros((int(roi.sum()), int(np.prod(sig))), "u2")
    for tile in sparse.csr_tiles(roi, depth=4):
        found[tile.tile_slice.get(nav_only=True)] = tile.data.toarray()
    np.testing.assert_array_equal(found.reshape(-1, *sig), expected[roi])
