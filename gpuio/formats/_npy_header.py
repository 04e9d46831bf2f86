"""The header of NumPy files.

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
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuio.errors import FormatError, TruncatedFile, UnsupportedFeature
from gpuio.layout import Encoding
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


def read_header(source: Source, path: str) -> Header:
    """Read the header of a NumPy file; errors as `gpuio.formats.npy.parse`."""
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
