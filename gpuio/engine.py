"""What decodes: the engine protocol, and which engine serves which device.

An engine owns memory of one device and knows pixel encodings; it knows no files. `decoder(...)` prepares everything
that stays the same for a whole stream (tables, maps, the compiled loop); `FrameDecoder.bind` attaches buffers that are
used again and again; the bound call decodes a run of frames and costs about a microsecond of Python.

>>> decoder = engine.decoder(layout.encoding, layout.placements, sig_size, "float32", dark=dark)
>>> decode = decoder.bind(staged, starts, out)
>>> decode(0, 8)          # frames starts[0:8] into out[0:8]
>>> decode(8, 3, at=5)    # frames starts[8:11] into out[5:8]

A device works in the background, in the order of its streams: an engine has one of its own, everything it is asked to do goes
there, and whoever asks goes on only after it (`gpuio.kernels._runtime` has the theory). A stream of tiles is faster if it
asks for less: what it does within `Engine.computing` and `Output.filling` is ordered with nobody until a tile is taken. On
the CPU all of this is nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from gpuio.errors import BackendUnavailable
from gpuio.inflation import inflate_status as inflate_status
from gpuio.layout import Encoding, Filter, Piece

#: Device to use where none is named: "auto", "cpu", "cuda", "cuda:1".
DEVICE_VARIABLE = "GPUIO_DEVICE"

#: Staging begins at multiples of this, in host and in device memory: direct transfers from a drive do.
PAGE = 4096
#: Streams that DLPack has numbers for: the one that others are understood to use, and none, for those who see to it themselves.
DLPACK_DEFAULT, DLPACK_NO_WAIT = 1, -1

#: ``decode(first, count, at=0)``: frames ``starts[first:first + count]`` into ``out[at:at + count]``.
Decode = Callable[..., None]

#: ``add(first, count, at)``: frames ``first`` to ``first + count`` are added to the sums of frames from ``at``, and to those of pixels.
Add = Callable[[int, int, int], None]

#: ``inflate(chunks)``: statuses of the chunks, int32[n] in engine memory; 0 is good, `inflate_status` says what another one means.
#: They are the engine's own: look at them within `Engine.computing`.
Inflate = Callable[[np.ndarray], Any]

#: Called by engines with what they are about to compile; returns a context manager that lasts as long as they compile.
#: Whoever has a user to tell puts theirs here. On a GPU the kernel may turn out to lie in CuPy's cache.
on_compile: Callable[[str], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True)
class RepairTable:
    """Excluded pixels and the neighbours that replace them, as flat indices into a frame (or a box of it).

    Attributes
    ----------
    pixels : int64[n]
        The excluded pixels, ascending.
    starts : int64[n + 1]
        `neighbours[starts[i]:starts[i + 1]]` belong to `pixels[i]`; none: the pixel keeps its value.
    neighbours : int64[m]
        In C order of the offsets, the order in which they are summed.
    """

    pixels: np.ndarray
    starts: np.ndarray
    neighbours: np.ndarray


@dataclass(frozen=True, eq=False)
class TransposeTable:
    """Where frames lie among bytes that are stored with navigation fastest, and where they go.

    Attributes
    ----------
    starts : int64[n]
        Of each frame, in bytes, not descending: neighbours in the table are neighbours in memory.
    frames : int64[n]
        Which frame of the output that is.
    unit : int
        Bytes that all starts are multiples of.
    limits : int, int
        The lowest and the highest frame.

    Raises
    ------
    ValueError
        Arrays of another form, or starts that descend.
    """

    starts: np.ndarray
    frames: np.ndarray
    unit: int = field(init=False)
    limits: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        starts, frames = self.starts, self.frames
        if any(a.dtype != np.int64 or a.ndim != 1 or not a.flags.c_contiguous or len(a) != len(starts) for a in (starts, frames)):
            raise ValueError(f"transpose table of {starts.dtype}{list(starts.shape)} and {frames.dtype}{list(frames.shape)}; "
                             "expected int64[n] twice, n the same")
        if (np.diff(starts) < 0).any():
            raise ValueError("transpose table: starts descend")
        object.__setattr__(self, "unit", int(np.gcd.reduce(starts)) if len(starts) else 0)
        object.__setattr__(self, "limits", (int(frames.min()), int(frames.max())) if len(frames) else (0, -1))


@dataclass(frozen=True, slots=True)
class Blocks:
    """How a plane of pixels is divided into blocks: `rows` x `columns` of them, each `down` x `across` pixels."""

    rows: int
    columns: int
    down: int
    across: int


@dataclass(frozen=True, slots=True)
class Entries:
    """Where entries of sparse frames lie in a staging buffer: three lists, each at a byte that is a multiple of 16.

    Attributes
    ----------
    frames, count : int
        How many frames and entries.
    starts : int
        Of int64[frames + 1], not descending, from 0 to `count`: entries ``starts[i]:starts[i + 1]`` are those of frame i.
    pixels : int
        Of the pixel numbers, items of `pixel_dtype`.
    values : int
        Of the values, items of the output's dtype.
    pixel_dtype
        An unsigned integer in native byte order.
    """

    frames: int
    count: int
    starts: int
    pixels: int
    values: int
    pixel_dtype: np.dtype


class Staging(Protocol):
    """Bytes on their way: read into `host` and pushed, or read into `landing`; decoded from `device`. One memory on the CPU."""

    @property
    def host(self) -> np.ndarray:
        """uint8[n], from the start of a page. May wait until the last `push` has left it: ask for it each time before filling it."""

    @property
    def landing(self) -> Any:
        """`device`, for a transport that fills it by itself. May wait until work that reads it is done: ask for it each time."""

    @property
    def device(self) -> Any:
        """uint8[n], engine memory. Decode calls wait for its bytes by themselves; read it otherwise only within `reading`."""

    def push(self, n_bytes: int) -> None:
        """Make the first `n_bytes` of `host` visible in `device`."""

    def reading(self) -> AbstractContextManager[Any]:
        """Work given to the current stream inside finds the bytes pushed before, and they stay until it is done."""

    def is_free(self, memory: str) -> bool:
        """Whether asking for `host` or `landing`, by the `memory` ("host", "device") that a transport fills, would not wait."""


class Output(Protocol):
    """Engine memory that is filled again and again, and lent out in between."""

    array: Any                       # dtype[items]

    def filling(self) -> AbstractContextManager[Any]:
        """Work given to the engine inside writes `array`: after all work of those who took it, and of the current stream."""

    def take(self, stream: int | None = None) -> None:
        """Let a stream go on only when `array` is filled, and the next filling only after that stream's work.

        Parameters
        ----------
        stream
            As DLPack names it; None is the current stream of the array module.
        """

    def release(self) -> None:
        """The last filling is over; call it before letting go, so that the memory is not used again too early."""


class HostOutput:
    """`Output` where work is done when it returns."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def filling(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def take(self, stream: int | None = None) -> None:
        pass

    def release(self) -> None:
        pass


class FrameDecoder(Protocol):
    """Decodes frames of one layout into one dtype with one set of corrections."""

    def bind(self, staged: Any, starts: np.ndarray, out: Any) -> Decode:
        """Attach buffers; they are kept alive by the returned call.

        Parameters
        ----------
        staged : uint8[n], engine memory, or None
            Packed bytes. None (CPU only): `starts` holds addresses instead of offsets.
        starts : int64[frames, parts], host memory, C order
            Where each frame's part begins in `staged`, in bytes. Its contents may be changed between calls.
        out : dtype[depth, frame_pixels], C order, engine memory, written
            Every pixel that a placement names is written; others are left alone.
        """


class FrameAdder(Protocol):
    """Adds up packed frames of one layout, in their native dtype and without corrections."""

    def bind(self, staged: Any, starts: np.ndarray, of_frames: Any, of_pixels: Any) -> Add:
        """Attach buffers; they are kept alive by the returned call.

        Parameters
        ----------
        staged, starts
            As in `FrameDecoder.bind`.
        of_frames : wide[n], C order, engine memory, added to
            Sum of each frame. `wide` is uint64, int64, float64 or complex128 (`gpuio.prepare.sum_dtype`).
        of_pixels : wide[frame_pixels], C order, engine memory, added to
            Sum over the frames.

        Raises
        ------
        TypeError, ValueError
            Arrays of another dtype, shape or memory order. The call raises IndexError for frames that there are not, ValueError
            for a start outside of `staged`.
        """


class Inflater(Protocol):
    """Undoes the filters of chunks of one size. On the CPU any number of threads may inflate with it at once."""

    def bind(self, staged: Any, out: Any) -> Inflate:
        """Attach buffers; they are kept alive by the returned call.

        Parameters
        ----------
        staged : uint8[n], engine memory
            Chunks as they are stored.
        out : uint8[m], C order, engine memory, written
            Inflated chunks; where a chunk is bad, what is written in its place is undefined, and nothing else is.

        Returns
        -------
        Inflate
            A call with ``chunks : int64[n, 4], host memory``: byte of the chunk in `staged`, its stored size, its mask of skipped
            filters (bit k: filter k of the list was not applied), byte in `out` where its `chunk_bytes` begin. It raises ValueError
            for chunks that do not lie within the buffers, before anything is inflated. Bad chunks have a status, and raise nothing.
        """


class Engine(Protocol):
    """Memory and arithmetic of one device."""

    name: str                        # "cpu", "cuda:0"
    xp: Any                          # numpy or cupy
    encodings: frozenset[str]        # names this engine can decode

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any: ...
    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any: ...
    def upload(self, array: np.ndarray) -> Any: ...
    def download(self, array: Any) -> np.ndarray: ...
    def staging(self, n_bytes: int) -> Staging: ...
    def output(self, items: int, dtype: Any) -> Output: ...

    def computing(self, *, joined: bool = False) -> AbstractContextManager[Any]:
        """Inside, the engine's own stream is the current one: for arrays and work that nobody else sees.

        Parameters
        ----------
        joined
            For arrays of others: after all that was given to the current stream before, and all that is given to it later comes after.
        """

    def free_bytes(self) -> int | None:
        """Memory that can still be had; None where that is not the engine's to know."""

    def decoder(self, encoding: Encoding, placements: np.ndarray, frame_pixels: int, dtype: Any, *,
                dark: np.ndarray | None = None, gain: np.ndarray | None = None) -> FrameDecoder:
        """Prepare decoding into `dtype`.

        Parameters
        ----------
        placements : int64[entries, 12], host memory
            See `gpuio.layout`; checked here against `frame_pixels`, never in the loop.
        dark, gain : float32 or float64[frame_pixels], host memory, optional
            ``out = (cast(value) - dark) * gain``, computed as if in float64 and rounded once.

        Raises
        ------
        TypeError
            A correction with an integer `dtype`.
        ValueError
            A placement outside of the frame, an unknown encoding, or a map of another size.
        """

    def repair(self, out: Any, table: RepairTable) -> None:
        """Replace excluded pixels of `out` (floating dtype[frames, pixels], C order, engine memory) in place: sum of the
        neighbours in float64 in table order, divided by their number, rounded once."""

    def bin(self, frames: Any, out: Any, blocks: Blocks) -> None:
        """Sum blocks of pixels.

        Parameters
        ----------
        frames : dtype[n, planes * rows * down * columns * across], C order, engine memory
        out : dtype[n, planes * rows * columns], C order, engine memory, written
            Sums of integers are exact, as far as the dtype holds them; floating pixels are added in float64 in C order of the
            block and rounded once.

        Raises
        ------
        ValueError
            The arrays have another form.
        """

    def adder(self, frames: Any, of_frames: Any, of_pixels: Any) -> Add:
        """Attach decoded frames and running sums to a call that adds in one pass.

        Parameters
        ----------
        frames : dtype[depth, pixels], engine memory
            Pixels side by side; there may be gaps between frames.
        of_frames, of_pixels
            As in `FrameAdder.bind`, which also says what is raised.
        """

    def frame_adder(self, encoding: Encoding, placements: np.ndarray, frame_pixels: int) -> FrameAdder | None:
        """Prepare adding of packed frames that need not be decoded to memory first; None where this engine has to.

        Parameters as in `decoder`.
        """

    def transpose(self, staged: Any, out: Any, piece: Piece, table: TransposeTable) -> None:
        """Put frames together from pixels that are stored with navigation fastest.

        The item of frame ``table.frames[i]``, row ``r`` and repeat ``k`` is taken from byte
        ``table.starts[i] + src + r * row_src + k * rep_src`` of `staged` and put to pixel ``pos + r * row_pos + k * rep_pos``:
        what decoding of runs of one plain item would do, done in tiles that read and write whole cache lines.

        Parameters
        ----------
        staged : uint8[n], engine memory
            From `Staging.device`.
        out : dtype[depth, frame_pixels], C order, engine memory, written
            Items of 1, 2, 4, 8 or 16 bytes. They are moved, not interpreted.
        piece
            Runs of one pixel each, `pixels` = 1. All distances in bytes are multiples of the item size.
        table
            Kept on the device until another one is given, so its contents must not change.

        Raises
        ------
        TypeError, ValueError
            Items of another size, or anything that reaches outside of `staged` or `out`.
        """

    def inflates(self, filters: Sequence[Filter]) -> str | None:
        """None if this engine can undo `filters`, given in order of writing; else which one it cannot, with its number and name."""

    def inflater(self, filters: Sequence[Filter], chunk_bytes: int, item_bytes: int) -> Inflater:
        """Prepare undoing `filters`.

        Parameters
        ----------
        chunk_bytes
            Of a chunk with nothing applied.
        item_bytes
            Of an element, for filters whose parameters do not say it.

        Raises
        ------
        ValueError
            Filters that `inflates` has a reason against, or parameters that do not fit the sizes.
        """

    def scatter(self, staged: Any, out: Any, entries: Entries) -> None:
        """Add the values of entries to the pixels that they name, frame by frame, in the order in which they are stored.

        Entries of a pixel that the frame does not have are left out, so that nothing is written elsewhere; telling of them is
        the caller's.

        Parameters
        ----------
        staged : uint8[n], engine memory
            From `Staging.device`.
        out : dtype[frames, frame_pixels], C order, engine memory, added to
            bool, where adding means "or"; integers; float32, float64; complex64, complex128.

        Raises
        ------
        TypeError, ValueError
            Another dtype, or lists that reach outside of `staged`.
        """

    def csr(self, values: np.ndarray, pixels: np.ndarray, starts: np.ndarray, frame_pixels: int) -> Any:
        """Entries in host memory as a sparse matrix with a row a frame: of SciPy, or of CuPy on its device.

        Raises
        ------
        BackendUnavailable
            SciPy is not installed.
        """


_engines: dict[tuple[int, str], Engine] = {}


def get_engine(device: str | None = None) -> Engine:
    """The engine of a device, one for each process.

    Parameters
    ----------
    device
        ``"cpu"``, ``"cuda"`` (device 0), ``"cuda:N"``, or ``"auto"``: CUDA if it is there, else the CPU. None takes the
        environment variable GPUIO_DEVICE, and without it "auto".

    Raises
    ------
    BackendUnavailable
        CUDA was asked for and is not there; the message says why and what to do.
    ValueError
        Not a device.
    """
    name = resolve_device(device)
    key = (os.getpid(), name)       # CUDA handles do not survive a fork
    if key not in _engines:
        if name == "cpu":
            from gpuio.cpu_fallback import CpuEngine

            _engines[key] = CpuEngine()
        else:
            from gpuio.kernels import CudaEngine

            _engines[key] = CudaEngine(int(name.partition(":")[2]))
    return _engines[key]


def resolve_device(device: str | None = None) -> str:
    """``"cpu"`` or ``"cuda:N"`` for a device as users name it; errors as `get_engine`."""
    asked = device or os.environ.get(DEVICE_VARIABLE) or "auto"
    kind, _, number = asked.partition(":")
    if asked == "cpu":
        return "cpu"
    if asked != "auto" and (kind != "cuda" or (number and not number.isdigit())):
        raise ValueError(f"device {asked!r} is unknown; expected 'auto', 'cpu', 'cuda' or 'cuda:N'")
    reason = why_no_cuda(int(number or 0))
    if reason is None:
        return f"cuda:{int(number or 0)}"
    if asked == "auto" and not _is_forked():     # a process that has a GPU does not lose it silently in its children
        return "cpu"
    raise BackendUnavailable(f"device {asked!r} is not available: {reason}")


def cpu_vendor() -> str:
    """What the processor calls its maker, such as ``AuthenticAMD``; empty where the system does not say."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as info:
            return next((line.partition(":")[2].strip() for line in info if line.startswith("vendor_id")), "")
    except OSError:
        return ""


def _is_forked() -> bool:
    from gpuio.kernels import forked

    return forked() is not None


def why_no_cuda(device: int = 0) -> str | None:
    """None if CUDA device number `device` can be used, else the reason and the remedy in one line."""
    from gpuio.kernels import available

    reason: str | None = available(device)
    return reason
