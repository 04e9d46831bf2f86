"""Every kernel compiles for every device that counts, keeps everything in registers, and moves memory in wide pieces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpuio.kernels import _bin, _launch, _scatter, _transpose
from tests.kernels import nvrtc

pytestmark = pytest.mark.skipif(nvrtc.why_not() is not None, reason=str(nvrtc.why_not()))

ARCHITECTURES = (75, 80, 90, 100)       # T4, A100, H100, B200
#: A block has 256 threads, so 64 registers leave room for four of them on a multiprocessor: half of the threads it can hold.
REGISTERS = 64
#: Bits that a kernel loads at once: of a chunk of 16 bytes of output, what it needs for it, but at least a group.
KERNELS: dict[str, dict[str, int]] = {
    "plain": {"plain<u16>, u16, f32, 0": 128, "plain<f32>, f32, f32, 3": 128, "plain<u16>, f32, f32, 3": 64, "plain<u8>, f32, f32, 0": 32,
              "plain<u8>, f64, f64, 3": 32, "plain<u64>, u8, f32, 0": 128, "plain<f64>, f32, f64, 3": 128, "plain<i64>, f32, f64, 2": 128},
    "swap": {"swap<u16>, u16, f32, 0": 128, "swap<u16>, f32, f32, 3": 64, "swap<f64>, f64, f64, 3": 128, "swap<u32>, f32, f64, 3": 128},
    "mib_r1": {"mib_r1, u8, f32, 0": 64, "mib_r1, f32, f32, 3": 64, "mib_r1, f32, f64, 3": 64},
    "mib_r6": {"mib_r6, u8, f32, 0": 128, "mib_r6, f32, f32, 3": 64, "mib_r6, f32, f64, 3": 64},
    "mib_r12": {"mib_r12, u16, f32, 0": 128, "mib_r12, f32, f32, 3": 64, "mib_r12, f32, f64, 3": 64},
    "mib_r24": {"mib_r24, u32, f32, 0": 64, "mib_r24, f32, f32, 3": 64, "mib_r24, f32, f64, 3": 64, "mib_r24, u8, f32, 0": 128},
    "uint12_le": {"uint12_le, u16, f32, 0": 64, "uint12_le, f32, f32, 3": 64, "uint12_le, f32, f64, 3": 64},
    "uint4_le": {"uint4_le, u8, f32, 0": 64, "uint4_le, f32, f32, 3": 32, "uint4_le, f32, f64, 3": 32},
}
#: 16 bytes of output would need more than 32 bytes of input.
NARROW = {"decode<plain<u64>, u8, f32, 0>"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("file", KERNELS)
def test_decoding_stays_in_registers_and_moves_memory_in_wide_pieces(file: str, architecture: int, tmp_path: Path) -> None:
    if architecture not in nvrtc.architectures():
        pytest.skip(f"this NVRTC does not compile for sm_{architecture}")
    expressions = {f"decode<{arguments}>": bits for arguments, bits in KERNELS[file].items()}
    for expression, kernel in nvrtc.compile_kernels(_launch.source(file), list(expressions), architecture, tmp_path).items():
        assert (kernel.stack_bytes, kernel.spill_bytes) == (0, 0), expression
        assert kernel.registers <= REGISTERS, expression
        assert kernel.instructions, "nvdisasm shows the kernel"
        loads, stores = kernel.memory("LDG"), kernel.memory("STG")
        assert not kernel.memory("LDL") and not kernel.memory("STL"), expression
        assert expressions[expression] in loads and min(loads) >= 32, expression
        assert 128 in stores or expression in NARROW, expression


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_repair_stays_in_registers(architecture: int, tmp_path: Path) -> None:
    if architecture not in nvrtc.architectures():
        pytest.skip(f"this NVRTC does not compile for sm_{architecture}")
    kernels = nvrtc.compile_kernels(_launch.source("corrections"), ["repair<f32>", "repair<f64>"], architecture, tmp_path)
    for expression, kernel in kernels.items():
        assert (kernel.stack_bytes, kernel.spill_bytes) == (0, 0) and kernel.registers <= REGISTERS, expression


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_transposing_stays_in_registers_and_moves_one_item_at_a_time(architecture: int, tmp_path: Path) -> None:
    if architecture not in nvrtc.architectures():
        pytest.skip(f"this NVRTC does not compile for sm_{architecture}")
    expressions = {f"transpose<{name}>": 8 * size for size, name in _transpose.ITEMS.items()}
    for expression, kernel in nvrtc.compile_kernels(_launch.source("transpose"), list(expressions), architecture, tmp_path).items():
        assert (kernel.stack_bytes, kernel.spill_bytes) == (0, 0) and kernel.registers <= REGISTERS, expression
        assert not kernel.memory("LDL") and not kernel.memory("STL"), expression
        bits = {expressions[expression]}
        assert kernel.memory("STG") == kernel.memory("STS") == kernel.memory("LDS") == bits, expression
        assert bits <= kernel.memory("LDG") <= bits | {64}, "starts and frames are int64"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_binning_stays_in_registers(architecture: int, tmp_path: Path) -> None:
    if architecture not in nvrtc.architectures():
        pytest.skip(f"this NVRTC does not compile for sm_{architecture}")
    expressions = [_bin.expression(np.dtype(source), np.dtype(target)) for source, target in (("u2", "u4"), ("f4", "f4"), ("i1", "f8"))]
    for expression, kernel in nvrtc.compile_kernels(_launch.source("bin"), expressions, architecture, tmp_path).items():
        assert (kernel.stack_bytes, kernel.spill_bytes) == (0, 0) and kernel.registers <= REGISTERS, expression
        assert not kernel.memory("LDL") and not kernel.memory("STL"), expression


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adding_entries_stays_in_registers(architecture: int, tmp_path: Path) -> None:
    if architecture not in nvrtc.architectures():
        pytest.skip(f"this NVRTC does not compile for sm_{architecture}")
    expressions = [_scatter.expression(np.dtype(pixels), np.dtype(values)) for pixels, values in
                   (("u1", "?"), ("u2", "u1"), ("u4", "u2"), ("u4", "f4"), ("u4", "c16"), ("u8", "i8"))]
    for expression, kernel in nvrtc.compile_kernels(_launch.source("scatter"), expressions, architecture, tmp_path).items():
        assert (kernel.stack_bytes, kernel.spill_bytes) == (0, 0) and kernel.registers <= REGISTERS, expression
        assert not kernel.memory("LDL") and not kernel.memory("STL"), expression


def test_every_kernel_file_is_compiled() -> None:
    folder = Path(_launch.__file__).parent
    others = {"corrections", "transpose", "bin", "scatter", "inflate", "deflate", "filters"}
    assert {p.stem for p in folder.glob("*.cu")} == {*KERNELS, *others}
    assert set(KERNELS) == _launch.ENCODINGS


def test_an_error_in_a_kernel_shows_with_the_compilers_log(tmp_path: Path) -> None:
    with pytest.raises(SyntaxError, match="identifier \"nonsense\" is undefined"):
        nvrtc.compile_kernels("template <class T> __global__ void k(T *p) { *p = nonsense; }", ["k<int>"], 80, tmp_path)
