"""Boolean masks as people hand them over: NumPy, CuPy, pydata-sparse, scipy-sparse, lists; wanted is NumPy and dense."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpuio.errors import ShapeError


def dense_mask(mask: Any, name: str, size: int | None = None) -> np.ndarray:
    """`mask` as a NumPy array in host memory, of its own shape and dtype.

    Parameters
    ----------
    mask
        Array, list, or sparse array of pydata-sparse or scipy (known by its method ``todense``).
    name
        What error messages call it.
    size
        Number of entries that it has to have, checked before a sparse array is made dense.

    Raises
    ------
    ShapeError
        Another number of entries.
    """
    if not hasattr(mask, "shape"):
        mask = np.asarray(mask)
    if size is not None and math.prod(mask.shape) != size:
        raise ShapeError(f"{name} has {math.prod(mask.shape)} entries (shape {tuple(mask.shape)}); expected {size}")
    if hasattr(mask, "todense"):
        mask = mask.todense()
    elif hasattr(mask, "__cuda_array_interface__"):
        mask = mask.get()
    return np.asarray(mask)
