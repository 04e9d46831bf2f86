"""Writes DM3 and DM4 files: images, stacks of files, 4D scans in either order. The format is described in `gpuio.formats.dm`."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain, islice
from math import prod
from typing import Any, Literal

import numpy as np

from gpuio.errors import DataSetException, ShapeError
from gpuio.newfile import new_file
from gpuio.synth._writing import Progress, exact, stacks

#: dtype: DataType, and how tags name the items of the array.
TYPES = {
    "i2": (1, (2,)), "f4": (2, (6,)), "c8": (3, (15, 0, 2, 0, 6, 0, 6)), "u1": (6, (10,)), "i4": (7, (3,)), "i1": (9, (9,)),
    "u2": (10, (4,)), "u4": (11, (5,)), "f8": (12, (7,)), "c16": (13, (15, 0, 2, 0, 7, 0, 7)), "b1": (14, (8,)), "i8": (39, (11,)),
    "u8": (40, (12,)),
}
#: Infos of single values: struct code.
NUMBERS = {5: "I", 6: "f", 8: "?"}
#: Calibrations of the axes: distance and unit.
SCAN_AXIS, DETECTOR_AXIS, ENERGY_AXIS = (0.5, "nm"), (0.25, "1/nm"), (2.0, "eV")
#: Shape and DataType of the preview, which is stored as int32.
THUMBNAIL = ((4, 4), 23)

#: Bytes, and numbers of bytes to leave free for pixels.
Parts = list[bytes | int]


def write(path: str, frames: Iterable[np.ndarray], *, nav_shape: Sequence[int], sig_shape: Sequence[int],
          progress: Progress | None = None, dtype: Any = None, version: int = 4, transposed: bool = False, thumbnail: bool = True,
          survey: Sequence[int] | None = None, swap_tag: bool = True, frames_per_file: int | None = None) -> list[str]:
    """Write frames as DM3 or DM4.

    Parameters
    ----------
    path
        The file; with `frames_per_file` a number is put before its extension.
    frames
        Yields stacks of shape (n, *sig), all positions in C order. If `transposed`, each stack is a pass over the file.
    nav_shape, sig_shape
        Scan and detector axes: one nav axis makes a stack, two a scan. A detector of one axis makes a spectrum image.
    progress
        Called with the frames written and those in all.
    dtype
        dtype on disk; its byte order is that of the file. None: that of the frames.
    version
        3 or 4.
    transposed
        Store navigation fastest, as DigitalMicrograph does with spectrum images and did with 4D scans. Needs two nav axes.
    thumbnail
        Put a preview in front.
    survey
        Shape of an image to put before the scan; None: none.
    swap_tag
        Whether the file tells the order of a 4D scan by ``Data Order Swapped``; otherwise by its units alone.
    frames_per_file
        Write a list of files with so many frames each; None: one file.

    Returns
    -------
    list of str
        Paths of the files.

    Raises
    ------
    ShapeError
        Shapes do not fit the format, or frames do not have the promised shape or number.
    DataSetException
        A value does not fit `dtype`, or the format has no such dtype or version.
    """
    nav, sig = tuple(nav_shape), tuple(sig_shape)
    if len(nav) not in (1, 2) or len(sig) not in (1, 2) or (len(sig) == 1) > transposed or (transposed and len(nav) != 2):
        raise ShapeError(f"nav_shape is {nav}, sig_shape {sig}, transposed={transposed}; expected one or two nav axes and two sig axes; "
                         "two nav axes if transposed, which spectra (one sig axis) have to be")
    if frames_per_file is not None and (frames_per_file < 1 or transposed):
        raise ShapeError(f"frames_per_file is {frames_per_file!r}; expected 1 or more, and frames that are not transposed")
    checked = stacks(frames, nav, sig, progress)
    first = next(checked, None)
    if first is None:
        raise ShapeError(f"there are no frames; expected those of nav shape {nav}")
    item = np.dtype(dtype or first.dtype)
    if item.str[1:] not in TYPES or version not in (3, 4):
        raise DataSetException(f"dtype {item}, version {version!r}; expected one of {', '.join(TYPES)}, and 3 or 4")
    rest = chain([first], checked)
    if frames_per_file is not None:
        return _write_list(path, rest, nav, sig, item, frames_per_file, version=version, thumbnail=thumbnail)
    shape = (*sig, *nav) if transposed else (*nav, *sig)
    before, after = _header(shape, item, len(sig), transposed, version=version, thumbnail=thumbnail, survey=survey, swap_tag=swap_tag)
    with new_file(path) as temporary:
        with open(temporary, "wb") as file:
            file.write(before)
            if transposed:
                file.seek(prod(shape) * item.itemsize, os.SEEK_CUR)
            else:
                for stack in rest:
                    file.write(exact(stack, item).view(np.uint8).data)
            file.write(after)
        if transposed:
            array = np.memmap(temporary, dtype=item, mode="r+", offset=len(before), shape=(prod(sig), prod(nav)))
            done = 0
            for stack in rest:
                array[:, done:done + len(stack)] = exact(stack, item).reshape(len(stack), -1).T
                done += len(stack)
            array.flush()
    return [path]


def _write_list(path: str, frames: Iterator[np.ndarray], nav: tuple[int, ...], sig: tuple[int, ...], item: np.dtype, per_file: int,
                **options: Any) -> list[str]:
    """Files with `per_file` frames each; they appear together, when all frames have been seen."""
    stem, extension = os.path.splitext(path)
    singles = (frame for stack in frames for frame in exact(stack, item))
    paths: list[str] = []
    with ExitStack() as files:
        for start in range(0, prod(nav), per_file):
            n = min(per_file, prod(nav) - start)
            before, after = _header(sig if n == 1 else (n, *sig), item, len(sig), False, survey=None, swap_tag=False, **options)
            paths.append(f"{stem}{len(paths):05d}{extension}")
            temporary = files.enter_context(new_file(paths[-1]))
            with open(temporary, "wb") as file:
                file.write(before)
                for frame in islice(singles, n):
                    file.write(frame.tobytes())
                file.write(after)
        next(singles, None)         # frames too many are noticed when one more is asked for
    return paths


def _header(shape: tuple[int, ...], item: np.dtype, n_sig: int, transposed: bool, *, version: int, thumbnail: bool,
            survey: Sequence[int] | None, swap_tag: bool) -> tuple[bytes, bytes]:
    """Bytes before and after the pixels."""
    tags = Tags(version, "<" if item.newbyteorder("<") == item else ">")
    images = []
    if thumbnail:
        images.append(tags.image(THUMBNAIL[0], np.dtype("i4"), [DETECTOR_AXIS] * 2, data_type=THUMBNAIL[1]))
    if survey is not None:
        images.append(tags.image(tuple(survey), np.dtype("u1"), [SCAN_AXIS] * 2))
    sig_axes = [ENERGY_AXIS] if n_sig == 1 else [DETECTOR_AXIS] * 2
    nav_axes = [SCAN_AXIS] * (len(shape) - n_sig)
    meta = [tags.text("Format", "Spectrum image" if n_sig == 1 else "Diffraction image")]
    if swap_tag and len(shape) == 4:
        meta.append(tags.number("Data Order Swapped", 8, not transposed))
    images.append(tags.image(shape, item, sig_axes + nav_axes if transposed else nav_axes + sig_axes, meta=meta, hole=True))
    content = tags.body([
        tags.group("ImageList", images),
        *([tags.group("Thumbnails", [tags.group("", [tags.number("ImageIndex", 5, 0)])])] if thumbnail else []),
    ])
    width = ">I" if version == 3 else ">Q"
    rest = sum(part if isinstance(part, int) else len(part) for part in content)
    head = struct.pack(">I", version) + struct.pack(width, rest % (1 << 32 if version == 3 else 1 << 64)) + struct.pack(
        ">I", tags.order == "<")
    place = next(i for i, part in enumerate(content) if isinstance(part, int))
    before, after = (b"".join(part for part in side if isinstance(part, bytes)) for side in (content[:place], content[place + 1:]))
    return head + before, after + bytes(8)


class Tags:
    """Makes tags of one version and byte order ("<" or ">")."""

    def __init__(self, version: int, order: Literal["<", ">"]) -> None:
        self.order, self._wide, self._sized = order, ">I" if version == 3 else ">Q", version == 4

    def image(self, shape: tuple[int, ...], item: np.dtype, axes: Sequence[tuple[float, str]], *, data_type: int | None = None,
              meta: Sequence[Parts] = (), hole: bool = False) -> Parts:
        """An entry of ``ImageList``; with a hole for its pixels, or pixels that count up."""
        kind, infos = TYPES[item.str[1:]]
        n = prod(shape)
        pixels = np.arange(n).astype(item.newbyteorder(self.order)).tobytes() if not hole else n * item.itemsize
        calibrations = [self.group("", [self.number("Origin", 6, 0.0), self.number("Scale", 6, scale), self.text("Units", unit)])
                        for scale, unit in reversed(axes)]
        return self.group("", [
            self.group("ImageData", [
                self.group("Calibrations", [self.group("Dimension", calibrations)]),
                self._data("Data", (20, *infos, n), pixels),
                self.number("DataType", 5, kind if data_type is None else data_type),
                self.group("Dimensions", [self.number("", 5, size) for size in reversed(shape)]),
                self.number("PixelDepth", 5, item.itemsize),
            ]),
            self.group("ImageTags", [self.group("Meta Data", list(meta))]),
        ])

    def number(self, name: str, info: int, value: Any) -> Parts:
        """A single value."""
        return self._data(name, (info,), struct.pack(self.order + NUMBERS[info], value))

    def text(self, name: str, text: str) -> Parts:
        """Text: an array of 16-bit characters."""
        raw = text.encode("utf-16-le" if self.order == "<" else "utf-16-be")
        return self._data(name, (20, 4, len(raw) // 2), raw)

    def group(self, name: str, entries: Sequence[Parts]) -> Parts:
        """A group as an entry."""
        return self._entry(20, name, self.body(entries))

    def body(self, entries: Sequence[Parts]) -> Parts:
        """A group by itself."""
        return [b"\1\0" + struct.pack(self._wide, len(entries)), *chain.from_iterable(entries)]

    def _data(self, name: str, infos: Sequence[int], value: bytes | int) -> Parts:
        head = b"%%%%" + b"".join(struct.pack(self._wide, n) for n in (len(infos), *infos))
        return self._entry(21, name, [head, value])

    def _entry(self, kind: int, name: str, body: Parts) -> Parts:
        size = sum(part if isinstance(part, int) else len(part) for part in body)
        return [struct.pack(">BH", kind, len(name)) + name.encode("latin-1") + (struct.pack(">Q", size) if self._sized else b""), *body]
