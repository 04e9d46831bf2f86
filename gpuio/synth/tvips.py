"""Writes TVIPS recordings as EM-Menu does; the format is described in `gpuio.formats.tvips`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod

import numpy as np

from gpuio.errors import DataSetException, ShapeError
from gpuio.newfile import new_file
from gpuio.synth._writing import Progress, exact, stacks

HEADER_BYTES = 256
#: Offsets of the fields of a frame header; those beyond its length are left out.
FIELDS = {"number": ("<u4", 0), "seconds": ("<u4", 4), "milliseconds": ("<u4", 8), "magnification": ("<u4", 20), "mode": ("<u4", 24),
          "rotator": ("<u4", 48), "scan_x": ("<f4", 68), "scan_y": ("<f4", 72)}
BITS = (8, 16, 32, 64)
#: Frames are packed a few at a time, whatever the size of the arrays that they come in.
CHUNK_BYTES = 8 << 20
#: When frames are said to be taken: the start of 2024.
START_S = 1704067200


def write(path: str, frames: Iterable[np.ndarray], *, nav_shape: Sequence[int], sig_shape: Sequence[int],
          progress: Progress | None = None, bits: int = 16, version: int = 2, frame_header_bytes: int = 108,
          frames_per_file: int | None = None, idle_before: int = 0, idle_after: int = 0, scan_headers: bool = True,
          dwell_time_ms: int = 10) -> list[str]:
    """Write a scan as EM-Menu would have recorded it.

    Parameters
    ----------
    path
        ``folder/scan.tvips`` or ``folder/scan_000.tvips``. The files become ``scan_000.tvips``, ``scan_001.tvips`` ...
    frames
        Yields stacks of integers, shape (n, *sig), all positions in C order.
    nav_shape
        Headers have two scan axes: all but the last are taken together.
    sig_shape : (height, width)
    progress
        Called with the frames written and those in all; idle ones do not count.
    bits : 8, 16, 32 or 64
        Of a pixel.
    version
        1: frame headers have 12 bytes and tell nothing of the scan. 2: they have `frame_header_bytes`.
    frame_header_bytes
        At least 12. The scan position needs 76, the rotator index 52.
    frames_per_file
        None writes one file.
    idle_before, idle_after
        Blank frames before and after the scan, as a camera records that runs on its own.
    scan_headers
        Whether headers tell of the scan.
    dwell_time_ms
        Time from one frame to the next, as headers tell it.

    Returns
    -------
    list of str
        Paths of the files. All appear at the end, or none.

    Raises
    ------
    ShapeError
        Frames do not have the promised shape or number.
    DataSetException
        A value does not fit, there is no such version or number of bits, or there are more than 1000 files.
    """
    nav, sig = tuple(nav_shape), tuple(sig_shape)
    if version not in (1, 2) or bits not in BITS or not 12 <= frame_header_bytes <= 65536:
        raise DataSetException(f"version {version}, {bits} bits a pixel, frame headers of {frame_header_bytes} bytes; expected 1 or 2, "
                               f"one of {', '.join(map(str, BITS))}, and 12 to 65536")
    if len(sig) != 2 or min(sig) < 1:
        raise ShapeError(f"sig_shape is {sig}; expected (height, width)")
    if min(idle_before, idle_after, 0 if frames_per_file is None else frames_per_file - 1) < 0:
        raise ShapeError(f"idle_before is {idle_before}, idle_after {idle_after}, frames_per_file {frames_per_file}; "
                         "expected 0 or more, and at least one frame in a file")
    total = prod(nav) + idle_before + idle_after
    per_file = frames_per_file or total
    if -(-total // per_file) > 1000:
        raise DataSetException(f"{total} frames, {per_file} in a file, would make {-(-total // per_file)} files; expected at most 1000")
    form = _Form(nav, sig, bits, version, 12 if version == 1 else frame_header_bytes, idle_before, scan_headers, dwell_time_ms)
    stem = re.sub(r"_[0-9]{3}$", "", os.path.splitext(path)[0])
    paths = [f"{stem}_{number:03d}.tvips" for number in range(-(-total // per_file))]

    def recorded() -> Iterable[np.ndarray]:
        yield from form.idle(idle_before)
        yield from stacks(frames, nav, sig, progress)
        yield from form.idle(idle_after)

    done = 0
    with ExitStack() as files:
        for stack in recorded():
            while len(stack):
                if done % per_file == 0:
                    out = files.enter_context(open(files.enter_context(new_file(paths[done // per_file])), "wb"))
                    if done == 0:
                        out.write(form.series())
                part = stack[:min(form.chunk, per_file - done % per_file)]
                out.write(form.encode(part, done))
                done += len(part)
                stack = stack[len(part):]
                if done % per_file == 0:
                    out.close()
    return paths


@dataclass(frozen=True)
class _Form:
    """What all files and frames have in common."""

    nav_shape: tuple[int, ...]
    sig_shape: tuple[int, ...]
    bits: int
    version: int
    frame_header_bytes: int
    idle_before: int
    scan_headers: bool
    dwell_time_ms: int

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(f"<u{self.bits // 8}")

    @property
    def chunk(self) -> int:
        """Frames to pack at a time, however large the stacks are."""
        return max(1, CHUNK_BYTES // (prod(self.sig_shape) * self.dtype.itemsize))

    def idle(self, count: int) -> Iterable[np.ndarray]:
        """Blank frames, a few at a time."""
        for first in range(0, count, self.chunk):
            yield np.zeros((min(self.chunk, count - first), *self.sig_shape), self.dtype)

    def series(self) -> bytes:
        """The header of the first file."""
        height, width = self.sig_shape
        fields = [HEADER_BYTES, self.version, width, height, self.bits, 0, 0, 1, 1, 1, 200, 80,
                  self.frame_header_bytes if self.version == 2 else 0]
        return (np.array(fields, "<i4").tobytes() + b"SYNTHETIC " * 21)[:HEADER_BYTES]

    def encode(self, stack: np.ndarray, first: int) -> bytes:
        """Frames with their headers; `first` is the number of the first one."""
        fitting = {name: field for name, field in FIELDS.items() if field[1] + 4 <= self.frame_header_bytes}
        header = np.dtype({"names": list(fitting), "formats": [form for form, _ in fitting.values()],
                           "offsets": [offset for _, offset in fitting.values()], "itemsize": self.frame_header_bytes})
        stored = np.zeros(len(stack), [("header", header), ("pixels", self.dtype, self.sig_shape)])
        stored["pixels"] = exact(stack, self.dtype)
        number = first + np.arange(len(stack))
        values = {"number": number, "seconds": START_S + number * self.dwell_time_ms // 1000,
                  "milliseconds": number * self.dwell_time_ms % 1000, "magnification": 80, "mode": 2}
        if self.scan_headers:
            position = number - self.idle_before
            position = np.where((position >= 0) & (position < prod(self.nav_shape)), position, -1)
            values["rotator"] = position + 1
            values["scan_y"], values["scan_x"] = np.divmod(np.maximum(position, 0), self.nav_shape[-1])
        for name in fitting.keys() & values.keys():
            stored["header"][name] = values[name]
        return stored.tobytes()
