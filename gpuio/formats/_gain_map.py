"""Gain maps in files of their own: NumPy's ``.npy``, and MATLAB's ``.mat`` with the variable ``GainMap`` (levels 4 to 7.2)."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from gpuio.errors import BackendUnavailable, DataSetException, FormatError, ShapeError, TruncatedFile, UnsupportedFeature
from gpuio.formats import _npy_header
from gpuio.formats._siblings import split_name
from gpuio.source import MAX_READ, Source

VARIABLE = "GainMap"
#: MATLAB's names for what can be taken as numbers.
NUMERIC = {"double", "single", "logical", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}


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
    BackendUnavailable
        It is a ``.mat`` file, and SciPy is not installed.
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
    try:
        from scipy.io import loadmat, whosmat
    except ImportError as error:
        raise BackendUnavailable(f"{path}: MATLAB files are read with SciPy, which cannot be imported ({error}); "
                                 "install gpuio[mat], or save the map as .npy") from None
    raw = source.read(path, 0, MAX_READ)
    try:
        # The list of variables comes first: it is short, so that no map of an absurd size is ever made.
        variables: dict[str, tuple[tuple[int, ...], str]] = {name: (shape, kind) for name, shape, kind in whosmat(io.BytesIO(raw))}
        shape, kind = variables.get(VARIABLE, ((), ""))
        if kind not in NUMERIC:
            raise FormatError(f"{path}: has no array of numbers {VARIABLE}; found {_listed(variables)}")
        _check_shape(path, shape, sig_shape)
        found: np.ndarray = loadmat(io.BytesIO(raw), variable_names=[VARIABLE])[VARIABLE]
        return found
    except DataSetException:
        raise
    except NotImplementedError:
        raise UnsupportedFeature(f"{path}: a MATLAB file of level 7.3 (HDF5); expected at most 7.2: save it with -v7") from None
    except Exception as error:      # SciPy raises whatever damaged bytes lead to
        raise FormatError(f"{path}: not a MATLAB file that can be read: {' '.join(str(error).split())[:200]}") from error


def _listed(variables: dict[str, Any]) -> str:
    return ", ".join(f"{name[:63]!r} ({kind})" for name, (_, kind) in list(variables.items())[:10]) or "no variables"


READERS = {".mat": _mat, ".npy": _npy}
