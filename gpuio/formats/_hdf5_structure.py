"""What is in an HDF5 file: opening it, following its links, finding data sets and text attributes. No pixels.

Files are opened by h5py for as long as it takes to look, and closed. Links that lead to other files are followed here rather
than by the HDF5 library, which would go wherever a file sends it: outside of the folder of the file that was opened only if the
user allows it. Objects may be reached on several ways, and in circles; each is looked at once.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np

from gpuio.errors import DataSetException, FormatError, TruncatedFile, UnsupportedFeature
from gpuio.extras import extra
from gpuio.formats._hdf5_headers import (
    MAGIC,
    MAX_USER_BLOCK,
    driver_information,
    has_sound_sources,
    heap_of_names,
    heaps_in,
    heaps_of_texts,
    is_global_heap,
    is_local_heap,
    superblock,
)
from gpuio.formats._siblings import outside
from gpuio.source import HostFiles

#: Links to follow from a name to an object, objects to look at in a file, and how deep groups may lie in each other.
MAX_LINKS, MAX_OBJECTS, MAX_DEPTH = 32, 100_000, 64
#: What the library raises where it cannot make sense of a file: exactly these, without an errno.
LIBRARY_ERRORS = (RuntimeError, KeyError, OverflowError, OSError, ValueError, UnicodeDecodeError)
#: Data sets named in messages.
MAX_NAMED = 12
#: Bytes of an attribute, or of a data set with one item, at most; those of texts without a fixed length are not counted.
MAX_VALUE = 1 << 16


class Place(NamedTuple):
    """A data set by the file that it is in, and its name there."""

    path: str
    name: str

    def __str__(self) -> str:
        return f"{self.path}: data set {self.name}"


def library() -> Any:
    """h5py, with the filters of hdf5plugin if that is installed.

    Raises
    ------
    BackendUnavailable
        h5py is not installed.
    """
    with extra("hdf5"):
        import h5py
    with suppress(ImportError):
        import hdf5plugin  # noqa: F401 -- registers its filters
    return h5py


@contextmanager
def opened(path: str) -> Iterator[Any]:
    """A file, open for reading. Errors of the library while it is open are told as those of the file.

    Raises
    ------
    OSError
        It is missing or may not be read.
    DataSetException
        It is no regular file, no HDF5 file, cut short, damaged, or open for writing elsewhere; the message keeps what the library says.
    """
    h5py = library()
    HostFiles().read(path, 0, 1)                # the system's own errors, and those about folders and pipes
    _check_driver(path)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        said = str(error)
        if "truncated" in said:
            raise TruncatedFile(f"{path}: the file is cut short; HDF5 says: {said}") from error
        if "lock" in said or "already open for write" in said:
            raise DataSetException(f"{path}: is open for writing, here or in another program; close it there or wait until it is "
                                   f"complete. HDF5 says: {said}") from error
        raise FormatError(f"{path}: cannot be opened as an HDF5 file; HDF5 says: {said}") from error
    with file:
        if file.mode != "r":
            raise DataSetException(f"{path}: is open for writing in this process; close it first")
        try:
            entered(file["/"])
            yield file
        except LIBRARY_ERRORS as error:
            if type(error) not in LIBRARY_ERRORS or getattr(error, "errno", None) is not None:
                raise
            raise FormatError(f"{path}: is damaged; HDF5 says: {error}") from error


def _check_driver(path: str) -> None:
    """Refuse driver information that is longer than the file: the library makes room for it, up to 4 GiB."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        found, size = driver_information(descriptor), os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
    if found is not None and sum(found) > size:
        raise FormatError(f"{path}: is damaged: its driver information has {found[1]} bytes at byte {found[0]}; the file has {size} bytes")


def sniff(head: bytes, path: str, extensions: tuple[str, ...]) -> bool:
    """Whether a file beginning with `head` is HDF5, possibly behind a user block of 512 bytes, 1024, 2048 ...

    Long ones are looked for only in files with one of the `extensions`.
    """
    if any(head[at:at + len(MAGIC)] == MAGIC for at in (0, 512, 1024, 2048)):
        return True
    if not path.lower().endswith(extensions):
        return False
    at = 4096
    while at <= MAX_USER_BLOCK and (there := HostFiles().read(path, at, len(MAGIC))):
        if there == MAGIC:
            return True
        at *= 2
    return False


def resolve(path: str, name: str, folder: str, allowed: bool = False) -> Place:
    """Follow links from a name in a file to the object itself.

    Raises
    ------
    DataSetException
        There is no such object, links go round in circles, or one leads outside of `folder` and that is not `allowed`.
    OSError
        A file that a link leads to cannot be read.
    """
    place = Place(path, "/" + name.strip("/"))
    for _ in range(MAX_LINKS):
        with opened(place.path) as file:
            further = _next(file, place)
        if further is None:
            return place
        if further.path != place.path:
            linked = outside(place.path, further.path, folder, allowed)
            if not os.path.exists(linked):
                raise FormatError(f"{place.path}: {place.name} is a link to {further.path}, which is not there (looked for {linked})")
            further = Place(linked, further.name)
        place = further
    raise FormatError(f"{path}: {name} is a chain of more than {MAX_LINKS} links; do they go round in circles?")


def _next(file: Any, place: Place) -> Place | None:
    """Where the first link on the way to an object leads, with the rest of the way; None if there is none.

    An external link is told by its path as it is written in the file.
    """
    h5py = library()
    group = file
    parts = [part for part in place.name.split("/") if part]
    for i, part in enumerate(parts):
        if not isinstance(group, h5py.Group) or (link := group.get(part, getlink=True)) is None:
            raise FormatError(f"{place.path}: has no {place.name}; it has {listing(file)}")
        rest = "/".join(parts[i + 1:])
        if isinstance(link, h5py.SoftLink):
            base = "" if link.path.startswith("/") else "/".join(parts[:i]) + "/"
            return Place(place.path, _joined(base + link.path, rest))
        if isinstance(link, h5py.ExternalLink):
            return Place(link.filename, _joined(link.path, rest))
        group = member(group, part)
        if isinstance(group, h5py.Group):
            entered(group)
    return None


def is_named(file: Any, name: str) -> bool:
    """Whether a file has something, or a link that may lead to it, by a name. Follows no links; cheaper than to find out by an error."""
    h5py = library()
    group = file
    for part in name.strip("/").split("/"):
        if not isinstance(group, h5py.Group) or (link := group.get(part, getlink=True)) is None:
            return False
        if not isinstance(link, h5py.HardLink):
            return True
        try:
            group = member(group, part)
            if isinstance(group, h5py.Group):
                entered(group)
        except (KeyError, OSError, RuntimeError, FormatError):      # an object that the library cannot read
            return False
    return True


def _joined(name: str, rest: str) -> str:
    return "/" + "/".join(part for part in f"{name}/{rest}".split("/") if part and part != ".")


def walk(file: Any) -> Iterator[tuple[str, Any]]:
    """Name and object of everything in a file that links in it lead to, each once; links to other files are not followed."""
    h5py = library()
    seen: set[int] = set()
    pending: list[tuple[str, Any]] = [("", file["/"])]
    while pending and len(seen) < MAX_OBJECTS:
        name, group = pending.pop()
        inner = []
        for key in entered(group):
            try:
                if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                    continue
                child = member(group, key)
            except (KeyError, OSError, RuntimeError, ValueError, FormatError):   # what cannot be read; a name that is no UTF-8
                continue
            place = address(child)
            if place in seen:
                continue
            seen.add(place)
            yield f"{name}/{key}", child
            if isinstance(child, h5py.Group) and name.count("/") < MAX_DEPTH:
                inner.append((f"{name}/{key}", child))
        pending.extend(reversed(inner))


def address(found: Any) -> int:
    """Where the header of an object is in its file, from the end of the user block. (`h5o.get_info` would read the index of chunks.)"""
    place: int = library().h5g.get_objinfo(found.id).objno[0]
    return place


def data_sets(file: Any) -> list[tuple[str, Any]]:
    """Name and data set of all that hold numbers of a fixed size, in the order of the file."""
    h5py = library()
    return [(name, found) for name, found in walk(file) if isinstance(found, h5py.Dataset) and why_no_pixels(found) is None]


def why_no_pixels(found: Any) -> str | None:
    """None if the items of a data set are numbers that can be decoded, else what they are."""
    try:
        dtype = pixel_dtype(found)
    except TypeError as error:
        return str(error)
    if dtype.kind in "buifc" and dtype.itemsize <= (16 if dtype.kind == "c" else 8) and found.shape is not None:
        return None
    if found.shape is None:
        return "no items at all (a null dataspace)"
    names = {"O": "objects (text of any length, references or ragged arrays)", "V": "records (a compound type)", "S": "text"}
    return f"{names.get(dtype.kind, 'items')} of dtype {dtype}"


def pixel_dtype(found: Any) -> np.dtype:
    """dtype of the items, byte order included; records of two equal floats, as Velox and MATLAB store complex numbers, are these."""
    dtype = np.dtype(found.dtype)
    if dtype.names is not None and len(dtype.names) == 2:
        (real, at), (imaginary, then) = (dtype.fields[name][:2] for name in dtype.names)
        if real == imaginary and real.kind == "f" and real.itemsize in (4, 8) and (at, then, dtype.itemsize) == (
                0, real.itemsize, 2 * real.itemsize):
            return np.dtype(f"c{dtype.itemsize}").newbyteorder(real.byteorder)
    return dtype


def is_plain(found: Any) -> bool:
    """Whether items are stored as their dtype has them. Others are converted by the library: integers of 12 of 16 bits, bfloat16."""
    h5t, dtype = library().h5t, pixel_dtype(found)

    def equal(kind: Any, to: np.dtype) -> bool:
        return bool(kind.equal(h5t.py_create(to)))

    kind = found.id.get_type()
    if kind.get_size() != dtype.itemsize:
        return False
    if isinstance(kind, h5t.TypeEnumID):
        return any(equal(kind.get_super(), np.dtype(to)) for to in (("i1", "u1") if dtype.kind == "b" else (dtype,)))
    if dtype.kind != "c":
        return equal(kind, dtype)
    part = np.dtype(f"f{dtype.itemsize // 2}").newbyteorder(dtype.byteorder)
    if not isinstance(kind, h5t.TypeCompoundID):
        return equal(kind.get_super(), part)
    return kind.get_nmembers() == 2 and all(
        equal(kind.get_member_type(i), part) and kind.get_member_offset(i) == i * part.itemsize for i in range(2))


def described(name: str, found: Any) -> str:
    """A data set in few words."""
    chunks = f" in chunks of {found.chunks}" if found.chunks else ""
    return f"{name} {found.shape} {found.dtype}{chunks}"


def listing(file: Any) -> str:
    """The data sets of a file that could be meant, largest first."""
    found = sorted(data_sets(file), key=lambda entry: -entry[1].size)
    more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
    return ", ".join(described(*entry) for entry in found[:MAX_NAMED]) + more if found else "no data sets of numbers"


def text(value: Any) -> str:
    """An attribute as text, whatever kind of text it is; empty for anything else."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.ravel()[0]
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace").rstrip("\0").strip()
    return value.strip() if isinstance(value, str) else ""


def attribute(found: Any, name: str) -> Any:
    """An attribute that is a number or a text, or an array of these; None if it is not there, is anything else or cannot be read."""
    h5a = library().h5a
    try:
        if not h5a.exists(found.id, name.encode()):
            return None
        there = h5a.open(found.id, name.encode())
        kind, shape = there.get_type(), there.shape
        if not _is_value(kind, shape):
            return None
        if _has_no_length(kind):
            def heaps(descriptor: int, base: int) -> set[int]:
                return heaps_of_texts(descriptor, base, address(found), name, math.prod(shape))

            if not _are_sound(found, heaps):
                return None
        return found.attrs[name]
    except (KeyError, OSError, TypeError, ValueError, RuntimeError, FormatError):
        return None


def single(found: Any) -> Any:
    """The number or text that a data set of one item holds; None if it is anything else or cannot be read."""
    try:
        kind = found.id.get_type()
        if found.size != 1 or not _is_value(kind, found.shape):
            return None
        if _has_no_length(kind):
            def heaps(descriptor: int, base: int) -> set[int]:
                place = found.id.get_chunk_info(0).byte_offset if found.chunks else found.id.get_offset()
                return heaps_in(os.pread(descriptor, 16, place)) if place is not None and not found.compression else set()

            if not _are_sound(found, heaps):
                return None
        return found[()]
    except (AttributeError, KeyError, OSError, TypeError, ValueError, RuntimeError, FormatError):
        return None


def _is_value(kind: Any, shape: tuple[int, ...] | None) -> bool:
    """Whether items are numbers or texts, and not too many. On damaged types of others, such as ragged arrays, the library crashes."""
    h5t = library().h5t
    plain = isinstance(kind, (h5t.TypeIntegerID, h5t.TypeFloatID, h5t.TypeEnumID, h5t.TypeStringID))
    return plain and shape is not None and math.prod(shape) * kind.get_size() <= MAX_VALUE


def _has_no_length(kind: Any) -> bool:
    return isinstance(kind, library().h5t.TypeStringID) and bool(kind.is_variable_str())


def _are_sound(found: Any, heaps: Callable[[int, int], set[int]]) -> bool:
    """Whether the library can be asked for texts: all of the global heaps that `heaps(descriptor, base)` tells make sense."""
    with _bytes_of(found) as (descriptor, base):
        return base is None or all(is_global_heap(descriptor, base, heap) for heap in heaps(descriptor, base))


def entered(group: Any) -> Any:
    """A group whose names can be looked up: its heap is sound.

    Raises
    ------
    FormatError
        It is not.
    """
    with _bytes_of(group) as (descriptor, base):
        heap = None if base is None else heap_of_names(descriptor, base, address(group))
        if base is not None and heap is not None and not is_local_heap(descriptor, base, heap):
            raise FormatError(f"{group.file.filename}: is damaged: free blocks of the heap at byte {base + heap}, which has the names in "
                              f"group {group.name}, do not follow each other to an end")
    return group


def member(group: Any, name: str) -> Any:
    """What a hard link leads to.

    Raises
    ------
    FormatError
        It is a virtual data set whose sources are damaged: on some the library crashes.
    """
    with _bytes_of(group) as (descriptor, base):
        if base is not None and not has_sound_sources(descriptor, base, group.id.links.get_info(name.encode()).u):
            raise FormatError(f"{os.fsdecode(library().h5f.get_name(group.id))}: is damaged: the list of sources of the virtual data set "
                              f"{group.name.rstrip('/')}/{name} does not have its checksum")
    return group[name]


@contextmanager
def _bytes_of(found: Any) -> Iterator[tuple[int, int | None]]:
    """A descriptor of the file of an object, and where its addresses count from: None if they have not 8 bytes.

    Raises
    ------
    FormatError
        What is read through it makes no sense.
    """
    path = os.fsdecode(library().h5f.get_name(found.id))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        block = superblock(descriptor)
        yield descriptor, None if block is None else block[0]
    except (OverflowError, struct.error) as error:
        raise FormatError(f"{path}: is damaged: an object header or a heap leads out of the file: {error}") from error
    finally:
        os.close(descriptor)


def number(value: Any) -> float | int | None:
    """A single real number as Python has it; None for anything else."""
    value = np.asarray(value)
    if value.size != 1 or value.dtype.kind not in "buif":
        return None
    result: float | int = value.ravel()[0].item()
    return result


def dataset(file: Any, place: Place) -> Any:
    """A data set of an open file, checked to hold numbers.

    Raises
    ------
    FormatError, UnsupportedFeature
        It is a group, or its items are no numbers.
    """
    found = file[place.name]
    if not isinstance(found, library().Dataset):
        raise FormatError(f"{place.path}: {place.name} is a group; name a data set: {listing(file)}")
    reason = why_no_pixels(found)
    if reason is not None:
        raise UnsupportedFeature(f"{place} holds {reason}; expected numbers: bool, integer, float or complex")
    return found
