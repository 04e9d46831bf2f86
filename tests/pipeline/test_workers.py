"""Threads that decode: calls in order, errors where they are asked for, nothing left behind."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading

import numpy as np
import pytest

from gpuio.workers import Workers


def decoding_threads() -> int:
    return sum(thread.name.startswith("gpuio-decode") for thread in threading.enumerate())


def test_calls_are_made_in_order_by_one_thread_and_by_several_at_once() -> None:
    seen: list[int] = []
    workers = Workers(1)
    for call in [workers.submit(seen.append, i) for i in range(50)]:
        call.result()
    workers.close()
    assert seen == list(range(50))
    workers, together = Workers(2), threading.Barrier(2, timeout=20)
    for call in [workers.submit(together.wait) for _ in range(2)]:        # each waits for the other
        call.result()
    workers.close()


def test_an_error_comes_with_the_result_each_time_it_is_asked_for() -> None:
    workers = Workers(1)
    bad, good = workers.submit(divmod, 1, 0), workers.submit(divmod, 1, 1)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            bad.result()
    good.result()
    assert bad.done() and good.done()
    workers.close()


def test_closing_waits_for_the_call_under_way_and_drops_the_others() -> None:
    begun, free, seen = threading.Event(), threading.Event(), []

    def first() -> None:
        begun.set()
        free.wait(20)
        seen.append("first")

    workers = Workers(1)
    under_way, waiting = workers.submit(first), workers.submit(seen.append, "second")
    assert begun.wait(20)
    assert not under_way.done()
    threading.Timer(0.05, free.set).start()
    workers.close()
    workers.close()
    assert seen == ["first"] and under_way.done() and not waiting.done()
    assert not decoding_threads()


def test_workers_nobody_refers_to_are_closed() -> None:
    workers = Workers(2)
    assert decoding_threads() == 2
    del workers
    gc.collect()
    assert not decoding_threads()


def test_the_interpreter_ends_while_a_stream_is_under_way(tmp_path) -> None:
    np.save(tmp_path / "scan.npy", np.ones((40, 5, 7), dtype="u2"))
    code = "import sys, gpuio; it = gpuio.open(sys.argv[1], device='cpu').tiles(dtype='f4', depth=1, threads=2); print(next(it).shape)"
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "scan.npy")], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "(1, 5, 7)\n", "")
