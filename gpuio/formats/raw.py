"""Raw binary files: nothing but pixels, described by the user.

=============  ============================================  =====================================================
quantity       value                                         source
=============  ============================================  =====================================================
frame bytes    pixels of a stored frame x item size          the user's `sig_shape` and `dtype`
stride         frame header + frame bytes + frame footer     the user's, 0 + frame bytes + 0 if nothing is said
frame i        file header + i x stride + frame header       of its file; a frame never crosses from file to file
image count    (size - file header) // stride                of each file; a footer missing at the very end is no loss
pixel (y, x)   (y x width + x) x item size                   C order, last axis fastest
=============  ============================================  =====================================================

There is no magic number, so raw files are never detected. `MAGICS` serves to warn when a file of another format is
opened as raw, which otherwise yields plausible nonsense.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuio.dataset import DataSet, MessageConverter, message_schema
from gpuio.errors import DataSetException, FormatError, ShapeError, TruncatedFile, UnsupportedFeature
from gpuio.fileset import File, FileSet
from gpuio.formats import FORMATS
from gpuio.formats._arguments import byte_count, ignored, nav_or_sig_shape, renamed, sync
from gpuio.layout import Encoding, Layout, Piece, plain_pieces
from gpuio.source import Source

Axes = tuple[int, ...]

#: For ``gpuio check``.
COUNTED_BY_SIZE = True

#: First bytes of other formats (published file signatures), what they are, and the name of the format here.
MAGICS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x93NUMPY", "a NumPy file", "npy"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "hdf5"),
    (b"MQ1,", "a Merlin MIB file", "mib"),
    (b"IMGBLO", "a Blockfile", "blo"),
    (b"\xed\xfe\x00\x00", "a NorPix SEQ file", "seq"),
    (b"II\x97\x01", "a TIA SER file", "ser"),
    (b"II*\x00", "a TIFF file", ""),
    (b"MM\x00*", "a TIFF file", ""),
    (b"\x1f\x8b\x08", "a file compressed with gzip", ""),
    (b"\x28\xb5\x2f\xfd", "a file compressed with Zstandard", ""),
    (b"PK\x03\x04", "a zip archive", ""),
)

#: Detectors that `_fitting` proposes.
COMMON_DETECTORS = (
    (64, 64), (128, 128), (130, 128), (192, 192), (256, 256), (264, 264), (512, 512), (514, 514), (516, 516), (576, 576), (1024, 1024),
    (1028, 1062), (1860, 2048), (2048, 2048), (3838, 3710), (4096, 4096),
)


def parse(source: Source, paths: str | Sequence[str], *, dtype: Any, stored_shape: Sequence[int], sig_shape: Sequence[int] | None = None,
          nav_shape: Sequence[int] | None = None, file_header: int = 0, frame_header: int = 0, frame_footer: int = 0) -> Layout:
    """Where the frames of raw files are.

    Parameters
    ----------
    source
        Storage; sizes are asked for, and 16 bytes of the first file.
    paths
        One file, or several in the order of their frames.
    dtype
        dtype of the pixels on disk, byte order included.
    stored_shape
        Detector axes of a frame as stored.
    sig_shape
        What is wanted of each: the first rows and columns. Default all.
    nav_shape
        What the user expects; only to propose shapes when sizes do not fit.
    file_header, frame_header, frame_footer
        Bytes to leave out before the first frame of each file, and before and after the pixels of each frame.

    Returns
    -------
    Layout

    Raises
    ------
    OSError
        A file is missing or may not be read.
    UnsupportedFeature
        `dtype` is not a number that can be decoded.
    ShapeError
        `sig_shape` is no part of `stored_shape`.
    TruncatedFile
        A file holds less than one frame.
    FormatError
        A file that is followed by another one holds no whole number of frames.
    DataSetException
        There are no paths, or one is a folder, pipe or device.
    """
    paths = [paths] if isinstance(paths, str) else list(paths)
    if not paths:
        raise DataSetException("raw: the list of paths is empty; expected at least one file")
    stored = tuple(stored_shape)
    on_disk = _storage_dtype(dtype, paths[0])
    frame_bytes = math.prod(stored) * on_disk.itemsize
    pieces = _corner(stored, tuple(sig_shape or stored), on_disk.itemsize, paths[0])
    around = frame_header + frame_footer
    stride = around + frame_bytes
    frame = f"frame of shape {stored} and dtype {on_disk.str}"

    files: list[File] = []
    notes: list[str] = []
    start = total = unused = 0
    for number, path in enumerate(paths, start=1):
        size = source.size(path)
        body = size - file_header
        count = (body + frame_footer) // stride     # the pixels of the last frame are all there even if its footer is not
        if count < 1:
            needed = file_header + frame_header + frame_bytes
            headers = f" and headers of {file_header} + {frame_header} bytes" if needed > frame_bytes else ""
            raise TruncatedFile(f"{path}: holds {size} bytes; one {frame}{headers} needs {needed} bytes"
                                + _proposal(body, stored, on_disk.itemsize, nav_shape, around))
        unused = max(0, body - count * stride)
        if unused:
            found = f"{unused} bytes follow {count} whole frames; a {frame} has {frame_bytes} bytes"
            proposal = _proposal(body, stored, on_disk.itemsize, nav_shape, around)
            if number < len(paths):
                raise FormatError(f"{path}: {found}; expected whole frames only in a file that is followed by another{proposal}")
            notes.append(f"{found}, so these are not used{proposal}")
        files.append(File(path, start, start + count, on_disk, stored, frame_footer, frame_header, file_header, size=size))
        start += count
        total += size
    _warn_of_other_format(source.read(paths[0], 0, 16), paths[0], file_header)
    return Layout(
        format="raw", parts=(FileSet(files, frame_header, frame_footer),), encoding=Encoding.of(on_disk), pieces=pieces,
        sig_shape=tuple(sig_shape or stored), image_count=start, notes=tuple(notes),
        metadata={"dtype_on_disk": on_disk.str, "size_bytes": total, "unused_bytes": unused},
    )


def _storage_dtype(dtype: Any, path: str) -> np.dtype:
    """The NumPy dtype meant by `dtype`, if its numbers can be decoded."""
    expected = "expected bool, int, uint, float or complex such as 'uint8', '<u2', '>f4', 'complex64'"
    if dtype is None:       # NumPy would take it for float64
        raise UnsupportedFeature(f"{path}: no dtype is given; {expected}")
    try:
        on_disk = np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError) as error:
        raise UnsupportedFeature(f"{path}: dtype {dtype!r} is not understood; {expected}") from error
    try:
        Encoding.of(on_disk)
    except UnsupportedFeature as error:
        raise UnsupportedFeature(f"{path}: {error}") from None
    return on_disk


def _corner(stored: Axes, wanted: Axes, itemsize: int, path: str) -> tuple[Piece, ...]:
    """The piece that takes the first `wanted` entries along each axis of a stored frame."""
    if len(wanted) != len(stored) or any(w > s for w, s in zip(wanted, stored, strict=True)):
        raise ShapeError(f"{path}: a detector of shape {wanted} cannot be cut from stored frames of shape {stored}")
    if len(stored) < 3 or wanted[1:-1] == stored[1:-1]:
        # Only the first axis and the length of rows differ: still rows at equal distances.
        return plain_pieces(wanted, stored[-1] * itemsize)
    # Axes before the last, outermost first, as [entries, source step in bytes, target step in pixels]; an axis that is
    # kept whole is one with the axis before it.
    axes: list[list[int]] = []
    for i in range(len(stored) - 1):
        if i and wanted[i] == stored[i]:
            axes[-1][0] *= wanted[i]
            axes[-1][1:] = math.prod(stored[i + 1:]) * itemsize, math.prod(wanted[i + 1:])
        else:
            axes.append([wanted[i], math.prod(stored[i + 1:]) * itemsize, math.prod(wanted[i + 1:])])
    if len(axes) > 2:
        raise UnsupportedFeature(f"{path}: a detector of shape {wanted} cut from {stored} is cut along too many axes; "
                                 "expected at most the first, one more and the last")
    (repeats, rep_src, rep_pos), (rows, row_src, row_pos) = axes
    return (Piece(src=0, pos=0, pixels=wanted[-1], rows=rows, row_src=row_src, row_pos=row_pos, repeats=repeats, rep_src=rep_src,
                  rep_pos=rep_pos),)


def _proposal(n_bytes: int, stored: Axes, itemsize: int, nav_shape: Sequence[int] | None, around: int) -> str:
    """A clause for messages: frame shapes with which `n_bytes` would be a whole number of frames, or nothing."""
    shapes = _fitting(n_bytes, stored, itemsize, nav_shape, around)
    return f"; frames of {' or '.join(map(str, shapes))} would fit exactly" if shapes else ""


def _fitting(n_bytes: int, stored: Axes, itemsize: int, nav_shape: Sequence[int] | None, around: int) -> list[Axes]:
    """Up to three frame shapes that fill `n_bytes` exactly: for the expected number of frames, else those of common detectors."""
    if n_bytes <= 0:
        return []
    if nav_shape:
        frame_bytes, rest = divmod(n_bytes, math.prod(nav_shape))
        pixels, odd = divmod(frame_bytes - around, itemsize)
        side = math.isqrt(max(0, pixels))
        if not rest and not odd and 0 < side < 1 << 16:
            height = next((h for h in range(side, side // 4, -1) if pixels % h == 0), None)
            if height is not None:
                return [(height, pixels // height)]
    wanted = math.log(math.prod(stored))
    fits = [s for s in COMMON_DETECTORS if n_bytes % (math.prod(s) * itemsize + around) == 0]
    return list(sorted(fits, key=lambda s: abs(math.log(math.prod(s)) - wanted))[:3])


def _warn_of_other_format(head: bytes, path: str, file_header: int) -> None:
    """Warn if the file begins like one of another format; not if a header is left out, as its owner then knows."""
    for magic, what, name in MAGICS:
        if head.startswith(magic) and not file_header:
            remedy = f"gpuio.load({name!r}, ...) reads it" if name in FORMATS else "its bytes are taken for pixels"
            warnings.warn(f"{path}: looks like {what}; {remedy}", stacklevel=2)


class RawFileDataSet(DataSet):
    """Raw binary data: frames in C order, one after another.

    Parameters
    ----------
    path : str, path or sequence of these
        The file; several are read one after another in the given order, each but the last a whole number of frames.
    dtype
        NumPy dtype of the pixels on disk. Can name the byte order: ``">u2"``. Bool, integers, floats and complex numbers.
    nav_shape : tuple of int, optional
        Scan axes, slowest first: ``(y, x)``, but any number. Default: a square if the number of frames is one, else a line.
        Positions beyond the data are blank.
    sig_shape : tuple of int
        Detector axes: ``(height, width)``, but any number.
    sync_offset : int
        Positive: frames to skip at the start. Negative: blank frames to insert there.
    io_backend
        How to read; None lets gpuio choose.
    detector_size_raw, crop_detector_to : tuple of int, optional
        Shape of the frames as stored, and the shape that is wanted of them, first rows and columns (two rows of numbers
        under each image are left out by ``detector_size_raw=(130, 128), crop_detector_to=(128, 128)``). Either one
        defaults to `sig_shape`.
    scan_size, detector_size, enable_direct
        Former names of `nav_shape`, `sig_shape` and of ``io_backend=DirectBackend()``.
    tileshape
        No longer has an effect.
    file_header, frame_header, frame_footer : int
        Bytes to leave out before the first frame of each file, and before and after the pixels of each frame.

    Raises
    ------
    ShapeError
        A shape is missing, is not made of positive integers, or does not fit another one.
    ValueError
        A parameter is given under both names.

    Warns
    -----
    UserWarning
        On `initialize`, if the file begins like one of another format.
    """

    format = "raw"

    def __init__(self, path: Any, dtype: Any, scan_size: Axes | None = None, detector_size: Axes | None = None, enable_direct: bool = False,
                 detector_size_raw: Axes | None = None, crop_detector_to: Axes | None = None, tileshape: Any = None,
                 nav_shape: Axes | None = None, sig_shape: Axes | None = None, sync_offset: int = 0, io_backend: Any = None, *,
                 file_header: int = 0, frame_header: int = 0, frame_footer: int = 0) -> None:
        if renamed("enable_direct", enable_direct or None, "io_backend", io_backend) is True:
            from gpuio.io.backends import DirectBackend

            io_backend = DirectBackend()
        super().__init__(io_backend=io_backend)
        ignored("tileshape", tileshape)
        single = isinstance(path, (str, bytes, os.PathLike))
        self._path = os.fsdecode(path) if single else [os.fsdecode(p) for p in path]
        self._dtype = dtype
        self._nav_shape = nav_or_sig_shape(renamed("scan_size", scan_size, "nav_shape", nav_shape), "nav_shape")
        self._stored_shape, self._sig_shape = _detector_shapes(
            nav_or_sig_shape(renamed("detector_size", detector_size, "sig_shape", sig_shape), "sig_shape"),
            nav_or_sig_shape(detector_size_raw, "detector_size_raw"), nav_or_sig_shape(crop_detector_to, "crop_detector_to"))
        self._sync_offset = sync(sync_offset)
        self._around = {"file_header": byte_count(file_header, "file_header"), "frame_header": byte_count(frame_header, "frame_header"),
                        "frame_footer": byte_count(frame_footer, "frame_footer")}

    def _parse(self, source: Source) -> Layout:
        return parse(source, self._path, dtype=self._dtype, stored_shape=self._stored_shape, sig_shape=self._sig_shape,
                     nav_shape=self._nav_shape, **self._around)

    def get_cache_key(self) -> Any:
        """Path, shape, sync offset, dtype on disk, and where the pixels lie in the file."""
        return {**super().get_cache_key(), "dtype": np.dtype(self._dtype).str, "stored_shape": self._stored_shape, **self._around}

    @classmethod
    def get_msg_converter(cls) -> type[MessageConverter]:
        """Of messages of type ``RAW``."""
        return _RawMessages


def _detector_shapes(sig: Axes | None, stored: Axes | None, wanted: Axes | None) -> tuple[Axes, Axes]:
    """Shape of frames as stored, and as wanted, from the three ways to say so."""
    if stored is not None and wanted is not None and sig not in (None, stored, wanted):
        raise ShapeError(f"sig_shape {sig} is neither detector_size_raw {stored} nor crop_detector_to {wanted}; leave it out")
    stored = stored or sig or wanted
    if stored is None:
        raise ShapeError("raw: no sig_shape is given; expected a tuple of positive integers, such as (256, 256)")
    return stored, wanted or sig or stored


class _RawMessages(MessageConverter):
    """Messages of type ``RAW``."""

    SCHEMA = message_schema("RAW", {"dtype": {"type": "string"}, "enable_direct": {"type": "boolean"}},
                            required=("path", "nav_shape", "sig_shape", "dtype"))
