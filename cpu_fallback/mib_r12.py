"""mib_r12: Merlin RAW, counter depth 12. Big-endian 16-bit words, 4 pixels a group, the last one first.

::

    byte   0 1 | 2 3 | 4 5 | 6 7
    pixel   3  |  2  |  1  |  0

Reversing all 8 bytes of a group puts its words and the bytes in each word in order.
"""

from __future__ import annotations

from typing import Any

from gpuio.cpu_fallback._vectors import I16, Get, Unpacker, lanes, shuffle, swapped


class R12(Unpacker):
    """Values are not masked: all 16 bits count."""

    dtypes = ("u2",)
    group_bytes, group_pixels = 8, 4

    def unpack(self, b: Any, get: Get, param: Any) -> list[Any]:
        return [lanes(b, shuffle(b, get(), swapped(self.step_bytes, 8)), I16)]
