"""What a format hands over: where bytes lie, how they are encoded, and where their pixels go. Data, never code.

A **frame** is found by its file and byte offset (`fileset.FileSet`). Its bytes are cut into **pieces**: runs of
encoded pixels that land on the detector with a fixed step. One piece describes all its rows and repeats::

    for r in range(rows):
        for k in range(repeats):
            read the run that starts at     src + r * row_src + k * rep_src     (bytes from the frame's first pixel byte)
            leave out the first `skipped` pixels of its first group
            put the first pixel to          pos + r * row_pos + k * rep_pos     (flat index into the sig shape)
            and each further one to the next position (the previous one if `reversed`)

A plain frame is one piece with one row a detector row; a 2x2 MIB RAW frame is two pieces (its bottom chips are
stored rotated by 180 degrees: negative row step, reversed); a K2IS frame is 16. A frame that comes from several files
has several **parts**: one file set each, one start each, and pieces that say to which part they belong. A frame may lack
some of its parts: their pixels are blank. A frame that lacks all of them is a blank frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuio.errors import DataSetException, UnsupportedFeature

if TYPE_CHECKING:
    from gpuio.chunks import Chunks
    from gpuio.fileset import File, FileSet

#: Columns of a placement table, in order. The engines address them by number.
PLACEMENT_COLUMNS = (
    "src", "pos", "repeats", "rep_src", "rep_pos", "rows", "row_src", "row_pos", "pixels", "skipped", "reversed", "part",
)
SRC, POS, REPEATS, REP_SRC, REP_POS, ROWS, ROW_SRC, ROW_POS, PIXELS, SKIPPED, REVERSED, PART = range(12)

#: Frames of a data set at most, and positions of its scan: files may announce any number and store none of them, and a stream keeps
#: some tens of bytes about each.
MAX_FRAMES = 1 << 26
#: Bytes of a decoded frame at most; no arithmetic with offsets overflows below.
MAX_FRAME_BYTES = 1 << 40


def of_numbers(dtype: Any) -> np.dtype:
    """A dtype that pixels can have.

    Raises
    ------
    TypeError
        It is none, or not one of numbers of at most 64 bits a part.
    """
    found = np.dtype(dtype)
    if found.kind not in "buifc" or found.itemsize > (16 if found.kind == "c" else 8):
        raise TypeError(f"dtype {found} cannot be decoded; expected bool, integer, float or complex of up to 64 bits a part")
    return found


@dataclass(frozen=True, slots=True)
class Encoding:
    """How pixels are packed into bytes.

    Parameters
    ----------
    name
        One of the encodings that the engines know: ``plain``, ``swap``, ``mib_r1`` ...
    dtype
        dtype of a decoded pixel in native byte order.
    group_bytes, group_pixels
        The smallest unit that can be decoded alone: `group_bytes` bytes hold `group_pixels` pixels.
    param
        A number the encoding needs besides the bytes (``mib_r24``: distance of the low plane, in bytes).
    """

    name: str
    dtype: np.dtype
    group_bytes: int
    group_pixels: int
    param: int = 0

    @classmethod
    def of(cls, dtype: Any) -> Encoding:
        """The encoding of pixels stored as items of a NumPy `dtype`, in either byte order.

        Raises
        ------
        UnsupportedFeature
            The dtype is not a fixed-size number (objects, strings, dates, records, long double).
        """
        try:
            dt = of_numbers(dtype)
        except TypeError as e:
            raise UnsupportedFeature(str(e)) from e
        native = dt.newbyteorder("=")
        return cls("plain" if dt == native else "swap", native, dt.itemsize, 1)


@dataclass(frozen=True, slots=True)
class Filter:
    """One step of how a chunk of pixels was packed.

    Parameters
    ----------
    name
        ``deflate``, ``shuffle``, ``fletcher32``, ``lzf``, ``lz4``, ``bitshuffle``, or ``hdf5_<id>`` for any other filter of HDF5.
    params
        What the writer was told (HDF5: cd_values). The first of ``shuffle`` and the third of ``bitshuffle`` is the size of an element.
    """

    name: str
    params: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """Runs of encoded pixels of a frame and where they go; see the module docstring for the meaning of each number."""

    src: int
    pos: int
    pixels: int
    rows: int = 1
    row_src: int = 0
    row_pos: int = 0
    repeats: int = 1
    rep_src: int = 0
    rep_pos: int = 0
    skipped: int = 0
    reversed: bool = False
    part: int = 0


def plain_pieces(sig_shape: Sequence[int], row_bytes: int) -> tuple[Piece, ...]:
    """The one piece of a frame whose rows follow each other, `row_bytes` bytes apart."""
    width = int(sig_shape[-1])
    height = 1
    for n in sig_shape[:-1]:
        height *= int(n)
    return (Piece(src=0, pos=0, pixels=width, rows=height, row_src=int(row_bytes), row_pos=width),)


def placement_table(pieces: Sequence[Piece]) -> np.ndarray:
    """`pieces` as int64[len(pieces), 12], columns `PLACEMENT_COLUMNS`."""
    return np.array([[int(getattr(p, name)) for name in PLACEMENT_COLUMNS] for p in pieces], dtype=np.int64).reshape(-1, 12)


def spans(placements: np.ndarray, encoding: Encoding, n_parts: int) -> np.ndarray:
    """Bytes of a frame that placements touch: int64[n_parts, 2], first and one past the last, relative to the frame's start.

    A part that nothing is taken from has an empty span.
    """
    found: dict[int, tuple[int, int]] = {}
    before, behind = min(encoding.param, 0), max(encoding.param, 0)
    for src, _, repeats, rep_src, _, rows, row_src, _, pixels, skipped, _, part in placements.tolist():
        row_reach, rep_reach = (rows - 1) * row_src, (repeats - 1) * rep_src
        groups = -(-(skipped + pixels) // encoding.group_pixels)
        low = src + min(row_reach, 0) + min(rep_reach, 0) + before
        high = src + max(row_reach, 0) + max(rep_reach, 0) + groups * encoding.group_bytes + behind
        first, last = found.get(part, (low, high))
        found[part] = min(first, low), max(last, high)
    return np.array([found.get(part, (0, 0)) for part in range(n_parts)], dtype=np.int64).reshape(n_parts, 2)


@dataclass(frozen=True, slots=True)
class Strided:
    """Frames that do not lie in one piece: element (nav..., sig...) of one array is at `offset + sum(index * stride)`.

    For arrays stored with navigation fastest (Fortran-ordered NPY, transposed DM4). Strides are in bytes, one for each
    nav axis of `nav_shape` (the shape as stored) and each sig axis.
    """

    path: str
    offset: int
    dtype: np.dtype
    nav_shape: tuple[int, ...]
    nav_strides: tuple[int, ...]
    sig_strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Items:
    """A file that is a list of `count` items of a dtype, in the byte order that this says, and nothing else."""

    path: str
    dtype: np.dtype
    count: int


@dataclass(frozen=True, slots=True)
class Sparse:
    """Frames of which only pixels that are not zero are stored, as **entries** of two lists: pixel number and value.

    Frame i has the entries ``bounds[i]:bounds[i + 1]``. Entries of the same pixel add up; they are in any order.

    Parameters
    ----------
    bounds
        Not descending; one more than there are frames.
    pixels
        Flat indices into the sig shape.
    values
        As many as `pixels`.
    """

    bounds: Items
    pixels: Items
    values: Items


@dataclass(frozen=True)
class Layout:
    """All that a format knows about a data set. Made once by the format's parser, then only read.

    Parameters
    ----------
    format
        Name of the format as `gpuio.load` takes it.
    parts
        One `FileSet` for each part of a frame, nearly always one. `File.frame_header` precedes the bytes that `Piece.src` counts from.
    encoding, pieces
        How pixels are packed and where they go.
    sig_shape
        Detector axes, slowest first.
    nav_shape
        Scan axes if the files say so, else None.
    image_count
        Frames that the files hold or ought to hold; holes in a series count.
    sync_offset
        Where the scan starts as far as the files say: the frame of the first position. Users may say otherwise.
    strided
        For arrays stored with navigation fastest: frames are gathered from it in the byte order of the file, and `pieces`
        describe a gathered frame. `parts` is then empty.
    chunks
        For arrays stored in chunks, packed or not in the order of frames: `pieces` count from the row of chunks. `parts` is then empty.
    sparse
        For frames stored as entries: they are gathered too, in native byte order.
    dark, gain
        Frames whose mean is the dark frame, and those whose mean is the gain map, as layouts of their own; None if there are none.
    excluded
        Pixels to replace by their neighbours, as ranges of flat indices into the sig shape: of a bad row, a bad column, a bad pixel.
    metadata
        What the files say about the experiment. Keys carry units as suffix (``exposure_s``); values are plain Python.
    notes
        What was odd in the files and how it was read, a sentence each. Shown by ``gpuio info``.
    """

    format: str
    parts: tuple[FileSet, ...]
    encoding: Encoding
    pieces: tuple[Piece, ...]
    sig_shape: tuple[int, ...]
    image_count: int
    nav_shape: tuple[int, ...] | None = None
    sync_offset: int = 0
    strided: Strided | None = None
    chunks: Chunks | None = None
    sparse: Sparse | None = None
    dark: Layout | None = None
    gain: Layout | None = None
    excluded: tuple[range, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.image_count < 1:
            raise DataSetException(f"{self.format}: the files hold no frames")
        if not self.sig_shape or min(self.sig_shape) < 1:
            raise DataSetException(f"{self.format}: sig shape {self.sig_shape} has no pixels")

    @property
    def dtype(self) -> np.dtype:
        """Native dtype of decoded pixels."""
        return self.encoding.dtype

    @property
    def sig_size(self) -> int:
        """Pixels of a frame."""
        size = 1
        for n in self.sig_shape:
            size *= n
        return size

    @property
    def is_gathered(self) -> bool:
        """Whether frames have to be put together in the engine's memory before they can be decoded; `parts` is then empty."""
        return self.strided is not None or self.sparse is not None

    @property
    def has_corrections(self) -> bool:
        """Whether dark frames, gain maps or excluded pixels come with the data."""
        return self.dark is not None or self.gain is not None or bool(self.excluded)

    @property
    def is_sequential(self) -> bool:
        """Whether the bytes of a frame are taken front to back, as one run."""
        if len(self.parts) != 1 or len(self.pieces) != 1:
            return False
        piece = self.pieces[0]
        row_bytes = piece.pixels // self.encoding.group_pixels * self.encoding.group_bytes
        return piece.repeats == 1 and (piece.rows == 1 or piece.row_src == row_bytes)

    @cached_property
    def placements(self) -> np.ndarray:
        """The pieces as a placement table, int64[entries, 12], not to be written to."""
        table = placement_table(self.pieces)
        table.flags.writeable = False
        return table

    @cached_property
    def spans(self) -> np.ndarray:
        """`spans` of `placements`: int64[parts, 2], not to be written to."""
        found = spans(self.placements, self.encoding, len(self.parts))
        found.flags.writeable = False
        return found

    def spans_of(self, placements: np.ndarray) -> np.ndarray:
        """`spans` of a table, which may be that of this layout: int64[parts, 2], not to be written to."""
        return self.spans if placements is self.placements else spans(placements, self.encoding, len(self.parts))

    @cached_property
    def decoders(self) -> dict[Any, Any]:
        """Where `gpuio.boxes` keeps decoders of this layout, for as long as the layout is used."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        """Without what can be made from the rest."""
        return {name: value for name, value in self.__dict__.items() if name not in ("placements", "spans", "decoders")}

    def present(self, frames: np.ndarray) -> np.ndarray:
        """Which file frames lie in a file, at least in part: bool[n]. Those in the holes of a series do not."""
        if not self.parts:
            return np.ones(len(frames), dtype=bool)
        found = self.parts[0].holds(frames)
        for part in self.parts[1:]:
            found |= part.holds(frames)
        return found

    @property
    def paths(self) -> list[str]:
        """Files that pixels are read from."""
        if self.strided is not None:
            return [self.strided.path]
        if self.sparse is not None:
            return [items.path for items in (self.sparse.bounds, self.sparse.pixels, self.sparse.values)]
        return list(self.chunks.files) if self.chunks is not None else [file.path for file in self.numbered_files()[0]]

    def numbered_files(self) -> tuple[list[File], list[np.ndarray]]:
        """The files to read from, and how they are numbered.

        Returns
        -------
        files
            Of a frame in several parts, each path once: parts may share files, and a file in which frames lie at different
            distances is several in its file set.
        numbers : int64[files of the part], one array for each part
            Position in `files` of each file of the part's set.
        """
        if len(self.parts) == 1:
            return list(self.parts[0]), [np.arange(len(self.parts[0]), dtype=np.int64)]
        position: dict[str, int] = {}
        files: list[File] = []
        numbers = []
        for part in self.parts:
            for file in part:
                if position.setdefault(file.path, len(files)) == len(files):
                    files.append(file)
            numbers.append(np.array([position[file.path] for file in part], dtype=np.int64))
        return files, numbers
