"""What may be wrong with a data set, as data: findings, and what the headers of frames say.

Formats contribute to ``gpuio check`` with up to four names in their module; `gpuio.check` looks for them:

``frame_records(source, layout, progress) -> FrameRecords``
    What the header of every frame says. Counters and times in it are judged by `gpuio.check`, alike for all formats.
``check(source, layout) -> Iterable[Finding]``
    Findings about the files. Without it, `about_files` is used, which such a function can make use of.
``COUNTED_BY_SIZE = True``
    Nothing but the size of a file tells how many frames it has.
``LENIENT``
    Parameters with which what is left of a damaged set can be opened.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from gpuio.fileset import File
from gpuio.layout import Layout

#: In that order; an error means pixels that are missing or cannot be trusted, a warning that something is odd.
SEVERITIES = ("error", "warning")
#: What `FrameRecords` has where a header does not tell a counter, time or exposure.
UNKNOWN = np.iinfo(np.int64).min

#: Findings of one kind that are told one by one.
MAX_TOLD = 20

#: Called with frames done and frames in all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong or odd.

    Attributes
    ----------
    severity
        "error": pixels are missing or cannot be trusted; "warning": odd, but all that the files promise is there.
    where
        The file, and the frame if it is about one: ``scan2.mib, frame 17``. Frames are counted from 0 over all files, as
        everywhere in gpuio.
    what
        What was found, and what was expected; a sentence.
    evidence
        The numbers behind it, by name.
    """

    severity: str
    where: str
    what: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"severity": self.severity, "where": self.where, "what": self.what, "evidence": dict(self.evidence)}


@dataclass(frozen=True, slots=True)
class FrameRecords:
    """What the headers of frames say. Arrays have one entry for each frame that is in a file.

    Attributes
    ----------
    frames : int64[n]
        Number of the frame in the data set, ascending.
    counter, time_ns, exposure_ns : int64[n]
        Its own count, when it was taken (any origin) and how long it was exposed; `UNKNOWN` where the header does not tell.
    findings
        About headers that are damaged or differ from the others.
    resolution_ns
        Of `time_ns`.
    """

    frames: np.ndarray
    counter: np.ndarray
    time_ns: np.ndarray
    exposure_ns: np.ndarray
    findings: tuple[Finding, ...] = ()
    resolution_ns: int = 1


def shortened(findings: list[Finding], rest: str) -> Iterator[Finding]:
    """The first of many findings, and the number of others, which are `rest`."""
    yield from findings[:MAX_TOLD]
    if len(findings) > MAX_TOLD:
        last = findings[-1]
        yield Finding(last.severity, last.where, f"{len(findings) - MAX_TOLD} {rest}, the last one here", {"places": len(findings)})


def about_files(layout: Layout, *, counted_by_size: bool = False) -> Iterator[Finding]:
    """What sizes and numbers of frames tell: files that end inside a frame, holes, scans larger or smaller than their recording.

    Parameters
    ----------
    counted_by_size
        Bytes after the last whole frame of a file are then the rest of a frame that was cut. Where headers tell the number of
        frames, they are that only if there ought to be one.
    """
    for each in filter(None, (layout, layout.dark, layout.gain)):
        for part in each.parts:
            for file, stop in zip(part, [*(following.start_idx for following in part[1:]), each.image_count], strict=True):
                if counted_by_size or stop > file.end_idx:
                    yield from about_end(file)
    yield from about_holes(layout)
    yield from about_scan(layout)


def about_end(file: File) -> Iterator[Finding]:
    """The part of a frame at the end of a file."""
    rest = (file.size or 0) - file.file_header - file.num_frames * file.stride
    if 0 < rest < file.stride:
        yield Finding("error", file.path, f"ends inside a frame: {rest} of {file.stride} bytes of frame {file.end_idx} are there",
                      {"bytes_left": rest, "frame_bytes": file.stride, "frame": file.end_idx})


def about_holes(layout: Layout) -> Iterator[Finding]:
    """Frames that ought to be there and are in no file."""
    if len(layout.parts) != 1:
        return
    files = [file for file in layout.parts[0] if file.num_frames]
    if not files:
        return
    places = [(before.end_idx, after.start_idx, before, f"between it and {os.path.basename(after.path)}")
              for before, after in pairwise(files)]
    for start, stop, near, place in [*places, (files[-1].end_idx, layout.image_count, files[-1], "after its end")]:
        if stop > start:
            those = f"frame {start} is" if stop == start + 1 else f"frames {start} to {stop - 1} are"
            yield Finding("error", f"{near.path}, frame {start}", f"{those} in no file, {place}; blank instead",
                          {"first_frame": start, "last_frame": stop - 1, "frames": stop - start})


def about_scan(layout: Layout) -> Iterator[Finding]:
    """A scan, as the files state it, of another number of positions than there are frames for it."""
    if layout.nav_shape is None:
        return
    positions = math.prod(layout.nav_shape)
    frames = layout.image_count - layout.sync_offset
    scan = " x ".join(map(str, layout.nav_shape))
    what = f"the scan of {scan} has {positions} positions; there are {frames} frames for it,"
    evidence = {"nav_shape": layout.nav_shape, "positions": positions, "frames": frames}
    if frames < positions:
        yield Finding("error", path_of(layout), f"{what} {positions - frames} too few: the end is blank", evidence)
    elif frames > positions:
        yield Finding("warning", path_of(layout), f"{what} {frames - positions} too many: the last belong to no position", evidence)


def path_of(layout: Layout) -> str:
    """The first file of a layout."""
    return layout.paths[0]
