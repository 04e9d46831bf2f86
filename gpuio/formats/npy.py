"""NumPy files: one array of any shape, in C or Fortran order.

======  ====  ============  ===================================================================================
offset  size  type          meaning
======  ====  ============  ===================================================================================
0       6     bytes         ``93 4E 55 4D 50 59``
6       1     u8            major version: 1, 2 or 3
7       1     u8            minor version: 0
8       2     u16 LE        length of the header text in version 1 (then the text begins at byte 10)
8       4     u32 LE        length of the header text in versions 2 and 3 (then the text begins at byte 12)
10, 12        text          a dict literal, latin-1 (versions 1, 2) or UTF-8 (3), filled up with spaces, ending in LF
then          items         the array; usually at a multiple of 64, older files 16, others anywhere
======  ====  ============  ===================================================================================

The dict has exactly three keys: `descr` (dtype as text; a list for records), `fortran_order` (True or False) and `shape`
(a tuple; files written by Python 2 may have ``2L``). Source: the NumPy reference, module ``numpy.lib.format``.

The text is read by a parser that knows nothing but strings, numbers, True, False, None, tuples, lists and dicts of strings; the file
is never evaluated or unpickled, and nothing is allocated that its length fields ask for.

An array in Fortran order has its navigation fastest: frames lie scattered, and `Layout.strided` says how.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuio.dataset import DataSet, MessageConverter, message_schema
from gpuio.errors import FormatError, ShapeError, TruncatedFile, UnsupportedFeature
from gpuio.fileset import File, FileSet
from gpuio.formats._arguments import integer, nav_or_sig_shape, sync
from gpuio.layout import Encoding, Layout, Strided, plain_pieces
from gpuio.source import Source

MAGIC = b"\x93NUMPY"
#: NumPy, too, takes longer header texts for an attack.
MAX_HEADER = 10_000
KEYS = ("descr", "fortran_order", "shape")
#: NumPy arrays have no more.
MAX_AXES = 64
#: The text of a dtype: byte order, kind, item size, for dates also a unit.
DESCR = re.compile(r"[<>=|]?([biufcSUVMm][0-9]{1,9}|O[0-9]?)(\[.*\])?")
#: End of a zip archive that is searched for the names it holds.
DIRECTORY_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a NumPy file says."""

    version: tuple[int, int]
    dtype: np.dtype             #: on disk, byte order included
    fortran_order: bool
    shape: tuple[int, ...]
    data_offset: int            #: bytes before the array


def sniff(head: bytes, path: str) -> bool:
    """Whether a file beginning with `head` is a NumPy file."""
    return head.startswith(MAGIC)


def parse(source: Source, path: str, *, sig_dims: int | None = 2, nav_shape: Sequence[int] | None = None,
          sig_shape: Sequence[int] | None = None, allow_truncated: bool = False) -> Layout:
    """Where the frames of a NumPy file are.

    Parameters
    ----------
    sig_dims
        How many of the last axes are the detector's. None: as many as `sig_shape` has.
    nav_shape, sig_shape
        Other shapes for the same items, taken in C order from the start; items left over are not used.
    allow_truncated
        Of a file that is shorter than its header says, take the whole frames that are there.

    Raises
    ------
    OSError
        The file is missing or may not be read.
    FormatError
        It is no NumPy file, or its header is damaged; `TruncatedFile` if it is too short.
    UnsupportedFeature
        The array does not hold numbers that can be decoded. Arrays of Python objects are never unpickled.
    ShapeError
        Shapes do not fit the array or each other.
    """
    header = read_header(source, path)
    sig = _sig_shape(header, path, sig_dims, sig_shape)
    nav = _nav_shape(header.shape, sig)
    items, frame_items, itemsize = math.prod(header.shape), math.prod(sig), header.dtype.itemsize
    asked = frame_items * math.prod(nav_shape or (1,))
    if asked > items:
        raise ShapeError(f"{path}: nav_shape {tuple(nav_shape or (1,))} and sig_shape {sig} need {asked} items; "
                         f"the array of shape {header.shape} has {items}")
    scattered = header.fortran_order and sum(n > 1 for n in header.shape) > 1
    if scattered and sig != _last_axes(header.shape, len(sig)):
        raise ShapeError(f"{path}: sig_shape {sig} cannot replace {_last_axes(header.shape, len(sig))} in an array in Fortran order")

    notes = []
    frame_bytes = frame_items * itemsize
    count = items // frame_items
    there = source.size(path) - header.data_offset
    if there < items * itemsize:
        count = _whole_frames(path, header, there, items * itemsize, frame_bytes, count, scattered, allow_truncated)
        notes.append(f"the file is truncated: {there} of {items * itemsize} bytes of pixels are there; {count} whole frames are used")
    elif there > items * itemsize:
        notes.append(f"{there - items * itemsize} bytes follow the array and are not used")
    if items % frame_items:
        notes.append(f"{items % frame_items} items after the last whole frame of shape {sig} are not used")

    strided = None
    parts: tuple[FileSet, ...] = ()
    if scattered:
        axis_steps = tuple(math.prod(header.shape[:i]) * itemsize for i in range(len(header.shape)))
        n_nav = len(header.shape) - len(sig)
        # An array that is a single frame has a nav axis of 1.
        strided = Strided(path, header.data_offset, header.dtype, header.shape[:n_nav] or (1,), axis_steps[:n_nav] or (itemsize,),
                          axis_steps[n_nav:])
        notes.append("the array is in Fortran order: every frame is scattered over the whole file and slow to read alone")
    else:
        parts = (FileSet([File(path, 0, count, header.dtype, sig, file_header=header.data_offset, size=header.data_offset + there)]),)
    return Layout(
        format="npy", parts=parts, encoding=Encoding.of(header.dtype), pieces=plain_pieces(sig, sig[-1] * itemsize), sig_shape=sig,
        nav_shape=nav, image_count=count, strided=strided, notes=tuple(notes),
        metadata={"dtype_on_disk": header.dtype.str, "shape": header.shape, "fortran_order": header.fortran_order,
                  "npy_version": "{}.{}".format(*header.version), "data_offset_bytes": header.data_offset},
    )


def _sig_shape(header: Header, path: str, sig_dims: int | None, sig_shape: Sequence[int] | None) -> tuple[int, ...]:
    """Detector axes, from the user's shape or the last axes of the array."""
    dims = len(sig_shape or ()) if sig_dims is None else integer(sig_dims)
    if dims is None or dims < 1:
        raise ShapeError(f"{path}: sig_dims is {sig_dims!r} and sig_shape {sig_shape!r}; expected sig_dims to be a positive integer, "
                         "or None with a sig_shape to count")
    if sig_shape is not None:
        if len(sig_shape) != dims:
            raise ShapeError(f"{path}: sig_shape {tuple(sig_shape)} has {len(sig_shape)} axes, but sig_dims is {dims}; "
                             "pass sig_dims=None to count the axes of sig_shape")
        return tuple(sig_shape)
    if len(header.shape) < dims:
        raise ShapeError(f"{path}: the array of shape {header.shape} has {len(header.shape)} axes; expected at least sig_dims={dims}")
    return _last_axes(header.shape, dims)


def _last_axes(shape: tuple[int, ...], dims: int) -> tuple[int, ...]:
    return shape[max(0, len(shape) - dims):]


def _nav_shape(shape: tuple[int, ...], sig: tuple[int, ...]) -> tuple[int, ...] | None:
    """Axes before those that hold exactly the pixels of a frame; (1,) if there are none, None if frames end inside an axis."""
    pixels = math.prod(sig)
    fits = [i for i in range(len(shape) + 1) if math.prod(shape[i:]) == pixels]
    if not fits:
        return None
    # Axes of length 1 leave a choice: the one with as many detector axes as asked for.
    cut = min(fits, key=lambda i: abs(len(shape) - i - len(sig)))
    return shape[:cut] or (1,)


def _whole_frames(path: str, header: Header, there: int, needed: int, frame_bytes: int, count: int, scattered: bool, allow: bool) -> int:
    """Frames to use of a truncated file, or the error that it is."""
    found = f"{path}: holds {max(0, there)} bytes of pixels; expected {needed} for shape {header.shape} and dtype {header.dtype.str}"
    if scattered:
        raise TruncatedFile(f"{found}; no frame is whole, as the array is in Fortran order")
    whole = min(count, max(0, there) // frame_bytes)
    if not whole:
        raise TruncatedFile(f"{found}; not one frame of {frame_bytes} bytes is whole")
    if not allow:
        raise TruncatedFile(f"{found}; {whole} of {count} frames are whole, pass allow_truncated=True to load them")
    return whole


# -- header -----------------------------------------------------------------------------------------------------------


def read_header(source: Source, path: str) -> Header:
    """Read the header of a NumPy file; errors as `parse`."""
    start = source.read(path, 0, 12)
    if not start.startswith(MAGIC):
        raise FormatError(f"{path}: {_not_npy(source, path, start)}")
    if len(start) < 10 or (start[6] > 1 and len(start) < 12):
        raise TruncatedFile(f"{path}: holds {len(start)} bytes, which end inside the header")
    version = (start[6], start[7])
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise FormatError(f"{path}: NPY version {version[0]}.{version[1]}; expected 1.0, 2.0 or 3.0")
    text_at = 10 if version == (1, 0) else 12
    length = int.from_bytes(start[8:text_at], "little")
    if length > MAX_HEADER:
        raise FormatError(f"{path}: the header text is said to have {length} bytes; expected at most {MAX_HEADER}")
    raw = source.read(path, text_at, length)
    if len(raw) < length:
        raise TruncatedFile(f"{path}: ends after {len(raw)} of {length} bytes of header text")
    try:
        fields = _literal(raw.decode("utf-8" if version == (3, 0) else "latin-1"))
    except ValueError as error:         # UnicodeDecodeError is one
        raise FormatError(f"{path}: the header text is damaged: {error}") from None
    if not isinstance(fields, dict) or set(fields) != set(KEYS):
        found = sorted(fields) if isinstance(fields, dict) else type(fields).__name__
        raise FormatError(f"{path}: the header holds {found}; expected a dict with the keys {', '.join(KEYS)}")
    if not isinstance(fields["fortran_order"], bool):
        raise FormatError(f"{path}: fortran_order is {fields['fortran_order']!r}; expected True or False")
    shape = fields["shape"]
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in shape):
        raise FormatError(f"{path}: shape is {shape!r}; expected a tuple of non-negative integers")
    if len(shape) > MAX_AXES:
        raise FormatError(f"{path}: shape has {len(shape)} axes; expected at most {MAX_AXES}")
    if 0 in shape:
        raise FormatError(f"{path}: the array of shape {shape} is empty")
    return Header(version, _dtype(fields["descr"], path), fields["fortran_order"], shape, text_at + length)


def _dtype(descr: Any, path: str) -> np.dtype:
    """The dtype that `descr` names, if its numbers can be decoded."""
    if isinstance(descr, list):
        raise UnsupportedFeature(f"{path}: the array holds records {descr!r:.200}; expected numbers. Save one field, or a view as numbers")
    try:
        dtype = np.dtype(descr) if isinstance(descr, str) and DESCR.fullmatch(descr) else None
    except (TypeError, ValueError):     # such as "<f3"
        dtype = None
    if dtype is None:
        raise FormatError(f"{path}: descr is {descr!r:.200}; expected a dtype as text, such as '<u2'")
    if dtype.hasobject:
        raise UnsupportedFeature(f"{path}: the array holds Python objects (a pickle), which are not loaded for safety; expected numbers")
    try:
        Encoding.of(dtype)
    except UnsupportedFeature as error:
        raise UnsupportedFeature(f"{path}: {error}") from None
    return dtype


def _not_npy(source: Source, path: str, start: bytes) -> str:
    """What a file without the magic is instead."""
    if start.startswith(b"PK\x03\x04"):
        held = _archive_members(source, path)
        return (f"is a zip archive, probably .npz{held}; expected one array. "
                "Save the one you want: numpy.save('array.npy', numpy.load('archive.npz')['name'])")
    if start.startswith(b"\x1f\x8b"):
        return "is compressed with gzip; decompress it first"
    if start.startswith(b"\x80") and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "is a Python pickle, which is not loaded for safety; expected a NumPy file"
    if not start:
        return "is empty; expected a NumPy file"
    return f"is no NumPy file: begins with {start[:6].hex(' ')}; expected {MAGIC.hex(' ')}"


def _archive_members(source: Source, path: str) -> str:
    """Names of the arrays in an archive as a clause, from the directory that ends it; nothing if that is not found."""
    size = source.size(path)
    tail = source.read(path, max(0, size - DIRECTORY_BYTES), DIRECTORY_BYTES)
    names = []
    for entry in re.finditer(rb"PK\x01\x02", tail):
        fixed = tail[entry.start():entry.start() + 46]      # length of the name at 28, the name after 46 bytes
        name = tail[entry.start() + 46:entry.start() + 46 + int.from_bytes(fixed[28:30], "little")]
        names.append(repr(name.decode("utf-8", "replace").removesuffix(".npy")))
    return f" with {len(names)} arrays ({', '.join(names[:8])}{', ...' if len(names) > 8 else ''})" if names else ""


# -- literals ---------------------------------------------------------------------------------------------------------

#: Strings without escapes, integers of up to 20 digits (NumPy's are below 2**63), constants, punctuation.
_TOKEN = re.compile(r"""\s*(?:(?P<string>'[^'\\\n]*'|"[^"\\\n]*")|(?P<number>-?[0-9]{1,20}(?![0-9.eEjxX_]))L?"""
                    r"""|(?P<name>True|False|None)\b|(?P<mark>[][(){}:,])|(?P<end>\Z))""")
_CONSTANTS = {"True": True, "False": False, "None": None}
_MAX_DEPTH = 32


def _literal(text: str) -> Any:
    """The value of a Python literal made of strings, integers, constants, tuples, lists and dicts.

    Raises
    ------
    ValueError
        It is anything else.
    """
    tokens = _tokens(text)
    value, at = _value(tokens, 0, 0)
    if tokens[at] != ("end", ""):
        raise ValueError(f"{tokens[at][1]!r:.50} after the end of the dict")
    return value


def _tokens(text: str) -> list[tuple[str, str]]:
    """Pairs of kind and text; the last is ``("end", "")``."""
    tokens: list[tuple[str, str]] = []
    at = 0
    while not tokens or tokens[-1][0] != "end":
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"{text[at:].strip()[:50]!r} is no string, integer, constant or bracket")
        kind = str(match.lastgroup)
        tokens.append((kind, match.group(kind)))
        at = match.end()
    return tokens


def _value(tokens: list[tuple[str, str]], at: int, depth: int) -> tuple[Any, int]:
    """The value that begins at token `at`, and the token after it."""
    kind, text = tokens[at]
    if kind == "string":
        return text[1:-1], at + 1
    if kind == "number":
        return int(text), at + 1
    if kind == "name":
        return _CONSTANTS[text], at + 1
    if text not in ("(", "[", "{") or depth == _MAX_DEPTH:
        raise ValueError(f"{text or 'end of text'!r} where a value is expected")
    close = {"(": ")", "[": "]", "{": "}"}[text]
    entries: list[Any] = []
    at, comma = at + 1, True
    while tokens[at][1] != close or tokens[at][0] != "mark":
        if not comma:
            raise ValueError(f"{tokens[at][1] or 'end of text'!r} where a comma or {close!r} is expected")
        entry, at = _value(tokens, at, depth + 1)
        if close == "}":
            if not isinstance(entry, str) or tokens[at] != ("mark", ":"):
                raise ValueError(f"{entry!r:.50} is no key followed by a colon")
            if entry in dict(entries):
                raise ValueError(f"key {entry!r:.50} is there twice")
            item, at = _value(tokens, at + 1, depth + 1)
            entry = (entry, item)
        entries.append(entry)
        comma = tokens[at] == ("mark", ",")
        at += comma
    if close == "}":
        return dict(entries), at + 1
    if close == "]":
        return entries, at + 1
    # Parentheses around one value without a comma are no tuple.
    return (entries[0] if len(entries) == 1 and not comma else tuple(entries)), at + 1


class NPYDataSet(DataSet):
    """An array in a NumPy ``.npy`` file, in C or Fortran order.

    Parameters
    ----------
    path : str or path
        The file.
    sig_dims : int, optional
        How many of the last axes are the detector's. None: as many as `sig_shape` has.
    nav_shape, sig_shape : tuple of int, optional
        Other shapes for the same items, taken in C order from the start of the file; for a subset, or the same items in
        another shape. Default: the shape that the file states. `sig_shape` cannot be changed in Fortran order.
    sync_offset : int
        Positive: frames to skip at the start. Negative: blank frames to insert there.
    io_backend
        How to read; None lets gpuio choose.
    allow_truncated : bool
        Of a file that is shorter than its header says, load the whole frames that are there; the others are blank.

    Raises
    ------
    ShapeError
        A shape is not made of positive integers; on `initialize`: shapes do not fit the array, or `sig_dims` is no positive
        integer and there is no `sig_shape` to count.
    """

    format = "npy"

    def __init__(self, path: Any, sig_dims: int | None = 2, nav_shape: tuple[int, ...] | None = None,
                 sig_shape: tuple[int, ...] | None = None, sync_offset: int = 0, io_backend: Any = None, *,
                 allow_truncated: bool = False) -> None:
        super().__init__(io_backend=io_backend)
        self._path = os.fsdecode(path)
        self._sig_dims = sig_dims
        self._nav_shape = nav_or_sig_shape(nav_shape, "nav_shape")
        self._sig_shape = nav_or_sig_shape(sig_shape, "sig_shape")
        self._sync_offset = sync(sync_offset)
        self._allow_truncated = allow_truncated

    def _parse(self, source: Source) -> Layout:
        return parse(source, self._path, sig_dims=self._sig_dims, nav_shape=self._nav_shape, sig_shape=self._sig_shape,
                     allow_truncated=self._allow_truncated)

    @classmethod
    def sniff(cls, head: bytes, path: str) -> bool:
        """Whether a file beginning with `head` is a NumPy file."""
        return sniff(head, path)

    @classmethod
    def get_supported_extensions(cls) -> set[str]:
        """Extensions in lower case, without dot."""
        return {"npy"}

    @classmethod
    def get_msg_converter(cls) -> type[MessageConverter]:
        """Of messages of type ``NPY``."""
        return _NpyMessages


class _NpyMessages(MessageConverter):
    """Messages of type ``NPY``."""

    SCHEMA = message_schema("NPY", {"sig_dims": {"type": "integer", "minimum": 1}})
