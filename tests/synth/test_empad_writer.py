"""EMPAD files as they are written, against the format's description."""

from __future__ import annotations

import os
from xml.etree import ElementTree

import numpy as np
import pytest

from gpuio import synth
from gpuio.errors import DataSetException, ShapeError

FRAMES = np.random.default_rng(1).normal(size=(15, 128, 128)).astype("f4")


def write(folder, frames=FRAMES, nav_shape=(3, 5), sig_shape=(128, 128), **options):
    return synth.write("empad", folder / "a & b.xml", [frames[:4], frames[4:]], nav_shape=nav_shape, sig_shape=sig_shape, **options)


@pytest.mark.parametrize("dtype", ["f4", ">f8"])
def test_frames_are_followed_by_two_rows(tmp_path, dtype):
    raw = np.fromfile(write(tmp_path, FRAMES.astype(dtype))[1], "<f4").reshape(15, 130, 128)
    np.testing.assert_array_equal(raw[:, :128], FRAMES)
    assert (raw[:, 128:] < 0).all() and (raw[:, 128:] == np.round(raw[:, 128:])).all()


@pytest.mark.parametrize("version", ["0.51", "1.2.2"])
@pytest.mark.parametrize(("nav_shape", "name"), [((3, 5), "scan_x5_y3.raw"), ((15,), "series_x15.raw")])
def test_the_xml_names_the_raw_file_and_the_shape_of_the_scan(tmp_path, version, nav_shape, name):
    paths = write(tmp_path, nav_shape=nav_shape, version=version)
    assert paths == [str(tmp_path / "a & b.xml"), str(tmp_path / name)]
    root = ElementTree.parse(paths[0]).getroot()
    assert root.tag == "root" and root.get("name") == "a & b"
    assert root.find("raw_file").get("filename") == name and root.findtext("software_version") == version
    assert root.findtext("type") == ({1: "series", 2: "scan"}[len(nav_shape)] if version == "0.51" else None)
    if len(nav_shape) == 1:
        assert root.findtext("scan_parameters/series_count") == "15"
        assert root.findtext("count") == ("15" if version == "0.51" else None)
    else:
        for mode in ("search", "acquire"):
            scan = root.find(f"scan_parameters[@mode='{mode}']")
            assert (scan.findtext("scan_resolution_y"), scan.findtext("scan_resolution_x")) == ("3", "5")
        assert (root.findtext("pix_y"), root.findtext("pix_x")) == (("3", "5") if version == "0.51" else (None, None))


@pytest.mark.parametrize(("kwargs", "error", "message"), [
    ({"sig_shape": (128, 127)}, ShapeError, r"sig_shape is \(128, 127\); expected \(128, 128\)"),
    ({"nav_shape": (1, 3, 5)}, ShapeError, r"nav_shape is \(1, 3, 5\); expected \(y, x\), or \(n,\)"),
    ({"nav_shape": (4, 4)}, ShapeError, "there are 15 frames; expected 16"),
    ({"version": "9"}, DataSetException, "version '9'; expected one of 0.51, 1.2.2"),
    ({"frames": FRAMES.astype("f8") + 1e-12}, DataSetException, "cannot be written as float32"),
])
def test_what_cannot_be_written_is_refused_and_nothing_is_left(tmp_path, kwargs, error, message):
    with pytest.raises(error, match=message):
        write(tmp_path, **kwargs)
    assert os.listdir(tmp_path) == []
