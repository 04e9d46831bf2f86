"""HDF5: arrays of any program, NeXus, HyperSpy, EMD, py4DSTEM, Velox, and the masters and data files of DECTRIS detectors (ARINA).

A file is a tree of groups and data sets, with links between them and to other files. Frames are the last axes of a data set; those
before are the scan. h5py tells where the bytes are; they are then read from the file itself, by any number of threads, and packed
chunks are unpacked by gpuio's engines:

====================  ==============================================================================================
filter                stored bytes of a chunk
====================  ==============================================================================================
1 deflate             a zlib stream
2 shuffle             first bytes of all items, then all second bytes ...
3 fletcher32          4 bytes of checksum at the end
32000 LZF             LZF without a header
32004 LZ4             u64, u32 big-endian: all bytes, bytes a block; then u32 and bytes of each block
32008 bitshuffle      the same with LZ4, or bare; bits of items transposed in blocks
others                by the library, with hdf5plugin
====================  ==============================================================================================

Filters are undone from the last to the first; bit k of a chunk's mask says that filter k was left out. bool is an enumeration of 8
bits, complex numbers are records of two floats.

`_hdf5_structure` opens files and follows links, `_hdf5_headers` looks at what the library would not come back from, `_hdf5_discovery`
finds the data set, `_hdf5_storage`, `_hdf5_chunks` and `_hdf5_index` its bytes, `_hdf5_dectris` puts data files together, `_hdf5_library`
asks the library for what only it can read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

from gpuio.dataset import DataSet, MessageConverter, message_schema
from gpuio.errors import FormatError, ShapeError
from gpuio.findings import Finding, about_scan, path_of
from gpuio.formats import FORMATS, _hdf5_dectris, _hdf5_structure
from gpuio.formats._arguments import ignored, integer, nav_or_sig_shape, sync
from gpuio.formats._hdf5_discovery import Choice, choose, describe
from gpuio.formats._hdf5_storage import storage
from gpuio.formats._hdf5_structure import dataset, opened, pixel_dtype, resolve
from gpuio.layout import Encoding, Layout
from gpuio.source import Source


def sniff(head: bytes, path: str) -> bool:
    """Whether a file beginning with `head` is an HDF5 file."""
    return _hdf5_structure.sniff(head, path, FORMATS["hdf5"].extensions)


def parse(source: Source, path: str, *, ds_path: str | None = None, sig_dims: int = 2, allow_outside: bool = False) -> Layout:
    """Where the frames of an HDF5 file are.

    Parameters
    ----------
    source
        Tells sizes; the file itself is opened by h5py.
    path
        The file.
    ds_path
        Name of the data set; None: the one that a convention names, else the largest with 4 axes, or 3.
    sig_dims
        How many of its last axes are the detector's.
    allow_outside
        Follow links to files outside of the folder of `path`.

    Raises
    ------
    DataSetException
        It is no HDF5 file or a damaged one, has no such data set, or one that holds no frames; or files that belong to it are missing.
    BackendUnavailable
        h5py is not installed.
    OSError
        The file is missing or may not be read.
    """
    folder = os.path.dirname(os.path.abspath(path))
    is_meant = ds_path is None or f"/{ds_path.strip('/')}" == _hdf5_dectris.GROUP
    if names := _hdf5_dectris.parts_of(path, folder, allow_outside) if is_meant else []:
        if sig_dims != 2:
            raise ShapeError(f"{path}: is the master of a detector, whose frames have 2 axes; sig_dims is {sig_dims}")
        return _hdf5_dectris.parse(path, names, folder, allow_outside)
    if ds_path is None:
        with opened(path) as file:
            place, notes = choose(file, path, folder, allow_outside)
    else:
        place, notes = resolve(path, ds_path, folder, allow_outside), ()
    with opened(place.path) as file:
        found = dataset(file, place)
        choice = describe(file, place, found, notes)
        shape = found.shape
        if len(shape) < sig_dims:
            raise ShapeError(f"{place} has shape {shape}; expected at least sig_dims={sig_dims} axes")
        if 0 in shape:
            raise FormatError(f"{place} of shape {shape} holds nothing")
        stored = storage(found, place, sig_dims, frames_last=choice.frames_last, folder=folder, allow_outside=allow_outside)
        if choice.frames_last:
            shape = shape[sig_dims:] + shape[:sig_dims]
        nav, sig = shape[:-sig_dims] or (1,), shape[-sig_dims:]
        return Layout(
            format="hdf5", parts=stored.parts, encoding=Encoding.of(pixel_dtype(found)), pieces=stored.pieces, sig_shape=sig, nav_shape=nav,
            image_count=math.prod(nav), strided=stored.strided, chunks=stored.chunks,
            metadata={**_metadata(choice, found, sig_dims), **stored.metadata}, notes=choice.notes + stored.notes,
        )


def _metadata(choice: Choice, found: Any, sig_dims: int) -> dict[str, Any]:
    """What is said about the data set, and its axes, slowest first."""
    axes = [{"size": size, **axis} for size, axis in zip(found.shape, choice.axes, strict=True)]
    cut = sig_dims if choice.frames_last else len(axes) - sig_dims
    nav_axes, sig_axes = (axes[cut:], axes[:cut]) if choice.frames_last else (axes[:cut], axes[cut:])
    return {"ds_path": choice.place.name, **({"convention": choice.convention} if choice.convention else {}),
            "dtype_on_disk": pixel_dtype(found).str, "shape": found.shape, "nav_axes": nav_axes, "sig_axes": sig_axes, **choice.metadata}


def check(source: Source, layout: Layout) -> Iterator[Finding]:
    """For ``gpuio check``: chunks that were never written."""
    yield from about_scan(layout)
    if layout.chunks is not None and (missing := int((layout.chunks.table[:, :, 0] < 0).sum())):
        total = layout.chunks.table.shape[0] * layout.chunks.table.shape[1]
        yield Finding("warning", path_of(layout), f"{missing} of {total} chunks were never written: their pixels have the fill value",
                      {"missing_chunks": missing, "chunks": total})


class H5DataSet(DataSet):
    """A data set of an HDF5 file; for masters of DECTRIS detectors, all of their data files.

    Parameters
    ----------
    path : str or path
        The file.
    ds_path : str, optional
        Name of the data set in it. Default: found, see `gpuio.formats._hdf5_discovery`.
    tileshape, min_num_partitions
        Without effect.
    target_size : int, optional
        Bytes of a partition, about. Default: 512 MiB, 256 MiB where chunks are packed.
    sig_dims : int
        How many of the last axes are the detector's.
    io_backend
        How to read; None lets gpuio choose.
    nav_shape : tuple of int, optional
        Another scan shape, slowest axis first.
    sig_shape : tuple of int, optional
        Another shape for the pixels of a frame, in their order.
    sync_offset : int
        Frames to skip at the start; negative: blank frames to insert.
    allow_outside : bool
        Follow links to files outside of the folder of `path`.

    Examples
    --------
    >>> ds = gpuio.load("hdf5", path="/data/scan.h5", ds_path="/entry/data")
    """

    format = "hdf5"

    def __init__(self, path: Any, ds_path: str | None = None, tileshape: Any = None, target_size: int | None = None,
                 min_num_partitions: Any = None, sig_dims: int = 2, io_backend: Any = None, *, nav_shape: Any = None, sig_shape: Any = None,
                 sync_offset: int = 0, allow_outside: bool = False) -> None:
        super().__init__(io_backend=io_backend)
        ignored("tileshape", tileshape)
        ignored("min_num_partitions", min_num_partitions)
        self._path = os.fsdecode(path)
        self._ds_path = None if ds_path is None else os.fsdecode(ds_path)
        self._allow_outside = allow_outside
        self._sig_dims = _positive(sig_dims, "sig_dims")
        self._target_size = None if target_size is None else _positive(target_size, "target_size")
        self._nav_shape = nav_or_sig_shape(nav_shape, "nav_shape")
        self._sig_shape = nav_or_sig_shape(sig_shape, "sig_shape")
        self._sync_offset = sync(sync_offset)
        self._allow_unrepairable = True             # masks of DECTRIS detectors hold the gaps between modules

    def _parse(self, source: Source) -> Layout:
        return parse(source, self._path, ds_path=self._ds_path, sig_dims=self._sig_dims, allow_outside=self._allow_outside)

    @classmethod
    def sniff(cls, head: bytes, path: str) -> bool:
        """Whether a file beginning with `head` is an HDF5 file."""
        return sniff(head, path)

    @classmethod
    def get_supported_extensions(cls) -> set[str]:
        """Extensions in lower case, without dot."""
        return set(FORMATS["hdf5"].extensions)

    def get_num_partitions(self) -> int:
        """Partitions of about `target_size` bytes as stored, at least one a core, at most one a frame."""
        packed = self.layout.chunks is not None and self.layout.chunks.is_packed
        target = self._target_size or (self.MAX_PARTITION_SIZE // 2 if packed else self.MAX_PARTITION_SIZE)
        wanted = -(-self.shape.size * self.layout.dtype.itemsize // target)
        return int(min(self.shape.nav.size, max(self._cores, wanted)))

    def _detected(self) -> dict[str, Any]:
        return {"ds_path": self.metadata["ds_path"]}

    @classmethod
    def get_msg_converter(cls) -> type[MessageConverter]:
        """Of messages of type ``HDF5``."""
        return _HDF5Messages

    def get_cache_key(self) -> dict[str, Any]:
        """Path, name of the data set, shape and sync offset."""
        return {**super().get_cache_key(), "ds_path": self.metadata["ds_path"]}


def _positive(value: Any, name: str) -> int:
    n = integer(value)
    if n is None or n < 1:
        raise ShapeError(f"{name} is {value!r}; expected a positive integer")
    return n


class _HDF5Messages(MessageConverter):
    """Messages of type ``HDF5``."""

    SCHEMA = message_schema("HDF5", {"ds_path": {"type": "string"}, "sig_dims": {"type": "integer", "minimum": 1}},
                            required=("path", "ds_path"))
