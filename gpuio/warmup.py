"""Compile ahead what a data set needs, so that its first tile does not wait for a compiler.

An engine compiles a function when it is first needed, and keeps it on disk. So what users do with a data set is done once with its
first frame: reading native pixels, float32, and float32 with dark, gain and repair, both as they are and with the corrections that
the files bring; and the sums that `summary` and ``gpuio show`` make. What unpacks, transposes or scatters comes on the way. A data
set is the best thing to ask for; formats stand for their usual files by small ones that are written, opened and thrown away.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import gpuio
from gpuio import engine, synth
from gpuio import formats as registry
from gpuio.base import CorrectionSet
from gpuio.errors import BackendUnavailable

if TYPE_CHECKING:
    from gpuio.dataset import DataSet

#: Writer, its options and detector shape, for each kind of pixels that files of a format usually hold.
Sample = tuple[str, dict[str, Any], tuple[int, int]]
#: What NumPy files hold, and with them most formats. How maps for corrections are kept depends on the size of the detector.
PLAIN: tuple[Sample, ...] = tuple(("npy", {"dtype": dtype}, side) for side in ((128, 128), (1024, 1024))
                                  for dtype in ("u1", "<u2", ">u2", "<u4", "<f4"))
NAV_FASTEST: tuple[Sample, ...] = tuple(("npy", {"dtype": dtype, "fortran_order": True}, (64, 64)) for dtype in ("u1", "<u2", "<f4"))
#: Of formats that hold something else, or more.
SAMPLES: dict[str, tuple[Sample, ...]] = {
    "mib": (*(("mib", {"kind": kind}, (256, 256)) for kind in ("U08", "U16", "U32", "R1", "R6", "R12", "R24")),
            *(("mib", {"kind": kind, "layout": "2x2"}, (512, 512)) for kind in ("R1", "R6", "R12"))),
    "k2is": (("k2is", {"scan": False}, (1860, 2048)),),
    "frms6": (("frms6", {}, (264, 264)),),
    "hdf5": (*PLAIN, ("hdf5", {"dtype": "<u2", "packing": "gzip"}, (128, 128))),
    "npy": PLAIN + NAV_FASTEST,
    "dm": PLAIN + NAV_FASTEST,
    "raw_csr": tuple(("raw_csr", {"dtype": dtype}, (128, 128)) for dtype in ("u1", "<u2", "<f4")),
}


@dataclass(frozen=True, slots=True)
class Ready:
    """A way to use pixels that can now be gone at once.

    Attributes
    ----------
    pixels
        dtype of stored pixels.
    use
        What was done with them, in words.
    compiled
        Functions that were compiled just now; on a GPU, that this process had to compile or to fetch from CuPy's cache.
    """

    device: str
    encoding: str
    pixels: str
    use: str
    seconds: float
    compiled: int


def devices() -> list[str]:
    """What there is to compile for: the CPU, and the first GPU if it can be used."""
    return ["cpu"] if engine.why_no_cuda(0) else ["cpu", "cuda:0"]


def warm(ds: DataSet, device: str) -> Iterator[Ready]:
    """Have all that a data set needs made for a device, one use after the other; none if it has no frames.

    Raises
    ------
    BackendUnavailable
        There is no such device.
    ReadError, OSError
        Its first frame cannot be read.
    """
    compiled: list[str] = []

    def note(what: str) -> AbstractContextManager[None]:
        compiled.append(what)
        return nullcontext()

    with tempfile.TemporaryDirectory(prefix="gpuio-warmup-") as folder:
        for use, run in _uses(_stand_in(ds, Path(folder)).to(device)):
            compiled.clear()
            started, told = time.perf_counter(), engine.on_compile
            engine.on_compile = note
            try:
                run()
            finally:
                engine.on_compile = told
            yield Ready(device, ds.layout.encoding.name, str(ds.layout.dtype), use, time.perf_counter() - started, len(compiled))


def _stand_in(ds: DataSet, folder: Path) -> DataSet:
    """The data set, or a small one with the same pixels where navigation is fastest: of that, a frame costs a pass over the file."""
    if ds.layout.strided is None:
        return ds
    stored = ds.layout.dtype.newbyteorder(">" if ds.layout.encoding.name == "swap" else "=")
    np.save(folder / "scan.npy", np.zeros((1, 2, *ds.layout.sig_shape), stored, order="F"))
    return gpuio.open(folder / "scan.npy", device="cpu")


def _uses(ds: DataSet) -> Iterator[tuple[str, Callable[[], object]]]:
    """What users do with pixels, in words, and how it is done with the first frame that there is."""
    first, shape, native = ds._selected(None)[0][:1], tuple(ds.shape.sig), ds.layout.dtype
    if not len(first):
        return
    roi = np.arange(ds.shape.nav.size).reshape(tuple(ds.shape.nav)) == first[0]
    ones, excluded = np.ones(shape, np.float32), np.zeros(shape, bool)
    excluded.flat[0] = excluded.size > 1
    plain, all_of_them, own = CorrectionSet(), CorrectionSet(ones, ones, excluded), ds.get_correction_data()
    real = np.dtype(np.complex64 if native.kind == "c" else np.float32)
    for dtype in dict.fromkeys((native, real)):
        yield str(dtype), partial(ds.read, first, dtype=dtype, corrections=plain)
    yield f"{real} with dark, gain and repair", partial(ds.read, first, dtype=real, corrections=all_of_them)
    yield "sums", partial(ds.summary, roi=roi, corrections=plain)
    if own.have_corrections():
        for dtype in dict.fromkeys((ds.output_dtype(None, own), real)):
            yield f"{dtype} with the file's corrections", partial(ds.read, first, dtype=dtype, corrections=own)
        yield "sums with the file's corrections", partial(ds.summary, roi=roi, corrections=own)


def samples(formats: Sequence[str]) -> Iterator[DataSet]:
    """A small data set for each kind of pixels that files of the formats have; each is gone when the next is asked for.

    Raises
    ------
    DataSetException
        There is no such format.
    OSError
        The folder for temporary files cannot be written.
    """
    for name in formats:
        registry.get(name)
    wanted: list[Sample] = []
    for sample in (sample for name in formats for sample in SAMPLES.get(name, PLAIN)):
        if sample not in wanted:
            wanted.append(sample)
    for writer, options, sig_shape in wanted:
        with tempfile.TemporaryDirectory(prefix="gpuio-warmup-") as folder:
            path = Path(folder, f"sample.{registry.FORMATS[writer].extensions[0]}")
            frame = np.ones((1, *sig_shape), dtype=np.uint8)
            try:
                paths = synth.write(writer, path, [frame], nav_shape=(1, 1), sig_shape=sig_shape, **options)
            except BackendUnavailable:      # what writes such files would read them as well
                continue
            yield gpuio.open(paths[0], device="cpu")
