"""Sparse raw files: frames of which only the pixels that are not zero are stored, as LiberTEM defines it.

======================================  ===============  ==================================================================
key of ``NAME.toml``                    type             meaning
======================================  ===============  ==================================================================
``params.filetype``                     text             ``raw_csr``, in any case
``params.nav_shape``                    list of int      scan
``params.sig_shape``                    list of int      detector; P pixels
``raw_csr.indptr_file``                 text             bounds: frame i has the entries ``indptr[i]:indptr[i + 1]``
``raw_csr.indices_file``                text             flat pixel index of each entry, below P
``raw_csr.data_file``                   text             value of each entry
``raw_csr.indptr_dtype`` ...            text             dtype of each of the three, with its byte order
======================================  ===============  ==================================================================

The three files hold items and nothing else; their names are relative to the folder of the TOML. Entries of a frame are in any order,
and those of the same pixel add up. ``indptr[0]`` need not be 0. The section may be spelled in any case; LiberTEM wants it spelled as
`filetype`. Source: LiberTEM's documentation of its ``raw_csr`` data set.
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from gpuio.dataset import DataSet, MessageConverter, message_schema
from gpuio.errors import DataSetException, FormatError, ShapeError, TruncatedFile, UnsupportedFeature
from gpuio.findings import Finding, about_scan
from gpuio.formats import FORMATS
from gpuio.formats._arguments import nav_or_sig_shape, sync
from gpuio.formats._siblings import outside
from gpuio.layout import Encoding, Items, Layout, Sparse, plain_pieces
from gpuio.shape import Shape, Slice
from gpuio.source import Source

Axes = tuple[int, ...]

#: A larger file is no description.
MAX_TOML_BYTES = 1 << 20
#: Bounds looked at at a time.
_CHUNK = 1 << 20
#: Entries of a sparse tile at most, if the user does not say how many frames it is to have.
TILE_ENTRIES = 4 << 20


def sniff(head: bytes, path: str) -> bool:
    """Whether a file beginning with `head` describes a sparse raw data set."""
    if b"filetype" not in head or b"\0" in head:
        return False
    lines = (line.partition(b"=") for line in head.lower().splitlines())
    return any(key.strip().rpartition(b".")[2] == b"filetype" and value.split(b"#")[0].strip(b" \t\"'") == b"raw_csr"
               for key, _, value in lines)


def parse(source: Source, path: str, *, nav_shape: Axes | None = None, sig_shape: Axes | None = None,
          allow_outside: bool = False) -> Layout:
    """Where the entries of frames are. Reads all bounds.

    Parameters
    ----------
    nav_shape, sig_shape
        Instead of those of the file.
    allow_outside
        Follow names that lead out of the folder of the TOML.

    Raises
    ------
    OSError
        A file is missing or may not be read.
    FormatError
        The TOML or one of its keys is not what it should be, bounds descend, or files do not fit each other; `TruncatedFile` if entries
        are missing.
    DataSetException
        A name leads out of the folder.
    UnsupportedFeature
        dtypes that cannot be decoded.
    ShapeError
        `sig_shape` has another number of pixels than the file says.
    """
    params, section = _sections(source, path)
    nav, sig = _shape(path, params, "nav_shape"), _shape(path, params, "sig_shape")
    if sig_shape is not None and math.prod(sig_shape) != math.prod(sig):
        raise ShapeError(f"{path}: sig_shape {sig_shape} has {math.prod(sig_shape)} pixels; the file's {sig} has {math.prod(sig)}")
    bounds, pixels, values = (_items(source, path, section, name, allow_outside) for name in ("indptr", "indices", "data"))
    for items, kinds, what in ((bounds, "iu", "integers of 32 or 64 bits"), (pixels, "iu", "integers"), (values, "buifc", "numbers")):
        if items.dtype.kind not in kinds or (items is bounds and items.dtype.itemsize < 4):
            raise UnsupportedFeature(f"{items.path}: dtype {items.dtype} is not supported; expected {what}")
    encoding = Encoding.of(values.dtype)
    if values.dtype.char == "e":
        raise UnsupportedFeature(f"{values.path}: values of float16 cannot be added up; convert them to float32")
    if pixels.count != values.count:
        raise FormatError(f"{pixels.path}: has {pixels.count} indices; {values.path} has {values.count} values, expected as many")
    if bounds.count < 2:
        raise FormatError(f"{bounds.path}: has {bounds.count} bounds; expected at least 2, for one frame")
    first, stop, most = _check_bounds(source, bounds, values.count)
    frames, entries = bounds.count - 1, stop - first
    notes = []
    if first or stop < values.count:
        notes.append(f"{values.count - entries} of {values.count} entries belong to no frame")
    if math.prod(nav) != frames:
        notes.append(f"nav_shape {nav} has {math.prod(nav)} positions; there are {frames} frames")
    return Layout(
        format="raw_csr", parts=(), encoding=Encoding.of(encoding.dtype), pieces=plain_pieces(sig, sig[-1] * encoding.dtype.itemsize),
        sig_shape=sig, nav_shape=nav, image_count=frames, sparse=Sparse(bounds, pixels, values), notes=tuple(notes),
        metadata={"entries": entries, "density": entries / (frames * math.prod(sig)), "mean_entries_per_frame": entries / frames,
                  "max_entries_per_frame": most, "indptr_dtype": bounds.dtype.str, "indices_dtype": pixels.dtype.str,
                  "data_dtype": values.dtype.str})


def check(source: Source, layout: Layout) -> Iterator[Finding]:
    """For ``gpuio check``: a scan of another size, and entries of pixels that there are not."""
    yield from about_scan(layout)
    assert layout.sparse is not None
    pixels = layout.sparse.pixels
    found = 0
    for at in range(0, pixels.count, _CHUNK):
        count = min(_CHUNK, pixels.count - at)
        numbers = np.frombuffer(source.read(pixels.path, at * pixels.dtype.itemsize, count * pixels.dtype.itemsize), pixels.dtype)
        wrong = np.flatnonzero((numbers < 0) | (numbers >= layout.sig_size))
        if len(wrong) and not found:
            first, number = at + int(wrong[0]), int(numbers[wrong[0]])
        found += len(wrong)
    if found:
        yield Finding("error", pixels.path, f"{found} of {pixels.count} entries are of pixels that a frame of {layout.sig_size} does not "
                      f"have; the first, entry {first}, is of pixel {number}", {"entries": found, "entry": first, "pixel": number})


def _sections(source: Source, path: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The tables ``params`` and ``raw_csr``."""
    size = source.size(path)
    if size > MAX_TOML_BYTES:
        raise FormatError(f"{path}: has {size} bytes; expected a description in TOML of at most {MAX_TOML_BYTES}")
    try:
        document = tomllib.loads(source.read(path, 0, size).decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"{path}: is no TOML: {error}") from error
    params = _get(path, document, "params", dict, "")
    filetype = _get(path, params, "filetype", str, "params.")
    if filetype.lower() != "raw_csr":
        raise FormatError(f"{path}: params.filetype is {filetype!r}; expected 'raw_csr'")
    named = [key for key in document if key.lower() == "raw_csr" and key != "params"]
    if len(named) > 1:
        raise FormatError(f"{path}: has the sections {named}; expected one")
    return params, _get(path, document, named[0] if named else "raw_csr", dict, "")


def _get(path: str, table: Mapping[str, Any], key: str, kind: type, prefix: str) -> Any:
    if key not in table:
        raise FormatError(f"{path}: {prefix}{key} is missing")
    if not isinstance(table[key], kind):
        raise FormatError(f"{path}: {prefix}{key} is {table[key]!r}; expected {'a table' if kind is dict else kind.__name__}")
    return table[key]


def _shape(path: str, params: Mapping[str, Any], name: str) -> Axes:
    try:
        shape = nav_or_sig_shape(_get(path, params, name, list, "params."), name)
    except ShapeError as error:
        raise FormatError(f"{path}: params.{error}") from error
    assert shape is not None
    return shape


def _items(source: Source, path: str, section: Mapping[str, Any], name: str, allow_outside: bool) -> Items:
    """One of the three files."""
    file = _get(path, section, f"{name}_file", str, "raw_csr.")
    text = _get(path, section, f"{name}_dtype", str, "raw_csr.")
    try:
        dtype = np.dtype(text)
    except (TypeError, ValueError, SyntaxError) as error:
        raise FormatError(f"{path}: raw_csr.{name}_dtype is {text!r}; expected a dtype such as '<i4'") from error
    if dtype.hasobject or not dtype.itemsize or dtype.names is not None or dtype.subdtype is not None:
        raise UnsupportedFeature(f"{path}: raw_csr.{name}_dtype is {text!r}; expected a number such as '<i4'")
    if "\0" in file or not file:
        raise FormatError(f"{path}: raw_csr.{name}_file is {file!r}; expected the name of a file")
    where = outside(path, file, os.path.dirname(path) or ".", allow_outside)
    size = source.size(where)
    if size % dtype.itemsize:
        raise FormatError(f"{where}: has {size} bytes; expected a multiple of the {dtype.itemsize} bytes of {dtype.str}")
    return Items(where, dtype, size // dtype.itemsize)


def _check_bounds(source: Source, bounds: Items, entries: int) -> tuple[int, int, int]:
    """The first and the last bound, and the most entries of a frame."""
    item, last, most, lowest = bounds.dtype.itemsize, 0, 0, 0
    for at in range(0, bounds.count, _CHUNK):
        count = min(_CHUNK, bounds.count - at)
        stored = np.frombuffer(source.read(bounds.path, at * item, count * item), bounds.dtype)
        if len(stored) != count:
            raise TruncatedFile(f"{bounds.path}: has {at + len(stored)} bounds; expected {bounds.count}")
        if stored.dtype.kind == "u" and stored.max() > np.iinfo(np.int64).max:
            raise FormatError(f"{bounds.path}: a bound is {stored.max()}; expected at most the {entries} entries")
        chunk = stored.astype(np.int64)
        if at == 0:
            lowest = last = int(chunk[0])
            if lowest < 0:
                raise FormatError(f"{bounds.path}: the first bound is {lowest}; expected 0 or more")
        before = np.concatenate(([last], chunk[:-1]))
        if (descends := chunk < before).any():          # their difference may be more than 64 bits hold
            wrong = at + int(np.argmax(descends))
            raise FormatError(f"{bounds.path}: bound {wrong} is {chunk[wrong - at]}, less than the one before it; expected bounds that "
                              "do not descend")
        most, last = max(most, int((chunk - before).max())), int(chunk[-1])
    if last > entries:
        raise TruncatedFile(f"{bounds.path}: the last bound is {last}; there are {entries} entries")
    return lowest, last, most


@dataclass(frozen=True, slots=True)
class CsrTile:
    """Some frames as a sparse matrix.

    Attributes
    ----------
    data : csr_matrix[frames, pixels]
        Of SciPy, or of CuPy on the data set's device. Entries are as stored: in any order, of a pixel perhaps several.
    tile_slice
        Their place: one nav axis, flat or compressed by a roi, and the whole detector.
    """

    data: Any
    tile_slice: Slice


class RawCSRDataSet(DataSet):
    """Frames of which only the pixels that are not zero are stored, in three raw files that a TOML file describes.

    Parameters
    ----------
    path : str or path
        The TOML file.
    nav_shape : tuple of int, optional
        Instead of the file's; positions beyond the data are blank.
    sig_shape : tuple of int, optional
        Instead of the file's, with as many pixels.
    sync_offset : int
        Positive: frames to skip at the start. Negative: blank frames to insert there.
    io_backend
        How to read; None lets gpuio choose.
    allow_outside
        Follow names of files that lead out of the folder of the TOML file.

    Raises
    ------
    ShapeError
        A shape is not made of positive integers.
    DataSetException
        The backend reads aligned blocks only.
    """

    format = "raw_csr"

    def __init__(self, path: Any, nav_shape: Axes | None = None, sig_shape: Axes | None = None, sync_offset: int = 0,
                 io_backend: Any = None, *, allow_outside: bool = False) -> None:
        super().__init__(io_backend=io_backend)
        if io_backend is not None and io_backend.alignment > 1:
            raise DataSetException(f"the {io_backend.id} backend reads aligned blocks; lists of entries need one of "
                                   f"{self.get_supported_io_backends()}")
        self._path = os.fsdecode(path)
        self._nav_shape = nav_or_sig_shape(nav_shape, "nav_shape")
        self._sig_shape = nav_or_sig_shape(sig_shape, "sig_shape")
        self._sync_offset = sync(sync_offset)
        self._allow_outside = allow_outside

    def _parse(self, source: Source) -> Layout:
        return parse(source, self._path, nav_shape=self._nav_shape, sig_shape=self._sig_shape, allow_outside=self._allow_outside)

    def csr_tiles(self, roi: np.ndarray | None = None, *, depth: int | None = None) -> Iterator[CsrTile]:
        """All frames as sparse matrices, on this data set's device.

        Parameters
        ----------
        roi : bool[nav], optional
            Positions wanted.
        depth
            Frames of a tile at most; None: as many as have 4 million entries, or one that has more.

        Yields
        ------
        CsrTile
            Blank positions are in none. Its memory is its own.

        Raises
        ------
        ShapeError
            The roi does not fit the nav shape, or the detector is reduced.
        FormatError, ReadError, OSError
            At the tile whose entries could not be read, or are of pixels that there are not.
        BackendUnavailable
            SciPy is not installed.
        """
        from gpuio.io.scatter import EntryReader
        from gpuio.sizing import tile_edges

        nav, frames = self._selected(roi)
        layout, sig = self.layout, tuple(self.shape.sig)
        assert layout.sparse is not None
        if self._reduction is not None:
            raise ShapeError(f"{self._path}: sparse tiles have the whole detector; take those of the data set that is not reduced")
        edges = tile_edges(nav, max(1, len(nav)) if depth is None else max(1, int(depth)))
        reader = EntryReader(layout.sparse, layout.sig_size, self._transport()[0])
        try:
            if depth is None:           # where the entries of so many tiles are full
                low, high = reader.bounds(frames)
                edges = np.union1d(edges, np.flatnonzero(np.diff(np.cumsum(high - low) // TILE_ENTRIES)) + 1)
            for first, stop in pairwise(edges.tolist()):
                some = frames[first:stop]
                low, high = reader.bounds(some)
                starts = np.concatenate(([0], np.cumsum(high - low)))
                pixels = np.empty(int(starts[-1]), layout.sparse.pixels.dtype.newbyteorder("="))
                values = np.empty(int(starts[-1]), layout.dtype)
                reader.read(some, low, high, pixels.view(np.uint8), values.view(np.uint8))
                index = np.int32 if max(layout.sig_size, int(starts[-1])) < 1 << 31 else np.int64
                matrix = self.engine.csr(values, pixels.astype(index, copy=False), starts.astype(index), layout.sig_size)
                yield CsrTile(matrix, Slice((int(nav[first]), *(0,) * len(sig)), Shape((stop - first, *sig), sig_dims=len(sig))))
        finally:
            reader.close()

    def need_decode(self, read_dtype: Any, roi: Any, corrections: Any) -> bool:
        """Always: frames have to be put together."""
        return True

    @classmethod
    def sniff(cls, head: bytes, path: str) -> bool:
        """Whether a file beginning with `head` describes a sparse raw data set."""
        return sniff(head, path)

    @classmethod
    def get_supported_extensions(cls) -> set[str]:
        """Extensions in lower case, without dot."""
        return set(FORMATS["raw_csr"].extensions)

    @classmethod
    def get_supported_io_backends(cls) -> list[str]:
        """Ids of usable backends."""
        return ["mmap", "buffered"]

    @classmethod
    def get_msg_converter(cls) -> type[MessageConverter]:
        """Of messages of type ``RAW_CSR``."""
        return _RawCsrMessages


class _RawCsrMessages(MessageConverter):
    """Messages of type ``RAW_CSR``."""

    SCHEMA = message_schema("RAW_CSR", {})
