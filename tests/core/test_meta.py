"""DataSetMeta and PartitionStructure."""

from __future__ import annotations

import copy
import json
import pickle
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest

from gpuio.errors import DataSetException
from gpuio.geometry.partition import make_slices
from gpuio.meta import DataSetMeta, PartitionStructure
from gpuio.shape import Shape

SHAPE = Shape((4, 5, 3, 4), sig_dims=2)


def test_dtype_left_out_is_the_raw_one():
    meta = DataSetMeta(SHAPE, image_count=20, raw_dtype=">u2")
    assert meta.raw_dtype == meta.dtype == np.dtype(">u2")
    assert isinstance(meta.dtype, np.dtype)


def test_both_dtypes_are_kept():
    meta = DataSetMeta(SHAPE, raw_dtype="u1", dtype="f4")
    assert (meta.raw_dtype, meta.dtype) == (np.dtype("u1"), np.dtype("f4"))
    assert DataSetMeta(SHAPE, dtype="f4").raw_dtype == np.dtype("f4")


def test_a_record_without_dtype_is_refused():
    with pytest.raises(DataSetException, match="raw_dtype"):
        DataSetMeta(SHAPE)


def test_metadata_is_read_by_key():
    meta = DataSetMeta(SHAPE, raw_dtype="u1", metadata={"exposure_s": 0.5}, sync_offset=-3, image_count=17)
    assert meta["exposure_s"] == 0.5
    assert (meta.sync_offset, meta.image_count, meta.shape) == (-3, 17, SHAPE)
    with pytest.raises(KeyError):
        DataSetMeta(SHAPE, raw_dtype="u1")["exposure_s"]


def test_a_record_survives_pickling():
    meta = pickle.loads(pickle.dumps(DataSetMeta(SHAPE, 20, ">u2", "f4", {"a": 1}, 2)))
    assert (meta.shape, meta.image_count, meta.raw_dtype, meta.dtype, meta["a"], meta.sync_offset) == \
        (SHAPE, 20, np.dtype(">u2"), np.dtype("f4"), 1, 2)


SERIALIZED = {"version": 1, "slices": [[0, 6], [6, 13], [13, 20]], "shape": [4, 5, 3, 4], "sig_dims": 2, "dtype": "uint16"}


def structure(dtype="<u2") -> PartitionStructure:
    partitions = [SimpleNamespace(slice=s) for s, _, _ in make_slices(SHAPE, 3)]
    return PartitionStructure.from_ds(SimpleNamespace(shape=SHAPE, dtype=np.dtype(dtype), get_partitions=lambda: iter(partitions)))


def test_a_data_set_is_described_by_its_partitions():
    assert structure().serialize() == SERIALIZED
    assert structure(">u2").serialize()["dtype"] == ">u2"


def test_from_json_reverses_serialize():
    back = PartitionStructure.from_json(json.loads(json.dumps(SERIALIZED)))
    assert back.shape == SHAPE
    assert back.slices == [(0, 6), (6, 13), (13, 20)]
    assert back.dtype == np.dtype("u2")
    assert back.serialize() == SERIALIZED


def test_numpy_ints_do_not_leak():
    made = PartitionStructure(SHAPE, np.array([[0, 6], [6, 20]]), np.uint16)
    assert json.loads(json.dumps(made.serialize()))["slices"] == [[0, 6], [6, 20]]


@pytest.mark.parametrize(("key", "value"), [
    ("version", 2), ("shape", [4]), ("shape", [4, 0, 3, 4]), ("slices", []), ("dtype", 7), ("sig_dims", "two"), ("slices", [["a", "b"]]),
    *((key, None) for key in SERIALIZED),
])
def test_what_the_schema_excludes_is_a_validation_error(key, value):
    data = copy.deepcopy(SERIALIZED)
    if value is None:
        del data[key]
    else:
        data[key] = value
    with pytest.raises(jsonschema.ValidationError):
        PartitionStructure.from_json(data)


@pytest.mark.parametrize(("key", "value", "message"), [
    ("slices", [[0, 6, 7]], "3 numbers"), ("slices", [[0]], "1 numbers"), ("slices", [[0.5, 6]], "0.5"), ("dtype", "nonsense", "nonsense"),
    ("sig_dims", 7, "sig_dims"), ("shape", [4, 5.5, 3, 4], "5.5"), ("slices", [[0, float("nan")]], "nan"),
])
def test_what_the_schema_lets_through_is_a_data_set_exception(key, value, message):
    with pytest.raises(DataSetException, match=message):
        PartitionStructure.from_json({**SERIALIZED, key: value})


def test_whole_numbers_written_as_fractions_are_taken():
    assert PartitionStructure.from_json({**SERIALIZED, "shape": [4.0, 5, 3, 4], "sig_dims": 2.0}).serialize() == SERIALIZED
