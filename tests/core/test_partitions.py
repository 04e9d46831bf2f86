"""How many partitions, and where."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import gpuio
from gpuio import transport
from gpuio.base import BufferedBackend, MMapBackend, TilingScheme
from gpuio.geometry.partition import get_num_partitions, make_slices, partition_shape
from gpuio.shape import Shape, Slice

HALF_GIB = 536870912


@pytest.mark.parametrize(("shape", "cores", "expected"), [
    ((64, 64, 256, 256), 1, 2), ((64, 64, 256, 256), 4, 4), ((256, 256, 256, 256), 8, 32), ((256, 256, 256, 256), 6, 36),
    ((256, 256, 128, 128), 8, 8), ((512, 512, 256, 256), 12, 132), ((3, 2, 16, 16), 8, 6), ((1, 16, 16), 0, 1),
])
def test_number_of_partitions(shape, cores, expected):
    assert get_num_partitions(Shape(shape, sig_dims=2), cores, HALF_GIB) == expected


def flat(m: int, n: int, s: int = 0) -> list[tuple[int, int, int, int]]:
    return [(p.origin[0], p.shape[0], start, stop) for p, start, stop in make_slices(Shape((m, 4, 5), sig_dims=2), n, s)]


@pytest.mark.parametrize(("m", "n", "s", "expected"), [
    (10, 4, 0, [(0, 2, 0, 2), (2, 3, 2, 5), (5, 2, 5, 7), (7, 3, 7, 10)]),
    (10, 4, 2, [(0, 2, 2, 4), (2, 3, 4, 7), (5, 2, 7, 9), (7, 3, 9, 12)]),
    (10, 4, -3, [(0, 2, -3, -1), (2, 3, -1, 2), (5, 2, 2, 4), (7, 3, 4, 7)]),
    (10, 3, 0, [(0, 3, 0, 3), (3, 3, 3, 6), (6, 4, 6, 10)]),
    (10, 0, 0, [(0, 10, 0, 10)]),
])
def test_partitions_split_the_flat_nav_axis(m, n, s, expected):
    assert flat(m, n, s) == expected


def test_a_partition_spans_the_whole_detector():
    slices = [p for p, _, _ in make_slices(Shape((2, 3, 4, 5, 6), sig_dims=3), 2)]
    assert slices == [Slice((0, 0, 0, 0), Shape((3, 4, 5, 6), sig_dims=3)), Slice((3, 0, 0, 0), Shape((3, 4, 5, 6), sig_dims=3))]


def test_boundaries_are_exact_where_floating_point_is_one_lower():
    assert flat(30, 22)[11][0] == 15


def test_every_split_is_even_and_complete():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for m in (1, 2, 7, 30, 97):
            for n in range(1, m + 1):
                parts = flat(m, n)
                counts = [count for _, count, _, _ in parts]
                assert len(parts) == n
                assert [p[0] for p in parts] == np.concatenate(([0], np.cumsum(counts)[:-1])).tolist()
                assert sum(counts) == m
                assert max(counts) - min(counts) <= 1


def test_more_partitions_than_frames_is_one_for_each_frame():
    with pytest.warns(RuntimeWarning, match="7 partitions.*only 3 frames"):
        assert [p[1] for p in flat(3, 7)] == [1, 1, 1]


@pytest.mark.parametrize(("dtype", "target", "least", "expected"), [
    ("float32", 512 << 20, None, (16, 64)), ("uint16", 1 << 20, None, (1, 8)), ("float32", 64 << 20, 100, (1, 40)),
    ("float32", 1 << 40, 1, (64, 64)), ("float32", 4, None, (1, 1)),
])
def test_partition_shape(dtype, target, least, expected):
    assert partition_shape(Shape((64, 64, 256, 256), sig_dims=2), dtype, target, 4, least) == expected


def test_a_target_below_one_pixel_is_refused():
    with pytest.raises(ValueError, match="cannot hold one pixel"):
        partition_shape(Shape((4, 4, 8, 8), sig_dims=2), "float32", 3, 1)


def test_a_partition_reads_as_asked_or_as_suits_its_own_files_at_that_time(tmp_path, monkeypatch):
    frames = np.random.default_rng(1).integers(0, 999, (12, 5, 7), dtype="u2")
    paths = []
    for number in range(4):
        paths.append(str(tmp_path / f"{number}.raw"))
        frames[3 * number:3 * number + 3].tofile(paths[-1])
    asked = []

    def choose(files, sizes, **facts):
        asked.append(list(files))
        return BufferedBackend(), True, "cold"

    monkeypatch.setattr(transport, "choose", choose)
    parameters = {"path": paths, "nav_shape": (12,), "sig_shape": (5, 7), "dtype": "u2", "device": "cpu"}
    ds = gpuio.load("raw", **parameters)
    ds.set_num_partitions(4)
    assert asked == []
    scheme = TilingScheme.make_for_shape(Shape((2, 5, 7), sig_dims=2), ds.shape)
    for number, part in enumerate(ds.get_partitions()):
        assert part.get_io_backend() == MMapBackend()
        found = np.concatenate([tile.data.copy() for tile in part.get_tiles(scheme, "u2")])
        assert np.array_equal(found, frames[3 * number:3 * number + 3])
        assert np.array_equal(part.get_macrotile("u2").data, found)
    assert asked == [[path] for path in paths for _ in range(2)]
    asked.clear()
    explicit = gpuio.load("raw", **parameters, io_backend=MMapBackend())
    parts = [*explicit.get_partitions(), next(ds.get_partitions())]
    parts[-1].set_io_backend(BufferedBackend())
    for part in parts:
        assert np.array_equal(part.get_macrotile("u2").data, frames[part.slice.get(nav_only=True)])
    assert asked == []
