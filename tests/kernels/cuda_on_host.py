"""The CUDA engine without a GPU: its Python on NumPy arrays, its kernels compiled by g++ behind ``cuda_on_host.h``.

`HostRuntime` takes the place of CuPy. Everything else is what runs on a device: the source text that would be given to
NVRTC, the launch shapes, the argument records.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from gpuio.engine import HostOutput
from gpuio.kernels import CudaEngine, _bin, _launch, _scatter, _transpose

#: Source files that decode nothing, and the argument of their kernels.
OTHERS = {"corrections": "RepairCall", "transpose": "TransposeCall", "bin": "BinCall", "scatter": "ScatterCall",
          "inflate": "InflateCall", "deflate": "InflateCall", "filters": "InflateCall"}
HEADER = Path(__file__).with_name("cuda_on_host.h")
FLAGS = ("-std=c++17", "-shared", "-fPIC", "-O1", "-fno-strict-aliasing", "-ffp-contract=off", "-Wall", "-Werror", "-Wno-unknown-pragmas")
SANITIZERS = ("-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
COUNTING = ("-DCOUNT_BYTES",)


def why_no_compiler() -> str | None:
    """None if kernels can be compiled for the host."""
    return None if shutil.which("g++") else "g++ is not installed"


def why_no_sanitizers() -> str | None:
    """None if kernels can be compiled with sanitizers that a Python process can load."""
    if reason := why_no_compiler():
        return reason
    found = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=False).stdout.strip()
    return None if Path(found).is_absolute() else "gcc's libasan.so is not installed"


def expressions(file: str, outputs: tuple[str, ...] = tuple(_launch.C_TYPES.values()),
                inputs: tuple[str, ...] = tuple(_launch.C_TYPES.values())) -> list[str]:
    """The kernels of ``<file>.cu`` that may be asked for."""
    if file == "corrections":
        return ["repair<f32>", "repair<f64>"]
    if file == "transpose":
        return [f"transpose<{item}>" for item in _transpose.ITEMS.values()]
    if file == "bin":
        return [_bin.expression(source, target) for source in _launch.C_TYPES for target in _launch.C_TYPES]
    if file == "scatter":
        return [f"scatter<{pixels}, {values}>" for pixels in _scatter.PIXELS.values() for values in dict.fromkeys(_scatter.VALUES.values())]
    if file == "inflate":
        blocks = [(item, shared) for item in (1, 2, 4) for shared in ("true", "false")] + [(0, "false")]
        return ["walk<true>", "walk<false>", "streams<true>", "streams<false>",
                *(f"bitshuffle<{item}, {packed}, {shared}>" for item, shared in blocks for packed in ("true", "false"))]
    if file == "deflate":
        return ["deflate"]
    if file == "filters":
        return ["move", "fletcher32", *(f"unshuffle<{item}>" for item in (0, 2, 4, 8))]
    sources = [file]
    if file in ("plain", "swap"):
        sources = [f"{file}<{c}>" for c in inputs if file == "plain" or not c.endswith("8") or c == "f8"]
    maps = [("f32", 0), *itertools.product(("f32", "f64"), (1, 2, 3))]
    return [f"decode<{s}, {out}, {map_type}, {kind}>" for s in sources for out in outputs
            for map_type, kind in (maps if out in ("f32", "f64") else maps[:1])]


class HostRuntime:
    """`gpuio.kernels._runtime.Runtime` on the host.

    Parameters
    ----------
    folder
        Where shared objects are put; one for each source, made when first needed.
    flags
        For g++, besides `FLAGS`.
    kinds
        Kernels compiled for a source file; all of them by default.
    """

    name, xp = "cuda:0", np

    def __init__(self, folder: Path, *flags: str, kinds: Callable[[str], list[str]] = expressions) -> None:
        self._folder, self._flags, self._kinds = folder, flags, kinds
        self._libraries: dict[str, tuple[ctypes.CDLL, list[str]]] = {}
        self.launches: list[tuple[str, tuple[int, int, int], tuple[int, int, int]]] = []

    def active(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def computing(self, *, joined: bool = False) -> AbstractContextManager[Any]:
        return nullcontext()

    def kernel(self, source: str, expression: str) -> Callable[..., None]:
        if source not in self._libraries:
            self._libraries[source] = self._build(source)
        library, names = self._libraries[source]
        function = getattr(library, f"kernel_{names.index(expression)}")
        function.restype = None

        def launch(grid: tuple[int, int, int], block: tuple[int, int, int], arguments: tuple[np.ndarray]) -> None:
            (record,) = arguments
            assert record.size == 1, "CuPy passes an array by value only if it is of size one"
            assert record.nbytes <= 4096, "CUDA allows 4 KiB of arguments"
            assert 0 < block[0] * block[1] * block[2] <= 1024 and max(grid[1:]) <= 65535 and min(grid) > 0
            three = ctypes.c_uint * 3
            function(three(*grid), three(*block), ctypes.c_void_p(record.ctypes.data))
            assert library.shim_misaligned() == 0, "memory is accessed at multiples of the size"
            assert library.shim_missed() == 0, "all threads of a block come to the same barriers"
            self.launches.append((expression, grid, block))

        return launch

    def _build(self, source: str) -> tuple[ctypes.CDLL, list[str]]:
        file = next(f for f in (*_launch.ENCODINGS, *OTHERS) if _launch.source(f) == source)
        names = self._kinds(file)
        self._folder.mkdir(parents=True, exist_ok=True)
        text, library = self._folder / f"{file}.cpp", self._folder / f"{file}.so"
        argument = OTHERS.get(file, "Call")
        exports = "".join(f"SHIM_EXPORT(kernel_{i}, {name})\n" for i, name in enumerate(names))
        text.write_text(f"{source}\n#define SHIM_ARGUMENT {argument}\n{exports}")
        barriers = ("-DSHIM_BARRIERS",) if "__sync" in source or "_sync(" in source else ()
        subprocess.run(["g++", *FLAGS, *barriers, *self._flags, "-include", HEADER, text, "-o", library], check=True)
        return ctypes.CDLL(str(library)), names

    def traffic(self) -> tuple[int, int, int]:
        """Bytes loaded (each once a launch), loaded (each once a block) and stored since the last call, built with `COUNTING`."""
        total = np.zeros(3, dtype=np.int64)
        for library, _ in self._libraries.values():
            counts = (ctypes.c_ulonglong * 3)()
            library.shim_traffic(counts)
            total += np.array(counts, dtype=np.int64)
        from_memory, from_l2, stored = total.tolist()
        return from_memory, from_l2, stored

    def address(self, array: np.ndarray) -> int:
        return int(array.__array_interface__["data"][0])

    def upload(self, array: np.ndarray) -> np.ndarray:
        copy = aligned(array.nbytes).view(array.dtype).reshape(array.shape)
        copy[...] = array
        return copy

    def download(self, array: np.ndarray) -> np.ndarray:
        return array.copy()

    def staging(self, n_bytes: int) -> HostStaging:
        return HostStaging(max(16, -(-n_bytes // 16) * 16))

    def output(self, items: int, dtype: Any) -> HostOutput:
        return HostOutput(self.xp.empty(items, dtype))

    def free_bytes(self) -> None:
        return None


class HostStaging:
    """Two buffers, so that bytes which were not pushed are not there."""

    def __init__(self, n_bytes: int) -> None:
        self.host, self.device = aligned(n_bytes, 4096), aligned(n_bytes)
        self.device[:] = 0xA5
        self.landing = self.device
        self.reads = 0

    def push(self, n_bytes: int) -> None:
        self.device[:n_bytes] = self.host[:n_bytes]

    def reading(self) -> AbstractContextManager[Any]:
        self.reads += 1
        return nullcontext()

    def is_free(self, memory: str) -> bool:
        return True


def host_engine(folder: Path, *flags: str, kinds: Callable[[str], list[str]] = expressions) -> CudaEngine:
    """The CUDA engine on a `HostRuntime`."""
    return CudaEngine(runtime=HostRuntime(folder, *flags, kinds=kinds))


def aligned(n_bytes: int, alignment: int = 16, offset: int = 0) -> np.ndarray:
    """uint8[n_bytes] that starts `offset` bytes after a multiple of `alignment`, and not at a multiple of twice that."""
    memory = np.empty(n_bytes + 3 * alignment + offset, dtype=np.uint8)
    start = -memory.__array_interface__["data"][0] % (2 * alignment) + alignment + offset
    return memory[start:start + n_bytes]


@contextmanager
def fenced(n_bytes: int) -> Iterator[np.ndarray]:
    """uint8[n_bytes] between unreadable pages: one before its first page, one right behind its last byte."""
    page = mmap.PAGESIZE
    pages = -(-n_bytes // page)
    memory = mmap.mmap(-1, (pages + 2) * page)
    view = np.frombuffer(memory, dtype=np.uint8)
    address = view.__array_interface__["data"][0]
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    fences = (address, address + (pages + 1) * page)
    for fence in fences:
        if protect(ctypes.c_void_p(fence), ctypes.c_size_t(page), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    yield view[(pages + 1) * page - n_bytes:(pages + 1) * page]
    for fence in fences:
        protect(ctypes.c_void_p(fence), ctypes.c_size_t(page), mmap.PROT_READ | mmap.PROT_WRITE)
