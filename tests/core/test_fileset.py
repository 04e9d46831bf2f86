"""File, OffsetsSizes, FileSet, FileTree."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from gpuio.errors import DataSetException, TruncatedFile
from gpuio.fileset import File, FileSet, FileTree, OffsetsSizes
from gpuio.geometry.tiling import TilingScheme
from gpuio.shape import Shape


def file(start: int, end: int, *, path: str = "scan.mib", dtype="<u2", sig=(2, 4), **sizes) -> File:
    return File(path, start, end, dtype, sig, **sizes)


def three_files() -> FileSet:
    return FileSet([file(0, 5, path="a", file_header=10), file(5, 10, path="b", file_header=20), file(10, 15, path="c", file_header=30)])


FIVE = file(0, 5, file_header=10, frame_header=6, frame_footer=2)


def test_a_file_states_its_layout():
    f = File("scan.mib", 3, 8, "<u2", Shape((2, 4), sig_dims=2), frame_footer=2, frame_header=6, file_header=10, size=130)
    assert (f.path, f.start_idx, f.end_idx, f.num_frames, f.native_dtype, f.sig_shape, f.file_header_bytes, f.size) == \
        ("scan.mib", 3, 8, 5, np.dtype("<u2"), (2, 4), 10, 130)
    assert f.stride == 24


@pytest.mark.parametrize(("size", "expected"), [(130, (10, 0, 3, 8)), (133, (10, 3, 3, 8)), (138, (10, 8, 3, 8))])
def test_bytes_after_the_last_frame_are_skipped(size, expected):
    assert FIVE.get_offsets_sizes(size) == OffsetsSizes(*expected)


@pytest.mark.parametrize("tail", [0, 8, 80])
def test_a_tail_of_whole_pixels_does_not_shift_frames(tail):
    # Five frames of 16 bytes and a tail that is a multiple of the frame's pixels: easily taken for frame padding.
    f = file(0, 5)
    pixels = np.random.default_rng(2).integers(0, 2**16, (5, 8), dtype=np.uint16)
    found = f.get_array_from_memview(memoryview(pixels.tobytes() + b"\xff" * tail), f.get_offsets_sizes(80 + tail))
    assert np.array_equal(found, pixels)


def test_a_short_file_is_truncated():
    with pytest.raises(TruncatedFile, match=r"scan\.mib.*129 bytes.*130"):
        FIVE.get_offsets_sizes(129)
    with pytest.raises(TruncatedFile, match=r"scan\.mib.*119 bytes"):
        FIVE.get_array_from_memview(memoryview(bytes(129)), FIVE.get_offsets_sizes(130))


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<f4", ">c8"])
@pytest.mark.parametrize(("file_header", "frame_header", "frame_footer"), [(10, 6, 2), (0, 0, 0), (7, 3, 5), (1, 16, 0)])
def test_frames_are_cut_out_at_any_header_size(dtype, file_header, frame_header, frame_footer):
    rng = np.random.default_rng(3)
    f = file(2, 7, dtype=dtype, sig=(3, 5), file_header=file_header, frame_header=frame_header, frame_footer=frame_footer)
    frames = rng.integers(0, 100, (5, 15)).astype(dtype)
    blob = rng.bytes(file_header) + b"".join(rng.bytes(frame_header) + row.tobytes() + rng.bytes(frame_footer) for row in frames) + b"tail"
    found = f.get_array_from_memview(memoryview(blob), f.get_offsets_sizes(len(blob)))
    assert found.dtype == np.dtype(dtype)
    assert found.shape == (5, 15)
    assert np.array_equal(found, frames)
    assert not found.flags.writeable


def test_frames_of_writable_memory_are_a_read_only_view():
    memory = bytearray(range(130))
    rows = FIVE.get_array_from_memview(memory, FIVE.get_offsets_sizes(130))
    assert rows[0].tobytes() == bytes(range(16, 32))
    assert rows[1].tobytes() == bytes(range(40, 56))
    memory[16] = 255
    assert rows[0].tobytes()[0] == 255
    with pytest.raises(ValueError, match="read-only"):
        rows[0, 0] = 1


@pytest.mark.parametrize("wrong", [
    {"start": 5, "end": 4}, {"start": -1, "end": 4}, {"start": 0, "end": 1, "frame_header": -2}, {"start": 0, "end": 1, "file_header": -1},
])
def test_impossible_files_are_refused(wrong):
    with pytest.raises(DataSetException, match=r"scan\.mib"):
        file(**wrong)


def test_files_and_sets_are_small_values():
    files = three_files()
    files.locate(np.arange(15))
    back = pickle.loads(pickle.dumps(files))
    assert list(back) == list(files)
    assert np.array_equal(back.get_as_arr(), files.get_as_arr())
    many = FileSet([file(i, i + 1, path=f"scan_{i:06d}.mib") for i in range(1000)])
    many.locate(np.arange(1000))
    assert len(pickle.dumps(many)) < 100 * 1000
    assert not hasattr(many[0], "__dict__")


def test_a_set_is_like_a_list():
    files = three_files()
    assert len(files) == 3
    assert files[1].path == files[-2].path == "b"
    assert [f.path for f in files] == files.paths == ["a", "b", "c"]
    assert files.image_count == 15


def test_a_set_without_files_is_refused():
    with pytest.raises(DataSetException, match="at least one"):
        FileSet([])


def test_as_array_has_four_columns():
    table = three_files().get_as_arr()
    assert table.dtype == np.int64
    assert table.tolist() == [[0, 5, 0, 10], [5, 10, 1, 20], [10, 15, 2, 30]]


@pytest.mark.parametrize(("start", "stop", "expected"), [
    (0, 4, "a"), (0, 5, "ab"), (4, 5, "ab"), (5, 9, "b"), (14, 100, "c"), (0, 100, "abc"), (7, 3, "b"),
])
def test_get_for_range_includes_its_end(start, stop, expected):
    found = three_files().get_for_range(start, stop)
    assert "".join(found.paths) == expected
    assert found.get_as_arr()[:, 2].tolist() == list(range(len(expected)))


def test_get_for_range_keeps_the_frame_headers():
    found = FileSet([file(0, 5), file(5, 9)], frame_header_bytes=8, frame_footer_bytes=2).get_for_range(6, 7)
    assert (found.frame_header_bytes, found.frame_footer_bytes) == (8, 2)


def test_files_from_begins_with_the_file_of_a_frame():
    assert [f.path for f in three_files().files_from(7)] == ["b", "c"]


WITH_HOLES = FileSet([file(2, 5, path="a", file_header=3), file(9, 11, path="b", frame_header=384), file(11, 12, path="c")])


@pytest.mark.parametrize("frame", [-1, 0, 1, 5, 8, 12, 99])
def test_frames_in_no_file_are_not_found(frame):
    with pytest.raises(ValueError, match=f"frame {frame} "):
        WITH_HOLES.get_for_range(frame, frame)
    with pytest.raises(ValueError, match=f"frame {frame} "):
        WITH_HOLES.files_from(frame)
    assert [a.tolist() for a in WITH_HOLES.locate(np.array([frame]))] == [[-1], [-1]]


def test_overlapping_files_are_refused():
    with pytest.raises(DataSetException, match=r"b: begins at frame 4; expected at least 5"):
        FileSet([file(0, 5, path="a"), file(4, 9, path="b")]).get_as_arr()


def locate_one(files: FileSet, frame: int) -> tuple[int, int]:
    for position, f in enumerate(files):
        if f.start_idx <= frame < f.end_idx:
            stride = f.frame_header + f.native_dtype.itemsize * int(np.prod(f.sig_shape)) + f.frame_footer
            return position, f.file_header + (frame - f.start_idx) * stride + f.frame_header
    return -1, -1


@pytest.mark.parametrize("order", ["ascending", "shuffled", "repeated"])
@pytest.mark.parametrize("seed", range(5))
def test_locate_agrees_with_a_search_file_by_file(order, seed):
    rng = np.random.default_rng(seed)
    files, at = [], 0
    for i in range(int(rng.integers(1, 7))):
        at += int(rng.integers(0, 3))
        count = int(rng.integers(0, 6))
        header = [int(n) for n in rng.integers(0, 400, 3)]
        files.append(File(f"{i}", at, at + count, "u1", (int(rng.integers(1, 50)), 3), *header))
        at += count
    frames = np.arange(-2, at + 3)
    if order == "shuffled":
        rng.shuffle(frames)
    elif order == "repeated":
        frames = np.sort(rng.choice(frames, 40))
    index, offset = FileSet(files).locate(frames)
    assert index.dtype == offset.dtype == np.int64
    assert list(zip(index.tolist(), offset.tolist(), strict=True)) == [locate_one(FileSet(files), k) for k in frames.tolist()]


def test_offsets_pass_32_bits():
    files = FileSet([File("scan.mib", 0, 10**6, ">u2", (256, 256), frame_header=384)])
    _, offset = files.locate(np.array([16337, 32673, 999999]))
    assert offset.tolist() == [16337 * 131456 + 384, 32673 * 131456 + 384, 999999 * 131456 + 384]
    assert offset[0] > 2**31
    assert offset[1] > 2**32


def test_locating_nothing_gives_nothing():
    index, offset = three_files().locate(np.zeros(0, dtype=np.int64))
    assert (len(index), len(offset)) == (0, 0)


def test_read_ranges_count_the_frame_headers_of_the_files():
    scheme = TilingScheme.make_for_shape(Shape((2, 2, 4), sig_dims=2), Shape((3, 2, 4), sig_dims=2))
    stated = FileSet([file(0, 3)], frame_header_bytes=6, frame_footer_bytes=2)
    of_files = FileSet([file(0, 3, frame_header=6, frame_footer=2)])
    for files in (stated, of_files):
        slices, ranges, boxes = files.get_read_ranges(0, 3, "<u2", scheme)
        assert slices.tolist() == [[[0, 0, 0], [2, 2, 4]], [[2, 0, 0], [1, 2, 4]]]
        assert ranges.tolist() == [[[0, 6, 22], [0, 30, 46]], [[0, 54, 70], [0, 0, 0]]]
        assert boxes.tolist() == [0, 0]


def test_read_ranges_of_files_that_disagree_are_refused():
    scheme = TilingScheme.make_for_shape(Shape((2, 2, 4), sig_dims=2), Shape((3, 2, 4), sig_dims=2))
    for files in (FileSet([file(0, 1, frame_header=6), file(1, 3)]), FileSet([file(0, 3, frame_header=6)], frame_header_bytes=8)):
        with pytest.raises(DataSetException, match=r"frame_header of \["):
            files.get_read_ranges(0, 3, "<u2", scheme)


def test_read_ranges_check_the_roi():
    scheme = TilingScheme.make_for_shape(Shape((2, 2, 4), sig_dims=2), Shape((3, 2, 4), sig_dims=2))
    with pytest.raises(DataSetException, match=r"4 entries.*expected 3"):
        FileSet([file(0, 3)]).get_read_ranges(0, 3, "<u2", scheme, roi=np.ones(4, dtype=bool))


def test_a_tree_finds_every_frame():
    files = [file(i * 5, i * 5 + 5, path=str(i)) for i in range(7)]
    tree = FileTree.make(files)
    assert tree.idx == 3
    for frame in range(35):
        assert tree.search_start(frame) == (frame // 5, files[frame // 5])
    for frame in (-1, 35):
        with pytest.raises(ValueError, match=f"frame {frame} "):
            tree.search_start(frame)


def test_a_tree_prints_itself():
    files = [file(0, 5), file(5, 10), file(10, 15)]
    assert FileTree.make(files[:1]).to_string() == "None\n(d=0 l=0, i=0, h=5)\nNone"
    assert FileTree.make(files).to_string().splitlines() == [
        "    None", "    (d=1 l=0, i=0, h=5)", "    None", "(d=0 l=5, i=1, h=10)",
        "    None", "    (d=1 l=10, i=2, h=15)", "    None",
    ]


def test_a_tree_of_nothing_is_none():
    assert FileTree.make([]) is None
    with pytest.raises(ValueError, match="empty range"):
        FileTree(5, 5, None, 0, None, None)


@pytest.mark.parametrize("ends", [((0, 5), (5, 9), (9, 20)), ((2, 5), (5, 6)), ((0, 3), (7, 9), (9, 12)), ((4, 4), (4, 8))])
def test_frames_that_files_hold_are_those_that_can_be_found(ends):
    files = FileSet([file(start, stop, path=str(i)) for i, (start, stop) in enumerate(ends)])
    frames = np.random.default_rng(2).integers(-3, 25, 100)
    inside = [any(start <= f < stop for start, stop in ends) for f in frames.tolist()]
    assert files.holds(frames).tolist() == inside
    assert (files.locate(frames)[0] >= 0).tolist() == inside
