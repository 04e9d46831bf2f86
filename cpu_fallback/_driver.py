"""The loop that all encodings share, and how a variant of it is compiled and cached.

A variant is one encoding, source and output dtype, and set of maps. The loop is plain Python that numba compiles; a
variant has globals of its own, in which `forward` and `backward` are the intrinsics of `_step`. It checks starts against
the staged bytes and nothing else: table and maps were checked by `gpuio.prepare`.

Shape, and why:

- **bands** of rows are outside of the frames, so that maps stay in the cache; where there are maps, a few frames are walked **together**,
  step by step, so that maps are read and converted once for all of them; within, **stripes** of a few rows are outside of the
  entries, so that stored rows that several entries share are read once, and front to back;
- the rest of a run that is no whole step is one step that overlaps the one before (the same values are written twice); a rest of
  half a step comes before the others in every row that begins in the middle of a cache line, so that these do not straddle two (FRMS6);
  only where a group is cut, or the run is shorter than a step, is a step masked. No byte behind a run's last group is
  ever read, so mapped files need no padding;
- runs of a single step (K2IS blocks) have the longer of rows and repeats inside, and get run length and repeats compiled
  in, which lets LLVM unroll them (measured: +15 %; longer runs gain nothing from it).

numba's cache knows neither globals nor imported modules, so the qualified name of a variant holds all that matters, and a
hash of the sources.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import threading
import types as python_types
from collections.abc import Callable
from contextlib import ExitStack
from importlib import resources
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core import event
from numba.extending import intrinsic

from gpuio import engine
from gpuio.cpu_fallback._step import KINDS, load_constant, make_step, size_of
from gpuio.cpu_fallback._vectors import Unpacker
from gpuio.layout import PART, PIXELS, PLACEMENT_COLUMNS, POS, REP_POS, REP_SRC, REPEATS, REVERSED, ROW_POS, ROW_SRC, ROWS, SKIPPED, SRC

COLUMNS = len(PLACEMENT_COLUMNS)

#: Frames that are corrected side by side, so that maps are read and converted once for all of them (measured on AMD EPYC: dark and gain
#: of 16 bits +50 %, of 8 bits +45 %, dark alone +30 %; with 2 some less, with 8 no more than with 1). Runs of a single step are those of
#: K2IS, whose frames are so large that they come alone.
CORRECTED_TOGETHER = 4

# Globals of a variant; `compile_variant` puts its own in their place.
OUT_BYTES = STEP = STEP_BYTES = GROUP = HALVES = KNOWN_PIXELS = KNOWN_REPEATS = TOGETHER = 0
forward: Any = None
forward_part: Any = None
backward: Any = None
backward_part: Any = None


def _at(typing: Any, table: Any, i: Any) -> Any:
    """``table[i]`` of int64 at an address."""
    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return load_constant(b, *args)

    return types.int64(types.int64, types.int64), emit


at: Any = intrinsic(_at)


def loop(src: int, starts: int, frames: int, parts: int, limits: int, n_limits: int, table: int, entries: int, height: int,
         band: int, stripe: int, out: int, dark: int, gain: int, frame_pixels: int, param: int) -> int:
    """Decode; all arguments are int64, the first of each group an address.

    Returns -1, or the number of the frame whose start lies outside of `limits` (int64[n_limits, 2], lowest and highest
    start of each part); then nothing has been decoded.
    """
    for f in range(frames):
        for p in range(n_limits):
            start = at(starts, f * parts + p)
            if start < at(limits, 2 * p) or start > at(limits, 2 * p + 1):
                return f
    for top in range(0, height, band):
        for f in range(0, frames, TOGETHER):
            together = 1 if TOGETHER == 1 else min(TOGETHER, frames - f)
            to = out + f * frame_pixels * OUT_BYTES
            for y0 in range(top, min(top + band, height), stripe):
                for k in range(0, entries * COLUMNS, COLUMNS):
                    repeats = KNOWN_REPEATS if KNOWN_REPEATS else at(table, k + REPEATS)
                    rep_src = at(table, k + REP_SRC)
                    rep_pos = at(table, k + REP_POS)
                    row_src = at(table, k + ROW_SRC)
                    row_pos = at(table, k + ROW_POS)
                    skipped = at(table, k + SKIPPED)
                    flip = at(table, k + REVERSED)
                    way = -1 if flip else 1
                    rows = min(y0 + stripe, top + band, at(table, k + ROWS)) - y0
                    # Positions and addresses are those of the run's first group; `skipped` pixels of it are left out.
                    begins = starts + 8 * (f * parts + at(table, k + PART))
                    ps = src + at(table, k + SRC) + y0 * row_src
                    q = at(table, k + POS) + y0 * row_pos - way * skipped
                    end = KNOWN_PIXELS if KNOWN_PIXELS else skipped + at(table, k + PIXELS)
                    head = 0 if KNOWN_PIXELS else min(skipped, 1)                       # the first step is masked
                    whole = max(0, end // STEP - head)                              # steps that need no mask
                    rest = end % STEP if end > STEP or head == 0 else 0
                    overlaps = rest > 0 and end - skipped >= STEP and end % GROUP == 0
                    halves = HALVES and whole > 1 and overlaps and head == 0 and 2 * rest == STEP
                    if whole > 1:
                        for y in range(rows):
                            for r in range(repeats):
                                s = ps + head * STEP_BYTES + y * row_src + r * rep_src
                                d = q + way * head * STEP + y * row_pos + r * rep_pos
                                if halves:
                                    # The rest comes first where the run begins in the middle of a cache line.
                                    split = (to + (d + flip) * OUT_BYTES) & (STEP * OUT_BYTES - 1)
                                    x = 0 if split else end - STEP
                                    if flip:
                                        backward(s + x // GROUP * (STEP_BYTES // (STEP // GROUP)), begins, parts, together,
                                                 d - x, to, frame_pixels, dark, gain, 0, 0, param)
                                    else:
                                        forward(s + x // GROUP * (STEP_BYTES // (STEP // GROUP)), begins, parts, together,
                                                d + x, to, frame_pixels, dark, gain, 0, 0, param)
                                    if split:
                                        s += STEP_BYTES // 2
                                        d += way * (STEP // 2)
                                if flip:
                                    for j in range(whole):
                                        backward(s + j * STEP_BYTES, begins, parts, together,
                                                 d - j * STEP, to, frame_pixels, dark, gain, 0, 0, param)
                                else:
                                    for j in range(whole):
                                        forward(s + j * STEP_BYTES, begins, parts, together,
                                                d + j * STEP, to, frame_pixels, dark, gain, 0, 0, param)
                    # One step a run: the only one, or the rest.
                    for last in range(0 if whole == 1 else 1, 2 if overlaps and not halves else 1):
                        x = end - STEP if last else head * STEP
                        s = ps + x // GROUP * (STEP_BYTES // (STEP // GROUP))
                        d = q + way * x
                        n_inner, s_inner, d_inner, n_outer, s_outer, d_outer = repeats, rep_src, rep_pos, rows, row_src, row_pos
                        if repeats == 1:
                            n_inner, s_inner, d_inner, n_outer = rows, row_src, row_pos, 1
                        for y in range(n_outer):
                            if flip:
                                for r in range(n_inner):
                                    backward(s + y * s_outer + r * s_inner, begins, parts, together,
                                             d + y * d_outer + r * d_inner, to, frame_pixels, dark, gain, 0, 0, param)
                            else:
                                for r in range(n_inner):
                                    forward(s + y * s_outer + r * s_inner, begins, parts, together,
                                            d + y * d_outer + r * d_inner, to, frame_pixels, dark, gain, 0, 0, param)
                    if head or (rest and not overlaps):
                        for y in range(rows):
                            for r in range(repeats):
                                for last in range(1 - head, 2 if rest and not overlaps else 1):
                                    x = end // STEP * last
                                    s = ps + y * row_src + r * rep_src + x * STEP_BYTES
                                    d = q + y * row_pos + r * rep_pos + way * x * STEP
                                    low = 0 if last else skipped
                                    high = rest if last else min(STEP, end)
                                    if flip:
                                        backward_part(s, begins, parts, together, d, to, frame_pixels, dark, gain, low, high, param)
                                    else:
                                        forward_part(s, begins, parts, together, d, to, frame_pixels, dark, gain, low, high, param)
    return -1


ARGUMENTS = loop.__code__.co_argcount
SIGNATURE = types.int64(*[types.int64] * ARGUMENTS)
_lock = threading.Lock()


def jit(function: Any, signature: Any = None) -> Any:
    """Compile without the GIL and keep the machine code on disk, or only in memory where that fails.

    numba raises if no folder for its cache can be written, and does not survive a full disk or a damaged cache file.
    """
    decorate: Callable[..., Any] = functools.partial(numba.njit, *([] if signature is None else [signature]), nogil=True)
    with event.install_listener("numba:compile", _Announcer(function)):
        try:
            return decorate(cache=True)(function)
        except Exception:       # an error that is not the cache's comes again
            return decorate()(function)


class _Announcer(event.Listener):
    """Passes on to `gpuio.engine.on_compile` when a function is compiled: only numba knows what its cache lacks."""

    def __init__(self, function: Any) -> None:
        self._function, self._announced = function, ExitStack()

    def on_start(self, event: Any) -> None:
        if event.data["dispatcher"].py_func is self._function:
            self._announced.enter_context(engine.on_compile(self._function.__qualname__))

    def on_end(self, event: Any) -> None:
        if event.data["dispatcher"].py_func is self._function:
            self._announced.close()


def find(module: str, name: str, dtype: np.dtype) -> Unpacker:
    """The `Unpacker` that the table of encodings names; ValueError if it does not hold pixels of `dtype`."""
    unpacker: type[Unpacker] = getattr(importlib.import_module(f"gpuio.cpu_fallback.{module}"), name)
    if dtype.str[1:] not in unpacker.dtypes:
        raise ValueError(f"encoding {module} does not hold pixels of {dtype}; expected one of {', '.join(unpacker.dtypes)}")
    return unpacker(dtype)


def variant_name(unpacker: Unpacker, target: str, maps: str, known_pixels: int, known_repeats: int, ahead: int,
                 halves: bool, past_cache: bool) -> str:
    """All that machine code depends on: the variant and the sources it is made from."""
    module = type(unpacker).__module__.rpartition(".")[2]
    walk = [f"{known_pixels}x{known_repeats}", str(ahead), *["halves"] * halves, *["past"] * past_cache]
    return "_".join([module, unpacker.dtype.str[1:], target, maps or "none", *walk, digest(module)])


@functools.cache
def digest(*modules: str) -> str:
    """A hash of the sources that machine code of the modules is made from."""
    sources = hashlib.sha256(repr(PLACEMENT_COLUMNS).encode())
    for source in ("_vectors", "_step", "_driver", *modules):
        sources.update(resources.files("gpuio.cpu_fallback").joinpath(f"{source}.py").read_bytes())
    return sources.hexdigest()[:12]


def compile_variant(unpacker: Unpacker, target: str, maps: str, known_pixels: int = 0, known_repeats: int = 0, ahead: int = 0,
                    halves: bool = False, *, past_cache: bool = False) -> Any:
    """The loop as machine code: from this process, from disk, or compiled (about a second).

    Parameters
    ----------
    target, maps, ahead, past_cache
        As for `_step.make_step`.
    known_pixels, known_repeats
        Length of all runs, which begin at a group, and how often they repeat, to be compiled in; 0: unknown.
    halves
        Runs are looked at for a rest of half a step (a loop without that is faster by 5 to 10 % for short runs: measured).
    """
    name = variant_name(unpacker, target, maps, known_pixels, known_repeats, ahead, halves, past_cache)
    with _lock:             # else threads that start together compile the same thing
        if name not in _compiled:
            own = {**globals(), "OUT_BYTES": size_of(KINDS[target]), "STEP": unpacker.step, "STEP_BYTES": unpacker.step_bytes,
                   "GROUP": unpacker.group_pixels, "HALVES": halves, "KNOWN_PIXELS": known_pixels, "KNOWN_REPEATS": known_repeats,
                   "TOGETHER": CORRECTED_TOGETHER if maps and not known_pixels else 1}
            for backward_too, word in ((False, "forward"), (True, "backward")):
                own[word] = make_step(unpacker, target, maps, backward_too, partial=False, ahead=ahead, past_cache=past_cache)
                own[f"{word}_part"] = make_step(unpacker, target, maps, backward_too, partial=True)
            function = python_types.FunctionType(loop.__code__, own)
            function.__module__, function.__qualname__ = __name__, name
            _compiled[name] = jit(function, SIGNATURE)
        return _compiled[name]


_compiled: dict[str, Any] = {}
