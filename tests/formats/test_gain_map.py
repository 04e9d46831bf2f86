"""Gain maps: those that are read are tested with the data sets that use them; these are of no use, and refused."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy.io import savemat

from gpuio.errors import BackendUnavailable, DataSetException, FormatError, ShapeError, UnsupportedFeature
from gpuio.formats._gain_map import read_gain_map
from gpuio.source import HostFiles
from tests.formats.mib_files import Files

SHAPE = (6, 5)

def mat(folder, **variables):
    savemat(folder / "gain.mat", variables)
    return folder / "gain.mat"


def npy(folder, array):
    np.save(folder / "gain.npy", array, allow_pickle=True)
    return folder / "gain.npy"


def blob(folder, content, name="gain.mat"):
    (folder / name).write_bytes(content)
    return folder / name


GOOD = np.ones(SHAPE)


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda d: d / "gain.mat", FileNotFoundError, "gain.mat"),
    (lambda d: mat(d, GainMap=np.ones((5, 6))), ShapeError, r"gain\.mat: the gain map has shape \(5, 6\); expected \(6, 5\)"),
    (lambda d: mat(d, gainmap=GOOD), FormatError, r"has no array of numbers GainMap; found 'gainmap' \(double\)"),
    (lambda d: mat(d, GainMap="text"), FormatError, r"has no array of numbers GainMap; found 'GainMap' \(char\)"),
    (lambda d: mat(d, GainMap=np.where(np.arange(30).reshape(6, 5) == 7, np.nan, 1)), FormatError,
     "1 values of the gain map are not finite"),
    (lambda d: mat(d, GainMap=GOOD + 1j), UnsupportedFeature, "holds complex128; expected real numbers"),
    (lambda d: mat(d), FormatError, "found no variables"),
    (lambda d: blob(d, b"\x89HDF\r\n\x1a\n" + bytes(600)), (FormatError, UnsupportedFeature), "gain.mat: "),
    (lambda d: blob(d, b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(600)), UnsupportedFeature, "level 7.3"),
    (lambda d: blob(d, b""), FormatError, "not a MATLAB file"),
    (lambda d: blob(d, mat(d, GainMap=GOOD).read_bytes()[:-9]), FormatError, "not a MATLAB file"),
    (lambda d: npy(d, np.ones((6, 6))), ShapeError, r"gain\.npy: the gain map has shape \(6, 6\)"),
    (lambda d: npy(d, np.full((6, 5), np.inf)), FormatError, "30 values of the gain map are not finite"),
    (lambda d: npy(d, GOOD.astype("c8")), UnsupportedFeature, "holds complex64"),
    (lambda d: npy(d, GOOD.astype(object)), UnsupportedFeature, "Python objects"),
    (lambda d: blob(d, npy(d, GOOD).read_bytes()[:-1], "gain.npy"), FormatError, "holds 239 of the 240 bytes"),
    (lambda d: blob(d, b"1;2\n", "gain.csv"), FormatError, r"expected a gain map in a file \.mat or \.npy"),
], ids=range(17))
def test_gain_maps_that_do_not_fit_are_refused(tmp_path, make, error, message):
    with pytest.raises(error, match=message) as caught:
        read_gain_map(HostFiles(), str(make(tmp_path)), SHAPE)
    assert "\n" not in str(caught.value)


def test_every_prefix_and_many_damages_of_a_gain_map_are_refused_or_leave_it_as_it_is(tmp_path):
    gain = np.random.default_rng(18).normal(1, 0.1, (6, 5))
    savemat(tmp_path / "gain.mat", {"GainMap": gain})
    whole = (tmp_path / "gain.mat").read_bytes()
    np.testing.assert_array_equal(read_gain_map(Files({"g.mat": whole}), "g.mat", SHAPE), gain)
    for n in range(len(whole)):
        with pytest.raises(DataSetException, match=r"^g\.mat: ") as caught:
            read_gain_map(Files({"g.mat": whole[:n]}), "g.mat", SHAPE)
        assert "\n" not in str(caught.value)
    rng = np.random.default_rng(19)
    for _ in range(300):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 3):
            damaged[at] = rng.integers(256)
        try:
            found = read_gain_map(Files({"g.mat": bytes(damaged)}), "g.mat", SHAPE)
        except DataSetException as error:
            assert "\n" not in str(error)
        else:
            assert found.shape == (6, 5) and np.isfinite(found).all()


def test_without_scipy_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(BackendUnavailable, match=r"gain\.mat: .*install gpuio\[mat\], or save the map as \.npy"):
        read_gain_map(HostFiles(), str(blob(tmp_path, b"MATLAB")), SHAPE)
