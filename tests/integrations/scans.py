"""Small scans in files, and the arrays that they were made from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import gpuio
from gpuio.base import DataSet

#: Those with navigation of more than one axis first.
NAMES = ("mib", "npy", "fortran", "raw", "line")


class Scan(NamedTuple):
    """How to open a scan, and its frames as they were written: dtype[n, *sig]."""

    path: str
    frames: np.ndarray
    parameters: dict[str, object]

    def open(self, **parameters: object) -> DataSet:
        """The data set on the CPU."""
        given = {**self.parameters, **parameters}
        load: Callable[..., DataSet] = gpuio.load if "format" in given else gpuio.open
        return load(path=self.path, device="cpu", **given)

    def truth(self, sync_offset: int = 0) -> np.ndarray:
        """What the positions of the scan show: dtype[nav, sig], zero where blank."""
        shape = tuple(self.open().shape)
        shown = np.zeros((int(np.prod(shape[:-2])), *shape[-2:]), self.frames.dtype)
        k = np.arange(len(shown)) + sync_offset
        has_data = (k >= 0) & (k < len(self.frames))
        shown[has_data] = self.frames[k[has_data]]
        return shown.reshape(shape)


def write(folder: Path, name: str, sig_shape: tuple[int, int] = (13, 20), kind: str = "R12") -> Scan:
    """Write one of `NAMES`; shape and kind are those of ``mib``.

    ``mib``: 12 bit, a series of files of 22 frames. ``raw``: big-endian, with headers, more positions than frames.
    """
    rng = np.random.default_rng(sum(map(ord, name)))
    if name == "mib":
        frames = rng.integers(0, 4096, (7 * 11, *sig_shape), dtype="u2")
        path = gpuio.synth.write("mib", folder / "scan.mib", [frames], nav_shape=(7, 11), sig_shape=sig_shape, kind=kind,
                                 frames_per_file=22)[0]
        return Scan(path, frames, {})
    if name == "raw":
        frames = rng.normal(size=(71, 13, 17)).astype("f4")
        blob = b"".join(rng.bytes(24) + frame.astype(">f4").tobytes() for frame in frames)
        (folder / "scan.bin").write_bytes(rng.bytes(100) + blob)
        return Scan(str(folder / "scan.bin"), frames, {"format": "raw", "dtype": ">f4", "nav_shape": (7, 11), "sig_shape": (13, 17),
                                                      "file_header": 100, "frame_header": 24})
    array = rng.integers(-30000, 30000, (79, 11, 13) if name == "line" else (7, 11, 13, 17), dtype="i2")
    np.save(folder / f"{name}.npy", np.asfortranarray(array) if name == "fortran" else array)
    return Scan(str(folder / f"{name}.npy"), array.reshape(-1, *array.shape[-2:]), {})
