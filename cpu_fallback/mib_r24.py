"""mib_r24: Merlin RAW, counter depth 24. Two images packed as `mib_r12`: the high 12 bits of all pixels, then,
`Encoding.param` bytes later, the low 12 bits.

Values are not masked, so words above 4095 carry over: pixel = high * 4096 + low, modulo 2**32.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from gpuio.cpu_fallback._vectors import I16, I32, Get, Unpacker, const, lanes, shuffle, swapped


class R24(Unpacker):
    """`param`: bytes from a group of the high image to that of the low one."""

    dtypes = ("u4",)
    group_bytes, group_pixels = 8, 4

    def unpack(self, b: Any, get: Get, param: Any) -> list[Any]:
        high, low = (b.zext(lanes(b, shuffle(b, plane, swapped(self.step_bytes, 8)), I16), ir.VectorType(I32, self.step))
                     for plane in (get(), get(param)))
        return [b.add(b.shl(high, const(I32, [12] * self.step)), low)]
