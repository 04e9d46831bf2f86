"""LZ4 and LZF from streams packed by hand: every kind of length and distance, on both engines, beside the plugins of HDF5."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuio.layout import Filter
from tests.inflate.conftest import inflate
from tests.inflate.streams import framed, lz4_block, shuffled_bits, through_h5py, unshuffled_bits

LZ4 = (Filter("lz4", (0,)),)
BITSHUFFLE = (Filter("bitshuffle", (0, 4, 2, 0, 2)),)
NOISE = np.random.default_rng(3).integers(0, 256, 70000, dtype=np.uint8).tobytes()

DISTANCES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 63, 64, 100)
LENGTHS = (4, 7, 8, 9, 15, 16, 17, 18, 19, 20, 31, 32, 33, 63, 64, 65, 96, 271, 272, 273, 274, 530, 1000)


def check(engine: Any, filters: tuple[Filter, ...], chunk: bytes, expected: bytes) -> None:
    found, (content,) = inflate(engine, filters, [chunk], len(expected), 2, shift=len(expected) % 16)
    assert found == [0]
    assert content == expected


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("constant", [False, True])
def test_matches_repeat_what_is_before_them(engine: Any, distance: int, constant: bool) -> None:
    before = b"\x5c" * distance if constant else NOISE[:distance]
    sequences = [(before, distance, 4)] + [(NOISE[i:i + i % 3], distance, length) for i, length in enumerate(LENGTHS)]
    block, expected = lz4_block(sequences, NOISE[:5])
    chunk = framed([block], len(expected), 1 << 20)
    assert through_h5py(LZ4, chunk, 0, len(expected), "u1") == expected
    check(engine, LZ4, chunk, expected)


@pytest.mark.parametrize("distance", [65535, 65534, 40000])
def test_matches_reach_back_65535_bytes(engine: Any, distance: int) -> None:
    block, expected = lz4_block([(NOISE[:distance], distance, 40), (b"", distance, 4)], NOISE[:7])
    check(engine, LZ4, framed([block], len(expected), 1 << 20), expected)


@pytest.mark.parametrize("count", [0, 1, 14, 15, 16, 17, 31, 32, 33, 269, 270, 271, 525])
def test_literals_of_every_length(engine: Any, count: int) -> None:
    block, expected = lz4_block([(b"ab", 2, 6), (NOISE[:count], 1, 9)], NOISE[:count])
    check(engine, LZ4, framed([block], len(expected), 1 << 20), expected)


@pytest.mark.parametrize("distance", [1, 2, 3, 31, 32])
def test_blocks_of_bit_planes_may_have_any_matches(engine: Any, distance: int) -> None:
    sequences = [(NOISE[:40], distance, 30), (NOISE[40:41], distance, 4000), (b"", 2, 90), (NOISE[41:100], 1, 3870 - distance)]
    block, planes = lz4_block(sequences, NOISE[:102 + distance])
    assert len(planes) == 8192
    tail = NOISE[:6]
    expected = unshuffled_bits(planes, "u2") + unshuffled_bits(planes, "u2") + tail
    check(engine, BITSHUFFLE, framed([block, block], len(expected), 8192, tail), expected)


@pytest.mark.parametrize(("dtype", "elements"), [("u1", 8), ("u2", 264), ("u4", 136), ("u8", 96), ("u8", 8)])
def test_bit_planes_packed_by_numpy(engine: Any, dtype: str, elements: int) -> None:
    item = np.dtype(dtype).itemsize
    pixels = np.frombuffer(NOISE[:elements * item], dtype)
    block, _ = lz4_block([], shuffled_bits(pixels))
    check(engine, (Filter("bitshuffle", (0, 4, item, 0, 2)),), framed([block], pixels.nbytes, 8192), pixels.tobytes())


def test_blocks_may_be_smaller_than_the_parameters_say(engine: Any) -> None:
    planes = [shuffled_bits(np.frombuffer(NOISE[i:i + 32], "u2")) for i in range(0, 8224, 32)]
    chunk = framed([lz4_block([], p)[0] for p in planes], 8224, 32)
    check(engine, BITSHUFFLE, chunk, NOISE[:8224])
    blocks = [NOISE[i:i + 10] for i in range(0, 20000, 10)]             # as long as what comes out: stored as they are
    check(engine, LZ4, framed(blocks, 20000, 10), NOISE[:20000])


def test_blocks_may_be_larger_than_the_chunk(engine: Any) -> None:
    pixels = np.frombuffer(NOISE[:96], "u2")
    check(engine, BITSHUFFLE, framed([lz4_block([], shuffled_bits(pixels))[0]], 96, 8192), pixels.tobytes())


def test_worked_examples(engine: Any) -> None:
    values = (np.arange(18) * 257).astype("u2").tobytes()
    for filters, stream in (
            ((Filter("bitshuffle", (0, 4, 2, 0, 2)),),
             "0000000000000024 00002000 00000015 93AAAACCCCF0F000FF000100071000500000000000 10101111"),
            ((Filter("deflate", (4,)),), "785E05C185010020080030905249FF7FD60D00712D22661155B3BDCFB9D73D22B3AA7BE6BD0F0EAF0133"),
            ((Filter("shuffle", (2,)), Filter("deflate", (4,))), "785E6360646266616563E7E0E4E2E6E1E5E3171064C010010012780133"),
            (LZ4, "0000000000000024 00000024 00000024" + values.hex())):
        check(engine, filters, bytes.fromhex(stream), values)
    zeros = bytes.fromhex("0000002B 1F000100" + 32 * "FF" + "07 50 0000000000")
    chunk = bytes.fromhex("0000000000024000 00002000") + 18 * zeros
    assert len(chunk) == 858
    check(engine, (Filter("bitshuffle", (0, 3, 4, 0, 2)),), chunk, bytes(147456))


@pytest.mark.parametrize("controls", [
    [("literals", 1), ("match", 1, 3), ("match", 1, 8), ("match", 1, 9), ("match", 1, 264)],
    [("literals", 32), ("match", 32, 40), ("match", 31, 100), ("literals", 7), ("match", 3, 200), ("match", 2, 17)],
    [("literals", 32)] * 300 + [("match", 8192, 264), ("match", 8191, 33), ("match", 300, 9), ("literals", 31)],
])
def test_lzf(engine: Any, controls: list[tuple[Any, ...]]) -> None:
    packed, out = bytearray(), bytearray()
    for control in controls:
        if control[0] == "literals":
            literals = NOISE[len(out):len(out) + control[1]]
            packed += bytes([control[1] - 1]) + literals
            out += literals
        else:
            distance, length = control[1] - 1, control[2] - 2
            packed += bytes([min(7, length) << 5 | distance >> 8]) + (bytes([length - 7]) if length >= 7 else b"") + bytes([distance & 255])
            for _ in range(control[2]):
                out.append(out[-control[1]])
    filters = (Filter("lzf", (4, 261, len(out))),)
    assert through_h5py(filters, bytes(packed), 0, len(out), "u1") == bytes(out)
    check(engine, filters, bytes(packed), bytes(out))
