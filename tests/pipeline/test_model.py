"""The one model of navigation, k = i + s, through every way of asking for pixels."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuio.base import BufferedBackend, DirectBackend, MMapBackend, TilingScheme
from gpuio.shape import Shape
from tests.pipeline.plain_files import PlainFiles, random_frames, write_files

pytestmark = pytest.mark.filterwarnings("ignore:.*partitions were asked for:RuntimeWarning")

DTYPES = ["u1", "<u2", ">u2", "<i2", ">i4", "<u4", ">u8", "<f4", ">f4", "<f8", ">f8", "<c8", ">c8", "<f2"]
BACKENDS = {"mmap": MMapBackend, "buffered": BufferedBackend, "direct": DirectBackend}


@st.composite
def scans(draw):
    counts = draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))
    n = sum(counts)
    return {
        "counts": counts,
        "sig": draw(st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)),
        "nav": draw(st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)),
        "dtype": draw(st.sampled_from(DTYPES)),
        "sync_offset": draw(st.integers(-n + 1, n - 1)),
        "file_header": draw(st.integers(0, 33)),
        "frame_header": draw(st.integers(0, 33)),
        "frame_footer": draw(st.integers(0, 17)),
        "tail": draw(st.integers(0, 40)),
        "num_partitions": draw(st.integers(1, 6)),
        "seed": draw(st.integers(0, 2**32 - 1)),
        "roi": draw(st.sampled_from(["none", "random", "empty", "full"])),
        "depth": draw(st.integers(1, 8)),
        "backend": draw(st.sampled_from(sorted(BACKENDS))),
        "dest": draw(st.sampled_from(["native", "f4", "f8"])),
    }


class Truth:
    """What the model says, worked out frame by frame."""

    def __init__(self, frames: np.ndarray, nav: tuple[int, ...], sync_offset: int, roi: np.ndarray | None) -> None:
        positions = np.arange(int(np.prod(nav))) if roi is None else np.flatnonzero(roi.ravel())
        self.frame_of = [i + sync_offset if 0 <= i + sync_offset < len(frames) else None for i in positions.tolist()]
        self.positions = positions
        self.frames = frames

    def array(self, dtype: np.dtype) -> np.ndarray:
        with np.errstate(all="ignore"), pytest.MonkeyPatch.context():
            out = np.zeros((len(self.frame_of), *self.frames.shape[1:]), dtype)
            for j, k in enumerate(self.frame_of):
                if k is not None:
                    out[j] = cast(self.frames[k], dtype)
        return out


def cast(frame: np.ndarray, dtype: np.dtype) -> np.ndarray:
    native = frame.astype(frame.dtype.newbyteorder("="))
    return (native.real if native.dtype.kind == "c" and np.dtype(dtype).kind != "c" else native).astype(dtype)


def build(folder: Path, s: dict) -> tuple[PlainFiles, np.ndarray, np.ndarray | None, np.dtype, np.random.Generator]:
    rng = np.random.default_rng(s["seed"])
    dtype = np.dtype(s["dtype"])
    frames = random_frames(rng, sum(s["counts"]), s["sig"], dtype)
    paths = write_files(folder, frames, s["counts"], s["file_header"], s["frame_header"], s["frame_footer"], rng, s["tail"])
    ds = PlainFiles(paths, s["counts"], dtype, s["sig"], s["nav"], s["sync_offset"], s["file_header"], s["frame_header"],
                    s["frame_footer"], BACKENDS[s["backend"]](), s["num_partitions"]).initialize()
    ds = ds.to("cpu")
    roi = {"none": None, "empty": np.zeros(s["nav"], bool), "full": np.ones(s["nav"], bool),
           "random": rng.integers(0, 2, s["nav"]).astype(bool)}[s["roi"]]
    dest = ds.dtype if s["dest"] == "native" else np.dtype(s["dest"])
    return ds, frames, roi, dest, rng


relaxed = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@relaxed
@given(scans(), st.data())
def test_partition_tiles_follow_the_model(s, data):
    with tempfile.TemporaryDirectory() as folder:
        ds, frames, roi, dest, _ = build(Path(folder), s)
        truth = Truth(frames, s["nav"], s["sync_offset"], roi)
        expected = truth.array(dest)
        tileshape = tuple(data.draw(st.integers(1, n), label="tile") for n in s["sig"])
        scheme = TilingScheme.make_for_shape(Shape((s["depth"], *tileshape), sig_dims=len(s["sig"])), ds.shape)
        seen = np.zeros(expected.shape, dtype=int)
        for part in ds.get_partitions():
            for tile in part.get_tiles(scheme, dest_dtype=dest, roi=roi):
                where = tile.tile_slice.get()
                np.testing.assert_array_equal(np.asarray(tile.data), expected[where])
                assert tile.data.dtype == dest and tile.shape[0] <= s["depth"]
                seen[where] += 1
        has_data = np.array([k is not None for k in truth.frame_of], dtype=int).reshape(-1, *[1] * len(s["sig"]))
        np.testing.assert_array_equal(seen, np.broadcast_to(has_data, seen.shape))      # each pixel with data exactly once


@relaxed
@given(scans())
def test_macrotiles_have_the_promised_shape_and_zeros_for_blanks(s):
    with tempfile.TemporaryDirectory() as folder:
        ds, frames, roi, dest, _ = build(Path(folder), s)
        expected = Truth(frames, s["nav"], s["sync_offset"], roi).array(dest)
        reached = 0
        for part in ds.get_partitions():
            tile = part.get_macrotile(dest_dtype=dest, roi=roi)
            assert tile.tile_slice.origin[0] == reached
            np.testing.assert_array_equal(np.asarray(tile.data), expected[reached:reached + tile.shape[0]])
            reached += tile.shape[0]
        assert reached == len(expected)


@relaxed
@given(scans(), st.sampled_from([0, 2]))
def test_streams_follow_the_model(s, threads):
    with tempfile.TemporaryDirectory() as folder:
        ds, frames, roi, dest, _ = build(Path(folder), s)
        truth = Truth(frames, s["nav"], s["sync_offset"], roi)
        expected = truth.array(dest)
        seen = np.zeros(len(expected), dtype=int)
        for tile in ds.tiles(dtype=dest, roi=roi, depth=s["depth"], threads=threads):
            where = tile.tile_slice.get(nav_only=True)
            np.testing.assert_array_equal(np.asarray(tile.data), expected[where])
            seen[where] += 1
        np.testing.assert_array_equal(seen, [k is not None for k in truth.frame_of])


@relaxed
@given(scans(), st.data())
def test_indexing_is_that_of_the_array(s, data):
    with tempfile.TemporaryDirectory() as folder:
        ds, frames, _, _, rng = build(Path(folder), s)
        full = Truth(frames, s["nav"], s["sync_offset"], None).array(ds.dtype).reshape(*s["nav"], *s["sig"])
        np.testing.assert_array_equal(ds[...], full)

        def entry(n):
            return data.draw(st.one_of(st.integers(-n, n - 1), st.slices(n), st.just(slice(None, None, -1))))

        key = tuple(entry(n) for n in full.shape)
        np.testing.assert_array_equal(ds[key], full[key])
        mask = rng.integers(0, 2, s["nav"]).astype(bool)
        np.testing.assert_array_equal(ds[mask], full[mask])
        picks = rng.integers(0, s["nav"][0], 5).tolist()
        np.testing.assert_array_equal(ds[picks], full[picks])
        np.testing.assert_array_equal(ds[[]], full[[]])
        np.testing.assert_array_equal(ds.blank().ravel(), [k is None for k in Truth(frames, s["nav"], s["sync_offset"], None).frame_of])
