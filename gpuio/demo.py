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
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import gpuio
from gpuio import preview, synth
from gpuio.corrections import CorrectionSet
from gpuio.pipeline import parse_bytes
from gpuio.synth.scene import Scene

if TYPE_CHECKING:
    from gpuio.dataset import DataSet

SIG_SHAPE = (512, 512)
FRAME_BYTES = 512 * 512 * 2
PASSES = 3
CHECKED_FRAMES = 17

Progress = Callable[[int, int], None]


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
        Told how far the writing is, ``(done, total)`` frames.

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
    side = max(2, math.isqrt(parse_bytes(size) // FRAME_BYTES))
    scene = Scene((side, side), SIG_SHAPE, seed=1)
    output.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    files = synth.write("mib", str(output / "scan.mib"), scene, nav_shape=(side, side), sig_shape=SIG_SHAPE, progress=progress,
                        kind="R12", layout="2x2")
    written = time.perf_counter() - started
    corrections = CorrectionSet(dark=scene.dark, gain=scene.gain)

    def opened() -> DataSet:
        return gpuio.open(output / "scan.mib", device=device)

    first_ever = _first_tile(opened, corrections)
    ds = opened()
    n_bytes = sum(os.path.getsize(f) for f in ds.files)
    limits = _limits(ds)
    checked = _check(ds, scene, corrections)
    streams = [_stream(opened, corrections, threads, n_bytes) for threads in _thread_choices(ds)]
    bound = min(limits.values())
    for stream in streams:
        stream["share_of_limit"] = stream["GB_per_s"] / bound
    return {
        "files": [str(f) for f in files], "bytes": n_bytes, "nav_shape": (side, side), "sig_shape": SIG_SHAPE,
        "encoding": "MIB raw 12 bit, 2 x 2 chips", "output_dtype": "float32", "corrections": ["dark", "gain"],
        "device": ds.device, "transport": _transport(ds), "write_seconds": written, "limits_GB_per_s": limits,
        "first_tile_after_start_s": first_ever, "streams": streams, "passes": PASSES, "frames_checked": checked,
        "pictures": [str(p) for p in _pictures(ds, corrections, output)],
    }


def report(result: dict[str, Any]) -> None:
    """Print what `run` returns."""
    from rich.console import Console
    from rich.table import Table

    def shape(key: str) -> str:
        return " x ".join(str(n) for n in result[key])

    title = f"{result['encoding']}, streamed as {result['output_dtype']} with dark and gain"
    table = Table(show_header=False, title=title, title_justify="left")
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    table.add_row("read", f"{shape('nav_shape')} positions of {shape('sig_shape')} pixels, {result['bytes'] / 1e9:.2f} GB packed")
    table.add_row("decoded on", result["device"])
    table.add_row("read by", result["transport"])
    for name, rate in result["limits_GB_per_s"].items():
        table.add_row(f"limit: {name}", f"{rate:.2f} GB/s")
    for stream in result["streams"]:
        threads = stream["threads"]
        table.add_row("gpuio" + (f", {threads} threads" if threads else ""),
                      f"[bold]{stream['GB_per_s']:.2f} GB/s[/bold], {stream['share_of_limit']:.0%} of the lowest limit; "
                      f"first tile after {stream['first_tile_s'] * 1e3:.1f} ms")
    table.add_row("very first tile", f"{result['first_tile_after_start_s']:.2f} s, imports and compiling included")
    table.add_row("checked", f"{result['frames_checked']} frames equal the truth, every pixel")
    table.add_row("pictures", "\n".join(result["pictures"]))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"Rates are packed bytes per second, medians of {result['passes']} passes, file in the page cache. "
                  f"The scan stays in {os.path.dirname(result['files'][0])}/.", style="dim")


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


def _limits(ds: DataSet) -> dict[str, float]:
    """GB/s of what nobody can beat here, medians of `PASSES`."""
    limits = {"copying memory": _median_rate(_copies()), "reading the file": _median_rate(_reads(ds.files))}
    if ds.device != "cpu":
        limits["host to device"] = _median_rate(_pushes(ds))
    return limits


def _median_rate(passes: Iterator[int]) -> float:
    """GB/s from an iterator that does one pass a step and says how many bytes it moved."""
    next(passes)                                # warm up
    marks, moved = [time.perf_counter()], []
    for _, n_bytes in zip(range(PASSES), passes, strict=False):
        marks.append(time.perf_counter())
        moved.append(n_bytes)
    return statistics.median(n / (stop - start) / 1e9 for n, (start, stop) in zip(moved, pairwise(marks), strict=True))


def _copies() -> Iterator[int]:
    source = np.ones(128 << 20, dtype=np.uint8)
    target = np.empty_like(source)
    while True:
        np.copyto(target, source)
        yield source.nbytes


def _reads(files: list[str]) -> Iterator[int]:
    """Whole files into one buffer that stays in the cache, one thread."""
    buffer = bytearray(1 << 20)
    while True:
        total = 0
        for path in files:
            with open(path, "rb", buffering=0) as file:
                while n := file.readinto(buffer):
                    total += n
        yield total


def _pushes(ds: DataSet) -> Iterator[int]:
    staging = ds.engine.staging(64 << 20)
    while True:
        staging.push(64 << 20)
        ds.engine.download(staging.device[-1:])
        yield 64 << 20


def _check(ds: DataSet, scene: Scene, corrections: CorrectionSet) -> int:
    """Compare frames from all over the scan with the arrays they were made from.

    Raises
    ------
    RuntimeError
        One differs; names the frame.
    """
    count = scene.nav_shape[0] * scene.nav_shape[1]
    wanted = np.unique(np.linspace(0, count - 1, CHECKED_FRAMES).round().astype(np.int64))
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
