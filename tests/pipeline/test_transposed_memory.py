"""A DM4 scan stored with navigation fastest, four times as large as the memory budget: right, and within the budget."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpuio import synth

BUDGET, NAV, SIG = 24 << 20, (47, 61), (131, 137)

READ = """
import hashlib, sys
import gpuio
path, budget = sys.argv[1], int(sys.argv[2])
ds = gpuio.open(path, device="cpu")
assert ds.layout.strided is not None and tuple(ds.shape.nav) == (47, 61)

def status(key):
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(key)) << 10

next(iter(ds.tiles(memory=budget)))         # compile and import before the measurement
with open("/proc/self/clear_refs", "w") as f:
    f.write("5")                            # forget the peak so far
before, digest, frames = status("VmRSS"), hashlib.sha256(), 0
for tile in ds.tiles(memory=budget):
    digest.update(tile.data)
    frames += len(tile)
print(status("VmHWM") - before, frames, digest.hexdigest())
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process can be reset on Linux only")
def test_frames_of_a_transposed_scan_are_put_together_within_the_budget(tmp_path: Path) -> None:
    frames = np.random.default_rng(1).integers(0, 1 << 16, (NAV[0] * NAV[1], *SIG), dtype="u2")
    assert frames.nbytes > 4 * BUDGET
    path, = synth.write("dm", tmp_path / "scan.dm4", [frames], nav_shape=NAV, sig_shape=SIG, transposed=True)
    result = subprocess.run([sys.executable, "-c", READ, path, str(BUDGET)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    extra, count, digest = result.stdout.split()
    assert (int(count), digest) == (len(frames), hashlib.sha256(frames).hexdigest())
    assert int(extra) <= BUDGET
