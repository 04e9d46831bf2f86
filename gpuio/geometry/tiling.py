"""How partitions are cut into tiles: the tiling scheme, and its negotiation between readers and algorithms.

Sizes here are those of the specification: tiles that stay in a CPU's cache, rows of the detector as the unit. Streams of
gpuio's own (`DataSet.tiles`) choose stacks of whole frames instead.
"""

from __future__ import annotations

import enum
import math
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from gpuio.errors import ShapeError
from gpuio.shape import Shape, Slice

if TYPE_CHECKING:
    from gpuio.corrections import CorrectionSet

Intent = Literal["tile", "frame", "partition"]

#: Bytes of a tile where an algorithm asks for the best fit, and the least for whole frames.
BEST_FIT_SIZE = 1 << 20
#: Bytes read at a time at most, where neither data set nor backend says.
DEFAULT_IO_SIZE = 1 << 20
#: Frames of a tile where an algorithm asks for the default.
DEFAULT_DEPTH = 32


class Preference(enum.Enum):
    """Marks that an algorithm leaves a tiling preference to the negotiator; so does whatever else is no number."""

    DEFAULT_DEPTH = "default depth"
    BEST_FIT = "best fit"


class UDFProtocol(Protocol):
    """What the negotiator asks of an algorithm."""

    def get_method(self) -> Any:
        """``"tile"``, ``"frame"`` or ``"partition"``, or an enum with that value."""

    def get_tiling_preferences(self) -> dict[str, Any]:
        """``depth`` in frames and ``total_size`` in bytes: a number, infinity, or a `Preference`."""


class TilingScheme:
    """Boxes that the sig shape is cut into, and how many frames a tile stacks.

    Parameters
    ----------
    slices
        The boxes, sig axes only, in the order of their numbers.
    tileshape
        Nominal shape of a tile: one nav axis, then sig; tiles at borders are smaller.
    dataset_shape
        Shape of the whole data set.
    intent
        Whether tiles are for processing by tile, by frame or by partition.
    debug
        Anything that explains how the scheme came about.

    Raises
    ------
    ShapeError
        The tileshape has not one nav axis, an entry below 1, or other sig axes than the data set.
    """

    def __init__(self, slices: list[Slice], tileshape: Shape, dataset_shape: Shape, intent: Intent | None = None,
                 debug: Any = None) -> None:
        if tileshape.nav.dims != 1:
            raise ShapeError(f"tileshape {tileshape} has {tileshape.nav.dims} nav axes; expected one, the depth")
        if tileshape.sig.dims != dataset_shape.sig.dims:
            raise ShapeError(f"tileshape {tileshape} has {tileshape.sig.dims} sig axes; the data set has {dataset_shape.sig.dims}")
        if min(tileshape) < 1:
            raise ShapeError(f"tileshape {tileshape} has an entry below 1")
        self._slices = list(slices)
        self._tileshape = tileshape
        self._dataset_shape = dataset_shape
        self._intent: Intent | None = intent
        self._debug = debug

    @classmethod
    def make_for_shape(cls, tileshape: Shape, dataset_shape: Shape, intent: Intent | None = None, debug: Any = None) -> TilingScheme:
        """Cut the sig shape of `dataset_shape` into boxes of ``tileshape.sig``, in C order; parameters and errors as the class."""
        whole = Slice.from_shape(dataset_shape.sig, sig_dims=dataset_shape.sig.dims)
        scheme = cls([], tileshape, dataset_shape, intent, debug)
        scheme._slices = list(whole.subslices(tileshape.sig))
        return scheme

    def adjust_for_partition(self, partition: Any) -> TilingScheme:
        """This scheme, or with the intent "partition" one whose depth is the number of frames of `partition`."""
        frames = int(partition.shape[0])
        if self._intent != "partition" or frames == self.depth or frames < 1:
            return self
        tileshape = Shape((frames, *self._tileshape.sig), sig_dims=self._tileshape.sig.dims)
        return type(self)(self._slices, tileshape, self._dataset_shape, self._intent, self._debug)

    def __len__(self) -> int:
        return len(self._slices)

    def __getitem__(self, index: int) -> Slice:
        return self._slices[index]

    def __iter__(self) -> Iterator[Slice]:
        return iter(self._slices)

    @property
    def slices(self) -> list[tuple[int, Slice]]:
        """Number and box, for all boxes."""
        return list(enumerate(self._slices))

    @cached_property
    def slices_array(self) -> np.ndarray:
        """int64[boxes, 2, sig_dims]: origins and shapes of the boxes."""
        boxes = [(s.origin, tuple(s.shape)) for s in self._slices]
        return np.array(boxes, dtype=np.int64).reshape(-1, 2, self._dataset_shape.sig.dims)

    @property
    def shape(self) -> Shape:
        """Nominal shape of a tile; those at borders are smaller."""
        return self._tileshape

    @property
    def dataset_shape(self) -> Shape:
        """Shape of the whole data set."""
        return self._dataset_shape

    @property
    def depth(self) -> int:
        """Frames of a tile at most."""
        return self._tileshape[0]

    @property
    def intent(self) -> Intent | None:
        """What tiles are for; None if that does not matter."""
        return self._intent

    def __repr__(self) -> str:
        return f"<TilingScheme shape={self._tileshape} boxes={len(self)} intent={self._intent}>"


class Negotiator:
    """Finds a tiling scheme that suits algorithms and data set alike."""

    def get_scheme(self, udfs: Sequence[UDFProtocol], dataset: Any, read_dtype: Any, approx_partition_shape: Shape,
                   roi: np.ndarray | None = None, corrections: CorrectionSet | None = None) -> TilingScheme:
        """A scheme for all `udfs` together.

        The depth grows before the sig box does; it stops at the smallest size that a udf wants (the largest, if one of
        them takes whole partitions).

        Parameters
        ----------
        udfs
            At least one.
        dataset
            Asked for its base shape, its smallest sig size and its largest I/O size, and given the last word.
        read_dtype
            dtype of the tiles.
        approx_partition_shape
            Of a typical partition: flat nav axis, then sig.
        roi
            Region of interest.
        corrections
            Excluded pixels keep away from borders of boxes, so that their neighbours are in the same box.

        Raises
        ------
        ValueError
            There are no udfs, or the tile shape that was found breaks a rule of `validate`.
        """
        if not udfs:
            raise ValueError("the tile shape cannot be negotiated for no udfs")
        itemsize = np.dtype(read_dtype).itemsize
        partition = tuple(approx_partition_shape.flatten_nav())
        sig_shape = tuple(dataset.shape.sig)
        methods = [_method(udf) for udf in udfs]
        intent: Intent = "partition" if "partition" in methods else "frame" if "frame" in methods else "tile"

        if dataset.need_decode(read_dtype=read_dtype, roi=roi, corrections=corrections):
            io_size = _max_io_size(dataset)
        else:
            io_size = itemsize * math.prod(partition)
        base = sig_shape if intent != "tile" else tuple(dataset.get_base_shape(roi))[1:]
        wanted = [_size(udf, method, partition, base, io_size, itemsize) for udf, method in zip(udfs, methods, strict=True)]
        size = max(wanted) if intent == "partition" else min(wanted)
        pixels = size // itemsize
        depth = max(_depth(udf, method, partition[0]) for udf, method in zip(udfs, methods, strict=True))
        if corrections is not None and corrections.have_corrections():
            base = tuple(corrections.adjust_tileshape(tile_shape=base, sig_shape=sig_shape, base_shape=base))

        sig_factors = scale_factors(base, sig_shape, dataset.get_min_sig_size())
        smallest = math.prod(base) * math.prod(sig_factors)
        depth = min(depth, max(1, pixels // smallest))
        factors = scale_factors((1, *base), partition, pixels, start=(depth, *sig_factors))
        tileshape = tuple(f * n for f, n in zip(factors, (1, *base), strict=True))
        adjusted = tuple(dataset.adjust_tileshape(tileshape, roi))
        _check_adjustment(tileshape, adjusted, sig_shape, corrections)
        self.validate(adjusted, sig_shape, size, io_size, itemsize, (1, *base), corrections)
        return TilingScheme.make_for_shape(Shape(adjusted, sig_dims=len(sig_shape)), dataset.shape, intent=intent)

    def validate(self, shape: tuple[int, ...], ds_sig_shape: tuple[int, ...], size: int, io_max_size: int, itemsize: int,
                 base_shape: tuple[int, ...], corrections: CorrectionSet | None) -> None:
        """Check a tile shape.

        Parameters
        ----------
        shape, base_shape
            Depth, then sig.
        ds_sig_shape
            Sig shape of the data set.
        size, io_max_size
            Bytes of a tile and of a read at most; the larger of the two bounds the tile.
        itemsize
            Bytes of a pixel of a tile.
        corrections
            With excluded pixels and a depth of 1 a tile that is too large is only warned of: it had no other way to grow.

        Raises
        ------
        ShapeError
            The tile is larger than the detector or than its bounds, or is no multiple of the base shape along an axis
            that it does not span.
        """
        if len(shape) != len(base_shape) or len(shape) != len(ds_sig_shape) + 1:
            raise ShapeError(f"tileshape {shape}, base shape {base_shape} and sig shape {ds_sig_shape} have not the same axes")
        if any(n > whole for n, whole in zip(shape[1:], ds_sig_shape, strict=True)):
            raise ShapeError(f"tileshape {shape} does not fit the sig shape {ds_sig_shape}")
        pixels = max(size, io_max_size) // itemsize
        if math.prod(shape) > pixels:
            message = f"tileshape {shape} has {math.prod(shape)} pixels; expected at most {pixels}"
            if not _has_excluded(corrections) or shape[0] > 1:
                raise ShapeError(message)
            warnings.warn(f"{message}; excluded pixels leave no smaller one", RuntimeWarning, stacklevel=2)
        for axis, (n, base) in enumerate(zip(shape, base_shape, strict=True)):
            if n % base and not (axis and n == ds_sig_shape[axis - 1]):
                raise ShapeError(f"tileshape {shape} is no multiple of the base shape {base_shape} along axis {axis}")


def scale_factors(shape: Sequence[int], within: Sequence[int], target: float, start: Sequence[int] | None = None) -> tuple[int, ...]:
    """Whole factors that grow `shape` towards `target` elements, leftmost axes first, without leaving `within`.

    Parameters
    ----------
    start
        Factors to grow from; all ones by default.
    """
    factors = [1] * len(shape) if start is None else list(start)
    elements = math.prod(shape)
    rest = max(1.0, target / (elements * math.prod(factors)))
    for axis, (n, whole) in enumerate(zip(shape, within, strict=True)):
        factors[axis] = min(max(factors[axis], math.floor(rest * factors[axis])) if math.isfinite(rest) else whole, whole // n)
        rest = max(1.0, math.floor(target / (elements * math.prod(factors)))) if math.isfinite(target) else rest
    return tuple(factors)


def _method(udf: UDFProtocol) -> str:
    method = udf.get_method()
    name = method.value if isinstance(method, enum.Enum) else method
    if name not in ("tile", "frame", "partition"):
        raise ValueError(f"udf method {method!r} is unknown; expected 'tile', 'frame' or 'partition'")
    return str(name)


def _preference(udf: UDFProtocol, key: str, default: int) -> float:
    """A preference as a number; whatever is no number leaves it to `default`."""
    value = udf.get_tiling_preferences().get(key)
    return float(value) if isinstance(value, Real) else default


def _depth(udf: UDFProtocol, method: str, frames: int) -> int:
    """Frames that a udf wants in a tile, of a partition of `frames`."""
    if method == "partition":
        return frames
    if method == "frame":
        return 1
    return int(max(1, min(_preference(udf, "depth", DEFAULT_DEPTH), frames)))


def _size(udf: UDFProtocol, method: str, partition: tuple[int, ...], base: tuple[int, ...], io_size: int, itemsize: int) -> int:
    """Bytes that a udf wants in a tile."""
    if method == "partition":
        return itemsize * math.prod(partition)
    if method == "frame":
        return max(BEST_FIT_SIZE, itemsize * math.prod(partition[1:]))
    return int(max(itemsize * math.prod(base), min(_preference(udf, "total_size", BEST_FIT_SIZE), io_size)))


def _max_io_size(dataset: Any) -> int:
    """Bytes to read at a time at most: of the data set, else of its backend."""
    size = dataset.get_max_io_size()
    if size is None and hasattr(dataset, "get_io_backend"):
        backend = dataset.get_io_backend()
        size = backend.get_impl().get_max_io_size() if backend is not None else None
    return DEFAULT_IO_SIZE if size is None else int(size)


def _has_excluded(corrections: CorrectionSet | None) -> bool:
    return corrections is not None and corrections.get_excluded_pixels() is not None


def _check_adjustment(found: tuple[int, ...], adjusted: tuple[int, ...], sig_shape: tuple[int, ...],
                      corrections: CorrectionSet | None) -> None:
    """A data set that moves borders of boxes may move them next to excluded pixels."""
    if all(new in (old, whole) for old, new, whole in zip(found[1:], adjusted[1:], sig_shape, strict=True)):
        return
    message = f"the data set changed the tileshape {found} to {adjusted}"
    if _has_excluded(corrections):
        raise ShapeError(f"{message}, which may part excluded pixels from their neighbours")
    warnings.warn(message, RuntimeWarning, stacklevel=3)


def fitting_box(sig: Sequence[int], base: Sequence[int], room: int) -> tuple[int, ...]:
    """A box of at most `room` pixels to cut the detector into: `base` grown along the fastest axes first, or cut along the slowest ones.

    Cuts are even, so that no box is a small rest.
    """
    box = [min(b, n) for b, n in zip(base, sig, strict=True)]
    for axis in range(len(box)):                    # too large: cut rows, then columns
        rest = math.prod(box[axis + 1:])
        if math.prod(box) > room:
            box[axis] = _even(box[axis], max(1, room // rest))
    for axis in reversed(range(len(box))):
        times = room // math.prod(box)
        if times > 1 and box[axis] < sig[axis]:
            parts = -(-sig[axis] // box[axis])      # of the size that suits the format: several of them together
            box[axis] = min(sig[axis], box[axis] * _even(parts, times))
    return tuple(box)


def _even(count: int, most: int) -> int:
    """The largest part when `count` things are divided evenly into parts of at most `most`."""
    parts = -(-count // most)
    return -(-count // parts)
