"""Writes FRMS6 data sets as PNDetector's camera does; the format is described in `gpuio.formats.frms6`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod

import numpy as np

from gpuio.errors import DataSetException, ShapeError
from gpuio.newfile import new_file
from gpuio.synth._writing import Progress, exact, stacks

FILE_HEADER = np.dtype({
    "names": ["file_header_bytes", "frame_header_bytes", "version", "name", "width", "height", "frames"],
    "formats": ["<u2", "<u2", "u1", "S80", "<u2", "<u2", "<u4"], "offsets": [0, 2, 7, 8, 88, 90, 1020], "itemsize": 1024,
})
FRAME_HEADER = np.dtype({
    "names": ["seconds", "microseconds", "number", "temperature_V", "start_line", "lines"],
    "formats": ["<u4", "<u4", "<u4", "<f8", "<u2", "<u2"], "offsets": [4, 8, 12, 16, 24, 26], "itemsize": 64,
})
BINNINGS = (1, 2, 4)
#: Frames are folded a few at a time, whatever the size of the arrays that they come in.
CHUNK_BYTES = 8 << 20
#: When frames are said to be taken: the start of 2024, UTC.
START_S = 1704067200


def write(path: str, frames: Iterable[np.ndarray], *, nav_shape: Sequence[int], sig_shape: Sequence[int],
          progress: Progress | None = None, binning: int = 1, frames_per_file: int | None = None, dark: np.ndarray | int = 0,
          dark_frames: int = 4, count_in_header: bool = True, dwell_time_us: int = 1000) -> list[str]:
    """Write a scan as the camera would have recorded it.

    Parameters
    ----------
    path
        ``folder/scan.hdr``. The other files become ``scan_000.frms6``, which holds the dark frames, ``scan_001.frms6`` ...
    frames
        Yields stacks of counts, shape (n, *sig), all positions in C order, as they are when binning is undone.
    nav_shape
        The ``.hdr`` has two scan axes: all but the last are taken together.
    sig_shape : (height, width)
        The height is a multiple of twice the binning.
    progress
        Called with the frames written and those in all.
    binning : 1, 2 or 4
        Rows of the detector that are read out as one. They must be equal.
    frames_per_file
        None writes all frames of the scan into one file.
    dark : counts[n, *sig] or int
        Dark frames, or the one value of all their pixels. They are not added to `frames`.
    dark_frames
        How many, if `dark` is a number.
    count_in_header
        Whether files say how many frames they hold; old ones do not.
    dwell_time_us
        Time from one frame to the next, as headers tell it.

    Returns
    -------
    list of str
        Paths of the files, the ``.hdr`` first. All appear at the end, or none.

    Raises
    ------
    ShapeError
        Frames do not have the promised shape or number, or one that `binning` does not allow.
    DataSetException
        A value does not fit uint16, rows of a bin differ, or there is no such binning.
    """
    nav, sig = tuple(nav_shape), tuple(sig_shape)
    if binning not in BINNINGS:
        raise DataSetException(f"binning is {binning}; expected one of {', '.join(map(str, BINNINGS))}")
    if len(sig) != 2 or min(sig) < 1 or sig[0] % (2 * binning) or max(sig[0] // (2 * binning), 2 * sig[1]) > 0xFFFF:
        raise ShapeError(f"sig_shape is {sig}; expected (height, width), the height a multiple of {2 * binning}, "
                         "at most 65535 stored rows and columns")
    if not nav or min(nav) < 1:
        raise ShapeError(f"nav_shape is {nav}; expected positive integers")
    if frames_per_file is not None and frames_per_file < 1:
        raise ShapeError(f"frames_per_file is {frames_per_file}; expected at least 1")
    if isinstance(dark, int):
        dark = np.full((dark_frames, *sig), dark)
    if dark.shape[1:] != sig or not len(dark):
        raise ShapeError(f"dark frames have shape {dark.shape}; expected (n, {sig[0]}, {sig[1]})")
    total = prod(nav)
    per_file = frames_per_file or total
    stem = os.path.splitext(path)[0]
    form = _Form(nav, sig, binning, len(dark), count_in_header, dwell_time_us, os.path.basename(stem))
    paths = [f"{stem}_{number:03d}.frms6" for number in range(1 - (-total // per_file))]
    with ExitStack() as files:          # leaves in reverse order: the .hdr gets its name when all data have theirs
        with open(files.enter_context(new_file(f"{stem}.hdr")), "wb") as text:
            text.write(form.hdr())
        with open(files.enter_context(new_file(paths[0])), "wb") as out:
            out.write(form.file_header(len(dark)))
            for first in range(0, len(dark), form.chunk):
                out.write(form.encode(dark[first:first + form.chunk], first))
        done = 0
        for stack in stacks(frames, nav, sig, progress):
            while len(stack):
                if done % per_file == 0:
                    temporary = files.enter_context(new_file(paths[1 + done // per_file]))
                    out = files.enter_context(open(temporary, "wb"))
                    out.write(form.file_header(min(per_file, total - done)))
                part = stack[:min(form.chunk, per_file - done % per_file)]
                out.write(form.encode(part, done))
                done += len(part)
                stack = stack[len(part):]
                if done % per_file == 0:
                    out.close()
    return [f"{stem}.hdr", *paths]


@dataclass(frozen=True)
class _Form:
    """What all files and frames have in common."""

    nav_shape: tuple[int, ...]
    sig_shape: tuple[int, ...]
    binning: int
    dark_frames: int
    count_in_header: bool
    dwell_time_us: int
    name: str

    @property
    def chunk(self) -> int:
        """Frames to fold at a time, however large the stacks are."""
        return max(1, CHUNK_BYTES // (self.sig_shape[0] * self.sig_shape[1] * 2))

    @property
    def stored_shape(self) -> tuple[int, int]:
        """Rows and columns of the file."""
        return self.sig_shape[0] // (2 * self.binning), 2 * self.sig_shape[1]

    def file_header(self, n_frames: int) -> bytes:
        height, width = self.stored_shape
        header = np.zeros((), FILE_HEADER)
        header[()] = FILE_HEADER.itemsize, FRAME_HEADER.itemsize, 6, self.name.encode("utf-8")[:80], width, height, \
            n_frames if self.count_in_header else 0
        return header.tobytes()

    def encode(self, stack: np.ndarray, first: int) -> bytes:
        """Frames with their headers; `first` is the number of the first one."""
        height, width = self.stored_shape
        frames = np.zeros(len(stack), [("header", FRAME_HEADER), ("pixels", "<u2", (height, width))])
        number = first + np.arange(len(stack))
        microseconds = number * self.dwell_time_us
        frames["header"]["seconds"] = START_S + microseconds // 1_000_000
        frames["header"]["microseconds"] = microseconds % 1_000_000
        frames["header"]["number"] = number
        frames["header"]["temperature_V"] = 1.25
        frames["header"]["lines"] = height
        frames["pixels"] = self.fold(stack)
        return frames.tobytes()

    def fold(self, stack: np.ndarray) -> np.ndarray:
        """Frames as they are stored: uint16[n, rows, columns]."""
        binned = exact(stack, np.uint16)[:, ::self.binning]
        if not np.array_equal(np.repeat(binned, self.binning, axis=1), stack):
            raise DataSetException(f"rows that are read out as one differ; expected {self.binning} equal rows each")
        upper, lower = np.split(binned, 2, axis=1)
        return np.concatenate((upper, lower[:, ::-1, ::-1]), axis=2)

    def hdr(self) -> bytes:
        """The text file of the acquisition."""
        columns, total = self.nav_shape[-1], prod(self.nav_shape)
        lines = ["[measurementInfo]", f"dataSetName = {self.name}", f"signalFrames = {total}", f"darkFrames = {self.dark_frames}",
                 f'readoutMode = "bin: {self.binning}, windowing: {self.sig_shape[0]} x {self.sig_shape[1]}"', "gain = 1",
                 f"dwellTimeMicroseconds = {self.dwell_time_us}", f"stemImageSize = {total // columns}x{columns}"]
        return "\r\n".join([*lines, ""]).encode("utf-8")
