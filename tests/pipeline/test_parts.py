"""Frames in several parts, some of which lack parts: pixels that are there are right, the others are zero, whichever way one asks."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuio.base import BufferedBackend, CorrectionSet, DirectBackend, MMapBackend, TilingScheme
from gpuio.dataset import DataSet
from gpuio.fileset import File, FileSet
from gpuio.geometry.plan import make_plan
from gpuio.layout import Encoding, Layout, Piece
from gpuio.shape import Shape

BACKENDS = {"mmap": MMapBackend, "buffered": BufferedBackend, "direct": DirectBackend}


class Bands(DataSet):
    """Frames whose bands of columns are parts; `layout_` is ready made."""

    format = "bands"

    def __init__(self, layout, nav_shape, sync_offset=0, io_backend=None):
        super().__init__(io_backend=io_backend)
        self._path, self._ready, self._nav_shape, self._sync_offset = "bands", layout, nav_shape, sync_offset

    def _parse(self, source):
        return self._ready


def write_bands(folder: Path, frames: np.ndarray, widths: list[int], there: np.ndarray, shared: bool, rng: np.random.Generator) -> Layout:
    """Store the bands that are there, frame by frame, each band in a file of its own or all in one.

    Before every stored band lie a few random bytes, so that distances differ and runs of equal distance are several `File`s.
    """
    n, height, width = frames.shape
    left = np.concatenate(([0], np.cumsum(widths)))
    blobs = [bytearray(rng.bytes(5)) for _ in range(1 if shared else len(widths))]
    places: dict[tuple[int, int], int] = {}
    for f in range(n):
        for p, w in enumerate(widths):
            blob = blobs[0 if shared else p]
            if there[f, p]:
                blob += rng.bytes(int(rng.integers(0, 2)) * 3)
                places[f, p] = len(blob)
                blob += frames[f, :, left[p]:left[p] + w].astype("<u2").tobytes()
    paths = [folder / f"{i}.bin" for i in range(len(blobs))]
    for path, blob in zip(paths, blobs, strict=True):
        path.write_bytes(bytes(blob))
    parts, pieces = [], []
    for p, w in enumerate(widths):
        path = paths[0 if shared else p]
        files = [File(path, f, f + 1, "<u2", (height, w), file_header=places[f, p], size=path.stat().st_size)
                 for f in range(n) if there[f, p]]
        if files:
            pieces.append(Piece(0, int(left[p]), w, rows=height, row_src=2 * w, row_pos=width, part=len(parts)))
            parts.append(FileSet(files))
    return Layout(format="bands", parts=tuple(parts), encoding=Encoding.of("<u2"), pieces=tuple(pieces), sig_shape=(height, width),
                  image_count=n)


@st.composite
def bands(draw):
    n = draw(st.integers(1, 7))
    widths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    there = np.array(draw(st.lists(st.lists(st.sampled_from([True, True, False]), min_size=len(widths), max_size=len(widths)),
                                   min_size=n, max_size=n)))
    there[draw(st.integers(0, n - 1)), draw(st.integers(0, len(widths) - 1))] = True
    return {"n": n, "widths": widths, "there": there, "height": draw(st.integers(1, 4)), "shared": draw(st.booleans()),
            "sync_offset": draw(st.integers(-n + 1, n - 1)), "seed": draw(st.integers(0, 2**32 - 1)),
            "backend": draw(st.sampled_from(sorted(BACKENDS))), "depth": draw(st.integers(1, 5)), "corrected": draw(st.booleans())}


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bands(), st.data())
def test_parts_that_a_frame_lacks_are_zero_and_everything_else_is_exact(s, data):
    rng = np.random.default_rng(s["seed"])
    sig = (s["height"], sum(s["widths"]))
    frames = rng.integers(1, 65536, (s["n"], *sig)).astype("u2")
    dark, gain = rng.normal(size=sig).astype("f4"), rng.normal(size=sig).astype("f4")
    corrections = CorrectionSet(dark=dark, gain=gain) if s["corrected"] else CorrectionSet()
    pixels_there = np.repeat(s["there"], s["widths"], axis=1)[:, None, :]
    right = ((frames.astype("f4").astype("f8") - dark) * gain).astype("f4") if s["corrected"] else frames.astype("f4")
    stored = np.where(pixels_there, right, 0).astype("f4")
    expected = np.zeros_like(stored)
    has_data = np.zeros(s["n"], int)
    for i in range(s["n"]):
        k = i + s["sync_offset"]
        if 0 <= k < s["n"] and s["there"][k].any():
            expected[i], has_data[i] = stored[k], 1
    with tempfile.TemporaryDirectory() as folder:
        layout = write_bands(Path(folder), frames, s["widths"], s["there"], s["shared"], rng)
        ds = Bands(layout, (s["n"],), s["sync_offset"], BACKENDS[s["backend"]]()).initialize().to("cpu")
        np.testing.assert_array_equal(ds.blank(), has_data == 0)
        np.testing.assert_array_equal(ds.read(np.arange(s["n"]), dtype="f4", corrections=corrections), expected)
        y, x = (slice(*sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))) for n in sig)
        if not corrections.have_corrections():
            np.testing.assert_array_equal(ds[:, y, x], expected[:, y, x])
        seen = np.zeros(s["n"], int)
        for tile in ds.tiles(dtype="f4", depth=s["depth"], corrections=corrections, threads=data.draw(st.sampled_from([0, 2]))):
            where = tile.tile_slice.get(nav_only=True)
            np.testing.assert_array_equal(tile.data, expected[where])
            seen[where] += 1
        np.testing.assert_array_equal(seen, has_data)
        scheme = TilingScheme.make_for_shape(Shape((s["depth"], *(data.draw(st.integers(1, n)) for n in sig)), sig_dims=2), ds.shape)
        covered = np.zeros(expected.shape, int)
        ds.set_num_cores(2)
        for part in ds.get_partitions():
            part.set_corrections(corrections)
            for tile in part.get_tiles(scheme):
                where = tile.tile_slice.get()
                np.testing.assert_array_equal(tile.data, expected[where])
                covered[where] += 1
        np.testing.assert_array_equal(covered, np.broadcast_to(has_data[:, None, None], covered.shape))


def test_more_sets_of_missing_parts_than_decoders_are_kept(tmp_path):
    rng = np.random.default_rng(1)
    there = ((np.arange(31)[:, None] + 1) >> np.arange(5) & 1).astype(bool)      # every set of parts but the empty one
    frames = rng.integers(1, 65536, (31, 3, 5)).astype("u2")
    layout = write_bands(tmp_path, frames, [1] * 5, there, True, rng)
    ds = Bands(layout, (31,)).initialize().to("cpu")
    expected = np.where(there[:, None, :], frames, 0)
    np.testing.assert_array_equal(ds[::-1], expected[::-1])
    for threads in (0, 3):
        found = np.concatenate([np.array(t.data) for t in ds.tiles(depth=2, threads=threads)])
        np.testing.assert_array_equal(found, expected)


def test_parts_in_one_file_are_read_as_one_extent(tmp_path):
    rng = np.random.default_rng(2)
    frames = rng.integers(1, 65536, (9, 3, 7)).astype("u2")
    layout = write_bands(tmp_path, frames, [2, 4, 1], np.ones((9, 3), bool), True, rng)
    plan = make_plan(layout, np.arange(9), np.array([0, 4, 9]), layout.placements)
    assert plan.extents[:, 0].tolist() == [0, 0] and plan.missing is None
    assert plan.needed_bytes == frames.nbytes
    assert len(layout.numbered_files()[0]) == 1


def test_nothing_is_read_of_parts_that_a_box_does_not_touch(tmp_path):
    rng = np.random.default_rng(3)
    frames = rng.integers(1, 65536, (4, 3, 7)).astype("u2")
    layout = write_bands(tmp_path, frames, [2, 4, 1], np.ones((4, 3), bool), False, rng)
    plan = make_plan(layout, np.arange(4), np.array([0, 4]), layout.placements[1:2], alignment=4096)
    assert plan.extents.tolist() == [[1, 0, 4096, 0]]
    assert plan.needed_bytes == 4 * 3 * 4 * 2


def test_frames_in_no_part_cannot_be_planned(tmp_path):
    rng = np.random.default_rng(4)
    there = np.array([[True, False], [False, False], [False, True]])
    layout = write_bands(tmp_path, rng.integers(1, 9, (3, 2, 4)).astype("u2"), [1, 3], there, False, rng)
    assert layout.present(np.arange(-1, 4)).tolist() == [False, True, False, True, False]
    with pytest.raises(ValueError, match="blank frames cannot be planned"):
        make_plan(layout, np.arange(3), np.array([0, 3]), layout.placements)


def test_a_scan_starts_where_the_files_say_unless_the_user_says_otherwise(tmp_path):
    import dataclasses

    rng = np.random.default_rng(5)
    frames = rng.integers(1, 65536, (5, 2, 3)).astype("u2")
    layout = dataclasses.replace(write_bands(tmp_path, frames, [3], np.ones((5, 1), bool), False, rng), sync_offset=2)
    for asked, offset in ((None, 2), (0, 0), (-1, -1)):
        ds = Bands(layout, (3,), asked).initialize().to("cpu")
        assert ds.sync_offset == offset and ds.meta.sync_offset == offset
        expected = np.concatenate((np.zeros_like(frames[:1]), frames))[offset + 1:offset + 4]
        np.testing.assert_array_equal(ds[...], expected)
