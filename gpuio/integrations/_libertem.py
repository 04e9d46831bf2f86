"""What LiberTEM and gpuio hand each other: corrections, I/O backends, boxes, names of array backends, errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from gpuio import base
from gpuio.extras import extra

with extra("libertem"):
    from libertem.common import Shape, Slice
    from libertem.io.corrections import CorrectionSet
    from libertem.io.dataset import base as peer
    from libertem.udf import UDF

NUMPY, CUDA, CUPY = UDF.BACKEND_NUMPY, UDF.BACKEND_CUDA, UDF.BACKEND_CUPY


def array_backends(data: base.DataSet) -> tuple[Any, ...]:
    """What tiles of a data set can be; LiberTEM's "CUDA" is host memory for algorithms that upload it themselves."""
    return (NUMPY, CUDA) if data.device == "cpu" else (CUPY, NUMPY, CUDA)


def slice_of(box: base.Slice) -> Slice:
    """A box of scan and detector as LiberTEM has it."""
    return Slice(box.origin, Shape(tuple(box.shape), sig_dims=box.shape.sig.dims))


#: gpuio's form of LiberTEM's corrections: made once in a process, however many partitions it reads.
_converted: WeakKeyDictionary[CorrectionSet, base.CorrectionSet] = WeakKeyDictionary()


def corrections_of(theirs: CorrectionSet | None) -> base.CorrectionSet | None:
    """LiberTEM's corrections as gpuio's; None if there are none."""
    if theirs is None or not theirs.have_corrections():
        return None
    if theirs not in _converted:
        _converted[theirs] = base.CorrectionSet(theirs.get_dark_frame(), theirs.get_gain_map(), theirs.get_excluded_pixels(),
                                                allow_empty=getattr(theirs, "_allow_empty", False))
    return _converted[theirs]


def peer_corrections(ours: base.CorrectionSet) -> CorrectionSet:
    """gpuio's corrections as LiberTEM's; `corrections_of` gives the same object back."""
    theirs = CorrectionSet(ours.get_dark_frame(), ours.get_gain_map(), ours.get_excluded_pixels(), allow_empty=ours.allow_empty)
    _converted[theirs] = ours
    return theirs


def backend_of(backend: Any) -> Any:
    """gpuio's I/O backend for one of LiberTEM's; gpuio's own as they are."""
    if backend is None or isinstance(backend, base.IOBackend):
        return backend
    ours = base.IOBackend.get_cls_by_id(getattr(backend, "id_", None))
    if ours is None:
        raise peer.DataSetException(f"I/O backend {backend!r} is unknown to gpuio; expected one of {base.IOBackend.get_supported()}")
    names = {"max_buffer_size": "_max_buffer_size", "enable_readahead_hints": "_enable_readahead"}
    return ours.from_json({mine: getattr(backend, theirs) for mine, theirs in names.items() if hasattr(backend, theirs)})


@contextmanager
def as_peer_errors() -> Iterator[None]:
    """Errors of gpuio about a data set as the class of errors that LiberTEM and its users catch."""
    try:
        yield
    except base.DataSetException as error:
        raise peer.DataSetException(str(error)) from error
