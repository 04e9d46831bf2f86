"""Files that scans are exported to: one class for each, which writes runs of scan positions and reads them back.

=========  ==================================================================================================
container  holds
=========  ==================================================================================================
``.npy``   the pixels and nothing else
``.h5``    ``/data`` in chunks of whole frames, ``/scan_image``, ``/summed_pattern``; axes as HDF5 dimension scales
``.zarr``  format 3, the same arrays in a group, with dimension names and coordinates as xarray reads them
=========  ==================================================================================================

A run is a box of scan positions that is a run of flat indices too, so that every container can write it at once. Containers are
written where they are told; that nothing half-written gets the final name is the business of `export`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from gpuio.errors import UnsupportedFeature
from gpuio.extras import extra
from gpuio.integrations._axes import Axis

#: Pixels of a chunk, before it is compressed, about.
CHUNK_BYTES = 1 << 20
COMPRESSIONS = ("none", "gzip", "bitshuffle")

#: A box of scan positions, as an index of the nav axes.
Positions = tuple[slice, ...]


class Container(Protocol):
    """A file of one scan that is being written."""

    def write(self, where: Positions, frames: np.ndarray) -> None:
        """`frames` is dtype[positions of the box..., *sig]."""

    def finish(self, scan_image: np.ndarray, summed_pattern: np.ndarray) -> None:
        """Write what is known only now, and close; the bytes are on the disk then."""

    def close(self) -> None:
        """Give up or be done; closing twice is fine."""


def chunk_frames(nav: Sequence[int], frame_bytes: int) -> int:
    """Frames of a chunk, along the last nav axis."""
    return max(1, min(nav[-1], CHUNK_BYTES // max(1, frame_bytes)))


def _shapes(axes: Sequence[Axis], dtype: np.dtype) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of all pixels, and of a chunk."""
    shape, nav = tuple(a.size for a in axes), [a.size for a in axes if a.is_nav]
    sig = shape[len(nav):]
    return shape, (*(1,) * (len(nav) - 1), chunk_frames(nav, math.prod(sig) * dtype.itemsize), *sig)


class NpyFile:
    """``.npy``; positions that are not written are zero."""

    suffixes, compresses = (".npy",), False

    def __init__(self, path: str, axes: Sequence[Axis], dtype: np.dtype, compression: str, attributes: Mapping[str, Any]) -> None:
        self._shape = tuple(axis.size for axis in axes)
        self._nav = [axis.size for axis in axes if axis.is_nav]
        self._path = path
        self._file = open(path, "xb")      # noqa: SIM115  # closed by finish and close
        try:
            np.lib.format.write_array_header_2_0(self._file, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False,
                                                              "shape": self._shape})
            self._start = self._file.tell()
            self._frame_bytes = math.prod(self._shape[len(self._nav):]) * dtype.itemsize
            self._file.truncate(self._start + math.prod(self._nav) * self._frame_bytes)
        except BaseException:
            self._file.close()
            raise

    def write(self, where: Positions, frames: np.ndarray) -> None:
        first = int(np.ravel_multi_index([s.start for s in where], self._nav))
        try:
            self._file.seek(self._start + first * self._frame_bytes)
            self._file.write(np.ascontiguousarray(frames).data.cast("B"))
        except OSError as e:            # a full disk: without a name, it would not be known which
            raise OSError(e.errno, e.strerror, self._path) from e

    def finish(self, scan_image: np.ndarray, summed_pattern: np.ndarray) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self.close()

    def close(self) -> None:
        self._file.close()

    @staticmethod
    @contextmanager
    def reading(path: str) -> Iterator[Any]:
        """What is in a finished file, to be indexed like an array."""
        yield np.load(path, mmap_mode="r", allow_pickle=False)


class Hdf5File:
    """``.h5``; positions that are not written are zero."""

    suffixes, compresses = (".h5", ".hdf5"), True

    def __init__(self, path: str, axes: Sequence[Axis], dtype: np.dtype, compression: str, attributes: Mapping[str, Any]) -> None:
        with extra("hdf5"):
            import h5py
            import hdf5plugin
        filters: dict[str, Any] = {"none": {}, "gzip": {"compression": "gzip", "compression_opts": 4, "shuffle": True},
                                   "bitshuffle": dict(hdf5plugin.Bitshuffle(cname="lz4"))}[compression]
        shape, chunks = _shapes(axes, dtype)
        self._file = h5py.File(path, "x", rdcc_nbytes=2 * math.prod(chunks) * dtype.itemsize)
        try:
            self._file.attrs.update(_text(attributes))
            self._data = self._file.create_dataset("data", shape, dtype, chunks=chunks, **filters)
            for number, axis in enumerate(axes):
                self._data.dims[number].label = axis.name
                if axis.coordinates is not None:
                    scale = self._file.create_dataset(axis.name, data=axis.coordinates)
                    scale.attrs["units"] = axis.unit
                    scale.make_scale(axis.name)
                    self._data.dims[number].attach_scale(scale)
        except BaseException:
            self.close()
            raise

    def write(self, where: Positions, frames: np.ndarray) -> None:
        self._data[where] = frames

    def finish(self, scan_image: np.ndarray, summed_pattern: np.ndarray) -> None:
        self._file["scan_image"], self._file["summed_pattern"] = scan_image, summed_pattern
        self._file.flush()
        self.close()

    def close(self) -> None:
        self._file.close()

    @staticmethod
    @contextmanager
    def reading(path: str) -> Iterator[Any]:
        """What is in a finished file, to be indexed like an array."""
        import h5py

        with h5py.File(path, "r") as file:
            yield file["data"]


class ZarrGroup:
    """``.zarr``; positions that are not written are zero."""

    suffixes, compresses = (".zarr",), True

    def __init__(self, path: str, axes: Sequence[Axis], dtype: np.dtype, compression: str, attributes: Mapping[str, Any]) -> None:
        with extra("zarr"):
            import zarr
            from zarr.codecs import BloscCodec, GzipCodec
        codecs: Any = {"none": None, "gzip": GzipCodec(level=4),
                       "bitshuffle": BloscCodec(typesize=dtype.itemsize, cname="lz4", clevel=5, shuffle="bitshuffle")}[compression]
        shape, chunks = _shapes(axes, dtype)
        self._axes = axes
        self._group = zarr.open_group(path, mode="w-", zarr_format=3)
        self._group.attrs.update(_text(attributes))
        self._data = self._group.create_array("data", shape=shape, chunks=chunks, dtype=dtype, compressors=codecs, fill_value=0,
                                              dimension_names=[a.name for a in axes])
        for axis in axes:
            if axis.coordinates is not None:
                self._add(axis.name, axis.coordinates, [axis.name]).attrs["units"] = axis.unit

    def write(self, where: Positions, frames: np.ndarray) -> None:
        self._data[where] = frames

    def finish(self, scan_image: np.ndarray, summed_pattern: np.ndarray) -> None:
        for name, values, is_nav in (("scan_image", scan_image, True), ("summed_pattern", summed_pattern, False)):
            self._add(name, values, [a.name for a in self._axes if a.is_nav == is_nav])

    def _add(self, name: str, values: np.ndarray, dims: list[str]) -> Any:
        array = self._group.create_array(name, shape=values.shape, dtype=values.dtype, dimension_names=dims)
        array[...] = values
        return array

    def close(self) -> None:
        """Nothing is open."""

    @staticmethod
    @contextmanager
    def reading(path: str) -> Iterator[Any]:
        """What is in a finished group, to be indexed like an array."""
        import zarr

        yield zarr.open_group(path, mode="r")["data"]


def _text(attributes: Mapping[str, Any]) -> dict[str, str]:
    """Attributes as text or JSON, whatever they are made of."""
    def known(value: Any) -> Any:
        return value.tolist() if hasattr(value, "tolist") else str(value)

    return {name: value if isinstance(value, str) else json.dumps(value, default=known) for name, value in attributes.items()}


CONTAINERS: tuple[type[NpyFile] | type[Hdf5File] | type[ZarrGroup], ...] = (NpyFile, Hdf5File, ZarrGroup)


def container_of(path: str) -> type[NpyFile] | type[Hdf5File] | type[ZarrGroup]:
    """The container that a file name asks for.

    Raises
    ------
    UnsupportedFeature
        None is known by that name.
    """
    suffix = os.path.splitext(path)[1].lower()
    for container in CONTAINERS:
        if suffix in container.suffixes:
            return container
    known = ", ".join(s for c in CONTAINERS for s in c.suffixes)
    raise UnsupportedFeature(f"{path}: pixels cannot be written to a file of this name; expected one that ends in {known}")
