"""The CUDA engine on every row of the table, its kernels compiled for the host: bit for bit, nothing read or written beside."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from gpuio.kernels import CudaEngine, _launch
from gpuio.layout import Encoding, Piece, placement_table
from tests.decode.cases import DTYPES, LAYOUTS, MAPS, ROWS, SOURCES, Case, assert_same, build, maps, reference
from tests.kernels.cuda_on_host import COUNTING, SANITIZERS, HostRuntime, aligned, fenced, host_engine, why_no_compiler

pytestmark = pytest.mark.skipif(why_no_compiler() is not None, reason=str(why_no_compiler()))

TABLE = [(row, dtype, layout) for row in ROWS for dtype in row.dtypes if dtype in SOURCES for layout in LAYOUTS]
IDS = [f"{row.name}-{dtype}-{layout.__name__}" for row, dtype, layout in TABLE]
GUARD = 64      # bytes on either side of the output


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> CudaEngine:
    return host_engine(tmp_path_factory.mktemp("cuda_on_host"))


@contextmanager
def staged(case: Case) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The bytes of a case right before, or right behind, a page that may not be read; and where frames start in them."""
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
    dark, gain = maps(case, kind)
    frames, n_bytes = len(case.starts), len(case.starts) * case.frame_pixels * to.itemsize
    memory = aligned(n_bytes + 2 * GUARD, 16, shift * to.itemsize)
    memory[:] = np.random.default_rng(2).integers(0, 256, len(memory), dtype=np.uint8)
    before = memory.copy()
    out = memory[GUARD:-GUARD].view(to).reshape(frames, case.frame_pixels)
    expected = reference(case, to.str, dark, gain, out.copy())
    with staged(case) as (bytes_, starts):
        engine.decoder(case.encoding, case.placements, case.frame_pixels, to, dark=dark, gain=gain).bind(bytes_, starts, out)(0, frames)
    assert_same(out, expected, f"{case.id} into {to}, {kind}, shifted by {shift}")
    assert np.array_equal(memory[:GUARD], before[:GUARD]) and np.array_equal(memory[-GUARD:], before[-GUARD:])


@pytest.mark.parametrize(("row", "dtype", "layout"), TABLE, ids=IDS)
def test_pixels_are_exact_in_every_dtype(engine: CudaEngine, row, dtype, layout) -> None:
    case = build(row, dtype, layout)
    tame = build(row, dtype, layout, tame=True) if np.dtype(dtype).kind == "f" else case
    for i, to in enumerate(DTYPES):
        decode(engine, case if case.suits(to) else tame, to, shift=i % 3)


@pytest.mark.parametrize(("row", "dtype", "layout"), TABLE[::3] + [t for t in TABLE[1:] if t[0].name.startswith(("mib", "uint12"))])
def test_corrected_pixels_are_exact(engine: CudaEngine, row, dtype, layout) -> None:
    case = build(row, dtype, layout)
    for i, kind in enumerate(k for k in MAPS if k != "none"):
        decode(engine, case, "f4", kind, shift=i % 3)
        decode(engine, case, "f8", kind, shift=i % 2)
