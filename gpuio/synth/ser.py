"""Writes series of TIA, of images or spectra; the format is described in `gpuio.formats.ser`."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import chain
from math import prod
from typing import Any

import numpy as np

from gpuio.errors import DataSetException, ShapeError
from gpuio.newfile import new_file
from gpuio.synth._writing import Progress, exact, stacks

CODES = {"u1": 1, "u2": 2, "u4": 3, "i1": 4, "i2": 5, "i4": 6, "f4": 7, "f8": 8, "c8": 9, "c16": 10}
#: Version: bytes of an offset.
VERSIONS = {0x0210: 4, 0x0220: 8}
#: Time of the first element, s since 1970; an element a second.
START = 1_456_167_001
#: Distance of scan positions, m.
STEP = 1e-9


def write(path: str, frames: Iterable[np.ndarray], *, nav_shape: Sequence[int], sig_shape: Sequence[int],
          progress: Progress | None = None, dtype: Any = None, version: int = 0x0220, positions: bool = True,
          dimensions: Sequence[int] | None = None, planned: int | None = None, gaps: Sequence[int] = (0,)) -> list[str]:
    """Write frames as a series of TIA.

    Parameters
    ----------
    path
        The file.
    frames
        Yields stacks of shape (n, *sig), all positions in C order.
    nav_shape, sig_shape
        Scan and detector axes. One sig axis: spectra, two: images.
    progress
        Called with the frames written and those in all.
    dtype
        dtype on disk; None: that of the frames.
    version
        0x0210 (offsets of 4 bytes) or 0x0220 (8 bytes).
    positions
        Whether tags tell the scan position besides the time.
    dimensions
        Scan axes as the header tells them, slowest first; None: `nav_shape`. Empty: none.
    planned
        Elements that were planned; None: those that are written.
    gaps
        Bytes to leave free behind elements, in turn.

    Returns
    -------
    list of str
        The path.

    Raises
    ------
    ShapeError
        Shapes do not fit the format, or frames do not have the promised shape or number.
    DataSetException
        A value does not fit `dtype`, or the format has no such dtype or version.
    """
    n = prod(nav_shape)
    dimensions = tuple(nav_shape if dimensions is None else dimensions)
    planned = n if planned is None else planned
    if len(sig_shape) not in (1, 2) or planned < n:
        raise ShapeError(f"sig_shape is {tuple(sig_shape)}, {planned} elements are planned; expected one or two axes, and at least {n}")
    checked = stacks(frames, nav_shape, sig_shape, progress)
    first = next(checked, None)
    if first is None:
        raise ShapeError(f"there are no frames; expected those of nav shape {tuple(nav_shape)}")
    item = np.dtype(dtype or first.dtype).newbyteorder("<")
    if item.str[1:] not in CODES or version not in VERSIONS:
        raise DataSetException(f"dtype {item}, version {version!r}; expected one of {', '.join(CODES)}, and 0x0210 or 0x0220")
    element = _element_header(sig_shape, CODES[item.str[1:]])
    n_bytes = len(element) + item.itemsize * prod(sig_shape)
    tag_bytes = 24 if positions else 8
    head = header(len(sig_shape), n, planned, dimensions, version=version, positions=positions)
    behind = np.resize(np.asarray(gaps, dtype=np.int64), n)
    starts = len(head) + 2 * planned * VERSIONS[version] + np.concatenate(([0], np.cumsum(n_bytes + tag_bytes + behind)))
    if starts[-1] > 1 << 8 * VERSIONS[version]:
        raise DataSetException(f"{starts[-1]} bytes have no offsets in version 0x{version:04x}; use 0x0220")
    with new_file(path) as temporary, open(temporary, "wb") as file:
        file.write(head)
        for entries in (starts, starts[:-1] + n_bytes):     # recorded tables go on with the end of the file, then zeros
            table = np.zeros(planned, dtype=f"<u{VERSIONS[version]}")
            table[:len(entries[:planned])] = entries[:planned]
            file.write(table.data)
        done = 0
        for stack in chain([first], checked):
            for frame in exact(stack, item)[:, ::-1] if len(sig_shape) == 2 else exact(stack, item):
                file.write(element)
                file.write(frame.tobytes())
                file.write(tag(done, nav_shape, positions=positions))
                file.write(bytes(int(behind[done])))
                done += 1
    return [path]


def header(sig_dims: int, written: int, planned: int, dimensions: Sequence[int], *, version: int = 0x0220, positions: bool = True) -> bytes:
    """The bytes before the tables of offsets, which follow at once."""
    width = VERSIONS[version]
    records = b"".join(struct.pack("<IddI", size, 0.0, STEP, 0) + _text("Position") + _text("meters") for size in reversed(dimensions))
    table = 26 + width + len(records)
    return (struct.pack("<HHHIIII", 0x4949, 0x0197, version, 0x4120 if sig_dims == 1 else 0x4122, 0x4142 if positions else 0x4152,
                        planned, written) + table.to_bytes(width, "little") + struct.pack("<I", len(dimensions)) + records)


def tag(number: int, nav_shape: Sequence[int], *, positions: bool = True) -> bytes:
    """What follows an element: its time and, if asked for, its position."""
    when = struct.pack("<HHI", 0x4142 if positions else 0x4152, 0, (START + number) % (1 << 32))
    y, x = divmod(number, nav_shape[-1])
    return when + (struct.pack("<dd", (x + 0.5) * STEP, (y + 0.5) * STEP) if positions else b"")


def _element_header(sig_shape: Sequence[int], code: int) -> bytes:
    """The bytes before the pixels of each element; axes are stored x first."""
    sizes = tuple(sig_shape)[::-1]
    return struct.pack("<ddI", 0.0, STEP, 0) * len(sizes) + struct.pack(f"<H{len(sizes)}I", code, *sizes)


def _text(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode("latin-1")
