"""The index of chunks of an HDF5 data set, read from the file's bytes where it is the usual one: a B-tree of version 1.

The library tells of chunks one by one, which takes some 2 microseconds each: as long as unpacking a tenth of a small frame, and all
threads wait for it. Nodes of the tree have up to 64 entries and are read as arrays.

=============  ===================================================================================================================
structure      bytes
=============  ===================================================================================================================
object header  as `_hdf5_headers` has it; message 8 is the layout
layout         version 3, class 2 (chunked), u8 n: axes + 1, u64 address of the tree
node           ``TREE``, type 1, u8 level (0: a leaf), u16 entries, u64 left, u64 right; entries
entry          u32 stored bytes, u32 mask of filters, n x u64 first element (the last is 0), u64 address of a node or chunk
=============  ===================================================================================================================

Addresses count from the end of the user block. Of any other index the library is asked. A tree that makes no sense is an error at once: on
some the library runs for ever. Source: the HDF5 File Format
Specification (The HDF Group), sections III.A.1, IV.A.1.a, IV.A.2.i.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from typing import Any

import numpy as np

from gpuio.errors import FormatError
from gpuio.formats._hdf5_headers import UNDEFINED, messages
from gpuio.formats._hdf5_structure import address

LAYOUT = 8
#: Chunks that are compared with what the library says.
COMPARED = 2


def read_index(found: Any, path: str, at_most: int) -> np.ndarray | None:
    """Chunks of a data set: a structured array of `origin` (i8[axes]), `mask`, `offset`, `stored`; None if it has another index.

    Parameters
    ----------
    found
        The data set, of an open file.
    path
        The file.
    at_most
        Chunks that the data set has room for.

    Raises
    ------
    FormatError
        The tree makes no sense.
    """
    if found.file.id.get_create_plist().get_sizes() != (8, 8):
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        base, axes = found.file.userblock_size, found.ndim
        root = _tree_of(descriptor, base, address(found), axes + 1)
        if root is None:
            return None
        entries = _leaves(descriptor, base, root, axes + 1, at_most) if root != UNDEFINED else np.zeros(0, _entry(axes + 1))
    except (OSError, OverflowError, struct.error) as error:
        raise FormatError(f"{path}: the index of chunks of {found.name} cannot be read: {error}") from error
    except ValueError as error:
        raise FormatError(f"{path}: the index of chunks of {found.name} is damaged: {error}") from error
    finally:
        os.close(descriptor)
    result = np.zeros(len(entries), dtype=[("origin", "<i8", (axes,)), ("mask", "<i8"), ("offset", "<i8"), ("stored", "<i8")])
    result["origin"], result["mask"], result["stored"] = entries["origin"][:, :axes], entries["mask"], entries["stored"]
    result["offset"] = entries["child"].astype(np.int64) + base
    for i in np.linspace(0, len(result) - 1, min(COMPARED, len(result))).astype(int):
        mine = tuple(result[["mask", "offset", "stored"]][i].tolist())
        told = found.id.get_chunk_info_by_coord(tuple(result["origin"][i].tolist()))
        if mine != (told.filter_mask, told.byte_offset, told.size):
            return None         # a library that counts addresses otherwise, or something unheard of
    return result


def _tree_of(descriptor: int, base: int, header: int, n: int) -> int | None:
    """Address of the tree that the layout message of an object names."""
    for kind, data in messages(descriptor, base, header):
        if kind == LAYOUT:
            form, chunked, axes, tree = struct.unpack_from("<BBBQ", data)
            return tree if (form, chunked, axes) == (3, 2, n) else None
    return None


def _entry(n: int) -> np.dtype:
    return np.dtype([("stored", "<u4"), ("mask", "<u4"), ("origin", "<u8", (n,)), ("child", "<u8")])


def _leaves(descriptor: int, base: int, root: int, n: int, at_most: int) -> np.ndarray:
    """Entries of all leaves of a tree; ValueError if it is none."""
    entry = _entry(n)
    leaves, pending, seen = [], [(root, -1)], set()
    counts: Counter[int] = Counter()            # entries of each level: of no level are there more than chunks
    while pending:
        node, expected = pending.pop()
        if node in seen:
            raise ValueError(f"its tree leads to the node at byte {base + node} twice")
        seen.add(node)
        raw = os.pread(descriptor, 24 + 64 * entry.itemsize, base + node)
        signature, kind, level, used = struct.unpack_from("<4sBBH", raw)
        if 24 + used * entry.itemsize > len(raw):
            raw = os.pread(descriptor, 24 + used * entry.itemsize, base + node)
        if signature != b"TREE" or kind != 1 or (expected >= 0 and level != expected) or 24 + used * entry.itemsize > len(raw):
            raise ValueError(f"at byte {base + node}: expected a node of chunks{f' of level {expected}' if expected >= 0 else ''} with "
                             f"{used} entries, found {signature!r}, type {kind}, level {level}, {len(raw)} bytes")
        counts[level] += used
        if counts[level] > at_most:
            raise ValueError(f"its tree has more than {at_most} entries of level {level}; there are {at_most} chunks")
        if level == 0:
            leaves.append(raw[24:24 + used * entry.itemsize])
        else:
            pending.extend((child, level - 1) for child in reversed(np.frombuffer(raw, entry, used, 24)["child"].tolist()))
    return np.frombuffer(b"".join(leaves), entry)
