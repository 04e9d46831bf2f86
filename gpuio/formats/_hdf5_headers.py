"""Object headers of an HDF5 file, and the heaps that names and texts lie in, read from the file's bytes.

Names of members of a group are in a local heap, texts of no fixed length in global heaps, neither with a checksum. On some damaged ones
the library runs for ever, and no signal ends it: a page of zeros in a global heap is enough. So they are looked at first.

===============  =================================================================================================================
structure        bytes
===============  =================================================================================================================
superblock       the magic, at byte 0, 512, 1024, 2048 ...; u8 version; bytes of addresses and sizes: two u8 at 9 in version 2 and 3, at 13
                 before; there u64 address of driver information at 48, in version 1 at 52: 4 bytes, u32 bytes of it, 8 of name, it
header, v1       version 1, one more, u16 number of messages, u32 references, u32 bytes of messages, 4 more; then messages: u16 type,
                 u16 size, flags, 3 more, data
header, v2       ``OHDR``, version 2, flags; 16 of times if flags & 32; 4 if flags & 16; bytes of messages in 1 << (flags & 3);
                 then messages: u8 type, u16 size, flags, 2 more if flags & 4, data. Continued in ``OCHK``
message 8        layout; of a virtual data set version 4, class 3, u64 address of a global heap, u32 number of the object with its sources
message 12       attribute: version, one more, u16 bytes of name, type, shape; one more in version 3; these (in version 1 each filled
                 up to 8), values
message 16       continuation: u64 address, u64 bytes of further messages; in v2 with 4 of signature and 4 of checksum
message 17       group: u64 address of its tree, u64 of its local heap
text             u32 bytes, u64 address of a global heap, u32 number of its object
local heap       ``HEAP``, version, 3 more, u64 bytes, u64 first free block (1: none), u64 address of what these count from; a free
                 block: u64 next, u64 bytes
global heap      ``GCOL``, version, 3 more, u64 bytes; objects: u16 number, 6 more, u64 bytes, these, filled up to 8. Number 0 is what is
                 free, and counts its own header
===============  =================================================================================================================

Only files with addresses and sizes of 8 bytes are looked at, and attributes that are in the header of their object: for more than eight,
new libraries make a heap and a tree, and are asked themselves. Source: the HDF5 File Format Specification (The HDF Group), sections
III.D, III.E, IV.A.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

MAGIC = b"\x89HDF\r\n\x1a\n"
MAX_USER_BLOCK = 1 << 20
#: An address that leads nowhere.
UNDEFINED = (1 << 64) - 1
LAYOUT, ATTRIBUTE, CONTINUATION, GROUP = 8, 12, 16, 17
#: Bytes of the sources of a virtual data set at most, of which the checksum is compared.
MAX_SOURCES = 1 << 20
#: Bytes of messages of an object at most, and blocks of them; bytes of a global heap; free blocks of a local one.
MAX_MESSAGES, MAX_BLOCKS, MAX_HEAP, MAX_FREE = 1 << 16, 64, 256 << 20, 1 << 16


def superblock(descriptor: int) -> tuple[int, bytes] | None:
    """Where the file proper begins, and its first 64 bytes; None if there is none whose addresses and sizes have 8 bytes."""
    at = 0
    while not (block := os.pread(descriptor, 64, at)).startswith(MAGIC):
        at = 2 * at or 512
        if at > MAX_USER_BLOCK:
            return None
    sizes = 13 if block[8:9] < b"\2" else 9
    return (at, block) if block[sizes:sizes + 2] == b"\x08\x08" and len(block) == 64 else None


def driver_information(descriptor: int) -> tuple[int, int] | None:
    """Where in the file the driver information is, and its bytes with all before them; None if there is none."""
    if (found := superblock(descriptor)) is None or found[1][8] > 1:
        return None
    base, block = found
    place, = struct.unpack_from("<Q", block, 52 if block[8] else 48)
    raw = os.pread(descriptor, 16, base + place) if place < 1 << 62 else b""
    return (base + place, 16 + struct.unpack_from("<4xI", raw)[0]) if len(raw) == 16 else None


def messages(descriptor: int, base: int, header: int) -> Iterator[tuple[int, bytes]]:
    """Type and data of the messages of an object; nothing if it has no header of version 1 or 2.

    Parameters
    ----------
    base, header
        Where addresses count from, and that of the object.

    Raises
    ------
    OSError, OverflowError, struct.error
        The file cannot be read there.
    """
    raw = os.pread(descriptor, 40, base + header)
    if raw[:5] == b"OHDR\2":
        flags = raw[5]
        at, width = 6 + 16 * (flags >> 5 & 1) + 4 * (flags >> 4 & 1), 1 << (flags & 3)
        head, order, outside = struct.Struct("<BHx"), 2 * (flags >> 2 & 1), 4
        blocks = [(header + at + width, int.from_bytes(raw[at:at + width], "little"))]
    elif raw[:1] == b"\1":
        head, order, outside = struct.Struct("<HH4x"), 0, 0
        blocks = [(header + 16, struct.unpack_from("<I", raw, 8)[0])]
    else:
        return
    for _ in range(MAX_BLOCKS):
        if not blocks:
            return
        at, size = blocks.pop(0)
        raw, place = os.pread(descriptor, min(size, MAX_MESSAGES), base + at), 0
        while place + head.size <= len(raw):
            kind, length = head.unpack_from(raw, place)
            place += head.size + order
            data = raw[place:place + length]
            if kind == CONTINUATION:
                further, size = struct.unpack_from("<QQ", data)
                blocks.append((further + outside, max(0, size - 2 * outside)))
            else:
                yield kind, data
            place += length


def heap_of_names(descriptor: int, base: int, header: int) -> int | None:
    """Address of the local heap of a group; None if it has none."""
    return next((struct.unpack_from("<8xQ", data)[0] for kind, data in messages(descriptor, base, header) if kind == GROUP), None)


def heaps_of_texts(descriptor: int, base: int, header: int, name: str, count: int) -> set[int]:
    """Addresses of the global heaps that `count` texts of an attribute are in; empty where the attribute is not in the object's header."""
    for kind, data in messages(descriptor, base, header):
        if kind != ATTRIBUTE or len(data) < 9:
            continue
        version, *sizes = struct.unpack_from("<BxHHH", data)
        at = 9 if version == 3 else 8
        if data[at:at + sizes[0]].partition(b"\0")[0] == name.encode():
            at += sum(-(-n // 8) * 8 if version == 1 else n for n in sizes)
            return heaps_in(data[at:at + 16 * count])
    return set()


def heaps_in(texts: bytes) -> set[int]:
    """Addresses of the global heaps that stored texts are in; an empty text is in none."""
    return {heap for size, heap, _ in struct.iter_unpack("<IQI", texts[:len(texts) // 16 * 16]) if size and heap}


def is_local_heap(descriptor: int, base: int, heap: int) -> bool:
    """Whether the free blocks of a local heap follow each other to an end."""
    signature, size, free, place = struct.unpack("<4s4xQQQ", os.pread(descriptor, 32, base + heap))
    if signature != b"HEAP":
        return True                             # the library looks at that itself
    seen: set[int] = set()
    while free != 1:
        if free in seen or free + 16 > size or len(seen) > MAX_FREE:
            return False
        seen.add(free)
        free, _ = struct.unpack("<QQ", os.pread(descriptor, 16, base + place + free))
    return True


def is_global_heap(descriptor: int, base: int, heap: int) -> bool:
    """Whether the objects of a global heap follow each other to its end."""
    signature, size = struct.unpack("<4s4xQ", os.pread(descriptor, 16, base + heap))
    if signature != b"GCOL" or size > min(MAX_HEAP, os.fstat(descriptor).st_size):
        return False
    raw, at = os.pread(descriptor, size, base + heap), 16
    while at + 16 <= size:
        if at + 16 > len(raw):
            return False
        number, n_bytes = struct.unpack_from("<H6xQ", raw, at)
        if number == 0 and n_bytes < 16:
            return False
        at += n_bytes if number == 0 else 16 + -(-n_bytes // 8) * 8
    return at <= size


def has_sound_sources(descriptor: int, base: int, header: int) -> bool:
    """Whether the list of sources of an object is what its checksum says, if it is a virtual data set. (The library looks too late.)"""
    for kind, data in messages(descriptor, base, header):
        if kind == LAYOUT and data[:2] == b"\4\3":
            heap, wanted = struct.unpack_from("<QI", data, 2)
            if heap == UNDEFINED:
                return True
            if not is_global_heap(descriptor, base, heap):
                return False
            size, at = struct.unpack("<Q", os.pread(descriptor, 8, base + heap + 8))[0], 16
            while at + 16 <= size:
                number, n_bytes = struct.unpack("<H6xQ", os.pread(descriptor, 16, base + heap + at))
                if number == wanted != 0:
                    raw = os.pread(descriptor, min(n_bytes, MAX_SOURCES), base + heap + at + 16)
                    return n_bytes > MAX_SOURCES or _checksum(raw[:-4]) == int.from_bytes(raw[-4:], "little")
                at += n_bytes if number == 0 else 16 + -(-n_bytes // 8) * 8
            return False
    return True


def _checksum(data: bytes) -> int:
    """As HDF5 has it: Bob Jenkins's lookup3, in the public domain."""
    def turned(x: int, by: int) -> int:
        return (x << by | x >> 32 - by) & 0xFFFFFFFF

    a = b = c = 0xDEADBEEF + len(data) & 0xFFFFFFFF
    if not data:
        return c
    words = struct.unpack(f"<{-(-len(data) // 12) * 3}I", data.ljust(-(-len(data) // 12) * 12, b"\0"))
    for i in range(0, len(words), 3):
        a, b, c = (x + y & 0xFFFFFFFF for x, y in zip((a, b, c), words[i:i + 3], strict=True))
        if i + 3 < len(words):
            for by in ((4, 6, 8), (16, 19, 4)):
                a, c = (a - c & 0xFFFFFFFF) ^ turned(c, by[0]), c + b & 0xFFFFFFFF
                b, a = (b - a & 0xFFFFFFFF) ^ turned(a, by[1]), a + c & 0xFFFFFFFF
                c, b = (c - b & 0xFFFFFFFF) ^ turned(b, by[2]), b + a & 0xFFFFFFFF
    for by in ((14, 11, 25), (16, 4, 14)):
        c = (c ^ b) - turned(b, by[0]) & 0xFFFFFFFF
        a = (a ^ c) - turned(c, by[1]) & 0xFFFFFFFF
        b = (b ^ a) - turned(a, by[2]) & 0xFFFFFFFF
    return (c ^ b) - turned(b, 24) & 0xFFFFFFFF
