"""Repair of excluded pixels: the mean of their neighbours, which are never excluded themselves, so order does not matter."""

from __future__ import annotations

import numpy as np
from numba import types

from gpuio.cpu_fallback._driver import jit

INDICES = types.Array(types.int64, 1, "C", readonly=True)
SIGNATURES = [types.void(real[:, ::1], INDICES, INDICES, INDICES, types.int64) for real in (types.float32, types.float64)]


def _repair(values: np.ndarray, pixels: np.ndarray, starts: np.ndarray, neighbours: np.ndarray, items: int) -> None:
    """In place on real[frames, n * items], where a pixel is `items` (complex: 2) values side by side."""
    for frame in range(values.shape[0]):
        for i in range(pixels.shape[0]):
            count = starts[i + 1] - starts[i]
            if count:
                for item in range(items):
                    total = 0.0                     # float64, in the order of the table
                    for k in range(starts[i], starts[i + 1]):
                        total += values[frame, neighbours[k] * items + item]
                    values[frame, pixels[i] * items + item] = total / count


repair = jit(_repair, SIGNATURES)
