"""Tiles cut by a scheme: every pixel once, the values of whole frames; and schemes whose tiles stay in the cache."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuio
from gpuio import synth
from gpuio.base import BufferedBackend, CorrectionSet, DirectBackend, TilingScheme
from gpuio.boxes import CPU_TILE_BYTES, Box, Cut
from gpuio.errors import MemoryBudgetError, ShapeError
from gpuio.geometry.tiling import fitting_box
from gpuio.shape import Shape
from gpuio.sizing import stream_sizes
from tests.pipeline.plain_files import PlainFiles, random_frames, write_files


@pytest.fixture
def frames() -> np.ndarray:
    return random_frames(np.random.default_rng(11), 20, (13, 17), np.dtype("<u2"))


@pytest.fixture
def ds(tmp_path: Path, frames: np.ndarray) -> gpuio.DataSet:
    paths = write_files(tmp_path, frames, [7, 4, 9], rng=np.random.default_rng(1), file_header=5, frame_header=3, frame_footer=1)
    return PlainFiles(paths, [7, 4, 9], "<u2", (13, 17), (4, 5), 0, file_header=5, frame_header=3, frame_footer=1).initialize().to("cpu")


def scheme(ds: gpuio.DataSet, *tileshape: int) -> TilingScheme:
    return TilingScheme.make_for_shape(Shape(tileshape, sig_dims=ds.shape.sig.dims), ds.shape)


def together(tiles: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Tiles put to where they say they belong; each pixel has to come once."""
    out, count = np.zeros(shape), np.zeros(shape, int)
    for tile in tiles:
        where = tile.tile_slice.get()
        out[where] = tile.data
        count[where] += 1
    assert (count == 1).all()
    return out


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("tileshape", [(3, 5, 17), (7, 13, 4), (1, 2, 3), (40, 13, 17)])
def test_every_pixel_comes_once(ds: gpuio.DataSet, frames: np.ndarray, tileshape: tuple[int, ...], threads: int) -> None:
    tiles = ds.tiles("f4", tiling_scheme=scheme(ds, *tileshape), threads=threads)
    np.testing.assert_array_equal(together(tiles, frames.shape), frames.astype("f4"))


def test_boxes_of_a_stack_come_one_after_the_other_in_the_order_of_the_scheme(ds: gpuio.DataSet) -> None:
    seen = [(tile.tile_slice.origin, tuple(tile.shape), tile.scheme_idx) for tile in ds.tiles(tiling_scheme=scheme(ds, 12, 13, 9))]
    assert seen == [((0, 0, 0), (12, 13, 9), 0), ((0, 0, 9), (12, 13, 8), 1), ((12, 0, 0), (8, 13, 9), 0), ((12, 0, 9), (8, 13, 8), 1)]
    assert {tile.shape[0] for tile in ds.tiles(tiling_scheme=scheme(ds, 12, 13, 9), depth=5)} == {5}


def test_with_a_roi(ds: gpuio.DataSet, frames: np.ndarray) -> None:
    roi = np.random.default_rng(4).random((4, 5)) < 0.4
    chosen = frames[roi.ravel()]
    np.testing.assert_array_equal(together(ds.tiles(roi=roi, tiling_scheme=scheme(ds, 3, 4, 17)), chosen.shape), chosen)


def test_boxes_do_not_change_what_corrections_make_of_pixels(ds: gpuio.DataSet) -> None:
    rng = np.random.default_rng(9)
    excluded = np.zeros((13, 17), bool)
    excluded[[4, 5, 12], [3, 3, 0]] = True
    corrections = CorrectionSet(dark=rng.normal(3, 1, (13, 17)), gain=rng.normal(1, 0.1, (13, 17)), excluded_pixels=excluded)
    whole = np.concatenate([np.array(tile.data) for tile in ds.tiles("f4", corrections=corrections)])
    cut = together(ds.tiles("f4", corrections=corrections, tiling_scheme=scheme(ds, 6, 5, 4)), whole.shape)
    np.testing.assert_array_equal(cut.astype("f4"), whole)


def test_boxes_are_those_of_the_reduced_detector(ds: gpuio.DataSet, frames: np.ndarray) -> None:
    reduced = ds.reduce(crop=((1, 13), (0, 16)), bin_sig=4)
    expected = frames[:, 1:, :16].astype("i8").reshape(20, 3, 4, 4, 4).sum(axis=(2, 4))
    np.testing.assert_array_equal(together(reduced.tiles(tiling_scheme=scheme(reduced, 6, 2, 3)), expected.shape), expected)
    crop = ds.tiles(crop=((1, 13), (0, 16)), bin_sig=4, tiling_scheme=scheme(reduced, 6, 2, 3))
    np.testing.assert_array_equal(together(crop, expected.shape), expected)


def test_a_scheme_for_another_detector_is_refused(ds: gpuio.DataSet) -> None:
    other = TilingScheme.make_for_shape(Shape((1, 13, 17), sig_dims=2), Shape((4, 5, 13, 18), sig_dims=2))
    with pytest.raises(ShapeError, match=r"a0\.bin|scheme cuts frames of \(13, 18\); expected a scheme for \(13, 17\)"):
        next(iter(ds.tiles(tiling_scheme=other)))


def test_boxes_need_less_memory_than_whole_frames(ds: gpuio.DataSet, frames: np.ndarray) -> None:
    budget = 13 * 17 * 8
    with pytest.raises(MemoryBudgetError):
        next(iter(ds.tiles("f8", memory=budget)))
    # A stack of packed frames has to fit nevertheless.
    tiles = ds.tiles("f8", memory=budget, tiling_scheme=scheme(ds, 1, 2, 17))
    np.testing.assert_array_equal(together(tiles, frames.shape), frames)


@pytest.mark.parametrize("backend", [BufferedBackend(), DirectBackend()], ids=lambda b: type(b).__name__)
@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("cold", [False, True])
def test_deep_stacks_of_boxes_keep_to_the_budget(ds: gpuio.DataSet, backend: Any, threads: int, cold: bool) -> None:
    """All boxes of a stack are taken from one block, so that packed frames of it have to fit as well."""
    cuts = [Cut.of(ds.layout, Box((0, x), (13, 1), x), np.dtype("f8"), None) for x in range(17)]
    table = np.concatenate([cut.placements(ds.layout) for cut in cuts])
    for budget in (64 << 10, 200 << 10):
        sizes = stream_sizes(ds.layout, ds.engine, backend, np.arange(20).repeat(100), table, cuts, np.dtype("f8"), depth=2000,
                             memory=budget, threads=threads, cold=cold)
        assert 1 <= sizes.depth <= sizes.block_frames
        assert sizes.host_bytes <= budget


@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_a_k2is_capture_in_tiles_that_stay_in_the_cache(tmp_path: Path, dtype: str) -> None:
    pixels = np.random.default_rng(8).integers(0, 4096, (3, 1860, 2048), dtype="u2")
    path = synth.write("k2is", str(tmp_path / "scan.gtg"), iter([pixels]), nav_shape=(3,), sig_shape=(1860, 2048), scan=False)
    ds = gpuio.load("k2is", path=next(p for p in path if p.endswith(".gtg")), device="cpu", nav_shape=(3,))
    fitting = ds.cache_scheme(dtype)
    depth, rows, columns = fitting.shape
    assert (depth, columns % 256) == (1, 0)
    assert CPU_TILE_BYTES / 2.1 <= rows * columns * np.dtype(dtype).itemsize <= CPU_TILE_BYTES
    rests = [rows - box.shape[0] for box in fitting]
    assert max(rests) < -(-1860 // rows)            # cut evenly
    np.testing.assert_array_equal(together(ds.tiles(dtype, tiling_scheme=fitting), pixels.shape), pixels)


def test_corrected_boxes_are_stacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuio.access.CPU_TILE_BYTES", 10 * 17 * 4)
    rng = np.random.default_rng(5)
    pixels = random_frames(rng, 20, (40, 17), np.dtype("<u2"))
    paths = write_files(tmp_path, pixels, [20], 0, 0, 0, rng)
    ds = PlainFiles(paths, [20], "<u2", (40, 17), (4, 5), 0).initialize().to("cpu")
    corrections = CorrectionSet(dark=rng.normal(3, 1, (40, 17)), gain=rng.normal(1, 0.1, (40, 17)))
    assert tuple(ds.cache_scheme("f4").shape) == (1, 10, 17)
    fitting = ds.cache_scheme("f4", corrections=corrections)
    assert tuple(fitting.shape) == (8, 5, 17)
    whole = np.concatenate([np.array(tile.data) for tile in ds.tiles("f4", corrections=corrections)])
    np.testing.assert_array_equal(together(ds.tiles("f4", corrections=corrections, tiling_scheme=fitting), whole.shape).astype("f4"), whole)


def test_small_frames_are_stacked_whole(ds: gpuio.DataSet) -> None:
    fitting = ds.cache_scheme("f4")
    assert tuple(fitting.shape) == (CPU_TILE_BYTES // (13 * 17 * 4), 13, 17)
    assert len(fitting) == 1
    assert ds.cache_scheme().depth == CPU_TILE_BYTES // (13 * 17 * 2)


@pytest.mark.parametrize(("sig", "base", "room", "box"), [
    ((1860, 2048), (930, 256), 1 << 17, (465, 256)), ((1860, 2048), (930, 256), 1 << 19, (930, 512)),
    ((4096, 4096), (1, 4096), 1 << 17, (32, 4096)), ((4096, 4096), (1, 4096), 1000, (1, 820)), ((1860, 2048), (930, 256), 100, (1, 86)),
    ((3, 1000, 1000), (1, 1, 1000), 1 << 17, (1, 125, 1000)), ((5,), (5,), 3, (3,)), ((7,), (1,), 7, (7,)), ((2, 2), (9, 9), 99, (2, 2)),
])
def test_a_box_by_hand(sig: tuple[int, ...], base: tuple[int, ...], room: int, box: tuple[int, ...]) -> None:
    assert fitting_box(sig, base, room) == box


def test_boxes_fit_the_room_and_the_detector() -> None:
    rng = np.random.default_rng(6)
    for _ in range(2000):
        sig = tuple(rng.integers(1, 300, rng.integers(1, 4)).tolist())
        base = tuple(int(rng.integers(1, n + 1)) for n in sig)
        room = int(rng.integers(1, 2 * math.prod(sig) + 1))
        box = fitting_box(sig, base, room)
        assert all(1 <= b <= n for b, n in zip(box, sig, strict=True))
        assert math.prod(box) <= room
