"""Tiles: decoded pixels and where they belong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpuio.engine import DLPACK_DEFAULT, DLPACK_NO_WAIT, Output
from gpuio.errors import ShapeError
from gpuio.hostarray import host_array
from gpuio.shape import Shape, Slice


class DataTile:
    """A stack of frames, or of the same box of frames, and its place in the data set.

    A tile lends its pixels: one that a stream hands out is valid until the next step; `copy` keeps it.
    NumPy, CuPy, PyTorch and others take it where they take arrays. On a GPU, whoever takes the pixels, by `data` or a protocol,
    makes its stream wait for them, and the stream of tiles wait for its work before they are overwritten.

    Parameters
    ----------
    input_array : NumPy or CuPy array[frames, *sig box]
        The pixels.
    tile_slice
        Its place: one nav axis, flat or compressed by a roi, and the sig axes.
    scheme_idx
        Number of the box in the tiling scheme.

    Attributes
    ----------
    scheme_idx : int
        Number of the box in the tiling scheme.

    Raises
    ------
    ShapeError
        `tile_slice` has not one nav axis, or another shape than the array.
    """

    __slots__ = ("_data", "_lender", "_place", "_slice", "scheme_idx")

    scheme_idx: int
    _data: Any
    _lender: Output | None
    _slice: Slice | None
    _place: tuple[int, tuple[int, ...]] | None

    def __init__(self, input_array: Any, tile_slice: Slice, scheme_idx: int) -> None:
        if tile_slice.shape.nav.dims != 1:
            raise ShapeError(f"a tile needs a flat nav axis; {tile_slice!r} has {tile_slice.shape.nav.dims}")
        if tuple(input_array.shape) != tuple(tile_slice.shape):
            raise ShapeError(f"pixels of shape {tuple(input_array.shape)} do not fit {tile_slice!r}")
        self._data = input_array
        self._lender = None
        self._slice = tile_slice
        self._place = None
        self.scheme_idx = int(scheme_idx)

    @classmethod
    def lent(cls, data: Any, origin_nav: int, sig_origin: tuple[int, ...], scheme_idx: int = 0, lender: Output | None = None) -> DataTile:
        """A tile from what a stream knows to be right: nothing is checked, and `tile_slice` is made when it is asked for.

        Parameters
        ----------
        data : array[frames, *sig box]
        origin_nav
            First frame on the flat or compressed nav axis.
        sig_origin
            First pixel of the box.
        lender
            What `data` is a view of, if that is filled in the background.
        """
        self = cls.__new__(cls)
        self._data = data
        self._lender = lender
        self._slice = None
        self._place = origin_nav, sig_origin
        self.scheme_idx = scheme_idx
        return self

    @property
    def data(self) -> Any:
        """The pixels: NumPy or CuPy array[frames, *sig box]. On a GPU, the current stream waits for them."""
        if self._lender is not None:
            self._lender.take()
        return self._data

    @property
    def tile_slice(self) -> Slice:
        """Where the tile lies: one nav axis, flat or compressed by a roi, and the sig axes."""
        if self._slice is None:
            assert self._place is not None
            nav, sig = self._place
            self._slice = Slice((nav, *sig), Shape(self._data.shape, sig_dims=len(sig)))
        return self._slice

    @property
    def shape(self) -> tuple[int, ...]:
        """Frames, then the sig box."""
        shape: tuple[int, ...] = self._data.shape
        return shape

    @property
    def dtype(self) -> np.dtype:
        """Of the pixels."""
        dtype: np.dtype = self._data.dtype
        return dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self._data.shape)

    @property
    def size(self) -> int:
        """Number of pixels."""
        return int(self._data.size)

    @property
    def nbytes(self) -> int:
        """Bytes of the pixels."""
        return int(self._data.nbytes)

    @property
    def c_contiguous(self) -> bool:
        """Whether the pixels lie in C order without gaps."""
        return bool(self._data.flags.c_contiguous)

    @property
    def flat_data(self) -> Any:
        """The pixels as array[frames, pixels of the box], a row a frame; a view unless frames lie in a file with gaps within them."""
        shape = self.shape
        return self.data.reshape(shape[0], math.prod(shape[1:]))

    def reshape(self, shape: Any, *further: int, order: str = "C") -> Any:
        """The pixels as an array of a new shape, given as a tuple or as separate numbers; as NumPy's ``reshape``."""
        return self.data.reshape((shape, *further) if further else shape, order=order)

    def copy(self) -> DataTile:
        """The same tile with pixels of its own, which stay valid."""
        return DataTile(self.data.copy(), self.tile_slice, self.scheme_idx)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, key: Any) -> Any:
        return self.data[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The pixels in host memory, as NumPy asks for them; downloaded if they are on a GPU.

        Raises
        ------
        ValueError
            No copy is allowed and one is needed.
        """
        if isinstance(self._data, np.ndarray):
            return np.array(self._data, dtype=dtype, copy=copy)
        if copy is False:
            raise ValueError("pixels on a GPU cannot become a NumPy array without a copy")
        return np.asarray(self.data.get(), dtype=dtype)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The pixels in GPU memory; AttributeError if they are in host memory. ``stream`` is the current one, which waits for them."""
        interface: dict[str, Any] = self.data.__cuda_array_interface__
        return interface

    def __dlpack__(self, **kwargs: Any) -> Any:
        """The pixels as a DLPack capsule, lent like the tile; keywords are those of the array. On a GPU, the ``stream`` waits for them.

        Views of a file cannot be written to. Those who have no word for that in their version of the protocol get a copy.
        """
        data = self._data
        if not isinstance(data, np.ndarray):
            if self._lender is None or kwargs.get("dl_device") not in (None, self.__dlpack_device__()):
                return self.data.__dlpack__(**kwargs)
            stream = kwargs.pop("stream", None)
            self._lender.take(DLPACK_DEFAULT if stream is None else stream)
            return data.__dlpack__(stream=DLPACK_NO_WAIT, **kwargs)
        if not data.flags.writeable and (kwargs.get("max_version") or (0, 0)) < (1, 0):
            if kwargs.get("copy") is False:
                raise BufferError("pixels that are a view of a file cannot be handed over without a copy by DLPack before version 1")
            data = data.copy()
        return data.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Kind and number of the device that holds the pixels."""
        device: tuple[int, int] = self._data.__dlpack_device__()
        return device

    def __repr__(self) -> str:
        return f"<DataTile {self.tile_slice!r} {self.dtype} scheme_idx={self.scheme_idx}>"


def get_coordinates(slice_: Slice, ds_shape: Shape, roi: Any = None) -> np.ndarray:
    """Nav coordinates of the frames of a tile or partition.

    Parameters
    ----------
    slice_
        One nav axis, flat, or compressed by `roi`.
    ds_shape
        Of the whole data set.
    roi : bool[nav], optional
        Any shape with one entry for each scan position.

    Returns
    -------
    int64[frames, nav_dims]
        With a roi only as many as it selects.

    Raises
    ------
    ShapeError
        The slice begins before the scan, or (without a roi) ends after it; or the roi has not one entry for each position.
    """
    nav = tuple(ds_shape.nav)
    size = math.prod(nav)
    first, stop = slice_.origin[0], slice_.origin[0] + slice_.shape[0]
    if first < 0 or (roi is None and stop > size):
        raise ShapeError(f"{slice_!r} reaches past the {size} positions of the nav shape {nav}")
    flat = np.arange(first, stop)
    if roi is not None:
        flat = np.flatnonzero(host_array(roi, f"roi for the nav shape {nav}", size))[first:stop]
    return np.stack(np.unravel_index(flat, nav), axis=1).astype(np.int64, copy=False)
