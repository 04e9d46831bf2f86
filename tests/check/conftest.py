"""A series of MIB files."""

from __future__ import annotations

import pathlib

import pytest

from gpuio import synth
from tests.check.sets import NAV, PER_FILE, SIG, random_frames


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """scan.hdr and scan1.mib to scan4.mib with 61, 61, 61 and 38 frames, and a pause after each line."""
    synth.write("mib", tmp_path / "scan.mib", [random_frames()], nav_shape=NAV, sig_shape=SIG, kind="U16", frames_per_file=PER_FILE,
                line_pause_s=0.0004)
    return tmp_path
