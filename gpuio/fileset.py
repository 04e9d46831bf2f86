"""Which file holds a frame, and at which byte. Descriptions only: nothing here opens a file.

Files of a set are in the order of their frames. Frame f of a file (counted in the file) begins at
``file_header + f * stride`` and its pixels `frame_header` bytes later, where
``stride = frame_header + bytes of the pixels + frame_footer``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from gpuio.errors import DataSetException, ShapeError, TruncatedFile

if TYPE_CHECKING:
    from gpuio.geometry.tiling import TilingScheme


class OffsetsSizes(NamedTuple):
    """How to cut frames from the bytes of a file."""

    file_offset: int    #: bytes before the first frame
    skip_end: int       #: bytes after the last frame
    frame_offset: int   #: whole items before the pixels of a frame
    frame_size: int     #: items of a frame


class File:
    """A file that holds frames of a data set.

    Parameters
    ----------
    path
        Where it is.
    start_idx, end_idx
        Its frames are ``[start_idx, end_idx)`` of all frames of the data set.
    native_dtype
        dtype to read its pixels as; uint8 if they have to be decoded.
    sig_shape
        Shape of a frame in items of `native_dtype`.
    frame_footer, frame_header
        Bytes after and before the pixels of each frame; any number.
    file_header
        Bytes before the first frame.
    size
        Bytes of the file when its header was read, if known; readers notice by it that a file has shrunk.

    Raises
    ------
    ShapeError
        A number is negative, or the file ends before it starts.
    """

    __slots__ = ("end_idx", "file_header", "frame_footer", "frame_header", "native_dtype", "path", "sig_shape", "size", "start_idx")

    path: str
    start_idx: int
    end_idx: int
    native_dtype: np.dtype
    sig_shape: tuple[int, ...]

    def __init__(self, path: str | os.PathLike[str], start_idx: int, end_idx: int, native_dtype: Any, sig_shape: Sequence[int],
                 frame_footer: int = 0, frame_header: int = 0, file_header: int = 0, *, size: int | None = None) -> None:
        self.path = os.fspath(path)
        self.start_idx, self.end_idx = int(start_idx), int(end_idx)
        self.native_dtype = np.dtype(native_dtype)
        self.sig_shape = tuple(sig_shape)
        self.frame_footer, self.frame_header, self.file_header = int(frame_footer), int(frame_header), int(file_header)
        self.size = size
        if not 0 <= self.start_idx <= self.end_idx:
            raise ShapeError(f"{path}: frames {start_idx} to {end_idx} are no range")
        if min(self.frame_footer, self.frame_header, self.file_header) < 0:
            raise ShapeError(f"{path}: a header or footer has a negative size "
                             f"(file header {file_header}, frame header {frame_header}, frame footer {frame_footer})")

    @property
    def num_frames(self) -> int:
        """Frames in this file."""
        return self.end_idx - self.start_idx

    @property
    def file_header_bytes(self) -> int:
        """Bytes before the first frame."""
        return self.file_header

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame's pixels."""
        return self.native_dtype.itemsize * math.prod(self.sig_shape)

    @property
    def stride(self) -> int:
        """Bytes from one frame to the next."""
        return self.frame_header + self.frame_bytes + self.frame_footer

    def get_offsets_sizes(self, size: int) -> OffsetsSizes:
        """How to cut frames from this file.

        Parameters
        ----------
        size
            Bytes of the whole file.

        Raises
        ------
        TruncatedFile
            The file is too short for its frames.
        """
        expected = self.file_header + self.num_frames * self.stride
        if size < expected:
            raise TruncatedFile(f"{self.path}: has {size} bytes; expected at least {expected} for {self.num_frames} frames")
        return OffsetsSizes(self.file_header, size - expected, self.frame_header // self.native_dtype.itemsize, math.prod(self.sig_shape))

    def get_array_from_memview(self, mem: Any, slicing: OffsetsSizes) -> np.ndarray:
        """The pixels in the bytes of this file, without a copy.

        Parameters
        ----------
        mem : buffer
            The whole file.
        slicing
            From `get_offsets_sizes`.

        Returns
        -------
        native_dtype[num_frames, pixels], read-only

        Raises
        ------
        TruncatedFile
            `mem` is not as long as `slicing` says.
        """
        itemsize = self.native_dtype.itemsize
        body = memoryview(mem).cast("B")[slicing.file_offset:]
        body = body[:len(body) - slicing.skip_end]
        if len(body) != self.num_frames * self.stride:
            raise TruncatedFile(f"{self.path}: {len(body)} bytes of frames; expected {self.num_frames * self.stride}")
        # frame_offset counts whole items; a header of any other size adds the rest.
        first = slicing.frame_offset * itemsize + self.frame_header % itemsize
        frames = np.asarray(body).reshape(self.num_frames, self.stride)[:, first:first + slicing.frame_size * itemsize]
        pixels = frames.view(self.native_dtype)
        pixels.flags.writeable = False
        return pixels

    def __getstate__(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        for name, value in zip(self.__slots__, state, strict=True):
            setattr(self, name, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, File) and self.__getstate__() == other.__getstate__()

    def __hash__(self) -> int:
        return hash((self.path, self.start_idx, self.end_idx))

    def __repr__(self) -> str:
        return f"<File {self.path} {self.start_idx}:{self.end_idx}>"


class FileSet:
    """Files of a data set or partition, in the order of their frames.

    Parameters
    ----------
    files
        At least one. Their frames ascend and do not overlap; there may be holes between them.
    frame_header_bytes, frame_footer_bytes
        Of every frame, as `get_read_ranges` counts them. 0 leaves it to the files.

    Raises
    ------
    DataSetException
        There are no files.
    """

    def __init__(self, files: Sequence[File], frame_header_bytes: int = 0, frame_footer_bytes: int = 0) -> None:
        self._files = list(files)
        self.frame_header_bytes = int(frame_header_bytes)
        self.frame_footer_bytes = int(frame_footer_bytes)
        if not self._files:
            raise DataSetException("a file set needs at least one file")

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, key: int) -> File: ...
    @overload
    def __getitem__(self, key: slice) -> list[File]: ...
    def __getitem__(self, key: int | slice) -> File | list[File]:
        return self._files[key]

    def __iter__(self) -> Iterator[File]:
        return iter(self._files)

    def __repr__(self) -> str:
        return f"<FileSet of {len(self)} files, frames {self._files[0].start_idx} to {self.image_count}>"

    def __getstate__(self) -> tuple[Any, ...]:
        return self._files, self.frame_header_bytes, self.frame_footer_bytes

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._files, self.frame_header_bytes, self.frame_footer_bytes = state

    @property
    def paths(self) -> list[str]:
        """Paths of the files."""
        return [f.path for f in self._files]

    @property
    def image_count(self) -> int:
        """One past the last frame; holes count."""
        return self._files[-1].end_idx

    def _column(self, name: str) -> np.ndarray:
        return np.fromiter((getattr(f, name) for f in self._files), dtype=np.int64, count=len(self._files))

    @cached_property
    def _ranges(self) -> tuple[np.ndarray, np.ndarray]:
        """First frame of each file and one past its last: two int64[files]."""
        start, end = self._column("start_idx"), self._column("end_idx")
        wrong = np.flatnonzero(start[1:] < end[:-1])
        if len(wrong):
            a, b = self._files[wrong[0]], self._files[wrong[0] + 1]
            raise DataSetException(f"{b.path}: begins at frame {b.start_idx}; expected at least {a.end_idx}, where {a.path} ends")
        return start, end

    @cached_property
    def _bytes(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the pixels of frame number 0 would begin in each file, and the distance of frames, in bytes: two int64[files]."""
        stride = self._column("stride")
        return self._column("file_header") + self._column("frame_header") - self._ranges[0] * stride, stride

    @cached_property
    def _has_holes(self) -> bool:
        """Whether frames between the first and the last are in no file."""
        start, end = self._ranges
        return bool((start[1:] != end[:-1]).any())

    def holds(self, frames: np.ndarray) -> np.ndarray:
        """Which of these frames, int64[n], are in a file: bool[n]."""
        if self._has_holes:
            return self.locate(frames)[0] >= 0
        start, end = self._ranges
        return np.asarray((frames >= start[0]) & (frames < end[-1]))

    def locate(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find frames.

        Parameters
        ----------
        frames : int64[n]
            Any order; repeats allowed.

        Returns
        -------
        file_index, byte_offset : int64[n]
            The file and the first byte of the frame's pixels in it; -1 in both for frames in holes between files or
            outside of all files.
        """
        frames = np.asarray(frames, dtype=np.int64)
        start, end = self._ranges
        first, stride = self._bytes
        if len(start) == 1:
            file = np.zeros(len(frames), dtype=np.int64)
            offset = frames * stride[0]
            offset += first[0]
            missing = (frames < start[0]) | (frames >= end[0])
        else:
            file = _first_above(end, frames)
            within = np.minimum(file, len(end) - 1)
            offset = frames * stride[within]
            offset += first[within]
            missing = (file == len(end)) | (frames < start[within])
        if missing.any():
            file[missing] = offset[missing] = -1
        return file, offset

    def _index_of(self, frame: int) -> int:
        """Position of the file that holds a frame; ValueError if none does."""
        start, end = self._ranges
        index = int(np.searchsorted(end, frame, side="right"))
        if index == len(end) or frame < start[index]:
            raise ShapeError(f"{self._files[0].path}: frame {frame} is in no file; there are frames {start[0]} to {end[-1]}")
        return index

    def get_as_arr(self) -> np.ndarray:
        """int64[files, 4]: first frame, one past the last, position in this set, bytes of the file header."""
        start, end = self._ranges
        return np.stack((start, end, np.arange(len(start)), self._column("file_header_bytes")), axis=1)

    def files_from(self, start: int) -> Iterator[File]:
        """The file that holds frame `start`, and those after it.

        Raises
        ------
        ValueError
            No file holds that frame.
        """
        return iter(self._files[self._index_of(start):])

    def get_for_range(self, start: int, stop: int) -> FileSet:
        """The files from the one that holds frame `start` to the last that begins at or before `stop`.

        Frame `stop` is thus included, as partitions expect it.

        Raises
        ------
        ValueError
            No file holds frame `start`.
        """
        first = self._index_of(start)
        last = int(np.searchsorted(self._ranges[0], stop, side="right"))
        return type(self)(self._files[first:max(last, first + 1)], self.frame_header_bytes, self.frame_footer_bytes)

    def get_read_ranges(self, start_at_frame: int, stop_before_frame: int, dtype: Any, tiling_scheme: TilingScheme,
                        sync_offset: int = 0, roi: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Byte ranges of the tiles of a partition, as `geometry.ranges` describes them.

        Parameters
        ----------
        start_at_frame, stop_before_frame
            File frames of the partition; `start_at_frame` may be negative where it begins with blanks.
        dtype
            dtype of the pixels in the files.
        tiling_scheme
            How to cut.
        sync_offset, roi
            Of the data set.

        Returns
        -------
        tile_slices : int64[tiles, 2, 1 + sig_dims]
        ranges : int64[tiles, ranges, 3]
        scheme_indices : int64[tiles]

        Raises
        ------
        ShapeError
            The roi does not fit, or a box of the scheme is no run of bytes.
        DataSetException
            A file states other frame headers or footers than this set.
        IndexError
            A frame is in no file.
        """
        from gpuio.geometry.ranges import default_get_read_ranges
        from gpuio.geometry.selection import check_roi

        shape = tiling_scheme.dataset_shape
        return default_get_read_ranges(
            start_at_frame, stop_before_frame, None if roi is None else check_roi(roi, shape.nav), tiling_scheme.depth,
            tiling_scheme.slices_array, self.get_as_arr(), tuple(shape.sig), 8 * np.dtype(dtype).itemsize, sync_offset,
            frame_header_bytes=self._of_all("frame_header", self.frame_header_bytes),
            frame_footer_bytes=self._of_all("frame_footer", self.frame_footer_bytes))

    def _of_all(self, name: str, stated: int) -> int:
        """Bytes of the header or footer of every frame, which `get_read_ranges` has one number for."""
        found = {int(getattr(f, name, 0)) for f in self._files}
        if stated:
            found = (found - {0}) | {stated}
        if len(found) > 1:
            raise DataSetException(f"{self._files[0].path}: the files of the set have a {name} of {sorted(found)} bytes; expected one size")
        return found.pop()


def _first_above(ends: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """For each frame the first position in `ends` (ascending) whose entry is above it, int64[frames]."""
    if len(frames) > len(ends) and (frames[1:] >= frames[:-1]).all():
        # Many frames in order, the usual case: looking up each end among the frames is far less work than the reverse.
        counts = np.diff(np.searchsorted(frames, ends), prepend=0, append=len(frames))
        return np.repeat(np.arange(len(ends) + 1), counts)
    return np.searchsorted(ends, frames, side="right")


class FileTree:
    """A binary tree over files, to find the one that holds a frame.

    Parameters
    ----------
    low, high
        Frames of the file in this node: ``[low, high)``.
    value
        The file.
    idx
        Its position in the list of files.
    left, right
        Nodes with lower and with higher frames.

    Raises
    ------
    ShapeError
        `low` is not below `high`.
    """

    __slots__ = ("high", "idx", "left", "low", "right", "value")

    def __init__(self, low: int, high: int, value: Any, idx: int, left: FileTree | None, right: FileTree | None) -> None:
        if low >= high:
            raise ShapeError(f"frames {low} to {high} are an empty range")
        self.low, self.high, self.value, self.idx, self.left, self.right = low, high, value, idx, left, right

    @classmethod
    def make(cls, files: Sequence[Any]) -> FileTree | None:
        """A balanced tree of `files`, which are in the order of their frames; None if there are none."""
        return cls._make(files, 0, len(files))

    @classmethod
    def _make(cls, files: Sequence[Any], first: int, stop: int) -> FileTree | None:
        if first == stop:
            return None
        middle = first + (stop - first) // 2
        f = files[middle]
        return cls(f.start_idx, f.end_idx, f, middle, cls._make(files, first, middle), cls._make(files, middle + 1, stop))

    def search_start(self, value: int) -> tuple[int, Any]:
        """Position and file of the node that holds frame `value`.

        Raises
        ------
        ValueError
            No node does.
        """
        node: FileTree | None = self
        while node is not None:
            if node.low <= value < node.high:
                return node.idx, node.value
            node = node.left if value < node.low else node.right
        raise ShapeError(f"frame {value} is in no file of this tree")

    def to_string(self, depth: int = 0) -> str:
        """The tree as text, a line a node, indented by its depth."""
        pad = 4 * depth * " "
        children = [child.to_string(depth + 1) if child is not None else pad + "None" for child in (self.left, self.right)]
        return f"{children[0]}\n{pad}(d={depth} l={self.low}, i={self.idx}, h={self.high})\n{children[1]}"
