"""The header of MRC files: 1024 bytes, then `nsymbt` bytes of an extended header, then the pixels.

======  =======  ==============  ==========================================================================================
offset  type     name            meaning
======  =======  ==============  ==========================================================================================
0       i32      nx ny nz        columns (fast), rows, sections
12      i32      mode            how pixels are stored, see `gpuio.formats.mrc`
28      i32      mx my mz        sampling of the cell; mz says how sections form volumes, if ispg is 401 to 630
40      f32      cell            its size, Å: a pixel is cell / m wide; 0 or negative in some files
64      i32      mapc mapr maps  axis of columns, rows, sections: 1, 2, 3; exchanged in transposed files
76      f32      min max mean    of the pixels; max < min: not computed
88      i32      ispg            0 a stack of images, 1 a volume, 401 to 630 a stack of volumes
92      i32      nsymbt          bytes of the extended header, any number
104     char[4]  exttyp          its kind: ``FEI1``, ``FEI2``, ``SERI`` ...; zeros if not told
152     i32      imodStamp       1146047817: the file is IMOD's, and the flags behind it hold
156     i32      imodFlags       1: bytes are signed; 16: two 4-bit values in each byte
208     char[4]  map             ``MAP`` and a space or NUL; zeros in old files
212     u8[4]    stamp           byte order: ``44 44``, ``44 41`` little-endian, ``11 11`` big-endian
216     f32      rms             -1 or 0: not known
220     i32      nlabl           labels in use, up to 10
224     char     labels          10 of 80 characters
======  =======  ==============  ==========================================================================================

The byte order is that in which dimensions, mode and axes make sense; only where they do in both does the stamp decide. Sources:
MRC2014 (Cheng et al., J. Struct. Biol. 192, 2015, and ccpem.ac.uk), and IMOD's description of the format.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from gpuio.errors import FormatError, TruncatedFile
from gpuio.source import Source

HEADER_BYTES = 1024
#: Modes that some standard or program describes, whether or not their pixels can be decoded.
MODES = (0, 1, 2, 3, 4, 6, 12, 16, 101)
IMOD_STAMP = 1146047817
IMOD_SIGNED, IMOD_4BIT = 1, 16
#: Old files have no magic: what looks like a header has no larger dimension.
MAX_OLD_SIZE = 1 << 20
#: First bytes of the stamp.
STAMPS = {0x44: "<", 0x11: ">"}


@dataclass(frozen=True, slots=True)
class Header:
    """What the first 1024 bytes say.

    Attributes
    ----------
    order
        Byte order of the whole file: ``"<"`` or ``">"``.
    shape
        Sections, rows, columns: nz, ny, nx.
    axes
        mapc, mapr, maps.
    cell_A, sampling
        x, y, z.
    imod_flags
        None if the file is not IMOD's.
    notes
        What was odd.
    """

    order: str
    shape: tuple[int, int, int]
    mode: int
    sampling: tuple[int, int, int]
    cell_A: tuple[float, float, float]
    axes: tuple[int, int, int]
    statistics: tuple[float, float, float]
    space_group: int
    extended_bytes: int
    extended_type: str
    imod_flags: int | None
    rms: float
    labels: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def data_offset(self) -> int:
        """Bytes before the pixels."""
        return HEADER_BYTES + self.extended_bytes


def sniff(head: bytes) -> bool:
    """Whether `head` begins an MRC file: by its magic, or by a header that makes sense where there is none."""
    if len(head) < HEADER_BYTES:
        return False
    if head[208:211] == b"MAP":
        return _order(head) is not None
    return not any(head[208:212]) and any(
        _makes_sense(head, order) and max(struct.unpack_from(f"{order}3i", head)) <= MAX_OLD_SIZE for order in "<>")


def read_header(source: Source, path: str) -> Header:
    """Read the header of an MRC file.

    Raises
    ------
    FormatError
        It makes no sense; `TruncatedFile` if it, or the extended header, is cut short.
    OSError
        The file is missing or may not be read.
    """
    raw = source.read(path, 0, HEADER_BYTES)
    if len(raw) < HEADER_BYTES:
        raise TruncatedFile(f"{path}: ends after {len(raw)} of the {HEADER_BYTES} bytes of an MRC header")
    order = _order(raw)
    if order is None:
        order = _stamped(raw) or "<"
        (nx, ny, nz, mode), axes = struct.unpack_from(f"{order}4i", raw), struct.unpack_from(f"{order}3i", raw, 64)
        raise FormatError(f"{path}: no MRC header in either byte order: {nx} x {ny} x {nz} pixels, mode {mode}, axes {axes}; "
                          f"expected positive sizes, mode {', '.join(map(str, MODES))}, and an order of the axes 1, 2, 3")
    notes = []
    if raw[208:211] != b"MAP":
        notes.append("the header has no magic, as in old files: it was recognised by its sizes, mode and axes")
    if order != _stamped(raw):
        notes.append(f"the machine stamp is {raw[212:214].hex(' ')}; read as {'little' if order == '<' else 'big'}-endian, "
                     "as sizes, mode and axes ask for")
    nx, ny, nz, mode = struct.unpack_from(f"{order}4i", raw)
    extended, size = struct.unpack_from(f"{order}i", raw, 92)[0], source.size(path)
    if extended < 0:
        raise FormatError(f"{path}: the extended header (nsymbt) has {extended} bytes; expected 0 or more")
    if HEADER_BYTES + extended > size:
        raise TruncatedFile(f"{path}: holds {size} bytes; the extended header (nsymbt) alone has {extended}")
    stamp, flags = struct.unpack_from(f"{order}2i", raw, 152)
    rms, n_labels = struct.unpack_from(f"{order}fi", raw, 216)
    labels = (raw[at:at + 80].split(b"\0", 1)[0].decode("latin-1").strip() for at in range(224, 224 + 80 * min(max(n_labels, 0), 10), 80))
    return Header(
        order=order, shape=(nz, ny, nx), mode=mode, sampling=struct.unpack_from(f"{order}3i", raw, 28),
        cell_A=struct.unpack_from(f"{order}3f", raw, 40), axes=_axes(raw, order), statistics=struct.unpack_from(f"{order}3f", raw, 76),
        space_group=struct.unpack_from(f"{order}i", raw, 88)[0], extended_bytes=extended,
        extended_type=raw[104:108].rstrip(b"\0 ").decode("latin-1"), imod_flags=flags if stamp == IMOD_STAMP else None, rms=rms,
        labels=tuple(label for label in labels if label), notes=tuple(notes),
    )


def _order(raw: bytes) -> str | None:
    """The byte order in which a header makes sense; the stamp's if both do, None if none does."""
    likely = _stamped(raw) or "<"
    return next((order for order in (likely, ">" if likely == "<" else "<") if _makes_sense(raw, order)), None)


def _stamped(raw: bytes) -> str | None:
    return STAMPS.get(raw[212])


def _makes_sense(raw: bytes, order: str) -> bool:
    """Whether sizes, mode and axes are possible in a byte order."""
    nx, ny, nz, mode = struct.unpack_from(f"{order}4i", raw)
    return min(nx, ny, nz) > 0 and mode in MODES and sorted(_axes(raw, order)) == [1, 2, 3]


def _axes(raw: bytes, order: str) -> tuple[int, int, int]:
    """Axes of columns, rows, sections. All zero, as some programs write them, is the usual order."""
    mapc, mapr, maps = struct.unpack_from(f"{order}3i", raw, 64)
    return (mapc, mapr, maps) if (mapc, mapr, maps) != (0, 0, 0) else (1, 2, 3)
