"""Partitions: runs of flat nav indices that can be read on their own, on another process or machine if need be."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpuio import pipeline
from gpuio.boxes import Box
from gpuio.corrections import CorrectionSet
from gpuio.engine import Engine, get_engine, resolve_device
from gpuio.errors import UnsupportedFeature
from gpuio.fileset import FileSet
from gpuio.geometry import partition as split
from gpuio.geometry.selection import flat_indices, selected_frames
from gpuio.geometry.tiling import TilingScheme
from gpuio.layout import Encoding, Layout, plain_pieces
from gpuio.messages import WorkerContext
from gpuio.meta import DataSetMeta
from gpuio.reduction import Reduction
from gpuio.shape import Shape, Slice
from gpuio.tile import DataTile
from gpuio.transport import choose_transport


class Partition:
    """A run of flat nav indices of a data set.

    Parameters
    ----------
    meta
        Of the whole data set.
    partition_slice
        Flat nav axis first, then the whole sig shape.
    io_backend
        How to read.
    decoder
        A user's own `Decoder`, or None for the encodings of gpuio.

    Raises
    ------
    ValueError
        The slice has not exactly one nav axis.
    """

    def __init__(self, meta: DataSetMeta, partition_slice: Slice, io_backend: Any, decoder: Any) -> None:
        if partition_slice.shape.nav.dims != 1:
            raise ValueError(f"a partition needs a flat nav axis; its slice has {partition_slice.shape.nav.dims}")
        self.meta = meta
        self.slice = partition_slice
        self._io_backend = io_backend
        self._decoder = decoder
        self._corrections: CorrectionSet | None = None
        self._worker_context: WorkerContext | None = None

    @classmethod
    def make_slices(cls, shape: Shape, num_partitions: int, sync_offset: int = 0) -> Iterator[tuple[Slice, int, int]]:
        """Split the flat nav axis evenly: (slice, first file frame, one past the last), which may be negative or past the end."""
        return split.make_slices(shape, num_partitions, sync_offset)

    @property
    def dtype(self) -> np.dtype:
        """The data set's."""
        return self.meta.dtype

    @property
    def shape(self) -> Shape:
        """Frames of the partition, then the sig shape."""
        return self.slice.shape

    def set_corrections(self, corrections: CorrectionSet | None) -> None:
        """Corrections that tiles get from now on."""
        self._corrections = corrections

    def set_worker_context(self, worker_context: WorkerContext) -> None:
        """Keep the context of the worker that processes this partition."""
        self._worker_context = worker_context

    def set_io_backend(self, backend: Any) -> None:
        """Read through `backend` from now on."""
        self._io_backend = backend

    def get_io_backend(self) -> Any:
        """How this partition reads."""
        return self._io_backend

    def validate_tiling_scheme(self, tiling_scheme: TilingScheme) -> None:
        """Raise ValueError if tiles of this scheme cannot be made; any scheme can by default."""

    def get_locations(self) -> Any:
        """Workers that hold the data; None: any."""
        return None

    def get_tiles(self, tiling_scheme: TilingScheme, dest_dtype: Any = "float32", roi: np.ndarray | None = None) -> Iterator[DataTile]:
        """Tiles of this partition; to be defined by subclasses."""
        raise TypeError(f"{type(self).__name__} does not define get_tiles")

    def get_macrotile(self, dest_dtype: Any = "float32", roi: np.ndarray | None = None) -> DataTile:
        """The whole partition as one tile; to be defined by subclasses."""
        raise TypeError(f"{type(self).__name__} does not define get_macrotile")


class BasePartition(Partition):
    """A partition whose frames lie in files.

    Parameters
    ----------
    fileset
        Files of the data set; those that this partition does not touch are dropped.
    start_frame
        First file frame; negative if the partition begins with blanks.
    num_frames
        Frames of the partition, blank ones included.
    layout, engine_name
        What the format handed over, and the engine that decodes; without a layout frames are plain items of the files' dtype.
    reduction
        Crop and binning of the detector.
    chooses
        Read by whatever suits the files when they are read, not by `io_backend`, which nobody asked for.

    Raises
    ------
    ValueError
        `num_frames` is not positive.
    UnsupportedFeature
        A reduction, and a user's own `decoder`, which knows nothing of it.
    """

    def __init__(self, meta: DataSetMeta, partition_slice: Slice, fileset: FileSet, start_frame: int, num_frames: int, io_backend: Any,
                 decoder: Any = None, *, layout: Layout | None = None, engine_name: str = "cpu",
                 reduction: Reduction | None = None, chooses: bool = False) -> None:
        super().__init__(meta, partition_slice, io_backend, decoder)
        if num_frames <= 0:
            raise ValueError(f"a partition needs at least one frame; num_frames is {num_frames}")
        if reduction is not None and decoder is not None:
            raise UnsupportedFeature(f"{fileset[0].path}: frames that {type(decoder).__name__} decodes cannot be cropped or binned; "
                                     "take tiles of the whole detector")
        self._start_frame, self._num_frames = start_frame, num_frames
        self._engine_name, self._reduction, self._chooses = engine_name, reduction, chooses
        stop = min(start_frame + num_frames, meta.image_count)
        self._fileset = _touched(fileset, start_frame, stop)
        layout = layout or _plain_layout(meta, fileset)
        self._layout = dataclasses.replace(
            layout, parts=tuple(_touched(part, start_frame, stop) for part in layout.parts),
            chunks=None if layout.chunks is None else layout.chunks.between(start_frame, stop))

    def __repr__(self) -> str:
        return f"<BasePartition [{self._start_frame}:{self._start_frame + self._num_frames}]>"

    @property
    def device(self) -> str:
        """``"cpu"`` or ``"cuda:N"``: where tiles are decoded."""
        return self._engine_name

    def to(self, device: str) -> BasePartition:
        """The same partition on another device."""
        moved = copy.copy(self)
        moved._engine_name = resolve_device(device)
        return moved

    @property
    def _engine(self) -> Engine:
        return get_engine(self._engine_name)

    def set_io_backend(self, backend: Any) -> None:
        """Read through `backend` from now on."""
        super().set_io_backend(backend)
        self._chooses = False

    def _transport(self) -> tuple[Any, bool]:
        """What to read with, and whether files are cold."""
        return choose_transport(self._layout, self._engine_name)[:2] if self._chooses else (self._io_backend, False)

    def get_max_io_size(self) -> int | None:
        """Of the I/O backend."""
        impl = self.get_io_backend().get_impl()
        return int(impl.get_max_io_size())

    def get_tiles(self, tiling_scheme: TilingScheme, dest_dtype: Any = "float32", roi: np.ndarray | None = None) -> Iterator[DataTile]:
        """Tiles of this partition in the scheme's order; positions without data get none.

        Parameters
        ----------
        tiling_scheme
            How to cut; depth counts selected frames.
        dest_dtype
            dtype of the tiles. The default rounds integers above 2**24.
        roi : bool[nav], optional
            Positions wanted, of the whole data set.

        Yields
        ------
        DataTile
            Valid until the next one is taken. Its nav origin counts selected positions of the whole data set.

        Raises
        ------
        ShapeError
            The roi has not as many entries as the nav shape.
        TypeError
            Corrections are set and `dest_dtype` is an integer.
        """
        scheme = tiling_scheme.adjust_for_partition(self)
        self.validate_tiling_scheme(scheme)
        dtype = np.dtype(dest_dtype)
        if self._decoder is not None:
            yield from self._get_tiles_by_range(scheme, dtype, roi)
            return
        nav, frames = self._selected(roi)
        boxes = [Box(tuple(s.origin), tuple(s.shape), index) for index, s in scheme.slices]
        backend, cold = self._transport()
        yield from pipeline.tiles(
            self._layout, self._engine, backend, nav, frames, boxes=boxes, dtype=dtype, depth=scheme.depth,
            corrections=self._corrections, repair_whole=False, memory=_TILES_MEMORY, views=roi is None, cold=cold,
            reduction=self._reduction,
        )

    def _get_tiles_by_range(self, scheme: TilingScheme, dtype: np.dtype, roi: np.ndarray | None) -> Iterator[DataTile]:
        """Through a user's decoder, range by range, as the specification describes it."""
        stop = min(self._start_frame + self._num_frames, self.meta.image_count)
        sync_offset = self.meta.sync_offset
        ranges = self._fileset.get_read_ranges(self._start_frame, stop, self.meta.raw_dtype, scheme, sync_offset, roi)
        yield from self._io_backend.get_impl().get_tiles(
            tiling_scheme=scheme, fileset=self._fileset, read_ranges=ranges, roi=roi, native_dtype=self.meta.raw_dtype, read_dtype=dtype,
            decoder=self._decoder, sync_offset=sync_offset, corrections=self._corrections)

    def _selected(self, roi: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Compressed nav index and file frame of each position of this partition that has data, holes left out."""
        stop = min(self._start_frame + self._num_frames, self.meta.image_count)
        nav, frames = selected_frames(self._start_frame, stop, self.meta.sync_offset, self.meta.image_count, roi,
                                      nav_shape=self.meta.shape.nav)
        present = self._layout.present(frames)
        return (nav, frames) if present.all() else (nav[present], frames[present])

    def get_macrotile(self, dest_dtype: Any = "float32", roi: np.ndarray | None = None) -> DataTile:
        """The whole partition as one tile that is the caller's to keep; blank positions are zero.

        Returns
        -------
        DataTile
            data : dest_dtype[frames, *sig]; with a roi, frames are the selected ones.
        """
        origin, count = int(self.slice.origin[0]), int(self.slice.shape[0])
        if roi is not None:
            chosen = flat_indices(roi, self.meta.shape.nav)
            before, after = (int(n) for n in np.searchsorted(chosen, (origin, origin + count)))
            origin, count = before, after - before
        sig = tuple(self.slice.shape.sig)
        dtype = np.dtype(dest_dtype)
        out = self._engine.zeros((count, *sig), dtype)
        if self._decoder is not None:
            scheme = TilingScheme.make_for_shape(Shape((max(count, 1), *sig), sig_dims=len(sig)), self.meta.shape)
            for tile in self._get_tiles_by_range(scheme, dtype, roi):
                at = tile.tile_slice.origin[0] - origin
                out[at:at + tile.shape[0]] = tile.data
        else:
            nav, frames = self._selected(roi)
            target = np.full(count, -1, dtype=np.int64)
            target[nav - origin] = frames
            backend, cold = self._transport()
            pipeline.read_frames(self._layout, self._engine, backend, target, out, corrections=self._corrections,
                                 memory=_TILES_MEMORY, cold=cold, reduction=self._reduction)
        return DataTile(out, Slice((origin, *(0,) * len(sig)), Shape((count, *sig), sig_dims=len(sig))), 0)


#: Partition tiles are sized by the scheme, not by a budget of ours.
_TILES_MEMORY = 1 << 50


class WritableDataSet:
    """Marks a data set whose partitions can be written."""


class WritablePartition:
    """A partition that can be written: whole or not at all."""

    def get_write_handle(self) -> Any:
        """A context manager with ``write_tile(tile)``, ``write_tiles(tiles)`` (yields them on) and ``abort()``."""
        raise TypeError(f"{type(self).__name__} does not define get_write_handle")

    def delete(self) -> None:
        """Remove what was written for this partition; nothing there is no error."""
        raise TypeError(f"{type(self).__name__} does not define delete")


def _touched(fileset: FileSet, start: int, stop: int) -> FileSet:
    """The files that hold frames of ``start:stop``, or all where that range is empty."""
    table = fileset.get_as_arr()
    kept = np.flatnonzero((table[:, 0] < stop) & (table[:, 1] > max(start, 0)))
    if not 0 < len(kept) < len(fileset):
        return fileset
    return FileSet([fileset[int(i)] for i in kept], fileset.frame_header_bytes, fileset.frame_footer_bytes)


def _plain_layout(meta: DataSetMeta, fileset: FileSet) -> Layout:
    """Frames stored as items of the data set's raw dtype, as files made by hand describe them."""
    sig = tuple(meta.shape.sig)
    encoding = Encoding.of(meta.raw_dtype)
    return Layout(format="plain", parts=(fileset,), encoding=encoding, pieces=plain_pieces(sig, sig[-1] * encoding.dtype.itemsize),
                  sig_shape=sig, image_count=meta.image_count)
