"""Lists of many DM files: each header is read once, and few files are open at a time, however many there are."""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import pytest

import gpuio
from gpuio import synth
from gpuio.io.descriptors import MAX_OPEN
from gpuio.source import HostFiles
from tests.formats.items import random_items

COUNT, SIG = 3 * MAX_OPEN + 7, (7, 11)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    frames = random_items(1, (COUNT, *SIG), "u2")
    folder = tmp_path_factory.mktemp("many")
    return frames, synth.write("dm", folder / "a.dm4", [frames], nav_shape=(COUNT,), sig_shape=SIG, frames_per_file=1)


class Watch:
    """Opens, header reads and descriptors from when it is made."""

    def __init__(self, monkeypatch):
        self.opens, self.ranges, self.most = Counter(), Counter(), 0
        self._before = len(os.listdir("/proc/self/fd"))
        really_open, really_read = os.open, HostFiles.read

        def count_open(path, *args, **kwargs):
            descriptor = really_open(path, *args, **kwargs)
            self.opens[os.fspath(path)] += 1
            self.most = max(self.most, len(os.listdir("/proc/self/fd")) - self._before)
            return descriptor

        def count_read(source, path, offset, size):
            self.ranges[path, offset] += 1
            return really_read(source, path, offset, size)

        monkeypatch.setattr(os, "open", count_open)
        monkeypatch.setattr(HostFiles, "read", count_read)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open descriptors can be counted on Linux only")
def test_opening_reads_no_byte_of_a_header_twice_and_holds_no_file(scan, monkeypatch):
    _, files = scan
    assert len(files) == COUNT
    watch = Watch(monkeypatch)
    ds = gpuio.load("dm", files=files, device="cpu")
    assert {path for path, _ in watch.ranges} == set(files) and set(watch.ranges.values()) == {1}
    assert watch.most <= 2 and len(os.listdir("/proc/self/fd")) == watch._before
    assert ds.image_count == COUNT and tuple(ds.shape) == (COUNT, *SIG)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open descriptors can be counted on Linux only")
@pytest.mark.parametrize("backend", [None, "buffered", "mmap"])
def test_reading_holds_a_bounded_number_of_files(scan, backend, monkeypatch):
    frames, files = scan
    from gpuio.base import IOBackend

    ds = gpuio.load("dm", files=files, io_backend=IOBackend.get_cls_by_id(backend)() if backend else None, device="cpu")
    watch = Watch(monkeypatch)
    np.testing.assert_array_equal(np.concatenate([np.array(tile.data) for tile in ds.tiles(depth=5)]), frames)
    assert set(watch.opens) >= set(files) and watch.most <= MAX_OPEN + 8
    assert max(watch.opens[path] for path in files) <= 2        # once to ask the page cache, once to read
    assert len(os.listdir("/proc/self/fd")) == watch._before
