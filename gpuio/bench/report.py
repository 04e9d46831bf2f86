"""The measurement, from the file to plain values as ``schema.json`` describes them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from gpuio.bench import data
from gpuio.bench.cache import PageCache
from gpuio.bench.limits import STORAGE, limits
from gpuio.bench.machine import machine, peak_memory, versions
from gpuio.bench.peers import peers
from gpuio.bench.stages import stages
from gpuio.bench.subject import Subject, Work
from gpuio.bench.sweep import sweep
from gpuio.bench.timing import Spread, Timing, interleaved
from gpuio.dataset import DataSet
from gpuio.sizing import parse_bytes

#: Name and version of the form of reports.
SCHEMA = "gpuio-bench-1"
DEFAULT_SIZE = "1 GiB"

#: ``progress(done, total, what)``
Progress = Callable[[int, int, str], object]


@dataclass(frozen=True)
class Request:
    """What shall be measured.

    Attributes
    ----------
    path
        The file; None: one is made.
    format
        Of the file, or of the one to be made.
    parameters
        Of the format, or of its writer.
    size
        Packed bytes to make, or to use of the file at most; peers read whole files.
    peers, sweep
        Measure other libraries as well, or other settings.
    """

    path: str | None = None
    format: str = "auto"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    size: int | str = DEFAULT_SIZE
    device: str | None = None
    transport: str | None = None
    cold: bool = False
    repeats: int = 5
    threads: int | None = None
    depth: int | None = None
    memory: int | str | None = None
    peers: bool = False
    sweep: bool = False


def run(request: Request, progress: Progress = lambda done, total, what: None) -> dict[str, Any]:
    """Measure.

    Returns
    -------
    dict
        As ``schema.json`` says.

    Raises
    ------
    DataSetException, OSError, BackendUnavailable, MemoryBudgetError
        The file cannot be made, opened or streamed as asked for.
    """
    size = parse_bytes(request.size)
    with TemporaryDirectory(prefix="gpuio-bench-") if request.path is None else nullcontext(None) as folder:
        path, parameters, format = request.path, dict(request.parameters), request.format
        if folder is not None:
            format = "npy" if format == "auto" else format

            def tell(done: int, total: int) -> None:
                progress(done, total, "making a scan")

            path, parameters = data.make(Path(folder), format, size, parameters, progress=tell)
        assert path is not None
        subject = _subject(request, path, format, parameters, size)
        found = _measure(request, subject, progress)
        if request.peers:
            found["peers"] = peers(subject, parameters, request.repeats, progress)
        if request.sweep:
            found["sweep"] = sweep(subject, request.repeats, progress)
        return found


def schema() -> dict[str, Any]:
    """JSON schema of reports."""
    found: dict[str, Any] = json.loads(files("gpuio.bench").joinpath("schema.json").read_text(encoding="utf-8"))
    return found


def _subject(request: Request, path: str, format: str, parameters: dict[str, Any], size: int) -> Subject:
    """The data set, and the part of its scan that has about `size` packed bytes."""
    def opened() -> DataSet:
        return data.opened(path, format, request.device, parameters, request.transport)

    ds = opened()
    cache = PageCache(list(dict.fromkeys(map(str, ds.files))), request.cold)
    cache.prepare()             # which transport is chosen depends on it
    options = {name: value for name in ("threads", "depth", "memory") if (value := getattr(request, name)) is not None}
    whole = ds.explain(dtype=np.float32 if ds.dtype.kind != "c" else np.complex64, **options)
    roi = None
    if whole.needed_bytes > size * 1.2 and not request.peers:
        roi = np.zeros(tuple(ds.shape.nav), dtype=bool)
        roi.reshape(-1)[:max(1, roi.size * size // whole.needed_bytes)] = True
    plan = whole if roi is None else ds.explain(dtype=whole.dtype, roi=roi, **options)
    return Subject(ds, opened, cache, roi, options, plan)


def _measure(request: Request, subject: Subject, progress: Progress) -> dict[str, Any]:
    ds, plan = subject.ds, subject.plan
    ranges = subject.ranges()
    bounds = list(limits(subject, ranges))
    names = [bound.name for bound in bounds]
    by_storage = request.cold or plan.transport in ("direct", "gds")
    source = STORAGE if by_storage else "page cache"
    works = list(stages(subject, ranges, [source] if source in names else []))
    load = machine(ds.engine)
    candidates = {work.name: work.candidate for work in bounds} | {work.name: work.beside_limit() for work in works}
    timings = interleaved(candidates, request.repeats, progress=progress)
    limit_rows = {work.name: _row(work, timings[work.name]) for work in bounds}
    stage_rows = [_stage_row(work, timings[work.name], limit_rows) for work in works if work.n_bytes]
    first = timings["first tile"].wall
    memory = peak_memory(ds.engine, lambda: subject.stream(subject.pixels[1]))
    return {
        "schema": SCHEMA, "date": datetime.now(UTC).isoformat(timespec="seconds"), "command": " ".join(["gpuio", *sys.argv[1:]]),
        "machine": load, "versions": versions(), "data": _data(request, subject),
        "settings": {"device": ds.device, "transport": plan.transport, "why": plan.why, "threads": plan.decode_threads,
                     "read_threads": plan.read_threads, "tile_frames": plan.tile_frames, "tile_bytes": plan.tile_bytes,
                     "block_bytes": plan.block_bytes, "blocks_at_a_time": plan.buffers, "memory_budget": plan.memory_budget,
                     "repeats": request.repeats},
        "cache": {"asked": "cold" if request.cold else "warm", "confirmed": subject.cache.confirmed, "resident": subject.cache.worst,
                  "text": str(subject.cache)},
        "limits": list(limit_rows.values()), "stages": stage_rows, "bottleneck": _bottleneck(stage_rows, subject.threads),
        "first_tile_s": asdict(first), "peak_memory": memory, "notes": list(_notes(subject, names, plan.transport)),
    }


def _data(request: Request, subject: Subject) -> dict[str, Any]:
    ds, plan = subject.ds, subject.plan
    return {
        "path": None if request.path is None else plan.path, "made": request.path is None, "format": ds.format, "encoding": plan.encoding,
        "native_dtype": plan.native_dtype, "nav_shape": list(ds.shape.nav), "sig_shape": list(ds.shape.sig), "frames": plan.frames,
        "frames_in_file": ds.image_count, "files": plan.n_files, "packed_bytes": plan.needed_bytes, "read_bytes": plan.read_bytes,
        "file_system": plan.file_system,
    }


def _row(work: Work, timing: Timing) -> dict[str, Any]:
    rate = timing.wall.rate(work.n_bytes / 1e9)
    cpu = timing.cpu.median
    return {"name": work.name, "what": work.what, "bytes": work.n_bytes, "seconds": asdict(timing.wall), "cpu_seconds": cpu,
            "GB_per_s": asdict(rate), "GB_per_cpu_s": work.n_bytes / 1e9 / cpu if cpu > 0 else None}


def _stage_row(work: Work, timing: Timing, limits: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A stage, the slowest of its limits, and its share of that: of the runs beside it, where it is the one that ran there."""
    row = _row(work, timing)
    limit = min((limits[name] for name in work.limits), key=_rate, default=None)
    share, per_core = None, None
    if limit is not None:
        ratio = timing.ratio if limit["name"] == work.limits[0] else None
        scale = work.n_bytes / limit["bytes"]
        share = Spread(**row["GB_per_s"]).times(1 / _rate(limit)) if ratio is None else ratio.wall.times(scale)
        if limit["name"] != STORAGE and row["GB_per_cpu_s"] and limit["GB_per_cpu_s"]:       # waiting takes no core
            per_core = row["GB_per_cpu_s"] / limit["GB_per_cpu_s"] if ratio is None else ratio.cpu.median * scale
    return {
        **row, "frames_per_s": asdict(timing.wall.rate(work.frames)) if work.frames else None, "on_the_way": work.on_the_way,
        "limit": limit["name"] if limit else None, "limit_GB_per_s": _rate(limit) if limit else None,
        "share": asdict(share) if share else None, "share_per_core": per_core,
    }


def _rate(row: Mapping[str, Any]) -> float:
    return float(row["GB_per_s"]["median"])


def _bottleneck(rows: Sequence[Mapping[str, Any]], threads: int) -> str | None:
    """The slowest stage that the stream has; decoding by several threads counts as so many times faster."""
    way = {row["name"]: _rate(row) * (threads if row["name"].startswith("decode") else 1) for row in rows if row["on_the_way"]}
    return min(way, key=way.__getitem__) if way else None


def _notes(subject: Subject, limits: Sequence[str], transport: str) -> list[str]:
    notes = []
    if not any(name.startswith("storage") for name in limits):
        notes.append("storage was not measured: " + (subject.plan.why_not.get("direct", ("there are no files",))[0]))
    if subject.cache.cold and subject.cache.confirmed is not True:
        notes.append(str(subject.cache))
    if subject.ds.device == "cpu":
        notes.append(f"no GPU was measured: {subject.plan.why_not.get('cuda', ('none was asked for',))[0]}")
    if transport == "mmap":
        notes.append("native tiles may be views of the mapped file: their bytes are moved only when somebody looks at them")
    return notes
