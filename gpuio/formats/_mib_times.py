"""Finds the lines of a scan in the times of its frames, from a few headers only.

A scan rests after each line. Where the first pause is can be found by doubling and halving steps: about twenty headers for
lines of a thousand frames. Pauses are short: 0.02 % of a frame in the one public recording with lines, whose frames are
otherwise regular to 20 ns. What is found stays a hint; the user decides about the scan shape.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

#: A frame comes after a pause if it is late by at least this many ns, and by this share of the time of a frame.
LATE_NS = 1000
LATE_SHARE = 1e-4
#: NumPy alone would take words and time zones.
UTC = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?Z?")


def parse_utc(text: str | None) -> int | None:
    """Nanoseconds since 1970 of a time such as ``2021-04-15T13:44:43.100924481Z``; None if it is no time."""
    if text is None or UTC.fullmatch(text) is None:
        return None
    try:
        return int(np.datetime64(text.removesuffix("Z"), "ns").astype(np.int64))
    except ValueError:
        return None


def frames_per_line(time_of: Callable[[int], int | None], n_frames: int) -> int | None:
    """Frames up to the first pause, if there is another pause after as many again.

    Parameters
    ----------
    time_of
        Time of a frame in ns; None if it has none.
    n_frames
        Frames of the scan.

    Returns
    -------
    int or None
        None: no regular pauses, or no usable times.
    """
    times: dict[int, int] = {}

    def time(frame: int) -> int:
        if frame not in times:
            found = time_of(frame)
            if found is None:
                raise ValueError(f"frame {frame} has no time")
            times[frame] = found
        return times[frame]

    def late(frame: int, before: int) -> bool:
        """Whether a frame comes later than frames 0 to `before` let expect."""
        expected = frame * (time(before) - time(0)) / before
        return time(frame) - time(0) - expected > max(LATE_NS, LATE_SHARE * (time(1) - time(0)))

    def pauses_before(frame: int) -> bool:
        period = time(1) - time(0)
        return time(frame) - time(frame - 1) - period > max(LATE_NS, LATE_SHARE * period)

    try:
        if n_frames < 4 or time(1) <= time(0):
            return None
        before, after = 1, 2                        # a frame of the first line; one that may be of the next
        while not late(after, before):
            if after == n_frames - 1:
                return None
            before, after = after, min(2 * after, n_frames - 1)
        while after - before > 1:
            middle = (before + after) // 2
            before, after = (before, middle) if late(middle, before) else (middle, after)
        line = after
        is_regular = 2 * line <= n_frames and pauses_before(line) and not pauses_before(2 * line - 1) and (
            2 * line == n_frames or pauses_before(2 * line))
    except ValueError:
        return None
    return line if is_regular else None
