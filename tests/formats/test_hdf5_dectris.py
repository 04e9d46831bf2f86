"""DECTRIS masters: data files put together, scans, flatfields and masks."""

from __future__ import annotations

import re

import h5py
import hdf5plugin
import numpy as np
import pytest

import gpuio
from gpuio.corrections import CorrectionSet
from gpuio.errors import DataSetException, FormatError, ShapeError
from tests.formats.every_way import check_every_way
from tests.formats.hdf5_files import PACKED, counts

N, SIG = 23, (13, 11)
DETECTOR = "entry/instrument/detector"


def master(folder, values, parts, *, storage=None, numbers=True, name="scan_master.h5", flags=True, **maps):
    """A master and its data files; `parts` are frames in each, written in reverse order so that only numbers tell it."""
    ends = np.cumsum(parts)
    path = str(folder / name)
    with h5py.File(path, "w") as file:
        file["entry/definition"] = "NXmx"
        group = file.create_group("entry/data")
        group.attrs["NX_class"], group.attrs["signal"] = "NXdata", "data_000001"
        for i in reversed(range(len(parts))):
            first, stop = int(ends[i] - parts[i]), int(ends[i])
            part = f"scan_data_{i + 1:06d}.h5"
            with h5py.File(folder / part, "w") as data:
                found = data.create_dataset("entry/data/data", data=values[first:stop],
                                            **(dict(chunks=(1, *SIG), **PACKED["bitshuffle lz4"]) if storage is None else storage[i]))
                if numbers:
                    found.attrs["image_nr_low"], found.attrs["image_nr_high"] = first + 1, stop
            group[f"data_{i + 1:06d}"] = h5py.ExternalLink(part, "/entry/data/data")
        specific = file.create_group(f"{DETECTOR}/detectorSpecific")
        specific["nimages"], specific["ntrigger"] = 1, len(values)
        specific["photon_energy"] = 300000.0
        file[f"{DETECTOR}/frame_time"] = 0.001
        if flags:
            file[f"{DETECTOR}/flatfield_correction_applied"] = flags == "applied"
        for key, array in maps.items():
            specific[key] = array
    return path


@pytest.mark.parametrize("parts", [[N], [10, 10, 3], [1, 22], [2] * 11 + [1]], ids=str)
@pytest.mark.parametrize("numbers", [True, False])
def test_data_files_are_put_together_in_the_order_of_their_numbers(tmp_path, parts, numbers):
    values = counts(1, (N, *SIG))
    ds = gpuio.open(master(tmp_path, values, parts, numbers=numbers), device="cpu")
    assert (ds.format, tuple(ds.shape), ds.dtype, ds.metadata["convention"]) == ("hdf5", (N, *SIG), np.dtype("u2"), "DECTRIS")
    assert (ds.metadata["photon_energy_eV"], ds.metadata["frame_time_s"], len(ds.files)) == (300000.0, 0.001, len(parts))
    np.testing.assert_array_equal(ds[...], values)


@pytest.mark.parametrize("storage", [
    {}, dict(chunks=(1, *SIG)), dict(chunks=(3, 4, 5)), dict(chunks=(3, 4, 5), **PACKED["gzip shuffle"]),
    dict(chunks=(3, *SIG), **dict(hdf5plugin.Zstd()))], ids=["contiguous", "frames", "boxes", "gzip", "zstd"])
def test_every_way_to_frames_of_several_files(tmp_path, storage):
    values = counts(2, (N, *SIG))
    path = master(tmp_path, values, [10, 10, 3], storage=[storage] * 3)
    for sync_offset in (0, 4, -3):
        check_every_way(lambda **k: gpuio.load("hdf5", path=path, device="cpu", nav_shape=(5, 5), **k), values, "buffered", sync_offset,
                        tile=(4, 5, 11))


def test_data_files_that_are_stored_in_different_ways(tmp_path):
    values = counts(3, (N, *SIG))
    storage = [dict(chunks=(1, *SIG), **PACKED["gzip"]), dict(chunks=(2, *SIG), **PACKED["lzf"]), {}]
    ds = gpuio.open(master(tmp_path, values, [10, 10, 3], storage=storage), device="cpu")
    assert "different ways" in ds.notes[0]
    np.testing.assert_array_equal(ds[...], values)


def test_the_scan_is_found_beside_the_master(tmp_path):
    values = counts(4, (20, *SIG))
    path = master(tmp_path, values, [12, 8])
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        group = file.create_group("STEM Metadata")
        group.attrs.update({"NumPixelsX": 5, "NumPixelsY": 4, "High Tension": 200.0, "Camera Length": "1 m"})
    ds = gpuio.open(path, device="cpu")
    assert (tuple(ds.shape), ds.metadata["stem_high_tension"], ds.metadata["stem_camera_length"]) == ((4, 5, *SIG), 200.0, "1 m")
    np.testing.assert_array_equal(ds[...].reshape(values.shape), values)
    with h5py.File(tmp_path / "scan.h5", "r+") as file:
        file["STEM Metadata"].attrs["NumPixelsY"] = 3
    ds = gpuio.open(path, device="cpu")
    assert tuple(ds.shape.nav) == (20,)
    assert "(3, 5)" in ds.notes[0]


def test_the_scan_of_triggers_and_images(tmp_path):
    values = counts(5, (20, *SIG))
    path = master(tmp_path, values, [20])
    with h5py.File(path, "r+") as file:
        for name, value in (("nimages", 4), ("ntrigger", 5)):
            file[f"{DETECTOR}/detectorSpecific/{name}"][...] = value
    assert tuple(gpuio.open(path, device="cpu").shape.nav) == (5, 4)


def test_flatfield_and_mask_are_applied_once(tmp_path):
    rng = np.random.default_rng(6)
    values = counts(6, (N, *SIG))
    flatfield = rng.uniform(0.5, 1.5, SIG).astype("f4")
    mask = np.zeros(SIG, "u4")
    mask[3, 4], mask[7, 8:10] = 2, 16
    path = master(tmp_path, values, [N], flatfield=flatfield, pixel_mask=mask)
    ds = gpuio.open(path, device="cpu")
    corrections = ds.get_correction_data()
    np.testing.assert_array_equal(corrections.get_gain_map(), flatfield)
    expected = (values.astype("f8") * flatfield).astype("f4")
    CorrectionSet(excluded_pixels=mask != 0).apply(expected, gpuio.base.Slice((0, 0, 0), gpuio.base.Shape(expected.shape, sig_dims=2)))
    assert ds.dtype == np.float32
    np.testing.assert_array_equal(ds[...], expected)
    assert not np.allclose(expected[:, mask != 0], values[:, mask != 0])
    np.testing.assert_array_equal(gpuio.open(path, device="cpu").read(np.arange(N), corrections=CorrectionSet(), dtype="u2"), values)


@pytest.mark.parametrize(("flags", "note"), [("applied", None), (False, "does not tell")])
def test_a_flatfield_that_is_applied_already_is_not_applied_again(tmp_path, flags, note):
    values = counts(7, (N, *SIG))
    ds = gpuio.open(master(tmp_path, values, [N], flags=flags, flatfield=np.full(SIG, 2, "f4")), device="cpu")
    assert (ds.layout.gain, ds.dtype) == (None, np.dtype("u2"))
    assert len(ds.notes) == (note is not None) and (note is None or note in ds.notes[0])
    np.testing.assert_array_equal(ds[...], values)


def test_a_missing_data_file_is_named_and_nothing_moves_up(tmp_path):
    path = master(tmp_path, counts(8, (N, *SIG)), [10, 10, 3])
    (tmp_path / "scan_data_000002.h5").unlink()
    with pytest.raises(FormatError, match=r"data_000002 is a link to scan_data_000002\.h5, which is not there"):
        gpuio.open(path, device="cpu")


@pytest.mark.parametrize("damage", ["shape", "dtype", "numbers"])
def test_data_files_that_do_not_belong_together(tmp_path, damage):
    values = counts(9, (N, *SIG))
    path = master(tmp_path, values, [10, 10, 3])
    with h5py.File(tmp_path / "scan_data_000002.h5", "r+") as file:
        if damage == "numbers":
            file["entry/data/data"].attrs["image_nr_low"] = 12
        else:
            del file["entry/data/data"]
            file["entry/data/data"] = np.ones((10, 13, 12), "u2") if damage == "shape" else np.ones((10, *SIG), "u4")
    expected = {"shape": r"frames of \(13, 12\) uint16; expected \(13, 11\) uint16", "dtype": "uint32; expected",
                "numbers": "begins with image 12; expected 11"}[damage]
    with pytest.raises(DataSetException, match=f"{re.escape(str(tmp_path))}.*{expected}"):
        gpuio.open(path, device="cpu")


def test_a_gap_between_parts_that_do_not_number_their_images_is_refused(tmp_path):
    values = counts(10, (N, *SIG))
    for numbers in (True, False):
        path = master(tmp_path, values, [10, 10, 3], numbers=numbers)
        with h5py.File(path, "r+") as file:
            file.move("entry/data/data_000003", "entry/data/data_000004")
        if numbers:
            np.testing.assert_array_equal(gpuio.open(path, device="cpu")[...], values)
    with pytest.raises(FormatError, match=r"scan_master\.h5: has part 2 and then /entry/data/data_000004, .*expected no gap"):
        gpuio.open(path, device="cpu")
    with pytest.raises(ShapeError, match="sig_dims is 1"):
        gpuio.load("hdf5", path=path, device="cpu", sig_dims=1)


def test_a_master_is_not_followed_out_of_its_folder_for_what_it_says(tmp_path):
    (tmp_path / "in").mkdir()
    for folder, said in ((tmp_path, "elsewhere"), (tmp_path / "in", "beside")):
        with h5py.File(folder / "other.h5", "w") as file:
            file["description"] = said
    values = counts(11, (N, *SIG))
    path = master(tmp_path / "in", values, [N])
    for target, allowed, said in (("../other.h5", False, None), ("../other.h5", True, "elsewhere"), ("other.h5", False, "beside")):
        with h5py.File(path, "r+") as file:
            file[f"{DETECTOR}/description"] = h5py.ExternalLink(target, "/description")
        ds = gpuio.load("hdf5", path=path, device="cpu", allow_outside=allowed)
        assert ds.metadata.get("detector") == said
        with h5py.File(path, "r+") as file:
            del file[f"{DETECTOR}/description"]
    np.testing.assert_array_equal(ds[...], values)


def test_metadata_that_make_no_sense_do_no_harm(tmp_path):
    values = counts(12, (N, *SIG))
    path = master(tmp_path, values, [N])
    with h5py.File(path, "r+") as file:
        detector = file[DETECTOR]
        detector["description"] = h5py.SoftLink(f"/{DETECTOR}/description")
        detector.create_dataset("bit_depth_image", (1 << 20, 1 << 20), "u4", chunks=(1024, 1024))       # 4 TiB
        for name in ("nimages", "ntrigger"):
            del detector[f"detectorSpecific/{name}"]
            detector[f"detectorSpecific/{name}"] = np.inf
    with h5py.File(tmp_path / "scan_data_000001.h5", "r+") as file:
        found = file["entry/data/data"]
        del found.attrs["image_nr_low"]
        h5py.h5a.create(found.id, b"image_nr_low", h5py.h5t.UNIX_D32LE, h5py.h5s.create(h5py.h5s.SCALAR))   # a type that h5py cannot read
    for scan in ((np.inf, 3.0), (1 << 40, 1 << 40), (np.nan, 5)):
        with h5py.File(tmp_path / "scan.h5", "w") as file:
            file.create_group("STEM Metadata").attrs.update(dict(zip(("NumPixelsX", "NumPixelsY"), scan, strict=True)))
        ds = gpuio.open(path, device="cpu")
        assert tuple(ds.shape.nav) == (N,)
    np.testing.assert_array_equal(ds[...], values)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["STEM Metadata"] = h5py.SoftLink("/STEM Metadata")
    assert tuple(gpuio.open(path, device="cpu").shape.nav) == (N,)
