"""What it all ran on, and how much memory it took."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

import gpuio
from gpuio.engine import Engine

#: Packages whose version is told where they are installed.
PACKAGES = ("numpy", "numba", "cupy-cuda12x", "cupy-cuda13x", "kvikio-cu12", "kvikio-cu13", "h5py", "hdf5plugin", "libertem",
            "rosettasciio", "ncempy", "dask")


def machine(engine: Engine) -> dict[str, Any]:
    """Processor, memory, system, load, GPU."""
    return {
        "cpu": _cpu_name(), "cores": os.cpu_count() or 1, "cores_usable": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}", "load": list(os.getloadavg()), "gpu": _gpu(engine),
    }


def versions() -> dict[str, str]:
    """Of Python, gpuio and the packages that matter here."""
    found = {"python": platform.python_version(), "gpuio": gpuio.__version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def peak_memory(engine: Engine, run: Callable[[], object]) -> dict[str, int | None]:
    """Memory that `run` takes beyond what the process had before, at most.

    Returns
    -------
    dict
        ``host_bytes``: resident, mapped pages of files among them; ``device_bytes``: of CuPy's pool. None where it cannot be told.
    """
    pool = engine.xp.get_default_memory_pool() if engine.xp is not np else None
    used = pool.used_bytes() if pool is not None else 0
    if pool is not None:
        pool.free_all_blocks()
    before = _status("VmRSS") if _forget_peak() else None
    run()
    peak = _status("VmHWM") if before is not None else None
    return {"host_bytes": max(0, peak - before) if peak is not None and before is not None else None,
            "device_bytes": int(pool.total_bytes() - used) if pool is not None else None}


def _forget_peak() -> bool:
    """Let the system measure the largest resident size anew; False where it cannot."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        return True
    except OSError:
        return False


def _status(key: str) -> int | None:
    """A size that the system tells of this process, in bytes."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    return None


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or sys.platform


def _gpu(engine: Engine) -> dict[str, Any] | None:
    """The device of an engine; None on the CPU."""
    if engine.name == "cpu":
        return None
    runtime = engine.xp.cuda.runtime
    facts = runtime.getDeviceProperties(int(engine.name.partition(":")[2] or 0))
    name = facts["name"]
    return {"name": name.decode() if isinstance(name, bytes) else str(name), "memory_bytes": int(facts["totalGlobalMem"]),
            "cuda_runtime": int(runtime.runtimeGetVersion()), "cuda_driver": int(runtime.driverGetVersion())}
