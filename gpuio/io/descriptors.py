"""A bounded pool of open files, shared by the threads of one process.

A scan may consist of 100,000 files, a process may hold 1,024 descriptors. The pool opens a file when it is first borrowed
and keeps the most recently used ones; a file in use is never closed under its reader, since its number could at once name
another file.
"""

from __future__ import annotations

import os
import stat
import threading
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from gpuio.errors import ReadError

#: Descriptors that a reader keeps open at most, apart from those in use.
MAX_OPEN = 64

Opened = TypeVar("Opened")


class OpenFiles(ABC, Generic[Opened]):
    """What opening `paths` gives, opened on demand.

    Parameters
    ----------
    paths, sizes
        Files, and their size in bytes when their header was read (None: unknown; then the size at opening counts).
    limit
        Files kept open at most; more only while more threads use different files.
    """

    def __init__(self, paths: Sequence[str], sizes: Sequence[int | None], *, limit: int = MAX_OPEN) -> None:
        if len(paths) != len(sizes):
            raise ValueError(f"{len(paths)} paths, but {len(sizes)} sizes")
        self._open: OrderedDict[int, _Entry[Opened]] = OrderedDict()     # by file, least recently used first
        self._lock = threading.Lock()
        self._closed = False
        self._limit = limit
        self.paths = list(paths)
        self.sizes = list(sizes)
        _pools.add(self)

    @abstractmethod
    def open(self, file: int) -> Opened:
        """Open a file after it has passed `check`; errors as `borrow`."""

    @abstractmethod
    def shut(self, opened: Opened) -> None:
        """Close what `open` gave."""

    def inherited(self, opened: Opened) -> None:
        """Let go of what another process opened, before this one was forked from it."""
        self.shut(opened)

    def borrow(self, file: int) -> Opened:
        """An open file, which stays open until `give_back`.

        Raises
        ------
        OSError
            The file cannot be opened.
        ReadError
            It is not a regular file, or has become smaller.
        ValueError
            The pool is closed.
        """
        with self._lock:
            entry = self._open.get(file)
            if entry is not None and not self._closed:
                entry.users += 1
                self._open.move_to_end(file)
                return entry.opened
        return self._open_and_borrow(file)

    def give_back(self, file: int) -> None:
        """End the use of a borrowed file."""
        with self._lock:
            entry = self._open.get(file)
            if entry is not None:       # None: borrowed before a fork
                entry.users -= 1
                if self._closed or len(self._open) > self._limit:
                    self._trim()

    def close(self) -> None:
        """Close all files, those in use as soon as they are given back."""
        with self._lock:
            self._closed = True
            self._trim()

    def __del__(self) -> None:
        if hasattr(self, "_lock"):
            self.close()

    def _open_and_borrow(self, file: int) -> Opened:
        if self._closed:
            raise ValueError(f"{self.paths[file]}: the reader is closed")
        opened = self.open(file)            # not under the lock: a slow server must hold up only who asks for it
        with self._lock:
            entry = self._open.get(file)
            if entry is None:
                entry = self._open[file] = _Entry(opened)
            else:                           # another thread was faster
                self.shut(opened)
            entry.users += 1
            self._open.move_to_end(file)
            self._trim()
            return entry.opened

    def check(self, file: int, status: os.stat_result) -> None:
        """Raise ReadError unless `status` is that of a regular file of at least the known size."""
        path, known = self.paths[file], self.sizes[file]
        if not stat.S_ISREG(status.st_mode):
            raise ReadError(f"{path}: expected a regular file, found a folder, pipe, socket or device")
        if known is None:
            self.sizes[file] = status.st_size
        elif status.st_size < known:
            raise ReadError(f"{path}: the file shrank: expected {known} bytes as when its header was read, found {status.st_size}")

    def _trim(self) -> None:
        """Close idle files beyond the limit, least recently used first; called with the lock held."""
        keep = 0 if self._closed else self._limit
        if len(self._open) <= keep:
            return
        for file, entry in list(self._open.items()):
            if entry.users == 0:
                del self._open[file]
                self.shut(entry.opened)
                if len(self._open) <= keep:
                    return

    def _forget_inherited(self) -> None:
        """In a forked child: let go of what the parent opened; no other thread exists that could hold the lock."""
        self._lock = threading.Lock()
        for entry in self._open.values():
            self.inherited(entry.opened)
        self._open.clear()


class _Entry(Generic[Opened]):
    """An open file and how many use it."""

    __slots__ = ("opened", "users")

    def __init__(self, opened: Opened) -> None:
        self.opened, self.users = opened, 0


class Descriptors(OpenFiles[int]):
    """Descriptors of the system; parameters as `OpenFiles`, and `flags`: further flags for ``open(2)``."""

    def __init__(self, paths: Sequence[str], sizes: Sequence[int | None], *, flags: int = 0, limit: int = MAX_OPEN) -> None:
        super().__init__(paths, sizes, limit=limit)
        # Without O_NONBLOCK, opening a pipe would wait for somebody to write into it.
        self._flags = os.O_RDONLY | os.O_NONBLOCK | flags

    def open(self, file: int) -> int:
        opened = os.open(self.paths[file], self._flags)
        try:
            self.check(file, os.fstat(opened))
        except BaseException:
            os.close(opened)
            raise
        return opened

    def shut(self, opened: int) -> None:
        os.close(opened)


_pools: weakref.WeakSet[OpenFiles[Any]] = weakref.WeakSet()


def _after_fork() -> None:
    for pool in list(_pools):
        pool._forget_inherited()


os.register_at_fork(after_in_child=_after_fork)
