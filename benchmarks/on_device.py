"""What a GPU is measured by: kernels beside the copy bandwidth, streams beside the wire and the drive, the same work the peers' way.

Only the `Engine` protocol is used, so the measuring runs on any engine, and is tested on those of the host. Work on a device
is queued; a candidate repeats it until it lasts, and waits once at its end, so that launching is not what is timed.
"""

from __future__ import annotations

import importlib.util
import mmap
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import gpuio
from benchmarks.bench_decode import SCENES, Scene
from benchmarks.measure import Timing, interleaved
from gpuio import synth
from gpuio.engine import Blocks, Engine, TransposeTable
from gpuio.formats import FORMATS
from gpuio.io import gds, resident_fraction
from gpuio.io.backends import BufferedBackend, DirectBackend, GDSBackend
from gpuio.layout import Piece, placement_table

#: A candidate repeats its work until it lasts so long.
LEAST_SECONDS = 20e-3
#: Bytes of a large copy to the device.
COPY_BYTES = 64 << 20
#: Threads that read from the page cache, as the stream has.
READ_THREADS = 3
#: Threads that read from a drive, unbuffered: enough for its full rate.
DRIVE_THREADS = 8
READ_BYTES = 4 << 20
#: Pixels that are drawn at random; recordings repeat them.
RANDOM_PIXELS = 16 << 20
#: LiberTEM 0.16 opens no shorter K2IS recordings.
LIBERTEM_K2IS_FRAMES = 400
TARGETS = ("native", "float32", "float32, dark and gain")


@dataclass(frozen=True)
class Case:
    """A file as a detector writes it: format, writer's options, detector shape, bits of a stored pixel, largest count."""

    name: str
    format: str
    options: dict[str, Any]
    sig_shape: tuple[int, int]
    bits: int
    top: int


CASES = (
    Case("MIB R1 quad", "mib", {"kind": "R1", "layout": "2x2"}, (512, 512), 1, 1),
    Case("MIB R6 quad", "mib", {"kind": "R6", "layout": "2x2"}, (512, 512), 8, 63),
    Case("MIB R12 quad", "mib", {"kind": "R12", "layout": "2x2"}, (512, 512), 16, 4095),
    Case("MIB U16", "mib", {"kind": "U16"}, (256, 256), 16, 65535),
    Case("NPY <u2", "npy", {"dtype": "<u2"}, (256, 256), 16, 65535),
    Case("K2IS", "k2is", {}, (1860, 2048), 12, 4095),
)


@dataclass(frozen=True)
class Work:
    """Something to time, `count` times in a row and then waited for; `n_bytes` are moved each time."""

    run: Callable[[], object]
    n_bytes: int
    wait: Callable[[], object] = lambda: None
    count: int = 1

    def __call__(self) -> None:
        for _ in range(self.count):
            self.run()
        self.wait()

    def lasting(self) -> Work:
        """The same, repeated until it lasts long enough for the clock."""
        self()
        started = time.perf_counter()
        self()
        seconds = max(time.perf_counter() - started, 1e-6)
        return Work(self.run, self.n_bytes, self.wait, max(1, int(LEAST_SECONDS / seconds)))


def rates(works: Mapping[str, Work], rounds: int) -> tuple[dict[str, float], dict[str, Timing]]:
    """GB/s of each, medians of interleaved rounds, and the timings of one time each."""
    lasting = {name: work.lasting() for name, work in works.items()}
    found = interleaved(dict(lasting), rounds)
    once = {name: Timing(t.wall / lasting[name].count, t.cpu / lasting[name].count, t.spread) for name, t in found.items()}
    return {name: work.n_bytes / once[name].wall / 1e9 for name, work in works.items()}, once


# ---- kernels -------------------------------------------------------------------------------------------------------------


def kernels(engine: Engine, out_bytes: int, rounds: int, scenes: Mapping[str, Scene] = SCENES
            ) -> tuple[float, list[dict[str, object]], list[dict[str, object]]]:
    """Decoding of large stacks in device memory, and what else is done with frames there.

    Parameters
    ----------
    out_bytes
        Size of a stack; no cache should hold it.

    Returns
    -------
    float
        GB/s at which the device copies its own memory, bytes in and bytes out.
    list of dict
        For each scene and target the GB/s of bytes in and bytes out, and the share of the copy.
    list of dict
        The same for the other kernels.
    """
    memory, other = (engine.zeros((out_bytes,), "u1") for _ in range(2))
    plans = {name: _stack(scene, out_bytes) for name, scene in scenes.items()}
    staging = engine.staging(max(frames * scene.frame_bytes for (frames, _), scene in zip(plans.values(), scenes.values(), strict=True)))
    staging.host[:] = np.random.default_rng(1).integers(0, 256, len(staging.host), dtype=np.uint8)
    staging.push(len(staging.host))

    def wait() -> None:
        engine.download(memory[-1:])

    works = {"copy": Work(lambda: engine.xp.copyto(memory, other), 2 * out_bytes, wait)}
    for name, scene in scenes.items():
        frames, starts = plans[name]
        for target in TARGETS:
            dtype = scene.encoding.dtype if target == "native" else np.dtype("f4")
            out = memory[:frames * scene.frame_pixels * dtype.itemsize].view(dtype).reshape(frames, scene.frame_pixels)
            dark, gain = np.random.default_rng(2).normal(1, 0.1, (2, scene.frame_pixels)).astype("f4")
            decoder = engine.decoder(scene.encoding, placement_table(scene.pieces), scene.frame_pixels, dtype,
                                     **({"dark": dark, "gain": gain} if "dark" in target else {}))
            decode = decoder.bind(staging.device, starts, out)
            works[f"{name}|{target}"] = Work(lambda decode=decode, frames=frames: decode(0, frames),  # type: ignore[misc]
                                             frames * scene.frame_bytes + out.nbytes, wait)
    others = {name: Work(run, n_bytes, wait) for name, run, n_bytes in _others(engine, memory, other)}
    found, times = rates(works | others, rounds)
    rows: list[dict[str, object]] = []
    for name in scenes:
        row: dict[str, object] = {"kernel": name}
        for target in TARGETS:
            row |= {f"{target} GB/s": found[f"{name}|{target}"], f"of copy, {target}": found[f"{name}|{target}"] / found["copy"]}
        rows.append({**row, "spread": max(times[f"{name}|{target}"].spread for target in TARGETS)})
    return found["copy"], rows, [{"kernel": name, "GB/s": found[name], "of copy": found[name] / found["copy"], "spread": times[name].spread}
                                 for name in others]


def _others(engine: Engine, memory: Any, other: Any) -> Iterator[tuple[str, Callable[[], None], int]]:
    """Name, work, and bytes in and out; `memory` and `other` are as large as each other."""
    height = width = 256
    frames = max(1, memory.size // (height * width * 2))
    n_bytes = frames * height * width * 2
    stacks = [array[:n_bytes].view("u2").reshape(frames, height * width) for array in (memory, other)]
    piece = Piece(0, 0, 1, rows=height, row_src=2 * frames * width, row_pos=width, repeats=width, rep_src=2 * frames, rep_pos=1)
    table = TransposeTable(2 * np.arange(frames, dtype=np.int64), np.arange(frames, dtype=np.int64))
    yield "transpose <u2, navigation fastest", lambda: engine.transpose(other[:n_bytes], stacks[0], piece, table), 2 * n_bytes
    sums = memory[:n_bytes // 8].view("f4").reshape(frames, height * width // 16)
    yield "bin <u2 by 4 x 4 to float32", lambda: engine.bin(stacks[1], sums, Blocks(height // 4, width // 4, 4, 4)), n_bytes + n_bytes // 8


def _stack(scene: Scene, out_bytes: int) -> tuple[int, np.ndarray]:
    """Frames whose widest result fills `out_bytes`, and where they start."""
    frames = max(1, out_bytes // (scene.frame_pixels * max(4, scene.encoding.dtype.itemsize)))
    return frames, np.arange(frames, dtype=np.int64)[:, None] * scene.frame_bytes


# ---- the stream ----------------------------------------------------------------------------------------------------------


def write(folder: Path, case: Case, n_bytes: int) -> list[str]:
    """A recording of about `n_bytes` of honest random counts, which repeat after some frames; the file to open is the first."""
    height, width = case.sig_shape
    some = max(1, min(64, RANDOM_PIXELS // (height * width)))
    lines = max(1, n_bytes * 8 // (case.bits * height * width * some))
    block = np.random.default_rng(1).integers(0, case.top, (some, height, width), dtype=np.uint16, endpoint=True)
    path = folder / f"recording.{FORMATS[case.format].extensions[0]}"
    return synth.write(case.format, path, (block for _ in range(lines)), nav_shape=(lines, some), sig_shape=case.sig_shape, **case.options)


def streams(engine: Engine, device: str, folder: Path, n_bytes: int, rounds: int,
            cases: tuple[Case, ...] = CASES) -> Iterator[tuple[dict[str, object], dict[str, object]]]:
    """Page cache to float32 tiles on the device, and storage to the same; two rows a recording.

    Parameters
    ----------
    device
        Of `engine`, as `gpuio.open` takes it.
    n_bytes
        Of a recording.
    """
    for case in cases:
        paths = write(folder, case, n_bytes)
        yield stream(engine, device, case, paths[0], rounds), cold(engine, device, case, paths[0], rounds)
        for path in paths:
            os.unlink(path)


def stream(engine: Engine, device: str, case: Case, path: str, rounds: int) -> dict[str, object]:
    """One recording. Rates are GB of packed bytes a second.

    Keys that need a word: ``of H2D`` is the share of large copies from page-locked memory; ``of bound`` that of the slower one
    of these and reading from the page cache; ``copy engine idle`` the share of time in which the copies of the stream, at the
    rate that copies of their size have when nothing else goes on, would not have kept the copy engine busy. It is derived, not traced.
    """
    ds = gpuio.open(path, device=device)
    plan = ds.explain(dtype="float32")
    with ThreadPoolExecutor(READ_THREADS) as pool:
        works = {
            "read": Work(lambda: _read(ds.files, pool), plan.needed_bytes),
            "H2D": _pushes(engine, COPY_BYTES, max(1, plan.read_bytes // COPY_BYTES)),
            "H2D of blocks": _pushes(engine, plan.block_bytes, max(1, plan.read_bytes // plan.block_bytes)),
            "gpuio": Work(lambda: _exhaust(engine, (tile.data for tile in ds.tiles(dtype="float32"))), plan.needed_bytes),
        }
        peers = dict(_peers_ways(engine, case, path))
        works |= {name: Work(run, plan.needed_bytes) for name, run in peers.items()}
        found, times = rates(works, rounds)
    row: dict[str, object] = {
        "file": case.name, "gpuio GB/s": found["gpuio"], "H2D GB/s": found["H2D"], "of H2D": found["gpuio"] / found["H2D"],
        "read GB/s": found["read"], "of bound": found["gpuio"] / min(found["read"], found["H2D"]),
        "frames/s": plan.frames / times["gpuio"].wall,
        "copy engine idle": 1 - plan.read_bytes / (found["H2D of blocks"] * 1e9 * times["gpuio"].wall),
    }
    for name in peers:
        row |= {f"{name} GB/s": found[name], f"x {name}": found["gpuio"] / found[name]}
    return {**row, "spread": times["gpuio"].spread}


def cold(engine: Engine, device: str, case: Case, path: str, rounds: int) -> dict[str, object]:
    """One recording that is taken out of the page cache each time, straight into device memory and by way of the host. Rates are
    GB of packed bytes a second; ``of storage`` is the share of unbuffered reading of the whole files into memory of the host.
    """
    row: dict[str, object] = {"file": case.name}
    paths = gpuio.open(path, device=device).files
    backends = {"gds": GDSBackend(), "through the host": BufferedBackend()}
    drop(paths)
    if (resident_fraction(paths[-1]) or 0) > 0.1:
        return {**row, "not measured": f"file system {gds.place(path)[0]} keeps its pages in memory"}
    if (reason := backends["gds"].unavailable(path)) is not None:
        row["no gds"] = reason
        del backends["gds"]
    with ThreadPoolExecutor(DRIVE_THREADS) as pool:
        flags = 0 if DirectBackend().unavailable(path) else os.O_DIRECT
        works: dict[str, Callable[[], object]] = {"storage": lambda: _read(paths, pool, DRIVE_THREADS, flags)}
        for name, backend in backends.items():
            ds = gpuio.open(path, device=device, io_backend=backend)
            works[name] = lambda ds=ds: _exhaust(engine, (tile.data for tile in ds.tiles(dtype="float32")))  # type: ignore[misc]
        times = interleaved(works, rounds, before=lambda: drop(paths))
    n_bytes = ds.explain(dtype="float32").needed_bytes
    storage = sum(map(os.path.getsize, paths)) / times["storage"].wall / 1e9
    row |= {"storage GB/s": storage, "spread of storage": times["storage"].spread}
    for name in backends:
        rate = n_bytes / times[name].wall / 1e9
        row |= {f"{name} GB/s": rate, f"of storage, {name}": rate / storage, f"spread, {name}": times[name].spread}
    return row


def drop(paths: Sequence[str]) -> None:
    """Take files out of the page cache, as far as their file system allows it."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)            # pages that wait to be written stay
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _pushes(engine: Engine, n_bytes: int, count: int) -> Work:
    """`count` copies of `n_bytes` from page-locked memory, one after the other."""
    staging = engine.staging(n_bytes)
    staging.host[:] = 1

    def run() -> None:
        for _ in range(count):
            staging.push(n_bytes)

    def wait() -> None:
        with staging.reading():
            engine.download(staging.device[n_bytes - 1:n_bytes])

    return Work(run, n_bytes * count, wait)


def _exhaust(engine: Engine, tiles: Iterator[Any]) -> None:
    """Have all tiles made, and wait until the last one is there."""
    for last in deque(tiles, maxlen=1):
        engine.download(last[-1:, -1:, -1:].copy())


def _read(paths: Sequence[str], pool: ThreadPoolExecutor, threads: int = READ_THREADS, flags: int = 0) -> None:
    """Whole files, each thread a part of each, into memory that is used again; `flags` as of ``open(2)``."""
    def run(number: int) -> None:
        buffer = mmap.mmap(-1, READ_BYTES)          # in whole pages, as unbuffered reads want it
        for path in paths:
            size = os.path.getsize(path)
            at, stop = (size * k // threads // READ_BYTES * READ_BYTES for k in (number, number + 1))
            stop = size if number + 1 == threads else stop
            descriptor = os.open(path, os.O_RDONLY | flags)
            while at < stop and (n := os.preadv(descriptor, (memoryview(buffer)[:min(READ_BYTES, -(-(stop - at) // 4096) * 4096)],), at)):
                at += n
            os.close(descriptor)

    list(pool.map(run, range(threads)))


def _peers_ways(engine: Engine, case: Case, path: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """Decode to float32 on the CPU and upload from pageable memory: by gpuio's CPU engine, and as LiberTEM does where it is installed."""
    on_cpu = gpuio.open(path, device="cpu")
    for name, threads in (("CPU, 1 thread", 0), ("CPU, all cores", os.cpu_count() or 1)):
        yield name, lambda threads=threads: _exhaust(  # type: ignore[misc]
            engine, (engine.upload(tile.data) for tile in on_cpu.tiles(dtype="float32", threads=threads)))
    too_short = case.format == "k2is" and on_cpu.image_count < LIBERTEM_K2IS_FRAMES
    if importlib.util.find_spec("libertem") is not None and not too_short:
        yield "LiberTEM", _libertem(engine, case, path)


def _libertem(engine: Engine, case: Case, path: str) -> Callable[[], None]:
    """Tiles of LiberTEM, by the tiling that it negotiates for a UDF by tile, in this process; each uploaded."""
    from libertem.api import Context
    from libertem.io.dataset.base import BufferedBackend, Negotiator
    from libertem.udf.sum import SumUDF

    nav_shape = tuple(gpuio.open(path, device="cpu").shape.nav)
    backend = {"io_backend": BufferedBackend()} if case.bits == 1 else {}       # its default one refuses 1-bit pixels
    ds = Context.make_with("inline").load(case.format, path=path, nav_shape=nav_shape, **backend)
    ds.set_num_cores(1)
    shape = next(iter(ds.get_partitions())).shape
    scheme = Negotiator().get_scheme(udfs=[SumUDF()], dataset=ds, read_dtype=np.float32, approx_partition_shape=shape)

    def tiles() -> Iterator[Any]:
        for part in ds.get_partitions():
            for tile in part.get_tiles(scheme, dest_dtype=np.float32):
                yield engine.upload(np.asarray(tile.data))

    return lambda: _exhaust(engine, tiles())
