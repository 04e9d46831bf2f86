"""Writes NanoMegas blockfiles; the format is described in `gpuio.formats.blo`."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from math import prod

import numpy as np

from gpuio.errors import DataSetException, ShapeError
from gpuio.newfile import new_file
from gpuio.synth._writing import Progress, exact, stacks

#: Where the virtual bright field begins in recorded files.
IMAGE_OFFSET = 4096
#: Bytes for the note.
NOTE_ROOM = IMAGE_OFFSET - 240
#: Recorded ones begin with lines like these.
NOTE = "Created by TopSpin\r\nPrecession angle: 0.50 degrees\r\n"


def write(path: str, frames: Iterable[np.ndarray], *, nav_shape: Sequence[int], sig_shape: Sequence[int],
          progress: Progress | None = None, bits: int = 8, endianess: str = "<", version: int | None = None, note: str = NOTE,
          padding: int = 10) -> list[str]:
    """Write a scan as a blockfile.

    Parameters
    ----------
    path
        The file.
    frames
        Yields stacks of integers, shape (n, *sig), all positions in C order.
    nav_shape : (height, width)
        Or more axes: all but the last are taken together.
    sig_shape : (side, side)
    progress
        Called with the frames written and those in all.
    bits
        8 or 16 a pixel. The note says so for 16.
    endianess
        ``"<"`` or ``">"``.
    version
        258 or 259; None: 259 for 16 bits, else 258.
    note
        Text behind the header.
    padding
        Bytes between the virtual bright field, which is the sum of each frame scaled to 255, and the first record.

    Returns
    -------
    list of str
        The path.

    Raises
    ------
    ShapeError
        Shapes do not fit the format, or frames do not have the promised shape or number.
    DataSetException
        A value does not fit, or there is no such bit depth or byte order.
    """
    if bits not in (8, 16) or endianess not in ("<", ">"):
        raise DataSetException(f"bits {bits!r}, endianess {endianess!r}; expected 8 or 16 bits, and '<' or '>'")
    if len(sig_shape) != 2 or sig_shape[0] != sig_shape[1] or not 0 < sig_shape[0] < 1 << 16:
        raise ShapeError(f"sig_shape is {tuple(sig_shape)}; frames of blockfiles are square, of up to 65535 x 65535 pixels")
    height, width = prod(nav_shape[:-1]), nav_shape[-1]
    if not (0 < height < 1 << 16 and 0 < width < 1 << 16):
        raise ShapeError(f"nav_shape is {tuple(nav_shape)}; scans of blockfiles have up to 65535 x 65535 positions")
    if bits == 16:
        note += "Blo Bit Depth: 16 bits\r\n"
    data_offset = IMAGE_OFFSET + height * width + padding
    item = np.dtype(f"{endianess}u{bits // 8}")
    record = np.dtype([("mark", "u1", 2), ("number", f"{endianess}u4"), ("pixels", item, tuple(sig_shape))])
    image = np.zeros(height * width)
    with new_file(path) as temporary, open(temporary, "wb") as file:
        file.write(header(height, width, sig_shape[0], data_offset, endianess, version or (259 if bits == 16 else 258)))
        text = note.encode("latin-1")
        if len(text) > NOTE_ROOM:
            raise DataSetException(f"the note has {len(text)} bytes; expected at most {NOTE_ROOM}")
        file.write(text.ljust(data_offset - 240, b"\0"))
        done = 0
        for stack in stacks(frames, nav_shape, sig_shape, progress):
            records = np.empty(len(stack), dtype=record)
            records["mark"] = 0xAA, 0x55
            records["number"] = np.arange(done, done + len(stack))
            records["pixels"] = exact(stack, item)
            file.write(records.view(np.uint8).data)
            image[done:done + len(stack)] = stack.sum(axis=(1, 2), dtype=np.float64)
            done += len(stack)
        file.seek(IMAGE_OFFSET)
        file.write((image * (255 / max(1, image.max()))).astype(np.uint8).data)
    return [path]


def header(height: int, width: int, side: int, data_offset: int, endianess: str = "<", version: int = 258) -> bytes:
    """The first 240 bytes, as a microscope of 200 kV with a camera length of 200 mm would have written them."""
    return struct.pack(f"{endianess}6sHIIIHHHHHddIHId8d14d", b"IMGBLO", version, IMAGE_OFFSET, data_offset, 131135, side, 0, width, height,
                       0, 10.0, 10.0, 200_000, 6226, 2000, 45000.5, *[0.0] * 22)
