"""The CUDA engine refuses what its kernels could not survive, before anything is launched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpuio.engine import RepairTable
from gpuio.kernels import CudaEngine
from gpuio.layout import Encoding, Piece, placement_table
from tests.kernels.cuda_on_host import HostRuntime, aligned

PLAIN = Encoding.of("u2")
PLACEMENTS = placement_table([Piece(4, 0, 30, part=0), Piece(-2, 30, 5, part=2)])


class NoCompiler(HostRuntime):
    """Kernels that must not be launched."""

    def __init__(self) -> None:
        super().__init__(Path("unused"))

    def kernel(self, source: str, expression: str):
        def launch(*_: object) -> None:
            pytest.fail(f"{expression} was launched")

        return launch


@pytest.fixture
def engine() -> CudaEngine:
    return CudaEngine(runtime=NoCompiler())


def test_an_engine_says_what_it_is(engine: CudaEngine) -> None:
    assert engine.name == "cuda:0" and engine.xp is np
    assert engine.encodings == {"plain", "swap", "mib_r1", "mib_r6", "mib_r12", "mib_r24", "uint12_le", "uint4_le"}
    assert engine.empty((3, 5), "f4").shape == (3, 5) and not engine.zeros((3,), "u1").any()
    array = np.random.default_rng(0).integers(0, 9, 7)
    assert np.array_equal(engine.download(engine.upload(array)), array)


@pytest.mark.parametrize(("starts", "frame"), [([[0, 0, 1], [10, 0, 1]], 0), ([[0, 0, 2], [5, 0, 2]], 1), ([[0, 0, 73], [0, 0, 2]], 0),
                                               ([[0, 0, 2], [-5, 0, 2]], 1), ([[2**62, 0, 2], [0, 0, 2]], 0)])
def test_frames_outside_of_the_staged_bytes_are_refused(engine: CudaEngine, starts: list[list[int]], frame: int) -> None:
    out = np.zeros((2, 35), "f4")
    call = engine.decoder(PLAIN, PLACEMENTS, 35, "f4").bind(aligned(64), np.array(starts), out)
    with pytest.raises(ValueError, match=rf"frame {frame} starts at .*; expected starts from \[-4, .*, 2\] to \[0, .*, 56\] in 64 staged"):
        call(0, 2)


def test_unused_parts_may_start_anywhere() -> None:
    launched = []

    class Counting(NoCompiler):
        def kernel(self, source: str, expression: str):
            return lambda *_: launched.append(expression)

    call = CudaEngine(runtime=Counting()).decoder(PLAIN, PLACEMENTS, 35, "f4").bind(
        aligned(64), np.array([[0, -(2**60), 2]]), np.zeros((1, 35), "f4"))
    call(0, 1)
    assert launched == ["decode<plain<u16>, f32, f32, 0>"]


@pytest.mark.parametrize("arguments", [(0, 3), (1, 2), (-1, 1), (0, -1), (0, 1, 2), (0, 2, 1), (0, 1, -1)])
def test_frames_that_are_not_there_are_refused(engine: CudaEngine, arguments: tuple[int, ...]) -> None:
    call = engine.decoder(PLAIN, PLACEMENTS, 35, "f4").bind(aligned(96), np.full((2, 3), 2), np.zeros((2, 35), "f4"))
    with pytest.raises(IndexError, match="there are 2 starts, and out holds 2 frames"):
        call(*arguments)


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"staged": None}, ValueError, "host memory cannot be decoded on a device"),
    ({"staged": aligned(80)[8:72]}, ValueError, r"staged uint8\[64\] is not uint8\[n\] that starts at a multiple of 16"),
    ({"staged": aligned(70)}, ValueError, r"staged uint8\[70\]"),
    ({"staged": aligned(64).view("i1")}, ValueError, r"staged int8\[64\]"),
    ({"staged": aligned(128)[::2]}, ValueError, r"staged uint8\[64\]"),
    ({"starts": np.zeros((2, 3), "i4")}, TypeError, "starts are int32"),
    ({"starts": np.zeros((2, 2), "i8")}, ValueError, r"starts have shape \[2, 2\]; expected \[frames, parts\] with 3 to 300"),
    ({"starts": np.zeros((2, 301), "i8")}, ValueError, r"starts have shape \[2, 301\]"),
    ({"starts": np.zeros(6, "i8")}, ValueError, r"starts have shape \[6\]"),
    ({"out": np.zeros((2, 35), "f8")}, TypeError, "out is float64; expected int64 and float32"),
    ({"out": np.zeros((2, 36), "f4")}, ValueError, r"out has shape \[2, 36\]; expected \[depth, 35\]"),
    ({"out": np.zeros((2, 70), "f4")[:, ::2]}, ValueError, "expected .* in C order"),
])
def test_buffers_of_another_form_are_refused(engine: CudaEngine, change: dict, error: type[Exception], message: str) -> None:
    buffers = {"staged": aligned(64), "starts": np.zeros((2, 3), "i8"), "out": np.zeros((2, 35), "f4")} | change
    with pytest.raises(error, match=message):
        engine.decoder(PLAIN, PLACEMENTS, 35, "f4").bind(**buffers)


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"encoding": Encoding("rle", np.dtype("u1"), 1, 1)}, ValueError, "encoding 'rle' is unknown"),
    ({"frame_pixels": 34}, ValueError, "placement 1 reaches outside of the frame of 34 pixels"),
    ({"dtype": "u2", "dark": np.zeros(35)}, TypeError, "corrections need a real or complex dtype; uint16"),
    ({"gain": np.zeros(34)}, ValueError, "gain has 34 pixels; expected 35"),
    ({"gain": np.zeros(35, "u2")}, TypeError, "gain is uint16"),
    ({"dtype": "U3"}, TypeError, "cannot be decoded"),
])
def test_a_decoder_that_makes_no_sense_is_refused(engine: CudaEngine, change: dict, error: type[Exception], message: str) -> None:
    arguments = {"encoding": PLAIN, "placements": PLACEMENTS, "frame_pixels": 35, "dtype": "f4"} | change
    with pytest.raises(error, match=message):
        engine.decoder(**arguments)


def test_repairs_outside_of_the_frame_are_refused(engine: CudaEngine) -> None:
    table = RepairTable(np.array([3]), np.array([0, 1]), np.array([35]))
    with pytest.raises(ValueError, match="a neighbour lies outside of the frame of 35 pixels"):
        engine.repair(np.zeros((2, 35), "f4"), table)
    with pytest.raises(TypeError, match="repair of uint16"):
        engine.repair(np.zeros((2, 35), "u2"), table)


def test_nothing_to_repair_launches_nothing(engine: CudaEngine) -> None:
    none = RepairTable(np.zeros(0, "i8"), np.zeros(1, "i8"), np.zeros(0, "i8"))
    engine.repair(np.zeros((2, 35), "f4"), none)
    engine.repair(np.zeros((0, 35), "f4"), RepairTable(np.array([3]), np.array([0, 1]), np.array([4])))


def test_maps_are_kept_as_float32_where_that_loses_nothing() -> None:
    asked = []

    class Recording(NoCompiler):
        def kernel(self, source: str, expression: str):
            asked.append(expression)
            return super().kernel(source, expression)

    engine = CudaEngine(runtime=Recording())
    exact, inexact = np.arange(35.0), np.arange(35.0) / 3
    for dark, gain in ((exact, None), (None, inexact), (exact, inexact), (exact, exact.astype("f4"))):
        engine.decoder(PLAIN, PLACEMENTS, 35, "f4", dark=dark, gain=gain)
    assert [e.split(", ", 2)[2] for e in asked] == ["f32, 1>", "f64, 2>", "f64, 3>", "f32, 3>"]


def test_a_kernel_is_compiled_once_an_engine() -> None:
    asked = []

    class Recording(NoCompiler):
        def kernel(self, source: str, expression: str):
            asked.append(expression)
            return super().kernel(source, expression)

    engine = CudaEngine(runtime=Recording())
    for dtype in ("f4", "u2", "f4"):
        engine.decoder(PLAIN, PLACEMENTS, 35, dtype)
    assert asked == ["decode<plain<u16>, f32, f32, 0>", "decode<plain<u16>, u16, f32, 0>"]


def test_importing_the_engine_does_not_import_cupy() -> None:
    code = "import gpuio.kernels, sys; sys.exit(any(m.split('.')[0] in ('cupy', 'numba') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
