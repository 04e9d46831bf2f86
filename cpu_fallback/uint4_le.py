"""uint4_le: 4-bit pixels, two in each byte, the low half first (MRC mode 101).

::

    byte          0      |      1
    bits   7...4 | 3...0 | 7...4 | 3...0
    pixel    1       0       3       2
"""

from __future__ import annotations

from typing import Any

from gpuio.cpu_fallback._vectors import I8, Get, Unpacker, const, shuffle


class UInt4LE(Unpacker):
    """Each byte becomes two lanes; odd pixels are 4 bits further up."""

    dtypes = ("u1",)
    group_bytes, group_pixels = 1, 2

    def unpack(self, b: Any, get: Get, param: Any) -> list[Any]:
        twice = shuffle(b, get(), [i // 2 for i in range(self.step)])
        down = b.lshr(twice, const(I8, [0, 4] * (self.step // 2)))
        return [b.and_(down, const(I8, [0xF] * self.step))]
