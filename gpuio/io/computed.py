"""Arrays instead of files: the transport of pixels that are in memory already, or are computed when they are wanted.

An array is read like a file that holds its items in C order, so everything that is planned for files serves it too. Only
what is asked for is copied, whatever the strides; an array in C order in host memory is used where it lies. Arrays on a device
are copied within the device.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from gpuio.errors import ReadError
from gpuio.io.backends import IOBackend
from gpuio.io.base import Extent


@dataclass(frozen=True, eq=False)
class ComputedBackend(IOBackend):
    """Reads arrays.

    Parameters
    ----------
    load
        Gives the array of a path; called when bytes of it are first wanted, and again when it has been let go of.
    memory
        Where the arrays are: ``host`` or ``device``.
    gives_views
        They are in host memory and in C order, so that they can be used where they lie.
    read_threads
        Threads that may read ahead: 0 where the order on a device's stream matters, 1 where arrays are computed, so that each
        is computed once.
    """

    load: Callable[[str], Any]
    memory: str = "host"            # type: ignore[misc]
    gives_views: bool = False       # type: ignore[misc]
    read_threads: int = 3           # type: ignore[misc]

    @property
    def id(self) -> str:
        """``computed``."""
        return "computed"

    @classmethod
    def platform_supported(cls) -> bool:
        """Everywhere."""
        return True

    def open(self, paths: Sequence[str], sizes: Sequence[int | None]) -> ArrayReader:
        """See `gpuio.io.base.Transport.open`."""
        return (InPlaceReader if self.gives_views else ArrayReader)(self.load, paths)


class ArrayReader:
    """`Reader` of arrays. The last array is kept, no others."""

    def __init__(self, load: Callable[[str], Any], paths: Sequence[str]) -> None:
        self._load, self._paths = load, list(paths)
        self._lock = threading.Lock()
        self._last: tuple[int, Any] = -1, None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the array."""
        with self._lock:
            self._last = -1, None

    def _array(self, file: int) -> Any:
        with self._lock:            # what one thread waits for, another is not to compute as well
            if self._last[0] != file:
                self._last = -1, None           # before the next one is there: never two at a time
                self._last = file, self._load(self._paths[file])
            return self._last[1]

    def _items(self, file: int, offset: int, size: int) -> tuple[Any, int, int]:
        """An array, and the range of its items that holds the bytes of an extent."""
        array = self._array(file)
        there = array.size * array.dtype.itemsize
        if offset < 0 or size < 0:
            raise ValueError(f"{self._paths[file]}: an extent of {size} bytes at {offset} cannot be read")
        if offset + size > there:
            raise ReadError(f"{self._paths[file]}: byte {offset}: expected {size} bytes, found {max(0, there - offset)}")
        item = array.dtype.itemsize
        return array, offset // item, -(-(offset + size) // item)

    def read(self, extents: Sequence[Extent], into: Any) -> None:
        """See `gpuio.io.base.Reader.read`; `into` is in the memory in which the arrays are."""
        target = np.asarray(into) if isinstance(into, memoryview) else into
        for file, offset, size, at in extents:
            if not size:
                continue
            if at < 0 or at + size > len(target):
                raise ValueError(f"{self._paths[file]}: an extent of {size} bytes does not fit at {at} of {len(target)} bytes")
            array, first, stop = self._items(file, offset, size)
            item = array.dtype.itemsize
            if (stop - first) * item == size:
                _copy_run(array, first, stop, target[at:at + size].view(array.dtype))
            else:                                       # begins or ends inside an item
                whole = np.empty(stop - first, array.dtype)
                _copy_run(array, first, stop, whole)
                target[at:at + size] = whole.view(np.uint8)[offset - first * item:][:size]
            del array           # else the next one would be computed while this one is there


class InPlaceReader(ArrayReader):
    """The same of arrays in C order in host memory, which can also be used where they lie."""

    def map(self, extents: Sequence[Extent]) -> InPlace:
        """As `MappedReader.map`."""
        views = []
        for file, offset, size, _ in extents:
            array, _, _ = self._items(file, offset, size)
            view = array.reshape(-1).view(np.uint8)[offset:offset + size]
            view.flags.writeable = False
            views.append(view)
        return InPlace(views)


class InPlace:
    """Extents where they lie in memory; as `gpuio.io.mmap.Mapped`.

    Attributes
    ----------
    views
        uint8[size] of each extent, read-only.
    """

    def __init__(self, views: list[np.ndarray]) -> None:
        self.views = views
        self.addresses = np.array([view.__array_interface__["data"][0] for view in views], dtype=np.int64)

    def check(self) -> None:
        """Memory does not shrink."""

    def close(self) -> None:
        """Let go of the arrays."""
        self.views = []


def _copy_run(array: Any, start: int, stop: int, out: Any) -> None:
    """Items ``start:stop`` of an array, counted in C order, into `out`, a vector of the array's dtype. Copies nothing else."""
    if array.ndim < 2:
        out[...] = array.reshape(-1)[start:stop]
        return
    inner = math.prod(array.shape[1:])
    first, last = -(-start // inner), stop // inner     # whole entries of the first axis
    if first > last:
        _copy_run(array[last], start - last * inner, stop - last * inner, out)
        return
    if head := first * inner - start:
        _copy_run(array[first - 1], inner - head, inner, out[:head])
    if first < last:
        out[head:head + (last - first) * inner].reshape(last - first, *array.shape[1:])[...] = array[first:last]
    if tail := stop - last * inner:
        _copy_run(array[last], 0, tail, out[len(out) - tail:])
