"""Synthetic scans, and writers that store them in any of the formats: for demos, tests and benchmarks of any size.

>>> from gpuio import synth
>>> scene = synth.Scene((256, 256), (128, 128), seed=1)
>>> synth.write("npy", "scan.npy", scene)
['scan.npy']

A writer is a module with ``write(path, frames, *, nav_shape, sig_shape, progress=None, **options) -> list of paths``. It
takes frames as they come, never has all of them in memory, and gives a file its name when it is complete. Where a format's
detector has one size, its module states it as ``SIG_SHAPE``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from gpuio.errors import DataSetException, ShapeError
from gpuio.synth._writing import Progress
from gpuio.synth.scene import Flat, Scene

__all__ = ["WRITERS", "Flat", "Scene", "detector", "write"]

#: Modules by the name of their format.
WRITERS = {
    "mib": "gpuio.synth.mib",
    "frms6": "gpuio.synth.frms6",
    "k2is": "gpuio.synth.k2is",
    "empad": "gpuio.synth.empad",
    "dm": "gpuio.synth.dm",
    "blo": "gpuio.synth.blo",
    "mrc": "gpuio.synth.mrc",
    "ser": "gpuio.synth.ser",
    "seq": "gpuio.synth.seq",
    "tvips": "gpuio.synth.tvips",
    "hdf5": "gpuio.synth.hdf5",
    "npy": "gpuio.synth.npy",
    "raw": "gpuio.synth.raw",
    "raw_csr": "gpuio.synth.raw_csr",
}


def write(format: str, path: str | os.PathLike[str], frames: Scene | Flat | Iterable[np.ndarray], *, nav_shape: Sequence[int] | None = None,
          sig_shape: Sequence[int] | None = None, progress: Progress | None = None, **options: Any) -> list[str]:
    """Write a scan in a format.

    Parameters
    ----------
    format
        A key of `WRITERS`.
    path
        The file, or the first of several.
    frames
        A scene, or anything that yields stacks of frames of shape (n, *sig), all positions in C order.
    nav_shape, sig_shape
        Scan and detector axes; a scene has its own, and some formats have one detector.
    progress
        Called with the frames written and those in all.
    options
        Of the writer, such as `dtype`, `kind`, `frames_per_file`.

    Returns
    -------
    list of str
        Paths of the files.

    Raises
    ------
    DataSetException
        There is no such writer, a value does not fit the format, or frames do not have the promised shape or number.
    OSError
        A file cannot be written.
    """
    writer = _writer(format)
    nav = getattr(frames, "nav_shape", None) if nav_shape is None else nav_shape
    sig = getattr(frames, "sig_shape", detector(format)) if sig_shape is None else sig_shape
    if nav is None or sig is None:
        raise ShapeError("frames that are no scene need nav_shape and sig_shape")
    if not (nav and sig) or min(*nav, *sig) < 1:
        raise ShapeError(f"nav_shape is {tuple(nav)}, sig_shape {tuple(sig)}; expected positive integers")
    paths: list[str] = writer.write(
        os.fspath(path), frames, nav_shape=tuple(nav), sig_shape=tuple(sig), progress=progress, **options)
    return paths


def detector(format: str) -> tuple[int, ...] | None:
    """Sig shape of a format whose detector has one size; None for all others. Errors as `write`."""
    shape: tuple[int, ...] | None = getattr(_writer(format), "SIG_SHAPE", None)
    return shape


def _writer(format: str) -> ModuleType:
    if format not in WRITERS:
        raise DataSetException(f"format {format!r} cannot be written; expected one of {', '.join(WRITERS)}")
    return import_module(WRITERS[format])
