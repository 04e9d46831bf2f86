"""Which transport, by facts about the files: is their content in the page cache, where do they lie, and where do their bytes go?"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gpuio.errors import BackendUnavailable
from gpuio.io import gds
from gpuio.io.backends import BufferedBackend, GDSBackend, IOBackend, MMapBackend
from gpuio.io.filesystems import NETWORK, file_system

#: Share of the page cache from which files are taken to be there.
WARM = 0.5
#: Files looked at, and places in each: enough to tell a cached scan from one that is not, within some 50 microseconds.
_FILES, _PLACES = 4, 4

_draw = random.Random().random       # not the generator that users seed
_kinds: dict[int | None, str] = {}   # file system by number of its device: one question to the system, where resolving a path takes many


class Choice(NamedTuple):
    """A transport, whether the files have to come from storage, and why this transport."""

    transport: IOBackend
    cold: bool
    reason: str


def choose(paths: Sequence[str], sizes: Sequence[int | None], prefer: str | IOBackend | None = None, in_place: bool = False, *,
           on_device: bool = False, frame_bytes: int = 0, against: str | None = None, machine: gds.Machine | None = None) -> Choice:
    """Choose how to read files.

    Parameters
    ----------
    paths, sizes
        The files, and their size in bytes where known.
    prefer
        A backend or its id, taken if it can be used. Unbuffered reading into host memory is never chosen unasked: it makes every
        second reading as slow as the first.
    in_place
        Whether the caller can decode bytes where they lie in the page cache, and takes them front to back, or so many at a
        time that a copy would not stay in the CPU's cache. Then files that are there, on a file system of this machine, are
        mapped: that saves a copy, which is a fifth to a third of the time (measured). A few bytes taken in another order
        are better copied first.
    on_device
        Whether the bytes go to a GPU. Those that have to come from storage go there directly, if nothing stands against it.
    frame_bytes
        Of a frame in its file, if known.
    against
        What the caller has against bytes that go to the GPU directly.
    machine
        What GPUDirect Storage finds; default this machine.

    Raises
    ------
    BackendUnavailable
        What is preferred is not known or cannot be used; the message says why.
    """
    if prefer is not None:
        return Choice(_preferred(prefer, paths), False, "asked for")
    shares = [resident_fraction(paths[i], size=sizes[i], places=_PLACES) for i in _spread(len(paths), _FILES)]
    known = [share for share in shares if share is not None]
    warm = sum(known) / len(known) if known else None
    where = f"{_file_system_of(paths[0]) if paths else 'no files'}: {cached(warm)}"
    if paths and (warm is None or warm < WARM):
        if not on_device:
            return Choice(BufferedBackend(), True, f"{where}; large blocks, read ahead")
        against = against or next(_against_gds(paths, frame_bytes, gds.Machine.here() if machine is None else machine), None)
        if against is None:
            return Choice(GDSBackend(), True, f"{where}; from storage into device memory")
        return Choice(BufferedBackend(), True, f"{where}; large blocks, read ahead (not GPUDirect Storage: {against})")
    if on_device:
        return Choice(BufferedBackend(), False, f"{where}; large blocks, read ahead")
    if in_place and warm == 1 and not where.startswith("network"):
        return Choice(MMapBackend(), False, f"{where}; mapped, decoded where they lie")
    return Choice(BufferedBackend(), False, f"{where}; small blocks, decoded from the CPU's cache")


def cached(share: float | None) -> str:
    """How much of the files is in the page cache, in words."""
    return "page cache unknown" if share is None else f"{share:.0%} of the places looked at are in the page cache"


def _against_gds(paths: Sequence[str], frame_bytes: int, machine: gds.Machine) -> Iterator[str]:
    """What stands against GPUDirect Storage, of the files and the machine, one file of each folder looked at."""
    for path in {os.path.dirname(path): path for path in paths}.values():
        kind, drive = gds.place(path)
        yield from machine.obstacles(kind)
        yield from gds.doubts(kind, drive)
    if 0 < frame_bytes < gds.ALIGNMENT:
        yield (f"frames of {frame_bytes} bytes are smaller than the {gds.ALIGNMENT} bytes that it is aligned to; "
               "chosen ones would be read with their surroundings")


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
    try:
        device = os.stat(path).st_dev
    except OSError:
        device = None
    kind = _kinds.get(device)
    if kind is None:
        kind = file_system(os.path.dirname(os.path.realpath(path)))
        if device is not None:
            _kinds[device] = kind
    return f"network file system {kind}" if kind in NETWORK else f"file system {kind}"
