"""Guesses at scan shape and sync offset, with what speaks for each: pauses between lines, flyback exposures, numbers of frames.

A scan rests after each line, and some set-ups expose the frame of the flyback longer than others. Both show the length of
lines and the frame at which a line begins. Nothing is decided here: the user sees the candidates and chooses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuio.findings import UNKNOWN, FrameRecords
from gpuio.layout import Layout

#: A frame comes after a pause if it is late by at least this many ns, and by this share of the time of a frame. (The pauses of the
#: one public recording with lines are 0.02 % of a frame, its frames otherwise regular to 20 ns.)
LATE_NS, LATE_SHARE = 1000, 1e-4
#: Share of the lines that have to begin with a pause, and of the pauses that have to begin a line.
SUPPORT = 0.8
#: Share of the recording that the lines have to fill.
COVERED = 0.5
#: A flyback frame is exposed at least so many times as long as the usual frame.
LONG_EXPOSURE = 1.5
#: Shapes proposed from the number of frames alone, and how far from square they may be.
MAX_PAIRS, MAX_ASPECT = 3, 8

#: What a reason weighs, for the order of candidates.
STATED, MEASURED, SQUARE, OTHER_PAIR = 4.0, 3.0, 1.0, 0.5


@dataclass(frozen=True, slots=True)
class Candidate:
    """A scan shape and sync offset that the data set may have been recorded with.

    Attributes
    ----------
    nav_shape
        Slowest axis first.
    sync_offset
        Frames before the first position.
    weight
        Of all reasons together; only the order means something.
    reasons
        What speaks for it, a clause each.
    """

    nav_shape: tuple[int, ...]
    sync_offset: int
    weight: float
    reasons: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"nav_shape": self.nav_shape, "sync_offset": self.sync_offset, "weight": self.weight, "reasons": self.reasons}


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines of a scan, as times or exposures show them.

    Attributes
    ----------
    length
        Frames from the start of a line to that of the next.
    rows
        Lines of the scan; the last may be incomplete.
    first
        The frame with which the first of them begins.
    support
        Share of the lines whose start shows, of those of which it could.
    evidence
        As a clause.
    """

    length: int
    rows: int
    first: int
    support: float
    evidence: str

    def is_start(self, frames: np.ndarray) -> np.ndarray:
        """Which frames begin a line: bool[n]."""
        return (frames - self.first) % self.length == 0


def find_lines(records: FrameRecords) -> Lines | None:
    """The lines that pauses between frames show; None if pauses are not regular.

    A pause comes before a line. That before the first one cannot be seen if the recording starts with it.
    """
    known = (records.time_ns[1:] != UNKNOWN) & (records.time_ns[:-1] != UNKNOWN) & (np.diff(records.frames) == 1)
    step = np.diff(records.time_ns)[known]
    if len(step) < 3:
        return None
    period = float(np.median(step))
    late = step - period > max(LATE_NS, LATE_SHARE * period, 2 * records.resolution_ns)
    places = records.frames[1:][known]
    n_frames = int(records.frames[-1]) + 1
    if period <= 0 or not late.any():
        return None
    if np.count_nonzero(late) == 1:         # two lines have one pause between them
        length = int(places[late][0])
        found = (length, length, length, 1, 1) if length > 1 and 2 * length == n_frames else None
    else:
        found = _periodic(places[late], places)
    if found is None:
        return None
    length, begin, last, hits, expected = found
    first = 0 if begin == length else begin
    rows = (last - first) // length + 1
    if rows * length < COVERED * n_frames:
        return None
    pause = float(np.median(step[late & ((places - first) % length == 0)])) - period
    evidence = f"a pause of {pause / 1e3:.4g} µs before {hits} of {expected} lines of {length} frames"
    return Lines(length, rows, first, hits / expected, evidence)


def find_flyback(records: FrameRecords) -> Lines | None:
    """The lines that frames of longer exposure show: each is taken for the flyback, which ends a line."""
    known = records.exposure_ns != UNKNOWN
    exposure = records.exposure_ns[known]
    if len(exposure) < 4:
        return None
    usual = float(np.median(exposure))
    long = exposure > LONG_EXPOSURE * usual
    places = records.frames[known] + 1
    found = _periodic(places[long], places)
    if found is None:
        return None
    length, end, last, hits, expected = found
    first = end - length if end >= length else end          # a recording may begin inside a line
    rows = (last - first) // length
    if rows * length < COVERED * (int(records.frames[-1]) + 1):
        return None
    longer = float(np.median(exposure[long]))
    return Lines(length, rows, first, hits / expected, f"{hits} of {expected} lines of {length} frames end with an exposure of "
                 f"{longer / 1e6:.4g} ms, other frames have {usual / 1e6:.4g} ms: the last column is the flyback")


def _periodic(marks: np.ndarray, places: np.ndarray) -> tuple[int, int, int, int, int] | None:
    """The regular distance of marked frames.

    Parameters
    ----------
    marks : int64[n]
        Frames at which something begins, ascending.
    places : int64[m]
        Frames at which a beginning would show, ascending.

    Returns
    -------
    length, first, last, hits, expected
        Distance, the first and the last beginning, how many are marked of those between, and how many could be; or None.
    """
    if len(marks) < 2:
        return None
    distances, counts = np.unique(np.diff(marks), return_counts=True)
    length = int(distances[np.argmax(counts)])
    phases, counts = np.unique(marks % length, return_counts=True)
    phase = int(phases[np.argmax(counts)])
    regular = marks[marks % length == phase]
    first, last, hits = int(regular[0]), int(regular[-1]), len(regular)
    expected = int(np.count_nonzero((places % length == phase) & (places >= first) & (places <= last)))
    if length < 2 or hits < SUPPORT * expected or hits < SUPPORT * len(marks):
        return None
    return length, first, last, hits, expected


def find_candidates(layout: Layout, records: FrameRecords | None, lines: Lines | None) -> list[Candidate]:
    """Guesses at the scan, best first; those with the same shape and offset are one, with all their reasons.

    Parameters
    ----------
    records
        What the headers of frames say; None if frames have none.
    lines
        From `find_lines`.
    """
    merged: dict[tuple[tuple[int, ...], int], tuple[float, tuple[str, ...]]] = {}
    flyback = find_flyback(records) if records is not None else None
    for candidate in _all(layout, lines, flyback):
        key = candidate.nav_shape, candidate.sync_offset
        weight, reasons = merged.get(key, (0.0, ()))
        merged[key] = weight + candidate.weight, reasons + candidate.reasons
    found = [Candidate(nav, offset, weight, reasons) for (nav, offset), (weight, reasons) in merged.items()]
    return sorted(found, key=lambda candidate: -candidate.weight)


def _all(layout: Layout, lines: Lines | None, flyback: Lines | None) -> Iterator[Candidate]:
    """Every guess, one reason each."""
    n_frames = layout.image_count
    if layout.nav_shape is not None:
        fits = math.prod(layout.nav_shape) <= n_frames - layout.sync_offset
        yield Candidate(layout.nav_shape, layout.sync_offset, STATED if fits else STATED / 2,
                        ("as the files say" + ("" if fits else ", though there are too few frames"),))
    for seen in (lines, flyback):
        if seen is not None:
            yield Candidate((seen.rows, seen.length), seen.first, MEASURED * seen.support, (seen.evidence,))
    for rows, columns in _pairs(n_frames):
        reason = f"{n_frames} = {rows} x {columns} frames"
        yield Candidate((rows, columns), 0, SQUARE if rows == columns else OTHER_PAIR * rows / columns, (reason,))


def _pairs(n: int) -> list[tuple[int, int]]:
    """The factor pairs of `n` nearest to a square; none for a number that has only elongated ones."""
    root = math.isqrt(n)
    lowest = max(2, math.isqrt(n // MAX_ASPECT))
    return [(a, n // a) for a in range(root, lowest - 1, -1) if n % a == 0][:MAX_PAIRS]
