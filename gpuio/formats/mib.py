"""MIB: frames of Quantum Detectors' Merlin (Medipix3) readout.

A data set is one or more ``.mib`` files with the same stem, whose trailing digits count them, and an optional ``.hdr`` text file.
A ``.mib`` file is a run of frames, each an ASCII header and its pixels; there is no file header and no footer.

Frame header: fields separated by commas, padded with NUL. Fields have no fixed position, for numbers may grow.

========  ===============================  =============================================================================
field     example                          meaning
========  ===============================  =============================================================================
0         ``MQ1``                          magic
1         ``000001``                       sequence number of the frame, from 1, running on through the files of a series
2         ``00384``                        header length in bytes; the pixels follow (384 for one chip, 768 for four)
3         ``04``                           number of chips
4, 5      ``1024``, ``0256``               width and height as stored, in pixels
6         ``U08`` ``U16`` ``U32`` ``R64``  pixel type: big-endian integers, or R64: packed as the chips deliver it ("RAW")
7         ``1x1`` ``2x2G`` ``Nx1``         layout of the chips; G: with the gap between them
8         ``0F``                           bit mask of selected chips, hexadecimal
9         ``2021-04-15 14:44:43.100924``   local time; older files ``dd/mm/yyyy ...``
10        ``0.001000``                     shutter time, s
11 12 13  ``0,0,0``                        counter (0, 1), colour mode (0 mono, 1 colour), gain mode (0 SLGM .. 3 SHGM)
14..21    ``2.000000E+0``                  thresholds, keV; may be missing in RAW files
per chip  ``3RX,011,511,...``              27 DAC values after the name of the chip type; may be missing
...       ``MQ1A``                         marks the extension; missing in old files
+1 +2 +3  ``...Z``, ``1000000ns``, ``12``  UTC time, shutter time, counter depth in bit (1, 6, 12, 24)
========  ===============================  =============================================================================

Pixels, row by row (every unit of RAW data is 8 bytes, stored last pixel first):

=============  =====  =====================================================  =====================
type           depth  pixel x of a stored row                                dtype
=============  =====  =====================================================  =====================
U08, U16, U32  any    big-endian integer x                                   uint8, uint16, uint32
R64            1      bit x % 64 of the big-endian 64-bit number x // 64     uint8
R64            6      byte x ^ 7                                             uint8
R64            12     big-endian 16-bit number x ^ 3                         uint16
R64            24     two 12-bit images, high one first: high * 4096 + low   uint32
=============  =====  =====================================================  =====================

The stored width of 24-bit RAW frames is doubled. A RAW quad (2x2) is stored as 4 w x w pixels: stored row r holds row r of the
chips 4, 3, 2, 1. Chips 1 and 2 are the top half of the detector, 3 and 4 the bottom half, turned by 180 degrees.

Quirks:

- ``2x2G`` RAW frames are stored without the gap. As LiberTEM does, they are shown without it; ``gap=True`` leaves it free.
- 24-bit quads, RAW frames of other layouts, of part of the chips, or of part of the rows of a quad are described by nobody: refused.
- The ``.hdr`` is Latin-1 with CRLF and ``key:<tab>value`` lines. ``ScanX`` and ``ScanY`` exist from software 1.5 on; continuous
  acquisitions write 0 for numbers of frames (RosettaSciIO issue 235).
- Frames captured from the TCP stream have a prefix ``MPX,<10 digits>,`` each; such a capture is not a MIB file.

Sources: recordings in the test data of RosettaSciIO, for everything but RAW frames of 6, 12 and 24 bit, which agree with what
LiberTEM reads; documentation and issues of LiberTEM, pyxem and RosettaSciIO.
"""

from __future__ import annotations

import os
import warnings
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from gpuio.dataset import DataSet
from gpuio.errors import FormatError, TruncatedFile, UnsupportedFeature
from gpuio.fileset import File, FileSet
from gpuio.formats._arguments import ignored, nav_or_sig_shape, renamed, sync
from gpuio.formats._mib_header import MAGIC, MAX_FRAMES, STREAM_PREFIX, FrameHeader, parse_hdr, read_header
from gpuio.formats._mib_records import check as check
from gpuio.formats._mib_records import frame_records as frame_records
from gpuio.formats._mib_times import frames_per_line, parse_utc
from gpuio.formats._siblings import companion, numbered, series, split_name, without_number
from gpuio.layout import Encoding, Layout, Piece, plain_pieces
from gpuio.source import Source

#: For ``gpuio check``: how to open a file of a set whose files do not belong together.
LENIENT = {"disable_glob": True}
#: Always 2048 in recordings.
MAX_HDR_BYTES = 1 << 16
#: So many files make everything slow; the readout can be told to write more frames into each.
MANY_FILES = 16384
#: A hole of more frames than this and than there are frames comes from a file of another series.
LARGE_HOLE = 1 << 20

#: Columns and rows between the chips of a quad.
GAP_PIXELS = 2

INTEGERS = {"U08": ">u1", "U16": ">u2", "U32": ">u4"}
#: Counter depth in bit: encoding, dtype, pixels in 8 bytes.
PACKED = {1: ("mib_r1", "u1", 64), 6: ("mib_r6", "u1", 8), 12: ("mib_r12", "u2", 4), 24: ("mib_r24", "u4", 4)}


@dataclass(frozen=True, slots=True)
class Storage:
    """How a frame is stored: its pixels, and its bytes as an array of `item` with shape `items`."""

    encoding: Encoding
    pieces: tuple[Piece, ...]
    sig_shape: tuple[int, ...]
    item: np.dtype
    items: tuple[int, int]

    @property
    def n_bytes(self) -> int:
        return self.item.itemsize * self.items[0] * self.items[1]


@dataclass(frozen=True, slots=True)
class Member:
    """A file of the data set that holds whole frames."""

    path: str
    size: int
    header: FrameHeader
    n_frames: int

    @property
    def start(self) -> int:
        """Sequence number of the first frame."""
        return self.header.sequence

    @property
    def stop(self) -> int:
        """One past the sequence number that the last frame ought to have."""
        return self.header.sequence + self.n_frames


def storage_of(header: FrameHeader, depth: int | None, path: str, gap: bool = False) -> Storage:
    """Where the pixels of frames with this header lie.

    Parameters
    ----------
    depth
        Counter depth of RAW frames, in bit.
    path
        For messages.
    gap
        As in `parse`.

    Raises
    ------
    FormatError
        Depth or width do not fit the pixel type.
    UnsupportedFeature
        A pixel type or an arrangement of chips that nobody has described.
    """
    width, height, kind, layout = header.width, header.height, header.pixel_type, header.chip_layout
    if gap and (kind != "R64" or layout not in ("2x2", "2x2G")):
        raise UnsupportedFeature(f"{path}: gap=True is for RAW frames of 2x2 chips; found {kind!r} frames, layout {layout!r}")
    if kind in INTEGERS:
        item = np.dtype(INTEGERS[kind])
        return Storage(Encoding.of(item), plain_pieces((height, width), width * item.itemsize), (height, width), item, (height, width))
    if kind != "R64":
        raise UnsupportedFeature(f"{path}: pixel type {kind!r}; expected {', '.join(INTEGERS)} or R64")
    if depth not in PACKED:
        raise FormatError(f"{path}: RAW frames with a counter depth of {depth!r} bit; expected 1, 6, 12 or 24 "
                          "(third field after MQ1A, else the line 'Counter Depth' of the .hdr)")
    name, dtype, group_pixels = PACKED[depth]
    planes = 2 if depth == 24 else 1
    chips = {"1x1": 1, "2x2": 4, "2x2G": 4}.get(layout, 0)
    if chips != header.n_chips or (chips == 4 and (planes == 2 or width != 4 * height)):
        raise UnsupportedFeature(f"{path}: {depth}-bit RAW frames, layout {layout!r} of {header.n_chips} chips, stored {width} x {height};"
                                 " expected one chip (1x1), or a whole quad (2x2) of 1, 6 or 12 bit")
    chip, rest = divmod(width, chips * planes * group_pixels)
    if rest:
        raise FormatError(f"{path}: stored width {width}; expected a multiple of {chips * planes * group_pixels} for "
                          f"{depth}-bit RAW frames, layout {layout!r}")
    row_bytes = chip * 8
    chip *= group_pixels
    encoding = Encoding(name, np.dtype(dtype), 8, group_pixels, param=height * row_bytes if planes == 2 else 0)
    item, items = np.dtype("u1"), (height, chips * planes * row_bytes)
    if chips == 1:
        return Storage(encoding, plain_pieces((height, chip), row_bytes), (height, chip), item, items)
    side = 2 * chip + (GAP_PIXELS if gap else 0)
    return Storage(encoding, _quad_pieces(chip, row_bytes, side), (side, side), item, items)


def _quad_pieces(chip: int, row_bytes: int, side: int) -> tuple[Piece, ...]:
    """Top chips as they are, bottom chips turned; of either half, the chip on the right is stored first."""
    common: dict[str, Any] = {"pixels": chip, "rows": chip, "row_src": 4 * row_bytes,
                              "repeats": 2, "rep_src": row_bytes, "rep_pos": chip - side}
    return (
        Piece(src=2 * row_bytes, pos=side - chip, row_pos=side, **common),
        Piece(src=0, pos=side * side - 1, row_pos=-side, reversed=True, **common),
    )


def sniff(head: bytes, path: str) -> bool:
    """Whether a file that begins with `head` is a ``.mib``, its ``.hdr``, or a captured stream (which `parse` refuses by name)."""
    is_hdr = head.startswith(b"HDR,") and split_name(path)[2] == ".hdr"
    return is_hdr or head.startswith(MAGIC) or STREAM_PREFIX.match(head) is not None


def parse(source: Source, path: str, *, disable_glob: bool = False, gap: bool = False) -> Layout:
    """Read the headers of a MIB data set.

    Parameters
    ----------
    source
        Where to read.
    path
        The ``.hdr`` or one of the ``.mib`` files. From a ``.mib``, the ``.hdr`` is looked for under the same stem, with and
        without the number at its end; it gives the scan shape.
    disable_glob
        Take the given file alone (for a ``.hdr``, the ``.mib`` of the same stem), not the whole series.
    gap
        Leave the gap between the chips of a RAW quad free: two columns and two rows of zeros, sig shape (514, 514).

    Raises
    ------
    FormatError, TruncatedFile
        Not a MIB file, a damaged one, or files under one stem that do not belong together.
    UnsupportedFeature
        RAW frames of an unknown arrangement.
    OSError
        A file is missing or may not be read.
    """
    notes: list[str] = []
    paths, hdr = _find(source, path, disable_glob, notes)
    members, storage = _members(source, paths, hdr, gap, notes)
    first, n_frames = members[0].start, members[-1].stop - members[0].start
    header_bytes = members[0].header.header_bytes
    files = [File(m.path, m.start - first, m.stop - first, storage.item, storage.items, frame_header=header_bytes, size=m.size)
             for m in members]
    last = _last_header(source, members[-1], header_bytes + storage.n_bytes, notes)
    nav_shape = _nav_shape(hdr, n_frames, notes)
    if nav_shape is None:
        _note_lines(source, members, header_bytes + storage.n_bytes, notes)
    metadata = {**hdr, **members[0].header.metadata}
    if last is not None and last.time_utc is not None:
        metadata["time_utc_last"] = last.time_utc
    return Layout(
        format="mib", parts=(FileSet(files, frame_header_bytes=header_bytes),), encoding=storage.encoding, pieces=storage.pieces,
        sig_shape=storage.sig_shape, nav_shape=nav_shape, image_count=n_frames, metadata=metadata,
        notes=tuple(notes),
    )


def _find(source: Source, path: str, disable_glob: bool, notes: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Paths of the data files, and what the .hdr says."""
    folder, stem, extension = split_name(path)
    is_hdr = source.read(path, 0, 3) == b"HDR" or extension == ".hdr"
    try:
        names = source.listdir(folder)
    except OSError:
        if is_hdr or not disable_glob:
            raise
        names = []
    if is_hdr:
        alone = companion(names, [stem], ".mib")
        members = ([alone] if alone else []) if disable_glob else numbered(names, stem, ".mib") or series(names, stem, ".mib")
        if not members:
            raise FormatError(f"{path}: no .mib files match {os.path.join(folder, stem)}{'' if disable_glob else '*'}.mib")
        paths = [os.path.join(folder, name) for name in members]
        hdr = parse_hdr(source.read(path, 0, MAX_HDR_BYTES), path)
    else:
        prefix, stems, paths = without_number(stem), [stem], [path]
        if extension == ".mib" and not disable_glob:
            paths = [os.path.join(folder, name) for name in numbered(names, prefix, ".mib")]
            stems += [prefix, prefix.rstrip("_-. ")]
        name = companion(names, stems, ".hdr")
        hdr = _companion_hdr(source, os.path.join(folder, name), notes) if name else {}
    if len(paths) > MANY_FILES:
        warnings.warn(f"{path}: {len(paths)} files; opening is slow beyond {MANY_FILES}, let the readout write more frames into each",
                      RuntimeWarning, stacklevel=2)
    return paths, hdr


def _companion_hdr(source: Source, path: str, notes: list[str]) -> dict[str, Any]:
    """A .hdr that nobody named: of use if it can be read, no error if not."""
    try:
        return parse_hdr(source.read(path, 0, MAX_HDR_BYTES), path)
    except (FormatError, OSError) as problem:
        notes.append(f"the .hdr beside the data was left out: {problem}")
        return {}


def _members(source: Source, paths: Sequence[str], hdr: Mapping[str, Any], gap: bool, notes: list[str]) -> tuple[list[Member], Storage]:
    """The files that hold frames, in the order of their sequence numbers, and how their frames are stored."""
    apart = "; if the files do not belong together, open one with disable_glob=True" if len(paths) > 1 else ""
    headers: list[tuple[str, FrameHeader]] = []
    for path in paths:
        try:
            headers.append((path, read_header(source, path)))
        except TruncatedFile as problem:
            if len(paths) == 1:
                raise
            notes.append(f"left out: {problem}")
        except FormatError as problem:
            raise FormatError(f"{problem}{apart}") from None
    if not headers:
        raise TruncatedFile(f"{paths[0]}: neither this nor another file of its series holds a frame header")
    headers.sort(key=lambda item: item[1].sequence)
    reference, header = headers[0]
    for path, found in headers[1:]:
        difference = found.difference(header)
        if difference:
            raise FormatError(f"{path}: {difference} as in {reference}{apart}")
    storage = storage_of(header, header.depth or hdr.get("counter_depth_bit"), reference, gap)
    stride = header.header_bytes + storage.n_bytes
    members = []
    for path, found in headers:
        size = source.size(path)
        n_frames, rest = divmod(size, stride)
        if n_frames:
            members.append(Member(path, size, found, n_frames))
        elif len(paths) == 1:
            raise TruncatedFile(f"{path}: {size} bytes; expected at least one frame of {stride}")
        if rest:
            notes.append(f"{path}: the last {rest} bytes are no whole frame of {stride} and were left out")
    if not members:
        raise TruncatedFile(f"{reference}: neither this nor another file of its series holds a frame of {stride} bytes")
    _check_order(members, apart, notes)
    if members[0].n_frames > 1:
        second = read_header(source, members[0].path, stride)       # a wrong frame size would show here
        difference = second.difference(header)
        if difference:
            raise FormatError(f"{members[0].path}, byte {stride}: {difference} as in the first frame")
    return members, storage


def _check_order(members: Sequence[Member], apart: str, notes: list[str]) -> None:
    """Sequence numbers must not overlap; holes are noted."""
    present = sum(m.n_frames for m in members)
    holes = []
    for before, after in pairwise(members):
        missing = after.start - before.stop
        if missing < 0 or missing > max(LARGE_HOLE, present):
            raise FormatError(f"{after.path}: the first sequence number is {after.start}; expected about {before.stop}, "
                              f"after the {before.n_frames} frames of {before.path}{apart}")
        if missing:
            holes.append((before.stop, after.start))
    if holes:
        shown = ", ".join(f"{start} to {stop - 1}" for start, stop in holes[:5]) + (" and more" if len(holes) > 5 else "")
        notes.append(f"{sum(stop - start for start, stop in holes)} frames are in no file and read as blank: sequence numbers {shown}")


def _header_of(source: Source, member: Member, frame: int, stride: int) -> FrameHeader:
    """The header of a frame of a file; that of the first is known."""
    return read_header(source, member.path, frame * stride) if frame else member.header


def _last_header(source: Source, member: Member, stride: int, notes: list[str]) -> FrameHeader | None:
    """The header of the last frame, for its time and as a check of what lies between."""
    try:
        header = _header_of(source, member, member.n_frames - 1, stride)
    except FormatError as problem:
        notes.append(f"the last frame may be damaged: {problem}")
        return None
    if header.sequence != member.stop - 1:
        notes.append(f"{member.path}: the last frame has sequence number {header.sequence}; expected {member.stop - 1}: "
                     "frames may be missing between")
    return header


def _nav_shape(hdr: Mapping[str, Any], n_frames: int, notes: list[str]) -> tuple[int, ...] | None:
    """The scan that the .hdr tells of; None if it says nothing."""

    def count(key: str) -> int:
        value = hdr.get(key)
        return value if isinstance(value, int) else 0

    if hdr.get("gap_fill_mode") == "Distribute":
        notes.append("the counts of pixels at the gap were spread over it while recording (Gap Fill Mode: Distribute)")
    if hdr.get("active_counters") == "Alternating":
        notes.append("frames of two counters alternate (Active Counters: Alternating)")
    if not {"scan_x", "scan_y", "frames_per_trigger", "frames_in_acquisition"} & hdr.keys():
        return None
    width, height = count("scan_x"), count("scan_y")
    if not width * height:
        width = count("frames_per_trigger")
        height = count("frames_in_acquisition") // width if width else 0
    if not 0 < width * height <= MAX_FRAMES:
        notes.append(f"the .hdr has no usable numbers of frames, as in continuous acquisitions: read as {n_frames} frames in a line")
        return (n_frames,)
    if width * height != n_frames:
        notes.append(f"the .hdr announces {height} x {width} scan positions; the files hold {n_frames} frames")
    return height, width


def _note_lines(source: Source, members: Sequence[Member], stride: int, notes: list[str]) -> None:
    """Tell the user of pauses that look like the flyback of a scan."""
    starts = [m.start for m in members]

    def time_of(frame: int) -> int | None:
        member = members[bisect_right(starts, starts[0] + frame) - 1]
        within = starts[0] + frame - member.start
        try:
            return parse_utc(_header_of(source, member, within, stride).time_utc) if within < member.n_frames else None
        except FormatError:
            return None

    n_frames = members[-1].stop - starts[0]
    line = frames_per_line(time_of, n_frames)
    if line is not None:
        notes.append(f"recording pauses after every {line} frames: nav_shape=({-(-n_frames // line)}, {line}) may be the scan")


class MIBDataSet(DataSet):
    """Merlin Medipix data: one or more ``.mib`` files and an optional ``.hdr``.

    Parameters
    ----------
    path : str
        The ``.hdr`` or one of the ``.mib`` files. All files of the folder are taken whose names differ in digits and separators at
        their end only (``scan2.mib`` and ``scan_3.mib``, not ``scan2RAW.mib``), in the order of the sequence numbers in their headers.
    tileshape
        Ignored; a deprecated argument.
    scan_size
        Deprecated name of `nav_shape`.
    disable_glob : bool
        Take the given file alone.
    nav_shape : tuple of int, optional
        Scan shape, slowest axis first. Without it, that of the ``.hdr`` given or found beside the data: (ScanY, ScanX), else
        (frames in acquisition // frames per trigger, frames per trigger), else all frames in a line. Without a ``.hdr``, a square
        scan if the number of frames is a square, else a line.
    sig_shape : tuple of int, optional
        Another shape for the pixels of a frame, in their order.
    sync_offset : int
        Frames to skip at the start; negative: blank frames to insert.
    io_backend
        How to read; None lets gpuio choose.
    gap : bool
        Leave the gap of a RAW quad free: sig shape (514, 514) with zeros in rows and columns 256 and 257.

    Examples
    --------
    >>> ds = gpuio.load("mib", path="/path/to/default.hdr")         # both take files /path/to/default*.mib
    >>> ds = gpuio.load("mib", path="/path/to/default64.mib", nav_shape=(256, 256))
    """

    format = "mib"

    def __init__(self, path: str, tileshape: Any = None, scan_size: Any = None, disable_glob: bool = False, nav_shape: Any = None,
                 sig_shape: Any = None, sync_offset: int = 0, io_backend: Any = None, *, gap: bool = False) -> None:
        super().__init__(io_backend=io_backend)
        ignored("tileshape", tileshape)
        nav_shape = renamed("scan_size", scan_size, "nav_shape", nav_shape)
        self._path = os.fspath(path)
        self._nav_shape = nav_or_sig_shape(nav_shape, "nav_shape")
        self._sig_shape = nav_or_sig_shape(sig_shape, "sig_shape")
        self._sync_offset = sync(sync_offset)
        self._disable_glob = bool(disable_glob)
        self._gap = bool(gap)

    def _parse(self, source: Source) -> Layout:
        return parse(source, self._path, disable_glob=self._disable_glob, gap=self._gap)

    @classmethod
    def sniff(cls, head: bytes, path: str) -> bool:
        return sniff(head, path)

    @classmethod
    def get_supported_extensions(cls) -> set[str]:
        return {"mib", "hdr"}

    def get_cache_key(self) -> dict[str, Any]:
        return {**super().get_cache_key(), "disable_glob": self._disable_glob, "gap": self._gap}
