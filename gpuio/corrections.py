"""Corrections of detector flaws: dark frame, gain map, excluded (dead or hot) pixels.

A value is first converted to the destination dtype, then ``v = (v - dark) * gain`` in float64 (complex128), rounded once
when stored. Then each excluded pixel becomes the mean of its neighbours: those pixels of the surrounding cube that lie in
the frame (or box) and are not excluded themselves, summed in float64 in C order and rounded once. The value of an
excluded pixel never matters, not even a NaN.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuio.engine import RepairTable
from gpuio.errors import DataSetException, ShapeError
from gpuio.hostarray import host_array
from gpuio.shape import Slice

#: Pixels that are corrected at a time; bounds the float64 copy.
_CHUNK_PIXELS = 1 << 20


class RepairValueError(DataSetException, ValueError):
    """An excluded pixel has no neighbour to be repaired from."""


class CorrectionSet:
    """Corrections for one detector. All maps have the sig shape; none of them need be given.

    Parameters
    ----------
    dark : real array[sig], optional
        Subtracted from each frame.
    gain : real array[sig], optional
        Multiplied with each frame after that.
    excluded_pixels : bool array[sig], dense or sparse, optional
        True where a pixel is replaced by the mean of its neighbours. Whatever array it is, it is taken as a mask: not as
        a list of coordinates.
    allow_empty
        Leave excluded pixels without neighbours as they are, instead of raising an error.

    Raises
    ------
    ShapeError
        The maps differ in shape.
    RepairValueError
        An excluded pixel has no neighbours, and `allow_empty` is not set.
    TypeError
        A map is complex.
    """

    def __init__(self, dark: Any = None, gain: Any = None, excluded_pixels: Any = None, allow_empty: bool = False) -> None:
        self._dark = None if dark is None else _real_map(dark, "dark frame")
        self._gain = None if gain is None else _real_map(gain, "gain map")
        self._excluded = None if excluded_pixels is None else host_array(excluded_pixels, "excluded_pixels").astype(bool)
        self._allow_empty = bool(allow_empty)
        self._tables: dict[Slice, RepairTable | None] = {}
        shapes = {name: m.shape for name, m in self._maps().items()}
        if len(set(shapes.values())) > 1:
            raise ShapeError("corrections differ in shape: " + ", ".join(f"{name} {shape}" for name, shape in shapes.items()))
        if self._excluded is not None:
            self.repair_table(self._excluded.shape)

    def _maps(self) -> dict[str, np.ndarray]:
        maps = {"dark frame": self._dark, "gain map": self._gain, "excluded_pixels": self._excluded}
        return {name: m for name, m in maps.items() if m is not None}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tables": {}}

    def __repr__(self) -> str:
        return f"<CorrectionSet {', '.join(f'{name} {m.shape}' for name, m in self._maps().items()) or 'empty'}>"

    def have_corrections(self) -> bool:
        """Whether any map was given, even one that changes nothing."""
        return bool(self._maps())

    def get_dark_frame(self) -> np.ndarray | None:
        """The dark frame as given, in host memory."""
        return self._dark

    def get_gain_map(self) -> np.ndarray | None:
        """The gain map as given, in host memory."""
        return self._gain

    def get_excluded_pixels(self) -> np.ndarray | None:
        """bool[sig], host memory."""
        return self._excluded

    @property
    def allow_empty(self) -> bool:
        """Whether excluded pixels without neighbours stay as they are."""
        return self._allow_empty

    def check(self, sig_shape: Sequence[int]) -> None:
        """Raise `ShapeError` if a map has another shape than frames have."""
        for name, m in self._maps().items():
            if m.shape != tuple(sig_shape):
                raise ShapeError(f"{name} has shape {m.shape}; frames have {tuple(sig_shape)}")

    # -- for engines ----------------------------------------------------------------------------------------------

    def dark_flat(self) -> np.ndarray | None:
        """The dark frame as float32[pixels] if that is exact, else float64[pixels]; None without one."""
        return None if self._dark is None else _narrowest(self._dark)

    def gain_flat(self) -> np.ndarray | None:
        """The gain map, as `dark_flat`."""
        return None if self._gain is None else _narrowest(self._gain)

    def repair_table(self, sig_shape: Sequence[int], box: Slice | None = None) -> RepairTable | None:
        """What repairs excluded pixels.

        Parameters
        ----------
        sig_shape
            Of whole frames.
        box
            Part of the frame (its sig axes count); indices are then those of the box, and neighbours outside of it are
            missing. None: the whole frame.

        Returns
        -------
        RepairTable or None
            None if there is nothing to repair. With `allow_empty`, pixels without neighbours have an empty entry.

        Raises
        ------
        RepairValueError
            An excluded pixel has no neighbours, and `allow_empty` is not set.
        ShapeError
            The mask has another shape than frames have, or the box reaches out of it.
        """
        if self._excluded is None:
            return None
        self.check(sig_shape)
        key = Slice.from_shape(sig_shape, sig_dims=len(sig_shape)) if box is None else box.sig
        if key not in self._tables:
            table = make_repair_table(_cut(self._excluded, key, "excluded_pixels"))
            if table is not None and not self._allow_empty:
                _check_repairable(table, key)
            self._tables[key] = table
        return self._tables[key]

    # -- on the host, or on arrays of a device --------------------------------------------------------------------

    def apply(self, data: Any, tile_slice: Slice) -> None:
        """Correct pixels in place.

        Parameters
        ----------
        data : NumPy or CuPy array[frames, *sig box], floating or complex, written
        tile_slice
            Which box of the detector `data` shows; its nav part does not matter.

        Raises
        ------
        TypeError
            `data` holds integers, which cannot hold corrected values.
        ShapeError
            `data` is not of the slice's sig shape, or the box reaches out of the maps.
        RepairValueError
            An excluded pixel has no neighbours in the box, and `allow_empty` is not set.
        """
        if not self.have_corrections():
            return
        if data.dtype.kind not in "fc":
            raise TypeError(f"corrections need a floating or complex dtype; the data are {data.dtype}")
        box = tile_slice.sig
        if tuple(data.shape[1:]) != tuple(box.shape):
            raise ShapeError(f"data of shape {tuple(data.shape)} do not fit {tile_slice!r}")
        xp = _module_of(data)
        dark, gain = (None if m is None else xp.asarray(_cut(m, box, name).astype(np.float64))
                      for m, name in ((self._dark, "dark frame"), (self._gain, "gain map")))
        table = None if self._excluded is None else self.repair_table(self._excluded.shape, box)
        wide = np.complex128 if data.dtype.kind == "c" else np.float64
        few = max(1, _CHUNK_PIXELS // max(1, math.prod(box.shape)))
        with np.errstate(all="ignore"):
            for first in range(0, data.shape[0], few):
                frames = data[first:first + few]
                if dark is not None or gain is not None:
                    values = frames.astype(wide)
                    if dark is not None:
                        values -= dark
                    if gain is not None:
                        values *= gain
                    frames[...] = values
                if table is not None:
                    _repair(frames, table, wide)

    def adjust_tileshape(self, tile_shape: Sequence[int], sig_shape: Sequence[int], base_shape: Sequence[int]) -> tuple[int, ...]:
        """A sig tile shape near `tile_shape` whose borders keep away from excluded pixels.

        A border next to an excluded pixel would part it from neighbours. Each axis is treated by itself; axes of length
        1 and tile shapes that need no change stay.

        Parameters
        ----------
        tile_shape, sig_shape, base_shape
            Sig axes only; results are multiples of `base_shape`, or the whole axis.
        """
        if self._excluded is None or not self._excluded.any():
            return tuple(tile_shape)
        self.check(sig_shape)
        coordinates = np.nonzero(self._excluded)
        return tuple(
            tile if length <= 1 else _adjust_axis(tile, length, base, np.unique(excluded))
            for tile, length, base, excluded in zip(tile_shape, sig_shape, base_shape, coordinates, strict=True))


def make_repair_table(excluded: np.ndarray) -> RepairTable | None:
    """The repair table of a mask bool[sig]; None if nothing is excluded."""
    coordinates = np.argwhere(excluded).astype(np.int64, copy=False)
    if not len(coordinates):
        return None
    shape = np.array(excluded.shape)
    strides = np.array([math.prod(excluded.shape[axis + 1:]) for axis in range(excluded.ndim)], dtype=np.int64)
    usable = ~excluded.ravel()
    offsets = [o for o in itertools.product((-1, 0, 1), repeat=excluded.ndim) if any(o)]
    found = np.full((len(coordinates), len(offsets)), -1, dtype=np.int64)
    for column, offset in enumerate(offsets):
        there = coordinates + offset
        inside = np.flatnonzero(((there >= 0) & (there < shape)).all(axis=1))
        flat = there[inside] @ strides
        good = usable[flat]
        found[inside[good], column] = flat[good]
    starts = np.concatenate(([0], np.cumsum((found >= 0).sum(axis=1)))).astype(np.int64)
    return RepairTable(pixels=coordinates @ strides, starts=starts, neighbours=found[found >= 0])


def _check_repairable(table: RepairTable, box: Slice) -> None:
    empty = np.flatnonzero(np.diff(table.starts) == 0)
    if len(empty):
        at = tuple(int(o + i) for o, i in zip(box.origin, np.unravel_index(table.pixels[empty[0]], tuple(box.shape)), strict=True))
        raise RepairValueError(f"excluded pixel number {empty[0]} at {at} has no neighbours to be repaired from in the box {box!r}; "
                               "allow_empty=True leaves such pixels as they are")


def _repair(frames: Any, table: RepairTable, wide: Any) -> None:
    """Replace excluded pixels in array[frames, *box]; neighbours are added one after the other, in the table's order."""
    xp = _module_of(frames)
    shape = tuple(frames.shape[1:])

    def pixels(flat: np.ndarray) -> tuple[Any, ...]:
        return slice(None), *(xp.asarray(i) for i in np.unravel_index(flat, shape))

    counts = np.diff(table.starts)
    total = xp.zeros((len(frames), len(counts)), dtype=wide)
    for nth in range(int(counts.max())):
        having = np.flatnonzero(counts > nth)
        total[:, xp.asarray(having)] += frames[pixels(table.neighbours[table.starts[having] + nth])].astype(wide)
    filled = np.flatnonzero(counts)
    frames[pixels(table.pixels[filled])] = total[:, xp.asarray(filled)] / xp.asarray(counts[filled].astype(np.float64))


def _adjust_axis(tile: int, length: int, base: int, excluded: np.ndarray) -> int:
    """Tile size along one axis with excluded pixels at the coordinates `excluded`."""
    if len(excluded) > length / 3:
        return length
    forbidden = np.zeros(length + 2, dtype=bool)        # a border there touches an excluded pixel
    forbidden[excluded] = forbidden[excluded + 1] = True
    last = min(int(excluded[-1]) + 1, length)
    start = base * round(tile / base)
    signs = (1, -1) if start < tile else (-1, 1)
    # The search ends half of the way to the last border; what is left then is one box that holds all excluded pixels.
    outwards = (start + sign * n * base for n in range(1, last // base // 2 + 1) for sign in signs)
    for candidate in itertools.chain([start], outwards, [(last // base + 1) * base]):
        if candidate > 0 and not forbidden[candidate:length:candidate].any():
            fitting = min(candidate, length)
            return tile if tile % fitting == 0 else fitting
    return length


def _module_of(array: Any) -> Any:
    """numpy, or cupy for its arrays."""
    return sys.modules[type(array).__module__.partition(".")[0]]


def _real_map(array: Any, name: str) -> np.ndarray:
    result = host_array(array, name)
    if result.dtype.kind not in "buif":
        raise TypeError(f"{name} has dtype {result.dtype}; expected real numbers")
    return result


def _cut(m: np.ndarray, box: Slice, name: str) -> np.ndarray:
    """The part of a map inside a box; a box that reaches out of it is an error, not cropped."""
    if len(box.origin) != m.ndim or any(o < 0 or o + n > whole for o, n, whole in zip(box.origin, box.shape, m.shape, strict=True)):
        raise ShapeError(f"{name} has shape {m.shape}; the box {box!r} reaches out of it")
    cut: np.ndarray = box.get(m)
    return cut


def _narrowest(m: np.ndarray) -> np.ndarray:
    """A map as flat float32 if that keeps each value, else float64."""
    if np.can_cast(m.dtype, np.float32):        # without looking: comparing takes longer than decoding a large frame
        return m.astype(np.float32, copy=False).ravel()
    wide = m.astype(np.float64).ravel()
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float32)
    return narrow if np.array_equal(narrow, wide, equal_nan=True) else wide
