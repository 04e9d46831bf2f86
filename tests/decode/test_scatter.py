"""Entries added to frames, on both engines: every pixel, in the order in which entries are stored, and nothing beside."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gpuio.cpu_fallback import CpuEngine
from gpuio.engine import Engine, Entries
from gpuio.kernels import CudaEngine, _scatter
from gpuio.kernels import available as why_no_cuda
from tests.formats.items import random_items
from tests.kernels.cuda_on_host import aligned, host_engine, why_no_compiler

FRAMES, PIXELS = 23, 131
DTYPES = ("?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "c8", "c16")


def lists(values: str, pixels: str, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts, pixel numbers with many repeats, values; some frames are empty and one is crowded."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 40, FRAMES)
    counts[[0, 7, 8, FRAMES - 1]] = 0, 0, 700, 0
    starts = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    return starts, rng.integers(0, PIXELS, starts[-1]).astype(pixels), random_items(seed, starts[-1], values)


def truth(starts: np.ndarray, pixels: np.ndarray, values: np.ndarray, before: np.ndarray) -> np.ndarray:
    """One entry after the other."""
    out = before.copy()
    with np.errstate(over="ignore"):
        for frame in range(FRAMES):
            for i in range(starts[frame], starts[frame + 1]):
                if pixels[i] < PIXELS:
                    out[frame, pixels[i]] = out[frame, pixels[i]] + values[i]
    return out


def packed(starts: np.ndarray, pixels: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, Entries]:
    at, blobs = [], []
    total = 0
    for items in (values, pixels, starts):
        at.append(total)
        blobs.append(np.concatenate((items.view(np.uint8), np.full(-items.nbytes % 16 + 16, 0xA5, np.uint8))))
        total += len(blobs[-1])
    staged = aligned(total)
    staged[:] = np.concatenate(blobs)
    return staged, Entries(FRAMES, len(pixels), at[2], at[1], at[0], pixels.dtype)


def scatter_and_compare(engine: Engine, values: str, pixels: str) -> None:
    starts, numbers, items = lists(values, pixels)
    staged, entries = packed(starts, numbers, items)
    before = random_items(2, (FRAMES, PIXELS), values)
    memory = np.concatenate((random_items(3, 64, values), before.ravel(), random_items(4, 64, values)))
    guarded = memory.copy()
    out = guarded[64:-64].reshape(FRAMES, PIXELS)
    with np.errstate(over="ignore"):
        engine.scatter(staged, out, entries)
    expected = truth(starts, numbers, items, before)
    np.testing.assert_array_equal(out, expected)
    assert not np.array_equal(out, before)
    np.testing.assert_array_equal(guarded[:64], memory[:64])
    np.testing.assert_array_equal(guarded[-64:], memory[-64:])


@pytest.fixture(scope="module")
def cuda(tmp_path_factory: pytest.TempPathFactory) -> CudaEngine:
    if (reason := why_no_compiler()) is not None:
        pytest.skip(reason)
    return host_engine(tmp_path_factory.mktemp("scatter"))


@pytest.mark.parametrize("pixels", ["u1", "u4"])
@pytest.mark.parametrize("values", DTYPES)
def test_cpu(values: str, pixels: str) -> None:
    scatter_and_compare(CpuEngine(), values, pixels)


@pytest.mark.parametrize("pixels", ["u1", "u2", "u4", "u8"])
@pytest.mark.parametrize("values", DTYPES)
def test_cuda_source_on_the_host(cuda: CudaEngine, values: str, pixels: str) -> None:
    scatter_and_compare(cuda, values, pixels)


@pytest.mark.gpu
@pytest.mark.skipif(why_no_cuda() is not None, reason=str(why_no_cuda()))
@pytest.mark.parametrize("values", DTYPES)
def test_gpu(values: str) -> None:
    engine = CudaEngine()
    starts, numbers, items = lists(values, "u4")
    staged, entries = packed(starts, numbers, items)
    staging = engine.staging(len(staged))
    staging.host[:len(staged)] = staged
    staging.push(len(staged))
    before = random_items(2, (FRAMES, PIXELS), values)
    out = engine.upload(before)
    engine.scatter(staging.device, out, entries)
    np.testing.assert_array_equal(engine.download(out), truth(starts, numbers, items, before))


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_entries_of_pixels_that_there_are_not_are_left_out(name: str, request: pytest.FixtureRequest) -> None:
    engine = CpuEngine() if name == "cpu" else request.getfixturevalue("cuda")
    starts, numbers, items = lists("u2", "u4")
    numbers[[3, 40, -1]] = PIXELS, 2**32 - 1, 2**31
    staged, entries = packed(starts, numbers, items)
    out = np.zeros((FRAMES, PIXELS), "u2")
    engine.scatter(staged, out, entries)
    np.testing.assert_array_equal(out, truth(starts, numbers, items, np.zeros_like(out)))


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_bounds_outside_of_the_entries_read_nothing_else(name: str, request: pytest.FixtureRequest) -> None:
    engine = CpuEngine() if name == "cpu" else request.getfixturevalue("cuda")
    starts, numbers, items = lists("u2", "u4")
    wild = starts.copy()
    wild[0], wild[-1] = -100, starts[-1] + 10**6
    staged, entries = packed(wild, numbers, items)
    out = np.zeros((FRAMES, PIXELS), "u2")
    engine.scatter(staged, out, entries)
    np.testing.assert_array_equal(out, truth(starts, numbers, items, np.zeros_like(out)))


def test_launches_have_a_block_a_frame_and_threads_for_its_entries(cuda: CudaEngine) -> None:
    assert _scatter.geometry(7, 7) == ((7, 1, 1), (32, 1, 1))
    assert _scatter.geometry(7, 7 * 100) == ((7, 1, 1), (128, 1, 1))
    assert _scatter.geometry(3 << 20, 1 << 40) == ((1 << 20, 1, 1), (256, 1, 1))
    launches = len(cuda._runtime.launches)      # type: ignore[attr-defined]
    cuda.scatter(aligned(64), np.zeros((1, 3), "u2"), Entries(1, 0, 0, 16, 32, np.dtype("u4")))
    assert len(cuda._runtime.launches) == launches      # type: ignore[attr-defined]


GOOD = Entries(2, 3, 32, 16, 0, np.dtype("u4"))


@pytest.mark.parametrize("name", ["cpu", "cuda"])
@pytest.mark.parametrize(("staged", "out", "entries", "error", "message"), [
    (np.zeros(64, "u1"), np.zeros((2, 5), "f2"), GOOD, TypeError, "values of float16 cannot be added up"),
    (np.zeros(64, "u1"), np.zeros((2, 5), ">u2"), GOOD, TypeError, "values of >u2 cannot be added up"),
    (np.zeros(64, "u1"), np.zeros((2, 5), "u2"), replace(GOOD, pixel_dtype=np.dtype("i4")), TypeError, "pixel numbers are int32"),
    (np.zeros(64, "u1"), np.zeros((3, 5), "u2"), GOOD, ValueError, r"out has shape \[3, 5\]; expected \[2, frame_pixels\]"),
    (np.zeros(64, "u1"), np.zeros((5, 2), "u2").T, GOOD, ValueError, "in C order"),
    (np.zeros(64, "i1"), np.zeros((2, 5), "u2"), GOOD, ValueError, r"staged is int8\[64\]"),
    (np.zeros(48, "u1"), np.zeros((2, 5), "u2"), GOOD, ValueError, "starts are 24 bytes at 32"),
    (np.zeros(64, "u1"), np.zeros((2, 5), "u2"), replace(GOOD, pixels=24), ValueError, "pixels are 12 bytes at 24"),
    (np.zeros(64, "u1"), np.zeros((2, 5), "u2"), replace(GOOD, values=-16), ValueError, "values are 6 bytes at -16"),
    (np.zeros(64, "u1"), np.zeros((2, 5), "u2"), replace(GOOD, count=-1), ValueError, "bytes"),
])
def test_lists_that_do_not_fit_are_refused(name, staged, out, entries, error, message, request) -> None:
    engine = CpuEngine() if name == "cpu" else request.getfixturevalue("cuda")
    with pytest.raises(error, match=message):
        engine.scatter(staged, out, entries)
