"""What the machine can do without gpuio: reading the same bytes, copying memory, writing tiles.

=====================  ==========================================================================================
storage                the bytes of the file past the page cache (``O_DIRECT``), front to back, one request at a time
                       and several at once, which is the limit that counts; none where the file system refuses
page cache             the bytes of the file by ``preadv`` into a buffer that stays in the CPU's cache
page cache to tiles    the same, and after each piece as many bytes written to a tile that stays in the cache as its
                       pixels take: what a stream cannot be faster than, unless it decodes mapped files where they lie
memory to tiles        memory copied to such a tile, and its other bytes written: the same for decoding alone
memory copy            large arrays, bytes copied
host to device         page-locked memory to a device (`gpuio.ceilings`)
device copy            within the memory of a device, bytes copied
=====================  ==========================================================================================

Work of several threads is divided evenly among as many.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from gpuio import ceilings
from gpuio.bench.subject import Range, Subject, Work
from gpuio.bench.timing import Candidate
from gpuio.ceilings import COPY_BYTES, Pass
from gpuio.io.backends import DirectBackend
from gpuio.io.direct import ALIGNMENT
from gpuio.io.staging import aligned_empty

#: Bytes of a request to storage, and of one to the page cache; and of a tile: they stay in the second-level cache. The fastest ones
#: measured on an AMD EPYC with 1 MiB of that and a virtual drive.
DIRECT_BYTES, CACHED_BYTES, TILE_BYTES = 4 << 20, 512 << 10, 1 << 20
#: Requests to storage at a time.
IN_FLIGHT = 8
#: The limit that counts.
STORAGE = f"storage, {IN_FLIGHT} requests"

#: Bytes that are copied from memory to tiles: no cache holds them.
SAMPLE_BYTES = 32 << 20

#: Called with the bytes of a piece that has just been read.
After = Callable[[int], None]


def page_cache_name(label: str) -> str:
    """Of the limit of a stream from the page cache to tiles."""
    return f"page cache to {label} tiles"


def memory_name(label: str, threads: int = 1) -> str:
    """Of the limit of decoding from memory to tiles."""
    return f"memory to {label} tiles{f', {threads} threads' if threads > 1 else ''}"


def limits(subject: Subject, ranges: Sequence[Range]) -> Iterator[Work]:
    """What the machine can do with the bytes of these ranges and their pixels."""
    cache, threads, engine = subject.cache, subject.threads, subject.ds.engine
    whole = sum(part.size for part in ranges)
    if ranges and DirectBackend().unavailable(ranges[0].path) is None:
        for name, n in (("storage, 1 request", 1), (STORAGE, IN_FLIGHT)):
            yield Work(name, f"O_DIRECT, {n} x 4 MiB at a time", whole, Candidate(partial(reading, ranges, threads=n, direct=True)))
    if ranges and not cache.cold:
        yield Work("page cache", "preadv to a buffer in the CPU's cache", whole,
                   Candidate(lambda: reading(ranges, threads=threads), cache.prepare))
    copy = ceilings.memory_copy()
    yield Work("memory copy", "one thread, large arrays", copy.n_bytes, Candidate(copy.once))
    if engine.name != "cpu":
        push, inside = ceilings.host_to_device(engine), device_copy(engine)
        yield Work("page-locked to device", "page-locked memory to the device", push.n_bytes, Candidate(push.once))
        yield Work("device copy", "within the device's memory", inside.n_bytes, Candidate(inside.once))
        return
    memory = random_bytes(SAMPLE_BYTES)
    for pixels in subject.pixels:
        tiles = subject.plan.frames * subject.ds.layout.sig_size * pixels.dtype.itemsize
        if ranges and not cache.cold:
            after = writing(tiles / max(1, whole))
            yield Work(page_cache_name(pixels.label), "page cache, and each tile written once", subject.plan.needed_bytes,
                       Candidate(partial(reading, ranges, threads=threads, after=after), cache.prepare))
        ratio = max(1e-3, tiles / max(1, subject.unpacked_bytes))
        for n in dict.fromkeys((1, threads)) if cache.cold else (1,):
            yield Work(memory_name(pixels.label, n), "copied to a tile, the rest of it written", SAMPLE_BYTES,
                       Candidate(partial(from_memory, memory, ratio, n)))


def reading(ranges: Sequence[Range], *, threads: int = 1, direct: bool = False, after: Callable[[], After] | None = None) -> None:
    """Read ranges front to back, each thread every n-th piece.

    Parameters
    ----------
    direct
        Past the page cache; pieces are aligned outwards.
    after
        Makes what a thread calls after each piece.
    """
    size = DIRECT_BYTES if direct else CACHED_BYTES
    pieces = [(number, at, min(size, part.high - at)) for number, part in enumerate(ranges)
              for at in range(part.low - part.low % ALIGNMENT if direct else part.low, part.high, size)]
    descriptors = [os.open(part.path, os.O_RDONLY | (os.O_DIRECT if direct else 0)) for part in ranges]

    def read(first: int) -> None:
        buffer, then = memoryview(aligned_empty(size).data), after() if after is not None else _nothing
        for number, at, wanted in pieces[first::threads]:
            if direct:
                wanted = -(-wanted // ALIGNMENT) * ALIGNMENT
            then(os.preadv(descriptors[number], (buffer[:wanted],), at))

    try:
        _on_threads(read, threads)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def random_bytes(n_bytes: int) -> np.ndarray:
    """From the start of a page, as staging buffers begin."""
    found = aligned_empty(n_bytes)
    found[:] = np.random.default_rng(2).integers(0, 256, n_bytes, dtype=np.uint8)
    return found


def writing(ratio: float) -> Callable[[], After]:
    """Makes what writes, after each piece, `ratio` times its bytes to a tile that is used again and again."""
    def after() -> After:
        tile = _touched(TILE_BYTES)
        at = 0

        def write(n_bytes: int) -> None:
            nonlocal at
            left = round(n_bytes * ratio)
            while left:
                stop = min(at + left, len(tile))
                tile[at:stop] = 1
                left -= stop - at
                at = stop % len(tile)

        return write

    return after


def from_memory(source: np.ndarray, ratio: float, threads: int) -> None:
    """Copy memory, piece after piece, to a tile that stays in the CPU's cache, and write what the tile has more bytes."""
    piece = min(TILE_BYTES, int(TILE_BYTES / ratio))

    def copy(first: int) -> None:
        tile = _touched(TILE_BYTES)
        for at in range(first * piece, len(source), threads * piece):
            packed = source[at:at + piece]
            np.copyto(tile[:len(packed)], packed)
            tile[len(packed):round(len(packed) * ratio)] = 1

    _on_threads(copy, threads)


def device_copy(engine: Any) -> Pass:
    """Within the memory of a device."""
    source, target = engine.zeros((COPY_BYTES,), np.uint8), engine.empty((COPY_BYTES,), np.uint8)

    def copy() -> None:
        target[:] = source

    return Pass(COPY_BYTES, copy, lambda: engine.download(target[-1:]))


def _nothing(n_bytes: int) -> None:
    pass


def _touched(n_bytes: int) -> np.ndarray:
    """Memory that the system has already handed out."""
    found = aligned_empty(n_bytes)
    found[:] = 0
    return found


def _on_threads(work: Callable[[int], None], threads: int) -> None:
    """``work(0)`` to ``work(threads - 1)`` at the same time."""
    if threads == 1:
        work(0)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
