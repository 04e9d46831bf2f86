"""Decodes some rows of the table with kernels built by address and undefined-behaviour sanitizers.

Run by ``tests/decode/test_cuda_on_host.py`` in a process of its own, since the sanitizer's allocator has to be there from
the start. Arrays are of the exact size, so their red zones are the guards.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from gpuio.kernels import CudaEngine
from tests.decode import cases
from tests.decode.cases import ROWS, Case, assert_same, build, maps, reference
from tests.kernels.cuda_on_host import SANITIZERS, host_engine

STORED = {"plain": ("u2",), "swap": ("f8",), "mib_r1": ("u1",), "mib_r24": ("u4",), "uint12_le": ("u2",)}
LAYOUTS = (cases.blocks_side_by_side, cases.cut_columns, cases.every_length, cases.several_parts)
OUTPUTS = (("u1", "none"), ("f4", "both f4"), ("f8", "dark f8"))


def kinds(file: str) -> list[str]:
    """The kernels needed here; the compiler takes its time over each."""
    source = {"plain": "plain<u16>", "swap": "swap<f64>"}.get(file, file)
    return [f"decode<{source}, {kind}>" for kind in ("u8, f32, 0", "f32, f32, 3", "f64, f64, 1")]


def decode(engine: CudaEngine, case: Case, dtype: str, kind: str) -> None:
    to = case.encoding.dtype if dtype == "native" else np.dtype(dtype)
    dark, gain = maps(case, kind)
    packed = np.empty(-(-len(case.staged) // 16) * 16, dtype=np.uint8)
    lead = len(packed) - len(case.staged)
    packed[lead:] = case.staged
    out = np.full((len(case.starts), case.frame_pixels), 77, dtype=to)
    expected = reference(case, to.str, dark, gain, out)
    decoder = engine.decoder(case.encoding, case.placements, case.frame_pixels, to, dark=dark, gain=gain)
    decoder.bind(packed, case.starts + lead, out)(0, len(out))
    assert_same(out, expected, f"{case.id} into {to}, {kind}")


def main(folder: Path) -> None:
    engine, done = host_engine(folder, *SANITIZERS, kinds=kinds), 0
    for row in ROWS:
        for native in STORED.get(row.name, ()):
            for layout in LAYOUTS:
                case = build(row, native, layout, tame=np.dtype(native).kind == "f")
                for dtype, kind in OUTPUTS:
                    decode(engine, case, dtype, kind)
                    done += 1
    print(done)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
