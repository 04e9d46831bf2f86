"""Checks of what users pass to data sets: shapes, offsets, and spellings of former times.

Everything here is arithmetic on unbounded Python integers, done before anything is allocated.
"""

from __future__ import annotations

import math
import operator
import sys
import warnings
from collections.abc import Iterable
from typing import Any

from gpuio.errors import ShapeError

#: Axes of a nav or sig shape at most; NumPy arrays have at most 64 axes altogether.
MAX_AXES = 32
#: Positions or pixels of a shape at most: byte arithmetic with 16 bytes a pixel has to stay in int64.
MAX_ENTRIES = 1 << 58


def renamed(old_name: str, old: Any, new_name: str, new: Any) -> Any:
    """The value of a parameter that has got a new name.

    Raises
    ------
    ValueError
        Both names are given.
    """
    if old is None:
        return new
    if new is not None:
        raise ValueError(f"{old_name} is the former name of {new_name}; give {new_name} only")
    warnings.warn(f"{old_name} is deprecated; use {new_name}", FutureWarning, stacklevel=_caller())
    return old


def ignored(name: str, value: Any) -> None:
    """Say so if a parameter is given that has no effect any more."""
    if value is not None:
        warnings.warn(f"{name} is deprecated and has no effect", FutureWarning, stacklevel=_caller())


def nav_or_sig_shape(value: Any, name: str) -> tuple[int, ...] | None:
    """A nav or sig shape as a tuple of positive integers; None stays None.

    Parameters
    ----------
    value
        Any iterable of integers; NumPy's are fine, floats and bools are not.
    name
        Of the parameter, for messages.

    Raises
    ------
    ShapeError
        The shape is empty, holds something else than positive integers, or more entries than can be addressed.
    """
    if value is None:
        return None
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise ShapeError(f"{name} is {value!r}; expected a tuple of positive integers, such as (256, 256)")
    entries = tuple(value)
    shape = tuple(n for n in map(integer, entries) if n is not None and n > 0)
    if not shape or len(shape) != len(entries):
        raise ShapeError(f"{name} is {entries!r}; expected positive integers, such as (256, 256)")
    if len(shape) > MAX_AXES or math.prod(shape) > MAX_ENTRIES:
        raise ShapeError(f"{name} {shape} is too large; expected at most {MAX_AXES} axes and 2**58 entries")
    return shape


def leading_axes(shape: tuple[int, ...], sig: tuple[int, ...]) -> tuple[int, ...] | None:
    """Axes of an array before those that hold exactly the pixels of a frame.

    Returns
    -------
    tuple of int or None
        (1,) if there are none before; None if frames end inside an axis.
    """
    pixels = math.prod(sig)
    fits = [i for i in range(len(shape) + 1) if math.prod(shape[i:]) == pixels]
    if not fits:
        return None
    # Axes of length 1 leave a choice: the one with as many detector axes as asked for.
    cut = min(fits, key=lambda i: abs(len(shape) - i - len(sig)))
    return shape[:cut] or (1,)


def sync(value: Any) -> int:
    """A sync offset as an integer; None is 0.

    Raises
    ------
    ShapeError
        It is no integer. (Its range depends on the files and is checked when they are read.)
    """
    offset = 0 if value is None else integer(value)
    if offset is None:
        raise ShapeError(f"sync_offset is {value!r}; expected an integer")
    return offset


def byte_count(value: Any, name: str) -> int:
    """A size in bytes.

    Raises
    ------
    ShapeError
        It is no integer, or negative.
    """
    n = integer(value)
    if n is None or n < 0:
        raise ShapeError(f"{name} is {value!r}; expected a number of bytes, 0 or more")
    return n


def integer(value: Any) -> int | None:
    """`value` as int if it is an integer of any library, and no bool."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _caller() -> int:
    """The `stacklevel` of the first frame outside of gpuio: where the user's call is."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).split(".")[0] == "gpuio":
        level, frame = level + 1, frame.f_back
    return level
