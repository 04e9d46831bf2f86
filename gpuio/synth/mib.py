"""Writes MIB data sets as Merlin's readout does; the format is described in `gpuio.formats.mib`.

Packing here is NumPy on whole stacks and shares nothing with the decoders, so that the two can check each other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from math import prod
from typing import NamedTuple

import numpy as np

from gpuio.errors import DataSetException, ShapeError
from gpuio.newfile import new_file
from gpuio.synth._writing import Progress, stacks


class Kind(NamedTuple):
    """A pixel type: largest value, counter depth in bit, pixels packed together, item that they are stored as."""

    largest: int
    depth: int
    group: int
    item: str


KINDS = {
    "U08": Kind(0xFF, 6, 1, ">u1"), "U16": Kind(0xFFFF, 12, 1, ">u2"), "U32": Kind(0xFFFFFFFF, 24, 1, ">u4"),
    "R1": Kind(1, 1, 64, ">u8"), "R6": Kind(0x3F, 6, 8, ">u1"), "R12": Kind(0xFFF, 12, 4, ">u2"), "R24": Kind(0xFFFFFF, 24, 4, ">u2"),
}
#: Number of chips.
LAYOUTS = {"1x1": 1, "2x2": 4, "2x2G": 4, "Nx1": 4, "Nx1G": 4}
HDR_BYTES = 2048
#: Frames are packed a few at a time, whatever the size of the arrays that they come in.
CHUNK_BYTES = 8 << 20

DACS = "011,511,000,000,000,000,000,000,175,010,200,125,100,100,093,100,099,030,128,004,255,140,128,191,179,511,511"
THRESHOLDS = ",".join(["2.000000E+0", "5.110000E+2", *["0.000000E+0"] * 6])


def write(path: str, frames: Iterable[np.ndarray], *, nav_shape: Sequence[int], sig_shape: Sequence[int],
          progress: Progress | None = None, kind: str = "R12", layout: str = "1x1", frames_per_file: int | None = None,
          header_bytes: int | None = None, hdr: bool = True, exposure_s: float = 0.001, line_pause_s: float = 0.0,
          start: datetime | None = None, first_sequence: int = 1) -> list[str]:
    """Write a scan as Merlin would have recorded it.

    Parameters
    ----------
    path
        ``folder/scan.mib`` or ``folder/scan.hdr``. A series of files becomes ``scan1.mib``, ``scan2.mib`` ...
        (``scan7_1.mib`` ... for ``scan7.mib``).
    frames
        Yields stacks of integers, shape (n, *sig), all positions in C order.
    nav_shape
        The ``.hdr`` has two scan axes: all but the last are taken together; one axis is written as continuous acquisition.
    sig_shape : (height, width)
        Of packed quads without the gap.
    kind
        U08, U16, U32, or packed: R1, R6, R12, R24.
    layout
        1x1, 2x2, 2x2G, Nx1 or Nx1G; packed frames: one of the first three.
    frames_per_file
        None writes one file.
    header_bytes
        Bytes of a frame header; None: 384 for one chip, 768 for four.
    hdr
        Whether to write the ``.hdr``.
    exposure_s, line_pause_s
        Time from one frame to the next, and further time after each line, as the headers tell it.
    start
        Time of the first frame; None: the start of 2024, UTC.
    first_sequence
        Sequence number of the first frame.

    Returns
    -------
    list of str
        Paths of the files, the one to open first. All appear at the end, or none.

    Raises
    ------
    ShapeError
        Frames do not have the promised shape or number, or a shape that `kind` and `layout` allow.
    DataSetException
        A value does not fit `kind`, or there are no such frames.
    """
    form = _Form.make(kind, layout, tuple(sig_shape), header_bytes)
    if not nav_shape or min(nav_shape) < 1:
        raise ShapeError(f"nav_shape is {tuple(nav_shape)}; expected positive integers")
    total = prod(nav_shape)
    if frames_per_file is not None and frames_per_file < 1:
        raise ShapeError(f"frames_per_file is {frames_per_file}; expected at least 1")
    per_file = frames_per_file or total
    clock = _Clock.make(start or datetime(2024, 1, 1, tzinfo=UTC), exposure_s, line_pause_s, nav_shape[-1])
    stem = os.path.splitext(path)[0]
    paths = _series(stem, -(-total // per_file))
    done = 0
    with ExitStack() as files:          # leaves in reverse order: the .hdr gets its name when all data have theirs
        if hdr:
            with open(files.enter_context(new_file(f"{stem}.hdr")), "wb") as text:
                text.write(_hdr(form, nav_shape, clock))
        for stack in stacks(frames, nav_shape, sig_shape, progress):
            form.check(stack)
            while len(stack):
                if done % per_file == 0:
                    temporary = files.enter_context(new_file(paths[done // per_file]))
                    out = files.enter_context(open(temporary, "wb"))
                part = stack[:min(form.chunk, per_file - done % per_file)]
                out.write(form.encode(part, first_sequence + done, clock.times(done, len(part)), clock))
                done += len(part)
                stack = stack[len(part):]
                if done % per_file == 0:
                    out.close()
    return [f"{stem}.hdr", *paths] if hdr else paths


@dataclass(frozen=True)
class _Form:
    """What all frames have in common."""

    kind: str
    layout: str
    sig_shape: tuple[int, int]
    header_bytes: int

    @classmethod
    def make(cls, kind: str, layout: str, sig_shape: tuple[int, ...], header_bytes: int | None) -> _Form:
        if kind not in KINDS or layout not in LAYOUTS:
            raise DataSetException(f"kind {kind!r}, layout {layout!r}; expected one of {', '.join(KINDS)} and one of {', '.join(LAYOUTS)}")
        if kind.startswith("R") and (layout.startswith("N") or (kind == "R24" and layout != "1x1")):
            raise DataSetException(f"{kind} frames of layout {layout} are described by nobody; expected 1x1, or 2x2 with at most 12 bit")
        if len(sig_shape) != 2 or min(sig_shape) < 1:
            raise ShapeError(f"sig_shape is {sig_shape}; expected (height, width)")
        form = cls(kind, layout, sig_shape, header_bytes or (384 if LAYOUTS[layout] == 1 else 768))
        if kind.startswith("R"):
            height, width = sig_shape
            group = KINDS[kind].group * (2 if form.is_quad else 1)
            if width % group or (form.is_quad and height != width):
                raise ShapeError(f"sig_shape is {sig_shape}; {kind} {layout} frames have a width that is a multiple of {group}"
                                 + (" and are square" if form.is_quad else ""))
        return form

    @property
    def is_quad(self) -> bool:
        """Whether frames are rearranged into rows of four chips."""
        return self.kind.startswith("R") and self.layout.startswith("2x2")

    @property
    def stored_shape(self) -> tuple[int, int]:
        """Height and width as headers give them."""
        height, width = self.sig_shape
        if self.is_quad:
            return height // 2, width * 2
        return height, width * 2 if self.kind == "R24" else width

    @property
    def chunk(self) -> int:
        """Frames to pack at a time, however large the stacks are."""
        return max(1, CHUNK_BYTES // (self.sig_shape[0] * self.sig_shape[1] * 4))

    def check(self, stack: np.ndarray) -> None:
        """Refuse frames that cannot be written exactly."""
        largest = KINDS[self.kind].largest
        if stack.dtype.kind not in "bui":
            raise DataSetException(f"frames of {stack.dtype} cannot be written as {self.kind}; expected integers")
        if stack.size and (int(stack.min()) < 0 or int(stack.max()) > largest):
            raise DataSetException(f"values from {stack.min()} to {stack.max()} cannot be written as {self.kind}; expected 0 to {largest}")

    def encode(self, array: np.ndarray, sequence: int, times: np.ndarray, clock: _Clock) -> bytes:
        """Frames with their headers; `sequence` is the number of the first, `times` is datetime64[ns][n]."""
        pixels = self.pack(array)
        frames = np.empty((len(array), self.header_bytes + pixels.shape[1]), dtype=np.uint8)
        headers = b"".join(self.header(sequence + i, str(time), clock) for i, time in enumerate(times))
        frames[:, :self.header_bytes] = np.frombuffer(headers, dtype=np.uint8).reshape(len(array), self.header_bytes)
        frames[:, self.header_bytes:] = pixels
        return frames.tobytes()

    def pack(self, array: np.ndarray) -> np.ndarray:
        """Pixels as bytes: uint8[n, bytes of a frame]."""
        n = len(array)
        if self.is_quad:
            half = self.sig_shape[0] // 2
            turned = array[:, half:][:, ::-1, ::-1]         # chips 4 and 3, from left to right
            array = np.concatenate((turned, array[:, :half, half:], array[:, :half, :half]), axis=2)
        kind = KINDS[self.kind]
        if self.kind == "R1":
            bits = np.packbits(array.astype(np.uint8).reshape(n, -1, kind.group), axis=2, bitorder="little")
            return _bytes(bits.view("<u8").astype(kind.item))
        wide = array.astype(np.uint32)
        planes = [wide >> 12, wide & 0xFFF] if self.kind == "R24" else [wide]
        return np.concatenate([_bytes(p.astype(kind.item).reshape(n, -1, kind.group)[:, :, ::-1]) for p in planes], axis=1)

    def header(self, sequence: int, time: str, clock: _Clock) -> bytes:
        """The header of a frame taken at `time` (ISO 8601 with nanoseconds, UTC)."""
        height, width = self.stored_shape
        chips = LAYOUTS[self.layout]
        text = ",".join((
            "MQ1", f"{sequence:06d}", f"{self.header_bytes:05d}", f"{chips:02d}", f"{width:04d}", f"{height:04d}",
            "R64" if self.kind.startswith("R") else self.kind, f"{self.layout:>6}", f"{(1 << chips) - 1:02X}",
            time[:26].replace("T", " "), f"{clock.exposure_ns / 1e9:.6f}", "0,0,0", THRESHOLDS, *[f"3RX,{DACS}"] * chips,
            "MQ1A", f"{time}Z", f"{clock.exposure_ns}ns", f"{KINDS[self.kind].depth}", "",
        )).encode("ascii")
        if len(text) > self.header_bytes:
            raise DataSetException(f"header_bytes is {self.header_bytes}; frame headers of layout {self.layout} need {len(text)}")
        return text.ljust(self.header_bytes, b"\0")


@dataclass(frozen=True)
class _Clock:
    """When frames are taken."""

    start: np.datetime64
    exposure_ns: int
    pause_ns: int
    line: int

    @classmethod
    def make(cls, start: datetime, exposure_s: float, pause_s: float, line: int) -> _Clock:
        utc = start.astimezone(UTC).replace(tzinfo=None)
        return cls(np.datetime64(utc, "ns"), round(exposure_s * 1e9), round(pause_s * 1e9), line)

    def times(self, first: int, count: int) -> np.ndarray:
        """datetime64[ns][count] from frame `first` on."""
        frame = np.arange(first, first + count, dtype=np.int64)
        return self.start + (frame * self.exposure_ns + frame // self.line * self.pause_ns).astype("m8[ns]")


def _bytes(array: np.ndarray) -> np.ndarray:
    """The bytes of each frame: uint8[n, bytes]."""
    return np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8)


def _series(stem: str, n_files: int) -> list[str]:
    """Names of the data files: numbered from 1, without leading zeros, as the readout does."""
    if n_files == 1:
        return [f"{stem}.mib"]
    separator = "_" if stem[-1:].isdigit() else ""
    return [f"{stem}{separator}{i + 1}.mib" for i in range(n_files)]


def _hdr(form: _Form, nav_shape: Sequence[int], clock: _Clock) -> bytes:
    """The text file of the acquisition."""
    date, time = str(clock.start)[:19].split("T")
    year, month, day = date.split("-")
    chips = LAYOUTS[form.layout]
    is_scan = len(nav_shape) > 1
    total, line = prod(nav_shape), nav_shape[-1]
    lines = {
        "Time and Date Stamp (day, mnth, yr, hr, min, s)": f"{day}/{month}/{year} {time}",
        "Chip ID": ", ".join(["SYNTH"] * chips + [" - "] * (4 - chips)),
        "Chip Type (Medipix 3.0, Medipix 3.1, Medipix 3RX)": "Medipix 3RX",
        "Assembly Size (NX1, 2X2)": f"{form.layout:>6}",
        "Chip Mode  (SPM, CSM, CM, CSCM)": "SPM",
        "Counter Depth (number)": f"{KINDS[form.kind].depth}",
        "Gain": "SLGM",
        "Active Counters": "Counter 0",
        "Thresholds (keV)": THRESHOLDS,
        "DACs": "; ".join([DACS] * chips + [""] * (4 - chips)),
        "Gap Fill Mode": "None",
        "Flat Field File": "None",
        "Acquisition Type (Normal, Th_scan, Config)": "Normal",
        "Frames in Acquisition (Number)": f"{total if is_scan else 0}",
        "Frames per Trigger (Number)": f"{line if is_scan else 0}",
        "Trigger Start (Positive, Negative, Internal)": "Internal",
        "Trigger Stop (Positive, Negative, Internal)": "Internal",
        "Sensor Bias (V)": "120 V",
        "Sensor Polarity (Positive, Negative)": "Positive",
        "Medipix Clock (MHz)": "120MHz",
        "Readout System": "Merlin Quad",
        "Software Version": "1.5.0.0",
        **({"ScanX": f"{line}", "ScanY": f"{total // line}"} if is_scan else {}),
    }
    text = "HDR,\t\r\n" + "".join(f"{key}:\t{value}\r\n" for key, value in lines.items()) + "End\t"
    return text.encode("latin-1").ljust(HDR_BYTES)

