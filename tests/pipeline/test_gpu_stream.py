"""Streams of tiles on a real GPU, with consumers that are slow or leave early; and on the simulated one, to see that the tests work."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuio
from gpuio.corrections import CorrectionSet
from gpuio.kernels import available
from tests.kernels.simulated import Device, data_sets_on

needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(available() is not None, reason=f"no GPU: {available()}")]


class Machine:
    """CuPy, and a scan that is large enough for it."""

    def __init__(self, cupy: Any, folder: Path, n: int, sig: tuple[int, int], memory: int) -> None:
        self.cupy, self.memory = cupy, memory
        self.frames = np.random.default_rng(1).integers(0, 65536, (n, *sig), dtype="u2")
        self.path = str(folder / "scan.npy")
        np.save(self.path, self.frames)

    def open(self) -> Any:
        return gpuio.open(self.path, device="cuda")

    def keep_busy(self, array: Any, times: int = 30) -> None:
        """Work for the current stream."""
        for _ in range(times):
            array += 1


@pytest.fixture(params=["simulated", pytest.param("gpu", marks=needs_gpu)])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    if request.param == "gpu":
        import cupy

        yield Machine(cupy, tmp_path, 600, (256, 256), 64 << 20)
        return
    with data_sets_on(device := Device(3)):
        yield Machine(device.cupy, tmp_path, 20, (5, 7), 16_000)


def test_a_slow_consumer_on_a_stream_of_its_own_finds_every_tile_as_it_was(machine: Machine) -> None:
    cupy, kept = machine.cupy, []
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        work = cupy.zeros((1 << 20,), "f4")
    for tile in machine.open().tiles(dtype="float32", memory=machine.memory):
        with stream:
            data = tile.data
            machine.keep_busy(work)
            kept.append(data.copy())
    assert len(kept) > 1
    with stream:
        assert np.array_equal(np.concatenate([cupy.asnumpy(a) for a in kept]), machine.frames.astype("f4"))


def test_corrections_that_differ_from_stream_to_stream_stay_apart(machine: Machine) -> None:
    cupy, rng, kept = machine.cupy, np.random.default_rng(2), []
    for _ in range(3):
        dark, gain = (rng.normal(1, 0.1, machine.frames.shape[1:]).astype("f4") for _ in range(2))
        tiles = machine.open().tiles(dtype="float32", memory=machine.memory, corrections=CorrectionSet(dark=dark, gain=gain))
        tile = next(tiles)
        kept.append((tile.copy().data, ((machine.frames[:len(tile)].astype("f8") - dark) * gain).astype("f4")))
        del tile, tiles
    for data, expected in kept:
        assert np.array_equal(cupy.asnumpy(data), expected)


def test_frames_are_there_for_the_stream_that_asks_for_them(machine: Machine) -> None:
    cupy = machine.cupy
    with cupy.cuda.Stream(non_blocking=True):
        frames = machine.open()[3:17].copy()
        assert np.array_equal(cupy.asnumpy(frames), machine.frames[3:17])


FORKING = """
import os, sys
import gpuio
print(int(gpuio.open(sys.argv[1], device="cuda")[0].sum()), flush=True)
if pid := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
try:
    gpuio.open(sys.argv[1])[0]
except gpuio.BackendUnavailable as error:
    print(error, flush=True)
    os._exit(0)
os._exit(1)
"""


@pytest.mark.gpu
@pytest.mark.skipif(available() is not None, reason=f"no GPU: {available()}")
def test_a_forked_process_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "scan.npy", np.ones((3, 5, 7), "u2"))
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKING, str(tmp_path / "scan.npy")], capture_output=True, text=True,
                         timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("35\n") and "forked" in run.stdout
