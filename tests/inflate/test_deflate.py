"""Zlib streams on both engines: as zlib writes them in all of its ways, packed by hand, bad and damaged; the same statuses as zlib's."""

from __future__ import annotations

import itertools
import zlib
from typing import Any

import numpy as np
import pytest

from gpuio.cpu_fallback import CpuEngine, _inflate
from gpuio.inflation import Rule, status
from gpuio.layout import Filter
from tests.inflate.conftest import inflate
from tests.inflate.deflate_streams import FIXED, ORDER, Stream, packed
from tests.inflate.streams import data

DEFLATE = (Filter("deflate", (4,)),)
NOISE = data("noise", 70000, "u1").tobytes()
CONTENTS = {"counts": data("counts", 1500, "u2").tobytes(), "zeros": bytes(3000), "noise": NOISE[:3000],
            "ramp": data("ramp", 3000, "u1").tobytes()}
STRATEGIES = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED)


def check(engine: Any, streams: list[bytes], truth: bytes) -> None:
    for stream in streams:
        assert zlib.decompress(stream) == truth
    found, contents = inflate(engine, DEFLATE, streams, len(truth), 1, shift=len(streams) % 16)
    assert found == [0] * len(streams)
    assert contents == [truth] * len(streams)


@pytest.mark.parametrize("content", CONTENTS)
def test_every_level_strategy_window_and_flush_of_zlib(engine: Any, content: str) -> None:
    truth = CONTENTS[content]
    ways = [{"level": level} for level in range(10)] + [{"strategy": s} for s in STRATEGIES]
    ways += [{"window": w, "memory": 1 + w % 9} for w in range(9, 16)] + [{"memory": 1, "level": level} for level in (1, 9)]
    ways += [{"flush": f, "level": level} for f in (zlib.Z_PARTIAL_FLUSH, zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH) for level in (0, 6)]
    streams = [packed(truth, **way) for way in ways]
    assert len(set(streams)) > 15
    check(engine, streams, truth)


@pytest.mark.parametrize("n", [1, 2, 3, 31, 32, 33, 257, 258, 259, 260, 6000])
def test_every_size(engine: Any, n: int) -> None:
    for content in (NOISE[:n], b"\xff" * n):
        check(engine, [packed(content), packed(content, 0), packed(content, strategy=zlib.Z_HUFFMAN_ONLY)], content)


def test_matches_as_far_back_as_there_are(engine: Any) -> None:
    stream, truth = Stream(), bytearray()
    for n, at in itertools.pairwise((0, 30000, 32768)):
        truth += NOISE[n:at]
        stream.put((0, 1), (0, 2)).align().put((at - n, 16), (at - n ^ 0xffff, 16)).put(*((byte, 8) for byte in NOISE[n:at]))
    stream.put((1, 1), (1, 2))
    matches = [(258, 32768), (3, 32768), (257, 24577), (258, 24576), (11, 16385), (10, 16384)]
    matches += [(258, 1), (31, 2), (32, 3), (33, 31), (258, 32)]
    matches += [(length, 40 + 7 * length) for length in range(3, 259, 5)] + [(3 + k % 9, (1 << k) + e) for k in range(15) for e in (0, 1)]
    for length, distance in matches:
        stream.match(length, distance)
        for _ in range(length):
            truth.append(truth[-distance])
    check(engine, [stream.code(FIXED, 256).end(truth)], bytes(truth))


def test_codes_of_every_length(engine: Any) -> None:
    # Literals 0 to 14 have 1 to 15 bits, the end of the block 15; distances 1 to 15 bits.
    literals = [*range(1, 14), 15, 15] + [0] * 241 + [15, 15]
    distances = [*range(1, 15), 15, 15]
    stream, truth = Stream(), bytearray(range(15)) * 40
    stream.dynamic(literals, distances).code(literals, *truth)
    for distance in (1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 256):
        stream.match(3, distance, literals, distances)
        for _ in range(3):
            truth.append(truth[-distance])
    check(engine, [stream.code(literals, 256).end(truth)], bytes(truth))


def test_one_code_alone_and_none(engine: Any) -> None:
    literals = [1] + [0] * 255 + [2, 2]
    alone = Stream().dynamic(literals, [1]).code(literals, 0).match(3, 1, literals, [1]).code(literals, 256).end(bytes(4))
    none = Stream().dynamic(literals, [0]).code(literals, 0, 0, 0, 0, 256).end(bytes(4))
    only_end = Stream().dynamic([0] * 256 + [1], [0], last=0).code([0] * 256 + [1], 256).put((1, 1), (0, 2)).align()
    only_end.put((4, 16), (0xfffb, 16), (0, 32))
    check(engine, [alone, none, only_end.end(bytes(4))], bytes(4))


GOOD = packed(CONTENTS["counts"])
N = len(CONTENTS["counts"])


def fixed(*symbols: int) -> Stream:
    return Stream().put((1, 1), (1, 2)).code(FIXED, *symbols)


def stored(raw: bytes, size: int | None = None, last: int = 1) -> Stream:
    size = len(raw) if size is None else size
    return Stream().put((last, 1), (0, 2)).align().put((size, 16), (size ^ 0xffff, 16), *((byte, 8) for byte in raw))


E = [0] * 255 + [1, 1]              # lengths of a literal and the end
THREE = [1, *[0] * 255, 2, 2]       # of a literal, the end and a match of 3
RAW = NOISE[:N]
BAD = {
    "nothing": (b"", Rule.INPUT),
    "half a header": (b"\x78", Rule.INPUT),
    "a header and no block": (b"\x78\x01", Rule.INPUT),
    "a wrong header": (b"\x78\x02" + GOOD[2:], Rule.DEFLATE),
    "another method": (b"\x77\x01" + GOOD[2:], Rule.DEFLATE),
    "method 7, its header right": (b"\x77\x09" + GOOD[2:], Rule.DEFLATE),
    "a window too large": (b"\x88\x1c" + GOOD[2:], Rule.DEFLATE),
    "a dictionary": (b"\x78\x20" + GOOD[2:], Rule.DEFLATE),
    "half the name of a dictionary": (b"\x78\x20" + GOOD[2:5], Rule.INPUT),
    "block type 3": (Stream().put((1, 1), (3, 2)).end(), Rule.DEFLATE),
    "sizes of a stored block that do not agree": (Stream().put((1, 1), (0, 2)).align().put((3, 16), (3, 16)).end(), Rule.DEFLATE),
    "half a size": (Stream().put((1, 1), (0, 2)).align().put((3, 16)).end(), Rule.INPUT),
    "a stored block that is cut": (stored(RAW[:90], 91).end(), Rule.INPUT),
    "a stored block too long, and cut": (stored(RAW, N + 1).end(), Rule.INPUT),
    "a stored block too long": (stored(RAW + b"a").end(RAW + b"a"), Rule.OUTPUT),
    "a stored block far too long": (stored(NOISE[:60000]).end(), Rule.OUTPUT),
    "a stored block too long, with a wrong checksum": (stored(RAW + b"a").end(RAW), Rule.DEFLATE),
    "two stored blocks too long": (
        stored(RAW + b"a", last=0).put((1, 1), (0, 2)).align().put((1, 16), (0xfffe, 16), (0, 8)).end(RAW), Rule.OUTPUT),
    "287 literals": (Stream().put((1, 1), (2, 2), (30, 5), (0, 5), (15, 4), (0, 64)).end(), Rule.DEFLATE),
    "31 distances": (Stream().put((1, 1), (2, 2), (0, 5), (30, 5), (15, 4), (0, 64)).end(), Rule.DEFLATE),
    "no lengths": (Stream().put((1, 1), (2, 2), (0, 5), (0, 5), (15, 4), (0, 57), (0, 800)).end(), Rule.DEFLATE),
    "no lengths, cut": (Stream().put((1, 1), (2, 2), (0, 5), (0, 5), (15, 4), (0, 57), (0, 200)).end(), Rule.INPUT),
    "one code of lengths": (Stream().dynamic([1] * 258, [1], [0, 1] + [0] * 17).put((0, 99)).end(), Rule.DEFLATE),
    "one code of lengths, at the end": (
        Stream().put((1, 1), (2, 2), (0, 5), (0, 5), (15, 4), *((int(k == 1), 3) for k in ORDER)).end(), Rule.DEFLATE),
    "codes of lengths, too many": (Stream().dynamic([1] * 258, [1], [1] * 3 + [0] * 16).put((0, 99)).end(), Rule.DEFLATE),
    "codes of lengths, too few": (Stream().dynamic([1] * 258, [1], [2] * 3 + [0] * 16).put((0, 99)).end(), Rule.DEFLATE),
    "a length repeated before the first": (
        Stream().put((1, 1), (2, 2), (0, 5), (0, 5), (15, 4), (1, 3), (0, 6), (1, 3), (0, 45)).code([1] + [0] * 15 + [1], 16)
        .put((0, 99)).end(), Rule.DEFLATE),
    "lengths repeated beyond the last": (
        Stream().put((1, 1), (2, 2), (0, 5), (0, 5), (15, 4), (0, 6), (1, 3), (1, 3), (0, 45), *[(1, 1), (127, 7)] * 2).end(),
        Rule.DEFLATE),
    "no end of a block": (Stream().dynamic([1, 1] + [0] * 255, [1]).put((0, 99)).end(), Rule.DEFLATE),
    "literals, too many": (Stream().dynamic([1, *E], [1]).put((0, 99)).end(), Rule.DEFLATE),
    "literals, too few": (Stream().dynamic([2] + [0] * 255 + [1], [1]).put((0, 99)).end(), Rule.DEFLATE),
    "one literal of two bits": (Stream().dynamic([0] * 256 + [2], [1]).put((0, 99)).end(), Rule.DEFLATE),
    "distances, too many": (Stream().dynamic(E, [1, 1, 1]).put((0, 99)).end(), Rule.DEFLATE),
    "distances, too few": (Stream().dynamic(E, [2, 2, 2]).put((0, 99)).end(), Rule.DEFLATE),
    "a literal that is no code": (Stream().dynamic([0] * 256 + [1], [1]).put((1, 1), (0, 99)).end(), Rule.DEFLATE),
    "length 286": (fixed(97, 286).put((0, 99)).end(), Rule.DEFLATE),
    "length 287": (fixed(97, 287).put((0, 99)).end(), Rule.DEFLATE),
    "distance 30": (fixed(97, 257).code([5] * 32, 30).put((0, 99)).end(), Rule.DEFLATE),
    "distance 31, at the end": (fixed(97, 257).code([5] * 32, 31).end(), Rule.DEFLATE),
    "a distance that is no code": (Stream().dynamic(THREE, [1]).code(THREE, 0, 257).put((1, 1), (0, 99)).end(), Rule.DEFLATE),
    "a distance where there are none": (Stream().dynamic(THREE, [0]).code(THREE, 0, 257).put((0, 99)).end(), Rule.DEFLATE),
    "a match before the first byte": (fixed(97, 98).match(5, 3).code(FIXED, 256).end(b"ab"), Rule.DEFLATE),
    "a match without anything before": (fixed().match(5, 1).code(FIXED, 256).end(b""), Rule.DEFLATE),
    "cut in a literal": (fixed(*RAW[:20]).end()[:-2], Rule.INPUT),
    "cut before a distance": (fixed(97, 285).end(), Rule.INPUT),
    "cut in a distance": (fixed(*RAW[:50]).match(3, 40).end()[:-1], Rule.INPUT),
    "one literal too many": (fixed(*RAW, 97, 256).end(RAW + b"a"), Rule.OUTPUT),
    "one literal too many, cut": (fixed(*RAW, 97).end(), Rule.OUTPUT),
    "one literal too many, with a wrong checksum": (fixed(*RAW, 97, 256).end(RAW), Rule.DEFLATE),
    "one literal too many, then wrong": (fixed(*RAW, 97, 286).put((0, 99)).end(), Rule.DEFLATE),
    "two literals too many, then wrong": (fixed(*RAW, 97, 97, 286).put((0, 99)).end(), Rule.OUTPUT),
    "one literal too many, then a match": (fixed(*RAW, 97).match(3, 32768).put((0, 99)).end(), Rule.OUTPUT),
    "full, then a match before the first byte": (fixed(*RAW).match(3, 32768).put((0, 99)).end(), Rule.DEFLATE),
    "a match too long by one": (fixed(*RAW[:-4]).match(5, 9).code(FIXED, 256).end(RAW[:-4] + RAW[-13:-8]), Rule.OUTPUT),
    "a match too long by one, with a wrong checksum": (fixed(*RAW[:-4]).match(5, 9).code(FIXED, 256).end(RAW), Rule.DEFLATE),
    "a match too long by two, then wrong": (fixed(*RAW[:-4]).match(6, 9).code(FIXED, 286).end(RAW), Rule.OUTPUT),
    "a bomb": (packed(bytes(1 << 22)), Rule.OUTPUT),
    "no checksum": (GOOD[:-4], Rule.INPUT),
    "cut in the checksum": (GOOD[:-1], Rule.INPUT),
    "a wrong checksum": (GOOD[:-1] + bytes([GOOD[-1] ^ 1]), Rule.DEFLATE),
    "too few": (packed(RAW[:-1]), Rule.SHORT),
    "nothing at all comes out": (packed(b""), Rule.SHORT),
    "too few, with a wrong checksum": (packed(RAW[:-1])[:-1] + b"\xff", Rule.DEFLATE),
    "bytes left over": (GOOD + b"\0", Rule.LEFT_OVER),
    "too few and bytes left over": (packed(RAW[:-1]) + b"\0", Rule.SHORT),
}


def test_bad_streams_have_the_status_of_what_they_broke(engine: Any) -> None:
    found, contents = inflate(engine, DEFLATE, [stream for stream, _ in BAD.values()] + [GOOD], N, 2)
    assert {name: Rule(code & 31) for name, code in zip(BAD, found, strict=False)} == {name: rule for name, (_, rule) in BAD.items()}
    assert found[:-1] == [status(rule) for _, rule in BAD.values()]
    assert (found[-1], contents[-1]) == (0, CONTENTS["counts"])


def damaged(count: int, seed: int) -> list[tuple[list[bytes], int]]:
    """Streams of each kind that are cut, changed, or of another size than expected; with that size."""
    rng, found = np.random.default_rng([23, seed]), []
    for content, strategy in itertools.product(CONTENTS, STRATEGIES):
        n = int(rng.integers(1, 600))
        stream = packed(CONTENTS[content][:n], int(rng.integers(0, 10)), strategy, memory=1 + n % 9, flush=(None, zlib.Z_SYNC_FLUSH)[n % 2])
        streams = [stream, stream[:rng.integers(0, len(stream))], rng.bytes(50), b"\x78\x01" + rng.bytes(50)]
        for _ in range(count):
            copy = bytearray(stream)
            for at in rng.integers(0, min(len(copy), int(rng.choice([12, 60, 9999]))), rng.integers(1, 4)):
                copy[at] ^= 1 << rng.integers(0, 8)
            streams.append(bytes(copy))
        found.append((streams, max(1, n + int(rng.choice([0, 0, -1, -2, 1])))))
    return found


@pytest.mark.parametrize("seed", range(2))
def test_damaged_streams_have_the_statuses_and_pixels_of_zlib(engine: Any, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_inflate, "zlib", zlib)
    monkeypatch.setattr(_inflate, "ZlibError", zlib.error)
    seen = set()
    for streams, n in damaged(20, seed):
        expected, truths = inflate(CpuEngine(), DEFLATE, streams, n, 1)
        found, contents = inflate(engine, DEFLATE, streams, n, 1)
        assert found == expected
        assert [c for c, s in zip(contents, found, strict=True) if not s] == [c for c, s in zip(truths, expected, strict=True) if not s]
        seen |= {code & 31 for code in found}
    assert seen >= {0, Rule.INPUT, Rule.OUTPUT, Rule.SHORT, Rule.DEFLATE}
