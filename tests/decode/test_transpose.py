"""Frames put together from pixels that lie with navigation fastest, on both engines: every item, and nothing beside."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from gpuio.cpu_fallback import CpuEngine
from gpuio.engine import Engine, TransposeTable
from gpuio.kernels import CudaEngine, _transpose
from gpuio.kernels import available as why_no_cuda
from gpuio.layout import Piece
from tests.decode.memory import GuardedOutput, before_unreadable_page
from tests.kernels.cuda_on_host import aligned, host_engine, why_no_compiler

#: Items of each size that are moved.
DTYPES = ("u1", ">i2", "f4", "f8", "c16")


@dataclass(frozen=True)
class Scan:
    """A stored array [rows, columns, nav] of which `frames` are wanted; a frame is [height, width] and the piece a part of it."""

    nav: int
    rows: int
    columns: int
    frames: str = "all"
    height: int = 0
    width: int = 0

    def picks(self, rng: np.random.Generator) -> np.ndarray:
        """Positions wanted, in the order of the output."""
        return {"all": np.arange(self.nav), "one": np.array([self.nav // 2]), "some": rng.permutation(self.nav)[: max(1, self.nav // 3)],
                "repeated": rng.integers(0, self.nav, self.nav + 3), "halves": np.r_[self.nav // 2:self.nav, 0:self.nav // 2],
                "every third": np.arange(0, self.nav, 3), "none": np.arange(0)}[self.frames].astype(np.int64)


SCANS = {
    "tiles filled by chance": Scan(64, 8, 16), "one item": Scan(1, 1, 1), "one frame": Scan(1, 13, 7), "one pixel": Scan(131, 1, 1),
    "odd sizes": Scan(67, 5, 37), "more frames than a tile": Scan(257, 3, 11), "more pixels than a tile": Scan(35, 1, 301),
    "one column": Scan(41, 53, 1), "narrow rows": Scan(33, 31, 3), "some, shuffled": Scan(211, 3, 19, "some"),
    "some repeat": Scan(45, 2, 17, "repeated"), "from the middle": Scan(131, 2, 33, "halves"), "with gaps": Scan(200, 2, 33, "every third"),
    "one of many": Scan(97, 5, 19, "one"), "none": Scan(9, 2, 3, "none"),
    "part of a frame": Scan(37, 5, 9, "all", 11, 23), "part of a frame, some": Scan(70, 4, 33, "some", 7, 35),
}


def stored(scan: Scan, dtype: np.dtype, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, scan.rows * scan.columns * scan.nav * dtype.itemsize, dtype=np.uint8).view(dtype).reshape(
        scan.rows, scan.columns, scan.nav)


def arguments(scan: Scan, dtype: np.dtype, order: str, lead: int, rng: np.random.Generator
              ) -> tuple[np.ndarray, Piece, TransposeTable, tuple[int, int], np.ndarray, tuple[slice, slice]]:
    """Packed bytes, piece, table, shape of the output, the truth, and where in a frame it belongs."""
    array, picks, size = stored(scan, dtype, rng), scan.picks(rng), dtype.itemsize
    height, width = scan.height or scan.rows, scan.width or scan.columns
    y, x = (height - scan.rows) // 2, width - scan.columns
    steps = (scan.nav, scan.nav * scan.rows) if order == "columns" else (scan.nav * scan.columns, scan.nav)     # of a row, of a column
    packed = (array.transpose(1, 0, 2) if order == "columns" else array).tobytes()
    staged = np.frombuffer(bytes(lead * size) + packed, np.uint8)
    piece = Piece(lead * size, y * width + x, 1, rows=scan.rows, row_src=steps[0] * size, row_pos=width, repeats=scan.columns,
                  rep_src=steps[1] * size, rep_pos=1)
    by_place = np.argsort(picks, kind="stable")
    table = TransposeTable(picks[by_place] * size, by_place.astype(np.int64))
    truth = np.moveaxis(array[:, :, picks], -1, 0)
    return staged, piece, table, (len(picks), height * width), truth, (slice(y, y + scan.rows), slice(x, x + scan.columns))


def transpose_and_compare(engine: Engine, scan: Scan, dtype: np.dtype, order: str, place: object) -> None:
    rng = np.random.default_rng(17)
    staged, piece, table, shape, truth, box = arguments(scan, dtype, order, 3, rng)
    expected = np.empty(0)
    with before_unreadable_page(staged) as packed:
        guarded = GuardedOutput(*shape, dtype, rng, guard_items=1024)
        expected = guarded.before.copy()
        expected.reshape(shape[0], scan.height or scan.rows, scan.width or scan.columns)[:, box[0], box[1]] = truth
        engine.transpose(place(packed), guarded.out, piece, table)     # type: ignore[operator]
        guarded.check(f"{scan} of {dtype}")
    assert guarded.out.tobytes() == expected.tobytes()


@pytest.mark.parametrize("order", ["rows", "columns"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scan", SCANS.values(), ids=SCANS)
def test_frames_are_those_of_the_array_on_the_cpu(scan: Scan, dtype: str, order: str) -> None:
    transpose_and_compare(CpuEngine(), scan, np.dtype(dtype), order, lambda packed: packed)


@pytest.fixture(scope="session")
def cuda(tmp_path_factory: pytest.TempPathFactory) -> CudaEngine:
    return host_engine(tmp_path_factory.mktemp("transpose"))


@pytest.mark.skipif(why_no_compiler() is not None, reason=str(why_no_compiler()))
@pytest.mark.parametrize("order", ["rows", "columns"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scan", SCANS.values(), ids=SCANS)
def test_frames_are_those_of_the_array_on_the_host_compiler(cuda: CudaEngine, scan: Scan, dtype: str, order: str) -> None:
    transpose_and_compare(cuda, scan, np.dtype(dtype), order, lambda packed: packed)


@pytest.mark.gpu
@pytest.mark.skipif(why_no_cuda() is not None, reason=f"no GPU: {why_no_cuda()}")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scan", SCANS.values(), ids=SCANS)
def test_frames_are_those_of_the_array_on_a_device(scan: Scan, dtype: str) -> None:
    engine, rng, kind = CudaEngine(0), np.random.default_rng(17), np.dtype(dtype)
    staged, piece, table, shape, truth, box = arguments(scan, kind, "columns", 3, rng)
    staging = engine.staging(len(staged))
    staging.host[:len(staged)] = staged
    staging.push(len(staged))
    items = rng.integers(0, 256, (shape[0], shape[1] * kind.itemsize), dtype=np.uint8)
    expected = items.copy()
    expected.view(kind).reshape(shape[0], scan.height or scan.rows, scan.width or scan.columns)[:, box[0], box[1]] = truth
    moved = np.dtype("c16" if kind.itemsize == 16 else f"u{kind.itemsize}")
    out = engine.upload(items)
    engine.transpose(staging.device, out.view(moved), piece, table)
    assert np.array_equal(engine.download(out), expected)


@pytest.mark.skipif(why_no_compiler() is not None, reason=str(why_no_compiler()))
def test_blocks_go_on_to_further_frames_where_a_grid_has_too_few(cuda: CudaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    few = _transpose.geometry
    monkeypatch.setattr(_transpose, "geometry", lambda pixels, frames: ((few(pixels, frames)[0][0], 2, 1), few(pixels, frames)[1]))
    transpose_and_compare(cuda, Scan(231, 3, 17, "some"), np.dtype("u2"), "columns", lambda packed: packed)
    transpose_and_compare(cuda, Scan(231, 3, 17), np.dtype("u1"), "rows", lambda packed: packed)


@pytest.mark.skipif(why_no_compiler() is not None, reason=str(why_no_compiler()))
def test_a_buffer_learns_that_it_is_read(cuda: CudaEngine) -> None:
    staging = cuda.staging(64)
    staging.host[:] = np.arange(64)
    staging.push(64)
    out = np.zeros((4, 16), "u1")
    backwards = TransposeTable(np.arange(4), np.arange(4)[::-1].copy())
    cuda.transpose(staging.device, out, Piece(0, 0, 1, repeats=16, rep_src=4, rep_pos=1), backwards)
    assert np.array_equal(out, np.arange(64).reshape(16, 4).T[::-1]) and staging.reads == 1


@pytest.mark.parametrize(("pixels", "frames"), [(1, 1), (32, 32), (33, 31), (70001, 7), (5, 10**7)])
def test_a_grid_covers_all_pixels_and_is_one_that_cuda_takes(pixels: int, frames: int) -> None:
    grid, block = _transpose.geometry(pixels, frames)
    assert (grid[0] - 1) * 32 < pixels <= grid[0] * 32 and grid[1] <= 65535 and block == (32, 8, 1)
    assert (grid[1] - 1) * 32 < frames and (frames <= grid[1] * 32 or grid[1] == 65535)


PIECE = Piece(4, 1, 1, rows=3, row_src=40, row_pos=5, repeats=4, rep_src=8, rep_pos=1)      # bytes 4 to 110 and 2 more a start
TABLE = TransposeTable(np.array([0, 2, 6]), np.array([2, 0, 1]))


@pytest.mark.parametrize("engine", [CpuEngine(), "cuda"], ids=["cpu", "cuda"])
@pytest.mark.parametrize(("change", "error", "message"), [
    ({"out": np.zeros((3, 15), "V3")}, TypeError, r"items of 3 bytes \(\|V3\) cannot be transposed; expected 1, 2, 4, 8 or 16"),
    ({"out": np.zeros((3, 30), "u2")[:, ::2]}, ValueError, r"out is uint16\[3, 15\]; expected \[depth, frame_pixels\] in C order"),
    ({"out": np.zeros(45, "u2")}, ValueError, r"out is uint16\[45\]"),
    ({"staged": aligned(240)[::2]}, ValueError, r"staged is uint8\[120\]; expected contiguous"),
    ({"staged": aligned(120).view("u2")}, ValueError, r"staged is uint16\[60\]"),
    ({"piece": replace(PIECE, pixels=2)}, ValueError, "expected runs of one pixel"),
    ({"piece": replace(PIECE, reversed=True)}, ValueError, "expected runs of one pixel"),
    ({"piece": replace(PIECE, pos=2, rep_pos=1, row_pos=5)}, ValueError, "reaches outside of the frame of 15 pixels"),
    ({"piece": replace(PIECE, src=5)}, ValueError, "do not keep to multiples of the 2 bytes of an item"),
    ({"piece": replace(PIECE, rep_src=7)}, ValueError, "do not keep to multiples"),
    ({"piece": replace(PIECE, src=20)}, ValueError, "bytes 20 to 132 are to be transposed; there are 120"),
    ({"piece": replace(PIECE, src=-2)}, ValueError, "bytes -2 to 110"),
    ({"table": TransposeTable(np.array([0, 2, 5]), np.array([2, 0, 1]))}, ValueError, "do not keep to multiples"),
    ({"table": TransposeTable(np.array([0, 2, 12]), np.array([2, 0, 1]))}, ValueError, "bytes 4 to 122 are to be transposed"),
    ({"table": TransposeTable(np.array([0, 2, 6]), np.array([3, 0, 1]))}, ValueError, "a frame lies outside of the 3 of the output"),
    ({"table": TransposeTable(np.array([0, 2, 6]), np.array([-1, 0, 1]))}, ValueError, "a frame lies outside"),
])
def test_what_makes_no_sense_is_refused(cuda: CudaEngine, engine: Engine | str, change: dict, error: type[Exception], message: str) -> None:
    values = {"staged": aligned(120), "out": np.zeros((3, 15), "u2"), "piece": PIECE, "table": TABLE} | change
    with pytest.raises(error, match=message):
        (cuda if isinstance(engine, str) else engine).transpose(**values)


@pytest.mark.parametrize(("starts", "frames", "message"), [
    (np.array([0, 6, 2]), np.array([2, 0, 1]), "starts descend"),
    (np.array([0, 2, 6]), np.array([2, 0]), r"transpose table of int64\[3\] and int64\[2\]"),
    (np.array([0, 2, 6], "i4"), np.array([2, 0, 1]), r"transpose table of int32\[3\] and int64\[3\]"),
    (np.arange(6)[::2], np.array([2, 0, 1]), "expected int64"),
])
def test_tables_of_another_form_are_refused(starts: np.ndarray, frames: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransposeTable(starts, frames)
