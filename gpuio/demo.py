"""What ``make demo`` runs: make a scan, stream it with corrections, check it against the truth, time it, draw it.

The scan is a synthetic 4D-STEM recording as a Merlin detector of 2 x 2 chips writes it: MIB, raw, 12 bit. Rates count
packed bytes as they lie in the file, 1 GB = 10^9 bytes, and are medians of `PASSES` passes over a file that is in the page
cache. They are set against what this machine can do at best (`gpuio.bench.limits`), measured in turn with them: reading the
same file without looking at it, and writing as many bytes of tiles as well.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import gpuio
from gpuio import ceilings, preview, synth
from gpuio.bench.limits import reading, writing
from gpuio.bench.subject import Range
from gpuio.bench.timing import Candidate, interleaved
from gpuio.corrections import CorrectionSet
from gpuio.engine import resolve_device
from gpuio.sizing import parse_bytes

if TYPE_CHECKING:
    from gpuio.dataset import DataSet

SIG_SHAPE = (512, 512)
FRAME_BYTES = 512 * 512 * 2
PASSES = 3
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
    streams = [_stream(opened, corrections, threads) for threads in _thread_choices(ds)]
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


def _stream(opened: Callable[[], DataSet], corrections: CorrectionSet, threads: int) -> dict[str, Any]:
    """Rate and first-tile time of whole passes, each from opening the files, and limits of the machine taken in turn with them."""
    firsts: list[float] = []

    def run() -> None:
        started = time.perf_counter()
        ds = opened()
        tiles = ds.tiles(dtype="float32", corrections=corrections, threads=threads)
        last = next(tiles)
        _wait(ds, last.data)
        firsts.append(time.perf_counter() - started)
        for tile in tiles:
            last = tile
        _wait(ds, last.data)

    ds = opened()
    n_bytes = sum(map(os.path.getsize, ds.files))
    works = {"gpuio": (n_bytes, run), **_limits(ds, n_bytes, max(1, threads))}
    timings = interleaved({name: Candidate(work) for name, (_, work) in works.items()}, PASSES)
    rates = {name: timings[name].wall.rate(size / 1e9).median for name, (size, _) in works.items()}
    return {"threads": threads, "GB_per_s": rates.pop("gpuio"), "first_tile_s": statistics.median(firsts[1:]), "limits_GB_per_s": rates}


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


def _limits(ds: DataSet, n_bytes: int, threads: int) -> dict[str, tuple[int, Callable[[], object]]]:
    """What the stream cannot do without, on as many threads: bytes, and how they are moved."""
    files = [Range(path, 0, os.path.getsize(path)) for path in ds.files]
    limits: dict[str, tuple[int, Callable[[], object]]] = {"reading the file": (n_bytes, partial(reading, files, threads=threads))}
    if ds.device == "cpu":
        after = writing(4 * ds.shape.size / n_bytes)
        limits["reading and writing tiles"] = n_bytes, partial(reading, files, threads=threads, after=after)
    else:
        push = ceilings.host_to_device(ds.engine)
        limits["host to device"] = push.n_bytes, push.once
    return limits


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
