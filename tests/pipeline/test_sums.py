"""`summary`, `sum_sig` and `sum_nav`: one pass, exact, whatever way the frames take."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import gpuio
import gpuio.sums
from gpuio import config, synth
from gpuio.base import BufferedBackend, CorrectionSet, MMapBackend
from gpuio.errors import MemoryBudgetError, ReadError
from gpuio.prepare import sum_dtype
from tests.pipeline.plain_files import PlainFiles, random_frames, write_files

BACKENDS = [MMapBackend(), BufferedBackend()]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def plain_files(folder: Path, frames: np.ndarray, rng: np.random.Generator, backend, sync_offset: int = 0):
    """A data set of 4 x 5 frames in three files."""
    sizes, counts = {"file_header": 5, "frame_header": 3, "frame_footer": 1}, [7, 4, 9]
    paths = write_files(folder, frames, counts, rng=rng, **sizes)
    ds = PlainFiles(paths, counts, frames.dtype.str, frames.shape[1:], (4, 5), sync_offset, io_backend=backend, **sizes)
    return ds.initialize().to("cpu")


def check(ds, frames: np.ndarray, rng: np.random.Generator, **options) -> None:
    """Whole scan and a region of interest against NumPy; frames: [nav, *sig], whole numbers."""
    wide = sum_dtype(frames.dtype)
    nav, sig = tuple(ds.shape.nav), tuple(ds.shape.sig)
    scan, pattern = ds.summary(**options)
    assert scan.dtype == pattern.dtype == wide
    np.testing.assert_array_equal(scan, frames.reshape(len(frames), -1).sum(axis=1, dtype=wide).reshape(nav))
    np.testing.assert_array_equal(pattern, frames.sum(axis=0, dtype=wide).reshape(sig))
    roi = rng.random(nav) < 0.6
    chosen = frames[roi.ravel()]
    np.testing.assert_array_equal(ds.sum_sig(roi=roi, **options), chosen.reshape(len(chosen), -1).sum(axis=1, dtype=wide))
    np.testing.assert_array_equal(ds.sum_nav(roi=roi, **options), chosen.sum(axis=0, dtype=wide).reshape(sig))


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: type(backend).__name__)
@pytest.mark.parametrize("dtype", ["?", "u1", "<u2", ">u2", ">i4", "<f2", "<f4", ">f8", "<c8", ">c16"])
def test_sums_of_files_with_headers_and_footers(tmp_path: Path, rng: np.random.Generator, dtype: str, backend) -> None:
    frames = random_frames(rng, 20, (13, 17), np.dtype(dtype))
    if frames.dtype.kind in "fc":           # whole numbers, so that sums do not depend on the order
        frames = np.round(frames)
    check(plain_files(tmp_path, frames, rng, backend), frames.astype(frames.dtype.newbyteorder("=")), rng)


@pytest.mark.parametrize("options", [{"kind": "R1"}, {"kind": "R6"}, {"kind": "R12"}, {"kind": "R24"}, {"kind": "U16"},
                                     {"kind": "R12", "layout": "2x2"}], ids=str)
def test_sums_of_merlin_files(tmp_path: Path, rng: np.random.Generator, options: dict) -> None:
    side = 512 if "layout" in options else 256
    frames = rng.integers(0, 2 if options["kind"] == "R1" else 60, (6, side, side)).astype("u4")
    paths = synth.write("mib", str(tmp_path / "scan.mib"), [frames], nav_shape=(2, 3), sig_shape=(side, side), **options)
    ds = gpuio.load("mib", path=next(p for p in paths if p.endswith("mib")), nav_shape=(2, 3), device="cpu")
    check(ds, frames, rng)


def test_shifted_scans_have_zeros_where_no_frame_is(tmp_path: Path, rng: np.random.Generator) -> None:
    frames = random_frames(rng, 20, (13, 17), np.dtype("u2"))
    shifted = plain_files(tmp_path, frames, rng, None, sync_offset=3)
    check(shifted, np.concatenate((frames[3:], np.zeros_like(frames[:3]))), rng)


def test_corrections_crop_and_bins_come_before_the_sums(tmp_path: Path, rng: np.random.Generator) -> None:
    frames = random_frames(rng, 20, (13, 17), np.dtype("u1"))
    ds = plain_files(tmp_path, frames, rng, None)
    dark = rng.integers(1, 90, (13, 17)).astype("f4")
    check(ds, frames.astype("f4") - dark, rng, corrections=CorrectionSet(dark=dark))
    binned = frames[:, 1:13, 2:14].reshape(20, 4, 3, 4, 3).sum(axis=(2, 4), dtype="u8")
    check(ds.reduce(crop=(slice(1, 13), slice(2, 14)), bin_sig=3), binned, rng)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: type(backend).__name__)
@pytest.mark.parametrize("dtype", ["u1", ">u2", "<i4"])
def test_threads_share_whole_numbers_and_miss_none(tmp_path: Path, rng: np.random.Generator, dtype: str, backend) -> None:
    frames = random_frames(rng, 20, (13, 17), np.dtype(dtype))
    ds = plain_files(tmp_path, frames, rng, backend)
    for threads in (1, 2, 3, 7, 50):        # frames in several parts of several files, and fewer frames than threads
        check(ds, frames.astype(frames.dtype.newbyteorder("=")), rng, threads=threads)


def test_as_many_threads_add_as_are_asked_for(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = random_frames(rng, 20, (13, 17), np.dtype("u2"))
    ds = plain_files(tmp_path, frames, rng, BACKENDS[1])
    seen: set[int] = set()
    together = threading.Barrier(3)
    first = gpuio.sums._add_stored

    def added(*arguments):
        seen.add(threading.get_ident())
        together.wait(30)           # all three are running
        yield from first(*arguments)

    monkeypatch.setattr(gpuio.sums, "_add_stored", added)
    np.testing.assert_array_equal(ds.sum_nav(threads=3), frames.sum(axis=0, dtype="u8"))
    assert len(seen) == 3 and threading.get_ident() not in seen
    seen.clear()
    monkeypatch.setenv("GPUIO_THREADS", "3")
    config.forget()
    np.testing.assert_array_equal(ds.sum_nav(), frames.sum(axis=0, dtype="u8"))
    assert len(seen) == 3
    monkeypatch.delenv("GPUIO_THREADS")
    config.forget()


@pytest.mark.parametrize("way", ["as stored", "corrected", "reduced", "quad", "gathered", "chunks"])
def test_no_bit_depends_on_the_number_of_threads(tmp_path: Path, rng: np.random.Generator, way: str) -> None:
    options: dict = {}
    if way == "quad":
        frames = rng.integers(0, 4096, (6, 512, 512)).astype("u4")
        path = synth.write("mib", str(tmp_path / "scan.mib"), [frames], nav_shape=(2, 3), sig_shape=(512, 512), kind="R12", layout="2x2")[0]
        ds = gpuio.open(path, device="cpu")
    elif way in ("gathered", "chunks"):
        frames = rng.normal(0, 1e3, (4, 5, 13, 17)).astype("f4")
        if way == "gathered":
            np.save(tmp_path / "scan.npy", np.asfortranarray(frames))
        else:
            h5py = pytest.importorskip("h5py")
            with h5py.File(tmp_path / "scan.h5", "w") as file:
                file.create_dataset("data", data=frames, chunks=(2, 2, 13, 17), compression="gzip")
        ds = gpuio.open(tmp_path / ("scan.npy" if way == "gathered" else "scan.h5"), device="cpu")
    else:
        frames = rng.normal(0, 1e3, (20, 13, 17)).astype(">f4")
        ds = plain_files(tmp_path, frames, rng, BACKENDS[0], sync_offset=3)
        if way == "corrected":
            dark, gain = rng.normal(3, 1, (13, 17)), rng.normal(1, 0.2, (13, 17))
            options["corrections"] = CorrectionSet(dark=dark, gain=gain, excluded_pixels=rng.random((13, 17)) < 0.03)
        elif way == "reduced":
            ds = ds.reduce(bin_sig=2)
    roi = rng.random(tuple(ds.shape.nav)) < 0.7
    truth = [ds.summary(memory="1 MiB" if way != "quad" else "8 MiB", roi=some, **options) for some in (None, roi)]
    assert all(np.count_nonzero(found) for pair in truth for found in pair)
    for threads in (1, 2, 3, 8):
        for some, wanted in zip((None, roi), truth, strict=True):
            found = ds.summary(threads=threads, roi=some, **options)
            assert [a.tobytes() for a in found] == [a.tobytes() for a in wanted], threads


def test_what_stops_one_thread_stops_all_and_is_told(tmp_path: Path, rng: np.random.Generator) -> None:
    frames = random_frames(rng, 20, (13, 17), np.dtype("u2"))
    ds = plain_files(tmp_path, frames, rng, BACKENDS[1])
    before = threading.active_count()
    with pytest.raises(MemoryBudgetError, match=r"at least \d+ bytes are needed \(.*\), for each of 2 threads"):
        ds.sum_nav(memory=1000, threads=2)
    with pytest.raises(ValueError, match="threads=-1; expected no negative number"):
        ds.sum_nav(threads=-1)
    with pytest.raises(KeyError):           # of who is told
        ds.sum_nav(threads=2, progress=lambda done, total: {}[done])
    with open(ds.files[-1], "r+b") as file:
        file.truncate(100)
    with pytest.raises(ReadError, match="the file shrank"):
        ds.sum_nav(threads=4)
    assert threading.active_count() == before


def test_progress_ends_with_all_frames_and_memory_is_kept_to(tmp_path: Path, rng: np.random.Generator) -> None:
    for number, backend in enumerate(BACKENDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        frames = random_frames(rng, 20, (13, 17), np.dtype("u2"))
        ds = plain_files(folder, frames, rng, backend)
        seen: list[tuple[int, int]] = []
        pattern = ds.sum_nav(memory=8_000, progress=lambda done, total, seen=seen: seen.append((done, total)))
        np.testing.assert_array_equal(pattern, frames.sum(axis=0, dtype="u8"))
        assert seen[-1] == (20, 20) and [done for done, _ in seen] == sorted({done for done, _ in seen})
        assert number == 0 or len(seen) > 1           # what is mapped takes no memory
        seen.clear()
        ds.sum_nav(threads=3, progress=lambda done, total, seen=seen: seen.append((done, total)))
        assert seen[-1] == (20, 20) and [done for done, _ in seen] == sorted({done for done, _ in seen})


@pytest.mark.parametrize("threads", [0, 3])
@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: type(backend).__name__)
def test_frames_that_do_not_fit_the_cache_are_added_in_boxes(tmp_path: Path, rng: np.random.Generator, backend, threads: int,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpuio.sums, "BOX_BYTES", 300)
    monkeypatch.setattr("gpuio.access.PixelAccess.get_base_shape", lambda self, roi: (1, 5, 4), raising=False)
    frames = random_frames(rng, 20, (13, 17), np.dtype(">i4"))
    ds = plain_files(tmp_path, frames, rng, backend)
    monkeypatch.setattr(type(ds.engine), "frame_adder", lambda *a: None)
    boxes: list[tuple[int, ...]] = []
    adder = type(ds.engine).adder
    monkeypatch.setattr(type(ds.engine), "adder", lambda self, stack, *sums: boxes.append(stack.shape) or adder(self, stack, *sums))
    told: list[tuple[int, int]] = []
    check(ds, frames.astype("i4"), rng, threads=threads, progress=lambda done, total: told.append((done, total)))
    assert max(pixels for _, pixels in boxes) <= 300 // 4
    assert max(depth for depth, _ in boxes) == (8 if threads == 0 else 7)
    assert [step for step in told if step[1] == 20][-1:] == [(20, 20)]


def test_frames_are_added_eight_at_a_time_where_a_tile_would_hold_fewer(tmp_path: Path, rng: np.random.Generator,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpuio.sums, "CPU_TILE_BYTES", 13 * 17 * 4)
    frames = random_frames(rng, 20, (13, 17), np.dtype(">i4"))
    ds = plain_files(tmp_path, frames, rng, MMapBackend())
    monkeypatch.setattr(type(ds.engine), "frame_adder", lambda *a: None)
    depths: list[int] = []
    adder = type(ds.engine).adder
    monkeypatch.setattr(type(ds.engine), "adder", lambda self, stack, *sums: depths.append(len(stack)) or adder(self, stack, *sums))
    ds.summary()
    assert depths == [8, 8, 4]
    check(ds, frames.astype("i4"), rng)
    check(ds, frames.astype("i4"), rng, memory=13 * 17 * 4 * 4)


def test_a_k2is_capture_is_added_in_boxes(tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 4096, (11, 1860, 2048), dtype="u2")
    paths = synth.write("k2is", str(tmp_path / "scan.gtg"), iter([pixels]), nav_shape=(11,), sig_shape=(1860, 2048), scan=False)
    ds = gpuio.load("k2is", path=next(p for p in paths if p.endswith(".gtg")), device="cpu", nav_shape=(11,))
    check(ds, pixels, rng)
    check(ds.reduce(crop=((0, 1800), (100, 2000))), pixels[:, :1800, 100:2000], rng)
    check(ds, pixels, rng, memory="40 MiB")
