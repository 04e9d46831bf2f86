"""Less detector than was recorded: a crop, and the sum over blocks of pixels.

A reduction acts on the last two sig axes (the only one of a line detector); axes before them stay whole. First the crop, then
blocks of `factors` pixels are summed; pixels left over at the lower and right edge of the crop are dropped. Corrections and
repair of excluded pixels come before, so that they see the detector as it is.

Sums are exact for integers. Floating pixels are added in float64 in C order of the block and rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuio.errors import ShapeError

#: What `crop` may be: an interval for each of the last two sig axes, as a slice or as (first, one past the last).
Crop = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Reduction:
    """Which part of the detector is kept, and how many of its pixels become one.

    Parameters
    ----------
    origin
        First pixel on each sig axis.
    shape
        Pixels of the result on each sig axis.
    factors
        Pixels of the detector that are summed into one, on each sig axis.
    """

    origin: tuple[int, ...]
    shape: tuple[int, ...]
    factors: tuple[int, ...]

    @property
    def bins(self) -> bool:
        """Whether anything is summed."""
        return any(f > 1 for f in self.factors)

    @property
    def pixels(self) -> int:
        """Pixels of the detector that become one."""
        return int(np.prod(self.factors))

    def area(self, origin: Sequence[int], shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Origin and shape on the detector of a box of the result."""
        return (tuple(first + o * f for first, o, f in zip(self.origin, origin, self.factors, strict=True)),
                tuple(n * f for n, f in zip(shape, self.factors, strict=True)))

    def then(self, later: Reduction) -> Reduction:
        """This reduction followed by another one of its result."""
        origin, _ = self.area(later.origin, later.shape)
        return Reduction(origin, later.shape, tuple(a * b for a, b in zip(self.factors, later.factors, strict=True)))

    @classmethod
    def of(cls, sig_shape: Sequence[int], crop: Crop | None = None, bin_sig: int | Sequence[int] | None = None) -> Reduction:
        """The reduction that a user describes.

        Parameters
        ----------
        crop
            For each of the last two sig axes a slice without step, or (first, one past the last); None keeps an axis whole.
        bin_sig
            Pixels that become one along both axes, or one number for each.

        Raises
        ------
        ShapeError
            Intervals outside of the detector or empty, or blocks that do not fit.
        """
        dims = min(2, len(sig_shape))
        lead, axes = tuple(sig_shape[:-dims]), tuple(sig_shape[-dims:])
        intervals = _intervals(crop, axes)
        factors = _factors(bin_sig, axes)
        extents = [stop - first for first, stop in intervals]
        if any(f > n for f, n in zip(factors, extents, strict=True)):
            raise ShapeError(f"bin_sig {factors} does not fit into a detector area of {tuple(extents)} pixels")
        return cls((0,) * len(lead) + tuple(first for first, _ in intervals),
                   lead + tuple(n // f for n, f in zip(extents, factors, strict=True)), (1,) * len(lead) + factors)


def binned_dtype(native: np.dtype, pixels: int) -> np.dtype:
    """The dtype that holds any sum of so many pixels, as far as there is one: wider for integers, the same for floating ones."""
    if native.kind not in "bui" or pixels == 1:
        return native
    bits = (pixels.bit_length() if native.kind == "b" else 8 * native.itemsize + (pixels - 1).bit_length())
    size = next((n for n in (1, 2, 4) if 8 * n >= bits), 8)
    return np.dtype(f"{'i' if native.kind == 'i' else 'u'}{size}")


def _intervals(crop: Crop | None, axes: tuple[int, ...]) -> list[tuple[int, int]]:
    if crop is None:
        return [(0, n) for n in axes]
    parts = list(crop) if isinstance(crop, (tuple, list)) else [crop]
    if len(axes) == 1 and len(parts) == 2 and all(isinstance(p, (int, np.integer)) for p in parts):
        parts = [tuple(parts)]
    if len(parts) != len(axes):
        raise ShapeError(f"crop {crop!r} has {len(parts)} intervals; expected one for each of the last {len(axes)} detector axes")
    result = []
    for part, n in zip(parts, axes, strict=True):
        first, stop = _interval(part, n)
        if not 0 <= first < stop <= n:
            raise ShapeError(f"crop {crop!r} takes pixels {first} to {stop} of an axis of {n}; expected an interval inside of it")
        result.append((first, stop))
    return result


def _interval(part: Any, n: int) -> tuple[int, int]:
    if part is None:
        return 0, n
    if isinstance(part, slice):
        if part.step not in (None, 1):
            raise ShapeError(f"crop {part} has a step; expected none (bin_sig sums pixels)")
        part = (part.start, part.stop)
    try:
        first, stop = part
        first = 0 if first is None else int(first)
        stop = n if stop is None else int(stop)
    except (TypeError, ValueError):
        raise ShapeError(f"crop of an axis is {part!r}; expected a slice or (first, one past the last)") from None
    return first + n if first < 0 else first, stop + n if stop < 0 else stop


def _factors(bin_sig: int | Sequence[int] | None, axes: tuple[int, ...]) -> tuple[int, ...]:
    if bin_sig is None:
        return (1,) * len(axes)
    factors: tuple[Any, ...] = tuple(bin_sig) if isinstance(bin_sig, (Sequence, np.ndarray)) else (bin_sig,) * len(axes)
    if len(factors) != len(axes) or any(isinstance(f, bool) or not isinstance(f, (int, np.integer)) or f < 1 for f in factors):
        raise ShapeError(f"bin_sig is {bin_sig!r}; expected a positive integer, or one for each of the last {len(axes)} detector axes")
    return tuple(int(f) for f in factors)
