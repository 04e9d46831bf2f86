"""FRMS6 files written by hand, field by field, and where their pixels go by the published formulas."""

from __future__ import annotations

import struct

import numpy as np


def file_header(width, height, n_frames=0, *, lengths=(1024, 64), version=6, name=b"measurement"):
    """The header of a file, with bytes that nobody uses set."""
    head = bytearray(b"\xa5" * 1024)
    struct.pack_into("<HHBBBB80sHH", head, 0, *lengths, 1, 7, 7, version, name, width, height)
    struct.pack_into("<I", head, 1020, n_frames)
    return bytes(head)


def frame_header(number=0, *, seconds=1000, microseconds=0, voltage=0.5, start_line=0, lines=0):
    return struct.pack("<4BIIIdHHIQ24s", 9, 9, 9, 9, seconds, microseconds, number, voltage, start_line, lines, 77, 88, b"\x5a" * 24)


def frms6(stored, n_frames=None, *, lines=None, **header):
    """A file of stored frames uint16[n, h, w]; it says how many unless told otherwise."""
    n, height, width = stored.shape
    return file_header(width, height, n if n_frames is None else n_frames, **header) + b"".join(
        frame_header(i, microseconds=i, lines=height if lines is None else lines) + frame.astype("<u2").tobytes()
        for i, frame in enumerate(stored))


def hdr(nav=(3, 5), frames=15, binning=1, window="264 x 264", **changes):
    """The text file; `changes` replace or, with None, leave out lines."""
    lines = {"dataSetName": "measurement", "signalFrames": frames, "darkFrames": 2, "gain": 1, "dwellTimeMicroseconds": 1000,
             "readoutMode": f'"bin: {binning}, windowing: {window}"', "stemImageSize": f"{nav[0]}x{nav[1]}", **changes}
    text = [f"{key} = {value}" for key, value in lines.items() if value is not None]
    return "\r\n".join(["[measurementInfo]", *text, ""]).encode("latin-1")


def unfolded(stored, binning):
    """Frames [n, h, w] as the detector sees them, pixel by pixel."""
    n, h, w = stored.shape
    half = w // 2
    out = np.zeros((n, 2 * h * binning, half), stored.dtype)
    for y in range(2 * h * binning):
        yb = y // binning
        for x in range(half):
            row, column = (yb, x) if yb < h else (2 * h - 1 - yb, 2 * half - 1 - x)
            out[:, y, x] = stored[:, row, column]
    return out


def random_stored(seed, n, height=3, width=10):
    return np.random.default_rng(seed).integers(0, 1 << 16, (n, height, width)).astype("u2")


def data_set(stored, dark, *, per_file=4, binning=1, **changes):
    """A whole set under ``/data/scan``: paths to bytes."""
    files = {"/data/scan_000.frms6": frms6(dark)}
    for i in range(0, len(stored), per_file):
        files[f"/data/scan_{1 + i // per_file:03d}.frms6"] = frms6(stored[i:i + per_file])
    height, width = stored.shape[1:]
    files["/data/scan.hdr"] = hdr(binning=binning, window=f"{2 * height * binning} x {width // 2}",
                                  **{"frames": len(stored), "nav": (1, len(stored)), **changes})
    return files
