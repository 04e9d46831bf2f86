"""What the CUDA kernels do with their argument records, worked out by NumPy, run by run, on the memory of a simulated device."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from gpuio.kernels import _inflate, _launch, _transpose
from gpuio.layout import Encoding
from tests.reference_engine import unpack

if TYPE_CHECKING:
    from tests.kernels.simulated import Device

DTYPES = {name: dtype for dtype, name in _launch.C_TYPES.items()}


def numpy_kernel(source: str, expression: str) -> Callable[..., None]:
    """What the kernel `expression` does with its record: ``run(device, grid, record)``."""
    name, _, rest = expression.rstrip(">").partition("<")
    if name == "repair":
        return lambda device, grid, call: _repair(device, call, DTYPES[rest])
    if name == "transpose":
        size = next(size for size, item in _transpose.ITEMS.items() if item == rest)
        return lambda device, grid, call: _transpose_items(device, call, size)
    if name == "bin":
        source_type, sums, target_type = (DTYPES[item] for item in rest.split(", "))
        return lambda device, grid, call: _bin(device, call, source_type, sums, target_type)
    if name == "unshuffle":
        return lambda device, grid, call: _unshuffle(device, call)
    if name == "scatter":
        pixel_type, value_type = (DTYPES.get(item, np.dtype(bool)) for item in rest.split(", "))
        return lambda device, grid, call: _scatter_entries(device, call, pixel_type, value_type)
    template, out, map_type, kind = re.fullmatch(r"(.+), (\w+), (\w+), (\d)", rest).groups()        # type: ignore[union-attr]
    file, _, item = template.rstrip(">").partition("<")
    if packing := _launch.PACKED.get(file):
        encoding = Encoding(file, np.dtype({1: "u1", 8: "u1", 16: "u4" if file == "mib_r24" else "u2"}[packing.bits]), packing.group_bytes,
                            packing.group_pixels)
    else:
        encoding = Encoding(file, DTYPES[item], DTYPES[item].itemsize, 1)
    return lambda device, grid, call: _decode(device, grid, call, encoding, DTYPES[out], DTYPES[map_type], int(kind))


def _decode(device: Device, grid: tuple[int, int, int], call: np.ndarray, encoding: Encoding, out: np.dtype, map_type: np.dtype,
            kind: int) -> None:
    frame_pixels, frames = int(call["frame_pixels"]), int(call["frames"])
    maps = [device.bytes_at(int(call[name]), frame_pixels * map_type.itemsize).view(map_type).astype("f8") if kind & bit else None
            for name, bit in (("dark", 1), ("gain", 2))]
    pixels = device.bytes_at(int(call["out"]) + int(call["lead"]) * out.itemsize, frames * frame_pixels * out.itemsize).view(out)
    for e in call["entries"][:grid[1]]:
        runs, repeats = int(e["work"]) // int(e["chunks"]), int(e["repeats"])
        n, skipped = int(e["pixels"]), int(e["skipped"])
        size = -(-(skipped + n) // encoding.group_pixels) * encoding.group_bytes
        for frame, run in np.ndindex(frames, runs):
            row, repeat = divmod(run, repeats)
            at = (int(call["staged"]) + int(call["starts"][frame * int(call["parts"]) + int(e["part"])])
                  + int(e["src"]) + row * int(e["row_src"]) + repeat * int(e["rep_src"]))
            blob = device.bytes_at(at, size).copy()
            low_plane = device.bytes_at(at + int(call["param"]), size).copy() if call["param"] else None
            values = unpack(blob, encoding, low_plane)[skipped:skipped + n]
            low = int(e["low"]) + row * int(e["row_low"]) + repeat * int(e["rep_low"])
            with np.errstate(all="ignore"):
                values = (values[::-1] if e["reversed"] else values).astype(out)
                if kind:
                    wide = values.astype("f8")
                    wide = wide if maps[0] is None else wide - maps[0][low:low + n]
                    values = (wide if maps[1] is None else wide * maps[1][low:low + n]).astype(out)
            pixels[frame * frame_pixels + low:frame * frame_pixels + low + n] = values


def _repair(device: Device, call: np.ndarray, dtype: np.dtype) -> None:
    n, frames, frame_pixels, items = (int(call[name]) for name in ("n", "frames", "frame_pixels", "items"))
    out = device.bytes_at(int(call["out"]), frames * frame_pixels * items * dtype.itemsize).view(dtype).reshape(frames, frame_pixels, items)
    pixels, starts = (device.bytes_at(int(call[name]), 8 * count).view("i8") for name, count in (("pixels", n), ("starts", n + 1)))
    before = out.astype("f8")
    for i in range(n):
        assert 0 <= starts[i] <= starts[i + 1] <= starts[n] and 0 <= pixels[i] < frame_pixels, "not a table"
        mine = device.bytes_at(int(call["neighbours"]) + 8 * int(starts[i]), 8 * int(starts[i + 1] - starts[i])).view("i8")
        assert not len(mine) or 0 <= mine.min() <= mine.max() < frame_pixels, "not a table"
        total = np.zeros((frames, items))
        for neighbour in mine:
            total += before[:, neighbour]
        if len(mine):
            out[:, pixels[i]] = total / len(mine)


def _bin(device: Device, call: np.ndarray, source: np.dtype, sums: np.dtype, target: np.dtype) -> None:
    rows, columns, down, across = (int(call[name]) for name in ("rows", "columns", "down", "across"))
    blocks = device.bytes_at(int(call["pixels"]), rows * down * columns * across * source.itemsize).view(source)
    total = np.zeros((rows, columns), sums)
    for dy, dx in np.ndindex(down, across):
        total += blocks.reshape(rows, down, columns, across)[:, dy, :, dx].astype(sums)
    device.bytes_at(int(call["out"]), rows * columns * target.itemsize).view(target)[:] = total.astype(target).ravel()


def _scatter_entries(device: Device, call: np.ndarray, pixel_type: np.dtype, value_type: np.dtype) -> None:
    frames, count, frame_pixels, items = (int(call[name]) for name in ("frames", "count", "frame_pixels", "items"))
    starts = device.bytes_at(int(call["starts"]), 8 * (frames + 1)).view("i8").tolist()
    pixels = device.bytes_at(int(call["pixels"]), count * pixel_type.itemsize).view(pixel_type)
    values = device.bytes_at(int(call["values"]), count * items * value_type.itemsize).view(value_type).reshape(count, items)
    out = device.bytes_at(int(call["out"]), frames * frame_pixels * items * value_type.itemsize).view(value_type)
    assert starts == sorted(starts) and starts[0] >= 0 and starts[-1] <= count and (not count or pixels.max() < frame_pixels), "no entries"
    for frame, (first, stop) in enumerate(pairwise(starts)):
        for i in range(first, stop):
            out.reshape(frames, frame_pixels, items)[frame, pixels[i]] += values[i]


def _unshuffle(device: Device, call: np.ndarray) -> None:
    tasks = device.bytes_at(int(call["tasks"]), int(call["n"]) * _inflate.TASK.itemsize).view(_inflate.TASK)
    size, item = int(call["gives"]), int(call["item"])
    for task in tasks:
        planes = device.bytes_at(int(task["src"]), size).copy()
        device.bytes_at(int(task["dst"]), size)[:] = planes.reshape(item, -1).T.ravel()


def _transpose_items(device: Device, call: np.ndarray, size: int) -> None:
    n, frame_pixels, repeats, pixels = (int(call[name]) for name in ("n", "frame_pixels", "repeats", "pixels"))
    starts, frames = (device.bytes_at(int(call[name]), 8 * n).view("i8") for name in ("starts", "frames"))
    for frame, start in zip(frames.tolist(), starts.tolist(), strict=True):
        for pixel in range(pixels):
            row, repeat = divmod(pixel, repeats)
            source = int(call["staged"]) + size * (start + int(call["src"]) + row * int(call["row_src"]) + repeat * int(call["rep_src"]))
            target = int(call["pos"]) + row * int(call["row_pos"]) + repeat * int(call["rep_pos"])
            device.bytes_at(int(call["out"]) + size * (frame * frame_pixels + target), size)[:] = device.bytes_at(source, size)
