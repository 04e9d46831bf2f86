"""SEQ files, MRC references and settings written by hand, field by field; and corrections pixel by pixel."""

from __future__ import annotations

import struct

import numpy as np

from tests.formats.mib_files import Files


class FilesWithErrors(Files):
    """As files: missing ones are errors of the operating system."""

    def size(self, path):
        if path not in self:
            raise FileNotFoundError(2, "no such file", path)
        return super().size(path)


def header(width, height, stride, *, depth=16, version=5, real_depth=12, image_size=None, image_format=100, allocated=14, frame_rate=400.5,
           compression=0, description="first scan", magic=b"\xed\xfe\x00\x00", data_at=None):
    """Everything before the first frame; bytes that nobody uses are set."""
    raw = bytearray(b"\xa5" * (data_at or (8192 if version >= 5 else 1024)))
    raw[:4] = magic
    raw[4:28] = "Norpix seq".encode("utf-16-le").ljust(24, b"\0")
    struct.pack_into("<ii", raw, 28, version, 1024)
    raw[36:548] = (description.encode("utf-16-le") + b"\0\0").ljust(512, b"\x01")
    struct.pack_into("<9I", raw, 548, width, height, depth, real_depth, width * height * depth // 8 if image_size is None else image_size,
                     image_format, allocated, 7, stride)
    struct.pack_into("<d", raw, 584, frame_rate)
    struct.pack_into("<I", raw, 620, compression)
    return bytes(raw)


def seq(frames, footer=8, *, stamps=None, **kwargs):
    """A file of frames uint[n, h, w]; frame i has footer bytes of its own, which begin with its time stamp if one is given."""
    _, height, width = frames.shape
    depth = 8 * frames.dtype.itemsize
    blob = [header(width, height, width * height * frames.dtype.itemsize + footer, **{"depth": depth, **kwargs})]
    for i, frame in enumerate(frames):
        end = bytes((17 * i + k) % 251 for k in range(footer))
        stamp = struct.pack("<IHH", *stamps[i]) if stamps is not None else b""
        blob += [frame.astype(f"<u{frame.dtype.itemsize}").tobytes(), stamp, end[len(stamp):]]
    return b"".join(blob)


def mrc(image, mode=2, *, dtype="<f4", extended=0, shape=None, stamp=b"\x44\x44\x00\x00"):
    """An MRC file of one image [ny, nx]."""
    order = np.dtype(dtype).byteorder.replace("=", "<").replace("|", "<")
    nz, ny, nx = shape or (1, *image.shape)
    raw = bytearray(1024)
    struct.pack_into(f"{order}4i", raw, 0, nx, ny, nz, mode)
    struct.pack_into(f"{order}3i", raw, 64, 1, 2, 3)
    struct.pack_into(f"{order}i", raw, 92, extended)
    raw[208:216] = b"MAP " + stamp
    return bytes(raw) + b"\x77" * extended + image.astype(dtype).tobytes()


def settings(width, height, x=0, y=0, binning=1):
    """``NAME.metadata``: the frame on the sensor, in pixels without binning."""
    return b"\xa5" * 282 + struct.pack("<7i", 45, 1, width, height, x, y, binning) + b"\x5a" * 20


def xml(*defects, rows=64, columns=64, binning=None, extra=""):
    """``NAME.Config.Metadata.xml`` with one map."""
    lines = "".join(f"<Defect {defect}/>" for defect in defects)
    attribute = "" if binning is None else f' Binning="{binning}"'
    body = f'<BadPixelMap Rows="{rows}" Columns="{columns}"{attribute}>{lines}</BadPixelMap>'
    return f'<?xml version="1.0"?><Root>{extra}{body}</Root>'.encode()


def corrected(frames, dark=0, gain=1, bad=None):
    """(v - dark) * gain in float64, rounded to float32; then bad pixels become the mean of their good neighbours."""
    wide = np.result_type(np.float32, frames.dtype)
    out = ((frames.astype(wide).astype(np.float64) - dark) * gain).astype(wide)
    result = out.copy()
    for y, x in np.argwhere(np.zeros(frames.shape[1:], bool) if bad is None else bad):
        total, count = np.zeros(len(out)), 0
        for b in range(max(0, y - 1), min(y + 2, bad.shape[0])):
            for a in range(max(0, x - 1), min(x + 2, bad.shape[1])):
                if not bad[b, a]:
                    total, count = total + out[:, b, a].astype(np.float64), count + 1
        if count:
            result[:, y, x] = total / count
    return result
