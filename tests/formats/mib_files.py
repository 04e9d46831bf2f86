"""MIB files written by hand, kept in a dictionary, and a decoder of layouts from the published formulas.

`pixels` shares nothing with the engines: it takes an index array a piece and looks up each pixel.
"""

from __future__ import annotations

import os

import numpy as np

DACS = "011,511,000,000,000,000,000,000,175,010,200,125,100,100,093,100,099,030,128,004,255,140,128,191,179,511,511"


class Files(dict):
    """A `Source` made of a dictionary: path to bytes. Counts what is read from each."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.reads = []

    def read(self, path, offset, size):
        if path not in self:
            raise FileNotFoundError(2, "no such file", path)
        self.reads.append((path, offset, size))
        return self[path][offset:offset + size]

    def size(self, path):
        return len(self[path])

    def listdir(self, folder):
        return sorted(os.path.basename(p) for p in self if os.path.dirname(p) == folder)


def header(sequence=1, length=384, chips=1, width=256, height=256, kind="U16", layout="   1x1", thresholds=True, dacs=True,
           extension=True, depth=12, time="2021-04-15T13:44:43.100924481", after=""):
    """A frame header as Merlin writes it."""
    fields = ["MQ1", f"{sequence:06d}", f"{length:05d}", f"{chips:02d}", f"{width:04d}", f"{height:04d}", kind, layout, "0F",
              "2021-04-15 14:44:43.100924", "0.001000", "0", "0", "2",
              "2.000000E+0,5.110000E+2," + ",".join(["0.000000E+0"] * 6) if thresholds else ""]
    fields += [f"3RX,{DACS}"] * chips if dacs else []
    fields += ["MQ1A", f"{time}Z", "1000000ns", f"{depth}", ""] if extension else []
    text = ",".join(fields) + after
    assert len(text) <= length
    return text.encode("latin-1").ljust(length, b"\0")


def u16_file(frames, sequence=1, length=384, **kwargs):
    """Frames of uint16 with headers, numbered from `sequence` on."""
    _, height, width = frames.shape
    return b"".join(header(sequence + i, length, width=width, height=height, **kwargs) + frame.astype(">u2").tobytes()
                    for i, frame in enumerate(frames))


def random_frames(seed, n, height=7, width=13, top=1 << 16):
    return np.random.default_rng(seed).integers(0, top, (n, height, width)).astype("u4" if top > 1 << 16 else "u2")


def pixels(layout, files):
    """All frames of a layout, decoded from the formulas; frames in no file stay zero."""
    encoding = layout.encoding
    out = np.zeros((layout.image_count, int(np.prod(layout.sig_shape))), encoding.dtype)
    for file in layout.parts[0]:
        stride = file.frame_header + file.native_dtype.itemsize * int(np.prod(file.sig_shape)) + file.frame_footer
        for j in range(file.end_idx - file.start_idx):
            start = file.file_header + j * stride + file.frame_header
            blob = np.frombuffer(files[file.path][start:start - file.frame_header + stride], "u1").astype(np.int64)
            for p in layout.pieces:
                row, repeat, i = np.ogrid[:p.rows, :p.repeats, :p.pixels]
                src = p.src + row * p.row_src + repeat * p.rep_src
                pos = p.pos + row * p.row_pos + repeat * p.rep_pos + (-i if p.reversed else i)
                out[file.start_idx + j, pos] = value(blob, src, i + p.skipped, encoding)
    return out.reshape(layout.image_count, *layout.sig_shape)


def value(blob, src, x, encoding):
    """Pixel x of runs that start at byte src."""
    if encoding.name == "mib_r1":
        return blob[src + (x >> 6) * 8 + 7 - ((x >> 3) & 7)] >> (x & 7) & 1
    if encoding.name == "mib_r6":
        return blob[src + (x ^ 7)]
    if encoding.name in ("mib_r12", "mib_r24"):
        at = src + 2 * (x ^ 3)
        high = blob[at] << 8 | blob[at + 1]
        if encoding.name == "mib_r12":
            return high
        return high * 4096 + (blob[at + encoding.param] << 8 | blob[at + encoding.param + 1])
    assert encoding.name in ("plain", "swap")
    size = encoding.dtype.itemsize
    assert size == 1 or encoding.name == "swap"
    return sum(blob[src + x * size + k] << 8 * (size - 1 - k) for k in range(size))
