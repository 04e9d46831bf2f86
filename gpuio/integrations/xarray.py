"""xarray: ``xr.open_dataset("scan.mib", engine="gpuio")``.

The data set becomes the variable ``data`` with dims ``scan_y scan_x det_y det_x``, coordinates where the files carry
calibrations, and their metadata as attributes. Nothing is read before it is asked for; slices read only what they need.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import gpuio
from gpuio.errors import GpuioError
from gpuio.extras import extra
from gpuio.integrations._attributes import attributes
from gpuio.integrations._axes import axes
from gpuio.integrations._chunks import frame_chunks
from gpuio.integrations._pixels import Pixels

with extra("xarray"):
    import xarray
    from xarray.backends import BackendArray, BackendEntrypoint
    from xarray.core import indexing

if TYPE_CHECKING:
    from gpuio.base import CorrectionSet

VARIABLE = "data"
#: Readable here, but better by engines that know what is in them.
LEFT_TO_OTHERS = ("hdf5",)


class GpuioBackendEntrypoint(BackendEntrypoint):
    """Electron-microscopy detector data, for `xarray.open_dataset`."""

    description = "Electron-microscopy detector data: MIB, K2IS, DM4, MRC and others"
    open_dataset_parameters = ("filename_or_obj", "drop_variables", "format", "device", "corrections")

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Whether it is a file that a format recognises by its bytes."""
        if not isinstance(filename_or_obj, (str, os.PathLike)) or not os.path.isfile(filename_or_obj):
            return False
        try:
            found = gpuio.detect(filename_or_obj)
        except (OSError, GpuioError):
            return False
        return found is not None and found["format"] not in LEFT_TO_OTHERS

    def open_dataset(self, filename_or_obj: Any, *, drop_variables: str | Iterable[str] | None = None, format: str = "auto",
                     device: str | None = "cpu", corrections: CorrectionSet | None = None, **parameters: Any) -> xarray.Dataset:
        """Open a data set.

        Parameters
        ----------
        filename_or_obj
            Path of any of its files.
        drop_variables
            As everywhere in xarray.
        format
            A name of `gpuio.formats`; "auto" recognises it.
        device
            Where pixels are decoded. "cpu", since most of what is built on xarray wants NumPy arrays; "cuda" gives CuPy's.
        corrections
            As `DataSet.tiles`.
        parameters
            Of the format, such as ``nav_shape``, ``sync_offset``.

        Raises
        ------
        DataSetException, OSError, BackendUnavailable
            As `gpuio.load`.
        """
        path = os.fspath(filename_or_obj)
        ds = gpuio.load(format, path=path, device=device, **parameters)
        named = axes(ds)
        coordinates = {axis.name: (axis.name, values, {"units": axis.unit} if axis.unit else {})
                       for axis in named if (values := axis.coordinates) is not None}
        pixels = Pixels(ds, corrections=corrections)
        dims = tuple(axis.name for axis in named)
        chunks = dict(zip(dims, frame_chunks(ds, pixels.dtype), strict=True))
        variable = xarray.Variable(dims, indexing.LazilyIndexedArray(_Lazy(pixels)), encoding={"preferred_chunks": chunks})
        whole = xarray.Dataset({VARIABLE: variable}, coordinates, attributes({"file_format": ds.format, **ds.metadata}))
        return whole.drop_vars(drop_variables or (), errors="ignore")


class _Lazy(BackendArray):
    """Pixels that are read when they are asked for."""

    def __init__(self, pixels: Pixels) -> None:
        self._pixels = pixels
        self.shape, self.dtype = pixels.shape, pixels.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._pixels.__getitem__)
