"""Reads the headers of all frames of a set, a few at a time, and none of their pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from gpuio.fileset import File
from gpuio.findings import UNKNOWN, FrameRecords, Progress
from gpuio.layout import Layout
from gpuio.source import Source

#: Reads in flight: what a disk or a server needs to be busy with small reads.
THREADS = 8
#: Headers that a thread reads before the others are waited for, and their bytes.
HEADERS_AT_ONCE, BYTES_AT_ONCE = 512, 1 << 20


def read_headers(source: Source, layout: Layout, size: int, progress: Progress, *,
                 at: int = 0) -> Iterator[tuple[File, np.ndarray, np.ndarray]]:
    """The same bytes of every frame, file by file.

    Parameters
    ----------
    layout
        Of frames in one part.
    size, at
        Bytes wanted of each frame, and where they begin, counted from the first byte of the frame, its header included.

    Yields
    ------
    file
        The file of these frames.
    frames : int64[n]
        Their numbers in the data set.
    raw : uint8[n, size]
        Their bytes; zeros where the file ends.

    Raises
    ------
    OSError
        A file cannot be read.
    """
    at_once = max(1, min(HEADERS_AT_ONCE, BYTES_AT_ONCE // size))
    total = sum(file.num_frames for file in layout.parts[0])
    done = 0

    def some(file: File, first: int, count: int) -> bytes:
        start = file.file_header + at + first * file.stride
        return b"".join(source.read(file.path, start + k * file.stride, size).ljust(size, b"\0") for k in range(count))

    with ThreadPoolExecutor(THREADS) as pool:
        for file in layout.parts[0]:
            for first in range(0, file.num_frames, THREADS * at_once):
                stop = min(file.num_frames, first + THREADS * at_once)
                begins = range(first, stop, at_once)
                raw = b"".join(pool.map(lambda begin, file=file, stop=stop: some(file, begin, min(at_once, stop - begin)), begins))
                yield file, file.start_idx + np.arange(first, stop), np.frombuffer(raw, np.uint8).reshape(stop - first, size)
                done += stop - first
                progress(done, total)


#: Counters and times in ns of an array of headers; None for what they do not tell.
Meaning = Callable[[np.ndarray], tuple[np.ndarray | None, np.ndarray | None]]


def binary_records(source: Source, layout: Layout, header: np.dtype, meaning: Meaning, progress: Progress, *, at: int = 0,
                   resolution_ns: int = 1) -> FrameRecords:
    """What frame headers with fixed fields say.

    Parameters
    ----------
    header
        Record dtype of the bytes of each frame from `at` on.
    meaning
        What they mean.
    progress, resolution_ns
        As in `FrameRecords`.

    Raises
    ------
    OSError
        A file cannot be read.
    """
    columns = []
    for _, frames, raw in read_headers(source, layout, header.itemsize, progress, at=at):
        unknown = np.full(len(frames), UNKNOWN)
        told = (unknown if column is None else column.astype(np.int64) for column in meaning(raw.view(header)[:, 0]))
        columns.append((frames, *told, unknown))
    frame, counter, time, exposure = (np.concatenate(column) for column in zip(*columns, strict=True))
    return FrameRecords(frame, counter, time, exposure, resolution_ns=resolution_ns)
