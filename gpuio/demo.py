"""What ``make demo`` runs: make a scan, stream it with corrections, check it against the truth, time it, draw it.

The scan is a synthetic 4D-STEM recording as a Merlin detector of 2 x 2 chips writes it: MIB, raw, 12 bit. Rates count
packed bytes as they lie in the file, 1 GB = 10^9 bytes, and are medians of `PASSES` passes over a file that is in the page
cache. They are set against what this machine can do at best, measured in the same run: copying memory, and reading the
same file without looking at it.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import gpuio
from gpuio import preview, synth
from gpuio.corrections import CorrectionSet
from gpuio.engine import resolve_device
from gpuio.sizing import parse_bytes

if TYPE_CHECKING:
    from gpuio.dataset import DataSet

SIG_SHAPE = (512, 512)
FRAME_BYTES = 512 * 512 * 2
PASSES = 3
READ_BYTES = 256 << 10
COPY_BYTES = 128 << 20
CHECKED_FRAMES = 17

#: ``progress(done, total, what)``
Progress = Callable[[int, int, str], None]


def run(output: Path, *, size: int | str = "512 MiB", device: str | None = None, progress: Progress | None = None) -> dict[str, Any]:
    """Do everything, print nothing.

    Parameters
    ----------
    output
        Folder for the scan and the pictures; made if it is not there.
    size
        Packed bytes of the scan, rounded to a square of scan positions.
    device
        As `gpuio.open` takes it.
    progress
        Told what is being done, and how far.

    Returns
    -------
    dict
        What `report` prints; names carry their units.

    Raises
    ------
    OSError
        The folder cannot be written or the disk is full.
    RuntimeError
        A frame differs from the truth.
    """
    tell = progress or (lambda done, total, what: None)
    side = max(2, math.isqrt(parse_bytes(size) // FRAME_BYTES))
    scene = synth.Scene((side, side), SIG_SHAPE, seed=1, bits=12, dark=4.0, gain=0.05)
    corrections = CorrectionSet(dark=scene.dark, gain=scene.gain)
    resolve_device(device)                      # before anything is written
    output.mkdir(parents=True, exist_ok=True)
    files = synth.write("mib", output / "scan.mib", scene, kind="R12", layout="2x2",
                        progress=lambda done, total: tell(done, total, "making a scan"))

    def opened() -> DataSet:
        return gpuio.open(output / "scan.mib", device=device)

    tell(0, 4, "first tile")
    first_ever = _first_tile(opened, corrections)
    ds = opened()
    tell(1, 4, "checking")
    checked = _check(ds, scene, corrections)
    tell(2, 4, "streaming")
    n_bytes = sum(os.path.getsize(f) for f in ds.files)
    streams = [{**_stream(opened, corrections, threads, n_bytes), "limits_GB_per_s": _limits(ds, max(1, threads))}
               for threads in _thread_choices(ds)]
    tell(3, 4, "drawing")
    pictures = _pictures(ds, corrections, output)
    return {
        "files": files, "bytes": n_bytes, "nav_shape": scene.nav_shape, "sig_shape": SIG_SHAPE,
        "encoding": "MIB raw 12 bit, 2 x 2 chips", "output_dtype": "float32", "corrections": ["dark", "gain"],
        "device": ds.device, "transport": _transport(ds), "first_tile_after_start_s": first_ever, "passes": PASSES,
        "streams": streams, "frames_checked": checked, "pictures": [str(p) for p in pictures],
    }


def report(result: dict[str, Any]) -> None:
    """Print what `run` returns."""
    from rich.console import Console
    from rich.table import Table

    nav, sig = (" x ".join(str(n) for n in result[key]) for key in ("nav_shape", "sig_shape"))
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="cyan", no_wrap=True)
    facts.add_column()
    facts.add_row("scan", f"{nav} positions of {sig} pixels, {result['encoding']}, {result['bytes'] / 1e9:.3g} GB")
    facts.add_row("streamed as", f"{result['output_dtype']} with {' and '.join(result['corrections'])}, on {result['device']}")
    facts.add_row("read by", result["transport"])
    facts.add_row("checked", f"{result['frames_checked']} frames equal the truth, every pixel")
    facts.add_row("very first tile", f"after {result['first_tile_after_start_s']:.2f} s, with imports and, the first time, compiling")
    facts.add_row("pictures", ", ".join(result["pictures"]))
    limits = list(result["streams"][0]["limits_GB_per_s"])
    rates = Table(title="GB of packed bytes per second, and gpuio's share of what this machine does at best", title_justify="left")
    for heading in ("threads", "gpuio", *limits, "first tile"):
        rates.add_column(heading, justify="right")
    for stream in result["streams"]:
        rate, threads, first = stream["GB_per_s"], max(1, stream["threads"]), stream["first_tile_s"]
        shares = [f"{limit:.2f} ({rate / limit:.0%})" for limit in stream["limits_GB_per_s"].values()]
        rates.add_row(str(threads), f"[bold]{rate:.2f}[/bold]", *shares, f"{first * 1e3:.1f} ms")
    console = Console(highlight=False)
    console.print(facts, "", rates, sep="\n")
    console.print(f"Medians of {result['passes']} passes; the file is in the page cache. It stays: {result['files'][0]}", style="dim")


def _stream(opened: Callable[[], DataSet], corrections: CorrectionSet, threads: int, n_bytes: int) -> dict[str, Any]:
    """Median rate and first-tile time of whole passes, each from opening the files."""
    rates, firsts = [], []
    for _ in range(PASSES):
        started = time.perf_counter()
        ds = opened()
        tiles = ds.tiles(dtype="float32", corrections=corrections, threads=threads)
        last = next(tiles)
        _wait(ds, last.data)
        firsts.append(time.perf_counter() - started)
        for tile in tiles:
            last = tile
        _wait(ds, last.data)
        rates.append(n_bytes / (time.perf_counter() - started) / 1e9)
    return {"threads": threads, "GB_per_s": statistics.median(rates), "first_tile_s": statistics.median(firsts)}


def _first_tile(opened: Callable[[], DataSet], corrections: CorrectionSet) -> float:
    """Seconds from opening to the first tile, this once with all that is done for the first time."""
    started = time.perf_counter()
    ds = opened()
    for tile in ds.tiles(dtype="float32", corrections=corrections):
        _wait(ds, tile.data)
        break
    return time.perf_counter() - started


def _wait(ds: DataSet, data: Any) -> None:
    """Until `data` is there: work on a device is done when a pixel of it has come back."""
    ds.engine.download(data[-1:, -1:, -1:].copy())


def _thread_choices(ds: DataSet) -> list[int]:
    """0 (the caller's thread) and, where the CPU decodes, one thread a core."""
    cores = os.cpu_count() or 1
    return [0, cores] if ds.device == "cpu" and cores > 1 else [0]


def _limits(ds: DataSet, threads: int) -> dict[str, float]:
    """GB/s of what the stream cannot do without, on as many threads: medians of `PASSES`."""
    with ThreadPoolExecutor(threads) as pool:
        limits = {"reading the file": _median_rate(_reads(ds.files, pool, threads)), "copying memory": _median_rate(_copies(pool, threads))}
    if ds.device != "cpu":
        limits["host to device"] = _median_rate(_pushes(ds))
    return limits


def _median_rate(passes: Iterator[int]) -> float:
    """GB/s from an iterator that does one pass a step and says how many bytes it moved."""
    next(passes)                                # warm up
    rates = []
    for _ in range(PASSES):
        started = time.perf_counter()
        rates.append(next(passes) / (time.perf_counter() - started) / 1e9)
    return statistics.median(rates)


def _reads(files: list[str], pool: ThreadPoolExecutor, threads: int) -> Iterator[int]:
    """Whole files, each thread a part of each, into a buffer that stays in the cache."""
    def read(path: str, number: int) -> int:
        buffer, total, size = memoryview(bytearray(READ_BYTES)), 0, os.path.getsize(path)
        at, stop = (size * k // threads for k in (number, number + 1))
        with open(path, "rb", buffering=0) as file:
            file.seek(at)
            while total < stop - at and (n := file.readinto(buffer[:stop - at - total])):
                total += n
        return total

    while True:
        yield sum(sum(pool.map(read, [path] * threads, range(threads))) for path in files)


def _copies(pool: ThreadPoolExecutor, threads: int) -> Iterator[int]:
    """Memory that no cache holds, each thread a part of it."""
    source = np.random.default_rng(1).integers(0, 256, COPY_BYTES, dtype=np.uint8)
    target = np.zeros_like(source)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    while True:
        list(pool.map(lambda part: np.copyto(*part), parts))
        yield source.nbytes


def _pushes(ds: DataSet) -> Iterator[int]:
    """Pinned memory to the device."""
    staging = ds.engine.staging(COPY_BYTES)
    staging.host[:] = 1
    while True:
        staging.push(COPY_BYTES)
        with staging.reading():
            ds.engine.download(staging.device[-1:])
        yield COPY_BYTES


def _check(ds: DataSet, scene: synth.Scene, corrections: CorrectionSet) -> int:
    """Compare frames from all over the scan with the arrays they were made from.

    Raises
    ------
    RuntimeError
        One differs; names the frame.
    """
    wanted = np.unique(np.linspace(0, len(scene) - 1, CHECKED_FRAMES).round().astype(np.int64))
    dark, gain = (np.asarray(m, dtype=np.float64) for m in (scene.dark, scene.gain))
    found = ds.engine.download(ds.read(wanted, dtype="float32", corrections=corrections))
    for k, frame in zip(wanted.tolist(), found, strict=True):
        truth = ((scene.frames(k, k + 1)[0] - dark) * gain).astype(np.float32)
        if not np.array_equal(frame, truth):
            raise RuntimeError(f"{ds.files[0]}: frame {k} differs from what was written in {np.count_nonzero(frame != truth)} pixels")
    return len(wanted)


def _pictures(ds: DataSet, corrections: CorrectionSet, output: Path) -> list[Path]:
    """Scan image and mean pattern, corrected; one frame as recorded and corrected."""
    scan, pattern = preview.summarise(ds, corrections=corrections)
    middle = np.array([scan.size // 2 + scan.shape[1] // 2])
    recorded = ds.engine.download(ds.read(middle, corrections=CorrectionSet()))[0]
    corrected = ds.engine.download(ds.read(middle, dtype="float32", corrections=corrections))[0]
    paths = [output / "overview.png", output / "frame.png"]
    preview.save(preview.overview(scan, pattern), paths[0])
    frame = [preview.Panel(recorded, "one frame, as recorded"), preview.Panel(corrected, "with dark and gain")]
    preview.save(preview.picture(frame), paths[1])
    return paths


def _transport(ds: DataSet) -> str:
    """How the bytes come, and why so."""
    backend, _, reason = ds._transport()
    return f"{backend.id}: {reason}"
