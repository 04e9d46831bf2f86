"""Reading headers: the little window on the file system that parsers are given.

Parsers never open files. They get a `Source`, ask it for bytes, sizes and folder listings, and tests give them one made
of dictionaries. Pixels are never read through it.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from typing import Protocol

from gpuio.errors import DataSetException

#: No header is longer; a parser that asks for more has been misled by a corrupt length field.
MAX_READ = 64 << 20


class Source(Protocol):
    """What a parser may ask of storage."""

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer at the end of the file, never more than `MAX_READ`.

        Raises
        ------
        OSError
            The file is missing or may not be read.
        DataSetException
            It is a folder, pipe, socket or device, or more than `MAX_READ` bytes are asked for.
        """

    def size(self, path: str) -> int:
        """Bytes in the file; errors as `read`."""

    def listdir(self, folder: str) -> list[str]:
        """Names (not paths) in a folder, sorted; `OSError` if it cannot be listed."""


class HostFiles:
    """`Source` on the local file system. Each thread keeps the file open that it read last: headers are many small reads of few files."""

    def __init__(self) -> None:
        self._last = threading.local()

    def __reduce__(self) -> tuple[type[HostFiles], tuple[()]]:
        return HostFiles, ()

    def size(self, path: str) -> int:
        return _regular(path, os.stat(path))

    def read(self, path: str, offset: int, size: int) -> bytes:
        if not 0 <= size <= MAX_READ:
            raise DataSetException(f"{path}: a header of {size} bytes is asked for; expected at most {MAX_READ}")
        opened = getattr(self._last, "opened", None)
        if opened is None or opened.path != path:
            opened = self._last.opened = _Opened(path)
        chunk = os.pread(opened.descriptor, size, offset)
        if len(chunk) == size:
            return chunk
        chunks = [chunk]
        while chunk and size > 0:
            offset += len(chunk)
            size -= len(chunk)
            chunk = os.pread(opened.descriptor, size, offset)
            chunks.append(chunk)
        return b"".join(chunks)

    def listdir(self, folder: str) -> list[str]:
        return sorted(os.listdir(folder or "."))


class _Opened:
    """A file that is open for as long as somebody refers to it."""

    def __init__(self, path: str) -> None:
        _regular(path, os.stat(path))           # before opening: opening a pipe for reading would wait for a writer
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        _regular(path, os.fstat(self.descriptor))

    def __del__(self, _close: Callable[[int], None] = os.close) -> None:
        if hasattr(self, "descriptor"):
            _close(self.descriptor)


def _regular(path: str, status: os.stat_result) -> int:
    """Size of a regular file; anything else is refused by name."""
    if stat.S_ISREG(status.st_mode):
        return status.st_size
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"),
             (stat.S_ISCHR, "a character device"), (stat.S_ISBLK, "a block device"))
    kind = next((name for test, name in kinds if test(status.st_mode)), "not a regular file")
    raise DataSetException(f"{path}: is {kind}; expected a regular file")
