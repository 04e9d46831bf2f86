"""References: a Zarr array whose chunks are byte ranges of the vendor's files, so that Zarr and xarray read them in place.

The form is kerchunk's, version 1: a dict, or a JSON file, of Zarr keys (format 2). Metadata and coordinates are in it, a chunk
is ``[path, offset, size]``. A chunk is one frame where there are headers between frames, else as many whole scan lines as
lie in one piece, up to `CHUNK_BYTES`. Blank positions have no chunk and are the fill value, zero.

Nothing decodes here but Zarr, which knows numbers in either byte order, stored in C order. Everything else is refused.
"""

from __future__ import annotations

import base64
import json
import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuio.errors import UnsupportedFeature
from gpuio.integrations._attributes import attributes
from gpuio.integrations._axes import axes

if TYPE_CHECKING:
    from gpuio.base import DataSet

VARIABLE = "data"
CHUNK_BYTES = 16 << 20


def references(ds: DataSet) -> dict[str, Any]:
    """The references of a data set: ``{"version": 1, "refs": {...}}``, as JSON has them.

    Raises
    ------
    UnsupportedFeature
        Its pixels are not stored as Zarr could read them; the message says why.
    """
    reason = _why_not(ds)
    if reason is not None:
        raise UnsupportedFeature(f"{next(iter(ds.files), ds.format)}: cannot be read in place by Zarr: {reason}; ds.to_dask() reads it, "
                                 "and gpuio convert writes a copy as Zarr")
    named = axes(ds)
    refs: dict[str, Any] = {".zgroup": _json({"zarr_format": 2}), ".zattrs": _json(attributes({"file_format": ds.format, **ds.metadata}))}
    for axis in named:
        if (values := axis.coordinates) is not None:
            refs |= _array(axis.name, values.dtype, values.shape, values.shape, [axis.name], {"units": axis.unit} if axis.unit else {})
            refs[f"{axis.name}/0"] = "base64:" + base64.b64encode(values.tobytes()).decode("ascii")
    layout = ds.layout
    dtype = layout.dtype.newbyteorder(">") if layout.encoding.name == "swap" else layout.dtype
    chunk, ranges = _chunks(ds)
    refs |= _array(VARIABLE, dtype, tuple(ds.shape), (*chunk, *ds.shape.sig), [axis.name for axis in named], {})
    return {"version": 1, "refs": refs | ranges}


def _why_not(ds: DataSet) -> str | None:
    """What keeps Zarr from reading the pixels; None: nothing."""
    layout = ds.layout
    if not ds.files or not all(map(os.path.isfile, ds.files)):
        return "it is not in files"
    if ds.reduction is not None:
        return "the detector is cropped or binned, which is done while decoding"
    if layout.has_corrections:
        return "the files bring corrections, which are applied while decoding"
    if layout.encoding.name not in ("plain", "swap"):
        return f"its pixels are packed ({layout.encoding.name})"
    if layout.chunks is not None:
        return "its pixels are in chunks of HDF5, to which kerchunk and VirtualiZarr make references"
    if layout.strided is not None:
        return "navigation is stored fastest, so that frames are scattered over the file"
    if not layout.is_sequential:
        return "frames do not lie in one piece"
    piece = layout.pieces[0]
    if piece.reversed or (piece.rows > 1 and piece.row_pos != piece.pixels):
        return "rows are not stored from top to bottom"
    return None


def _chunks(ds: DataSet) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Scan positions of a chunk along each nav axis, and where each chunk lies."""
    nav, layout = tuple(ds.shape.nav), ds.layout
    frame_bytes = layout.sig_size * layout.dtype.itemsize
    files = [os.path.abspath(file.path) for file in layout.parts[0]]
    file, offset = layout.parts[0].locate(np.arange(math.prod(nav)) + ds.sync_offset)
    file[ds.blank().ravel()] = -1
    # Zarr has no smaller chunks at the end of an axis, and stores all of one: its length divides the axis.
    for axis, length in ((k, n) for k in range(len(nav)) for n in range(nav[k], 0, -1) if nav[k] % n == 0):
        depth = length * math.prod(nav[axis + 1:])
        if depth == 1 or (depth * frame_bytes <= CHUNK_BYTES and _in_one_piece(file, offset, depth, frame_bytes)):
            break
    first, at = file[::depth].tolist(), (offset[::depth] + layout.pieces[0].src).tolist()
    grid = np.unravel_index(np.arange(len(first)), (*nav[:axis], nav[axis] // length))
    rest = ".0" * (len(nav) - axis - 1 + len(layout.sig_shape))
    keys = (".".join(map(str, index)) for index in zip(*(k.tolist() for k in grid), strict=True))
    ranges = {f"{VARIABLE}/{key}{rest}": [files[f], o, depth * frame_bytes] for key, f, o in zip(keys, first, at, strict=True) if f >= 0}
    return ((1,) * axis + (length, *nav[axis + 1:])), ranges


def _in_one_piece(file: np.ndarray, offset: np.ndarray, depth: int, frame_bytes: int) -> bool:
    """Whether runs of `depth` frames each are either one after the other in one file, or blank."""
    files = file.reshape(-1, depth)
    steps = np.diff(offset.reshape(-1, depth), axis=1)
    return bool((files == files[:, :1]).all() and ((steps == frame_bytes) | (files[:, 1:] < 0)).all())


def _array(name: str, dtype: np.dtype, shape: tuple[int, ...], chunks: tuple[int, ...], dims: list[str],
           attrs: dict[str, Any]) -> dict[str, str]:
    """Metadata of an array. No fill value: xarray would take zeros for missing values; without one, Zarr fills in zeros."""
    described = {"zarr_format": 2, "shape": shape, "chunks": chunks, "dtype": dtype.str, "compressor": None, "filters": None,
                 "fill_value": None, "order": "C"}
    return {f"{name}/.zarray": _json(described), f"{name}/.zattrs": _json({"_ARRAY_DIMENSIONS": dims, **attrs})}


def _json(value: Any) -> str:
    """JSON; NaN and infinities, which it does not know, become null."""
    return json.dumps(json.loads(json.dumps(value), parse_constant=lambda _: None))
