"""kvikio without a GPU: its own way of reading, with a driver that stands in for NVIDIA's (``driver.c``) in a process of its own.

What is found in that process alone: `HAS_DRIVER`, and the backend "gds" among those of ``tests/io/conftest.py``.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from gpuio.io import gds
from gpuio.io.backends import IOBackend
from gpuio.io.staging import aligned_empty

ROOT = Path(__file__).parents[2]
HAS_DRIVER = "GPUIO_TEST_DRIVER" in os.environ


class Chosen:
    """As CuPy's Device: only `use` is sure to bind the context of the device to the thread."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass

    def use(self) -> None:
        if HAS_DRIVER:
            ctypes.CDLL("libcuda.so.1").bind_context()


class HostDevice(np.ndarray):
    """Host memory that says that it is device memory."""

    device = Chosen()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.__array_interface__, "version": 3}


def room(backend: IOBackend, n_bytes: int) -> Any:
    """uint8[n_bytes], aligned, in memory that the backend reads into."""
    memory = aligned_empty(n_bytes)
    return memory.view(HostDevice) if backend.memory == "device" else memory


def why_not() -> str | None:
    """Why the driver cannot be built, or kvikio cannot be used with it; None if they can."""
    if sys.platform != "linux" or shutil.which("gcc") is None:
        return "gcc is not installed; it builds the driver that stands in for NVIDIA's"
    if importlib.util.find_spec("kvikio") is None:
        return "kvikio is not installed; make test installs it without the CUDA toolkit, which is not needed here"
    return gds._no_kvikio()


def build(folder: Path) -> Path:
    """The driver's folder."""
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wl,-soname,libcuda.so.1", str(Path(__file__).with_name("driver.c")),
                    "-o", str(folder / "libcuda.so.1")], check=True)
    return folder


def run(command: list[str], driver: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python with that driver. Bounded in time: a file that kvikio never finishes to open is what would hang."""
    libraries = [str(driver), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LD_LIBRARY_PATH": ":".join(libraries), "GPUIO_TEST_DRIVER": "1",
                   "KVIKIO_COMPAT_MODE": "AUTO", **environment}
    return subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


if HAS_DRIVER:          # CuPy is not needed for what kvikio does here
    gds.why_no_cuda = lambda device=0: None  # type: ignore[assignment]
