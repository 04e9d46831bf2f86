"""Which transport: what is in the page cache, and on which file system."""

from __future__ import annotations

import builtins
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuio
from gpuio import synth
from gpuio.errors import BackendUnavailable
from gpuio.io import choice, choose, filesystems, gds, resident_fraction
from gpuio.io.backends import BufferedBackend, DirectBackend, GDSBackend, MMapBackend
from gpuio.io.filesystems import file_system
from gpuio.io.gds import Machine

Write = Callable[..., tuple[str, np.ndarray]]


def drop(path: str, first: int = 0, size: int = 0) -> None:
    """Take a range out of the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for _ in range(100):        # pages that the system is still busy with stay at first
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, first, size, os.POSIX_FADV_DONTNEED)
            if (resident_fraction(path, first, size or None) or 0) < 0.1:
                return
            time.sleep(0.02)
    finally:
        os.close(descriptor)
    pytest.skip(f"{file_system(os.path.dirname(path))} keeps its pages in memory")


def test_asking_for_residency_does_not_change_the_answer(write: Write) -> None:
    path, _ = write("a", 32 << 20)
    assert resident_fraction(path) == 1
    drop(path)
    for _ in range(10):
        time.sleep(0.01)        # time to bring in what was asked for
        assert resident_fraction(path) < 0.3


def test_residency_of_a_part(write: Write) -> None:
    path, _ = write("a", 32 << 20)
    drop(path, 0, 16 << 20)
    assert resident_fraction(path, 16 << 20) == 1
    assert 0.5 <= resident_fraction(path) < 0.7
    assert resident_fraction(path, 0, 16 << 20) < 0.3


def test_residency_that_cannot_be_told_is_none(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = write("a", 0)
    assert resident_fraction(path) is None
    assert resident_fraction(str(tmp_path / "missing")) is None
    assert resident_fraction(str(tmp_path)) is None
    assert resident_fraction(path, 100, 10) is None         # past the end
    other, _ = write("b", 100)
    assert resident_fraction(other) == 1
    monkeypatch.delattr(os, "RWF_NOWAIT")
    assert resident_fraction(other) is None


def test_cached_files_are_warm_and_others_cold(write: Write) -> None:
    paths = [write(f"{i}", 4 << 20, i)[0] for i in range(9)]
    sizes: list[int | None] = [4 << 20] * 9
    chosen = choose(paths, sizes)
    assert chosen.transport == BufferedBackend() and chosen.cold is False and "100%" in chosen.reason
    mapped = choose(paths, sizes, in_place=True)
    assert mapped.transport == MMapBackend() and mapped.cold is False and "mapped" in mapped.reason
    for path in paths:
        drop(path)
    assert choose(paths, sizes, in_place=True).transport == BufferedBackend()
    transport, cold, reason = choose(paths, sizes)
    assert transport == BufferedBackend() and cold is True and "large blocks, read ahead" in reason


def test_without_files_or_without_an_answer_there_is_still_a_choice(tmp_path: Path) -> None:
    assert choose([], []) == (BufferedBackend(), False, choose([], []).reason)
    assert choose([str(tmp_path / "missing")], [None]).cold is True


def test_what_is_asked_for_is_taken(write: Write) -> None:
    path, _ = write("a", 100)
    assert choose([path], [100], prefer="mmap") == (MMapBackend(), False, "asked for")
    assert choose([path], [100], prefer=MMapBackend(True)).transport == MMapBackend(True)
    if DirectBackend().unavailable(path) is None:
        assert choose([path], [100], prefer="direct").transport == DirectBackend()


def test_what_cannot_be_had_is_an_error_with_the_reason(write: Write) -> None:
    path, _ = write("a", 100)
    with pytest.raises(BackendUnavailable, match=r"'tape' is unknown; expected one of \['mmap', 'buffered', 'direct'"):
        choose([path], [100], prefer="tape")
    with pytest.raises(BackendUnavailable, match="O_DIRECT"):
        choose(["/proc/self/status"], [None], prefer="direct")


def test_the_file_system_is_that_of_the_innermost_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    table = ("/dev/a / ext4 rw 0 0\n/dev/b /data xfs rw 0 0\nserver:/x /data/far\\040away nfs4 rw 0 0\n"
             "/dev/c /mnt ext4 rw 0 0\n/dev/d /mnt btrfs rw 0 0\n")
    real = builtins.open
    monkeypatch.setattr(builtins, "open", lambda p, *a, **k: io.StringIO(table) if p == "/proc/self/mounts" else real(p, *a, **k))
    file_system.cache_clear()
    found: dict[str, Any] = {f: file_system(f) for f in ("/", "/home", "/data", "/data/near", "/database", "/data/far away/scan", "/mnt/x")}
    file_system.cache_clear()
    assert found == {"/": "ext4", "/home": "ext4", "/data": "xfs", "/data/near": "xfs", "/database": "ext4",
                     "/data/far away/scan": "nfs4", "/mnt/x": "btrfs"}


def test_an_unreadable_mount_table_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError

    monkeypatch.setattr(builtins, "open", refuse)
    file_system.cache_clear()
    assert file_system("/some/folder") == "unknown"
    file_system.cache_clear()


# ---- onto a device -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cold(write: Write, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file that is not in the page cache, on an NVMe drive."""
    monkeypatch.setattr(choice, "resident_fraction", lambda path, size, places: 0.0)
    monkeypatch.setattr(gds, "place", lambda path: ("ext4", "nvme0n1"))
    return write("a", 100)[0]


def test_cold_files_go_to_a_device_directly_where_nothing_stands_against_it(cold: str) -> None:
    transport, is_cold, reason = choose([cold], [100], on_device=True, frame_bytes=131072, machine=Machine())
    assert (transport, is_cold) == (GDSBackend(), True)
    assert reason.endswith(": 0% of the places looked at are in the page cache; from storage into device memory")
    assert choose([cold], [100], machine=Machine()).transport == BufferedBackend(), "not onto the CPU"


@pytest.mark.parametrize(("place", "machine", "frame_bytes", "why"), [
    (("tmpfs", None), Machine(), 0, "file system tmpfs: GPUDirect Storage reads ext4 and xfs"),
    (("overlay", None), Machine(), 0, "file system overlay: GPUDirect Storage reads ext4 and xfs"),
    (("nfs4", None), Machine(), 0, "file system nfs4: it takes part only with its own GPUDirect support"),
    (("smb3", None), Machine(), 0, "network file system smb3: GPUDirect Storage reads ext4 and xfs"),
    (("ext4", "vda"), Machine(), 0, "drive vda: direct transfers need NVMe drives"),
    (("ext4", "nvme0n1"), Machine(no_kvikio="kvikio is on holiday"), 0, "kvikio is on holiday"),
    (("ext4", "nvme0n1"), Machine(mode="on"), 0, "kvikio is told to use its compatibility mode"),
    (("ext4", "nvme0n1"), Machine(has_nvidia_fs=False), 0, "the kernel module nvidia-fs is not loaded"),
    (("ext4", "nvme0n1"), Machine(has_udev=False), 0, "udev's database /run/udev/data cannot be read"),
    (("ext4", "nvme0n1"), Machine(), 4095, "frames of 4095 bytes are smaller than the 4096 bytes that it is aligned to"),
])
def test_what_stands_against_it_is_kept_as_the_reason(
        cold: str, monkeypatch: pytest.MonkeyPatch, place: tuple[str, str | None], machine: Machine, frame_bytes: int, why: str) -> None:
    monkeypatch.setattr(gds, "place", lambda path: place)
    transport, is_cold, reason = choose([cold], [100], on_device=True, frame_bytes=frame_bytes, machine=machine)
    assert (transport, is_cold) == (BufferedBackend(), True)
    assert f"; large blocks, read ahead (not GPUDirect Storage: {why}" in reason


def test_the_caller_may_know_better(cold: str) -> None:
    found = choose([cold], [100], on_device=True, against="the moon is full", machine=Machine())
    assert found.transport == BufferedBackend() and found.reason.endswith("read ahead (not GPUDirect Storage: the moon is full)")


def test_every_folder_has_to_take_part(cold: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setattr(gds, "place", lambda path: ("tmpfs" if path.startswith(str(other)) else "ext4", None))
    paths = [cold, str(other / "b"), cold]
    assert choose(paths, [None] * 3, on_device=True, machine=Machine()).transport == BufferedBackend()
    assert choose(paths[::2], [None] * 2, on_device=True, machine=Machine()).transport == GDSBackend()


@pytest.mark.parametrize(("share", "expected"), [(1.0, (BufferedBackend(), False)), (0.5, (BufferedBackend(), False)),
                                                 (0.49, (GDSBackend(), True)), (None, (GDSBackend(), True))])
def test_files_in_the_page_cache_go_by_way_of_the_host(
        cold: str, monkeypatch: pytest.MonkeyPatch, share: float | None, expected: tuple[Any, bool]) -> None:
    monkeypatch.setattr(choice, "resident_fraction", lambda path, size, places: share)
    found = choose([cold], [100], on_device=True, in_place=True, machine=Machine())
    assert found[:2] == expected
    assert "decoded" not in found.reason, "nothing is decoded by the CPU"


def test_this_machine_is_asked_for_when_it_matters(cold: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(Machine, "here", lambda: (asked.append(1), Machine(has_udev=False))[1])
    choose([cold], [100])
    assert not asked
    assert "udev" in choose([cold], [100], on_device=True).reason
    assert asked == [1]


# ---- drives --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("partition", [False, True])
def test_a_drive_is_found_by_its_number(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, partition: bool) -> None:
    path, _ = write("a", 1)
    number = os.stat(path).st_dev
    device = tmp_path / "devices" / "nvme7n1"
    if partition:
        device /= "nvme7n1p2"
    device.mkdir(parents=True)
    if partition:
        (device / "partition").touch()
    monkeypatch.setattr(filesystems, "_DEVICES", str(tmp_path))
    assert filesystems.drive(path) is None, "no such number"
    (tmp_path / f"{os.major(number)}:{os.minor(number)}").symlink_to(device)
    assert filesystems.drive(path) == "nvme7n1"
    assert filesystems.drive(str(tmp_path / "missing")) is None


def test_too_many_files_are_not_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.random.default_rng(6).integers(1, 99, (5, 7, 11), dtype=np.uint16)
    paths = synth.write("mib", tmp_path / "scan.mib", [frames], nav_shape=(1, 5), sig_shape=(7, 11), kind="U16", frames_per_file=1)
    hdr = next(path for path in paths if path.endswith(".hdr"))
    assert gpuio.open(hdr, device="cpu").explain().transport == "mmap"
    monkeypatch.setattr("gpuio.transport.MAX_MAPPED_FILES", 4)
    ds = gpuio.open(hdr, device="cpu")
    assert ds.explain().transport == "buffered"
    np.testing.assert_array_equal(ds[...].reshape(5, 7, 11), frames)
