"""What `tests.io.test_gds` has run in a process where kvikio has a driver: kvikio's reads, and streams onto the simulated device."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kvikio
import kvikio.defaults
import numpy as np
import pytest

import gpuio
from gpuio import synth
from gpuio.errors import BackendUnavailable, ReadError
from gpuio.io.backends import GDSBackend
from gpuio.io.readahead import ReadAhead
from tests.io.conftest import open_descriptors
from tests.io.stand_in import Chosen, room
from tests.kernels.simulated import Device, data_sets_on

Write = Callable[..., tuple[str, np.ndarray]]
NAV, SIG = (11, 13), (17, 29)
BACKEND = GDSBackend(read_threads=5, compatibility=True)
SETTINGS = ("compat_mode", "num_threads", "task_size", "gds_threshold", "bounce_buffer_size", "auto_direct_io_read")


@pytest.fixture(autouse=True)
def devices_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("__enter__", "use", "__exit__"):
        monkeypatch.setattr(Device, name, getattr(Chosen, name), raising=False)


# ---- reading -------------------------------------------------------------------------------------------------------------


def test_kvikios_defaults_are_left_alone(write: Write) -> None:
    path, content = write("a", 3_000_017)
    into = room(BACKEND, 3_002_368)
    before = [kvikio.defaults.get(name) for name in SETTINGS]
    with BACKEND.open([path], [len(content)]) as reader, ReadAhead(reader, BACKEND.read_threads, 65536) as ahead:
        ahead.submit([(0, 0, len(into), 0)], into).wait()
        assert [kvikio.defaults.get(name) for name in SETTINGS] == before
    np.testing.assert_array_equal(into[:len(content)], content)


def test_few_files_are_open_however_many_there_are(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{i:04}") for i in range(500)]
    for i, path in enumerate(paths):
        Path(path).write_bytes(i.to_bytes(3, "little"))
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(500), 2))
    into = room(BACKEND, 4096 * len(order))
    with BACKEND.open(paths, [3] * 500) as reader:
        reader.read([(int(file), 0, 4096, 4096 * i) for i, file in enumerate(order)], into)
        assert open_descriptors(str(tmp_path)) == 64, "two for each of 32 files"
    found = into.reshape(-1, 4096)[:, :3].astype(int)
    np.testing.assert_array_equal(found[:, 0] + 256 * found[:, 1], order)


# ---- streams -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(8).integers(0, 60000, (*NAV, *SIG)).astype(np.uint16)


def _raw(folder: Path, frames: np.ndarray) -> Any:
    """Frames with 19 bytes before each, so that nothing is aligned."""
    path = folder / "scan.bin"
    path.write_bytes(b"".join(b"h" * 19 + frame.astype(">u2").tobytes() for frame in frames.reshape(-1, *SIG)))
    return gpuio.load("raw", path=path, dtype=">u2", nav_shape=NAV, sig_shape=SIG, frame_header=19, device="cuda", io_backend=BACKEND)


def _mib(folder: Path, frames: np.ndarray) -> Any:
    """Several files."""
    paths = synth.write("mib", folder / "scan.mib", [frames.reshape(-1, *SIG)], nav_shape=NAV, sig_shape=SIG, kind="U16",
                        frames_per_file=40)
    assert sum(path.endswith(".mib") for path in paths) == 4
    return gpuio.open(paths[0], device="cuda", io_backend=BACKEND)


@pytest.fixture(params=[_raw, _mib])
def make(request: pytest.FixtureRequest, tmp_path: Path, frames: np.ndarray) -> Callable[[], Any]:
    return lambda: request.param(tmp_path, frames)


@pytest.fixture(params=range(4))
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    simulated = Device(request.param)
    with data_sets_on(simulated):
        yield simulated


def collected(ds: Any, **options: Any) -> np.ndarray:
    found = []
    for tile in ds.tiles(**options):
        assert type(tile.data).__module__ == "tests.kernels.simulated"
        found.append(tile.data.get())
    return np.concatenate(found)


def test_tiles_arrive_on_the_device_without_page_locked_memory(device: Device, make: Callable[[], Any], frames: np.ndarray) -> None:
    ds, roi = make(), np.random.default_rng(3).random(NAV) < 0.4
    whole = collected(ds, dtype="float32", depth=7, memory=60_000)
    np.testing.assert_array_equal(whole, frames.reshape(-1, *SIG).astype("f4"))
    np.testing.assert_array_equal(collected(ds, roi=roi, depth=3), frames[roi])
    assert device.pinned_live == 0


def test_single_frames_arrive_on_the_device(device: Device, make: Callable[[], Any], frames: np.ndarray) -> None:
    ds = make()
    np.testing.assert_array_equal(ds[3, 2:9:2].get(), frames[3, 2:9:2])
    np.testing.assert_array_equal(ds[10, 12].get(), frames[10, 12])


def test_what_a_stream_reads_is_what_it_is_said_to_read(make: Callable[[], Any]) -> None:
    with data_sets_on(Device(0)):
        found = make().explain(depth=7, memory=60_000)
    assert (found.transport, found.page_locked, found.memory_bytes, found.unaligned_extents) == ("gds", False, 0, 0)
    assert found.read_threads == 5 and found.read_bytes % 4096 == 0 and found.amplification > 1
    assert "gds" not in found.why_not


def test_a_file_that_shrinks_is_an_error_at_its_tile(make: Callable[[], Any], frames: np.ndarray) -> None:
    with data_sets_on(Device(1)):
        ds = make()
        tiles = ds.tiles(depth=5, memory=60_000)
        np.testing.assert_array_equal(next(tiles).data.get(), frames.reshape(-1, *SIG)[:5])
        os.truncate(ds.files[-1], 700)
        with pytest.raises(ReadError, match="shrank"):
            for _ in tiles:
                pass


def test_it_is_for_devices(write: Write) -> None:
    path, _ = write("scan.raw", 3 * 17 * 29)
    ds = gpuio.load("raw", path=path, dtype="u1", nav_shape=(3,), sig_shape=SIG, device="cpu", io_backend=BACKEND)
    with pytest.raises(BackendUnavailable, match="memory of the host; take device='cuda'"):
        next(iter(ds.tiles()))
