"""Crop and binning through every way to pixels: what NumPy makes of the whole frames."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest

import gpuio
from gpuio.base import BufferedBackend, CorrectionSet, MMapBackend, TilingScheme
from gpuio.boxes import Box, Cut
from gpuio.errors import MemoryBudgetError, ShapeError
from gpuio.reduction import Reduction, binned_dtype
from gpuio.shape import Shape
from tests.pipeline.plain_files import PlainFiles, random_frames, write_files

NAV, N = (3, 5), 13


def summed(frames: np.ndarray, window: tuple[slice, slice], down: int, across: int, dtype: np.dtype) -> np.ndarray:
    """Blocks of the last two axes, added one pixel after the other in C order."""
    part = frames[(..., *window)]
    rows, columns = part.shape[-2] // down, part.shape[-1] // across
    part = part[..., :rows * down, :columns * across].reshape(*part.shape[:-2], rows, down, columns, across)
    wide = np.dtype({"b": "u8", "u": "u8", "i": "i8", "f": "f8", "c": "c16"}[frames.dtype.kind])
    total = np.zeros((*part.shape[:-4], rows, columns), wide)
    for dy in range(down):
        for dx in range(across):
            total = total + part[..., dy, :, dx].astype(wide)
    return total.astype(dtype)


def scan(folder: Path, dtype: str, sig: tuple[int, ...], seed: int, backend: object = None) -> tuple[PlainFiles, np.ndarray]:
    """A data set of two files, sync offset 2, and what its positions show."""
    rng = np.random.default_rng(seed)
    frames = random_frames(rng, N, sig, np.dtype(dtype))
    paths = write_files(folder, frames, [8, 5], 7, 3, 5, rng)
    ds = PlainFiles(paths, [8, 5], dtype, sig, NAV, 2, 7, 3, 5, backend, num_partitions=2).initialize().to("cpu")
    shown = np.zeros((15, *sig), frames.dtype.newbyteorder("="))
    shown[:11] = frames[2:]
    return ds, shown


@pytest.mark.parametrize(("dtype", "wide"), [(">u2", "u4"), ("<i2", "i4"), (">f4", "f4"), ("<c8", "c8")])
@pytest.mark.parametrize(("crop", "window", "bin_sig"), [
    (None, (slice(None), slice(None)), 2), (None, (slice(None), slice(None)), (3, 1)),
    (((3, 20), (1, 12)), (slice(3, 20), slice(1, 12)), None), ((slice(2, -1), slice(None, 13)), (slice(2, 22), slice(0, 13)), (2, 5)),
    ((None, (4, 17)), (slice(None), slice(4, 17)), 4),
])
def test_every_way_to_pixels_gives_the_reduced_frames(tmp_path, dtype, wide, crop, window, bin_sig):
    ds, shown = scan(tmp_path, dtype, (23, 19), 31)
    down, across = (1, 1) if bin_sig is None else (bin_sig, bin_sig) if isinstance(bin_sig, int) else bin_sig
    reduced = ds.reduce(crop, bin_sig)
    native = np.dtype(wide) if bin_sig is not None else ds.dtype
    expected = summed(shown, window, down, across, native)
    assert reduced.dtype == native and tuple(reduced.shape) == (*NAV, *expected.shape[1:])
    assert tuple(ds.shape) == (*NAV, 23, 19), "the original is as it was"
    np.testing.assert_array_equal(reduced[...], expected.reshape(*NAV, *expected.shape[1:]))
    np.testing.assert_array_equal(reduced[1, ::2, 1:3, ::-1], expected.reshape(*NAV, *expected.shape[1:])[1, ::2, 1:3, ::-1])
    for tiles in (reduced.tiles(depth=4), ds.tiles(crop=crop, bin_sig=bin_sig, threads=2, depth=3)):
        seen = 0
        for tile in tiles:
            assert tile.data.dtype == native
            np.testing.assert_array_equal(tile.data, expected[tile.tile_slice.get(nav_only=True)])
            seen += len(tile.data)
        assert seen == 11
    kind = native.kind
    scan_image, pattern = reduced.summary()
    exact = expected.astype({"u": "u8", "i": "i8", "f": "f8", "c": "c16"}[kind])
    compare = np.testing.assert_array_equal if kind in "ui" else lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-9)
    compare(scan_image.ravel(), exact.reshape(15, -1).sum(axis=1))      # floating sums: in another order
    compare(pattern, exact.sum(axis=0))


@pytest.mark.parametrize("backend", [MMapBackend(), BufferedBackend()], ids=["mmap", "buffered"])
def test_partitions_tile_the_reduced_detector(tmp_path, backend):
    ds, shown = scan(tmp_path, ">u2", (23, 19), 37, backend)
    reduced = pickle.loads(pickle.dumps(ds.reduce(((1, 23), None), (2, 3))))
    expected = summed(shown, (slice(1, 23), slice(None)), 2, 3, np.dtype("f4"))
    scheme = TilingScheme.make_for_shape(Shape((3, 4, 5), sig_dims=2), reduced.shape)
    seen = np.zeros(expected.shape, int)
    for part in reduced.get_partitions():
        for tile in part.get_tiles(scheme, dest_dtype="float32"):
            where = tile.tile_slice.get()
            np.testing.assert_array_equal(tile.data, expected[where])
            seen[where] += 1
        macro = part.get_macrotile(dest_dtype="float32")
        np.testing.assert_array_equal(macro.data, expected[macro.tile_slice.get(nav_only=True)])
    np.testing.assert_array_equal(seen[:11], 1)
    np.testing.assert_array_equal(seen[11:], 0)


@pytest.mark.parametrize(("crop", "window", "factors"), [
    (((2, 22), (1, 16)), (slice(2, 22), slice(1, 16)), (2, 3)),
    (((8, 14), None), (slice(8, 14), slice(None)), (2, 19)), (((9, 10), (3, 9)), (slice(9, 10), slice(3, 9)), (1, 3)),   # runs of pixels
])
def test_corrections_come_before_sums_and_see_the_whole_detector(tmp_path, crop, window, factors):
    ds, shown = scan(tmp_path, "<u2", (23, 19), 41)
    rng = np.random.default_rng(43)
    excluded = rng.random((23, 19)) < 0.1
    corrections = CorrectionSet(dark=rng.normal(100, 3, (23, 19)), gain=rng.normal(1, 0.1, (23, 19)), excluded_pixels=excluded)
    whole = np.zeros(shown.shape, "f4")
    for tile in ds.tiles(corrections=corrections):
        whole[tile.tile_slice.get(nav_only=True)] = tile.data
    reduced = ds.reduce(crop, factors)
    expected = summed(whole, window, *factors, np.dtype("f4"))
    got = np.concatenate([np.array(tile.data) for tile in reduced.tiles(corrections=corrections)])
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected[:11])
    with pytest.raises(TypeError, match="corrections need a floating output"):
        next(iter(reduced.tiles(dtype="u4", corrections=corrections)))


def test_axes_before_the_last_two_stay_whole(tmp_path):
    ds, shown = scan(tmp_path, "<i2", (3, 11, 7), 47)
    reduced = ds.reduce(((1, 11), None), (5, 2))
    expected = summed(shown, (slice(1, 11), slice(None)), 5, 2, np.dtype("i4"))
    np.testing.assert_array_equal(reduced[...], expected.reshape(*NAV, 3, 2, 3))
    np.testing.assert_array_equal(reduced[2, :, 1:, 1], expected.reshape(*NAV, 3, 2, 3)[2, :, 1:, 1])


def test_a_line_detector_is_reduced_along_its_axis(tmp_path):
    ds, shown = scan(tmp_path, "u1", (29,), 53)
    expected = shown[:, 2:27].reshape(15, 5, 5).sum(axis=2, dtype="u2")
    for crop in ((2, 27), (np.int64(2), np.int64(27)), (slice(2, 27),), [(2, 27)]):
        np.testing.assert_array_equal(ds.reduce(crop, 5)[...], expected.reshape(*NAV, 5))


def test_reductions_follow_each_other(tmp_path):
    ds, shown = scan(tmp_path, "<u2", (23, 19), 59)
    once = ds.reduce(((1, 21), (0, 18)), 2).reduce(((1, 10), (2, 8)), (3, 2))
    twice = summed(summed(shown, (slice(1, 21), slice(0, 18)), 2, 2, np.dtype("u4")), (slice(1, 10), slice(2, 8)), 3, 2, np.dtype("u8"))
    np.testing.assert_array_equal(once[...], twice.reshape(*NAV, 3, 3))


def test_options_of_open(tmp_path):
    values = np.random.default_rng(61).integers(0, 65536, (4, 3, 12, 10), dtype="u2")
    np.save(tmp_path / "scan.npy", values)
    path = str(tmp_path / "scan.npy")
    ds = gpuio.open(path, bin_sig=2, crop=((2, 12), (0, 9)), dtype="float32", device="cpu")
    expected = summed(values.reshape(12, 12, 10), (slice(2, 12), slice(0, 9)), 2, 2, np.dtype("f4"))
    assert ds.dtype == np.float32
    np.testing.assert_array_equal(ds[...], expected.reshape(4, 3, 5, 4))
    np.testing.assert_array_equal(gpuio.load("npy", path, dtype="f8", device="cpu")[...], values.astype("f8"))
    values.tofile(tmp_path / "scan.raw")       # whose own parameter `dtype` is that of the stored pixels
    raw = gpuio.load("raw", path=tmp_path / "scan.raw", nav_shape=(4, 3), sig_shape=(12, 10), dtype="<u2", bin_sig=(3, 5), device="cpu")
    np.testing.assert_array_equal(raw[...], summed(values, (slice(None), slice(None)), 3, 5, np.dtype("u4")))


@pytest.mark.parametrize("factors", [1, (2, 3)])
def test_pixels_with_their_highest_byte_first(tmp_path, factors):
    ds, shown = scan(tmp_path, "<u2", (23, 19), 73)
    excluded = np.zeros((23, 19), bool)
    excluded[5, 7] = excluded[0, 0] = True
    reduced = ds.reduce(((0, 20), None), factors, dtype=">u4")
    expected = summed(shown, (slice(0, 20), slice(None)), *np.broadcast_to(factors, 2), np.dtype("u4"))
    pixels = reduced.pixels()
    assert pixels.dtype == np.dtype(">u4")
    np.testing.assert_array_equal(pixels.reshape(expected.shape), expected)
    np.testing.assert_array_equal(reduced.sum_sig().ravel(), expected.sum((1, 2)))
    np.testing.assert_array_equal(reduced.sum_nav(), expected.sum(0))
    corrections = CorrectionSet(excluded_pixels=excluded)
    for dtype in ("f4", "c8"):
        repaired = ds.reduce(None, factors).pixels(dtype=f">{dtype}", corrections=corrections)
        assert repaired.dtype == np.dtype(f">{dtype}")
        np.testing.assert_array_equal(repaired, ds.reduce(None, factors).pixels(dtype=f"<{dtype}", corrections=corrections))


@pytest.mark.parametrize("dtype", ["S4", object, "g", "M8[s]"])
def test_dtypes_that_pixels_cannot_have(tmp_path, dtype):
    with pytest.raises(TypeError, match="expected bool, integer, float or complex"):
        scan(tmp_path, "<u2", (23, 19), 79)[0].reduce(None, 2, dtype=dtype)


def test_explain_takes_the_arguments_of_tiles(tmp_path):
    ds, _ = scan(tmp_path, "<u2", (23, 19), 83)
    explained = ds.explain(crop=((4, 10), None), bin_sig=(2, 1), depth=3)
    assert explained.sig_shape == (3, 19) and explained.dtype == "uint32" and explained.tile_frames == 3
    assert explained.needed_bytes == 11 * 6 * 19 * 2


def test_a_crop_reads_only_its_rows(tmp_path):
    np.save(tmp_path / "scan.npy", np.random.default_rng(67).integers(0, 9, (64, 512, 64), dtype="u2"))
    ds = gpuio.open(tmp_path / "scan.npy", device="cpu", io_backend=BufferedBackend())
    whole, part = ds.explain(), ds.reduce(((100, 110), None)).explain()
    assert part.needed_bytes * 51 < whole.needed_bytes and part.read_bytes * 5 < whole.read_bytes


@pytest.mark.parametrize(("crop", "bin_sig", "said"), [
    (((0, 24), None), None, "takes pixels 0 to 24 of an axis of 23"), (((5, 5), None), None, "takes pixels 5 to 5"),
    ((slice(0, 8, 2), None), None, "has a step"), (((0, 4),), None, "1 intervals; expected one for each of the last 2"),
    (None, 24, "does not fit into a detector area"), (None, 0, "expected a positive integer"),
    (None, (2, 2, 2), "one for each of the last 2"),
    (None, True, "expected a positive integer"), (None, 2.0, "expected a positive integer"),
    (("a", None), None, "expected a slice"), (((1, 3), None), 3, "does not fit"),
])
def test_reductions_that_do_not_fit_are_refused(crop, bin_sig, said):
    with pytest.raises(ShapeError, match=said):
        Reduction.of((23, 19), crop, bin_sig)


@pytest.mark.parametrize(("native", "pixels", "wide"), [
    ("u1", 4, "u2"), ("u1", 256, "u2"), ("u1", 257, "u4"), ("u2", 65536, "u4"), ("i1", 4, "i2"), ("u8", 4, "u8"), ("f4", 9, "f4"),
    ("?", 4, "u1"), ("?", 256, "u2"), ("u2", 1, "u2"), ("c8", 4, "c8"),
])
def test_sums_of_integers_get_as_many_bits_as_they_need(native, pixels, wide):
    assert binned_dtype(np.dtype(native), pixels) == np.dtype(wide)
    if np.dtype(native).kind == "u" and native != "u8":
        assert np.iinfo(native).max * pixels <= np.iinfo(wide).max


@pytest.mark.parametrize("threads", [0, 2])
def test_frames_on_their_way_are_in_the_budget(tmp_path, threads):
    ds, shown = scan(tmp_path, "<u2", (23, 19), 71, BufferedBackend())
    reduced = ds.reduce(None, (23, 1))
    with pytest.raises(MemoryBudgetError, match=r"memory=100 bytes cannot hold one frame; at least (\d+) bytes .* bytes for frames that are"
                                                r" cropped or summed") as refused:
        next(iter(reduced.tiles(memory=100, threads=threads)))
    least = int(re.search(r"at least (\d+)", str(refused.value))[1])
    assert least > (23 * 19 * 2 + 19 * 4) * max(1, threads)
    with pytest.raises(MemoryBudgetError):
        next(iter(reduced.tiles(memory=least - 1, threads=threads)))
    expected = summed(shown, (slice(None), slice(None)), 23, 1, np.dtype("u4"))
    for memory in (least, least + 1000, 20_000):
        explained = reduced.explain(memory=memory, threads=threads)
        assert explained.memory_bytes <= memory
        got = np.concatenate([np.array(tile.data) for tile in reduced.tiles(memory=memory, threads=threads)])
        np.testing.assert_array_equal(got, expected[:11])


def test_the_crop_that_is_copied_to_be_summed_counts_as_memory(tmp_path):
    ds, _ = scan(tmp_path, "<u2", (12, 20), 17)
    excluded = np.zeros((12, 20), bool)
    excluded[2, 3] = True
    corrections = CorrectionSet(excluded_pixels=excluded)        # repaired in whole frames, which are cropped then
    for crop, factors, pixels in (((slice(2, 10), None), 2, 12 * 20 + 8 * 20), (None, 2, 12 * 20), ((slice(2, 10), None), None, 12 * 20)):
        reduced = ds.reduce(crop, factors)
        cut = Cut.of(ds.layout, Box.whole(ds.layout, reduced.reduction), np.dtype("f4"), corrections, reduction=reduced.reduction)
        assert cut.scratch_frame_bytes == 4 * pixels
