"""Small parts of the data-set API that carry no pixels: message converters, worker contexts, the executor's form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from gpuio.errors import DataSetException


class JobExecutor(Protocol):
    """What `DataSet.initialize` needs of an executor: to run a function somewhere and return its result."""

    def run_function(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...


class WorkerContext:
    """What a worker hands to its partitions. gpuio needs nothing of it; it is kept for those who do."""


class TaskCommHandler:
    """Hook for talking to tasks while they run; this one has nothing to say."""

    def handle_task(self, task: Any, queue: Any) -> None:
        """Called when a task starts."""

    def start(self) -> None:
        """Called before the first task."""

    def done(self) -> None:
        """Called after the last task."""


class MessageConverter:
    """Turns a decoded JSON message into keyword arguments of a data set's constructor, and back.

    Subclasses set `SCHEMA`, a JSON schema.
    """

    SCHEMA: Mapping[str, Any] = {}

    def validate(self, raw: Mapping[str, Any]) -> None:
        """Raise `jsonschema.ValidationError` if `raw` does not match the schema."""
        import jsonschema

        jsonschema.validate(instance=raw, schema=self.SCHEMA)

    def to_python(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Validated arguments: lists become tuples, ``io_backend`` becomes an instance of that backend, ``type`` is left out."""
        self.validate(raw)
        result: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items() if key != "type"}
        if result.get("io_backend") is not None:
            from gpuio.io.backends import IOBackend

            backend = IOBackend.get_cls_by_id(result["io_backend"])
            if backend is None:
                raise DataSetException(f"io_backend {result['io_backend']!r} is unknown; expected one of {IOBackend.get_supported()}")
            result["io_backend"] = backend()
        return result

    def from_python(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """`parameters` with tuples as lists and backends as their ids, ready for JSON."""
        result: dict[str, Any] = {key: list(value) if isinstance(value, tuple) else value for key, value in parameters.items()}
        if result.get("io_backend") is not None:
            result["io_backend"] = result["io_backend"].id_
        return result


def message_schema(type_name: str, properties: Mapping[str, Any], required: tuple[str, ...] = ("path",)) -> dict[str, Any]:
    """The JSON schema of a format's message: `type` is a constant, shapes have exactly two nav and two sig entries."""
    pair = {"type": "array", "items": {"type": "number", "minimum": 1}, "minItems": 2, "maxItems": 2}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": f"{type_name}DatasetParams",
        "type": "object",
        "properties": {
            "type": {"const": type_name}, "path": {"type": "string"}, "nav_shape": pair, "sig_shape": pair,
            "sync_offset": {"type": "number"}, "io_backend": {"enum": ["mmap", "buffered", "direct"]}, **properties,
        },
        "required": ["type", *required],
    }
