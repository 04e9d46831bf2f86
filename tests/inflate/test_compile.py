"""The kernels that inflate compile for every device that counts, stay in registers, and store in wide pieces."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuio.kernels import _launch
from tests.kernels import nvrtc
from tests.kernels.test_compile import ARCHITECTURES

pytestmark = pytest.mark.skipif(nvrtc.why_not() is not None, reason=str(nvrtc.why_not()))

#: 24 warps of a multiprocessor may have 85 registers each; shared memory holds no more of them.
REGISTERS = 80
#: Bits of the stores to memory.
KERNELS = {
    "inflate": {"walk<true>": {32}, "bitshuffle<1, true, true>": {128}, "bitshuffle<2, true, true>": {128},
                "bitshuffle<4, true, true>": {128}, "bitshuffle<0, true, false>": {8, 16, 128}, "bitshuffle<2, false, true>": {128},
                "streams<true>": set(), "streams<false>": set()},
    "deflate": {"deflate": set()},
    "filters": {"move": {128}, "fletcher32": set(), "unshuffle<2>": {128}, "unshuffle<0>": {8}},
}
#: 32 planes of a word each, and what they become.
LARGER = {("bitshuffle<4, true, true>", 100): 96}
#: Of the thread blocks of one warp that deflate has, 32 fit a multiprocessor.
DEFLATE = 64

#: Instructions of a sequence of LZ4 without literals whose match is short: what nearly all time goes to.
SEQUENCE = {75: 85, 80: 75, 90: 75, 100: 80}
#: Instructions of a deflated literal whose code is too long for the table; others take some 40.
LITERAL = {75: 65, 80: 60, 90: 70, 100: 70}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("file", KERNELS)
def test_inflating_stays_in_registers(file: str, architecture: int, tmp_path: Path) -> None:
    if architecture not in nvrtc.architectures():
        pytest.skip(f"this NVRTC does not compile for sm_{architecture}")
    for expression, kernel in nvrtc.compile_kernels(_launch.source(file), list(KERNELS[file]), architecture, tmp_path).items():
        assert (kernel.stack_bytes, kernel.spill_bytes) == (0, 0), expression
        assert kernel.registers <= LARGER.get((expression, architecture), DEFLATE if file == "deflate" else REGISTERS), expression
        assert kernel.instructions, "nvdisasm shows the kernel"
        assert not kernel.memory("LDL") and not kernel.memory("STL"), expression
        if expression == "bitshuffle<2, true, true>":
            assert kernel.shortest_cycle(r"LDS.*U8", r"LDG.*U8") <= SEQUENCE[architecture]
        if expression == "deflate":
            assert kernel.shortest_cycle(r"LDS.*U16", r"LDS.*U16") <= LITERAL[architecture]
        assert kernel.memory("STG") >= KERNELS[file][expression], expression
