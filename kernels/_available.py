"""Whether CUDA can be used in this process, and if not, why and what to do."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from functools import cache
from importlib import metadata

#: Compute capability of the oldest devices that kernels are made for (Volta), and that CUDA 13 compiles for (Turing).
OLDEST, OLDEST_OF_CUDA_13 = (7, 0), (7, 5)
FORKED = ("CUDA was started before this process was forked, and does not survive that; start processes by multiprocessing's "
          "'spawn' or 'forkserver' method, or use device='cpu' in them")

#: The process in which CUDA was started; None: it was not.
_started_by: int | None = None


def forked() -> str | None:
    """`FORKED` if CUDA was started in a process that this one was forked from, else None."""
    return FORKED if _started_by not in (None, os.getpid()) else None


def available(device: int = 0) -> str | None:
    """None if CUDA device number `device` can be used, else the reason and the remedy in one line. Starts CUDA, if it is there."""
    global _started_by
    if (reason := forked()) is None and (reason := _why_not(device)) is None:
        _started_by = os.getpid()
    elif reason is FORKED:
        _started_by = os.getppid()
    return reason


@cache
def _why_not(device: int) -> str | None:
    installed = [name for name in ("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x") if _has(name)]
    if len(installed) > 1:
        return f"{' and '.join(installed)} are installed together, and either may be imported; uninstall all but one"
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed; install gpuio[cuda13] or gpuio[cuda12], whichever fits the driver"
    if not _has_driver():
        return "no NVIDIA driver is installed, or it is not visible here (containers need the NVIDIA runtime)"
    try:
        import cupy
    except ImportError as error:
        return f"CuPy is installed but cannot be imported: {_line(error)}"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except RuntimeError as error:
        if "cudaErrorInitializationError" in str(error):        # some other library started it before the fork
            return FORKED
        return f"CUDA does not start: {_line(error)}; check the driver with nvidia-smi"
    if device >= count:
        return f"there is no CUDA device {device}; {count} found" + (", check CUDA_VISIBLE_DEVICES" if count == 0 else "")
    try:
        toolkit = cupy.cuda.nvrtc.getVersion()[0]
    except (RuntimeError, ImportError, OSError) as error:
        return f"the CUDA compiler library NVRTC is not found ({_line(error)}); install gpuio[cuda13] or gpuio[cuda12]"
    number = str(cupy.cuda.Device(device).compute_capability)
    capability = int(number[:-1]), int(number[-1])
    if capability < OLDEST:
        return f"CUDA device {device} has compute capability {capability[0]}.{capability[1]}; expected {OLDEST[0]}.{OLDEST[1]} or above"
    if toolkit >= 13 and capability < OLDEST_OF_CUDA_13:
        return (f"CUDA {toolkit} does not compile for device {device} of compute capability {capability[0]}.{capability[1]}; "
                "install gpuio[cuda12]")
    return None


def _has(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _has_driver() -> bool:
    """Whether the driver's library loads: asked before CuPy is imported, which takes much longer."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
