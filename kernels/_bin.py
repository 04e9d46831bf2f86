"""Launches of ``bin.cu``: the record that is its only argument, the grid, and the kernel's name."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuio.engine import Blocks
from gpuio.kernels._launch import C_TYPES, Dim3

#: Threads along a row of the result, and rows of threads.
WIDE, TALL = 32, 8
#: Sums by the kind of the pixels.
SUMS = {"u": "u64", "i": "i64", "f": "f64"}

CALL = np.dtype([("pixels", "u8"), ("out", "u8"), ("rows", "i8"), ("columns", "i8"), ("down", "i8"), ("across", "i8")])


def expression(source: np.dtype, target: np.dtype) -> str:
    """The kernel as CUDA names it."""
    return f"bin<{C_TYPES[source]}, {SUMS[source.kind]}, {C_TYPES[target]}>"


def call(planes: int, blocks: Blocks) -> Any:
    """A `CALL` with what does not depend on buffers."""
    record = np.zeros((), dtype=CALL)
    record["rows"] = planes * blocks.rows
    record["columns"], record["down"], record["across"] = blocks.columns, blocks.down, blocks.across
    return record


def geometry(planes: int, blocks: Blocks) -> tuple[Dim3, Dim3]:
    """Grid and block; blocks go on to further rows where there are more."""
    return (-(-blocks.columns // WIDE), min(-(-planes * blocks.rows // TALL), 65535), 1), (WIDE, TALL, 1)
