"""TVIPS recordings written by hand, field by field, and kept in a dictionary."""

from __future__ import annotations

import struct

from tests.formats.seq_files import FilesWithErrors as FilesWithErrors


def series(width, height, bits=16, *, version=2, frame_header=108, size=256, filler=b"TVIPS ", **changes):
    """The header of a recording."""
    values = {"x": 3, "y": 4, "binning_x": 1, "binning_y": 2, "pixel_nm": 15500, "tension_kV": 200, "magnification": 80, **changes}
    return (struct.pack("<13i", size, version, width, height, bits, *values.values(), frame_header) + filler * 40)[:256]


def frame_header(number, size=108, *, seconds=1_600_000_000, milliseconds=0, rotator=0, scan=(0.0, 0.0)):
    """The first `size` bytes of a header, those that nobody uses set; `scan` is (y, x)."""
    y, x = scan
    fields = struct.pack("<4IfII5fI3f3f", number, seconds, milliseconds, 7, 1.5, 8000, 2, 10.0, 20.0, float("nan"), 1.25, -2.5, rotator,
                         21.5, 3.5, 4.5, 5.5, x, y)
    return fields[:size].ljust(size, b"\xa5")


def recording(frames, counts=None, *, size=108, stem="/data/scan", scans=None, rotators=None, millisecond_steps=10, **changes):
    """Paths to bytes of a recording of frames uint[n, h, w], `counts` of them in each file."""
    n, height, width = frames.shape
    counts = counts or [n]
    dtype = f"<u{frames.dtype.itemsize}"
    files, done = FilesWithErrors(), 0
    for number, count in enumerate(counts):
        blob = [series(width, height, 8 * frames.dtype.itemsize, frame_header=size, **changes)] if number == 0 else []
        for i in range(done, done + count):
            head = frame_header(i + 1, size, milliseconds=millisecond_steps * i, scan=(0.0, 0.0) if scans is None else scans[i],
                                rotator=0 if rotators is None else rotators[i])
            blob += [head, frames[i].astype(dtype).tobytes()]
        files[f"{stem}_{number:03d}.tvips"] = b"".join(blob)
        done += count
    assert done == n
    return files


def raster(idle, rows, columns, after=0):
    """Scan positions (y, x) of frames: idle ones, a scan, idle ones."""
    return [(0.0, 0.0)] * idle + [(float(y), float(x)) for y in range(rows) for x in range(columns)] + [(0.0, 0.0)] * after
