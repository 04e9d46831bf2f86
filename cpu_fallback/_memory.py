"""Memory at addresses, for loops that numba compiles: loads, stores, copies. Nothing is checked here."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from importlib import resources
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpuio.cpu_fallback._driver import jit
from gpuio.cpu_fallback._vectors import I8, I64, splat


def compiled(signature: Any, *modules: str) -> Callable[[Any], Any]:
    """Decorator: machine code for `signature`. numba's cache knows only the function's own file, so the other `modules` that it
    is made from are part of its name."""
    def decorate(function: Any) -> Any:
        function.__qualname__ = f"{function.__name__}_{_digest(modules)}"
        return jit(function, signature)

    return decorate


@functools.cache
def _digest(modules: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for module in ("_vectors", "_memory", *modules):
        digest.update(resources.files("gpuio.cpu_fallback").joinpath(f"{module}.py").read_bytes())
    return digest.hexdigest()[:12]


def _loader(n_bytes: int) -> Any:
    """``load(address)``: a little-endian unsigned number, as int64 (of 8 bytes: as uint64)."""
    kind = ir.IntType(8 * n_bytes)

    def load(typing: Any, address: Any) -> Any:
        def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
            value = b.load(b.inttoptr(args[0], kind.as_pointer()), align=1)
            return value if n_bytes == 8 else b.zext(value, I64)

        return (types.uint64 if n_bytes == 8 else types.int64)(types.int64), emit

    return intrinsic(load)


def _storer(n_bytes: int) -> Any:
    """``store(address, value)``: the low bytes of an int64 (of 8 bytes: an uint64)."""
    kind = ir.IntType(8 * n_bytes)

    def store(typing: Any, address: Any, value: Any) -> Any:
        def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
            value = args[1] if n_bytes == 8 else b.trunc(args[1], kind)
            b.store(value, b.inttoptr(args[0], kind.as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.uint64 if n_bytes == 8 else types.int64), emit

    return intrinsic(store)


#: As `_storer`; the word goes to four places in a row.
WORDS = 4


def _fill(typing: Any, address: Any, word: Any) -> Any:
    """``fill(address, word)``: an uint64 `WORDS` times, as one vector."""
    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        vector = splat(b, args[1], WORDS)
        b.store(vector, b.inttoptr(args[0], vector.type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint64), emit


def _copy16(typing: Any, to: Any, start: Any) -> Any:
    """``copy16(to, start)``: 16 bytes as one vector."""
    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        to, start = (b.inttoptr(a, ir.VectorType(I64, 2).as_pointer()) for a in args)
        b.store(b.load(start, align=1), to, align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), emit


fill: Any = intrinsic(_fill)
copy16: Any = intrinsic(_copy16)
load8, load16, load32, load64 = (_loader(n) for n in (1, 2, 4, 8))
store8, store64 = (_storer(n) for n in (1, 8))


def _copy(typing: Any, to: Any, start: Any, n_bytes: Any) -> Any:
    """Bytes from one address to another, of ranges that do not overlap."""
    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        byte = I8.as_pointer()
        cgutils.raw_memcpy(b, b.inttoptr(args[0], byte), b.inttoptr(args[1], byte), args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), emit


copy: Any = intrinsic(_copy)


def _clear(typing: Any, address: Any, n_bytes: Any) -> Any:
    """``clear(address, n_bytes)``: bytes of zero."""
    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        cgutils.memset(b, b.inttoptr(args[0], I8.as_pointer()), args[1], 0)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), emit


clear: Any = intrinsic(_clear)
