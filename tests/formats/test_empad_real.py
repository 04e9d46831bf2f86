"""A recorded EMPAD XML, against what two independent public readers agree on.

The environment variable GPUIO_REAL_DATA names a folder with a README.md, whose table has a row a data set: files, origin,
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


def rows():
    """The EMPAD rows of the table: XML, raw file, shape, dtype, SHA-256."""
    if not (FOLDER / "README.md").is_file():
        return []
    found = []
    for line in (FOLDER / "README.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 7 and cells[0].startswith("empad/"):
            xml, raw = cells[0].split(" + ")
            found.append((xml, str(pathlib.Path(xml).parent / raw), ast.literal_eval(cells[4]), cells[5], cells[6]))
    return found


def test_the_table_has_an_empad_row():
    assert rows()


@pytest.mark.parametrize(("xml", "raw", "shape", "dtype", "digest"), rows())
def test_recorded_pixels(xml, raw, shape, dtype, digest):
    for path in (xml, raw):
        ds = gpuio.open(FOLDER / path, device="cpu")
        assert (ds.format, tuple(ds.shape), ds.dtype, ds.notes) == ("empad", shape, np.dtype(dtype), ())
        assert hashlib.sha256(np.ascontiguousarray(ds[:])).hexdigest() == digest
        tiles = np.zeros(shape, dtype)
        for tile in ds.tiles(depth=3):
            tiles[tile.tile_slice.get(nav_only=True)] = tile.data
        assert hashlib.sha256(tiles).hexdigest() == digest


def test_what_a_recorded_xml_says():
    ds = gpuio.open(FOLDER / "empad" / "stack_images.xml", device="cpu")
    expected = {"name": "acquisition_11", "type": "series", "software_version": "0.51 211118", "time_local": "2019-06-07T13:17:22.590279",
                "exposure_time": 1, "background_image": "/home/empad/backgrounds/img_exp_1_frm_0_cnt_1000_0002"}
    assert {key: ds.metadata[key] for key in expected} == expected
