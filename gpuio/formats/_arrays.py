"""Arrays as people hand them over, of whatever library and on whatever device, without copying them.

================================  ==============================================================================================
``__cuda_array_interface__``      CuPy, Numba, PyTorch and others on a GPU; taken over by the engine of that GPU, where it is
``__dlpack__``                    the same for any library; its ``__dlpack_device__`` says where the memory is
buffer, ``__array_interface__``   host memory: NumPy and its memory maps, page-locked arrays, bytes, ``array.array``
``todense``                       sparse matrices of SciPy, sparse arrays of pydata
================================  ==============================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpuio.dataset import BasePartition, DataSet
from gpuio.engine import get_engine
from gpuio.errors import DataSetException, UnsupportedFeature

#: Kinds of memory in DLPack: on a GPU, and managed by CUDA.
_ON_GPU = (2, 13)
#: That of the host, and page-locked.
_ON_HOST = (1, 3)


class Taken(NamedTuple):
    """An array, and the device it lies on: ``"cuda:N"``, or None for host memory."""

    array: Any
    device: str | None


def take(data: Any) -> Taken:
    """`data` as NumPy array, or as array of the engine of its device.

    Raises
    ------
    UnsupportedFeature
        A masked array, or memory of a kind that gpuio does not know.
    DataSetException
        No array at all.
    BackendUnavailable
        An array on a GPU, and CUDA cannot be used.
    """
    if isinstance(data, np.ma.MaskedArray):
        raise UnsupportedFeature("a masked array does not say which values masked pixels have; pass data.filled(value)")
    kind, number = _dlpack_device(data)
    try:
        if hasattr(data, "__cuda_array_interface__"):
            device = f"cuda:{number or 0}"
            return Taken(get_engine(device).xp.asarray(data), device)
        if isinstance(data, np.ndarray):
            return Taken(np.asarray(data), None)
        if kind in _ON_GPU:
            device = f"cuda:{number or 0}"
            return Taken(get_engine(device).xp.from_dlpack(data), device)
        if hasattr(data, "__array_interface__"):
            return Taken(np.asarray(data), None)
        if kind in _ON_HOST:
            return Taken(np.from_dlpack(data), None)
        if kind is None:
            return Taken(np.asarray(memoryview(data)), None)
    except (TypeError, ValueError, BufferError) as error:
        raise DataSetException(f"data is {_name(data)}; expected an array in memory; pass np.asarray(data). "
                               f"Taking it failed: {error}") from error
    raise UnsupportedFeature(f"{_name(data)} is in memory of DLPack's kind {kind}; expected host memory or that of an NVIDIA GPU")


def is_sparse(data: Any) -> bool:
    """Whether `data` is a sparse matrix or array of SciPy or pydata."""
    return hasattr(data, "todense")


def _dlpack_device(data: Any) -> tuple[int | None, int | None]:
    if not (hasattr(data, "__dlpack__") and hasattr(data, "__dlpack_device__")):
        return None, None
    kind, number = data.__dlpack_device__()
    return int(kind), int(number)


def _name(data: Any) -> str:
    return f"{type(data).__module__.partition('.')[0]}.{type(data).__name__}".removeprefix("builtins.")


class ArrayDataSet(DataSet):
    """A data set whose pixels are in no file. Those that are on a GPU stay there."""

    _on: str | None = None          # the device of the pixels, "cuda:N"; None: host memory

    def check_valid(self) -> bool:
        """True: everything has been looked at."""
        return True

    @property
    def files(self) -> list[str]:
        """None."""
        return []

    @property
    def device(self) -> str:
        """Where tiles are decoded: the device of the pixels, if they are on a GPU.

        Raises
        ------
        DataSetException
            Another device was asked for.
        """
        if self._on is None:
            return super().device
        if self._device is not None and self._device != self._on:
            raise DataSetException(f"the array is on {self._on} and stays there; device {self._device!r} was asked for. "
                                   "Copy the array to that device and make a data set of the copy")
        return self._on

    @classmethod
    def get_supported_io_backends(cls) -> list[str]:
        """None: arrays are read by a transport of their own."""
        return []

    def _transport(self) -> tuple[Any, bool, str]:
        return self.get_io_backend(), False, "the pixels are in no file"

    def _transport_of(self, load: Callable[[str], Any], *, in_place: bool = False, read_threads: int = 3) -> Any:
        """The transport of the arrays that `load` gives; on a device, in the order of the caller's stream."""
        from gpuio.io.computed import ComputedBackend

        on_device = self._on is not None
        return ComputedBackend(load, memory="device" if on_device else "host", gives_views=in_place,
                               read_threads=0 if on_device else read_threads)


class ArrayPartition(BasePartition):
    """A partition of such a data set."""

    def set_io_backend(self, backend: Any) -> None:
        """None is fine; anything else is refused, as in the constructor of the data set."""
        if backend is not None:
            raise ValueError("the data are in memory, not in files; expected io_backend=None")
