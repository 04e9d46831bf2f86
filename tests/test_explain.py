"""What `explain` says of this machine, and of machines that are made up: every reason by itself, the plan against what is really read."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

import gpuio
from gpuio import ceilings, explain
from gpuio.engine import get_engine
from gpuio.errors import MemoryBudgetError, ShapeError
from gpuio.explain import ASSUMED, Facts, size_text
from gpuio.io import gds
from gpuio.io.backends import BufferedBackend, DirectBackend, GDSBackend, IOBackend, MMapBackend
from gpuio.io.base import Extent
from gpuio.io.gds import Machine
from gpuio.sizing import parse_bytes

NAV, SIG = (7, 13), (11, 17)
FRAME_BYTES = 2 * 11 * 17


#: A machine where nothing stands against GPUDirect Storage.
IDEAL = Facts(device="cuda:0", no_cuda=None, transport=BufferedBackend(), cold=True, why="made up", file_system="ext4", resident=0.0,
              drive="nvme0n1", machine=Machine())


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 60000, (*NAV, *SIG)).astype(np.uint16)


@pytest.fixture
def raw(tmp_path: Path, frames: np.ndarray) -> Any:
    """A data set of frames with 19 bytes before each, in big-endian order."""
    path = tmp_path / "scan.bin"
    path.write_bytes(b"".join(b"h" * 19 + frame.astype(">u2").tobytes() for frame in frames.reshape(-1, *SIG)))
    return gpuio.load("raw", path=path, dtype=">u2", nav_shape=NAV, sig_shape=SIG, frame_header=19, device="cpu")


@pytest.fixture
def aligned(tmp_path: Path) -> Any:
    """A data set in which every frame is a page."""
    path = tmp_path / "pages.bin"
    path.write_bytes(np.random.default_rng(6).bytes(23 * 4096))
    return gpuio.load("raw", path=path, dtype="u1", nav_shape=(23,), sig_shape=(64, 64), device="cpu")


def reasons(ds: Any, facts: Facts, name: str) -> set[str]:
    return set(ds.explain(facts=facts).why_not.get(name, ()))


# ---- why not a better way ------------------------------------------------------------------------------------------------


def test_nothing_stands_against_gpudirect_on_an_ideal_machine(aligned: Any) -> None:
    assert reasons(aligned, IDEAL, "gds") == {"nothing on this machine stands against it"}
    assert reasons(aligned, IDEAL, "cuda") == set()


@pytest.mark.parametrize(("changes", "said"), [
    ({"device": "cpu"}, "pixels are decoded on the CPU"),
    ({"file_system": "tmpfs"}, "file system tmpfs: GPUDirect Storage reads ext4 and xfs"),
    ({"file_system": "overlay"}, "file system overlay: GPUDirect Storage reads ext4 and xfs"),
    ({"file_system": "smb3"}, "network file system smb3: GPUDirect Storage reads ext4 and xfs"),
    ({"file_system": "lustre"}, "file system lustre: it takes part only with its own GPUDirect support"),
    ({"drive": "vda"}, "drive vda: direct transfers need NVMe drives"),
    ({"machine": Machine(no_kvikio="kvikio is on holiday")}, "kvikio is on holiday"),
    ({"machine": Machine(mode="on")}, "kvikio is told to use its compatibility mode; unset KVIKIO_COMPAT_MODE"),
    ({"machine": Machine(has_nvidia_fs=False)}, "the kernel module nvidia-fs is not loaded"),
    ({"machine": Machine(has_udev=False)}, "udev's database /run/udev/data cannot be read"),
    ({"resident": 0.87}, "87% of the places looked at are in the page cache"),
])
def test_each_obstacle_to_gpudirect_is_named_alone(aligned: Any, changes: dict[str, Any], said: str) -> None:
    (reason,) = reasons(aligned, replace(IDEAL, **changes), "gds")
    assert reason.startswith(said)


def test_all_obstacles_are_named_together(aligned: Any) -> None:
    facts = replace(IDEAL, device="cpu", file_system="tmpfs", machine=Machine("no kvikio", "auto", False, False))
    assert len(reasons(aligned, facts, "gds")) == 5


def test_extents_that_are_not_aligned_are_counted(raw: Any) -> None:
    found = raw.explain(facts=IDEAL, memory=3 * 40 * FRAME_BYTES, depth=9)
    assert found.why_not["gds"] == (f"{found.extents} of {found.extents} extents are not aligned to 4096 bytes; "
                                    "they would be read with their surroundings",)
    assert found.extents == found.unaligned_extents > 1


def test_gpudirect_in_use_needs_no_excuse(raw: Any) -> None:
    found = raw.explain(facts=replace(IDEAL, transport=GDSBackend()))
    assert "gds" not in found.why_not
    assert found.transport == "gds"
    assert found.unaligned_extents == 0, "the plan of an aligned transport is aligned"


def test_why_there_is_no_gpu_is_said_in_the_words_of_the_engine(raw: Any) -> None:
    assert reasons(raw, replace(IDEAL, device="cpu", no_cuda="the driver is on holiday"), "cuda") == {"the driver is on holiday"}


def test_a_gpu_that_was_not_wanted_is_told_from_one_that_is_missing(raw: Any) -> None:
    (reason,) = reasons(raw, replace(IDEAL, device="cpu"), "cuda")
    assert reason.startswith("the CPU was asked for")


def test_unbuffered_reads_are_refused_in_the_words_of_the_transport(raw: Any) -> None:
    assert reasons(raw, replace(IDEAL, no_direct="refuses"), "direct") == {"refuses"}
    (reason,) = reasons(raw, IDEAL, "direct")
    assert "only if asked for" in reason
    assert reasons(raw, replace(IDEAL, transport=DirectBackend()), "direct") == set()


@pytest.mark.parametrize(("changes", "said"), [
    ({}, "page-locked"), ({"device": "cpu"}, "not in the page cache"), ({"device": "cpu", "resident": None}, "not in the page"),
    ({"device": "cpu", "cold": False, "resident": None}, "not in the page"), ({"device": "cpu", "cold": False, "resident": 0.99}, "not in"),
    ({"device": "cpu", "cold": False, "resident": 1.0}, "only if asked for"),
])
def test_why_files_are_not_mapped(raw: Any, changes: dict[str, Any], said: str) -> None:
    (reason,) = reasons(raw, replace(IDEAL, **changes), "mmap")
    assert said in reason


def test_mapped_files_need_no_excuse(raw: Any) -> None:
    assert reasons(raw, replace(IDEAL, device="cpu", transport=MMapBackend()), "mmap") == set()


# ---- the machine ---------------------------------------------------------------------------------------------------------


def test_facts_of_this_machine_are_asked_for(raw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain, "why_no_cuda", lambda number: f"no device {number}")
    monkeypatch.setattr(explain.gds, "place", lambda path: ("zfs", "sdz") if path == raw.files[0] else None)
    monkeypatch.setattr(explain, "resident_fraction", lambda path: 0.25)
    monkeypatch.setattr(DirectBackend, "unavailable", lambda self, path: f"not {path}")
    monkeypatch.setattr(Machine, "here", lambda: Machine("no kvikio"))
    monkeypatch.setattr(type(raw), "_transport", lambda self: (BufferedBackend(), True, "because"))
    assert Facts.of(raw) == Facts(device="cpu", no_cuda="no device 0", transport=BufferedBackend(), cold=True, why="because",
                                  file_system="zfs", resident=0.25, no_direct=f"not {raw.files[0]}", drive="sdz",
                                  machine=Machine("no kvikio"))
    monkeypatch.setattr(explain, "resident_fraction", lambda path: None)
    assert Facts.of(raw).resident is None


def test_what_was_asked_for_and_cannot_be_used_is_told(raw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GDSBackend, "unavailable", lambda self, path: f"not for {path}")
    raw._io_backend = GDSBackend()
    assert raw.explain().why == f"asked for, but it cannot be used: not for {raw.files[0]}"


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets that are cold, on an NVMe drive of a machine with GPUDirect Storage, and take a GPU that is not there."""
    monkeypatch.setattr("gpuio.io.choice.resident_fraction", lambda path, size, places: 0.0)
    monkeypatch.setattr(gds, "place", lambda path: ("ext4", "nvme0n1"))
    monkeypatch.setattr(gds, "why_no_cuda", lambda number: None)
    monkeypatch.setattr(Machine, "here", Machine)
    monkeypatch.setattr(gpuio.DataSet, "device", "cuda:0")


@pytest.mark.usefixtures("on_gpu")
def test_data_sets_on_a_gpu_take_what_their_files_allow(raw: Any, aligned: Any, tmp_path: Path) -> None:
    tiny, fortran = tmp_path / "tiny.raw", tmp_path / "fortran.npy"
    tiny.write_bytes(bytes(300))
    np.save(fortran, np.asfortranarray(np.ones((3, 5, 7, 11), "u2")))
    small = gpuio.load("raw", path=tiny, dtype="u1", nav_shape=(3,), sig_shape=(10, 10))
    assert {name: ds._transport()[0].id for name, ds in {
        "frames of a page": aligned, "frames of 374 bytes": raw, "frames of 100 bytes": small, "gathered": gpuio.open(fortran)}.items()
    } == {"frames of a page": "gds", "frames of 374 bytes": "buffered", "frames of 100 bytes": "buffered", "gathered": "buffered"}
    with h5py.File(tmp_path / "chunks.h5", "w") as file:
        file.create_dataset("data", data=np.ones((3, 5, 64, 64), "u2"), chunks=(1, 1, 64, 64), compression="gzip")
    found = gpuio.open(tmp_path / "chunks.h5")._transport()
    assert found[0].id == "buffered" and "not GPUDirect Storage: frames are stored in chunks" in found[2]
    found = aligned.explain()
    assert (found.transport, found.page_locked, found.memory_bytes) == ("gds", False, 0)
    assert found.why == "file system ext4: 0% of the places looked at are in the page cache; from storage into device memory"
    other = raw.explain()
    assert (other.transport, other.page_locked) == ("buffered", True) and other.memory_bytes > 0
    assert "frames of 374 bytes are smaller" in other.why
    assert "buffered, through page-locked memory: file system" in str(other)


def test_without_made_up_facts_this_machine_is_explained(raw: Any) -> None:
    found = raw.explain(dtype="float32")
    transport, _, _ = raw._transport()
    assert (found.device, found.transport, found.frames, found.n_files) == ("cpu", transport.id, 91, 1)
    assert found.why_not["cuda"]
    assert "pixels are decoded on the CPU" in found.why_not["gds"]


# ---- the plan, against what is really read ------------------------------------------------------------------------------


class Recording(BufferedBackend):
    """Keeps the extents that are read."""

    seen: list[Extent]

    def open(self, paths: Sequence[str], sizes: Sequence[int | None]) -> Any:
        reader, seen, lock = super().open(paths, sizes), self.seen, threading.Lock()
        read = reader.read

        def recorded(extents: Sequence[Extent], into: Any) -> None:
            with lock:
                seen.extend(extents)
            read(extents, into)

        reader.read = recorded  # type: ignore[method-assign]
        return reader


@pytest.fixture
def recorded(raw: Any) -> Any:
    raw._io_backend = Recording()
    object.__setattr__(raw._io_backend, "seen", [])
    return raw


@pytest.mark.parametrize("options", [
    {}, {"dtype": "float32", "depth": 5, "memory": 30 * FRAME_BYTES}, {"roi": np.random.default_rng(3).random(NAV) < 0.3},
    {"roi": np.random.default_rng(4).random(NAV) < 0.9, "depth": 2, "memory": 20 * FRAME_BYTES},
], ids=["all", "small", "few", "many"])
def test_extents_bytes_and_tiles_are_those_of_the_stream(recorded: Any, options: dict[str, Any]) -> None:
    found = recorded.explain(**options)
    assert recorded._io_backend.seen == [], "explaining reads nothing"
    tiles = [len(tile) for tile in recorded.tiles(**options)]
    seen = recorded._io_backend.seen
    assert found.extents == len(seen)
    assert found.read_bytes == sum(size for _, _, size, _ in seen)
    assert found.frames == sum(tiles)
    assert found.needed_bytes == found.frames * FRAME_BYTES
    assert max(tiles) <= found.tile_frames
    assert found.tile_bytes == found.tile_frames * 11 * 17 * np.dtype(options.get("dtype", "u2")).itemsize
    assert found.memory_bytes <= found.memory_budget == parse_bytes(options.get("memory"))
    assert found.amplification == found.read_bytes / found.needed_bytes


def test_headers_between_frames_are_read_along_and_counted(raw: Any) -> None:
    found = raw.explain(facts=replace(IDEAL, cold=False))
    assert (found.extents, found.needed_bytes, found.read_bytes) == (1, 91 * FRAME_BYTES, 91 * FRAME_BYTES + 90 * 19)


def test_a_selection_of_nothing_needs_nothing(raw: Any) -> None:
    found = raw.explain(roi=np.zeros(NAV, bool))
    assert (found.frames, found.extents, found.needed_bytes, found.read_bytes) == (0, 0, 0, 0)
    assert (found.amplification, found.expected_GB_per_s) == (1.0, 0.0)


def test_an_array_with_navigation_fastest_is_gathered_from_passes(tmp_path: Path, frames: np.ndarray) -> None:
    path = tmp_path / "fortran.npy"
    np.save(path, np.asfortranarray(frames))
    ds = gpuio.open(path, device="cpu")
    whole = ds.explain()
    assert (whole.extents, whole.needed_bytes, whole.read_bytes) == (None, 91 * FRAME_BYTES, 91 * FRAME_BYTES)
    passes = -(-91 // ds.explain(memory=30 * FRAME_BYTES, depth=3).block_frames)
    assert passes > 1
    assert ds.explain(memory=30 * FRAME_BYTES, depth=3).read_bytes == passes * 91 * FRAME_BYTES
    assert "gathered, at most" in str(whole)


def test_what_cannot_be_streamed_cannot_be_explained(raw: Any) -> None:
    with pytest.raises(MemoryBudgetError, match="bytes are needed"):
        raw.explain(memory=100)
    with pytest.raises(ShapeError):
        raw.explain(roi=np.ones((3, 3), bool))
    with pytest.raises(TypeError, match="surprise"):
        raw.explain(surprise=1)


# ---- the model -----------------------------------------------------------------------------------------------------------

READ, NEEDED, OUT = 91 * FRAME_BYTES + 90 * 19, 91 * FRAME_BYTES, 91 * 11 * 17 * 4


@pytest.mark.parametrize(("changes", "stages"), [
    ({}, {"storage": READ, "host to device": READ, "decoding on the GPU": NEEDED + OUT}),
    ({"file_system": "nfs4"}, {"network storage": READ, "host to device": READ, "decoding on the GPU": NEEDED + OUT}),
    ({"cold": False, "resident": 1.0}, {"page cache": READ, "host to device": READ, "decoding on the GPU": NEEDED + OUT}),
    ({"cold": False, "resident": None}, {"page cache": READ, "host to device": READ, "decoding on the GPU": NEEDED + OUT}),
    ({"cold": False, "resident": 0.5}, {"page cache": READ, "host to device": READ, "decoding on the GPU": NEEDED + OUT}),
    ({"cold": False, "resident": 0.49}, {"storage": READ, "host to device": READ, "decoding on the GPU": NEEDED + OUT}),
    ({"device": "cpu", "cold": False, "resident": 1.0}, {"page cache": READ, "decoding on the CPU": OUT}),
    ({"device": "cpu", "cold": False, "resident": 1.0, "transport": MMapBackend()}, {"decoding on the CPU": OUT}),
    ({"device": "cpu", "cold": False, "resident": 0.0, "transport": MMapBackend()}, {"storage": READ, "decoding on the CPU": OUT}),
    ({"device": "cpu"}, {"storage": READ, "decoding on the CPU": OUT}),
])
def test_stages_move_the_bytes_of_the_plan(raw: Any, changes: dict[str, Any], stages: dict[str, int]) -> None:
    found = raw.explain(dtype="float32", facts=replace(IDEAL, **changes))
    assert {stage.name: stage.n_bytes for stage in found.stages} == stages
    assert all(stage.GB_per_s == ASSUMED[stage.name] and not stage.measured for stage in found.stages)


def test_direct_reads_always_come_from_storage(aligned: Any) -> None:
    facts = replace(IDEAL, transport=DirectBackend(), cold=False, resident=1.0)
    assert aligned.explain(facts=facts).stages[0].name == "storage"


def test_gpudirect_leaves_out_the_host(aligned: Any) -> None:
    found = aligned.explain(facts=replace(IDEAL, transport=GDSBackend(), cold=False, resident=1.0))
    assert [stage.name for stage in found.stages] == ["storage", "decoding on the GPU"]


def test_stages_at_the_same_time_cost_the_slowest_others_their_sum(raw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, rate in {"page cache": 2.0, "decoding on the CPU": 0.5, "host to device": 1.0, "decoding on the GPU": 100.0}.items():
        monkeypatch.setitem(ASSUMED, name, rate)
    warm = replace(IDEAL, cold=False, resident=1.0)
    on_gpu = raw.explain(dtype="float32", facts=warm)
    assert on_gpu.overlapping
    assert on_gpu.bottleneck == "host to device"
    assert on_gpu.expected_GB_per_s == pytest.approx(NEEDED / READ)
    on_cpu = raw.explain(dtype="float32", facts=replace(warm, device="cpu"))
    assert not on_cpu.overlapping
    assert on_cpu.bottleneck == "decoding on the CPU"
    assert on_cpu.expected_GB_per_s == pytest.approx(NEEDED / (READ / 2 + OUT / 0.5))
    threaded = raw.explain(dtype="float32", facts=replace(warm, device="cpu"), threads=3)
    assert not threaded.overlapping, "each thread reads for itself"
    assert threaded.decode_threads == 3
    assert threaded.expected_GB_per_s == pytest.approx(3 * on_cpu.expected_GB_per_s)
    monkeypatch.setitem(ASSUMED, "storage", 3.0)
    cold = raw.explain(dtype="float32", facts=replace(IDEAL, device="cpu"), threads=3)
    assert cold.overlapping
    assert cold.expected_GB_per_s == pytest.approx(NEEDED / (OUT / 1.5))


# ---- measured ------------------------------------------------------------------------------------------------------------


def test_measured_ceilings_replace_what_was_assumed(raw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "reading", lambda *_: 3.5)
    monkeypatch.setattr(ceilings, "memory_copy", lambda: SimpleNamespace(rate=lambda: 7.0))
    monkeypatch.setattr(ceilings, "decoding", lambda layout, engine, dtype, depth, corrections: SimpleNamespace(rate=lambda: depth / 2))
    found = raw.explain(measure=True, depth=5, threads=2, facts=replace(IDEAL, device="cpu", cold=False, resident=1.0))
    assert found.measured == {"page cache": 3.5, "memory copy": 7.0, "storage": 3.5, "decoding on the CPU": 2.5}
    assert [(stage.name, stage.GB_per_s, stage.measured) for stage in found.stages] == [
        ("page cache", 7.0, True), ("decoding on the CPU", 5.0, True)]
    assert "memory copy: 7 GB/s" in str(found)


@pytest.mark.parametrize(("changes", "expected"), [
    ({"cold": False, "resident": 1.0}, {"page cache": "buffered", "storage": "direct"}),
    ({"cold": False, "resident": 1.0, "file_system": "nfs4"}, {"page cache": "buffered", "network storage": "direct"}),
    ({"cold": False, "resident": 1.0, "no_direct": "refuses"}, {"page cache": "buffered"}),
    ({"cold": True}, {"storage": "buffered"}),
])
def test_storage_is_measured_past_the_page_cache(
        raw: Any, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], expected: dict[str, str]) -> None:
    rates = {"buffered": 4.0, "direct": 2.0}
    monkeypatch.setattr(ceilings, "reading", lambda layout, engine, transport, frames, edges, sizes: rates[transport.id])
    found = raw.explain(measure=True, facts=replace(IDEAL, device="cpu", **changes))
    assert {name: rate for name, rate in found.measured.items() if name in ("page cache", "storage", "network storage")} == {
        name: rates[transport] for name, transport in expected.items()}


def test_storage_is_read_as_it_would_be_cold(raw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if (reason := DirectBackend().unavailable(raw.files[0])) is not None:
        pytest.skip(reason)
    asked: list[tuple[int, int]] = []
    real = ceilings.reading

    def reading(layout: Any, engine: Any, transport: Any, frames: Any, edges: Any, sizes: Any) -> Any:
        if transport.id == "direct":
            asked.append((sizes.read_threads, int(edges[-1])))
        return real(layout, engine, transport, frames, edges, sizes)

    monkeypatch.setattr(ceilings, "reading", reading)
    found = raw.explain(measure=True, facts=replace(IDEAL, device="cpu", cold=False, resident=1.0))
    assert asked == [(8, 91)] and found.measured["storage"] > 0


def test_ceilings_of_this_machine_are_rates(raw: Any) -> None:
    found = raw.explain(measure=True, dtype="float32")
    assert {"memory copy", "decoding on the CPU"} < set(found.measured)
    assert all(0 < rate < 1e5 for rate in found.measured.values())


@pytest.mark.parametrize("backend", [BufferedBackend(), MMapBackend()])
def test_reading_is_sampled_in_the_middle_and_bounded(recorded: Any, monkeypatch: pytest.MonkeyPatch, backend: IOBackend) -> None:
    monkeypatch.setattr(ceilings, "BufferedBackend", lambda: recorded._io_backend)
    monkeypatch.setattr(ceilings, "SAMPLE_BYTES", 20 * FRAME_BYTES)
    options: dict[str, Any] = {"memory": 100 * FRAME_BYTES, "depth": 4, "measure": True, "dtype": "float32"}
    if isinstance(backend, MMapBackend):
        monkeypatch.setattr("gpuio.sizing.MAPPED_BLOCK_BYTES", 8 * FRAME_BYTES)
        recorded._transport = lambda: (backend, False, "asked for")
    else:
        monkeypatch.setattr("gpuio.sizing.WARM_BLOCK_BYTES", 8 * FRAME_BYTES)
    found = recorded.explain(**options)
    seen = recorded._io_backend.seen
    sizes = [size for _, _, size, _ in seen]
    assert 10 * FRAME_BYTES < sum(sizes) <= 20 * FRAME_BYTES + 400
    assert min(offset for _, offset, _, _ in seen) > found.read_bytes // 4
    assert max(offset + size for _, offset, size, _ in seen) < found.read_bytes * 3 // 4


def test_frames_that_are_gathered_are_not_sampled(tmp_path: Path, frames: np.ndarray) -> None:
    path = tmp_path / "fortran.npy"
    np.save(path, np.asfortranarray(frames))
    found = gpuio.open(path, device="cpu").explain(measure=True)
    assert set(found.measured) == {"memory copy", "decoding on the CPU"}


def test_decoding_is_measured_with_what_the_stream_would_do(raw: Any) -> None:
    corrections = gpuio.CorrectionSet(dark=np.ones(SIG, "f4"), gain=np.full(SIG, 2, "f4"))
    passes = [ceilings.decoding(raw.layout, raw.engine, np.dtype("f4"), 3, corrections),
              ceilings.decoding(raw.layout, raw.engine, np.dtype("f4"), 3, corrections, frames=8),
              ceilings.host_to_device(get_engine("cpu")), ceilings.memory_copy()]
    for one in passes:
        one.once()
    assert [one.n_bytes for one in passes] == [3 * 11 * 17 * 4, 8 * 11 * 17 * 4, ceilings.COPY_BYTES, ceilings.COPY_BYTES]


def test_a_rate_is_bytes_by_the_median_of_passes_that_last_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def takes(seconds: float) -> Any:
        def run() -> None:
            nonlocal now
            now += seconds

        return run

    monkeypatch.setattr(ceilings.time, "perf_counter", lambda: now)
    assert ceilings.Pass(10_000_000, takes(0.002)).rate() == pytest.approx(5.0)
    assert ceilings.Pass(10_000_000, takes(0.002), takes(0.004)).rate() == pytest.approx(10 / 6), "waiting counts"


# ---- how it is told ------------------------------------------------------------------------------------------------------


def test_the_text_tells_every_reason_and_every_stage(raw: Any) -> None:
    found = raw.explain(facts=replace(IDEAL, device="cpu", no_cuda="none here", machine=Machine("no kvikio")))
    text = str(found)
    for reason in (reason for group in found.why_not.values() for reason in group):
        assert reason in text
    assert all(stage.name in text for stage in found.stages)
    assert raw.files[0] in text
    assert f"{found.extents} extents" in text
    assert text.splitlines()[-1].endswith(f"the slowest is {found.bottleneck}")


def test_a_dictionary_has_the_same_facts_as_plain_values(raw: Any) -> None:
    found = raw.explain(facts=IDEAL)
    plain = json.loads(json.dumps(found.to_dict()))
    assert (plain["extents"], plain["device"], plain["bottleneck"]) == (found.extents, "cuda:0", found.bottleneck)
    assert plain["why_not"] == {name: list(group) for name, group in found.why_not.items()}
    assert [stage["seconds"] for stage in plain["stages"]] == [stage.seconds for stage in found.stages]


@pytest.mark.parametrize(("n_bytes", "text"), [
    (0, "0 bytes"), (1023, "1023 bytes"), (1024, "1 KiB"), (3 << 20, "3 MiB"), (5 << 40, "5 TiB"),
])
def test_sizes_have_binary_units(n_bytes: int, text: str) -> None:
    assert size_text(n_bytes) == text


@pytest.mark.parametrize(("device", "packing", "stages"), [
    ("cpu", "bitshuffle", ("page cache", "unpacking on the CPU", "decoding on the CPU")),
    ("cuda:0", "gzip", ("page cache", "host to device", "decoding on the GPU")),
    ("cuda:0", "bitshuffle", ("page cache", "host to device", "decoding on the GPU")),
])
def test_packed_chunks_travel_packed_if_the_device_unpacks_them(tmp_path: Path, device: str, packing: str,
                                                                stages: tuple[str, ...]) -> None:
    pixels = np.random.default_rng(1).poisson(3, (40, 13, 11)).astype("u2")
    path = str(tmp_path / "scan.h5")
    gpuio.synth.write("hdf5", path, [pixels], nav_shape=(5, 8), sig_shape=(13, 11), packing=packing, chunks=(1, 2, 13, 11))
    facts = replace(IDEAL, device=device, cold=False, resident=1.0)
    explanation = gpuio.open(path, device="cpu").explain(facts=facts)
    assert tuple(stage.name for stage in explanation.stages) == stages
    moved = {stage.name: stage.n_bytes for stage in explanation.stages}
    stored = gpuio.open(path, device="cpu").metadata["stored_bytes"]
    assert explanation.needed_bytes == stored <= moved["page cache"] == explanation.read_bytes
    assert moved.get("unpacking on the CPU", pixels.nbytes) == pixels.nbytes
    if device != "cpu":
        assert moved["host to device"] == explanation.read_bytes


def test_chunks_that_only_the_library_unpacks_travel_unpacked(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).poisson(3, (5, 8, 13, 11)).astype("u2")
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file.create_dataset("data", data=pixels, chunks=(1, 2, 13, 11), **hdf5plugin.Zstd())
    explanation = gpuio.open(tmp_path / "scan.h5", device="cpu").explain(facts=replace(IDEAL, cold=False, resident=1.0))
    moved = {stage.name: stage.n_bytes for stage in explanation.stages}
    assert tuple(moved) == ("page cache", "unpacking on the CPU", "host to device", "decoding on the GPU")
    assert moved["unpacking on the CPU"] == moved["host to device"] == pixels.nbytes


@pytest.mark.parametrize(("transport", "words"), [("mmap", "none decode: tiles are views of the mapped file"),
                                                  ("buffered", "none decode: tiles are pixels as they are stored")])
def test_where_nothing_is_decoded_no_thread_is_said_to_do_it(tmp_path: Path, transport: str, words: str) -> None:
    frames = np.random.default_rng(12).integers(1, 99, (3, 5, 11, 7), dtype=np.uint16)
    np.save(tmp_path / "scan.npy", frames)
    ds = gpuio.open(tmp_path / "scan.npy", device="cpu", io_backend=gpuio.IOBackend.get_cls_by_id(transport)())
    plain = ds.explain(threads=2)
    assert plain.as_stored and plain.decode_threads == 0 and words in str(plain)
    assert ("decoding on the CPU" in {stage.name for stage in plain.stages}) == (transport == "buffered")
    assert plain.expected_GB_per_s > 0
    running, stream = threading.active_count(), ds.tiles(threads=2)
    first = next(stream)
    assert threading.active_count() == running
    np.testing.assert_array_equal(first.data, frames.reshape(15, 11, 7)[:len(first.data)])
    stream.close()
    for options in ({"dtype": "float32"}, {"bin_sig": 2}, {"corrections": gpuio.CorrectionSet(dark=np.ones((11, 7)))}):
        decoded = ds.explain(threads=2, **options)
        assert not decoded.as_stored and decoded.decode_threads == 2 and "2 decode ahead" in str(decoded)


def test_chunks_that_are_unpacked_again_and_again_are_told(tmp_path: Path) -> None:
    pixels = np.random.default_rng(13).poisson(3, (32, 32, 8, 8)).astype("u2")
    gpuio.synth.write("hdf5", tmp_path / "a.h5", [pixels.reshape(-1, 8, 8)], nav_shape=(32, 32), sig_shape=(8, 8), packing="gzip",
                      chunks=(8, 8, 8, 8))
    ds = gpuio.open(tmp_path / "a.h5", device="cpu")
    once = ds.explain()
    assert once.times_unpacked == once.amplification == 1 and "unpacked 1" not in str(once) and "\nchunks" not in str(once)
    again = ds.explain(memory="30 KiB", depth=1)
    assert again.times_unpacked == 8 and again.amplification > 7 and again.needed_bytes == once.needed_bytes == ds.metadata["stored_bytes"]
    assert "chunks        each unpacked 8 times: memory does not hold all" in str(again)
    (unpacking,) = (stage for stage in again.stages if stage.name == "unpacking on the CPU")
    assert unpacking.n_bytes == 8 * pixels.nbytes
