"""Integrity report: what the files of a data set say against what they hold.

>>> report = gpuio.check.check("scan.hdr")
>>> report.is_clean, report.findings, report.candidates

Headers of all frames are read where the format has any, and no pixels. What the formats contribute is described in `findings`;
here counters and times are judged, and guesses at the scan are made from them (`candidates`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

import gpuio
from gpuio import formats as registry
from gpuio.candidates import Candidate, find_candidates, find_lines
from gpuio.errors import DataSetException, ShapeError
from gpuio.findings import SEVERITIES, UNKNOWN, Finding, FrameRecords, Progress, about_files, shortened
from gpuio.source import HostFiles

if TYPE_CHECKING:
    from gpuio.candidates import Lines
    from gpuio.dataset import DataSet
    from gpuio.fileset import File

#: A counter that counts one more at less than this share of the frames is none.
COUNTING_SHARE = 0.5
#: With fewer frames nothing can be called usual.
MIN_FRAMES = 4
#: Times are judged if at least this share of the frames comes at the usual distance, within this share of it.
REGULAR_SHARE, REGULAR_WIDTH = 0.8, 0.1


@dataclass(frozen=True)
class Report:
    """What `check` has found.

    Attributes
    ----------
    path
        As given.
    format
        Name of the format.
    files
        Files that hold frames; empty if the data set could not be opened.
    image_count
        Frames that the files hold or ought to hold; None if the data set could not be opened.
    headers_read
        Frames whose own headers were looked at.
    findings
        What is wrong or odd, errors first.
    candidates
        Guesses at the scan, best first.
    notes
        How the reader took what was odd, in its own words.
    """

    path: str
    format: str
    files: tuple[str, ...] = ()
    image_count: int | None = None
    headers_read: int = 0
    findings: tuple[Finding, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether there is no error; there may be warnings."""
        return not self.count("error")

    def count(self, severity: str) -> int:
        """How many findings of a severity there are."""
        return sum(finding.severity == severity for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": self.path, "format": self.format, "files": list(self.files), "image_count": self.image_count,
            "headers_read": self.headers_read, "is_clean": self.is_clean, **{f"{s}s": self.count(s) for s in SEVERITIES},
            "findings": [finding.to_dict() for finding in self.findings],
            "candidates": [candidate.to_dict() for candidate in self.candidates], "notes": list(self.notes),
        }


def check(path: str | os.PathLike[str], format: str = "auto", *, progress: Progress | None = None, **parameters: Any) -> Report:
    """Compare what the files of a data set say with what they hold.

    Parameters
    ----------
    path
        Any file of the data set.
    format
        A name of `gpuio.formats`, or "auto".
    progress
        Called with the headers read and those in all.
    parameters
        Of the format. They are kept; a data set that cannot be opened with them is an error in the report, and what can be
        opened of it is still looked at.

    Returns
    -------
    Report

    Raises
    ------
    UnknownFormat
        No format recognises the file.
    ShapeError
        Parameters do not fit.
    DataSetException
        There is no such format, or the path is a folder, pipe or device.
    OSError
        A file is missing or cannot be read.
    """
    path = os.fspath(path)
    name = gpuio._recognise(path) if format == "auto" else format
    module = _module(name)
    ds, findings = _open(name, module, path, parameters)
    if ds is None:
        return Report(path, name, findings=tuple(findings))
    source, layout = HostFiles(), ds.layout
    records: FrameRecords | None = None
    lines: Lines | None = None
    try:
        if hasattr(module, "check"):
            findings += module.check(source, layout)
        else:
            findings += about_files(layout, counted_by_size=getattr(module, "COUNTED_BY_SIZE", False))
        if hasattr(module, "frame_records"):
            records = module.frame_records(source, layout, progress or (lambda done, total: None))
            lines = find_lines(records)
            findings += [*records.findings, *_judged(records, lines, layout.parts[0])]
    except DataSetException as error:           # damage that does not show where opening looks
        findings.append(_about("error", path, str(error)))
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Report(path, name, tuple(ds.files), layout.image_count, 0 if records is None else len(records.frames), tuple(findings),
                  tuple(find_candidates(layout, records, lines)), layout.notes)


def _module(name: str) -> ModuleType:
    return import_module(registry.get(name).__module__)


def _open(name: str, module: ModuleType, path: str, parameters: Mapping[str, Any]) -> tuple[DataSet | None, list[Finding]]:
    """The data set, or what is left of it, and what opening it has told."""
    findings: list[Finding] = []
    lenient = getattr(module, "LENIENT", {})
    for given in (parameters, {**lenient, **parameters}) if lenient else (parameters,):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                ds = gpuio.load(name, path=path, **given)
            except DataSetException as error:
                if parameters and isinstance(error, ShapeError):        # the user's, not the files'
                    raise
                finding = _about("error", path, str(error))
                if finding not in findings:
                    findings.append(finding)
                continue
        return ds, findings + [_about("warning", path, said) for said in dict.fromkeys(str(warning.message) for warning in caught)]
    return None, findings


def _about(severity: str, path: str, message: str) -> Finding:
    """A message as a finding; messages begin with the file that they are about, where it is not the one that was opened."""
    where, colon, what = message.partition(": ")
    if colon and os.path.lexists(where.partition(", byte ")[0]):
        return Finding(severity, where, what)
    return Finding(severity, path, message)


# -- counters and times ------------------------------------------------------------------------------------------------


def _judged(records: FrameRecords, lines: Lines | None, files: Iterable[File]) -> Iterator[Finding]:
    """Findings about counters and times of frames, file by file."""
    gaps: list[Finding] = []
    times: list[Finding] = []
    for file in files:
        at = slice(*np.searchsorted(records.frames, (file.start_idx, file.end_idx)))
        frames, counter, time = records.frames[at], records.counter[at], records.time_ns[at]
        jumps = list(_jumps(counter))
        if len(jumps) > max(MIN_FRAMES, (1 - COUNTING_SHARE) * len(counter)):
            gaps.append(Finding("warning", file.path, f"frame counters do not count: {len(jumps)} of {len(counter)} do not go on",
                                {"places": len(jumps)}))
            jumps = []
        gaps += [_of_counter(file, frames, counter, time, i) for i in jumps]
        times += _of_times(file, frames, time, lines, {i + k for i in jumps for k in (0, 1)}, records.resolution_ns)
    yield from shortened(gaps, "more places where frame counters do not go on")
    yield from shortened(times, "more places where times of frames do not go on")


def _jumps(counter: np.ndarray) -> Iterator[int]:
    """Positions at which a counter is not one more than before; one wrong number among right ones is one position."""
    known = np.flatnonzero(counter != UNKNOWN)
    shift = counter[known] - known
    wrong = np.flatnonzero(np.diff(shift)) + 1
    skip = -1
    for k in wrong.tolist():
        if k == skip:
            continue
        if k + 1 < len(shift) and shift[k + 1] == shift[k - 1]:
            skip = k + 1
        yield int(known[k])


def _of_counter(file: File, frames: np.ndarray, counter: np.ndarray, time: np.ndarray, i: int) -> Finding:
    """About the frame at position `i` of a file, whose counter does not go on."""
    before = np.flatnonzero(counter[:i] != UNKNOWN)[-1]
    expected = int(counter[before]) + i - int(before)
    found = int(counter[i])
    alone = i + 1 < len(counter) and counter[i + 1] == expected + 1
    what = f"frame counter {found}; expected {expected}"
    if alone:
        what += ": a frame of another place, or a damaged number"
    elif found > expected:
        what += f": {found - expected} frames are missing before it, and all that follow are shown at earlier positions"
    else:
        what += ": frames are repeated or out of order"
    evidence: dict[str, Any] = {"frame": int(frames[i]), "byte": _byte(file, frames[i]), "found": found, "expected": expected}
    if UNKNOWN not in (time[i], time[i - 1]):
        evidence["seconds_since_frame_before"] = int(time[i] - time[i - 1]) / 1e9
    return Finding("error", f"{file.path}, frame {frames[i]}", what, evidence)


def _of_times(file: File, frames: np.ndarray, time: np.ndarray, lines: Lines | None, explained: set[int],
              resolution_ns: int) -> Iterator[Finding]:
    """Times that go back, and pauses that are no ends of lines; `explained` positions have a finding of their own."""
    known = (time[1:] != UNKNOWN) & (time[:-1] != UNKNOWN)
    step = np.where(known, np.diff(time), 0)
    for i in (np.flatnonzero(known & (step < 0)) + 1).tolist():
        if i not in explained:
            yield Finding("warning", f"{file.path}, frame {frames[i]}",
                          f"was taken {-step[i - 1] / 1e9:.9g} s before the frame in front of it",
                          {"frame": int(frames[i]), "byte": _byte(file, frames[i]), "seconds_since_frame_before": step[i - 1] / 1e9})
    usual = known & (step > 0)
    if np.count_nonzero(usual) < MIN_FRAMES:
        return
    is_start = lines.is_start(frames[1:]) if lines is not None else np.zeros(len(step), dtype=bool)
    within = usual & ~is_start
    period = float(np.median(step[within if within.any() else usual]))
    if np.count_nonzero(np.abs(step[within] - period) <= REGULAR_WIDTH * period) < REGULAR_SHARE * np.count_nonzero(within):
        return                          # triggered one by one: no distance is the usual one
    pause = float(np.median(step[usual & is_start])) if (usual & is_start).any() else period
    limit = np.where(is_start, np.maximum(2 * pause, pause + period / 2), 1.5 * period) + 2 * resolution_ns
    for i in (np.flatnonzero(usual & (step > limit)) + 1).tolist():
        if i not in explained:
            expected = pause if is_start[i - 1] else period
            yield Finding("warning", f"{file.path}, frame {frames[i]}",
                          f"was taken {step[i - 1] / 1e9:.9g} s after the frame before; expected {expected / 1e9:.9g} s",
                          {"frame": int(frames[i]), "byte": _byte(file, frames[i]), "seconds_since_frame_before": step[i - 1] / 1e9,
                           "expected_seconds": expected / 1e9, "frames_in_that_time": round(float((step[i - 1] - expected) / period))})


def _byte(file: File, frame: Any) -> int:
    """Where a frame, its header included, begins in its file."""
    return file.file_header + (int(frame) - file.start_idx) * file.stride
