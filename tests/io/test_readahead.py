"""Reading ahead: the same bytes, the first error, and nothing left running."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpuio.errors import ReadError
from gpuio.io.backends import BufferedBackend, IOBackend
from gpuio.io.readahead import PIECE_EXTENTS, ReadAhead
from gpuio.io.staging import aligned_empty

Write = Callable[..., tuple[str, np.ndarray]]


def reading_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("gpuio-read")]


class Recorder:
    """A reader that notes what it is asked for and waits until it may go on."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.calls: list[list[tuple[int, int, int, int]]] = []
        self.go = threading.Event()
        self.active = 0
        self._fail_at = fail_at
        self._lock = threading.Lock()

    def read(self, extents: Any, into: Any) -> None:
        with self._lock:
            self.calls.append(list(extents))
            self.active += 1
            number = len(self.calls) - 1
        assert self.go.wait(20)
        time.sleep(0.01)
        with self._lock:
            self.active -= 1
        if number == self._fail_at:
            raise ReadError(f"piece {number}")

    def close(self) -> None:
        pass

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_bytes_arrive_as_without_it(backend: IOBackend, write: Write, threads: int) -> None:
    files = [write(f"{i}", n, i) for i, n in enumerate((40960, 77777, 8191))]
    sizes = [len(f[1]) for f in files]
    extents, at = [], 0
    for file, size in enumerate(sizes):
        for low in range(0, size, 20480):
            room = min(20480, -(-(size - low) // 4096) * 4096) if backend.alignment > 1 else min(20480, size - low)
            extents.append((file, low, room, at))
            at += 20480
    with backend.open([f[0] for f in files], sizes) as reader, ReadAhead(reader, threads, piece_bytes=8192) as ahead:
        slots = [aligned_empty(at) for _ in range(3)]
        pending = [ahead.submit(extents[::-1], slot) for slot in slots]
        for wait, slot in zip(pending, slots, strict=True):
            wait.wait()
            for file, low, room, start in extents:
                there = min(room, sizes[file] - low)
                np.testing.assert_array_equal(slot[start:start + there], files[file][1][low:low + there])
    assert reading_threads() == []


def test_long_extents_are_cut_and_short_ones_share_a_request() -> None:
    reader = Recorder()
    reader.go.set()
    long, short = [(0, 5000, 20000, 7)], [(1, i * 100, 10, 30000 + i * 10) for i in range(100)]
    with ReadAhead(reader, 1, piece_bytes=8192) as ahead:
        ahead.submit(long + short, bytearray(1)).wait()
    assert all(sum(e[2] for e in call) <= 8192 and len(call) <= PIECE_EXTENTS for call in reader.calls)
    asked = [e for call in reader.calls for e in call]
    assert asked[:3] == [(0, 5000, 8192, 7), (0, 13192, 8192, 8199), (0, 21384, 3616, 16391)]
    assert asked[3:] == short and len(reader.calls) == 2 + 4     # 31 short ones share the request of the long one's rest


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_is_raised_by_wait_and_later_reads_still_work(write: Write, threads: int) -> None:
    path, content = write("a", 30000)
    with BufferedBackend().open([path], [30000]) as reader, ReadAhead(reader, threads, piece_bytes=4096) as ahead:
        into = np.zeros(40000, np.uint8)
        bad = ahead.submit([(0, 0, 4096, 0), (0, 25000, 6000, 4096)], into)
        good_into = np.zeros(30000, np.uint8)
        good = ahead.submit([(0, 0, 30000, 0)], good_into)
        with pytest.raises(ReadError, match=os.path.basename(path)):
            bad.wait()
        good.wait()
        np.testing.assert_array_equal(good_into, content)


def test_wait_raises_only_when_nothing_writes_any_more() -> None:
    reader = Recorder(fail_at=0)
    reader.go.set()
    with ReadAhead(reader, 3, piece_bytes=10) as ahead:
        pending = ahead.submit([(0, 0, 1000, 0)], bytearray(1000))
        with pytest.raises(ReadError, match="piece 0"):
            pending.wait()
        assert reader.active == 0
        calls = len(reader.calls)
        time.sleep(0.05)
        assert len(reader.calls) == calls < 100         # what had not begun was dropped


def test_close_drops_what_has_not_begun_and_finishes_what_has() -> None:
    reader = Recorder()
    ahead = ReadAhead(reader, 2, piece_bytes=10)
    pending = [ahead.submit([(0, 0, 100, 0)], bytearray(100)) for _ in range(3)]
    while reader.active < 2:
        time.sleep(0.001)
    threading.Timer(0.05, reader.go.set).start()
    ahead.close()
    assert len(reader.calls) == 2 and reader.active == 0 and reading_threads() == []
    for p in pending:
        with pytest.raises(ReadError, match="stopped"):
            p.wait()
    with pytest.raises(ValueError, match="closed"):
        ahead.submit([(0, 0, 10, 0)], bytearray(10))
    ahead.close()


def test_an_abandoned_ring_leaves_no_threads(write: Write) -> None:
    path, _ = write("a", 100000)
    reader = BufferedBackend().open([path], [100000])
    ahead = ReadAhead(reader, 3, piece_bytes=1000)
    pending = [ahead.submit([(0, 0, 100000, 0)], bytearray(100000)) for _ in range(3)]
    assert reading_threads()
    del ahead, pending
    gc.collect()
    deadline = time.monotonic() + 20
    while reading_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert reading_threads() == []
    reader.close()


def test_pieces_of_nothing_are_refused(write: Write) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ReadAhead(Recorder(), 1, piece_bytes=0)
