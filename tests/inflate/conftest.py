"""Both engines: that of the CPU, and that of CUDA with its kernels compiled for the host; and on a GPU, where there is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuio.cpu_fallback import CpuEngine
from gpuio.kernels import CudaEngine, available
from gpuio.layout import Filter
from tests.kernels.cuda_on_host import host_engine, why_no_compiler

GUARD = 72


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = {"cpu": CpuEngine()}
    if why_no_compiler() is None:
        found["cuda"] = host_engine(tmp_path_factory.mktemp("inflate"))
    if available() is None:
        found["gpu"] = CudaEngine(0)
    return found


@pytest.fixture(params=["cpu", "cuda", pytest.param("gpu", marks=pytest.mark.gpu)])
def engine(request: pytest.FixtureRequest, engines: dict[str, Any]) -> Any:
    if request.param not in engines:
        pytest.skip(f"no GPU: {available()}" if request.param == "gpu" else str(why_no_compiler()))
    return engines[request.param]


def inflate(engine: Any, filters: tuple[Filter, ...], chunks: list[bytes], chunk_bytes: int, item_bytes: int,
            masks: list[int] | None = None, shift: int = 0) -> tuple[list[int], list[bytes]]:
    """Statuses and contents of chunks that lie apart in memory, with random bytes around them that must stay as they are."""
    rng = np.random.default_rng(len(chunks))
    pitch = chunk_bytes + GUARD
    out = rng.integers(0, 256, len(chunks) * pitch + 128, dtype=np.uint8)
    out = out[-out.ctypes.data % 64:][:len(chunks) * pitch + 64]
    staged = rng.integers(0, 256, 5 + sum(len(c) + 3 for c in chunks), dtype=np.uint8)
    table, src = [], 5
    for i, chunk in enumerate(chunks):
        staged[src:src + len(chunk)] = np.frombuffer(chunk, np.uint8)
        table.append((src, len(chunk), masks[i] if masks else 0, i * pitch + 48 + shift))
        src += len(chunk) + 3
    order = rng.permutation(len(chunks))
    before = out.copy()
    here, there = (engine.upload(a) if engine.xp is not np else a for a in (staged, out))
    statuses = engine.inflater(filters, chunk_bytes, item_bytes).bind(here, there)(np.array(table, dtype=np.int64)[order])
    assert statuses.dtype == np.int32
    found = np.zeros(len(chunks), dtype=np.int64)
    found[order] = engine.download(statuses)
    out = engine.download(there)[:len(out)] if engine.xp is not np else out
    contents = []
    for _, _, _, at in table:
        contents.append(out[at:at + chunk_bytes].tobytes())
        before[at:at + chunk_bytes] = out[at:at + chunk_bytes]
    assert np.array_equal(out, before), "bytes beside the chunks were written"
    return found.tolist(), contents
