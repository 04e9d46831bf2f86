"""Frames of arrays with navigation fastest, from a file: whatever the strides, the frames wanted and the memory."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from gpuio.cpu_fallback import CpuEngine
from gpuio.errors import ReadError
from gpuio.io import gather
from gpuio.io.gather import PIECES, GatherReader
from gpuio.layout import Strided
from tests.reference_engine import ReferenceEngine

OFFSET = 37 * 16


def write(path: Path, nav: tuple[int, ...], sig: tuple[int, ...], dtype: str, order: tuple[int, ...]) -> tuple[np.ndarray, Strided]:
    """A random array [nav..., sig...] whose axis ``order[0]`` is slowest in the file; the array, and where its elements lie."""
    shape, kind = (*nav, *sig), np.dtype(dtype)
    rng = np.random.default_rng(23)
    stored = rng.integers(0, 256, int(np.prod(shape)) * kind.itemsize, dtype=np.uint8).view(kind).reshape([shape[a] for a in order])
    path.write_bytes(rng.bytes(OFFSET) + stored.tobytes())
    array = stored.transpose(np.argsort(order))
    return array, Strided(str(path), OFFSET, kind, nav, array.strides[:len(nav)], array.strides[len(nav):])


LAYOUTS = {
    "fortran": ((7, 11), (13, 5), (3, 2, 1, 0)),
    "transposed DM4": ((7, 11), (13, 5), (2, 3, 0, 1)),
    "lines": ((7, 11), (29,), (2, 1, 0)),
    "volumes": ((5, 6), (3, 4, 7), (4, 3, 2, 1, 0)),
    "volumes, mixed": ((5, 6), (3, 4, 7), (3, 2, 4, 0, 1)),
    "single pixels": ((31,), (1, 1), (2, 1, 0)),
    "one column": ((31,), (17, 1), (2, 1, 0)),
    "single frame": ((1,), (13, 17), (2, 1, 0)),
    "a long scan": ((3, 331), (3, 5), (3, 2, 1, 0)),
}


def selections(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {"all": np.arange(n), "one": np.array([n // 2]), "a part": np.arange(n // 3, n // 3 + max(1, n // 4)),
            "scattered": np.sort(rng.permutation(n)[:max(1, n // 5)]), "any order, repeated": rng.integers(0, n, n // 2 + 3)}


@pytest.mark.parametrize("piece_bytes", [1, 100, 3000, 1 << 20])
@pytest.mark.parametrize("gap", [0, 40, 16384])
@pytest.mark.parametrize("name", LAYOUTS)
def test_frames_are_those_of_the_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, gap: int, piece_bytes: int) -> None:
    monkeypatch.setattr(gather, "GAP", gap)
    nav, sig, order = LAYOUTS[name]
    for dtype in ("u1", ">u2", "c16")[: 3 if piece_bytes > 1 else 1]:
        array, strided = write(tmp_path / "a", nav, sig, dtype, order)
        flat = np.ascontiguousarray(array).reshape(-1, *sig)
        reader = GatherReader(strided, sig, CpuEngine(), piece_bytes)
        for what, frames in selections(len(flat)).items():
            if piece_bytes == 1 and what != "one":
                continue        # a request for each item
            into = np.full(len(frames) * flat[0].nbytes + 5, 0xA5, np.uint8)
            reader.gather(frames, into)
            assert into[:-5].tobytes() == flat[frames].tobytes(), what
            assert (into[-5:] == 0xA5).all()
        reader.close()


class Counting(ReferenceEngine):
    """Adds up staging."""

    def __init__(self) -> None:
        self.allocated = 0

    def staging(self, n_bytes: int):
        self.allocated += n_bytes
        return super().staging(n_bytes)


@pytest.mark.parametrize("piece_bytes", [64, 1000, 50_000])
def test_no_more_memory_is_used_than_the_pieces_may(tmp_path: Path, piece_bytes: int) -> None:
    array, strided = write(tmp_path / "a", (7, 11), (13, 5), "u2", (3, 2, 1, 0))
    engine = Counting()
    reader = GatherReader(strided, (13, 5), engine, piece_bytes)
    into = np.empty(array.nbytes, np.uint8)
    for _ in range(2):
        reader.gather(np.arange(77), into)
    reader.close()
    assert into.tobytes() == np.ascontiguousarray(array).tobytes()
    assert engine.allocated == PIECES * piece_bytes


def read_by(reader: GatherReader, frames: np.ndarray) -> tuple[int, int]:
    """Requests and bytes that a selection costs."""
    extents = list(itertools.chain.from_iterable(extents for _, _, extents in reader._plan(frames)))
    return len(extents), sum(size for _, _, size, _ in extents)


def test_a_whole_scan_is_read_in_long_requests_and_once(tmp_path: Path) -> None:
    strided = Strided("unused", 0, np.dtype("u2"), (256, 256), (2, 512), (1 << 17, 1 << 25))
    requests, n_bytes = read_by(GatherReader(strided, (256, 192), CpuEngine()), np.arange(65536))
    assert n_bytes == 65536 * 256 * 192 * 2
    assert n_bytes / requests >= 64 << 10


def test_a_small_scan_is_read_along() -> None:
    strided = Strided("unused", 0, np.dtype("u2"), (16, 16), (2, 32), (512, 512 * 256))
    requests, n_bytes = read_by(GatherReader(strided, (256, 192), CpuEngine()), np.arange(256))
    assert n_bytes == 256 * 256 * 192 * 2 and requests <= 256


def test_a_frame_of_a_large_scan_costs_its_pixels_and_not_the_file() -> None:
    strided = Strided("unused", 0, np.dtype("u2"), (256, 256), (2, 512), (1 << 17, 1 << 25))
    assert read_by(GatherReader(strided, (256, 192), CpuEngine()), np.array([771])) == (256 * 192, 256 * 192 * 2)


def test_a_file_that_shrank_is_named(tmp_path: Path) -> None:
    array, strided = write(tmp_path / "a", (7, 11), (13, 5), "u2", (3, 2, 1, 0))
    reader = GatherReader(strided, (13, 5), CpuEngine())
    with open(tmp_path / "a", "r+b") as file:
        file.truncate(OFFSET + array.nbytes - 1)
    with pytest.raises(ReadError, match=str(tmp_path / "a")):
        reader.gather(np.arange(77), np.empty(array.nbytes, np.uint8))
    reader.close()
