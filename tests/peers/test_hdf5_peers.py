"""The same HDF5 files read by gpuio, by LiberTEM 0.16 and by RosettaSciIO 0.15; and all against the arrays that h5py wrote.

==========================  ==================================================
file                        LiberTEM
==========================  ==================================================
one frame                   does not open (two axes)
master of data files        by name, only one part
==========================  ==================================================

RosettaSciIO reads files of the formats that it knows by name: here HyperSpy and EMD.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import h5py
import numpy as np
import pytest

import gpuio
from gpuio import synth
from tests.formats.hdf5_files import BY_LIBRARY, PACKED, counts
from tests.formats.items import assert_same
from tests.peers import libertem_frames

NAV, SIG = (5, 7), (13, 11)

#: Storage, dtype, parameters of load.
CASES: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "contiguous": ({}, "u2", {}),
    "big-endian": ({}, ">u2", {}),
    "float64": ({}, "f8", {}),
    "chunks of frames": (dict(chunks=(1, 3, *SIG)), "u2", {}),
    "boxes": (dict(chunks=(2, 3, 4, 5)), "u2", {}),
    "gzip": (dict(chunks=(2, 3, 4, 5), **PACKED["gzip shuffle"]), ">i4", {}),
    "bitshuffle": (dict(chunks=(1, 1, *SIG), **PACKED["bitshuffle lz4"]), "u2", {}),
    "blosc": (dict(chunks=(1, 2, *SIG), **BY_LIBRARY["blosc"]), "f4", {}),
    "skipping frames": (dict(chunks=(2, 3, 4, 5), **PACKED["lzf"]), "u2", {"sync_offset": 4}),
    "inserting frames": (dict(chunks=(2, 3, 4, 5), **PACKED["lz4"]), "u2", {"sync_offset": -3}),
    "another scan shape": ({}, "u2", {"nav_shape": (4, 6)}),
    "one sig axis": ({}, "u2", {"sig_dims": 1}),
}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """For each case: our frames, LiberTEM's, and the array."""
    pytest.importorskip("libertem", reason="LiberTEM is not installed; it is part of the test extra")
    folder = tmp_path_factory.mktemp("hdf5")
    jobs, ours, truth = [], {}, {}
    for i, (name, (storage, dtype, parameters)) in enumerate(CASES.items()):
        path = str(folder / f"{i}.h5")
        truth[name] = counts(i, NAV + SIG, dtype)
        with h5py.File(path, "w") as file:
            file.create_dataset("group/data", data=truth[name], **storage)
        jobs.append({"format": "hdf5", "path": path, "parameters": {"ds_path": "/group/data", **parameters}, "result": f"{path}.npz"})
        ours[name] = gpuio.load("hdf5", path=path, device="cpu", **parameters)
    theirs = dict(zip(CASES, libertem_frames.read(jobs), strict=True))
    return ours, theirs, truth


@pytest.mark.parametrize("case", CASES)
def test_frames_are_those_of_libertem(both, case):
    ours, theirs, truth = (each[case] for each in both)
    assert "error" not in theirs
    sig_dims = CASES[case][2].get("sig_dims", 2)
    assert (tuple(ours.shape.nav), tuple(ours.shape.sig)) == (tuple(theirs["nav"]), tuple(theirs["sig"]))
    offset = CASES[case][2].get("sync_offset", 0)
    frames = truth.reshape(-1, *truth.shape[-sig_dims:])
    position = np.arange(ours.shape.nav.size) + offset
    there = (position >= 0) & (position < len(frames))
    expected = np.zeros((len(position), *frames.shape[1:]), frames.dtype)
    expected[there] = frames[position[there]]
    found = ours[...].reshape(expected.shape)
    assert_same(found, expected)
    np.testing.assert_array_equal(theirs["frames"][there], expected[there])


def test_what_libertem_does_not_read(tmp_path):
    pytest.importorskip("libertem", reason="LiberTEM is not installed; it is part of the test extra")
    values = counts(1, (20, *SIG))
    image, master = str(tmp_path / "image.h5"), str(tmp_path / "scan_master.h5")
    with h5py.File(image, "w") as file:
        file["data"] = values[0]
    synth.write("hdf5", master, [values], nav_shape=(20,), sig_shape=SIG, frames_per_file=7)
    jobs = [{"format": "hdf5", "path": image, "parameters": {"ds_path": "/data"}, "result": f"{image}.npz"},
            {"format": "hdf5", "path": master, "parameters": {"ds_path": "/entry/data/data_000001"}, "result": f"{master}.npz"}]
    theirs = libertem_frames.read(jobs)
    assert "error" in theirs[0]
    assert len(theirs[1]["frames"]) == 7
    assert_same(gpuio.load("hdf5", path=image, device="cpu")[0], values[0])
    assert_same(gpuio.load("hdf5", path=master, device="cpu")[...], values)


ROSETTA = """
import json, sys, numpy as np
from importlib import import_module
for job in json.load(sys.stdin):
    found = import_module("rsciio." + job["reader"]).file_reader(job["path"])[0]
    axes = [(axis.get("name"), axis["scale"], axis["offset"], axis["units"].replace(" ", "")) for axis in found["axes"]]
    np.savez(job["result"], data=found["data"], axes=json.dumps(axes))
"""


def test_files_of_hyperspy_and_emd_beside_rosettasciio(tmp_path):
    pytest.importorskip("rsciio", reason="RosettaSciIO is not installed; it is part of the test extra")
    values = counts(2, NAV + SIG)
    units = [("y", 0.5, -1.0, "nm"), ("x", 0.25, 2.0, "nm"), ("ky", 2.0, 0.0, "1/nm"), ("kx", 3.0, 1.0, "1/nm")]
    jobs = []
    with h5py.File(tmp_path / "a.hspy", "w") as file:
        file.attrs.update({"file_format": "HyperSpy", "file_format_version": "3.3"})
        group = file.create_group("Experiments/a scan")
        group.create_dataset("data", data=values, chunks=(1, 2, *SIG), compression="gzip", shuffle=True)
        for name in ("metadata/General", "metadata/Signal", "original_metadata", "attributes", "learning_results"):
            group.create_group(name)
        group["metadata/General"].attrs["title"] = "a scan"
        group["metadata/Signal"].attrs["signal_type"] = ""
        for k, (name, scale, offset, unit) in enumerate(units):
            axis = group.create_group(f"axis-{k}")
            axis.attrs.update({"_type": "UniformDataAxis", "name": name, "scale": scale, "offset": offset, "units": unit,
                               "size": values.shape[k], "navigate": k < 2, "is_binned": False})
    jobs.append({"reader": "hspy", "path": str(tmp_path / "a.hspy"), "result": str(tmp_path / "a.npz")})
    with h5py.File(tmp_path / "b.emd", "w") as file:
        file.attrs.update({"version_major": 0, "version_minor": 2})
        group = file.create_group("data/cube")
        group.attrs["emd_group_type"] = 1
        group.create_dataset("data", data=values, chunks=(1, 1, *SIG))
        for k, (name, scale, offset, unit) in enumerate(units):
            group[f"dim{k + 1}"] = offset + scale * np.arange(values.shape[k])
            group[f"dim{k + 1}"].attrs.update({"name": name, "units": np.bytes_(f"[{unit}]")})
    jobs.append({"reader": "emd", "path": str(tmp_path / "b.emd"), "result": str(tmp_path / "b.npz")})
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", ROSETTA], input=json.dumps(jobs), text=True, capture_output=True,
                          check=False, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    for job in jobs:
        theirs = np.load(job["result"])
        ours = gpuio.open(job["path"], device="cpu")
        order = -1 if job["reader"] == "emd" else 1         # it turns all axes of EMD files round
        np.testing.assert_array_equal(theirs["data"].T if order < 0 else theirs["data"], values)
        assert_same(ours[...], values)
        axes = ours.metadata["nav_axes"] + ours.metadata["sig_axes"]
        assert [[axis["name"], axis["delta"], axis["first"], axis["unit"]] for axis in axes] == json.loads(str(theirs["axes"]))[::order]
