"""HyperSpy: ``hs.load("scan.mib", reader=gpuio.rsciio)``.

`file_reader` keeps the contract of RosettaSciIO's readers: a list of one dict with the data, axes, metadata by
HyperSpy's tree, and all that the files say. Data are NumPy arrays, or dask arrays if they are lazy; HyperSpy's own
signals for CuPy are a step of its own (``signal.to_device()``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import gpuio
from gpuio.integrations._axes import Axis, axes

#: Where HyperSpy looks for the microscope's settings, and keys of metadata with what makes its unit of them.
INSTRUMENT = {
    "beam_energy": {"beam_energy_V": 1e-3, "voltage_v": 1e-3, "high_voltage_V": 1e-3, "high_tension_kV": 1.0},      # keV
    "camera_length": {"camera_length_mm": 1.0, "camera_length_m": 1e3},                                             # mm
    "magnification": {"magnification": 1.0, "total_magnification": 1.0},
}


def file_reader(filename: str | os.PathLike[str], lazy: bool = False, *, format: str = "auto", chunks: Any = "auto",
                corrections: Any = None, **parameters: Any) -> list[dict[str, Any]]:
    """Read a data set as HyperSpy and RosettaSciIO want it.

    Parameters
    ----------
    filename
        Any file of the data set.
    lazy
        Leave pixels in the file until they are wanted.
    format
        A name of `gpuio.formats`; "auto" recognises it.
    chunks
        As `DataSet.to_dask`; of lazy data.
    corrections
        As `DataSet.tiles`.
    parameters
        Of the format, such as ``nav_shape``, ``sync_offset``.

    Returns
    -------
    list of one dict
        ``data``, ``axes``, ``metadata``, ``original_metadata``.

    Raises
    ------
    DataSetException, OSError
        As `gpuio.load`.
    BackendUnavailable
        Lazy data without dask.
    """
    path = os.fspath(filename)
    ds = gpuio.load(format, path=path, device="cpu", **parameters)
    data = ds.to_dask(chunks=chunks, corrections=corrections) if lazy else ds.to_numpy(corrections=corrections)
    return [{"data": data, "axes": [_axis(axis, number) for number, axis in enumerate(axes(ds))], "metadata": _metadata(path, ds.metadata),
             "original_metadata": {"file_format": ds.format, **ds.metadata}}]


def _axis(axis: Axis, number: int) -> dict[str, Any]:
    described = {"name": axis.name, "size": axis.size, "navigate": axis.is_nav, "index_in_array": number,
                 "scale": 1.0 if axis.scale is None else axis.scale, "offset": axis.offset}
    return {**described, "units": axis.unit} if axis.unit else described


def _metadata(path: str, found: Mapping[str, Any]) -> dict[str, Any]:
    instrument = {}
    for name, keys in INSTRUMENT.items():
        values = [found[key] * factor for key, factor in keys.items() if isinstance(found.get(key), (int, float)) and found[key] > 0]
        if values:
            instrument[name] = values[0]
    title, _ = os.path.splitext(os.path.basename(path))
    metadata: dict[str, Any] = {"General": {"title": title, "original_filename": os.path.basename(path)}, "Signal": {"signal_type": ""}}
    return {**metadata, "Acquisition_instrument": {"TEM": instrument}} if instrument else metadata
