"""Finds a scan in what the headers of frames say of it, from a few of them: where it starts, how long its lines are, how many there are.

Two things can tell. The **scan position** (y, x): (0, 0) before the scan and at its first frame, then (0, 1), (0, 2) ... The **rotator
index**: constant before the scan, then one more with each frame.

Headers lie far apart, and there may be a million. Where a rule holds up to some frame and no further, that frame is found by doubling
and halving steps. What is found is a guess; its reason is kept, and the user decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import isqrt

#: Where probes with growing steps may miss a short scan in a long recording, so many are made at equal distances.
PROBES = 64
#: Where the start of the scan or the end of a line is not found by its rule, so many frames are looked at one by one.
SEARCHED_FRAMES = 4096


@dataclass(frozen=True, slots=True)
class Scan:
    """A guess.

    Attributes
    ----------
    start
        Frame of the first position.
    nav_shape
        A line of all frames from there on if nothing else is known.
    reason
        What it follows from, as a sentence.
    """

    start: int
    nav_shape: tuple[int, ...]
    reason: str


def scan_from_positions(position: Callable[[int], tuple[int, int] | None], n_frames: int) -> Scan | None:
    """The scan that positions tell of; None if they tell of none.

    Parameters
    ----------
    position
        (y, x) of a frame; None if that of the frame is no position.
    n_frames
        Frames of all files.
    """
    start = _first_position(position, n_frames)
    if start is None:
        return None
    width = _line_length(position, start, n_frames)
    if width is None:
        return Scan(start, (n_frames - start,), f"scan positions in the frame headers start at frame {start}; no line of them ends")
    whole = (n_frames - start) // width         # a line at the end that is not complete is no line
    # A line begins at the left, or, where every other line goes back, at the right.
    regular = _first_failure(lambda row: position(start + row * width) in ((row, 0), (row, width - 1)), _doubling(0, whole), whole)
    reason = f"scan positions in the frame headers start at frame {start}, in lines of {width}"
    lines = max(1, regular)
    if regular < whole:
        samples = range(start + regular * width, n_frames, max(width, (n_frames - start) // SEARCHED_FRAMES))
        lines = min(whole, max([lines, *((position(k) or (0, 0))[0] + 1 for k in (*samples, n_frames - 1))]))
        if lines > regular:
            reason += f"; but those from frame {start + regular * width} on are not the expected ones: frames may be missing or doubled"
    if lines * width < n_frames - start:
        reason += f"; {n_frames - start - lines * width} frames follow the last whole line"
    return Scan(start, (lines, width), reason)


def scan_from_rotator(index: Callable[[int], int], n_frames: int) -> Scan | None:
    """The scan that rotator indices tell of; None if they tell of none. A square if the number of positions is one, else a line.

    Parameters
    ----------
    index
        Of a frame.
    n_frames
        Frames of all files.
    """
    idle = index(0)
    moving = _first_failure(lambda k: index(k) == idle, _spread(n_frames), n_frames)
    if moving == n_frames or index(moving) != idle + 1:
        return None
    start = moving if idle == 0 else moving - 1
    end = _first_failure(lambda k: index(k) == index(start) + k - start, _doubling(start, n_frames), n_frames)
    total = end - start
    if index(start) != 1 or (end < n_frames and index(end) > total):
        reason = f"rotator indices in the frame headers rise from frame {start} on, but not one by one from 1"
        return Scan(start, (n_frames - start,), reason)
    side = isqrt(total)
    nav_shape = (side, side) if side * side == total and side > 1 else (total,)
    return Scan(start, nav_shape, f"rotator indices in the frame headers count {total} scan positions from frame {start} on")


def _first_position(position: Callable[[int], tuple[int, int] | None], n_frames: int) -> int | None:
    """The last frame at (0, 0) before the first at (0, 1)."""
    moving = _first_failure(lambda k: position(k) == (0, 0), _spread(n_frames), n_frames)
    if 0 < moving < n_frames and position(moving) == (0, 1):
        return moving - 1
    seen = False            # the scan is short, or frames before it show the last position of another one
    for k in range(min(n_frames, SEARCHED_FRAMES)):
        found = position(k)
        if seen and found == (0, 1):
            return k - 1
        seen = seen or found == (0, 0)
    return None


def _line_length(position: Callable[[int], tuple[int, int] | None], start: int, n_frames: int) -> int | None:
    """Positions of the first line; None if it does not end."""
    end = _first_failure(lambda k: position(k) == (0, k - start), _doubling(start, n_frames), n_frames)
    largest = end - start - 1
    for k in range(end, min(n_frames, end + SEARCHED_FRAMES)):       # usually over at once: the next line begins here
        found = position(k)
        if found is None or found[0] != 0 or found[1] < largest:
            return largest + 1
        largest = found[1]
    return None


def _first_failure(holds: Callable[[int], bool], probes: Iterable[int], stop: int) -> int:
    """The first index at which a rule fails that holds before it; `stop` if it fails at none of `probes`, which ascend."""
    good = -1
    for bad in probes:
        if holds(bad):
            good = bad
            continue
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if holds(middle) else (good, middle)
        return bad
    return stop


def _doubling(start: int, stop: int) -> list[int]:
    """From `start` to the last before `stop`, in steps that double."""
    steps = [0, *(1 << n for n in range(max(0, stop - start - 1).bit_length()))]
    return [start + step for step in steps if start + step < stop] + ([stop - 1] if stop > start else [])


def _spread(stop: int) -> list[int]:
    """From 0 to the last before `stop`, in steps that double, and at equal distances."""
    return sorted({*_doubling(0, stop), *range(0, stop, max(1, stop // PROBES))})
