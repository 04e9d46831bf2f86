"""References by which Zarr and xarray read vendors' files in place: equal to the frames that were written."""

from __future__ import annotations

import json

import fsspec
import h5py
import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner

import gpuio
from gpuio import synth
from gpuio.cli import main
from gpuio.integrations import references

RNG = np.random.default_rng(12)


def zarr_group(refs):
    system = fsspec.filesystem("reference", fo=refs, asynchronous=True)
    return zarr.open_group(zarr.storage.FsspecStore(system, read_only=True, path=""), mode="r", zarr_format=2)


def open_xarray(refs):
    return xr.open_dataset("reference://", engine="zarr", backend_kwargs={"consolidated": False, "storage_options": {"fo": refs}})


def check(ds, truth):
    """Zarr and xarray see the pixels that were written; returns the chunks that Zarr sees."""
    refs = json.loads(json.dumps(ds.to_virtual()), parse_constant=pytest.fail)
    array = zarr_group(refs)["data"]
    assert (array.shape, array.dtype.newbyteorder("=")) == (truth.shape, truth.dtype)
    np.testing.assert_array_equal(array[...], truth)
    data = open_xarray(refs).data
    assert data.dtype == truth.dtype
    np.testing.assert_array_equal(data.values, truth)
    return array.chunks


@pytest.mark.parametrize("sync_offset", [0, 3, -11])
@pytest.mark.parametrize("name", ["npy", "raw", "line"])
def test_every_pixel_is_the_one_written_and_blanks_are_zero(scan, name, sync_offset):
    check(scan(name).open(sync_offset=sync_offset), scan(name).truth(sync_offset))


def written(folder, format, dtype, sig=(13, 20), **options):
    frames = RNG.integers(0, 250, (35, *sig)).astype(dtype)
    paths = synth.write(format, folder / f"scan.{format}", [frames], nav_shape=(5, 7), sig_shape=sig, **options)
    return gpuio.open(paths[0], device="cpu", nav_shape=(5, 7)), frames.reshape(5, 7, *sig)


@pytest.mark.parametrize(("format", "dtype", "options"), [
    ("mib", "u1", {"kind": "U08", "frames_per_file": 9}), ("mib", "u2", {"kind": "U16"}), ("mib", "u4", {"kind": "U32"}),
    ("tvips", "u2", {}), ("seq", "u2", {}), ("mrc", "f4", {}), ("blo", "u1", {"sig": (13, 13)}), ("dm", "i4", {}),
    ("npy", "c16", {}), ("npy", "?", {}), ("empad", "f4", {"sig": (128, 128)}),
], ids=lambda value: value if isinstance(value, str) else "")
def test_formats_with_plain_pixels_are_read_in_place(tmp_path, format, dtype, options):
    ds, truth = written(tmp_path, format, dtype, **options)
    chunks = check(ds, truth)
    assert chunks == ((5, 7, *truth.shape[2:]) if format in ("dm", "npy", "mrc") else (1, 1, *truth.shape[2:]))


def test_chunks_are_as_many_whole_lines_as_lie_in_one_piece(tmp_path, monkeypatch):
    ds, truth = written(tmp_path, "npy", "u2")
    frame = 13 * 20 * 2
    for n_bytes, chunk in ((35 * frame, (5, 7)), (34 * frame, (1, 7)), (6 * frame, (1, 1))):
        monkeypatch.setattr(references, "CHUNK_BYTES", n_bytes)
        assert check(ds, truth)[:2] == chunk
    longer, truth = written(tmp_path, "mrc", "u2")
    half = gpuio.load("mrc", path=longer.files[0], nav_shape=(6, 7), device="cpu")      # the last line is blank
    monkeypatch.setattr(references, "CHUNK_BYTES", 10 * frame)
    shown = np.concatenate([truth, np.zeros_like(truth[:1])])
    assert check(half, shown)[:2] == (1, 7)
    assert sum(isinstance(v, list) for v in half.to_virtual()["refs"].values()) == 5


def test_calibrations_and_metadata_are_in_the_references(tmp_path):
    ds, _ = written(tmp_path, "blo", "u1", (9, 9))
    direct, virtual = xr.open_dataset(ds.files[0], engine="gpuio"), open_xarray(ds.to_virtual())
    xr.testing.assert_identical(virtual.load().drop_encoding(), direct.load())


@pytest.mark.parametrize(("name", "options", "reason"), [
    ("mib", {}, "packed \\(mib_r12\\)"), ("fortran", {}, "navigation is stored fastest"), ("npy", {"bin_sig": 2}, "cropped or binned"),
])
def test_what_zarr_cannot_read_is_refused(scan, name, options, reason):
    with pytest.raises(gpuio.UnsupportedFeature, match=f"{scan(name).open().files[0]}: .*{reason}") as caught:
        scan(name).open(**options).to_virtual()
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*looks like a TIA SER file")
def test_rows_from_the_bottom_and_parts_are_refused(tmp_path):
    ds, _ = written(tmp_path, "ser", "u2")
    with pytest.raises(gpuio.UnsupportedFeature, match="top to bottom"):
        ds.to_virtual()
    part = gpuio.load("raw", path=ds.files[0], dtype="u1", nav_shape=(2,), detector_size_raw=(9, 6), crop_detector_to=(9, 4), device="cpu")
    with pytest.raises(gpuio.UnsupportedFeature, match="one piece"):
        part.to_virtual()
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file.create_dataset("data", data=np.ones((5, 7, 8, 9), "u2"), chunks=(1, 1, 8, 9), compression="gzip")
    with pytest.raises(gpuio.UnsupportedFeature, match="kerchunk and VirtualiZarr"):
        gpuio.open(tmp_path / "scan.h5", device="cpu").to_virtual()
    with pytest.raises(gpuio.UnsupportedFeature, match="memory: .*not in files"):
        gpuio.load("memory", data=np.ones((3, 4, 5)), sig_dims=2, device="cpu").to_virtual()


def test_the_command_writes_a_file_that_xarray_opens(scan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["refs", scan("npy").path, "-p", "sync_offset=3"])
    assert (result.exit_code, result.stdout) == (0, "npy.refs.json: 74 chunks\n")
    np.testing.assert_array_equal(open_xarray("npy.refs.json").data.values, scan("npy").truth(3))
    again = CliRunner().invoke(main, ["refs", scan("npy").path])
    assert again.exit_code == 1 and "already exists; --force replaces it" in again.stderr
    forced = CliRunner().invoke(main, ["refs", scan("npy").path, "--force", "--json", "-o", "npy.refs.json"])
    assert json.loads(forced.stdout)["chunks"] == 1
    np.testing.assert_array_equal(open_xarray("npy.refs.json").data.values, scan("npy").truth())
    refused = CliRunner().invoke(main, ["refs", scan("mib").path])
    assert refused.exit_code == 1 and refused.stderr.startswith("error: ") and refused.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["npy.refs.json"]
