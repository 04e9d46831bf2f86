"""The same DM3 and DM4 files read by gpuio and by ncempy, which shows arrays in the order of storage and skips previews."""

from __future__ import annotations

import numpy as np
import pytest

import gpuio
from gpuio import synth
from tests.formats.items import assert_same, random_items

dm = pytest.importorskip("ncempy.io.dm", reason="ncempy is not installed; it is part of the test extra")

NAV, SIG = (3, 5), (7, 11)


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("dtype", ["i2", "f4", "u1", "i4", "i1", "u2", "u4", "f8"])
@pytest.mark.parametrize("transposed", [False, True])
def test_scans_are_the_same_as_stored(tmp_path, version, dtype, transposed):
    scan = random_items(1, (*NAV, *SIG), dtype)
    path = str(tmp_path / f"a.dm{version}")
    synth.write("dm", path, [scan.reshape(15, *SIG)], nav_shape=NAV, sig_shape=SIG, version=version, transposed=transposed)
    theirs = dm.dmReader(path)
    stored = scan.transpose(2, 3, 0, 1) if transposed else scan
    np.testing.assert_array_equal(theirs["data"], stored)
    ds = gpuio.load("dm", path=path, device="cpu")
    assert_same(ds[...], scan)
    axes = ds.metadata["sig_axes"] + ds.metadata["nav_axes"] if transposed else ds.metadata["nav_axes"] + ds.metadata["sig_axes"]
    assert [axis["delta"] for axis in axes] == list(theirs["pixelSize"])
    assert [axis["unit"] for axis in axes] == list(theirs["pixelUnit"])


@pytest.mark.parametrize("version", [3, 4])
def test_files_of_a_list_are_the_same(tmp_path, version):
    frames = random_items(2, (7, *SIG), "u2")
    paths = synth.write("dm", tmp_path / f"a.dm{version}", [frames], nav_shape=(7,), sig_shape=SIG, version=version, frames_per_file=3)
    theirs = [dm.dmReader(path)["data"].reshape(-1, *SIG) for path in paths]
    assert_same(gpuio.load("dm", files=paths, device="cpu")[...], np.concatenate(theirs))
