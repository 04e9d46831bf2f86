"""Launches of ``scatter.cu``: the record that is its only argument, the grid, and the kernel's name."""

from __future__ import annotations

import numpy as np

from gpuio.kernels._launch import Dim3

#: Threads of a block at most; a power of two, as scatter.cu asks.
THREADS = 256
#: Names in CUDA of pixel numbers by their size in bytes, and of values. Sums of integers do not depend on the sign.
PIXELS = {1: "u8", 2: "u16", 4: "u32", 8: "u64"}
VALUES = {"b1": "b8", **{f"{kind}{size}": f"u{8 * size}" for kind in "ui" for size in (1, 2, 4, 8)}, "f4": "f32", "f8": "f64"}

CALL = np.dtype([("pixels", "u8"), ("values", "u8"), ("out", "u8"), ("starts", "u8"), ("frames", "i8"), ("count", "i8"),
                 ("frame_pixels", "i8"), ("items", "i8")])


def expression(pixels: np.dtype, values: np.dtype) -> str:
    """The kernel as CUDA names it."""
    part = f"f{values.itemsize // 2}" if values.kind == "c" else values.str[1:]
    return f"scatter<{PIXELS[pixels.itemsize]}, {VALUES[part]}>"


def geometry(frames: int, count: int) -> tuple[Dim3, Dim3]:
    """Grid and block: a block a frame, and no more threads than are worth starting for its entries."""
    threads = 32
    while threads < THREADS and threads < count // max(1, frames):
        threads *= 2
    return (min(frames, 1 << 20), 1, 1), (threads, 1, 1)
