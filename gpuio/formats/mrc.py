"""MRC: images, volumes and movies of CCP4, IMOD, SerialEM, Velox and Direct Electron. `_mrc_header` describes the header.

Section i is frame i, at ``1024 + nsymbt + i * F``, rows one after the other, the first one stored first; F as below with w columns
and h rows. All numbers in the file have one byte order.

====  ===================================================================================  ===============  =========
mode  a pixel on disk                                                                      F                dtype
====  ===================================================================================  ===============  =========
0     i8; u8 in files of IMOD that say so, and in old ones that do not (``unsigned=True``)  h w              int8
1     i16                                                                                  2 h w            int16
2     f32                                                                                  4 h w            float32
4     two f32; images of a Fourier transform often have half of the columns                8 h w            complex64
6     u16                                                                                  2 h w            uint16
12    f16                                                                                  2 h w            float16
101   4 bits, two in each byte, the low half is the left one; rows end with whole bytes    h ((w + 1) // 2)  uint8
====  ===================================================================================  ===============  =========

Modes 3 (complex integers) and 16 (colours) are refused. Mode 0 with IMOD's flag 16 is mode 101.

Quirks:

- mz is no number of volumes unless ispg is 401 to 630: Direct Electron's movies and volumes have mz = nz.
- Rows are kept in the order of storage. By convention y points up, so that the first row is the bottom one, but readers of scans
  do not turn images.
- RELION packs 4-bit images of odd width without ends of rows; the size of the file tells.
- Velox reserves extended headers (``FEI1``, ``FEI2``: a block of 768 or 888 bytes each section) for more sections than there are.
- Direct Electron's scan shape stands beside ``NAME_movie.mrc`` in ``NAME_info.txt``, lines ``key = value``.
- Axes 2, 1, 3 are transposed images: stored columns are y.

Sources: as `_mrc_header`; extended headers: Thermo Fisher's description of the format as mrcfile cites it, and recordings in the test
data of RosettaSciIO; RELION's and EMAN2's documentation.
"""

from __future__ import annotations

import math
import os
import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuio.dataset import DataSet
from gpuio.errors import DataSetException, UnsupportedFeature
from gpuio.fileset import File, FileSet
from gpuio.formats import FORMATS, _mrc_header
from gpuio.formats._arguments import nav_or_sig_shape, sync
from gpuio.formats._mrc_header import IMOD_4BIT, IMOD_SIGNED, Header, read_header
from gpuio.formats._siblings import split_name
from gpuio.formats._whole import whole_frames
from gpuio.layout import Encoding, Layout, Piece, plain_pieces
from gpuio.source import Source

#: Mode: dtype without byte order.
ITEMS = {0: "i1", 1: "i2", 2: "f4", 4: "c8", 6: "u2", 12: "f2"}
REFUSED = {3: "complex integers", 16: "colours"}
UINT4 = Encoding("uint4_le", np.dtype("u1"), 1, 2)
TRANSPOSED = (2, 1, 3)
VOLUME_STACKS = range(401, 631)

#: Extended header of a section: name and type of fields, and where they lie.
FEI_BLOCKS = {"FEI1": 768, "FEI2": 888}
FEI_FIELDS = {
    "beam_energy_V": ("d", 84), "alpha_tilt_deg": ("d", 100), "beta_tilt_deg": ("d", 108), "stage_x_m": ("d", 116), "stage_y_m": ("d", 124),
    "stage_z_m": ("d", 132), "pixel_size_x_m": ("d", 156), "pixel_size_y_m": ("d", 164), "camera_length_m": ("d", 301),
    "convergence_angle_rad": ("d", 329), "dwell_time_s": ("d", 571),
}
FEI_TEXTS = {"microscope": 20, "application": 52, "camera": 435}
#: Left, top, right, bottom of the scanned area, in positions.
FEI_SCAN = 587

#: Recorded ones have some thousand bytes.
MAX_INFO_BYTES = 1 << 20
#: ``<date>_<number>``, by which files of an acquisition begin.
ACQUISITION = re.compile(r"[0-9]{8}_[0-9]+")
INFO_KEYS = {
    "Scan - Type": "scan_type", "Scan - Repeats": "scan_repeats", "Scan - Points": "scan_points", "Frames Per Second": "frames_per_s",
    "Specimen Pixel Size X (nanometers)": "specimen_pixel_size_x_nm", "Specimen Pixel Size Y (nanometers)": "specimen_pixel_size_y_nm",
    "Diffraction Pixel Size X": "diffraction_pixel_size_x", "Diffraction Pixel Size Y": "diffraction_pixel_size_y",
    "Instrument Accelerating Voltage (V)": "beam_energy_V", "ADUs Per Electron": "adus_per_electron",
}


@dataclass(frozen=True, slots=True)
class Storage:
    """How a section is stored: its pixels, and its bytes as an array of `item` with shape `items`."""

    encoding: Encoding
    pieces: tuple[Piece, ...]
    sig_shape: tuple[int, int]
    item: np.dtype
    items: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        return self.item.itemsize * math.prod(self.items)


def sniff(head: bytes, path: str) -> bool:
    """Whether a file that begins with `head` is an MRC file."""
    return _mrc_header.sniff(head)


def parse(source: Source, path: str, *, unsigned: bool | None = None) -> Layout:
    """Read the header of an MRC file, and what lies beside it.

    Parameters
    ----------
    source
        Where to read.
    path
        The file.
    unsigned
        Whether pixels of mode 0 are uint8; None: what IMOD's flags say, else int8.

    Raises
    ------
    FormatError, TruncatedFile
        The header makes no sense, or the file holds no whole section.
    UnsupportedFeature
        Pixels that gpuio does not decode, or sections that are not stored one after the other.
    OSError
        The file is missing or may not be read.
    """
    header = read_header(source, path)
    notes = list(header.notes)
    there = source.size(path) - header.data_offset
    storage = _storage(header, path, there, unsigned, notes)
    n_frames = header.shape[0]
    whole = whole_frames(path, n_frames, there, storage.n_bytes, notes)
    metadata = _metadata(header)
    nav_shape = _nav_shape(source, path, header, metadata, notes)
    file = File(path, 0, whole, storage.item, storage.items, file_header=header.data_offset, size=header.data_offset + there)
    return Layout(
        format="mrc", parts=(FileSet([file]),), encoding=storage.encoding, pieces=storage.pieces, sig_shape=storage.sig_shape,
        nav_shape=nav_shape, image_count=n_frames, metadata=metadata, notes=tuple(notes),
    )


def _storage(header: Header, path: str, there: int, unsigned: bool | None, notes: list[str]) -> Storage:
    """Where the pixels of a section lie; `there` are the bytes of all of them."""
    n_frames, height, width = header.shape
    is_transposed = header.axes == TRANSPOSED
    if header.axes != (1, 2, 3) and not is_transposed:
        raise UnsupportedFeature(f"{path}: axes of columns, rows, sections are {header.axes}; expected (1, 2, 3) or (2, 1, 3), "
                                 "others have images that are scattered over the file")
    flags = header.imod_flags or 0
    if header.mode == 101 or (header.mode == 0 and flags & IMOD_4BIT):
        if is_transposed:
            raise UnsupportedFeature(f"{path}: transposed images (axes {header.axes}) of 4 bits a pixel; expected axes (1, 2, 3)")
        row = (width + 1) // 2
        if width % 2 and there < n_frames * height * row and there == n_frames * (height * width // 2) and height % 2 == 0:
            notes.append("4-bit rows of odd width follow each other inside of bytes, as RELION writes them: the size of the file says so")
            return Storage(UINT4, (Piece(src=0, pos=0, pixels=height * width),), (height, width), np.dtype("u1"), (height * width // 2,))
        return Storage(UINT4, plain_pieces((height, width), row), (height, width), np.dtype("u1"), (height, row))
    if header.mode not in ITEMS:
        raise UnsupportedFeature(f"{path}: mode {header.mode}, {REFUSED[header.mode]}; expected one of {', '.join(map(str, ITEMS))}, 101")
    item = np.dtype(header.order + ITEMS[header.mode])
    if header.mode == 0:
        item = np.dtype("u1" if _is_unsigned(header, unsigned, notes) else "i1")
    if header.mode == 4:
        notes.append("complex pixels: of Fourier transforms many programs store half of the columns")
    if is_transposed:
        notes.append("images are stored transposed (axes 2, 1, 3): columns of the file become rows")
        turned = Piece(src=0, pos=0, pixels=1, rows=width, row_src=item.itemsize, row_pos=height,
                       repeats=height, rep_src=width * item.itemsize, rep_pos=1)
        return Storage(Encoding.of(item), (turned,), (width, height), item, (height, width))
    return Storage(Encoding.of(item), plain_pieces((height, width), width * item.itemsize), (height, width), item, (height, width))


def _is_unsigned(header: Header, asked: bool | None, notes: list[str]) -> bool:
    """Whether bytes are unsigned, and a note of the rule by which."""
    if asked is not None:
        notes.append(f"bytes are read as {'uint8' if asked else 'int8'}, as asked for")
        return asked
    if header.imod_flags is not None:
        unsigned = not header.imod_flags & IMOD_SIGNED
        notes.append(f"bytes are read as {'uint8' if unsigned else 'int8'}, as IMOD's flags say")
        return unsigned
    _, largest, _ = header.statistics
    hint = f"; the header's largest value is {largest:g}, pass unsigned=True for uint8" if 127 < largest <= 255 else ""
    notes.append(f"bytes are read as int8, as the standard says{hint}")
    return False


# -- the scan ----------------------------------------------------------------------------------------------------------


def _nav_shape(source: Source, path: str, header: Header, metadata: dict[str, Any], notes: list[str]) -> tuple[int, ...]:
    """The scan, from a stack of volumes, a file beside, or the extended header; what is read goes to `metadata`."""
    n_frames, per_volume = header.shape[0], header.sampling[2]
    if header.space_group in VOLUME_STACKS and per_volume > 0 and n_frames % per_volume == 0:
        return n_frames // per_volume, per_volume
    scan = _fei(source, path, header, metadata)
    if scan is not None and math.prod(scan) == n_frames > 1:
        return scan
    name = _info_file(source, path)
    if name is not None:
        try:
            return _info(source, name, n_frames, metadata, notes)
        except (OSError, DataSetException) as problem:
            notes.append(f"the file of scan parameters could not be read: {problem}")
    return (n_frames,)


def _fei(source: Source, path: str, header: Header, metadata: dict[str, Any]) -> tuple[int, int] | None:
    """Facts of the first section from an extended header of Thermo Fisher; its scan area as (rows, columns)."""
    n_bytes = FEI_BLOCKS.get(header.extended_type, 0)
    raw = source.read(path, _mrc_header.HEADER_BYTES, n_bytes) if header.extended_bytes >= n_bytes else b""
    if not n_bytes or raw[:4] != struct.pack(f"{header.order}i", n_bytes):
        return None
    for key, (kind, at) in FEI_FIELDS.items():
        (value,) = struct.unpack_from(header.order + kind, raw, at)
        if math.isfinite(value) and value != 0:
            metadata[key] = value
    for key, at in FEI_TEXTS.items():
        text = raw[at:at + 16].split(b"\0", 1)[0].decode("latin-1").strip()
        if text:
            metadata[key] = text
    left, top, right, bottom = struct.unpack_from(f"{header.order}4i", raw, FEI_SCAN)
    return (bottom - top, right - left) if bottom > top and right > left else None


def _info_file(source: Source, path: str) -> str | None:
    """The text file of Direct Electron's acquisition beside a movie."""
    folder, stem, _ = split_name(path)
    acquisition = ACQUISITION.match(stem)
    if acquisition is None or not stem.endswith("_movie"):
        return None
    try:
        names = set(source.listdir(folder))
    except OSError:
        return None
    found = next((f"{s}_info.txt" for s in (stem.removesuffix("_movie"), acquisition[0]) if f"{s}_info.txt" in names), None)
    return None if found is None else os.path.join(folder, found)


def _info(source: Source, name: str, n_frames: int, metadata: dict[str, Any], notes: list[str]) -> tuple[int, ...]:
    """Scan shape from lines ``key = value``; a line of frames if they do not fit."""
    text = source.read(name, 0, MAX_INFO_BYTES).decode("latin-1")
    lines = {key.strip(): value.strip() for key, found, value in (line.partition("=") for line in text.splitlines()) if found}
    metadata.update({INFO_KEYS[key]: _number(value) for key, value in lines.items() if key in INFO_KEYS and value})

    def count(key: str) -> int:
        value = _number(lines.get(key, ""))
        return int(value) if isinstance(value, float) and 0 <= value < 1 << 31 else 0

    if lines.get("Scan - Enable", "").lower() in ("disable", "disabled", "off", "false", "no", "0"):
        return (n_frames,)
    if lines.get("Scan - Type", "Raster").lower() != "raster":
        notes.append(f"the scan is no raster but {lines['Scan - Type']!r}: read as a line; positions are beside in _scan_coordinates.csv")
        return (n_frames,)
    is_part = lines.get("Scan - ROI Enable", "").lower() in ("enable", "enabled", "on", "true", "yes", "1")
    area = "Scan - ROI Size" if is_part else "Scan - Size"
    shape = count(f"{area} Y"), count(f"{area} X")
    repeats = max(1, count("Scan - Repeats"))
    for nav in (shape, (repeats, *shape)):
        if math.prod(nav) == n_frames:
            return nav
    notes.append(f"{name} announces a scan of {shape[0]} x {shape[1]} positions, {repeats} times; "
                 f"the file has {n_frames} frames, which are read as a line")
    return (n_frames,)


def _number(text: str) -> float | str:
    """The number that a text is, or the text."""
    return float(text) if re.fullmatch(r"[+-]?[0-9]{1,18}(\.[0-9]{0,18})?([eE][+-]?[0-9]{1,2})?", text) else text


def _metadata(header: Header) -> dict[str, Any]:
    """What the header says about the image."""
    found: dict[str, Any] = {"mode": header.mode, "byte_order": header.order, "space_group": header.space_group,
                             "data_offset_bytes": header.data_offset, "labels": list(header.labels)}
    for axis, cell, sampling in zip("xyz", header.cell_A, header.sampling, strict=True):
        if sampling > 0 and cell > 0 and math.isfinite(cell):
            found[f"pixel_size_{axis}_A"] = cell / sampling
    low, high, mean = header.statistics
    if low <= high:         # else they were not computed
        found |= {"minimum": low, "maximum": high, "mean": mean}
    if header.rms > 0:
        found["rms"] = header.rms
    if header.extended_type:
        found["extended_header"] = header.extended_type
    return {key: value for key, value in found.items() if value != []}


class MRCDataSet(DataSet):
    """MRC files: ``.mrc``, and ``.mrcs``, ``.st``, ``.ali``, ``.rec``, ``.map``.

    Parameters
    ----------
    path : str
        The file.
    nav_shape : tuple of int, optional
        Scan shape, slowest axis first. Default: that of Direct Electron's ``_info.txt`` beside the file, of an extended header of
        Thermo Fisher, or (volumes, sections) of a stack of volumes; else all sections in a line.
    sig_shape : tuple of int, optional
        Another shape for the pixels of a frame, in their order.
    sync_offset : int
        Frames to skip at the start; negative: blank frames to insert.
    io_backend
        How to read; None lets gpuio choose.
    unsigned : bool, optional
        Whether pixels of mode 0 are uint8. Default: what IMOD's flags say, else int8 as in the standard.

    Examples
    --------
    >>> ds = gpuio.load("mrc", path="/path/to/file.mrc", nav_shape=(64, 64))
    """

    format = "mrc"

    def __init__(self, path: str, nav_shape: Any = None, sig_shape: Any = None, sync_offset: int = 0, io_backend: Any = None, *,
                 unsigned: bool | None = None) -> None:
        super().__init__(io_backend=io_backend)
        self._path = os.fspath(path)
        self._nav_shape = nav_or_sig_shape(nav_shape, "nav_shape")
        self._sig_shape = nav_or_sig_shape(sig_shape, "sig_shape")
        self._sync_offset = sync(sync_offset)
        self._unsigned = unsigned

    def _parse(self, source: Source) -> Layout:
        return parse(source, self._path, unsigned=self._unsigned)

    @classmethod
    def sniff(cls, head: bytes, path: str) -> bool:
        """Whether a file beginning with `head` is an MRC file."""
        return sniff(head, path)

    @classmethod
    def get_supported_extensions(cls) -> set[str]:
        """Extensions in lower case, without dot."""
        return set(FORMATS["mrc"].extensions)

    def get_cache_key(self) -> dict[str, Any]:
        """Path, shape, sync offset and how bytes are read."""
        return {**super().get_cache_key(), "unsigned": self._unsigned}
