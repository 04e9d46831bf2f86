"""Shapes that know which axes are navigation and which are signal, and boxes of them."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


class Shape:
    """A shape whose last `sig_dims` axes are sig, the rest nav.

    Parameters
    ----------
    shape
        Entries, converted to int.
    sig_dims
        How many of them are sig axes.

    Raises
    ------
    ValueError
        A negative entry, or more sig axes than entries.
    """

    __slots__ = ("_entries", "_sig_dims")

    def __init__(self, shape: Sequence[int], sig_dims: int) -> None:
        entries = tuple(operator.index(n) for n in shape)
        sig_dims = operator.index(sig_dims)
        if any(n < 0 for n in entries):
            raise ValueError(f"shape {entries} has a negative entry")
        if not 0 <= sig_dims <= len(entries):
            raise ValueError(f"shape {entries} cannot have {sig_dims} sig axes")
        self._entries = entries
        self._sig_dims = sig_dims

    @property
    def nav(self) -> Shape:
        """The nav axes alone, with no sig axis."""
        return Shape(self._entries[: len(self._entries) - self._sig_dims], 0)

    @property
    def sig(self) -> Shape:
        """The sig axes alone."""
        return Shape(self._entries[len(self._entries) - self._sig_dims:], self._sig_dims)

    @property
    def dims(self) -> int:
        """Number of axes."""
        return len(self._entries)

    @property
    def size(self) -> int:
        """Product of the entries; 0 for an empty shape."""
        return math.prod(self._entries) if self._entries else 0

    def flatten_nav(self) -> Shape:
        """The same with one nav axis."""
        return Shape((self.nav.size, *self.sig._entries), self._sig_dims)

    def flatten_sig(self) -> Shape:
        """The same with one sig axis."""
        return Shape((*self.nav._entries, self.sig.size), 1)

    def to_tuple(self) -> tuple[int, ...]:
        """Plain entries."""
        return self._entries

    def __iter__(self) -> Iterator[int]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, key: Any) -> Any:
        return self._entries[key]

    def __add__(self, other: object) -> Shape:
        if not isinstance(other, tuple):
            raise TypeError(f"a Shape can be extended by a tuple, not by {type(other).__name__}")
        return Shape((*self._entries, *other), self._sig_dims + len(other))

    def __radd__(self, other: object) -> Shape:
        if not isinstance(other, tuple):
            raise TypeError(f"a Shape can be extended by a tuple, not by {type(other).__name__}")
        return Shape((*self.nav._entries, *other, *self.sig._entries), self._sig_dims)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shape) and (self._entries, self._sig_dims) == (other._entries, other._sig_dims)

    def __hash__(self) -> int:
        return hash((self._entries, self._sig_dims))

    def __repr__(self) -> str:
        return repr(self._entries)

    def __getstate__(self) -> tuple[tuple[int, ...], int]:
        return self._entries, self._sig_dims

    def __setstate__(self, state: tuple[tuple[int, ...], int]) -> None:
        self._entries, self._sig_dims = state


class SliceUsageError(ValueError):
    """Slices that cannot be made or combined as asked."""


class Slice:
    """A box: where it begins, and its shape.

    Raises
    ------
    SliceUsageError
        `shape` is no Shape, or has not as many axes as `origin`.
    """

    __slots__ = ("origin", "shape")

    def __init__(self, origin: Sequence[int], shape: Shape) -> None:
        if not isinstance(shape, Shape):
            raise SliceUsageError(f"the shape of a slice has to be a Shape, not {type(shape).__name__}")
        self.origin: tuple[int, ...] = tuple(int(o) for o in origin)
        self.shape = shape
        if len(self.origin) != shape.dims:
            raise SliceUsageError(f"origin {self.origin} has {len(self.origin)} entries, shape {shape} has {shape.dims}")

    @classmethod
    def from_shape(cls, shape: Sequence[int], sig_dims: int) -> Slice:
        """The box of this shape at zero."""
        return cls((0,) * len(tuple(shape)), Shape(tuple(shape), sig_dims))

    @property
    def _nav_dims(self) -> int:
        return self.shape.nav.dims

    @property
    def nav(self) -> Slice:
        """The nav axes."""
        return Slice(self.origin[: self._nav_dims], self.shape.nav)

    @property
    def sig(self) -> Slice:
        """The sig axes."""
        return Slice(self.origin[self._nav_dims:], self.shape.sig)

    def discard_nav(self) -> Slice:
        """The sig axes in place, nav origin and extent 0: a key for what depends on the sig position only."""
        none = (0,) * self._nav_dims
        return Slice(none + self.origin[self._nav_dims:], Shape(none + self.shape.sig.to_tuple(), self.shape.sig.dims))

    def is_null(self) -> bool:
        """Whether some axis is empty."""
        return any(n == 0 for n in self.shape)

    def _same_kind(self, other: Slice) -> None:
        if self.shape.dims != other.shape.dims or self.shape.sig.dims != other.shape.sig.dims:
            raise SliceUsageError(f"{self!r} and {other!r} have different nav or sig axes")

    def intersection_with(self, other: Slice) -> Slice:
        """What both cover."""
        self._same_kind(other)
        origin = tuple(max(a, b) for a, b in zip(self.origin, other.origin, strict=True))
        shape = tuple(max(0, min(a + n, b + m) - o) for a, n, b, m, o in
                      zip(self.origin, self.shape, other.origin, other.shape, origin, strict=True))
        return Slice(origin, Shape(shape, self.shape.sig.dims))

    def shift(self, other: Slice) -> Slice:
        """The same box as seen from the origin of `other`."""
        self._same_kind(other)
        return Slice(tuple(a - b for a, b in zip(self.origin, other.origin, strict=True)), self.shape)

    def shift_by(self, offset: Sequence[int]) -> Slice:
        """Moved by `offset`."""
        if len(tuple(offset)) != len(self.origin):
            raise SliceUsageError(f"offset {tuple(offset)} does not fit {self!r}")
        return Slice(tuple(a + int(b) for a, b in zip(self.origin, offset, strict=True)), self.shape)

    def get(self, arr: Any = None, sig_only: bool = False, nav_only: bool = False) -> Any:
        """The box as a tuple of slices, or `arr` cut to it.

        Parameters
        ----------
        arr
            With `sig_only` its last axes are cut, so that it may be a mask or a stack; with `nav_only` its first.
        """
        every = tuple(slice(o, o + n) for o, n in zip(self.origin, self.shape, strict=True))
        n = self._nav_dims
        if sig_only:
            every = every[n:]
            return every if arr is None else arr[(Ellipsis, *every)]
        if nav_only:
            every = every[:n]
        return every if arr is None else arr[every]

    def subslices(self, shape: Sequence[int]) -> Iterator[Slice]:
        """Boxes of at most `shape` that cover this one, in C order, border ones cut."""
        step = tuple(int(n) for n in shape)
        if len(step) != len(self.origin):
            raise SliceUsageError(f"sub-slices of shape {step} do not fit {self!r}")
        if any(n < 1 for n in step):
            raise SliceUsageError(f"sub-slices of shape {step} are empty")
        counts = [-(-n // s) for n, s in zip(self.shape, step, strict=True)]
        for index in np.ndindex(*counts):
            origin = tuple(o + i * s for o, i, s in zip(self.origin, index, step, strict=True))
            extent = tuple(min(s, n - i * s) for n, i, s in zip(self.shape, index, step, strict=True))
            yield Slice(origin, Shape(extent, self.shape.sig.dims))

    def flatten_nav(self, containing_shape: Sequence[int]) -> Slice:
        """The same box over the flattened nav axes of `containing_shape`.

        Raises
        ------
        ValueError
            The box is not contiguous there.
        """
        containing = Shape(tuple(containing_shape), self.shape.sig.dims)
        nav_shape = containing.nav.to_tuple()
        n = self._nav_dims
        if len(nav_shape) != n:
            raise SliceUsageError(f"{self!r} does not have the nav axes of {tuple(containing_shape)}")
        started = False
        for extent, size in zip(self.shape.to_tuple()[:n], nav_shape, strict=True):
            if started and extent != size:
                raise ValueError(f"{self!r} is not contiguous on the flat nav axis of {nav_shape}")
            started = started or extent > 1
        first = 0
        for o, size in zip(self.origin[:n], nav_shape, strict=True):
            first = first * size + o
        return Slice((first, *self.origin[n:]), Shape((self.shape.nav.size, *self.shape.sig), self.shape.sig.dims))

    def adjust_for_roi(self, roi: Any) -> Slice:
        """The same frames counted on the nav axis compressed by `roi`; None leaves the slice as it is."""
        if roi is None:
            return self
        if self._nav_dims != 1:
            raise SliceUsageError(f"{self!r} needs one nav axis to be adjusted for a roi")
        flat = np.asarray(roi).reshape(-1)
        first, stop = self.origin[0], self.origin[0] + self.shape[0]
        before, inside = int(np.count_nonzero(flat[:first])), int(np.count_nonzero(flat[first:stop]))
        return Slice((before, *self.origin[1:]), Shape((inside, *self.shape.sig), self.shape.sig.dims))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slice) and self.origin == other.origin and self.shape == other.shape

    def __hash__(self) -> int:
        return hash((self.origin, self.shape))

    def __repr__(self) -> str:
        return f"<Slice origin={self.origin} shape={self.shape}>"

    def __getstate__(self) -> tuple[tuple[int, ...], Shape]:
        return self.origin, self.shape

    def __setstate__(self, state: tuple[tuple[int, ...], Shape]) -> None:
        self.origin, self.shape = state
