"""A data set of plain files with any headers and footers, made from an array; the truth is the array."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gpuio.dataset import DataSet
from gpuio.fileset import File, FileSet
from gpuio.layout import Encoding, Layout, plain_pieces
from gpuio.source import Source


def random_frames(rng: np.random.Generator, n: int, sig: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Values of the whole range of an integer dtype, ordinary numbers of a float one."""
    dtype = np.dtype(dtype)
    if dtype.kind == "c":
        return (rng.normal(size=(n, *sig)) + 1j * rng.normal(size=(n, *sig))).astype(dtype)
    if dtype.kind == "f":
        return (rng.normal(size=(n, *sig)) * 100).astype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, size=(n, *sig)).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, size=(n, *sig), dtype=dtype.newbyteorder("="), endpoint=True).astype(dtype)


def write_files(folder: Path, frames: np.ndarray, counts: list[int], file_header: int, frame_header: int, frame_footer: int,
                rng: np.random.Generator, tail: int = 0) -> list[Path]:
    """Cut `frames` into files; headers, footers and the tail hold random bytes."""
    paths, first = [], 0
    for number, count in enumerate(counts):
        blob = [rng.bytes(file_header)]
        for frame in frames[first:first + count]:
            blob += [rng.bytes(frame_header), frame.tobytes(), rng.bytes(frame_footer)]
        path = folder / f"part{number}.bin"
        path.write_bytes(b"".join(blob) + rng.bytes(tail))
        paths.append(path)
        first += count
    return paths


class PlainFiles(DataSet):
    """Files of whole frames."""

    format = "plain-files"

    def __init__(self, paths, counts, dtype, sig_shape, nav_shape, sync_offset=0, file_header=0, frame_header=0, frame_footer=0,
                 io_backend=None, num_partitions=None, starts=None):
        super().__init__(io_backend=io_backend)
        self._path = [str(p) for p in paths]
        self._nav_shape, self._sync_offset = nav_shape, sync_offset
        self._counts, self._dtype, self._sig = counts, np.dtype(dtype), sig_shape
        self._sizes = file_header, frame_header, frame_footer
        self._num_partitions = num_partitions
        self._starts = starts

    def _parse(self, source: Source) -> Layout:
        file_header, frame_header, frame_footer = self._sizes
        starts = self._starts or np.concatenate(([0], np.cumsum(self._counts)[:-1])).tolist()
        files = [File(path, start, start + count, self._dtype, self._sig, frame_footer, frame_header, file_header, size=source.size(path))
                 for path, start, count in zip(self._path, starts, self._counts, strict=True)]
        encoding = Encoding.of(self._dtype)
        return Layout(format=self.format, parts=(FileSet(files, frame_header, frame_footer),), encoding=encoding,
                      pieces=plain_pieces(self._sig, self._sig[-1] * self._dtype.itemsize), sig_shape=self._sig,
                      image_count=starts[-1] + self._counts[-1])

    def get_num_partitions(self) -> int:
        return self._num_partitions or super().get_num_partitions()
