"""SEQ: sequences of Norpix StreamPix, as cameras of Direct Electron record them.

A ``.seq`` file is a header and frames at equal distances, each its pixels, a time stamp and padding. All numbers are little-endian.

==========  ========  ====================  ==============================================================================
byte        type      name                  meaning
==========  ========  ====================  ==============================================================================
0           u32       magic                 ``ED FE 00 00``
4           24 bytes  name                  UTF-16, NUL terminated: ``Norpix seq``
28          i32       version               from 5 on frames begin at byte 8192 and times have µs; before at 1024
32          i32       header size           1024; says nothing about where frames begin
36          512 B     description           UTF-16, NUL terminated
548, 552    u32 u32   width, height         of a frame, pixels
556         u32       bit depth             of a stored pixel: 8, 16, 32
560         u32       real bit depth        of the camera: 12 ...
564         u32       image size            bytes from the start of a frame to its time stamp: those of its pixels
568         u32       image format          100: monochrome; others are not described
572         u32       allocated frames      informative; the size of the file tells how many there are
580         u32       true image size       bytes from one frame to the next; a multiple of 8192 in recordings of StreamPix 6
584         f64       frame rate            suggested, 1/s
620         u32       compression           0: none; others are not described
==========  ========  ====================  ==============================================================================

Pixels are unsigned integers, row by row. The time stamp is u32 seconds since 1970, u16 ms and, from version 5 on, u16 µs; the time
zone is not stored. The scan shape is not stored either, nor where the scan starts.

Dark reference, gain reference and bad pixels lie in files beside (`_seq_corrections`). They are applied unless switched off:
``(pixel - dark) * gain``, then bad pixels become the mean of their neighbours.

Quirks:

- A file may be named ``NAME.seq.seq`` (LiberTEM issue 1120).
- Celeritas cameras record the halves of the detector into two files, several frames stacked in each image. Such files are read as they are.

Sources: PIMS, documentation and issues of LiberTEM, a note on DE16 and Celeritas files in RosettaSciIO (pull request 11). Header, pixels
and corrections agree with what LiberTEM 0.16 reads of files made after this table; no recording is publicly available.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuio.dataset import DataSet, MessageConverter, message_schema
from gpuio.errors import FormatError, TruncatedFile, UnsupportedFeature
from gpuio.fileset import File, FileSet
from gpuio.findings import UNKNOWN, FrameRecords, Progress
from gpuio.formats._arguments import nav_or_sig_shape, renamed, sync
from gpuio.formats._frame_headers import read_headers
from gpuio.formats._seq_corrections import find_corrections
from gpuio.layout import Encoding, Layout, plain_pieces
from gpuio.source import Source

MAGIC = b"\xed\xfe\x00\x00"
#: The last field that is read ends here.
HEADER_BYTES = 632
FIELDS = struct.Struct("<9I d i3I 3i I")
FIELDS_AT = 548
MONOCHROME = 100
DTYPES = {8: "<u1", 16: "<u2", 32: "<u4"}
#: Bytes of a time stamp of version 5.
STAMP_BYTES = 8
#: For ``gpuio check``, which opens sequences with damaged references without them.
COUNTED_BY_SIZE = True
LENIENT = {"enable_corrections": False}


@dataclass(frozen=True, slots=True)
class Header:
    """What the start of a file says; sizes in bytes."""

    version: int
    description: str
    width: int
    height: int
    bit_depth: int
    real_bit_depth: int
    image_size: int
    allocated_frames: int
    stride: int                 #: from one frame to the next
    frame_rate_Hz: float

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(DTYPES[self.bit_depth])

    @property
    def frame_bytes(self) -> int:
        """Bytes of the pixels of a frame."""
        return self.width * self.height * self.dtype.itemsize

    @property
    def has_times(self) -> bool:
        """Whether there is room for time stamps where they ought to be."""
        return self.frame_bytes <= self.image_size <= self.stride - STAMP_BYTES

    @property
    def data_offset(self) -> int:
        """Bytes before the first frame."""
        return 8192 if self.version >= 5 else 1024


def sniff(head: bytes, path: str) -> bool:
    """Whether a file that begins with `head` is a sequence of StreamPix."""
    return head.startswith(MAGIC)


def parse(source: Source, path: str, *, enable_corrections: bool = True, allow_unrepairable: bool = False) -> Layout:
    """Read the header of a sequence and those of the files beside it.

    Parameters
    ----------
    source
        Where to read.
    path
        The ``.seq`` file.
    enable_corrections
        Whether dark and gain reference and bad pixels beside the file are wanted. If not, those files are left alone.
    allow_unrepairable
        Accept bad pixels without a good neighbour.

    Raises
    ------
    FormatError, TruncatedFile
        It is no sequence, a header says what it must not, there is no whole frame, or the files beside are damaged.
    UnsupportedFeature
        Compressed or coloured images.
    ShapeError
        A dark or gain reference or a map of bad pixels has another shape than frames.
    RepairValueError
        Bad pixels without a good neighbour, and `allow_unrepairable` is not set.
    OSError
        A file is missing or may not be read.
    """
    header = read_header(source, path)
    notes: list[str] = []
    size = source.size(path)
    n_frames, rest = divmod(max(0, size - header.data_offset), header.stride)
    if not n_frames:
        raise TruncatedFile(f"{path}: holds {size} bytes; expected at least {header.data_offset + header.stride} for one frame of "
                            f"{header.width} x {header.height} pixels of {header.bit_depth} bit")
    if rest:
        notes.append(f"the last {rest} bytes are no whole frame of {header.stride} and were left out")
    if header.image_size != header.frame_bytes:
        notes.append(f"the image size is said to be {header.image_size} bytes; {header.width} x {header.height} pixels of "
                     f"{header.bit_depth} bit have {header.frame_bytes}, and so many are read")
    sig_shape = header.height, header.width
    metadata = _metadata(source, path, header, n_frames)
    corrections: dict[str, Any] = {}
    if enable_corrections:
        found = find_corrections(source, path, sig_shape, allow_unrepairable=allow_unrepairable)
        corrections = {"dark": found.dark, "gain": found.gain, "excluded": found.excluded}
        metadata.update(found.metadata)
        notes += found.notes
    file = File(path, 0, n_frames, header.dtype, sig_shape, frame_footer=header.stride - header.frame_bytes,
                file_header=header.data_offset, size=size)
    return Layout(
        format="seq", parts=(FileSet([file], frame_footer_bytes=file.frame_footer),), encoding=Encoding.of(header.dtype),
        pieces=plain_pieces(sig_shape, header.width * header.dtype.itemsize), sig_shape=sig_shape, image_count=n_frames,
        metadata=metadata, notes=tuple(notes), **corrections,
    )


def read_header(source: Source, path: str) -> Header:
    """Read the header of a sequence.

    Raises
    ------
    FormatError
        It is none, or frames cannot lie as it says; `TruncatedFile` if it ends too early.
    UnsupportedFeature
        Compressed or coloured images.
    OSError
        The file is missing or may not be read.
    """
    raw = source.read(path, 0, HEADER_BYTES)
    if not raw.startswith(MAGIC) and not (len(raw) < len(MAGIC) and MAGIC.startswith(raw)):
        raise FormatError(f"{path}: not a SEQ file, it begins with {raw[:4].hex(' ')}; expected {MAGIC.hex(' ')}")
    if len(raw) < HEADER_BYTES:
        raise TruncatedFile(f"{path}: not a SEQ file, or cut short: {len(raw)} bytes; expected a header of {HEADER_BYTES}")
    (width, height, depth, real_depth, image_size, image_format, allocated, _, stride, frame_rate, *_, compression) = \
        FIELDS.unpack_from(raw, FIELDS_AT)
    if depth not in DTYPES:
        raise FormatError(f"{path}: bit depth {depth}; expected {', '.join(map(str, DTYPES))}")
    if image_format != MONOCHROME or compression:
        raise UnsupportedFeature(f"{path}: image format {image_format}, compression {compression}; "
                                 f"expected {MONOCHROME} (monochrome) and 0 (none)")
    if not width * height:
        raise FormatError(f"{path}: frames of {width} x {height} pixels; expected at least one")
    (version,) = struct.unpack_from("<i", raw, 28)
    header = Header(version, _text(raw[36:FIELDS_AT]), width, height, depth, real_depth, image_size, allocated, stride, frame_rate)
    if stride < header.frame_bytes:
        raise FormatError(f"{path}: true image size {stride} bytes; expected at least {header.frame_bytes} for {width} x {height} "
                          f"pixels of {depth} bit")
    if stride % header.dtype.itemsize:
        raise FormatError(f"{path}: true image size {stride} bytes; expected whole pixels of {header.dtype.itemsize} bytes")
    return header


def _text(raw: bytes) -> str:
    """UTF-16 up to the first NUL, whatever is in it."""
    return raw.decode("utf-16-le", "replace").split("\0", 1)[0]


def _metadata(source: Source, path: str, header: Header, n_frames: int) -> dict[str, Any]:
    """What header and time stamps say, with units in the keys."""
    metadata: dict[str, Any] = {
        "description": header.description, "version": header.version, "bit_depth": header.bit_depth,
        "real_bit_depth": header.real_bit_depth, "allocated_frames": header.allocated_frames, "frame_stride_bytes": header.stride,
        "frame_footer_bytes": header.stride - header.frame_bytes, "data_offset_bytes": header.data_offset,
    }
    if np.isfinite(header.frame_rate_Hz):
        metadata["frame_rate_Hz"] = header.frame_rate_Hz
    if header.has_times:
        for which, frame in (("first", 0), ("last", n_frames - 1)):
            raw = source.read(path, header.data_offset + frame * header.stride + header.image_size, STAMP_BYTES)
            if len(raw) == STAMP_BYTES:
                metadata[f"time_{which}"] = _time(raw, header.version)
    return metadata


def _time(raw: bytes, version: int) -> str:
    """A time stamp as ISO 8601 without zone."""
    seconds, milliseconds, microseconds = struct.unpack("<IHH", raw)
    moment = np.datetime64(seconds, "s") + np.timedelta64(milliseconds, "ms")
    return str(moment + np.timedelta64(microseconds, "us") if version >= 5 else moment)


def frame_records(source: Source, layout: Layout, progress: Progress) -> FrameRecords:
    """Time of every frame, for ``gpuio check``.

    Raises
    ------
    OSError, DataSetException
        The file cannot be read, or has become another one.
    """
    path = layout.parts[0][0].path
    header = read_header(source, path)
    unknown = np.full(layout.image_count, UNKNOWN)
    time_ns = unknown
    if header.has_times:
        raw = np.concatenate([some for _, _, some in read_headers(source, layout, STAMP_BYTES, progress, at=header.image_size)])
        seconds, rest = raw[:, :4].copy().view("<u4")[:, 0].astype(np.int64), raw[:, 4:].copy().view("<u2").astype(np.int64)
        microseconds = seconds * 1_000_000 + rest[:, 0] * 1000 + (rest[:, 1] if header.version >= 5 else 0)
        time_ns = np.where(seconds > 0, microseconds * 1000, UNKNOWN)
    return FrameRecords(np.arange(layout.image_count), unknown, time_ns, unknown, resolution_ns=1000 if header.version >= 5 else 1_000_000)


class SEQDataSet(DataSet):
    """A StreamPix sequence of a Direct Electron camera: a ``.seq`` file, with references and bad pixels in files beside.

    Parameters
    ----------
    path : str
        The ``.seq`` file.
    scan_size
        Deprecated name of `nav_shape`.
    nav_shape : tuple of int, optional
        Scan shape, slowest axis first. The file does not tell it: without, a square if the number of frames is one, else a line.
    sig_shape : tuple of int, optional
        Another shape for the pixels of a frame, in their order.
    sync_offset : int
        Frames to skip at the start; negative: blank frames to insert. Nothing in the file tells where the scan starts.
    io_backend
        How to read; None lets gpuio choose.
    enable_corrections : bool
        Use the files beside the data: ``NAME.dark.mrc``, ``NAME.gain.mrc`` and, for bad pixels, ``NAME.Config.Metadata.xml`` with
        ``NAME.metadata``; NAME with or without ``.seq`` at its end. Pixels are then floating-point numbers if there are any. If
        False, those files are not touched and pixels are as recorded.
    allow_unrepairable : bool
        Leave bad pixels that have no good neighbour as they are, rather than refusing the data set.

    Notes
    -----
    Corrections are applied by `tiles`, indexing, `read` and sums, unless others are given; `get_correction_data` returns them. Tiles
    of partitions have those of `set_corrections`.

    Examples
    --------
    >>> ds = gpuio.load("seq", path="/path/to/file.seq", nav_shape=(1024, 1024))
    """

    format = "seq"

    def __init__(self, path: str, scan_size: Any = None, nav_shape: Any = None, sig_shape: Any = None, sync_offset: int = 0,
                 io_backend: Any = None, *, enable_corrections: bool = True, allow_unrepairable: bool = False) -> None:
        super().__init__(io_backend=io_backend)
        self._path = os.fspath(path)
        self._nav_shape = nav_or_sig_shape(renamed("scan_size", scan_size, "nav_shape", nav_shape), "nav_shape")
        self._sig_shape = nav_or_sig_shape(sig_shape, "sig_shape")
        self._sync_offset = sync(sync_offset)
        self._enable_corrections = bool(enable_corrections)
        self._allow_unrepairable = bool(allow_unrepairable)

    def _parse(self, source: Source) -> Layout:
        return parse(source, self._path, enable_corrections=self._enable_corrections, allow_unrepairable=self._allow_unrepairable)

    @classmethod
    def sniff(cls, head: bytes, path: str) -> bool:
        return sniff(head, path)

    @classmethod
    def get_supported_extensions(cls) -> set[str]:
        return {"seq"}

    @classmethod
    def get_msg_converter(cls) -> type[MessageConverter]:
        return _SeqMessages

    def get_cache_key(self) -> dict[str, Any]:
        return {**super().get_cache_key(), "enable_corrections": self._enable_corrections}


class _SeqMessages(MessageConverter):
    """Messages of type ``SEQ``."""

    SCHEMA = message_schema("SEQ", {}, required=("path", "nav_shape"))
