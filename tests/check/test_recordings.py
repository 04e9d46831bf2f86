"""Recorded files have no errors."""

from __future__ import annotations

import os
import pathlib

import pytest

from gpuio.check import check

REAL = pathlib.Path(os.environ.get("GPUIO_REAL_DATA", "/nonexistent"))


@pytest.mark.skipif(not (REAL / "mib").is_dir(), reason="GPUIO_REAL_DATA does not name a folder with recorded files")
def test_recorded_mib_files_have_no_errors() -> None:
    paths = sorted((REAL / "mib").glob("*.mib"))
    assert len(paths) >= 9
    for path in paths:
        report = check(path, disable_glob=True)
        assert (path.name, report.findings) == (path.name, ())
        assert report.headers_read == report.image_count
    assert check(REAL / "mib" / "001_4x2_6bit.mib").candidates[0].nav_shape == (2, 4)
