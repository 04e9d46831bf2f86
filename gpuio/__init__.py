"""gpuio: electron-microscopy detector data, packed bytes in, CuPy or NumPy tiles out.

>>> import gpuio
>>> ds = gpuio.open("scan.hdr")                     # the format is recognised
>>> ds.shape, ds.dtype, ds.metadata
>>> pattern = ds[12, 40]                            # CuPy on a GPU, NumPy without
>>> for tile in ds.tiles(dtype="float32"):
...     total += tile.data.sum(axis=0)              # a tile is lent until the next step
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from gpuio.errors import (
    BackendUnavailable,
    DataSetException,
    FormatError,
    GpuioError,
    MemoryBudgetError,
    ReadError,
    ShapeError,
    TruncatedFile,
    UnknownFormat,
    UnsupportedFeature,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuio.dataset import DataSet

__version__ = "0.1.0"

__all__ = [
    "BackendUnavailable", "DataSetException", "FormatError", "GpuioError", "MemoryBudgetError", "ReadError", "ShapeError",
    "TruncatedFile", "UnknownFormat", "UnsupportedFeature", "__version__", "detect", "formats", "load", "open",
]


def open(path: str | os.PathLike[str], *, device: str | None = None, crop: Any = None, bin_sig: Any = None, **parameters: Any) -> DataSet:
    """Open a data set whose format is recognised from its bytes.

    Parameters
    ----------
    path
        Any file of the data set.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``: where tiles are decoded. None takes GPUIO_DEVICE, else "auto".
    crop, bin_sig
        Only a part of the detector, and sums over blocks of its pixels: see `DataSet.reduce`.
    parameters
        Of the format, such as ``nav_shape``, ``sync_offset``, ``io_backend``; and ``dtype``, of pixels where none is asked for, unless
        the format itself has such a parameter.

    Returns
    -------
    DataSet
        Initialized.

    Raises
    ------
    UnknownFormat
        No format recognises the file.
    DataSetException, OSError
        As `load`.
    """
    path = os.fspath(path)
    return load(_recognise(path), path, device=device, crop=crop, bin_sig=bin_sig, **parameters)


def load(format: str, *args: Any, device: str | None = None, crop: Any = None, bin_sig: Any = None, **parameters: Any) -> DataSet:
    """Open a data set of a named format.

    Parameters
    ----------
    format
        A name of `formats`, ``"auto"`` for `open`.
    args, parameters
        Of the format's data set class.
    device, crop, bin_sig
        As in `open`.

    Returns
    -------
    DataSet
        Initialized.

    Raises
    ------
    DataSetException
        The format is unknown, the files are not of this format, or parameters do not fit.
    OSError
        A file is missing or may not be read.
    BackendUnavailable
        The device is not available; the message says why and what to do.
    """
    from inspect import signature

    from gpuio.engine import resolve_device

    args = tuple(os.fspath(a) if isinstance(a, os.PathLike) else a for a in args)
    parameters = {k: os.fspath(v) if isinstance(v, os.PathLike) else v for k, v in parameters.items()}
    if format == "auto":
        format = _recognise(args[0] if args else parameters["path"])
    if device is not None:
        device = resolve_device(device)
    cls = _registry().get(format)
    dtype = parameters.pop("dtype") if "dtype" in parameters and "dtype" not in signature(cls).parameters else None
    ds = cls(*args, **parameters).initialize(None)
    ds._device = device
    return ds if crop is None and bin_sig is None and dtype is None else ds.reduce(crop, bin_sig, dtype)


def detect(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Recognise a file: ``{"format": name, "parameters": {...}, "info": {...}}``, or None if no format does.

    Raises
    ------
    OSError, DataSetException
        There is no such file, or it is a folder, pipe or device.
    """
    path = os.fspath(path)
    for name in _candidates(path):
        found = _registry().get(name).detect_params(path)
        if isinstance(found, dict):
            return {"format": name, **found}
    return None


def _registry() -> Any:
    """The package of formats; ``gpuio.formats()`` lists their names."""
    return import_module("gpuio.formats")


def _candidates(path: str) -> Iterator[str]:
    """Formats whose first bytes fit, those with a fitting extension first; a module is imported when its turn comes."""
    from gpuio.source import HostFiles

    registry = _registry()
    head = HostFiles().read(path, 0, registry.HEAD_BYTES)
    return (name for name in registry.sniff_order(path) if registry.get(name).sniff(head, path))


def _recognise(path: str) -> str:
    """The format of a file; the first whose bytes fit."""
    found = next(_candidates(path), None)
    if found is None:
        tried = ", ".join(_registry().sniff_order(path))
        raise UnknownFormat(f"{path}: no format recognises this file (tried {tried}); "
                            "a file without a header needs gpuio.load('raw', path=..., dtype=..., nav_shape=..., sig_shape=...)")
    return found


def __getattr__(name: str) -> Any:
    """Modules, classes of formats and names of the internal API, imported when first asked for."""
    if name.startswith("_"):
        raise AttributeError(f"module 'gpuio' has no attribute {name!r}")
    for package in ("gpuio", "gpuio.integrations"):
        if find_spec(f"{package}.{name}") is not None:
            return import_module(f"{package}.{name}")
    registry = _registry()
    for format_name in registry.names():
        if registry.FORMATS[format_name].class_name == name:
            return registry.get(format_name)
    base = import_module("gpuio.base")
    try:
        return getattr(base, name)
    except AttributeError:
        raise AttributeError(f"module 'gpuio' has no attribute {name!r}") from None
