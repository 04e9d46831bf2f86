"""TVIPS: recordings of TemCam cameras, as EM-Menu writes them.

A recording is one or more files ``NAME_000.tvips``, ``NAME_001.tvips`` ... with exactly three digits. The first begins with the series
header, the others with a frame. Frames follow each other, each a header and its pixels. All numbers are little-endian.

Series header, 256 bytes:

===========  ========  =====================================================================================================
byte         type      meaning
===========  ========  =====================================================================================================
0            i32       bytes of this header: 256
4            i32       version: 1, 2
8, 12        i32 i32   width and height of frames, pixels
16           i32       bits of a pixel: 8, 16; written by other programs also 32, 64
20, 24       i32 i32   x and y of the frame on the camera
28, 32       i32 i32   binning in x and y
36           i32       pixel size, nm
40           i32       high tension, kV
44           i32       total magnification, or camera length
48           i32       version 2: bytes of a frame header, F; version 1: not used, F is 12
52           204 B     filled up with text
===========  ========  =====================================================================================================

Frame header, F bytes; only the fields that fit into F are there (60 and 108 are known):

===========  ========  =====================================================================================================
byte         type      meaning
===========  ========  =====================================================================================================
0            u32       number of the frame, counting on through the files
4, 8         u32 u32   time: seconds since 1970, ms
12           u32       index of the lookup table
16           f32       Faraday cup
20           u32       magnification
24           u32       mode: 1 image, 2 diffraction
28, 32, 36   f32       stage x, y, z, nm
40, 44       f32       stage alpha, beta, degrees
48           u32       rotator index: counts scan positions from 1; 0 out of a scan
52           f32       temperature
56           f32       a temperature set point, or the objective lens: sources differ
60, 64       f32       heater power, objective current
68, 72       f32       scan x, scan y: whole numbers
76 ... 104   f32       bias: U, I set and measured, E and R set, limits of U and I
===========  ========  =====================================================================================================

Pixels are unsigned integers, row by row. Where the scan starts and its shape are guessed from the frame headers (`_tvips_scan`).

Quirks:

- Files of another recording may begin like the names of this one (``NAME_split_000.tvips``): only ``NAME_`` and three digits belong to it.
- A recording that was interrupted ends inside a frame.

Sources: test data of RosettaSciIO, written by HyperSpy, for both headers; documentation and issues of LiberTEM, and files made after this
table that it reads alike, for the scan position.
"""

from __future__ import annotations

import math
import os
import re
import struct
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from gpuio.dataset import DataSet
from gpuio.errors import FormatError, TruncatedFile
from gpuio.fileset import File, FileSet
from gpuio.findings import UNKNOWN, Finding, FrameRecords, Progress, about_files
from gpuio.formats._arguments import nav_or_sig_shape, sync
from gpuio.formats._frame_headers import read_headers
from gpuio.formats._tvips_scan import Scan, scan_from_positions, scan_from_rotator
from gpuio.layout import Encoding, Layout, plain_pieces
from gpuio.source import Source

HEADER_BYTES = 256
FIELDS = struct.Struct("<13i")
VERSIONS = (1, 2)
DTYPES = {8: "<u1", 16: "<u2", 32: "<u4", 64: "<u8"}
LEAST_FRAME_HEADER, MAX_FRAME_HEADER = 12, 1 << 16
NAME = re.compile(r"(.*_)([0-9]{3})(\.tvips)", re.DOTALL | re.IGNORECASE)
#: What comes after the numbers that three digits can tell.
FILES = 1000
ROTATOR = 48, "<I"
SCAN = 68, "<2f"            # x, y
#: Further fields of a frame header, with units in their names.
FRAME_FIELDS = {
    "lut_index": (12, "<I"), "faraday_cup": (16, "<f"), "magnification": (20, "<I"), "mode": (24, "<I"), "stage_x_nm": (28, "<f"),
    "stage_y_nm": (32, "<f"), "stage_z_nm": (36, "<f"), "stage_alpha_deg": (40, "<f"), "stage_beta_deg": (44, "<f"),
    "temperature": (52, "<f"), "field_56": (56, "<f"),
}
MODES = {1: "image", 2: "diffraction"}


@dataclass(frozen=True, slots=True)
class Series:
    """The header of a recording."""

    version: int
    width: int
    height: int
    bits: int
    frame_header_bytes: int
    metadata: dict[str, Any]

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(DTYPES[self.bits])

    @property
    def stride(self) -> int:
        """Bytes from one frame to the next."""
        return self.frame_header_bytes + self.width * self.height * self.dtype.itemsize


def sniff(head: bytes, path: str) -> bool:
    """Whether a file that begins with `head` is the first of a recording, or named like a later one, which has nothing to tell it by."""
    name = NAME.fullmatch(os.path.basename(path))
    if name is not None and int(name[2]):
        return True
    return len(head) >= HEADER_BYTES and _is_series(FIELDS.unpack_from(head))


def _is_series(fields: Sequence[int]) -> bool:
    return fields[0] == HEADER_BYTES and fields[1] in VERSIONS and fields[4] in DTYPES


def parse(source: Source, path: str) -> Layout:
    """Read the header of a recording, and of its frames as many as are needed to find the scan.

    Parameters
    ----------
    source
        Where to read.
    path
        Any file of the recording.

    Raises
    ------
    FormatError, TruncatedFile
        A header says what it must not, a file is missing, cut short before the last or from another recording, or there are no frames.
    OSError
        A file cannot be read.
    """
    notes: list[str] = []
    paths = _find(source, path)
    series = read_series(source, paths[0])
    files = _files(source, paths, series, notes)
    n_frames = files[-1].end_idx
    frame = _FrameHeaders(source, files, series)
    scan = _scan(frame, n_frames)
    if scan is not None:
        notes.append(f"{scan.reason}: sync_offset={scan.start} and nav_shape={scan.nav_shape} unless given")
    sig_shape = series.height, series.width
    return Layout(
        format="tvips", parts=(FileSet(files, frame_header_bytes=series.frame_header_bytes),), encoding=Encoding.of(series.dtype),
        pieces=plain_pieces(sig_shape, series.width * series.dtype.itemsize), sig_shape=sig_shape,
        nav_shape=(n_frames,) if scan is None else scan.nav_shape, sync_offset=0 if scan is None else scan.start, image_count=n_frames,
        notes=tuple(notes),
        metadata={**series.metadata, "n_files": len(paths), **frame.metadata(n_frames)},
    )


def read_series(source: Source, path: str) -> Series:
    """Read the header of a recording from its first file.

    Raises
    ------
    FormatError
        It is none, or says what it must not; `TruncatedFile` if it is cut short.
    OSError
        The file cannot be read.
    """
    raw = source.read(path, 0, HEADER_BYTES)
    fields = FIELDS.unpack_from(raw.ljust(FIELDS.size, b"\0"))
    size, version, width, height, bits, x, y, binning_x, binning_y, pixel_nm, tension_kV, magnification, frame_header = fields
    if len(raw) >= 8 and (size != HEADER_BYTES or version not in VERSIONS):
        raise FormatError(f"{path}: not a TVIPS file, a header of {size} bytes and version {version}; expected {HEADER_BYTES} and 1 or 2")
    if len(raw) < HEADER_BYTES:
        raise TruncatedFile(f"{path}: {len(raw)} bytes; expected at least the {HEADER_BYTES} of a series header")
    if bits not in DTYPES:
        raise FormatError(f"{path}: {bits} bits a pixel; expected {', '.join(map(str, DTYPES))}")
    if width < 1 or height < 1:
        raise FormatError(f"{path}: frames of {width} x {height} pixels; expected at least one")
    if version == 1:
        frame_header = LEAST_FRAME_HEADER
    elif not LEAST_FRAME_HEADER <= frame_header <= MAX_FRAME_HEADER:
        raise FormatError(f"{path}: frame headers of {frame_header} bytes; expected {LEAST_FRAME_HEADER} to {MAX_FRAME_HEADER}")
    return Series(version, width, height, bits, frame_header, {
        "version": version, "bits_per_pixel": bits, "camera_offset": (x, y), "binning": (binning_x, binning_y), "pixel_size_nm": pixel_nm,
        "high_tension_kV": tension_kV, "total_magnification": magnification, "frame_header_bytes": frame_header,
    })


def _find(source: Source, path: str) -> list[str]:
    """Paths of all files of a recording, in their order."""
    folder, name = os.path.split(path)
    given = NAME.fullmatch(name)
    if given is None:
        raise FormatError(f"{path}: the name of the file does not end in _<three digits>.tvips, as those of a recording do")
    source.size(path)
    prefix = given[1]
    members: dict[int, str] = {}
    for other in source.listdir(folder):
        match = NAME.fullmatch(other)
        if match is not None and match[1] == prefix:
            if int(match[2]) in members:
                raise FormatError(f"{os.path.join(folder, other)}: is there twice, also as {members[int(match[2])]}; expected one")
            members[int(match[2])] = other
        elif other.lower() == f"{prefix}{FILES}.tvips".lower():
            raise FormatError(f"{os.path.join(folder, other)}: more than {FILES} files; how they are numbered is not known")
    for number in range(max(members, default=0) + 1):
        if number not in members:
            missing = f"{prefix}{number:03d}{given[3]}"
            which = "the first file, which holds the header," if number == 0 else f"file {number} of {max(members)}"
            raise FormatError(f"{path}: {which} {missing} is missing")
    return [os.path.join(folder, members[number]) for number in range(len(members))]


def _files(source: Source, paths: Sequence[str], series: Series, notes: list[str]) -> list[File]:
    """The files that hold frames."""
    files: list[File] = []
    start = 0
    for number, path in enumerate(paths):
        size = source.size(path)
        if number and _starts_again(source, path, series):
            raise FormatError(f"{path}: begins with a series header; expected a frame. Files of different recordings under one name?")
        header_bytes = 0 if number else HEADER_BYTES
        n_frames, rest = divmod(size - header_bytes, series.stride)
        if rest and number < len(paths) - 1:
            raise FormatError(f"{path}: {rest} bytes are left after {n_frames} frames of {series.stride}; expected whole frames in all "
                              "files but the last")
        if rest:
            notes.append(f"{path}: the last {rest} bytes are no whole frame of {series.stride} and were left out")
        if n_frames:
            files.append(File(path, start, start + n_frames, series.dtype, (series.height, series.width), file_header=header_bytes,
                              frame_header=series.frame_header_bytes, size=size))
        start += n_frames
    if not files:
        raise TruncatedFile(f"{paths[0]}: no whole frame of {series.stride} bytes, {series.width} x {series.height} pixels of "
                            f"{series.bits} bit, in this file or those after it")
    return files


def _starts_again(source: Source, path: str, series: Series) -> bool:
    """Whether a later file has a series header of its own. As a frame it would be of the year 1970."""
    raw = source.read(path, 0, FIELDS.size)
    if len(raw) < FIELDS.size:
        return False
    fields = FIELDS.unpack(raw)
    return _is_series(fields) and fields[2:5] == (series.width, series.height, series.bits)


class _FrameHeaders:
    """Fields of the headers of frames, by the number of the frame in all files."""

    def __init__(self, source: Source, files: Sequence[File], series: Series) -> None:
        self._source, self._files, self._bytes = source, files, series.frame_header_bytes
        self._starts = [file.start_idx for file in files]

    def has(self, field: tuple[int, str]) -> bool:
        """Whether headers are long enough."""
        return field[0] + struct.calcsize(field[1]) <= self._bytes

    def read(self, frame: int, field: tuple[int, str]) -> tuple[Any, ...]:
        """Values of a field.

        Raises
        ------
        TruncatedFile
            The file has shrunk.
        """
        file = self._files[bisect_right(self._starts, frame) - 1]
        at, form = field
        raw = self._source.read(file.path, file.file_header + (frame - file.start_idx) * file.stride + at, struct.calcsize(form))
        if len(raw) < struct.calcsize(form):
            raise TruncatedFile(f"{file.path}: ends inside the header of frame {frame}; has it become shorter?")
        return struct.unpack(form, raw)

    def time(self, frame: int) -> str:
        """ISO 8601; headers have no time zone."""
        seconds, milliseconds = self.read(frame, (4, "<2I"))
        return str(np.datetime64(seconds, "s") + np.timedelta64(milliseconds, "ms"))

    def metadata(self, n_frames: int) -> dict[str, Any]:
        """What the header of the first frame says, and the times of the first and the last."""
        found: dict[str, Any] = {"time_first": self.time(0), "time_last": self.time(n_frames - 1)}
        for name, field in FRAME_FIELDS.items():
            if self.has(field):
                (value,) = self.read(0, field)
                if math.isfinite(value):
                    found[name] = MODES.get(value, value) if name == "mode" else value
        return found


def _scan(frame: _FrameHeaders, n_frames: int) -> Scan | None:
    """The scan, by whatever the headers have."""
    scan = None
    if frame.has(SCAN):
        scan = scan_from_positions(cache(lambda k: _position(*frame.read(k, SCAN))), n_frames)
    if scan is None and frame.has(ROTATOR):
        index: Callable[[int], int] = cache(lambda k: int(frame.read(k, ROTATOR)[0]))
        scan = scan_from_rotator(index, n_frames)
    return scan


def _position(x: float, y: float) -> tuple[int, int] | None:
    """Scan fields as (y, x); None if they are no position."""
    return (int(y), int(x)) if 0 <= x < 1 << 31 and 0 <= y < 1 << 31 else None         # not of NaN, which is in no interval


def check(source: Source, layout: Layout) -> list[Finding]:
    """Frames that are not there, for ``gpuio check``. Recordings go on after their scan; that is no finding."""
    return [finding for finding in about_files(layout, counted_by_size=True) if finding.severity == "error"]


def frame_records(source: Source, layout: Layout, progress: Progress) -> FrameRecords:
    """Number and time of every frame, for ``gpuio check``.

    Raises
    ------
    OSError
        A file cannot be read.
    """
    raw, frames = [], []
    for _, numbers, some in read_headers(source, layout, LEAST_FRAME_HEADER, progress):
        raw.append(some)
        frames.append(numbers)
    counter, seconds, milliseconds = np.concatenate(raw).view("<u4").astype(np.int64).T
    if len(counter) > 1 and (counter == counter[0]).all():
        counter = np.full_like(counter, UNKNOWN)        # written by a program that does not count
    return FrameRecords(np.concatenate(frames), counter, (seconds * 1000 + milliseconds) * 1_000_000, np.full_like(counter, UNKNOWN),
                        resolution_ns=1_000_000)


class TVIPSDataSet(DataSet):
    """A recording of a TemCam camera: one or more ``.tvips`` files.

    Parameters
    ----------
    path : str
        Any file of the recording; all are used.
    nav_shape : tuple of int, optional
        Scan shape, slowest axis first. Without it, the one that frame headers tell of, else all frames in a line.
    sig_shape : tuple of int, optional
        Another shape for the pixels of a frame, in their order.
    sync_offset : int, optional
        Frames to skip at the start; negative: blank frames to insert. Without it, where the scan starts according to the frame headers.
    io_backend
        How to read; None lets gpuio choose.

    Notes
    -----
    `notes` says what the guess of shape and start follows from.

    Examples
    --------
    >>> ds = gpuio.load("tvips", path="./path/to/file_000.tvips", nav_shape=(16, 16))
    """

    format = "tvips"

    def __init__(self, path: str, nav_shape: Any = None, sig_shape: Any = None, sync_offset: int | None = None,
                 io_backend: Any = None) -> None:
        super().__init__(io_backend=io_backend)
        self._path = os.fspath(path)
        self._nav_shape = nav_or_sig_shape(nav_shape, "nav_shape")
        self._sig_shape = nav_or_sig_shape(sig_shape, "sig_shape")
        self._sync_offset = None if sync_offset is None else sync(sync_offset)

    def _parse(self, source: Source) -> Layout:
        return parse(source, self._path)

    @classmethod
    def sniff(cls, head: bytes, path: str) -> bool:
        return sniff(head, path)

    @classmethod
    def get_supported_extensions(cls) -> set[str]:
        return {"tvips"}
