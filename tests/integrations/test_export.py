"""Exported scans hold what the source holds, read back by the containers' own libraries; and nothing half-written is ever left."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

import gpuio
from gpuio.base import CorrectionSet
from gpuio.errors import ReadError, UnsupportedFeature
from gpuio.integrations import _containers, export
from tests.pipeline.plain_files import PlainFiles, random_frames, write_files

NAV, SIG, N = (3, 7, 5), (11, 13), 97
DTYPES = [">u2", "<i4", "<f4", "?", "<c8", "u1"]


def scan(folder: Path, dtype: str, nav: tuple[int, ...] = NAV, sync_offset: int = -4) -> tuple[PlainFiles, np.ndarray]:
    """Three files, blanks at both ends, and what the positions show."""
    rng = np.random.default_rng(71)
    frames = random_frames(rng, N, SIG, np.dtype(dtype))
    folder.mkdir(exist_ok=True)
    paths = write_files(folder, frames, [40, 30, 27], 9, 2, 1, rng)
    ds = PlainFiles(paths, [40, 30, 27], dtype, SIG, nav, sync_offset, 9, 2, 1).initialize().to("cpu")
    shown = np.zeros((int(np.prod(nav)), *SIG), frames.dtype.newbyteorder("="))
    for i in range(len(shown)):
        if 0 <= i + sync_offset < N:
            shown[i] = frames[i + sync_offset]
    return ds, shown.reshape(*nav, *SIG)


def read(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".zarr":
        return zarr.open_group(str(path), mode="r")["data"][...]
    with h5py.File(path) as file:
        return file["data"][...]


@pytest.fixture
def small_runs(monkeypatch):
    """Runs of few frames, chunks of fewer, so that the scan is cut in every way."""
    monkeypatch.setattr(export, "RUN_BYTES", 3 * 11 * 13 * 2)
    monkeypatch.setattr(_containers, "CHUNK_BYTES", 2 * 11 * 13 * 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["scan.npy", "scan.h5", "scan.zarr"])
def test_every_pixel_is_written(tmp_path, small_runs, name, dtype):
    ds, shown = scan(tmp_path / "source", dtype)
    told = []
    done = ds.save(tmp_path / name, verify=True, progress=lambda done, total: told.append((done, total)))
    back = read(tmp_path / name)
    assert back.dtype == shown.dtype
    np.testing.assert_array_equal(back, shown)
    wide = {"u": "u8", "b": "u8", "i": "i8", "f": "f8", "c": "c16"}[shown.dtype.kind]
    compare = np.testing.assert_array_equal if wide in ("u8", "i8") else lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12)
    compare(done.scan_image, shown.astype(wide).sum(axis=(3, 4)))
    compare(done.summed_pattern, shown.astype(wide).sum(axis=(0, 1, 2)))
    assert done.verified and done.shape == (*NAV, *SIG) and told[-1] == (2 * 105, 2 * 105) and told == sorted(told)
    assert sorted(os.listdir(tmp_path)) == sorted([name, "source"]), "no temporary files are left"
    assert done.stored_bytes >= 105 * 143 * shown.itemsize if name != "scan.zarr" else done.stored_bytes > 0


@pytest.mark.parametrize("nav", [(105,), (7, 15), (105, 1), (1, 105), (5, 3, 7, 1)])
@pytest.mark.parametrize("frames", [1, 4, 20, 1000])
def test_runs_cover_scans_of_any_rank(tmp_path, monkeypatch, nav, frames):
    monkeypatch.setattr(export, "RUN_BYTES", frames * 286)
    monkeypatch.setattr(_containers, "CHUNK_BYTES", max(1, frames // 3) * 286)
    reached = 0
    for first, stop, box in export._boxes(nav, 286):
        inside = np.arange(105).reshape(nav)[box].ravel()
        np.testing.assert_array_equal(inside, np.arange(reached, stop))
        assert first == reached and stop - first <= max(frames, 1)
        reached = stop
    assert reached == 105
    ds, shown = scan(tmp_path / "source", "<u2", nav)
    ds.save(tmp_path / "scan.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "scan.npy"), shown)


@pytest.mark.parametrize("name", ["scan.h5", "scan.zarr"])
@pytest.mark.parametrize("compression", ["none", "gzip", "bitshuffle"])
def test_compressed_files_hold_the_same(tmp_path, small_runs, name, compression):
    ds, _ = scan(tmp_path / "source", "<u2")
    ds = ds.reduce(((2, 9), None), (2, 3), dtype="f4")
    done = ds.save(tmp_path / name, compression=compression)
    np.testing.assert_array_equal(read(tmp_path / name), ds[...])
    np.testing.assert_array_equal(done.summed_pattern, ds[...].astype("f8").sum(axis=(0, 1, 2)))
    if name == "scan.h5":
        with h5py.File(tmp_path / name) as file:
            plist = file["data"].id.get_create_plist()
            assert [plist.get_filter(i)[0] for i in range(plist.get_nfilters())] == {
                "none": [], "gzip": [2, 1], "bitshuffle": [32008]}[compression]
            assert file["data"].chunks[-2:] == (3, 4) and [d.label for d in file["data"].dims][-1] == "det_x"
    else:
        group = zarr.open_group(str(tmp_path / name), mode="r")
        assert group.metadata.zarr_format == 3 and group["data"].metadata.dimension_names[-1] == "det_x"


def test_corrections_and_dtype_are_those_of_tiles(tmp_path):
    ds, shown = scan(tmp_path / "source", "<u2")
    rng = np.random.default_rng(73)
    corrections = CorrectionSet(dark=rng.normal(5, 1, SIG), gain=rng.normal(1, 0.1, SIG), excluded_pixels=rng.random(SIG) < 0.05)
    ds.save(tmp_path / "scan.npy", corrections=corrections, dtype="f8")
    expected = np.zeros(shown.shape, "f8").reshape(-1, *SIG)
    for tile in ds.tiles(dtype="f8", corrections=corrections):
        expected[tile.tile_slice.get(nav_only=True)] = tile.data
    np.testing.assert_array_equal(np.load(tmp_path / "scan.npy").reshape(-1, *SIG), expected)


def test_files_tell_where_they_come_from_and_are_opened_again(tmp_path):
    values = np.random.default_rng(79).integers(0, 256, (4, 3, 9, 9), dtype="u1")
    gpuio.synth.write("blo", str(tmp_path / "scan.blo"), [values.reshape(12, 9, 9)], nav_shape=(4, 3), sig_shape=(9, 9))
    ds = gpuio.open(tmp_path / "scan.blo", device="cpu")
    ds.save(tmp_path / "scan.h5")
    ds.save(tmp_path / "scan.zarr")
    ds.save(tmp_path / "scan.npy")
    np.testing.assert_array_equal(gpuio.open(tmp_path / "scan.npy", device="cpu")[...], ds[...])
    with h5py.File(tmp_path / "scan.h5") as file:
        said = dict(file.attrs)
        np.testing.assert_array_equal(file["scan_image"][...], values.sum(axis=(2, 3)))
    assert json.loads(said["source"]) == ["scan.blo"] and said["format"] == "blo"
    assert json.loads(said["metadata"]).keys() == dict(ds.metadata).keys()
    xarray = pytest.importorskip("xarray")
    back = xarray.open_zarr(tmp_path / "scan.zarr", consolidated=False)
    assert back["data"].dims == ("scan_y", "scan_x", "det_y", "det_x")
    np.testing.assert_array_equal(back["data"].values, values)
    np.testing.assert_array_equal(back["summed_pattern"].values, values.sum(axis=(0, 1)))


def test_sums_of_pixels_lie_in_the_middle_of_them(tmp_path):
    values = np.random.default_rng(89).integers(0, 256, (12, 9, 9), dtype="u1")
    gpuio.synth.write("blo", str(tmp_path / "scan.blo"), [values], nav_shape=(4, 3), sig_shape=(9, 9))
    ds = gpuio.open(tmp_path / "scan.blo", device="cpu")
    step = ds.metadata["pixel_size_cm"]
    ds.reduce(((1, 9), None), (2, 3)).save(tmp_path / "scan.h5")
    with h5py.File(tmp_path / "scan.h5") as file:
        np.testing.assert_allclose(file["det_y"][...], step * np.array([1.5, 3.5, 5.5, 7.5]), rtol=1e-12)
        np.testing.assert_allclose(file["det_x"][...], step * np.array([1.0, 4.0, 7.0]), rtol=1e-12)
        assert file["det_y"].attrs["units"] == "cm" and file["data"].dims[2][0].shape == (4,)


@pytest.mark.parametrize("name", ["scan.npy", "scan.h5", "scan.zarr"])
def test_what_is_there_is_replaced_only_on_demand_and_only_by_a_whole_file(tmp_path, small_runs, name):
    ds, shown = scan(tmp_path / "source", "<u2")
    target = tmp_path / name
    ds.reduce(None, 4).save(target)
    before = read(target)
    with pytest.raises(FileExistsError, match=f"{name}: already exists"):
        ds.save(target)
    def interrupt(done: int, total: int) -> None:
        if done > 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ds.save(target, overwrite=True, progress=interrupt)
    np.testing.assert_array_equal(read(target), before)
    assert sorted(os.listdir(tmp_path)) == sorted([name, "source"])
    ds.save(target, overwrite=True)
    np.testing.assert_array_equal(read(target), shown)
    assert sorted(os.listdir(tmp_path)) == sorted([name, "source"])


@pytest.mark.parametrize("name", ["scan.npy", "scan.h5", "scan.zarr"])
@pytest.mark.parametrize("kind", ["file", "folder", "link to a file", "link to a folder", "dangling link"])
def test_whatever_has_the_name_is_replaced_and_links_are_not_followed(tmp_path, name, kind):
    ds, shown = scan(tmp_path / "source", "<u2")
    (other := tmp_path / "other").mkdir()
    (other / "file").write_text("untouched")
    target = tmp_path / name
    if kind == "file":
        target.write_text("old")
    elif kind == "folder":
        target.mkdir()
    else:
        target.symlink_to({"link to a file": other / "file", "link to a folder": other}.get(kind, tmp_path / "nowhere"))
    with pytest.raises(FileExistsError, match=f"{name}: already exists"):
        ds.save(target)
    ds.save(target, overwrite=True)
    assert not target.is_symlink()
    np.testing.assert_array_equal(read(target), shown)
    assert os.listdir(other) == ["file"] and (other / "file").read_text() == "untouched"
    assert sorted(os.listdir(tmp_path)) == sorted([name, "other", "source"])


@pytest.mark.parametrize("name", ["scan.npy", "scan.h5", "scan.zarr"])
def test_a_folder_that_cannot_be_written_to_is_named_by_the_destination(tmp_path, monkeypatch, name):
    ds, _ = scan(tmp_path / "source", "<u2")

    def refused(**_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "of a temporary name")

    monkeypatch.setattr(export.tempfile, "mkdtemp", refused)
    with pytest.raises(PermissionError) as error:
        ds.save(tmp_path / name)
    assert error.value.filename == str(tmp_path / name)


@pytest.mark.parametrize("name", ["scan.npy", "scan.h5", "scan.zarr"])
def test_verification_finds_a_single_changed_bit(tmp_path, small_runs, monkeypatch, name):
    ds, _ = scan(tmp_path / "source", "<u2")
    kind = _containers.container_of(name)
    write = kind.write

    def damaged(self, where, frames):
        if where[-3].start <= 1 < where[-3].stop and where[-2].start <= 3 < where[-2].stop and where[-1].start <= 2 < where[-1].stop:
            frames = frames.copy()
            frames[1 - where[-3].start, 3 - where[-2].start, 2 - where[-1].start, 10, 12] ^= 1
        write(self, where, frames)

    monkeypatch.setattr(kind, "write", damaged)
    with pytest.raises(ReadError, match=rf"{name}: the frame at position \(1, 3, 2\) is not what was written"):
        ds.save(tmp_path / name, verify=True)
    assert os.listdir(tmp_path) == ["source"]


def test_a_full_disk_is_noticed_before_and_named_after(tmp_path, monkeypatch):
    ds, _ = scan(tmp_path / "source", "<u2")
    with monkeypatch.context() as patch:
        patch.setattr(export.shutil, "disk_usage", lambda folder: type("", (), {"free": 30029})())
        with pytest.raises(OSError, match=r"scan.npy: 30030 bytes of pixels do not fit into the 30029 bytes that are free"):
            ds.save(tmp_path / "scan.npy")
    (full := tmp_path / "full").symlink_to("/dev/full")
    with open(full, "wb", buffering=0) as device:
        monkeypatch.setattr(_containers.NpyFile, "__init__", lambda self, *a: self.__dict__.update(
            _path=str(full), _file=device, _start=0, _frame_bytes=286, _nav=list(NAV)))
        with pytest.raises(OSError, match=re.escape(os.strerror(errno.ENOSPC)) + ".*full"):
            ds.save(tmp_path / "scan.npy")
    assert sorted(os.listdir(tmp_path)) == ["full", "source"]


def test_what_cannot_be_written_is_refused_in_a_line(tmp_path):
    ds, _ = scan(tmp_path / "source", "<u2")
    with pytest.raises(UnsupportedFeature, match=r"scan\.tif: .* expected one that ends in \.npy, \.h5, \.hdf5, \.zarr"):
        ds.save(tmp_path / "scan.tif")
    with pytest.raises(TypeError, match="dtype object cannot be decoded"):
        ds.save(tmp_path / "scan.npy", dtype=object)
    with pytest.raises(UnsupportedFeature, match=r"/scan\.npy: a \.npy file is not compressed"):
        ds.save(tmp_path / "scan.npy", compression="gzip")
    with pytest.raises(ValueError, match="compression 'zip' is unknown; expected one of none, gzip, bitshuffle"):
        ds.save(tmp_path / "scan.h5", compression="zip")
    with pytest.raises(FileNotFoundError, match="no such folder to write scan.npy to"):
        ds.save(tmp_path / "nowhere" / "scan.npy")
    assert os.listdir(tmp_path) == ["source"]
