"""uint12_le: 12-bit pixels without gaps, little-endian (K2IS). Three bytes hold two pixels.

::

    byte          0      |        1        |      2
    bits       7 ... 0   |  7...4 | 3...0  |  7 ... 0
    pixel    even 7...0  | odd 3..0, even 11..8 | odd 11...4
"""

from __future__ import annotations

from typing import Any

from gpuio.cpu_fallback._vectors import I16, Get, Unpacker, const, lanes, shuffle


class UInt12LE(Unpacker):
    """The two bytes that hold a pixel become a lane of 16 bits; odd pixels are 4 bits further up."""

    dtypes = ("u2",)
    group_bytes, group_pixels = 3, 2

    def unpack(self, b: Any, get: Get, param: Any) -> list[Any]:
        pairs = [i // 2 * 3 + i % 2 + byte for i in range(self.step) for byte in (0, 1)]
        words = lanes(b, shuffle(b, get(), pairs), I16)
        down = b.lshr(words, const(I16, [0, 4] * (self.step // 2)))
        return [b.and_(down, const(I16, [0xFFF] * self.step))]
