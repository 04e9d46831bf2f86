"""Ways out of gpuio: a data set as what other libraries take."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuio.access import PixelAccess

if TYPE_CHECKING:
    from gpuio.corrections import CorrectionSet


class Exchange(PixelAccess):
    """Conversions of a class that has pixels."""

    if TYPE_CHECKING:
        @property
        def device(self) -> str: ...
        def to(self, device: str) -> Any: ...

    def to_numpy(self, *, dtype: Any = None, corrections: CorrectionSet | None = None) -> np.ndarray:
        """The whole data set in host memory, decoded on its device; blank positions are zero.

        Parameters
        ----------
        dtype, corrections
            As in `tiles`.

        Returns
        -------
        dtype[nav, sig], host memory
        """
        if self.device == "cpu":
            whole: np.ndarray = self.pixels(dtype=dtype, corrections=corrections)
            return whole
        # Tile by tile: a device rarely holds the whole.
        out = np.zeros(tuple(self.shape), self.output_dtype(dtype, corrections))
        frames = out.reshape(-1, *self.shape.sig)
        for tile in self.tiles(dtype, corrections=corrections):
            first = int(tile.tile_slice.origin[0])
            frames[first:first + len(tile)] = self.engine.download(tile.data)
        return out

    def to_cupy(self, *, dtype: Any = None, corrections: CorrectionSet | None = None) -> Any:
        """The whole data set in GPU memory: that of its device, or of the first GPU if its device is the CPU; else as `to_numpy`.

        Raises
        ------
        BackendUnavailable
            There is no GPU; the message says why and what to do.
        """
        on_gpu = self.to("cuda") if self.device == "cpu" else self
        return on_gpu.pixels(dtype=dtype, corrections=corrections)

    def to_dask(self, **options: Any) -> Any:
        """The data set as a dask array; options are those of `gpuio.integrations.dask.to_dask`.

        Raises
        ------
        BackendUnavailable
            dask is not installed; the message names the extra.
        """
        from gpuio.integrations.dask import to_dask

        return to_dask(self, **options)

    def to_virtual(self) -> dict[str, Any]:
        """References for Zarr and xarray, which then read the files in place; see `gpuio.integrations.references`.

        Raises
        ------
        UnsupportedFeature
            The pixels are not stored as Zarr could read them; the message says why.
        """
        from gpuio.integrations.references import references

        return references(self)

    def save(self, path: str | os.PathLike[str], **options: Any) -> Any:
        """Write the pixels to a ``.npy``, ``.h5`` or ``.zarr`` file; options and result are those of `gpuio.integrations.export.export`."""
        from gpuio.integrations.export import export

        return export(self, path, **options)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The whole data set in host memory, as NumPy asks for it.

        Raises
        ------
        ValueError
            No copy is allowed: pixels have to be read.
        """
        if copy is False:
            raise ValueError("pixels of a data set cannot become a NumPy array without a copy")
        return np.asarray(self.to_numpy(), dtype=dtype)
