"""Tiles through a user's decoder: every pixel, across file borders, with headers, gaps and several ranges a frame."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpuio.corrections import CorrectionSet
from gpuio.errors import ReadError
from gpuio.fileset import File, FileSet
from gpuio.io.backends import BufferedBackend, DirectBackend, IOBackend
from gpuio.io.decoders import Decoder, DefaultDecoder
from tests.io.conftest import open_descriptors

SIG = (5, 7)
FILE_HEADER, FRAME_HEADER, FRAME_FOOTER = 13, 5, 3
#: First pixel row and number of rows of each box of the detector.
BOXES = [(0, 2), (2, 2), (4, 1)]
Ranges = tuple[np.ndarray, np.ndarray, np.ndarray]


class Scan:
    """Frames in several files, and the read ranges of tiles of them, worked out frame by frame."""

    def __init__(self, folder: Path, dtype: str, edges: Sequence[int] = (0, 5, 12, 13), seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.dtype = np.dtype(dtype)
        self.edges = edges
        raw = rng.integers(0, 256, (edges[-1], *SIG, self.dtype.itemsize), dtype=np.uint8)
        if self.dtype.kind in "fc":
            values = rng.normal(scale=1000, size=(edges[-1], *SIG)) * (1 - 2j if self.dtype.kind == "c" else 1)
            self.frames = values.astype(self.dtype)
        else:
            self.frames = raw.view(self.dtype).reshape(edges[-1], *SIG)
        self.files = []
        for a, b in pairwise(edges):
            path = folder / f"scan{a}.bin"
            with open(path, "wb") as out:
                out.write(rng.bytes(FILE_HEADER))
                for frame in self.frames[a:b]:
                    out.write(rng.bytes(FRAME_HEADER) + frame.tobytes() + rng.bytes(FRAME_FOOTER))
            self.files.append(File(str(path), a, b, self.dtype, SIG, FRAME_FOOTER, FRAME_HEADER, FILE_HEADER, size=os.path.getsize(path)))
        self.fileset = FileSet(self.files, FRAME_HEADER, FRAME_FOOTER)
        self.scheme = SimpleNamespace(dataset_shape=(1, edges[-1], *SIG), depth=4)

    def first_byte(self, frame: int) -> tuple[int, int]:
        """File and first pixel byte of a frame."""
        file = next(i for i, b in enumerate(self.edges[1:]) if frame < b)
        stride = FRAME_HEADER + FRAME_FOOTER + self.frames[0].nbytes
        return file, FILE_HEADER + (frame - self.edges[file]) * stride + FRAME_HEADER

    def tiles(self, frames: Sequence[int | None], depth: int) -> tuple[Ranges, list[np.ndarray]]:
        """Ranges for `frames` in stacks of `depth` (None: a frame without range), and the pixels expected."""
        slices, ranges, index, expected = [], [], [], []
        for first in range(0, len(frames), depth):
            stack = frames[first:first + depth]
            for box, (top, height) in enumerate(BOXES):
                rows = []
                for frame in stack:
                    if frame is not None:
                        file, byte = self.first_byte(frame)
                        start = byte + top * SIG[1] * self.dtype.itemsize
                        rows.append((file, start, start + height * SIG[1] * self.dtype.itemsize))
                rows += [(0, 0, 0)] * (depth - len(rows))
                slices.append([(first, top, 0), (len(stack), height, SIG[1])])
                ranges.append(rows)
                index.append(box)
                pixels = [self.frames[f] for f in stack if f is not None]
                pixels += [np.zeros(SIG, self.dtype)] * (len(stack) - len(pixels))
                expected.append(np.array(pixels)[:, top:top + height])
        return (np.array(slices), np.array(ranges), np.array(index)), expected

    def read(self, backend: IOBackend, ranges: Ranges, read_dtype: Any, decoder: Decoder | None = None,
             corrections: CorrectionSet | None = None) -> Any:
        return backend.get_impl().get_tiles(
            tiling_scheme=self.scheme, fileset=self.fileset, read_ranges=ranges, roi=None, native_dtype=self.dtype, read_dtype=read_dtype,
            decoder=decoder, sync_offset=0, corrections=corrections)


def assert_tiles(tiles: Any, ranges: Ranges, expected: list[np.ndarray], dtype: Any) -> None:
    seen = 0
    for tile, place, box, pixels in zip(tiles, ranges[0], ranges[2], expected, strict=True):
        np.testing.assert_array_equal(tile.data, pixels)
        assert tile.dtype == np.dtype(dtype) and tile.data.flags.c_contiguous and tile.data.flags.writeable
        assert tuple(tile.tile_slice.origin) == tuple(place[0]) and tuple(tile.tile_slice.shape) == tuple(place[1])
        assert tile.scheme_idx == box
        seen += 1
    assert seen == len(expected) > 0


@pytest.mark.parametrize("native", ["<u2", ">u2", ">i2", "<f8", ">c8", "u1"])
def test_tiles_cross_files_and_skip_headers(backend: IOBackend, tmp_path: Path, native: str) -> None:
    scan = Scan(tmp_path, native)
    ranges, expected = scan.tiles(range(13), 4)
    read = "c16" if native == ">c8" else "f8"
    assert_tiles(scan.read(backend, ranges, read), ranges, [e.astype(read) for e in expected], read)


def test_frames_come_in_any_order_and_more_than_once(backend: IOBackend, tmp_path: Path) -> None:
    scan = Scan(tmp_path, ">u4")
    ranges, expected = scan.tiles([12, 0, 5, 5, 4, 11, 1], 3)
    assert_tiles(scan.read(backend, ranges, "u4"), ranges, expected, "u4")


@pytest.mark.parametrize("size", [1, 100, 4096, 20000])
def test_a_small_buffer_reads_the_same_in_more_steps(tmp_path: Path, size: int) -> None:
    scan = Scan(tmp_path, "<i2")
    ranges, expected = scan.tiles([*range(13), *range(12, -1, -1)], 6)
    for backend in (BufferedBackend(size), DirectBackend(size)):
        if backend.unavailable(scan.files[0].path) is None:
            assert_tiles(scan.read(backend, ranges, "i2"), ranges, expected, "i2")


def test_frames_without_a_range_are_zero_not_what_was_there_before(backend: IOBackend, tmp_path: Path) -> None:
    scan = Scan(tmp_path, "<u2")
    ranges, expected = scan.tiles([0, 1, 2, 3, 4, None, None, None, None, None, None, None], 4)
    assert_tiles(scan.read(backend, ranges, "u2"), ranges, expected, "u2")


class ByHalves(Decoder):
    """Two ranges a frame; a further column of the range says where its first pixel goes."""

    def get_decode(self, native_dtype: Any, read_dtype: Any) -> Callable[..., None]:
        def decode(inp: np.ndarray, out: np.ndarray, idx: int, native_dtype: np.dtype, rr: np.ndarray, origin: np.ndarray,
                   shape: np.ndarray, ds_shape: Sequence[int]) -> None:
            values = inp.view(native_dtype)
            out[idx // 2, rr[3]:rr[3] + len(values)] = values

        return decode


def test_a_frame_may_have_several_ranges_with_columns_of_their_own(backend: IOBackend, tmp_path: Path) -> None:
    scan = Scan(tmp_path, "<u2")
    pixels, half = SIG[0] * SIG[1], 18
    rows = []
    for frame in (3, 4, 5):
        file, byte = scan.first_byte(frame)
        rows += [(file, byte, byte + 2 * half, 0), (file, byte + 2 * half, byte + 2 * pixels, half)]
    ranges = np.array([[(7, 0, 0), (3, *SIG)]]), np.array([rows]), np.array([0])
    assert_tiles(scan.read(backend, ranges, "u4", ByHalves()), ranges, [scan.frames[3:6]], "u4")


class Adding(DefaultDecoder):
    """Adds to what is there; gets each range twice."""

    def do_clear(self) -> bool:
        return True

    def get_decode(self, native_dtype: Any, read_dtype: Any) -> Callable[..., None]:
        def decode(inp: np.ndarray, out: np.ndarray, idx: int, native_dtype: np.dtype, *_: Any) -> None:
            out[idx] += inp.view(native_dtype)

        return decode


def test_a_decoder_that_adds_starts_from_zero_in_each_tile(tmp_path: Path) -> None:
    scan = Scan(tmp_path, "<u2")
    ranges, expected = scan.tiles(range(13), 4)
    assert_tiles(scan.read(BufferedBackend(), ranges, "u4", Adding()), ranges, expected, "u4")


class Curious(DefaultDecoder):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.calls: list[Any] = []

    def get_native_dtype(self, inp_native_dtype: Any, read_dtype: Any) -> np.dtype:
        self.asked.append((inp_native_dtype, read_dtype))
        return np.dtype(np.uint8)

    def get_decode(self, native_dtype: Any, read_dtype: Any) -> Callable[..., None]:
        self.asked.append((native_dtype, read_dtype))

        def decode(inp: np.ndarray, out: np.ndarray, idx: int, native_dtype: np.dtype, rr: np.ndarray, origin: np.ndarray,
                   shape: np.ndarray, ds_shape: Sequence[int]) -> None:
            self.calls.append((inp.tobytes(), out.shape, idx, native_dtype, rr.tolist(), origin.tolist(), shape.tolist(), ds_shape))

        return decode


def test_a_decoder_is_told_what_the_specification_says(tmp_path: Path) -> None:
    scan = Scan(tmp_path, ">u2")
    ranges, _ = scan.tiles([4, 5], 2)
    decoder = Curious()
    for tile in scan.read(BufferedBackend(), ranges, "f4", decoder):
        assert tile.data.dtype == np.float32
    assert decoder.asked == [(np.dtype(">u2"), np.dtype("f4"))] * 2      # both are asked about the file's dtype
    file, byte = scan.first_byte(5)
    start = byte + 2 * 2 * 7
    assert decoder.calls[3] == (scan.frames[5, 2:4].tobytes(), (2, 14), 1, np.dtype("u1"), [file, start, start + 28], [0, 2, 0], [2, 2, 7],
                                (1, 13, *SIG))
    assert len(decoder.calls) == 6


def test_corrections_are_applied_within_the_box(tmp_path: Path) -> None:
    scan = Scan(tmp_path, ">i2")
    rng = np.random.default_rng(3)
    dark, gain = rng.normal(size=SIG).astype(np.float32), rng.normal(size=SIG)
    ranges, expected = scan.tiles(range(13), 4)
    corrected = []
    for pixels, box in zip(expected, ranges[2], strict=True):
        top, height = BOXES[box]
        crop = slice(top, top + height)
        values = pixels.astype(np.float32).astype(np.float64)
        corrected.append(((values - dark[crop].astype(np.float64)) * gain[crop]).astype(np.float32))
    tiles = scan.read(BufferedBackend(), ranges, "f4", corrections=CorrectionSet(dark=dark, gain=gain))
    assert_tiles(tiles, ranges, corrected, "f4")


def test_corrections_of_integers_are_refused(tmp_path: Path) -> None:
    scan = Scan(tmp_path, "<u2")
    ranges, _ = scan.tiles(range(4), 4)
    with pytest.raises(TypeError):
        next(scan.read(BufferedBackend(), ranges, "u2", corrections=CorrectionSet(dark=np.ones(SIG))))


def test_nothing_to_read_gives_no_tiles(tmp_path: Path) -> None:
    scan = Scan(tmp_path, "<u2")
    nothing = np.zeros((0, 2, 3), np.int64), np.zeros((0, 4, 3), np.int64), np.zeros(0, np.int64)
    assert list(scan.read(BufferedBackend(), nothing, "u2")) == []


def test_an_error_comes_at_its_tile_and_names_the_file(backend: IOBackend, tmp_path: Path) -> None:
    scan = Scan(tmp_path, "<u2")
    os.truncate(scan.files[1].path, scan.files[1].size - 100)
    ranges, expected = scan.tiles(range(13), 4)
    tiles = scan.read(backend, ranges, "u2")
    for pixels in expected[:3]:
        np.testing.assert_array_equal(next(tiles).data, pixels)
    with pytest.raises(ReadError, match=r"scan5\.bin"):
        next(tiles)


def test_an_abandoned_generator_closes_its_files(backend: IOBackend, tmp_path: Path) -> None:
    scan = Scan(tmp_path, "<u2")
    ranges, _ = scan.tiles(range(13), 4)
    tiles = scan.read(backend, ranges, "u2")
    next(tiles)
    assert open_descriptors(str(tmp_path)) > 0
    tiles.close()
    assert open_descriptors(str(tmp_path)) == 0
