"""Recorded DM3 and DM4 files, where they are at hand: pixels that two independent readers agree on."""

from __future__ import annotations

import pytest

from tests.formats.recorded import check, needs_recordings, rows


@needs_recordings
@pytest.mark.parametrize(("name", "shape", "dtype", "digest"), rows("dm"))
def test_recorded_pixels(name, shape, dtype, digest):
    ds = check(name, shape, dtype, digest)
    assert ds.notes == ()
    assert ds.metadata["dm_version"] == int(name[-1])
    assert [axis["size"] for axis in ds.metadata["nav_axes"] + ds.metadata["sig_axes"]] == list(shape[-len(ds.metadata["shape"]):])
