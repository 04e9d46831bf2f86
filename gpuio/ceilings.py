"""What this machine can do at best with a data set, stage by stage, each stage alone.

All rates are in GB/s, 1 GB = 10^9 bytes. Reading is measured once, as the stream would read, on frames from the middle of
the selection: a second time the page cache would answer. The others are medians of `PASSES` passes after one that is not
counted, each long enough for the clock.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuio.engine import Engine, get_engine
from gpuio.io.backends import BufferedBackend
from gpuio.layout import Layout, spans
from gpuio.pipeline import open_blocks

if TYPE_CHECKING:
    from gpuio.corrections import CorrectionSet
    from gpuio.sizing import Sizes

#: Bytes that are read at most; more than that only if a single block is larger.
SAMPLE_BYTES = 256 << 20
#: Bytes of a copy in memory, and to a device: no cache holds them.
COPY_BYTES = 64 << 20
PASSES = 5
#: Seconds that a pass lasts at least.
PASS_SECONDS = 5e-3


def reading(layout: Layout, engine: Engine, transport: Any, frames: np.ndarray, edges: np.ndarray, sizes: Sizes) -> float | None:
    """The rate at which bytes come from where they are now, as `edges` and `sizes` plan it.

    Parameters
    ----------
    engine
        Of the stream; asked for memory only if the transport ends on its device.
    frames : int64[n]
        File frames, none of them blank.
    edges : int64[n_blocks + 1]
        Boundaries of blocks in `frames`.

    Returns
    -------
    float or None
        None where there is nothing to read, or frames have to be gathered from passes over the whole file.

    Raises
    ------
    ReadError, OSError
        Bytes cannot be read.
    """
    if layout.is_gathered or len(frames) == 0:
        return None
    placements = layout.placements
    block_bytes = sizes.block_frames * int(np.diff(spans(placements, layout.encoding, len(layout.parts))).sum())
    count = max(1, min(len(edges) - 1, SAMPLE_BYTES // max(1, block_bytes)))
    first = (len(edges) - 1 - count) // 2
    some = edges[first:first + count + 1]
    if transport.memory == "host":
        engine = get_engine("cpu")
    if transport.id == "mmap":              # mapping moves nothing; what it saves is this copy
        transport = BufferedBackend()
    total, started = 0, time.perf_counter()
    with open_blocks(layout, engine, transport, frames[some[0]:some[-1]], some - some[0], placements, sizes) as reader:
        for block in reader:
            total += block.used_bytes
    return total / (time.perf_counter() - started) / 1e9


@dataclass(frozen=True, slots=True)
class Pass:
    """Work that can be done again and again, the bytes that it moves each time, and how to wait until it is done."""

    n_bytes: int
    run: Callable[[], object]
    wait: Callable[[], object] = lambda: None

    def once(self) -> None:
        """Do it, and wait for it."""
        self.run()
        self.wait()

    def rate(self) -> float:
        """GB/s."""
        self.once()
        runs = 1
        times: list[float] = []
        while len(times) < PASSES:
            started = time.perf_counter()
            for _ in range(runs):
                self.run()
            self.wait()
            seconds = time.perf_counter() - started
            if seconds < PASS_SECONDS:
                runs *= 2
            else:
                times.append(seconds / runs)
        return self.n_bytes / statistics.median(times) / 1e9


def memory_copy() -> Pass:
    """One thread that copies memory: bytes copied, not bytes moved, which are twice as many."""
    source = np.random.default_rng(1).integers(0, 256, COPY_BYTES, dtype=np.uint8)
    target = np.zeros_like(source)
    return Pass(COPY_BYTES, lambda: np.copyto(target, source))


def host_to_device(engine: Engine, n_bytes: int = COPY_BYTES) -> Pass:
    """From page-locked memory to a device; on the CPU there is nothing to do, and the result means nothing."""
    staging = engine.staging(n_bytes)
    staging.host[:] = 1

    def wait() -> None:
        with staging.reading():
            engine.download(staging.device[-1:])        # here when the copy is done

    return Pass(n_bytes, lambda: staging.push(n_bytes), wait)


def decoding(layout: Layout, engine: Engine, dtype: np.dtype, depth: int, corrections: CorrectionSet | None = None,
             frames: int | None = None) -> Pass:
    """Decoding `frames` frames of random bytes, default `depth`, into one tile of `depth`, with dark and gain, without repair.

    Returns
    -------
    Pass
        On the CPU, bytes of tiles, by one thread; on a GPU, bytes in and bytes out, as its memory is what limits it.
    """
    frames = depth if frames is None else frames
    span = spans(layout.placements, layout.encoding, max(1, len(layout.parts)))
    size = np.diff(span)[:, 0]
    first = np.concatenate(([0], np.cumsum(size[:-1] * frames)))        # one part after the other
    starts = np.ascontiguousarray(first - span[:, 0] + np.arange(frames)[:, None] * size, dtype=np.int64)
    staging = engine.staging(int(size.sum()) * frames)
    staging.host[:] = np.random.default_rng(1).integers(0, 256, len(staging.host), dtype=np.uint8)
    staging.push(len(staging.host))
    out = engine.empty((depth, layout.sig_size), dtype)
    dark, gain = (corrections.dark_flat(), corrections.gain_flat()) if corrections is not None else (None, None)
    decoder = engine.decoder(layout.encoding, layout.placements, layout.sig_size, dtype, dark=dark, gain=gain)
    decode = decoder.bind(staging.device, starts, out)

    def run() -> None:
        for at in range(0, frames, depth):
            decode(at, min(depth, frames - at))

    n_bytes = frames * layout.sig_size * dtype.itemsize
    if engine.name == "cpu":
        return Pass(n_bytes, run)
    return Pass(n_bytes + int(size.sum()) * frames, run, lambda: engine.download(out[-1:, -1:]))
