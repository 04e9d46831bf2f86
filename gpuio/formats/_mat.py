"""Arrays of numbers in MATLAB's ``.mat`` files, levels 4 to 7.2.

Level 5 (to 7.2), in the byte order that bytes 126 and 127 tell (``IM`` little, ``MI`` big):

=============  ==========  ==========================================================================================
byte           type        meaning
=============  ==========  ==========================================================================================
0              char 116    text, never with a NUL among its first four bytes
124            u16         version: 0x0100; 0x0200 is level 7.3, an HDF5 file
128            elements    one after another
=============  ==========  ==========================================================================================

An element is ``u32 type, u32 bytes`` and its data, filled up to a multiple of 8 bytes (type 15 is not); or, where the upper half of the
first number is not 0, ``u16 type, u16 bytes`` and up to 4 bytes of data. Type 15 is an element packed with zlib, type 14 an array, which
consists of elements: flags (u32 with class and flags, u32), dimensions (i32), name, real part, imaginary part. Numbers may be stored
in a narrower type than that of their class. Arrays are in Fortran order.

Level 4: arrays one after another, each ``i32`` MOPT, rows, columns, is complex, bytes of the name with its NUL; name; real part; imaginary
part. The decimal digits of MOPT are byte order (0 little, 1 big), 0, number type (f64, f32, i32, i16, u16, u8) and kind (0: numbers).

Source: "MAT-File Format", The MathWorks.

Why not SciPy: its reader is written for files that are whole, and crashes the process on some damaged ones (1.17.1, seen in tests).
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gpuio.errors import FormatError, TruncatedFile, UnsupportedFeature
from gpuio.source import MAX_READ

LEVEL_4_TYPES = ("f8", "f4", "i4", "i2", "u2", "u1")
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
MATRIX, COMPRESSED = 14, 15
IS_COMPLEX = 0x800
#: Flags, dimensions and name of any array.
HEAD_BYTES = 4096
MAX_AXES = 32
LISTED = 10


class _Element(NamedTuple):
    """Type of an element, and where its data and the next element are."""

    kind: int
    start: int
    stop: int
    after: int


def read_array(raw: bytes, path: str, name: str) -> np.ndarray:
    """An array of numbers out of a ``.mat`` file.

    Parameters
    ----------
    raw
        The whole file.
    path
        For messages.
    name
        Of the variable.

    Returns
    -------
    real array in native byte order, of the class that MATLAB has it in

    Raises
    ------
    FormatError, TruncatedFile
        The file is damaged or of another kind, or has no such variable.
    UnsupportedFeature
        The variable is not an array of real numbers, or the file is one of level 7.3.
    """
    if len(raw) >= 4 and 0 in raw[:4]:
        return _level_4(raw, path, name)
    if len(raw) < 128:
        raise FormatError(f"{path}: not a MATLAB file: {len(raw)} bytes; expected a header of 128")
    if raw[124:128] in (b"\x00\x02IM", b"\x02\x00MI") or raw[512:516] == b"\x89HDF":
        raise UnsupportedFeature(f"{path}: a MATLAB file of level 7.3 (HDF5); expected at most 7.2: save it with -v7")
    order = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}.get(raw[124:128])
    if order is None:
        raise FormatError(f"{path}: not a MATLAB file: version and byte order are {raw[124:128]!r}; expected b'\\x00\\x01IM'")
    found = []
    for element in _elements(raw, 128, path, order):
        body = raw[element.start:element.stop]
        if element.kind == COMPRESSED:
            head = _unpacked(body, HEAD_BYTES, path)
            element = _element(head, 0, path, order, whole=False)
            if element.kind == MATRIX and _name(head[8:], path, order) == name:
                head = _unpacked(body, element.stop, path, whole=True)
            body = head[8:]
        if element.kind == MATRIX:
            found.append(_name(body, path, order))
            if found[-1] == name:
                return _matrix(body, path, name, order)
    raise _missing(path, name, found)


def _missing(path: str, name: str, found: list[str]) -> FormatError:
    others = ", ".join(repr(other[:63]) for other in found[:LISTED]) or "no variables"
    return FormatError(f"{path}: has no variable {name}; found {others}")


# -- level 5 ---------------------------------------------------------------------------------------------------------


def _elements(data: bytes, at: int, path: str, order: str) -> Iterator[_Element]:
    """The elements one after another."""
    while at < len(data):
        element = _element(data, at, path, order)
        yield element
        at = element.after


def _element(data: bytes, at: int, path: str, order: str, *, whole: bool = True) -> _Element:
    """The element at a byte; with `whole` all of its data have to be there."""
    if at + 8 > len(data):
        raise TruncatedFile(f"{path}: ends inside an element of the MATLAB file")
    kind, size = struct.unpack_from(order + "II", data, at)
    start = at + 8
    if kind >> 16:
        kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
        if size > 4:
            raise FormatError(f"{path}: a damaged MATLAB file: a short element of {size} bytes; expected at most 4")
    stop = start + size
    if whole and stop > len(data):
        raise TruncatedFile(f"{path}: ends inside an element of the MATLAB file: {len(data) - start} of {size} bytes are there")
    return _Element(kind, start, stop, stop if kind == COMPRESSED else stop + -stop % 8 if start == at + 8 else at + 8)


def _unpacked(body: bytes, size: int, path: str, *, whole: bool = False) -> bytes:
    """The first `size` bytes of packed data, fewer if there are no more; with `whole`, all there is, and the checksum agrees."""
    if size > MAX_READ:
        raise FormatError(f"{path}: an array of {size} bytes; expected at most {MAX_READ}")
    unpack = zlib.decompressobj()
    try:
        found = unpack.decompress(body, size)
        further = unpack.decompress(unpack.unconsumed_tail, 1) if whole and not unpack.eof else b""
    except zlib.error as error:
        raise FormatError(f"{path}: a damaged MATLAB file: {error}") from None
    if whole and (further or not unpack.eof or len(found) < size):
        raise FormatError(f"{path}: a damaged MATLAB file: packed data of another length than {size} bytes")
    return found


def _parts(body: bytes, path: str, order: str) -> tuple[_Element, _Element, _Element]:
    """Flags, dimensions and name of an array."""
    flags = _element(body, 0, path, order)
    dimensions = _element(body, flags.after, path, order)
    return flags, dimensions, _element(body, dimensions.after, path, order)


def _name(body: bytes, path: str, order: str) -> str:
    name = _parts(body, path, order)[2]
    return body[name.start:name.stop].decode("latin-1")


def _matrix(body: bytes, path: str, name: str, order: str) -> np.ndarray:
    """The numbers of an array."""
    flags, dimensions, last = _parts(body, path, order)
    if STORED.get(flags.kind) != "u4" or flags.stop - flags.start != 8 or STORED.get(dimensions.kind) != "i4":
        raise FormatError(f"{path}: a damaged MATLAB file: the description of {name} is not that of an array")
    (word,) = struct.unpack_from(order + "I", body, flags.start)
    if word & 0xFF not in CLASSES or word & IS_COMPLEX:
        raise UnsupportedFeature(f"{path}: {name} is {'complex' if word & IS_COMPLEX else f'of class {word & 0xFF}'}; "
                                 "expected an array of real numbers")
    shape = tuple(np.frombuffer(body[dimensions.start:dimensions.stop - (dimensions.stop - dimensions.start) % 4], order + "i4").tolist())
    real = _element(body, last.after, path, order)
    if real.kind not in STORED:
        raise FormatError(f"{path}: a damaged MATLAB file: {name} is stored as type {real.kind}; expected numbers")
    return _array(body[real.start:real.stop], order + STORED[real.kind], shape, path, name).astype(CLASSES[word & 0xFF])


def _array(data: bytes, dtype: str, shape: tuple[int, ...], path: str, name: str) -> np.ndarray:
    """Numbers in Fortran order, as many as the shape has."""
    needed = math.prod(shape) * np.dtype(dtype).itemsize
    if not 0 < len(shape) <= MAX_AXES or min(shape) < 0 or len(data) != needed:
        raise FormatError(f"{path}: a damaged MATLAB file: {name} has shape {shape[:MAX_AXES]} and {len(data)} bytes of numbers; "
                          f"expected {needed} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F")


# -- level 4 ---------------------------------------------------------------------------------------------------------


def _level_4(raw: bytes, path: str, name: str) -> np.ndarray:
    found = []
    at = 0
    while at < len(raw):
        if at + 20 > len(raw):
            raise TruncatedFile(f"{path}: ends inside the header of an array of the MATLAB file")
        order = "<" if struct.unpack_from("<I", raw, at)[0] < 10_000 else ">"
        mopt, rows, columns, is_complex, name_bytes = struct.unpack_from(order + "5i", raw, at)
        big, _, number, kind = (mopt // power % 10 for power in (1000, 100, 10, 1))
        is_header = 0 <= mopt < 2000 and (big == 1) == (order == ">") and mopt // 100 % 10 == 0 and number < len(LEVEL_4_TYPES)
        if not is_header or rows < 0 or columns < 0 or not 0 < name_bytes <= HEAD_BYTES:
            raise FormatError(f"{path}: not a MATLAB file: byte {at} is not the header of an array")
        start = at + 20 + name_bytes
        dtype = np.dtype(order + LEVEL_4_TYPES[number])
        stop = start + rows * columns * dtype.itemsize
        at = stop + (stop - start if is_complex else 0)
        if at > len(raw):
            raise TruncatedFile(f"{path}: holds {len(raw)} bytes; an array of its own needs {at}")
        found.append(raw[start - name_bytes:start].split(b"\0", 1)[0].decode("latin-1"))
        if found[-1] == name:
            if kind or is_complex:
                raise UnsupportedFeature(f"{path}: {name} is {'complex' if is_complex else 'text or sparse'}; "
                                         "expected an array of real numbers")
            return _array(raw[start:stop], dtype.str, (rows, columns), path, name).astype(dtype.newbyteorder("="))
    raise _missing(path, name, found)
