"""Sums over blocks of pixels. The innermost loop runs along a row of the result with a step that is compiled in, so that it is made of
vectors; each sum is still built in C order of its block, as on the GPU.
"""

from __future__ import annotations

import threading
import types as python_types
from typing import Any

import numpy as np
from numba import types
from numba.np.numpy_support import from_dtype

from gpuio.cpu_fallback._driver import jit

#: Steps that are compiled in; others are found at run time (0).
STEPS = (1, 2, 3, 4, 8)
#: Names of sums; narrower ones are vectors of more lanes.
SUMS = {"u": ("u4", "u8"), "i": ("i4", "i8"), "f": ("f8", "f8")}

# Global of a variant; `_compiled` puts its own in its place.
STEP = 0


def loop(pixels: np.ndarray, out: np.ndarray, sums: np.ndarray, down: int, across: int) -> None:
    """`pixels` [rows * down, columns * across], `out` [rows, columns], `sums` [columns] is scratch."""
    step = STEP if STEP else across
    columns = out.shape[1]
    for y in range(out.shape[0]):
        for x in range(columns):
            sums[x] = 0
        for dy in range(down):
            row = pixels[y * down + dy]
            for dx in range(across):
                for x in range(columns):
                    sums[x] += row[dx + x * step]
        for x in range(columns):
            out[y, x] = sums[x]


_lock = threading.Lock()
_variants: dict[tuple[str, str, str, int], Any] = {}


def bin_frames(pixels: np.ndarray, out: np.ndarray, down: int, across: int) -> None:
    """Sum blocks of ``down x across`` real `pixels`, [rows * down, columns * across], into `out`, [rows, columns]."""
    bits = 8 * pixels.itemsize + (down * across - 1).bit_length()
    sums = np.empty(out.shape[1], dtype=SUMS[pixels.dtype.kind][bits > 32])
    # Bits of integers do not depend on the sign of the output.
    if out.dtype.kind == "i" and pixels.dtype.kind != "f":
        out = out.view(f"u{out.itemsize}")
    _compiled(pixels.dtype, sums.dtype, out.dtype, across if across in STEPS else 0)(pixels, out, sums, down, across)


def _compiled(source: np.dtype, sums: np.dtype, target: np.dtype, step: int) -> Any:
    key = (source.str[1:], sums.str[1:], target.str[1:], step)
    with _lock:
        if key not in _variants:
            function = python_types.FunctionType(loop.__code__, {**globals(), "STEP": step})
            # numba's cache knows this file and the name of a function in it, but no globals.
            function.__module__, function.__qualname__ = __name__, "bin_" + "_".join(map(str, key))
            signature = types.void(from_dtype(source)[:, ::1], from_dtype(target)[:, ::1], from_dtype(sums)[::1],
                                   *[types.int64] * 2)
            _variants[key] = jit(function, signature)
        return _variants[key]
