"""HostFiles: headers on the local file system."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from gpuio.errors import DataSetException
from gpuio.source import MAX_READ, HostFiles


def write(folder: Path, name: str, size: int, seed: int) -> tuple[str, bytes]:
    content = np.random.default_rng(seed).bytes(size)
    path = folder / name
    path.write_bytes(content)
    return os.path.realpath(path), content


def descriptors_of(path: str) -> int:
    return sum(os.path.realpath(f"/proc/self/fd/{number}") == path for number in os.listdir("/proc/self/fd"))


def test_bytes_are_those_of_the_file_and_fewer_at_its_end(tmp_path):
    path, content = write(tmp_path, "a", 1000, 1)
    files = HostFiles()
    for offset, size in ((0, 1000), (10, 20), (990, 50), (1000, 1), (5000, 9), (0, 0)):
        assert files.read(path, offset, size) == content[offset:offset + size]
    assert files.size(path) == 1000


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no list of descriptors here")
def test_the_file_read_last_stays_open_until_another_is_read_or_nobody_reads(tmp_path):
    (a, content), (b, _) = write(tmp_path, "a", 100, 1), write(tmp_path, "b", 100, 2)
    files = HostFiles()
    assert files.read(a, 0, 10) + files.read(a, 10, 90) == content and descriptors_of(a) == 1
    files.read(b, 0, 10)
    assert (descriptors_of(a), descriptors_of(b)) == (0, 1)
    del files
    assert descriptors_of(b) == 0


def test_threads_do_not_get_in_each_others_way(tmp_path):
    made = [write(tmp_path, str(i), 5000, i) for i in range(3)]
    files = HostFiles()

    def some(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        picks = [(made[int(rng.integers(3))], int(rng.integers(5000))) for _ in range(300)]
        return all(files.read(path, at, 100) == content[at:at + 100] for (path, content), at in picks)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(some, range(16)))


def test_it_travels_without_what_is_open(tmp_path):
    path, content = write(tmp_path, "a", 100, 1)
    files = HostFiles()
    files.read(path, 0, 1)
    assert pickle.loads(pickle.dumps(files)).read(path, 0, 100) == content


def test_what_cannot_be_read_is_refused(tmp_path):
    path, _ = write(tmp_path, "a", 100, 1)
    files = HostFiles()
    for size in (-1, MAX_READ + 1):
        with pytest.raises(DataSetException, match=f"a header of {size} bytes"):
            files.read(path, 0, size)
    with pytest.raises(DataSetException, match="a folder; expected a regular file"):
        files.read(str(tmp_path), 0, 1)
    with pytest.raises(FileNotFoundError):
        files.read(str(tmp_path / "none"), 0, 1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataSetException, match="a pipe"):
        files.read(str(tmp_path / "pipe"), 0, 1)
