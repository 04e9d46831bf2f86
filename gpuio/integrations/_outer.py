"""Outer indexing: an index for each axis by itself, as xarray and dask slice arrays; NumPy's lists select along a diagonal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gpuio.base import DataSet


def outer(ds: DataSet, key: Any, **options: Any) -> Any:
    """Pixels of a data set.

    Parameters
    ----------
    key
        For each axis, or the first ones, an integer, a slice, or integers in a list or array.
    options
        Of `DataSet.pixels`.

    Returns
    -------
    dtype[...], engine memory
        Without the axes that have an integer. No other frames are read than those selected; lists for detector axes read all that
        lies between their first and last pixel.
    """
    keys = key if isinstance(key, tuple) else (key,)
    keys = (*keys, *(slice(None),) * (len(ds.shape) - len(keys)))
    nav = [np.arange(n)[k] for n, k in zip(ds.shape.nav, keys, strict=False)]
    sig = [np.arange(n)[k] if isinstance(k, (list, np.ndarray)) else k for n, k in zip(ds.shape.sig, keys[len(nav):], strict=True)]
    box = [_hull(k) if isinstance(k, np.ndarray) else k for k in sig]
    pixels = ds.pixels((*np.ix_(*map(np.atleast_1d, nav)), *box), **options)
    axis = len(nav)
    for k, read in zip(sig, box, strict=True):
        if isinstance(k, np.ndarray):
            pixels = pixels[(*(slice(None),) * axis, k - read.start)]
        axis += not isinstance(k, (int, np.integer))
    return pixels[tuple(slice(None) if k.ndim else 0 for k in nav)]


def _hull(pixels: np.ndarray) -> slice:
    """From the first to the last of them."""
    return slice(int(pixels.min()), int(pixels.max()) + 1) if len(pixels) else slice(0, 0)
