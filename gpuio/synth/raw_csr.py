"""Writes sparse raw files: a TOML file and three lists. The format is described in `gpuio.formats.raw_csr`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Any

import numpy as np

from gpuio.errors import DataSetException, ShapeError
from gpuio.newfile import new_file
from gpuio.synth._writing import Progress, exact, stacks

LISTS = ("indptr", "indices", "data")


def write(path: str, frames: Iterable[np.ndarray], *, nav_shape: Sequence[int], sig_shape: Sequence[int],
          progress: Progress | None = None, dtype: Any = None, indptr_dtype: Any = "<i8", indices_dtype: Any = "<u4") -> list[str]:
    """Write the pixels of frames that are not zero.

    Parameters
    ----------
    path
        The TOML file; the lists get its name with ``_indptr.raw``, ``_indices.raw`` and ``_data.raw`` instead of the ending.
    frames
        Yields stacks of shape (n, *sig), all positions in C order.
    nav_shape, sig_shape
        Scan and detector axes.
    progress
        Called with the frames written and those in all.
    dtype, indptr_dtype, indices_dtype
        dtypes on disk, byte order included; `dtype` None: that of the frames.

    Returns
    -------
    list of str
        The paths, the TOML file first.

    Raises
    ------
    ShapeError
        Frames do not have the promised shape or number.
    DataSetException
        A value or index does not fit its dtype.
    """
    checked = stacks(frames, nav_shape, sig_shape, progress)
    first = next(checked, None)
    if first is None:
        raise ShapeError(f"there are no frames; expected those of nav shape {tuple(nav_shape)}")
    dtypes = dict(zip(LISTS, map(np.dtype, (indptr_dtype, indices_dtype, dtype or first.dtype)), strict=True))
    stem = os.path.splitext(path)[0]
    paths = {name: f"{stem}_{name}.raw" for name in LISTS}
    with ExitStack() as stack_of_files:
        target = stack_of_files.enter_context(new_file(path))
        files = {name: stack_of_files.enter_context(open(stack_of_files.enter_context(new_file(paths[name])), "wb")) for name in LISTS}
        files["indptr"].write(np.zeros(1, dtypes["indptr"]).data)
        entries = 0
        for stack in chain([first], checked):
            flat = stack.reshape(len(stack), -1)
            frame, pixel = np.nonzero(flat)
            ends = entries + np.cumsum(np.count_nonzero(flat, axis=1))
            entries = int(ends[-1])
            for name, items in (("indptr", ends), ("indices", pixel), ("data", flat[frame, pixel])):
                files[name].write(_exact(items, dtypes[name], name).view(np.uint8).data)
        lines = ["[params]", 'filetype = "raw_csr"', f"nav_shape = {list(map(int, nav_shape))}", f"sig_shape = {list(map(int, sig_shape))}",
                 "", "[raw_csr]", *(line for name in LISTS for line in (f'{name}_file = "{os.path.basename(paths[name])}"',
                                                                         f'{name}_dtype = "{dtypes[name].str}"'))]
        with open(target, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    return [path, *paths.values()]


def _exact(items: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    try:
        return exact(items, dtype)
    except DataSetException as error:
        raise DataSetException(f"{name}: {error}") from error
