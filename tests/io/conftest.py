"""Every reader test runs on every backend; on that for device memory in a process with a driver, see `tests.io.stand_in`."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from gpuio.io.backends import BufferedBackend, DirectBackend, GDSBackend, IOBackend, MMapBackend
from tests.io.stand_in import HAS_DRIVER

BACKENDS: dict[str, IOBackend] = {
    "buffered": BufferedBackend(), "mmap": MMapBackend(), "mmap-hints": MMapBackend(enable_readahead_hints=True), "direct": DirectBackend(),
}
if HAS_DRIVER:
    BACKENDS["gds"] = GDSBackend(compatibility=True)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> IOBackend:
    chosen = BACKENDS[request.param]
    probe = tmp_path / "probe"
    probe.write_bytes(b"x" * 4096)
    if reason := chosen.unavailable(str(probe)):
        pytest.skip(reason)
    return chosen


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., tuple[str, np.ndarray]]:
    """``write(name, n, seed)``: a file of `n` random bytes; its path and its content."""

    def make(name: str, n: int, seed: int = 0) -> tuple[str, np.ndarray]:
        content = np.random.default_rng(seed).integers(0, 256, n, dtype=np.uint8)
        path = tmp_path / name
        path.write_bytes(content.tobytes())
        return str(path), content

    return make


def open_descriptors(folder: str) -> int:
    """Descriptors of this process that lead to files in `folder`."""
    count = 0
    for entry in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{entry}").startswith(folder)
        except OSError:
            continue
    return count


@pytest.fixture(autouse=True)
def nothing_is_left_open(tmp_path: Path) -> Iterator[None]:
    yield
    if open_descriptors(str(tmp_path)):
        gc.collect()        # what a failed test or a traceback holds
    assert open_descriptors(str(tmp_path)) == 0
