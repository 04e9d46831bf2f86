"""What every engine checks before it prepares a decoder, so that its loop need not check anything.

A placement table that passes here names only pixels of the frame, each of them once, and says which bytes it needs; a
loop that keeps to the table can neither write outside of a frame nor run on for ever, whatever a corrupt file claims.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuio.engine import Blocks, Entries, RepairTable, TransposeTable
from gpuio.kept import kept
from gpuio.layout import PART, PIXELS, PLACEMENT_COLUMNS, REPEATS, ROWS, Encoding, Piece, placement_table, spans

#: Byte and pixel distances in a table must stay below this, so that no sum of them leaves int64.
_FARTHEST = 1 << 60


@kept
def check_placements(encoding: Encoding, placements: np.ndarray, frame_pixels: int) -> np.ndarray:
    """Check a placement table against the frame.

    Parameters
    ----------
    placements : int64[entries, 12]
        Columns as in `gpuio.layout.PLACEMENT_COLUMNS`.

    Returns
    -------
    int64[parts, 2]
        Bytes that the table needs of each part, first and one past the last, relative to the part's start. A part that
        is not used needs none: (0, 0).

    Raises
    ------
    ValueError
        A row that reaches outside of the frame, a nonsensical entry, or more pixels than the frame has.
    """
    table = np.asarray(placements)
    if table.dtype != np.int64 or table.ndim != 2 or table.shape[1] != len(PLACEMENT_COLUMNS):
        raise ValueError(f"placements are {table.dtype}{list(table.shape)}; expected int64[entries, {len(PLACEMENT_COLUMNS)}]")
    if not len(table):
        return np.zeros((1, 2), dtype=np.int64)
    total = parts = 0
    for at, row in enumerate(table.tolist()):
        why = _against(row, encoding, frame_pixels)
        if why is not None:
            entry = ", ".join(f"{name}={value}" for name, value in zip(PLACEMENT_COLUMNS, row, strict=True))
            raise ValueError(f"placement {at} {why}: {entry}")
        total += row[ROWS] * row[REPEATS] * row[PIXELS]
        parts = max(parts, row[PART] + 1)
    if total > frame_pixels:
        raise ValueError(f"placements name {total} pixels; expected at most the {frame_pixels} of the frame, each once")
    return spans(table, encoding, parts)


def _against(row: list[int], encoding: Encoding, frame_pixels: int) -> str | None:
    """What is wrong with a placement; None if nothing is. Python's integers cannot wrap around."""
    src, pos, repeats, rep_src, rep_pos, rows, row_src, row_pos, pixels, skipped, flip, part = row
    if pixels < 1 or rows < 1 or repeats < 1:
        return "has no pixels, rows or repeats"
    if not 0 <= skipped < encoding.group_pixels:
        return f"skips pixels beyond its first group of {encoding.group_pixels}"
    if flip not in (0, 1):
        return "has a flag `reversed` that is neither 0 nor 1"
    if not 0 <= part <= 255:
        return "belongs to a part that is not in 0 ... 255"
    run_bytes = (pixels + encoding.group_pixels) * encoding.group_bytes + abs(encoding.param)
    if max(abs(src) + rows * abs(row_src) + repeats * abs(rep_src) + run_bytes,
           abs(pos) + rows * abs(row_pos) + repeats * abs(rep_pos) + pixels, rows * repeats * pixels) >= _FARTHEST:
        return "has distances that no file can have"
    steps = (1 - pixels if flip else pixels - 1, (rows - 1) * row_pos, (repeats - 1) * rep_pos)
    if pos + sum(min(step, 0) for step in steps) < 0 or pos + sum(max(step, 0) for step in steps) >= frame_pixels:
        return f"reaches outside of the frame of {frame_pixels} pixels"
    return None


def allowed_starts(limits: np.ndarray, size: int) -> np.ndarray:
    """Lowest and highest start of each part such that all its bytes are among `size` staged ones; anything for unused parts."""
    allowed = np.empty_like(limits)
    allowed[:, 0], allowed[:, 1] = -limits[:, 0], size - limits[:, 1]
    unused = limits[:, 0] == limits[:, 1]
    allowed[unused] = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    return allowed


def check_maps(dtype: np.dtype, frame_pixels: int, dark: Any, gain: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Dark and gain as flat C-ordered maps of one dtype: float32 if that loses nothing, else float64.

    Maps of float32 are half the traffic, and where there is one map only, float32 arithmetic gives the same bits as
    float64 rounded once.

    Raises
    ------
    TypeError
        Maps that are not float32 or float64, or an output `dtype` that cannot hold corrected pixels.
    ValueError
        A map of another size than the frame.
    """
    maps = {name: np.asarray(m) for name, m in (("dark", dark), ("gain", gain)) if m is not None}
    if maps and dtype.kind not in "fc":
        raise TypeError(f"corrections need a real or complex dtype; {dtype} was asked for")
    for name, m in maps.items():
        if m.dtype not in (np.float32, np.float64):
            raise TypeError(f"{name} is {m.dtype}; expected float32 or float64")
        if m.size != frame_pixels:
            raise ValueError(f"{name} has {m.size} pixels; expected {frame_pixels}, as the frame")
    narrow = all(m.dtype == np.float32 or _is_narrow(m) for m in maps.values())
    flat = {name: np.ascontiguousarray(m, dtype=np.float32 if narrow else np.float64).ravel() for name, m in maps.items()}
    return flat.get("dark"), flat.get("gain")


def check_repair(out: Any, table: RepairTable) -> None:
    """Check what is to be repaired: real or complex [frames, pixels] in C order, and indices inside of a frame.

    Raises
    ------
    TypeError, ValueError
        Otherwise.
    """
    if out.dtype.kind not in "fc":
        raise TypeError(f"repair of {out.dtype}; expected a real or complex dtype")
    if out.ndim != 2 or not out.flags.c_contiguous:
        raise ValueError(f"repair of an array of shape {list(out.shape)}; expected [frames, pixels] in C order")
    pixels, starts, neighbours = table.pixels, table.starts, table.neighbours
    if len(starts) != len(pixels) + 1 or starts[0] != 0 or starts[-1] != len(neighbours) or (np.diff(starts) < 0).any():
        raise ValueError(f"repair table: starts of {len(pixels)} pixels do not divide {len(neighbours)} neighbours")
    for name, index in (("pixel", pixels), ("neighbour", neighbours)):
        if len(index) and not 0 <= index.min() <= index.max() < out.shape[1]:
            raise ValueError(f"repair table: a {name} lies outside of the frame of {out.shape[1]} pixels")


def sum_dtype(dtype: np.dtype) -> np.dtype:
    """As wide as sums of integers stay exact: uint64, int64, float64 or complex128."""
    return np.dtype({"b": "u8", "u": "u8", "i": "i8", "f": "f8", "c": "c16"}[dtype.kind])


def check_sums(dtype: np.dtype, pixels: int, of_frames: Any, of_pixels: Any) -> None:
    """Check sums that frames of `pixels` pixels are to be added to: wide enough, and in C order.

    Raises
    ------
    TypeError, ValueError
        Otherwise.
    """
    wide = sum_dtype(dtype)
    for name, sums in (("of_frames", of_frames), ("of_pixels", of_pixels)):
        if sums.dtype != wide:
            raise TypeError(f"{name} is {sums.dtype}; sums of {dtype} are {wide}")
        if sums.ndim != 1 or not sums.flags.c_contiguous or (sums is of_pixels and len(sums) != pixels):
            raise ValueError(f"{name} has shape {list(sums.shape)}; expected one axis in C order, of {pixels} pixels")


def check_range(first: int, count: int, at: int, frames: int, room: int) -> None:
    """Raise IndexError if there are no such frames, or no such place for what comes of them."""
    if first < 0 or count < 0 or at < 0 or first + count > frames or at + count > room:
        raise IndexError(f"frames {first} to {first + count} into {at} to {at + count}: there are {frames} frames, and room for {room}")


def check_transpose(staged: Any, out: Any, piece: Piece, table: TransposeTable) -> None:
    """Check what is to be transposed: memory of the right form, and a piece and frames that stay inside of it.

    Raises
    ------
    TypeError, ValueError
        Otherwise.
    """
    size = out.dtype.itemsize
    if size not in (1, 2, 4, 8, 16):
        raise TypeError(f"items of {size} bytes ({out.dtype}) cannot be transposed; expected 1, 2, 4, 8 or 16")
    for name, array, ndim in (("staged", staged, 1), ("out", out, 2)):
        if array.ndim != ndim or not array.flags.c_contiguous or (ndim == 1 and array.dtype != np.uint8):
            raise ValueError(f"{name} is {array.dtype}{list(array.shape)}; expected "
                             + ("contiguous uint8[n]" if ndim == 1 else "[depth, frame_pixels] in C order"))
    if piece.pixels != 1 or piece.skipped or piece.reversed or piece.part:
        raise ValueError(f"{piece} cannot be transposed; expected runs of one pixel")
    (low, high), = check_placements(Encoding("plain", np.dtype(f"V{size}"), size, 1), placement_table([piece]), out.shape[1]).tolist()
    if not len(table.starts):
        return
    if not 0 <= table.limits[0] <= table.limits[1] < len(out):
        raise ValueError(f"transpose table: a frame lies outside of the {len(out)} of the output")
    first, last = int(table.starts[0]) + low, int(table.starts[-1]) + high
    if first < 0 or last > staged.size:
        raise ValueError(f"bytes {first} to {last} are to be transposed; there are {staged.size}")
    steps = (piece.src, piece.row_src * (piece.rows > 1), piece.rep_src * (piece.repeats > 1))
    if table.unit % size or any(step % size for step in steps):
        raise ValueError(f"{piece} or its starts do not keep to multiples of the {size} bytes of an item")


def check_scatter(staged: Any, out: Any, entries: Entries) -> None:
    """Check lists of entries: memory of the right form and size. What they hold is not looked at.

    Raises
    ------
    TypeError, ValueError
        Otherwise.
    """
    if out.dtype.kind not in "buifc" or out.dtype.char in "egG" or not out.dtype.isnative:
        raise TypeError(f"values of {out.dtype} cannot be added up; expected bool, integer, float32, float64 or complex of these")
    if entries.pixel_dtype.kind != "u" or not entries.pixel_dtype.isnative:
        raise TypeError(f"pixel numbers are {entries.pixel_dtype}; expected an unsigned integer in native byte order")
    if out.ndim != 2 or not out.flags.c_contiguous or len(out) != entries.frames:
        raise ValueError(f"out has shape {list(out.shape)}; expected [{entries.frames}, frame_pixels] in C order")
    if staged.dtype != np.uint8 or staged.ndim != 1 or not staged.flags.c_contiguous:
        raise ValueError(f"staged is {staged.dtype}{list(staged.shape)}; expected contiguous uint8[n]")
    for name, at, n_bytes in (("starts", entries.starts, 8 * (entries.frames + 1)),
                              ("pixels", entries.pixels, entries.pixel_dtype.itemsize * entries.count),
                              ("values", entries.values, out.dtype.itemsize * entries.count)):
        if at % 16 or not 0 <= at <= staged.size - n_bytes or n_bytes < 0:
            raise ValueError(f"{name} are {n_bytes} bytes at {at}; expected a multiple of 16 and {staged.size} bytes at most")


def _is_narrow(m: np.ndarray) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        return bool((m == m.astype(np.float32)).all())


def check_bin(frames: Any, out: Any, blocks: Blocks) -> int:
    """Check what `Engine.bin` is given; the number of planes.

    Raises
    ------
    ValueError
        The arrays have another form.
    """
    b = blocks
    plane = b.rows * b.columns
    planes, rest = divmod(out.shape[1] if out.ndim == 2 else 0, max(plane, 1))
    if (min(b.rows, b.columns, b.down, b.across) < 1 or rest or frames.ndim != 2 or out.ndim != 2 or len(frames) != len(out)
            or frames.shape[1] != planes * plane * b.down * b.across or not frames.flags.c_contiguous or not out.flags.c_contiguous):
        raise ValueError(f"frames {list(frames.shape)} and out {list(out.shape)} do not fit {b}; expected [n, planes of pixels] "
                         "and [n, planes of blocks] in C order")
    return len(frames) * planes
