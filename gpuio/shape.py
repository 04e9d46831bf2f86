"""Shapes that know which axes are nav (the scan) and which are sig (the detector), and boxes in them."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np

from gpuio.errors import ShapeError
from gpuio.hostarray import host_array


class SliceUsageError(ShapeError):
    """A slice was asked for something that it cannot express."""


class Shape(Sequence[int]):
    """A shape whose last `sig_dims` entries are sig axes and whose first ones are nav axes. A value: hashable, never changed.

    Parameters
    ----------
    shape
        Entries of all axes, slowest first.
    sig_dims
        How many of them are sig axes.

    Raises
    ------
    ShapeError
        An entry is negative, or `sig_dims` is negative or larger than the number of axes.
    TypeError
        An entry is not an integer.

    Examples
    --------
    >>> x = Shape((3, 5, 16, 20), sig_dims=2)
    >>> x.nav, x.sig, x.flatten_nav()
    ((3, 5), (16, 20), (15, 16, 20))
    """

    __slots__ = ("_shape", "_sig_dims")

    def __init__(self, shape: Iterable[int], sig_dims: int) -> None:
        entries = tuple(map(operator.index, shape))
        sig_dims = operator.index(sig_dims)
        if entries and min(entries) < 0:
            raise ShapeError(f"shape {entries} has a negative entry")
        if not 0 <= sig_dims <= len(entries):
            raise ShapeError(f"sig_dims is {sig_dims}; expected 0 to {len(entries)} for shape {entries}")
        self._shape = entries
        self._sig_dims = sig_dims

    @property
    def nav(self) -> Shape:
        """The nav axes; none of them is sig."""
        return Shape(self._shape[:len(self._shape) - self._sig_dims], sig_dims=0)

    @property
    def sig(self) -> Shape:
        """The sig axes; none of them is nav."""
        return Shape(self._shape[len(self._shape) - self._sig_dims:], sig_dims=self._sig_dims)

    @property
    def dims(self) -> int:
        """Number of axes."""
        return len(self._shape)

    @property
    def size(self) -> int:
        """Product of all entries; 0, not 1, if there are none."""
        return math.prod(self._shape) if self._shape else 0

    def flatten_nav(self) -> Shape:
        """All nav axes as one."""
        return Shape((self.nav.size, *self.sig), sig_dims=self._sig_dims)

    def flatten_sig(self) -> Shape:
        """All sig axes as one."""
        return Shape((*self.nav, self.sig.size), sig_dims=1)

    def to_tuple(self) -> tuple[int, ...]:
        """All entries."""
        return self._shape

    @overload
    def __getitem__(self, key: int) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[int, ...]: ...
    def __getitem__(self, key: int | slice) -> int | tuple[int, ...]:
        return self._shape[key]

    def __len__(self) -> int:
        return len(self._shape)

    def __iter__(self) -> Iterator[int]:
        return iter(self._shape)

    def __add__(self, other: Any) -> Shape:
        """Further sig axes behind the others."""
        if not isinstance(other, tuple):
            return NotImplemented
        return Shape(self._shape + other, sig_dims=self._sig_dims + len(other))

    def __radd__(self, other: Any) -> Shape:
        """Further nav axes, put between the nav axes and the sig axes."""
        if not isinstance(other, tuple):
            return NotImplemented
        return Shape((*self.nav, *other, *self.sig), sig_dims=self._sig_dims)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shape) and self._shape == other._shape and self._sig_dims == other._sig_dims

    def __hash__(self) -> int:
        return hash((self._shape, self._sig_dims))

    def __repr__(self) -> str:
        return repr(self._shape)

    def __reduce__(self) -> tuple[Any, ...]:
        return Shape, (self._shape, self._sig_dims)


class Slice:
    """A box in nav and sig axes. A value: hashable, never changed.

    Parameters
    ----------
    origin
        Its first element, one entry for each axis.
    shape
        Its extent.

    Raises
    ------
    SliceUsageError
        `shape` is no `Shape`, or of another length than `origin`.
    """

    __slots__ = ("origin", "shape")

    origin: tuple[int, ...]
    shape: Shape

    def __init__(self, origin: Iterable[int], shape: Shape) -> None:
        if not isinstance(shape, Shape):
            raise SliceUsageError(f"the shape of a slice is a {type(shape).__name__}; expected a Shape")
        self.origin = tuple(map(operator.index, origin))
        self.shape = shape
        if len(self.origin) != len(shape):
            raise SliceUsageError(f"origin {self.origin} has {len(self.origin)} axes; shape {shape} has {len(shape)}")

    @classmethod
    def from_shape(cls, shape: Iterable[int], sig_dims: int) -> Slice:
        """The box that begins at zero and spans `shape`."""
        whole = Shape(shape, sig_dims=sig_dims)
        return cls((0,) * len(whole), whole)

    @property
    def nav(self) -> Slice:
        """The nav axes of this box."""
        nav = self.shape.nav
        return Slice(self.origin[:len(nav)], nav)

    @property
    def sig(self) -> Slice:
        """The sig axes of this box."""
        sig = self.shape.sig
        return Slice(self.origin[len(self.origin) - len(sig):], sig)

    def is_null(self) -> bool:
        """Whether the box has no elements."""
        return 0 in self.shape

    def intersection_with(self, other: Slice) -> Slice:
        """What both boxes cover; extents never go below 0.

        Raises
        ------
        SliceUsageError
            The boxes have not the same axes.
        """
        self._check_axes(other)
        origin = tuple(map(max, self.origin, other.origin))
        ends = (min(a + n, b + m) for a, n, b, m in zip(self.origin, self.shape, other.origin, other.shape, strict=True))
        return Slice(origin, Shape((max(0, end - o) for o, end in zip(origin, ends, strict=True)), sig_dims=self.shape.sig.dims))

    def shift(self, other: Slice) -> Slice:
        """This box as seen from the origin of another one; errors as `intersection_with`."""
        self._check_axes(other)
        return Slice(map(operator.sub, self.origin, other.origin), self.shape)

    def shift_by(self, offset: Sequence[int]) -> Slice:
        """This box moved by `offset`, one entry for each axis."""
        if len(offset) != len(self.origin):
            raise SliceUsageError(f"{self!r} cannot be shifted by {tuple(offset)}: {len(offset)} entries for {len(self.origin)} axes")
        return Slice(map(operator.add, self.origin, offset), self.shape)

    def get(self, arr: Any = None, sig_only: bool = False, nav_only: bool = False) -> Any:
        """This box as an index: a tuple of slices, or what it selects from `arr`.

        Parameters
        ----------
        arr
            Anything that NumPy's slices index. None returns the index itself.
        sig_only
            Only the sig axes, taken from the last axes of `arr`; it may have any nav axes before them.
        nav_only
            Only the nav axes; further axes of `arr` stay whole.

        Raises
        ------
        SliceUsageError
            The origin is negative, which an index would take for the other end of the array; or both flags are set.
        """
        if sig_only and nav_only:
            raise SliceUsageError("sig_only and nav_only exclude each other")
        box = self.sig if sig_only else self.nav if nav_only else self
        if box.origin and min(box.origin) < 0:
            raise SliceUsageError(f"{self!r} begins outside of the array")
        index = tuple(slice(o, o + n) for o, n in zip(box.origin, box.shape, strict=True))
        if arr is None:
            return index
        return arr[(..., *index) if sig_only else index]

    def discard_nav(self) -> Slice:
        """The same sig box at nav origin zero with empty nav axes: a key for caches by sig position."""
        zeros = (0,) * self.shape.nav.dims
        return Slice((*zeros, *self.sig.origin), Shape((*zeros, *self.shape.sig), sig_dims=self.shape.sig.dims))

    def flatten_nav(self, containing_shape: Sequence[int]) -> Slice:
        """This box of `containing_shape` with one flat nav axis.

        Raises
        ------
        SliceUsageError
            The nav part is not a run of the flat axis, or not within `containing_shape`.
        """
        nav = self.nav
        containing = tuple(containing_shape)[:len(nav.shape)]
        if len(containing_shape) != len(self.origin) or not all(
                o >= 0 and o + n <= c for o, n, c in zip(nav.origin, nav.shape, containing, strict=True)):
            raise SliceUsageError(f"{self!r} does not lie within {tuple(containing_shape)}")
        if not is_run(nav.shape, containing):
            raise SliceUsageError(f"{self!r} is no run of the flat nav axis of {tuple(containing_shape)}")
        return Slice((flat_index(nav.origin, containing), *self.sig.origin), self.shape.flatten_nav())

    def adjust_for_roi(self, roi: Any) -> Slice:
        """This box on the nav axis that is left when only positions of `roi` are counted.

        Parameters
        ----------
        roi : bool[nav] or None
            Any shape with as many entries as the flat nav axis. None: nothing changes.

        Raises
        ------
        SliceUsageError
            This box has not exactly one nav axis.
        """
        if roi is None:
            return self
        if self.shape.nav.dims != 1:
            raise SliceUsageError(f"{self!r} has {self.shape.nav.dims} nav axes; a roi needs a flat one")
        mask = host_array(roi, "roi").reshape(-1)
        first, stop = max(0, self.origin[0]), max(0, self.origin[0] + self.shape[0])
        before, inside = np.count_nonzero(mask[:first]), np.count_nonzero(mask[first:stop])
        return Slice((int(before), *self.sig.origin), Shape((int(inside), *self.shape.sig), sig_dims=self.shape.sig.dims))

    def subslices(self, shape: Sequence[int]) -> Iterator[Slice]:
        """Cut this box into boxes of `shape`, in C order; those at the border are smaller.

        Raises
        ------
        SliceUsageError
            `shape` has another number of axes, or an entry below 1.
        """
        steps = tuple(map(operator.index, shape))
        if len(steps) != len(self.origin):
            raise SliceUsageError(f"{self!r} cannot be cut into {steps}: {len(steps)} entries for {len(self.origin)} axes")
        if steps and min(steps) < 1:
            raise SliceUsageError(f"{self!r} cannot be cut into {steps}: entries have to be positive")
        axes = [[(o + at, min(step, n - at)) for at in range(0, n, step)]
                for o, n, step in zip(self.origin, self.shape, steps, strict=True)]
        sig_dims = self.shape.sig.dims
        return (Slice((o for o, _ in box), Shape((n for _, n in box), sig_dims=sig_dims)) for box in itertools.product(*axes))

    def _check_axes(self, other: Slice) -> None:
        if len(self.origin) != len(other.origin) or self.shape.sig.dims != other.shape.sig.dims:
            raise SliceUsageError(f"{self!r} and {other!r} have not the same nav and sig axes")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slice) and self.origin == other.origin and self.shape == other.shape

    def __hash__(self) -> int:
        return hash((self.origin, self.shape))

    def __repr__(self) -> str:
        return f"<Slice origin={self.origin} shape={self.shape}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Slice, (self.origin, self.shape)


def flat_index(origin: Sequence[int], containing: Sequence[int]) -> int:
    """C-order index of the element at `origin` of an array of shape `containing`."""
    flat = 0
    for o, n in zip(origin, containing, strict=True):
        flat = flat * n + o
    return flat


def is_run(shape: Sequence[int], containing: Sequence[int]) -> bool:
    """Whether a box of `shape` covers elements that follow each other in a C-order array of shape `containing`."""
    several = False
    for n, whole in zip(shape, containing, strict=True):
        if several and n != whole:
            return False
        several = several or n != 1
    return True
