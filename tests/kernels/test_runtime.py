"""What touches CUDA, without CUDA: streams that run as late and as disorderly as they may, and reasons for its absence."""

from __future__ import annotations

import ctypes
import random
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from gpuio.kernels import _runtime
from gpuio.kernels._runtime import COMPILE_OPTIONS, CupyRuntime, CupyStaging, available


class Schedule:
    """Streams as queues. Nothing runs before it must; then streams take turns at random, events permitting."""

    def __init__(self, seed: int) -> None:
        self.random, self.streams = random.Random(seed), []
        self.current = Stream(self)

    def step(self) -> bool:
        """Run one thing that may run; False if there is none."""
        ready = [s for s in self.streams if s.queue and s.queue[0][0]()]
        if not ready:
            return False
        self.random.choice(ready).queue.pop(0)[1]()
        return True

    def run_until(self, done: Callable[[], bool]) -> None:
        while not done():
            assert self.step(), "streams wait for each other"

    def drain(self) -> None:
        self.run_until(lambda: not any(s.queue for s in self.streams))


class Stream:
    def __init__(self, schedule: Schedule) -> None:
        self.schedule, self.queue = schedule, []
        schedule.streams.append(self)

    def give(self, work: Callable[[], None], ready: Callable[[], bool] = lambda: True) -> None:
        self.queue.append((ready, work))

    def wait_event(self, event: Event) -> None:
        number = event.recorded
        self.give(lambda: None, lambda: event.reached >= number)

    def synchronize(self) -> None:
        self.schedule.run_until(lambda: not self.queue)


class Event:
    """As in CUDA, waiting is for the latest record at the time of the call; an event never recorded has been reached."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule, self.recorded, self.reached = schedule, 0, 0

    def record(self, stream: Stream) -> None:
        self.recorded += 1
        number = self.recorded

        def reach() -> None:
            self.reached = number

        stream.give(reach)

    def synchronize(self) -> None:
        number = self.recorded
        self.schedule.run_until(lambda: self.reached >= number)


class PinnedMemory:
    def __init__(self, n_bytes: int) -> None:
        self.memory = bytearray(n_bytes)


class DeviceArray:
    """As much of a CuPy array as staging needs."""

    def __init__(self, n_bytes: int, dtype: Any) -> None:
        self.bytes, self.data = np.zeros(n_bytes, dtype), self
        self.ptr = self.bytes.ctypes.data

    def copy_from_host_async(self, address: int, n_bytes: int, stream: Stream) -> None:
        source = np.ctypeslib.as_array((ctypes.c_uint8 * n_bytes).from_address(address))

        def copy() -> None:
            self.bytes[:n_bytes] = source

        stream.give(copy)


def fake_cupy(schedule: Schedule) -> Any:
    cuda = types.SimpleNamespace(
        Device=lambda number: pytest.MonkeyPatch.context(), Stream=lambda non_blocking: Stream(schedule),
        Event=lambda disable_timing: Event(schedule), get_current_stream=lambda: schedule.current,
        PinnedMemory=PinnedMemory, PinnedMemoryPointer=lambda memory, offset: memory.memory)
    return types.SimpleNamespace(cuda=cuda, empty=DeviceArray)


def stream_blocks(schedule: Schedule, buffers: list[CupyStaging], blocks: int, *, tell: bool = True) -> list[int]:
    """Push numbered blocks through a ring of buffers, each read by work on the current stream; what that work found."""
    found: list[int] = []
    for block in range(blocks):
        buffer = buffers[block % len(buffers)]
        buffer.host[:] = block
        buffer.push(len(buffer.host))

        def kernel(bytes_: np.ndarray = buffer.device.bytes) -> None:
            assert len(np.unique(bytes_)) == 1
            found.append(int(bytes_[0]))

        schedule.current.give(kernel)
        if tell:
            buffer.decoded()
    schedule.drain()
    return found


@pytest.mark.parametrize("ring", [1, 2, 3])
def test_every_block_arrives_before_it_is_read_and_stays_until_it_has_been(ring: int) -> None:
    for seed in range(40):
        schedule = Schedule(seed)
        copies, cupy = Stream(schedule), fake_cupy(schedule)
        buffers = [CupyStaging(cupy, copies, 48) for _ in range(ring)]
        assert stream_blocks(schedule, buffers, 9) == list(range(9))


def test_a_buffer_that_is_not_told_of_its_reader_is_overwritten_too_early() -> None:
    """The schedules above are wild enough to show it."""
    spoilt = 0
    for seed in range(40):
        schedule = Schedule(seed)
        buffers = [CupyStaging(fake_cupy(schedule), Stream(schedule), 48)]
        spoilt += stream_blocks(schedule, buffers, 9, tell=False) != list(range(9))
    assert spoilt


def test_the_next_block_travels_while_this_one_is_decoded() -> None:
    schedule = Schedule(0)
    copies, cupy = Stream(schedule), fake_cupy(schedule)
    here, there = CupyStaging(cupy, copies, 16), CupyStaging(cupy, copies, 16)
    schedule.drain()
    here.host[:] = 1
    here.push(16)
    finished = []
    schedule.current.give(lambda: finished.append("decoded"))
    here.decoded()
    there.host[:] = 2
    there.push(16)
    while copies.queue:
        ready, work = copies.queue.pop(0)
        assert ready(), "the copy waits for the decoding of another buffer"
        work()
    assert there.device.bytes.tolist() == [2] * 16 and not finished


def test_host_memory_may_be_filled_once_its_copy_is_done() -> None:
    schedule = Schedule(3)
    buffer = CupyStaging(fake_cupy(schedule), Stream(schedule), 20)
    assert len(buffer.host) == len(buffer.device.bytes) == 32, "sizes are multiples of 16"
    buffer.host[:] = 5
    buffer.push(20)
    buffer.host[:] = 6
    assert buffer.device.bytes.tolist() == [5] * 20 + [0] * 12
    with pytest.raises(ValueError, match="push of 33 bytes; the staging buffer has 32"):
        buffer.push(33)


def test_the_runtime_asks_cupy_for_one_kernel_compiled_without_contraction(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = fake_cupy(Schedule(0))
    asked: dict[str, Any] = {}

    def raw_module(**arguments: Any) -> Any:
        asked.update(arguments)
        return types.SimpleNamespace(get_function=lambda name: f"the function {name}")

    cupy.RawModule = raw_module
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    runtime = CupyRuntime(1)
    assert runtime.name == "cuda:1" and runtime.xp is cupy
    assert runtime.kernel("source", "k<int>") == "the function k<int>"
    assert asked == {"code": "source", "options": COMPILE_OPTIONS, "name_expressions": ("k<int>",)}
    assert "--fmad=false" in COMPILE_OPTIONS
    assert runtime.address(DeviceArray(16, np.uint8)) % 16 == 0
    buffer = runtime.staging(100)
    buffer.host[:] = 9
    buffer.push(100)
    assert len(buffer.host) == 112


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
    monkeypatch.setattr(_runtime, "_has", lambda name: name in state.installed)
    monkeypatch.setattr(_runtime, "_has_driver", lambda: state.driver)
    monkeypatch.setattr(_runtime.importlib.util, "find_spec", lambda name: name if state.installed else None)
    available.cache_clear()
    yield state
    available.cache_clear()


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


def test_a_device_that_is_not_there_is_named(machine: Any) -> None:
    assert available(2) == "there is no CUDA device 2; 2 found"


def test_a_cupy_that_cannot_be_imported_is_named(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert str(available(0)).startswith("CuPy is installed but cannot be imported: ")


def test_without_patches_the_answer_is_a_reason_or_none() -> None:
    assert available(99) is not None
    assert _runtime._has("numpy") and not _runtime._has("no-such-distribution-anywhere")
