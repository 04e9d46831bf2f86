"""Writes raw files: pixels in C order, with any bytes before and after them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np

from gpuio.errors import ShapeError
from gpuio.newfile import new_file
from gpuio.synth._writing import Progress, exact, stacks


def write(path: str, frames: Iterable[np.ndarray], *, nav_shape: Sequence[int], sig_shape: Sequence[int],
          progress: Progress | None = None, dtype: Any = None, file_header: bytes = b"", frame_header: bytes = b"",
          frame_footer: bytes = b"", frames_per_file: int | None = None) -> list[str]:
    """Write frames as raw binary data.

    Parameters
    ----------
    path
        The file; with `frames_per_file` the files are ``name0.ext``, ``name1.ext`` ...
    frames
        Yields stacks of shape (n, *sig), all positions in C order.
    nav_shape, sig_shape
        Scan and detector axes.
    progress
        Called with the frames written and those in all.
    dtype
        dtype on disk, byte order included; None: that of the frames.
    file_header, frame_header, frame_footer
        Bytes to write before the first frame of each file, and before and after the pixels of each frame.

    Returns
    -------
    list of str
        Paths of the files. Each appears when it is complete.

    Raises
    ------
    ShapeError
        Frames do not have the promised shape or number.
    DataSetException
        A value does not fit `dtype`.
    """
    if frames_per_file is not None and frames_per_file < 1:
        raise ShapeError(f"frames_per_file is {frames_per_file}; expected at least 1")
    stem, extension = os.path.splitext(path)
    paths: list[str] = []
    checked = stacks(frames, nav_shape, sig_shape, progress)
    for number, group in groupby(_by_file(checked, frames_per_file or math.prod(nav_shape)), key=itemgetter(0)):
        paths.append(path if frames_per_file is None else f"{stem}{number}{extension}")
        with new_file(paths[-1]) as temporary, open(temporary, "wb") as file:
            file.write(file_header)
            for _, stack in group:
                items = exact(stack, stack.dtype if dtype is None else dtype)
                if frame_header or frame_footer:
                    file.writelines(frame_header + frame.tobytes() + frame_footer for frame in items)
                else:
                    file.write(items.view(np.uint8).data)
    return paths


def _by_file(checked: Iterator[np.ndarray], frames_per_file: int) -> Iterator[tuple[int, np.ndarray]]:
    """Number of the file and stack, cut where a file is full."""
    done = 0
    for stack in checked:
        first = 0
        while first < len(stack):
            part = stack[first:first + frames_per_file - done % frames_per_file]
            yield done // frames_per_file, part
            done += len(part)
            first += len(part)
