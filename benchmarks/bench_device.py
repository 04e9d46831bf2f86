"""Every encoding on a GPU, native, float32 and float32 with dark and gain: the share of the rate at which it copies its own memory.

``python -m benchmarks.bench_device`` prints the table; `benchmarks.evidence` measures much more than that.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest

from benchmarks import quick
from benchmarks.measure import record, show
from benchmarks.on_device import TARGETS, kernels
from gpuio.engine import get_engine, why_no_cuda

DEVICE, OUT_BYTES = "cuda:0", 256 << 20


def measure(rounds: int = 9, out_bytes: int = OUT_BYTES) -> list[dict[str, object]]:
    """A row an encoding."""
    return kernels(get_engine(DEVICE), out_bytes, rounds)[1]


@pytest.mark.skipif(why_no_cuda(0) is not None, reason=str(why_no_cuda(0)))
def test_device(benchmark: Any) -> None:
    """Recorded as extra_info."""
    record(benchmark, lambda: measure(quick.ROUNDS, quick.DEVICE_BYTES), "kernel", [f"of copy, {target}" for target in TARGETS])


if __name__ == "__main__":
    reason = why_no_cuda(0)
    if reason is not None:
        sys.exit(f"there is no GPU: {reason}")
    show(measure())
