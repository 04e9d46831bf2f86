"""K2IS captures kept in memory, of headers only, and the truth about frames that lost blocks.

`Capture` is a `Source` whose sector files are lists of 40-byte headers; pixels read as 0xA5. Headers are packed by hand from the
published table and shared with nothing.
"""

from __future__ import annotations

import os
import struct

import numpy as np

BLOCK = 22360
ENDS = (0, 5, 0, 33, 1, 0, 0, 20)
STARTS = (0, 3, 5, 31, 32, 33, 40, 10)


def header(count=1000, frame_id=59, flags=0, b=0, width=256, height=1860, place=None, last=None, size=0x5758, sync=0xFFFF0055):
    """The header of block `b` of a frame."""
    x, y = place or ((240, 224, 208, 192, 176, 160, 144, 128, 112, 96, 80, 64, 48, 32, 16, 0)[b % 16], (0, 930)[b // 16])
    last_x, last_y = last or (x + 15, y + 929)
    return b"".join((
        struct.pack(">I", sync), b"\0" * 4, b"\1", bytes([flags]), b"\0" * 6, struct.pack(">I", count % 2**32),
        struct.pack(">HH", width, height), struct.pack(">I", frame_id), struct.pack(">HHHH", x, y, last_x, last_y),
        struct.pack(">I", size)))


def tag(name, value, version=4, order="<"):
    """A data entry with a u32, or with the bytes of a whole value (infos and all)."""
    wide = ">I" if version == 3 else ">Q"
    body = value if isinstance(value, bytes) else b"%%%%" + struct.pack(wide, 1) + struct.pack(wide, 5) + struct.pack(order + "I", value)
    size = struct.pack(">Q", len(body)) if version == 4 else b""
    return b"\x15" + struct.pack(">H", len(name)) + name.encode("latin-1") + size + body


def group(name, *entries, version=4, count=None):
    """A group entry."""
    body = b"\1\0" + struct.pack(">I" if version == 3 else ">Q", len(entries) if count is None else count) + b"".join(entries)
    size = struct.pack(">Q", len(body)) if version == 4 else b""
    return b"\x14" + struct.pack(">H", len(name)) + name.encode("latin-1") + size + body


def tag_file(*entries, version=4, flag=1):
    """A tag file."""
    wide = ">I" if version == 3 else ">Q"
    root = b"\1\0" + struct.pack(wide, len(entries)) + b"".join(entries)
    return struct.pack(">I", version) + struct.pack(wide, len(root) + 4) + struct.pack(">I", flag) + root + bytes(8)


def scan_tags(height, width, version=4):
    """A .gtg of a scan."""
    return tag_file(group("SI Dimensions", tag("Size X", width, version), tag("Size Y", height, version), version=version),
                    group("SI Image Tags", tag("Voltage (kV)", 300, version), version=version), version=version)


class Capture:
    """A capture in a folder ``/d`` of `n_frames` recorded frames.

    Attributes
    ----------
    sectors
        A list of headers for each sector; take away, add and change as you like.
    lead, tail
        Bytes before the first and after the last block of each sector.
    files
        Other files: path to bytes.
    """

    def __init__(self, n_frames=14, starts=STARTS, ends=ENDS, shutter=6, first_count=1000, first_id=57, scan=(2, 3), time_series=False):
        self.names = [f"/d/Capture52_{k + 1}.bin" for k in range(8)]
        self.sectors = [
            [header(first_count + n, first_id + n // 32, int(n // 32 >= shutter), n % 32) for n in range(start, 32 * n_frames - end)]
            for start, end in zip(starts, ends, strict=True)]
        self.lead, self.tail = [b""] * 8, [b""] * 8
        self.files = {"/d/Capture52_.gtg": tag_file(group("SI Image Tags")) if time_series else scan_tags(*scan)}
        self.reads = 0

    def read(self, path, offset, size):
        self.reads += 1
        if path in self.files:
            return self.files[path][offset:offset + size]
        if path not in self.names:
            raise FileNotFoundError(2, "no such file", path)
        k = self.names.index(path)
        lead, tail, blocks = self.lead[k], self.tail[k], self.sectors[k]
        size = max(0, min(size, self.size(path) - offset))
        out = bytearray(b"\xa5" * size)

        def put(at, data):
            low, high = max(at, offset), min(at + len(data), offset + size)
            if low < high:
                out[low - offset:high - offset] = data[low - at:high - at]

        put(0, lead)
        put(len(lead) + BLOCK * len(blocks), tail)
        for i in range(max(0, (offset - len(lead)) // BLOCK), min(len(blocks), (offset + size - len(lead)) // BLOCK + 1)):
            put(len(lead) + i * BLOCK, blocks[i])
        return bytes(out)

    def size(self, path):
        if path in self.files:
            return len(self.files[path])
        if path not in self.names:
            raise FileNotFoundError(2, "no such file", path)
        k = self.names.index(path)
        return len(self.lead[k]) + BLOCK * len(self.sectors[k]) + len(self.tail[k])

    def listdir(self, folder):
        return sorted(os.path.basename(p) for p in {*self.names, *self.files} if os.path.dirname(p) == folder)


def places(layout):
    """Where each block of each complete frame is read from: (frame, sector, x, y) to (path, byte of its header).

    Works its way from the layout's pieces back to blocks: every piece has to be made of whole blocks.
    """
    found = {}
    for piece in layout.pieces:
        assert (piece.pixels, piece.rows, piece.row_src, piece.row_pos, piece.skipped, piece.reversed) == (16, 930, 24, 2048, 0, False)
        frames = np.arange(layout.image_count)
        file, offset = layout.parts[piece.part].locate(frames)
        for repeat in range(piece.repeats):
            y, x = divmod(piece.pos + repeat * piece.rep_pos, 2048)
            for frame in frames[file >= 0].tolist():
                key = frame, x // 256, x % 256, y
                assert key not in found         # every pixel at most once
                found[key] = layout.parts[piece.part][int(file[frame])].path, int(offset[frame]) + piece.src + repeat * piece.rep_src - 40
    return found
