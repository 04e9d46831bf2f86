"""The same file through other libraries, where they are installed and read its format.

Every candidate hands over every frame as float32, as recorded (no dark, no gain), in the order and the portions that are natural to it,
and the same look is taken at each portion (`gpuio.bench.subject.look`). One thread computes. Files are opened before the clock starts.
Before anything is timed, the sum of all pixels is compared with gpuio's: who reads something else is not measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from typing import Any

import numpy as np

from gpuio.bench.subject import Subject, look
from gpuio.bench.timing import Candidate, interleaved
from gpuio.corrections import CorrectionSet

#: Bytes of a portion, where a library leaves the choice to its user.
PORTION_BYTES = 2 << 20
#: Modules of RosettaSciIO and readers of ncempy by format.
_RSCIIO = {"mib": "quantumdetector", "blo": "blockfile", "dm": "digitalmicrograph", "mrc": "mrc", "ser": "tia", "tvips": "tvips",
           "empad": "empad"}

#: Hands over portions of float32, each time it is called.
Portions = Callable[[], Iterator[np.ndarray]]
Progress = Callable[[int, int, str], object]


class CannotRead(Exception):
    """Why a library cannot read this file."""


def peers(subject: Subject, parameters: Mapping[str, Any], repeats: int, progress: Progress) -> list[dict[str, Any]]:
    """A row for each library, gpuio first; see ``schema.json``.

    Parameters
    ----------
    parameters
        The file was opened with.
    """
    plain = {name: value for name, value in parameters.items() if name != "io_backend"}
    truth = _sum(_gpuio(subject))
    ways: dict[str, Portions] = {"gpuio": lambda: _gpuio(subject)}
    refused: dict[str, str] = {}
    for done, (name, (package, make)) in enumerate(_LIBRARIES.items()):
        progress(done, len(_LIBRARIES), f"comparing pixels: {name}")
        try:
            version(package)
            portions = make(subject, plain)
            if not np.isclose(found := _sum(portions()), truth, rtol=1e-6):
                raise CannotRead(f"reads other pixels: their sum is {found:.9g}, not {truth:.9g}")
            ways[name] = portions
        except PackageNotFoundError:
            refused[name] = "not installed"
        except CannotRead as error:
            refused[name] = str(error)
        except Exception as error:          # whatever it was, it is theirs, and worth a word
            refused[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"

    def candidate(portions: Portions) -> Candidate:
        def run() -> None:
            for portion in portions():
                look(portion)

        return Candidate(run, subject.cache.prepare)

    timings = interleaved({name: candidate(portions) for name, portions in ways.items()}, repeats, progress=progress)
    rows = []
    ours = timings["gpuio"]
    for name in ("gpuio", *_LIBRARIES):
        row: dict[str, Any] = {"name": name, "version": _version(_LIBRARIES[name][0] if name in _LIBRARIES else "gpuio"),
                               "why_not": refused.get(name), "GB_per_s": None, "GB_per_cpu_s": None, "times_faster": None,
                               "times_faster_per_core": None}
        if name in timings:
            wall, cpu = timings[name].wall, max(timings[name].cpu.median, 1e-9)
            rate = wall.rate(subject.plan.needed_bytes / 1e9)
            row |= {"GB_per_s": {"median": rate.median, "low": rate.low, "high": rate.high},
                    "GB_per_cpu_s": subject.plan.needed_bytes / 1e9 / cpu, "times_faster": wall.median / ours.wall.median,
                    "times_faster_per_core": cpu / max(ours.cpu.median, 1e-9)}
        rows.append(row)
    return rows


def _gpuio(subject: Subject) -> Iterator[np.ndarray]:
    for tile in subject.ds.tiles(np.float32, corrections=CorrectionSet(), threads=0):
        yield tile.data


def _sum(portions: Iterator[np.ndarray]) -> float:
    return float(sum(portion.sum(dtype=np.float64) for portion in portions))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _slabs(frames: Any, n: int, frame_bytes: int) -> Iterator[np.ndarray]:
    """Slices of anything that has frames along its first axis."""
    depth = max(1, PORTION_BYTES // frame_bytes)
    for first in range(0, n, depth):
        yield np.asarray(frames[first:first + depth]).astype(np.float32, copy=False)


def _sig_bytes(subject: Subject) -> int:
    return subject.ds.layout.sig_size * 4


def _numpy(subject: Subject, parameters: Mapping[str, Any]) -> Portions:
    ds, path = subject.ds, str(subject.ds.files[0])
    sig = tuple(ds.shape.sig)
    if ds.format == "npy":
        array = np.load(path, mmap_mode="r")
    elif ds.format == "raw":
        array = np.memmap(path, dtype=parameters["dtype"], mode="r")
    else:
        raise CannotRead(f"has no reader of {ds.format}")
    if not array.flags.c_contiguous:
        raise CannotRead("frames do not lie one after the other")
    frames = array.reshape(-1, *sig)
    return lambda: _slabs(frames, len(frames), _sig_bytes(subject))


def _h5py(subject: Subject, parameters: Mapping[str, Any]) -> Portions:
    if subject.ds.format != "hdf5":
        raise CannotRead(f"has no reader of {subject.ds.format}")
    import h5py
    import hdf5plugin  # noqa: F401  registers filters

    found = h5py.File(str(subject.ds.files[0]), "r")
    where = parameters.get("ds_path") or next((name for name in ("/data", "/entry/data/data") if name in found), None)
    if where is None:
        raise CannotRead("which of its data sets is meant is not known; pass -p ds_path=...")
    data = found[where]
    nav = data.shape[:data.ndim - len(tuple(subject.ds.shape.sig))]
    # Boxes of the scan that no chunk is in twice, and that are a portion at least.
    box = list(data.chunks[:len(nav)] if data.chunks else [1] * len(nav))
    box[-1] *= max(1, PORTION_BYTES // (_sig_bytes(subject) * math.prod(box)))

    def portions() -> Iterator[np.ndarray]:
        for at in product(*(range(0, n, step) for n, step in zip(nav, box, strict=True))):
            yield data[tuple(slice(first, first + step) for first, step in zip(at, box, strict=True))].astype(np.float32, copy=False)

    return portions


def _ncempy(subject: Subject, parameters: Mapping[str, Any]) -> Portions:
    path, n = str(subject.ds.files[0]), subject.ds.image_count
    if subject.ds.format == "ser":
        ser = import_module("ncempy.io.ser").fileSER(path)
        return lambda: (ser.getDataset(i)[0].astype(np.float32) for i in range(n))
    if subject.ds.format == "mrc":
        mrc = import_module("ncempy.io.mrc").fileMRC(path)
        return lambda: (mrc.getSlice(i).astype(np.float32) for i in range(n))
    if subject.ds.format == "dm":
        dm = import_module("ncempy.io.dm").fileDM(path)
        array = dm.getMemmap(dm.numObjects - 1 - dm.thumbnail).reshape(-1, *tuple(subject.ds.shape.sig))
        return lambda: _slabs(array, len(array), _sig_bytes(subject))
    raise CannotRead(f"has no reader of {subject.ds.format}")


def _rosettasciio(subject: Subject, parameters: Mapping[str, Any]) -> Portions:
    ds = subject.ds
    if ds.format not in _RSCIIO:
        raise CannotRead(f"has no reader of {ds.format}")
    path = next((str(file) for file in ds.files if str(file).endswith((".xml", ".emi"))), str(ds.files[0]))
    found = import_module(f"rsciio.{_RSCIIO[ds.format]}").file_reader(path, lazy=True)
    data = max((entry["data"] for entry in found), key=lambda array: array.size)

    def portions() -> Iterator[np.ndarray]:
        for block in data.blocks.ravel() if hasattr(data, "blocks") else (data,):
            computed = block.compute(scheduler="synchronous") if hasattr(block, "compute") else block
            yield np.asarray(computed).astype(np.float32, copy=False)

    return portions


def _libertem(subject: Subject, parameters: Mapping[str, Any]) -> Portions:
    from libertem.api import Context
    from libertem.io.dataset.base import BufferedBackend, Negotiator
    from libertem.udf.sum import SumUDF

    ds = subject.ds
    options = dict(parameters)
    if ds.layout.encoding.name == "mib_r1":         # its default backend refuses 1-bit data
        options["io_backend"] = BufferedBackend()
    if ds.format in ("mib", "raw", "blo", "mrc", "ser", "seq", "tvips", "frms6"):
        options.setdefault("nav_shape", tuple(ds.shape.nav))
    opened = Context.make_with("inline").load(ds.format, path=subject.plan.path, **options)
    opened.set_num_cores(1)
    first = next(iter(opened.get_partitions()))
    scheme = Negotiator().get_scheme(udfs=[SumUDF()], dataset=opened, read_dtype=np.float32, approx_partition_shape=first.shape,
                                     corrections=None)

    def portions() -> Iterator[np.ndarray]:
        for part in opened.get_partitions():
            for tile in part.get_tiles(scheme, dest_dtype=np.float32):
                yield tile.data if isinstance(tile.data, np.ndarray) else np.asarray(tile)

    return portions


#: Package and reader of each library.
_LIBRARIES: dict[str, tuple[str, Callable[[Subject, Mapping[str, Any]], Portions]]] = {
    "LiberTEM": ("libertem", _libertem), "RosettaSciIO": ("rosettasciio", _rosettasciio), "ncempy": ("ncempy", _ncempy),
    "h5py": ("h5py", _h5py), "NumPy": ("numpy", _numpy),
}
