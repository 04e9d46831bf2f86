"""Headers, tables of offsets, element headers and tags of TIA series. `ser` describes the bytes."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from gpuio.errors import FormatError, TruncatedFile
from gpuio.formats._siblings import series, split_name
from gpuio.source import Source

MAGIC = b"II\x97\x01"
EMI_MAGIC = b"JK\x00\x02"
#: Version: bytes of an offset.
VERSIONS = {0x0210: 4, 0x0220: 8}
SPECTRA, IMAGES = 0x4120, 0x4122
TIME, POSITION = 0x4152, 0x4142
PIXELS = {1: "<u1", 2: "<u2", 3: "<u4", 4: "<i1", 5: "<i2", 6: "<i4", 7: "<f4", 8: "<f8", 9: "<c8", 10: "<c16"}

HEADER_BYTES = 34           # of the longer one, up to the dimensions
MAX_DIMENSIONS = 16
MAX_TEXT = 1 << 16
#: Offsets read at a time.
TABLE_STEP = 1 << 20


@dataclass(frozen=True, slots=True)
class Axis:
    """A scan axis, or an axis of an element: the coordinate of index k is ``offset + (k - element + 0.5) * delta``."""

    offset: float
    delta: float
    element: int
    size: int
    description: str = ""
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Header:
    """What the bytes before the tables say."""

    offset_bytes: int
    kind: int
    tags: int
    planned: int
    written: int
    table: int
    dimensions: tuple[Axis, ...]    #: fastest first

    @property
    def tag_table(self) -> int:
        """Where the offsets of tags are."""
        return self.table + self.planned * self.offset_bytes

    @property
    def tables_end(self) -> int:
        """First byte that may be an element's."""
        return self.table + 2 * self.planned * self.offset_bytes

    @property
    def n_axes(self) -> int:
        """Of an element."""
        return 1 if self.kind == SPECTRA else 2

    @property
    def element_bytes(self) -> int:
        """Bytes of an element before its pixels."""
        return 26 if self.kind == SPECTRA else 50


@dataclass(frozen=True, slots=True)
class Element:
    """What the bytes before the pixels of an element say; axes x first."""

    code: int
    axes: tuple[Axis, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Length, or width and height."""
        return tuple(axis.size for axis in self.axes)

    @property
    def pixel_bytes(self) -> int:
        return np.dtype(PIXELS[self.code]).itemsize * math.prod(self.sizes)


def read_header(source: Source, path: str, size: int) -> Header:
    """Read the bytes before the tables of a file of `size` bytes.

    Raises
    ------
    FormatError
        It is no TIA series, or damaged, or without data; `TruncatedFile` if it ends before its tables do.
    OSError
        The file may not be read.
    """
    raw = source.read(path, 0, HEADER_BYTES)
    if raw.startswith(EMI_MAGIC):
        folder, stem, _ = split_name(path)
        found = [name for name in series(source.listdir(folder), stem + "_", ".ser")
                 if re.fullmatch(re.escape(stem) + r"_[0-9]+\.(?i:ser)", name)]
        raise FormatError(f"{path}: describes an acquisition, its pixels are in {', '.join(found) or f'{stem}_1.ser, which is not there'}; "
                          "open one of these")
    if not raw.startswith(MAGIC[:len(raw)]) or not raw:
        what = "a video of astronomy's SER format" if raw.startswith(b"LUCAM") else f"begins with {raw[:4].hex(' ')}"
        raise FormatError(f"{path}: no TIA series: {what}; expected {MAGIC.hex(' ')}")
    version = struct.unpack_from("<H", raw, 4)[0] if len(raw) >= 6 else 0
    if len(raw) >= 6 and version not in VERSIONS:
        raise FormatError(f"{path}: version 0x{version:04x}; expected 0x0210 or 0x0220")
    width = VERSIONS.get(version, 4)
    if len(raw) < 26 + width:
        raise TruncatedFile(f"{path}: ends after {len(raw)} of the {26 + width} bytes of its header")
    kind, tags, planned, written = struct.unpack_from("<4I", raw, 6)
    table = int.from_bytes(raw[22:22 + width], "little")
    (n_dimensions,) = struct.unpack_from("<I", raw, 22 + width)
    if kind not in (SPECTRA, IMAGES):
        raise FormatError(f"{path}: data type 0x{kind:04x}; expected 0x4120 (spectra) or 0x4122 (images)")
    if not written:
        raise FormatError(f"{path}: no data were written; {planned} elements were planned. A single spectrum may be in the .emi only")
    if written > planned:
        raise FormatError(f"{path}: {written} elements are written of {planned} planned; expected at most these")
    if n_dimensions > MAX_DIMENSIONS:
        raise FormatError(f"{path}: {n_dimensions} dimensions; expected at most {MAX_DIMENSIONS}")
    dimensions, end = _dimensions(source, path, 26 + width, n_dimensions, size)
    if table < end:
        raise FormatError(f"{path}: the table of offsets is announced at byte {table}, inside of the header, which has {end} bytes")
    if table + 2 * planned * width > size:
        raise TruncatedFile(f"{path}: holds {size} bytes; two tables of {planned} offsets from byte {table} on need "
                            f"{table + 2 * planned * width}")
    return Header(width, kind, tags, planned, written, table, dimensions)


def _dimensions(source: Source, path: str, at: int, count: int, size: int) -> tuple[tuple[Axis, ...], int]:
    """The scan axes, and the byte behind them."""
    found = []
    for number in range(count):
        n, offset, delta, element = struct.unpack("<IddI", _exactly(source, path, at, 24, f"dimension {number}"))
        at, texts = at + 24, []
        for name in ("description", "unit"):
            length = int.from_bytes(_exactly(source, path, at, 4, f"dimension {number}"), "little")
            if length > min(MAX_TEXT, size - at - 4):
                raise FormatError(f"{path}: the {name} of dimension {number} has {length} bytes; "
                                  f"expected at most {max(0, min(MAX_TEXT, size - at - 4))}")
            texts.append(_exactly(source, path, at + 4, length, f"dimension {number}").decode("latin-1").rstrip("\0 "))
            at += 4 + length
        found.append(Axis(offset, delta, element, n, *texts))
    return tuple(found), at


def _exactly(source: Source, path: str, offset: int, size: int, what: str) -> bytes:
    """`size` bytes, which have to be there."""
    raw = source.read(path, offset, size)
    if len(raw) < size:
        raise TruncatedFile(f"{path}: ends inside of {what}: {len(raw)} of {size} bytes are there from byte {offset} on")
    return raw


def read_offsets(source: Source, path: str, header: Header, at: int, count: int) -> np.ndarray:
    """Entries of a table: int64[count]."""
    width = header.offset_bytes
    blocks = [np.frombuffer(_exactly(source, path, at + first * width, min(TABLE_STEP, count - first) * width, "a table of offsets"),
                            f"<u{width}") for first in range(0, count, TABLE_STEP)]
    table: np.ndarray = np.concatenate(blocks)
    # No file is so long: larger numbers would come out negative.
    return np.minimum(table.astype(np.uint64), np.uint64(1 << 62)).astype(np.int64)


def read_element(source: Source, path: str, header: Header, frame: int, offset: int) -> Element:
    """The bytes before the pixels of an element."""
    raw = _exactly(source, path, offset, header.element_bytes, f"the header of frame {frame}")
    code, *sizes = struct.unpack_from(f"<H{header.n_axes}I", raw, 20 * header.n_axes)
    if code not in PIXELS:
        raise FormatError(f"{path}, byte {offset}: frame {frame} has pixel type {code}; expected 1 to {max(PIXELS)}")
    if not min(sizes):
        raise FormatError(f"{path}, byte {offset}: frame {frame} has {' x '.join(map(str, sizes))} pixels")
    axes = []
    for number, n in enumerate(sizes):
        axis_offset, delta, element = struct.unpack_from("<ddI", raw, 20 * number)
        axes.append(Axis(axis_offset, delta, element, n))
    return Element(code, tuple(axes))


def read_tag(source: Source, path: str, header: Header, offset: int, size: int) -> dict[str, Any]:
    """Time and position in a tag; nothing if it is not where it should be."""
    raw = source.read(path, offset, 24) if 0 < offset < size else b""
    if len(raw) < 8 or struct.unpack_from("<H", raw)[0] != header.tags & 0xFFFF:
        return {}
    found: dict[str, Any] = {"time_utc": datetime.fromtimestamp(struct.unpack_from("<I", raw, 4)[0], UTC).isoformat()}
    if header.tags == POSITION and len(raw) == 24:
        found["position_x_m"], found["position_y_m"] = struct.unpack_from("<dd", raw, 8)
    return found
