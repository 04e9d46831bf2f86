"""From a layout to a launch: source text, placement table, grid, and the record that is a kernel's only argument.

Pure NumPy: what is computed here is checked without a device. The structures mirror those of ``driver.cuh`` and
``corrections.cu`` byte for byte.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

from gpuio.layout import PART, PIXELS, POS, REP_POS, REP_SRC, REPEATS, REVERSED, ROW_POS, ROW_SRC, ROWS, SKIPPED, SRC, Encoding

Dim3 = tuple[int, int, int]

#: Threads of a block.
BLOCK = 256
#: Entries and starts that fit the 4 KiB of a kernel's arguments, as in driver.cuh.
ENTRIES, STARTS = 16, 300
#: Bytes that input buffers are aligned to and readable up to.
VECTOR = 16
#: A thread makes its chunk in up to this many frames, so that finding the place and loading the maps is paid once ...
FRAMES_PER_THREAD = 8
#: ... as long as so many blocks are left: some four waves on the largest devices.
ENOUGH_BLOCKS = 4096

ENTRY = np.dtype([
    ("src", "i8"), ("row_src", "i8"), ("rep_src", "i8"), ("low", "i8"), ("row_low", "i8"), ("rep_low", "i8"),
    ("repeats_inverse", "u8"), ("chunks_inverse", "u8"), ("pixels", "i4"), ("skipped", "i4"), ("repeats", "i4"), ("chunks", "i4"),
    ("work", "i4"), ("reversed", "i4"), ("part", "i4"), ("unused", "i4"),
])
CALL = np.dtype([
    ("staged", "u8"), ("out", "u8"), ("dark", "u8"), ("gain", "u8"), ("lead", "i8"), ("frame_pixels", "i8"), ("param", "i8"),
    ("frames", "i4"), ("parts", "i4"), ("entries", ENTRY, ENTRIES), ("starts", "i8", STARTS),
])
REPAIR_CALL = np.dtype([
    ("out", "u8"), ("pixels", "u8"), ("starts", "u8"), ("neighbours", "u8"),
    ("n", "i8"), ("frames", "i8"), ("frame_pixels", "i8"), ("items", "i8"),
])

#: dtypes that kernels read and write, and their names in CUDA.
C_TYPES = {np.dtype(d): c for d, c in {
    "u1": "u8", "u2": "u16", "u4": "u32", "u8": "u64", "i1": "i8", "i2": "i16", "i4": "i32", "i8": "i64", "f4": "f32", "f8": "f64",
}.items()}


@dataclass(frozen=True, slots=True)
class Packing:
    """What the host must know of an encoding's kernel: bits of a field, and the group as `gpuio.layout.Encoding` has it."""

    bits: int
    group_bytes: int
    group_pixels: int


#: Encodings whose pixels have one dtype. The others, `plain` and `swap`, are templates by dtype.
PACKED = {
    "mib_r1": Packing(1, 8, 64),
    "mib_r6": Packing(8, 8, 8),
    "mib_r12": Packing(16, 8, 4),
    "mib_r24": Packing(16, 8, 4),
    "uint12_le": Packing(12, 3, 2),
    "uint4_le": Packing(4, 1, 2),
}
ENCODINGS = frozenset({"plain", "swap", *PACKED})


@dataclass(frozen=True, slots=True)
class Variant:
    """One instantiation of the decoding kernel.

    Attributes
    ----------
    file
        Name of the ``.cu`` file without suffix.
    expression
        The kernel as CUDA names it.
    lanes
        Items of a chunk.
    """

    file: str
    expression: str
    lanes: int


def variant(encoding: Encoding, dtype: np.dtype, *, dark: bool = False, gain: bool = False, map_dtype: np.dtype | None = None) -> Variant:
    """The kernel that decodes `encoding` into `dtype` with the maps named.

    Raises
    ------
    ValueError
        No kernel does that.
    """
    packing = PACKED.get(encoding.name)
    if encoding.name not in ENCODINGS:
        raise ValueError(f"encoding {encoding.name!r} is unknown; expected one of {', '.join(sorted(ENCODINGS))}")
    if packing is None:
        if encoding.dtype not in C_TYPES:
            raise ValueError(f"{encoding.name} pixels of dtype {encoding.dtype} have no kernel; expected one of {_names(C_TYPES)}")
        packing = Packing(8 * encoding.dtype.itemsize, encoding.dtype.itemsize, 1)
    if (encoding.group_bytes, encoding.group_pixels) != (packing.group_bytes, packing.group_pixels):
        raise ValueError(f"{encoding.name}: {encoding.group_bytes} bytes for {encoding.group_pixels} pixels; "
                         f"expected {packing.group_bytes} for {packing.group_pixels}")
    if dtype not in C_TYPES:
        raise ValueError(f"output dtype {dtype} has no kernel; expected one of {_names(C_TYPES)}")
    file = encoding.name
    if file == "swap" and encoding.dtype.itemsize == 1:
        file = "plain"
    template = file if encoding.name in PACKED else f"{file}<{C_TYPES[encoding.dtype]}>"
    map_type = C_TYPES[map_dtype] if map_dtype is not None else "f32"
    lanes = min(VECTOR // dtype.itemsize, 32 * 8 // packing.bits)
    return Variant(file, f"decode<{template}, {C_TYPES[dtype]}, {map_type}, {dark + 2 * gain}>", lanes)


def _names(dtypes: dict[np.dtype, str]) -> str:
    return ", ".join(d.name for d in dtypes)


@cache
def source(file: str) -> str:
    """Text of ``<file>.cu`` with what it includes: CuPy's cache knows a kernel by its text alone, not by its headers."""
    folder = resources.files("gpuio.kernels")
    text = (folder / f"{file}.cu").read_text(encoding="utf-8")
    return re.sub(r'^#include "(.+)"$', lambda m: (folder / m[1]).read_text(encoding="utf-8"), text, flags=re.MULTILINE)


def entries(table: np.ndarray, encoding: Encoding, lanes: int, slack: int) -> np.ndarray:
    """A checked placement table as `ENTRY` records, runs joined where nothing lies between them.

    Parameters
    ----------
    slack
        Items by which runs may begin past a multiple of `lanes`: 0 where all begin at one, else ``lanes - 1``.

    Raises
    ------
    ValueError
        A placement has more chunks than a launch can count.
    """
    t = _joined(table, encoding)
    rows, repeats, pixels = t[:, ROWS], t[:, REPEATS], t[:, PIXELS]
    chunks = (pixels + (lanes - 1 + slack)) // lanes
    work = rows.astype(float) * repeats * chunks
    if len(t) and (work.max() >= 2.0 ** 31 or (pixels + t[:, SKIPPED]).max() >= (1 << 31) - 64):
        raise ValueError(f"a placement of {int(pixels.max())} pixels, {int(repeats.max())} repeats and {int(rows.max())} rows "
                         "is too large for one launch")
    result = np.zeros(len(t), dtype=ENTRY)
    result["src"], result["row_src"], result["rep_src"] = t[:, SRC], t[:, ROW_SRC], t[:, REP_SRC]
    result["low"] = t[:, POS] - np.where(t[:, REVERSED] != 0, pixels - 1, 0)
    result["row_low"], result["rep_low"] = t[:, ROW_POS], t[:, REP_POS]
    result["repeats_inverse"], result["chunks_inverse"] = _inverse(repeats), _inverse(chunks)
    result["pixels"], result["skipped"], result["repeats"], result["chunks"] = pixels, t[:, SKIPPED], repeats, chunks
    result["work"], result["reversed"], result["part"] = rows * repeats * chunks, t[:, REVERSED] != 0, t[:, PART]
    return result


def begins_whole(table: np.ndarray, frame_pixels: int, lanes: int) -> bool:
    """Whether every run of every frame begins at a multiple of `lanes` items, if the first frame does."""
    low = table[:, POS] - np.where(table[:, REVERSED] != 0, table[:, PIXELS] - 1, 0)
    steps = np.concatenate((low, np.where(table[:, ROWS] > 1, table[:, ROW_POS], 0), np.where(table[:, REPEATS] > 1, table[:, REP_POS], 0)))
    return frame_pixels % lanes == 0 and not (steps % lanes).any()


def _joined(table: np.ndarray, encoding: Encoding) -> np.ndarray:
    """`table` with repeats, then rows, made one long run where each begins where the one before ends, in bytes and in pixels."""
    t = table.copy()
    way = np.where(t[:, REVERSED] != 0, -1, 1)
    for count, src, pos, other in ((REPEATS, REP_SRC, REP_POS, None), (ROWS, ROW_SRC, ROW_POS, REPEATS)):
        joins = ((t[:, PIXELS] % encoding.group_pixels == 0) & (t[:, pos] == way * t[:, PIXELS])
                 & (t[:, src] == t[:, PIXELS] // encoding.group_pixels * encoding.group_bytes)
                 & (t[:, PIXELS].astype(float) * t[:, count] < 2.0 ** 30))
        if other is not None:
            joins &= t[:, other] == 1
        t[joins, PIXELS] *= t[joins, count]
        t[joins, count] = 1
    return t


def _inverse(divisors: np.ndarray) -> np.ndarray:
    """What driver.cuh's quotient() multiplies with."""
    return np.uint64(1 << 63) // divisors.astype(np.uint64) + np.uint64(1)


def geometry(work: int, n_entries: int, frames: int, frame_pixels: int, lanes: int) -> tuple[Dim3, Dim3]:
    """Grid and block for `frames` frames of `n_entries` entries, none with more than `work` chunks.

    A thread that goes on to further frames keeps its lanes, so the step between them must be a multiple of `lanes` items.
    """
    wide = min(BLOCK, _power_of_two(work))
    tall = min(BLOCK // wide, _power_of_two(frames))
    across, passes = -(-work // wide), -(-frames // tall)
    each = max(1, min(FRAMES_PER_THREAD, across * n_entries * passes // ENOUGH_BLOCKS))
    deep = -(-passes // each)
    if deep < passes:
        step = lanes // math.gcd(lanes, frame_pixels * tall)
        deep = min(passes, -(-deep // step) * step)
    return (across, n_entries, deep), (wide, tall, 1)


def repair_geometry(pixels: int, frames: int) -> tuple[Dim3, Dim3]:
    """Grid and block for `pixels` repairs in each of `frames` frames; threads go on to further frames where there are more."""
    wide = min(BLOCK, _power_of_two(pixels))
    tall = min(BLOCK // wide, _power_of_two(frames))
    return (-(-pixels // wide), min(-(-frames // tall), 65535), 1), (wide, tall, 1)


def _power_of_two(n: int) -> int:
    """The smallest that is not below `n`."""
    return 1 << max(0, n - 1).bit_length()
