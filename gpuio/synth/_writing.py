"""What every writer needs: files that appear whole or not at all, and frames that are what was promised."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpuio.errors import DataSetException, ShapeError

#: ``progress(frames written, frames in all)``, called after each stack.
Progress = Callable[[int, int], None]


@contextmanager
def new_file(path: str) -> Iterator[str]:
    """The name to write a file under; on success it becomes `path`, on any exception it is removed.

    An existing file of that name is replaced in one step, so that readers see the old one or the new one. Errors of the operating
    system name `path`.
    """
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as e:
        if e.errno is not None and e.filename in (None, temporary):
            raise OSError(e.errno, e.strerror, path) from e
        raise
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


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
