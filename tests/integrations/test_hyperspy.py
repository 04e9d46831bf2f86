"""HyperSpy loads scans through `gpuio.rsciio`: every pixel, axes and metadata, as they are and lazily."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import gpuio
from gpuio import synth
from tests.integrations.scans import NAMES

with warnings.catch_warnings():
    warnings.simplefilter("ignore")         # of its dependencies
    import hyperspy.api as hs


def load(scan, **options):
    return hs.load(scan.path, file_format=gpuio.rsciio, **{**scan.parameters, **options})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("sync_offset", [0, 5, -9])
def test_every_pixel_is_the_one_written_and_blanks_are_zero(scan, name, lazy, sync_offset):
    signal, truth = load(scan(name), lazy=lazy, sync_offset=sync_offset), scan(name).truth(sync_offset)
    assert (type(signal).__name__, signal._lazy) == ("LazySignal2D" if lazy else "Signal2D", lazy)
    assert signal.axes_manager.shape == tuple(reversed(truth.shape[:-2])) + tuple(reversed(truth.shape[-2:]))
    assert signal.data.dtype == truth.dtype
    np.testing.assert_array_equal(np.asarray(signal.data), truth)
    region = signal.isig[3:11, 2:9] if truth.ndim == 3 else signal.inav[4, 1:3].isig[3:11, 2:9]
    np.testing.assert_array_equal(np.asarray(region.data), truth[..., 2:9, 3:11] if truth.ndim == 3 else truth[1:3, 4, 2:9, 3:11])


def test_the_former_keyword_of_hyperspy_does(scan):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deprecated")
        signal = hs.load(scan("npy").path, reader=gpuio.rsciio)
    np.testing.assert_array_equal(signal.data, scan("npy").truth())


def test_lazy_data_are_chunks_of_to_dask(scan):
    signal = load(scan("mib"), lazy=True, chunks=(2, 11))
    assert signal.data.chunks == ((2, 2, 2, 1), (11,), (13,), (20,))
    dark = np.random.default_rng(3).integers(0, 70, (13, 20)).astype("f4")
    corrected = load(scan("mib"), lazy=True, corrections=gpuio.CorrectionSet(dark=dark))
    np.testing.assert_array_equal(corrected.data.compute(), scan("mib").truth().astype("f4") - dark)


@pytest.mark.parametrize("lazy", [False, True])
def test_axes_and_metadata_are_filled(tmp_path, lazy):
    frames = np.random.default_rng(5).integers(0, 999, (35, 11, 13), dtype="u2")
    synth.write("dm", tmp_path / "scan.dm4", [frames], nav_shape=(5, 7), sig_shape=(11, 13))
    signal = hs.load(tmp_path / "scan.dm4", file_format=gpuio.rsciio, lazy=lazy)
    np.testing.assert_array_equal(np.asarray(signal.data), frames.reshape(5, 7, 11, 13))
    stated = gpuio.open(tmp_path / "scan.dm4").metadata
    axes = signal.axes_manager._axes
    assert [(a.name, a.size, a.navigate, a.scale, str(a.units)) for a in axes] == [
        ("scan_y", 5, True, 0.5, "nm"), ("scan_x", 7, True, 0.5, "nm"),
        ("det_y", 11, False, 0.25, "1/nm"), ("det_x", 13, False, 0.25, "1/nm")]
    assert [a.offset for a in axes] == [entry["first"] for entry in [*stated["nav_axes"], *stated["sig_axes"]]]
    assert (signal.metadata.General.title, signal.metadata.General.original_filename) == ("scan", "scan.dm4")
    assert signal.original_metadata.file_format == "dm" and signal.original_metadata.dm_version == stated["dm_version"]


def test_settings_of_the_microscope_are_where_hyperspy_looks(tmp_path):
    frames = np.random.default_rng(5).integers(0, 255, (6, 9, 9), dtype="u1")
    synth.write("blo", tmp_path / "scan.blo", [frames], nav_shape=(2, 3), sig_shape=(9, 9))
    signal = hs.load(tmp_path / "scan.blo", file_format=gpuio.rsciio)
    stated = gpuio.open(tmp_path / "scan.blo").metadata
    microscope = signal.metadata.Acquisition_instrument.TEM
    assert microscope.beam_energy == stated["beam_energy_V"] / 1000 == 200
    assert microscope.camera_length == stated["camera_length_mm"] > 0


def test_spectrum_images_are_spectra(tmp_path):
    frames = np.random.default_rng(9).integers(0, 999, (15, 17), dtype="u2")
    synth.write("dm", tmp_path / "spectra.dm4", [frames], nav_shape=(3, 5), sig_shape=(17,), transposed=True)
    signal = hs.load(tmp_path / "spectra.dm4", file_format=gpuio.rsciio)
    assert type(signal).__name__ == "Signal1D"
    np.testing.assert_array_equal(signal.data, frames.reshape(3, 5, 17))
    assert [(a.name, a.scale, str(a.units)) for a in signal.axes_manager.signal_axes] == [("det", 2.0, "eV")]


def test_the_contract_of_a_reader_needs_no_hyperspy(scan):
    found, = gpuio.rsciio.file_reader(scan("mib").path)
    assert set(found) == {"data", "axes", "metadata", "original_metadata"}
    assert [(a["name"], a["size"], a["navigate"], a["index_in_array"], a["scale"], a["offset"]) for a in found["axes"]] == [
        ("scan_y", 7, True, 0, 1.0, 0.0), ("scan_x", 11, True, 1, 1.0, 0.0),
        ("det_y", 13, False, 2, 1.0, 0.0), ("det_x", 20, False, 3, 1.0, 0.0)]
    assert found["original_metadata"] == {"file_format": "mib", **scan("mib").open().metadata}


def test_errors_are_those_of_gpuio(tmp_path):
    (tmp_path / "text.mib").write_text("no scan" * 99)
    with pytest.raises(gpuio.UnknownFormat, match=r"text\.mib"):
        gpuio.rsciio.file_reader(tmp_path / "text.mib")
