"""The specification's I/O backends. They are gpuio's transports: one concept, two vocabularies.

A backend is a value (comparable, picklable, no handles). A subclass with an id registers itself and needs no more than `open`::

    class TapeBackend(IOBackend, id_="tape"):
        def open(self, paths, sizes): ...
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from gpuio.io.base import Reader
from gpuio.io.buffered import PreadReader
from gpuio.io.by_range import ReadRanges, tiles_by_range
from gpuio.io.decoders import Decoder, DtypeConversionDecoder
from gpuio.tile import DataTile

if TYPE_CHECKING:
    from gpuio.corrections import CorrectionSet
    from gpuio.fileset import FileSet
    from gpuio.io.gds import GDSReader
    from gpuio.io.mmap import MappedReader


class IOBackend(ABC):
    """A way of reading; see the module."""

    #: Every backend with an id, in the order in which they were defined.
    registry: ClassVar[dict[str, type[IOBackend]]] = {}
    id_: ClassVar[str | None] = None
    #: As `Transport.memory` and `Transport.alignment`.
    memory: ClassVar[str] = "host"
    alignment: ClassVar[int] = 1
    #: Whether tiles may be views of the file where nothing has to be done to its bytes.
    gives_views: ClassVar[bool] = False
    #: Threads that read ahead, where that pays; 0: none may.
    read_threads: ClassVar[int] = 3

    def __init_subclass__(cls, id_: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if id_ is not None:
            cls.id_ = id_
            cls.registry[id_] = cls

    @property
    def id(self) -> str:
        """`id_`, or the name of a class that has none."""
        return self.id_ or type(self).__name__

    @classmethod
    def platform_supported(cls) -> bool:
        """Whether this operating system can do it."""
        return hasattr(os, "preadv")

    @classmethod
    def get_supported(cls) -> list[str]:
        """Ids of the backends that this operating system can do."""
        return [id_ for id_, backend in cls.registry.items() if backend.platform_supported()]

    @classmethod
    def get_cls_by_id(cls, id_: str) -> type[IOBackend] | None:
        """The backend of that id, or None."""
        return cls.registry.get(id_)

    @classmethod
    def from_json(cls, msg: Mapping[str, Any]) -> Self:
        """A backend from its constructor's arguments; an ``id`` among them is ignored.

        Raises
        ------
        ValueError
            A key is no argument of the constructor, or a value does not fit.
        """
        arguments = {key: value for key, value in msg.items() if key != "id"}
        known: list[str] = [field.name for field in fields(cls)] if is_dataclass(cls) else []
        unknown = sorted(arguments.keys() - set(known))
        if unknown:
            raise ValueError(f"{cls.__name__} has no parameters {unknown}; expected a selection of {known}")
        return cls(**arguments)

    def unavailable(self, path: str | None = None) -> str | None:
        """Why this backend cannot be used here, or for `path`; None if it can."""
        return None if self.platform_supported() else f"the {self.id} backend is not supported by this operating system"

    @property
    def max_io_size(self) -> int:
        """Bytes to read at a time, which tiles are negotiated for."""
        return 1 << 20

    @abstractmethod
    def open(self, paths: Sequence[str], sizes: Sequence[int | None]) -> Reader:
        """See `gpuio.io.base.Transport.open`."""

    def get_impl(self) -> IOBackendImpl:
        """What reads tiles with this backend."""
        return IOBackendImpl(self)


@dataclass(frozen=True)
class MMapBackend(IOBackend, id_="mmap"):
    """Mapped files: no copy on the way to the decoder.

    Parameters
    ----------
    enable_readahead_hints
        Tell the system which bytes come next as soon as they are known; helps with cold files.
    """

    enable_readahead_hints: bool = False
    gives_views: ClassVar[bool] = True

    def open(self, paths: Sequence[str], sizes: Sequence[int | None]) -> MappedReader:
        """See `gpuio.io.base.Transport.open`."""
        from gpuio.io.mmap import MappedReader

        return MappedReader(paths, sizes, hints=self.enable_readahead_hints)


@dataclass(frozen=True)
class _BlockBackend(IOBackend):
    """Reads blocks into memory of its own.

    Parameters
    ----------
    max_buffer_size
        Bytes to read at a time; also what tile shapes are negotiated for.
    """

    max_buffer_size: int = 16777216

    def __post_init__(self) -> None:
        if isinstance(self.max_buffer_size, bool) or not isinstance(self.max_buffer_size, (int, np.integer)) or self.max_buffer_size < 1:
            raise ValueError(f"max_buffer_size is {self.max_buffer_size!r}; expected a positive number of bytes")

    @property
    def max_io_size(self) -> int:
        """`max_buffer_size`."""
        return int(self.max_buffer_size)


@dataclass(frozen=True)
class BufferedBackend(_BlockBackend, id_="buffered"):
    """Reads through the page cache. Safe with files that shrink."""

    def open(self, paths: Sequence[str], sizes: Sequence[int | None]) -> PreadReader:
        """See `gpuio.io.base.Transport.open`."""
        return PreadReader(paths, sizes)


@dataclass(frozen=True)
class DirectBackend(_BlockBackend, id_="direct"):
    """Reads past the page cache, for data much larger than memory on fast storage."""

    alignment: ClassVar[int] = 4096
    #: No system reads ahead here, so that storage sees these requests and no others.
    read_threads: ClassVar[int] = 8

    @classmethod
    def platform_supported(cls) -> bool:
        """Linux only; whether a file system takes part is asked by `unavailable`."""
        return super().platform_supported() and hasattr(os, "O_DIRECT")

    def unavailable(self, path: str | None = None) -> str | None:
        """See `IOBackend.unavailable`."""
        from gpuio.io import direct

        return direct.platform_reason() or (None if path is None else direct.refusal(path))

    def open(self, paths: Sequence[str], sizes: Sequence[int | None]) -> PreadReader:
        """See `gpuio.io.base.Transport.open`."""
        from gpuio.io.direct import open_direct

        return open_direct(paths, sizes)


@dataclass(frozen=True)
class GDSBackend(_BlockBackend, id_="gds"):
    """Reads from the drive into the memory of a GPU, by GPUDirect Storage. For streams onto a GPU only.

    Parameters
    ----------
    max_buffer_size
        Bytes that tile shapes are negotiated for.
    read_threads
        Requests in flight.
    compatibility
        Where GPUDirect Storage cannot be used, let kvikio read by way of host memory, rather than raising an error. The other
        backends are faster then.
    """

    read_threads: int = 8           # type: ignore[misc]
    compatibility: bool = False
    memory: ClassVar[str] = "device"
    alignment: ClassVar[int] = 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.read_threads, bool) or not isinstance(self.read_threads, (int, np.integer)) or self.read_threads < 1:
            raise ValueError(f"read_threads is {self.read_threads!r}; expected a positive number")

    @classmethod
    def platform_supported(cls) -> bool:
        """Linux only; all else is asked by `unavailable`."""
        return super().platform_supported() and sys.platform == "linux"

    def unavailable(self, path: str | None = None) -> str | None:
        """See `IOBackend.unavailable`."""
        from gpuio.io import gds

        return super().unavailable() or gds.refusal(path, self.compatibility)

    def open(self, paths: Sequence[str], sizes: Sequence[int | None]) -> GDSReader:
        """See `gpuio.io.base.Transport.open`."""
        from gpuio.io.gds import open_gds

        return open_gds(paths, sizes, compatibility=self.compatibility)


class IOBackendImpl:
    """Reads tiles range by range with a backend: the way of users' own decoders."""

    def __init__(self, backend: IOBackend) -> None:
        self._backend = backend

    @contextmanager
    def open_files(self, fileset: FileSet) -> Iterator[Reader]:
        """A reader of the files of a set, numbered as in the set."""
        with self._backend.open([file.path for file in fileset], [file.size for file in fileset]) as reader:
            yield reader

    def get_max_io_size(self) -> int:
        """Bytes to read at a time."""
        return self._backend.max_io_size

    def need_copy(self, decoder: Any, roi: Any, native_dtype: Any, read_dtype: Any, tiling_scheme: Any = None,
                  fileset: FileSet | None = None, sync_offset: int = 0, corrections: CorrectionSet | None = None) -> bool:
        """Whether tiles have to be made in memory of their own, rather than being views of the file."""
        if not self._backend.gives_views or roi is not None or decoder is not None or sync_offset < 0:
            return True
        if np.dtype(native_dtype) != np.dtype(read_dtype):
            return True
        if corrections is not None and corrections.have_corrections():
            return True
        if tiling_scheme is None or fileset is None:
            return False
        return any(file.num_frames < tiling_scheme.depth for file in fileset)

    def get_tiles(self, tiling_scheme: Any, fileset: FileSet, read_ranges: ReadRanges, roi: Any, native_dtype: Any, read_dtype: Any,
                  decoder: Decoder | None, sync_offset: int, corrections: CorrectionSet | None) -> Iterator[DataTile]:
        """Tiles, always in memory of their own, each valid until the next is taken.

        Parameters
        ----------
        tiling_scheme
            Only its data set's shape is needed: the cutting is done, in `read_ranges`.
        read_ranges
            What `FileSet.get_read_ranges` returned. Region of interest and sync offset are in there; `roi` and
            `sync_offset` are part of the documented form and not needed again.
        native_dtype, read_dtype
            Of the file as stored, and of the tiles.
        decoder
            None: plain conversion of items.

        Raises
        ------
        ReadError, OSError
            At the tile whose bytes could not be read.
        """
        with self.open_files(fileset) as reader:
            yield from tiles_by_range(
                reader, read_ranges, decoder or DtypeConversionDecoder(), np.dtype(native_dtype), np.dtype(read_dtype),
                tiling_scheme.dataset_shape, corrections, alignment=self._backend.alignment, max_bytes=self.get_max_io_size())
