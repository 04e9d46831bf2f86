"""Memory that shows what must not be touched: guard bands around the output, an unreadable page behind the input."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

PAGE = mmap.PAGESIZE
PROT_NONE = 0            # Python's mmap does not name it
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def before_unreadable_page(data: np.ndarray) -> Iterator[np.ndarray]:
    """A copy of `data` whose next byte cannot be read: whoever tries ends the process."""
    size = -(-max(1, data.nbytes) // PAGE) * PAGE
    pages = mmap.mmap(-1, size + PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole = np.frombuffer(pages, np.uint8)
    guard = ctypes.c_void_p(whole.ctypes.data + size)
    copy = whole[size - data.nbytes:size]
    copy[:] = data.view(np.uint8).ravel()
    if _libc.mprotect(guard, PAGE, PROT_NONE):
        raise OSError(ctypes.get_errno(), "mprotect")
    try:
        yield copy
    finally:
        _libc.mprotect(guard, PAGE, mmap.PROT_READ | mmap.PROT_WRITE)


class GuardedOutput:
    """dtype[frames, pixels] at an odd item of a random buffer; `check` asserts that the rest of the buffer is as it was."""

    def __init__(self, frames: int, pixels: int, dtype: np.dtype, rng: np.random.Generator, guard_items: int = 1031) -> None:
        self._guard, self._n = guard_items * dtype.itemsize, frames * pixels * dtype.itemsize
        self._memory = rng.integers(0, 256, self._n + 2 * self._guard, dtype=np.uint8)
        if dtype.kind == "b":
            self._memory &= 1
        self._before = self._memory.copy()
        self.out = self._memory[self._guard:self._guard + self._n].view(dtype).reshape(frames, pixels)
        self.before = self.out.copy()

    def check(self, what: str) -> None:
        for name, part in (("before", slice(0, self._guard)), ("behind", slice(self._guard + self._n, None))):
            assert np.array_equal(self._memory[part], self._before[part]), f"{what}: memory {name} the output was written"
