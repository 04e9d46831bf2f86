"""What is known about a data set before any pixel is read."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gpuio.errors import DataSetException
from gpuio.shape import Shape

if TYPE_CHECKING:
    from gpuio.dataset import DataSet


class DataSetMeta:
    """What is known of a data set: a plain record.

    Parameters
    ----------
    shape
        Nav axes, then sig axes.
    image_count
        Frames that the files hold.
    raw_dtype, dtype
        As stored, and as decoded; each defaults to the other.
    metadata
        Whatever the format offers; ``meta[key]`` reads it.
    sync_offset
        Frames skipped (positive) or blank ones inserted (negative) at the start.

    Raises
    ------
    DataSetException
        Neither dtype is given.
    """

    __slots__ = ("dtype", "image_count", "metadata", "raw_dtype", "shape", "sync_offset")

    def __init__(self, shape: Shape, image_count: int = 0, raw_dtype: Any = None, dtype: Any = None, metadata: Any = None,
                 sync_offset: int = 0) -> None:
        if raw_dtype is None and dtype is None:
            raise DataSetException("neither raw_dtype nor dtype is given; expected at least one")
        self.shape = shape
        self.image_count = int(image_count)
        self.raw_dtype = np.dtype(raw_dtype if raw_dtype is not None else dtype)
        self.dtype = np.dtype(dtype if dtype is not None else raw_dtype)
        self.metadata = metadata
        self.sync_offset = int(sync_offset)

    def __getitem__(self, key: Any) -> Any:
        if self.metadata is None:
            raise KeyError(key)
        return self.metadata[key]

    def __repr__(self) -> str:
        return f"<DataSetMeta {self.shape} {self.dtype} frames={self.image_count} sync_offset={self.sync_offset}>"


class PartitionStructure:
    """How a data set is cut into partitions on the flat nav axis, in a form that can be sent and stored.

    Parameters
    ----------
    shape
        Of the whole data set.
    slices
        ``[start, end)`` of each partition.
    dtype
        As stored; may carry a byte order.

    Raises
    ------
    DataSetException
        A slice is no pair of whole numbers, or the dtype is unknown.
    """

    #: JSON schema of `serialize`, as the specification prints it. `minItems` and `maxItems` stand one level too deep there
    #: to have an effect, so that pairs are checked in code.

    SCHEMA: ClassVar[dict[str, Any]] = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "http://libertem.org/PartitionStructure.schema.json",
        "title": "PartitionStructure",
        "type": "object",
        "properties": {
            "version": {"const": 1},
            "slices": {
                "type": "array",
                "items": {"type": "array", "items": {"type": "number", "minItems": 2, "maxItems": 2}},
                "minItems": 1,
            },
            "shape": {"type": "array", "items": {"type": "number", "minimum": 1}, "minItems": 2},
            "sig_dims": {"type": "number"},
            "dtype": {"type": "string"},
        },
        "required": ["version", "slices", "shape", "sig_dims", "dtype"],
    }

    def __init__(self, shape: Shape, slices: Iterable[Sequence[int]], dtype: Any) -> None:
        self.shape = shape
        self.slices = [_pair(entry) for entry in slices]
        try:
            self.dtype = np.dtype(dtype)
        except TypeError as error:
            raise DataSetException(f"partition structure: dtype {dtype!r} is unknown") from error

    @classmethod
    def from_ds(cls, ds: DataSet) -> PartitionStructure:
        """The structure of an initialized data set."""
        slices = [(p.slice.origin[0], p.slice.origin[0] + p.slice.shape[0]) for p in ds.get_partitions()]
        return cls(ds.shape, slices, ds.dtype)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PartitionStructure:
        """The reverse of `serialize`.

        Raises
        ------
        jsonschema.ValidationError
            A missing key, another version, or entries of a wrong kind.
        DataSetException
            A slice that is no pair of whole numbers, or a shape or dtype that cannot be.
        """
        cls._validate(data)
        shape = Shape((_whole(n, "shape") for n in data["shape"]), sig_dims=_whole(data["sig_dims"], "sig_dims"))
        return cls(shape, data["slices"], data["dtype"])

    def serialize(self) -> dict[str, Any]:
        """As a dict of plain Python, ready for JSON; errors as `from_json`."""
        data = {
            "version": 1,
            "slices": [list(entry) for entry in self.slices],
            "shape": list(self.shape),
            "sig_dims": self.shape.sig.dims,
            "dtype": str(self.dtype),
        }
        self._validate(data)
        return data

    @classmethod
    def _validate(cls, data: Mapping[str, Any]) -> None:
        import jsonschema

        jsonschema.validate(instance=data, schema=cls.SCHEMA)


def _pair(entry: Sequence[Any]) -> tuple[int, int]:
    """A slice as a pair; the schema bounds the numbers of a slice, not how many there are."""
    if len(entry) != 2:
        raise DataSetException(f"partition structure: slice {list(entry)} has {len(entry)} numbers; expected [start, end]")
    return _whole(entry[0], "slice"), _whole(entry[1], "slice")


def _whole(value: Any, name: str) -> int:
    """A JSON number as int; JSON knows no difference between 4 and 4.0."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    try:
        return operator.index(value)
    except TypeError:
        raise DataSetException(f"partition structure: {name} entry {value!r} is no whole number") from None
