"""The CPU engine decodes every encoding, layout, dtype and correction as NumPy says, bit for bit.

Compiling is what these tests spend their time on (a second a variant, once; numba keeps them), so the product of all axes
is covered in slices: layouts, conversions, maps. ``GPUIO_EXHAUSTIVE=1`` adds all of it, which takes the better part of an hour.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from gpuio.cpu_fallback import CpuEngine
from gpuio.layout import Encoding, Piece, placement_table
from tests.decode import cases as table
from tests.decode.cases import DTYPES, EXOTIC_DTYPES, LAYOUTS, MAPS, ROWS, Case, Row, assert_same, build, maps, reference
from tests.decode.memory import GuardedOutput, before_unreadable_page

EXHAUSTIVE = bool(os.environ.get("GPUIO_EXHAUSTIVE"))
#: Layouts that meet every path of the loop but the one for blocks, which is compiled separately.
PATHS = tuple(layout for layout in LAYOUTS if layout is not table.blocks_side_by_side)
#: Layouts that share one variant of the loop: neither blocks nor rows that several runs lie in.
SHARED_LOOP = (table.contiguous_rows, table.rows_with_gaps, table.mirrored, table.every_length, table.several_parts, table.single_pixel,
               table.one_pixel_columns)
BY_NAME = {(row.name, dtype): row for row in ROWS for dtype in row.dtypes}
engine = CpuEngine()


def decode_and_compare(case: Case, dtype: str, kind: str = "none") -> None:
    """Decode all frames of a case in two calls, between guards, and compare every element."""
    what = f"{case.id} to {dtype}, maps: {kind}"
    dark, gain = maps(case, kind)
    to = case.encoding.dtype if dtype == "native" else np.dtype(dtype)
    frames = len(case.starts)
    guarded = GuardedOutput(frames, case.frame_pixels, to, np.random.default_rng(len(what)))
    decoder = engine.decoder(case.encoding, case.placements, case.frame_pixels, to, dark=dark, gain=gain)
    with before_unreadable_page(case.staged) as staged:
        decode = decoder.bind(staged, case.starts, guarded.out)
        decode(1, frames - 1, at=1)
        decode(0, 1)
    assert_same(guarded.out, reference(case, dtype, dark, gain, guarded.before), what)
    guarded.check(what)


def all_layouts(row: Row, stored: str, dtype: str, kind: str, layouts: tuple[Callable[..., table.Placed], ...] = LAYOUTS) -> None:
    ran = 0
    for layout in layouts:
        for tame in (False, True) if np.dtype(stored).kind in "fc" else (False,):
            case = build(row, stored, layout, tame=tame)
            if case.suits(dtype):
                decode_and_compare(case, dtype, kind)
                ran += 1
    assert ran >= len(layouts)


@pytest.mark.parametrize("name, stored", list(BY_NAME))
def test_every_encoding_in_every_layout(name: str, stored: str) -> None:
    """Of an encoding's further dtypes, which differ in a load, those that no loop of their own is compiled for."""
    row = BY_NAME[name, stored]
    all_layouts(row, stored, "native", "none", LAYOUTS if EXHAUSTIVE or stored == row.dtypes[0] else SHARED_LOOP)


@pytest.mark.parametrize("kind", ["none", "both f4"])
@pytest.mark.parametrize("name, stored", [(row.name, row.dtypes[0]) for row in ROWS] + [("swap", "i4"), ("swap", "f8"), ("plain", "c16")])
def test_every_encoding_to_float32_and_corrected(name: str, stored: str, kind: str) -> None:
    all_layouts(BY_NAME[name, stored], stored, "f4", kind)


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("stored", table.SOURCES)
def test_every_conversion(stored: str, dtype: str) -> None:
    all_layouts(BY_NAME["plain", stored], stored, dtype, "none", (table.contiguous_rows, table.every_length))


@pytest.mark.parametrize("kind", list(MAPS))
@pytest.mark.parametrize("name, stored, dtype", [("mib_r12", "u2", "f4"), ("swap", "f8", "f8")])
def test_every_set_of_maps(name: str, stored: str, kind: str, dtype: str) -> None:
    all_layouts(BY_NAME[name, stored], stored, dtype, kind, PATHS)


@pytest.mark.parametrize("dtype", EXOTIC_DTYPES)
@pytest.mark.parametrize("name, stored", [("mib_r1", "u1"), ("swap", "c8"), *(("plain", dtype) for dtype in ROWS[0].dtypes)])
def test_every_exotic_dtype(name: str, stored: str, dtype: str) -> None:
    for kind in ("none", "gain f4", "both f8") if np.dtype(dtype).kind in "fc" else ("none",):
        all_layouts(BY_NAME[name, stored], stored, dtype, kind, (table.mirrored, table.every_length, table.several_parts))


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d not in ("native", "f4")])
@pytest.mark.parametrize("name, stored", [("plain", "?"), ("swap", "f2"), ("plain", "c8"), ("swap", "c16")])
def test_exotic_pixels_into_every_dtype(name: str, stored: str, dtype: str) -> None:
    kind = "both f4" if np.dtype(dtype).kind == "f" else "none"
    all_layouts(BY_NAME[name, stored], stored, dtype, kind, (table.mirrored, table.every_length, table.several_parts))


if EXHAUSTIVE:

    @pytest.mark.timeout(0)
    @pytest.mark.parametrize("name, stored", list(BY_NAME))
    def test_the_whole_product(name: str, stored: str) -> None:
        for dtype in (*DTYPES, *EXOTIC_DTYPES):
            real = (np.dtype(stored) if dtype == "native" else np.dtype(dtype)).kind in "fc"
            for kind in MAPS if real else ("none",):
                all_layouts(BY_NAME[name, stored], stored, dtype, kind)


@pytest.mark.parametrize("layout", [table.contiguous_rows, table.rows_with_gaps, table.quad])
@pytest.mark.parametrize("name, stored", [("mib_r12", "u2"), ("plain", "u1")])
def test_frames_whose_maps_do_not_fit_the_cache(name: str, stored: str, layout: Callable[..., table.Placed],
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps are then walked in bands of rows; pixels are the same, with a band that does not divide the frame."""
    from gpuio.cpu_fallback import _table

    monkeypatch.setattr(_table, "CACHED_MAPS", 1000)
    monkeypatch.setattr(_table, "BAND_PIXELS", 192)
    case = build(BY_NAME[name, stored], stored, layout)
    walk = _table.plan_walk(case.placements, case.encoding, 16, 8 * case.frame_pixels)
    assert 0 < walk.band < walk.height, "the case does not need bands"
    decode_and_compare(case, "f4", "both f4")


# ---- worked out by hand ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding, blob, pixels", [
    (Encoding("mib_r1", np.dtype("u1"), 8, 64), "01 00 00 00 00 00 00 80", [int(k in (7, 56)) for k in range(64)]),
    (Encoding("mib_r6", np.dtype("u1"), 8, 8), "00 01 02 03 04 05 06 07", [7, 6, 5, 4, 3, 2, 1, 0]),
    (Encoding("mib_r12", np.dtype("u2"), 8, 4), "00 01 00 02 00 03 0F FF", [4095, 3, 2, 1]),
    (Encoding("mib_r24", np.dtype("u4"), 8, 4, 8), "00 00 00 00 00 00 0A BC 00 00 00 00 00 00 0D EF", [11259375, 0, 0, 0]),
    (Encoding("uint12_le", np.dtype("u2"), 3, 2), "BC FA DE", [2748, 3567]),
    (Encoding("uint4_le", np.dtype("u1"), 1, 2), "21 43 05", [1, 2, 3, 4, 5, 0]),
    (Encoding("swap", np.dtype("i2"), 2, 1), "FF FD 80 00", [-3, -32768]),
    (Encoding("plain", np.dtype("u4"), 4, 1), "2C 01 00 00", [300]),
])
def test_bytes_worked_out_by_hand(encoding: Encoding, blob: str, pixels: list[int]) -> None:
    staged = np.frombuffer(bytes.fromhex(blob), np.uint8)
    out = np.full((1, len(pixels)), 99, encoding.dtype)
    placements = placement_table([Piece(0, 0, len(pixels))])
    engine.decoder(encoding, placements, len(pixels), encoding.dtype).bind(staged, np.zeros((1, 1), np.int64), out)(0, 1)
    assert out.tolist() == [pixels]


def test_words_above_the_counter_depth_carry_over() -> None:
    """R24 words hold 16 bits: high 0xFFFF and low 0xFFFF give (0xFFFF * 4096 + 0xFFFF) mod 2**32."""
    out = np.zeros((1, 4), "u4")
    encoding = Encoding("mib_r24", np.dtype("u4"), 8, 4, 8)
    staged = np.full(16, 255, np.uint8)
    engine.decoder(encoding, placement_table([Piece(0, 0, 4)]), 4, "u4").bind(staged, np.zeros((1, 1), np.int64), out)(0, 1)
    assert out.tolist() == [[(0xFFFF * 4096 + 0xFFFF) % 2**32] * 4]


@pytest.mark.parametrize("quad_pixel, place", [((0, 3, 0), (0, 0)), ((0, 2, 0), (0, 256)), ((0, 1, 0), (511, 255)), ((0, 0, 0), (511, 511)),
                                               ((255, 3, 255), (255, 255)), ((255, 0, 255), (256, 256)), ((10, 1, 20), (501, 235))])
def test_chips_of_a_quad_are_where_the_format_says(quad_pixel: tuple[int, int, int], place: tuple[int, int]) -> None:
    """Stored (row, block, pixel) to detector (y, x), of the worked examples of the 2x2 RAW layout; 6 bits."""
    row, block, pixel = quad_pixel
    staged = np.zeros(256 * 1024, np.uint8)
    staged[row * 1024 + block * 256 + (pixel ^ 7)] = 33
    top = Piece(src=512, pos=256, pixels=256, rows=256, row_src=1024, row_pos=512, repeats=2, rep_src=256, rep_pos=-256)
    placements = placement_table([top, replace(top, src=0, pos=512 * 512 - 1, row_pos=-512, reversed=True)])
    out = np.full((1, 512 * 512), 7, np.uint8)
    encoding = Encoding("mib_r6", np.dtype("u1"), 8, 8)
    engine.decoder(encoding, placements, 512 * 512, "u1").bind(staged, np.zeros((1, 1), np.int64), out)(0, 1)
    expected = np.zeros((512, 512), np.uint8)
    expected[place] = 33
    assert np.array_equal(out.reshape(512, 512), expected)


def test_stored_reals_keep_all_their_bits() -> None:
    """Also the payload of a NaN, which arithmetic would change."""
    bits = np.array([0x7F800001, 0xFFC12345, 0x80000000, 0x00000001, 0x3F800000], np.uint32)
    out = np.zeros((1, 5), np.float32)
    for name, staged in (("plain", bits), ("swap", bits.byteswap())):
        decoder = engine.decoder(Encoding(name, np.dtype("f4"), 4, 1), placement_table([Piece(0, 0, 5)]), 5, "f4")
        decoder.bind(staged.view(np.uint8), np.zeros((1, 1), np.int64), out)(0, 1)
        assert out.view(np.uint32).tolist() == [bits.tolist()]


def test_reals_out_of_an_integers_range_are_defined() -> None:
    """NumPy leaves them open; here they saturate at 32 or 64 bits and wrap from there, and a NaN is 0."""
    values = np.array([np.nan, np.inf, -np.inf, 1e30, -1.0, 70000.0, 3e9], np.float32)
    expected = {"u1": [0, 255, 0, 255, 255, 112, 255], "i4": [0, -1, 0, -1, -1, 70000, 3000000000 - 2**32],
                "u8": [0, 2**64 - 1, 0, 2**64 - 1, 0, 70000, 3000000000]}
    for dtype, wanted in expected.items():
        out = np.full((1, len(values)), 5, dtype)
        decoder = engine.decoder(Encoding.of("f4"), placement_table([Piece(0, 0, len(values))]), len(values), dtype)
        decoder.bind(values.view(np.uint8), np.zeros((1, 1), np.int64), out)(0, 1)
        assert out[0].tolist() == wanted
