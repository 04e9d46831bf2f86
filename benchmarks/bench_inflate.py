"""Compressed chunks of HDF5 on the CPU, filter by filter: pixels per second beside the HDF5 library, and what a GPU would have to do.

192 x 192 pixels of 16 bits, a chunk each, Poisson counts in a disc, in a file in the page cache. ``python -m benchmarks.bench_inflate
[frames]`` prints three tables:

- GB of pixels per second of CPU time, one thread each: chunks read with `preadv` and inflated by gpuio, and ``dataset[...]`` by h5py
  with hdf5plugin; and the ratio of wall times with two threads of gpuio's, since the library has a lock and takes one at a time;
- what the blocks of bitshuffle hold, on which the time of a kernel depends (sequences of LZ4, literals, kinds of matches);
- the blocks a second that follow for an H200 from the instructions of the compiled kernel. Predicted, not measured.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from benchmarks import quick
from benchmarks.measure import interleaved, record, table, words
from gpuio.cpu_fallback import CpuEngine
from gpuio.engine import inflate_status
from gpuio.layout import Filter

SHAPE = (192, 192)
FRAMES = 250
#: Chunks read and inflated at a time.
BATCH = 16
NAMES = {1: "deflate", 2: "shuffle", 3: "fletcher32", 32000: "lzf", 32004: "lz4", 32008: "bitshuffle"}
WRITERS: dict[str, dict[str, Any]] = {
    "bitshuffle + LZ4": dict(hdf5plugin.Bitshuffle()),
    "bitshuffle": dict(hdf5plugin.Bitshuffle(cname="none")),
    "LZ4": dict(hdf5plugin.LZ4()),
    "shuffle + LZ4": dict(hdf5plugin.LZ4(), shuffle=True),
    "LZF": dict(compression="lzf"),
    "gzip": dict(compression="gzip"),
    "shuffle + gzip": dict(compression="gzip", shuffle=True),
    "shuffle + gzip + Fletcher-32": dict(compression="gzip", shuffle=True, fletcher32=True),
}
#: Multiprocessors, schedulers of each, and clock of an H200; the share of issue slots that is taken to be used.
H200, USED = 132 * 4 * 1.755e9, (0.45, 0.60)


def disc(counts: float, frames: int) -> np.ndarray:
    """A bright-field disc of so many counts a pixel, and a tail around it."""
    y, x = (np.mgrid[:SHAPE[0], :SHAPE[1]].T - 95.5).T
    r = np.hypot(y, x)
    mean = np.where(r < 40, counts, counts / 50 * np.exp((40 - r) / 30))
    return np.random.default_rng(5).poisson(mean, (frames, *SHAPE)).astype(np.uint16)


@dataclass
class Chunks:
    """Where the chunks of a data set lie: one for each frame."""

    path: Path
    filters: tuple[Filter, ...]
    table: np.ndarray                           # int64[n, 3]: byte in the file, size, mask

    @classmethod
    def of(cls, path: Path) -> Chunks:
        rows = []
        with h5py.File(path) as file:
            dataset = file["data"]
            plist = dataset.id.get_create_plist()
            filters = [plist.get_filter(k) for k in range(plist.get_nfilters())]
            dataset.id.chunk_iter(lambda info: rows.append((info.byte_offset, info.size, info.filter_mask)))
        return cls(path, tuple(Filter(NAMES[number], tuple(params)) for number, _, params, _ in filters), np.array(rows, dtype=np.int64))


def reader(chunks: Chunks, truth: np.ndarray, threads: int) -> Callable[[], None]:
    """A call that reads all frames, `BATCH` at a time, into memory that is used again."""
    engine, frame_bytes = CpuEngine(), truth[0].nbytes
    inflater = engine.inflater(chunks.filters, frame_bytes, truth.itemsize)
    file = os.open(chunks.path, os.O_RDONLY)
    out = engine.empty((truth.nbytes,), np.uint8)
    batches = [chunks.table[i:i + BATCH] for i in range(0, len(chunks.table), BATCH)]
    largest = max(int((b[:, 0] + b[:, 1]).max() - b[:, 0].min()) for b in batches)

    def work(mine: list[int], staged: np.ndarray, inflate: Any) -> None:
        for k in mine:
            start, end = int(batches[k][:, 0].min()), int((batches[k][:, 0] + batches[k][:, 1]).max())
            os.preadv(file, [staged[:end - start]], start)
            rows = np.empty((len(batches[k]), 4), np.int64)
            rows[:, 0], rows[:, 1:3] = batches[k][:, 0] - start, batches[k][:, 1:]
            rows[:, 3] = (k * BATCH + np.arange(len(rows))) * frame_bytes
            for status in inflate(rows):
                assert status == 0, inflate_status(int(status))

    prepared = []
    for t in range(threads):
        staged = engine.staging(largest).host
        prepared.append((list(range(t, len(batches), threads)), staged, inflater.bind(staged, out)))

    def read() -> None:
        others = [threading.Thread(target=work, args=arguments) for arguments in prepared[1:]]
        for thread in others:
            thread.start()
        work(*prepared[0])
        for thread in others:
            thread.join()

    read()
    assert np.array_equal(out, truth.reshape(-1).view(np.uint8))
    return read


def rates(folder: Path, frames: int, rounds: int = 5) -> list[dict[str, object]]:
    """A row for each filter and mean number of counts."""
    rows: list[dict[str, object]] = []
    for counts in (20, 5):
        truth = disc(counts, frames)
        for name, options in WRITERS.items():
            path = folder / "chunks.h5"
            with h5py.File(path, "w") as file:
                file.create_dataset("data", data=truth, chunks=(1, *SHAPE), **options)
            chunks, into = Chunks.of(path), np.empty_like(truth)

            def library(path: Path = path, into: np.ndarray = into) -> None:
                with h5py.File(path) as file:
                    file["data"].read_direct(into)

            library()
            assert np.array_equal(into, truth)
            times = interleaved({"one": reader(chunks, truth, 1), "two": reader(chunks, truth, 2), "h5py": library}, rounds)
            rows.append({
                "filters": f"{name}, {counts} counts", "ratio": truth.nbytes / float(chunks.table[:, 1].sum()),
                "gpuio GB/s": truth.nbytes / times["one"].cpu / 1e9, "h5py GB/s": truth.nbytes / times["h5py"].cpu / 1e9,
                "times": times["h5py"].cpu / times["one"].cpu, "two threads, wall": times["h5py"].wall / times["two"].wall,
            })
    return rows


def sequences(block: bytes) -> list[tuple[int, int, int]]:
    """Literals, distance and length of the match of each sequence of an LZ4 block; the last has no match."""
    found, at = [], 0

    def length(nibble: int, at: int) -> tuple[int, int]:
        more = 255 if nibble == 15 else 0
        while more == 255:
            more = block[at]
            nibble, at = nibble + more, at + 1
        return nibble, at

    while at < len(block):
        token = block[at]
        literals, at = length(token >> 4, at + 1)
        at += literals
        if at >= len(block):
            return [*found, (literals, 0, 0)]
        distance = int.from_bytes(block[at:at + 2], "little")
        match, at = length(token & 15, at + 2)
        found.append((literals, distance, match + 4))
    return found


def statistics(frames: np.ndarray, name: str, path: Path) -> dict[str, object]:
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=frames, chunks=(1, *SHAPE), **WRITERS["bitshuffle + LZ4"])
        packed = [file["data"].id.read_direct_chunk((i, 0, 0))[1] for i in range(len(frames))]
    blocks = []
    for chunk in packed:
        at = 12
        while at < len(chunk):
            size = int.from_bytes(chunk[at:at + 4], "big")
            blocks.append(sequences(chunk[at + 4:at + 4 + size]))
            at += 4 + size
    counts = np.array([len(b) for b in blocks])
    short = [[s for s in b if 0 < s[2] <= 32] for b in blocks]
    return {
        "of a block of 8192 bytes": name, "ratio": frames.nbytes / sum(map(len, packed)), "sequences": float(counts.mean()),
        "p99": float(np.percentile(counts, 99)), "literals": float(np.mean([sum(s[0] for s in b) for b in blocks])),
        "matches <= 32": float(np.mean([len(b) for b in short])),
        "overlapping": float(np.mean([sum(s[1] < s[2] for s in b) for b in short])),
        "longer": float(np.mean([sum(s[2] > 32 for s in b) for b in blocks])),
    }


def predictions(rows: list[dict[str, object]], folder: Path) -> list[dict[str, object]]:
    """Blocks a second of an H200, from the instructions of a short sequence and of the unshuffling; empty without NVRTC."""
    from gpuio.kernels import _launch
    from tests.kernels import nvrtc

    if reason := nvrtc.why_not():
        print(reason)
        return []
    expression = "bitshuffle<2, true, true>"
    kernel = nvrtc.compile_kernels(_launch.source("inflate"), [expression], 90, folder)[expression]
    each = kernel.shortest_cycle(r"LDS.*U8", r"LDG.*U8") + 5                     # and a literal
    unite = 4 * kernel.shortest_cycle(r"LDS$", r"STG.*128")                      # 128 words of a plane, 32 at a time
    fixed = 1100                            # the long match, where blocks begin, waiting lanes: an estimate
    found: list[dict[str, object]] = []
    for row in rows:
        count = row["sequences"]
        assert isinstance(count, float)
        block = count * each + unite + fixed
        found.append({f"sm_90: {each} a sequence, {unite} to unshuffle": row["of a block of 8192 bytes"], "instructions a block": block,
                      **{f"million blocks/s at {u:.0%}": H200 * u / block / 1e6 for u in USED},
                      **{f"GB/s at {u:.0%}": 8192 * H200 * u / block / 1e9 for u in USED}})
    return found


def test_inflate(benchmark: Any, tmp_path: Path) -> None:
    """Few frames; recorded as extra_info."""
    record(benchmark, lambda: rates(tmp_path, quick.CHUNKS, quick.ROUNDS), "filters", ["times", "two threads, wall"])


if __name__ == "__main__":
    number = int(words()[0]) if words() else FRAMES
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"GB of pixels per second of CPU time, {number} frames, medians of 5 interleaved rounds")
        print(table(rates(folder, number)))
        few = [statistics(disc(c, 12), f"disc of {c} counts", folder / "few.h5") for c in (20, 5, 1)]
        few.append(statistics(np.random.default_rng(6).poisson(1, (12, *SHAPE)).astype(np.uint16), "flat, 1 count", folder / "few.h5"))
        print("\n" + table(few))
        print("\npredicted for an H200, not measured\n" + table(predictions(few, folder)))
