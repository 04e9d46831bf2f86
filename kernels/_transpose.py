"""Launches of ``transpose.cu``: the record that is its only argument, the grid, and the kernel's name."""

from __future__ import annotations

import numpy as np

from gpuio.kernels._launch import Dim3
from gpuio.layout import Piece

#: Frames and pixels of a tile, and rows of threads that make one, as in transpose.cu.
SIDE, TALL = 32, 8
#: Name in CUDA of items by their size in bytes.
ITEMS = {1: "u8", 2: "u16", 4: "u32", 8: "uint2", 16: "uint4"}

CALL = np.dtype([
    ("staged", "u8"), ("out", "u8"), ("starts", "u8"), ("frames", "u8"), ("n", "i8"), ("frame_pixels", "i8"),
    ("src", "i8"), ("row_src", "i8"), ("rep_src", "i8"), ("pos", "i8"), ("row_pos", "i8"), ("rep_pos", "i8"),
    ("repeats", "i8"), ("pixels", "i8"),
])


def call(piece: Piece, item_bytes: int) -> np.ndarray:
    """A `CALL` with what the piece says; addresses and frames are still to be filled in."""
    record = np.zeros((), dtype=CALL)
    for name in ("src", "row_src", "rep_src"):
        record[name] = getattr(piece, name) // item_bytes
    for name in ("pos", "row_pos", "rep_pos", "repeats"):
        record[name] = getattr(piece, name)
    record["pixels"] = piece.rows * piece.repeats
    return record


def geometry(pixels: int, frames: int) -> tuple[Dim3, Dim3]:
    """Grid and block: x runs over tiles of pixels, y over tiles of frames; blocks go on to further frames where there are more."""
    return (-(-pixels // SIDE), min(-(-frames // SIDE), 65535), 1), (SIDE, TALL, 1)
