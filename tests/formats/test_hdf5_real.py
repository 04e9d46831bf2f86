"""Recorded HDF5 files, where they are at hand: pixels that two independent readers agree on, and their axes."""

from __future__ import annotations

import pytest

from tests.formats.recorded import check, needs_recordings, rows

AXES = {
    "Si100_3D.emd": [("R_x", "nm"), ("R_y", "nm"), ("bin_outer_angle", "mrad")],
    "py4DSTEM_size2x3x4x5.h5": [("Rx", "nm"), ("Ry", "nm"), ("Qx", "A^-1"), ("Qy", "A^-1")],
}


@needs_recordings
@pytest.mark.parametrize(("name", "shape", "dtype", "digest"), rows("hdf5"))
def test_recorded_pixels(name, shape, dtype, digest):
    ds = check(name, shape, dtype, digest)
    assert ds.notes == ()
    assert ds.metadata["convention"] == "EMD"
    assert [(axis["name"], axis["unit"]) for axis in ds.metadata["nav_axes"] + ds.metadata["sig_axes"]] == AXES[name.rpartition("/")[2]]
