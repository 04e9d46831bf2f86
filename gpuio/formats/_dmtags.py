"""Tags of Gatan DigitalMicrograph files, version 3 and 4: a tree of groups and values. Arrays are found, not read.

All fields of the structure are big-endian; values follow the endian flag. W is 4 bytes in version 3 and 8 in version 4.

============  ==========================================================================================================
structure     bytes in order
============  ==========================================================================================================
file          u32 version (3 or 4), W size of the rest, u32 endian flag (1: values are little-endian), root group, 8 zero bytes
group         u8 sorted, u8 open, W number of entries, entries
entry         u8 kind (20 group, 21 data), u16 length of the name, name (one byte a character), body
group entry   version 4: u64 size of what follows; a group
data entry    version 4: u64 size of what follows; ``%%%%``, W number of infos, W each info, value
============  ==========================================================================================================

================================  ==================================================================================
infos                             value
================================  ==================================================================================
2 3 4 5, 11 12                    i16 i32 u16 u32, i64 u64
6 7, 8, 9 10                      f32 f64, bool, i8 u8
15, 0, n, (0, type) x n           struct: n fields
18, n                             string; whether n counts bytes is not known, version 4 tells by the entry's size
20, type, n                       array of n numbers; text is an array of type 4
20, 15, 0, m, (0, type) x m, n    array of n structs
================================  ==================================================================================

Entries without a name are numbered by their position in the group, from 0. The size field of the file is off by 16 to 24
bytes in recorded files, and wraps in version 3: it is not looked at. The sizes of entries of version 4 are exact.

Sources: public files in the test data of RosettaSciIO and openNCEM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from gpuio.errors import FormatError, UnsupportedFeature
from gpuio.source import Source

VERSIONS = (3, 4)
GROUP, DATA = 20, 21
STRUCT, STRING, ARRAY = 15, 18, 20
#: Types of numbers: as NumPy names them, without byte order.
NUMBERS = {2: "i2", 3: "i4", 4: "u2", 5: "u4", 6: "f4", 7: "f8", 8: "?", 9: "i1", 10: "u1", 11: "i8", 12: "u8"}

#: The deepest recorded files have 12 levels, the largest some 10,000 tags.
MAX_DEPTH = 64
MAX_TAGS = 1 << 20
MAX_FIELDS = 1 << 12
#: Arrays up to this size are read along; longer ones are pixels.
INLINE_BYTES = 1 << 16
#: Names and arrays that are kept take up at most this much.
MAX_KEPT_BYTES = 64 << 20
#: Read at a time.
WINDOW_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Array:
    """An array in a tag file.

    Attributes
    ----------
    dtype
        Of an item, with the byte order of the file; structs have fields ``f0``, ``f1`` ...
    count
        Items.
    offset
        Byte of the first item in the file.
    raw
        The items' bytes; empty where there are too many to be read along.
    """

    dtype: np.dtype
    count: int
    offset: int
    raw: bytes = b""

    @property
    def n_bytes(self) -> int:
        """Bytes of all items."""
        return self.count * self.dtype.itemsize

    @property
    def text(self) -> str | None:
        """An array of 16-bit characters as text, up to the first NUL; None if it is none that was read."""
        if self.dtype.kind != "u" or self.dtype.itemsize != 2 or len(self.raw) != self.n_bytes:
            return None
        little = self.dtype.newbyteorder("<") == self.dtype
        return self.raw.decode("utf-16-le" if little else "utf-16-be", "replace").partition("\0")[0]


#: Names from the root to a value.
TagPath: TypeAlias = tuple[str, ...]
#: Fields of a struct are a tuple.
Value: TypeAlias = bool | int | float | str | tuple[bool | int | float, ...] | Array


class Tags(NamedTuple):
    """A tag file.

    Attributes
    ----------
    version
        3 or 4.
    little_endian
        Byte order of values.
    values
        By path, in the order of the file. Of two values with the same path the first is kept.
    """

    version: int
    little_endian: bool
    values: dict[TagPath, Value]

    def below(self, *prefix: str) -> dict[TagPath, Value]:
        """Values in a group, by their paths within it."""
        n = len(prefix)
        return {path[n:]: value for path, value in self.values.items() if path[:n] == prefix and len(path) > n}


def is_tag_file(head: bytes) -> bool:
    """Whether a file that begins with `head` (at least 26 bytes) looks like a tag file of version 3 or 4."""
    version = int.from_bytes(head[:4], "big")
    if version not in VERSIONS:
        return False
    width = 4 * (version - 2)
    at = 4 + width
    flag, (is_sorted, is_open) = head[at:at + 4], (head[at + 4:at + 6] + b"\xff\xff")[:2]
    return flag in (b"\0\0\0\0", b"\0\0\0\1") and is_sorted <= 1 and is_open <= 1


def read_tags(source: Source, path: str, wanted: Callable[[TagPath], bool] | None = None) -> Tags:
    """Read the tags of a file; arrays longer than `INLINE_BYTES` are skipped.

    Parameters
    ----------
    wanted
        Whether to read the group of this path; None: all. Only version 4 tells where a group ends without reading it, so that
        groups of version 3 are read in any case.

    Raises
    ------
    FormatError
        It is no tag file of version 3 or 4, or a damaged one; the message names byte and tag.
    UnsupportedFeature
        A type of value that nobody has described.
    OSError
        The file is missing or may not be read.
    """
    walker = _Walker(source, path, wanted)
    version = walker.unsigned(4, "version")
    if version not in VERSIONS:
        raise FormatError(f"{path}: not a DigitalMicrograph 3 or 4 file: its version is {version}; expected 3 or 4")
    walker.width = 4 * (version - 2)
    walker.unsigned(walker.width, "size")
    flag = walker.unsigned(4, "endian flag")
    if flag > 1:
        raise FormatError(f"{path}: endian flag {flag}; expected 0 or 1")
    walker.order = "<" if flag else ">"
    values: dict[TagPath, Value] = {}
    for name, value in walker.walk():
        values.setdefault(name, value)
    return Tags(version, bool(flag), values)


@dataclass(slots=True)
class _Group:
    """A group that is being read: entries that are left, the number of the next one, and where it has to end (version 4)."""

    name: str
    left: int
    index: int = 0
    end: int | None = None


class _Walker:
    """Reads a file from front to back through a window."""

    def __init__(self, source: Source, path: str, wanted: Callable[[TagPath], bool] | None) -> None:
        self._source, self._path, self._size, self._wanted = source, path, source.size(path), wanted
        self._at, self._window, self._window_at = 0, b"", 0
        self._room = MAX_KEPT_BYTES
        self._groups: list[_Group] = []
        self._name = ""
        self.width, self.order = 4, "<"

    def walk(self) -> Iterator[tuple[TagPath, Value]]:
        """All values. A stack takes the place of recursion, so that no file can exhaust Python's."""
        self._groups = [_Group("", self._group_header())]
        n_tags = 0
        while self._groups:
            group = self._groups[-1]
            if group.left == 0:
                if group.end is not None and group.end != self._at:
                    raise self._corrupt(f"the group ends here; expected its end at byte {group.end}")
                self._groups.pop()
                continue
            n_tags += 1
            if n_tags > MAX_TAGS:
                raise self._corrupt(f"more than {MAX_TAGS} tags")
            kind = self.unsigned(1, "kind of a tag")
            name = self._take(self.unsigned(2, "length of a name"), "name").decode("latin-1") or str(group.index)
            self._room -= len(name)
            if self._room < 0:
                raise self._corrupt(f"more than {MAX_KEPT_BYTES} bytes of names and short arrays")
            group.left, group.index, self._name = group.left - 1, group.index + 1, name
            if kind not in (GROUP, DATA):
                raise self._corrupt(f"a tag of kind {kind}; expected {GROUP} (group) or {DATA} (data)")
            end = None
            if self.width == 8:
                n_bytes = self.unsigned(8, "size of a tag")
                end = self._at + n_bytes
                if end > self._size:
                    raise self._corrupt(f"a tag of {n_bytes} bytes; the file has {self._size} bytes")
            if kind == GROUP:
                if end is not None and self._wanted is not None and not self._wanted((*(g.name for g in self._groups[1:]), name)):
                    self._at, self._name = end, ""
                    continue
                if len(self._groups) >= MAX_DEPTH:
                    raise self._corrupt(f"groups nested deeper than {MAX_DEPTH}")
                self._groups.append(_Group(name, self._group_header(), end=end))
                self._name = ""
                continue
            value = self._data(end)
            if end is not None and end != self._at:
                raise self._corrupt(f"the value ends here; expected its end at byte {end}")
            yield (*(g.name for g in self._groups[1:]), name), value
            self._name = ""

    def unsigned(self, n_bytes: int, what: str) -> int:
        """A number of the structure."""
        return int.from_bytes(self._take(n_bytes, what), "big")

    def _group_header(self) -> int:
        """Number of entries of the group that begins here."""
        self._take(2, "flags of a group")
        return self._number_of(3, "entries")        # no entry has fewer bytes

    def _number_of(self, least_bytes: int, what: str) -> int:
        """A number of things that follow, each of at least so many bytes; more than the file can hold is damage."""
        n = self.unsigned(self.width, f"number of {what}")
        if n * least_bytes > self._size - self._at:
            raise self._corrupt(f"{n} {what}; the file has {self._size} bytes")
        return n

    def _data(self, end: int | None) -> Value:
        """The value of the data entry that begins here."""
        marker = self._take(4, "marker of a value")
        if marker != b"%%%%":
            raise self._corrupt(f"a value begins with {marker!r}; expected b'%%%%'")
        n = self._number_of(self.width, "infos")
        if not 1 <= n <= MAX_FIELDS:
            raise self._corrupt(f"{n} infos; expected 1 to {MAX_FIELDS}")
        raw = self._take(n * self.width, "infos")
        infos = [int.from_bytes(raw[i:i + self.width], "big") for i in range(0, len(raw), self.width)]
        if infos[0] == ARRAY and n >= 3:
            return self._array(self._dtype(infos[1:-1]), infos[-1])
        if infos[0] == STRING:
            if end is None:
                raise UnsupportedFeature(f"{self._where()}: a string of type 18 in a version 3 file; its length is described by nobody")
            if end < self._at:
                raise self._corrupt(f"the value begins here; expected it before byte {end}")
            text = self._take(min(end - self._at, INLINE_BYTES), "string")
            self._at = end
            wide = len(text) == 2 * infos[-1]
            return text.decode(("utf-16-le" if self.order == "<" else "utf-16-be") if wide else "latin-1", "replace")
        dtype = self._dtype(infos)
        value: Value = np.frombuffer(self._take(dtype.itemsize, "value"), dtype)[0].item()
        return value

    def _dtype(self, infos: list[int]) -> np.dtype:
        """The dtype of a number or struct."""
        if len(infos) == 1 and infos[0] in NUMBERS:
            return np.dtype(self.order + NUMBERS[infos[0]])
        fields = infos[4::2]
        if infos[0] == STRUCT and fields and len(infos) == 3 + 2 * infos[2] and all(t in NUMBERS for t in fields):
            return np.dtype([(f"f{i}", self.order + NUMBERS[t]) for i, t in enumerate(fields)])
        raise self._corrupt(f"a value of type {infos[:8]}; expected a number, a struct, a string or an array")

    def _array(self, dtype: np.dtype, count: int) -> Array:
        n_bytes = count * dtype.itemsize
        if n_bytes > self._size - self._at:
            raise self._corrupt(f"an array of {n_bytes} bytes; the file has {self._size} bytes")
        offset = self._at
        if n_bytes <= min(INLINE_BYTES, self._room):
            self._room -= n_bytes
            return Array(dtype, count, offset, self._take(n_bytes, "array"))
        self._at = offset + n_bytes
        return Array(dtype, count, offset)

    def _take(self, n_bytes: int, what: str) -> bytes:
        """The next bytes."""
        at = self._at
        if at + n_bytes > self._size:
            raise self._corrupt(f"the file ends inside the {what}: it has {self._size} bytes")
        first = at - self._window_at
        if first < 0 or first + n_bytes > len(self._window):
            self._window, self._window_at, first = self._source.read(self._path, at, max(n_bytes, WINDOW_BYTES)), at, 0
            if len(self._window) < n_bytes:
                raise self._corrupt(f"the file ends inside the {what}")
        self._at = at + n_bytes
        return self._window[first:first + n_bytes]

    def _where(self) -> str:
        names = [g.name for g in self._groups[1:]] + [self._name] * bool(self._name)
        return f"{self._path}, byte {self._at}" + (f", tag {'/'.join(names)[:200]!r}" if names else "")

    def _corrupt(self, what: str) -> FormatError:
        return FormatError(f"{self._where()}: damaged tags: {what}")
