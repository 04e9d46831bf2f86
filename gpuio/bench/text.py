"""A report as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gpuio.explain import size_text

#: Headings of columns of words.
WORDS = ("limit", "version", "value", "why not", "how")


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """All of it, line by line."""
    yield from (f"{name:<11} {value}" for name, value in facts(report))
    yield ""
    yield from table(["limit", "GB/s", "quartiles", "GB/CPU s"], [limit_cells(row) for row in report["limits"]])
    yield ""
    yield from table(["stage", "GB/s", "quartiles", "GB/CPU s", "frames/s", "limit", "share", "per core"],
                     [stage_cells(row) for row in report["stages"]])
    for title, heads, rows in further(report):
        yield ""
        yield title
        yield from table(heads, rows) if rows else ()
    for note in report["notes"]:
        yield f"note: {note}"


def facts(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What was measured, on what, and the few figures that are not in tables."""
    data, machine, settings = report["data"], report["machine"], report["settings"]
    by = " x ".join(map(str, data["sig_shape"]))
    some = f" of {data['frames_in_file']}" if data["frames"] != data["frames_in_file"] else ""
    yield "data", (f"{data['path'] or 'a scan made for this'}: {data['format']}, {data['frames']}{some} frames of {by}, {data['encoding']} "
                   f"{data['native_dtype']}, {size_text(data['packed_bytes'])}")
    gpu = f", {machine['gpu']['name']}" if machine["gpu"] else ""
    yield "machine", (f"{machine['cpu']}, {machine['cores_usable']} of {machine['cores']} cores{gpu}, {machine['system']}, "
                      f"load {machine['load'][0]:.1f}")
    threads = _count(settings["threads"], "decoding thread") if settings["threads"] else "no decoding threads"
    yield "stream", (f"on {settings['device']} by {settings['transport']} ({settings['why']}), {threads}, "
                     f"tiles of {_count(settings['tile_frames'], 'frame')}")
    yield "page cache", f"{report['cache']['text']} ({data['file_system']})"
    first, memory = report["first_tile_s"], report["peak_memory"]
    yield "first tile", f"after {first['median'] * 1e3:.2f} ms (quartiles {first['low'] * 1e3:.2f} to {first['high'] * 1e3:.2f})"
    host, device = memory["host_bytes"], memory["device_bytes"]
    yield "peak memory", (("cannot be told here" if host is None else f"{size_text(host)} resident") +
                          ("" if device is None else f", {size_text(device)} of device memory"))
    yield "bottleneck", report["bottleneck"] or "none of the stages could be measured alone"
    yield "method", f"{settings['repeats']} interleaved rounds, medians; GB of packed bytes, 10^9 each"


def limit_cells(row: Mapping[str, Any]) -> list[str]:
    """A row of the table of limits."""
    return [row["name"], *_rates(row)]


def stage_cells(row: Mapping[str, Any]) -> list[str]:
    """A row of the table of stages."""
    frames = row["frames_per_s"]
    return [row["name"], *_rates(row), f"{frames['median']:.0f}" if frames else "", row["limit"] or "", _share(row["share"]),
            _percent(row["share_per_core"])]


def further(report: Mapping[str, Any]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Title, headings and rows of each table that is there only if it was asked for."""
    if "peers" in report:
        yield ("The same file through other libraries, float32, one thread",
               ["library", "version", "GB/s", "quartiles", "GB/CPU s", "gpuio is faster by", "per core", "why not"],
               list(map(_peer, report["peers"])))
    if "sweep" in report:
        found = report["sweep"]
        tried = [[row["key"], setting(row["key"], row["value"]), *_rates(row)] for row in found["tried"]]
        yield "Other settings, stream to float32", ["setting", "value", "GB/s", "quartiles", "GB/CPU s"], tried
        if found["recommended"]:
            settings = [[key, setting(key, value)] for key, value in found["recommended"].items()]
            yield f"Recommended: {found['gain']:.2f} times as fast as what gpuio chooses", ["setting", "value"], settings
        else:
            yield "Recommended: nothing; what gpuio chooses is as fast", [], []


def _peer(row: Mapping[str, Any]) -> list[str]:
    if row["GB_per_s"] is None:
        return [row["name"], row["version"] or "", "", "", "", "", "", row["why_not"]]
    return [row["name"], row["version"] or "", *_rates(row), f"{row['times_faster']:.2f}", f"{row['times_faster_per_core']:.2f}", ""]


def setting(key: str, value: int | str | None) -> str:
    """The value of a setting of streams; None: there is none."""
    if value is None:
        return "as gpuio chooses"
    return size_text(value) if isinstance(value, int) and key != "threads" else str(value)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Aligned columns: the first and those of words to the left, numbers to the right."""
    cells = [list(heads), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    left = {i for i, head in enumerate(heads) if i == 0 or head in WORDS}
    for row in cells:
        line = (cell.ljust(width) if i in left else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
        yield "  ".join(line).rstrip()


def _rates(row: Mapping[str, Any]) -> list[str]:
    rate, cpu = row["GB_per_s"], row["GB_per_cpu_s"]
    return [f"{rate['median']:.2f}", f"{rate['low']:.2f} to {rate['high']:.2f}", "" if cpu is None else f"{cpu:.2f}"]


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _share(share: Mapping[str, float] | None) -> str:
    return "" if share is None else f"{share['median']:.0%} ({share['low']:.0%} to {share['high']:.0%})"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
