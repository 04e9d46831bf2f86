"""Each stage of a stream alone, and all of it, on the same frames.

=====================  ==========================================================================================
storage, sequential    the stream's transport reads the bytes of the file front to back in large blocks
storage, as planned    the stream's own reader brings block after block to memory, as planned for it; or maps it
host copy              packed bytes from memory to the stream's staging buffer
host to device         a staging buffer of the stream to its device
inflate                packed chunks, from memory to memory, one thread
decode to ...          frames from memory to a tile, one thread
stream to ...          ``ds.tiles(...)`` as users have it; a value of each cache line of a tile is looked at
first tile             from opening the file to the first float32 tile
=====================  ==========================================================================================

A stage is *on the way* if the stream to float32 has it: mapped files are decoded where they lie, and where the engine is the
CPU, nothing goes to a device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpuio import ceilings
from gpuio.bench.limits import SAMPLE_BYTES, memory_name, page_cache_name, random_bytes
from gpuio.bench.subject import Pixels, Range, Subject, Work
from gpuio.bench.timing import Candidate
from gpuio.ceilings import Pass
from gpuio.engine import PAGE, get_engine
from gpuio.geometry.chunks import plan_chunks
from gpuio.io.backends import BufferedBackend
from gpuio.io.readahead import ReadAhead
from gpuio.io.staging import aligned_empty
from gpuio.pipeline import open_blocks
from gpuio.sizing import COLD_BLOCK_BYTES


def stages(subject: Subject, ranges: Sequence[Range], storage: Sequence[str]) -> Iterator[Work]:
    """Each stage alone, then all of it.

    Parameters
    ----------
    storage
        Names of the limits of where the bytes come from: storage or the page cache.
    """
    yield from _bringing(subject, ranges, tuple(storage))
    inflate = _inflating(subject)
    if inflate is not None:
        yield Work("inflate", "packed chunks, from memory to memory, one thread", inflate.n_bytes, Candidate(inflate.once), on_the_way=True)
    for pixels in subject.pixels:
        yield _decoding(subject, pixels)
    for pixels in subject.pixels:
        yield _streaming(subject, pixels, tuple(storage))
    streams: list[Any] = []         # closing one waits for what is being read ahead, and is no part of it

    def close() -> None:
        streams.clear()
        subject.cache.prepare()

    yield Work("first tile", "from opening the file", 0, Candidate(lambda: streams.append(subject.first_tile()), close))


def _bringing(subject: Subject, ranges: Sequence[Range], storage: tuple[str, ...]) -> Iterator[Work]:
    """Bytes to where they are decoded."""
    ds, plan, prepare = subject.ds, subject.plan, subject.cache.prepare
    on_device, transport = ds.device != "cpu", ds._transport()[0]
    if ranges and not ds.layout.is_gathered:
        if transport.memory == "host":
            yield Work("storage, sequential", f"by {transport.id}, blocks of 8 MiB read ahead", sum(part.size for part in ranges),
                       Candidate(lambda: _sequential(transport, ranges), prepare), storage, frames=plan.frames)
        mapped = transport.gives_views and not on_device
        yield Work("mapping, as planned" if mapped else "storage, as planned",
                   "windows of the stream, a byte of each page looked at" if mapped else f"by {transport.id}, the blocks of the stream",
                   plan.needed_bytes, Candidate(lambda: _planned(subject), prepare), () if mapped and not subject.cache.cold else storage,
                   on_the_way=not mapped or subject.cache.cold, frames=plan.frames)
    memory = random_bytes(SAMPLE_BYTES)
    staging = ds.engine.staging(max(1, min(plan.block_bytes, SAMPLE_BYTES)))
    yield Work("host copy", "packed bytes from memory to a staging buffer, one thread", len(memory),
               Candidate(lambda: _host_copy(memory, staging)), ("memory copy",) if on_device else ())
    if on_device:
        push = ceilings.host_to_device(ds.engine, max(1, plan.block_bytes))
        times = max(1, ceilings.COPY_BYTES // push.n_bytes)

        def push_all() -> None:
            for _ in range(times):
                push.once()

        yield Work("host to device", "blocks of the stream", push.n_bytes * times, Candidate(push_all), ("page-locked to device",),
                   on_the_way=plan.page_locked)


def _decoding(subject: Subject, pixels: Pixels) -> Work:
    """Frames from memory to a tile of the stream's size."""
    ds, plan = subject.ds, subject.plan
    frame_bytes = max(1, subject.unpacked_bytes // max(1, plan.frames))
    depth = max(1, plan.tile_bytes // (ds.layout.sig_size * pixels.dtype.itemsize))
    frames = max(depth, SAMPLE_BYTES // frame_bytes)
    decode = ceilings.decoding(ds.layout, ds.engine, pixels.dtype, depth, pixels.corrections, frames)
    on_the_way = pixels.label != "native"
    if ds.device == "cpu":
        return Work(f"decode to {pixels.label}", "one thread", frames * frame_bytes, Candidate(decode.once), (memory_name(pixels.label),),
                    on_the_way, frames)
    return Work(f"decode to {pixels.label}", "half of the bytes in and out", decode.n_bytes // 2, Candidate(decode.once), ("device copy",),
                on_the_way, frames)


def _streaming(subject: Subject, pixels: Pixels, storage: tuple[str, ...]) -> Work:
    """All of it."""
    plan, threads = subject.plan, subject.threads
    if subject.ds.device != "cpu":
        limits = (*storage, *(("page-locked to device",) if plan.page_locked else ()))
    elif subject.cache.cold:
        limits = (*storage, memory_name(pixels.label, threads))
    else:
        limits = (page_cache_name(pixels.label),) if storage else ()
    return Work(f"stream to {pixels.label}", f"by {plan.transport}, {threads} thread{'s' if threads > 1 else ''}", plan.needed_bytes,
                Candidate(lambda: subject.stream(pixels), subject.cache.prepare), limits, frames=plan.frames)


def _sequential(transport: Any, ranges: Sequence[Range]) -> None:
    """Read ranges by a transport of host memory, several blocks ahead, as the stream does with files that are not cached."""
    if transport.gives_views:           # mapping moves nothing
        transport = BufferedBackend()
    align, slots = transport.alignment, [aligned_empty(COLD_BLOCK_BYTES) for _ in range(3)]
    jobs = [(number, at, -(-min(COLD_BLOCK_BYTES, part.high - at) // align) * align, 0) for number, part in enumerate(ranges)
            for at in range(part.low - part.low % align, part.high, COLD_BLOCK_BYTES)]
    with transport.open([part.path for part in ranges], [None] * len(ranges)) as reader, ReadAhead(reader, transport.read_threads) as pool:
        pending = [pool.submit([job], slot) for job, slot in zip(jobs, slots, strict=False)]
        for i in range(len(jobs)):
            pending[i].wait()
            if i + len(slots) < len(jobs):
                pending.append(pool.submit([jobs[i + len(slots)]], slots[i % len(slots)]))


def _planned(subject: Subject) -> None:
    """What the stream does before it decodes: block after block, as planned; pages that are mapped are brought in."""
    ds = subject.ds
    transport, cold, _ = ds._transport()
    engine = ds.engine if transport.memory == "device" else get_engine("cpu")
    frames, sizes, edges = subject.sizes(transport, cold)
    with open_blocks(ds.layout, engine, transport, frames, edges, ds.layout.placements, sizes) as reader:
        for block in reader:
            for view in block.slot.mapped.views if block.slot.mapped is not None else ():
                view[::PAGE].max()


def _host_copy(memory: np.ndarray, staging: Any) -> None:
    """Fill a staging buffer again and again."""
    host = staging.host
    for at in range(0, len(memory), len(host)):
        piece = memory[at:at + len(host)]
        np.copyto(host[:len(piece)], piece)


def _inflating(subject: Subject) -> Pass | None:
    """Unpacking some chunks that are in memory; None where there is nothing to unpack."""
    layout = subject.ds.layout
    chunks = layout.chunks
    if chunks is None or not chunks.filters or chunks.source is not None:
        return None
    engine = subject.ds.engine if subject.ds.engine.inflates(chunks.filters) is None else get_engine("cpu")
    frames = subject.ds._selected(subject.roi)[1]
    some = frames[:max(1, min(len(frames), SAMPLE_BYTES // max(1, subject.plan.needed_bytes // len(frames))))]
    plan = plan_chunks(chunks, some, np.array([0, len(some)], dtype=np.int64), layout.placements)
    staging, out = engine.staging(plan.packed_bytes), engine.empty((plan.staging_bytes,), np.uint8)
    with BufferedBackend().open(chunks.files, chunks.sizes) as reader:
        reader.read([tuple(extent) for extent in plan.extents.tolist()], staging.host)
    staging.push(plan.packed_bytes)
    inflate = engine.inflater(chunks.filters, chunks.chunk_bytes, chunks.item_bytes).bind(staging.device, out)

    def run() -> None:
        with staging.reading():
            engine.download(inflate(plan.chunks))

    return Pass(int(plan.chunks[:, 1].sum()), run)
