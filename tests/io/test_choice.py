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

from gpuio.errors import BackendUnavailable
from gpuio.io import choose, resident_fraction
from gpuio.io.backends import BufferedBackend, DirectBackend, MMapBackend
from gpuio.io.choice import file_system

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
    choice = choose(paths, sizes)
    assert choice.transport == BufferedBackend() and choice.cold is False and "100%" in choice.reason
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
