"""Reading with ``preadv`` into memory of the caller's: the transport that is always right.

The page cache is used and filled. A file that shrinks while it is read gives an error, never a signal, which mapped
files cannot promise. Blocks of 128 KiB to 1 MiB stay in the CPU's cache until they are decoded; cold files want larger
ones and several threads (`gpuio.io.readahead`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from gpuio.errors import ReadError
from gpuio.io.base import Extent
from gpuio.io.descriptors import MAX_OPEN, Descriptors


class PreadReader:
    """`Reader` by ``preadv``.

    Parameters
    ----------
    paths, sizes
        As in `Transport.open`.
    flags, alignment
        Further flags for ``open(2)``, and what they ask of offsets, sizes and memory.
    max_open
        Descriptors held at most.
    """

    def __init__(self, paths: Sequence[str], sizes: Sequence[int | None], *, flags: int = 0, alignment: int = 1,
                 max_open: int = MAX_OPEN) -> None:
        self._files = Descriptors(paths, sizes, flags=flags, limit=max_open)
        self._alignment = alignment

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; those that another thread reads from, when it is done."""
        self._files.close()

    def read(self, extents: Sequence[Extent], into: Any) -> None:
        """See `gpuio.io.base.Reader.read`."""
        view = memoryview(into)
        if view.itemsize != 1 or view.readonly:
            raise ValueError(f"bytes are read into writable uint8 memory; found format {view.format!r}, readonly={view.readonly}")
        files = self._files
        held = -1
        descriptor = -1
        try:
            for file, offset, size, at in extents:
                if file != held:
                    if held >= 0:
                        files.give_back(held)
                        held = -1
                    descriptor = files.borrow(file)
                    held = file
                piece = view[at:at + size]
                try:
                    got = os.preadv(descriptor, (piece,), offset)
                except OSError as error:
                    raise self._failed(error, file, offset, size) from error
                if got != size:
                    self._finish(descriptor, file, offset, size, piece, got)
        finally:
            if held >= 0:
                files.give_back(held)

    def _finish(self, descriptor: int, file: int, offset: int, size: int, piece: memoryview, got: int) -> None:
        """Read on after a short read, until all bytes are there that have to be."""
        if len(piece) != size:
            raise ValueError(f"{self._files.paths[file]}: an extent of {size} bytes does not fit into the {len(piece)} bytes given for it")
        known = self._files.sizes[file]
        assert known is not None        # settled when the file was opened
        step = self._alignment
        due = max(size - step + 1, min(size, known - offset))
        while got < due:
            start = got // step * step          # unbuffered reads go on where a block begins
            try:
                more = os.preadv(descriptor, (piece[start:],), offset + start)
            except OSError as error:
                raise self._failed(error, file, offset + start, size - start) from error
            if start + more <= got:
                break
            got = start + more
        if got < due:
            now = os.fstat(descriptor).st_size
            why = f"the file shrank from {known} to {now} bytes since its header was read" if now < known else f"the file has {now} bytes"
            raise ReadError(f"{self._files.paths[file]}: byte {offset}: expected {due} bytes, found {got}; {why}")

    def _failed(self, error: OSError, file: int, offset: int, size: int) -> ReadError:
        """The error of a system call with what it lacks: file, place and amount."""
        hint = ""
        if error.errno == errno.EINVAL and self._alignment > 1:
            hint = f" (offset, size and memory of unbuffered reads must be multiples of {self._alignment})"
        failure = ReadError(f"{self._files.paths[file]}: byte {offset}: reading {size} bytes failed: {error.strerror}{hint}")
        failure.errno = error.errno
        return failure
