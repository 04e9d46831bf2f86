"""NumPy files: one array of any shape, in C or Fortran order. `_npy_header` describes the bytes before the array.

==============  ======================================================  ===============================================
quantity        C order                                                 Fortran order
==============  ======================================================  ===============================================
frame           one run of bytes                                        scattered: one pixel in each run of the file
frame i at      data offset + i x pixels x item size                    data offset + item size x (nav index, first fastest)
pixel           item size x C-order index                               item size x positions x (first sig axis fastest)
==============  ======================================================  ===============================================

An array with at most one axis longer than 1 is the same bytes in both orders. Source: the NumPy reference, module
``numpy.lib.format``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

from gpuio.dataset import DataSet, MessageConverter, message_schema
from gpuio.errors import ShapeError, TruncatedFile
from gpuio.fileset import File, FileSet
from gpuio.findings import Finding, about_scan, path_of
from gpuio.formats import FORMATS
from gpuio.formats._arguments import integer, leading_axes, nav_or_sig_shape, sync
from gpuio.formats._npy_header import MAGIC, Header, read_header
from gpuio.layout import Encoding, Layout, Strided, plain_pieces
from gpuio.source import Source

#: For ``gpuio check``: how to open what is there of a truncated file.
LENIENT = {"allow_truncated": True}


def sniff(head: bytes, path: str) -> bool:
    """Whether a file beginning with `head` is a NumPy file."""
    return head.startswith(MAGIC)


def parse(source: Source, path: str, *, sig_dims: int | None = 2, nav_shape: Sequence[int] | None = None,
          sig_shape: Sequence[int] | None = None, allow_truncated: bool = False) -> Layout:
    """Where the frames of a NumPy file are.

    Parameters
    ----------
    sig_dims
        How many of the last axes are the detector's. None: as many as `sig_shape` has.
    nav_shape, sig_shape
        Other shapes for the same items, taken in C order from the start; items left over are not used.
    allow_truncated
        Of a file that is shorter than its header says, take the whole frames that are there.

    Raises
    ------
    OSError
        The file is missing or may not be read.
    FormatError
        It is no NumPy file, or its header is damaged; `TruncatedFile` if it is too short.
    UnsupportedFeature
        The array does not hold numbers that can be decoded. Arrays of Python objects are never unpickled.
    ShapeError
        Shapes do not fit the array or each other.
    """
    header = read_header(source, path)
    sig = _sig_shape(header, path, sig_dims, sig_shape)
    nav = leading_axes(header.shape, sig)
    items, frame_items, itemsize = math.prod(header.shape), math.prod(sig), header.dtype.itemsize
    asked = frame_items * math.prod(nav_shape or (1,))
    if asked > items:
        raise ShapeError(f"{path}: nav_shape {tuple(nav_shape or (1,))} and sig_shape {sig} need {asked} items; "
                         f"the array of shape {header.shape} has {items}")
    scattered = header.fortran_order and sum(n > 1 for n in header.shape) > 1
    if scattered and sig != _last_axes(header.shape, len(sig)):
        raise ShapeError(f"{path}: sig_shape {sig} cannot replace {_last_axes(header.shape, len(sig))} in an array in Fortran order")

    notes = []
    frame_bytes = frame_items * itemsize
    count = items // frame_items
    there = source.size(path) - header.data_offset
    if there < items * itemsize:
        count = _whole_frames(path, header, there, items * itemsize, frame_bytes, count, scattered, allow_truncated)
        notes.append(f"the file is truncated: {there} of {items * itemsize} bytes of pixels are there; {count} whole frames are used")
    elif there > items * itemsize:
        notes.append(f"{there - items * itemsize} bytes follow the array and are not used")
    if items % frame_items:
        notes.append(f"{items % frame_items} items after the last whole frame of shape {sig} are not used")

    strided = None
    parts: tuple[FileSet, ...] = ()
    if scattered:
        axis_steps = tuple(math.prod(header.shape[:i]) * itemsize for i in range(len(header.shape)))
        n_nav = len(header.shape) - len(sig)
        # An array that is a single frame has a nav axis of 1.
        strided = Strided(path, header.data_offset, header.dtype, header.shape[:n_nav] or (1,), axis_steps[:n_nav] or (itemsize,),
                          axis_steps[n_nav:])
        notes.append("the array is in Fortran order: every frame is scattered over the whole file and slow to read alone")
    else:
        parts = (FileSet([File(path, 0, count, header.dtype, sig, file_header=header.data_offset, size=header.data_offset + there)]),)
    return Layout(
        format="npy", parts=parts, encoding=Encoding.of(header.dtype), pieces=plain_pieces(sig, sig[-1] * itemsize), sig_shape=sig,
        nav_shape=nav, image_count=count, strided=strided, notes=tuple(notes),
        metadata={"dtype_on_disk": header.dtype.str, "shape": header.shape, "fortran_order": header.fortran_order,
                  "npy_version": "{}.{}".format(*header.version), "data_offset_bytes": header.data_offset},
    )


def check(source: Source, layout: Layout) -> Iterator[Finding]:
    """For ``gpuio check``: frames that are not there, and bytes after the array."""
    yield from about_scan(layout)
    path, said = path_of(layout), layout.metadata
    rest = source.size(path) - said["data_offset_bytes"] - math.prod(said["shape"]) * layout.dtype.itemsize
    if rest > 0:
        yield Finding("warning", path, f"{rest} bytes follow the array of shape {said['shape']}", {"bytes_left": rest})


def _sig_shape(header: Header, path: str, sig_dims: int | None, sig_shape: Sequence[int] | None) -> tuple[int, ...]:
    """Detector axes, from the user's shape or the last axes of the array."""
    dims = len(sig_shape or ()) if sig_dims is None else integer(sig_dims)
    if dims is None or dims < 1:
        raise ShapeError(f"{path}: sig_dims is {sig_dims!r} and sig_shape {sig_shape!r}; expected sig_dims to be a positive integer, "
                         "or None with a sig_shape to count")
    if sig_shape is not None:
        if len(sig_shape) != dims:
            raise ShapeError(f"{path}: sig_shape {tuple(sig_shape)} has {len(sig_shape)} axes, but sig_dims is {dims}; "
                             "pass sig_dims=None to count the axes of sig_shape")
        return tuple(sig_shape)
    if len(header.shape) < dims:
        raise ShapeError(f"{path}: the array of shape {header.shape} has {len(header.shape)} axes; expected at least sig_dims={dims}")
    return _last_axes(header.shape, dims)


def _last_axes(shape: tuple[int, ...], dims: int) -> tuple[int, ...]:
    return shape[max(0, len(shape) - dims):]


def _whole_frames(path: str, header: Header, there: int, needed: int, frame_bytes: int, count: int, scattered: bool, allow: bool) -> int:
    """Frames to use of a truncated file, or the error that it is."""
    found = f"{path}: holds {max(0, there)} bytes of pixels; expected {needed} for shape {header.shape} and dtype {header.dtype.str}"
    if scattered:
        raise TruncatedFile(f"{found}; no frame is whole, as the array is in Fortran order")
    whole = min(count, max(0, there) // frame_bytes)
    if not whole:
        raise TruncatedFile(f"{found}; not one frame of {frame_bytes} bytes is whole")
    if not allow:
        raise TruncatedFile(f"{found}; {whole} of {count} frames are whole, pass allow_truncated=True to load them")
    return whole


class NPYDataSet(DataSet):
    """An array in a NumPy ``.npy`` file, in C or Fortran order.

    Parameters
    ----------
    path : str or path
        The file.
    sig_dims : int, optional
        How many of the last axes are the detector's. None: as many as `sig_shape` has.
    nav_shape, sig_shape : tuple of int, optional
        Other shapes for the same items, taken in C order from the start of the file; for a subset, or the same items in
        another shape. Default: the shape that the file states. `sig_shape` cannot be changed in Fortran order.
    sync_offset : int
        Positive: frames to skip at the start. Negative: blank frames to insert there.
    io_backend
        How to read; None lets gpuio choose.
    allow_truncated : bool
        Of a file that is shorter than its header says, load the whole frames that are there; the others are blank.

    Raises
    ------
    ShapeError
        A shape is not made of positive integers; on `initialize`: shapes do not fit the array, or `sig_dims` is no positive
        integer and there is no `sig_shape` to count.
    """

    format = "npy"

    def __init__(self, path: Any, sig_dims: int | None = 2, nav_shape: tuple[int, ...] | None = None,
                 sig_shape: tuple[int, ...] | None = None, sync_offset: int = 0, io_backend: Any = None, *,
                 allow_truncated: bool = False) -> None:
        super().__init__(io_backend=io_backend)
        self._path = os.fsdecode(path)
        self._sig_dims = sig_dims
        self._nav_shape = nav_or_sig_shape(nav_shape, "nav_shape")
        self._sig_shape = nav_or_sig_shape(sig_shape, "sig_shape")
        self._sync_offset = sync(sync_offset)
        self._allow_truncated = allow_truncated

    def _parse(self, source: Source) -> Layout:
        return parse(source, self._path, sig_dims=self._sig_dims, nav_shape=self._nav_shape, sig_shape=self._sig_shape,
                     allow_truncated=self._allow_truncated)

    @classmethod
    def sniff(cls, head: bytes, path: str) -> bool:
        """Whether a file beginning with `head` is a NumPy file."""
        return sniff(head, path)

    @classmethod
    def get_supported_extensions(cls) -> set[str]:
        """Extensions in lower case, without dot."""
        return set(FORMATS["npy"].extensions)

    @classmethod
    def get_msg_converter(cls) -> type[MessageConverter]:
        """Of messages of type ``NPY``."""
        return _NpyMessages


class _NpyMessages(MessageConverter):
    """Messages of type ``NPY``."""

    SCHEMA = message_schema("NPY", {"sig_dims": {"type": "integer", "minimum": 1}})
