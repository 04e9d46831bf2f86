"""Sums over blocks of pixels, on both engines: every sum, and nothing beside."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpuio.cpu_fallback import CpuEngine
from gpuio.engine import Blocks, Engine
from gpuio.kernels import CudaEngine, _bin
from gpuio.kernels import available as why_no_cuda
from tests.kernels.cuda_on_host import host_engine, why_no_compiler
from tests.pipeline.plain_files import random_frames

DTYPES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8", "f2", "?", "c8", "c16")
#: frames, planes, blocks
CASES = {
    "by two": (3, 1, Blocks(5, 37, 2, 2)), "by three and one": (2, 1, Blocks(7, 11, 3, 1)),
    "by one and four": (2, 1, Blocks(3, 67, 1, 4)), "by eight": (1, 2, Blocks(4, 9, 8, 8)),
    "by five and seven": (2, 3, Blocks(3, 13, 5, 7)), "a line detector": (5, 1, Blocks(1, 131, 1, 3)),
    "one block": (2, 1, Blocks(1, 1, 17, 19)), "nothing": (0, 1, Blocks(2, 3, 2, 2)),
}


@pytest.fixture(scope="session")
def cuda(tmp_path_factory: pytest.TempPathFactory) -> CudaEngine:
    source_and_target = [(np.dtype(s), np.dtype(t)) for s in DTYPES[:10] for t in DTYPES[:10]]
    return host_engine(tmp_path_factory.mktemp("bin"), kinds=lambda file: [_bin.expression(s, t) for s, t in source_and_target])


def truth(frames: np.ndarray, planes: int, blocks: Blocks, target: np.dtype) -> np.ndarray:
    """Sums by Python's own numbers: integers of any size, exact; floating ones one after the other in C order."""
    b = blocks
    cells = frames.reshape(len(frames) * planes, b.rows, b.down, b.columns, b.across).transpose(0, 1, 3, 2, 4)
    kind = frames.dtype.kind
    sums = []
    for cell in cells.reshape(-1, b.down * b.across).tolist():
        total: complex = 0
        for value in cell:
            total += value
        sums.append(total)
    if kind in "bui":
        wrapped = np.array([s % 2**64 for s in sums], dtype=np.uint64)      # what an int64 or uint64 holds of it
        wide = wrapped.view(np.int64) if kind == "i" else wrapped
    else:
        wide = np.array(sums, dtype=np.complex128 if kind == "c" else np.float64)
        wide = wide.real if kind == "c" and target.kind != "c" else wide
    with np.errstate(all="ignore"):
        return wide.astype(target).reshape(len(frames), planes * b.rows * b.columns)


def bin_and_compare(engine: Engine, case: str, source: str, target: str) -> None:
    n, planes, blocks = CASES[case]
    rng = np.random.default_rng(23)
    frames = random_frames(rng, n, (planes * math.prod((blocks.rows, blocks.columns, blocks.down, blocks.across)),), np.dtype(source))
    expected = truth(frames, planes, blocks, np.dtype(target))
    guarded = rng.integers(0, 256, (n + 2, expected.shape[1] * np.dtype(target).itemsize), dtype=np.uint8)
    before = guarded.copy()
    engine.bin(frames, guarded[1:-1].view(target), blocks)
    assert np.array_equal(guarded[[0, -1]], before[[0, -1]]), "written outside of the output"
    np.testing.assert_array_equal(guarded[1:-1].view(target), expected)


def targets(source: str) -> list[str]:
    """The dtypes that people ask for, and one that cuts."""
    kind = np.dtype(source).kind
    if kind in "fc":
        return ["f4", "f8", source]         # beyond the range of integers nothing is promised
    return ["f4", "f8", "u4", "i8", "u1", "i2"]


@pytest.mark.parametrize(("case", "source", "target"), [
    *(("by two", source, target) for source in DTYPES for target in targets(source)[:2]), ("by two", "i2", "i8"), ("by two", "i4", "u1"),
    *((case, source, "f4") for case in CASES for source in ("u2", "f4")),      # each combination takes a second to compile
])
def test_blocks_are_summed_on_the_cpu(case: str, source: str, target: str) -> None:
    bin_and_compare(CpuEngine(), case, source, target)


@pytest.mark.skipif(why_no_compiler() is not None, reason=str(why_no_compiler()))
@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_blocks_are_summed_on_the_host_compiler(cuda: CudaEngine, case: str, source: str) -> None:
    for target in targets(source):
        bin_and_compare(cuda, case, source, target)


@pytest.mark.gpu
@pytest.mark.skipif(why_no_cuda() is not None, reason=f"no GPU: {why_no_cuda()}")
@pytest.mark.parametrize("source", DTYPES)
def test_blocks_are_summed_on_a_device(source: str) -> None:
    engine, rng = CudaEngine(0), np.random.default_rng(29)
    n, planes, blocks = CASES["by five and seven"]
    frames = random_frames(rng, n, (planes * 3 * 13 * 35,), np.dtype(source))
    for target in targets(source):
        out = engine.empty((n, planes * 39), target)
        engine.bin(engine.upload(frames), out, blocks)
        np.testing.assert_array_equal(engine.download(out), truth(frames, planes, blocks, np.dtype(target)))


def test_minus_zero_becomes_zero_on_all_engines(cuda: CudaEngine) -> None:
    for dtype in ("f4", "f8", "f2", "c8"):
        frames = np.full((1, 8), -0.0, dtype)
        for engine in (CpuEngine(), cuda):
            out = np.full((1, 2), 7, dtype)
            engine.bin(frames, out, Blocks(1, 2, 2, 2))
            assert not np.signbit(out.real).any() and not out.any()


@pytest.mark.parametrize(("frames", "out", "blocks"), [
    ((2, 24), (2, 5), Blocks(2, 3, 2, 2)), ((2, 25), (2, 6), Blocks(2, 3, 2, 2)), ((3, 24), (2, 6), Blocks(2, 3, 2, 2)),
    ((2, 24), (2, 6), Blocks(2, 3, 0, 2)), ((2, 24), (2, 6), Blocks(2, -3, -2, 2)), ((48,), (2, 6), Blocks(2, 3, 2, 2)),
    ((2, 24), (12,), Blocks(2, 3, 2, 2)),
])
def test_arrays_of_another_form_are_refused(frames: tuple[int, ...], out: tuple[int, ...], blocks: Blocks) -> None:
    with pytest.raises(ValueError, match="do not fit Blocks"):
        CpuEngine().bin(np.zeros(frames, "u2"), np.zeros(out, "u4"), blocks)


def test_arrays_that_are_not_in_c_order_are_refused() -> None:
    with pytest.raises(ValueError, match="in C order"):
        CpuEngine().bin(np.zeros((24, 2), "u2").T, np.zeros((2, 6), "u4"), Blocks(2, 3, 2, 2))
