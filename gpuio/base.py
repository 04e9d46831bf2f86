"""The names of the internal data-set API in one place: re-exports only, imported when first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "gpuio.corrections": ("CorrectionSet", "RepairValueError"),
    "gpuio.dataset": (
        "BasePartition", "DataSet", "JobExecutor", "MessageConverter", "Partition", "TaskCommHandler", "WorkerContext",
        "WritableDataSet", "WritablePartition",
    ),
    "gpuio.errors": ("DataSetException",),
    "gpuio.fileset": ("File", "FileSet", "FileTree", "OffsetsSizes"),
    "gpuio.geometry.ranges": ("default_get_read_ranges", "make_get_read_ranges"),
    "gpuio.geometry.tiling": ("Negotiator", "TilingScheme", "UDFProtocol"),
    "gpuio.io.backends": ("BufferedBackend", "DirectBackend", "GDSBackend", "IOBackend", "IOBackendImpl", "MMapBackend"),
    "gpuio.io.decoders": ("Decoder", "DefaultDecoder", "DtypeConversionDecoder", "decode_swap_2", "decode_swap_4"),
    "gpuio.meta": ("DataSetMeta", "PartitionStructure"),
    "gpuio.shape": ("Shape", "Slice", "SliceUsageError"),
    "gpuio.tile": ("DataTile", "get_coordinates"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'gpuio.base' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
