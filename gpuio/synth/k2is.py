"""Writes K2IS captures as Gatan's K2 IS camera does; the format is described in `gpuio.formats.k2is`.

Packing here is NumPy on whole frames and shares nothing with the decoders, so that the two can check each other.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from math import prod
from typing import BinaryIO

import numpy as np

from gpuio.errors import DataSetException, ShapeError
from gpuio.newfile import new_file
from gpuio.synth._writing import Progress, stacks

#: The detector has one size.
SIG_SHAPE = (1860, 2048)
SECTORS, BLOCKS = 8, 32
LARGEST = 4095
#: Blocks from right to left, the upper half first: (x, y) of the first pixel in the sector.
ORDER = [(240 - 16 * (b % 16), 930 * (b // 16)) for b in range(BLOCKS)]


def write(path: str, frames: Iterable[np.ndarray], *, nav_shape: Sequence[int], sig_shape: Sequence[int] = SIG_SHAPE,
          progress: Progress | None = None, scan: bool = True, lead: int = 0, trail: int = 0, shutter: int | None = None,
          cut_start: Sequence[int] = (0,) * SECTORS, cut_end: Sequence[int] = (0,) * SECTORS, first_block: int = 1000,
          first_frame_id: int = 57, gtg: bool = True, gtg_version: int = 4) -> list[str]:
    """Write frames as a capture.

    Parameters
    ----------
    path
        ``folder/scan.gtg`` or ``folder/scan.bin``: writes ``scan1.bin`` ... ``scan8.bin`` and ``scan.gtg`` (``scan7_1.bin`` ... and
        ``scan7_.gtg`` for a stem that ends in a digit).
    frames
        Yields stacks of integers up to 4095, shape (n, 1860, 2048), all positions in C order.
    nav_shape
        Of the scan; the ``.gtg`` has two scan axes: all but the last are taken together.
    sig_shape
        (1860, 2048), nothing else.
    scan
        STEM mode: the ``.gtg`` says how large the scan is. False writes a time series.
    lead, trail
        Empty frames recorded before and after the given ones.
    shutter
        The given frame from which on the shutter flag is set; negative: in the lead. None: the first one in a time series, the
        second one in a scan, where the flag comes a frame late.
    cut_start, cut_end
        Blocks that each of the eight sectors lacks at the start and at the end of the recording.
    first_block, first_frame_id
        Of the first recorded block, before cutting.
    gtg, gtg_version
        Whether to write the ``.gtg``, as DigitalMicrograph version 3 or 4.

    Returns
    -------
    list of str
        Paths of the files, the one to open first. All appear at the end, or none.

    Raises
    ------
    ShapeError
        Frames do not have the promised shape or number, or not the detector's.
    DataSetException
        A value does not fit 12 bit, or there is no such recording.
    """
    if tuple(sig_shape) != SIG_SHAPE:
        raise ShapeError(f"sig_shape is {tuple(sig_shape)}; K2IS frames have {SIG_SHAPE}")
    if not nav_shape or min(nav_shape) < 1:
        raise ShapeError(f"nav_shape is {tuple(nav_shape)}; expected positive integers")
    n_blocks = (lead + prod(nav_shape) + trail) * BLOCKS
    if min(lead, trail) < 0 or any(len(cut) != SECTORS or not all(0 <= n <= n_blocks for n in cut) for cut in (cut_start, cut_end)):
        raise DataSetException(f"lead {lead}, trail {trail}, cut_start {tuple(cut_start)}, cut_end {tuple(cut_end)}; expected numbers of "
                               f"frames, and 8 numbers of blocks from 0 to {n_blocks}")
    if gtg_version not in (3, 4):
        raise DataSetException(f"gtg_version is {gtg_version}; expected 3 or 4")
    flagged = lead + (int(scan) if shutter is None else shutter)
    stem = os.path.splitext(path)[0]
    stem += "_" if stem[-1:].isdigit() else ""
    paths = [f"{stem}{k + 1}.bin" for k in range(SECTORS)]
    with ExitStack() as stack:          # leaves in reverse order: the .gtg gets its name when all sectors have theirs
        if gtg:
            with open(stack.enter_context(new_file(f"{stem}.gtg")), "wb") as file:
                file.write(_tag_file(nav_shape if scan else None, gtg_version))
        sectors = [stack.enter_context(open(stack.enter_context(new_file(p)), "wb")) for p in paths]
        for number, frame in enumerate(_recorded(stacks(frames, nav_shape, sig_shape, progress), lead, trail)):
            flags = int(number >= flagged)
            headers = [_header(flags, first_block + number * BLOCKS + b, first_frame_id + number, *ORDER[b]) for b in range(BLOCKS)]
            blocks = _blocks(frame, headers)
            for k, sector in enumerate(sectors):
                _write_cut(sector, blocks[k], number * BLOCKS, cut_start[k], n_blocks - cut_end[k])
        for sector in sectors:
            sector.close()
    return [f"{stem}.gtg", *paths] if gtg else paths


def _recorded(given: Iterator[np.ndarray], lead: int, trail: int) -> Iterator[np.ndarray]:
    """All frames of the recording, one by one."""
    empty = np.zeros(SIG_SHAPE, dtype=np.uint16)
    for _ in range(lead):
        yield empty
    for stack in given:
        if stack.dtype.kind not in "bui":
            raise DataSetException(f"frames of {stack.dtype} cannot be written; expected integers")
        if stack.size and (int(stack.min()) < 0 or int(stack.max()) > LARGEST):
            raise DataSetException(f"values from {stack.min()} to {stack.max()} cannot be written in 12 bit; expected 0 to {LARGEST}")
        yield from stack
    for _ in range(trail):
        yield empty


def _blocks(frame: np.ndarray, headers: Sequence[bytes]) -> np.ndarray:
    """A frame as blocks: uint8[sector, block, 22360]."""
    # Axes: half, row, sector, column of blocks, pixel. Stored: sector, half, column of blocks from right to left, row, pixel.
    pixels = frame.reshape(2, 930, SECTORS, 16, 16)[:, :, :, ::-1].transpose(2, 0, 3, 1, 4).reshape(SECTORS, BLOCKS, -1).astype("<u4")
    pairs = pixels[..., ::2] | pixels[..., 1::2] << 12
    result = np.empty((SECTORS, BLOCKS, 22360), dtype=np.uint8)
    result[:, :, :40] = np.frombuffer(b"".join(headers), dtype=np.uint8).reshape(BLOCKS, 40)
    result[:, :, 40:] = np.ascontiguousarray(pairs).view(np.uint8).reshape(SECTORS, BLOCKS, -1, 4)[..., :3].reshape(SECTORS, BLOCKS, -1)
    return result


def _header(flags: int, count: int, frame_id: int, x: int, y: int) -> bytes:
    """The header of a block."""
    return struct.pack(">I4xBB6xIHHIHHHHI", 0xFFFF0055, 1, flags, count % 2**32, 256, 1860, frame_id % 2**32, x, y, x + 15, y + 929, 22360)


def _write_cut(sector: BinaryIO, blocks: np.ndarray, first: int, start: int, stop: int) -> None:
    """Those of `blocks`, whose first has number `first`, that are in ``start:stop``."""
    sector.write(blocks[max(0, start - first):max(0, stop - first)].tobytes())


def _tag_file(nav_shape: Sequence[int] | None, version: int) -> bytes:
    """The tags: the scan, if it is one, and the detector."""
    wide = ">I" if version == 3 else ">Q"

    def entry(kind: int, name: str, body: bytes) -> bytes:
        size = struct.pack(">Q", len(body)) if version == 4 else b""
        return struct.pack(">BH", kind, len(name)) + name.encode("latin-1") + size + body

    def number(name: str, value: int) -> bytes:
        return entry(21, name, b"%%%%" + struct.pack(wide, 1) + struct.pack(wide, 5) + struct.pack("<I", value))

    def group(*entries: bytes) -> bytes:
        return b"\1\0" + struct.pack(wide, len(entries)) + b"".join(entries)

    detector = entry(20, "Acquisition", group(entry(20, "Parameters", group(entry(20, "Detector", group(
        number("height", SIG_SHAPE[0]), number("width", SIG_SHAPE[1])))))))
    if nav_shape is None:
        root = group(entry(20, "SI Image Tags", group(detector)))
    else:
        size = {"Y": prod(nav_shape[:-1]), "X": nav_shape[-1]}
        sampling = entry(20, "Spatial Sampling", group(number("Height (pixels)", size["Y"]), number("Width (pixels)", size["X"])))
        scan = entry(20, "SI", group(entry(20, "Acquisition", group(sampling))))
        root = group(entry(20, "SI Dimensions", group(number("Size X", size["X"]), number("Size Y", size["Y"]))),
                     entry(20, "SI Image Tags", group(detector, scan)))
    body = struct.pack(">I", 1) + root
    return struct.pack(">I", version) + struct.pack(wide, len(body)) + body + bytes(8)
