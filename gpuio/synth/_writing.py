"""What every writer needs: frames that are what was promised, and pixels that are stored as they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from gpuio.errors import DataSetException, ShapeError

#: ``progress(frames written, frames in all)``, called after each stack.
Progress = Callable[[int, int], None]


def stacks(frames: Iterable[np.ndarray], nav_shape: Sequence[int], sig_shape: Sequence[int],
           progress: Progress | None = None) -> Iterator[np.ndarray]:
    """`frames` stack by stack, checked.

    Parameters
    ----------
    frames
        Yields arrays of shape (n, *sig), n >= 1, the frames of all positions of `nav_shape` in C order.

    Raises
    ------
    ShapeError
        A stack has other frames, or there are more or fewer frames than positions.
    """
    total, done = math.prod(nav_shape), 0
    for stack in frames:
        if stack.shape[1:] != tuple(sig_shape):
            raise ShapeError(f"a stack of frames has shape {stack.shape}; expected (n, {', '.join(map(str, sig_shape))})")
        done += len(stack)
        if done > total:
            raise ShapeError(f"there are at least {done} frames; expected {total} for nav shape {tuple(nav_shape)}")
        yield stack
        if progress is not None:
            progress(done, total)
    if done < total:
        raise ShapeError(f"there are {done} frames; expected {total} for nav shape {tuple(nav_shape)}")


def exact(stack: np.ndarray, dtype: Any) -> np.ndarray:
    """`stack` as `dtype`, in C order.

    Raises
    ------
    DataSetException
        A value would change.
    """
    dtype = np.dtype(dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        values = stack.real if dtype.kind != "c" and not np.any(stack.imag) else stack
        if values.dtype.kind == "c" and dtype.kind != "c":
            raise DataSetException(f"value {stack[stack.imag != 0].flat[0]} cannot be written as {dtype}")
        result = np.ascontiguousarray(values, dtype=dtype)
        back = (result if values.dtype.kind == "c" else result.real).astype(values.dtype)
    if not np.can_cast(values.dtype, dtype, "safe"):
        # Coming back proves nothing between integers of one size, and comparing nothing between large integers and floats.
        changed = ((back != values) | (result != values)) & ((back == back) | (values == values))      # NaN may stay NaN
        if changed.any():
            raise DataSetException(f"value {values[changed].flat[0]} cannot be written as {dtype}")
    return result
