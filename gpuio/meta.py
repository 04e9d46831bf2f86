"""What is known about a data set before any pixel is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gpuio.errors import DataSetException
from gpuio.shape import Shape

if TYPE_CHECKING:
    from gpuio.dataset import DataSet


class DataSetMeta:
    """A plain record.

    Parameters
    ----------
    shape
        Nav axes, then sig axes.
    image_count
        Frames that the files hold.
    raw_dtype, dtype
        As stored, and as decoded; the second defaults to the first.
    metadata
        Whatever the format offers; ``meta[key]`` reads it.
    sync_offset
        Frames skipped (positive) or blank ones inserted (negative) at the start.

    Raises
    ------
    ValueError
        Neither dtype is given.
    """

    def __init__(self, shape: Shape, image_count: int = 0, raw_dtype: Any = None, dtype: Any = None, metadata: Any = None,
                 sync_offset: int = 0) -> None:
        if raw_dtype is None and dtype is None:
            raise ValueError("a data set has a dtype; neither raw_dtype nor dtype is given")
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
    """

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

    def __init__(self, shape: Shape, slices: Any, dtype: Any) -> None:
        self.shape = shape
        self.slices = [tuple(int(i) for i in s) for s in slices]
        self.dtype = np.dtype(dtype)

    def serialize(self) -> dict[str, Any]:
        """As a JSON-serialisable dict, validated."""
        data = {"version": 1, "slices": [list(s) for s in self.slices], "shape": list(self.shape.to_tuple()),
                "sig_dims": int(self.shape.sig.dims), "dtype": str(self.dtype)}
        self._check(data)
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> PartitionStructure:
        """The reverse of `serialize`.

        Raises
        ------
        jsonschema.ValidationError
            A missing key, another version, or entries of a wrong kind.
        DataSetException
            A slice that is not a pair.
        """
        cls._check(data)
        return cls(Shape(tuple(data["shape"]), sig_dims=data["sig_dims"]), data["slices"], data["dtype"])

    @classmethod
    def from_ds(cls, ds: DataSet) -> PartitionStructure:
        """The structure of an initialized data set."""
        slices = [(p.slice.origin[0], p.slice.origin[0] + p.slice.shape[0]) for p in ds.get_partitions()]
        return cls(ds.shape, slices, ds.dtype)

    @classmethod
    def _check(cls, data: dict[str, Any]) -> None:
        import jsonschema

        jsonschema.validate(schema=cls.SCHEMA, instance=data)
        for s in data["slices"]:
            if len(s) != 2:
                raise DataSetException(f"partition slice {s} has {len(s)} numbers; expected a start and an end")
