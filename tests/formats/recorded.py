"""Recorded files, and what two independent public readers agree that they hold.

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
HERE = (FOLDER / "README.md").is_file()
needs_recordings = pytest.mark.skipif(not HERE, reason="GPUIO_REAL_DATA does not name a folder with recorded files and their README.md")


def rows(format):
    """The rows of a format as parameters of a test: path in the folder, shape, dtype, SHA-256."""
    found = []
    for line in (FOLDER / "README.md").read_text("utf-8").splitlines() if HERE else ():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 7 and cells[0].startswith(f"{format}/"):
            found.append(pytest.param(cells[0], ast.literal_eval(cells[4]), cells[5], cells[6], id=cells[0].split("/")[1]))
    return found


def check(name, shape, dtype, digest, device="cpu"):
    """Open a recorded file without naming its format; whole and in tiles it has the pixels that are said."""
    ds = gpuio.open(FOLDER / name, device=device)
    assert (ds.format, tuple(ds.shape), ds.dtype) == (name.split("/")[0], shape, np.dtype(dtype))
    assert hashlib.sha256(np.ascontiguousarray(ds[...])).hexdigest() == digest
    tiles = np.zeros((ds.image_count, *ds.shape.sig), dtype)
    for tile in ds.tiles(depth=3):
        tiles[tile.tile_slice.get(nav_only=True)] = tile.data
    assert hashlib.sha256(tiles).hexdigest() == digest
    return ds
