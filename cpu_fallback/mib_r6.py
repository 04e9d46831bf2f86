"""mib_r6: Merlin RAW, counter depth 6. A byte a pixel, 8 pixels a group, the last one first.

::

    byte   0 1 2 3 4 5 6 7
    pixel  7 6 5 4 3 2 1 0
"""

from __future__ import annotations

from typing import Any

from gpuio.cpu_fallback._vectors import Get, Unpacker, shuffle, swapped


class R6(Unpacker):
    """Values are not masked: all 8 bits count."""

    dtypes = ("u1",)
    group_bytes, group_pixels = 8, 8

    def unpack(self, b: Any, get: Get, param: Any) -> list[Any]:
        return [shuffle(b, get(), swapped(self.step_bytes, 8))]
