"""How the CPU's loop walks: repeats of single steps, few at a time. The pixels stay the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuio import cpu_fallback
from gpuio.cpu_fallback import CpuEngine, _driver, _table
from gpuio.cpu_fallback._driver import CORRECTED_TOGETHER
from gpuio.cpu_fallback._table import AHEAD, AHEAD_STEP, STREAMS, plan_walk
from gpuio.layout import SKIPPED, Encoding, Piece, placement_table
from tests.decode.cases import pack_uint12_le
from tests.decode.memory import before_unreadable_page

UINT12 = Encoding("uint12_le", np.dtype("u2"), 3, 2)


def blocks(repeats: int, rows: int, pixels: int = 16) -> tuple[Piece, ...]:
    """Blocks from right to left, two halves, 7 bytes between blocks."""
    size, width = pixels // 2 * 3 * rows + 7, repeats * pixels
    common = {"pixels": pixels, "rows": rows, "row_src": pixels // 2 * 3, "row_pos": width, "rep_src": size, "rep_pos": -pixels}
    return tuple(Piece(half * repeats * size, half * rows * width + width - pixels, repeats=repeats, **common) for half in (0, 1))


@pytest.mark.parametrize(("repeats", "entries", "together"), [(16, 8, 4), (8, 4, 4), (4, 2, 4), (5, 2, 5), (6, 2, 6), (1, 2, 1)])
def test_single_steps_side_by_side_are_walked_four_at_a_time(repeats: int, entries: int, together: int) -> None:
    walk = plan_walk(placement_table(blocks(repeats, 7)), UINT12, 16, 0)
    assert STREAMS == 4
    assert len(walk.table) == entries
    assert walk.table[:, 2].tolist() == [together] * entries
    assert (walk.known_pixels, walk.known_repeats, walk.ahead) == ((16, together, AHEAD_STEP) if together > 1 else (0, 0, 0))


def test_longer_runs_and_cut_ones_stay_together() -> None:
    assert len(plan_walk(placement_table(blocks(8, 7, pixels=32)), UINT12, 16, 0).table) == 2
    cut = placement_table(blocks(8, 7))
    cut[:, 8], cut[:, 9] = 15, 1
    assert len(plan_walk(cut, UINT12, 16, 0).table) == 2


def packed(repeats: int, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three frames of `blocks`; their bytes, with others before and between; where each starts."""
    rng = np.random.default_rng(repeats)
    frames = rng.integers(0, 4096, (3, 2 * rows, repeats * 16)).astype("u2")
    staged, starts = bytearray(rng.bytes(5)), []
    for frame in frames:
        starts.append([len(staged)])
        for half in (frame[:rows], frame[rows:]):
            for k in reversed(range(repeats)):
                staged += pack_uint12_le(np.ascontiguousarray(half[:, 16 * k:16 * k + 16]).ravel())[0].tobytes() + rng.bytes(7)
    return frames.reshape(3, -1), np.frombuffer(bytes(staged), "u1"), np.array(starts)


@pytest.mark.parametrize("repeats", [1, 4, 5, 8, 12, 16])
@pytest.mark.parametrize("rows", [1, 13])
def test_pixels_are_those_before_packing(repeats: int, rows: int) -> None:
    frames, staged, starts = packed(repeats, rows)
    for dtype in ("u2", "f4"):
        out = np.full(frames.shape, 9, dtype)
        CpuEngine().decoder(UINT12, placement_table(blocks(repeats, rows)), frames.shape[1], dtype).bind(staged, starts, out)(0, 3)
        np.testing.assert_array_equal(out, frames)


@pytest.mark.parametrize("dtype", ["u2", "f4", "f4 dark gain"])
@pytest.mark.parametrize("shift", [0, 8])
@pytest.mark.parametrize(("repeats", "rows", "fits"), [(4, 13, True), (16, 2, True), (1, 4, False)])
def test_large_frames_are_stored_past_the_cache_where_they_begin_at_its_lines(
        monkeypatch: pytest.MonkeyPatch, dtype: str, shift: int, repeats: int, rows: int, fits: bool) -> None:
    chosen: list[bool] = []
    compile_variant = _driver.compile_variant

    def spy(*args: Any, past_cache: bool) -> Any:
        chosen.append(past_cache)
        return compile_variant(*args, past_cache=past_cache)

    monkeypatch.setattr(cpu_fallback, "CACHED_FRAME", 0)
    monkeypatch.setattr(_driver, "compile_variant", spy)
    frames, staged, starts = packed(repeats, rows)
    rng, pixels = np.random.default_rng(3), frames.shape[1]
    target, *words = dtype.split()
    maps = {word: rng.normal(3, 1, pixels).astype("f4") for word in words}
    room = np.full(3 * pixels * np.dtype(target).itemsize + 64, 9, "u1")
    begin = -room.ctypes.data % 64 + shift
    out = room[begin:begin + room.size - 64].view(target).reshape(3, pixels)
    CpuEngine().decoder(UINT12, placement_table(blocks(repeats, rows)), pixels, target, **maps).bind(staged, starts, out)(0, 3)
    expected = frames.astype("f8") - maps.get("dark", 0)
    if "gain" in maps:
        expected *= maps["gain"]
    np.testing.assert_array_equal(out, expected.astype(target))
    assert chosen[-1] is (fits and shift == 0)


def shared_rows(height: int, widths: tuple[int, ...], gap: int = 3) -> tuple[tuple[Piece, ...], int, int]:
    """Every stored row holds a run for each piece, of pixels that end up in a part of the frame of its own; every other one is reversed."""
    row = 2 * sum(widths) + gap
    pieces, src, pos = [], 0, 0
    for number, width in enumerate(widths):
        flip = number % 2
        pieces.append(Piece(src, pos + (width - 1) * flip, width, rows=height, row_src=row, row_pos=width, reversed=bool(flip)))
        src, pos = src + 2 * width, pos + height * width
    return tuple(pieces[::-1]), height * row, pos


@pytest.mark.parametrize(("widths", "stripe"), [((264, 264), 1), ((17, 19), 6), ((3, 5, 130), 1), ((1, 2), 11)])
def test_rows_that_entries_share_are_walked_in_stripes_front_to_back(widths: tuple[int, ...], stripe: int) -> None:
    pieces, _, _ = shared_rows(11, widths)
    walk = plan_walk(placement_table(pieces), Encoding.of("u2"), 16, 0)
    assert (walk.stripe, walk.band, walk.ahead) == (stripe, 11, AHEAD)
    assert walk.table[:, 0].tolist() == sorted(piece.src for piece in pieces)
    alone = plan_walk(placement_table(pieces[:1]), Encoding.of("u2"), 16, 0)
    assert (alone.stripe, alone.ahead) == (alone.band, 0)


@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize("widths", [(264, 264), (17, 19), (3, 5, 130), (1, 2)])
def test_pixels_of_shared_rows_come_to_their_places(widths: tuple[int, ...], maps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where bands, of large maps, cut stripes."""
    rng = np.random.default_rng(len(widths))
    pieces, frame_bytes, pixels = shared_rows(11, widths)
    staged = rng.integers(0, 256, 3 * (frame_bytes + 5), dtype=np.uint8)
    starts = np.array([[1], [frame_bytes + 9], [2 * frame_bytes + 10]])
    expected = np.zeros((3, pixels), "u2")
    for piece in pieces:
        for row in range(11):
            for k in range(piece.pixels):
                byte = starts[:, 0] + piece.src + row * piece.row_src + 2 * k
                to = piece.pos + row * piece.row_pos + (-k if piece.reversed else k)
                expected[:, to] = staged[byte] + 256 * staged[byte + 1].astype("u2")
    out = np.full((3, pixels), 9, "f4")
    dark, gain = (rng.normal(100, 30, pixels).astype("f4"), rng.normal(1, 0.1, pixels).astype("f4")) if maps else (None, None)
    if maps:
        monkeypatch.setattr(_table, "CACHED_MAPS", 0)
        monkeypatch.setattr(_table, "BAND_PIXELS", 4 * max(widths))
    CpuEngine().decoder(Encoding.of("u2"), placement_table(pieces), pixels, "f4", dark=dark, gain=gain).bind(staged, starts, out)(0, 3)
    corrected = expected.astype("f8") if not maps else (expected.astype("f8") - dark.astype("f8")) * gain.astype("f8")
    np.testing.assert_array_equal(out, corrected.astype("f4"))


@pytest.mark.parametrize(("widths", "skipped", "halves"), [
    ((264, 264), 0, True), ((5, 40), 0, True), ((24, 24), 0, False), ((264, 264), 1, False), ((256, 256), 0, False),
    ((260, 268), 0, False)])
def test_rows_of_some_steps_and_a_half_are_told_apart(widths: tuple[int, ...], skipped: int, halves: bool) -> None:
    placed = placement_table(shared_rows(11, widths)[0])
    placed[:, SKIPPED] = skipped
    assert plan_walk(placed, Encoding.of("u2"), 16, 0).halves is halves


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4", "f8", "f4 dark", "f8 gain", "f4 dark gain"])
@pytest.mark.parametrize("widths", [(264, 264), (40, 264), (40, 21, 5), (72, 256, 56, 9)])
@pytest.mark.parametrize("shift", [0, 8, 32])
def test_rests_of_half_a_step_come_first_or_last(widths: tuple[int, ...], dtype: str, shift: int) -> None:
    """At any address of the tile; nothing is written around it, and nothing read behind the last frame."""
    rng = np.random.default_rng(shift)
    pieces, frame_bytes, pixels = shared_rows(5, widths)
    frames, count = [], 3
    staged, starts = bytearray(rng.bytes(3)), []
    for _ in range(count):
        starts.append([len(staged)])
        rows = [rng.integers(0, 65536, (5, width)).astype("<u2") for width in widths]
        staged += b"".join(b"".join(run[y].tobytes() for run in rows) + rng.bytes(3) for y in range(5)) + rng.bytes(7)
        frames.append(np.concatenate([(run[:, ::-1] if number % 2 else run).ravel() for number, run in enumerate(rows)]))
    stored = np.stack(frames)
    target, *words = dtype.split()
    maps = {word: rng.normal(3, 1, pixels).astype("f4") for word in words}
    size = count * pixels * np.dtype(target).itemsize
    room = rng.integers(0, 256, size + 256, dtype=np.uint8)
    before, begin = room.copy(), -room.ctypes.data % 64 + shift
    out = room[begin:begin + size].view(target).reshape(count, pixels)
    with before_unreadable_page(np.frombuffer(bytes(staged[:starts[-1][0] + frame_bytes - 3]), "u1")) as packed_bytes:
        CpuEngine().decoder(Encoding.of("u2"), placement_table(pieces), pixels, target, **maps).bind(
            packed_bytes, np.array(starts), out)(0, count)
    corrected = (stored.astype("f8") - maps.get("dark", np.float32(0)).astype("f8")) * maps.get("gain", np.float32(1)).astype("f8")
    np.testing.assert_array_equal(out, corrected.astype(target) if maps else stored.astype(target))
    np.testing.assert_array_equal(np.delete(room, range(begin, begin + size)), np.delete(before, range(begin, begin + size)))


@pytest.mark.parametrize("source", ["u1", "i2", "f4"])
def test_maps_kept_in_float64_give_the_same_bits(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    pixels, frames = 7 * 83, 5
    values = rng.integers(0, 256, (frames, pixels * np.dtype(source).itemsize), dtype=np.uint8).view(source)
    if source == "f4":
        values = rng.normal(0, 1000, values.shape).astype("f4")
    dark, gain = rng.gamma(4, 25, pixels).astype("f4"), rng.normal(1, 0.1, pixels).astype("f4")
    found = []
    for limit in (0, 1 << 20):
        monkeypatch.setattr("gpuio.cpu_fallback.WIDE_MAPS", limit)
        out = np.zeros((frames, pixels), "f4")
        decoder = CpuEngine().decoder(Encoding.of(source), placement_table([Piece(0, 0, pixels)]), pixels, "f4", dark=dark, gain=gain)
        decoder.bind(values.view(np.uint8).ravel(), np.arange(frames)[:, None] * values.strides[0], out)(0, frames)
        found.append(out)
    expected = ((values.astype("f4").astype("f8") - dark.astype("f8")) * gain.astype("f8")).astype("f4")
    for out in found:
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("maps", ["d", "dg"])
@pytest.mark.parametrize("count", [1, CORRECTED_TOGETHER, 2 * CORRECTED_TOGETHER + 3])
def test_frames_that_are_corrected_together_come_from_anywhere(count: int, maps: str) -> None:
    """Two parts, with starts in no order and further ones that nothing is taken from; runs of whole steps, a rest, and a short one."""
    rng = np.random.default_rng(count)
    widths, parts = (37, 5), 3
    pieces = tuple(Piece(3 * part, 37 * part, width, part=part) for part, width in enumerate(widths))
    staged = rng.integers(0, 256, 8192, dtype=np.uint8)
    starts = rng.integers(0, len(staged) - 100, (count + 2, parts))
    stored = np.stack([np.concatenate([staged[start[part] + 3 * part:][:2 * width].view("<u2") for part, width in enumerate(widths)])
                       for start in starts])
    dark, gain = rng.normal(1000, 300, 42).astype("f4"), rng.normal(1, 0.1, 42).astype("f4")
    expected = stored.astype("f8") - dark
    if "g" in maps:
        expected *= gain
    out = np.full((count + 4, 42), 9, "f4")
    decoder = CpuEngine().decoder(Encoding.of("u2"), placement_table(pieces), 42, "f4", dark=dark, gain=gain if "g" in maps else None)
    decoder.bind(staged, starts, out)(1, count, 3)
    np.testing.assert_array_equal(out[3:3 + count], expected[1:1 + count].astype("f4"))
    assert (out[:3] == 9).all()
    assert (out[3 + count:] == 9).all()
