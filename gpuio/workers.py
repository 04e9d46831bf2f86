"""Threads that decode: a queue in, a lock for each call out.

Decoding a tile takes a few hundred microseconds, so what surrounds it counts. A future of `concurrent.futures` brings a condition, a
work item and a weak reference; with two threads at work it costs 20 to 40 microseconds of CPU more than the queue and the lock here.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any


class Call:
    """A call that a worker makes, or has made."""

    __slots__ = ("_args", "_done", "_error", "_function")

    def __init__(self, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._function, self._args = function, args
        self._error: BaseException | None = None
        self._done = threading.Lock()
        self._done.acquire()

    def make(self) -> None:
        """Call, on the thread of whoever asks; what is raised is kept for `result`."""
        try:
            self._function(*self._args)
        except BaseException as error:
            self._error = error
        self._done.release()

    def done(self) -> bool:
        """Whether it has returned or raised."""
        return not self._done.locked()

    def result(self) -> None:
        """Wait for it; raises what it raised."""
        with self._done:
            pass
        if self._error is not None:
            raise self._error


class Workers:
    """Threads that make calls in the order of `submit`; `close` drops those not yet begun and waits for the others.

    They are closed when nothing refers to them any more, and before the interpreter ends.
    """

    def __init__(self, threads: int) -> None:
        queue: SimpleQueue[Call | None] = SimpleQueue()
        closed = threading.Event()
        # Not held up by daemons, the interpreter comes to the finalizer, which joins them.
        running = [threading.Thread(target=_work, args=(queue, closed), name=f"gpuio-decode-{i}", daemon=True) for i in range(threads)]
        self._queue = queue
        self.close = weakref.finalize(self, _close, queue, closed, running)
        for thread in running:
            thread.start()

    def submit(self, function: Callable[..., object], *args: Any) -> Call:
        """Have ``function(*args)`` called."""
        call = Call(function, args)
        self._queue.put(call)
        return call


def _work(queue: SimpleQueue[Call | None], closed: threading.Event) -> None:
    while (call := queue.get()) is not None and not closed.is_set():
        call.make()
        del call            # and with it the buffers it refers to


def _close(queue: SimpleQueue[Call | None], closed: threading.Event, running: Sequence[threading.Thread]) -> None:
    closed.set()
    for _ in running:
        queue.put(None)
    for thread in running:
        thread.join()
