"""HDF5: which data set is found in files of the programs that write them, its axes, and links."""

from __future__ import annotations

import json
import os

import h5py
import numpy as np
import pytest

import gpuio
from gpuio.errors import DataSetException, FormatError, TruncatedFile, UnsupportedFeature
from tests.formats.hdf5_files import PACKED, counts

SHAPE = (3, 5, 13, 11)


def load(path, **parameters):
    return gpuio.load("hdf5", path=str(path), device="cpu", **parameters)


def test_of_several_data_sets_four_axes_come_first_then_three_then_the_largest(tmp_path):
    path = tmp_path / "some.h5"
    arrays = {"/a/image": (40, 50), "/a/stack": (30, 13, 11), "/b/small": (2, 3, 4, 5), "/b/scan": SHAPE, "/b/five": (2, 3, 5, 13, 11)}
    with h5py.File(path, "w") as file:
        for i, (name, shape) in enumerate(arrays.items()):
            file[name] = counts(i, shape)
        file["/a/mask"] = np.ones((9, 9, 13, 11), bool)
        file["/a/text"] = ["a", "b"]
        file["/c"] = h5py.SoftLink("/b")
        file["/d"] = file["/b/five"]
    np.testing.assert_array_equal(load(path, ds_path="c/five")[...], counts(4, (2, 3, 5, 13, 11)))
    for name in ("/b/scan", "/b/small", "/a/stack", "/b/five", "/a/image", "/a/mask"):
        ds = load(path)
        assert ds.metadata["ds_path"] == ("/d" if name == "/b/five" else name)
        assert ds.notes == () if name == "/a/mask" else "ds_path chooses another of /" in ds.notes[0]
        with h5py.File(path, "r+") as file:
            del file[name]
            if name == "/b/five":
                del file["/d"]


def test_nexus_names_its_signal(tmp_path):
    path = tmp_path / "scan.nxs"
    values = counts(1, SHAPE)
    with h5py.File(path, "w") as file:
        file.attrs["default"] = "entry1"
        entry = file.create_group("entry1")
        entry.attrs["NX_class"], entry.attrs["default"] = np.bytes_("NXentry"), "scan"
        data = entry.create_group("scan")
        data.attrs["NX_class"], data.attrs["signal"], data.attrs["axes"] = "NXdata", np.bytes_("counts"), ["y", "x", ".", "qx"]
        entry["detector/counts"] = values
        data["counts"] = h5py.SoftLink("/entry1/detector/counts")
        data["y"], data["x"], data["qx"] = np.arange(3) * 2.5 + 1, np.arange(5.0), np.arange(11) * 0.5
        data["y"].attrs["units"] = np.bytes_("nm")
        file["larger"] = counts(2, (6, *SHAPE[1:]))
    ds = load(path)
    assert (ds.metadata["ds_path"], ds.notes) == ("/entry1/detector/counts", ())
    np.testing.assert_array_equal(ds[...], values)
    with h5py.File(path, "r+") as file:
        file["entry1/scan"].pop("counts")
        file["entry1/scan/counts"] = values
    ds = load(path)
    assert ds.metadata["convention"] == "NeXus"
    assert ds.metadata["nav_axes"] == [{"size": 3, "name": "y", "delta": 2.5, "first": 1.0, "unit": "nm"},
                                       {"size": 5, "name": "x", "delta": 1.0, "first": 0.0}]
    assert ds.metadata["sig_axes"] == [{"size": 13}, {"size": 11, "name": "qx", "delta": 0.5, "first": 0.0}]


def test_nexus_of_the_old_style(tmp_path):
    path = tmp_path / "scan.nxs"
    with h5py.File(path, "w") as file:
        file["entry/counts"] = counts(1, SHAPE)
        file["entry/counts"].attrs["signal"] = 1
        file["entry/larger"] = counts(2, (6, *SHAPE[1:]))
    assert load(path).metadata["ds_path"] == "/entry/counts"


def test_hyperspy(tmp_path):
    path = tmp_path / "scan.hspy"
    with h5py.File(path, "w") as file:
        file.attrs["file_format"] = "HyperSpy"
        group = file.create_group("Experiments/a scan")
        group.create_dataset("data", data=counts(1, SHAPE), chunks=(1, 2, 13, 11), **PACKED["gzip"])
        for k, (name, scale, unit) in enumerate([("y", 0.5, "nm"), ("x", 0.25, "nm"), ("ky", 2.0, "<undefined>"), ("kx", 3.0, "1/nm")]):
            axis = group.create_group(f"axis-{k}")
            axis.attrs.update({"name": name, "scale": scale, "offset": -1.0 * k, "units": unit, "size": SHAPE[k], "navigate": k < 2})
        file["Experiments/a scan/learning_results/data"] = counts(2, (9, *SHAPE[1:]))
    ds = load(path)
    assert (ds.metadata["ds_path"], ds.metadata["convention"], ds.notes) == ("/Experiments/a scan/data", "HyperSpy", ())
    assert ds.metadata["nav_axes"][1] == {"size": 5, "name": "x", "delta": 0.25, "first": -1.0, "unit": "nm"}
    assert ds.metadata["sig_axes"][0] == {"size": 13, "name": "ky", "delta": 2.0, "first": -2.0}
    np.testing.assert_array_equal(ds[...], counts(1, SHAPE))


def test_emd_of_both_generations(tmp_path):
    for kind, name, first in ((1, "datacube", 1), ("array", "data", 0)):
        path = tmp_path / f"{name}.emd"
        with h5py.File(path, "w") as file:
            group = file.create_group("experiment/cube")
            group.attrs["emd_group_type"] = kind
            group[name] = counts(1, SHAPE)
            for k, n in enumerate(SHAPE):
                group[f"dim{k + first}"] = np.arange(n if k else 2) * 0.5 + k
                group[f"dim{k + first}"].attrs["units"] = np.bytes_("[n_m]")
            file["larger"] = counts(2, (6, *SHAPE[1:]))
        ds = load(path)
        assert (ds.metadata["ds_path"], ds.metadata["convention"]) == (f"/experiment/cube/{name}", "EMD")
        assert [(axis["delta"], axis["first"], axis["unit"]) for axis in ds.metadata["nav_axes"] + ds.metadata["sig_axes"]] == [
            (0.5, float(k), "nm") for k in range(4)]


@pytest.mark.parametrize("storage", [{}, dict(chunks=(13, 11, 1)), dict(chunks=(13, 11, 2)), dict(chunks=(4, 5, 1)), dict(chunks=(3, 3, 2)),
                                     dict(chunks=(3, 3, 2), **PACKED["gzip shuffle"]), dict(chunks=(13, 11, 5), **PACKED["bitshuffle lz4"]),
                                     dict(chunks=(3, 3, 2), scaleoffset=0)], ids=str)
def test_velox_has_frames_last(tmp_path, storage):
    path = tmp_path / "stack.emd"
    values = counts(1, (5, 13, 11), ">u2")
    with h5py.File(path, "w") as file:
        file["Version"] = np.array([json.dumps({"format": "Velox", "version": "1.10"})], dtype=object)
        group = file.create_group("Data/Image/0123abcd")
        group.create_dataset("Data", data=np.moveaxis(values, 0, -1), **storage)
        said = {"Optics": {"AccelerationVoltage": "300000", "CameraLength": "0.5"}, "Scan": {"DwellTime": "1e-06"},
                "BinaryResult": {"PixelSize": {"width": "2e-10", "height": "3e-10"}, "PixelUnitX": "m"}}
        raw = np.frombuffer(json.dumps(said).encode().ljust(60000, b"\0"), "u1")
        group["Metadata"] = np.repeat(raw[:, None], 5, axis=1)
    ds = load(path)
    assert (tuple(ds.shape), ds.metadata["convention"], ds.metadata["voltage_v"]) == ((5, 13, 11), "Velox", 300000.0)
    assert ds.metadata["sig_axes"][1] == {"size": 11, "name": "x", "delta": 2e-10, "first": 0.0, "unit": "m"}
    np.testing.assert_array_equal(ds[...], values)
    np.testing.assert_array_equal(np.concatenate([np.array(tile.data) for tile in ds.tiles(depth=2)]), values)
    np.testing.assert_array_equal(ds[1:4, 2:9, 3], values[1:4, 2:9, 3])


# -- other files -------------------------------------------------------------------------------------------------------


def linked(tmp_path, target_folder):
    target_folder.mkdir(exist_ok=True, parents=True)
    values = counts(3, SHAPE)
    with h5py.File(target_folder / "part.h5", "w") as file:
        file.create_dataset("a/b", data=values, chunks=(1, 2, 4, 5), **PACKED["gzip"])
    path = tmp_path / "home" / "main.h5"
    path.parent.mkdir(exist_ok=True)
    name = os.path.relpath(target_folder / "part.h5", path.parent)
    with h5py.File(path, "w") as file:
        file["x/link"] = h5py.ExternalLink(name, "/a")
        file["y"] = h5py.SoftLink("x/link/b")
    return path, values


def test_links_into_the_folder_are_followed(tmp_path):
    path, values = linked(tmp_path, tmp_path / "home" / "parts")
    for name in ("x/link/b", "/y"):
        ds = load(path, ds_path=name)
        assert [os.path.basename(file) for file in ds.files] == ["part.h5"]
        np.testing.assert_array_equal(ds[...], values)


def test_links_out_of_the_folder_are_followed_only_if_allowed(tmp_path):
    path, values = linked(tmp_path, tmp_path / "elsewhere")
    with pytest.raises(DataSetException, match="outside of .*home; pass allow_outside=True"):
        load(path, ds_path="y")
    np.testing.assert_array_equal(load(path, ds_path="y", allow_outside=True)[...], values)
    os.symlink(tmp_path / "elsewhere", tmp_path / "home" / "inside")        # a way out that looks like one in
    with h5py.File(path, "r+") as file:
        file["z"] = h5py.ExternalLink("inside/part.h5", "/a/b")
    with pytest.raises(DataSetException, match="outside of"):
        load(path, ds_path="z")


def external(tmp_path, values, pieces):
    """A data set whose items are in raw files: name, offset, bytes of each."""
    raw, done = values.tobytes(), 0
    for name, offset, size in pieces:
        with open(tmp_path / name, "wb") as file:
            file.write(b"x" * offset + raw[done:done + size])
        done += size
    path = tmp_path / "main.h5"
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        with h5py.File(path, "w") as file:
            file.create_dataset("data", values.shape, values.dtype, external=list(pieces))
    finally:
        os.chdir(before)
    return path


def test_external_raw_files(tmp_path):
    values = counts(4, SHAPE, ">u2")
    frame = 13 * 11 * 2
    path = external(tmp_path, values, [("one.raw", 7, 4 * frame), ("two.raw", 0, 11 * frame)])
    ds = load(path)
    assert [os.path.basename(file) for file in ds.files] == ["one.raw", "two.raw"]
    np.testing.assert_array_equal(ds[...], values)
    np.testing.assert_array_equal(np.concatenate([np.array(tile.data) for tile in ds.tiles(depth=4)]), values.reshape(-1, 13, 11))


def test_bad_external_raw_files(tmp_path):
    values = counts(4, SHAPE, ">u2")
    frame = 13 * 11 * 2
    path = external(tmp_path, values, [("one.raw", 0, 4 * frame + 10), ("two.raw", 0, 11 * frame - 10)])
    with pytest.raises(UnsupportedFeature, match="goes on from one external file to the next"):
        load(path)
    path = external(tmp_path, values, [("one.raw", 0, 4 * frame), ("two.raw", 0, 11 * frame)])
    with open(tmp_path / "two.raw", "r+b") as file:
        file.truncate(100)
    with pytest.raises(TruncatedFile, match=r"two\.raw: has 100 bytes"):
        load(path)
    (tmp_path / "two.raw").unlink()
    with pytest.raises(FormatError, match=r"in two\.raw, which is not there"):
        load(path)
    (tmp_path / "inner").mkdir()
    os.rename(path, tmp_path / "inner" / "main.h5")
    with h5py.File(tmp_path / "inner" / "other.h5", "w") as file:
        file.create_dataset("data", values.shape, values.dtype, external=[(str(tmp_path / "one.raw"), 0, values.nbytes)])
    with pytest.raises(DataSetException, match=r"refers to .*one\.raw, which is outside of .*inner"):
        load(tmp_path / "inner" / "other.h5")


def virtual(tmp_path, values, missing=None):
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    for i, stack in enumerate(values):
        name = f"part{i}.h5"
        if i != missing:
            with h5py.File(tmp_path / name, "w") as file:
                file.create_dataset("data", data=stack, chunks=(2, *stack.shape[1:]), compression="gzip")
        layout[i] = h5py.VirtualSource(name, "data", shape=stack.shape)
    path = tmp_path / "main.h5"
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("data", layout, fillvalue=7)
    return path


def test_virtual_data_sets(tmp_path):
    values = counts(5, SHAPE)
    ds = load(virtual(tmp_path, values))
    assert ds.metadata["hdf5_layout"] == "virtual"
    np.testing.assert_array_equal(ds[...], values)
    tiles = [np.array(tile.data) for tile in ds.tiles(depth=4, memory=1 << 20)]
    np.testing.assert_array_equal(np.concatenate(tiles), values.reshape(-1, 13, 11))


def test_virtual_data_sets_whose_sources_are_missing_or_elsewhere(tmp_path):
    values = counts(5, SHAPE)
    path = virtual(tmp_path, values, missing=1)
    with h5py.File(path) as file:
        assert (file["data"][1] == 7).all()         # what the library makes of it
    with pytest.raises(FormatError, match=r"made of part1\.h5, which is not there"):
        load(path)
    (tmp_path / "inner").mkdir()
    with h5py.File(tmp_path / "inner" / "main.h5", "w") as file:
        layout = h5py.VirtualLayout(SHAPE[1:], values.dtype)
        layout[:] = h5py.VirtualSource("../part0.h5", "data", shape=SHAPE[1:])
        file.create_virtual_dataset("data", layout)
    with pytest.raises(DataSetException, match="outside of .*inner"):
        load(tmp_path / "inner" / "main.h5")
    np.testing.assert_array_equal(load(tmp_path / "inner" / "main.h5", allow_outside=True)[...], values[0])


def test_virtual_data_sets_of_virtual_data_sets_are_looked_at_once_each(tmp_path):
    """Eight layers of eight that each refer to all of the next: 16 million ways, 64 data sets."""
    path, n, values = tmp_path / "a.h5", 8, counts(9, (1, 3, 5))
    with h5py.File(path, "w") as file:
        for layer in range(8):
            for i in range(n):
                made = h5py.VirtualLayout((n, 3, 5), "u2")
                for j in range(n):
                    made[j] = h5py.VirtualSource(".", f"{layer + 1}_{j}", (n, 3, 5))[0]
                file.create_virtual_dataset(f"{layer}_{i}", made)
        for j in range(n):
            file[f"8_{j}"] = np.tile(values, (n, 1, 1))
    assert tuple(gpuio.load("hdf5", path=str(path), ds_path="0_0", device="cpu").shape) == (n, 3, 5)
