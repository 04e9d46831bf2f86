"""All that a GPU can prove, in one command: ``python -m benchmarks.evidence [--quick]``.

Runs the device tests, those of decoding again under compute-sanitizer where it is installed, and the measurements of `on_device`; writes
``benchmarks/results/<gpu>-<date>.json`` and prints it as tables. Exit code 0: all is well; 1: a test or the sanitizer failed
(what was measured is written all the same, with that in it); 3: there is no GPU here, nothing was measured or written.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import gpuio
from benchmarks import on_device
from benchmarks.measure import table
from gpuio.engine import Engine, get_engine, why_no_cuda
from gpuio.io import gds

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MIB = 1 << 20
#: Exit codes.
FAILED, NO_GPU = 1, 3
#: What compute-sanitizer exits with when it has found something.
FOUND = 86
#: Seconds that the device tests, or the sanitizer, may take.
PATIENCE = 3600


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller files and stacks, fewer rounds")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the result; default: benchmarks/results")
    options = parser.parse_args(arguments)
    reason = why_no_cuda(0)
    if reason is not None:
        print(f"no GPU here: {reason}; nothing was measured")
        return NO_GPU
    engine = get_engine("cuda:0")
    result = {**circumstances(options.quick), "tests": device_tests(), "sanitizer": sanitizer(), **measured(engine, options.quick)}
    path = write(result, options.output)
    report(result)
    print(f"written: {path}")
    return 0 if result["tests"]["passed"] and result["sanitizer"]["passed"] is not False else FAILED


def circumstances(quick: bool) -> dict[str, Any]:
    """Machine, versions, date and command."""
    return {
        "gpuio": gpuio.__version__, "commit": _commit(), "command": "python -m benchmarks.evidence" + (" --quick" if quick else ""),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "gpu": gpu(),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version(),
                    "numpy": np.__version__},
    }


def gpu() -> dict[str, Any]:
    """Device 0 and what drives it."""
    import cupy

    runtime = cupy.cuda.runtime
    properties = runtime.getDeviceProperties(0)
    return {"name": properties["name"].decode(), "memory_bytes": int(properties["totalGlobalMem"]),
            "compute_capability": f"{properties['major']}.{properties['minor']}", "cupy": cupy.__version__,
            "driver": int(runtime.driverGetVersion()), "runtime": int(runtime.runtimeGetVersion())}


def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor()


def _commit() -> str:
    """The commit of the checkout, with a plus if files were changed since."""
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def device_tests(*arguments: str, watched: Sequence[str] = ()) -> dict[str, Any]:
    """``pytest -m gpu``: how many tests there were, and whether all that ran have passed.

    Parameters
    ----------
    watched
        Command that runs it.
    """
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "tests.xml"
        tests = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", f"--junitxml={record}", *arguments]
        try:
            done = subprocess.run([*watched, *tests], cwd=ROOT, timeout=PATIENCE, check=False, text=True,
                                  stdout=subprocess.PIPE if watched else None)
        except subprocess.TimeoutExpired:
            return {"passed": False, "reason": f"not done after {PATIENCE} seconds"}
        found = counts(record.read_text()) if record.exists() else {"passed": False, "reason": "pytest did not finish"}
    if watched and done.returncode:
        found |= {"passed": False, "exit_code": done.returncode, "said": done.stdout[-2000:]}
    return found


def counts(xml: str) -> dict[str, Any]:
    """Numbers of tests in a JUnit record."""
    suites = list(ElementTree.fromstring(xml).iter("testsuite"))
    found = {name: sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")}
    return {"passed": found["tests"] > found["skipped"] and not (found["failures"] or found["errors"]), **found}


def sanitizer() -> dict[str, Any]:
    """compute-sanitizer on the device tests of decoding, which are small; `passed` is None where it is not installed.

    memcheck looks at every access of every kernel, racecheck at shared memory, which only transposing uses.
    """
    program = shutil.which("compute-sanitizer")
    if program is None:
        return {"passed": None, "reason": "compute-sanitizer is not installed"}
    found = {tool: device_tests(tests, watched=[program, "--tool", tool, "--error-exitcode", str(FOUND)])
             for tool, tests in {"memcheck": "tests/decode", "racecheck": "tests/decode/test_transpose.py"}.items()}
    return {"passed": all(result["passed"] for result in found.values()), **found}


def measured(engine: Engine, quick: bool) -> dict[str, Any]:
    """Kernels and streams."""
    rounds = 3 if quick else 7
    copy, kernels, others = on_device.kernels(engine, (256 if quick else 1024) * MIB, rounds)
    with tempfile.TemporaryDirectory() as folder:
        rows = list(on_device.streams(engine, engine.name, Path(folder), (256 if quick else 1024) * MIB, rounds))
    return {"rounds": rounds, "copy_GB_per_s": copy, "kernels": kernels, "other_kernels": others, "streams": [warm for warm, _ in rows],
            "cold": [cold for _, cold in rows], "gds": asdict(gds.Machine.here())}


def write(result: dict[str, Any], folder: Path) -> Path:
    """``<gpu>-<date>.json``; a later run of the same day replaces it."""
    name = re.sub(r"[^a-z0-9]+", "-", result["gpu"]["name"].lower()).strip("-")
    path = folder / f"{name}-{result['date'][:10]}.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def report(result: dict[str, Any]) -> None:
    """The result as tables."""
    tests, checked = result["tests"], result["sanitizer"]
    print(f"{result['gpu']['name']}, {result['machine']['cpu']}, gpuio {result['gpuio']} at {result['commit']}, {result['date']}")
    numbers = ", ".join(f"{name} {n}" for name, n in tests.items() if name != "passed")
    print(f"device tests: {'passed' if tests['passed'] else 'FAILED'} ({numbers})")
    print("compute-sanitizer: " + {True: "nothing found", False: "FAILED", None: checked.get("reason", "")}[checked["passed"]])
    print(f"\nkernels, bytes in and bytes out; the device copies its memory at {result['copy_GB_per_s']:.0f} GB/s")
    print(table(result["kernels"]))
    print("\n" + table(result["other_kernels"]))
    print("\npage cache to float32 tiles on the device, GB of packed bytes a second")
    _tables(result["streams"])
    print("storage to float32 tiles on the device, GB of packed bytes a second")
    _tables(result["cold"])


def _tables(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        print(table([{"": name, "value": value} for name, value in row.items()]) + "\n")


if __name__ == "__main__":
    sys.exit(main())
