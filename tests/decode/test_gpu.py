"""The rows of the table on a real device: what `test_cuda_on_host` shows of the kernels, shown of the GPU, its compiler and its streams."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gpuio.engine import RepairTable
from gpuio.kernels import CudaEngine, _launch, available
from gpuio.layout import PIXELS, SKIPPED
from tests.decode import cases
from tests.decode.cases import DTYPES, EXOTIC_DTYPES, LAYOUTS, MAPS, ROWS, SOURCES, Case, Row, assert_same, build

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(available() is not None, reason=f"no GPU: {available()}")]

ROW = {row.name: row for row in ROWS}
TABLE = [pytest.param(row, dtype, layout, id=f"{row.name}-{dtype}-{layout.__name__}")
         for row in ROWS for dtype in row.dtypes if dtype in SOURCES for layout in LAYOUTS]
GUARD = 64      # bytes on either side of the output

Layout = Callable[[np.random.Generator, int, int], cases.Placed]


@pytest.fixture(scope="session")
def engine() -> CudaEngine:
    return CudaEngine(0)


def decode(engine: CudaEngine, case: Case, dtype: str, kind: str = "none", *, shift: int = 0) -> None:
    """Decode a case into output that starts `shift` items after a multiple of 16 bytes; compare with the truth."""
    to = case.encoding.dtype if dtype == "native" else np.dtype(dtype)
    dark, gain = cases.maps(case, kind)
    frames, n_bytes = len(case.starts), len(case.starts) * case.frame_pixels * to.itemsize
    begin = GUARD + shift * to.itemsize
    before = np.random.default_rng(2).integers(0, 256, begin + n_bytes + GUARD, dtype=np.uint8)
    memory = engine.upload(before)
    out = memory[begin:begin + n_bytes].view(to).reshape(frames, case.frame_pixels)
    expected = cases.reference(case, to.str, dark, gain, before[begin:begin + n_bytes].view(to).reshape(frames, -1))

    staging = engine.staging(len(case.staged))
    lead = len(staging.host) - len(case.staged)         # the last packed byte is the last of the buffer
    staging.host[lead:] = case.staged
    staging.push(len(staging.host))
    decoder = engine.decoder(case.encoding, case.placements, case.frame_pixels, to, dark=dark, gain=gain)
    decoder.bind(staging.device, case.starts + lead, out)(0, frames)
    after = engine.download(memory)
    assert_same(after[begin:begin + n_bytes].view(to).reshape(frames, -1), expected, f"{case.id} into {to}, {kind}, shifted by {shift}")
    assert np.array_equal(after[:begin], before[:begin]) and np.array_equal(after[begin + n_bytes:], before[begin + n_bytes:])


@pytest.mark.parametrize(("row", "dtype", "layout"), TABLE)
def test_pixels_are_exact_in_every_dtype(engine: CudaEngine, row: Row, dtype: str, layout: Layout) -> None:
    case = build(row, dtype, layout)
    tame = build(row, dtype, layout, tame=True) if np.dtype(dtype).kind == "f" else case
    for i, to in enumerate(DTYPES):
        decode(engine, case if case.suits(to) else tame, to, shift=i % 3)


@pytest.mark.parametrize(("row", "dtype", "layout"), TABLE)
def test_corrected_pixels_are_exact(engine: CudaEngine, row: Row, dtype: str, layout: Layout) -> None:
    case = build(row, dtype, layout)
    for i, kind in enumerate(kind for kind in MAPS if kind != "none"):
        decode(engine, case, "f4", kind, shift=i % 3)
        decode(engine, case, "f8", kind, shift=i % 2)


@pytest.mark.parametrize("dtype", [d for d in EXOTIC_DTYPES if np.dtype(d).isnative])
def test_unusual_output_dtypes_take_the_way_through_conversion(engine: CudaEngine, dtype: str) -> None:
    for name, native in (("mib_r12", "u2"), ("swap", "i2")):
        decode(engine, build(ROW[name], native, cases.quad), dtype)


@pytest.mark.parametrize(("name", "native", "dtype", "kind"), [("swap", "u2", "f4", "both f4"), ("mib_r1", "u1", "u2", "none")])
@pytest.mark.parametrize("blocks", [1, _launch.ENOUGH_BLOCKS])
def test_many_frames_need_several_launches_and_several_frames_a_thread(
        engine: CudaEngine, monkeypatch: pytest.MonkeyPatch, name: str, native: str, dtype: str, kind: str, blocks: int) -> None:
    monkeypatch.setattr(_launch, "ENOUGH_BLOCKS", blocks)
    for layout in (cases.every_length, cases.several_parts):
        decode(engine, build(ROW[name], native, layout, frames=701), dtype, kind, shift=1)


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2"])
def test_excluded_pixels_become_the_mean_of_their_neighbours(engine: CudaEngine, dtype: str) -> None:
    table = RepairTable(np.array([0, 3, 11, 12]), np.array([0, 2, 2, 5, 13]), np.array([1, 4, 10, 2, 13, *range(13, 20), 1]))
    values = np.random.default_rng(7).normal(1e3, 1e2, (70001, 23)).astype(dtype)
    expected = values.copy()
    for i, pixel in enumerate(table.pixels):
        mine = table.neighbours[table.starts[i]:table.starts[i + 1]]
        total = np.zeros(len(values))
        for n in mine:
            total += values[:, n]
        if len(mine):
            expected[:, pixel] = (total / len(mine)).astype(dtype)
    out = engine.upload(values)
    engine.repair(out, table)
    assert_same(engine.download(out), expected)


@pytest.mark.parametrize("ring", [1, 3])
def test_blocks_pushed_one_after_the_other_are_decoded_each_from_its_own_bytes(engine: CudaEngine, ring: int) -> None:
    """Large enough that a copy overtaken by a decode, or the reverse, would show."""
    pixels, frames = 1 << 20, 8
    case = build(ROW["swap"], "u2", cases.single_pixel)
    table = case.placements.copy()
    table[0, [PIXELS, SKIPPED]] = pixels, 0            # one run of a whole frame
    buffers = [engine.staging(2 * pixels * frames) for _ in range(ring)]
    starts = 2 * pixels * np.arange(frames, dtype=np.int64)[:, None]
    decoder = engine.decoder(case.encoding, table, pixels, "f4")
    results = []
    for block in range(12):
        staging = buffers[block % ring]
        staging.host[:].view(">u2")[:] = 1000 * block + np.repeat(np.arange(frames), pixels)
        staging.push(len(staging.host))
        out = engine.empty((frames, pixels), "f4")
        decoder.bind(staging.device, starts, out)(0, frames)
        results.append((out.min(axis=1), out.max(axis=1)))
    for block, (low, high) in enumerate(results):
        expected = (1000 * block + np.arange(frames)).tolist()
        assert engine.download(low).tolist() == expected and engine.download(high).tolist() == expected
