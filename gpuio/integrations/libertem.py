"""gpuio's readers under LiberTEM: `gpuio.libertem`.

>>> ds = gpuio.libertem.load(ctx, "mib", path="scan.hdr")       # a LiberTEM data set, read by gpuio
>>> gpuio.libertem.enable()                                     # or: let ctx.load("mib", ...) and ctx.load("auto", ...) take gpuio
>>> ctx.run_udf(ds, SumUDF())

How LiberTEM's runner and gpuio's stream meet:

- LiberTEM negotiates one tiling scheme before it knows on which device tasks will run. Where a GPU can be used the scheme is
  made for it: stacks of whole frames, large. A worker of the CPU cuts them to stacks that stay in its cache.
- A data set offers CuPy first where a GPU can be used. Tasks that want CuPy get tiles that were decoded on their worker's GPU;
  those that want NumPy get tiles that were decoded on the CPU.
- On the CPU tiles are a few MiB: stacks of whole frames, or of bands of rows of larger ones, which decode nearly as fast.
- Corrections become gpuio's once in a process and are applied while decoding, on either device.
- Blank positions have no tile. Tiles for processing by partition are whole partitions, in which blank positions are zero.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

import gpuio
from gpuio import base
from gpuio.extras import extra
from gpuio.integrations._libertem import (
    CUPY,
    array_backends,
    as_peer_errors,
    backend_of,
    corrections_of,
    peer_corrections,
    slice_of,
)

with extra("libertem"):
    from libertem.common import Shape, Slice
    from libertem.common.backend import get_use_cuda
    from libertem.io import dataset as registry
    from libertem.io.corrections import CorrectionSet
    from libertem.io.dataset import base as peer

__all__ = ["DataSet", "Partition", "disable", "enable", "load"]

#: Tiles on the CPU: large enough that LiberTEM's work for each (about 0.1 ms) does not count, and still in the last-level cache.
CPU_TILE_BYTES = 4 << 20
#: Frames are cut into at most so many bands of at least so many pixels each, so that tiles stack 16 frames of float32: matrix products
#: with many masks want stacks. Narrower bands make decoding slower (measured), deeper stacks of large frames scatter reading.
MAX_BANDS, BAND_PIXELS = 16, 65536
#: Tiles on a GPU: launches and copies run at full rate. LiberTEM's default is 1 MiB.
DEVICE_TILE_BYTES = 128 << 20
#: LiberTEM's own readers of these hand out what gpuio does not: arrays of the user's, and sparse tiles.
LEFT_ALONE = ("dask", "memory", "raw_csr")


class Partition(peer.Partition):
    """A partition of a gpuio data set, as LiberTEM's runner drives it.

    Parameters
    ----------
    meta
        LiberTEM's record of the whole data set.
    data
        The partition.
    """

    def __init__(self, meta: peer.DataSetMeta, data: base.BasePartition) -> None:
        super().__init__(meta, slice_of(data.slice), data.get_io_backend(), None)
        self._data = data

    def get_tiles(self, tiling_scheme: peer.TilingScheme, dest_dtype: Any = "float32", roi: Any = None,
                  array_backend: Any = None) -> Iterator[peer.DataTile]:
        """Tiles in the order of the scheme; stacks may be less deep than it says.

        Parameters
        ----------
        tiling_scheme
            How to cut.
        dest_dtype
            dtype of the tiles.
        roi : bool[nav], dense or sparse, optional
            Positions wanted, of the whole data set.
        array_backend
            CuPy for tiles on the worker's GPU, NumPy or CUDA for tiles in host memory; None: the first that the data set offers.

        Yields
        ------
        libertem.io.dataset.base.DataTile
            Valid until the next one is taken.
        """
        if tiling_scheme.intent == "partition" and len(tiling_scheme) == 1:
            whole = self.get_macrotile(dest_dtype, roi, array_backend)
            if whole.shape[0]:
                yield whole
            return
        data = self._on(array_backend)
        depth = tiling_scheme.depth
        if data.device == "cpu":
            depth = min(depth, max(1, CPU_TILE_BYTES // (math.prod(tiling_scheme.shape.sig) * np.dtype(dest_dtype).itemsize)))
        sig_dims = tiling_scheme.shape.sig.dims
        scheme = base.TilingScheme(
            [base.Slice(s.origin, base.Shape(s.shape, sig_dims=sig_dims)) for _, s in tiling_scheme.slices],
            base.Shape((depth, *tiling_scheme.shape.sig), sig_dims=sig_dims), self._data.meta.shape)
        self.validate_tiling_scheme(tiling_scheme)
        for tile in data.get_tiles(scheme, dest_dtype, roi):
            yield peer.DataTile(tile.data, slice_of(tile.tile_slice), tile.scheme_idx)

    def get_macrotile(self, dest_dtype: Any = "float32", roi: Any = None, array_backend: Any = None) -> peer.DataTile:
        """The whole partition as one tile that is the caller's to keep; blank positions are zero. Parameters as `get_tiles`."""
        tile = self._on(array_backend).get_macrotile(dest_dtype, roi)
        return peer.DataTile(tile.data, slice_of(tile.tile_slice), 0)

    def _on(self, array_backend: Any) -> base.BasePartition:
        """The partition on the device that tiles are wanted on."""
        on_gpu = (array_backend or self.meta.array_backends[0]) == CUPY
        return self._data.to(f"cuda:{get_use_cuda() or 0}" if on_gpu else "cpu")

    def set_corrections(self, corrections: CorrectionSet | None) -> None:
        """Corrections that tiles get from now on."""
        self._data.set_corrections(corrections_of(corrections))

    def set_io_backend(self, backend: Any) -> None:
        """Read through `backend`, gpuio's or LiberTEM's, from now on."""
        self._data.set_io_backend(backend_of(backend))

    def get_io_backend(self) -> Any:
        """How this partition reads."""
        return self._data.get_io_backend()

    def get_locations(self) -> None:
        """Any worker will do."""

    def __repr__(self) -> str:
        return f"<Partition of {self._data!r}>"


class DataSet(peer.DataSet):
    """A gpuio data set as one of LiberTEM's.

    Parameters
    ----------
    data
        The data set; initialized, such as from `gpuio.open`, or not yet.
    io_backend
        Nothing; how to read is a matter of `data`.
    num_partitions
        Instead of as many as the number of workers and the size of the data suggest.

    Examples
    --------
    >>> ctx.load(gpuio.libertem.DataSet, gpuio.open("scan.mib"))
    """

    def __init__(self, data: base.DataSet, io_backend: None = None, num_partitions: int | None = None) -> None:
        super().__init__()
        self._data = copy.copy(data)
        self._data.set_num_partitions(num_partitions)

    def initialize(self, executor: Any) -> DataSet:
        """Read the headers, on a worker of `executor`."""
        with as_peer_errors():
            if self._data.meta is None:
                self._data = self._data.initialize(executor)
            self._sync_offset_info = self._data.get_sync_offset_info()
        data = self._data
        self._sync_offset, self._image_count, self._nav_shape_product = data.sync_offset, data.image_count, data.shape.nav.size
        self._meta = peer.DataSetMeta(
            shape=Shape(tuple(data.shape), sig_dims=data.shape.sig.dims), array_backends=array_backends(data),
            image_count=data.image_count, raw_dtype=data.meta.raw_dtype, dtype=data.dtype, sync_offset=data.sync_offset)
        return self

    def check_valid(self) -> bool:
        """True, or an error: files are there and readable."""
        with as_peer_errors():
            return self._data.check_valid()

    @property
    def data(self) -> base.DataSet:
        """The gpuio data set."""
        return self._data

    @property
    def shape(self) -> Shape:
        """Nav axes, then sig axes."""
        return self._known.shape

    @property
    def dtype(self) -> np.dtype:
        """dtype of pixels where none is asked for."""
        return self._known.dtype

    @property
    def array_backends(self) -> Sequence[Any]:
        """CuPy first where a GPU can be used."""
        return self._known.array_backends

    @property
    def _known(self) -> peer.DataSetMeta:
        if self._meta is None:
            raise peer.DataSetException(f"{self._data!r}: the data set is not initialized; use ctx.load or gpuio.libertem.load")
        return self._meta

    def set_num_cores(self, cores: int) -> None:
        """Workers that partitions are made for."""
        super().set_num_cores(cores)
        self._data.set_num_cores(cores)

    def get_slices(self) -> Iterator[tuple[Slice, int, int]]:
        """Slice, first file frame, one past the last, of each partition."""
        return ((slice_of(box), start, stop) for box, start, stop in self._data.get_slices())

    def get_num_partitions(self) -> int:
        """How many there are."""
        return sum(1 for _ in self._data.get_slices())

    def get_partitions(self) -> Iterator[Partition]:
        """The partitions, in order."""
        return (Partition(self._known, data) for data in self._data.get_partitions())

    def get_correction_data(self) -> CorrectionSet:
        """Corrections that the files carry."""
        return peer_corrections(self._data.get_correction_data())

    def get_io_backend(self) -> Any:
        """How files are read, as gpuio has it."""
        return self._data.get_io_backend()

    def get_base_shape(self, roi: Any) -> tuple[int, ...]:
        """Whole frames for a GPU; on the CPU bands of rows, so that a tile stacks some frames whatever their size."""
        rows, *rest = self.shape.sig
        bands = 1 if CUPY in self.array_backends else max(1, min(MAX_BANDS, self.shape.sig.size // BAND_PIXELS))
        return (1, -(-rows // bands), *rest)

    def get_max_io_size(self) -> int:
        """Bytes of a tile."""
        return DEVICE_TILE_BYTES if CUPY in self.array_backends else CPU_TILE_BYTES

    def need_decode(self, read_dtype: Any, roi: Any, corrections: Any) -> bool:
        """Always: LiberTEM takes whole partitions for tiles otherwise."""
        return True

    def get_cache_key(self) -> Any:
        """A JSON-serialisable value that differs between data sets with different pixels."""
        return self._data.get_cache_key()

    def get_diagnostics(self) -> list[dict[str, Any]]:
        """What the files say about the experiment."""
        return self._data.get_diagnostics()

    def __repr__(self) -> str:
        return f"<LiberTEM data set of {self._data!r}>"


class _FormatDataSet(DataSet):
    """Base of a data set class for each format, which takes the arguments of gpuio's.

    Parameters
    ----------
    device
        As for `gpuio.open`: ``"cpu"`` keeps tiles off GPUs.
    num_partitions
        As for `DataSet`.
    io_backend
        gpuio's or LiberTEM's.
    """

    format: ClassVar[str]

    def __init__(self, *args: Any, device: str | None = None, num_partitions: int | None = None, io_backend: Any = None,
                 **parameters: Any) -> None:
        args = tuple(os.fspath(a) if isinstance(a, os.PathLike) else a for a in args)
        parameters = {k: os.fspath(v) if isinstance(v, os.PathLike) else v for k, v in parameters.items()}
        if io_backend is not None:
            parameters["io_backend"] = backend_of(io_backend)
        with as_peer_errors():
            data = self._cls()(*args, **parameters)
            super().__init__(data if device is None else data.to(device), num_partitions=num_partitions)

    @classmethod
    def _cls(cls) -> type[base.DataSet]:
        found: type[base.DataSet] = gpuio.formats.get(cls.format)
        return found

    @classmethod
    def detect_params(cls, path: Any, executor: Any) -> dict[str, Any] | bool:
        """False, or parameters to open `path` with."""
        if not isinstance(path, (str, os.PathLike)):
            return False
        found: dict[str, Any] | bool = executor.run_function(_detect, cls.format, os.fspath(path))
        return found

    @classmethod
    def get_supported_extensions(cls) -> set[str]:
        """Extensions in lower case, without dot."""
        return set(gpuio.formats.FORMATS[cls.format].extensions)

    @classmethod
    def get_msg_converter(cls) -> Any:
        """How messages of LiberTEM's web interface become arguments."""
        return cls._cls().get_msg_converter()

    @classmethod
    def get_supported_io_backends(cls) -> list[str]:
        """Ids of usable backends."""
        return cls._cls().get_supported_io_backends()

    @classmethod
    def get_default_io_backend(cls) -> Any:
        """The backend of partitions where the user named none."""
        return cls._cls().get_default_io_backend()


def _class(name: str, class_name: str) -> type[_FormatDataSet]:
    facts = {"__doc__": f"`gpuio.{class_name}` under LiberTEM.", "__module__": __name__, "format": name}
    return type(class_name, (_FormatDataSet,), facts)


#: A class for each format, by the format's name.
CLASSES = {name: _class(name, row.class_name) for name, row in gpuio.formats.FORMATS.items() if name not in LEFT_ALONE}
globals().update({cls.__name__: cls for cls in CLASSES.values()})       # where pickle looks for them

#: Readers that `enable` has replaced.
_replaced: dict[str, Any] = {}


def load(ctx: Any, format: str | base.DataSet, *args: Any, **parameters: Any) -> DataSet:
    """Load a data set into a LiberTEM context, to be read by gpuio.

    Parameters
    ----------
    ctx : libertem.api.Context
        Its executor reads the headers.
    format
        A name of `gpuio.formats`, ``"auto"``, or a data set that `gpuio.open` or `gpuio.load` has returned.
    args, parameters
        As for `gpuio.load`, and `num_partitions`.

    Returns
    -------
    DataSet

    Raises
    ------
    libertem.io.dataset.base.DataSetException
        As `gpuio.load` has it.
    OSError
        A file is missing or may not be read.
    """
    if isinstance(format, base.DataSet):
        return ctx.load(DataSet, format, *args, **parameters)
    if format == "auto":
        path = os.fspath(args[0] if args else parameters["path"])
        found = ctx.executor.run_function(gpuio.detect, path)
        if found is None:
            raise peer.DataSetException(f"{path}: no format of gpuio recognises this file")
        format = found["format"]
    if format not in CLASSES:
        raise peer.DataSetException(f"format {format!r} is unknown under LiberTEM; expected one of {', '.join(CLASSES)}")
    return ctx.load(CLASSES[format], *args, **parameters)


def enable() -> None:
    """Have ``ctx.load`` read with gpuio, ``"auto"`` included: gpuio's readers take the names of LiberTEM's own."""
    for name, cls in CLASSES.items():
        if registry.filetypes.get(name) is not cls:
            _replaced[name] = registry.filetypes.get(name)
            registry.register_dataset_cls(name, cls)
    registry.build_extension_map.cache_clear()


def disable() -> None:
    """Give the names back to LiberTEM's own readers. Data sets that are loaded stay what they are."""
    for name, theirs in _replaced.items():
        if registry.filetypes.get(name) is not CLASSES[name]:
            continue                # somebody else's by now
        if theirs is None:
            registry.unregister_dataset_cls(name)
        else:
            registry.register_dataset_cls(name, theirs)
    _replaced.clear()
    registry.build_extension_map.cache_clear()


def _detect(format: str, path: str) -> dict[str, Any] | bool:
    """`detect_params` of a format, where the files are."""
    found: dict[str, Any] | bool = gpuio.formats.get(format).detect_params(path)
    return found
