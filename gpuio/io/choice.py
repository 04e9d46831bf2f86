"""Which transport, by facts about the files: is their content in the page cache, and on what file system do they lie?"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from gpuio.errors import BackendUnavailable
from gpuio.io.backends import BufferedBackend, IOBackend, MMapBackend

#: File systems whose files come over a network.
NETWORK = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "glusterfs", "gpfs", "lustre",
    "ncpfs", "nfs", "nfs4", "orangefs", "panfs", "smb2", "smb3", "smbfs",
})
#: Files looked at, and places in each: enough to tell a cached scan from one that is not, within some 50 microseconds.
_FILES, _PLACES = 4, 4

_draw = random.Random().random       # not the generator that users seed


class Choice(NamedTuple):
    """A transport, whether the files have to come from storage, and why this transport."""

    transport: IOBackend
    cold: bool
    reason: str


def choose(paths: Sequence[str], sizes: Sequence[int | None], prefer: str | IOBackend | None = None,
           in_place: bool = False) -> Choice:
    """Choose how to read files.

    Parameters
    ----------
    paths, sizes
        The files, and their size in bytes where known.
    prefer
        A backend or its id, taken if it can be used. Unbuffered reading is never chosen unasked: it makes every second
        reading as slow as the first.
    in_place
        Whether the caller can decode bytes where they lie in the page cache, and takes them front to back, or so many at a
        time that a copy would not stay in the CPU's cache. Then files that are there, on a file system of this machine, are
        mapped: that saves a copy, which is a fifth to a third of the time (measured). A few bytes taken in another order
        are better copied first.

    Raises
    ------
    BackendUnavailable
        What is preferred is not known or cannot be used; the message says why.
    """
    if prefer is not None:
        return Choice(_preferred(prefer, paths), False, "asked for")
    shares = [resident_fraction(paths[i], size=sizes[i], places=_PLACES) for i in _spread(len(paths), _FILES)]
    known = [share for share in shares if share is not None]
    where = _file_system_of(paths[0]) if paths else "no files"
    if not known:
        return Choice(BufferedBackend(), bool(paths), f"{where}: the page cache cannot be asked; large blocks, read ahead")
    warm = sum(known) / len(known)
    where = f"{where}: {warm:.0%} of the places looked at are in the page cache"
    if warm < 0.5:
        return Choice(BufferedBackend(), True, f"{where}; large blocks, read ahead")
    if in_place and warm == 1 and not where.startswith("network"):
        return Choice(MMapBackend(), False, f"{where}; mapped, decoded where they lie")
    return Choice(BufferedBackend(), False, f"{where}; small blocks, decoded from the CPU's cache")


def _preferred(prefer: str | IOBackend, paths: Sequence[str]) -> IOBackend:
    backend = prefer
    if isinstance(backend, str):
        found = IOBackend.get_cls_by_id(backend)
        if found is None:
            raise BackendUnavailable(f"I/O backend {prefer!r} is unknown; expected one of {IOBackend.get_supported()}")
        backend = found()
    reason = backend.unavailable(paths[0] if paths else None)
    if reason is not None:
        raise BackendUnavailable(reason)
    return backend


def resident_fraction(path: str, offset: int = 0, size: int | None = None, places: int = 16) -> float | None:
    """Share of a range of a file that is in the page cache, from a few single bytes. Waits for no storage.

    Asking makes Linux read the page asked for, afterwards and in the background. So places are drawn anew each time:
    asked twice at the same ones, any file would look cached.

    Parameters
    ----------
    offset, size
        The range in bytes; None: to the end of the file.
    places
        Bytes looked at, one at random in each of as many equal parts.

    Returns
    -------
    float or None
        None if it cannot be told: the file cannot be opened, the range is empty, or the system has no such question.
    """
    if not hasattr(os, "RWF_NOWAIT"):
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        end = os.fstat(descriptor).st_size if size is None else offset + size
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)        # that page, and none around it
        places_cached = []
        byte = bytearray(1)
        for place in _spread(end - offset, places):
            try:
                if os.preadv(descriptor, (byte,), offset + place, os.RWF_NOWAIT):      # 0: past the end of the file
                    places_cached.append(True)
            except BlockingIOError:
                places_cached.append(False)
        return sum(places_cached) / len(places_cached) if places_cached else None
    except OSError:         # the file system has no answer
        return None
    finally:
        os.close(descriptor)


def _spread(n: int, count: int) -> list[int]:
    """At most `count` numbers below `n`, one at random in each of `count` equal parts."""
    count = max(0, min(n, count))
    return [min(int((i + _draw()) * n / count), n - 1) for i in range(count)]


def _file_system_of(path: str) -> str:
    kind = file_system(os.path.dirname(os.path.realpath(path)))
    return f"network file system {kind}" if kind in NETWORK else f"file system {kind}"


@lru_cache(maxsize=256)
def file_system(folder: str) -> str:
    """Name of the file system a folder lies on, as the system calls it; ``unknown`` where it does not say."""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as mounts:
            entries = [line.split(" ") for line in mounts]
    except OSError:
        return "unknown"
    best, kind = "", "unknown"
    for _, point, name, *_ in entries:
        for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
            point = point.replace(code, character)
        inside = folder == point or folder.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):      # of two at the same place the later one hides the earlier
            best, kind = point, name
    return kind
