"""Mapped files: bytes are used where they lie in the page cache, without a copy.

One window is mapped for each file that a request touches, from its first to its last byte; pages between extents are
never touched and cost nothing. A window lives until it is closed *and* no array views it any more, so a view that a user
keeps stays valid.

A file that shrinks under its mapping kills the process on access (SIGBUS). Sizes are therefore checked when a window is
mapped, and by `Mapped.check`: call it right before use. Between two tiles the processor's cache is full of pixels, and then a path
that the system has to look up takes ten times as long as otherwise (measured: 5 % of the time of a look at all bytes); so where one
file is mapped, as nearly always, its descriptor is asked. What remains is the time between check and use; where files may shrink at
any time, the buffered transport is the right one.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from gpuio.errors import ReadError
from gpuio.io.base import Extent
from gpuio.io.buffered import PreadReader

# Python's own mmap holds a duplicate of the descriptor for as long as the mapping lives, so a request that touches 2,000
# files would need 2,000 descriptors. The system call needs none.
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_FAILED = ctypes.c_void_p(-1).value
_NO_BYTES = np.empty(0, dtype=np.uint8)
_NO_BYTES.flags.writeable = False


class _Window:
    """A read-only mapping of ``low:high`` of a file, unmapped when nothing refers to it. NumPy sees it as uint8[high - low]."""

    def __init__(self, descriptor: int, low: int, high: int) -> None:
        start = low // mmap.PAGESIZE * mmap.PAGESIZE
        self._length = high - start
        address = _libc.mmap(None, self._length, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, start)
        if address == _FAILED:
            self._length = 0
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._start: int = address
        self.address = self._start + low - start        # of byte `low` of the file
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": (high - low,), "data": (self.address, True)}

    def will_need(self, address: int, size: int) -> None:
        """Ask the system to read ``size`` bytes from `address` soon; it may decline."""
        start = address // mmap.PAGESIZE * mmap.PAGESIZE
        _libc.madvise(start, address + size - start, mmap.MADV_WILLNEED)

    def __del__(self, _munmap: Any = _libc.munmap) -> None:
        if self._length:
            _munmap(self._start, self._length)


class _Descriptor:
    """A descriptor of one's own, closed when nothing refers to it."""

    def __init__(self, number: int) -> None:
        self.number = os.dup(number)

    def __del__(self, _close: Callable[[int], None] = os.close) -> None:
        if hasattr(self, "number"):
            _close(self.number)


class Mapped:
    """Extents in the page cache; see `MappedReader.map`.

    Attributes
    ----------
    addresses : int64[n]
        Address of the first byte of each extent.
    """

    def __init__(self, extents: Sequence[Extent], windows: dict[int, tuple[_Window, int]], ends: dict[str, int],
                 only: _Descriptor | None) -> None:
        self._extents, self._windows, self._ends, self._only = extents, windows, ends, only
        self.addresses = np.fromiter((windows[f][0].address + offset - windows[f][1] if size else 0 for f, offset, size, _ in extents),
                                     dtype=np.int64, count=len(extents))

    @cached_property
    def views(self) -> list[np.ndarray]:
        """uint8[size] of each extent, read-only. A view keeps its window mapped, also after `close`."""
        whole = {file: np.asarray(window) for file, (window, _) in self._windows.items()}
        low = {file: low for file, (_, low) in self._windows.items()}
        return [whole[f][offset - low[f]:offset - low[f] + size] if size else _NO_BYTES
                for f, offset, size, _ in self._extents]

    def check(self) -> None:
        """Raise ReadError if a file has become too short for its extents; OSError if one of several is gone."""
        for path, end in self._ends.items():
            now = os.stat(path).st_size if self._only is None else os.lseek(self._only.number, 0, os.SEEK_END)
            if now < end:
                raise ReadError(f"{path}: the file shrank while it was mapped: expected at least {end} bytes, found {now}")

    def close(self) -> None:
        """Let go of the windows; addresses are no longer valid, views that are still referred to are."""
        self._windows, self._ends = {}, {}
        self._extents, self._only = (), None
        self.__dict__.pop("views", None)


class MappedReader(PreadReader):
    """`Reader` that also maps. `read` copies, and is safe with files that shrink.

    Parameters
    ----------
    hints
        Tell the system what is going to be used as soon as it is mapped.
    """

    def __init__(self, paths: Sequence[str], sizes: Sequence[int | None], *, hints: bool = False) -> None:
        super().__init__(paths, sizes)
        self._hints = hints

    def map(self, extents: Sequence[Extent]) -> Mapped:
        """Map extents; their `at` does not matter.

        Raises
        ------
        ReadError
            An extent ends past the end of its file, or the file has shrunk since its header was read.
        OSError
            The file cannot be opened.
        """
        spans: dict[int, tuple[int, int]] = {}
        for file, offset, size, _ in extents:
            if offset < 0 or size < 0:
                raise ValueError(f"{self._files.paths[file]}: an extent of {size} bytes at {offset} cannot be mapped")
            if size:
                low, high = spans.get(file, (offset, offset))
                spans[file] = min(low, offset), max(high, offset + size)
        windows = {file: (self._window(file, low, high), low) for file, (low, high) in spans.items()}
        only = self._descriptor(*spans) if len(spans) == 1 else None
        mapped = Mapped(extents, windows, {self._files.paths[file]: high for file, (_, high) in spans.items()}, only)
        if self._hints:
            for (file, _, size, _), address in zip(extents, mapped.addresses.tolist(), strict=True):
                if size:
                    windows[file][0].will_need(address, size)
        return mapped

    def _descriptor(self, file: int) -> _Descriptor:
        number = self._files.borrow(file)
        try:
            return _Descriptor(number)
        finally:
            self._files.give_back(file)

    def _window(self, file: int, low: int, high: int) -> _Window:
        files = self._files
        descriptor = files.borrow(file)
        try:
            status = os.fstat(descriptor)
            files.check(file, status)
            if status.st_size < high:
                raise ReadError(f"{files.paths[file]}: byte {low}: expected {high - low} bytes, found {max(0, status.st_size - low)}; "
                                f"the file has {status.st_size} bytes")
            return _Window(descriptor, low, high)
        except ReadError:
            raise
        except OSError as error:
            raise self._failed(error, file, low, high - low) from error
        finally:
            files.give_back(file)
