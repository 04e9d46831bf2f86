"""Mapped extents: the right addresses, views that outlive the reader, and errors instead of signals."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

import numpy as np
import pytest

from gpuio.errors import ReadError
from gpuio.io.backends import MMapBackend

Write = Callable[..., tuple[str, np.ndarray]]


def mappings_of(path: str) -> int:
    with open("/proc/self/maps", encoding="utf-8") as maps:
        return sum(path in line for line in maps)


@pytest.mark.parametrize("hints", [False, True])
def test_addresses_and_views_show_the_bytes_of_each_extent(write: Write, hints: bool) -> None:
    files = [write(f"{i}", n, i) for i, n in enumerate((1, 4096, 70001, 300017))]
    rng = np.random.default_rng(5)
    extents = []
    for _ in range(100):
        file = int(rng.integers(len(files)))
        first, last = sorted(int(v) for v in rng.integers(0, len(files[file][1]) + 1, 2))
        extents.append((file, first, last - first, 0))
    with MMapBackend(hints).open([f[0] for f in files], [len(f[1]) for f in files]) as reader:
        mapped = reader.map(extents)
        assert mapped.addresses.dtype == np.int64 and mapped.addresses.shape == (100,)
        for (file, offset, size, _), address, view in zip(extents, mapped.addresses.tolist(), mapped.views, strict=True):
            expected = files[file][1][offset:offset + size]
            np.testing.assert_array_equal(view, expected)
            assert ctypes.string_at(address, size) == expected.tobytes()
            assert view.dtype == np.uint8 and not view.flags.writeable
        mapped.check()
        del view
        mapped.close()


def test_one_window_serves_all_extents_of_a_file(write: Write) -> None:
    path, _ = write("a", 300000)
    with MMapBackend().open([path], [300000]) as reader:
        mapped = reader.map([(0, i * 1000, 10, 0) for i in range(290)])
        assert mappings_of(path) == 1
        mapped.close()
    assert mappings_of(path) == 0


def test_a_view_outlives_close_and_reader(write: Write) -> None:
    path, content = write("a", 20000)
    with MMapBackend().open([path], [20000]) as reader:
        mapped = reader.map([(0, 4099, 11000, 0)])
        view = mapped.views[0][3:]
        mapped.close()
    del mapped, reader
    assert mappings_of(path) == 1
    np.testing.assert_array_equal(view, content[4102:15099])
    del view
    assert mappings_of(path) == 0


def test_a_dropped_mapping_is_released(write: Write) -> None:
    path, _ = write("a", 20000)
    with MMapBackend().open([path], [20000]) as reader:
        mapped = reader.map([(0, 0, 20000, 0)])
        del mapped
        assert mappings_of(path) == 0


def test_a_mapping_outlives_its_reader_and_the_name_of_its_file(write: Write) -> None:
    path, content = write("a", 20000)
    reader = MMapBackend().open([path], [20000])
    mapped = reader.map([(0, 0, 20000, 0)])
    reader.close()
    os.unlink(path)
    mapped.check()
    np.testing.assert_array_equal(mapped.views[0], content)
    mapped.close()


def descriptors_of(path: str) -> int:
    return sum(os.path.realpath(f"/proc/self/fd/{number}") == path for number in os.listdir("/proc/self/fd"))


def test_a_mapping_of_one_file_holds_a_descriptor_until_it_is_closed_and_one_of_more_none(write: Write) -> None:
    paths = [os.path.realpath(write(name, 20000)[0]) for name in "ab"]
    for files, held in (((0,), 1), ((0, 1), 0)):
        reader = MMapBackend().open(paths, [20000, 20000])
        mapped = reader.map([(file, 0, 100, 0) for file in files])
        views = mapped.views
        reader.close()
        assert [descriptors_of(paths[file]) for file in files] == [held] * len(files)
        mapped.close()
        assert [descriptors_of(paths[file]) for file in files] == [0] * len(files)
        del views


def test_an_extent_past_the_end_is_not_mapped(write: Write) -> None:
    path, _ = write("a", 10007)
    with MMapBackend().open([path], [None]) as reader:
        with pytest.raises(ReadError, match=r"byte 9000: expected 2000 bytes, found 1007; the file has 10007 bytes"):
            reader.map([(0, 9000, 2000, 0)])
        with pytest.raises(ReadError, match="found 0"):
            reader.map([(0, 1 << 40, 1, 0)])


def test_a_file_that_shrank_since_it_was_opened_is_not_mapped(write: Write) -> None:
    path, _ = write("a", 50000)
    with MMapBackend().open([path], [50000]) as reader:
        reader.map([(0, 0, 10, 0)]).close()
        os.truncate(path, 30000)
        with pytest.raises(ReadError, match=r"shrank.*50000.*30000"):
            reader.map([(0, 0, 10, 0)])


def test_check_finds_a_file_that_shrank_under_its_mapping(write: Write) -> None:
    path, content = write("a", 50000)
    with MMapBackend().open([path], [50000]) as reader:
        mapped = reader.map([(0, 0, 10, 0), (0, 39000, 1000, 0)])
        os.truncate(path, 40000)
        mapped.check()          # all that is mapped is still there
        np.testing.assert_array_equal(mapped.views[1], content[39000:40000])
        os.truncate(path, 39999)
        with pytest.raises(ReadError, match="shrank while it was mapped: expected at least 40000 bytes, found 39999"):
            mapped.check()
        mapped.close()


def test_check_finds_which_of_two_files_shrank_or_is_gone(write: Write) -> None:
    paths = [write(name, 5000)[0] for name in ("there", "gone")]
    with MMapBackend().open(paths, [5000, 5000]) as reader:
        mapped = reader.map([(0, 0, 10, 0), (1, 100, 400, 0)])
        mapped.check()
        os.truncate(paths[1], 499)
        with pytest.raises(ReadError, match="gone: the file shrank while it was mapped: expected at least 500 bytes, found 499"):
            mapped.check()
        os.unlink(paths[1])
        with pytest.raises(FileNotFoundError, match="gone"):
            mapped.check()
        mapped.close()


@pytest.mark.parametrize("extent", [(0, -1, 10, 0), (0, 5, -1, 0)])
def test_negative_extents_are_refused(write: Write, extent: tuple[int, int, int, int]) -> None:
    path, _ = write("a", 5000)
    with MMapBackend().open([path], [5000]) as reader, pytest.raises(ValueError, match="cannot be mapped"):
        reader.map([extent])


def test_empty_extents_and_empty_files_map_to_nothing(write: Write) -> None:
    path, _ = write("a", 0)
    with MMapBackend().open([path], [0]) as reader:
        mapped = reader.map([(0, 0, 0, 0)])
        assert len(mapped.views) == 1 and mapped.views[0].size == 0
        mapped.check()
        mapped.close()
        assert len(reader.map([]).addresses) == 0
