"""Writes NumPy files of any header version, in C or Fortran order. The format is described in `gpuio.formats._npy_header`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from gpuio.errors import DataSetException, ShapeError
from gpuio.newfile import new_file
from gpuio.synth._writing import Progress, exact, stacks

#: Where NumPy lets the array begin: at a multiple of this.
ALIGNMENT = 64


def write(path: str, frames: Iterable[np.ndarray], *, nav_shape: Sequence[int], sig_shape: Sequence[int],
          progress: Progress | None = None, dtype: Any = None, fortran_order: bool = False, version: int = 1,
          alignment: int = ALIGNMENT) -> list[str]:
    """Write frames as a NumPy file.

    Parameters
    ----------
    path
        The file.
    frames
        Yields stacks of shape (n, *sig), all positions in C order. In Fortran order each stack is a pass over the file.
    nav_shape, sig_shape
        Scan and detector axes.
    progress
        Called with the frames written and those in all.
    dtype
        dtype on disk, byte order included; None: that of the frames.
    fortran_order
        Store the first axis fastest.
    version
        Of the header: 1, 2 or 3.
    alignment
        The array begins at a multiple of so many bytes; 1 writes a header without padding.

    Returns
    -------
    list of str
        The path.

    Raises
    ------
    ShapeError
        Frames do not have the promised shape or number.
    DataSetException
        A value does not fit `dtype`, or there is no such version.
    """
    shape = (*nav_shape, *sig_shape)
    checked = stacks(frames, nav_shape, sig_shape, progress)
    first = next(checked, None)
    if first is None:
        raise ShapeError(f"there are no frames; expected those of nav shape {tuple(nav_shape)}")
    on_disk = np.dtype(dtype or first.dtype)
    head = header(on_disk, shape, fortran_order=fortran_order, version=version, alignment=alignment)
    with new_file(path) as temporary:
        with open(temporary, "wb") as file:
            file.write(head)
            if not fortran_order:
                for stack in chain([first], checked):
                    file.write(exact(stack, on_disk).view(np.uint8).data)
        if fortran_order:
            array = np.memmap(temporary, dtype=on_disk, mode="r+", offset=len(head), shape=shape, order="F")
            done = 0
            for stack in chain([first], checked):
                array[np.unravel_index(np.arange(done, done + len(stack)), tuple(nav_shape))] = exact(stack, on_disk)
                done += len(stack)
            array.flush()
    return [path]


def header(dtype: np.dtype, shape: Sequence[int], *, fortran_order: bool = False, version: int = 1, alignment: int = ALIGNMENT) -> bytes:
    """The bytes before the array: magic, version, length, dict literal, padding."""
    if version not in (1, 2, 3):
        raise DataSetException(f"NPY version {version}; expected 1, 2 or 3")
    text = repr({"descr": np.dtype(dtype).str, "fortran_order": fortran_order, "shape": tuple(map(int, shape))})
    length_bytes = 2 if version == 1 else 4
    padding = -(8 + length_bytes + len(text) + 1) % alignment
    text += " " * padding + "\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(length_bytes, "little") + text.encode()
