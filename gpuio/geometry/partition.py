"""How many partitions there are, and where they begin. Integer arithmetic throughout."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpuio.shape import Shape, Slice

#: Partitions are sized for pixels of this many bytes (float32), whatever the native dtype.
SIZING_ITEMSIZE = 4


def get_num_partitions(shape: Shape, cores: int, max_partition_size: int) -> int:
    """Partitions of at most `max_partition_size` bytes of float32: a multiple of `cores`, but at most one per frame."""
    cores = max(1, cores)
    n = shape.size // max(1, max_partition_size // SIZING_ITEMSIZE)
    return min(max(1, -(-n // cores)) * cores, max(1, shape.nav.size))


def make_slices(shape: Shape, num_partitions: int, sync_offset: int = 0) -> Iterator[tuple[Slice, int, int]]:
    """Split the flat nav axis as evenly as integers allow.

    Parameters
    ----------
    shape
        Of the data set; its nav axes are taken as one.
    num_partitions
        How many; 0 means 1. More than there are frames: a RuntimeWarning, and one for each frame.
    sync_offset
        File frame minus flat nav index.

    Yields
    ------
    partition_slice : Slice
        Over the flat nav axis and the whole sig shape.
    start, stop : int
        File frames; may be negative, or past the end of the files.
    """
    size, sig = shape.nav.size, tuple(shape.sig)
    parts = max(1, num_partitions)
    if parts > size > 0:
        warnings.warn(f"{parts} partitions were asked for, but there are only {size} frames; making {size}", RuntimeWarning, stacklevel=2)
    parts = min(parts, size)
    for q in range(parts):
        first, stop = q * size // parts, (q + 1) * size // parts
        box = Slice((first, *(0,) * len(sig)), Shape((stop - first, *sig), sig_dims=len(sig)))
        yield box, first + sync_offset, stop + sync_offset


def partition_shape(shape: Shape, dtype: Any, target_size: int, cores: int, min_num_partitions: int | None = None) -> tuple[int, ...]:
    """Nav shape of a partition of about `target_size` bytes.

    Parameters
    ----------
    shape
        Of the data set.
    dtype
        dtype that `target_size` is counted in.
    target_size
        Bytes.
    cores
        The number of partitions becomes a multiple of it where the size decides.
    min_num_partitions
        At least so many; None: as many as cores.

    Returns
    -------
    tuple of int
        Whole axes on the right, one cut axis, then ones.

    Raises
    ------
    ValueError
        `target_size` holds less than one pixel.
    """
    target_pixels = target_size / np.dtype(dtype).itemsize
    if target_pixels < 1:
        raise ValueError(f"a partition of {target_size} bytes cannot hold one pixel of {np.dtype(dtype)}")
    cores = max(1, cores)
    ratio = shape.size / target_pixels
    parts = max(1, cores if min_num_partitions is None else min_num_partitions, cores * (ratio // cores + min(1, ratio % cores)))
    pixels = int(shape.size // parts)
    filled = math.prod(shape.sig)
    nav = list(shape.nav)
    result: list[int] = []
    while nav and filled * nav[-1] <= pixels:
        filled *= nav[-1]
        result.insert(0, nav.pop())
    if nav:
        overshoot = filled * nav[-1] / max(1, pixels)
        result.insert(0, max(1, int(nav.pop() // overshoot)))
    return (*(1 for _ in nav), *result)
