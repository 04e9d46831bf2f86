"""Bad chunks: every rule has its vectors, both engines name the rule and the block, and chunks beside a bad one are good."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from gpuio.engine import inflate_status
from gpuio.inflation import LAST_BLOCK, RULES, Rule, status
from gpuio.layout import Filter
from tests.inflate.conftest import inflate
from tests.inflate.streams import OPTIONS, big, data, framed, lz4_block, stored

BITS = (Filter("bitshuffle", (0, 4, 2, 0, 2)),)
LZ4 = (Filter("lz4", (8192,)),)
LZF = (Filter("lzf", (4, 261, 20480)),)
SUM = (Filter("fletcher32"),)
DEFLATE = (Filter("deflate", (4,)),)
N = 20480                               # bytes of a chunk: blocks of 8192, 8192 and 4096
TRUTH = data("counts", N // 2, "u2").tobytes()
NOISE = data("noise", N, "u1").tobytes()


def blocks_of(option: str) -> list[bytes]:
    chunk = stored(np.frombuffer(TRUTH, "u2"), **OPTIONS[option])[1]
    found, at = [], 12
    while at < len(chunk):
        size = int.from_bytes(chunk[at:at + 4], "big")
        found.append(chunk[at + 4:at + 4 + size])
        at += 4 + size
    return found


BLOCKS = blocks_of("bitshuffle lz4")
SEQUENCE = b"\x10a"                     # one literal, then a match of 4


def bits(*blocks: bytes, total: int = N, size: int = 8192, tail: bytes = b"") -> bytes:
    return framed(blocks, total, size, tail)


def broken(block: bytes, k: int = 1) -> bytes:
    """A chunk whose block `k` is `block`."""
    return bits(*BLOCKS[:k], block, *BLOCKS[k + 1:])


@dataclass(frozen=True)
class Bad:
    filters: tuple[Filter, ...]
    chunk: bytes
    rule: Rule
    block: int = 0


good = bits(*BLOCKS)
long_block = lz4_block([(b"a", 1, 8191)], b"")[0]
BAD = {
    "no header": Bad(BITS, b"", Rule.HEADER),
    "half a header": Bad(BITS, good[:11], Rule.HEADER),
    "total too small": Bad(BITS, bits(*BLOCKS, total=N - 2), Rule.TOTAL),
    "total far too large": Bad(BITS, bits(*BLOCKS, total=N + (1 << 32)), Rule.TOTAL),
    "blocks of nothing": Bad(BITS, bits(*BLOCKS, size=0), Rule.BLOCK_SIZE),
    "blocks that cut elements": Bad(BITS, bits(*BLOCKS, size=8191), Rule.BLOCK_SIZE),
    "blocks that cut groups": Bad(BITS, bits(*BLOCKS, size=8192 + 2), Rule.BLOCK_SIZE),
    "blocks larger than agreed": Bad(BITS, bits(*BLOCKS, size=16384), Rule.BLOCK_SIZE),
    "no blocks": Bad(BITS, good[:12], Rule.BEYOND, 0),
    "cut in a size": Bad(BITS, good[:12 + 4 + len(BLOCKS[0]) + 3], Rule.BEYOND, 1),
    "cut in a block": Bad(BITS, good[:-1], Rule.BEYOND, 2),
    "a block far beyond": Bad(BITS, bits(*BLOCKS[:2]) + big(0xffffffff, 4) + BLOCKS[2], Rule.BEYOND, 2),
    "bytes left over": Bad(BITS, good + b"\0", Rule.LEFT_OVER),
    "tail where there is none": Bad(BITS, bits(*BLOCKS, tail=b"1234"), Rule.LEFT_OVER),
    "lz4: an empty block": Bad(BITS, broken(b""), Rule.INPUT, 1),
    "lz4: a length without end": Bad(BITS, broken(b"\xf0" + b"\xff" * 9), Rule.INPUT, 1),
    "lz4: literals beyond the input": Bad(BITS, broken(b"\x50abcd"), Rule.INPUT, 1),
    "lz4: half a distance": Bad(BITS, broken(SEQUENCE + b"\1"), Rule.INPUT, 1),
    "lz4: a match length without end": Bad(BITS, broken(b"\x1fa\1\0\xff\xff"), Rule.INPUT, 1),
    "lz4: no last literals": Bad(BITS, broken(SEQUENCE + b"\1\0"), Rule.INPUT, 1),
    "lz4: too many literals": Bad(BITS, broken(lz4_block([], NOISE[:8193])[0], 0), Rule.OUTPUT, 0),
    "lz4: too long a match": Bad(BITS, broken(lz4_block([(b"a", 1, 8192)])[0]), Rule.OUTPUT, 1),
    "lz4: far too long a match": Bad(BITS, broken(b"\x1fa\1\0" + b"\xff" * 4000 + b"\0\0"), Rule.OUTPUT, 1),
    "lz4: distance zero": Bad(BITS, broken(SEQUENCE + b"\0\0" + b"\0"), Rule.DISTANCE, 1),
    "lz4: distance before the block": Bad(BITS, broken(SEQUENCE + b"\2\0" + b"\0"), Rule.DISTANCE, 1),
    "lz4: distance before the first literal": Bad(BITS, broken(b"\0\1\0\0", 0), Rule.DISTANCE, 0),
    "lz4: too few": Bad(BITS, broken(lz4_block([(b"a", 1, 8190)])[0]), Rule.SHORT, 1),
    "lz4: a last block too long": Bad(BITS, broken(long_block, 2), Rule.OUTPUT, 2),
    "lz4: the first of two bad blocks": Bad(BITS, bits(BLOCKS[0], SEQUENCE + b"\0\0\0", b"\x50"), Rule.DISTANCE, 1),
    "lz4 filter: half a header": Bad(LZ4, good[:11], Rule.HEADER),
    "lz4 filter: total": Bad(LZ4, framed([NOISE[:8192]], 8192, 8192), Rule.TOTAL),
    "lz4 filter: blocks of nothing": Bad(LZ4, framed([NOISE], N, 0), Rule.BLOCK_SIZE),
    "lz4 filter: too few blocks": Bad(LZ4, framed([NOISE[:8192]] * 2, N, 8192), Rule.BEYOND, 2),
    "lz4 filter: a block too long": Bad(LZ4, framed([NOISE[:8192]] * 2 + [long_block], N, 8192), Rule.OUTPUT, 2),
    "lz4 filter: bytes left over": Bad(LZ4, framed([NOISE[:8192]] * 2 + [NOISE[:4096]], N, 8192, b"\0"), Rule.LEFT_OVER),
    "lzf: nothing": Bad(LZF, b"", Rule.SHORT),
    "lzf: literals beyond the input": Bad(LZF, b"\x1f" + NOISE[:31], Rule.INPUT),
    "lzf: a match without distance": Bad(LZF, b"\0a\x20", Rule.INPUT),
    "lzf: a match without length": Bad(LZF, b"\0a\xe0\1", Rule.INPUT),
    "lzf: distance before the chunk": Bad(LZF, b"\0a\x20\1", Rule.DISTANCE),
    "lzf: too many literals": Bad(LZF, b"\0a" + b"\xe0\xff\0" * 77 + (b"\x1f" + NOISE[:32]) * 5, Rule.OUTPUT),
    "lzf: too long a match": Bad(LZF, b"\0a" + b"\xe0\xff\0" * 78, Rule.OUTPUT),
    "lzf: too few": Bad(LZF, b"\0a" + b"\xe0\xff\0" * 3, Rule.SHORT),
    "no room for a checksum": Bad(SUM, b"abc", Rule.HEADER),
    "wrong checksum": Bad(SUM, NOISE + b"\0\0\0\1", Rule.CHECKSUM),
    "wrong checksum and wrong size": Bad(SUM, NOISE[:-1] + b"\0\0\0\1", Rule.CHECKSUM),
    "a wrong size": Bad(SUM, stored(np.frombuffer(NOISE[:-1], "u1"), fletcher32=True)[1], Rule.STORED),
    "shuffle of too few": Bad((Filter("shuffle", (2,)),), NOISE[:-1], Rule.STORED),
    "bitshuffle of too many": Bad((Filter("bitshuffle", (0, 4, 2, 0, 0)),), NOISE + b"\0", Rule.STORED),
    "deflate: nothing": Bad(DEFLATE, b"", Rule.INPUT),
    "deflate: not a stream": Bad(DEFLATE, NOISE[:100], Rule.DEFLATE),
    "deflate: cut": Bad(DEFLATE, zlib.compress(TRUTH)[:-20], Rule.INPUT),
    "deflate: cut in the checksum": Bad(DEFLATE, zlib.compress(TRUTH)[:-1], Rule.INPUT),
    "deflate: wrong checksum": Bad(DEFLATE, zlib.compress(TRUTH)[:-1] + b"\x7f", Rule.DEFLATE),
    "deflate: too many": Bad(DEFLATE, zlib.compress(TRUTH + b"\0"), Rule.OUTPUT),
    "deflate: a bomb": Bad(DEFLATE, zlib.compress(bytes(1 << 24)), Rule.OUTPUT),
    "deflate: too few": Bad(DEFLATE, zlib.compress(TRUTH[:-1]), Rule.SHORT),
    "deflate: bytes left over": Bad(DEFLATE, zlib.compress(TRUTH) + b"\0", Rule.LEFT_OVER),
}
GOOD = {BITS: good, LZ4: framed([NOISE[:8192]] * 2 + [NOISE[:4096]], N, 8192), DEFLATE: zlib.compress(TRUTH),
        LZF: b"".join(b"\x1f" + NOISE[i:i + 32] for i in range(0, N, 32)), SUM: stored(np.frombuffer(NOISE, "u1"), fletcher32=True)[1]}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_chunk_has_a_status_that_names_rule_and_block(engine: Any, name: str) -> None:
    bad = BAD[name]
    beside = GOOD.get(bad.filters, NOISE)
    found, _ = inflate(engine, bad.filters, [beside, bad.chunk, beside], N, 2)
    assert [found[0], found[2]] == [0, 0]
    assert inflate_status(found[1]) == inflate_status(status(bad.rule, bad.block))


def test_every_rule_has_a_vector() -> None:
    assert {bad.rule for bad in BAD.values()} == set(Rule) == set(RULES)


def test_good_ones_are_good(engine: Any) -> None:
    for filters, chunk in GOOD.items():
        assert inflate(engine, filters, [chunk], N, 2)[0] == [0]


def test_statuses_in_words() -> None:
    assert inflate_status(0) == "good"
    assert inflate_status(status(Rule.DISTANCE, 7)) == "a match begins before the first byte (block 7)"
    assert inflate_status(status(Rule.CHECKSUM)) == "the Fletcher-32 checksum is wrong"
    assert inflate_status(status(Rule.SHORT, 1 << 40)).endswith(f"(block {LAST_BLOCK})")
    assert 0 < status(Rule.SHORT, 1 << 40) < status(Rule.HEADER, 2) < status(Rule.SHORT, 1) < 1 << 31


def test_a_swapped_checksum_of_old_hdf5_is_right(engine: Any) -> None:
    chunk = GOOD[SUM]
    a, b, c, d = chunk[-4:]
    assert inflate(engine, SUM, [chunk[:-4] + bytes([b, a, d, c])], N, 2)[0] == [0]
    assert inflate(engine, SUM, [chunk[:-4] + bytes([c, d, a, b])], N, 2)[0] != [0]


@pytest.mark.parametrize("content", [b"\xff\xff" * 5000, b"\0" * 9999, b"\xff" * 9999, NOISE[:9999], b"\1", NOISE[:8193]])
def test_checksums_are_those_of_hdf5(engine: Any, content: bytes) -> None:
    chunk = stored(np.frombuffer(content, "u1"), fletcher32=True)[1]
    assert inflate(engine, SUM, [chunk], len(content), 1) == ([0], [content])


@pytest.mark.parametrize("row", [
    (-1, 10, 0, 0), (0, -1, 0, 0), (0, 101, 0, 0), (91, 10, 0, 0), (1 << 62, 1 << 62, 0, 0), (0, 10, -1, 0), (0, 10, 1 << 32, 0),
    (0, 10, 0, -1), (0, 10, 0, 41), (0, 10, 0, 1 << 62),
])
def test_chunks_outside_of_the_buffers_are_refused_before_anything_is_inflated(engine: Any, row: tuple[int, ...]) -> None:
    staged, out = np.zeros(100, np.uint8), np.full(100, 7, np.uint8)
    staged, out = (engine.upload(a) if engine.xp is not np else a for a in (staged, out))
    call = engine.inflater((Filter("shuffle", (2,)),), 60, 2).bind(staged, out)
    with pytest.raises(ValueError, match=r"chunk 1: \[.*\] \(src, size, mask, at\) does not lie within 100 staged bytes, and its 60 bytes"):
        call(np.array([(0, 60, 0, 0), row]))
    assert (engine.download(out) == 7).all()
    assert engine.download(call(np.zeros((0, 4), np.int64))).tolist() == []
    for wrong in (np.zeros((1, 3), np.int64), np.zeros((1, 4), np.int32), np.zeros(4, np.int64)):
        with pytest.raises(ValueError, match=r"expected int64\[n, 4\]"):
            call(wrong)


def test_buffers_of_another_form_are_refused(engine: Any) -> None:
    inflater = engine.inflater(SUM, 10, 1)
    good = np.zeros(20, np.uint8)
    with pytest.raises(TypeError, match="staged is uint16; expected uint8"):
        inflater.bind(good.view("u2"), good)
    with pytest.raises(ValueError, match=r"out has shape \[10\] and strides \[2\]; expected contiguous"):
        inflater.bind(good, good[::2])
    with pytest.raises(ValueError, match="staged has shape"):
        inflater.bind(good.reshape(2, 10), good)


@pytest.mark.parametrize(("filters", "reason"), [
    ((Filter("hdf5_32015"),), "filter 32015 (Zstandard) is not inflated"),
    ((Filter("hdf5_4", (1, 2)),), "filter 4 (SZIP) is not inflated"),
    ((Filter("hdf5_31999"),), "filter 31999 is not inflated"),
    ((Filter("zip"),), "filter 'zip' is unknown"),
    ((Filter("bitshuffle", (0, 4, 2, 0, 3)),),
     "filter 32008 (bitshuffle) with codec 3 (Zstandard) is not inflated; 0 (none) and 2 (LZ4) are"),
    ((Filter("lzf"), Filter("lz4")), "filter lz4 is applied to bytes that are compressed already; that is not inflated"),
    ((Filter("lzf"), Filter("shuffle", (2,))), "filter shuffle is applied to bytes that are compressed already; that is not inflated"),
    ((Filter("fletcher32"),) * 33, "33 filters; expected 32 or fewer"),
    ((), None),
    ((Filter("shuffle"), Filter("lzf"), Filter("fletcher32")), None),
    ((Filter("bitshuffle"),), None),
])
def test_filters_that_are_not_inflated_are_named(engine: Any, filters: tuple[Filter, ...], reason: str | None) -> None:
    assert engine.inflates(filters) == reason
    if reason:
        with pytest.raises(ValueError) as caught:
            engine.inflater(filters, 64, 2)
        assert str(caught.value) == reason


@pytest.mark.parametrize(("filters", "chunk_bytes", "message"), [
    (SUM, 0, "chunks of 0 bytes; expected 1 to 4294967295"),
    (SUM, 1 << 32, "chunks of 4294967296 bytes"),
    ((Filter("shuffle", (0,)),), 64, "shuffle of elements of 0 bytes"),
    ((Filter("bitshuffle", (0, 4, 3, 0, 2)),), 64, "bitshuffle of elements of 3 bytes in 64 bytes; expected a multiple"),
    ((Filter("bitshuffle", (0, 4, 2, 12, 2)),), 64, "bitshuffle in blocks of 12 elements; expected a multiple of 8"),
    ((Filter("bitshuffle", (0, 4, 2, -8, 2)),), 64, "bitshuffle in blocks of -8 elements"),
])
def test_parameters_that_do_not_fit_are_refused(engine: Any, filters: tuple[Filter, ...], chunk_bytes: int, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        engine.inflater(filters, chunk_bytes, 2)
    assert message in str(caught.value)


def test_chunks_without_filters_are_moved(engine: Any) -> None:
    assert inflate(engine, (), [NOISE[:99], NOISE[1:99]], 99, 1)[1][0] == NOISE[:99]
    assert [inflate_status(s) for s in inflate(engine, (), [NOISE[:99], NOISE[1:99]], 99, 1)[0]] == ["good", RULES[Rule.STORED]]
