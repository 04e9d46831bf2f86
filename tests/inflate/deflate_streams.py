"""Zlib streams: as zlib writes them, and packed by hand, bit by bit."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

#: Order in which the lengths of the code of lengths are stored (RFC 1951, 3.2.7).
ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
#: Lengths of the fixed codes.
FIXED = [8] * 144 + [9] * 112 + [7] * 24 + [8] * 8
#: 16 symbols of four bits: any length may be written.
PLAIN = [4] * 16 + [0] * 3


def packed(raw: bytes, level: int = 6, strategy: int = zlib.Z_DEFAULT_STRATEGY, window: int = 15, memory: int = 8,
           flush: int | None = None) -> bytes:
    """What zlib makes of `raw`; with `flush`, after every 97 bytes."""
    stream = zlib.compressobj(level, zlib.DEFLATED, window, memory, strategy)
    if flush is None:
        return stream.compress(raw) + stream.flush()
    parts = [stream.compress(raw[i:i + 97]) + stream.flush(flush) for i in range(0, len(raw), 97)]
    return b"".join(parts) + stream.flush()


class Stream:
    """Bits one after another, lowest first; codes highest first."""

    def __init__(self, header: bytes = b"\x78\x01") -> None:
        self.bits = [byte >> k & 1 for byte in header for k in range(8)]

    def put(self, *numbers: tuple[int, int]) -> Stream:
        """Numbers, and the bits of each."""
        self.bits += [number >> k & 1 for number, n in numbers for k in range(n)]
        return self

    def align(self) -> Stream:
        return self.put((0, -len(self.bits) % 8))

    def code(self, lengths: Sequence[int], *symbols: int) -> Stream:
        """Symbols in the canonical code of `lengths`."""
        code, codes = 0, {}
        for n in range(1, 16):
            for symbol, length in enumerate(lengths):
                if length == n:
                    codes[symbol] = [code >> k & 1 for k in reversed(range(n))]
                    code += 1
            code *= 2
        for symbol in symbols:
            self.bits += codes[symbol]
        return self

    def dynamic(self, literals: Sequence[int], distances: Sequence[int], of_lengths: Sequence[int] = PLAIN, last: int = 1) -> Stream:
        """The head of a block with codes of its own; their lengths one by one."""
        self.put((last, 1), (2, 2), (len(literals) - 257, 5), (len(distances) - 1, 5), (15, 4), *((of_lengths[k], 3) for k in ORDER))
        return self.code(of_lengths, *literals, *distances)

    def match(self, length: int, distance: int, literals: Sequence[int] = FIXED, distances: Sequence[int] = (5,) * 32) -> Stream:
        """A match: two symbols, and the bits behind each."""
        symbol, base, more = _place(length - 3, 4) if length < 258 else (28, 255, 0)
        self.code(literals, 257 + symbol).put((length - 3 - base, more))
        symbol, base, more = _place(distance - 1, 2)
        return self.code(distances, symbol).put((distance - 1 - base, more))

    def end(self, raw: bytes | None = None) -> bytes:
        """The bytes; with the checksum of `raw`."""
        self.align()
        return np.packbits(self.bits, bitorder="little").tobytes() + (b"" if raw is None else zlib.adler32(raw).to_bytes(4, "big"))


def _place(number: int, each: int) -> tuple[int, int, int]:
    """Symbol, first number and bits behind it: two times `each` symbols stand for themselves, then `each` for every number of bits."""
    symbol, base, more = 0, 0, 0
    while number >= base + (1 << more):
        base += 1 << more
        symbol += 1
        more = max(0, symbol // each - 1)
    return symbol, base, more
