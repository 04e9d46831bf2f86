"""NVRTC and nvdisasm without a driver: what a kernel becomes, for any device."""

from __future__ import annotations

import ctypes
import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gpuio.kernels._runtime import COMPILE_OPTIONS


@dataclass(frozen=True)
class Compiled:
    """One kernel for one device."""

    registers: int
    stack_bytes: int
    spill_bytes: int
    instructions: tuple[str, ...]       # mnemonics of the disassembly; empty where nvdisasm does not know the device
    body: str = ""                      # the disassembly

    def memory(self, prefix: str) -> set[int]:
        """Widths in bits of the memory instructions that begin with `prefix`."""
        found = set()
        for name in self.instructions:
            if name == prefix or name.startswith(prefix + "."):
                widths = [int(part.lstrip("US")) for part in name.split(".") if re.fullmatch(r"[US]?(8|16|64|128|256)", part)]
                found.add(widths[0] if widths else 32)
        return found

    def shortest_cycle(self, *through: str) -> int:
        """Instructions of the shortest way round a loop that passes two whose names match `through`."""
        code: list[tuple[str, bool, list[str]]] = []          # name, whether it depends on a predicate, labels
        labels = {}
        for line in self.body.splitlines():
            if label := re.match(r"(\.L_x_\d+):", line):
                labels[label[1]] = len(code)
            elif found := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(@!?U?P\d+\s+)?([A-Z][A-Z0-9_.]*)(.*)", line):
                conditional = bool(found[1]) or bool(re.match(r"\s+!?U?P\d", found[3]))
                code.append((found[2], conditional, re.findall(r"`\((\.L_x_\d+)\)", found[3])))
        follows: list[list[int]] = []
        for i, (name, conditional, targets) in enumerate(code):
            jumps = [labels[t] for t in targets] if re.fullmatch(r"BRA(\.U)?", name) else []      # lanes in step do not take BRA.DIV
            ends = (name == "EXIT" or bool(jumps)) and not conditional
            follows.append(jumps + [i + 1] * (not ends and i + 1 < len(code)))

        def distances(start: int) -> dict[int, int]:
            found: dict[int, int] = {}
            edge, steps = [start], 0
            while edge:
                steps += 1
                edge = sorted({j for i in edge for j in follows[i]} - found.keys())
                found |= dict.fromkeys(edge, steps)
            return found

        ones, others = ([i for i, (name, _, _) in enumerate(code) if re.match(t, name)] for t in through)
        far = 1 << 30
        there, back = ({i: distances(i) for i in group} for group in (ones, others))
        return min(there[i].get(j, far) + back[j].get(i, far) for i in ones for j in others)


@cache
def why_not() -> str | None:
    """None if kernels can be compiled here."""
    try:
        _tools()
    except Exception as error:
        return f"no CUDA compiler: {error}"
    return None


@cache
def _tools() -> tuple[ctypes.CDLL, str | None]:
    from cuda import pathfinder

    return ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("nvrtc").abs_path), pathfinder.find_nvidia_binary_utility("nvdisasm")


def architectures() -> set[int]:
    """Devices that this NVRTC compiles for, such as 80."""
    library, _ = _tools()
    n = ctypes.c_int()
    library.nvrtcGetNumSupportedArchs(ctypes.byref(n))
    numbers = (ctypes.c_int * n.value)()
    library.nvrtcGetSupportedArchs(numbers)
    return set(numbers)


def compile_kernels(source: str, expressions: list[str], architecture: int, folder: Path) -> dict[str, Compiled]:
    """Compile `expressions` of `source` for a device.

    Raises
    ------
    SyntaxError
        With NVRTC's log.
    """
    library, nvdisasm = _tools()
    program = ctypes.c_void_p()
    assert library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None) == 0
    for expression in expressions:
        assert library.nvrtcAddNameExpression(program, expression.encode()) == 0
    options = [o.encode() for o in (*COMPILE_OPTIONS, f"-arch=sm_{architecture}", "--ptxas-options=-v")]
    failed = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    log = _text(library, program, "ProgramLog").rstrip(b"\0").decode()
    if failed:
        raise SyntaxError(log)
    lowered = {}
    for expression in expressions:
        name = ctypes.c_char_p()
        library.nvrtcGetLoweredName(program, expression.encode(), ctypes.byref(name))
        assert name.value is not None
        lowered[expression] = name.value.decode()
    cubin = _text(library, program, "CUBIN")
    library.nvrtcDestroyProgram(ctypes.byref(program))
    bodies = _disassemble(cubin, nvdisasm, folder) if nvdisasm else {}
    return {expression: _compiled(log, name, bodies.get(name, "")) for expression, name in lowered.items()}


def _text(library: Any, program: ctypes.c_void_p, what: str) -> bytes:
    n = ctypes.c_size_t()
    getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(n))
    buffer = ctypes.create_string_buffer(n.value)
    getattr(library, f"nvrtcGet{what}")(program, buffer)
    return buffer.raw


def _disassemble(cubin: bytes, nvdisasm: str, folder: Path) -> dict[str, str]:
    """Text of each kernel by its lowered name."""
    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    run = subprocess.run([nvdisasm, "-c", file], capture_output=True, text=True, check=False)
    return {m[1]: m[2] for m in re.finditer(r"^\.text\.(\S+):\n(.*?)(?=^\s*\.section|\Z)", run.stdout, re.S | re.M)}


def _compiled(log: str, name: str, body: str) -> Compiled:
    report = re.search(rf"Function properties for {re.escape(name)}\n[^\n]*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
                       r"(\d+) bytes spill loads\n[^\n]*?Used (\d+) registers", log)
    assert report, log
    stack, stores, loads, registers = map(int, report.groups())
    mnemonics = re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+\s+)?([A-Z][A-Z0-9_.]*)", body, re.M)
    return Compiled(registers, stack, stores + loads, tuple(mnemonics), body)
