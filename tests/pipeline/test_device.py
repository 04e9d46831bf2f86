"""The stream on a device that does everything as late and as disorderly as it may: no pixel is wrong, and no wait is there for nothing."""

from __future__ import annotations

import ast
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuio import pipeline
from gpuio.base import BufferedBackend, TilingScheme
from gpuio.errors import MemoryBudgetError, ReadError
from gpuio.shape import Shape
from tests.kernels.cuda_on_host import HostRuntime, why_no_compiler
from tests.kernels.simulated import Array, Device, Stream, ToDevice, data_sets_on
from tests.pipeline import device_scenarios, engine_scenarios, knockouts
from tests.pipeline.device_scenarios import (
    PAGES,
    SIG,
    Files,
    Run,
    chunks_unpacked_on_the_device,
    everything,
    frames_read_into_an_array_of_the_consumer,
    navigation_fastest,
    tiles_on_streams_of_the_consumer,
)
from tests.pipeline.plain_files import PlainFiles, random_frames, write_files
from tests.pipeline.test_model import Truth, build, scans
from tests.test_imports import MODULES

SCENARIOS = [*device_scenarios.SCENARIOS, *engine_scenarios.SCENARIOS]
#: Knocked out, pixels stay right: these save waiting, since what is done inside waits for itself. By a scenario that shows it.
SAVINGS = {
    "blocks:BlockReader._fill: self._engine.computing()": navigation_fastest,
    "chunk_blocks:ChunkBlockReader._arrive: self._engine.computing()": chunks_unpacked_on_the_device,
    "pipeline:read_frames: engine.computing(joined=True)": frames_read_into_an_array_of_the_consumer,
}
SITES = [site for site in knockouts.sites() if str(site) not in SAVINGS]
SEEDS = range(1, 30)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files.write(tmp_path_factory.mktemp("device"))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
def test_every_pixel_is_right_in_whatever_order_things_happen(files: Files, scenario: Callable[[Run], None]) -> None:
    for seed in range(15):
        everything(scenario, files, seed)


@pytest.mark.parametrize("site", SITES, ids=str)
def test_without_any_one_wait_pixels_are_wrong(files: Files, site: knockouts.Site) -> None:
    with knockouts.without(site):
        for seed in SEEDS:
            for scenario in SCENARIOS:
                try:
                    everything(scenario, files, seed)
                except AssertionError:
                    return
    pytest.fail(f"{site} is not needed in any scenario; if it only saves waiting, SAVINGS has to say so")


@pytest.mark.parametrize("name", SAVINGS)
def test_a_context_that_no_pixel_needs_saves_waiting(files: Files, name: str) -> None:
    site = next(site for site in knockouts.sites() if str(site) == name)
    waits = everything(SAVINGS[name], files, 1).waits
    with knockouts.without(site):
        assert everything(SAVINGS[name], files, 1).waits > waits


def test_streams_and_events_are_handled_in_one_module() -> None:
    handles = {"wait_event", "ExternalStream", "get_current_stream", "synchronize", "PinnedMemory"}
    found = {module for module, path in MODULES.items() if module.startswith("gpuio") and "gpuio.synth" not in module
             for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Attribute) and node.attr in handles}
    assert found == {"gpuio.kernels._runtime"}
    named = {name for module in MODULES.values() for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
             if isinstance(node, ast.Attribute) and (name := node.attr) in knockouts.CALLS | {"landing"}}
    assert named == knockouts.CALLS | {"landing"}, "names that nobody calls any more"


@pytest.mark.skipif(why_no_compiler() is not None, reason=str(why_no_compiler()))
def test_the_cuda_sources_in_any_order(files: Files, tmp_path: Path) -> None:
    runtime = HostRuntime(tmp_path, kinds=lambda file: ["decode<swap<u16>, f32, f32, 0>"])
    for seed in range(15):
        everything(tiles_on_streams_of_the_consumer, files, seed, runtime.kernel)
    assert len(runtime.launches) > 100


# ---- the model of navigation, as in test_model.py ------------------------------------------------------------------------

pytestmark = pytest.mark.filterwarnings("ignore:.*partitions were asked for:RuntimeWarning")
relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
ways = st.fixed_dictionaries({"order": st.integers(0, 2**16), "to_device": st.booleans(), "frames_that_fit": st.sampled_from([1, 3, 1000]),
                              "threads": st.sampled_from([0, 2])})


def collect(device: Device, tiles: Any, place: Callable[[Any], Any]) -> list[tuple[Any, Array]]:
    """Tiles with their places, each copied on one of two streams of the consumer, when all is done."""
    streams, kept = [Stream(device), device.null], []
    for tile in tiles:
        with device.random.choice(streams):
            kept.append((place(tile), tile.data.copy()))
    device.synchronize()
    assert not device.errors
    return kept


@relaxed
@given(scans(), ways)
def test_streams_follow_the_model(s: dict[str, Any], way: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        on_cpu, frames, roi, dest, _ = build(Path(folder), s)
        device = Device(way["order"], capacity=8 << 20)
        truth = Truth(frames, s["nav"], s["sync_offset"], roi)
        expected = truth.array(dest)
        with data_sets_on(device) as engine:
            ds = on_cpu.to("cuda")
            backend = ToDevice() if way["to_device"] else BufferedBackend()
            nav, wanted = ds._selected(roi)
            seen = np.zeros(len(expected), dtype=int)
            options: dict[str, Any] = dict(dtype=dest, depth=s["depth"], threads=way["threads"])
            if len(wanted):
                options["memory"] = way["frames_that_fit"] * _least(ds, engine, backend, nav, wanted, options)
            kept = collect(device, pipeline.tiles(ds.layout, engine, backend, nav, wanted, **options),
                           lambda tile: tile.tile_slice.get(nav_only=True))
            for where, data in kept:
                np.testing.assert_array_equal(data.view_, expected[where])
                seen[where] += 1
            np.testing.assert_array_equal(seen, [k is not None for k in truth.frame_of])


def _least(ds: Any, engine: Any, backend: Any, nav: np.ndarray, frames: np.ndarray, options: dict[str, Any]) -> int:
    with pytest.raises(MemoryBudgetError) as error:
        next(pipeline.tiles(ds.layout, engine, backend, nav, frames, memory=1, **options))
    return int(str(error.value).split("at least ")[1].split(" ")[0])


@relaxed
@given(scans(), st.integers(0, 2**16), st.data())
def test_partition_tiles_follow_the_model(s: dict[str, Any], order: int, data: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        on_cpu, frames, roi, dest, _ = build(Path(folder), {**s, "backend": "buffered"})
        expected = Truth(frames, s["nav"], s["sync_offset"], roi).array(dest)
        tileshape = tuple(data.draw(st.integers(1, n), label="tile") for n in s["sig"])
        device = Device(order, capacity=32 << 20)
        with data_sets_on(device):
            ds = on_cpu.to("cuda")
            scheme = TilingScheme.make_for_shape(Shape((s["depth"], *tileshape), sig_dims=len(s["sig"])), ds.shape)
            for part in ds.get_partitions():
                for where, pixels in collect(device, part.get_tiles(scheme, dest_dtype=dest, roi=roi), lambda tile: tile.tile_slice.get()):
                    np.testing.assert_array_equal(pixels.view_, expected[where])


@relaxed
@given(scans(), st.integers(0, 2**16), st.data())
def test_indexing_is_that_of_the_array(s: dict[str, Any], order: int, data: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        on_cpu, frames, _, _, rng = build(Path(folder), {**s, "backend": "buffered"})
        device = Device(order, capacity=32 << 20)
        with data_sets_on(device) as engine:
            ds = on_cpu.to("cuda")
            full = Truth(frames, s["nav"], s["sync_offset"], None).array(ds.dtype).reshape(*s["nav"], *s["sig"])
            with Stream(device):
                key = tuple(data.draw(st.one_of(st.integers(-n, n - 1), st.slices(n))) for n in full.shape)
                np.testing.assert_array_equal(engine.download(ds[key].copy()), full[key])
                mask = rng.integers(0, 2, s["nav"]).astype(bool)
                np.testing.assert_array_equal(engine.download(ds[mask].copy()), full[mask])
        assert not device.errors


# ---- promises of the stream ----------------------------------------------------------------------------------------------


def scan(folder: Path, count: int = 60) -> tuple[PlainFiles, np.ndarray]:
    rng = np.random.default_rng(3)
    frames = random_frames(rng, count, SIG, np.dtype(">u2"))
    paths = write_files(folder, frames, [count], 0, 5, 2, rng)
    return PlainFiles(paths, [count], ">u2", SIG, (count,), 0, 0, 5, 2, io_backend=BufferedBackend()).initialize().to("cuda"), frames


def stream(ds: PlainFiles, engine: Any, backend: Any = None, **options: Any) -> Any:
    every = np.arange(ds.image_count)
    return pipeline.tiles(ds.layout, engine, backend or BufferedBackend(), every, every, **options)


@pytest.mark.parametrize("backend", [BufferedBackend(), ToDevice()], ids=["host", "device"])
def test_a_device_that_keeps_up_never_blocks_the_host_and_nothing_is_allocated_for_a_tile(tmp_path: Path, backend: Any) -> None:
    device = Device(0)
    device.eagerness = 2                # all that may run runs at once
    with data_sets_on(device) as engine:
        ds, frames = scan(tmp_path)
        tiles = stream(ds, engine, backend, dtype="f4", depth=2, memory=4000 + PAGES)
        next(tiles)
        allocations, events = device.allocations, device.pinned_live
        assert sum(len(tile) for tile in tiles) == len(frames) - 2
        assert (device.allocations, device.blocked) == (allocations, 0)
        assert not events or device.pinned_live == 0 or device.pinned_live == events


def test_a_slow_consumer_does_not_keep_the_next_tile_from_being_decoded(tmp_path: Path) -> None:
    device = Device(0)
    device.eagerness = 0
    with data_sets_on(device) as engine:
        ds, frames = scan(tmp_path)
        tiles, consumer = stream(ds, engine, dtype="f4", depth=2, memory=1 << 20), Stream(device)
        tile = next(tiles)
        with consumer:
            kept = tile.data.copy()
        device.streams.remove(consumer)         # it takes its time
        while device.step():
            pass
        assert consumer.queue and not engine._runtime.compute.queue, "the next tile is there"
        later = next(tiles)
        while device.step():
            pass
        assert engine._runtime.compute.queue, "the one after it has to wait for the buffer"
        assert (engine.download(later.data) == frames[2:4].astype("f4")).all()
        device.streams.append(consumer)
        device.synchronize()
        np.testing.assert_array_equal(kept.view_, frames[:2].astype("f4"))


@pytest.mark.parametrize("backend", [BufferedBackend(), ToDevice()], ids=["host", "device"])
@pytest.mark.parametrize("memory", [16_000, 40_000, 1 << 20])
def test_the_budget_bounds_host_and_device_memory_each(tmp_path: Path, backend: Any, memory: int) -> None:
    device = Device(2)
    with data_sets_on(device) as engine:
        ds, frames = scan(tmp_path)
        assert sum(len(tile) for tile in stream(ds, engine, backend, dtype="f4", memory=memory)) == len(frames)
    rounding = 5 * 256                  # of the allocator: three staging buffers and two outputs
    assert 0 < device.most_live <= memory + rounding
    assert device.most_pinned <= memory and (device.most_pinned == 0) == isinstance(backend, ToDevice)


def test_what_a_device_has_is_enough_for_smaller_tiles(tmp_path: Path) -> None:
    device = Device(1, capacity=30_000)
    with data_sets_on(device) as engine:
        ds, frames = scan(tmp_path, 200)
        kept, consumer = [], np.empty_like(frames, dtype="f4")
        tiles = stream(ds, engine, dtype="f4", memory=60_000)
        for tile in tiles:
            kept.append(len(tile))
            first = tile.tile_slice.origin[0]
            consumer[first:first + len(tile)] = engine.download(tile.data)
        np.testing.assert_array_equal(consumer, frames.astype("f4"))
        del tile, tiles
        order = np.random.default_rng(1).permutation(len(frames))
        for some in (order[:20], order[20:40]):
            out = engine.empty((20, *SIG), "u2")
            pipeline.read_frames(ds.layout, engine, BufferedBackend(), some, out, memory=60_000)
            np.testing.assert_array_equal(engine.download(out), frames[some].astype("u2"))
            del out
    with data_sets_on(Device(1)) as engine:
        assert max(kept) < max(len(tile) for tile in stream(ds, engine, dtype="f4", memory=60_000))


def test_too_small_a_device_is_told_with_the_size_that_fits(tmp_path: Path) -> None:
    device = Device(1, capacity=10_000)
    with data_sets_on(device) as engine:
        ds, _ = scan(tmp_path)
        with pytest.raises(MemoryBudgetError, match=r"part0.bin: cuda:0 has 10000 bytes left, .*; one frame needs \d+$") as error:
            next(stream(ds, engine, dtype="f4", memory=60_000))
        least = int(str(error.value).rsplit(" ", 1)[1])
    rounding = 5 * 256
    with data_sets_on(Device(1, capacity=least + rounding)) as engine:
        assert len(next(stream(ds, engine, dtype="f4", memory=least))) == 1
        held = engine.empty((2 * rounding,), "u1")
        with pytest.raises(MemoryBudgetError, match="one frame needs"):
            next(stream(ds, engine, dtype="f4", memory=least))
        del held
    with data_sets_on(Device(1, capacity=40_000)) as engine:
        engine.decoder = lambda *_, **__: engine.empty((40_000,), "u1")     # something besides that is large
        ds.layout.decoders.clear()
        with pytest.raises(MemoryBudgetError, match=r"has 40000 bytes left, .*; memory=\d+ may fit; one frame needs"):
            next(stream(ds, engine, dtype="f4", memory=60_000))


def test_an_array_that_the_device_cannot_hold_is_told_of_with_what_it_can(tmp_path: Path) -> None:
    with data_sets_on(Device(1, capacity=13_000)):
        ds, _ = scan(tmp_path, 200)
        with pytest.raises(MemoryBudgetError, match=r"part0.bin: 200 frames take 14000 bytes; cuda:0 has 13000 left") as error:
            ds[:]
        assert "\n" not in str(error.value)


def test_page_locked_memory_that_runs_out_makes_tiles_smaller_as_well(tmp_path: Path) -> None:
    device = Device(1, pinned=12_000)
    with data_sets_on(device) as engine:
        ds, frames = scan(tmp_path, 200)
        assert sum(len(tile) for tile in stream(ds, engine, dtype="u2", memory=60_000)) == len(frames)
    assert 2_000 < device.most_pinned <= 12_000


def test_tiles_before_one_that_cannot_be_read_are_handed_out(tmp_path: Path) -> None:
    device = Device(5)
    with data_sets_on(device) as engine:
        ds, frames = scan(tmp_path)
        tiles, found = stream(ds, engine, depth=1, memory=1500 + PAGES), []
        with pytest.raises(ReadError, match=r"part0.bin: byte \d+"):
            for tile in tiles:
                found.append(engine.download(tile.data))
                os.truncate(tmp_path / "part0.bin", 42 * (7 + 70))
        assert 36 < len(found) <= 42
        np.testing.assert_array_equal(np.concatenate(found), frames[:len(found)].astype("u2"))


def test_a_tile_says_on_which_stream_its_pixels_are_ready(tmp_path: Path) -> None:
    device = Device(0)
    with data_sets_on(device) as engine:
        ds, _ = scan(tmp_path)
        tile = next(stream(ds, engine, depth=2))
        assert tile.__cuda_array_interface__["stream"] == 1, "CUDA's default stream"
        with Stream(device) as own:
            waits = device.waits
            interface = tile.__cuda_array_interface__
            assert interface["stream"] == own.ptr and interface["shape"] == (2, *SIG) and device.waits == waits + 1
            assert tile.__dlpack__(stream=own.ptr)[1] == -1 and device.waits == waits + 1, "it waits already"
        assert tile.__dlpack__()[1] == -1 and device.waits == waits + 1, "as does the default stream"


def test_explain_shows_both_kinds_of_memory(files: Files) -> None:
    with data_sets_on(Device(0)):
        found = files.open().explain(memory=100_000, threads=2)
    assert found.device == "cuda:0" and found.decode_threads == 0, "a device decodes ahead by itself"
    assert 0 < found.memory_bytes < found.device_memory_bytes <= found.memory_budget == 100_000
    assert " page-locked, " in str(found) and " on cuda:0, each of 97.66 KiB" in str(found)
