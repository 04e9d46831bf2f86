"""Launches as data: structures, joined runs, grids."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuio.inflation import BLOCK_BYTES, RULE_BITS, Rule
from gpuio.kernels import _bin, _inflate, _launch, _scatter, _transpose
from gpuio.layout import Encoding, Piece, placement_table
from tests.kernels.cuda_on_host import FLAGS, HEADER, OTHERS, why_no_compiler

R6 = Encoding("mib_r6", np.dtype("u1"), 8, 8)
R12 = Encoding("mib_r12", np.dtype("u2"), 8, 4)


@pytest.mark.skipif(why_no_compiler() is not None, reason=str(why_no_compiler()))
def test_records_have_the_fields_of_the_kernels_structures_where_these_have_them(tmp_path: Path) -> None:
    structures = {"plain": {"Call": _launch.CALL, "Entry": _launch.ENTRY}, "corrections": {"RepairCall": _launch.REPAIR_CALL},
                  "transpose": {"TransposeCall": _transpose.CALL}, "bin": {"BinCall": _bin.CALL},
                  "scatter": {"ScatterCall": _scatter.CALL}, "inflate": {"Task": _inflate.TASK, "InflateCall": _inflate.CALL}}
    for file, records in structures.items():
        expected, numbers = [], []
        for name, dtype in records.items():
            assert dtype.fields is not None
            expected += [dtype.itemsize, *(field[1] for field in dtype.fields.values())]
            numbers += [f"sizeof({name})", *(f"offsetof({name}, {field})" for field in dtype.fields)]
        text, library = tmp_path / f"{file}.cpp", tmp_path / f"{file}.so"
        text.write_text(f'{_launch.source(file)}\nextern "C" {{ long numbers[] = {{{", ".join(numbers)}}}; }}\n')
        subprocess.run(["g++", *FLAGS, "-DSHIM_BARRIERS", "-include", HEADER, text, "-o", library], check=True)
        assert list((ctypes.c_long * len(numbers)).in_dll(ctypes.CDLL(str(library)), "numbers")) == expected
    assert _launch.CALL.itemsize <= 4096, "what a kernel's arguments may have"


def test_source_is_one_text_without_includes() -> None:
    for file in (*_launch.ENCODINGS, *OTHERS):
        text = _launch.source(file)
        assert "#include" not in text and (text.count("__global__") == 1 or file in ("inflate", "filters"))
        assert f"struct {file}" in text or file in OTHERS


def test_numbers_of_the_kernel_files_are_those_of_the_host() -> None:
    text = _launch.source("inflate")
    assert re.findall(r"\w+", text.partition("enum Rule {")[2].partition("}")[0]) == ["GOOD", *(rule.name for rule in Rule)]
    assert f"#define RULE_BITS {RULE_BITS}\n" in text and f"#define SHARED_BLOCK {BLOCK_BYTES}\n" in text
    assert f"#define WARP {_inflate.WARP}\n" in text and f"#define WARPS {_inflate.WARPS}\n" in text
    text = _launch.source("plain")
    assert f"#define ENTRIES {_launch.ENTRIES}\n" in text and f"#define STARTS {_launch.STARTS}\n" in text
    assert f"__launch_bounds__({_launch.BLOCK})" in text
    for name, packing in _launch.PACKED.items():
        numbers = dict(re.findall(r"(\w+) = (\d+)", _launch.source(name).partition(f"struct {name}")[2]))
        assert (packing.bits, packing.group_bytes, packing.group_pixels) == tuple(
            int(numbers[n]) for n in ("bits", "group_bytes", "group_pixels"))


@pytest.mark.parametrize(("encoding", "dtype", "maps", "expression", "lanes"), [
    (Encoding.of("u2"), "f4", {}, "decode<plain<u16>, f32, f32, 0>", 4),
    (Encoding.of(">i4"), "f8", {"dark": True, "gain": True, "map_dtype": np.dtype("f4")}, "decode<swap<i32>, f64, f32, 3>", 2),
    (Encoding.of("u8"), "u1", {}, "decode<plain<u64>, u8, f32, 0>", 4),
    (Encoding("swap", np.dtype("i1"), 1, 1), "i1", {}, "decode<plain<i8>, i8, f32, 0>", 16),
    (R6, "f4", {"gain": True, "map_dtype": np.dtype("f8")}, "decode<mib_r6, f32, f64, 2>", 4),
])
def test_a_variant_names_its_kernel(encoding: Encoding, dtype: str, maps: dict, expression: str, lanes: int) -> None:
    variant = _launch.variant(encoding, np.dtype(dtype), **maps)
    assert (variant.expression, variant.lanes) == (expression, lanes)


@pytest.mark.parametrize(("encoding", "dtype", "message"), [
    (Encoding("rle", np.dtype("u1"), 1, 1), "u1", "encoding 'rle' is unknown"),
    (Encoding("mib_r6", np.dtype("u1"), 8, 4), "u1", "8 bytes for 4 pixels; expected 8 for 8"),
    (R6, "f2", "output dtype float16 has no kernel"),
    (Encoding("plain", np.dtype("c8"), 8, 1), "f4", "plain pixels of dtype complex64 have no kernel"),
])
def test_what_has_no_kernel_is_refused(encoding: Encoding, dtype: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _launch.variant(encoding, np.dtype(dtype))


def test_repeats_and_rows_without_a_gap_become_one_run() -> None:
    pieces = [
        Piece(0, 0, 24, rows=5, row_src=48, row_pos=24),                                            # in R12: 48 bytes a row
        Piece(7, 599, 24, rows=5, row_src=96, row_pos=-48, repeats=2, rep_src=48, rep_pos=-24, reversed=True),
        Piece(0, 200, 24, rows=5, row_src=96, row_pos=48, repeats=2, rep_src=48, rep_pos=-24),      # blocks from right to left
        Piece(0, 500, 23, rows=5, row_src=48, row_pos=23),                                          # a cut group between the rows
        Piece(0, 300, 24, rows=5, row_src=50, row_pos=24),
        Piece(0, 700, 24, rows=5, row_src=48, row_pos=24, skipped=3),                               # cut once, at its beginning
    ]
    table = _launch.entries(placement_table(pieces), R12, 4, 0)
    assert table["pixels"].tolist() == [120, 240, 24, 23, 24, 120]
    assert table["repeats"].tolist() == [1, 1, 2, 1, 1, 1]
    assert table["low"].tolist() == [0, 360, 200, 500, 300, 700]
    assert (table["work"] // table["chunks"]).tolist() == [1, 1, 10, 5, 5, 1]
    assert table["chunks"].tolist() == [30, 60, 6, 6, 6, 30]
    assert table["reversed"].tolist() == [0, 1, 0, 0, 0, 0]


def test_runs_that_may_begin_anywhere_touch_a_chunk_more() -> None:
    table = placement_table([Piece(0, 0, 24, rows=5, row_src=50, row_pos=24)])
    assert _launch.entries(table, R12, 4, 3)["chunks"].tolist() == [7]


def test_placements_too_large_to_count_are_refused() -> None:
    table = placement_table([Piece(0, 0, 8, rows=1 << 20, row_src=9, row_pos=1, repeats=1 << 12, rep_src=1, rep_pos=1)])
    with pytest.raises(ValueError, match="too large for one launch"):
        _launch.entries(table, R6, 4, 0)


@pytest.mark.parametrize(("pieces", "frame_pixels", "expected"), [
    ([Piece(0, 0, 24, rows=5, row_src=50, row_pos=32)], 160, True),
    ([Piece(0, 0, 24, rows=5, row_src=50, row_pos=32)], 162, False),
    ([Piece(0, 0, 24, rows=5, row_src=50, row_pos=30)], 160, False),
    ([Piece(0, 23, 24, reversed=True)], 24, True),
    ([Piece(0, 24, 24, reversed=True)], 28, False),
    ([Piece(0, 0, 24, rows=1, row_pos=3, repeats=1, rep_pos=3)], 160, True),
])
def test_runs_begin_whole_if_all_steps_are_multiples(pieces: list[Piece], frame_pixels: int, expected: bool) -> None:
    assert _launch.begins_whole(placement_table(pieces), frame_pixels, 4) is expected


@given(n=st.integers(0, 2**31 - 1), d=st.integers(1, 2**31 - 1))
@settings(max_examples=300)
def test_division_by_the_inverse_is_exact(n: int, d: int) -> None:
    inverse = int(_launch._inverse(np.array([d]))[0])
    for numerator in {n, n // d * d, max(0, n // d * d - 1), 2**31 - 1}:
        assert (numerator * 2 * inverse) >> 64 == numerator // d


@given(work=st.integers(1, 10**6), entries=st.integers(1, 16), frames=st.integers(1, 300), frame_pixels=st.integers(1, 4096),
       lanes=st.sampled_from([2, 4, 8, 16]))
@settings(max_examples=300)
def test_a_grid_covers_all_chunks_and_frames_and_keeps_lanes(work: int, entries: int, frames: int, frame_pixels: int, lanes: int) -> None:
    grid, block = _launch.geometry(work, entries, frames, frame_pixels, lanes)
    assert block[0] * block[1] * block[2] <= _launch.BLOCK and grid[1] == entries
    assert work <= grid[0] * block[0] < work + block[0]
    step = grid[2] * block[1]
    assert step >= frames or step * frame_pixels % lanes == 0
    assert -(-frames // step) <= _launch.FRAMES_PER_THREAD
    assert grid[2] <= -(-frames // block[1])


def test_few_blocks_are_not_made_fewer() -> None:
    assert _launch.geometry(16384, 1, 32, 65536, 4)[0] == (64, 1, 32)
    assert _launch.geometry(16384, 1, 256, 65536, 4)[0] == (64, 1, 64)


@pytest.mark.parametrize(("pixels", "frames"), [(1, 1), (3, 1000), (70000, 7), (5, 10**8)])
def test_a_repair_grid_covers_all_pixels(pixels: int, frames: int) -> None:
    grid, block = _launch.repair_geometry(pixels, frames)
    assert grid[0] * block[0] >= pixels and grid[1] <= 65535 and block[0] * block[1] <= _launch.BLOCK
    assert grid[1] * block[1] >= frames or grid[1] == 65535
