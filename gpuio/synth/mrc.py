"""Writes MRC files of every mode that is read; the format is described in `gpuio.formats.mrc` and `gpuio.formats._mrc_header`."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import chain
from math import prod

import numpy as np

from gpuio.errors import DataSetException, ShapeError
from gpuio.newfile import new_file
from gpuio.synth._writing import Progress, exact, stacks

#: Mode: dtype without byte order; bytes are signed unless asked for otherwise.
MODES = {0: "i1", 1: "i2", 2: "f4", 4: "c8", 6: "u2", 12: "f2", 101: "u1"}
#: Mode to store a dtype in where none is asked for.
MODE_OF = {"i1": 0, "u1": 6, "i2": 1, "u2": 6, "f2": 12, "f4": 2, "c8": 4}
IMOD_STAMP = 1146047817


def write(path: str, frames: Iterable[np.ndarray], *, nav_shape: Sequence[int], sig_shape: Sequence[int],
          progress: Progress | None = None, mode: int | None = None, byteorder: str = "<", unsigned: bool = False,
          extended: bytes = b"", extended_type: bytes = b"", mz: int | None = None, magic: bool = True) -> list[str]:
    """Write frames as sections of an MRC file.

    Parameters
    ----------
    path
        The file.
    frames
        Yields stacks of shape (n, *sig), all positions in C order.
    nav_shape
        Taken together: the format has no scan axes.
    sig_shape : (height, width)
    progress
        Called with the frames written and those in all.
    mode
        0, 1, 2, 4, 6, 12 or 101; None: the one that the dtype of the frames fits.
    byteorder
        ``"<"`` or ``">"``.
    unsigned
        Of mode 0: bytes are unsigned, and IMOD's flags say so.
    extended, extended_type
        The extended header and its kind (4 characters).
    mz
        Sections of a volume; None: 1, an image stack. Direct Electron writes their number.
    magic
        Whether the header has its ``MAP``; old files do not.

    Returns
    -------
    list of str
        The path.

    Raises
    ------
    ShapeError
        Shapes do not fit the format, or frames do not have the promised shape or number.
    DataSetException
        A value does not fit the mode, or there is no such mode.
    """
    if len(sig_shape) != 2 or max(sig_shape) >= 1 << 31:
        raise ShapeError(f"sig_shape is {tuple(sig_shape)}; expected (height, width)")
    checked = stacks(frames, nav_shape, sig_shape, progress)
    first = next(checked, None)
    if first is None:
        raise ShapeError(f"there are no frames; expected those of nav shape {tuple(nav_shape)}")
    if mode is None:
        mode = MODE_OF.get(first.dtype.str[1:])
    if mode not in MODES or byteorder not in ("<", ">"):
        raise DataSetException(f"mode {mode!r}, byte order {byteorder!r}, frames of {first.dtype}; "
                               f"expected a mode of {', '.join(map(str, MODES))}, and '<' or '>'")
    item = np.dtype("u1" if mode == 0 and unsigned else byteorder + MODES[mode])
    with new_file(path) as temporary, open(temporary, "wb") as file:
        file.write(header((prod(nav_shape), *sig_shape), mode, byteorder=byteorder, unsigned=unsigned, extended_bytes=len(extended),
                          extended_type=extended_type, mz=mz, magic=magic))
        file.write(extended)
        for stack in chain([first], checked):
            pixels = exact(stack, item)
            file.write((packed(pixels) if mode == 101 else pixels).view(np.uint8).data)
    return [path]


def packed(pixels: np.ndarray) -> np.ndarray:
    """Rows of 4-bit pixels, two in a byte, the low half first: uint8[..., (width + 1) // 2].

    Raises
    ------
    DataSetException
        A value has more than 4 bits.
    """
    if pixels.max(initial=0) > 15:
        raise DataSetException(f"value {pixels.max()} cannot be written as mode 101; expected 0 to 15")
    result = pixels[..., ::2].copy()
    result[..., :pixels.shape[-1] // 2] |= pixels[..., 1::2] << 4
    return result


def header(shape: tuple[int, ...], mode: int, *, byteorder: str = "<", unsigned: bool = False, extended_bytes: int = 0,
           extended_type: bytes = b"", mz: int | None = None, space_group: int = 0, axes: tuple[int, int, int] = (1, 2, 3),
           magic: bool = True, labels: Sequence[str] = ("gpuio: synthetic scan",)) -> bytes:
    """The 1024 bytes before the extended header, of `shape` (sections, rows, columns), pixels of 2 Å."""
    nz, ny, nx = shape
    mz = mz or 1
    raw = bytearray(1024)
    struct.pack_into(f"{byteorder}10i6f3i3f2i", raw, 0, nx, ny, nz, mode, 0, 0, 0, nx, ny, mz, 2.0 * nx, 2.0 * ny, 2.0 * mz, 90, 90, 90,
                     *axes, 0.0, -1.0, -2.0, space_group, extended_bytes)
    raw[104:108] = extended_type.ljust(4, b"\0")
    struct.pack_into(f"{byteorder}i", raw, 108, 20141)
    if mode == 0 and unsigned:
        struct.pack_into(f"{byteorder}2i", raw, 152, IMOD_STAMP, 0)
    if magic:
        raw[208:216] = b"MAP " + (b"\x44\x44\0\0" if byteorder == "<" else b"\x11\x11\0\0")
    struct.pack_into(f"{byteorder}fi", raw, 216, -1.0, len(labels))
    for i, label in enumerate(labels):
        raw[224 + 80 * i:304 + 80 * i] = label.encode("latin-1").ljust(80)[:80]
    return bytes(raw)
