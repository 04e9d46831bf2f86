"""The CUDA engine on every row of the table, its kernels compiled for the host: bit for bit, nothing read or written beside."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from gpuio.cpu_fallback import CpuEngine
from gpuio.engine import RepairTable
from gpuio.kernels import CudaEngine, _launch
from gpuio.layout import Encoding, Piece, placement_table
from tests.decode import cases
from tests.decode.cases import DTYPES, EXOTIC_DTYPES, EXOTIC_SOURCES, LAYOUTS, MAPS, ROWS, SOURCES, Case, Row, assert_same, build
from tests.kernels.cuda_on_host import COUNTING, aligned, fenced, host_engine, why_no_compiler, why_no_sanitizers

pytestmark = pytest.mark.skipif(why_no_compiler() is not None, reason=str(why_no_compiler()))

ROW = {row.name: row for row in ROWS}
TABLE = [pytest.param(row, dtype, layout, id=f"{row.name}-{dtype}-{layout.__name__}")
         for row in ROWS for dtype in row.dtypes if dtype in SOURCES for layout in LAYOUTS]
#: Sources whose corrected pixels are looked at: one for each way that a value can become a real number.
CORRECTED = ("mib", "uint12_le", "plain-u1", "plain-u2", "plain-f4", "swap-i4", "swap-u8", "swap-f8")
GUARD = 64      # bytes on either side of the output

Layout = Callable[[np.random.Generator, int, int], cases.Placed]


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> CudaEngine:
    return host_engine(tmp_path_factory.mktemp("cuda_on_host"))


@contextmanager
def staged(case: Case) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The bytes of a case right behind, or right before, a page that may not be read; and where frames start in them."""
    n = len(case.staged)
    size = -(-n // 16) * 16
    at_the_end = zlib.crc32(case.id.encode()) % 2
    room = size if at_the_end else -(-size // 4096) * 4096
    with fenced(room) as memory:
        memory[:] = np.random.default_rng(1).integers(0, 256, room, dtype=np.uint8)
        lead = size - n if at_the_end else 0
        memory[lead:lead + n] = case.staged
        yield memory, case.starts + lead


def decode(engine: CudaEngine, case: Case, dtype: str, kind: str = "none", *, shift: int = 0) -> None:
    """Decode a case into output that starts `shift` items after a multiple of 16 bytes; compare with the truth."""
    to = case.encoding.dtype if dtype == "native" else np.dtype(dtype)
    dark, gain = cases.maps(case, kind)
    frames, n_bytes = len(case.starts), len(case.starts) * case.frame_pixels * to.itemsize
    memory = aligned(n_bytes + 2 * GUARD, 16, shift * to.itemsize)
    memory[:] = np.random.default_rng(2).integers(0, 256, len(memory), dtype=np.uint8)
    before = memory.copy()
    out = memory[GUARD:-GUARD].view(to).reshape(frames, case.frame_pixels)
    expected = cases.reference(case, to.str, dark, gain, out.copy())
    with staged(case) as (packed, starts):
        engine.decoder(case.encoding, case.placements, case.frame_pixels, to, dark=dark, gain=gain).bind(packed, starts, out)(0, frames)
    assert_same(out, expected, f"{case.id} into {to}, {kind}, shifted by {shift}")
    assert np.array_equal(memory[:GUARD], before[:GUARD]) and np.array_equal(memory[-GUARD:], before[-GUARD:])


@pytest.mark.parametrize(("row", "dtype", "layout"), TABLE)
def test_pixels_are_exact_in_every_dtype(engine: CudaEngine, row: Row, dtype: str, layout: Layout) -> None:
    case = build(row, dtype, layout)
    tame = build(row, dtype, layout, tame=True) if np.dtype(dtype).kind == "f" else case
    for i, to in enumerate(DTYPES):
        decode(engine, case if case.suits(to) else tame, to, shift=i % 3)


@pytest.mark.parametrize(("row", "dtype", "layout"), [t for t in TABLE if t.id.startswith(CORRECTED)])
def test_corrected_pixels_are_exact(engine: CudaEngine, row: Row, dtype: str, layout: Layout) -> None:
    case = build(row, dtype, layout)
    for i, kind in enumerate(kind for kind in MAPS if kind != "none"):
        decode(engine, case, "f4", kind, shift=i % 3)
        decode(engine, case, "f8", kind, shift=i % 2)


@pytest.mark.parametrize("dtype", EXOTIC_DTYPES)
def test_unusual_output_dtypes_take_the_way_through_conversion(engine: CudaEngine, dtype: str) -> None:
    for name, native in (("mib_r12", "u2"), ("swap", "i2"), ("plain", "f8")):
        decode(engine, build(ROW[name], native, cases.quad), dtype)


@pytest.mark.parametrize("native", EXOTIC_SOURCES)
def test_unusual_stored_dtypes_take_the_way_through_conversion(engine: CudaEngine, native: str) -> None:
    for row in (ROW["plain"], ROW["swap"]):
        if native in row.dtypes:
            decode(engine, build(row, native, cases.mirrored), "native")
            decode(engine, build(row, native, cases.mirrored), "f4", "both f4")


@pytest.mark.parametrize(("name", "native", "dtype", "kind"), [
    ("plain", "u1", "u1", "none"), ("swap", "u2", "f4", "both f4"), ("mib_r1", "u1", "u2", "none"), ("uint12_le", "u2", "f8", "gain f8"),
])
@pytest.mark.parametrize("layout", [cases.rows_with_gaps, cases.every_length, cases.one_pixel_columns, cases.single_pixel])
def test_threads_that_go_on_to_further_frames_keep_to_their_pixels(
        engine: CudaEngine, monkeypatch: pytest.MonkeyPatch, name: str, native: str, dtype: str, kind: str, layout: Layout) -> None:
    monkeypatch.setattr(_launch, "ENOUGH_BLOCKS", 1)
    case = build(ROW[name], native, layout, frames=71)
    for shift in (0, 1):
        decode(engine, case, dtype, kind, shift=shift)
    _, grid, block = engine._runtime.launches[-1]
    assert grid[2] * block[1] < 71 or layout is cases.single_pixel


@pytest.mark.parametrize(("layout", "frames", "launches"), [
    (cases.mirrored, 300, 1), (cases.mirrored, 601, 3), (cases.several_parts, 201, 3), (cases.every_length, 4, 6),
])
def test_a_launch_takes_300_starts_and_16_placements(engine: CudaEngine, layout: Layout, frames: int, launches: int) -> None:
    before = len(engine._runtime.launches)
    decode(engine, build(ROW["swap"], "u2", layout, frames=frames), "f4")
    assert len(engine._runtime.launches) - before == launches


def test_frames_are_taken_from_where_starts_say_at_the_time_of_the_call(engine: CudaEngine) -> None:
    case = build(ROW["mib_r12"], "u2", cases.quad, frames=7)
    expected = case.expected.astype("f4")
    staging = engine.staging(len(case.staged))
    staging.host[:len(case.staged)] = case.staged
    staging.push(len(case.staged))
    starts, out = case.starts.copy(), np.full((5, case.frame_pixels), -1, "f4")
    call = engine.decoder(case.encoding, case.placements, case.frame_pixels, "f4").bind(staging.device, starts, out)
    call(2, 3, at=1)
    assert np.array_equal(out[1:4], expected[2:5]) and (out[[0, 4]] == -1).all()
    starts[:] = case.starts[::-1]
    call(6, 1)
    call(0, 0)
    assert np.array_equal(out[0], expected[0]) and np.array_equal(out[1:4], expected[2:5])
    assert staging.reads == 3       # the buffer learns of every call, so that it is not overwritten too early


@pytest.mark.parametrize("name", [row.name for row in ROWS])
def test_any_bytes_decode_to_the_same_on_both_engines(engine: CudaEngine, name: str) -> None:
    row = ROW[name]
    native = row.dtypes[2] if name == "plain" else row.dtypes[0]
    case = build(row, native, cases.folded)
    packed = aligned(-(-len(case.staged) // 16) * 16)
    packed[:] = np.random.default_rng(5).integers(0, 256, len(packed), dtype=np.uint8)
    results = []
    for e in (engine, CpuEngine()):
        out = np.zeros((len(case.starts), case.frame_pixels), case.encoding.dtype)
        e.decoder(case.encoding, case.placements, case.frame_pixels, out.dtype).bind(packed, case.starts, out)(0, len(out))
        results.append(out)
    assert len(np.unique(results[0])) > 1
    assert_same(results[0], results[1], name)


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "c8", "c16"])
def test_excluded_pixels_become_the_mean_of_their_neighbours(engine: CudaEngine, dtype: str) -> None:
    real = np.dtype({"c8": "f4", "c16": "f8"}.get(dtype, dtype))
    items = np.dtype(dtype).itemsize // real.itemsize
    table = RepairTable(np.array([0, 3, 11, 12]), np.array([0, 2, 2, 5, 13]), np.array([1, 4, 10, 2, 13, *range(13, 20), 1]))
    parts = np.random.default_rng(7).normal(1e3, 1e2, (41, 23, items)).astype(real)
    expected = parts.copy()
    for i, pixel in enumerate(table.pixels):
        mine = table.neighbours[table.starts[i]:table.starts[i + 1]]
        total = np.zeros((41, items))
        for n in mine:
            total += parts[:, n]
        if len(mine):
            expected[:, pixel] = (total / len(mine)).astype(real)
    out = parts.view(dtype)[:, :, 0].copy()
    engine.repair(out, table)
    assert_same(out, expected.view(dtype)[:, :, 0])
    assert not np.array_equal(expected, parts)


# ---- traffic: what a launch moves, counted by the accessors of the header ------------------------------------------------

WIDE = 256      # pixels of a chip row


def realistic(name: str, native: str) -> tuple[Encoding, list[Piece], int, int]:
    """An encoding in the geometry in which it occurs: encoding, pieces, pixels and packed bytes of a frame."""
    probe = ROW[name].encoding(native, 0)
    row = WIDE // probe.group_pixels * probe.group_bytes
    if name == "uint12_le":                             # blocks of 16 pixels a row, 16 side by side, each with a header
        rows, block = 62, 40 + 62 * 24
        piece = Piece(40, 240, 16, rows=rows, row_src=24, row_pos=WIDE, repeats=16, rep_src=block, rep_pos=-16)
        return probe, [piece], rows * WIDE, 16 * block
    rows = 61
    encoding = Encoding(name, np.dtype(native), probe.group_bytes, probe.group_pixels, rows * row if name == "mib_r24" else 0)
    n_bytes = rows * row * (2 if name == "mib_r24" else 1)
    return encoding, [Piece(0, 0, WIDE, rows=rows, row_src=row, row_pos=WIDE)], rows * WIDE, n_bytes


@pytest.fixture(scope="session")
def counting_engine(tmp_path_factory: pytest.TempPathFactory) -> CudaEngine:
    def few(file: str) -> list[str]:
        template = {"plain": "plain<u16>", "swap": "swap<u16>"}.get(file, file)
        return [f"decode<{template}, {out}, f32, 0>" for out in ("u8", "u16", "u32", "f32")]

    return host_engine(tmp_path_factory.mktemp("counting"), *COUNTING, kinds=few)


@pytest.mark.parametrize("offset", [0, 8, 5], ids=lambda n: f"starts-at-{n}")
@pytest.mark.parametrize(("name", "native"), [("plain", "u2"), ("swap", "u2"), ("mib_r1", "u1"), ("mib_r6", "u1"), ("mib_r12", "u2"),
                                              ("mib_r24", "u4"), ("uint12_le", "u2"), ("uint4_le", "u1")])
@pytest.mark.parametrize("wide", [False, True], ids=["native", "f4"])
def test_packed_bytes_come_in_once_and_results_go_out_once(
        counting_engine: CudaEngine, name: str, native: str, wide: bool, offset: int) -> None:
    encoding, pieces, pixels, n_bytes = realistic(name, native)
    frames, to = 3, np.dtype("f4" if wide else native)
    packed = aligned(-(-(frames * n_bytes + offset) // 16) * 16)
    packed[:] = np.random.default_rng(3).integers(0, 256, len(packed), dtype=np.uint8)
    out = aligned(frames * pixels * to.itemsize).view(to).reshape(frames, pixels)
    starts = offset + n_bytes * np.arange(frames, dtype=np.int64)[:, None]
    counting_engine.decoder(encoding, placement_table(pieces), pixels, to).bind(packed, starts, out)(0, frames)
    from_memory, from_l2, stored = counting_engine._runtime.traffic()
    needed = frames * (n_bytes - 16 * 40 if name == "uint12_le" else n_bytes)
    assert stored == out.nbytes
    assert needed <= from_memory <= 1.05 * needed
    assert from_l2 <= 1.1 * needed      # groups at the border of two blocks of threads are loaded by both


# ---- sanitizers ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(why_no_sanitizers() is not None, reason=str(why_no_sanitizers()))
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    library = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout.strip()
    environment = {**os.environ, "LD_PRELOAD": library, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc",
                   "PYTHONPATH": str(root)}
    run = subprocess.run([sys.executable, "-m", "tests.kernels.sanitized", str(tmp_path)], cwd=root, env=environment,
                         capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr[-4000:]
    assert int(run.stdout) == 60, "decoded cases"
