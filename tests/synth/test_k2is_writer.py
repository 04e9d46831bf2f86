"""The K2IS writer against the published addresses of pixels, and what it refuses."""

from __future__ import annotations

import os

import numpy as np
import pytest

from gpuio import synth
from gpuio.errors import DataSetException, ShapeError
from tests.formats.k2is_files import BLOCK, ENDS, STARTS, header

SIG = (1860, 2048)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Three frames with a lead of one and a trail of one: frames, and the bytes of each sector."""
    folder = tmp_path_factory.mktemp("k2is")
    frames = np.random.default_rng(1).integers(0, 4096, (3, *SIG), dtype="u2")
    paths = synth.write("k2is", str(folder / "cap.gtg"), iter(np.split(frames, [1])), nav_shape=(3, 1), lead=1, trail=1,
                        first_block=2**32 - 40)
    assert paths == [str(folder / "cap.gtg"), *(str(folder / f"cap{k}.bin") for k in range(1, 9))]
    assert sorted(os.listdir(folder)) == sorted(os.path.basename(p) for p in paths)
    return frames, [np.fromfile(p, "u1") for p in paths[1:]]


def test_pixels_lie_at_the_published_addresses(written):
    frames, sectors = written
    y, x = np.ogrid[:1860, :2048]
    k, xs, half = x >> 8, x & 255, y >= 930
    block, row = 16 * half + 15 - (xs >> 4), y - 930 * half
    p = k * 715520 + block * 22360 + 40 + 24 * row + 3 * ((xs & 15) >> 1)
    assert [int(p[at]) for at in ((0, 0), (0, 255), (930, 240), (1859, 2047))] == [335440, 61, 357800, 5388757]
    empty = np.zeros(SIG, "u2")
    for number, frame in enumerate([empty, *frames, empty]):
        s = np.concatenate([sector[number * 715520:(number + 1) * 715520] for sector in sectors]).astype("u2")
        even, odd = s[p] | (s[p + 1] & 15) << 8, s[p + 1] >> 4 | s[p + 2] << 4
        assert np.array_equal(np.where(xs & 1, odd, even), frame)


def test_headers_are_the_published_ones(written):
    _, sectors = written
    for sector in sectors:
        blocks = sector.reshape(-1, BLOCK)
        assert len(blocks) == 5 * 32
        for n, block in enumerate(blocks):
            # The flag of a scan comes a frame late: frame 1 is the first given one.
            assert block[:40].tobytes() == header(2**32 - 40 + n, 57 + n // 32, int(n // 32 >= 2), n % 32)


@pytest.mark.parametrize("version", [3, 4])
def test_the_gtg_says_how_large_the_scan_is(tmp_path, version):
    from gpuio.formats._dmtags import read_tags
    from gpuio.source import HostFiles

    frames = np.ones((6, *SIG), "u1")
    (path, *_) = synth.write("k2is", tmp_path / "cap7.bin", [frames], nav_shape=(1, 3, 2), gtg_version=version)
    assert path == str(tmp_path / "cap7_.gtg") and (tmp_path / "cap7_8.bin").exists()
    tags = read_tags(HostFiles(), path)
    assert tags.version == version
    assert tags.values[("SI Dimensions", "Size Y")] == 3 and tags.values[("SI Dimensions", "Size X")] == 2
    paths = synth.write("k2is", tmp_path / "s.bin", [frames], nav_shape=(6,), scan=False)
    assert not any("SI Dimensions" in name for name in read_tags(HostFiles(), paths[0]).values)
    assert synth.write("k2is", tmp_path / "t.bin", [frames], nav_shape=(6,), gtg=False)[0] == str(tmp_path / "t1.bin")


def test_sectors_are_cut_where_asked(tmp_path):
    frames = np.random.default_rng(2).integers(0, 4096, (3, *SIG), dtype="u2")
    whole = synth.write("k2is", tmp_path / "a.gtg", [frames], nav_shape=(3,))
    cut = synth.write("k2is", tmp_path / "b.gtg", iter(frames[:, None]), nav_shape=(3,), cut_start=STARTS, cut_end=ENDS)
    for k in range(8):
        stored = np.fromfile(whole[1 + k], "u1").reshape(-1, BLOCK)
        assert np.array_equal(np.fromfile(cut[1 + k], "u1").reshape(-1, BLOCK), stored[STARTS[k]:96 - ENDS[k]])


@pytest.mark.parametrize(("frames", "options", "error", "message"), [
    (np.ones((2, 1860, 2047), "u2"), {}, ShapeError, "expected \\(n, 1860, 2048\\)"),
    (np.ones((1, *SIG), "u2"), {}, ShapeError, "there are 1 frames; expected 2"),
    (np.ones((2, *SIG), "u2"), {"sig_shape": (256, 256)}, ShapeError, r"sig_shape is \(256, 256\); K2IS frames have \(1860, 2048\)"),
    (np.ones((2, *SIG), "u2"), {"nav_shape": (0,)}, ShapeError, "nav_shape is \\(0,\\)"),
    (np.full((2, *SIG), 4096, "u2"), {}, DataSetException, "values from 4096 to 4096 cannot be written in 12 bit; expected 0 to 4095"),
    (np.full((2, *SIG), -1, "i2"), {}, DataSetException, "values from -1 to -1"),
    (np.ones((2, *SIG), "f4"), {}, DataSetException, "frames of float32 cannot be written; expected integers"),
    (np.ones((2, *SIG), "u1"), {"cut_start": (1, 2)}, DataSetException, r"cut_start \(1, 2\)"),
    (np.ones((2, *SIG), "u1"), {"cut_end": (65,) * 8}, DataSetException, "8 numbers of blocks from 0 to 64"),
    (np.ones((2, *SIG), "u1"), {"lead": -1}, DataSetException, "lead -1"),
    (np.ones((2, *SIG), "u1"), {"gtg_version": 5}, DataSetException, "gtg_version is 5; expected 3 or 4"),
])
def test_what_cannot_be_written_leaves_no_file(tmp_path, frames, options, error, message):
    with pytest.raises(error, match=message):
        synth.write("k2is", tmp_path / "a.gtg", [frames], **{"nav_shape": (2,), **options})
    assert os.listdir(tmp_path) == []


def test_the_detector_of_a_format_need_not_be_named():
    assert synth.detector("k2is") == SIG and synth.detector("npy") is None
    with pytest.raises(DataSetException, match="format 'nope' cannot be written"):
        synth.detector("nope")
