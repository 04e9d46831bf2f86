"""The writer of HDF5 files: what h5py reads from them is what was given."""

from __future__ import annotations

import h5py
import hdf5plugin  # noqa: F401 -- registers its filters
import numpy as np
import pytest

import gpuio
from gpuio import synth
from gpuio.errors import DataSetException, ShapeError
from tests.formats.hdf5_files import counts

NAV, SIG = (5, 7), (13, 11)


def stacks(array, sizes):
    return iter(np.split(array.reshape(-1, *SIG), np.cumsum(sizes)[:-1]))


@pytest.mark.parametrize(("options", "filters"), [
    ({}, []), ({"chunks": (2, 3, 4, 5)}, []), ({"packing": "gzip"}, [2, 1]), ({"packing": "lzf", "chunks": (1, 4, *SIG)}, [2, 32000]),
    ({"packing": "bitshuffle"}, [32008]), ({"packing": "lz4", "dtype": ">u2"}, [32004]), ({"user_block": 1024, "ds_path": "/a/b"}, []),
], ids=str)
def test_one_data_set(tmp_path, options, filters):
    values = counts(1, NAV + SIG)
    path = str(tmp_path / "scan.h5")
    assert synth.write("hdf5", path, stacks(values, [4, 9, 1, 21]), nav_shape=NAV, sig_shape=SIG, **options) == [path]
    with h5py.File(path) as file:
        found = file[options.get("ds_path", "data")]
        plist = found.id.get_create_plist()
        assert [plist.get_filter(i)[0] for i in range(plist.get_nfilters())] == filters
        assert found.chunks == (options.get("chunks") or ((1, 1, *SIG) if filters else None))
        assert (found.dtype, file.userblock_size) == (np.dtype(options.get("dtype", "u2")), options.get("user_block", 0))
        np.testing.assert_array_equal(found[...], values)
    np.testing.assert_array_equal(gpuio.open(path, device="cpu")[...], values)


@pytest.mark.parametrize("packing", [None, "gzip"])
def test_a_set_of_a_detector(tmp_path, packing):
    values = counts(2, NAV + SIG)
    flatfield = np.random.default_rng(2).uniform(0.5, 1.5, SIG).astype("f4")
    path = str(tmp_path / "scan_master.h5")
    paths = synth.write("hdf5", path, stacks(values, [4, 9, 1, 21]), nav_shape=NAV, sig_shape=SIG, frames_per_file=12, packing=packing,
                        flatfield=flatfield, flatfield_applied=True, pixel_mask=np.zeros(SIG))
    assert paths == [path] + [str(tmp_path / f"scan_data_{i:06d}.h5") for i in (1, 2, 3)]
    with h5py.File(path) as file:
        parts = [file[f"entry/data/data_{i:06d}"] for i in (1, 2, 3)]
        assert [len(part) for part in parts] == [12, 12, 11]
        assert [(part.attrs["image_nr_low"], part.attrs["image_nr_high"]) for part in parts] == [(1, 12), (13, 24), (25, 35)]
        np.testing.assert_array_equal(np.concatenate([part[...] for part in parts]), values.reshape(-1, *SIG))
    ds = gpuio.open(path, device="cpu")
    assert (tuple(ds.shape), ds.notes) == (NAV + SIG, ())
    np.testing.assert_array_equal(ds[...], values)


def test_what_cannot_be_written(tmp_path):
    values = counts(3, NAV + SIG)
    for error, match, options in ((DataSetException, "packing 'zip' is unknown; expected one of gzip", {"packing": "zip"}),
                                  (DataSetException, "frames_per_file is 0", {"frames_per_file": 0}),
                                  (DataSetException, "cannot be written as uint8", {"dtype": "u1"})):
        with pytest.raises(error, match=match):
            synth.write("hdf5", tmp_path / "a.h5", [values.reshape(-1, *SIG)], nav_shape=NAV, sig_shape=SIG, **options)
    with pytest.raises(ShapeError, match="there are 34 frames; expected 35"):
        synth.write("hdf5", tmp_path / "a.h5", [values.reshape(-1, *SIG)[:34]], nav_shape=NAV, sig_shape=SIG, frames_per_file=10)
    assert not (tmp_path / "a.h5").exists()


def test_a_set_of_too_many_frames_is_refused_and_all_are_told(tmp_path):
    frames, told = counts(9, (6, 5, 7)), []
    paths = synth.write("hdf5", tmp_path / "a_master.h5", [frames[:4], frames[4:]], nav_shape=(2, 3), sig_shape=(5, 7), frames_per_file=4,
                        progress=lambda done, total: told.append((done, total)))
    assert told == [(4, 6), (6, 6)] and len(paths) == 3
    with pytest.raises(ShapeError, match="at least 8 frames; expected 6"):
        synth.write("hdf5", tmp_path / "b_master.h5", [frames, frames[:2]], nav_shape=(2, 3), sig_shape=(5, 7), frames_per_file=4)
    assert not (tmp_path / "b_master.h5").exists()


@pytest.mark.parametrize("shapes", [{"nav_shape": (0, 3), "sig_shape": (5, 7)}, {"nav_shape": (2, 3), "sig_shape": (5, -7)},
                                    {"nav_shape": (), "sig_shape": (5, 7)}])
def test_shapes_that_make_no_sense(tmp_path, shapes):
    with pytest.raises(ShapeError, match="expected positive integers"):
        synth.write("hdf5", tmp_path / "a.h5", [counts(9, (6, 5, 7))], **shapes)
