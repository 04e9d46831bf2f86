"""Words of LLVM that encodings are written in, and what an encoding is on the CPU.

A decoder's unit is a **step**: a few vectors of pixels that come from a fixed number of bytes. An encoding says only how
the bytes of a step become vectors of unsigned lanes; loop, conversion, corrections and stores are shared (`_step`,
`_driver`). Vectors are LLVM's own, of any length: LLVM cuts them to what the processor has, from SSE2 to AVX-512 and NEON.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np
from llvmlite import ir

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()

#: Lanes of the vectors that encodings unpack: as many of float32 as the widest registers have.
LANES = 16
#: ``get()``: the step's bytes as ``<n x i8>``; ``get(distance)``: as many bytes, `distance` (an i64) further on.
Get = Callable[..., Any]


class Unpacker(ABC):
    """How the bytes of a step become pixels.

    Parameters
    ----------
    dtype
        Native dtype of a decoded pixel. Lanes that `unpack` returns are narrower or as wide; the loop extends them.

    Attributes
    ----------
    group_bytes, group_pixels
        As in `gpuio.layout.Encoding`.
    step : int, pixels
        What one call of `unpack` decodes; a multiple of `group_pixels`. Some vectors of `LANES` lanes.
    """

    dtypes: ClassVar[tuple[str, ...]]
    group_bytes: int
    group_pixels: int
    step: int = LANES

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype

    @property
    def step_bytes(self) -> int:
        """Bytes that hold a step, in each plane."""
        return self.step // self.group_pixels * self.group_bytes

    @abstractmethod
    def unpack(self, b: Any, get: Get, param: Any) -> list[Any]:
        """The step's pixels in storage order: vectors of unsigned lanes, or the bits of signed and real ones.

        Parameters
        ----------
        b : llvmlite.ir.IRBuilder
        get
            Gives the bytes, see `Get`.
        param : i64
            `Encoding.param`.
        """


def const(element: Any, values: Iterable[float]) -> Any:
    """A vector of constants."""
    values = list(values)
    return ir.Constant(ir.VectorType(element, len(values)), values)


def splat(b: Any, value: Any, count: int) -> Any:
    """A vector of `count` times the same value."""
    one = b.insert_element(ir.Constant(ir.VectorType(value.type, count), ir.Undefined), value, I32(0))
    return shuffle(b, one, [0] * count)


def shuffle(b: Any, vector: Any, order: Iterable[int]) -> Any:
    """Lanes of a vector in another order."""
    return b.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), const(I32, order))


def lanes(b: Any, vector: Any, element: Any) -> Any:
    """The same bits as lanes of another width."""
    return b.bitcast(vector, ir.VectorType(element, vector.type.count * vector.type.element.width // element.width))


def swapped(count: int, word: int) -> list[int]:
    """The order that reverses each `word` bytes of `count`."""
    return [i // word * word + word - 1 - i % word for i in range(count)]
