"""A scan to measure with, where none is given: random counts in any format that can be written.

Counts are Poisson numbers of mean `MEAN`, every pixel for itself, so they compress as a detector's do (some 4 bits a pixel)
and nothing is ever all zeros. Where a format counts to one only, it gets their lowest bit.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import gpuio
from gpuio import formats as registry
from gpuio import synth
from gpuio.dataset import DataSet
from gpuio.errors import DataSetException
from gpuio.explain import size_text
from gpuio.synth._writing import Progress

MEAN = 20
SIG_SHAPE = (256, 256)
#: Frames of a stack, fewer if they are large; positions of a scan line.
STACK_BYTES, LINE = 4 << 20, 16
#: Of the free space, as much may be taken.
USABLE = 0.9


def make(folder: Path, format: str, n_bytes: int, options: dict[str, Any], seed: int = 1,
         progress: Progress | None = None) -> tuple[str, dict[str, Any]]:
    """Write a scan of about `n_bytes` into a folder.

    Parameters
    ----------
    options
        Of the format's writer, such as `kind`; `sig_shape` as well.

    Returns
    -------
    path, parameters
        What to open it with.

    Raises
    ------
    DataSetException
        There is no such writer, or it refuses the options.
    OSError
        The disk is too small, or cannot be written.
    """
    options = dict(options)
    sig = tuple(options.pop("sig_shape", None) or synth.detector(format) or SIG_SHAPE)
    one_bit = False
    try:
        frame_bytes = _write(folder / "sample", format, 2, sig, options, seed, one_bit)[1]
    except DataSetException:            # counts that do not fit, or something that will be wrong with smaller ones, too
        one_bit = True
        frame_bytes = _write(folder / "sample", format, 2, sig, options, seed, one_bit)[1]
    shutil.rmtree(folder / "sample")
    lines = max(1, round(n_bytes / frame_bytes / LINE))
    wanted, free = lines * LINE * frame_bytes, shutil.disk_usage(folder).free
    if wanted > free * USABLE:
        raise OSError(f"{folder}: a scan of {size_text(wanted)} is too large for the {size_text(free)} that are free; "
                      "choose a smaller --size, or another folder by TMPDIR")
    path, _ = _write(folder, format, lines, sig, options, seed, one_bit, progress)
    if format == "raw":
        return path, {"nav_shape": (lines, LINE), "sig_shape": sig, "dtype": options.get("dtype", "<u2")}
    return path, {}


def opened(path: str, format: str, device: str | None, parameters: dict[str, Any], transport: str | None) -> DataSet:
    """The data set of a file, read by a transport if one is named.

    Raises
    ------
    DataSetException, OSError, BackendUnavailable
        The file is not of the format; there is no such transport.
    """
    if transport is not None:
        cls = gpuio.IOBackend.get_cls_by_id(transport)
        if cls is None:
            raise DataSetException(f"transport {transport!r} is unknown; expected one of {', '.join(gpuio.IOBackend.get_supported())}")
        parameters = {**parameters, "io_backend": cls()}
    if format == "auto":
        return gpuio.open(path, device=device, **parameters)
    return gpuio.load(format, path=path, device=device, **parameters)


def _write(folder: Path, format: str, lines: int, sig: tuple[int, ...], options: dict[str, Any], seed: int, one_bit: bool,
           progress: Progress | None = None) -> tuple[str, float]:
    """Write `lines` of a scan; the file to open, and bytes for each frame."""
    folder.mkdir(exist_ok=True)
    extensions = registry.FORMATS[format].extensions if format in registry.FORMATS else ()
    path = folder / f"scan.{extensions[0] if extensions else format}"
    frames = _counts(lines * LINE, sig, seed, one_bit)
    paths = synth.write(format, path, frames, nav_shape=(lines, LINE), sig_shape=sig, progress=progress, **options)
    known = [p for p in paths if p.endswith(tuple(f".{e}" for e in extensions))] or paths
    return known[-1], sum(map(os.path.getsize, paths)) / (lines * LINE)


def _counts(n: int, sig: tuple[int, ...], seed: int, one_bit: bool) -> Iterator[np.ndarray]:
    """Stacks of `n` frames in all, uint16."""
    rng = np.random.default_rng(seed)
    table = np.sort(rng.poisson(MEAN, 256)).astype(np.uint16)
    if one_bit:
        table &= 1
    depth = max(1, STACK_BYTES // (2 * math.prod(sig)))
    for first in range(0, n, depth):
        yield table[rng.integers(0, 256, (min(depth, n - first), *sig), dtype=np.uint8)]
