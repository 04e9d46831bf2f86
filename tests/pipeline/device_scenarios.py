"""What people do with tiles on a GPU, on the simulated device: each way of asking, consuming and leaving, with the pixels it must give.

A scenario is run with a seed for the order in which things happen. It raises if a pixel is wrong; `everything` keeps what
consumers copied until the device has come to rest, and only then looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import gpuio
from gpuio import pipeline, synth
from gpuio.boxes import Box
from gpuio.corrections import CorrectionSet
from gpuio.dataset import DataSet
from gpuio.io.backends import BufferedBackend
from gpuio.io.computed import ComputedBackend
from gpuio.kernels import CudaEngine
from gpuio.reduction import Reduction
from tests.kernels.simulated import Array, Device, Stream, ToDevice, data_sets_on
from tests.pipeline.plain_files import PlainFiles, random_frames, write_files

SIG, COUNTS = (5, 7), (6, 7)
FRAMES = sum(COUNTS)
#: Of any budget: staging begins on a page.
PAGES = 3 * 4096


@dataclass
class Files:
    """Data made once."""

    frames: np.ndarray
    paths: list[Path]
    strided: np.ndarray
    strided_path: Path
    packed: np.ndarray
    packed_path: Path
    sparse: np.ndarray
    sparse_path: Path

    @classmethod
    def write(cls, folder: Path) -> Files:
        rng = np.random.default_rng(4)
        frames = random_frames(rng, FRAMES, SIG, np.dtype(">u2"))
        strided = np.asfortranarray(random_frames(rng, 3 * 4, SIG, np.dtype("u2")).reshape(3, 4, *SIG))
        np.save(folder / "strided.npy", strided)
        with h5py.File(folder / "packed.h5", "w") as file:
            stored = file.create_dataset("data", frames.shape, "u2", chunks=(2, *SIG), shuffle=True, fillvalue=7)
            for first in (0, 4, 6, 10):             # of some chunks nothing is stored
                stored[first:first + 2] = frames[first:first + 2]
            packed = stored[...]
        sparse = random_frames(rng, FRAMES, SIG, np.dtype("u2")) * (rng.random((FRAMES, *SIG)) < 0.3).astype("u2")
        sparse_path = synth.write("raw_csr", folder / "sparse.toml", [sparse], nav_shape=(FRAMES,), sig_shape=SIG)[0]
        return cls(frames, write_files(folder, frames, list(COUNTS), 3, 5, 2, rng), strided, folder / "strided.npy", packed,
                   folder / "packed.h5", sparse, Path(sparse_path))

    def open(self, backend: Any = None, nav: tuple[int, ...] = (FRAMES,)) -> DataSet:
        ds = PlainFiles(self.paths, list(COUNTS), ">u2", SIG, nav, 0, 3, 5, 2, io_backend=backend or BufferedBackend())
        return ds.initialize().to("cuda")


@dataclass
class Run:
    """One run of a scenario."""

    device: Device
    engine: CudaEngine
    files: Files
    kept: list[tuple[Array, np.ndarray]] = field(default_factory=list)

    def stream(self) -> Stream:
        """One of the consumer's own."""
        return Stream(self.device)

    def keep(self, array: Array, expected: np.ndarray) -> None:
        """Pixels that a consumer has copied, and what they have to be in the end."""
        self.kept.append((array, expected))

    def memory_used_before(self, n_bytes: int = 1 << 14) -> None:
        """The consumer works on an array and lets go of it: its memory is free while that work may still be waiting."""
        values = self.device.random.randbytes(n_bytes)
        expected = np.frombuffer(values, np.uint8)
        array = self.device.cupy.asarray(expected)
        self.keep(array.copy(), expected)

    def memory_used_afterwards(self, sizes: tuple[int, ...] = (4096, 2048, 1024, 1024, 512, 512, 256, 256)) -> None:
        """The consumer gets new arrays, of memory that somebody has let go of, and fills them."""
        for n_bytes in sizes:
            expected = np.frombuffer(self.device.random.randbytes(n_bytes), np.uint8)
            self.keep(self.device.cupy.asarray(expected), expected)


def everything(scenario: Callable[[Run], None], files: Files, seed: int, kernel: Any = None) -> Device:
    """Run a scenario to its end and compare every pixel."""
    device = Device(seed, capacity=1 << 20, kernel=kernel)
    with data_sets_on(device) as engine:
        run = Run(device, engine, files)
        scenario(run)
        del engine, run.engine
    device.synchronize()
    assert not device.errors
    for array, expected in run.kept:
        assert array.dtype == expected.dtype and array.shape == expected.shape
        np.testing.assert_array_equal(array.view_, expected)
    return device


def corrected(frames: np.ndarray, dark: np.ndarray, gain: np.ndarray, excluded: np.ndarray, dtype: Any) -> np.ndarray:
    """As the CPU engine does it: float64, rounded once; an excluded pixel is the mean of those neighbours that are not."""
    wide = np.result_type(dtype, "f8")
    out = ((frames.astype(dtype).astype(wide) - dark) * gain).astype(dtype)
    before = out.astype(wide)
    for y, x in np.argwhere(excluded):
        around = [before[:, v, u] for v in range(max(0, y - 1), min(SIG[0], y + 2))
                  for u in range(max(0, x - 1), min(SIG[1], x + 2)) if (v, u) != (y, x) and not excluded[v, u]]
        out[:, y, x] = (sum(around) / len(around)).astype(dtype)
    return out


def correction(seed: int) -> tuple[CorrectionSet, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    dark, gain, excluded = rng.normal(9, 3, SIG), rng.normal(1, 0.1, SIG).astype("f4"), np.zeros(SIG, bool)
    excluded[tuple(rng.integers(0, SIG))] = True
    return CorrectionSet(dark=dark, gain=gain, excluded_pixels=excluded), (dark, gain, excluded)


def sent_ahead(run: Run, tiles: Iterator[Any], expected: np.ndarray, streams: list[Stream]) -> None:
    """Copy each tile on one of some streams; the stream of tiles goes on while another one is current."""
    for number, tile in enumerate(tiles):
        first = tile.tile_slice.origin[0]
        with streams[number % len(streams)]:
            run.keep(tile.data.copy(), expected[first:first + len(tile)])


def tiles_on_streams_of_the_consumer(run: Run) -> None:
    run.memory_used_before()
    tiles = run.files.open().tiles(dtype="f4", depth=2, memory=4000 + PAGES)
    sent_ahead(run, tiles, run.files.frames.astype("f4"), [run.stream(), run.stream()])
    del tiles
    run.memory_used_afterwards()


def tiles_from_a_transport_that_ends_on_the_device(run: Run) -> None:
    tiles = run.files.open(ToDevice()).tiles(dtype="f4", depth=1, memory=2500 + PAGES)
    sent_ahead(run, tiles, run.files.frames.astype("f4"), [run.stream()])


def two_streams_of_tiles_at_once(run: Run) -> None:
    consumer, expected = run.stream(), run.files.frames.astype("f4")
    ways = (run.files.open().tiles(dtype="f4", depth=2, memory=4000 + PAGES), run.files.open(ToDevice()).tiles(dtype="f4", depth=3))
    for tiles in zip_longest(*ways):
        with consumer:
            for tile in filter(None, tiles):
                first = tile.tile_slice.origin[0]
                run.keep(tile.copy().data, expected[first:first + len(tile)])


def a_loop_within_one_stream(run: Run) -> None:
    with run.stream():
        for tile in run.files.open().tiles(depth=3, memory=3000 + PAGES):
            first = tile.tile_slice.origin[0]
            run.keep(tile.copy().data, run.files.frames[first:first + len(tile)].astype("u2"))


def work_handed_on_to_the_stream_that_asks_for_the_next_tile(run: Run) -> None:
    taker, worker = run.stream(), run.stream()
    event = run.device.cupy.cuda.Event(disable_timing=True)
    with worker:
        for tile in run.files.open().tiles(depth=1, memory=2500 + PAGES):
            first = tile.tile_slice.origin[0]
            with taker:
                data = tile.data
            event.record(taker)
            worker.wait_event(event)
            run.keep(data.copy(), run.files.frames[first:first + len(tile)].astype("u2"))


def tiles_handed_over_by_dlpack(run: Run) -> None:
    consumer = run.stream()
    for tile in run.files.open().tiles(depth=2, memory=3000 + PAGES):
        array, waits_here = tile.__dlpack__(stream=consumer.ptr)
        assert waits_here == -1 and tile.__dlpack_device__() == (2, 0)
        first = tile.tile_slice.origin[0]
        with consumer:
            run.keep(array.copy(), run.files.frames[first:first + len(tile)].astype("u2"))


def streams_with_corrections_one_after_the_other(run: Run) -> None:
    consumer = run.stream()
    for seed in range(3):
        corrections, maps = correction(seed)
        sent_ahead(run, run.files.open().tiles(dtype="f4", depth=2, memory=3000 + PAGES, corrections=corrections),
                   corrected(run.files.frames, *maps, "f4"), [consumer])


def streams_that_are_left_early(run: Run) -> None:
    consumer = run.stream()
    for seed in range(3):
        corrections, maps = correction(seed)
        expected = corrected(run.files.frames, *maps, "f4")
        tiles = run.files.open().tiles(dtype="f4", depth=2, memory=4000 + PAGES, corrections=corrections)
        for _ in range(seed % 2 + 1):
            tile = next(tiles)
            with consumer:
                first = tile.tile_slice.origin[0]
                run.keep(tile.data.copy(), expected[first:first + len(tile)])
        del tile, tiles
        run.memory_used_afterwards()


def unusual_dtypes(run: Run) -> None:
    for seed, dtype in enumerate(("c8", "f2")):
        corrections, maps = correction(seed)
        expected = run.files.frames.astype("f2")
        if dtype == "c8":
            expected = corrected(run.files.frames, *maps, dtype)
        else:
            corrections = CorrectionSet()
        tiles = run.files.open().tiles(dtype=dtype, depth=2, memory=4000 + PAGES, corrections=corrections)
        sent_ahead(run, tiles, expected, [run.stream()])


def summed_blocks(run: Run) -> None:
    expected = run.files.frames[:, :4, :6].astype("u8").reshape(-1, 2, 2, 2, 3).sum(axis=(2, 4)).astype("u4")
    every = np.arange(FRAMES)
    tiles = pipeline.tiles(run.files.open().layout, run.engine, BufferedBackend(), every, every, dtype="u4", depth=2,
                           memory=4000 + PAGES, reduction=Reduction((0, 0), (2, 2), (2, 3)))
    sent_ahead(run, tiles, expected, [run.stream()])


def navigation_fastest(run: Run) -> None:
    ds = gpuio.open(str(run.files.strided_path), device="cuda")
    expected = run.files.strided.reshape(-1, *SIG)
    consumer = run.stream()
    run.memory_used_before()
    sent_ahead(run, ds.tiles(depth=1, memory=1700 + PAGES), expected, [consumer])
    run.memory_used_afterwards()


def frames_read_into_an_array_of_the_consumer(run: Run) -> None:
    ds, consumer = run.files.open(), run.stream()
    order = np.array([3, 1, 1, 12, 0, 7])
    for backend in (None, ToDevice()):
        with consumer:
            run.memory_used_before(2048)
            run.keep(run.files.open(backend).read(order, memory=900 + PAGES).copy(), run.files.frames[order].astype("u2"))
            run.memory_used_afterwards((2048, 512))
    run.keep(ds[4:9, 1:3].copy(), run.files.frames[4:9, 1:3].astype("u2"))


def arrays_on_the_device(run: Run) -> None:
    """Bytes that the consumer has made on the device, on its own stream, and lets go of when the tiles are there."""
    every, consumer = np.arange(COUNTS[0]), run.stream()
    with consumer:
        made = {"array": run.device.cupy.asarray(np.fromfile(run.files.paths[0], np.uint8)).copy()}
        backend = ComputedBackend(lambda path: made["array"], memory="device", read_threads=0)
        for tile in pipeline.tiles(run.files.open().layout, run.engine, backend, every, every, depth=1, memory=550 + 2 * 4096, dtype="u2"):
            first = tile.tile_slice.origin[0]
            run.keep(tile.data.copy(), run.files.frames[first:first + len(tile)].astype("u2"))
        made.clear()
        run.memory_used_afterwards((512, 256, 256))


def boxes_cut_out_of_repaired_frames(run: Run) -> None:
    corrections, maps = correction(5)
    boxes = [Box((1, 2), (3, 4), 0), Box((0, 0), (2, 5), 1)]
    whole, every, consumer = corrected(run.files.frames, *maps, "f4"), np.arange(FRAMES), run.stream()
    for tile in pipeline.tiles(run.files.open().layout, run.engine, BufferedBackend(), every, every, boxes=boxes, dtype="f4", depth=2,
                               memory=5000 + PAGES, corrections=corrections):
        with consumer:
            run.keep(tile.data.copy(), whole[tile.tile_slice.get()])


def sparse_frames(run: Run) -> None:
    ds = gpuio.load("raw_csr", path=str(run.files.sparse_path), device="cuda")
    sent_ahead(run, ds.tiles(depth=2, memory=3 * PAGES), run.files.sparse, [run.stream(), run.stream()])


def chunks_unpacked_on_the_device(run: Run) -> None:
    consumer = run.stream()
    for backend in (BufferedBackend(), ToDevice()):
        for n_bytes in (256, 512, 1024):
            run.memory_used_before(n_bytes)
        ds = gpuio.load("hdf5", path=str(run.files.packed_path), io_backend=backend, device="cuda")
        sent_ahead(run, ds.tiles(depth=1, memory=1600), run.files.packed, [consumer])
        run.memory_used_afterwards((1024, 512, 512, 256, 256))


SCENARIOS: list[Callable[[Run], None]] = [
    tiles_on_streams_of_the_consumer, tiles_from_a_transport_that_ends_on_the_device, two_streams_of_tiles_at_once,
    a_loop_within_one_stream, work_handed_on_to_the_stream_that_asks_for_the_next_tile, tiles_handed_over_by_dlpack,
    streams_with_corrections_one_after_the_other, streams_that_are_left_early, unusual_dtypes, summed_blocks, navigation_fastest,
    frames_read_into_an_array_of_the_consumer, arrays_on_the_device, sparse_frames, chunks_unpacked_on_the_device,
    boxes_cut_out_of_repaired_frames,
]
