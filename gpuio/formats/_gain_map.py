"""Gain maps in files of their own: NumPy's ``.npy``, and MATLAB's ``.mat`` with the variable ``GainMap`` (levels 4 to 7.2)."""

from __future__ import annotations

import numpy as np

from gpuio.errors import FormatError, ShapeError, TruncatedFile, UnsupportedFeature
from gpuio.formats import _npy_header
from gpuio.formats._mat import read_array
from gpuio.formats._siblings import split_name
from gpuio.source import MAX_READ, Source

VARIABLE = "GainMap"


def read_gain_map(source: Source, path: str, sig_shape: tuple[int, ...]) -> np.ndarray:
    """The gain map in a file, as it is.

    Parameters
    ----------
    path
        Its extension says which kind of file it is.
    sig_shape
        Shape that the map has to have.

    Returns
    -------
    array[sig_shape], real numbers in native byte order, all of them finite

    Raises
    ------
    FormatError, UnsupportedFeature
        The file is damaged or of another kind, has no such variable, or holds something else than real, finite numbers.
    ShapeError
        The map has another shape.
    OSError
        The file is missing or may not be read.
    """
    extension = split_name(path)[2]
    if extension not in READERS:
        raise FormatError(f"{path}: expected a gain map in a file {' or '.join(READERS)}")
    size = source.size(path)
    if size > MAX_READ:
        raise FormatError(f"{path}: {size} bytes are too many for a gain map; expected at most {MAX_READ}")
    found: np.ndarray = READERS[extension](source, path, sig_shape)
    if found.dtype.kind not in "buif":
        raise UnsupportedFeature(f"{path}: the gain map holds {found.dtype}; expected real numbers")
    if not np.isfinite(found).all():
        raise FormatError(f"{path}: {np.count_nonzero(~np.isfinite(found))} values of the gain map are not finite; expected none")
    return found.astype(found.dtype.newbyteorder("="))


def _check_shape(path: str, shape: tuple[int, ...], sig_shape: tuple[int, ...]) -> None:
    if tuple(shape) != sig_shape:
        raise ShapeError(f"{path}: the gain map has shape {tuple(shape)}; expected {sig_shape}, as the frames")


def _npy(source: Source, path: str, sig_shape: tuple[int, ...]) -> np.ndarray:
    header = _npy_header.read_header(source, path)
    _check_shape(path, header.shape, sig_shape)
    n_bytes = header.dtype.itemsize * int(np.prod(header.shape))
    raw = source.read(path, header.data_offset, n_bytes)
    if len(raw) < n_bytes:
        raise TruncatedFile(f"{path}: holds {len(raw)} of the {n_bytes} bytes of the gain map")
    return np.frombuffer(raw, header.dtype).reshape(header.shape, order="F" if header.fortran_order else "C")


def _mat(source: Source, path: str, sig_shape: tuple[int, ...]) -> np.ndarray:
    found = read_array(source.read(path, 0, MAX_READ), path, VARIABLE)
    _check_shape(path, found.shape, sig_shape)
    return found


READERS = {".mat": _mat, ".npy": _npy}
