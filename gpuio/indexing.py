"""``ds[12, 40]``, ``ds[:, ::2]``, ``ds[mask]``, ``ds[..., 10:20, :]``: NumPy's basic indexing and nav masks on files.

Nav axes come first. They take integers, slices, integer lists and one boolean mask of the nav shape; sig axes take
integers and slices, and only the rows and columns asked for are decoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpuio.errors import ShapeError
from gpuio.pipeline import Box

if TYPE_CHECKING:
    from gpuio.shape import Shape


class Indexing:
    """Adds ``ds[...]`` to a class with `shape` and `read`."""

    if TYPE_CHECKING:
        @property
        def shape(self) -> Shape: ...

        def read(self, nav: np.ndarray, *, box: Box | None = None) -> Any: ...

    def __getitem__(self, key: Any) -> Any:
        """Decoded pixels, NumPy or CuPy by device; blank positions are zero.

        Raises
        ------
        IndexError
            Out of range, or too many indices.
        ShapeError
            A mask whose shape is not the nav shape.
        """
        nav_key, sig_key = split_key(key, self.shape)
        nav_shape, sig_shape = tuple(self.shape.nav), tuple(self.shape.sig)
        positions = np.arange(int(np.prod(nav_shape)), dtype=np.int64).reshape(nav_shape)[nav_key]
        origin, extent, rest = [], [], []
        for k, n in zip(sig_key, sig_shape, strict=True):
            first, count, inner = _interval(k, n)
            origin.append(first)
            extent.append(count)
            rest.append(inner)
        selected = np.asarray(positions)
        whole = tuple(extent) == sig_shape
        if 0 in extent:
            nothing = self.read(selected.ravel()[:0]).reshape(0)
            return nothing.reshape(*selected.shape, *extent)[(Ellipsis, *rest)]
        data = self.read(selected.ravel(), box=None if whole else Box(tuple(origin), tuple(extent)))
        data = data.reshape(*selected.shape, *extent)
        return data[(Ellipsis, *rest)] if any(r != slice(None) for r in rest) else data

    def __len__(self) -> int:
        return int(self.shape[0])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The whole data set in host memory, as NumPy asks for it."""
        data = self[...]
        host = data.get() if hasattr(data, "get") else data
        return np.asarray(host, dtype=dtype)


def split_key(key: Any, shape: Shape) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """A key as one for the nav axes (for NumPy) and one entry for each sig axis; errors as ``ds[key]``."""
    keys = list(key) if isinstance(key, tuple) else [key]
    keys = [np.asarray(k) if isinstance(k, (list, np.ndarray)) or hasattr(k, "get") else k for k in keys]
    nav_dims, sig_dims = shape.nav.dims, shape.sig.dims
    dots = [i for i, k in enumerate(keys) if k is Ellipsis]
    if len(dots) > 1:
        raise IndexError("an index can have only one ellipsis ('...')")
    taken = sum(_axes(k) for k in keys if k is not Ellipsis)
    if taken > nav_dims + sig_dims:
        raise IndexError(f"too many indices: {taken} for {nav_dims} nav and {sig_dims} sig axes")
    missing = [slice(None)] * (nav_dims + sig_dims - taken)
    at = dots[0] if dots else len(keys)
    keys[at:at + 1] = missing
    nav: list[Any] = []
    axes = 0
    while axes < nav_dims:
        k = keys.pop(0)
        if isinstance(k, np.ndarray) and k.dtype == bool and k.shape != tuple(shape.nav)[axes:axes + k.ndim]:
            raise ShapeError(f"mask of shape {k.shape} does not fit the nav shape {tuple(shape.nav)}")
        axes += _axes(k)
        nav.append(k)
    if axes > nav_dims or any(isinstance(k, np.ndarray) and k.ndim for k in keys):
        raise IndexError("masks and lists select scan positions; detector axes take integers and slices")
    return tuple(nav), tuple(int(k) if isinstance(k, np.ndarray) else k for k in keys)


def _axes(key: Any) -> int:
    """How many axes an entry of a key takes."""
    if key is None:
        raise IndexError("None (a new axis) cannot be used as an index of a data set; index the result")
    return key.ndim if isinstance(key, np.ndarray) and key.dtype == bool else 1


def _interval(key: Any, size: int) -> tuple[int, int, Any]:
    """The interval of an axis that an index touches: (first, count, index within the interval)."""
    if isinstance(key, slice):
        picked = range(size)[key]
        if not picked:
            return 0, 0, slice(None)
        low, high = min(picked[0], picked[-1]), max(picked[0], picked[-1])
        inner = slice(None) if picked.step == 1 else slice(None, None, picked.step)
        return low, high - low + 1, inner
    index = int(key) + (size if key < 0 else 0)
    if not 0 <= index < size:
        raise IndexError(f"index {key} is out of range for a detector axis of {size}")
    return index, 1, 0
