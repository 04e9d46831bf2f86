"""The table of formats, and the checks of arguments that all of them share."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import gpuio
from gpuio import formats
from gpuio.dataset import DataSet
from gpuio.errors import DataSetException, ShapeError
from gpuio.formats import _arguments


@pytest.mark.parametrize("name", list(formats.FORMATS))
def test_every_row_of_the_table_names_a_data_set_class_that_agrees_with_it(name):
    cls = formats.get(name)
    assert issubclass(cls, DataSet)
    assert cls.format == name
    assert set(formats.FORMATS[name].extensions) == cls.get_supported_extensions()
    assert getattr(gpuio, formats.FORMATS[name].class_name) is cls


def test_the_package_itself_lists_the_formats():
    assert gpuio.formats() == formats.names() == list(formats.FORMATS)


def test_names_are_understood_in_any_case():
    assert formats.get("NPY") is formats.get("npy")


@pytest.mark.parametrize("name", ["tiff", "", None, 3])
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    with pytest.raises(DataSetException, match=r"expected one of .*npy.*raw"):
        formats.get(name)


@pytest.mark.parametrize(("path", "first"), [
    ("a.npy", ["npy"]), ("a.NPY", ["npy"]), ("x.npy/a.hdr", ["mib", "frms6"]), ("a.mib", ["mib"]), (".npy", []), ("a", []),
])
def test_formats_with_the_extension_are_tried_first_and_raw_never(path, first):
    order = formats.sniff_order(path)
    fixed = [name for name, row in formats.FORMATS.items() if row.has_magic]
    assert "raw" not in fixed
    assert order == first + [name for name in fixed if name not in first]


def test_raw_is_never_recognised(tmp_path):
    path = tmp_path / "frames.raw"
    path.write_bytes(np.random.default_rng(1).bytes(12345))
    assert gpuio.detect(path) is None
    with pytest.raises(gpuio.UnknownFormat, match=r"gpuio\.load\('raw'"):
        gpuio.open(path)


@pytest.mark.parametrize(("value", "expected"), [
    (None, None), ((3, 5), (3, 5)), ([7], (7,)), (np.array([3, 5], "u2"), (3, 5)), ((n for n in (2, 3)), (2, 3)),
    ((np.int8(3),) * 4, (3, 3, 3, 3)),
])
def test_shapes_become_tuples_of_int(value, expected):
    shape = _arguments.nav_or_sig_shape(value, "nav_shape")
    assert shape == expected
    assert shape is None or all(type(n) is int for n in shape)


@pytest.mark.parametrize("value", [
    (), (0,), (3, 0), (-1, 5), (2.0, 3), ("3", "5"), "35", b"35", 12, (True, 3), (None,), ((2, 3), 4), (2**40, 2**40), (1,) * 33,
])
def test_shapes_that_are_none_are_refused_by_name(value):
    with pytest.raises(ShapeError, match=r"^nav_shape ") as error:
        _arguments.nav_or_sig_shape(value, "nav_shape")
    assert "expected" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("value", "expected"), [(None, 0), (0, 0), (-7, -7), (np.int64(3), 3)])
def test_sync_offsets_become_int(value, expected):
    assert _arguments.sync(value) == expected


@pytest.mark.parametrize("value", [1.0, "1", True, (1,)])
def test_sync_offsets_that_are_no_integers_are_refused(value):
    with pytest.raises(ShapeError, match=r"^sync_offset is .*expected an integer"):
        _arguments.sync(value)


@pytest.mark.parametrize("value", [-1, 2.5, None, "8", False])
def test_sizes_that_are_no_byte_counts_are_refused(value):
    with pytest.raises(ShapeError, match=r"^file_header is .*expected a number of bytes"):
        _arguments.byte_count(value, "file_header")


def test_a_former_name_warns_at_the_line_of_the_user():
    with pytest.warns(FutureWarning, match="scan_size is deprecated; use nav_shape") as caught:
        gpuio.formats.get("raw")("a.raw", "u1", scan_size=(2, 3), sig_shape=(4, 5))
    assert [w.filename for w in caught] == [__file__]


def test_a_former_name_beside_the_new_one_is_refused():
    with pytest.raises(ValueError, match="scan_size is the former name of nav_shape"):
        _arguments.renamed("scan_size", (2, 3), "nav_shape", (2, 3))


def test_the_new_name_alone_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _arguments.renamed("scan_size", None, "nav_shape", (2, 3)) == (2, 3)
        assert _arguments.renamed("scan_size", None, "nav_shape", None) is None
        _arguments.ignored("tileshape", None)


def test_a_parameter_without_effect_warns():
    with pytest.warns(FutureWarning, match="tileshape is deprecated and has no effect"):
        _arguments.ignored("tileshape", (1, 8, 8))
