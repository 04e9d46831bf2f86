"""What decodes: the engine protocol, and which engine serves which device.

An engine owns memory of one device and knows pixel encodings; it knows no files. `decoder(...)` prepares everything
that stays the same for a whole stream (tables, maps, the compiled loop); `FrameDecoder.bind` attaches buffers that are
used again and again; the bound call decodes a run of frames and costs about a microsecond of Python.

>>> decoder = engine.decoder(layout.encoding, layout.placements, sig_size, "float32", dark=dark)
>>> decode = decoder.bind(staged, starts, out)
>>> decode(0, 8)          # frames starts[0:8] into out[0:8]
>>> decode(8, 3, at=5)    # frames starts[8:11] into out[5:8]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gpuio.layout import Encoding

#: ``decode(first, count, at=0)``: frames ``starts[first:first + count]`` into ``out[at:at + count]``.
Decode = Callable[..., None]


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


class Staging(Protocol):
    """Bytes on their way: read into `host`, decoded from `device` (the same memory on the CPU)."""

    host: np.ndarray    # uint8[n], aligned to 4096
    device: Any         # uint8[n], engine memory

    def push(self, n_bytes: int) -> None:
        """Make the first `n_bytes` of `host` visible in `device`, in order with later decode calls."""


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
