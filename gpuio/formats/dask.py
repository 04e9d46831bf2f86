"""Dask arrays: the last axes are the detector's, a partition is a chunk of whole frames, computed when its pixels are wanted.

=============  =======================================================================================================
quantity       value
=============  =======================================================================================================
chunks         neighbours merged until a chunk is a run of whole frames of some size; `_rechunk` says how
frame i        of the flattened navigation axes; a chunk holds a run of them
block          what computing a chunk gives; checked against the dtype, shape and device that the array states
=============  =======================================================================================================

One block is in memory at a time. A stream computes each block once; frames in an order that goes back and forth between
chunks compute them again. Blocks on a GPU stay there.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from typing import Any

import numpy as np

from gpuio.dataset import DataSet, JobExecutor, MessageConverter, Partition, message_schema
from gpuio.errors import DataSetException, GpuioError, ShapeError
from gpuio.fileset import File, FileSet
from gpuio.formats._arguments import integer
from gpuio.formats._arrays import ArrayDataSet, ArrayPartition, is_sparse, take
from gpuio.formats._rechunk import merged, most_chunks_first
from gpuio.layout import Encoding, Layout, plain_pieces
from gpuio.shape import Shape, Slice

#: Bytes of a chunk at least, if the user does not say otherwise.
MIN_SIZE = 128 << 20


@dataclass(frozen=True, eq=False)
class Blocks:
    """Computes blocks by the name that `path` gives them.

    Parameters
    ----------
    array
        The dask array.
    device
        Where it says that blocks are: ``"cuda:N"``, or None for host memory.
    first
        Number of its first block.
    only
        The one block that is wanted of it; nothing else travels to another process.
    """

    array: Any
    device: str | None
    first: int = 0
    only: int | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        array, first = self.array, self.first
        if self.only is not None and array.npartitions > 1:
            from dask import optimize

            array, first = optimize(self._block(self.only))[0], self.only
        return Blocks, (array, self.device, first, self.only)

    def path(self, number: int) -> str:
        """What stands for the path of a file."""
        return f"dask array {self.array.name}, block {number}"

    def _block(self, number: int) -> Any:
        return self.array.blocks[np.unravel_index(number - self.first, self.array.numblocks)]

    def __call__(self, path: str) -> Any:
        """The block of a path, in C order.

        Raises
        ------
        DataSetException
            Computing it fails, or it is not what the array says.
        """
        block = self._block(int(path.rpartition(" ")[2]))
        try:
            # Work for a GPU is given to one stream, in order: that of this thread.
            result = block.compute(scheduler="threads" if self.device is None else "synchronous")
        except GpuioError:
            raise
        except Exception as error:
            raise DataSetException(f"{path}: computing it failed: {type(error).__name__}: {error}") from error
        if is_sparse(result):
            result = result.todense()
        try:
            array, device = take(result)
        except DataSetException as error:
            raise type(error)(f"{path}: {error}") from error
        for what, found, expected in (("shape", tuple(array.shape), block.shape), ("dtype", array.dtype, block.dtype),
                                      ("device", device or "cpu", self.device or "cpu")):
            if found != expected:
                raise DataSetException(f"{path}: has {what} {found}; the dask array says {expected}. Where it was made by a function of "
                                       "yours, tell dask what that gives (dtype=, chunks=, meta=)")
        return array if array.flags.c_contiguous else array.copy(order="C")


class DaskDataSet(ArrayDataSet):
    """A dask array whose chunks become partitions.

    Parameters
    ----------
    dask_array : dask.array.Array
        Navigation axes, then detector axes. Blocks may be NumPy, CuPy or sparse arrays.
    sig_dims
        How many of the last axes are the detector's.
    preserve_dimensions
        False: navigation axes may change their order, those with the most chunks first. `shape` changes with them.
    min_size
        Bytes of a partition at least, made by merging chunks; None: 128 MiB. 0 merges only what whole frames need.
    io_backend
        None: arrays are read by a transport of their own.

    Raises
    ------
    DataSetException
        No dask array, chunks of unknown size, an I/O backend, or a `sig_dims` or `min_size` that makes no sense.
    """

    format = "dask"

    def __init__(self, dask_array: Any, *, sig_dims: int, preserve_dimensions: bool = True, min_size: float | None = None,
                 io_backend: Any = None) -> None:
        super().__init__()
        kind = getattr(sys.modules.get("dask.array"), "Array", None)
        if kind is None or not isinstance(dask_array, kind):
            raise DataSetException(f"dask_array is {type(dask_array).__name__}; expected a dask.array.Array. Arrays in memory are read by "
                                   "gpuio.load('memory', data=...)")
        if io_backend is not None:
            raise DataSetException(f"the data are in a dask array, not in files; expected io_backend=None, found {io_backend!r}")
        if any(math.isnan(n) for axis in dask_array.chunks for n in axis):
            raise DataSetException("the dask array has chunks of unknown size; call compute_chunk_sizes() on it first")
        dims = integer(sig_dims)
        if dims is None or not 0 < dims < dask_array.ndim:
            raise ShapeError(f"sig_dims is {sig_dims!r}; expected a number from 1 to {dask_array.ndim - 1} for an array of "
                             f"{dask_array.ndim} axes, of which at least one is navigation")
        if not dask_array.size:
            raise ShapeError(f"the dask array of shape {dask_array.shape} has no frames")
        least = MIN_SIZE if min_size is None else min_size
        if isinstance(least, bool) or not isinstance(least, (int, float, np.number)) or not least >= 0:
            raise DataSetException(f"min_size is {min_size!r}; expected a number of bytes, 0 or more")
        self._array, self._dims, self._least, self._preserve = dask_array, dims, float(least), bool(preserve_dimensions)
        meta = dask_array._meta
        self._on = None if is_sparse(meta) else take(meta).device
        self._encoding = Encoding.of(dask_array.dtype)

    def initialize(self, executor: JobExecutor | None = None) -> DataSet:
        """Merge chunks; nothing is computed."""
        if self._layout is None:
            self._settle(self._adapt())
        return self

    def _adapt(self) -> Layout:
        """Merge chunks and describe what remains."""
        given, notes = self._array, []
        array = given
        if not self._preserve:
            order = most_chunks_first(array.chunks, self._dims)
            if order != tuple(range(array.ndim)):
                array = array.transpose(order)
                notes.append(f"navigation axes are in the order {order[:-self._dims]} of the array's, those with the most chunks first")
        chunks = merged(array.chunks, self._dims, array.dtype.itemsize, self._least)
        if chunks != array.chunks:
            notes.append(f"{array.npartitions} chunks are merged into {math.prod(map(len, chunks))} partitions")
            array = array.rechunk(chunks)
        self._array = array
        nav, sig = array.shape[:-self._dims], array.shape[-self._dims:]
        frames = reduce(np.multiply.outer, [np.array(axis, dtype=np.int64) for axis in chunks[:-self._dims]]).ravel().tolist()
        blocks, frame_bytes = self._blocks(), math.prod(sig) * array.dtype.itemsize
        files = [File(blocks.path(i), end - n, end, array.dtype, sig, size=n * frame_bytes)
                 for i, (n, end) in enumerate(zip(frames, accumulate(frames), strict=True))]
        metadata = {"name": given.name, "type": f"{type(array._meta).__module__.partition('.')[0]}.{type(array._meta).__name__}",
                    "device": self._on or "cpu", "dtype": array.dtype.str, "shape": given.shape, "chunks": given.chunks,
                    "partition_chunks": array.chunks}
        return Layout(
            format="dask", parts=(FileSet(files),), encoding=self._encoding, pieces=plain_pieces(sig, sig[-1] * array.dtype.itemsize),
            sig_shape=sig, nav_shape=nav, image_count=math.prod(nav), metadata=metadata, notes=tuple(notes))

    def _blocks(self, only: int | None = None) -> Blocks:
        return Blocks(self._array, self._on, only=only)

    def get_io_backend(self) -> Any:
        """The transport of all blocks."""
        return self._transport_of(self._blocks(), read_threads=1)

    def get_num_partitions(self) -> int:
        """One for each chunk."""
        return len(self.layout.parts[0])

    def set_num_partitions(self, count: int | None) -> None:
        """Does nothing: there is one for each chunk."""

    def get_slices(self) -> Iterator[tuple[Slice, int, int]]:
        """Slice, first frame, one past the last, of each partition."""
        sig = tuple(self.shape.sig)
        for file in self.layout.parts[0]:
            yield (Slice((file.start_idx, *(0,) * len(sig)), Shape((file.num_frames, *sig), sig_dims=len(sig))),
                   file.start_idx, file.end_idx)

    def get_partitions(self) -> Iterator[Partition]:
        """The partitions, one for each chunk, in order."""
        for number, (part_slice, start, stop) in enumerate(self.get_slices()):
            transport = self._transport_of(self._blocks(only=number), read_threads=1)
            yield ArrayPartition(self._known, part_slice, self.layout.parts[0], start, stop - start, transport,
                                 layout=self.layout, engine_name=self.device, reduction=self._reduction)

    def get_cache_key(self) -> Any:
        """The array's name, which dask makes from what it is computed from, and the shape."""
        return {**super().get_cache_key(), "dask": self.metadata["name"]}

    @property
    def _name(self) -> str:
        return f"dask array {self._array.name}"

    @classmethod
    def detect_params(cls, path: Any, executor: JobExecutor | None = None) -> dict[str, Any] | bool:
        """False: the number of detector axes of an array is not in it."""
        return False

    @classmethod
    def get_msg_converter(cls) -> type[MessageConverter]:
        """Of messages of type ``DASK``."""
        return _DaskMessages


class _DaskMessages(MessageConverter):
    """Messages of type ``DASK``; the array itself cannot be in one."""

    SCHEMA = message_schema("DASK", {"sig_dims": {"type": "integer", "minimum": 1}, "preserve_dimensions": {"type": "boolean"},
                                     "min_size": {"type": "number", "minimum": 0}}, required=())
