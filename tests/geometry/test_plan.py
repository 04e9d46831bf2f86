"""Extents, starts and clipped placements against plain loops over frames and pixels."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from gpuio.fileset import File, FileSet
from gpuio.geometry.plan import clip, make_plan
from gpuio.layout import (
    PART,
    PIXELS,
    POS,
    REP_POS,
    REP_SRC,
    REPEATS,
    REVERSED,
    ROW_POS,
    ROW_SRC,
    ROWS,
    SKIPPED,
    SRC,
    Encoding,
    Layout,
    Piece,
    placement_table,
    plain_pieces,
    spans,
)


def destinations(table: np.ndarray, encoding: Encoding, pixels: int) -> dict[int, tuple[int, int, int]]:
    """Where each pixel comes from: position -> (part, byte of the group, pixel in the group)."""
    result: dict[int, tuple[int, int, int]] = {}
    for p in table.tolist():
        for r in range(p[ROWS]):
            for k in range(p[REPEATS]):
                src = p[SRC] + r * p[ROW_SRC] + k * p[REP_SRC]
                pos = p[POS] + r * p[ROW_POS] + k * p[REP_POS]
                for i in range(p[PIXELS]):
                    at = pos - i if p[REVERSED] else pos + i
                    assert 0 <= at < pixels and at not in result
                    group, within = divmod(p[SKIPPED] + i, encoding.group_pixels)
                    result[at] = p[PART], src + group * encoding.group_bytes, within
    return result


def random_pieces(rng: np.random.Generator, height: int, groups: int, g: int, kind: int) -> tuple[Piece, ...]:
    width, row = groups * g, groups * 4
    if kind == 0:
        return (Piece(0, 0, width, rows=height, row_src=row, row_pos=width),)
    if kind == 1:
        return (Piece(0, height * width - 1, width, rows=height, row_src=row, row_pos=-width, reversed=True),)
    if kind == 2:
        return (Piece(0, 0, height * width),)       # one run over all rows
    if kind == 3:
        return (Piece(8, 0, g, rows=height, row_src=row, row_pos=width, repeats=groups, rep_src=4, rep_pos=g, part=1),)
    if kind == 5:                                   # stored rows go to two rows each, upside down
        once = dict(pixels=width, row_src=row, row_pos=-2 * width)
        pairs = [Piece(0, height * width - 1, rows=height // 2, repeats=2, rep_pos=-width, reversed=True, **once)] if height > 1 else []
        return (*pairs, *([Piece(height // 2 * row, width - 1, reversed=True, **once)] if height % 2 else []))
    half = Piece(0, g * (groups - 1), g, rows=height, row_src=row, row_pos=width, repeats=groups, rep_src=4, rep_pos=-g)
    return (half,)


@pytest.mark.parametrize("kind", range(6))
@pytest.mark.parametrize("g", [1, 2, 4])
def test_clipped_placements_take_the_same_bytes_to_the_same_pixels(kind, g):
    rng = np.random.default_rng(kind * 10 + g)
    encoding = Encoding("any", np.dtype("u1"), 4, g)
    for _ in range(150):
        height, groups = int(rng.integers(1, 8)), int(rng.integers(1, 5))
        width = groups * g
        table = placement_table(random_pieces(rng, height, groups, g, kind))
        top, left = int(rng.integers(height)), int(rng.integers(width))
        box = int(rng.integers(1, height - top + 1)), int(rng.integers(1, width - left + 1))
        if rng.integers(3) == 0:
            left, box = 0, (box[0], width)
        whole = destinations(table, encoding, height * width)
        clipped = clip(table, encoding, (height, width), (top, left), box)
        expected = {(y - top) * box[1] + x - left: whole[y * width + x]
                    for y in range(top, top + box[0]) for x in range(left, left + box[1])}
        assert destinations(clipped, encoding, box[0] * box[1]) == expected


def test_boxes_of_three_sig_axes_are_clipped_where_they_are_runs_of_rows():
    table = placement_table(plain_pieces((3, 4, 5), 5))
    encoding = Encoding.of("u1")
    got = destinations(clip(table, encoding, (3, 4, 5), (1, 0, 1), (2, 4, 3)), encoding, 24)
    truth = np.arange(60).reshape(3, 4, 5)[1:, :, 1:4].ravel()
    assert [got[i][1] for i in range(24)] == truth.tolist()
    assert clip(table, encoding, (3, 4, 5), (0, 1, 0), (2, 2, 5)) is None


def test_spans_are_the_outermost_bytes_of_each_part():
    rng = np.random.default_rng(3)
    encoding = Encoding("any", np.dtype("u1"), 3, 2)
    for _ in range(200):
        pieces = [Piece(src=int(rng.integers(50, 90)), pos=0, pixels=int(rng.integers(1, 9)), rows=int(rng.integers(1, 4)),
                        row_src=int(rng.integers(-9, 9)), repeats=int(rng.integers(1, 4)), rep_src=int(rng.integers(-5, 5)),
                        skipped=int(rng.integers(2)), part=int(rng.integers(3))) for _ in range(4)]
        got = spans(placement_table(pieces), encoding, 3)
        for part in range(3):
            touched = [b for p in pieces if p.part == part for r in range(p.rows) for k in range(p.repeats)
                       for b in (p.src + r * p.row_src + k * p.rep_src,
                                 p.src + r * p.row_src + k * p.rep_src + -(-(p.skipped + p.pixels) // 2) * 3)]
            assert got[part].tolist() == ([min(touched), max(touched)] if touched else [0, 0])


def plain_layout(counts: list[int], sig=(3, 5), header=7, frame_header=11, footer=3, parts=1) -> Layout:
    sets, dtype = [], np.dtype("u2")
    for p in range(parts):
        starts = np.concatenate(([0], np.cumsum(counts))).tolist()
        sets.append(FileSet([File(f"{p}-{i}", a, b, dtype, sig, footer, frame_header, header + p)
                             for i, (a, b) in enumerate(pairwise(starts))]))
    pieces = tuple(Piece(0, p * 5, 5, part=p) for p in range(parts)) if parts > 1 else plain_pieces(sig, sig[-1] * 2)
    return Layout(format="test", parts=tuple(sets), encoding=Encoding.of(dtype), pieces=pieces, sig_shape=sig, image_count=sum(counts))


@pytest.mark.parametrize("alignment", [1, 512, 4096])
@pytest.mark.parametrize("parts", [1, 3])
def test_every_frame_lies_where_the_plan_says(alignment, parts):
    rng = np.random.default_rng(alignment + parts)
    layout = plain_layout([5, 1, 9], parts=parts)
    first_file = np.cumsum([0] + [len(s) for s in layout.parts])
    for _ in range(100):
        frames = rng.integers(0, 15, int(rng.integers(1, 12)))
        if rng.integers(2):
            frames = np.unique(frames)
        cuts = np.unique(rng.integers(0, len(frames) + 1, 2))
        blocks = np.unique(np.concatenate(([0], cuts, [len(frames)]))).astype(np.int64)
        plan = make_plan(layout, frames, blocks, layout.placements, alignment=alignment, gap=int(rng.integers(0, 60)))
        need = spans(layout.placements, layout.encoding, parts)
        for b in range(len(blocks) - 1):
            extents = plan.extents[plan.extent_starts[b]:plan.extent_starts[b + 1]]
            assert (extents[:, 1:3] % alignment == 0).all()
            assert ((extents[:, 3] + extents[:, 2]) <= plan.staging_bytes).all()
            order = np.argsort(extents[:, 3])
            assert (extents[order][:-1, 3] + extents[order][:-1, 2] <= extents[order][1:, 3]).all()     # no overlap in staging
            for i in range(blocks[b], blocks[b + 1]):
                for p in range(parts):
                    file, offset = (int(v[0]) for v in layout.parts[p].locate(frames[i:i + 1]))
                    e = plan.extents[plan.extent_of[i, p]]
                    assert plan.extent_starts[b] <= plan.extent_of[i, p] < plan.extent_starts[b + 1]
                    assert e[0] == file + first_file[p]
                    assert plan.starts[i, p] - e[3] + e[1] == offset            # staging and file agree
                    assert e[1] <= offset + need[p, 0] and offset + need[p, 1] <= e[1] + e[2]


def test_headers_between_consecutive_frames_are_read_along_as_one_extent():
    layout = plain_layout([32], sig=(256, 256), header=0, frame_header=384, footer=0)
    plan = make_plan(layout, np.arange(32), np.array([0, 32]), layout.placements)
    assert plan.extents.tolist() == [[0, 384, 32 * 131456 - 384, 0]]            # 4206208 bytes for 4194304 of pixels
    assert plan.needed_bytes == 4194304 and plan.read_bytes == 4206208
    aligned = make_plan(layout, np.arange(32), np.array([0, 32]), layout.placements, alignment=4096)
    assert aligned.extents[:, 1:3].tolist() == [[0, 4206592]]


def test_distant_frames_are_not_read_along():
    layout = plain_layout([4001], sig=(2, 4), header=0, frame_header=0, footer=0)
    plan = make_plan(layout, np.array([0, 4000]), np.array([0, 2]), layout.placements)
    assert plan.extents[:, 1:3].tolist() == [[0, 16], [64000, 16]]


def test_byte_arithmetic_survives_two_to_the_32():
    layout = plain_layout([40000], sig=(256, 256), header=0, frame_header=384, footer=0)
    plan = make_plan(layout, np.array([16337, 32673, 39999]), np.array([0, 1, 2, 3]), layout.placements)
    assert plan.extents[:, 1].tolist() == [16337 * 131456 + 384, 32673 * 131456 + 384, 39999 * 131456 + 384]


def test_blank_frames_are_refused():
    layout = plain_layout([3])
    with pytest.raises(ValueError, match="blank"):
        make_plan(layout, np.array([0, 3]), np.array([0, 2]), layout.placements)


def test_repeats_that_lie_in_a_box_whole_stay_together() -> None:
    encoding = Encoding("mib_r12", np.dtype("u2"), 8, 4)
    table = placement_table([Piece(40, 28, 4, rows=5, row_src=8, row_pos=32, repeats=8, rep_src=80, rep_pos=-4)])
    clipped = clip(table, encoding, (5, 32), (1, 6), (3, 21))
    # Columns 6 ... 26: of the blocks from column 24 down to 4, the first and the last are cut.
    assert clipped is not None
    assert clipped[:, REPEATS].tolist() == [1, 4, 1]
    assert clipped[:, PIXELS].tolist() == [3, 4, 2]
    assert clipped[:, SRC].tolist() == [128, 208, 528]
    assert clipped[:, POS].tolist() == [18, 14, 0]
    assert clipped[:, SKIPPED].tolist() == [0, 0, 2]
    whole, cut = destinations(table, encoding, 160), destinations(clipped, encoding, 63)
    assert cut == {y * 21 + x: whole[(1 + y) * 32 + 6 + x] for y in range(3) for x in range(21)}
