"""swap: items of a NumPy dtype in the other byte order (big-endian; MIB, BLO, DM and others)."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from gpuio.cpu_fallback._vectors import Get, Unpacker, lanes, shuffle, swapped


class Swap(Unpacker):
    """Each pixel is an item of `dtype` with its bytes reversed."""

    dtypes = ("u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")
    group_pixels = 1

    def __init__(self, dtype: np.dtype) -> None:
        super().__init__(dtype)
        self.group_bytes = dtype.itemsize

    def unpack(self, b: Any, get: Get, param: Any) -> list[Any]:
        return [lanes(b, shuffle(b, get(), swapped(self.step_bytes, self.group_bytes)), ir.IntType(8 * self.group_bytes))]
