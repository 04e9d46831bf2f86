"""Decoding on the CPU: how much of the rate at which memory can be copied is left, one thread?

Every encoding to its native dtype, to float32, and to float32 with dark and gain. Frames come from memory and go into one
tile that is used again, as in the stream, so this is the loop and nothing else. ``python -m benchmarks.bench_decode``
prints the table; "of copy" compares packed bytes with `numpy.copyto` of as many into the tile, taken in turn.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks import quick
from benchmarks.measure import interleaved, record, show, words
from gpuio.cpu_fallback import CpuEngine
from gpuio.layout import Encoding, Piece, placement_table, plain_pieces

SOURCE_BYTES = 32 << 20
TILE_BYTES = 512 << 10
engine = CpuEngine()
copy_tile = engine.empty((TILE_BYTES,), "u1")


@dataclass(frozen=True)
class Scene:
    """One encoding in a layout as a detector has it."""

    encoding: Encoding
    pieces: tuple[Piece, ...]
    frame_pixels: int
    frame_bytes: int


def single(name: str, dtype: str, group_bytes: int, group_pixels: int, planes: int = 1) -> Scene:
    """One chip of 256 x 256."""
    row = 256 // group_pixels * group_bytes
    encoding = Encoding(name, np.dtype(dtype), group_bytes, group_pixels, 256 * row if planes > 1 else 0)
    return Scene(encoding, plain_pieces((256, 256), row), 65536, planes * 256 * row)


def quad(name: str, dtype: str, group_pixels: int) -> Scene:
    """Four chips, the bottom ones rotated (Merlin 2x2 RAW)."""
    block = 256 // group_pixels * 8
    top = Piece(src=2 * block, pos=256, pixels=256, rows=256, row_src=4 * block, row_pos=512, repeats=2, rep_src=block, rep_pos=-256)
    bottom = replace(top, src=0, pos=512 * 512 - 1, row_pos=-512, reversed=True)
    return Scene(Encoding(name, np.dtype(dtype), 8, group_pixels), (top, bottom), 512 * 512, 1024 * block)


def sector() -> Scene:
    """One sector of a K2 IS frame: 32 blocks of 16 columns."""
    upper = Piece(src=40, pos=240, pixels=16, rows=930, row_src=24, row_pos=256, repeats=16, rep_src=22360, rep_pos=-16)
    lower = replace(upper, src=40 + 16 * 22360, pos=930 * 256 + 240)
    return Scene(Encoding("uint12_le", np.dtype("u2"), 3, 2), (upper, lower), 1860 * 256, 32 * 22360)


def folded() -> Scene:
    """FRMS6: a stored row holds one of the upper and one of the lower half."""
    upper = Piece(src=0, pos=0, pixels=264, rows=264, row_src=1056, row_pos=264)
    lower = replace(upper, src=528, pos=2 * 264 * 264 - 1, row_pos=-264, reversed=True)
    return Scene(Encoding("plain", np.dtype("u2"), 2, 1), (upper, lower), 2 * 264 * 264, 264 * 1056)


SCENES = {
    "u8": single("plain", "u1", 1, 1),
    "u16": single("plain", "u2", 2, 1),
    "u16 big-endian": single("swap", "u2", 2, 1),
    "4 bit": single("uint4_le", "u1", 1, 2),
    "f32 big-endian": single("swap", "f4", 4, 1),
    "R1": single("mib_r1", "u1", 8, 64),
    "R6": single("mib_r6", "u1", 8, 8),
    "R12": single("mib_r12", "u2", 8, 4),
    "R24": single("mib_r24", "u4", 8, 4, planes=2),
    "R1 quad": quad("mib_r1", "u1", 64),
    "R6 quad": quad("mib_r6", "u1", 8),
    "R12 quad": quad("mib_r12", "u2", 4),
    "K2IS sector": sector(),
    "FRMS6 folded": folded(),
}


TARGETS = ("native", "f4", "f4 corrected")


def decoding(scene: Scene, target: str, source_bytes: int) -> tuple[Callable[[], None], int]:
    """A call that decodes all frames of so many bytes, and how many there are."""
    rng = np.random.default_rng(1)
    dtype = scene.encoding.dtype if target == "native" else np.dtype("f4")
    dark, gain = ((rng.normal(100, 30, scene.frame_pixels).astype("f4"), rng.normal(1, 0.1, scene.frame_pixels).astype("f4"))
                  if "corrected" in target else (None, None))
    frames = source_bytes // scene.frame_bytes
    depth = max(1, TILE_BYTES // (scene.frame_pixels * dtype.itemsize))
    starts = np.arange(frames, dtype=np.int64)[:, None] * scene.frame_bytes
    tile = engine.empty((depth, scene.frame_pixels), dtype)
    decoder = engine.decoder(scene.encoding, placement_table(scene.pieces), scene.frame_pixels, dtype, dark=dark, gain=gain)
    decode = decoder.bind(packed(source_bytes), starts, tile)

    def decode_all() -> None:
        for first in range(0, frames, depth):
            decode(first, min(depth, frames - first))

    return decode_all, frames


@functools.cache
def packed(source_bytes: int) -> np.ndarray:
    """Random bytes: the loop has no branch that depends on them."""
    staged = engine.staging(source_bytes).host
    staged[:] = np.random.default_rng(1).integers(0, 256, source_bytes, dtype=np.uint8)
    return staged


def copy_all(source: np.ndarray) -> None:
    """What memory can do: the same bytes into a tile."""
    for first in range(0, len(source), TILE_BYTES):
        np.copyto(copy_tile, source[first:first + TILE_BYTES])


def measure(rounds: int = 9, source_bytes: int = SOURCE_BYTES, names: Collection[str] = ()) -> list[dict[str, object]]:
    """A row an encoding; all of them, or those named. GB of packed bytes per second of CPU time."""
    rows: list[dict[str, object]] = []
    for name, scene in SCENES.items():
        if names and name not in names:
            continue
        runs = {target: decoding(scene, target, source_bytes) for target in TARGETS}
        copy = functools.partial(copy_all, packed(source_bytes))
        times = interleaved({"copy": copy, **{target: run for target, (run, _) in runs.items()}}, rounds)
        copied = source_bytes / times["copy"].cpu / 1e9
        row: dict[str, object] = {"packed GB/s": name}
        for target, (_, frames) in runs.items():
            rate = frames * scene.frame_bytes / times[target].cpu / 1e9
            row |= {target: rate, f"of copy, {target}": rate / copied}
        rows.append({**row, "copy": copied})
    return rows


def test_decode(benchmark: Any) -> None:
    """Recorded as extra_info."""
    record(benchmark, lambda: measure(quick.ROUNDS, quick.BYTES), "packed GB/s", [f"of copy, {target}" for target in TARGETS])


if __name__ == "__main__":
    show(measure(names=words()))
