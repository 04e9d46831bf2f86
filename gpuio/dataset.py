"""Data sets: a layout plus the user's choices (nav shape, sync offset, device, backend).

Life cycle: the constructor stores its arguments and touches no file; `initialize` reads headers; then the data set is a
small value that pickles (paths and numbers, no handles) and opens files where and when pixels are wanted.

The one model of navigation: flat nav index i shows file frame ``k = i + sync_offset`` and has data if ``0 <= k <
image_count``; all other positions are blank.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gpuio.corrections import CorrectionSet
from gpuio.engine import Engine, get_engine, resolve_device
from gpuio.errors import DataSetException, ShapeError, UnsupportedFeature
from gpuio.exchange import Exchange
from gpuio.fileset import File, FileSet
from gpuio.geometry import partition as split
from gpuio.geometry.selection import check_sync_offset, sync_offset_info
from gpuio.layout import MAX_FRAME_BYTES, MAX_FRAMES, Layout, of_numbers
from gpuio.messages import JobExecutor, MessageConverter, TaskCommHandler, WorkerContext, message_schema
from gpuio.meta import DataSetMeta
from gpuio.partition import BasePartition, Partition, WritableDataSet, WritablePartition
from gpuio.reduction import Crop, Reduction, binned_dtype
from gpuio.shape import Shape, Slice
from gpuio.source import HostFiles, Source
from gpuio.transport import choose_transport

if TYPE_CHECKING:
    from gpuio.explain import Explanation

__all__ = [
    "BasePartition", "DataSet", "JobExecutor", "MessageConverter", "Partition", "TaskCommHandler", "WorkerContext",
    "WritableDataSet", "WritablePartition", "message_schema",
]


class DataSet(Exchange):
    """Base of all formats.

    A file format sets `format`, stores what the user said in ``_path``, ``_nav_shape``, ``_sig_shape`` and
    ``_sync_offset``, and defines `_parse` and `sniff`; everything else is here.

    Parameters
    ----------
    io_backend
        How to read; None lets gpuio choose for each stream.
    """

    MAX_PARTITION_SIZE = 536870912
    format: ClassVar[str] = ""

    def __init__(self, io_backend: Any = None) -> None:
        self._io_backend = io_backend
        self._path: Any = None
        self._nav_shape: tuple[int, ...] | None = None
        self._sig_shape: tuple[int, ...] | None = None
        self._sync_offset: int | None = 0
        self._cores = 1
        self._partitions_asked_for: int | None = None
        self._device: str | None = None
        self._layout: Layout | None = None
        self._allow_unrepairable = False        # excluded pixels without neighbours to be repaired from stay as they are
        self._carried: CorrectionSet | None = None
        self._meta: DataSetMeta | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_carried": None}      # data sets are small when they travel

    # -- what a format defines ------------------------------------------------------------------------------------

    def _parse(self, source: Source) -> Layout:
        """Read the headers; called by `initialize`."""
        raise TypeError(f"{type(self).__name__} does not define _parse")

    @classmethod
    def sniff(cls, head: bytes, path: str) -> bool:
        """Whether a file that begins with `head` (at least 4096 bytes, or the whole file) is of this format."""
        return False

    @classmethod
    def get_supported_extensions(cls) -> set[str]:
        """Extensions in lower case, without dot."""
        return set()

    # -- life cycle -----------------------------------------------------------------------------------------------

    def initialize(self, executor: JobExecutor | None = None) -> DataSet:
        """Read the headers and settle shapes. Use the returned object.

        Raises
        ------
        DataSetException
            The files are not what they should be, or shapes and sync offset do not fit.
        OSError
            A file cannot be read.
        """
        layout: Layout = executor.run_function(self._parse, HostFiles()) if executor is not None else self._parse(HostFiles())
        return self._settle(layout)

    def _settle(self, layout: Layout) -> DataSet:
        """Take a layout and the user's wishes together."""
        sig = self._sig_shape or layout.sig_shape
        if math.prod(sig) != layout.sig_size:
            raise ShapeError(f"{self._name}: sig_shape {sig} has {math.prod(sig)} pixels; "
                             f"the stored frames {layout.sig_shape} have {layout.sig_size}")
        if sig != layout.sig_shape:
            layout = _with_sig_shape(layout, tuple(sig))
        nav = self._nav_shape or layout.nav_shape or guess_nav_shape(layout.image_count)
        self._check_size(tuple(nav), layout)
        self._sync_offset = layout.sync_offset if self._sync_offset is None else int(self._sync_offset)
        check_sync_offset(self._sync_offset, layout.image_count)
        self._layout = layout
        self._meta = DataSetMeta(
            shape=Shape((*nav, *sig), sig_dims=len(sig)), image_count=layout.image_count, raw_dtype=self._raw_dtype(layout),
            dtype=self._default_dtype(layout), metadata=layout.metadata, sync_offset=self._sync_offset)
        return self

    def _check_size(self, nav: tuple[int, ...], layout: Layout) -> None:
        """Refuse what files may announce and nothing can hold."""
        positions, frames, frame_bytes = math.prod(nav), layout.image_count, layout.sig_size * layout.dtype.itemsize
        if positions > MAX_FRAMES and self._nav_shape is not None:
            raise ShapeError(f"{self._name}: nav_shape {nav} has {positions} positions; expected at most {MAX_FRAMES}")
        if max(positions, frames) > MAX_FRAMES:
            raise UnsupportedFeature(f"{self._name}: has {frames} frames, and {positions} scan positions; expected at most {MAX_FRAMES}")
        if frame_bytes > MAX_FRAME_BYTES:
            raise UnsupportedFeature(f"{self._name}: frames of {layout.sig_shape} {layout.dtype} have {frame_bytes} bytes; "
                                     f"expected at most {MAX_FRAME_BYTES}")

    @staticmethod
    def _raw_dtype(layout: Layout) -> np.dtype:
        """dtype of the bytes on disk, byte order included."""
        return layout.dtype.newbyteorder(">") if layout.encoding.name == "swap" else layout.dtype

    def _default_dtype(self, layout: Layout) -> np.dtype:
        """dtype of pixels where the user asks for none; wider than the stored one where a format's own corrections need it."""
        return np.result_type(np.float32, layout.dtype) if layout.has_corrections else layout.dtype

    def check_valid(self) -> bool:
        """True, or an error: the first and the last frame can be found and read.

        Raises
        ------
        DataSetException, OSError
        """
        files = HostFiles()
        ends = {part[i].path for part in self.layout.parts for i in (0, -1)}
        for path in ends or self.layout.paths:
            files.size(path)
            files.read(path, 0, 1)
        return True

    def set_num_cores(self, cores: int) -> None:
        """Workers that partitions are made for."""
        self._cores = max(1, int(cores))

    def set_num_partitions(self, count: int | None) -> None:
        """Make `count` partitions, or None: `get_num_partitions` of them. Arrays of dask have one for each chunk, whatever is asked for."""
        self._partitions_asked_for = None if count is None else max(1, int(count))

    # -- facts ----------------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        path = self._path[0] if isinstance(self._path, (list, tuple)) and self._path else self._path
        return str(path) if path is not None else type(self).__name__

    @property
    def layout(self) -> Layout:
        """What the format's parser handed over."""
        if self._layout is None:
            raise DataSetException(f"{self._name}: the data set is not initialized; call initialize() or use gpuio.load")
        return self._layout

    @property
    def meta(self) -> DataSetMeta | None:
        """None before `initialize`."""
        return self._meta

    @property
    def _known(self) -> DataSetMeta:
        if self._meta is None:
            raise DataSetException(f"{self._name}: the data set is not initialized; call initialize() or use gpuio.load")
        return self._meta

    @property
    def shape(self) -> Shape:
        """Nav axes, then sig axes."""
        return self._known.shape

    @property
    def dtype(self) -> np.dtype:
        """dtype of decoded pixels where none is asked for: the native one, unless corrections of the files' own need a wider one."""
        return self._known.dtype

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the files say about the experiment; units are suffixes of the keys."""
        return self.layout.metadata

    @property
    def notes(self) -> tuple[str, ...]:
        """What was odd in the files and how it was read."""
        return self.layout.notes

    @property
    def image_count(self) -> int:
        """Frames that the files hold or ought to hold."""
        return self.layout.image_count

    @property
    def sync_offset(self) -> int:
        """Frames skipped (positive) or blank frames inserted (negative) at the start."""
        return int(self._sync_offset or 0)

    @property
    def reduction(self) -> Reduction | None:
        """Crop and binning of the detector; None: all of it, as it was recorded."""
        return self._reduction

    @property
    def files(self) -> list[str]:
        """Paths of the files that hold pixels."""
        return self.layout.paths

    def get_sync_offset_info(self) -> dict[str, int]:
        """Frames skipped, ignored and inserted.

        Raises
        ------
        DataSetException
            The sync offset is out of range.
        """
        meta = self._known
        return sync_offset_info(meta.sync_offset, meta.image_count, meta.shape.nav.size)

    # -- device and backend ---------------------------------------------------------------------------------------

    @property
    def device(self) -> str:
        """``"cpu"`` or ``"cuda:N"``: where tiles are decoded."""
        return resolve_device(self._device)

    @property
    def engine(self) -> Engine:
        """The engine of `device`, in this process."""
        return get_engine(self.device)

    def to(self, device: str) -> DataSet:
        """The same data set on another device."""
        import copy

        moved = copy.copy(self)
        moved._device = resolve_device(device)
        return moved

    @classmethod
    def get_supported_io_backends(cls) -> list[str]:
        """Ids of usable backends."""
        return ["mmap", "buffered", "direct"]

    @classmethod
    def get_default_io_backend(cls) -> Any:
        """The backend of partitions where the user named none."""
        import sys

        from gpuio.io.backends import BufferedBackend, MMapBackend

        return BufferedBackend() if sys.platform == "win32" else MMapBackend()

    def get_io_backend(self) -> Any:
        """The user's backend or the default one."""
        return self._io_backend if self._io_backend is not None else self.get_default_io_backend()

    def _transport(self) -> tuple[Any, bool, str]:
        """Backend for a stream, whether files are cold, and why this one."""
        if self._io_backend is not None:
            return self._io_backend, False, "asked for"
        return choose_transport(self.layout, self.device)

    def reduce(self, crop: Crop | None = None, bin_sig: int | Sequence[int] | None = None, dtype: Any = None) -> DataSet:
        """The same data set with less of the detector: every way to pixels gives the reduced frames.

        Only what is needed is read and decoded, and pixels are summed where they are decoded. Corrections come first.

        Parameters
        ----------
        crop
            For each of the last two sig axes a slice without step, or (first, one past the last); None keeps an axis whole.
        bin_sig
            Pixels that are summed into one along both axes, or one number for each; those left over at the end are dropped.
        dtype
            Of pixels where none is asked for. Default: wide enough for the sums of integers, else as before.

        Raises
        ------
        ShapeError
            Intervals outside of the detector, or blocks that do not fit.
        TypeError
            A `dtype` that pixels cannot have.
        """
        import copy

        meta = self._known
        sig = tuple(meta.shape.sig)
        reduction = Reduction.of(sig, crop, bin_sig)
        reduced = copy.copy(self)
        reduced._reduction = reduction if self._reduction is None else self._reduction.then(reduction)
        wide = of_numbers(dtype) if dtype is not None else binned_dtype(meta.dtype, reduction.pixels)
        reduced._meta = DataSetMeta(shape=Shape((*meta.shape.nav, *reduction.shape), sig_dims=len(sig)), image_count=meta.image_count,
                                    raw_dtype=meta.raw_dtype, dtype=wide, metadata=meta.metadata, sync_offset=meta.sync_offset)
        return reduced

    def explain(self, **options: Any) -> Explanation:
        """Which way the bytes take on this machine, why not a better one, and what limits the rate; print it.

        Parameters
        ----------
        options
            Arguments of `tiles`; and ``measure=True`` to measure this machine's ceilings, which takes a few seconds.
        """
        from gpuio.explain import explain

        return explain(self, **options)

    # -- what partitions and tiles are made from ------------------------------------------------------------------

    def get_num_partitions(self) -> int:
        """Partitions of at most 512 MiB of float32, a multiple of the cores, at most one per frame."""
        return split.get_num_partitions(self.shape, self._cores, self.MAX_PARTITION_SIZE)

    def get_slices(self) -> Iterator[tuple[Slice, int, int]]:
        """Slice, first file frame, one past the last, of each partition."""
        return Partition.make_slices(self.shape, self._partition_count, self.sync_offset)

    @property
    def _partition_count(self) -> int:
        return min(self._partitions_asked_for or self.get_num_partitions(), self.shape.nav.size)

    def get_partitions(self) -> Iterator[Partition]:
        """The partitions, in order."""
        for part_slice, start, stop in self.get_slices():
            yield BasePartition(self._known, part_slice, self._fileset, start, stop - start, self.get_io_backend(), self.get_decoder(),
                                layout=self.layout, engine_name=self.device, reduction=self._reduction,
                                chooses=self._io_backend is None)

    @property
    def _fileset(self) -> FileSet:
        """The files as partitions take them; of frames that do not lie in one piece one file that is never addressed by frame."""
        layout = self.layout
        return layout.parts[0] if layout.parts else FileSet([File(layout.paths[0], 0, layout.image_count, layout.dtype, layout.sig_shape)])

    def partition_shape(self, dtype: Any, target_size: int, min_num_partitions: int | None = None) -> tuple[int, ...]:
        """Nav shape of a partition of about `target_size` bytes of `dtype`."""
        return split.partition_shape(self.shape, dtype, target_size, self._cores, min_num_partitions)

    def get_base_shape(self, roi: np.ndarray | None) -> tuple[int, ...]:
        """The smallest tile: one frame, one detector row."""
        return (1,) + (1,) * (self.shape.sig.dims - 1) + (self.shape.sig[-1],)

    def adjust_tileshape(self, tileshape: tuple[int, ...], roi: np.ndarray | None) -> tuple[int, ...]:
        """Last veto in the negotiation of tile shapes; none here."""
        return tileshape

    def get_min_sig_size(self) -> int:
        """Pixels of the smallest useful tile: four pages."""
        return int(4 * 4096 // np.dtype(self._known.raw_dtype).itemsize)

    def get_max_io_size(self) -> int | None:
        """Bytes to read at most at a time; None leaves it to the backend."""
        return None

    def need_decode(self, read_dtype: Any, roi: np.ndarray | None, corrections: CorrectionSet | None) -> bool:
        """Whether tiles of `read_dtype` have to be made, rather than being views of the file."""
        impl = self.get_io_backend().get_impl()
        return bool(impl.need_copy(decoder=self._decoder_for_need(), roi=roi, native_dtype=self._known.raw_dtype,
                                   read_dtype=np.dtype(read_dtype), sync_offset=self.sync_offset, corrections=corrections))

    def _decoder_for_need(self) -> Any:
        """Something that is not None if bytes have to be decoded."""
        layout = self.layout
        as_stored = layout.encoding.name in ("plain", "swap") and layout.is_sequential and not layout.pieces[0].reversed and (
            layout.pieces[0].rows == 1 or layout.pieces[0].row_pos > 0)
        return self.get_decoder() or (None if as_stored and self._reduction is None else self)

    def get_decoder(self) -> Any:
        """A user's own `Decoder`; None: the layout's encoding, decoded by the engine.

        Partitions, `tiles`, `summary` and indexing decode by it, on the CPU and range by range, as the specification describes it.
        """
        return None

    def get_correction_data(self) -> CorrectionSet:
        """Corrections that the files carry; read when first asked for.

        Raises
        ------
        OSError, DataSetException
            They cannot be read.
        """
        if self._carried is None:
            layout, sig = self.layout, self.layout.sig_shape
            # In float32 where that is exact for a single frame.
            maps = {name: self._mean(frames).astype(np.result_type(np.float32, frames.dtype)).reshape(sig)
                    for name, frames in (("dark", layout.dark), ("gain", layout.gain)) if frames is not None}
            excluded = np.zeros(layout.sig_size if layout.excluded else 0, dtype=bool)
            for pixels in layout.excluded:
                excluded[pixels.start:pixels.stop:pixels.step] = True
            self._carried = CorrectionSet(**maps, excluded_pixels=excluded.reshape(sig) if layout.excluded else None,
                                          allow_empty=self._allow_unrepairable)
        return self._carried

    def _mean(self, layout: Layout) -> np.ndarray:
        """Mean of all frames of another layout, such as dark frames, uncorrected: float64[sig], host memory.

        Integers are summed exactly.
        """
        frames = DataSet(self._io_backend)
        frames._device = self._device
        mean: np.ndarray = frames._settle(layout).sum_nav(corrections=CorrectionSet()) / layout.image_count
        return mean

    def get_task_comm_handler(self) -> TaskCommHandler:
        """One that does nothing."""
        return TaskCommHandler()

    # -- detection and display ------------------------------------------------------------------------------------

    @classmethod
    def detect_params(cls, path: str, executor: JobExecutor | None = None) -> dict[str, Any] | bool:
        """False, or parameters to open `path` with: ``{"parameters": {...}, "info": {...}}``."""
        from gpuio.formats import HEAD_BYTES

        try:
            head = HostFiles().read(path, 0, HEAD_BYTES)
            if not cls.sniff(head, path):
                return False
            ds = cls(path).initialize(executor)
        except (DataSetException, OSError):
            return False
        nav = ds._layout.nav_shape if ds._layout is not None and ds._layout.nav_shape else guess_nav_shape(ds.image_count)
        return {
            "parameters": {"path": path, "nav_shape": tuple(nav), "sig_shape": tuple(ds.shape.sig), **ds._detected()},
            "info": {"image_count": ds.image_count, "native_sig_shape": tuple(ds.shape.sig)},
        }

    def _detected(self) -> dict[str, Any]:
        """Parameters of the format's own that `detect_params` finds."""
        return {}

    @classmethod
    def get_msg_converter(cls) -> type[MessageConverter]:
        """How JSON messages become constructor arguments."""
        schema = message_schema(cls.format.upper(), {})

        class Converter(MessageConverter):
            SCHEMA = schema

        return Converter

    def get_cache_key(self) -> Any:
        """A JSON-serialisable value that differs between data sets with different pixels."""
        key = {"path": self._path, "shape": tuple(self.shape), "sync_offset": self.sync_offset}
        return key if self._reduction is None else {**key, "reduction": dataclasses.asdict(self._reduction)}

    def get_diagnostics(self) -> list[dict[str, Any]]:
        """Further facts: ``{"name": str, "value": str or list of such dicts}``."""
        return [{"name": key, "value": str(value)} for key, value in self.metadata.items()]

    @property
    def diagnostics(self) -> list[dict[str, Any]]:
        """`get_diagnostics` and what is common to all formats."""
        info = self.get_sync_offset_info()
        first = next(self.get_partitions())
        return [
            *self.get_diagnostics(),
            {"name": "Partition shape", "value": str(first.shape)},
            {"name": "Number of partitions", "value": str(self._partition_count)},
            {"name": "Number of frames skipped at the beginning", "value": info["frames_skipped_start"]},
            {"name": "Number of frames ignored at the end", "value": info["frames_ignored_end"]},
            {"name": "Number of blank frames inserted at the beginning", "value": info["frames_inserted_start"]},
            {"name": "Number of blank frames inserted at the end", "value": info["frames_inserted_end"]},
        ]

    def __repr__(self) -> str:
        if self._meta is None:
            return f"<{type(self).__name__} {self._name} (not initialized)>"
        return f"<{type(self).__name__} {self._name}: nav {tuple(self.shape.nav)}, sig {tuple(self.shape.sig)}, {self.dtype}>"

    def _repr_html_(self) -> str:
        from html import escape

        files = self.files or [self._name]
        rows = {"format": self.format, "files": f"{files[0]}" + (f" and {len(files) - 1} more" if len(files) > 1 else ""),
                "nav shape": tuple(self.shape.nav), "sig shape": tuple(self.shape.sig), "dtype": self.dtype,
                "frames": self.image_count, "sync offset": self.sync_offset, "device": self.device, **self.metadata}
        body = "".join(f"<tr><th style='text-align:left'>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>" for k, v in rows.items())
        notes = "".join(f"<li>{escape(n)}</li>" for n in self.notes)
        return f"<table>{body}</table>" + (f"<ul>{notes}</ul>" if notes else "")


def guess_nav_shape(image_count: int) -> tuple[int, ...]:
    """A square scan if the number of frames is a square, else a line."""
    side = math.isqrt(image_count)
    return (side, side) if side * side == image_count and side > 1 else (image_count,)


def _with_sig_shape(layout: Layout, sig: tuple[int, ...]) -> Layout:
    """The same pixels under another sig shape; they keep their order in the frame."""
    if layout.strided is not None:
        raise ShapeError(f"{layout.strided.path}: sig_shape {sig} cannot replace {layout.sig_shape} in an array stored with "
                         "navigation fastest")
    return dataclasses.replace(layout, sig_shape=sig)
