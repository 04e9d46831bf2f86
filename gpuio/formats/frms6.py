"""FRMS6: frames of PNDetector's pnCCD (S)TEM camera.

A data set is a text file ``NAME.hdr`` and the files ``NAME_000.frms6``, ``NAME_001.frms6`` ... The first of them holds dark frames
only and is no part of the scan. A file is a header and its frames, each a header and its pixels. All numbers are little-endian.

====================  =======  =======================================================================================
byte                  type     meaning
====================  =======  =======================================================================================
file + 0              u16      length of this header: 1024
file + 2              u16      length of a frame header: 64
file + 4, 5, 6        u8       number of CCDs, width, height: too small for this version, not used
file + 7              u8       version: 6
file + 8              char 80  name of the data set, NUL padded
file + 88             u16      w, stored columns; even
file + 90             u16      h, stored rows
file + 1020           u32      frames in this file; 0 in older files, where the size tells
frame + 0, 1, 2, 3    u8       start line, info, CCD, number of lines: 8 bit, not used
frame + 4, 8          u32      time stamp: s, µs
frame + 12            u32      frame number
frame + 16            f64      temperature as a voltage, V
frame + 24, 26        u16      true start line and number of lines, 0 if not told
frame + 28, 32        u32 u64  external trigger, bunch
frame + 64            u16      pixels: h rows of w
====================  =======  =======================================================================================

Frame j of a file begins at ``1024 + j (64 + 2 w h)``. The sensor's halves are read out head to head and stored side by side; binning
is done on the chip, along y only, and undone by repeating rows without scaling. With W = w / 2 and b the binning, the detector has
2 h b rows of W pixels, and stored pixel (r, c) goes to

===========  ==========================  ==============
stored       rows                        column
===========  ==========================  ==============
c < W        r b ... r b + b - 1         c
c >= W       (2 h - 1 - r) b and b - 1   2 W - 1 - c
             further ones
===========  ==========================  ==============

The ``.hdr`` is INI text. Of its section ``[measurementInfo]``: ``stemimagesize`` ``AxB``, taken as (rows, columns);
``signalframes``, frames of the scan; ``readoutmode`` ``"bin: 4, windowing: 264 x 264"``, quotation marks included.

Quirks:

- A file of another name may begin like a member's: only ``NAME_<digits>.frms6`` belong to the set, in the order of their numbers.
- The library of the camera stores the lines of each frame, and frames of other sizes may exist: refused, nobody has described them.
- Whether pixels of 32768 and more are negative numbers is not known. They are read as uint16, as by other readers.

Sources: data sets made from these formulas that LiberTEM 0.16 reads alike, for headers and pixels; public structures of the pnCCD
library (CASS) for the frame header. No recording is publicly available.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuio.corrections import CorrectionSet
from gpuio.dataset import DataSet, MessageConverter, message_schema
from gpuio.errors import DataSetException, FormatError, TruncatedFile, UnsupportedFeature
from gpuio.fileset import File, FileSet
from gpuio.findings import FrameRecords, Progress
from gpuio.formats._arguments import nav_or_sig_shape, sync
from gpuio.formats._frame_headers import binary_records
from gpuio.formats._frms6_hdr import SECTION, Acquisition, parse_hdr
from gpuio.formats._gain_map import read_gain_map
from gpuio.formats._siblings import companion, split_name
from gpuio.layout import Encoding, Layout, Piece
from gpuio.source import HostFiles, Source

FILE_HEADER_BYTES, FRAME_HEADER_BYTES, VERSION = 1024, 64, 6
#: First bytes of a file; between them and the version are three that differ.
MAGIC = struct.pack("<HH", FILE_HEADER_BYTES, FRAME_HEADER_BYTES)
PIXEL = np.dtype("<u2")
#: Time and number of a frame.
STAMP = np.dtype([("seconds", "<u4"), ("microseconds", "<u4"), ("number", "<u4")])
STAMP_AT = 4
#: For ``gpuio check``: how to open a scan without dark frames.
LENIENT = {"enable_offset_correction": False}
#: Recorded ones have some thousand bytes.
MAX_HDR_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """A file of the set: what its header says, and how many frames there are."""

    path: str
    size: int
    name: str
    width: int          #: stored columns
    height: int         #: stored rows
    n_announced: int    #: frames that the header tells of; those that are there if it does not
    n_frames: int       #: whole frames

    @property
    def stride(self) -> int:
        """Bytes from one frame to the next."""
        return FRAME_HEADER_BYTES + PIXEL.itemsize * self.width * self.height

    def file(self, start: int) -> File:
        """As a file of a set, its first frame number `start`."""
        return File(self.path, start, start + self.n_frames, PIXEL, (self.height, self.width), frame_header=FRAME_HEADER_BYTES,
                    file_header=FILE_HEADER_BYTES, size=self.size)


def sniff(head: bytes, path: str) -> bool:
    """Whether a file that begins with `head` is a ``.frms6``, or the ``.hdr`` of such a set."""
    is_hdr = split_name(path)[2] == ".hdr" and f"[{SECTION}]".encode() in head.lower()
    return is_hdr or (head.startswith(MAGIC) and head[7:8] == bytes([VERSION]))


def parse(source: Source, path: str, *, enable_offset_correction: bool = True) -> Layout:
    """Read the headers of a FRMS6 data set.

    Parameters
    ----------
    source
        Where to read.
    path
        The ``.hdr`` or one of the ``.frms6`` files.
    enable_offset_correction
        Whether dark frames are wanted: then `Layout.dark` describes them. If not, they may be missing.

    Raises
    ------
    FormatError, TruncatedFile
        A header says what it must not, files of the set are missing or differ, or there are no frames.
    UnsupportedFeature
        Frames of another number of lines than the header of their file says.
    OSError
        A file is missing or may not be read.
    """
    notes: list[str] = []
    hdr, numbered = _find(source, path)
    acquisition = parse_hdr(source.read(hdr, 0, MAX_HDR_BYTES), hdr)
    dark = _dark_member(source, hdr, numbered, notes) if enable_offset_correction else None
    members = _members(source, hdr, numbered, notes)
    first = members[0]
    for member in ([] if dark is None else [dark]) + members:
        if (member.width, member.height) != (first.width, first.height):
            raise FormatError(f"{member.path}: frames of {member.width} x {member.height} stored pixels; "
                              f"expected {first.width} x {first.height}, as in {first.path}")
    sig_shape = 2 * first.height * acquisition.binning, first.width // 2
    if sorted(acquisition.window) != sorted(sig_shape):
        notes.append(f"the .hdr announces a window of {acquisition.window[0]} x {acquisition.window[1]} pixels; "
                     f"frames with a binning of {acquisition.binning} have {sig_shape[0]} x {sig_shape[1]}")
    files = _placed(members, acquisition, notes)
    common: dict[str, Any] = {
        "format": "frms6", "encoding": Encoding.of(PIXEL), "sig_shape": sig_shape,
        "pieces": _pieces(first.height, sig_shape[1], acquisition.binning),
    }
    dark_layout = None
    if dark is not None:
        dark_layout = Layout(**common, parts=(FileSet([dark.file(0)], FRAME_HEADER_BYTES),), image_count=dark.n_frames)
    return Layout(**common, parts=(FileSet(files, FRAME_HEADER_BYTES),), image_count=acquisition.signal_frames,
                  nav_shape=acquisition.nav_shape, dark=dark_layout, metadata=_metadata(source, acquisition, members, dark),
                  notes=tuple(notes))


def _pieces(height: int, width: int, binning: int) -> tuple[Piece, ...]:
    """Upper half as it is, lower half turned by 180 degrees; a stored row becomes as many rows as it was binned from."""
    row_bytes = 2 * width * PIXEL.itemsize
    common: dict[str, Any] = {"pixels": width, "rows": height, "row_src": row_bytes, "repeats": binning}
    return (
        Piece(src=0, pos=0, row_pos=binning * width, rep_pos=width, **common),
        Piece(src=row_bytes // 2, pos=2 * height * binning * width - 1, row_pos=-binning * width, rep_pos=-width, reversed=True, **common),
    )


# -- the binary files ------------------------------------------------------------------------------------------------


def _find(source: Source, path: str) -> tuple[str, dict[int, str]]:
    """Path of the ``.hdr``, and paths of the ``.frms6`` files by number."""
    folder, stem, extension = split_name(path)
    source.size(path)
    if extension == ".frms6":
        stem, _, digits = stem.rpartition("_")
        if not (digits.isascii() and digits.isdigit()):
            raise FormatError(f"{path}: the name of the file does not end in _<number>.frms6, as those of a data set do")
    elif extension != ".hdr":
        raise FormatError(f"{path}: expected a .hdr or .frms6 file")
    names = source.listdir(folder)
    hdr = companion(names, [stem], ".hdr")
    if hdr is None:
        raise FormatError(f"{path}: there is no {os.path.join(folder, stem)}.hdr, which tells shape and binning of the scan")
    member = re.compile(re.escape(stem) + r"_([0-9]{1,9})\.(?i:frms6)", re.DOTALL)
    numbered: dict[int, str] = {}
    for name in names:
        match = member.fullmatch(name)
        if match is not None:
            number, found = int(match[1]), os.path.join(folder, name)
            if number in numbered:
                raise FormatError(f"{found}: has the same number as {numbered[number]}; expected one file of each number")
            numbered[number] = found
    return os.path.join(folder, hdr) if extension == ".frms6" else path, numbered


def _dark_member(source: Source, hdr: str, numbered: Mapping[int, str], notes: list[str]) -> Member:
    """The file of dark frames, which has to be there, and to hold some."""
    remedy = "pass enable_offset_correction=False to load the scan uncorrected"
    if 0 not in numbered:
        raise FormatError(f"{os.path.splitext(hdr)[0]}_000.frms6: the file of the dark frames is missing; {remedy}")
    try:
        member = _read_member(source, numbered[0], notes)
    except (FormatError, UnsupportedFeature) as error:
        raise type(error)(f"{error}; {remedy}") from None
    if not member.n_frames:
        raise TruncatedFile(f"{member.path}: {member.size} bytes hold no dark frame of {member.stride} bytes; {remedy}")
    return member


def _members(source: Source, hdr: str, numbered: Mapping[int, str], notes: list[str]) -> list[Member]:
    """The files of the scan, which have to be numbered from 1 on without a gap."""
    numbers = sorted(set(numbered) - {0})
    if not numbers:
        raise FormatError(f"{hdr}: no signal frames: there is no file {os.path.splitext(hdr)[0]}_001.frms6")
    missing = next((n for n, number in enumerate(numbers, start=1) if n != number), None)
    if missing is not None:
        raise FormatError(f"{os.path.splitext(hdr)[0]}_{missing:03d}.frms6: this file of the set is missing, though there is "
                          f"{numbered[numbers[-1]]}; it is not known how many frames it held")
    return [_read_member(source, numbered[number], notes) for number in numbers]


def _read_member(source: Source, path: str, notes: list[str]) -> Member:
    """Read the header of a file and of its first frame, and count the frames."""
    raw = source.read(path, 0, FILE_HEADER_BYTES + FRAME_HEADER_BYTES)
    if not raw.startswith(MAGIC[:len(raw)]) or raw[7:8] not in (b"", bytes([VERSION])):
        lengths = struct.unpack("<HH", raw[:4]) if len(raw) >= 4 else ()
        raise FormatError(f"{path}: not a FRMS6 file: header lengths {lengths}, version {list(raw[7:8])}; "
                          f"expected {(FILE_HEADER_BYTES, FRAME_HEADER_BYTES)}, [{VERSION}]")
    if len(raw) < FILE_HEADER_BYTES:
        raise TruncatedFile(f"{path}: ends after {len(raw)} of the {FILE_HEADER_BYTES} bytes of its header")
    width, height = struct.unpack_from("<HH", raw, 88)
    if not width or not height or width % 2:
        raise FormatError(f"{path}: frames of {width} x {height} stored pixels; expected an even number of columns, and rows")
    (announced,) = struct.unpack_from("<I", raw, 1020)
    name = raw[8:88].split(b"\0", 1)[0].decode("latin-1")
    size = source.size(path)
    whole, rest = divmod(max(0, size - FILE_HEADER_BYTES), FRAME_HEADER_BYTES + PIXEL.itemsize * width * height)
    if announced > whole:
        notes.append(f"{path}: is cut short: the header announces {announced} frames, {whole} are there")
    elif rest or 0 < announced < whole:
        unused = f"{whole - announced} frames and {rest} bytes" if announced else f"{rest} bytes"
        notes.append(f"{path}: {unused} after {announced or whole} whole frames are left out")
    member = Member(path, size, name, width, height, announced or whole, min(whole, announced or whole))
    (lines,) = struct.unpack_from("<H", raw, FILE_HEADER_BYTES + 26) if member.n_frames else (0,)
    if lines not in (0, height):
        raise UnsupportedFeature(f"{path}: the first frame has {lines} lines; expected {height} as in the header of the file. "
                                 "Nobody has described windowed frames of their own size")
    return member


def _placed(members: Sequence[Member], acquisition: Acquisition, notes: list[str]) -> list[File]:
    """The files in the order of their frames. Frames that are announced but not there leave their place blank."""
    files, start, present = [], 0, 0
    for member in members:
        if member.n_frames:
            files.append(member.file(start))
        start += member.n_announced
        present += member.n_frames
    if not files:
        raise TruncatedFile(f"{members[0].path}: no signal frames: {len(members)} files hold not one whole frame of "
                            f"{members[0].stride} bytes")
    expected = acquisition.signal_frames
    if present != expected:
        rest = "the others are blank" if present < expected else "what is beyond is left out"
        notes.append(f"the .hdr announces {expected} signal frames; the files hold {present}: {rest}")
    rows, columns = acquisition.nav_shape
    if rows * columns != expected:
        notes.append(f"the .hdr announces {rows} x {columns} scan positions and {expected} signal frames")
    if files[0].start_idx >= expected:
        raise TruncatedFile(f"{members[0].path}: none of the {expected} signal frames that the .hdr announces is there")
    return files


def frame_records(source: Source, layout: Layout, progress: Progress) -> FrameRecords:
    """For ``gpuio check``: number and time of every frame of the scan."""
    return binary_records(
        source, layout, STAMP, lambda h: (h["number"], (h["seconds"] * np.int64(10**6) + h["microseconds"]) * 1000),
        progress, at=STAMP_AT, resolution_ns=1000)


def _metadata(source: Source, acquisition: Acquisition, members: Sequence[Member], dark: Member | None) -> dict[str, Any]:
    """What the text file and the headers say, with units in the keys."""
    full = [m for m in members if m.n_frames]
    metadata = {**acquisition.metadata, "binning": acquisition.binning, "data_set_name": members[0].name, "version": VERSION,
                "n_files": len(members), "stored_shape": (members[0].height, members[0].width)}
    for which, member, frame in (("first", full[0], 0), ("last", full[-1], full[-1].n_frames - 1)):
        header = source.read(member.path, FILE_HEADER_BYTES + frame * member.stride, FRAME_HEADER_BYTES)
        seconds, microseconds, _, voltage = struct.unpack_from("<IIId", header, 4)
        metadata[f"time_{which}_s"] = seconds + microseconds / 1e6
        metadata[f"temperature_{which}_V"] = voltage
    if dark is not None:
        metadata["dark_frames_averaged"] = dark.n_frames
    return metadata


class FRMS6DataSet(DataSet):
    """pnCCD (S)TEM camera of PNDetector: a ``.hdr`` and several ``.frms6`` files, the first of which holds dark frames.

    Parameters
    ----------
    path : str
        The ``.hdr`` or one of the ``.frms6`` files.
    enable_offset_correction : bool
        Subtract the mean of the dark frames (``*_000.frms6``) from every frame. Pixels are then float32, and can be negative.
    gain_map_path : str, optional
        A gain map to multiply with after that: a MATLAB file with the variable ``GainMap``, or a NumPy file; of the detector's
        shape, used as it is.
    dest_dtype : optional
        dtype of the pixels where none is asked for. None: uint16, or float32 with one of the corrections.
    nav_shape : tuple of int, optional
        Scan shape, slowest axis first. Default: ``stemimagesize`` of the ``.hdr``.
    sig_shape : tuple of int, optional
        Another shape for the pixels of a frame, in their order.
    sync_offset : int
        Frames to skip at the start; negative: blank frames to insert.
    io_backend
        How to read; None lets gpuio choose.

    Raises
    ------
    DataSetException
        `dest_dtype` is none, or cannot hold corrected pixels.

    Notes
    -----
    Corrections are applied by `tiles`, indexing, `read` and sums, unless others are given: ``corrections=CorrectionSet()`` gives
    pixels as they were recorded. `get_correction_data` returns them. Tiles of partitions have those of `set_corrections`.

    Examples
    --------
    >>> ds = gpuio.load("frms6", path="/path/to/C16_15_24_151203_019.hdr")
    """

    format = "frms6"

    def __init__(self, path: str, enable_offset_correction: bool = True, gain_map_path: str | None = None, dest_dtype: Any = None,
                 nav_shape: Any = None, sig_shape: Any = None, sync_offset: int = 0, io_backend: Any = None) -> None:
        super().__init__(io_backend=io_backend)
        self._path = os.fspath(path)
        self._enable_offset_correction = bool(enable_offset_correction)
        self._gain_map_path = None if gain_map_path is None else os.fspath(gain_map_path)
        self._dest_dtype = None if dest_dtype is None else _dtype(dest_dtype)
        if self._dest_dtype is not None and self._dest_dtype.kind not in "fc" and (self._enable_offset_correction or gain_map_path):
            raise DataSetException(f"{self._path}: dest_dtype {self._dest_dtype} cannot hold corrected pixels; expected a floating dtype, "
                                   "or enable_offset_correction=False and no gain_map_path")
        self._nav_shape = nav_or_sig_shape(nav_shape, "nav_shape")
        self._sig_shape = nav_or_sig_shape(sig_shape, "sig_shape")
        self._sync_offset = sync(sync_offset)
        self._detector: tuple[int, ...] = ()
        self._carried: CorrectionSet | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_carried": None}      # data sets are small when they travel

    def _parse(self, source: Source) -> Layout:
        layout = parse(source, self._path, enable_offset_correction=self._enable_offset_correction)
        if self._gain_map_path is not None:
            read_gain_map(source, self._gain_map_path, layout.sig_shape)        # one that cannot be used is an error now
        return layout

    def _settle(self, layout: Layout) -> DataSet:
        self._detector = layout.sig_shape       # gain maps have this shape, whatever the user wants frames to have
        return super()._settle(layout)

    def _default_dtype(self, layout: Layout) -> np.dtype:
        if self._dest_dtype is not None:
            return self._dest_dtype
        return layout.dtype if layout.dark is None and self._gain_map_path is None else np.result_type(np.float32, layout.dtype)

    @classmethod
    def sniff(cls, head: bytes, path: str) -> bool:
        return sniff(head, path)

    @classmethod
    def get_supported_extensions(cls) -> set[str]:
        return {"frms6", "hdr"}

    def get_correction_data(self) -> CorrectionSet:
        """Mean of the dark frames, float32[sig], and the gain map; read when first asked for.

        Raises
        ------
        OSError, DataSetException
            They cannot be read.
        """
        if self._carried is None:
            layout = self.layout
            dark = gain = None
            if layout.dark is not None:
                dark = self._mean(layout.dark).astype(np.float32).reshape(layout.sig_shape)
            if self._gain_map_path is not None:
                gain = read_gain_map(HostFiles(), self._gain_map_path, self._detector).reshape(layout.sig_shape)
            self._carried = CorrectionSet(dark=dark, gain=gain)
        return self._carried

    @classmethod
    def get_msg_converter(cls) -> type[MessageConverter]:
        return _Frms6Messages

    def get_cache_key(self) -> dict[str, Any]:
        return {**super().get_cache_key(), "enable_offset_correction": self._enable_offset_correction,
                "gain_map_path": self._gain_map_path, "dtype": self.dtype.str}


class _Frms6Messages(MessageConverter):
    """Messages of type ``FRMS6``."""

    SCHEMA = message_schema("FRMS6", {"enable_offset_correction": {"type": "boolean"}, "gain_map_path": {"type": "string"},
                                      "dest_dtype": {"type": "string"}})


def _dtype(value: Any) -> np.dtype:
    try:
        return np.dtype(value)
    except TypeError:
        raise DataSetException(f"dest_dtype is {value!r}; expected a dtype such as 'float32'") from None
