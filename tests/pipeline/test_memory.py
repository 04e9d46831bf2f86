"""A stream's memory as the operating system sees it: a process of its own reads a file four times its budget."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

BUDGET = 48 << 20

READ = """
import sys
import gpuio
from gpuio.base import IOBackend
path, backend, dtype, budget, threads = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
cls = IOBackend.get_cls_by_id(backend)
ds = gpuio.open(path, device="cpu", io_backend=cls() if cls else None)

def status(key):
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(key)) << 10

next(iter(ds.tiles(dtype=dtype, memory=budget, threads=threads)))      # compile and import before the measurement
with open("/proc/self/clear_refs", "w") as f:
    f.write("5")                                                        # forget the peak so far
before, frames, total = status("VmRSS"), 0, 0
for tile in ds.tiles(dtype=dtype, memory=budget, threads=threads):
    frames += len(tile)
    total += int(tile.data[:, 5, 7].sum(dtype="f8"))
print(status("VmHWM") - before, frames, total)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process can be reset on Linux only")
@pytest.mark.parametrize("backend, dtype, threads, fortran_order", [
    ("auto", "float32", 0, False), ("auto", "float32", 2, False), ("auto", "uint16", 0, False), ("buffered", "uint16", 2, False),
    ("direct", "float32", 0, False), ("mmap", "float32", 0, False), ("mmap", "uint16", 0, False),
    ("auto", "float32", 0, True), ("auto", "uint16", 2, True), ("mmap", "uint16", 0, True),
])
def test_peak_memory_stays_within_the_budget(tmp_path, backend, dtype, threads, fortran_order):
    frames = 4 * BUDGET // (256 * 256 * 2)
    path = tmp_path / "scan.npy"
    array = np.lib.format.open_memmap(path, mode="w+", dtype="<u2", shape=(frames, 256, 256), fortran_order=fortran_order)
    array[:, 5, 7] = np.arange(frames) % 4096 + 1
    del array
    result = subprocess.run([sys.executable, "-c", READ, str(path), backend, dtype, str(BUDGET), str(threads)],
                            capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    extra, count, total = (int(v) for v in result.stdout.split())
    assert count == frames and total == int((np.arange(frames) % 4096 + 1).sum())
    assert extra <= 1.25 * BUDGET


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process can be reset on Linux only")
@pytest.mark.parametrize("chunks, compression", [((1, 256, 256), "lzf"), ((32, 64, 256), "lzf"), ((32, 64, 256), None)])
def test_peak_memory_of_chunks_stays_within_the_budget(tmp_path, chunks, compression):
    frames = 4 * BUDGET // (256 * 256 * 2)
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        found = file.create_dataset("data", (frames, 256, 256), "u2", chunks=chunks, compression=compression)
        for first in range(0, frames, 32):
            stack = np.zeros((32, 256, 256), "u2")
            stack[:, 5, 7] = np.arange(first, first + 32) % 4096 + 1
            found[first:first + 32] = stack
    result = subprocess.run([sys.executable, "-c", READ, str(path), "auto", "float32", str(BUDGET), "0"], capture_output=True, text=True,
                            check=False)
    assert result.returncode == 0, result.stderr
    extra, count, total = (int(v) for v in result.stdout.split())
    assert count == frames and total == int((np.arange(frames) % 4096 + 1).sum())
    assert extra <= 1.25 * BUDGET
