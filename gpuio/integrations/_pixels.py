"""A data set with options, as an array that other libraries slice.

Slices are outer ones: an index for each axis by itself, as xarray and dask slice. (NumPy takes lists together instead,
along a diagonal.)
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import nullcontext
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gpuio.base import CorrectionSet, DataSet

#: One for each GPU that this process decodes on.
_device_locks: defaultdict[str, Lock] = defaultdict(Lock)


class Pixels:
    """Pixels of a data set on one device; it pickles like the data set.

    Parameters
    ----------
    ds
        Initialized.
    device
        Where to decode; None is that of the data set here and now, wherever it is unpickled.
    dtype, corrections
        As `DataSet.tiles`.
    one_at_a_time
        On a GPU, let no other slice of this process be read meanwhile: they would share the bus and the memory.

    Attributes
    ----------
    shape, ndim, dtype
        Of the whole.
    """

    def __init__(self, ds: DataSet, *, device: str | None = None, dtype: Any = None, corrections: CorrectionSet | None = None,
                 one_at_a_time: bool = True) -> None:
        self.ds = ds.to(device or ds.device)
        self.corrections = corrections
        self.shape, self.ndim = tuple(ds.shape), len(ds.shape)
        self.dtype = ds.output_dtype(dtype, corrections)
        self._one_at_a_time = one_at_a_time and self.ds.device != "cpu"

    def __getitem__(self, key: Any) -> Any:
        """Pixels, in the memory of the device.

        Parameters
        ----------
        key
            For each axis, or the first ones, an integer, a slice, or integers in a list or array.

        Returns
        -------
        dtype[...]
            Without the axes that have an integer. No other frames are read than those selected; lists for detector axes read
            all that lies between their first and last pixel.
        """
        keys = key if isinstance(key, tuple) else (key,)
        keys = (*keys, *(slice(None),) * (self.ndim - len(keys)))
        n_nav = self.ds.shape.nav.dims
        nav = [np.arange(n)[k] for n, k in zip(self.shape, keys[:n_nav], strict=False)]
        sig = [np.arange(n)[k] if isinstance(k, (list, np.ndarray)) else k
               for n, k in zip(self.shape[n_nav:], keys[n_nav:], strict=True)]
        box = [_hull(k) if isinstance(k, np.ndarray) else k for k in sig]
        with _device_locks[self.ds.device] if self._one_at_a_time else nullcontext():
            pixels = self.ds.pixels((*np.ix_(*map(np.atleast_1d, nav)), *box), dtype=self.dtype, corrections=self.corrections)
        axis = n_nav
        for k, read in zip(sig, box, strict=True):
            if isinstance(k, np.ndarray):
                pixels = pixels[(*(slice(None),) * axis, k - read.start)]
            axis += not isinstance(k, (int, np.integer))
        return pixels[tuple(slice(None) if k.ndim else 0 for k in nav)]


def _hull(pixels: np.ndarray) -> slice:
    """From the first to the last of them."""
    return slice(int(pixels.min()), int(pixels.max()) + 1) if len(pixels) else slice(0, 0)
