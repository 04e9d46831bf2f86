"""For ``gpuio check``: what the headers of all frames of a MIB data set say, and which members it lacks; `mib` has the table.

Headers of a recording are alike to the byte but for a number and two times. A header is parsed, and those that are like it are read
as columns of an array, thousands at once. Where others turn up (longer numbers, another exposure), the next one is parsed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import numpy as np

from gpuio.errors import FormatError, TruncatedFile
from gpuio.findings import UNKNOWN, Finding, FrameRecords, Progress, about_files
from gpuio.formats._frame_headers import read_headers
from gpuio.formats._mib_header import FrameHeader, parse_header, read_header
from gpuio.formats._mib_times import parse_utc
from gpuio.formats._siblings import numbered, split_name, without_number
from gpuio.layout import Layout
from gpuio.source import Source

#: Damaged headers that are described one by one.
MAX_DESCRIBED = 20
#: With so many damaged headers the file is something else from there on, and is not read further.
MAX_DAMAGED = 10_000
ZERO = np.uint8(ord("0"))
#: Headers of a batch that others are compared with; beyond, each is parsed.
MAX_MODELS = 16
#: Magic, sequence number; fields up to the local time; that.
LEAD = re.compile(rb"MQ1,([0-9]{1,12})(?:,[^,]*){7},([^,]*),")
#: ``2021-04-15T13:44:43.100924481`` of the extension.
UTC = re.compile(rb",MQ1A,([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{9})Z,")


def check(source: Source, layout: Layout) -> Iterator[Finding]:
    """Members of the series that are missing at its start, or hold no frame; and whatever any format's files may lack."""
    first = layout.parts[0][0]
    reference = read_header(source, first.path)
    if reference.sequence > 1:
        yield Finding("warning", f"{first.path}, frame 0", f"the first sequence number is {reference.sequence}; expected 1: "
                      f"{reference.sequence - 1} frames before it are in no file of the set", {"found": reference.sequence, "expected": 1})
    folder, stem, extension = split_name(first.path)
    members = {os.path.basename(file.path) for file in layout.parts[0]}
    for name in numbered(source.listdir(folder), without_number(stem), extension):
        path = os.path.join(folder, name)
        if name not in members and source.size(path) < first.stride and _may_belong(source, path, reference):
            yield Finding("error", path, f"holds {source.size(path)} bytes, no whole frame of {first.stride}; it was left out",
                          {"bytes": source.size(path), "frame_bytes": first.stride})
    yield from about_files(layout, counted_by_size=True)


def _may_belong(source: Source, path: str, reference: FrameHeader) -> bool:
    """Whether a file without a whole frame does not show that it is of another set."""
    try:
        return read_header(source, path).difference(reference) is None
    except FormatError as error:
        return isinstance(error, TruncatedFile)


def frame_records(source: Source, layout: Layout, progress: Progress) -> FrameRecords:
    """Sequence number, UTC time and exposure of every frame, and which headers are damaged or of other frames.

    Raises
    ------
    OSError
        A file cannot be read.
    FormatError
        The first header is damaged.
    """
    first = layout.parts[0][0]
    reference = read_header(source, first.path)
    columns: list[tuple[np.ndarray, ...]] = []
    problems: list[tuple[str, int, int, str]] = []
    n_damaged = 0
    for file, frames, raw in read_headers(source, layout, first.frame_header, progress):
        values = np.full((3, len(raw)), UNKNOWN, dtype=np.int64)
        left = np.arange(len(raw))
        models = 0
        while len(left):
            i = int(left[0])
            offset = file.file_header + (int(frames[i]) - file.start_idx) * file.stride
            values[:, i], problem = _parsed(raw[i].tobytes(), file.path, offset, reference)
            left = left[1:]
            if problem is not None:
                n_damaged += 1
                if len(problems) < MAX_DESCRIBED:
                    problems.append((file.path, int(frames[i]), offset, problem))
            elif models < MAX_MODELS:
                models += 1
                left = _fill_alike(raw, i, left, values)
        columns.append((frames, *values))
        if n_damaged > MAX_DAMAGED:
            break
    findings = [Finding("error", f"{path}, frame {frame}", problem, {"frame": frame, "byte": offset})
                for path, frame, offset, problem in problems]
    if n_damaged > len(problems):
        findings.append(Finding("error", first.path, f"{n_damaged - len(problems)} more frame headers are damaged or differ"
                                + (f"; those after frame {columns[-1][0][-1]} were not read" if n_damaged > MAX_DAMAGED else ""),
                                {"frames": n_damaged - len(problems)}))
    frame, counter, time, exposure = (np.concatenate(column) for column in zip(*columns, strict=True))
    return FrameRecords(frame, counter, time, exposure, tuple(findings))


def _parsed(raw: bytes, path: str, offset: int, reference: FrameHeader) -> tuple[tuple[int, int, int], str | None]:
    """Sequence number, time and exposure of a header, and what is wrong with it."""
    try:
        header = parse_header(raw, path, offset)
    except FormatError as error:
        return (UNKNOWN, UNKNOWN, UNKNOWN), str(error)
    difference = header.difference(reference)
    time, exposure = parse_utc(header.time_utc), header.metadata.get("exposure_s")
    values = (header.sequence, UNKNOWN if time is None else time, UNKNOWN if exposure is None else round(exposure * 1e9))
    return values, None if difference is None else f"byte {offset}: {difference} as in the first frame"


def _fill_alike(raw: np.ndarray, model: int, left: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Fill in `values` of those headers `left` that are like header number `model`, which is parsed; returns the others.

    Parameters
    ----------
    raw : uint8[n, header bytes]
    left : int64[m]
    values : int64[3, n], written
    """
    text = raw[model].tobytes()
    lead, utc = LEAD.match(text), UTC.search(text)
    if lead is None or utc is None or not len(left):
        return left
    number, local, time = slice(*lead.span(1)), slice(*lead.span(2)), slice(*utc.span(1))
    is_fixed = np.ones(raw.shape[1], dtype=bool)
    is_fixed[number] = is_fixed[local] = False
    is_fixed[time] = ~_is_digit(raw[model, time])
    rows = raw[left]
    alike = (rows[:, is_fixed] == raw[model, is_fixed]).all(axis=1) & _is_digit(rows[:, number]).all(axis=1)
    alike &= (_is_digit(rows[:, time]) | is_fixed[time]).all(axis=1)
    chosen, rows = left[alike], rows[alike]
    try:
        times = np.ascontiguousarray(rows[:, time]).view(f"S{len(utc[1])}")[:, 0].astype("U").astype("M8[ns]")
    except ValueError:              # digits that are no date
        return left
    values[0, chosen] = (rows[:, number] - ZERO) @ 10 ** np.arange(len(lead[1]))[::-1]
    values[1, chosen] = times.astype(np.int64)
    values[2, chosen] = values[2, model]
    return left[~alike]


def _is_digit(text: np.ndarray) -> np.ndarray:
    return text - ZERO <= 9
