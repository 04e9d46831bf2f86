"""Unbuffered reading (``O_DIRECT``): past the page cache, for data much larger than memory on storage that is fast enough.

Offset, size and memory address must be multiples of the device's block; 4096 serves all. The plan aligns extents
outwards, so data may lie anywhere. The last block at the end of a file comes back short.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from gpuio.errors import BackendUnavailable
from gpuio.io.buffered import PreadReader

#: Bytes. Devices ask for 512 or 4096.
ALIGNMENT = 4096


def platform_reason() -> str | None:
    """Why this operating system has no unbuffered reads; None if it has."""
    return None if hasattr(os, "O_DIRECT") else "this operating system has no O_DIRECT; use the buffered backend"


def refusal(path: str) -> str | None:
    """Why the file system of `path` refuses unbuffered reads; None if it does not, or if `path` cannot be opened at all."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_DIRECT))
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            return f"{path}: its file system refuses unbuffered reads (O_DIRECT: {error.strerror}); use the buffered backend"
    return None


def open_direct(paths: Sequence[str], sizes: Sequence[int | None]) -> PreadReader:
    """A reader by ``O_DIRECT``.

    Raises
    ------
    BackendUnavailable
        A file system refuses; one file of each folder is tried.
    """
    reason = platform_reason()
    if reason is None:
        one_of_each_folder = {os.path.dirname(path): path for path in paths}
        reason = next(filter(None, map(refusal, one_of_each_folder.values())), None)
    if reason is not None:
        raise BackendUnavailable(reason)
    return PreadReader(paths, sizes, flags=os.O_DIRECT, alignment=ALIGNMENT)
