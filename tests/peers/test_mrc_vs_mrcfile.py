"""MRC files that mrcfile writes, and ours that it reads; either byte order, extended headers, stacks of volumes."""

from __future__ import annotations

import numpy as np
import pytest

import gpuio
from gpuio import synth
from tests.formats.items import assert_same, random_items

mrcfile = pytest.importorskip("mrcfile", reason="mrcfile is not installed; it is part of the test extra")

MODES = {0: "i1", 1: "i2", 2: "f4", 4: "c8", 6: "u2", 12: "f2"}
SHAPE = (6, 11, 13)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", "<>")
def test_what_mrcfile_writes_is_read(tmp_path, mode, order):
    frames = random_items(mode, SHAPE, MODES[mode])
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(frames.astype(frames.dtype.newbyteorder(order)))
        file.set_image_stack()
    ds = gpuio.open(tmp_path / "a.mrc", device="cpu")
    assert (ds.format, tuple(ds.shape)) == ("mrc", SHAPE)
    assert_same(ds[...], frames)


@pytest.mark.parametrize("kind", ["volume", "stack"])
def test_volumes_and_stacks_of_them(tmp_path, kind):
    data = random_items(3, (2, 3, 11, 13) if kind == "stack" else (6, 11, 13), "i2")
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(data)
        file.voxel_size = 2.5
        file.set_extended_header(np.frombuffer(b"x" * 101, "V1"))
    ds = gpuio.open(tmp_path / "a.mrc", device="cpu")
    assert_same(ds[...], data)
    assert (ds.metadata["pixel_size_x_A"], ds.metadata["data_offset_bytes"]) == (2.5, 1125)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("extended", [b"", b"x" * 100])
def test_what_we_write_mrcfile_reads_and_finds_nothing_wrong_with(tmp_path, mode, order, extended):
    frames = random_items(mode, SHAPE, MODES[mode])
    path = tmp_path / "a.mrc"
    synth.write("mrc", path, [frames[:2], frames[2:]], nav_shape=(6,), sig_shape=SHAPE[1:], mode=mode, byteorder=order, extended=extended)
    with mrcfile.open(path) as file:
        assert file.data.dtype == frames.dtype.newbyteorder(order)
        np.testing.assert_array_equal(file.data, frames)
        assert (file.is_image_stack(), file.extended_header.tobytes()) == (True, extended)
