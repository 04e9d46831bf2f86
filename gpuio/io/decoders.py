"""Decoders as the specification has them: the extension point for users' own encodings.

A `Decoder` hands out a function that is called once for each read range of a tile::

    decode(inp, out, idx, native_dtype, rr, origin, shape, ds_shape)

    inp           uint8[n]                   the bytes of the range
    out           read_dtype[frames, pixels] the tile, sig axes flattened, written
    idx           int                        position of the range in the tile; of the frame, if there is one range a frame
    native_dtype  np.dtype                   what `Decoder.get_native_dtype` gave
    rr            int64[columns]             the row of the range: file, start byte, stop byte and what a format appended
    origin, shape int64[1 + sig_dims]        of the tile, nav first
    ds_shape      tuple of int               of the data set

It may be plain Python or compiled by numba. gpuio's own encodings do not come this way: the engines decode whole stacks of
frames in one call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

#: The function described above.
DecodeRange = Callable[..., None]


class Decoder(ABC):
    """How bytes become pixels; subclass it for an encoding that gpuio does not know."""

    def do_clear(self) -> bool:
        """Whether `out` must be zero before the first range of a tile: True for decoders that add to what is there."""
        return False

    def get_native_dtype(self, inp_native_dtype: Any, read_dtype: Any) -> np.dtype:
        """The dtype that `decode` is given as `native_dtype`; the input's by default."""
        dtype: np.dtype = np.dtype(inp_native_dtype)
        return dtype

    @abstractmethod
    def get_decode(self, native_dtype: Any, read_dtype: Any) -> DecodeRange:
        """The function that decodes a range.

        Parameters
        ----------
        native_dtype
            Of the file, byte order included.
        read_dtype
            Of the tile.
        """


def decode_swap_2(inp: np.ndarray, out: np.ndarray, idx: int, native_dtype: np.dtype, rr: np.ndarray, origin: np.ndarray,
                  shape: np.ndarray, ds_shape: Sequence[int]) -> None:
    """Decode items of two bytes in the opposite byte order.

    They are unsigned integers, or what `native_dtype` (in native byte order) says if its items have two bytes.
    numba can compile this function.
    """
    stored = inp.view(np.uint16)
    swapped = ((stored << 8) | (stored >> 8)).astype(np.uint16)
    items = swapped.view(native_dtype)
    if len(items) == len(swapped):
        out[idx] = items
    else:
        out[idx] = swapped


def decode_swap_4(inp: np.ndarray, out: np.ndarray, idx: int, native_dtype: np.dtype, rr: np.ndarray, origin: np.ndarray,
                  shape: np.ndarray, ds_shape: Sequence[int]) -> None:
    """As `decode_swap_2`, for items of four bytes."""
    stored = inp.view(np.uint32)
    swapped = ((stored << 24) | ((stored & 0xFF00) << 8) | ((stored >> 8) & 0xFF00) | (stored >> 24)).astype(np.uint32)
    items = swapped.view(native_dtype)
    if len(items) == len(swapped):
        out[idx] = items
    else:
        out[idx] = swapped


class DefaultDecoder(Decoder):
    """Items of the native dtype, in either byte order, converted as NumPy's ``astype`` does; complex to real takes the real part."""

    def get_decode(self, native_dtype: Any, read_dtype: Any) -> DecodeRange:
        """See `Decoder.get_decode`."""
        drops_imaginary = np.dtype(native_dtype).kind == "c" and np.dtype(read_dtype).kind not in "cb"
        return _decode_real_part if drops_imaginary else _decode_items


class DtypeConversionDecoder(DefaultDecoder):
    """As `DefaultDecoder`, with a compilable function for items of two and four bytes in the opposite byte order.

    For those, the native dtype is uint8 (unsigned integers), or the dtype in native byte order (signed integers, floats).
    """

    def get_native_dtype(self, inp_native_dtype: Any, read_dtype: Any) -> np.dtype:
        """See the class."""
        dtype: np.dtype = np.dtype(inp_native_dtype)
        if _swap(dtype, read_dtype) is None:
            return dtype
        return np.dtype(np.uint8) if dtype.kind == "u" else dtype.newbyteorder("=")

    def get_decode(self, native_dtype: Any, read_dtype: Any) -> DecodeRange:
        """See `Decoder.get_decode`."""
        return _swap(np.dtype(native_dtype), read_dtype) or super().get_decode(native_dtype, read_dtype)


def _swap(native: np.dtype, read_dtype: Any) -> DecodeRange | None:
    """The swapping function for a conversion, None where NumPy's own conversion is used."""
    if native.isnative or not np.dtype(read_dtype).isnative or native.kind not in "uif":
        return None
    return {2: decode_swap_2, 4: decode_swap_4}.get(native.itemsize)


def _decode_items(inp: np.ndarray, out: np.ndarray, idx: int, native_dtype: np.dtype, rr: np.ndarray, origin: np.ndarray,
                  shape: np.ndarray, ds_shape: Sequence[int]) -> None:
    out[idx] = inp.view(native_dtype)


def _decode_real_part(inp: np.ndarray, out: np.ndarray, idx: int, native_dtype: np.dtype, rr: np.ndarray, origin: np.ndarray,
                      shape: np.ndarray, ds_shape: Sequence[int]) -> None:
    out[idx] = inp.view(native_dtype).real
