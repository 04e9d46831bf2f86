"""xarray opens scans by ``engine="gpuio"``: every pixel, any way to select, calibrations and metadata."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

import gpuio
from gpuio import synth
from gpuio.integrations import xarray as bridge
from gpuio.integrations._attributes import attributes
from gpuio.integrations._pixels import Pixels
from tests.integrations.scans import NAMES

pytestmark = pytest.mark.filterwarnings("ignore:The specified chunks separate")     # which costs nothing here
DIMS = ("scan_y", "scan_x", "det_y", "det_x")


def open_scan(scan, **options):
    return xr.open_dataset(scan.path, engine="gpuio", **{**scan.parameters, **options})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sync_offset", [0, 5, -9])
def test_every_pixel_is_the_one_written_and_blanks_are_zero(scan, name, sync_offset):
    truth = scan(name).truth(sync_offset)
    for chunks in (None, {}, "auto", {"det_y": 5}):
        data = open_scan(scan(name), sync_offset=sync_offset, chunks=chunks).data
        assert (data.dims, data.shape, data.dtype) == (DIMS if truth.ndim == 4 else ("scan", *DIMS[2:]), truth.shape, truth.dtype)
        assert (data.chunks is None) == (chunks is None)
        assert type(data.values) is np.ndarray
        np.testing.assert_array_equal(data.values, truth)


@pytest.mark.parametrize("key", [
    {"scan_y": 3}, {"scan_x": slice(2, 9, 3), "det_y": -2}, {"scan_y": [5, 0, 0], "det_x": [3, 17, 4]}, {"scan_x": [], "det_y": 1},
    {"det_x": slice(None, None, -3), "scan_y": [1]}, {"det_y": []},
    {"scan_y": xr.DataArray([6, 0, 2], dims="spot"), "scan_x": xr.DataArray([10, 3, 3], dims="spot")},
    {"scan_x": xr.DataArray([6, 0], dims="spot"), "det_x": xr.DataArray([10, 3], dims="spot"), "scan_y": slice(1, 3)},
], ids=str)
@pytest.mark.parametrize("chunks", [None, {"scan_y": 2}])
def test_any_selection_is_that_of_the_frames(scan, key, chunks):
    data = open_scan(scan("mib"), sync_offset=4, chunks=chunks).data.isel(key)
    expected = xr.DataArray(scan("mib").truth(4), dims=DIMS).isel(key)
    xr.testing.assert_equal(data.drop_attrs(), expected)


def test_only_what_is_selected_is_read(scan, monkeypatch):
    read = []
    slice_of = Pixels.__getitem__
    monkeypatch.setattr(Pixels, "__getitem__", lambda self, key: read.append(slice_of(self, key)) or read[-1])
    data = open_scan(scan("mib")).data.isel(scan_y=slice(1, 6)).isel(scan_y=2, det_y=slice(3, 5))
    assert not read
    np.testing.assert_array_equal(data.values, scan("mib").truth()[3, :, 3:5])
    assert [part.size for part in read] == [data.size]


def test_chunks_are_those_of_whole_frames_and_files(scan, monkeypatch):
    monkeypatch.setattr(bridge, "frame_chunks", lambda ds, dtype: ((2, 2, 3), (11,), (13,), (20,)))
    data = open_scan(scan("mib"), chunks={}).data
    assert data.chunks == ((2, 2, 3), (11,), (13,), (20,))
    assert data.data.name == open_scan(scan("mib"), chunks={}).data.data.name
    np.testing.assert_array_equal(data.compute(scheduler="processes", num_workers=2).values, scan("mib").truth())


def test_a_lazy_data_set_pickles_small(scan):
    opened = open_scan(scan("mib"), sync_offset=2)
    blob = pickle.dumps(opened)
    assert len(blob) < 16 << 10
    np.testing.assert_array_equal(pickle.loads(blob).data.values, scan("mib").truth(2))


def test_corrections_are_applied(scan):
    dark = np.random.default_rng(7).integers(0, 50, (13, 20))
    data = open_scan(scan("mib"), corrections=gpuio.CorrectionSet(dark=dark)).data
    assert data.dtype == np.float32
    np.testing.assert_array_equal(data.values, (scan("mib").truth().astype("f4") - dark).astype("f4"))


# -- calibrations and metadata -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transposed", [False, True])
def test_calibrations_become_coordinates(tmp_path, transposed):
    frames = np.random.default_rng(5).integers(0, 999, (35, 11, 13), dtype="u2")
    synth.write("dm", tmp_path / "scan.dm4", [frames], nav_shape=(5, 7), sig_shape=(11, 13), transposed=transposed)
    opened = xr.open_dataset(tmp_path / "scan.dm4", engine="gpuio")
    np.testing.assert_array_equal(opened.data.values, frames.reshape(5, 7, 11, 13))
    for dim, size, step, unit in zip(DIMS, (5, 7, 11, 13), (0.5, 0.5, 0.25, 0.25), ("nm", "nm", "1/nm", "1/nm"), strict=True):
        coordinate = opened[dim]
        np.testing.assert_array_equal(coordinate.values - coordinate.values[0], np.arange(size) * step)
        assert coordinate.attrs == {"units": unit}
    entry = [*opened.attrs["nav_axes"], *opened.attrs["sig_axes"]]
    assert entry                                                # as JSON texts
    near = opened.data.sel(scan_y=float(opened.scan_y[3]) + 0.1, method="nearest")
    np.testing.assert_array_equal(near.values, frames.reshape(5, 7, 11, 13)[3])
    other = xr.open_dataset(tmp_path / "scan.dm4", engine="gpuio", nav_shape=(7, 5))        # not the axes that are calibrated
    assert list(other.coords) == ["det_y", "det_x"]


def test_single_numbers_calibrate_the_axes_that_they_are_of(tmp_path):
    frames = np.random.default_rng(5).integers(0, 255, (6, 9, 9), dtype="u1")
    synth.write("blo", tmp_path / "scan.blo", [frames], nav_shape=(2, 3), sig_shape=(9, 9))
    opened = xr.open_dataset(tmp_path / "scan.blo", engine="gpuio")
    for dim, key, unit in (("scan_y", "scan_step_y_nm", "nm"), ("scan_x", "scan_step_x_nm", "nm"), ("det_y", "pixel_size_cm", "cm")):
        np.testing.assert_array_equal(opened[dim].values, np.arange(opened.sizes[dim]) * opened.attrs[key])
        assert opened[dim].attrs["units"] == unit

    synth.write("ser", tmp_path / "scan.ser", [frames.astype("u2")], nav_shape=(2, 3), sig_shape=(9, 9))
    opened = xr.open_dataset(tmp_path / "scan.ser", engine="gpuio")
    assert (np.diff(opened.det_y) < 0).all()                    # the bottom row is the lowest
    np.testing.assert_array_equal(opened.data.values, frames.reshape(2, 3, 9, 9))
    assert opened.scan_x.attrs == {"units": "m"}                # the file says "meters"
    np.testing.assert_allclose(np.diff(opened.scan_x), 1e-9, rtol=1e-12)


def test_coordinates_of_a_reduced_detector_are_those_of_its_blocks(tmp_path):
    frames = np.random.default_rng(5).integers(0, 255, (6, 9, 9), dtype="u1")
    synth.write("blo", tmp_path / "scan.blo", [frames], nav_shape=(2, 3), sig_shape=(9, 9))
    opened = xr.open_dataset(tmp_path / "scan.blo", engine="gpuio", crop=((1, 8), None), bin_sig=(2, 3))
    blocks = frames.reshape(2, 3, 9, 9)[:, :, 1:7].astype("u4").reshape(2, 3, 3, 2, 3, 3).sum(axis=(3, 5))
    np.testing.assert_array_equal(opened.data.values, blocks)
    np.testing.assert_allclose(opened.det_y, np.array([1.5, 3.5, 5.5]) * opened.attrs["pixel_size_cm"], rtol=1e-14)
    np.testing.assert_allclose(opened.det_x, np.array([1, 4, 7]) * opened.attrs["pixel_size_cm"], rtol=1e-14)


def test_metadata_become_attributes_that_netcdf_can_hold(scan, tmp_path):
    opened = open_scan(scan("mib"))
    metadata = scan("mib").open().metadata
    assert opened.attrs["file_format"] == "mib" and opened.attrs["exposure_s"] == metadata["exposure_s"]
    opened.isel(scan_y=slice(2)).to_netcdf(tmp_path / "part.nc", engine="scipy", encoding={"data": {"dtype": "i4"}})
    again = xr.open_dataset(tmp_path / "part.nc", engine="scipy")
    np.testing.assert_array_equal(again.data.values, scan("mib").truth()[:2])
    assert again.attrs["chip_layout"] == "1x1"
    odd = {"a": {"b": True, "c": [1, 2]}, "d": None, "e": [{"f": (1, "x")}], "g": 1 << 70, "h": ("p", "q"), "i": [1, "x"], "j": [],
           "k": [1, 1 << 70], "l": [-(1 << 63), (1 << 63) - 1], "m": [0.5, 1e300]}
    assert attributes(odd) == {
        "a.b": 1, "a.c": [1, 2], "e": '[{"f": [1, "x"]}]', "g": str(1 << 70), "h": '["p", "q"]', "i": '[1, "x"]', "j": "[]",
        "k": f"[1, {1 << 70}]", "l": [-(1 << 63), (1 << 63) - 1], "m": [0.5, 1e300]}


# -- the engine ----------------------------------------------------------------------------------------------------------


def test_files_are_recognised_without_the_engine_being_named(scan, tmp_path):
    engine = bridge.GpuioBackendEntrypoint()
    assert engine.guess_can_open(scan("mib").path) and engine.guess_can_open(scan("npy").path)
    np.testing.assert_array_equal(xr.open_dataset(scan("mib").path).data.values, scan("mib").truth())
    (tmp_path / "text.txt").write_text("no scan")
    for other in (tmp_path, tmp_path / "nothing.mib", tmp_path / "text.txt", "https://example.org/scan.mib", 5, scan("raw").path):
        assert not engine.guess_can_open(other)


def test_errors_are_those_of_gpuio(scan, tmp_path):
    (tmp_path / "text.mib").write_text("no scan" * 99)
    with pytest.raises(gpuio.UnknownFormat, match=r"text\.mib"):
        xr.open_dataset(tmp_path / "text.mib", engine="gpuio")
    with pytest.raises(gpuio.ShapeError, match="sync_offset"):
        open_scan(scan("mib"), sync_offset=77)
    assert "data" not in open_scan(scan("mib"), drop_variables="data")


def test_a_missing_package_is_named_with_its_extra():
    code = ("import sys; sys.modules['xarray'] = None\nimport gpuio\n"
            "try: gpuio.xarray\nexcept gpuio.BackendUnavailable as error: print(error)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("; install gpuio[xarray]\n") and done.stdout.count("\n") == 1
