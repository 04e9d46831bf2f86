"""The command that measures a GPU, without one: its measuring code on the engines of the host, its surroundings made up."""

from __future__ import annotations

import json
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import gpuio
from benchmarks import evidence, on_device
from benchmarks.bench_decode import SCENES, single
from benchmarks.measure import Timing
from benchmarks.on_device import CASES, Case, Work
from gpuio.engine import get_engine
from gpuio.io.backends import BufferedBackend
from gpuio.kernels import _bin, _transpose
from tests.kernels.cuda_on_host import HostRuntime, host_engine, why_no_compiler

MIB = 1 << 20


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Every candidate runs once and is said to take so many seconds; those not named take one. Filled with what ran."""
    seconds: dict[str, float] = {}

    def interleaved(candidates: dict[str, Callable[[], object]], rounds: int,
                    before: Callable[[], object] = lambda: None) -> dict[str, Timing]:
        for run in candidates.values():
            before()
            run()
        return {name: Timing(seconds.get(name, 1.0), 0.0, 0.25) for name in candidates}

    monkeypatch.setattr(on_device, "interleaved", interleaved)
    monkeypatch.setattr(Work, "lasting", lambda self: self)
    return seconds


# ---- work ----------------------------------------------------------------------------------------------------------------


def test_short_work_is_repeated_until_it_lasts_and_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = 0.0, {"run": 0, "wait": 0}

    def run() -> None:
        nonlocal now
        now += 0.001
        calls["run"] += 1

    def wait() -> None:
        calls["wait"] += 1

    monkeypatch.setattr(on_device.time, "perf_counter", lambda: now)
    lasting = Work(run, 1000, wait).lasting()
    assert (lasting.count, lasting.n_bytes) == (20, 1000)
    assert calls == {"run": 2, "wait": 2}
    lasting()
    assert calls == {"run": 22, "wait": 3}


def test_rates_are_bytes_of_one_time_by_the_time_of_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Work, "lasting", lambda self: Work(self.run, self.n_bytes, self.wait, 4))
    monkeypatch.setattr(on_device, "interleaved", lambda candidates, rounds: {name: Timing(2.0, 1.0, 0.5) for name in candidates})
    found, times = on_device.rates({"a": Work(print, 10**9), "b": Work(print, 3 * 10**9)}, 7)
    assert found == {"a": 2.0, "b": 6.0}
    assert times["a"] == Timing(0.5, 0.25, 0.5)


# ---- kernels -------------------------------------------------------------------------------------------------------------


def test_kernels_count_bytes_in_and_bytes_out_beside_the_copy(timed: dict[str, float]) -> None:
    timed |= {"copy": 0.5, "R12|native": 2.0, "transpose <u2, navigation fastest": 0.25}
    copy, rows, others = on_device.kernels(get_engine("cpu"), 3 * MIB, 1, {name: SCENES[name] for name in ("R12", "R1", "u16 big-endian")})
    assert copy == 2 * 3 * MIB / 0.5 / 1e9
    row = {str(r["kernel"]): r for r in rows}
    frames = 3 * MIB // (65536 * 4)
    assert frames == 12
    assert row["R12"]["native GB/s"] == frames * (131072 + 131072) / 2.0 / 1e9
    assert row["R12"]["float32 GB/s"] == row["R12"]["float32, dark and gain GB/s"] == frames * (131072 + 262144) / 1e9
    assert row["R1"]["float32 GB/s"] == frames * (8192 + 262144) / 1e9
    assert row["R1"]["of copy, float32"] == row["R1"]["float32 GB/s"] / copy
    assert row["R1"]["spread"] == 0.25
    size = 24 * 131072
    assert others == [
        {"kernel": "transpose <u2, navigation fastest", "GB/s": 2 * size / 0.25 / 1e9, "of copy": pytest.approx(2.0), "spread": 0.25},
        {"kernel": "bin <u2 by 4 x 4 to float32", "GB/s": size * 1.125 / 1e9, "of copy": size * 1.125 / 1e9 / copy, "spread": 0.25}]


def test_other_kernels_move_what_they_are_said_to_move() -> None:
    memory, other = np.zeros(5 * 131072 + 77, "u1"), np.random.default_rng(3).integers(0, 256, 5 * 131072 + 77, dtype=np.uint8)
    works = {name.split()[0]: (run, n_bytes) for name, run, n_bytes in on_device._others(get_engine("cpu"), memory, other)}
    stored = other[:5 * 131072].view("u2")
    works["transpose"][0]()
    np.testing.assert_array_equal(memory[:5 * 131072].view("u2").reshape(5, 65536), stored.reshape(65536, 5).T)
    works["bin"][0]()
    sums = stored.reshape(5, 64, 4, 64, 4).sum(axis=(2, 4), dtype="f8")
    np.testing.assert_array_equal(memory[:5 * 131072 // 8].view("f4").reshape(5, 64, 64), sums)
    assert [n_bytes for _, n_bytes in works.values()] == [2 * 5 * 131072, 5 * 131072 + 5 * 64 * 64 * 4]


@pytest.mark.skipif(why_no_compiler() is not None, reason=str(why_no_compiler()))
def test_kernels_of_the_cuda_engine_decode_whole_stacks(timed: dict[str, float], tmp_path: Path) -> None:
    expressions = ["decode<mib_r12, u16, f32, 0>", "decode<mib_r12, f32, f32, 0>", "decode<mib_r12, f32, f32, 3>"]
    others = {"transpose": f"transpose<{_transpose.ITEMS[2]}>", "bin": _bin.expression(np.dtype("u2"), np.dtype("f4"))}
    engine = host_engine(tmp_path, kinds=lambda file: [others[file]] if file in others else expressions)
    on_device.kernels(engine, 2 * MIB, 1, {"R12": single("mib_r12", "u2", 8, 4)})
    runtime = engine._runtime
    assert isinstance(runtime, HostRuntime)
    assert [expression for expression, _, _ in runtime.launches] == [*expressions, *others.values()]


def test_every_encoding_is_measured() -> None:
    assert {scene.encoding.name for scene in SCENES.values()} == set(get_engine("cpu").encodings)


# ---- streams -------------------------------------------------------------------------------------------------------------

SMALL = (
    Case("MIB R6 quad", "mib", {"kind": "R6", "layout": "2x2"}, (512, 512), 8, 63),
    Case("NPY <u2", "npy", {"dtype": "<u2"}, (37, 53), 16, 65535),
)


@pytest.fixture(autouse=True)
def few_frames_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_device, "RANDOM_PIXELS", 3 * 512 * 512)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_a_recording_holds_random_counts_of_the_size_asked_for(case: Case, tmp_path: Path) -> None:
    ds = gpuio.open(on_device.write(tmp_path, case, 5 * MIB)[0], device="cpu")
    n_bytes = ds.image_count * case.sig_shape[0] * case.sig_shape[1] * case.bits // 8
    assert 0.6 * 5 * MIB < n_bytes <= 5 * MIB
    pixels = ds[0]
    assert pixels.max() <= case.top
    assert len(np.unique(pixels)) > min(case.top, 1000) / 2


def test_a_stream_is_set_beside_the_wire_and_the_peers(timed: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_device.importlib.util, "find_spec", lambda name: None)
    timed |= {"read": 0.5, "H2D": 0.25, "H2D of blocks": 0.125, "gpuio": 0.75, "CPU, 1 thread": 6.0, "CPU, all cores": 3.0}
    monkeypatch.setattr(on_device, "COPY_BYTES", MIB)
    paths = on_device.write(tmp_path, SMALL[1], 5 * MIB)
    plan = gpuio.open(paths[0], device="cpu").explain(dtype="float32")
    row = on_device.stream(get_engine("cpu"), "cpu", SMALL[1], paths[0], 1)
    needed, h2d = plan.needed_bytes / 1e9, plan.read_bytes // MIB * MIB / 0.25 / 1e9
    blocks = plan.read_bytes // plan.block_bytes * plan.block_bytes / 0.125
    assert row == {
        "file": "NPY <u2", "gpuio GB/s": needed / 0.75, "H2D GB/s": h2d, "of H2D": needed / 0.75 / h2d, "read GB/s": needed / 0.5,
        "of bound": pytest.approx(0.5 / 0.75), "frames/s": plan.frames / 0.75,
        "copy engine idle": pytest.approx(1 - plan.read_bytes / blocks / 0.75),
        "CPU, 1 thread GB/s": needed / 6, "x CPU, 1 thread": pytest.approx(8), "CPU, all cores GB/s": needed / 3,
        "x CPU, all cores": pytest.approx(4), "spread": 0.25,
    }


class Watched:
    """An engine that remembers what was uploaded."""

    def __init__(self) -> None:
        self._engine, self.uploaded = get_engine("cpu"), 0

    def upload(self, array: np.ndarray) -> np.ndarray:
        assert array.dtype == np.float32
        self.uploaded += array.nbytes
        return array.copy()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_the_peers_ways_upload_every_pixel_as_float32(case: Case, tmp_path: Path) -> None:
    path = on_device.write(tmp_path, case, 2 * MIB)[0]
    ds = gpuio.open(path, device="cpu")
    ways = dict(on_device._peers_ways(Watched(), case, path))
    assert set(ways) >= {"CPU, 1 thread", "CPU, all cores"}
    for name in ways:
        watched = Watched()
        dict(on_device._peers_ways(watched, case, path))[name]()
        assert watched.uploaded == ds.image_count * case.sig_shape[0] * case.sig_shape[1] * 4, name


def test_recordings_are_gone_when_they_have_been_measured(timed: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_device, "COPY_BYTES", MIB)
    rows = list(on_device.streams(get_engine("cpu"), "cpu", tmp_path, MIB, 1, SMALL[1:]))
    assert [(warm["file"], cold["file"]) for warm, cold in rows] == [("NPY <u2", "NPY <u2")]
    assert not any(path.is_file() for path in tmp_path.iterdir())


@pytest.mark.parametrize("n_bytes", [0, 1, 4097, 3 * 8192, 100_003])
def test_reading_takes_every_byte_once(n_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, int]] = []
    real = os.preadv

    class Pool:
        def map(self, run: Callable[[int], None], numbers: range) -> list[None]:
            return [run(number) for number in numbers]

    def preadv(descriptor: int, buffers: Any, at: int) -> int:
        assert at % 4096 == 0 and len(buffers[0]) % 4096 == 0 and np.frombuffer(buffers[0], "u1").ctypes.data % 4096 == 0
        got = real(descriptor, (buffers[0][:4096],), at)
        taken.append((at, got))
        return got

    path = tmp_path / "bytes"
    path.write_bytes(bytes(n_bytes))
    monkeypatch.setattr(on_device, "READ_BYTES", 8192)
    monkeypatch.setattr(on_device.os, "preadv", preadv)
    on_device._read([str(path)], Pool(), 5)  # type: ignore[arg-type]
    assert sorted(byte for at, got in taken for byte in range(at, at + got)) == list(range(n_bytes))


class Direct(BufferedBackend):
    """A transport that takes the place of GPUDirect Storage; the ways by which files are opened are kept."""

    used: ClassVar[list[str]] = []

    def open(self, paths: Any, sizes: Any) -> Any:
        self.used.append(type(self).__name__)
        return super().open(paths, sizes)


class Through(Direct):
    pass


def test_cold_recordings_are_streamed_both_ways_each_time_from_storage(
        timed: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed |= {"storage": 0.5, "gds": 0.8, "through the host": 2.0}
    paths, dropped = on_device.write(tmp_path, SMALL[1], 2 * MIB), []
    monkeypatch.setattr(on_device, "drop", lambda paths: dropped.append(list(paths)))
    monkeypatch.setattr(on_device, "resident_fraction", lambda path: 0.0)
    monkeypatch.setattr(on_device, "GDSBackend", Direct)
    monkeypatch.setattr(on_device, "BufferedBackend", Through)
    Direct.used.clear()
    row = on_device.cold(get_engine("cpu"), "cpu", SMALL[1], paths[0], 1)
    needed, whole = gpuio.open(paths[0], device="cpu").explain().needed_bytes / 1e9, Path(paths[0]).stat().st_size / 1e9
    assert row == {
        "file": "NPY <u2", "storage GB/s": whole / 0.5, "spread of storage": 0.25,
        "gds GB/s": pytest.approx(needed / 0.8), "of storage, gds": pytest.approx(needed / 0.8 / (whole / 0.5)), "spread, gds": 0.25,
        "through the host GB/s": pytest.approx(needed / 2), "of storage, through the host": pytest.approx(needed / 2 / (whole / 0.5)),
        "spread, through the host": 0.25}
    assert Direct.used == ["Direct", "Through"]
    assert dropped == [[paths[0]]] * 4, "once to see whether it can be done, and before each candidate"


def test_what_cannot_be_measured_cold_says_why(timed: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = on_device.write(tmp_path, SMALL[1], MIB)
    monkeypatch.setattr(on_device, "resident_fraction", lambda path: 0.0)
    monkeypatch.setattr(on_device.GDSBackend, "unavailable", lambda self, path: "no such luck")
    row = on_device.cold(get_engine("cpu"), "cpu", SMALL[1], paths[0], 1)
    assert row["no gds"] == "no such luck" and "gds GB/s" not in row and row["through the host GB/s"]
    monkeypatch.setattr(on_device, "resident_fraction", lambda path: 1.0)
    monkeypatch.setattr(on_device.gds, "place", lambda path: ("tmpfs", None))
    row = on_device.cold(get_engine("cpu"), "cpu", SMALL[1], paths[0], 1)
    assert row == {"file": "NPY <u2", "not measured": "file system tmpfs keeps its pages in memory"}


def test_every_kind_of_the_issue_is_streamed() -> None:
    assert {"MIB R1 quad", "MIB R6 quad", "MIB R12 quad", "K2IS"} <= {case.name for case in CASES}
    assert {case.format for case in CASES} <= set(gpuio.formats())


# ---- the command ---------------------------------------------------------------------------------------------------------

GPU = {"name": "NVIDIA Made-Up 9000 (80GB)", "memory_bytes": 1}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with a GPU, as far as the command can tell; everything that takes long is made up."""
    state = types.SimpleNamespace(tests={"passed": True, "tests": 7}, sanitizer={"passed": None, "reason": "not installed"}, quick=None)

    def measured(engine: Any, quick: bool) -> dict[str, Any]:
        state.quick = quick
        return {"rounds": 3, "copy_GB_per_s": 2000.0, "kernels": [{"kernel": "R12", "float32 GB/s": 1900.0}],
                "other_kernels": [{"kernel": "transpose", "GB/s": 1700.0}],
                "streams": [{"file": "MIB R12 quad", "gpuio GB/s": 20.0}],
                "cold": [{"file": "K2IS", "gds GB/s": 6.5}], "gds": {"mode": "auto"}}

    monkeypatch.setattr(evidence, "why_no_cuda", lambda number: None)
    monkeypatch.setattr(evidence, "get_engine", lambda device: get_engine("cpu"))
    monkeypatch.setattr(evidence, "gpu", lambda: GPU)
    monkeypatch.setattr(evidence, "device_tests", lambda: state.tests)
    monkeypatch.setattr(evidence, "sanitizer", lambda: state.sanitizer)
    monkeypatch.setattr(evidence, "measured", measured)
    return state


def test_without_a_gpu_it_says_so_and_writes_nothing(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(evidence, "why_no_cuda", lambda number: "no driver")
    assert evidence.main(["--output", str(tmp_path / "results")]) == 3
    assert capsys.readouterr().out == "no GPU here: no driver; nothing was measured\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("quick", [False, True])
def test_with_a_gpu_the_result_is_written_and_shown(machine: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], quick: bool) -> None:
    assert evidence.main(["--output", str(tmp_path), *(["--quick"] if quick else [])]) == 0
    (path,) = tmp_path.iterdir()
    result = json.loads(path.read_text())
    assert path.name == f"nvidia-made-up-9000-80gb-{result['date'][:10]}.json"
    assert machine.quick == quick == result["command"].endswith("--quick")
    assert (result["copy_GB_per_s"], result["gpu"], result["gpuio"]) == (2000.0, GPU, gpuio.__version__)
    assert result["machine"]["cores"] > 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("1900.00", "1700.00", "MIB R12 quad", "not installed", "K2IS", "6.50", str(path)))


@pytest.mark.parametrize("broken", [{"tests": {"passed": False, "tests": 7}}, {"sanitizer": {"passed": False}}])
def test_a_failure_is_written_and_is_the_exit_code(machine: Any, tmp_path: Path, broken: dict[str, Any]) -> None:
    vars(machine).update(broken)
    assert evidence.main(["--output", str(tmp_path)]) == 1
    (path,) = tmp_path.iterdir()
    result = json.loads(path.read_text())
    assert not (result["tests"]["passed"] and result["sanitizer"]["passed"] in (True, None))


@pytest.mark.parametrize(("attributes", "passed"), [
    ('tests="5" failures="0" errors="0" skipped="1"', True), ('tests="5" failures="1" errors="0" skipped="0"', False),
    ('tests="5" failures="0" errors="2" skipped="0"', False), ('tests="5" failures="0" errors="0" skipped="5"', False),
    ('tests="0" failures="0" errors="0" skipped="0"', False),
])
def test_device_tests_have_passed_if_some_ran_and_none_failed(attributes: str, passed: bool) -> None:
    found = evidence.counts(f'<testsuites><testsuite name="pytest" {attributes}/></testsuites>')
    assert found["passed"] is passed
    assert found["tests"] == int(attributes.split('"')[1])


def test_device_tests_leave_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def run(command: list[str], **options: Any) -> None:
        asked.append(command)
        Path(next(word for word in command if word.startswith("--junitxml=")).partition("=")[2]).write_text(
            '<testsuite tests="3" failures="0" errors="0" skipped="0"/>')

    monkeypatch.setattr(evidence.subprocess, "run", run)
    assert evidence.device_tests() == {"passed": True, "tests": 3, "failures": 0, "errors": 0, "skipped": 0}
    assert asked[0][:5] == [sys.executable, "-m", "pytest", "-m", "gpu"]
    monkeypatch.setattr(evidence.subprocess, "run", lambda *args, **options: None)
    assert evidence.device_tests()["passed"] is False


@pytest.mark.parametrize(("code", "failures", "passed"), [(0, 0, True), (86, 0, False), (1, 1, False)])
def test_the_sanitizer_watches_the_device_tests_of_decoding(
        code: int, failures: int, passed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "compute-sanitizer"
    program.write_text(f"""#!/bin/sh
for word in "$@"; do case $word in --junitxml=*) echo '<testsuite tests="9" failures="{failures}"/>' >"${{word#*=}}";; esac; done
echo "$@"
exit {code}
""")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = evidence.sanitizer()
    assert (found["passed"], found["memcheck"]["passed"], found["memcheck"]["tests"]) == (passed, passed, 9)
    if code:
        assert found["memcheck"]["exit_code"] == code
        said = {tool: found[tool]["said"].split() for tool in ("memcheck", "racecheck")}
        assert said["memcheck"][:4] == ["--tool", "memcheck", "--error-exitcode", "86"] and said["memcheck"][-1] == "tests/decode"
        assert said["racecheck"][1] == "racecheck" and said["racecheck"][-1] == "tests/decode/test_transpose.py"


def test_tests_that_take_too_long_have_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **options: Any) -> None:
        raise evidence.subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(evidence.subprocess, "run", run)
    assert evidence.device_tests() == {"passed": False, "reason": "not done after 3600 seconds"}


def test_a_missing_sanitizer_is_neither_passed_nor_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert evidence.sanitizer() == {"passed": None, "reason": "compute-sanitizer is not installed"}


def test_the_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = {"name": b"NVIDIA H100", "totalGlobalMem": 80 << 30, "major": 9, "minor": 0}
    runtime = types.SimpleNamespace(getDeviceProperties=lambda n: properties, driverGetVersion=lambda: 13010,
                                    runtimeGetVersion=lambda: 13000)
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=types.SimpleNamespace(runtime=runtime), __version__="14.2"))
    assert evidence.gpu() == {"name": "NVIDIA H100", "memory_bytes": 80 << 30, "compute_capability": "9.0", "cupy": "14.2",
                              "driver": 13010, "runtime": 13000}
