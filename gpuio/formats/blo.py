"""BLO: NanoMegas blockfiles, written by ASTAR and TopSpin for scanning precession diffraction.

One file: a header, a note, the virtual bright field image, and a record for each scan position.

======  ========  ======  ==================================================================  ===========
offset  type      name    meaning                                                             unit
======  ========  ======  ==================================================================  ===========
0       char[6]           ``IMGBLO``
6       u16               258, or 259 (version 1.3: a line of the note tells the bit depth)
8       u32       o1      offset of the virtual bright field image, u8[NY, NX]                byte
12      u32       o2      offset of the first record                                          byte
16      u32               flags, of unknown meaning
20      u16       D       detector size: frames are D x D                                     pixel
22      u16               pattern rotation                                                    0.01 degree
24, 26  u16       NX, NY  scan width (fast axis) and height
28      u16               scan rotation                                                       0.01 degree
30, 38  f64       SX, SY  scan step                                                           nm
46      u32               beam energy                                                         V
50      u16       SDP     detector scale, 0 if unknown                                        0.01 pixel/cm
52      u32               camera length                                                       0.1 mm
56      f64               time of acquisition since 1899-12-30                                day
64      f64[8]            centering
128     f64[14]           distortion
240     text              note up to o1, NUL padded, Latin-1, CRLF
o2      record            ``AA 55``, u32 number from 0, then D * D pixels; NX * NY of them
======  ========  ======  ==================================================================  ===========

Fields are not aligned. Pixel (y, x) of frame f is at ``o2 + f * (6 + D * D * b) + 6 + (y * D + x) * b``, b = 1 or 2 bytes: uint8,
or uint16 where the note of version 1.3 has a line ``Blo Bit Depth: 16 bits``.

Quirks:

- All known files are little-endian; a big-endian one shows ``01 02`` at byte 6, and all its numbers and pixels are read so.
- The bit depth is checked with the size of the file and the mark of the second record; these two win over the note.
- The scan positions of a file that ends early are blank.

Sources: there is no public specification. Recordings in the test data of RosettaSciIO, files made by hand that LiberTEM 0.16 reads
alike, and the issues of both.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from gpuio.dataset import DataSet, MessageConverter, message_schema
from gpuio.errors import DataSetException, FormatError, TruncatedFile, UnsupportedFeature
from gpuio.fileset import File, FileSet
from gpuio.formats import FORMATS
from gpuio.formats._arguments import ignored, nav_or_sig_shape, sync
from gpuio.formats._whole import whole_frames
from gpuio.layout import Encoding, Layout, plain_pieces
from gpuio.source import HostFiles, Source

ID = b"IMGBLO"
HEADER_BYTES = 240
VERSIONS = (258, 259)
#: From byte 6 on; the second half is metadata.
FIELDS = "HIIIHHHHHddIHId"
MARK = b"\xaa\x55"
RECORD_HEADER_BYTES = 6
BIT_DEPTH = re.compile(r"blo bit depth\s*:\s*(.*)", re.IGNORECASE)
DEPTHS = {"8": 1, "16": 2}
#: Recorded ones have some hundred bytes.
MAX_NOTE_BYTES = 1 << 16
#: Day 0 of the time of acquisition.
EPOCH = datetime(1899, 12, 30)
#: Records whose marks are looked at.
CHECKED_RECORDS = 32
ORDERS = "<", ">"


@dataclass(frozen=True, slots=True)
class Header:
    """What the first bytes say."""

    order: str              #: ``"<"`` or ``">"``
    image_offset: int       #: of the virtual bright field
    data_offset: int
    side: int
    nav_shape: tuple[int, int]
    metadata: dict[str, Any]


def sniff(head: bytes, path: str) -> bool:
    """Whether a file that begins with `head` is a blockfile."""
    return head.startswith(ID)


def parse(source: Source, path: str, *, endianess: str = "<") -> Layout:
    """Read the header of a blockfile.

    Parameters
    ----------
    source
        Where to read.
    path
        The file.
    endianess
        ``">"``: the file has to be big-endian. ``"<"``, the default: as its header says.

    Raises
    ------
    FormatError, TruncatedFile
        It is no blockfile, its header is damaged, or it holds no whole record.
    UnsupportedFeature
        A bit depth that nobody has described.
    OSError
        The file is missing or may not be read.
    """
    notes: list[str] = []
    header = read_header(source, path, endianess, notes)
    size = source.size(path)
    if header.data_offset > size:
        raise TruncatedFile(f"{path}: holds {size} bytes; the first frame is announced at byte {header.data_offset}")
    note = _note(source, path, header)
    n_frames = header.nav_shape[0] * header.nav_shape[1]
    pixel_bytes = _pixel_bytes(source, path, header, note, size - header.data_offset, notes)
    item = np.dtype(f"{header.order}u{pixel_bytes}")
    sig_shape = header.side, header.side
    stride = _stride(header, pixel_bytes)
    whole = whole_frames(path, n_frames, size - header.data_offset, stride, notes)
    _check_marks(source, path, header, stride, whole, notes)
    file = File(path, 0, whole, item, sig_shape, frame_header=RECORD_HEADER_BYTES, file_header=header.data_offset, size=size)
    return Layout(
        format="blo", parts=(FileSet([file], frame_header_bytes=RECORD_HEADER_BYTES),), encoding=Encoding.of(item),
        pieces=plain_pieces(sig_shape, header.side * pixel_bytes), sig_shape=sig_shape, nav_shape=header.nav_shape, image_count=n_frames,
        metadata={**header.metadata, "bit_depth": 8 * pixel_bytes, **({"note": note} if note else {})}, notes=tuple(notes),
    )


def read_header(source: Source, path: str, endianess: str, notes: list[str]) -> Header:
    """Read the header; errors as `parse`."""
    raw = source.read(path, 0, HEADER_BYTES)
    if not raw.startswith(ID[:len(raw)]) or not raw:
        raise FormatError(f"{path}: no blockfile: begins with {raw[:len(ID)]!r}; expected {ID!r}")
    if len(raw) < HEADER_BYTES:
        raise TruncatedFile(f"{path}: ends after {len(raw)} of the {HEADER_BYTES} bytes of its header")
    order = next((o for o in ORDERS if struct.unpack_from(f"{o}H", raw, 6)[0] in VERSIONS), None)
    if order is None:
        raise FormatError(f"{path}: version {struct.unpack_from('<H', raw, 6)[0]}; expected {VERSIONS[0]} or {VERSIONS[1]}")
    if order == "<" and endianess == ">":
        raise FormatError(f"{path}: is little-endian; expected a big-endian file, as endianess='>' says")
    if order == ">" and endianess == "<":
        notes.append("the header is big-endian, which no known file is: pixels are read so, too")
    (version, image_offset, data_offset, flags, side, pattern_rotation, width, height, scan_rotation, step_x, step_y, energy, scale,
     camera_length, days) = struct.unpack_from(order + FIELDS, raw, 6)
    if not side * width * height:
        raise FormatError(f"{path}: is empty: frames of {side} x {side} pixels, {height} x {width} scan positions")
    if not HEADER_BYTES <= image_offset <= data_offset:
        raise FormatError(f"{path}: the virtual bright field is announced at byte {image_offset}, the first frame at {data_offset}; "
                          f"expected them in this order behind the {HEADER_BYTES} bytes of header")
    if image_offset + width * height > data_offset:
        notes.append(f"bytes {image_offset} to {data_offset} have no room for a virtual bright field of {height} x {width} pixels")
    metadata = {
        "version": version, "flags": flags, "pattern_rotation_deg": pattern_rotation / 100, "scan_rotation_deg": scan_rotation / 100,
        "scan_step_x_nm": step_x, "scan_step_y_nm": step_y, "beam_energy_V": energy, "camera_length_mm": camera_length / 10,
        **({"pixel_size_cm": 100 / scale} if scale else {}), **_date(days),
        "centering": list(struct.unpack_from(f"{order}8d", raw, 64)), "distortion": list(struct.unpack_from(f"{order}14d", raw, 128)),
    }
    return Header(order, image_offset, data_offset, side, (height, width), metadata)


def _date(days: float) -> dict[str, str]:
    """The time of acquisition, if it is one."""
    try:
        return {"acquired": (EPOCH + timedelta(days=days)).isoformat(timespec="seconds")} if days > 0 else {}
    except (OverflowError, ValueError):
        return {}


def _note(source: Source, path: str, header: Header) -> list[str]:
    """Lines of text behind the header."""
    raw = source.read(path, HEADER_BYTES, min(header.image_offset - HEADER_BYTES, MAX_NOTE_BYTES))
    lines = (line.strip() for line in raw.split(b"\0", 1)[0].decode("latin-1").splitlines())
    return [line for line in lines if line]


def _stride(header: Header, pixel_bytes: int) -> int:
    """Bytes of a record."""
    return RECORD_HEADER_BYTES + header.side * header.side * pixel_bytes


def _pixel_bytes(source: Source, path: str, header: Header, note: Sequence[str], there: int, notes: list[str]) -> int:
    """1 or 2, from the size of the file, the mark of the second record, or the note, whichever can tell first."""
    found = next((m for m in map(BIT_DEPTH.fullmatch, note) if m is not None), None)
    line = found[0] if found is not None else "no line 'Blo Bit Depth'"
    number = re.match("[0-9]+", found[1]) if found is not None else None
    said = 1 if found is None else DEPTHS.get(number[0] if number is not None else "")
    n_frames = header.nav_shape[0] * header.nav_shape[1]
    fits = [n for n in DEPTHS.values() if n_frames * _stride(header, n) == there]
    marked = [n for n in DEPTHS.values() if source.read(path, header.data_offset + _stride(header, n), len(MARK)) == MARK]
    known = next((n for choice in (fits, marked) for n in ([said] if said in choice else choice)), said)
    if known is None:
        raise UnsupportedFeature(f"{path}: the note says {line!r}, and the size of the file fits neither; expected 8 or 16 bits")
    if known != said:
        notes.append(f"the records have {8 * known} bits a pixel; the note has {line}")
    return known


def _check_marks(source: Source, path: str, header: Header, stride: int, n_frames: int, notes: list[str]) -> None:
    """Note the first of some records whose mark or number is not what it should be."""
    for frame in np.unique(np.linspace(0, n_frames - 1, CHECKED_RECORDS, dtype=np.int64)).tolist():
        raw = source.read(path, header.data_offset + frame * stride, RECORD_HEADER_BYTES)
        if raw != MARK + struct.pack(f"{header.order}I", frame):
            notes.append(f"record {frame} begins with {raw.hex(' ')}; expected {MARK.hex(' ')} and its number: "
                         "frames may be missing or shifted")
            return


class BloDataSet(DataSet):
    """NanoMegas blockfiles, ``.blo``.

    Parameters
    ----------
    path : str
        The file.
    tileshape
        Ignored; a deprecated argument.
    endianess : str
        ``"<"``: as the header says, little-endian in all known files. ``">"``: the file has to be big-endian.
    nav_shape : tuple of int, optional
        Scan shape, slowest axis first. Default: that of the header, (NY, NX).
    sig_shape : tuple of int, optional
        Another shape for the pixels of a frame, in their order.
    sync_offset : int
        Frames to skip at the start; negative: blank frames to insert.
    io_backend
        How to read; None lets gpuio choose.

    Examples
    --------
    >>> ds = gpuio.load("blo", path="/path/to/file.blo")
    >>> ds.virtual_bright_field()               # recorded with the scan: an overview at no cost
    """

    format = "blo"

    def __init__(self, path: str, tileshape: Any = None, endianess: str = "<", nav_shape: Any = None, sig_shape: Any = None,
                 sync_offset: int = 0, io_backend: Any = None) -> None:
        super().__init__(io_backend=io_backend)
        ignored("tileshape", tileshape)
        if endianess not in ORDERS:
            raise DataSetException(f"endianess is {endianess!r}; expected '<' or '>'")
        self._path = os.fspath(path)
        self._endianess = endianess
        self._nav_shape = nav_or_sig_shape(nav_shape, "nav_shape")
        self._sig_shape = nav_or_sig_shape(sig_shape, "sig_shape")
        self._sync_offset = sync(sync_offset)

    def _parse(self, source: Source) -> Layout:
        return parse(source, self._path, endianess=self._endianess)

    def virtual_bright_field(self) -> np.ndarray:
        """The overview image that was recorded with the scan: uint8[NY, NX], host memory.

        Raises
        ------
        FormatError
            The file has none.
        OSError
            The file may not be read.
        """
        files = HostFiles()
        header = read_header(files, self._path, self._endianess, [])
        size = header.nav_shape[0] * header.nav_shape[1]
        if header.image_offset + size > min(header.data_offset, files.size(self._path)):
            raise FormatError(f"{self._path}: holds no virtual bright field of {header.nav_shape[0]} x {header.nav_shape[1]} pixels")
        return np.concatenate([np.frombuffer(block, np.uint8) for block in _blocks(files, self._path, header.image_offset, size)]
                              ).reshape(header.nav_shape)

    @classmethod
    def sniff(cls, head: bytes, path: str) -> bool:
        """Whether a file beginning with `head` is a blockfile."""
        return sniff(head, path)

    @classmethod
    def get_supported_extensions(cls) -> set[str]:
        """Extensions in lower case, without dot."""
        return set(FORMATS["blo"].extensions)

    @classmethod
    def get_msg_converter(cls) -> type[MessageConverter]:
        """Of messages of type ``BLO``."""
        return _BloMessages


def _blocks(source: Source, path: str, offset: int, size: int, block: int = 1 << 24) -> Iterator[bytes]:
    """`size` bytes from `offset`, a block at a time."""
    for first in range(0, size, block):
        yield source.read(path, offset + first, min(block, size - first))


class _BloMessages(MessageConverter):
    """Messages of type ``BLO``."""

    SCHEMA = message_schema("BLO", {"endianess": {"type": "string", "enum": ["<", ">"]}})
