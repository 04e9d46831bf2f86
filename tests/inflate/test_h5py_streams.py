"""Chunks as h5py and hdf5plugin write them: each byte comes back on both engines, nothing beside is touched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuio.layout import Filter
from tests.inflate.conftest import inflate
from tests.inflate.streams import CONTENTS, OPTIONS, data, stored, through_h5py

#: Chunks without a whole group of eight, with tails of 0 to 7 elements, with short last blocks, with and without whole vectors.
SIZES = (1, 7, 8, 18, 131, 264, 1333, 4100, 9217)
#: The fibers that kernels run on here take their time.
SIZES_ON_FIBERS = (1, 7, 18, 131, 264, 4100)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8"])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_byte_comes_back(engine: Any, name: str, dtype: str) -> None:
    for n in SIZES_ON_FIBERS if engine.name != "cpu" and engine.xp is np else SIZES:
        for shift, content in enumerate(CONTENTS):
            truth = data(content, n, dtype)
            filters, chunk, mask = stored(truth, **OPTIONS[name])
            assert engine.inflates(filters) is None
            at = 8 * (shift % 2) + shift // 2
            found, contents = inflate(engine, filters, [chunk], truth.nbytes, truth.itemsize, [mask], shift=at)
            assert (found, contents) == ([0], [truth.tobytes()]), (n, content)


@pytest.mark.parametrize("rest", range(8))
def test_elements_behind_the_last_group_are_stored_as_they_are(engine: Any, rest: int) -> None:
    for name in ("bitshuffle lz4", "bitshuffle"):
        for dtype in ("u1", "u2", "f4", "c8", "c16"):
            truth = data("noise", 1032 + rest, "u1").astype(dtype)
            filters, chunk, mask = stored(truth, **OPTIONS[name])
            found, contents = inflate(engine, filters, [chunk], truth.nbytes, truth.itemsize, [mask])
            assert (found, contents) == ([0], [truth.tobytes()])


def test_many_chunks_of_a_call_have_masks_of_their_own(engine: Any) -> None:
    filters: tuple[Filter, ...] = ()
    truths, chunks, masks = [], [], []
    for seed in range(12):
        truth = data("noise" if seed % 3 == 0 else "counts", 600, "u2", seed)
        filters, chunk, mask = stored(truth, compression="lzf", shuffle=True, fletcher32=True)
        truths.append(truth.tobytes())
        chunks.append(chunk)
        masks.append(mask)
    assert {0, 2} == set(masks), "LZF leaves noise alone"
    found, contents = inflate(engine, filters, chunks, 1200, 2, masks)
    assert found == [0] * 12
    assert contents == truths


@pytest.mark.parametrize("mask", range(8))
def test_any_filter_may_be_skipped(engine: Any, mask: int) -> None:
    truth = data("counts", 512, "u2")
    shuffled = truth.tobytes() if mask & 1 else truth.view(np.uint8).reshape(-1, 2).T.tobytes()
    chunk = shuffled if mask & 2 else stored(np.frombuffer(shuffled, np.uint8), **OPTIONS["lz4 in blocks"])[1]
    if not mask & 4:
        chunk = stored(np.frombuffer(chunk, np.uint8), fletcher32=True)[1]
    filters = (Filter("shuffle", (2,)), Filter("lz4", (1000,)), Filter("fletcher32"))
    assert through_h5py(filters, chunk, mask, 512, "u2") == truth.tobytes()
    assert inflate(engine, filters, [chunk], 1024, 2, [mask]) == ([0], [truth.tobytes()])


def test_a_checksum_within_compressed_bytes_is_checked_there(engine: Any) -> None:
    truth = data("counts", 700, "u2").tobytes()
    summed = stored(np.frombuffer(truth, np.uint8), fletcher32=True)[1]
    wrong = summed[:-1] + bytes([summed[-1] ^ 1])
    filters = (Filter("fletcher32"), Filter("lz4", (1000,)))
    chunks = [stored(np.frombuffer(s, np.uint8), **OPTIONS["lz4 in blocks"])[1] for s in (summed, wrong)]
    found, contents = inflate(engine, filters, chunks, 1400, 2)
    assert found[0] == 0 and contents[0] == truth
    assert found[1] & 31 == 10


def test_two_shuffles_and_a_codec_hand_chunks_to_each_other(engine: Any) -> None:
    truth = data("ramp", 1000, "u4")
    first = np.frombuffer(stored(truth, **OPTIONS["shuffle"])[1], np.uint8)
    second = np.frombuffer(stored(first.view("u2"), **OPTIONS["bitshuffle"])[1], np.uint8)
    chunk = stored(second, compression="lzf")[1]
    filters = (Filter("shuffle", (4,)), Filter("bitshuffle", (0, 4, 2, 0, 0)), Filter("lzf", (4, 261, 4000)))
    assert inflate(engine, filters, [chunk], 4000, 4) == ([0], [truth.tobytes()])
