"""mib_r1: Merlin RAW, counter depth 1. 8 bytes are a big-endian number of 64 bits; pixel k is its bit k.

::

    byte       0      |   1    | ... |   7
    bit     7 ... 0   | 7 ...0 |     | 7 ... 0
    pixel  63 ... 56  | 55..48 |     | 7 ... 0
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from gpuio.cpu_fallback._vectors import I1, I16, I64, Get, Unpacker


class R1(Unpacker):
    """The step is the group: 64 pixels, as four vectors of 16 bits."""

    dtypes = ("u1",)
    group_bytes, group_pixels, step = 8, 64, 64

    def unpack(self, b: Any, get: Get, param: Any) -> list[Any]:
        word = b.bswap(b.bitcast(get(), I64))
        return [b.bitcast(b.trunc(b.lshr(word, I64(16 * k)), I16), ir.VectorType(I1, 16)) for k in range(4)]
