"""SER: series of TIA, the acquisition software of FEI (now Thermo Fisher) microscopes.

One file, little-endian: a header, two tables of offsets, and elements (images or spectra), each followed by its tag.

================  =====  =========  ====================================================================================
byte              type   name       meaning
================  =====  =========  ====================================================================================
0, 2              u16               0x4949, 0x0197
4                 u16    version    0x0210: offsets (w) of 4 bytes; 0x0220: of 8 bytes, from TIA 4.7.3 on
6                 u32    kind       0x4120: elements are spectra, 0x4122: images
10                u32    tags       0x4152: time; 0x4142: time and position
14                u32    T          elements planned
18                u32    V          elements written
22                u32/8  P          where the tables are
22 + w            u32    K          dimensions, the fastest first
26 + w            K of              size u32; calibration: offset f64, delta f64, element u32; description, unit: length u32, text
P                 T w               offsets of elements; only the first V mean anything
P + T w           T w               offsets of tags
element + 0                         for each axis, x first: calibration offset f64, delta f64, element u32
+ 20 or 40        u16    code       pixel type: 1 .. 10 are u8 u16 u32 i8 i16 i32 f32 f64 complex64 complex128
+ 22 or 42        u32               length; or width, height
+ 26 or 50                          pixels, bottom row first
tag + 0, 2, 4     u16 .. u32        kind, 0, time in s since 1970
tag + 8, 16       f64               x, y in m, of tags with position
================  =====  =========  ====================================================================================

Row y of an image is stored row h - 1 - y. The coordinate of index k of an axis is ``offset + (k - element + 0.5) * delta``.

Quirks:

- Entry V of the offsets may hold the end of the file, later ones 0: they are never followed.
- An aborted series has V < T. A series then has V frames; of a map, the positions that were not reached are blank.
- Elements are usually, but not always, evenly spaced: offsets are taken from the table. Runs of even spacing become one `File` each.
- Several files of one acquisition (``NAME_1.ser``, ``NAME_2.ser``) are its detectors, not parts of one scan.

Sources: there is no public specification. Recordings in the test data of RosettaSciIO and openNCEM, whose readers follow notes by
C. Boothroyd, and the issues of HyperSpy.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuio.dataset import DataSet
from gpuio.errors import FormatError, TruncatedFile
from gpuio.fileset import File, FileSet
from gpuio.formats import FORMATS
from gpuio.formats._arguments import ignored, nav_or_sig_shape, sync
from gpuio.formats._ser_header import (
    EMI_MAGIC,
    MAGIC,
    PIXELS,
    POSITION,
    Axis,
    Element,
    Header,
    read_element,
    read_header,
    read_offsets,
    read_tag,
)
from gpuio.formats._siblings import split_name
from gpuio.layout import Encoding, Layout, Piece, plain_pieces
from gpuio.source import Source

#: Elements of an evenly spaced run whose headers are compared with the first one's.
CHECKED_ELEMENTS = 64


def sniff(head: bytes, path: str) -> bool:
    """Whether a file that begins with `head` is a TIA series, or the ``.emi`` beside one (which `parse` refuses by name)."""
    return head.startswith(MAGIC) or (head.startswith(EMI_MAGIC) and split_name(path)[2] == ".emi")


def parse(source: Source, path: str) -> Layout:
    """Read header, offsets and some element headers of a TIA series.

    Parameters
    ----------
    source
        Where to read.
    path
        The ``.ser`` file.

    Raises
    ------
    FormatError, TruncatedFile
        It is no TIA series, a damaged one, one without data, or its elements differ.
    OSError
        The file is missing or may not be read.
    """
    notes: list[str] = []
    size = source.size(path)
    header = read_header(source, path, size)
    offsets = read_offsets(source, path, header, header.table, header.written)
    if offsets[0] < header.tables_end:
        raise FormatError(f"{path}: bad table of offsets: frame 0 is at byte {offsets[0]}; expected at least {header.tables_end}")
    element = read_element(source, path, header, 0, int(offsets[0]))
    offsets = _whole(path, header, element, offsets, size, notes)
    runs = _runs(offsets)
    _check_elements(source, path, header, element, offsets, runs)
    item, sig_shape = np.dtype(PIXELS[element.code]), element.sizes[::-1]
    files = [_file(path, offsets, first, stop, header, item, sig_shape, size) for first, stop in runs]
    n_frames, nav_shape = _nav_shape(source, path, header, len(offsets), size, notes)
    if len(runs) > 1:
        notes.append(f"elements are not evenly spaced: {len(runs)} runs of them are")
    return Layout(
        format="ser", parts=(FileSet(files),), encoding=Encoding.of(item), pieces=_pieces(sig_shape, item.itemsize), sig_shape=sig_shape,
        nav_shape=nav_shape, image_count=n_frames, metadata=_metadata(source, path, header, element, size), notes=tuple(notes),
    )


def _pieces(sig_shape: tuple[int, ...], itemsize: int) -> tuple[Piece, ...]:
    """Spectra as they are, images bottom row first."""
    if len(sig_shape) == 1:
        return plain_pieces(sig_shape, sig_shape[0] * itemsize)
    height, width = sig_shape
    return (Piece(src=0, pos=(height - 1) * width, pixels=width, rows=height, row_src=width * itemsize, row_pos=-width),)


def _file(path: str, offsets: np.ndarray, first: int, stop: int, header: Header, item: np.dtype, sig_shape: tuple[int, ...],
          size: int) -> File:
    """A run of evenly spaced elements."""
    stride = int(offsets[first + 1] - offsets[first]) if stop - first > 1 else 0
    behind = max(0, stride - header.element_bytes - item.itemsize * math.prod(sig_shape))
    return File(path, first, stop, item, sig_shape, frame_header=header.element_bytes, frame_footer=behind,
                file_header=int(offsets[first]), size=size)


def _whole(path: str, header: Header, element: Element, offsets: np.ndarray, size: int, notes: list[str]) -> np.ndarray:
    """Offsets of the elements that are whole; those missing at the end are blank, which is noted."""
    n_bytes = header.element_bytes + element.pixel_bytes
    wrong = np.flatnonzero(np.diff(offsets) < n_bytes)
    if len(wrong):
        frame = int(wrong[0]) + 1
        wrapped = "; offsets of 32 bits end at 4 GiB" if header.offset_bytes == 4 and size > 1 << 32 else ""
        raise FormatError(f"{path}: bad table of offsets: frame {frame} is at byte {offsets[frame]}; "
                          f"expected at least {int(offsets[frame - 1]) + n_bytes}{wrapped}")
    whole = int(np.searchsorted(offsets, size - n_bytes, side="right"))
    if not whole:
        raise TruncatedFile(f"{path}: holds {size} bytes; the first frame alone ends at byte {int(offsets[0]) + n_bytes}")
    if whole < len(offsets):
        notes.append(f"the file is truncated: of {len(offsets)} frames {whole} are whole, the missing ones are blank")
    return offsets[:whole]


def _runs(offsets: np.ndarray) -> list[tuple[int, int]]:
    """Runs of evenly spaced elements: first one, and one past the last."""
    steps = np.diff(offsets)
    breaks = np.flatnonzero(steps[1:] != steps[:-1]) + 2      # elements whose distance from the one before is new
    runs, first = [], 0
    for stop in breaks.tolist():
        if stop - first > 1:        # a lone step is the distance to the next run
            runs.append((first, stop))
            first = stop
    return [*runs, (first, len(offsets))]


def _check_elements(source: Source, path: str, header: Header, first: Element, offsets: np.ndarray,
                    runs: Sequence[tuple[int, int]]) -> None:
    """Compare element headers with the first one: all of short runs, some of long ones."""
    for start, stop in runs:
        for frame in np.unique(np.linspace(start, stop - 1, CHECKED_ELEMENTS, dtype=np.int64)).tolist():
            found = read_element(source, path, header, frame, int(offsets[frame]))
            if (found.code, found.sizes) != (first.code, first.sizes):
                raise FormatError(f"{path}, byte {offsets[frame]}: frame {frame} has {' x '.join(map(str, found.sizes))} pixels of type "
                                  f"{found.code}; expected {' x '.join(map(str, first.sizes))} of type {first.code} as in frame 0")


# -- the scan ----------------------------------------------------------------------------------------------------------


def _nav_shape(source: Source, path: str, header: Header, whole: int, size: int, notes: list[str]) -> tuple[int, tuple[int, ...]]:
    """Frames that are or ought to be there, and the shape of the scan."""
    n = header.written
    sizes = tuple(axis.size for axis in reversed(header.dimensions))
    if len(sizes) > 1:
        if math.prod(sizes) == header.planned:
            if n < header.planned:
                notes.append(f"{n} of {header.planned} scan positions were written, the others are blank")
            return n, sizes
        notes.append(f"the header announces a scan of {sizes} positions and {header.planned} elements: read as a line")
        return n, (n,)
    if n < header.planned:
        notes.append(f"{n} of {header.planned} elements were written: read as a series of {n}")
    elif sizes and sizes != (n,):
        notes.append(f"the header announces a series of {sizes[0]} and {n} elements: read as {n}")
    if not sizes and header.tags == POSITION:
        line = _line_of_positions(source, path, header, whole, size)
        if line > 1 and n % line == 0:
            notes.append(f"the scan shape is taken from the positions in the tags, which repeat after {line}")
            return n, (n // line, line)
    return n, (n,)


def _line_of_positions(source: Source, path: str, header: Header, count: int, size: int) -> int:
    """Elements after which the x position is that of the first again; 0 if it never is."""
    first = None
    for frame, offset in enumerate(read_offsets(source, path, header, header.tag_table, count).tolist()):
        if frame > CHECKED_ELEMENTS ** 2:
            return 0
        tag = read_tag(source, path, header, offset, size)
        x = tag.get("position_x_m")
        if x is None:
            return 0
        first = x if first is None else first
        if frame and x == first:
            return frame
    return 0


def _metadata(source: Source, path: str, header: Header, element: Element, size: int) -> dict[str, Any]:
    """Calibrations in the order of the pixels, slowest axis first, and the tag of the first element."""

    def axes(found: Sequence[Axis]) -> list[dict[str, Any]]:
        return [{"size": a.size, "delta": a.delta, "first": a.offset + (0.5 - a.element) * a.delta,
                 **({"description": a.description} if a.description else {}), **({"unit": a.unit} if a.unit else {})}
                for a in reversed(found)]

    sig_axes = axes(element.axes)
    if len(sig_axes) == 2:          # counted from the bottom row in the file, from the top row here
        upwards = sig_axes[0]
        sig_axes[0] = {**upwards, "delta": -upwards["delta"], "first": upwards["first"] + (upwards["size"] - 1) * upwards["delta"]}
    tag = read_tag(source, path, header, int(read_offsets(source, path, header, header.tag_table, 1)[0]), size)
    return {"elements_planned": header.planned, "elements_written": header.written, "nav_axes": axes(header.dimensions),
            "sig_axes": sig_axes, **{f"{key}_first" if key == "time_utc" else key: value for key, value in tag.items()}}


class SERDataSet(DataSet):
    """Series of TIA: a ``.ser`` file of images or spectra.

    Parameters
    ----------
    path : str
        The ``.ser`` file. An ``.emi`` beside it only describes the acquisition.
    emipath
        Ignored; a deprecated argument.
    nav_shape : tuple of int, optional
        Scan shape, slowest axis first. Default: that of the header; a series that was aborted ends where it was.
    sig_shape : tuple of int, optional
        Another shape for the pixels of a frame, in their order.
    sync_offset : int
        Frames to skip at the start; negative: blank frames to insert.
    io_backend
        How to read; None lets gpuio choose.

    Examples
    --------
    >>> ds = gpuio.load("ser", path="/path/to/file.ser")
    """

    format = "ser"

    def __init__(self, path: str, emipath: Any = None, nav_shape: Any = None, sig_shape: Any = None, sync_offset: int = 0,
                 io_backend: Any = None) -> None:
        super().__init__(io_backend=io_backend)
        ignored("emipath", emipath)
        self._path = os.fspath(path)
        self._nav_shape = nav_or_sig_shape(nav_shape, "nav_shape")
        self._sig_shape = nav_or_sig_shape(sig_shape, "sig_shape")
        self._sync_offset = sync(sync_offset)

    def _parse(self, source: Source) -> Layout:
        return parse(source, self._path)

    @classmethod
    def sniff(cls, head: bytes, path: str) -> bool:
        """Whether a file beginning with `head` is a TIA series."""
        return sniff(head, path)

    @classmethod
    def get_supported_extensions(cls) -> set[str]:
        """Extensions in lower case, without dot."""
        return set(FORMATS["ser"].extensions)
