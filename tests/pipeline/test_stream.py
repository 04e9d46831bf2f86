"""The stream's promises: order, budget, errors at their tile, nothing left behind."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref

import numpy as np
import pytest

import gpuio
from gpuio import pipeline
from gpuio.base import BufferedBackend, CorrectionSet, DirectBackend, MMapBackend, TilingScheme
from gpuio.blocks import BlockReader
from gpuio.boxes import Box, Cut
from gpuio.errors import MemoryBudgetError, ReadError, ShapeError
from gpuio.io.buffered import PreadReader
from gpuio.io.gather import GatherReader
from gpuio.shape import Shape
from gpuio.sizing import block_edges, parse_bytes, stream_sizes
from tests.pipeline.plain_files import PlainFiles, random_frames, write_files
from tests.reference_engine import ReferenceEngine

BACKENDS = [MMapBackend(), BufferedBackend(), DirectBackend()]


def make(tmp_path, counts=(7, 4, 9), sig=(13, 17), dtype="<u2", nav=None, backend=None, seed=5, starts=None, **sizes):
    rng = np.random.default_rng(seed)
    frames = random_frames(rng, sum(counts), sig, np.dtype(dtype))
    sizes = {"file_header": 5, "frame_header": 3, "frame_footer": 1, **sizes}
    paths = write_files(tmp_path, frames, list(counts), rng=rng, **sizes)
    ds = PlainFiles(paths, list(counts), dtype, sig, nav or (sum(counts),), 0, io_backend=backend, starts=starts, **sizes)
    return ds.initialize().to("cpu"), frames, paths


class CountingEngine(ReferenceEngine):
    """Adds up what it hands out."""

    def __init__(self):
        self.allocated = 0

    def empty(self, shape, dtype):
        self.allocated += int(np.prod(shape)) * np.dtype(dtype).itemsize
        return super().empty(shape, dtype)

    def staging(self, n_bytes):
        self.allocated += n_bytes
        return super().staging(n_bytes)


@pytest.mark.parametrize("cold", [False, True])
@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("frames_that_fit", [1.5, 4, 100])
def test_staging_and_output_stay_within_the_budget(tmp_path, cold, threads, frames_that_fit):
    ds, frames, _ = make(tmp_path, counts=(40, 60))
    engine = CountingEngine()
    frame = 13 * 17 * 4
    least = _least(ds, threads, cold)
    budget = int(least * frames_that_fit)
    selected = np.arange(100)
    got = [np.array(t.data) for t in pipeline.tiles(ds.layout, engine, BufferedBackend(), selected, selected, dtype="f4",
                                                    memory=budget, threads=threads, cold=cold)]
    np.testing.assert_array_equal(np.concatenate(got), frames.astype("f4"))
    assert frame <= engine.allocated <= budget


def _least(ds, threads, cold):
    selected = np.arange(100)
    with pytest.raises(MemoryBudgetError) as error:
        next(pipeline.tiles(ds.layout, ReferenceEngine(), BufferedBackend(), selected, selected, dtype="f4", memory=10,
                            threads=threads, cold=cold))
    return int(str(error.value).split("at least ")[1].split(" ")[0])


def test_a_budget_below_one_frame_names_what_would_do(tmp_path):
    ds, frames, paths = make(tmp_path, backend=BufferedBackend())
    least = _least(ds, 0, False)
    selected = np.arange(20)
    with pytest.raises(MemoryBudgetError, match=str(paths[0])):
        next(pipeline.tiles(ds.layout, ReferenceEngine(), BufferedBackend(), selected, selected, dtype="f4", memory=least - 1))
    tiles = pipeline.tiles(ds.layout, ReferenceEngine(), BufferedBackend(), selected, selected, dtype="f4", memory=least)
    np.testing.assert_array_equal(np.concatenate([np.array(t.data) for t in tiles]), frames.astype("f4"))


@pytest.mark.parametrize("text, value", [("2 GiB", 2 << 30), ("500 MB", 500_000_000), ("1.5k", 1500), (4096, 4096), ("64MiB", 64 << 20)])
def test_memory_sizes_in_words(text, value):
    assert parse_bytes(text) == value


@pytest.mark.parametrize("text", ["lots", "-1 GiB", 0, "3 GiBs", float("inf"), float("nan")])
def test_memory_sizes_that_are_none(text):
    with pytest.raises(ValueError, match="memory size"):
        parse_bytes(text)


@pytest.mark.parametrize("lengths", [[60] * 7, [1, 63, 62, 2, 1], [63] * 5, [1] * 200])
def test_blocks_of_short_tiles_are_full_and_no_larger_than_allowed(lengths):
    tiles = np.concatenate(([0], np.cumsum(lengths)))
    blocks = block_edges(tiles, 64)
    assert set(blocks) <= set(tiles) and (blocks[0], blocks[-1]) == (0, tiles[-1])
    assert np.diff(blocks).max() <= 64
    for stop in blocks[1:-1]:
        first, longer = blocks[np.searchsorted(blocks, stop) - 1], tiles[np.searchsorted(tiles, stop) + 1]
        assert longer - first > 64


@pytest.mark.parametrize("memory", [None, "40 MB"])
def test_a_large_depth_leaves_half_of_the_budget_for_reading(tmp_path, memory):
    ds, _, _ = make(tmp_path)
    cut = Cut.of(ds.layout, Box.whole(ds.layout), np.dtype("f4"), None)
    sizes = stream_sizes(ds.layout, ds.engine, BufferedBackend(), np.arange(1_000_000), ds.layout.placements, [cut], np.dtype("f4"),
                         depth=1_000_000, memory=memory, threads=0, cold=False)
    budget = parse_bytes(memory)
    assert sizes.depth == budget // 2 // (13 * 17 * 4)
    assert sizes.host_bytes <= budget
    assert sizes.block_frames > 2000


@pytest.mark.parametrize(("backend", "cold", "memory", "slots"), [
    (BufferedBackend(), True, 256 << 20, 6), (DirectBackend(), False, 256 << 20, 6), (BufferedBackend(), False, 256 << 20, 1),
    (BufferedBackend(), True, 40 << 20, 4), (BufferedBackend(), True, 20 << 20, 3), (DirectBackend(), True, 1 << 20, 3),
])
def test_more_blocks_are_read_ahead_from_storage_where_memory_holds_them(tmp_path, backend, cold, memory, slots):
    np.save(tmp_path / "scan.npy", np.ones((4, 64, 64), "u2"))
    ds = gpuio.open(tmp_path / "scan.npy", device="cpu")
    cut = Cut.of(ds.layout, Box.whole(ds.layout), np.dtype("f4"), None)
    sizes = stream_sizes(ds.layout, ds.engine, backend, np.arange(1_000_000), ds.layout.placements, [cut], np.dtype("f4"), depth=1,
                         memory=memory, threads=0, cold=cold)
    assert sizes.slots == slots
    assert sizes.host_bytes <= memory
    assert sizes.slots * sizes.block_frames * 8192 <= sizes.host_bytes


@pytest.mark.parametrize("wrong", [{"threads": -1}, {"depth": 0}, {"depth": -3}])
def test_sizes_that_are_none_are_refused(tmp_path, wrong):
    ds, _, _ = make(tmp_path)
    with pytest.raises(ValueError, match="expected no negative number of threads, and a positive depth"):
        next(iter(ds.tiles(**wrong)))


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.id)
@pytest.mark.parametrize("threads", [0, 3])
def test_tiles_come_in_order_whatever_the_threads(tmp_path, backend, threads):
    ds, frames, _ = make(tmp_path, backend=backend)
    origins, data = [], []
    for tile in ds.tiles(dtype="f8", depth=3, threads=threads):
        origins.append(tile.tile_slice.origin[0])
        data.append(np.array(tile.data))
    assert origins == list(range(0, 20, 3))
    np.testing.assert_array_equal(np.concatenate(data), frames.astype("f8"))


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_no_tile_comes_after_one_that_could_not_be_read(tmp_path, threads):
    ds, frames, paths = make(tmp_path, counts=(5, 1, 12), backend=BufferedBackend())
    with open(paths[1], "r+b") as file:
        file.truncate(50)           # the files before and after it are whole
    got = []
    with pytest.raises(ReadError, match=str(paths[1])):
        for tile in ds.tiles(dtype="f4", depth=1, threads=threads, memory=20_000 if threads else 3000):
            got.append(np.array(tile.data))
    assert 3 < len(got) <= 5
    np.testing.assert_array_equal(np.concatenate(got), frames[:len(got)].astype("f4"))


def test_blocks_before_one_that_cannot_be_mapped_come_first(tmp_path):
    ds, frames, paths = make(tmp_path, counts=(9, 4))
    paths[1].unlink()
    edges, every = np.array([0, 3, 6, 9, 13]), np.arange(13)
    seen = []
    with BlockReader(ds.layout, ds.engine, MMapBackend(), every, edges, ds.layout.placements, slots=2, deferred=True) as reader, \
            pytest.raises(FileNotFoundError):
        for block in reader:
            memory, at = block.bytes_of(block.first, block.stop)
            seen += [memory[first:first + 442].view("<u2").reshape(13, 17).copy() for first in at]
    np.testing.assert_array_equal(seen, frames[:9])


def test_memory_that_was_not_to_be_had_is_not_held_by_its_error(tmp_path, monkeypatch):
    array = np.asfortranarray(np.random.default_rng(3).integers(0, 9, (8, 5, 7), dtype="u2"))
    np.save(tmp_path / "scan.npy", array)
    ds = gpuio.open(tmp_path / "scan.npy", device="cpu")
    engine, held = ds.engine, []

    def refuse(self, frames, into):
        held.append(weakref.ref(into.base))
        raise MemoryError

    monkeypatch.setattr(GatherReader, "gather", refuse)
    every = np.arange(8)
    gc.disable()            # a stream that begins again with less needs it at once
    try:
        with pytest.raises(MemoryError):
            next(pipeline.tiles(ds.layout, engine, BufferedBackend(), every, every))
        assert [ref() for ref in held] == [None]
    finally:
        gc.enable()


def test_a_block_of_many_tiles_is_read_once_by_threads(tmp_path, monkeypatch):
    counts = (2, 1, 3, 1, 1, 2)
    ds, frames, _ = make(tmp_path, counts=counts, starts=[0, 3, 5, 9, 11, 13], nav=(15,), backend=BufferedBackend())
    read, seen = PreadReader.read, []
    monkeypatch.setattr(PreadReader, "read", lambda self, extents, into: (seen.extend(extents), read(self, extents, into))[1])
    got = [np.array(tile.data) for tile in ds.tiles("f4", threads=2)]
    assert [len(stack) for stack in got] == list(counts)
    np.testing.assert_array_equal(np.concatenate(got), frames.astype("f4"))
    assert len(set(seen)) == len(seen) == len(counts), "each run of frames lies in a file of its own"


FORKED_STREAM = """
import os, sys
import numpy as np
import gpuio
from gpuio import pipeline
from gpuio.io.backends import BufferedBackend
np.save(sys.argv[1], np.ones((40, 5, 11), "u2"))
ds = gpuio.open(sys.argv[1], device="cpu")
every = np.arange(40)
tiles = pipeline.tiles(ds.layout, ds.engine, BufferedBackend(), every, every, memory=900, depth=1, cold=True)     # read ahead by threads
next(tiles)
if pid := os.fork():
    del tiles
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
try:
    list(tiles)
except gpuio.BackendUnavailable as error:
    os._exit(0 if "begun before this process was forked" in str(error) else 1)
os._exit(1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_stream_does_not_hang_in_a_forked_process_that_has_none_of_its_threads(tmp_path):
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED_STREAM, str(tmp_path / "a.npy")], timeout=60, capture_output=True,
                         text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("backend", [MMapBackend(), BufferedBackend()], ids=lambda b: b.id)
def test_a_stream_abandoned_while_threads_decode_ends_in_peace(tmp_path, backend):
    ds, _, _ = make(tmp_path, counts=(300,), sig=(128, 128), backend=backend)
    for _ in range(20):         # threads must be done before what they decode from is unmapped
        next(ds.tiles(dtype="f4", depth=1, threads=3))


@pytest.mark.parametrize("threads, cold", [(0, True), (3, False), (3, True)])
def test_an_abandoned_stream_leaves_no_thread_behind(tmp_path, threads, cold):
    ds, _, _ = make(tmp_path, counts=(50,))
    selected = np.arange(50)
    before = set(threading.enumerate())
    tiles = pipeline.tiles(ds.layout, ReferenceEngine(), BufferedBackend(), selected, selected, dtype="f4", depth=1,
                           threads=threads, cold=cold)
    next(tiles)
    tiles.close()
    deadline = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) - before == set()


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.id)
@pytest.mark.parametrize("threads", [0, 2])
def test_a_file_that_shrinks_gives_an_error_at_its_tile(tmp_path, backend, threads):
    ds, frames, paths = make(tmp_path, backend=backend)
    stride = 13 * 17 * 2 + 4
    with open(paths[2], "r+b") as f:
        f.truncate(5 + 2 * stride + 40)         # two whole frames of the third file are left
    arrived = 0
    with pytest.raises(ReadError, match=str(paths[2])):
        for tile in ds.tiles(dtype="f4", depth=1, threads=threads):
            where = tile.tile_slice.get(nav_only=True)
            np.testing.assert_array_equal(np.asarray(tile.data), frames[where].astype("f4"))
            arrived += 1
    assert arrived <= 13


def test_mapped_tiles_of_the_native_dtype_are_views_of_the_file(tmp_path):
    ds, frames, _ = make(tmp_path, backend=MMapBackend(), frame_header=6, frame_footer=2, file_header=4)
    scheme = TilingScheme.make_for_shape(Shape((3, 13, 17), sig_dims=2), ds.shape)
    views = copies = 0
    kept = []
    for part in ds.get_partitions():
        for tile in part.get_tiles(scheme, dest_dtype="<u2"):
            np.testing.assert_array_equal(tile.data, frames[tile.tile_slice.get(nav_only=True)])
            if tile.data.flags.writeable:
                copies += 1
            else:
                views += 1
                kept.append((tile.data, tile.tile_slice.get(nav_only=True)))
    assert views >= 4 and copies >= 1           # tiles across a file border have to be copied
    for data, where in kept:                    # views stay valid after the stream is done
        np.testing.assert_array_equal(data, frames[where])


def test_holes_in_a_series_are_blank(tmp_path):
    ds, frames, _ = make(tmp_path, counts=(3, 4), starts=[0, 5], nav=(3, 3))
    assert ds.image_count == 9
    truth = np.zeros((9, 13, 17), "u2")
    truth[:3], truth[5:] = frames[:3], frames[3:]
    np.testing.assert_array_equal(ds[...], truth.reshape(3, 3, 13, 17))
    assert ds.blank().ravel().tolist() == [False] * 3 + [True] * 2 + [False] * 4
    where = [(t.tile_slice.origin[0], t.shape[0]) for t in ds.tiles(depth=4)]
    assert where == [(0, 3), (5, 4)]
    for part in ds.get_partitions():
        origin = part.slice.origin[0]
        np.testing.assert_array_equal(part.get_macrotile("u2").data, truth[origin:origin + part.shape[0]])


def corrected(frames, dark, gain, dtype):
    return ((frames.astype(dtype).astype("f8") - dark) * gain).astype(dtype)


@pytest.mark.parametrize("maps", ["f4", "f8"])
def test_corrections_are_exact_in_the_stream_and_in_partitions(tmp_path, maps):
    ds, frames, _ = make(tmp_path, dtype=">u2")
    rng = np.random.default_rng(8)
    dark, gain = (rng.normal(100, 10, (13, 17)).astype(maps), rng.normal(1, 0.1, (13, 17)).astype(maps))
    cs = CorrectionSet(dark=dark, gain=gain)
    expected = corrected(frames, dark.astype("f8"), gain.astype("f8"), "f4")
    got = np.concatenate([np.array(t.data) for t in ds.tiles(corrections=cs, depth=3)])
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected)
    scheme = TilingScheme.make_for_shape(Shape((4, 5, 17), sig_dims=2), ds.shape)
    for part in ds.get_partitions():
        part.set_corrections(cs)
        for tile in part.get_tiles(scheme):
            np.testing.assert_array_equal(tile.data, expected[tile.tile_slice.get()])
        np.testing.assert_array_equal(part.get_macrotile().data, expected[part.slice.get(nav_only=True)])


def test_excluded_pixels_are_repaired_in_whole_frames_before_a_crop(tmp_path):
    ds, frames, _ = make(tmp_path)
    mask = np.zeros((13, 17), bool)
    mask[4, 2] = mask[4, 3] = mask[0, 0] = True
    cs = CorrectionSet(excluded_pixels=mask)
    expected = frames.astype("f4")
    for y, x in zip(*np.nonzero(mask), strict=True):
        around = [(a, b) for a in range(max(0, y - 1), min(13, y + 2)) for b in range(max(0, x - 1), min(17, x + 2)) if not mask[a, b]]
        expected[:, y, x] = np.array([frames[:, a, b].astype("f8") for a, b in around]).sum(axis=0) / len(around)
    got = np.concatenate([np.array(t.data) for t in ds.tiles(corrections=cs)])
    np.testing.assert_array_equal(got, expected)
    box = Box((4, 1), (5, 9))
    np.testing.assert_array_equal(ds.read(np.arange(20), box=box, corrections=cs), expected[:, 4:9, 1:10])


def test_corrections_of_integers_are_refused(tmp_path):
    ds, _, _ = make(tmp_path)
    cs = CorrectionSet(dark=np.ones((13, 17)))
    with pytest.raises(TypeError):
        list(ds.tiles(dtype="u2", corrections=cs))


def test_a_roi_of_another_size_is_refused_by_both_sizes(tmp_path):
    ds, _, _ = make(tmp_path)
    with pytest.raises(ShapeError, match=r"21.*20"):
        list(ds.tiles(roi=np.ones(21, bool)))


def test_sums_are_those_of_the_array(tmp_path):
    ds, frames, _ = make(tmp_path, dtype="<u4", nav=(4, 5))
    scan, pattern = ds.summary()
    np.testing.assert_array_equal(scan, frames.reshape(4, 5, -1).sum(axis=2, dtype="u8"))
    np.testing.assert_array_equal(pattern, frames.sum(axis=0, dtype="u8"))
    seen = []
    ds.summary(progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (20, 20)


def test_data_sets_and_partitions_pickle_small(tmp_path):
    import pickle

    ds, frames, _ = make(tmp_path)
    list(ds.tiles())
    assert len(pickle.dumps(ds)) < 4000
    copy = pickle.loads(pickle.dumps(ds))
    np.testing.assert_array_equal(copy[3], frames[3])
    part = next(ds.get_partitions())
    assert len(pickle.dumps(part)) < 4000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(part)).get_macrotile("u2").data, frames[:part.shape[0]])


def test_a_scan_of_any_size_costs_nothing_where_there_are_no_frames(tmp_path):
    frames = np.random.default_rng(31).integers(0, 1000, (6, 5, 7)).astype("u2")
    path = tmp_path / "a.raw"
    frames.tofile(path)
    with pytest.raises(ShapeError, match=r"a\.raw: nav_shape \(1000000, 1000000\) has 1000000000000 positions; expected at most"):
        gpuio.load("raw", path=path, dtype="u2", nav_shape=(10**6, 10**6), sig_shape=(5, 7))
    ds = gpuio.load("raw", path=path, dtype="u2", nav_shape=(1 << 13, 1 << 13), sig_shape=(5, 7), device="cpu")
    ds[0, 0]
    tracemalloc.start()
    np.testing.assert_array_equal(ds[0, :7], [*frames, np.zeros((5, 7))])
    assert not ds[8191, 8191].any()
    np.testing.assert_array_equal(np.concatenate([tile.data for tile in ds.tiles()]), frames)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
