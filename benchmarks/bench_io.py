"""How fast bytes come from a file into the CPU's hands, by every host transport, beside a bare ``preadv`` loop in the same run.

``python -m benchmarks.bench_io [MiB]`` prints the table; ``pytest benchmarks/bench_io.py`` records it with pytest-benchmark.
Every candidate reads the whole file front to back and looks at each byte once (the maximum of 64-bit words); the limit reads
with 1 MiB calls into one buffer and looks at nothing. Cold means that the file was taken out of the page cache before.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import quick
from benchmarks.measure import record, show, words
from gpuio.io import resident_fraction
from gpuio.io.backends import BufferedBackend, DirectBackend, IOBackend, MMapBackend
from gpuio.io.readahead import ReadAhead
from gpuio.io.staging import aligned_empty

KIB, MIB = 1 << 10, 1 << 20
SLOTS = 3
Candidate = Callable[[str, int], object]


def look(piece: np.ndarray) -> int:
    """Bring every byte to the CPU."""
    return int(piece.view(np.uint64).max())


def limit(path: str, size: int) -> None:
    buffer = bytearray(MIB)
    descriptor = os.open(path, os.O_RDONLY)
    for offset in range(0, size, MIB):
        os.preadv(descriptor, (buffer,), offset)
    os.close(descriptor)


def blocks(backend: IOBackend, block: int) -> Candidate:
    """One buffer, used again and again."""

    def run(path: str, size: int) -> None:
        into = aligned_empty(block)
        with backend.open([path], [size]) as reader:
            for offset in range(0, size, block):
                reader.read([(0, offset, block, 0)], into)
                look(into)

    return run


def ahead(backend: IOBackend, block: int, threads: int) -> Candidate:
    """A ring of buffers that threads fill."""

    def run(path: str, size: int) -> None:
        slots = [aligned_empty(block) for _ in range(SLOTS)]
        with backend.open([path], [size]) as reader, ReadAhead(reader, threads) as pool:
            offsets = list(range(0, size, block))
            pending = [pool.submit([(0, offset, block, 0)], slot) for offset, slot in zip(offsets, slots, strict=False)]
            for i in range(len(offsets)):
                slot = slots[i % SLOTS]
                pending[i].wait()
                look(slot)
                if i + SLOTS < len(offsets):
                    pending.append(pool.submit([(0, offsets[i + SLOTS], block, 0)], slot))

    return run


def windows(backend: MMapBackend, block: int) -> Candidate:
    """One mapping after the other, each looked at once."""

    def run(path: str, size: int) -> None:
        with backend.open([path], [size]) as reader:
            for offset in range(0, size, block):
                mapped = reader.map([(0, offset, block, 0)])
                mapped.check()
                look(mapped.views[0])
                mapped.close()

    return run


CANDIDATES: dict[str, Candidate] = {
    "preadv limit, 1 MiB": limit,
    **{f"buffered {b // KIB} KiB": blocks(BufferedBackend(), b) for b in (128 * KIB, 256 * KIB, MIB, 2 * MIB, 8 * MIB)},
    **{f"buffered ahead 8 MiB, {n} threads": ahead(BufferedBackend(), 8 * MIB, n) for n in (1, 3)},
    **{f"mmap {b // MIB} MiB": windows(MMapBackend(), b) for b in (1 * MIB, 4 * MIB, 16 * MIB)},
    "mmap 16 MiB, hints": windows(MMapBackend(enable_readahead_hints=True), 16 * MIB),
    "direct 8 MiB": blocks(DirectBackend(), 8 * MIB),
    "direct ahead 8 MiB, 3 threads": ahead(DirectBackend(), 8 * MIB, 3),
}


def warm(path: str, size: int) -> bool:
    """Bring the file into the page cache."""
    limit(path, size)
    return True


def cold(path: str, size: int) -> bool:
    """Take the file out of the page cache; False where the file system keeps it there."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    return (resident_fraction(path) or 0) < 0.3


def rates(prepare: Callable[[str, int], bool], path: str, size: int, rounds: int) -> dict[str, float]:
    """Median GB/s of each candidate; candidates take turns."""
    times: dict[str, list[float]] = {name: [] for name in CANDIDATES}
    for turn in range(rounds + 1):
        for name, run in CANDIDATES.items():
            if (name.startswith("direct") and DirectBackend().unavailable(path)) or not prepare(path, size):
                times[name].append(float("nan"))
                continue
            start = time.perf_counter()
            run(path, size)
            if turn:            # the first round warms up the code
                times[name].append(time.perf_counter() - start)
    return {name: size / statistics.median(values) / 1e9 for name, values in times.items()}


def measure(size: int = 256 * MIB, rounds: int = 5) -> list[dict[str, object]]:
    """One row a candidate."""
    piece = np.random.default_rng(0).integers(0, 256, 16 * MIB, dtype=np.uint8).tobytes()
    size -= size % len(piece)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bytes"
        with open(path, "wb") as out:
            for _ in range(size // len(piece)):
                out.write(piece)
            out.flush()
            os.fsync(out.fileno())
        found = {name: rates(prepare, str(path), size, rounds) for name, prepare in (("warm", warm), ("cold", cold))}
    bound = {state: found[state]["preadv limit, 1 MiB"] for state in found}
    return [{"transport": name, **{key: value for state in found for key, value in (
        (f"{state} GB/s", found[state][name]), (f"of limit, {state}", found[state][name] / bound[state]))}} for name in CANDIDATES]


def test_io(benchmark: Any) -> None:
    """Recorded as extra_info."""
    record(benchmark, lambda: measure(quick.LARGE_BYTES, quick.ROUNDS), "transport", ["of limit, warm", "of limit, cold"])


if __name__ == "__main__":
    show(measure(*(int(word) * MIB for word in words())))
