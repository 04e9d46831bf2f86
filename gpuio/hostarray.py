"""Arrays as people hand them over (NumPy, CuPy, pydata-sparse, scipy-sparse, lists) as what gpuio plans with: NumPy, dense."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpuio.errors import ShapeError


def host_array(array: Any, name: str, size: int | None = None) -> np.ndarray:
    """`array` in host memory, dense, of its own shape and dtype; not copied where it is that already.

    Parameters
    ----------
    array
        Array, list, or sparse array (known by its method ``todense``).
    name
        What error messages call it.
    size
        Number of entries that it has to have, checked before a sparse array is made dense.

    Raises
    ------
    ShapeError
        Another number of entries.
    """
    if not hasattr(array, "shape"):
        array = np.asarray(array)
    if size is not None and math.prod(array.shape) != size:
        raise ShapeError(f"{name} has {math.prod(array.shape)} entries (shape {tuple(array.shape)}); expected {size}")
    if hasattr(array, "todense"):
        array = array.todense()
    elif hasattr(array, "__cuda_array_interface__"):
        array = array.get()
    return np.asarray(array)
