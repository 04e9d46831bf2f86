"""Every way to the pixels of a data set, compared in every element with the frames that were written."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gpuio.base import BufferedBackend, DataSet, DirectBackend, MMapBackend, Shape, TilingScheme

BACKENDS = {"mmap": MMapBackend, "buffered": BufferedBackend, "direct": DirectBackend}


def check_every_way(load: Callable[..., DataSet], frames: np.ndarray, backend: str, sync_offset: int, *, tile: tuple[int, ...],
                    cores: int = 4, seed: int = 0) -> None:
    """Compare indexing, streams, tiles of partitions and macrotiles, with and without a region of interest.

    Parameters
    ----------
    load
        Called with `io_backend` and `sync_offset`; the data set is on the CPU.
    frames : ds.dtype[n, *sig]
        All file frames, corrected as the data set does it by itself.
    tile
        Depth and sig shape of the tiles of partitions.
    """
    ds = load(io_backend=BACKENDS[backend](), sync_offset=sync_offset)
    ds.set_num_cores(cores)
    nav, sig = tuple(ds.shape.nav), tuple(ds.shape.sig)
    assert (ds.dtype, ds.image_count, sig) == (frames.dtype, len(frames), frames.shape[1:])
    k = np.arange(int(np.prod(nav))) + sync_offset
    has_data = (k >= 0) & (k < len(frames))
    scan = np.zeros((len(k), *sig), frames.dtype)
    scan[has_data] = frames[k[has_data]]

    whole = ds[...]
    assert whole.dtype == ds.dtype
    np.testing.assert_array_equal(whole, scan.reshape(*nav, *sig))
    np.testing.assert_array_equal(ds[..., 1:-1, 2:5], scan.reshape(*nav, *sig)[..., 1:-1, 2:5])

    chosen = np.random.default_rng(seed).integers(0, 2, nav).astype(bool)
    scheme = TilingScheme.make_for_shape(Shape(tile, sig_dims=len(sig)), ds.shape)
    corrections = ds.get_correction_data()
    parts = list(ds.get_partitions())
    assert len(parts) > 1
    for part in parts:
        part.set_corrections(corrections)
    for roi in (None, chosen):
        expected, wanted = (scan, has_data) if roi is None else (scan[roi.ravel()], has_data[roi.ravel()])
        seen = np.zeros(len(expected), int)
        for tile_ in ds.tiles(roi=roi, depth=4):
            where = tile_.tile_slice.get(nav_only=True)
            np.testing.assert_array_equal(tile_.data, expected[where])
            seen[where] += 1
        np.testing.assert_array_equal(seen, wanted)
        seen_pixels = np.zeros(expected.shape, int)
        reached = 0
        for part in parts:
            for tile_ in part.get_tiles(scheme, dest_dtype="float32", roi=roi):
                where = tile_.tile_slice.get()
                np.testing.assert_array_equal(tile_.data, expected[where].astype("f4"))
                seen_pixels[where] += 1
            macrotile = part.get_macrotile(dest_dtype="float32", roi=roi)
            blank = ~wanted[reached:reached + macrotile.shape[0], *(None for _ in sig)]
            truth = expected[reached:reached + macrotile.shape[0]].astype("f4")
            np.testing.assert_array_equal(macrotile.data, np.where(blank, 0, truth))
            reached += macrotile.shape[0]
        assert reached == len(expected)
        np.testing.assert_array_equal(seen_pixels, np.broadcast_to(wanted[:, *(None for _ in sig)], expected.shape))
