"""Entries of sparse frames added to dense ones: a pixel number and a value each, in the order in which they are stored."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuio.cpu_fallback._driver import jit
from gpuio.engine import Entries


def scatter(staged: np.ndarray, out: np.ndarray, entries: Entries) -> None:
    """See `gpuio.engine.Engine.scatter`; the arguments have been checked."""
    def items(at: int, count: int, dtype: np.dtype) -> np.ndarray:
        return staged[at:at + count * dtype.itemsize].view(dtype)

    starts = items(entries.starts, entries.frames + 1, np.dtype(np.int64))
    pixels = items(entries.pixels, entries.count, entries.pixel_dtype)
    if out.dtype.kind == "b":
        _compiled(either)(starts, pixels, items(entries.values, entries.count, np.dtype(np.uint8)), out.view(np.uint8))
    else:
        _compiled(add)(starts, pixels, items(entries.values, entries.count, out.dtype), out)


def add(starts: np.ndarray, pixels: np.ndarray, values: np.ndarray, out: np.ndarray) -> None:
    """Sums."""
    for frame in range(out.shape[0]):
        for i in range(max(starts[frame], 0), min(starts[frame + 1], pixels.shape[0])):
            pixel = pixels[i]
            if pixel < out.shape[1]:
                out[frame, pixel] += values[i]


def either(starts: np.ndarray, pixels: np.ndarray, values: np.ndarray, out: np.ndarray) -> None:
    """The same of truth values, stored as bytes."""
    for frame in range(out.shape[0]):
        for i in range(max(starts[frame], 0), min(starts[frame + 1], pixels.shape[0])):
            pixel = pixels[i]
            if pixel < out.shape[1]:
                out[frame, pixel] |= values[i] != 0


_loops: dict[Any, Any] = {}


def _compiled(function: Any) -> Any:
    """`function` as machine code for whatever dtypes it is called with."""
    if function not in _loops:
        _loops[function] = jit(function)
    return _loops[function]
