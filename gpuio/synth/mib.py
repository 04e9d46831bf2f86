"""Writes MIB data sets as Merlin's readout does; the format is described in `gpuio.formats.mib`.

Packing here is NumPy on whole stacks and shares nothing with the decoders, so that the two can check each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from math import prod
from typing import Any, BinaryIO

import numpy as np

#: Largest value, counter depth in bit, pixels that are packed together.
KINDS = {"U08": (0xFF, 6, 1), "U16": (0xFFFF, 12, 1), "U32": (0xFFFFFFFF, 24, 1),
         "R1": (1, 1, 64), "R6": (0x3F, 6, 8), "R12": (0xFFF, 12, 4), "R24": (0xFFFFFF, 24, 4)}
#: Number of chips.
LAYOUTS = {"1x1": 1, "2x2": 4, "2x2G": 4, "Nx1": 4, "Nx1G": 4}
HDR_BYTES = 2048
#: Frames are packed a few at a time, whatever the size of the arrays that they come in.
CHUNK_BYTES = 8 << 20

DACS = "011,511,000,000,000,000,000,000,175,010,200,125,100,100,093,100,099,030,128,004,255,140,128,191,179,511,511"
THRESHOLDS = ",".join(["2.000000E+0", "5.110000E+2", *["0.000000E+0"] * 6])


def write(path: str | os.PathLike[str], frames: Iterable[np.ndarray], *, nav_shape: tuple[int, ...], sig_shape: tuple[int, ...],
          progress: Callable[[int, int], None] | None = None, kind: str = "R12", layout: str = "1x1",
          frames_per_file: int | None = None, header_bytes: int | None = None, hdr: bool = True, exposure_s: float = 0.001,
          line_pause_s: float = 0.0, start: datetime | None = None, first_sequence: int = 1) -> list[str]:
    """Write a scan.

    Parameters
    ----------
    path
        ``folder/scan.mib``. A series of files becomes ``scan1.mib``, ``scan2.mib`` ... (``scan7_1.mib`` for ``scan7.mib``).
    frames : iterable of int[n, *sig_shape]
        Frames in scan order, any number of them in each array; together one for each scan position.
    nav_shape
        Scan shape. The ``.hdr`` has two axes: all but the last are taken together; one axis is written as continuous acquisition.
    sig_shape : (height, width)
        A RAW quad is square, the gap is left out.
    progress : callable(done, total)
        Called with numbers of frames.
    kind
        U08, U16, U32, or packed: R1, R6, R12, R24.
    layout
        1x1, 2x2, 2x2G, Nx1, Nx1G; packed frames: one of the first three.
    frames_per_file
        None writes one file.
    header_bytes
        Bytes of a frame header; default 384 for one chip, 768 for four.
    hdr
        Write the ``.hdr``.
    exposure_s, line_pause_s
        Time from one frame to the next, and further time after each line.
    start
        Time of the first frame; default the first second of 2024, UTC.
    first_sequence
        Sequence number of the first frame.

    Returns
    -------
    list of str
        Files written, the one to open first. They appear under their names only after all is written.

    Raises
    ------
    ValueError
        Frames are not what the other arguments say, or cannot be written in that way.
    """
    form = _Form.make(kind, layout, tuple(sig_shape), header_bytes)
    clock = _Clock.make(start or datetime(2024, 1, 1, tzinfo=UTC), exposure_s, line_pause_s, nav_shape[-1])
    total = prod(nav_shape)
    per_file = total if frames_per_file is None else int(frames_per_file)
    if per_file < 1:
        raise ValueError(f"frames_per_file is {frames_per_file}; expected at least 1, for {total} frames")
    names = _names(os.fspath(path), -(-total // per_file))
    parts: list[str] = []
    done = 0
    with ExitStack() as undo:
        undo.callback(_remove, parts)
        out: BinaryIO | None = None
        for array in _chunks(frames, form, total):
            while len(array):
                if done % per_file == 0:
                    parts.append(names[done // per_file] + ".part")
                    out = undo.enter_context(open(parts[-1], "wb"))
                assert out is not None
                room = per_file - done % per_file
                out.write(form.encode(array[:room], first_sequence + done, clock.times(done, min(room, len(array))), clock))
                done += min(room, len(array))
                array = array[room:]
                if done % per_file == 0 or done == total:
                    out.close()
                if progress is not None:
                    progress(done, total)
        if done != total:
            raise ValueError(f"{done} frames given; expected {total} for nav_shape {tuple(nav_shape)}")
        if hdr:
            names.insert(0, os.path.splitext(os.fspath(path))[0] + ".hdr")
            parts.insert(0, names[0] + ".part")
            with open(parts[0], "wb") as text:
                text.write(_hdr(form, nav_shape, clock))
        for part, name in zip(parts, names, strict=True):
            os.replace(part, name)
    return names


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
            raise ValueError(f"kind {kind!r}, layout {layout!r}; expected one of {', '.join(KINDS)} and one of {', '.join(LAYOUTS)}")
        if len(sig_shape) != 2 or min(sig_shape) < 1:
            raise ValueError(f"sig_shape {sig_shape}; expected (height, width)")
        form = cls(kind, layout, sig_shape, header_bytes or (384 if LAYOUTS[layout] == 1 else 768))
        if kind.startswith("R"):
            height, width = sig_shape
            group = KINDS[kind][2] * (2 if form.is_quad else 1)
            if width % group or (form.is_quad and height != width):
                raise ValueError(f"sig_shape {sig_shape}; {kind} {layout} frames have a width that is a multiple of {group}"
                                 + (" and are square" if form.is_quad else ""))
            if layout.startswith("N") or (form.is_quad and kind == "R24"):
                raise ValueError(f"{kind} frames of layout {layout} are not described anywhere; expected 1x1, or 2x2 and at most 12 bit")
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

    def check(self, array: Any) -> np.ndarray:
        """`array` if it holds frames of this form."""
        array = np.asarray(array)
        largest = KINDS[self.kind][0]
        if array.shape[1:] != self.sig_shape or array.dtype.kind not in "bui":
            raise ValueError(f"an array of {array.dtype} with shape {array.shape}; expected integers, shape (n, *{self.sig_shape})")
        if array.size and (int(array.min()) < 0 or int(array.max()) > largest):
            raise ValueError(f"values from {array.min()} to {array.max()}; expected 0 to {largest} for {self.kind}")
        return array

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
        group = KINDS[self.kind][2]
        if self.kind == "R1":
            return _bytes(np.packbits(array.astype(np.uint8).reshape(n, -1, group), axis=2, bitorder="little")[:, :, ::-1])
        if self.kind == "R24":
            wide = array.astype(np.uint32)
            planes, item = [wide >> 12, wide & 0xFFF], ">u2"
        else:
            planes, item = [array], {"R6": ">u1", "R12": ">u2"}.get(self.kind) or f">u{int(self.kind[1:]) // 8}"
        return np.concatenate([_bytes(p.astype(item).reshape(n, -1, group)[:, :, ::-1]) for p in planes], axis=1)

    def header(self, sequence: int, time: str, clock: _Clock) -> bytes:
        """The header of a frame taken at `time` (ISO 8601 with nanoseconds, UTC)."""
        height, width = self.stored_shape
        chips = LAYOUTS[self.layout]
        text = ",".join((
            "MQ1", f"{sequence:06d}", f"{self.header_bytes:05d}", f"{chips:02d}", f"{width:04d}", f"{height:04d}",
            "R64" if self.kind.startswith("R") else self.kind, f"{self.layout:>6}", f"{(1 << chips) - 1:02X}",
            time[:26].replace("T", " "), f"{clock.exposure_ns / 1e9:.6f}", "0,0,0", THRESHOLDS, *[f"3RX,{DACS}"] * chips,
            "MQ1A", f"{time}Z", f"{clock.exposure_ns}ns", f"{KINDS[self.kind][1]}", "",
        )).encode("ascii")
        if len(text) > self.header_bytes:
            raise ValueError(f"header_bytes {self.header_bytes}; frame headers of layout {self.layout} need {len(text)}")
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


def _chunks(frames: Iterable[np.ndarray], form: _Form, total: int) -> Iterable[np.ndarray]:
    """Checked arrays of a few frames each, `total` frames at most."""
    step = max(1, CHUNK_BYTES // (prod(form.sig_shape) * 4))
    done = 0
    for array in frames:
        array = form.check(array)
        done += len(array)
        if done > total:
            raise ValueError(f"at least {done} frames given; expected {total}")
        for first in range(0, len(array), step):
            yield array[first:first + step]


def _bytes(array: np.ndarray) -> np.ndarray:
    """The bytes of each frame: uint8[n, bytes]."""
    return np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8)


def _names(path: str, n_files: int) -> list[str]:
    stem, extension = os.path.splitext(path)
    if extension.lower() != ".mib":
        raise ValueError(f"{path}: expected a name that ends in .mib")
    if n_files == 1:
        return [path]
    separator = "_" if stem[-1:].isdigit() else ""
    return [f"{stem}{separator}{i + 1}{extension}" for i in range(n_files)]


def _hdr(form: _Form, nav_shape: tuple[int, ...], clock: _Clock) -> bytes:
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
        "Counter Depth (number)": f"{KINDS[form.kind][1]}",
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


def _remove(parts: list[str]) -> None:
    """Delete what is left of unfinished files."""
    for part in parts:
        if os.path.exists(part):
            os.remove(part)
