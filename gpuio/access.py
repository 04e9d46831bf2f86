"""All ways to pixels of a data set: streams of tiles, reading chosen frames, sums, and indexing.

``ds[12, 40]``, ``ds[:, ::2]``, ``ds[mask]``, ``ds[..., 10:20, :]``: NumPy's basic indexing and nav masks on files.
Nav axes come first. They take integers, slices, integer lists and one boolean mask of the nav shape; sig axes take
integers and slices, and only the rows and columns asked for are decoded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuio import config, pipeline
from gpuio.boxes import CPU_TILE_BYTES, Box
from gpuio.corrections import CorrectionSet
from gpuio.errors import MemoryBudgetError, ShapeError
from gpuio.geometry.selection import flat_indices, selected_frames
from gpuio.geometry.tiling import TilingScheme, fitting_box
from gpuio.prepare import sum_dtype
from gpuio.shape import Shape
from gpuio.sizing import DEVICE_TILE_BYTES, decode_threads, name_of, output_dtype
from gpuio.sums import add_frames, add_tiles
from gpuio.tile import DataTile

if TYPE_CHECKING:
    from gpuio.engine import Engine
    from gpuio.layout import Layout
    from gpuio.reduction import Crop, Reduction


#: Frames of a tile where frames do not fit the cache and are corrected (measured on Intel Cascade Lake, K2IS with dark and gain to float32:
#: single frames 0.46 GB/s, four 0.65, eight 0.73).
CORRECTED_STACK = 8


class PixelAccess:
    """Pixels of a class that knows its layout, shape, sync offset, corrections, engine and transport."""

    _reduction: Reduction | None = None     # crop and binning of the detector

    if TYPE_CHECKING:
        @property
        def layout(self) -> Layout: ...
        @property
        def shape(self) -> Shape: ...
        @property
        def dtype(self) -> np.dtype: ...
        @property
        def image_count(self) -> int: ...
        @property
        def sync_offset(self) -> int: ...
        @property
        def engine(self) -> Engine: ...
        def get_correction_data(self) -> CorrectionSet: ...
        def get_base_shape(self, roi: np.ndarray | None) -> tuple[int, ...]: ...
        def reduce(self, crop: Crop | None = None, bin_sig: int | Sequence[int] | None = None, dtype: Any = None) -> PixelAccess: ...
        def get_decoder(self) -> Any: ...
        def get_partitions(self) -> Iterator[Any]: ...
        def _transport(self) -> tuple[Any, bool, str]: ...

    def tiles(self, dtype: Any = None, roi: np.ndarray | None = None, *, corrections: CorrectionSet | None = None,
              memory: int | str | None = None, depth: int | None = None, threads: int | None = None, crop: Crop | None = None,
              bin_sig: int | Sequence[int] | None = None, tiling_scheme: TilingScheme | None = None) -> Iterator[DataTile]:
        """All frames, a stack of whole frames at a time, decoded on this data set's device.

        Parameters
        ----------
        dtype
            Of the tiles. None: that of the data set, or as wide as corrections need.
        roi : bool[nav], optional
            Positions wanted.
        corrections
            None applies what the files carry; an empty `CorrectionSet` switches that off.
        memory
            Budget of staging and output: bytes, or a text such as "2 GiB". Default as configured (`gpuio.config`), else 256 MiB. With
            a GPU, of host and of GPU memory each.
        depth
            Frames of a tile at most, as far as half of the budget holds them; None chooses a size that stays in the cache (CPU) or
            fills the device.
        threads
            Decode ahead on that many threads; None as configured, else 0: in the caller's.
        crop, bin_sig
            Only a part of the detector, and sums over blocks of its pixels, as `DataSet.reduce` says.
        tiling_scheme
            Instead of whole frames, stacks of its boxes, all boxes of a stack one after the other; its depth, unless `depth` is given.
            `cache_scheme` makes one for frames that are larger than the CPU's cache.

        Yields
        ------
        DataTile
            data : dtype[n, *sig], CuPy on a GPU, NumPy without; lent until the next step. `tile_slice` says where: its nav
            axis is flat, and compressed by the roi. Blank positions get no tile.

        Raises
        ------
        ShapeError
            The roi does not fit the nav shape, or the tiling scheme is one for another detector.
        MemoryBudgetError
            One frame does not fit the budget; the message says how much would.
        ValueError
            `memory` is not a size, `depth` not positive, or `threads` negative.
        ReadError, OSError
            At the tile whose bytes could not be read.
        """
        if crop is not None or bin_sig is not None:
            yield from self.reduce(crop, bin_sig).tiles(dtype, roi, corrections=corrections, memory=memory, depth=depth, threads=threads,
                                                        tiling_scheme=tiling_scheme)
            return
        nav, frames = self._selected(roi)
        boxes = None
        if tiling_scheme is not None:
            if tuple(tiling_scheme.dataset_shape.sig) != tuple(self.shape.sig):
                raise ShapeError(f"{name_of(self.layout)}: the tiling scheme cuts frames of {tiling_scheme.dataset_shape.sig}; "
                                 f"expected a scheme for {self.shape.sig}")
            boxes = [Box(tuple(s.origin), tuple(s.shape), index) for index, s in tiling_scheme.slices]
            depth = tiling_scheme.depth if depth is None else depth
        if self.get_decoder() is not None:
            yield from self._tiles_by_decoder(dtype, roi, corrections, depth, tiling_scheme)
            return
        backend, cold, _ = self._transport()
        corrections = self._corrections(corrections)
        yield from pipeline.tiles(self.layout, self.engine, backend, nav, frames, boxes=boxes, depth=depth, memory=memory,
                                  corrections=corrections, dtype=self.output_dtype(dtype, corrections), threads=decode_threads(threads),
                                  cold=cold, reduction=self._reduction)

    def cache_scheme(self, dtype: Any = None, *, corrections: CorrectionSet | None = None) -> TilingScheme:
        """How to cut tiles that stay in the CPU's cache even where a frame does not: for `tiles`.

        A frame of a K2IS capture takes 15 MB in float32. Who only sums pixels, or multiplies them with masks, need not send that to
        memory and back. Boxes are the smallest ones that suit the format, grown or halved to the size of a tile; small frames are stacked
        whole, and so are all frames on a GPU.

        Parameters
        ----------
        dtype, corrections
            As for `tiles`.
        """
        corrections = self._corrections(corrections)
        itemsize = self.output_dtype(dtype, corrections).itemsize
        on_device = self.engine.name != "cpu"
        sig, base = tuple(self.shape.sig), self.get_base_shape(None)[1:]
        room = (config.stream().tile_bytes or (DEVICE_TILE_BYTES if on_device else CPU_TILE_BYTES)) // itemsize
        depth, box = room // math.prod(sig), sig
        if not depth and not on_device:
            # Dark and gain take more memory than pixels: they are fetched for some frames at a time.
            depth, room = (CORRECTED_STACK, room // 2) if corrections.have_corrections() else (1, room)
            box = fitting_box(sig, base, room)
        return TilingScheme.make_for_shape(Shape((max(1, depth), *box), sig_dims=len(sig)), self.shape, intent="tile")

    def _tiles_by_decoder(self, dtype: Any, roi: np.ndarray | None, corrections: CorrectionSet | None,
                          depth: int | None = None, scheme: TilingScheme | None = None) -> Iterator[DataTile]:
        """`tiles` where a user's own `Decoder` decodes: those of the partitions, which know it."""
        corrections = self._corrections(corrections)
        to, sig = self.output_dtype(dtype, corrections), tuple(self.shape.sig)
        fitting = max(1, CPU_TILE_BYTES // (math.prod(sig) * to.itemsize))
        if scheme is None:
            scheme = TilingScheme.make_for_shape(Shape((min(depth or fitting, self.shape.nav.size), *sig), sig_dims=len(sig)), self.shape)
        elif depth is not None:
            scheme = TilingScheme(list(scheme), Shape((depth, *scheme.shape.sig), sig_dims=len(sig)), self.shape, scheme.intent)
        for part in self.get_partitions():
            part.set_corrections(corrections)
            for tile in part.get_tiles(scheme, dest_dtype=to, roi=roi):
                yield tile if self.engine.name == "cpu" else DataTile(self.engine.upload(tile.data), tile.tile_slice, tile.scheme_idx)

    def _read_by_decoder(self, nav: np.ndarray, out: Any, box: Box | None, corrections: CorrectionSet) -> None:
        """`read` where a user's own `Decoder` decodes."""
        wanted = np.flatnonzero(self._file_frames(nav) >= 0)
        roi = np.zeros(self.shape.nav.size, bool)
        roi[nav[wanted]] = True
        place = np.searchsorted(np.flatnonzero(roi), nav[wanted])          # on the axis that the roi leaves
        area = () if box is None else tuple(slice(o, o + n) for o, n in zip(box.origin, box.shape, strict=True))
        for tile in self._tiles_by_decoder(out.dtype, roi.reshape(tuple(self.shape.nav)), corrections):
            at = place - int(tile.tile_slice.origin[0])
            here = (at >= 0) & (at < len(tile.data))
            out[wanted[here]] = tile.data[at[here]][(slice(None), *area)]

    def _corrections(self, corrections: CorrectionSet | None) -> CorrectionSet:
        return self.get_correction_data() if corrections is None else corrections

    def _selected(self, roi: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Compressed nav index and file frame of every position that has data."""
        first, count = self.sync_offset, self.image_count
        nav, frames = selected_frames(first, min(first + self.shape.nav.size, count), first, count, roi, nav_shape=self.shape.nav)
        present = self.layout.present(frames)
        return (nav, frames) if present.all() else (nav[present], frames[present])

    def _file_frames(self, nav: np.ndarray) -> np.ndarray:
        """File frame of flat nav indices, -1 where blank."""
        frames = np.asarray(nav, dtype=np.int64) + self.sync_offset
        inside = (frames >= 0) & (frames < self.image_count)
        inside[inside] = self.layout.present(frames[inside])
        return np.where(inside, frames, -1)

    def blank(self) -> np.ndarray:
        """bool[nav]: positions that no file frame belongs to."""
        blank = np.ones(self.shape.nav.size, dtype=bool)
        blank[self._selected(None)[0]] = False
        return blank.reshape(tuple(self.shape.nav))

    def read(self, nav: np.ndarray, *, dtype: Any = None, box: Box | None = None, corrections: CorrectionSet | None = None,
             memory: int | str | None = None) -> Any:
        """Frames at flat nav indices, in the given order; blank ones are zero.

        Returns
        -------
        dtype[len(nav), *sig], engine memory

        Raises
        ------
        MemoryBudgetError
            The device cannot hold so many, or what reading takes besides.
        """
        corrections = self._corrections(corrections)
        shape = (len(nav), *(self.shape.sig if box is None else box.shape))
        engine = self.engine
        out = self._zeros(shape, self.output_dtype(dtype, corrections), f"{len(nav)} frames", "read fewer at a time, or take tiles")
        if self.get_decoder() is not None:
            self._read_by_decoder(nav, out, box, corrections)
            return out
        backend, cold, _ = self._transport()
        pipeline.read_frames(self.layout, engine, backend, self._file_frames(nav), out, box=box, corrections=corrections,
                             memory=memory, cold=cold, reduction=self._reduction)
        return out

    def _zeros(self, shape: tuple[int, ...], dtype: np.dtype, what: str, remedy: str) -> Any:
        """Room for a result on the device."""
        engine = self.engine
        try:
            return engine.zeros(shape, dtype)
        except MemoryError as error:
            left = "" if (free := engine.free_bytes()) is None else f"; {engine.name} has {free} left"
            raise MemoryBudgetError(f"{name_of(self.layout)}: {what} take {math.prod(shape) * dtype.itemsize} bytes{left}; "
                                    f"{remedy}") from error

    def summary(self, *, roi: np.ndarray | None = None, corrections: CorrectionSet | None = None, memory: int | str | None = None,
                threads: int | None = None, progress: Callable[[int, int], None] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Sum over the detector for each position, and sum over all positions, in one pass.

        Parameters
        ----------
        roi, corrections, memory
            As in `tiles`.
        threads
            Add on that many threads; None as configured, else 0: in the caller's. Results are the same for any number: whole numbers
            are divided among the threads, floating ones are decoded by them and added in order by the caller. A GPU needs none.
        progress
            Called with the frames added and those in all.

        Returns
        -------
        sum_sig : nav shape, or (selected,) with a roi; the scan image
            uint64, int64, float64 or complex128: as wide as sums of integers stay exact.
        sum_nav : sig shape, same dtype; the summed pattern
            Both in host memory; blank positions count as zero.
        """
        nav, frames = self._selected(roi)
        corrections = self._corrections(corrections)
        dtype = self.output_dtype(None, corrections)
        wide = sum_dtype(dtype)
        total = self.shape.nav.size if roi is None else len(flat_indices(roi, self.shape.nav))
        engine = self.engine
        scan = self._zeros((total,), wide, "sums of all frames", "choose positions with a roi")
        pattern = self._zeros((self.shape.sig.size,), wide, "sums over all frames", "crop or bin the detector")
        backend, cold, _ = self._transport()
        if self.get_decoder() is not None:
            counts = add_tiles(engine, self._tiles_by_decoder(dtype, roi, corrections), scan, pattern)
        else:
            counts = add_frames(self.layout, engine, backend, nav, frames, scan, pattern, dtype=dtype, corrections=corrections,
                                memory=memory, cold=cold, reduction=self._reduction, threads=decode_threads(threads),
                                base=self.get_base_shape(None)[1:])
        for done in counts:
            if progress is not None:
                progress(done, len(frames))
        scan_host, pattern_host = engine.download(scan), engine.download(pattern)
        shape = tuple(self.shape.nav) if roi is None else (total,)
        return scan_host.reshape(shape), pattern_host.reshape(tuple(self.shape.sig))

    def sum_sig(self, **kwargs: Any) -> np.ndarray:
        """The scan image: sum of each frame. Keywords as `summary`."""
        return self.summary(**kwargs)[0]

    def sum_nav(self, **kwargs: Any) -> np.ndarray:
        """The summed pattern: sum over all frames. Keywords as `summary`."""
        return self.summary(**kwargs)[1]

    def output_dtype(self, dtype: Any = None, corrections: CorrectionSet | None = None) -> np.dtype:
        """dtype of pixels where `dtype` is asked for: if it is None, that of the data set, or as wide as corrections need."""
        corrections = self._corrections(corrections)
        # Corrected pixels are as wide as if they were not summed.
        summed = self._reduction is not None and self._reduction.bins and self.dtype.kind not in "fc"
        return output_dtype(self.layout.dtype if summed and corrections.have_corrections() else self.dtype, dtype, corrections)

    def __getitem__(self, key: Any) -> Any:
        """Decoded pixels: `pixels` without options."""
        return self.pixels(key)

    def pixels(self, key: Any = ..., *, dtype: Any = None, corrections: CorrectionSet | None = None) -> Any:
        """Decoded pixels, NumPy or CuPy by device; blank positions are zero.

        Parameters
        ----------
        key
            What ``ds[key]`` takes; default everything.
        dtype, corrections
            As in `tiles`.

        Raises
        ------
        IndexError
            Out of range, or too many indices.
        ShapeError
            A mask whose shape is not the nav shape.
        """
        options = {"dtype": dtype, "corrections": corrections}
        nav_key, sig_key = split_key(key, self.shape)
        sig_shape = tuple(self.shape.sig)
        origin, extent, rest = [], [], []
        for k, n in zip(sig_key, sig_shape, strict=True):
            first, count, inner = _interval(k, n)
            origin.append(first)
            extent.append(count)
            rest.append(inner)
        selected = _positions(tuple(self.shape.nav), nav_key)
        whole = tuple(extent) == sig_shape
        if 0 in extent:
            nothing = self.read(selected.ravel()[:0], **options).reshape(0)
            return nothing.reshape(*selected.shape, *extent)[(Ellipsis, *rest)]
        data = self.read(selected.ravel(), box=None if whole else Box(tuple(origin), tuple(extent)), **options)
        data = data.reshape(*selected.shape, *extent)
        return data[(Ellipsis, *rest)] if any(r != slice(None) for r in rest) else data

    def __len__(self) -> int:
        return int(self.shape[0])


def split_key(key: Any, shape: Shape) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """A key as one for the nav axes (for NumPy) and one entry for each sig axis; errors as ``ds[key]``."""
    keys = list(key) if isinstance(key, tuple) else [key]
    keys = [np.asarray(k) if isinstance(k, (list, np.ndarray)) or hasattr(k, "get") else k for k in keys]
    keys = [k.astype(np.int64) if isinstance(k, np.ndarray) and not k.size and k.dtype != bool else k for k in keys]     # [] is float64
    nav_dims, sig_dims = shape.nav.dims, shape.sig.dims
    dots = [i for i, k in enumerate(keys) if k is Ellipsis]
    if len(dots) > 1:
        raise IndexError("an index can have only one ellipsis ('...')")
    taken = sum(_axes(k) for k in keys if k is not Ellipsis)
    if taken > nav_dims + sig_dims:
        raise IndexError(f"too many indices: {taken} for {nav_dims} nav and {sig_dims} sig axes")
    missing = [slice(None)] * (nav_dims + sig_dims - taken)
    at = dots[0] if dots else len(keys)
    keys[at:at + 1] = missing
    nav: list[Any] = []
    axes = 0
    while axes < nav_dims:
        k = keys.pop(0)
        if isinstance(k, np.ndarray) and k.dtype == bool and k.shape != tuple(shape.nav)[axes:axes + k.ndim]:
            raise ShapeError(f"mask of shape {k.shape} does not fit the nav shape {tuple(shape.nav)}")
        axes += _axes(k)
        nav.append(k)
    if axes > nav_dims or any(isinstance(k, np.ndarray) and k.ndim for k in keys):
        raise IndexError("masks and lists select scan positions; detector axes take integers and slices")
    return tuple(nav), tuple(int(k) if isinstance(k, np.ndarray) else k for k in keys)


def _positions(nav_shape: tuple[int, ...], key: tuple[Any, ...]) -> np.ndarray:
    """Flat nav indices that a key selects: of one line of numbers for each axis, so that a scan of any size costs nothing."""
    selected, step = np.zeros((), np.int64), 1
    for axis in reversed(range(len(nav_shape))):
        line = np.arange(0, step * nav_shape[axis], step, dtype=np.int64).reshape(-1, *(1,) * (len(nav_shape) - 1 - axis))
        selected, step = selected + np.broadcast_to(line, nav_shape)[key], step * nav_shape[axis]
    return np.asarray(selected)


def _axes(key: Any) -> int:
    """How many axes an entry of a key takes."""
    if key is None:
        raise IndexError("None (a new axis) cannot be used as an index of a data set; index the result")
    return key.ndim if isinstance(key, np.ndarray) and key.dtype == bool else 1


def _interval(key: Any, size: int) -> tuple[int, int, Any]:
    """The interval of an axis that an index touches: (first, count, index within the interval)."""
    if isinstance(key, slice):
        picked = range(size)[key]
        if not picked:
            return 0, 0, slice(None)
        low, high = min(picked[0], picked[-1]), max(picked[0], picked[-1])
        inner = slice(None) if picked.step == 1 else slice(None, None, picked.step)
        return low, high - low + 1, inner
    index = int(key) + (size if key < 0 else 0)
    if not 0 <= index < size:
        raise IndexError(f"index {key} is out of range for a detector axis of {size}")
    return index, 1, 0
