"""However many files a scan has, few are open; and none is closed under its reader."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from gpuio.io.backends import MMapBackend
from gpuio.io.buffered import PreadReader
from gpuio.io.descriptors import Descriptors
from tests.io.conftest import open_descriptors

N_FILES = 2000


@pytest.fixture
def many(tmp_path: Path) -> list[str]:
    """Files that hold their own number, three bytes wide."""
    paths = [str(tmp_path / f"{i:05}") for i in range(N_FILES)]
    for i, path in enumerate(paths):
        Path(path).write_bytes(i.to_bytes(3, "little"))
    return paths


@contextmanager
def few_descriptors(spare: int) -> Iterator[None]:
    """At most `spare` more descriptors than are open now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def numbers(raw: np.ndarray) -> np.ndarray:
    bytes_ = raw.reshape(-1, 3).astype(np.int64)
    return bytes_[:, 0] + 256 * bytes_[:, 1] + 65536 * bytes_[:, 2]


def test_two_thousand_files_are_read_with_sixteen_descriptors(many: list[str], tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(N_FILES), 2))
    into = np.zeros(3 * len(order), np.uint8)
    with few_descriptors(20), PreadReader(many, [3] * N_FILES, max_open=16) as reader:
        reader.read([(int(file), 0, 3, 3 * i) for i, file in enumerate(order)], into)
        assert open_descriptors(str(tmp_path)) == 16
    np.testing.assert_array_equal(numbers(into), order)


def test_two_thousand_files_are_mapped_at_once_with_as_few(many: list[str], tmp_path: Path) -> None:
    with few_descriptors(72), MMapBackend().open(many, [3] * N_FILES) as reader:
        mapped = reader.map([(i, 0, 3, 0) for i in range(N_FILES)])
        assert open_descriptors(str(tmp_path)) <= 64
        np.testing.assert_array_equal(numbers(np.concatenate(mapped.views)), np.arange(N_FILES))
        mapped.close()


def test_a_borrowed_descriptor_stays_open_beyond_the_limit(many: list[str]) -> None:
    pool = Descriptors(many, [3] * N_FILES, limit=1)
    held = [pool.borrow(i) for i in range(5)]
    assert [os.pread(fd, 3, 0)[0] for fd in held] == [0, 1, 2, 3, 4]
    for i in range(5):
        pool.give_back(i)
    open_ = [fd for fd in held if _is_open(fd)]
    assert len(open_) == 1
    pool.close()
    assert not _is_open(open_[0])


def test_the_least_recently_used_file_is_closed_first(many: list[str], tmp_path: Path) -> None:
    pool = Descriptors(many, [3] * N_FILES, limit=2)
    for file in (0, 1, 0, 2):       # 1 is the oldest when 2 comes
        pool.borrow(file)
        pool.give_back(file)
    links = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _leads_to(fd, tmp_path)}
    assert links == {many[0], many[2]}
    pool.close()


def test_closing_leaves_a_borrowed_file_open_until_it_is_given_back(many: list[str]) -> None:
    pool = Descriptors(many, [3] * N_FILES)
    fd = pool.borrow(7)
    pool.close()
    assert os.pread(fd, 3, 0) == b"\x07\0\0"
    pool.give_back(7)
    assert not _is_open(fd)
    with pytest.raises(ValueError, match="closed"):
        pool.borrow(7)


def test_a_file_that_fails_to_open_leaves_nothing_open(many: list[str], tmp_path: Path) -> None:
    pool = Descriptors(many, [4] * N_FILES)
    with pytest.raises(OSError, match="shrank"):
        pool.borrow(0)
    assert open_descriptors(str(tmp_path)) == 0
    pool.close()


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _leads_to(fd: str, folder: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith(str(folder))
    except OSError:
        return False
