"""What touches CUDA, without CUDA: staging and outputs on a simulated device, forks, and reasons for the absence of a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuio.kernels import _available, available
from gpuio.kernels._runtime import COMPILE_OPTIONS, CupyRuntime
from tests.kernels.simulated import Array, Device


@pytest.fixture
def device() -> Device:
    return Device(3)


def runtime_on(device: Device, number: int = 0) -> CupyRuntime:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", device.cupy)
        return CupyRuntime(number)


def stream_blocks(device: Device, ring: int, blocks: int) -> list[np.ndarray]:
    """Push numbered blocks through a ring of staging buffers, each read by work on the compute stream; what that work found."""
    runtime = runtime_on(device)
    buffers = [runtime.staging(48) for _ in range(ring)]
    kept: list[Array] = []
    for block in range(blocks):
        buffer = buffers[block % ring]
        buffer.host[:] = block
        buffer.push(len(buffer.host))
        with runtime.computing(), buffer.reading():
            kept.append(buffer.device.copy())
    device.synchronize()
    return [a.view_ for a in kept]


@pytest.mark.parametrize("ring", [1, 2, 3])
def test_every_block_arrives_before_it_is_read_and_stays_until_it_has_been(ring: int) -> None:
    for seed in range(40):
        assert [np.unique(found).tolist() for found in stream_blocks(Device(seed), ring, 9)] == [[block] for block in range(9)]


def test_the_next_block_travels_while_this_one_is_decoded(device: Device) -> None:
    device.eagerness = 0
    runtime = runtime_on(device)
    here, there = runtime.staging(16), runtime.staging(16)
    device.synchronize()
    here.host[:] = 1
    here.push(16)
    with runtime.computing(), here.reading():
        here.device.copy()
    there.host[:] = 2
    there.push(16)
    while runtime.copies.queue:
        work, ready = runtime.copies.queue.popleft()
        assert ready is None or ready(), "the copy waits for the decoding of another buffer"
        work()
    assert there.device.view_.tolist() == [2] * 16 and runtime.compute.queue


def test_host_memory_may_be_filled_once_its_copy_is_done(device: Device) -> None:
    buffer = runtime_on(device).staging(20)
    assert len(buffer.host) == buffer.device.size == 32, "sizes are multiples of 16"
    assert buffer.host.ctypes.data % 4096 == 0
    buffer.host[:] = 5
    buffer.push(20)
    buffer.host[:] = 6
    assert buffer.device.view_[:20].tolist() == [5] * 20 and 5 not in buffer.device.view_[20:]
    with pytest.raises(ValueError, match="push of 33 bytes; the staging buffer has 32"):
        buffer.push(33)


def test_a_buffer_says_whether_filling_it_would_wait(device: Device) -> None:
    device.eagerness = 0
    runtime = runtime_on(device)
    buffer = runtime.staging(16)
    assert buffer.is_free("host") and not buffer.is_free("device"), "somebody may still use the device memory"
    device.synchronize()
    assert buffer.is_free("device")
    buffer.host[:] = 1
    buffer.push(16)
    assert not buffer.is_free("host") and buffer.is_free("device")
    with runtime.computing(), buffer.reading():
        pass
    assert not buffer.is_free("device")
    assert buffer.landing is buffer.device and buffer.is_free("device") and buffer.is_free("host")


def test_no_host_memory_is_locked_for_a_transport_that_needs_none(device: Device) -> None:
    buffer = runtime_on(device).staging(1000)
    assert buffer.landing is buffer.device and not device.pinned_live
    assert len(buffer.host) == 1008 == device.pinned_live
    del buffer
    assert not device.pinned_live


def test_page_locked_memory_that_is_not_to_be_had_is_a_memory_error() -> None:
    buffer = runtime_on(Device(pinned=1000)).staging(1200)
    with pytest.raises(MemoryError, match="1200 bytes of page-locked host memory are not to be had"):
        buffer.host  # noqa: B018


def test_joined_work_comes_after_what_was_asked_before_and_before_what_is_asked_later() -> None:
    for seed in range(40):
        device = Device(seed)
        runtime, cupy = runtime_on(device), device.cupy
        numbers = cupy.asarray(np.arange(5))
        with runtime.computing(joined=True):
            with runtime.computing(joined=True):
                numbers += 1
            numbers += 1
        numbers += 1
        assert cupy.asnumpy(numbers).tolist() == [3, 4, 5, 6, 7]


def test_the_runtime_asks_cupy_for_one_kernel_compiled_without_contraction(device: Device) -> None:
    asked: dict[str, Any] = {}

    def raw_module(**arguments: Any) -> Any:
        asked.update(arguments)
        return types.SimpleNamespace(get_function=lambda name: f"the function {name}")

    device.cupy.RawModule = raw_module
    runtime = runtime_on(device, 1)
    assert runtime.name == "cuda:1" and runtime.xp is device.cupy
    assert runtime.kernel("source", "k<int>") == "the function k<int>"
    assert asked == {"code": "source", "options": COMPILE_OPTIONS, "name_expressions": ("k<int>",)}
    assert "--fmad=false" in COMPILE_OPTIONS
    kept = [runtime.staging(n) for n in (100, 5000, 33)]
    assert [(runtime.address(staging.device) % 4096, staging.device.size) for staging in kept] == [(0, 112), (0, 5008), (0, 48)]


# ---- forks ---------------------------------------------------------------------------------------------------------------

FORKING = """
import os, sys
import numpy as np
import gpuio
from gpuio import engine as engines, kernels
from gpuio.kernels import _available
from tests.kernels.simulated import Device
device = Device(1)
sys.modules["cupy"] = device.cupy
_available._why_not = lambda device: None               # a machine with a GPU
np.save(sys.argv[1], np.arange(7 * 5 * 11, dtype="u2").reshape(7, 5, 11))
ds = gpuio.open(sys.argv[1])
assert ds.engine.name == "cuda:0"
staging = ds.engine.staging(64)
staging.host[:] = 1
tiles = ds.tiles(depth=2, memory=40000)
tile = next(tiles)
if pid := os.fork():
    del tiles
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


used = []
device.give = device.run_until = lambda *arguments: used.append(arguments)


def refused(action):
    try:
        action()
    except gpuio.BackendUnavailable as error:
        assert "forked" in str(error) and "'spawn' or 'forkserver'" in str(error), error
    else:
        raise AssertionError("no error")


try:
    for action in (lambda: ds[3], lambda: gpuio.open(sys.argv[1]).engine, lambda: gpuio.open(sys.argv[1], device="cuda").engine,
                   lambda: list(tiles), lambda: tile.data, lambda: tile.copy(), lambda: staging.host, lambda: staging.landing,
                   lambda: staging.push(3), lambda: list(ds.tiles()), lambda: ds.engine.empty((3,), "u1")):
        refused(action)
    del staging, tile, tiles
    assert not used, "handles of the parent were used"
    assert int(np.asarray(gpuio.open(sys.argv[1], device="cpu")[3]).sum()) == sum(range(3 * 55, 4 * 55))
except BaseException:
    import traceback
    traceback.print_exc()
    os._exit(1)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_is_told_that_cuda_does_not_come_along(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKING, str(tmp_path / "a.npy")], cwd=Path(__file__).parents[2],
                         capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


# ---- available() ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A machine with everything there, to take things away from."""
    runtime = types.SimpleNamespace(getDeviceCount=lambda: 2)
    cuda = types.SimpleNamespace(runtime=runtime, Device=lambda n: types.SimpleNamespace(compute_capability="90"),
                                 nvrtc=types.SimpleNamespace(getVersion=lambda: (13, 0)))
    cupy = types.SimpleNamespace(cuda=cuda)
    state = types.SimpleNamespace(cupy=cupy, installed={"cupy-cuda13x"}, driver=True)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(_available, "_started_by", None)
    monkeypatch.setattr(_available, "_has", lambda name: name in state.installed)
    monkeypatch.setattr(_available, "_has_driver", lambda: state.driver)
    monkeypatch.setattr(_available.importlib.util, "find_spec", lambda name: name if state.installed else None)
    _available._why_not.cache_clear()
    yield state
    _available._why_not.cache_clear()


def fails(message: str) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise RuntimeError(message)

    return fail


def test_a_complete_machine_is_available(machine: Any) -> None:
    assert available(0) is None and available(1) is None


@pytest.mark.parametrize(("take_away", "reason"), [
    (lambda m: m.installed.clear(), r"CuPy is not installed; install gpuio\[cuda13\] or gpuio\[cuda12\]"),
    (lambda m: m.installed.add("cupy-cuda12x"), "cupy-cuda12x and cupy-cuda13x are installed together.*uninstall all but one"),
    (lambda m: setattr(m, "driver", False), "no NVIDIA driver"),
    (lambda m: setattr(m.cupy.cuda.runtime, "getDeviceCount", fails("cudaErrorUnknown: broken\nmore")),
     "CUDA does not start: cudaErrorUnknown: broken; check the driver with nvidia-smi"),
    (lambda m: setattr(m.cupy.cuda.runtime, "getDeviceCount", lambda: 0), "there is no CUDA device 0; 0 found, check CUDA_VISIBLE_DEVICES"),
    (lambda m: setattr(m.cupy.cuda, "Device", lambda n: types.SimpleNamespace(compute_capability="61")),
     "CUDA device 0 has compute capability 6.1; expected 7.0"),
    (lambda m: setattr(m.cupy.cuda, "Device", lambda n: types.SimpleNamespace(compute_capability="70")),
     r"CUDA 13 does not compile for device 0 of compute capability 7.0; install gpuio\[cuda12\]"),
    (lambda m: setattr(m.cupy.cuda.nvrtc, "getVersion", fails("Failure finding libnvrtc.so.13")),
     r"NVRTC is not found \(Failure finding libnvrtc.so.13\); install gpuio\[cuda13\]"),
])
def test_what_is_missing_is_named_with_the_remedy(machine: Any, take_away: Callable[[Any], None], reason: str) -> None:
    take_away(machine)
    found = available(0)
    assert found is not None and "\n" not in found
    with pytest.raises(RuntimeError, match=reason):
        raise RuntimeError(found)


def test_cuda_that_another_library_started_before_a_fork_is_told_apart(machine: Any) -> None:
    machine.cupy.cuda.runtime.getDeviceCount = fails("cudaErrorInitializationError: initialization error")
    assert _available.forked() is None
    assert available(0) == _available.FORKED == _available.forked() == available(1)


def test_cuda_of_this_process_is_no_reason(machine: Any) -> None:
    assert available(0) is None and _available.forked() is None and available(0) is None


def test_a_device_that_is_not_there_is_named(machine: Any) -> None:
    assert available(2) == "there is no CUDA device 2; 2 found"


def test_a_cupy_that_cannot_be_imported_is_named(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert str(available(0)).startswith("CuPy is installed but cannot be imported: ")


def test_without_patches_the_answer_is_a_reason_or_none() -> None:
    assert available(99) is not None
    assert _available._has("numpy") and not _available._has("no-such-distribution-anywhere")
