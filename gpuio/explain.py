"""Which way the bytes of a data set take on this machine, why not a better one, and which stage is the slowest.

`Facts` asks the machine; all else is arithmetic on these facts, on the data set's real plan and on the sizes that its
stream would have. So every answer can be had for any machine by making up its facts.

**The model.** Each stage moves a known number of bytes at a rate, and takes bytes / rate. Stages that run at the same time
cost as much as the slowest of them, stages of one thread cost their sum. Rates are those of ordinary hardware (`ASSUMED`)
until they are measured on this one (`gpuio.ceilings`).

What GPUDirect Storage needs is told in `gpuio.io.gds`, which transport is chosen, and when, in `gpuio.io.choice`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuio import ceilings, config
from gpuio.boxes import Box, BoxDecoder, Cut
from gpuio.chunks import STORED
from gpuio.engine import get_engine, why_no_cuda
from gpuio.errors import MemoryBudgetError
from gpuio.geometry.chunks import ChunkPlan, plan_chunks
from gpuio.geometry.plan import make_plan
from gpuio.inflation import why_not
from gpuio.io import gds, resident_fraction
from gpuio.io.backends import DirectBackend
from gpuio.io.choice import WARM, cached
from gpuio.io.filesystems import NETWORK
from gpuio.sizing import Sizes, decode_threads, parse_bytes, stream_blocks, stream_sizes, tile_edges

if TYPE_CHECKING:
    from gpuio.chunks import Chunks
    from gpuio.corrections import CorrectionSet
    from gpuio.dataset import DataSet
    from gpuio.layout import Layout
    from gpuio.reduction import Crop

#: GB/s of ordinary hardware: a drive on PCIe 4, ten-gigabit Ethernet, one thread that copies from the page cache, PCIe 4 with
#: sixteen lanes, a data-centre GPU's memory, one thread that decodes (bytes of tiles), one thread that copies memory.
ASSUMED = {"storage": 3.0, "network storage": 1.0, "page cache": 8.0, "memory copy": 8.0, "host to device": 20.0,
           "decoding on the GPU": 1000.0, "decoding on the CPU": 10.0, "unpacking on the CPU": 1.0}
#: Files whose place in the page cache is asked for.
_FILES_ASKED = 4


@dataclass(frozen=True, slots=True)
class Facts:
    """What has to be known of the machine.

    Attributes
    ----------
    device
        Where tiles are decoded: ``"cpu"``, ``"cuda:N"``.
    no_cuda
        Why no GPU can be used; None if one can.
    transport
        The transport of the stream, a value of `gpuio.io`.
    cold
        Whether the stream expects the files to come from storage.
    why
        Why this transport.
    file_system, drive
        Where the (first) file lies, as the system calls them; None: no drive.
    resident
        Share of the places looked at that are in the page cache; None if it cannot be told.
    no_direct
        Why unbuffered reads are refused there; None if they are not.
    machine
        What GPUDirect Storage finds.
    """

    device: str
    no_cuda: str | None
    transport: Any
    cold: bool
    why: str
    file_system: str
    resident: float | None
    no_direct: str | None = None
    drive: str | None = None
    machine: gds.Machine = field(default_factory=gds.Machine)

    @classmethod
    def of(cls, ds: DataSet) -> Facts:
        """This machine's, for a data set. Opens files to ask for their pages, reads nothing."""
        device, files = ds.device, ds.files
        transport, cold, why = ds._transport()
        step = max(1, len(files) // _FILES_ASKED)
        shares = [s for s in map(resident_fraction, files[::step][:_FILES_ASKED]) if s is not None]
        if files and (refusal := transport.unavailable(files[0])) is not None:
            why = f"{why}, but it cannot be used: {refusal}"
        kind, drive = gds.place(files[0]) if files else ("no file system", None)
        return cls(
            device=device, no_cuda=why_no_cuda(int(device.partition(":")[2] or 0)), transport=transport, cold=cold, why=why,
            file_system=kind, drive=drive, resident=sum(shares) / len(shares) if shares else None,
            no_direct=DirectBackend().unavailable(files[0]) if files else "there are no files", machine=gds.Machine.here())


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the way, the bytes that it moves, and its rate in GB/s."""

    name: str
    n_bytes: int
    GB_per_s: float
    measured: bool = False

    @property
    def seconds(self) -> float:
        """For all bytes."""
        return self.n_bytes / self.GB_per_s / 1e9


@dataclass(frozen=True, repr=False)
class Explanation:
    """What `explain` found; prints as text. Sizes are in bytes.

    Attributes
    ----------
    page_locked
        Whether bytes go to the device by way of page-locked memory of the host.
    why_not
        What was not chosen (``cuda``, ``gds``, ``direct``, ``mmap``), and everything that stands against it.
    extents
        Requests that the plan holds; None for an array with navigation fastest, which is gathered from passes over the file.
    times_unpacked
        How often a chunk is unpacked; more than once where memory does not hold all that frames next to each other lie in.
    needed_bytes, read_bytes
        What the pixels lie in, and what is read for them; where frames are gathered, at most.
    unaligned_extents
        Of `extents`, those that do not begin and end at multiples of 4096 bytes of the file.
    tile_frames, block_frames
        Frames of a tile at most, and of what is read at a time.
    buffers, read_threads, decode_threads
        Staging buffers; threads that read ahead; threads that decode ahead, of which there are none where nothing is decoded.
    as_stored
        Whether pixels are wanted as they are stored, so that nothing is decoded: tiles of a mapped file are views of it, others copies.
    memory_bytes, device_memory_bytes, memory_budget
        What staging and output of the stream take at most of host and of device memory, and what they may take of each.
    expected_GB_per_s
        Of needed bytes, by the model; 0 if nothing was selected.
    measured
        Ceilings of this machine in GB/s, if they were asked for.
    """

    path: str
    format: str
    encoding: str
    native_dtype: str
    dtype: str
    sig_shape: tuple[int, ...]
    frames: int
    n_files: int
    file_system: str
    resident: float | None
    device: str
    transport: str
    page_locked: bool
    why: str
    why_not: Mapping[str, tuple[str, ...]]
    extents: int | None
    unaligned_extents: int
    needed_bytes: int
    read_bytes: int
    times_unpacked: float
    tile_frames: int
    tile_bytes: int
    block_frames: int
    block_bytes: int
    buffers: int
    read_threads: int
    decode_threads: int
    as_stored: bool
    memory_bytes: int
    device_memory_bytes: int
    memory_budget: int
    stages: tuple[Stage, ...]
    overlapping: bool
    measured: Mapping[str, float] = field(default_factory=dict)

    @property
    def amplification(self) -> float:
        """Bytes read for each byte needed."""
        return self.read_bytes / self.needed_bytes if self.needed_bytes else 1.0

    @property
    def bottleneck(self) -> str:
        """Name of the stage that takes longest."""
        return max(self.stages, key=lambda stage: stage.seconds).name

    @property
    def expected_GB_per_s(self) -> float:
        seconds = [stage.seconds for stage in self.stages]
        total = max(seconds) if self.overlapping else sum(seconds)
        return self.needed_bytes / total / 1e9 if total else 0.0

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        stages = [{**asdict(stage), "seconds": stage.seconds} for stage in self.stages]
        return {**asdict(self), "stages": stages, "amplification": self.amplification, "bottleneck": self.bottleneck,
                "expected_GB_per_s": self.expected_GB_per_s}

    def __repr__(self) -> str:
        return "\n".join(f"{name:<14}{text}" for name, text in self._rows())

    def _rows(self) -> Iterator[tuple[str, str]]:
        shape = " x ".join(map(str, self.sig_shape))
        yield "file", self.path + (f" and {self.n_files - 1} more" if self.n_files > 1 else "")
        yield "frames", f"{self.frames} of {shape}, {self.encoding} {self.native_dtype}, as {self.dtype}"
        yield "device", self.device
        yield from self._reasons("cuda")
        yield "transport", f"{self.transport}{', through page-locked memory' if self.page_locked else ''}: {self.why}"
        for name in self.why_not:
            if name != "cuda":
                yield from self._reasons(name)
        if self.n_files:
            yield "files", f"{self.n_files} on {self.file_system}, {cached(self.resident)}"
        requests = "gathered, at most" if self.extents is None else f"{self.extents} extents, {self.unaligned_extents} of them unaligned,"
        yield "reading", (f"{requests} {size_text(self.read_bytes)} for {size_text(self.needed_bytes)} "
                          f"({self.amplification:.2f} bytes for each needed)")
        if self.times_unpacked > 1:
            yield "chunks", (f"each unpacked {self.times_unpacked:.3g} times: memory does not hold all of those that frames next to each "
                             "other lie in; a larger memory= helps")
        yield "tiles", f"{self.tile_frames} frames, {size_text(self.tile_bytes)}"
        yield "blocks", f"{self.block_frames} frames, {size_text(self.block_bytes)}, {self.buffers} at a time"
        on_device = "" if self.device == "cpu" else f" page-locked, {size_text(self.device_memory_bytes)} on {self.device}, each"
        yield "memory", f"{size_text(self.memory_bytes)}{on_device} of {size_text(self.memory_budget)}"
        ahead = f"{self.decode_threads} decode ahead"
        if self.as_stored:
            ahead = f"none decode: tiles are {'views of the mapped file' if self.transport == 'mmap' else 'pixels as they are stored'}"
        yield "threads", f"{self.read_threads} read ahead, {ahead}"
        for name, rate in self.measured.items():
            yield "measured", f"{name}: {rate:.3g} GB/s"
        for stage in self.stages:
            how = "measured" if stage.measured else "assumed"
            yield "stage", f"{stage.name}: {size_text(stage.n_bytes)} at {stage.GB_per_s:.3g} GB/s ({how}), {stage.seconds:.3g} s"
        how = "at the same time" if self.overlapping else "one after the other"
        yield "expected", f"{self.expected_GB_per_s:.3g} GB/s, stages {how}; the slowest is {self.bottleneck}"

    def _reasons(self, name: str) -> Iterator[tuple[str, str]]:
        for i, reason in enumerate(self.why_not.get(name, ())):
            yield f"  not {name}" if i == 0 else "", reason


def explain(ds: DataSet, *, dtype: Any = None, roi: np.ndarray | None = None, corrections: CorrectionSet | None = None,
            memory: int | str | None = None, depth: int | None = None, threads: int | None = None, crop: Crop | None = None,
            bin_sig: int | Sequence[int] | None = None, measure: bool = False, facts: Facts | None = None) -> Explanation:
    """Explain what ``ds.tiles(...)`` with the same arguments would do.

    Parameters
    ----------
    measure
        Measure this machine's ceilings, which takes a few seconds and reads up to `gpuio.ceilings.SAMPLE_BYTES` of the files, and
        as much again from storage if they are in the page cache.
    facts
        Of another machine; default this one.

    Raises
    ------
    ShapeError, MemoryBudgetError, OSError
        As `DataSet.tiles`.
    """
    if crop is not None or bin_sig is not None:
        ds = ds.reduce(crop, bin_sig)
    facts = Facts.of(ds) if facts is None else facts
    threads, memory = decode_threads(threads), config.stream().memory if memory is None else memory
    layout, (nav, frames) = ds.layout, ds._selected(roi)
    corrections = ds._corrections(corrections)
    to = ds.output_dtype(dtype, corrections)
    whole = Cut.of(layout, Box.whole(layout, ds.reduction), to, corrections, reduction=ds.reduction)
    table = whole.placements(layout)
    sizes = stream_sizes(layout, _named(facts.device), facts.transport, frames, table, [whole], to,
                         depth=depth, memory=memory, threads=threads, cold=facts.cold)
    corrected = corrections is not None and corrections.have_corrections()
    decoder = ds.get_decoder()
    as_stored = (decoder is None and not corrected
                 and BoxDecoder(layout, _named(facts.device), whole, table, to, None, sizes.scratch_bytes).is_view)
    edges = stream_blocks(layout, frames, tile_edges(nav, sizes.depth), sizes)
    times = 1.0
    if layout.strided is not None:          # each block is a pass over the file
        frame_bytes, extents = layout.sig_size * layout.dtype.itemsize, np.zeros((0, 4), dtype=np.int64)
        needed, block_bytes = len(frames) * frame_bytes, min(sizes.block_frames, len(frames)) * frame_bytes
        read = layout.image_count * frame_bytes * (len(edges) - 1)
    elif layout.chunks is not None:
        rows = plan_chunks(layout.chunks, frames, edges, table, alignment=facts.transport.alignment)
        extents, read, block_bytes = rows.extents, rows.read_bytes, rows.staging_bytes + rows.packed_bytes
        needed, times = _once(layout.chunks, rows) if layout.chunks.is_packed else (rows.needed_bytes, 1.0)
    elif layout.sparse is not None:         # entries are where they are; a share of them all
        pixels, values = layout.sparse.pixels, layout.sparse.values
        extents = np.zeros((0, 4), dtype=np.int64)
        block_bytes = min(sizes.block_frames, len(frames)) * layout.sig_size * layout.dtype.itemsize
        needed = read = values.count * (pixels.dtype.itemsize + values.dtype.itemsize) * len(frames) // layout.image_count
    else:
        plan = make_plan(layout, frames, edges, table, alignment=facts.transport.alignment, gap=sizes.gap)
        extents, needed, read, block_bytes = plan.extents, plan.needed_bytes, plan.read_bytes, plan.staging_bytes
    unpacked = int(times * len(frames) * layout.sig_size * layout.dtype.itemsize) if _unpacks_on_host(layout.chunks, facts.device) else 0
    first, stop = extents[:, 1], extents[:, 1] + extents[:, 2]
    unaligned = int(((first % gds.ALIGNMENT != 0) | (stop % gds.ALIGNMENT != 0)).sum())
    rates = _measured(ds, facts, nav, frames, edges, sizes, to, corrections) if measure else {}
    return Explanation(
        path=ds._name, format=ds.format, encoding=layout.encoding.name if decoder is None else type(decoder).__name__,
        native_dtype=str(layout.dtype), dtype=str(to),
        sig_shape=tuple(ds.shape.sig), frames=len(frames), n_files=len(set(ds.files)), file_system=facts.file_system,
        resident=facts.resident, device=facts.device, transport=facts.transport.id,
        page_locked=facts.device != "cpu" and facts.transport.memory == "host", why=facts.why,
        why_not=_why_not(facts, unaligned, len(extents)),
        extents=None if layout.is_gathered else len(extents), unaligned_extents=unaligned, needed_bytes=needed, read_bytes=read,
        times_unpacked=times,
        tile_frames=sizes.depth, tile_bytes=sizes.depth * ds.shape.sig.size * to.itemsize, block_frames=sizes.block_frames,
        block_bytes=block_bytes, buffers=sizes.slots, read_threads=sizes.read_threads,
        decode_threads=threads if facts.device == "cpu" and not as_stored else 0, as_stored=as_stored,
        memory_bytes=sizes.host_bytes, device_memory_bytes=sizes.device_bytes, memory_budget=parse_bytes(memory),
        stages=tuple(_stages(facts, read, unpacked, needed, len(frames) * ds.shape.sig.size * to.itemsize,
                             0 if as_stored else threads, sizes.read_threads, as_stored, rates)),
        overlapping=facts.device != "cpu" or sizes.read_threads > 0, measured=rates)


def _measured(ds: DataSet, facts: Facts, nav: np.ndarray, frames: np.ndarray, edges: np.ndarray, sizes: Sizes, dtype: np.dtype,
              corrections: CorrectionSet | None) -> dict[str, float]:
    """Rates of this machine in GB/s by the name of the stage; and of copying memory, and of storage behind the page cache."""
    layout, engine, source = ds.layout, ds.engine, _source(facts)
    rates = {source: ceilings.reading(layout, engine, facts.transport, frames, edges, sizes), "memory copy": ceilings.memory_copy().rate()}
    if source == "page cache" and facts.no_direct is None and layout.chunks is None:
        rates[_storage(facts)] = _past_the_cache(layout, nav, frames)
    if _unpacks_on_host(layout.chunks, facts.device) and rates[source] is not None:        # all threads have unpacked, too
        rates["unpacking on the CPU"] = (rates.pop(source) or 0.0) / max(1, sizes.read_threads)
    if engine.name == "cpu":
        rates["decoding on the CPU"] = ceilings.decoding(layout, engine, dtype, sizes.depth, corrections).rate()
    else:
        rates["host to device"] = ceilings.host_to_device(engine).rate()
        rates["decoding on the GPU"] = ceilings.decoding(layout, engine, dtype, sizes.depth, corrections).rate()
    return {name: rate for name, rate in rates.items() if rate is not None}


def _past_the_cache(layout: Layout, nav: np.ndarray, frames: np.ndarray) -> float | None:
    """The rate of storage, whatever is cached, for whole frames; None where they need too much memory."""
    cpu, direct, whole = get_engine("cpu"), DirectBackend(), Cut.of(layout, Box.whole(layout), layout.dtype, None)
    try:
        sizes = stream_sizes(layout, cpu, direct, frames, layout.placements, [whole], layout.dtype, depth=None, memory=None, threads=0,
                             cold=True)
    except MemoryBudgetError:
        return None
    return ceilings.reading(layout, cpu, direct, frames, stream_blocks(layout, frames, tile_edges(nav, sizes.depth), sizes), sizes)


def _source(facts: Facts) -> str:
    """Where the bytes are read from."""
    if facts.transport.id == "computed":
        return "memory copy"
    by_page_cache = facts.transport.id != "direct" and facts.transport.memory == "host"
    if by_page_cache and not facts.cold and (facts.resident is None or facts.resident >= WARM):
        return "page cache"
    return _storage(facts)


def _storage(facts: Facts) -> str:
    return "network storage" if facts.file_system in NETWORK else "storage"


def _named(device: str) -> Any:
    """As much of an engine as `stream_sizes` asks for: explaining starts no CUDA."""
    return SimpleNamespace(name=device)


def _once(chunks: Chunks, rows: ChunkPlan) -> tuple[int, float]:
    """Stored bytes of the chunks of a plan, each counted once; and how often each is unpacked."""
    once = np.unique(rows.places, axis=0)
    return int(chunks.table[once[:, 0], once[:, 1], STORED].sum()), len(rows.places) / max(1, len(once))


def _unpacks_on_host(chunks: Chunks | None, device: str) -> bool:
    """Whether packed chunks are unpacked before they come to the device."""
    if chunks is None or not chunks.is_packed:
        return False
    return device == "cpu" or chunks.source is not None or why_not(chunks.filters) is not None


def _stages(facts: Facts, read: int, unpacked: int, needed: int, out: int, threads: int, read_threads: int,
            as_stored: bool, rates: Mapping[str, float]) -> Iterator[Stage]:
    """The way from storage to tiles. Where nothing reads ahead, each decoding thread reads for itself; views are read by who looks."""
    def stage(name: str, n_bytes: int, times: int = 1) -> Stage:
        return Stage(name, n_bytes, times * rates.get(name, ASSUMED[name]), name in rates)

    on_gpu, through_host = facts.device != "cpu", facts.transport.memory == "host"
    source = _source(facts)
    if as_stored and facts.transport.gives_views:
        yield stage(source, read)
        return
    if source not in ("page cache", "memory copy") or not facts.transport.gives_views or on_gpu:    # mapped: decoded where it lies
        yield stage(source, read, 1 if read_threads or source != "page cache" else max(1, threads))
    if unpacked:
        yield stage("unpacking on the CPU", unpacked, max(1, read_threads))
    if on_gpu and through_host:
        yield stage("host to device", max(read, unpacked))
    yield stage("decoding on the GPU", needed + out) if on_gpu else stage("decoding on the CPU", out, max(1, threads))


def _why_not(facts: Facts, unaligned: int, extents: int) -> dict[str, tuple[str, ...]]:
    """What was not chosen, and why; in each case the least changeable reason first."""
    found: dict[str, tuple[str, ...]] = {}
    if facts.device == "cpu":
        found["cuda"] = (facts.no_cuda or "the CPU was asked for; device='cuda' takes the GPU",)
    if facts.transport.id == "computed":        # there are no files
        return found
    if facts.transport.memory == "host":
        found["gds"] = tuple(_against_gds(facts, unaligned, extents)) or ("nothing on this machine stands against it",)
    if facts.transport.id != "direct":
        found["direct"] = (facts.no_direct or "only if asked for (io_backend=DirectBackend()): it passes by the page cache, so that "
                           "every reading is as slow as the first",)
    if facts.transport.id != "mmap":
        if facts.device != "cpu":
            reason = "bytes have to lie in page-locked memory to be copied to a GPU at full rate"
        elif facts.cold or facts.resident is None or facts.resident < 1:
            reason = "mapped pages that are not in the page cache are read one small piece after the other, with nothing read ahead"
        else:
            reason = "only if asked for (io_backend=MMapBackend()), or where the bytes of a frame are taken front to back from a local file"
        found["mmap"] = (reason,)
    return found


def _against_gds(facts: Facts, unaligned: int, extents: int) -> Iterator[str]:
    """All that stands between this data set and GPUDirect Storage."""
    if facts.device == "cpu":
        yield "pixels are decoded on the CPU"
    yield from facts.machine.obstacles(facts.file_system)
    yield from gds.doubts(facts.file_system, facts.drive)
    if facts.resident is not None and facts.resident >= WARM:
        yield f"{cached(facts.resident)}, which is faster than storage"
    if unaligned:
        yield f"{unaligned} of {extents} extents are not aligned to {gds.ALIGNMENT} bytes; they would be read with their surroundings"


def size_text(n_bytes: float) -> str:
    """Bytes with a binary unit."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.4g} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.4g} TiB"
