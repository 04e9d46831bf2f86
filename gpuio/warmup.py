"""Compile ahead: the decoders that a data set needs, so that its first tile does not wait for a compiler.

An engine compiles a decoder when it is first asked for one, and keeps it on disk. So asking is all that is done here: for
native pixels, for float32, and for float32 with dark and gain. A data set is the best thing to ask for; formats stand for
their usual pixels, by small files that are written, opened and thrown away.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import gpuio
from gpuio import engine, synth
from gpuio import formats as registry

if TYPE_CHECKING:
    from gpuio.dataset import DataSet

#: dtype of tiles (None: native), and whether there are dark and gain.
VARIANTS: tuple[tuple[str | None, bool], ...] = ((None, False), ("float32", False), ("float32", True))

#: Writer, its options and detector shape, for each kind of pixels that files of a format usually hold.
Sample = tuple[str, dict[str, Any], tuple[int, int]]
SAMPLES: dict[str, tuple[Sample, ...]] = {
    "mib": tuple(("mib", {"kind": kind}, (256, 256)) for kind in ("U08", "U16", "U32", "R1", "R6", "R12", "R24")),
    "k2is": (("k2is", {"scan": False}, (1860, 2048)),),
}
#: All other formats hold what NumPy files hold.
PLAIN: tuple[Sample, ...] = tuple(("npy", {"dtype": dtype}, (256, 256)) for dtype in ("u1", "<u2", ">u2", "<u4", "<f4"))


@dataclass(frozen=True, slots=True)
class Ready:
    """A decoder that can now be had at once.

    Attributes
    ----------
    pixels, dtype
        dtype of stored pixels and of tiles.
    compiled
        Whether it was compiled just now; on a GPU, whether this process had to compile it or fetch it from CuPy's cache.
    """

    device: str
    encoding: str
    pixels: str
    dtype: str
    corrected: bool
    seconds: float
    compiled: bool


def devices() -> list[str]:
    """What there is to compile for: the CPU, and the first GPU if it can be used."""
    return ["cpu"] if engine.why_no_cuda(0) else ["cpu", "cuda:0"]


def warm(ds: DataSet, device: str) -> Iterator[Ready]:
    """Have the decoders of a data set made for a device, one after the other.

    Raises
    ------
    BackendUnavailable
        There is no such device.
    """
    layout, maker = ds.layout, engine.get_engine(device)
    ones = np.ones(layout.sig_size, dtype=np.float32)
    compiled: list[str] = []

    def note(what: str) -> AbstractContextManager[None]:
        compiled.append(what)
        return nullcontext()

    for dtype, corrected in dict.fromkeys((np.dtype(wanted or layout.dtype), corrected) for wanted, corrected in VARIANTS):
        maps = {"dark": ones, "gain": ones} if corrected else {}
        compiled.clear()
        started, told = time.perf_counter(), engine.on_compile
        engine.on_compile = note
        try:
            maker.decoder(layout.encoding, layout.placements, layout.sig_size, dtype, **maps)
        finally:
            engine.on_compile = told
        seconds = time.perf_counter() - started
        yield Ready(maker.name, layout.encoding.name, str(layout.dtype), str(dtype), corrected, seconds, bool(compiled))


def samples(formats: Sequence[str]) -> Iterator[DataSet]:
    """A small data set for each encoding that files of the formats have; each is gone when the next is asked for.

    Raises
    ------
    DataSetException
        There is no such format.
    OSError
        The folder for temporary files cannot be written.
    """
    for name in formats:
        registry.get(name)
    seen = set()
    with tempfile.TemporaryDirectory(prefix="gpuio-warmup-") as folder:
        for i, (writer, options, sig_shape) in enumerate(kind for name in formats for kind in SAMPLES.get(name, PLAIN)):
            path = Path(folder, str(i), f"sample.{registry.FORMATS[writer].extensions[0]}")         # side by side they would be a series
            path.parent.mkdir()
            frame = np.zeros((1, *sig_shape), dtype=np.uint8)
            ds = gpuio.open(synth.write(writer, path, [frame], nav_shape=(1, 1), sig_shape=sig_shape, **options)[0], device="cpu")
            if ds.layout.encoding not in seen:
                seen.add(ds.layout.encoding)
                yield ds
