"""K2IS: raw captures of Gatan's K2 IS camera.

A capture is eight ``.bin`` files, one for each sector of the detector (256 columns, in the order of the file names), and a
``.gtg`` file of DigitalMicrograph tags (`_dmtags`): ``Capture52_1.bin`` ... ``Capture52_8.bin``, ``Capture52_.gtg``. A ``.bin`` is a run
of blocks of 22360 bytes without a file header; it may begin and end inside a frame, or inside a block.

Block (big-endian):

======  ==========  ======================================================  ================================
offset  type        meaning                                                 value
======  ==========  ======================================================  ================================
0       u32         sync word                                               FFFF0055
8       u8          version                                                 not looked at
9       u8          flags                                                   bit 0: shutter active
16      u32         block count, one more with each block of a sector;      wraps
                    equal in all sectors at the same time
20, 22  u16, u16    width and height of the sector, pixels                  256, 1860
24      u32         frame id, the same in the 32 blocks of a frame          may jump near the start
28, 30  u16, u16    first pixel (x, y) of the block in the sector           x = 0, 16 ... 240; y = 0 or 930
32, 34  u16, u16    last pixel (x, y), inclusive                            x + 15, y + 929
36      u32         bytes of the block                                      22360
40      22320 B     930 rows of 16 pixels, `uint12_le`, 24 bytes a row
======  ==========  ======================================================  ================================

Frame: 32 blocks of each sector, 5,724,160 bytes, 1860 x 2048 pixels of uint16. Blocks of a sector are stored from right to left, first the
upper half, then the lower: block b shows columns 240 - 16 (b % 16) and so on. That order is what recordings have, but no
promise: the fields of the first and of the last whole frame are compared with it, and followed where they differ.

The shutter flag shows in which frame the measurement starts. In scans (STEM mode) it is set one frame late.

Tags of the ``.gtg``:

=========================================================================  ==================================================
tag                                                                        meaning
=========================================================================  ==================================================
``SI Dimensions/Size Y``, ``/Size X``                                      the scan with its flyback; absent in time series
``SI Image Tags/SI/Acquisition/Spatial Sampling/Height (pixels)``,         the scan without flyback
``/Width (pixels)``
``SI Image Tags/...``                                                      settings of the microscope, as found
=========================================================================  ==================================================

Rows 1792 to 1859 hold the readout's reference and columns 1920 to 2047 a constant; they are shown as stored.

Sources: LiberTEM's documentation and issues 63, 911, 953, 1200; py4DSTEM's reader for places of blocks and reference rows. Blocks and
order agree with what LiberTEM reads of files made after this table.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuio.dataset import DataSet
from gpuio.errors import DataSetException, FormatError
from gpuio.fileset import FileSet
from gpuio.formats._arguments import nav_or_sig_shape, sync
from gpuio.formats._dmtags import Array, TagPath, Value, is_tag_file, read_tags
from gpuio.formats._k2is_blocks import (
    BLOCK_BYTES,
    BLOCK_HEIGHT,
    BLOCK_WIDTH,
    HEADER_BYTES,
    SECTOR_HEIGHT,
    SECTOR_WIDTH,
    SYNC,
    open_sector,
    parse_block,
)
from gpuio.formats._k2is_check import check as check
from gpuio.formats._k2is_frames import Place, Recording
from gpuio.formats._siblings import companion, series, split_name, without_number
from gpuio.layout import Encoding, Layout, Piece
from gpuio.source import Source

N_SECTORS = 8
SIG_SHAPE = (SECTOR_HEIGHT, N_SECTORS * SECTOR_WIDTH)
ENCODING = Encoding("uint12_le", np.dtype("u2"), 3, 2)
BLOCK_ROW_BYTES = BLOCK_WIDTH // 2 * 3
#: Scans are not larger; other numbers are damage.
MAX_POSITIONS = 1 << 31
#: Short lists of numbers are shown as metadata, longer ones are not.
MAX_LISTED = 64


def sniff(head: bytes, path: str) -> bool:
    """Whether a file that begins with `head` is a sector file or a ``.gtg``."""
    extension = split_name(path)[2]
    if extension == ".gtg":
        return is_tag_file(head)
    at = head.find(SYNC) if extension == ".bin" else 0      # a sector file may begin inside a block
    return at >= 0 and not isinstance(parse_block(head[at:at + HEADER_BYTES]), str)


def parse(source: Source, path: str, *, nav_shape: Sequence[int] | None = None, every_block: bool = False) -> Layout:
    """Read the headers of a K2IS capture.

    Parameters
    ----------
    source
        Where to read.
    path
        The ``.gtg`` or one of the ``.bin`` files.
    nav_shape
        The user's. Only needed where there is no usable ``.gtg``; more than one axis is then taken as a scan, not a time series.
    every_block
        Look at the header of every block for lost and repeated ones, of however long a recording.

    Raises
    ------
    FormatError, TruncatedFile
        Not a K2IS capture, a damaged one, or one without a frame that is complete in all sectors.
    OSError
        A file is missing or may not be read.
    """
    notes: list[str] = []
    paths, gtg, pattern = _find(source, path)
    recording = Recording([open_sector(source, p) for p in paths], every_block=every_block)
    tags = _read_gtg(source, gtg, pattern, nav_shape, notes)
    notes += recording.notes()
    parts, pieces = _place(recording)
    scan = _scan_shape(tags or {}, notes)
    is_scan = len(nav_shape or ()) > 1 if tags is None else scan is not None
    flagged, n_frames = recording.first_flagged(), recording.n_frames
    if flagged is None:
        _warn(path, "the shutter flag is set in no frame: the first complete frame is taken as the first position", notes)
    start = 0 if flagged is None else max(flagged - is_scan, 1 - n_frames)
    if start < 0:
        notes.append("the first complete frame has the shutter flag, which scans set one frame late: the first position is blank")
    facts = {"mode": "STEM" if is_scan else "time series", "first_flagged_frame": flagged, **recording.metadata()}
    return Layout(
        format="k2is", parts=parts, encoding=ENCODING, pieces=pieces, sig_shape=SIG_SHAPE, image_count=n_frames, sync_offset=start,
        nav_shape=scan if is_scan else (n_frames - start,), metadata={**facts, **_shown(tags or {})}, notes=tuple(notes))


def _find(source: Source, path: str) -> tuple[list[str], str | None, str]:
    """The sector files in order, the .gtg, and the pattern that they were looked for by."""
    source.size(path)           # a file that the user named has to be there
    folder, stem, extension = split_name(path)
    prefix = stem if extension == ".gtg" else without_number(stem)
    names = source.listdir(folder)
    found = sorted(series(names, prefix, ".bin"))
    pattern = os.path.join(folder, f"{prefix}*.bin")
    if len(found) != N_SECTORS:
        raise FormatError(f"{path}: expected {N_SECTORS} files at {pattern}, found {len(found)}")
    gtg = os.path.basename(path) if extension == ".gtg" else companion(names, [prefix], ".gtg")
    return [os.path.join(folder, name) for name in found], gtg and os.path.join(folder, gtg), os.path.join(folder, f"{prefix}.gtg")


def _read_gtg(source: Source, gtg: str | None, expected: str, nav_shape: Sequence[int] | None,
              notes: list[str]) -> dict[TagPath, Value] | None:
    """The tags; None where they cannot be had and the user's nav shape takes their place."""
    try:
        if gtg is None:
            raise FormatError(f"{expected}: expected this file beside the {N_SECTORS} .bin files, found none")
        return read_tags(source, gtg).values
    except (DataSetException, OSError) as problem:
        if nav_shape is not None:
            _warn(gtg or expected, f"opened without the tags: {problem}", notes)
            return None
        if isinstance(problem, OSError):
            raise
        raise FormatError(f"{problem}; pass nav_shape=... to open the capture without it") from None


def _warn(path: str, what: str, notes: list[str]) -> None:
    notes.append(what)
    warnings.warn(f"{path}: {what}", RuntimeWarning, stacklevel=3)


def _place(recording: Recording) -> tuple[tuple[FileSet, ...], tuple[Piece, ...]]:
    """A part for each sector, or several where blocks are missing; and the pieces, usually 16."""
    parts: list[FileSet] = []
    pieces: list[Piece] = []
    for k, sector in enumerate(recording.sectors):
        order = recording.block_order(sector)
        for first, stop, files in recording.parts(sector):
            pieces += _pieces(order[first:stop], k * SECTOR_WIDTH, len(parts))
            parts.append(FileSet(files, frame_header_bytes=HEADER_BYTES))
    return tuple(parts), tuple(pieces)


def _pieces(order: Sequence[Place], column: int, part: int) -> list[Piece]:
    """Pieces of blocks at `order` of the sector at `column`: blocks side by side at one distance are repeats."""
    pieces = []
    i = 0
    while i < len(order):
        x, y = order[i]
        step = order[i + 1][0] - x if i + 1 < len(order) else 0
        repeats = 1
        while i + repeats < len(order) and order[i + repeats] == (x + repeats * step, y):
            repeats += 1
        pieces.append(Piece(src=i * BLOCK_BYTES, pos=y * SIG_SHAPE[1] + column + x, pixels=BLOCK_WIDTH, rows=BLOCK_HEIGHT,
                            row_src=BLOCK_ROW_BYTES, row_pos=SIG_SHAPE[1], repeats=repeats, rep_src=BLOCK_BYTES, rep_pos=step, part=part))
        i += repeats
    return pieces


def _scan_shape(tags: dict[TagPath, Value], notes: list[str]) -> tuple[int, int] | None:
    """The scan with its flyback; None for a time series."""
    values = [tags.get(("SI Dimensions", f"Size {axis}")) for axis in "YX"]
    if values == [None, None]:
        return None
    height, width = (int(v) if isinstance(v, (int, float)) and 0 < v < MAX_POSITIONS else 0 for v in values)
    if 0 < height * width < MAX_POSITIONS:
        return height, width
    notes.append(f"SI Dimensions of the .gtg are {values[0]!r} x {values[1]!r}; expected numbers of positions: read as a time series")
    return None


def _shown(tags: dict[TagPath, Value]) -> dict[str, Any]:
    """Tags of the scan and the microscope as metadata, by their path; their names carry units."""
    shown: dict[str, Any] = {}
    for path, value in tags.items():
        if path[0] in ("SI Image Tags", "SI Dimensions"):
            plain = _plain(value)
            if plain is not None:
                shown["/".join(path)] = plain
    return shown


def _plain(value: Value) -> Any:
    """A tag's value as text, number or list; None for arrays that are long or of structs."""
    if not isinstance(value, Array):
        return list(value) if isinstance(value, tuple) else value
    if value.text is not None or value.count > MAX_LISTED or value.dtype.names is not None:
        return value.text
    return np.frombuffer(value.raw, value.dtype).tolist()


class K2ISDataSet(DataSet):
    """A capture of a Gatan K2 IS camera: eight ``.bin`` files and a ``.gtg``.

    Positions show complete frames: ``k = i + sync_offset``, where frame 0 is the first one that all sectors have whole. Frames that
    lost blocks are shown with zeros in their place, and `notes` name them.

    Parameters
    ----------
    path : str
        The ``.gtg`` or one of the ``.bin`` files.
    nav_shape : tuple of int, optional
        Scan shape, slowest axis first. Without it, that of the ``.gtg``, flyback included; for a time series all frames from the first
        one with the shutter flag. Needed where the ``.gtg`` is missing; then several axes are taken as a scan.
    sig_shape : tuple of int, optional
        Another shape for the 1860 x 2048 pixels of a frame, in their order.
    sync_offset : int, optional
        Complete frames to skip at the start; negative: blank frames to insert. Without it, the shutter flag decides: the first frame
        that has it in a time series, and the one before in a scan, where the flag is set one frame late. (In scans, LiberTEM counts
        from 1: its number is one more than this one.)
    io_backend
        How to read; None lets gpuio choose.
    every_block : bool
        Look for lost and repeated blocks in the header of every block. Recordings of up to 32 frames are always looked through;
        of longer ones 128 headers of each sector, and all that is needed to find a block that is missing between two of
        them. What that cannot see is a loss that as many repeated blocks make up for.

    Examples
    --------
    >>> ds = gpuio.load("k2is", path="/path/to/Capture52_.gtg")
    """

    format = "k2is"

    def __init__(self, path: str, nav_shape: Any = None, sig_shape: Any = None, sync_offset: int | None = None,
                 io_backend: Any = None, *, every_block: bool = False) -> None:
        super().__init__(io_backend=io_backend)
        self._path = os.fspath(path)
        self._nav_shape = nav_or_sig_shape(nav_shape, "nav_shape")
        self._sig_shape = nav_or_sig_shape(sig_shape, "sig_shape")
        self._sync_offset = None if sync_offset is None else sync(sync_offset)
        self._every_block = bool(every_block)

    def _parse(self, source: Source) -> Layout:
        return parse(source, self._path, nav_shape=self._nav_shape, every_block=self._every_block)

    @classmethod
    def sniff(cls, head: bytes, path: str) -> bool:
        return sniff(head, path)

    @classmethod
    def get_supported_extensions(cls) -> set[str]:
        return {"bin", "gtg"}

    def get_base_shape(self, roi: np.ndarray | None) -> tuple[int, ...]:
        """Half a sector, the largest rectangle whose bytes follow each other."""
        return (1, BLOCK_HEIGHT, SECTOR_WIDTH) if tuple(self.shape.sig) == SIG_SHAPE else super().get_base_shape(roi)

    def get_cache_key(self) -> dict[str, Any]:
        return {**super().get_cache_key(), "every_block": self._every_block}
