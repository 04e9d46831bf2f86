"""Writes StreamPix sequences and the files beside them; the formats are described in `gpuio.formats.seq` and `_seq_corrections`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from math import prod
from xml.sax.saxutils import quoteattr

import numpy as np

from gpuio.errors import DataSetException, ShapeError
from gpuio.newfile import new_file
from gpuio.synth._writing import Progress, exact, stacks

HEADER = np.dtype({
    "names": ["magic", "name", "version", "header_bytes", "description", "width", "height", "depth", "real_depth", "image_bytes", "format",
              "allocated", "stride", "frame_rate", "compression"],
    "formats": ["<u4", "S24", "<i4", "<i4", "S512", "<u4", "<u4", "<u4", "<u4", "<u4", "<u4", "<u4", "<u4", "<f8", "<u4"],
    "offsets": [0, 4, 28, 32, 36, 548, 552, 556, 560, 564, 568, 572, 580, 584, 620], "itemsize": 1024,
})
SETTINGS = np.dtype({
    "names": ["structure_bytes", "version", "width", "height", "x", "y", "binning"], "formats": ["<i4"] * 7,
    "offsets": list(range(282, 310, 4)), "itemsize": 327,
})
MRC = np.dtype({
    "names": ["size", "mode", "sampling", "axes", "map", "stamp"], "formats": ["<3i4", "<i4", "<3i4", "<3i4", "S4", "<4u1"],
    "offsets": [0, 12, 28, 64, 208, 212], "itemsize": 1024,
})
#: Bits of a stored pixel.
DEPTHS = (8, 16, 32)
#: Frames are at a distance of a multiple of this in recordings.
ALIGNMENT = 8192
#: Frames are packed a few at a time, whatever the size of the arrays that they come in.
CHUNK_BYTES = 8 << 20
#: When frames are said to be taken: the start of 2024.
START_S = 1704067200


def write(path: str, frames: Iterable[np.ndarray], *, nav_shape: Sequence[int], sig_shape: Sequence[int],
          progress: Progress | None = None, depth: int = 16, version: int = 5, footer_bytes: int | None = None,
          dark: np.ndarray | None = None, gain: np.ndarray | None = None, defects: Sequence[Mapping[str, str]] | None = None,
          sensor: Sequence[int] | None = None, offset: Sequence[int] = (0, 0), binning: int = 1, frame_rate: float = 1000.0,
          short_names: bool = False) -> list[str]:
    """Write a scan as StreamPix would have recorded it.

    Parameters
    ----------
    path
        ``folder/scan.seq``.
    frames
        Yields stacks of integers, shape (n, *sig), all positions in C order.
    nav_shape
        Its product is the number of frames; its axes are not stored.
    sig_shape : (height, width)
    progress
        Called with the frames written and those in all.
    depth : 8, 16 or 32
        Bits of a stored pixel.
    version
        From 5 on frames begin at byte 8192, and times have microseconds.
    footer_bytes
        Bytes from the end of the pixels to the next frame; the time stamp needs 8, in versions before 5 six. None: up to the next
        multiple of 8192.
    dark, gain : real array[sig]
        References, written as float32. They are not added to `frames`.
    defects
        Attributes of the bad pixels, such as ``{"Rows": "3-5"}`` or ``{"Row": "7", "Column": "2"}``, on the sensor.
    sensor : (rows, columns)
        Of the map of bad pixels; None: as much as the frame needs.
    offset : (y, x)
        The frame's first pixel on the sensor, without binning.
    binning
        Hardware binning.
    frame_rate
        Frames in a second, as the header and time stamps tell it.
    short_names
        Name the files beside ``scan.dark.mrc`` rather than ``scan.seq.dark.mrc``, and so on.

    Returns
    -------
    list of str
        Paths of the files, the ``.seq`` first. All appear at the end, or none.

    Raises
    ------
    ShapeError
        Frames or references do not have the promised shape or number, or there is no room for the time stamp.
    DataSetException
        A value does not fit the depth, or there is no such depth.
    """
    nav, sig = tuple(nav_shape), tuple(sig_shape)
    if depth not in DEPTHS:
        raise DataSetException(f"depth is {depth}; expected one of {', '.join(map(str, DEPTHS))}")
    if len(sig) != 2 or min(sig) < 1:
        raise ShapeError(f"sig_shape is {sig}; expected (height, width)")
    for name, reference in (("dark", dark), ("gain", gain)):
        if reference is not None and np.shape(reference) != sig:
            raise ShapeError(f"{name} has shape {np.shape(reference)}; expected {sig}")
    stamp_bytes = 8 if version >= 5 else 6
    pixel_bytes = prod(sig) * depth // 8
    footer = -(pixel_bytes + stamp_bytes) % ALIGNMENT + stamp_bytes if footer_bytes is None else footer_bytes
    if footer < stamp_bytes or footer % (depth // 8):
        raise ShapeError(f"footer_bytes is {footer_bytes}; expected at least {stamp_bytes}, and whole pixels of {depth // 8} bytes")
    stem = os.path.splitext(path)[0] if short_names else path
    with ExitStack() as files:          # leaves in reverse order: the .seq gets its name last

        def create(name: str) -> str:
            return files.enter_context(new_file(name))

        paths = [path]
        with open(create(path), "wb") as out:
            out.write(_header(sig, depth, version, pixel_bytes + footer, prod(nav), frame_rate))
            done = 0
            for stack in stacks(frames, nav, sig, progress):
                for part in np.split(stack, range(_chunk(pixel_bytes), len(stack), _chunk(pixel_bytes))):
                    out.write(_encode(part, depth, version, footer, done, frame_rate))
                    done += len(part)
        beside = {f"{stem}.{name}.mrc": _mrc(reference) for name, reference in (("dark", dark), ("gain", gain)) if reference is not None}
        if defects is not None:
            beside[f"{stem}.metadata"] = _settings(sig, offset, binning)
            # Without a size of the sensor, as much as the frame needs.
            rows, columns = sensor or (n + at // binning for n, at in zip(sig, offset, strict=True))
            beside[f"{stem}.Config.Metadata.xml"] = _xml(defects, rows, columns, binning)
        for name, content in beside.items():
            with open(create(name), "wb") as out:
                out.write(content)
            paths.append(name)
    return paths


def _chunk(pixel_bytes: int) -> int:
    return max(1, CHUNK_BYTES // pixel_bytes)


def _header(sig: tuple[int, ...], depth: int, version: int, stride: int, n_frames: int, frame_rate: float) -> bytes:
    """The header, filled up to the first frame."""
    header = np.zeros((), HEADER)
    name, description = (text.encode("utf-16-le") for text in ("Norpix seq", "synthetic scan"))
    header[()] = (0xFEED, name, version, 1024, description, sig[1], sig[0], depth, depth, prod(sig) * depth // 8, 100, n_frames, stride,
                  frame_rate, 0)
    return header.tobytes().ljust(8192 if version >= 5 else 1024, b"\0")


def _encode(stack: np.ndarray, depth: int, version: int, footer: int, first: int, frame_rate: float) -> bytes:
    """Frames with their time stamps; `first` is the number of the first one."""
    stored = np.zeros(len(stack), [("pixels", f"<u{depth // 8}", stack.shape[1:]), ("footer", "u1", (footer,))])
    stored["pixels"] = exact(stack, f"<u{depth // 8}")
    microseconds = np.rint((first + np.arange(len(stack))) * (1e6 / frame_rate)).astype(np.int64)
    stamps = np.zeros(len(stack), [("seconds", "<u4"), ("milliseconds", "<u2"), ("microseconds", "<u2")])
    stamps["seconds"] = START_S + microseconds // 1_000_000
    stamps["milliseconds"] = microseconds // 1000 % 1000
    stamps["microseconds"] = microseconds % 1000
    size = 8 if version >= 5 else 6
    stored["footer"][:, :size] = stamps.view(np.uint8).reshape(len(stack), 8)[:, :size]
    return stored.tobytes()


def _mrc(reference: np.ndarray) -> bytes:
    """One image of float32 as an MRC file."""
    header = np.zeros((), MRC)
    size = (reference.shape[1], reference.shape[0], 1)
    header[()] = size, 2, size, (1, 2, 3), b"MAP ", (0x44, 0x44, 0, 0)
    return header.tobytes() + np.ascontiguousarray(reference, dtype="<f4").tobytes()


def _settings(sig: tuple[int, ...], offset: Sequence[int], binning: int) -> bytes:
    """Where the frame lies on the sensor."""
    settings = np.zeros((), SETTINGS)
    settings[()] = SETTINGS.itemsize, 1, sig[1] * binning, sig[0] * binning, offset[1], offset[0], binning
    return settings.tobytes()


def _xml(defects: Sequence[Mapping[str, str]], rows: int, columns: int, binning: int) -> bytes:
    """The map of bad pixels."""
    attributes = {"Rows": rows, "Columns": columns, **({"Binning": binning} if binning > 1 else {})}
    elements = [f"    <Defect {_attributes(defect)}/>" for defect in defects]
    return "\n".join(['<?xml version="1.0" encoding="UTF-8"?>', "<Configuration>", f"  <BadPixelMap {_attributes(attributes)}>", *elements,
                      "  </BadPixelMap>", "</Configuration>", ""]).encode()


def _attributes(values: Mapping[str, object]) -> str:
    return " ".join(f"{key}={quoteattr(str(value))}" for key, value in values.items())
