"""Plans of chunks: every frame's bytes are where its start says, each row is read once a block, blocks are cut where rows end."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuio.chunks import ChunkGrid, Chunks
from gpuio.geometry.chunks import CHUNK_GAP, block_edges, group_edges, most_rows, plan_chunks, room_of_row, rows_between, touched_columns
from gpuio.layout import Filter, Piece, placement_table

FILTER = (Filter("deflate", (4,)),)


def made(rng, nav_shape, nav_chunk, sig_grid=(2, 3), sig_chunk=(3, 5), *, packed=True, missing=0.0, files=2):
    """Chunks at random places of two files that do not overlap, of random sizes if they are packed."""
    grid = ChunkGrid(0, nav_shape, nav_chunk)
    rows, columns = math.prod(grid.counts), math.prod(sig_grid)
    plane = math.prod(sig_chunk) * 2
    n_bytes = math.prod(nav_chunk) * plane
    stored = rng.integers(1, n_bytes + 9, rows * columns) if packed else np.full(rows * columns, n_bytes)
    gaps = rng.choice([0, 0, 7, CHUNK_GAP + 1], rows * columns)
    order = rng.permutation(rows * columns) if rng.random() < 0.5 else np.arange(rows * columns)
    offset = np.empty(rows * columns, dtype=np.int64)
    offset[order] = 100 + np.cumsum(stored[order] + gaps[order]) - stored[order] - gaps[order]
    file = np.where(rng.random(rows * columns) < missing, -1, rng.integers(0, files, rows * columns))
    table = np.stack((file, offset, stored, rng.integers(0, 2, rows * columns)), axis=1).astype(np.int64).reshape(rows, columns, 4)
    return Chunks(("a.h5", "b.h5"), (1 << 40,) * 2, (grid,), table, sig_grid, sig_chunk, 2, plane, FILTER if packed else ())


def whole(chunks):
    """Placements that touch every column."""
    return placement_table([Piece(0, 0, 1, repeats=chunks.columns, rep_src=chunks.pitch, rep_pos=1)])


@st.composite
def selections(draw):
    dims = draw(st.integers(1, 3))
    nav = tuple(draw(st.integers(1, 7)) for _ in range(dims))
    chunk = tuple(draw(st.integers(1, n)) for n in nav)
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    chunks = made(rng, nav, chunk, packed=draw(st.booleans()), missing=draw(st.sampled_from([0.0, 0.3])))
    n = math.prod(nav)
    frames = draw(st.sampled_from([np.arange(n), np.flatnonzero(rng.random(n) < 0.4), rng.integers(0, n, n)]))
    return chunks, frames.astype(np.int64), draw(st.integers(1, 6))


@settings(max_examples=150, deadline=None)
@given(selections())
def test_every_frame_is_found_in_what_is_read(selection):
    chunks, frames, most = selection
    edges = block_edges(chunks.rows_of(frames), most)
    plan = plan_chunks(chunks, frames, edges, whole(chunks), chunks_at_once=5)
    grid = chunks.grids[0]
    for block in range(len(edges) - 1):
        # What a byte of the block's memory holds: file and byte if it is stored as it is, row and column and byte if it is unpacked.
        memory = np.full((plan.staging_bytes, 3), -2, dtype=np.int64)
        for e in range(*plan.extent_starts[block:block + 2]):
            file, offset, size, at = plan.extents[e]
            if not chunks.is_packed:
                assert (memory[at:at + size] == -2).all()
                memory[at:at + size, 0], memory[at:at + size, 1], memory[at:at + size, 2] = file, offset + np.arange(size), 0
                continue
            assert at + size <= plan.packed_bytes
            assert plan.chunk_starts[e + 1] - plan.chunk_starts[e] <= 5
            for (src, stored, mask, out), (row, column) in zip(plan.chunks[slice(*plan.chunk_starts[e:e + 2])],
                                                               plan.places[slice(*plan.chunk_starts[e:e + 2])], strict=True):
                assert at <= src and src + stored <= at + size
                assert (file, offset + src - at, stored, mask) == tuple(chunks.table[row, column])
                assert (memory[out:out + chunks.chunk_bytes] == -2).all()
                memory[out:out + chunks.chunk_bytes] = np.stack((np.full(chunks.chunk_bytes, row), np.full(chunks.chunk_bytes, column),
                                                                 np.arange(chunks.chunk_bytes)), axis=1)
        size = chunks.frame_step if chunks.by_frame else chunks.chunk_bytes
        for at in plan.fills[slice(*plan.fill_starts[block:block + 2])]:
            assert (memory[at:at + size] == -2).all()
            memory[at:at + size] = -1
        for i in range(*edges[block:block + 2]):
            nav = np.unravel_index(frames[i], grid.nav_shape)
            row = np.ravel_multi_index([k // c for k, c in zip(nav, grid.nav_chunk, strict=True)], grid.counts)
            within = np.ravel_multi_index([k % c for k, c in zip(nav, grid.nav_chunk, strict=True)], grid.nav_chunk)
            for column in range(chunks.columns):
                first = plan.starts[i, 0] + column * chunks.pitch
                found = memory[first:first + chunks.frame_step]
                file, offset, _, _ = chunks.table[row, column]
                step = within * chunks.frame_step + np.arange(chunks.frame_step)
                if file < 0:
                    assert (found == -1).all()
                elif chunks.is_packed:
                    assert (found[:, 0] == row).all() and (found[:, 1] == column).all() and (found[:, 2] == step).all()
                else:
                    assert (found[:, 0] == file).all() and (found[:, 1] == offset + step).all()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(1, 6))
def test_blocks_hold_few_rows_and_cut_none_where_they_need_not(rows, most):
    rows = np.array(rows)
    groups = group_edges(rows)
    n = len(rows)
    assert groups.tolist() == [0] + [i for i in range(1, n + 1) if not set(rows[:i].tolist()) & set(rows[i:].tolist())]
    assert rows_between(rows, groups).tolist() == [len(set(rows[a:b].tolist())) for a, b in pairwise(groups.tolist())]
    edges = block_edges(rows, most).tolist()
    assert edges[0] == 0 and edges[-1] == n and edges == sorted(set(edges))
    held = [set(rows[a:b].tolist()) for a, b in pairwise(edges)]
    assert max(map(len, held)) <= most
    if max(rows_between(rows, groups)) <= most:
        assert sum(map(len, held)) == len(set(rows.tolist()))           # each row once
    # Neighbouring blocks are not put together only because they would be too large, or end a group that had to be cut.
    for i in range(len(held) - 1):
        cut = edges[i + 1] not in groups.tolist() or edges[i] not in groups.tolist()
        assert cut or len(held[i] | held[i + 1]) > most or edges[i + 2] not in groups.tolist()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 40))
def test_the_rows_that_successive_frames_need(rows, depth):
    found = most_rows(np.array(rows), depth)
    assert found >= max(len(set(rows[i:i + depth])) for i in range(len(rows)))
    rows = sorted(rows)
    assert most_rows(np.array(rows), depth) == max(len(set(rows[i:i + depth])) for i in range(len(rows)))


def test_blocks_of_whole_tiles():
    rows = np.array([0, 0, 1, 1, 0, 0, 2, 3, 4, 4])
    tiles = np.array([0, 3, 4, 6, 9, 10])
    assert block_edges(rows, 2, tiles).tolist() == [0, 6, 10]          # the tile of frames 6 to 8 needs three rows by itself
    assert block_edges(rows, 5, tiles).tolist() == [0, 10]
    assert set(block_edges(rows, 1, tiles).tolist()) <= set(tiles.tolist())


def test_only_columns_that_are_touched_are_read():
    chunks = made(np.random.default_rng(1), (4,), (2,))
    pitch = chunks.pitch
    table = placement_table([Piece(2 * pitch + 4, 0, 3, rows=2, row_src=10, row_pos=5), Piece(4 * pitch, 7, 1)])
    assert touched_columns(chunks, table).tolist() == [2, 4]
    plan = plan_chunks(chunks, np.arange(4), np.array([0, 4]), table)
    assert sorted(map(tuple, plan.places.tolist())) == [(0, 2), (0, 4), (1, 2), (1, 4)]
    assert plan.needed_bytes == chunks.table[:, [2, 4], 2].sum()
    assert plan.starts[:, 0].tolist() == [0, chunks.frame_step, room_of_row(chunks), room_of_row(chunks) + chunks.frame_step]


@pytest.mark.parametrize("alignment", [1, 512, 4096])
def test_extents_of_packed_chunks_are_aligned(alignment):
    chunks = made(np.random.default_rng(2), (9,), (1,))
    plan = plan_chunks(chunks, np.arange(9), np.array([0, 4, 9]), whole(chunks), alignment=alignment)
    assert not (plan.extents[:, 1:] % alignment).any()
    assert plan.read_bytes == plan.extents[:, 2].sum() >= plan.needed_bytes


def test_a_part_of_the_table_has_the_same_frames():
    rng = np.random.default_rng(3)
    several = made(rng, (6, 7), (2, 3))
    part = several.between(15, 33)
    assert 0 < len(part.table) < len(several.table)
    for frames in (np.arange(15, 33), np.array([32, 15, 20])):
        (row, within), (mine, same) = several.locate(frames), part.locate(frames)
        np.testing.assert_array_equal(several.table[row], part.table[mine])
        np.testing.assert_array_equal(within, same)
    assert part.where(int(part.locate(np.array([20]))[0][0]), 4) == several.where(int(several.locate(np.array([20]))[0][0]), 4)
