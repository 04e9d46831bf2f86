"""Arrays that are in memory already: NumPy and whatever shares its memory, CuPy and other libraries on a GPU, sparse matrices.

=============  =====================================================================================================
quantity       value
=============  =====================================================================================================
items          those of the array, counted in C order whatever its strides
frame i        items i x pixels to (i + 1) x pixels
image count    items / pixels, which has to be a whole number
byte order     as in the array; pixels are handed out in that of the machine
=============  =====================================================================================================

An array on a GPU stays there: its tiles are decoded where it is. A sparse matrix has a row a frame and a column a pixel.
Arrays that are changed while they are read give undefined pixels.
"""

from __future__ import annotations

import math
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuio.corrections import CorrectionSet
from gpuio.dataset import DataSet, JobExecutor, MessageConverter, Partition, message_schema
from gpuio.errors import DataSetException, ShapeError, UnsupportedFeature
from gpuio.fileset import File, FileSet
from gpuio.formats._arguments import integer, leading_axes, nav_or_sig_shape, sync
from gpuio.formats._arrays import ArrayDataSet, ArrayPartition, Taken, is_sparse, take
from gpuio.layout import Encoding, Items, Layout, Sparse, plain_pieces
from gpuio.shape import Shape
from gpuio.tile import DataTile

if TYPE_CHECKING:
    from gpuio.geometry.tiling import TilingScheme

Axes = tuple[int, ...]

#: What stands for the path of a file.
PLACE = "array in memory"


def layout_of(taken: Taken, sig_dims: int | None, nav_shape: Axes | None, sig_shape: Axes | None) -> Layout:
    """Where the frames of an array are.

    Raises
    ------
    UnsupportedFeature
        It does not hold numbers that can be decoded.
    ShapeError
        It has no items, or the shapes do not fit it.
    """
    array = taken.array
    encoding, item = Encoding.of(array.dtype), array.dtype.itemsize
    sig, count = _frames(tuple(array.shape), sig_dims, nav_shape, sig_shape)
    metadata = {"type": f"{type(array).__module__.partition('.')[0]}.{type(array).__name__}", "device": taken.device or "cpu",
                "dtype": array.dtype.str, "shape": tuple(array.shape), "strides_bytes": tuple(array.strides),
                "c_contiguous": bool(array.flags.c_contiguous)}
    return Layout(
        format="memory", parts=(FileSet([File(PLACE, 0, count, array.dtype, sig, size=array.size * item)]),), encoding=encoding,
        pieces=plain_pieces(sig, sig[-1] * item), sig_shape=sig, nav_shape=leading_axes(tuple(array.shape), sig), image_count=count,
        metadata=metadata)


def sparse_layout(data: Any, sig_dims: int | None, nav_shape: Axes | None, sig_shape: Axes | None) -> tuple[Layout, dict[str, Any]]:
    """The same of a sparse matrix or array, and the three arrays in which its entries lie.

    Raises
    ------
    UnsupportedFeature
        Values that cannot be added up, a fill value that is not zero, or a matrix on a GPU.
    ShapeError
        It has no items, or the shapes do not fit it.
    """
    shape = tuple(int(n) for n in data.shape)
    if getattr(data, "fill_value", 0) != 0:
        raise UnsupportedFeature(f"the sparse array is {data.fill_value} where nothing is stored; expected 0")
    sig, count = _frames(shape, sig_dims, nav_shape, sig_shape)
    if hasattr(data, "fill_value"):             # of pydata
        data = data.asformat("coo").reshape((count, math.prod(sig)))
    elif shape != (count, math.prod(sig)):
        raise ShapeError(f"the sparse matrix has shape {shape}; expected a row a frame and a column a pixel, which is "
                         f"{(count, math.prod(sig))} for sig_shape {sig}")
    matrix = data.tocsr()
    if hasattr(matrix.data, "__cuda_array_interface__"):
        raise UnsupportedFeature("sparse matrices on a GPU are not supported; pass data.get(), entries travel packed")
    encoding = Encoding.of(matrix.dtype)
    if matrix.dtype.char == "e":
        raise UnsupportedFeature("sparse values of float16 cannot be added up; pass data.astype('float32')")
    arrays = {f"{name} of a sparse matrix in memory": getattr(matrix, name) for name in ("indptr", "indices", "data")}
    return Layout(
        format="memory", parts=(), encoding=encoding, pieces=plain_pieces(sig, sig[-1] * encoding.dtype.itemsize), sig_shape=sig,
        nav_shape=leading_axes(shape, sig), image_count=count,
        sparse=Sparse(*(Items(path, array.dtype, array.size) for path, array in arrays.items())),
        metadata={"type": f"{type(data).__module__.partition('.')[0]}.{type(data).__name__}", "device": "cpu", "dtype": matrix.dtype.str,
                  "shape": shape, "entries": int(matrix.nnz)}), arrays


def _frames(shape: Axes, sig_dims: int | None, nav_shape: Axes | None, sig_shape: Axes | None) -> tuple[Axes, int]:
    """Detector axes and number of frames of an array of a shape."""
    size = math.prod(shape)
    if not size or not shape:
        raise ShapeError(f"the array of shape {shape} has no frames")
    sig = _sig_shape(shape, sig_dims, nav_shape, sig_shape)
    pixels = math.prod(sig)
    if size % pixels:
        raise ShapeError(f"the array of shape {shape} has {size} items, no multiple of the {pixels} pixels of sig_shape {sig}")
    return sig, size // pixels


def _sig_shape(shape: Axes, sig_dims: int | None, nav_shape: Axes | None, sig_shape: Axes | None) -> Axes:
    """Detector axes, from the user's shape or the last axes of the array."""
    dims = integer(sig_dims)
    if sig_dims is None:
        dims = len(sig_shape) if sig_shape is not None else len(shape) - len(nav_shape) if nav_shape is not None else 2
    if dims is None or dims < 1:
        raise ShapeError(f"sig_dims is {sig_dims if sig_dims is not None else dims!r}; expected a positive integer, "
                         "or None with a sig_shape to count")
    if sig_shape is not None:
        if len(sig_shape) != dims:
            raise ShapeError(f"sig_shape {sig_shape} has {len(sig_shape)} axes, but sig_dims is {dims}; "
                             "pass sig_dims=None to count the axes of sig_shape")
        return sig_shape
    if len(shape) < dims:
        raise ShapeError(f"the array of shape {shape} has {len(shape)} axes; expected at least sig_dims={dims}")
    return shape[len(shape) - dims:]


def physical_cores() -> int:
    """Cores of this machine, without the second threads of each; all that can be used, where the system does not say."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    siblings = set()
    try:
        for cpu in usable:
            with open(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", encoding="ascii") as file:
                siblings.add(file.read())
    except OSError:
        return len(usable)
    return max(1, len(siblings))


class MemoryDataSet(ArrayDataSet):
    """An array in memory, on the host or on a GPU, as a data set. Nothing of it is copied beforehand.

    Parameters
    ----------
    tileshape : tuple of int, optional
        Depth and sig shape that `get_tiles` of partitions takes instead of those of any tiling scheme.
    num_partitions
        Default one for each physical core.
    data : array
        NumPy array or memory map, buffer, CuPy array, anything with ``__cuda_array_interface__`` or DLPack, with any strides
        and in either byte order. An array on a GPU is read there. Or a sparse matrix of SciPy, a row a frame and a column a
        pixel, with a `sig_shape`; or a sparse array of pydata.
    sig_dims
        How many of the last axes are the detector's. None: as many as `sig_shape` has, else those that `nav_shape` leaves, else 2.
    check_cast, array_backends
        Have no effect: every dtype is converted, and tiles are arrays of the device they are on.
    tiledelay
        Seconds to wait after each tile of a partition, to try out programs with slow data.
    datashape
        Without `data`: the shape of an array of float32 zeros.
    base_shape
        What `get_base_shape` returns.
    force_need_decode
        Have `need_decode` say yes.
    io_backend
        None: arrays are read by a transport of their own.
    nav_shape, sig_shape : tuple of int, optional
        Other shapes for the same items, taken in C order. Positions beyond the data are blank.
    sync_offset
        Positive: frames to skip at the start. Negative: blank frames to insert there.

    Raises
    ------
    ValueError
        An I/O backend is given.
    ShapeError
        Shapes do not fit the array or each other.
    UnsupportedFeature
        Masked arrays, objects, records, strings, dates.
    DataSetException
        `data` is no array, or there is neither `data` nor `datashape`.
    """

    format = "memory"

    def __init__(self, tileshape: Axes | None = None, num_partitions: int | None = None, data: Any = None, sig_dims: int | None = 2,
                 check_cast: bool = True, tiledelay: float | None = None, datashape: Axes | None = None, base_shape: Axes | None = None,
                 force_need_decode: bool = False, io_backend: Any = None, nav_shape: Axes | None = None, sig_shape: Axes | None = None,
                 sync_offset: int = 0, *, array_backends: Sequence[Any] | None = None) -> None:
        if io_backend is not None:
            raise ValueError("the data are in memory, not in files; expected io_backend=None")
        super().__init__()
        self._nav_shape = nav_or_sig_shape(nav_shape, "nav_shape")
        self._sig_shape = nav_or_sig_shape(sig_shape, "sig_shape")
        self._sync_offset = sync(sync_offset)
        shape = nav_or_sig_shape(datashape, "datashape")
        if data is None and shape is None:
            raise DataSetException("memory: there is neither data nor a datashape; expected one of them")
        if is_sparse(data):
            layout, self._arrays = sparse_layout(data, sig_dims, self._nav_shape, self._sig_shape)
        else:               # zeros of one item: an array of any shape costs nothing
            taken = take(np.broadcast_to(np.float32(0), shape) if data is None and shape is not None else data)
            self._arrays, self._on = {PLACE: taken.array}, taken.device
            layout = layout_of(taken, sig_dims, self._nav_shape, self._sig_shape)
        self._key = uuid.uuid4().hex
        self._settle(layout)
        self._tileshape = self._of_tile(tileshape, "tileshape")
        self._base_shape = self._of_tile(base_shape, "base_shape")
        self._tiledelay, self._force_need_decode = tiledelay, force_need_decode
        self._num_partitions = physical_cores() if num_partitions is None else integer(num_partitions) or 0
        if self._num_partitions < 1:
            raise ShapeError(f"num_partitions is {num_partitions!r}; expected a positive integer")

    def _of_tile(self, value: Any, name: str) -> Axes | None:
        shape = nav_or_sig_shape(value, name)
        if shape is not None and len(shape) != self.shape.sig.dims + 1:
            raise ShapeError(f"{name} {shape} has {len(shape)} axes; expected {self.shape.sig.dims + 1}: depth and the detector's")
        return shape

    def initialize(self, executor: JobExecutor | None = None) -> DataSet:
        """Nothing to do: the constructor has all that it needs."""
        return self

    @property
    def _name(self) -> str:
        return PLACE

    def get_io_backend(self) -> Any:
        """The transport of the array."""
        in_place = self._on is None and all(array.flags.c_contiguous for array in self._arrays.values())
        return self._transport_of(self._arrays.__getitem__, in_place=in_place)

    def get_base_shape(self, roi: np.ndarray | None) -> tuple[int, ...]:
        """The user's, or one row of one frame."""
        return self._base_shape or super().get_base_shape(roi)

    def need_decode(self, read_dtype: Any, roi: np.ndarray | None, corrections: CorrectionSet | None) -> bool:
        """As of files; always, if that is forced."""
        return self._force_need_decode or super().need_decode(read_dtype, roi, corrections)

    def get_num_partitions(self) -> int:
        """The user's number, or one for each physical core; at most one for each position."""
        return min(self._num_partitions, self.shape.nav.size)

    def get_partitions(self) -> Iterator[Partition]:
        """The partitions, in order."""
        for part_slice, start, stop in self.get_slices():
            yield MemoryPartition(self._known, part_slice, self._fileset, start, stop - start, self.get_io_backend(),
                                  layout=self.layout, engine_name=self.device, reduction=self._reduction,
                                  tileshape=self._tileshape, tiledelay=self._tiledelay)

    def get_cache_key(self) -> Any:
        """Another one for each data set that is made: nobody else knows what is in the array."""
        return {**super().get_cache_key(), "memory": self._key}

    @classmethod
    def detect_params(cls, path: Any, executor: JobExecutor | None = None) -> dict[str, Any] | bool:
        """False for paths; parameters for arrays."""
        if isinstance(path, (str, bytes, os.PathLike)):
            return False
        try:
            ds = cls(data=path)
        except DataSetException:
            return False
        return {"parameters": {"data": path, "nav_shape": tuple(ds.shape.nav), "sig_shape": tuple(ds.shape.sig)},
                "info": {"image_count": ds.image_count, "native_sig_shape": tuple(ds.shape.sig)}}

    @classmethod
    def get_msg_converter(cls) -> type[MessageConverter]:
        """Of messages of type ``MEMORY``."""
        return _MemoryMessages


class MemoryPartition(ArrayPartition):
    """A partition of an array; see `MemoryDataSet` for `tileshape` and `tiledelay`."""

    def __init__(self, *args: Any, tileshape: Axes | None = None, tiledelay: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tileshape, self._tiledelay = tileshape, tiledelay

    def get_tiles(self, tiling_scheme: TilingScheme, dest_dtype: Any = "float32", roi: np.ndarray | None = None) -> Iterator[DataTile]:
        """See `BasePartition.get_tiles`."""
        if self._tileshape is not None:
            tiling_scheme = type(tiling_scheme).make_for_shape(Shape(self._tileshape, sig_dims=len(self._tileshape) - 1), self.meta.shape)
        for tile in super().get_tiles(tiling_scheme, dest_dtype, roi):
            yield tile
            if self._tiledelay:
                time.sleep(self._tiledelay)


class _MemoryMessages(MessageConverter):
    """Messages of type ``MEMORY``."""

    SCHEMA = message_schema("MEMORY", {
        "tileshape": {"type": "array", "items": {"type": "integer", "minimum": 1}},
        "num_partitions": {"type": "integer", "minimum": 1},
        "sig_dims": {"type": "integer", "minimum": 1}, "check_cast": {"type": "boolean"},
        "tiledelay": {"type": "number", "minimum": 0}, "datashape": {"type": "array", "items": {"type": "integer", "minimum": 1}},
        "base_shape": {"type": "array", "items": {"type": "integer", "minimum": 1}}, "force_need_decode": {"type": "boolean"},
    }, required=("tileshape", "num_partitions"))
