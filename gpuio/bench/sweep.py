"""Which transport, how many threads, which tiles and blocks are the fastest here: one setting after the other, each with those that were
found before.

Every value of a setting takes its turn with the others, and with what the stream would choose by itself. A value is taken only if it is
faster than that by `WORTH` of the time and its slow quartile is faster than the other's median: what noise decides stays as it is. In the
end all of what was found is measured beside the defaults. Values are set as a user's environment would set them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from gpuio import config
from gpuio.bench.subject import Subject
from gpuio.bench.text import setting
from gpuio.bench.timing import Candidate, Timing, interleaved
from gpuio.config import StreamSettings
from gpuio.io.backends import DirectBackend, GDSBackend

#: Share of the time that a setting has to save.
WORTH = 0.05
KIB, MIB = 1 << 10, 1 << 20

#: ``progress(done, total, what)``
Progress = Callable[[int, int, str], object]


def sweep(subject: Subject, repeats: int, progress: Progress) -> dict[str, Any]:
    """Try settings; explicit options of the subject stay as they are.

    Returns
    -------
    dict
        ``tried``: a row for each value of each setting; ``recommended``: the settings that are worth it, by key; ``gain``: how many times
        faster the stream to float32 is with them than without, 1 if there are none.
    """
    best, tried = StreamSettings(), []
    for key, values in axes(subject).items():
        ways: dict[Any, StreamSettings] = {None: best, **{value: replace(best, **{key: value}) for value in values}}
        labels = {str(value): f"{key}: {setting(key, value)}" for value in ways}
        timings = _timed(subject, ways, repeats, _named(progress, labels))
        for value, timing in timings.items():
            rate = timing.wall.rate(subject.plan.needed_bytes / 1e9)
            cpu = timing.cpu.median
            tried.append({"key": key, "value": value, "GB_per_s": asdict(rate),
                          "GB_per_cpu_s": subject.plan.needed_bytes / 1e9 / cpu if cpu > 0 else None})
        best = ways[_choice(timings)]
    if best == StreamSettings():
        return {"tried": tried, "recommended": {}, "gain": 1.0}
    labels = {"None": "all: as gpuio chooses", "recommended": "all: as found"}
    final = _timed(subject, {None: StreamSettings(), "recommended": best}, repeats, _named(progress, labels))
    if _choice(final) is None:          # it was noise
        return {"tried": tried, "recommended": {}, "gain": 1.0}
    return {"tried": tried, "recommended": best.set_ones(), "gain": final[None].wall.median / final["recommended"].wall.median}


def _named(progress: Progress, labels: Mapping[str, str]) -> Progress:
    """`progress` that is told a label instead of what stands for it."""
    return lambda done, total, name: progress(done, total, labels[name])


def axes(subject: Subject) -> dict[str, list[Any]]:
    """What is tried, in this order: values by key of the settings."""
    ds, asked = subject.ds, subject.options
    on_device, cores = ds.device != "cpu", len(os.sched_getaffinity(0))
    found: dict[str, list[Any]] = {}
    if ds._io_backend is None and subject.plan.n_files and not ds.layout.is_gathered:
        found["transport"] = ["buffered", *([] if on_device else ["mmap"])]
        path = str(ds.files[0])
        found["transport"] += ["direct"] if DirectBackend().unavailable(path) is None else []
        found["transport"] += ["gds"] if on_device and GDSBackend().unavailable(path) is None else []
    if "threads" not in asked and not on_device:
        found["threads"] = sorted({1, 2, max(1, cores // 2), cores})
    if "depth" not in asked:
        found["tile_bytes"] = [n * MIB for n in ((32, 64, 256, 512) if on_device else (1, 2, 4, 8))]
    if subject.plan.transport != "mmap" and ds.layout.chunks is None:
        found["block_bytes"] = [n * KIB for n in (256, 1024, 4096, 16384)]
    return found


def _choice(timings: Mapping[Any, Timing]) -> Any:
    """The fastest value, if it is worth leaving None for it."""
    value = min(timings, key=lambda v: timings[v].wall.median)
    best, default = timings[value].wall, timings[None].wall
    return value if best.median < (1 - WORTH) * default.median and best.high < default.median else None


def _timed(subject: Subject, ways: Mapping[Any, StreamSettings], repeats: int, progress: Progress) -> dict[Any, Timing]:
    """The stream to float32 with each of some settings."""
    def candidate(settings: StreamSettings) -> Candidate:
        def run() -> None:
            with configured(settings):
                subject.stream(subject.pixels[1])

        return Candidate(run, subject.cache.prepare)

    names = {str(value): value for value in ways}
    timings = interleaved({name: candidate(ways[value]) for name, value in names.items()}, repeats, progress=progress)
    return {names[name]: timing for name, timing in timings.items()}


@contextmanager
def configured(settings: StreamSettings) -> Iterator[None]:
    """These settings and no others, for all streams of this process that begin now."""
    before = {name: os.environ.get(name) for name in (config.VARIABLE, *config.VARIABLES.values())}
    try:
        os.environ[config.VARIABLE] = ""
        for key, name in config.VARIABLES.items():
            value = getattr(settings, key)
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = str(value)
        config.forget()
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        config.forget()
