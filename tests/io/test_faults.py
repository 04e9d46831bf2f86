"""Storage that fails: short reads are completed, everything else is one clear error.

System calls are made to fail by a preloaded library (``faults.c``) in a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuio.io.backends import IOBackend

ROOT = Path(__file__).parents[2]
SIZE = 40007

SCRIPT = f"""
import json, sys
from gpuio.errors import ReadError
from gpuio.io.readahead import ReadAhead
from tests.io.conftest import BACKENDS
from tests.io.stand_in import room
backend, path, threads = BACKENDS[sys.argv[1]], sys.argv[2], int(sys.argv[3])
step = 8192
size = {SIZE} if backend.alignment == 1 else -(-{SIZE} // 4096) * 4096
into = room(backend, size)
into[:] = 0xA5
extents = [(0, low, min(step, size - low), low) for low in range(0, size, step)]
try:
    with backend.open([path], [{SIZE}]) as reader, ReadAhead(reader, threads, 4096) as ahead:
        ahead.submit(extents, into).wait()
    print(json.dumps({{"bytes": into[:{SIZE}].tobytes().hex()}}))
except OSError as error:
    print(json.dumps({{"error": type(error).__name__, "message": str(error), "errno": error.errno}}))
"""


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> str:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed; it builds the library that makes system calls fail")
    if "libasan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("another library is preloaded")
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", str(Path(__file__).with_name("faults.c")), "-o", str(library), "-ldl"], check=True)
    return str(library)


Outcome = tuple[dict[str, Any], str, bytes]     # what the script printed, the file's path and content


@pytest.fixture
def read_with(shim: str, backend: IOBackend, write: Callable[..., tuple[str, np.ndarray]]) -> Callable[..., Outcome]:
    path, content = write("faulty.bin", SIZE)

    def run(fault: str, *, threads: int = 0, after: int = 0, times: int | None = None) -> Outcome:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "LD_PRELOAD": shim, "FAULT": fault, "FAULT_PATH": "faulty.bin",
               "FAULT_AFTER": str(after)}
        if times is not None:
            env["FAULT_TIMES"] = str(times)
        command = [sys.executable, "-c", SCRIPT, backend.id, path, str(threads)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), path, content.tobytes()

    return run


@pytest.mark.parametrize("threads", [0, 2])
def test_short_reads_are_completed(read_with: Callable[..., Any], backend: IOBackend, threads: int) -> None:
    # A device comes back short by whole blocks, not by half a block for ever.
    times = None if backend.alignment == 1 else 1
    result, _, content = read_with("short", threads=threads, times=times)
    assert result == {"bytes": content.hex()}


@pytest.mark.parametrize("fault", ["eio", "estale"])
@pytest.mark.parametrize("after", [0, 3])
def test_failing_storage_is_an_error_with_file_and_place(read_with: Callable[..., Any], backend: IOBackend, fault: str, after: int) -> None:
    result, path, _ = read_with(fault, after=after)
    code = {"eio": 5, "estale": 116}[fault]
    assert result["error"] == "ReadError" and result["errno"] == code
    assert result["message"].startswith(f"{path}: byte {after * 8192}: reading 8192 bytes failed: {os.strerror(code)}")


def test_an_early_end_of_file_is_an_error_that_counts_bytes(read_with: Callable[..., Any], backend: IOBackend) -> None:
    result, path, _ = read_with("eof", after=2)
    assert result["error"] == "ReadError"
    found = "an end of the file that is not there" if backend.id == "gds" else f"0; the file has {SIZE} bytes"
    assert result["message"] == f"{path}: byte 16384: expected 8192 bytes, found {found}"


def test_interrupted_calls_are_repeated(read_with: Callable[..., Any]) -> None:
    result, _, content = read_with("eintr", times=5)
    assert result == {"bytes": content.hex()}


def test_an_error_in_one_of_several_threads_reaches_the_caller(read_with: Callable[..., Any]) -> None:
    result, path, _ = read_with("eio", threads=3, after=4)
    assert result["error"] == "ReadError" and path in result["message"]
