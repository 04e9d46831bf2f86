"""The same DM, BLO, MRC and SER files read by gpuio and by RosettaSciIO."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest

import gpuio
from gpuio import synth
from tests.formats.items import assert_same, random_items
from tests.formats.recorded import FOLDER, needs_recordings, rows

pytest.importorskip("rsciio", reason="RosettaSciIO is not installed; it is part of the test extra")

NAV, SIG = (3, 5), (7, 11)
READERS = {"dm": "digitalmicrograph", "blo": "blockfile", "mrc": "mrc", "ser": "tia"}


def theirs(format, path):
    """The array of each image of a file, in native byte order."""
    found = import_module(f"rsciio.{READERS[format]}").file_reader(str(path))
    arrays = [np.asarray(image["data"]) for image in found]
    return [array.astype(array.dtype.newbyteorder("=")) for array in arrays]


#: Format, ending, sig shape, dtype, options of the writer.
CASES = [
    *(("dm", "dm3", SIG, dtype, {"version": 3}) for dtype in ("u1", "i2", "f4")),
    *(("dm", "dm4", SIG, dtype, {"version": 4}) for dtype in ("i1", "u2", "i4", "u4", "f8")),
    ("dm", "dm4", SIG, "u2", {"version": 4, "transposed": True}),
    ("blo", "blo", (11, 11), "u1", {}),
    *(("mrc", "mrc", SIG, dtype, {}) for dtype in ("i2", "f4", "u2")),
    *(("ser", "ser", SIG, dtype, {}) for dtype in ("u1", "u2", "u4", "i2", "i4", "f4", "f8")),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format, ending, sig, dtype, options", CASES)
def test_scans_are_the_same(tmp_path, format, ending, sig, dtype, options):
    scan = random_items(1, (*NAV, *sig), dtype)
    path = synth.write(format, tmp_path / f"a.{ending}", [scan.reshape(15, *sig)], nav_shape=NAV, sig_shape=sig, **options)[0]
    ds = gpuio.open(path, device="cpu")
    found, = theirs(format, path)
    ours = ds[...]
    assert_same(ours.reshape(15, *sig), scan.reshape(15, *sig))
    stored = scan.transpose(2, 3, 0, 1) if options.get("transposed") else scan
    assert found.dtype == ours.dtype
    np.testing.assert_array_equal(found.reshape(-1), stored.reshape(-1))


@needs_recordings
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "shape", "dtype", "digest"), [row for format in READERS for row in rows(format)])
def test_recorded_files_hold_the_same(name, shape, dtype, digest):
    ours = gpuio.open(FOLDER / name, device="cpu")[...]
    found, = theirs(name.split("/")[0], FOLDER / name)
    assert_same(ours.reshape(found.shape), found)
