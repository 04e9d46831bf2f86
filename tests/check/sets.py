"""Sets of files that tests of `gpuio.check` damage by hand, and the findings in short."""

from __future__ import annotations

import os
import pathlib

import numpy as np

from gpuio.check import Report
from tests.formats.mib_files import header

NAV, SIG = (13, 17), (7, 11)
N = NAV[0] * NAV[1]
PER_FILE = 61
HEADER = 384
STRIDE = HEADER + 2 * SIG[0] * SIG[1]


def random_frames(seed: int = 5, n: int = N) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 4096, (n, *SIG)).astype(np.uint16)


def told(report: Report) -> list[tuple[str, str]]:
    """Severity, and name of the file with the frame, of each finding."""
    return [(f.severity, os.path.basename(f.where)) for f in report.findings]


def overwrite(path: pathlib.Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def cut_out(path: pathlib.Path, start: int, stop: int) -> None:
    """Take frames of a file away, so that those behind move up."""
    data = path.read_bytes()
    path.write_bytes(data[:start * STRIDE] + data[stop * STRIDE:])


def write_mib(path: pathlib.Path, times_ns: np.ndarray, exposures_ns: np.ndarray | None = None) -> None:
    """A file of frames that were taken at these times after noon."""
    frames = random_frames(n=len(times_ns))
    noon = np.datetime64("2023-03-05T12:00:00", "ns")
    blobs = []
    for i, time in enumerate(times_ns):
        blob = header(i + 1, HEADER, width=SIG[1], height=SIG[0], dacs=False, time=str(noon + np.timedelta64(int(time), "ns")))
        if exposures_ns is not None:
            blob = blob.replace(b",1000000ns,", f",{exposures_ns[i]}ns,".encode())[:HEADER].ljust(HEADER, b"\0")
        blobs.append(blob + frames[i].astype(">u2").tobytes())
    path.write_bytes(b"".join(blobs))


def steps(n: int, step: int = 1_000_000) -> np.ndarray:
    """Distances of n frames in ns, with a jitter of 50 ns."""
    return np.full(n, step) + np.random.default_rng(3).integers(-50, 51, n)
