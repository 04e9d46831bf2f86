"""Recorded files, against what two independent public readers agree on.

The environment variable GPUIO_REAL_DATA names a folder with a README.md, whose table has a row a data set: file, origin,
licence, arguments, shape, dtype and SHA-256 of the pixels in C order and native byte order.
"""

from __future__ import annotations

import ast
import hashlib
import os
import pathlib

import numpy as np
import pytest

import gpuio

FOLDER = pathlib.Path(os.environ.get("GPUIO_REAL_DATA", "/nonexistent"))
pytestmark = pytest.mark.skipif(not (FOLDER / "README.md").is_file(),
                                reason="GPUIO_REAL_DATA does not name a folder with recorded files and their README.md")

#: Sums of frames, computed from the published formulas.
FRAME_SUMS = {"001_4x2_6bit.mib": [448386, 449671, 452147, 455427, 450760, 453755, 455591, 457927]}


def rows():
    """The MIB rows of the table: file to open, arguments, shape, dtype, SHA-256."""
    if not (FOLDER / "README.md").is_file():
        return []
    found = []
    for line in (FOLDER / "README.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 7 and cells[0].startswith("mib/"):
            name, _, _, arguments, shape, dtype, digest = cells
            kwargs = {} if arguments == "path" else ast.literal_eval(arguments)
            found.append(pytest.param(name.split(" + ")[0], kwargs, ast.literal_eval(shape), dtype, digest, id=name.split("/")[1]))
    return found


def test_the_table_has_mib_rows():
    assert len(rows()) >= 10


@pytest.mark.parametrize("name,arguments,shape,dtype,digest", rows())
def test_recorded_pixels(name, arguments, shape, dtype, digest):
    ds = gpuio.load("mib", path=str(FOLDER / name), device="cpu", **arguments)
    assert (tuple(ds.shape), ds.dtype) == (shape, np.dtype(dtype))
    data = np.ascontiguousarray(ds[:])
    assert hashlib.sha256(data).hexdigest() == digest
    tiles = np.zeros((int(np.prod(shape[:-2])), *shape[-2:]), "float32")
    for tile in ds.tiles(dtype="float32"):
        first = tile.tile_slice.origin[0]
        tiles[first:first + tile.shape[0]] = tile.data
    assert np.array_equal(tiles.reshape(shape), data.astype("float32"))


@pytest.mark.parametrize("name,sums", FRAME_SUMS.items())
def test_recorded_frame_sums(name, sums):
    ds = gpuio.load("mib", path=str(FOLDER / "mib" / name), disable_glob=True, device="cpu")
    assert ds.sum_sig().ravel().tolist() == sums


def test_a_recorded_hdr_is_found_beside_its_data_and_read():
    (path,) = (FOLDER / "mib").glob("002_*.mib")
    ds = gpuio.open(path, device="cpu")
    assert tuple(ds.shape) == (2, 4, 128, 256) and ds.notes == ()
    expected = {"chip_ids": ["W559_G11"], "software_version": "1.5.0.197", "sensor_bias_V": 120.0, "clock_MHz": 120.0, "exposure_s": 0.001,
                "counter_depth_bit": 12, "time_utc_first": "2024-07-02T11:46:44.035393175Z"}
    assert {key: ds.metadata[key] for key in expected} == expected
    hot = np.asarray(ds[0, 0])
    assert hot[39, 52] == hot.max() > 10 * np.median(hot)


def test_recordings_of_two_kinds_beside_each_other_are_kept_apart():
    plain, packed = (np.asarray(gpuio.open(FOLDER / "mib" / f"Single_1_Frame_CounterDepth_1_Rows_256{raw}.mib", device="cpu")[0])
                     for raw in ("", "RAW"))
    assert plain.shape == packed.shape == (256, 256) and plain.dtype == np.uint8 and packed.max() == 1
