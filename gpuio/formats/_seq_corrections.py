"""Files beside a sequence of StreamPix that say how its frames are corrected.

For ``NAME.seq`` (or ``NAME.seq.seq``), each is looked for as ``NAME.seq.<end>``, then as ``NAME.<end>``:

=======================  ======================================================================================================
end                      content
=======================  ======================================================================================================
``dark.mrc``             dark reference, one MRC image of the shape of a frame, first row first
``gain.mrc``             gain reference, the same
``metadata``             settings, binary
``Config.Metadata.xml``  bad pixels of the sensor; used if there are settings, as the frame's place on the sensor stands in those
=======================  ======================================================================================================

Settings (little-endian):

==============  =======  ==========================================================================================================
byte            type     meaning
==============  =======  ==========================================================================================================
282, 286        i32      size of this structure, version
290, 294        i32      width and height of the frame on the sensor, in pixels without binning
298, 302        i32      x and y of its first pixel on the sensor, without binning
306             i32      hardware binning
=======================  ======================================================================================================

Bad pixels::

    <BadPixelMap Rows="64" Columns="64" Binning="2">       maps anywhere in the document, Binning may be missing
      <Defect Rows="20-21"/>  <Defect Column="40"/>        whole rows or columns, from 0, ranges inclusive
      <Defect Row="30" Column="33"/>                       a pixel; or the rectangle that two ranges span
    </BadPixelMap>

Without hardware binning, maps count whose Binning is missing or less than 2; with it, those of the same binning, else all that have one.
Of several the one with most columns is used. It covers the whole sensor; the frame shows the window that the settings tell of, its
numbers divided by the binning.

Sources: documentation and issues (805, 1120) of LiberTEM and its behaviour as a black box. It divides by 2 for every binning; what is
right for 4 has not been seen.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuio.corrections import RepairValueError
from gpuio.errors import FormatError, ShapeError, TruncatedFile, UnsupportedFeature
from gpuio.fileset import File, FileSet
from gpuio.formats._mrc_header import read_header
from gpuio.formats._xml import read_xml
from gpuio.layout import Encoding, Layout, plain_pieces
from gpuio.source import Source

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

NAME = re.compile(r"(.*?)(\.seq){0,2}", re.DOTALL | re.IGNORECASE)
#: What may lie beside a sequence, and the end of its name in lower case.
ENDS = {"dark": ".dark.mrc", "gain": ".gain.mrc", "settings": ".metadata", "xml": ".config.metadata.xml"}
#: Modes of MRC files that can be references.
MODES = {1: "i2", 2: "f4", 6: "u2", 12: "f2"}
SETTINGS = struct.Struct("<5i")
SETTINGS_AT = 290
#: No sensor has longer sides, and none bins more.
MAX_SIDE, MAX_BINNING = 1 << 20, 64
INTERVAL = re.compile(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?")
#: Bad pixels without neighbours to name in a message.
SHOWN = 5
REMEDY = "Pass enable_corrections=False to read frames as recorded"


@dataclass
class Corrections:
    """What was found beside a sequence; the fields of `gpuio.layout.Layout`."""

    dark: Layout | None = None
    gain: Layout | None = None
    excluded: tuple[range, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Window(NamedTuple):
    """The frame on the sensor, in pixels of the frame."""

    y: int
    x: int
    height: int
    width: int
    binning: int


def find_corrections(source: Source, path: str, sig_shape: tuple[int, int], *, allow_unrepairable: bool = False) -> Corrections:
    """Read the headers of the references and the bad pixels beside a sequence.

    Parameters
    ----------
    path
        The sequence.
    sig_shape : (height, width)
        Of its frames.
    allow_unrepairable
        Note bad pixels without a good neighbour, rather than refuse them.

    Raises
    ------
    FormatError, TruncatedFile, UnsupportedFeature
        A file is damaged or of another kind.
    ShapeError
        A reference has another shape than frames, or the frame's window on the sensor has.
    RepairValueError
        Bad pixels cannot be repaired.
    OSError
        A file may not be read.
    """
    paths = _beside(source, path)
    found = Corrections(metadata={f"{what}_file": os.path.basename(p) for what, p in paths.items()})
    found.dark, found.gain = (_reference(source, paths[what], sig_shape) if what in paths else None for what in ("dark", "gain"))
    if "xml" in paths:
        root = read_xml(source, paths["xml"])
        entries = (element for part in root.iter("FileInfo") for element in part.iter())
        info = {element.tag: element.attrib["Value"] for element in entries if "Value" in element.attrib}
        if info:
            found.metadata["file_info"] = info
        if "settings" in paths:
            found.excluded = _excluded(root, paths["xml"], _window(source, paths["settings"], sig_shape), found)
        else:
            found.notes.append(f"bad pixels in {paths['xml']} are not used: there is no file *{ENDS['settings']}, which tells where "
                               "the frame lies on the sensor")
    if found.excluded:
        _check_repairable(found, paths["xml"], sig_shape, allow_unrepairable)
    return found


def _beside(source: Source, path: str) -> dict[str, str]:
    """Paths of the files that are there, by what they are."""
    folder, name = os.path.split(path)
    match = NAME.fullmatch(name)
    assert match is not None        # everything fits
    stem = match[1]
    rests: dict[str, str] = {}
    for other in source.listdir(folder):
        if other.startswith(stem):
            rests.setdefault(other[len(stem):].lower(), os.path.join(folder, other))
    found = {what: rests.get(f".seq{end}") or rests.get(end) for what, end in ENDS.items()}
    return {what: there for what, there in found.items() if there is not None}


# -- references ------------------------------------------------------------------------------------------------------


def _reference(source: Source, path: str, sig_shape: tuple[int, int]) -> Layout:
    """A dark or gain reference as a layout of one frame."""
    header = read_header(source, path)
    if header.mode not in MODES:
        raise UnsupportedFeature(f"{path}: MRC mode {header.mode}; expected {', '.join(map(str, MODES))} for a reference. {REMEDY}")
    if header.shape != (1, *sig_shape):
        raise ShapeError(f"{path}: the reference has shape {header.shape}; expected {(1, *sig_shape)}, one image of the shape of frames. "
                         f"{REMEDY}")
    dtype = np.dtype(header.order + MODES[header.mode])
    file = File(path, 0, 1, dtype, sig_shape, file_header=header.data_offset, size=source.size(path))
    if file.size is not None and file.size < header.data_offset + file.frame_bytes:
        raise TruncatedFile(f"{path}: holds {file.size} bytes; expected {header.data_offset + file.frame_bytes} for {sig_shape[1]} x "
                            f"{sig_shape[0]} pixels of {dtype}")
    return Layout(format="mrc", parts=(FileSet([file]),), encoding=Encoding.of(dtype),
                  pieces=plain_pieces(sig_shape, sig_shape[1] * dtype.itemsize), sig_shape=sig_shape, image_count=1)


# -- bad pixels ------------------------------------------------------------------------------------------------------


def _window(source: Source, path: str, sig_shape: tuple[int, int]) -> Window:
    """Where the frame lies on the sensor."""
    raw = source.read(path, SETTINGS_AT, SETTINGS.size)
    if len(raw) < SETTINGS.size:
        raise TruncatedFile(f"{path}: {source.size(path)} bytes; expected at least {SETTINGS_AT + SETTINGS.size} of settings")
    width, height, x, y, binning = SETTINGS.unpack(raw)
    if min(width, height) < 1 or max(width, height, x, y) > MAX_SIDE or min(x, y) < 0 or not 0 <= binning <= MAX_BINNING:
        raise FormatError(f"{path}: settings make no sense: a frame of {width} x {height} pixels at ({x}, {y}) of the sensor, "
                          f"binning {binning}. {REMEDY}")
    by = max(1, binning)
    window = Window(y // by, x // by, height // by, width // by, by)
    if (window.height, window.width) != sig_shape:
        raise ShapeError(f"{path}: the frame is said to have {width} x {height} pixels of the sensor with a binning of {binning}; "
                         f"frames have {sig_shape[1]} x {sig_shape[0]}, so that bad pixels cannot be placed. {REMEDY}")
    return window


def _excluded(root: Element, path: str, window: Window, found: Corrections) -> tuple[range, ...]:
    """Bad pixels inside the window, as ranges of flat indices into a frame."""
    maps = [(e, _side(e, "Rows", path), _side(e, "Columns", path), _binning(e, path)) for e in root.iter("BadPixelMap")]
    if window.binning < 2:
        fitting = [m for m in maps if m[3] < 2]
    else:
        fitting = [m for m in maps if m[3] == window.binning] or [m for m in maps if m[3] > 1]
    if not fitting:
        if maps:
            found.notes.append(f"{path}: none of {len(maps)} maps of bad pixels is for a binning of {window.binning}; none is used")
        return ()
    element, rows, columns, _ = max(fitting, key=lambda m: m[2])
    if window.y + window.height > rows or window.x + window.width > columns:
        raise ShapeError(f"{path}: {_shown(element)} is smaller than the frame's window, {window.width} x {window.height} pixels at "
                         f"({window.x}, {window.y}). {REMEDY}")
    ranges: list[range] = []
    for defect in element.iter("Defect"):
        bad_rows, bad_columns = _interval(defect, "Row", rows, path), _interval(defect, "Column", columns, path)
        if bad_rows is None and bad_columns is None:
            raise FormatError(f"{path}: {_shown(defect)} names no row and no column")
        ranges += _in_frame(bad_rows or range(rows), bad_columns or range(columns), window)
    return tuple(dict.fromkeys(ranges))


def _in_frame(rows: range, columns: range, window: Window) -> list[range]:
    """The part of a rectangle of the sensor that the frame shows: a range for each row, or for each column if those are fewer."""
    rows = range(max(rows.start - window.y, 0), min(rows.stop - window.y, window.height))
    columns = range(max(columns.start - window.x, 0), min(columns.stop - window.x, window.width))
    if not rows or not columns:
        return []
    if len(rows) <= len(columns):
        return [range(y * window.width + columns.start, y * window.width + columns.stop) for y in rows]
    return [range(rows.start * window.width + x, (rows.stop - 1) * window.width + x + 1, window.width) for x in columns]


def _check_repairable(found: Corrections, path: str, sig_shape: tuple[int, int], allow: bool) -> None:
    """Bad pixels all of whose neighbours are bad cannot be repaired."""
    height, width = sig_shape
    bad = np.zeros(height * width, dtype=bool)
    for pixels in found.excluded:
        bad[pixels.start:pixels.stop:pixels.step] = True
    around = np.pad(bad.reshape(sig_shape), 1, constant_values=True)
    alone = np.ones(sig_shape, dtype=bool)
    for y in range(3):
        for x in range(3):
            alone &= around[y:y + height, x:x + width]
    count = int(np.count_nonzero(alone))
    found.metadata["bad_pixels"] = int(np.count_nonzero(bad))
    if count:
        first = ", ".join(f"({i // width}, {i % width})" for i in np.flatnonzero(alone)[:SHOWN].tolist())
        rest = " and others" if count > SHOWN else ""
        said = f"bad pixels without a good neighbour to be repaired from: {count}, at (y, x) {first}{rest}"
        if not allow:
            raise RepairValueError(f"{path}: {said}. Pass allow_unrepairable=True to leave them as they are")
        found.notes.append(f"{said}: they are left as they are")


# -- attributes of the XML -------------------------------------------------------------------------------------------


def _side(element: Element, name: str, path: str) -> int:
    """Rows or columns of a map."""
    text = element.get(name, "").strip()
    if not re.fullmatch("[0-9]{1,9}", text) or not 0 < int(text) <= MAX_SIDE:
        raise FormatError(f"{path}: {_shown(element)} has {name} {text!r}; expected 1 to {MAX_SIDE}")
    return int(text)


def _binning(element: Element, path: str) -> int:
    """Binning of a map; 1 if it has none."""
    text = element.get("Binning", "1").strip()
    if not re.fullmatch("[0-9]{1,9}", text):
        raise FormatError(f"{path}: {_shown(element)} has Binning {text!r}; expected a number")
    return int(text)


def _interval(element: Element, name: str, size: int, path: str) -> range | None:
    """Rows or columns that a defect names, in the singular or plural; None if it names none."""
    given = [(key, element.attrib[key]) for key in (name, f"{name}s") if key in element.attrib]
    if not given:
        return None
    match = INTERVAL.fullmatch(given[0][1])
    first, last = (int(match[1]), int(match[2] or match[1])) if match is not None else (1, 0)
    if len(given) > 1 or not first <= last < size:
        raise FormatError(f"{path}: {_shown(element)}; expected one of {name} and {name}s with a number "
                          f"or a range such as 3-5, below {size}")
    return range(first, last + 1)


def _shown(element: Element) -> str:
    """An element without its content, for messages."""
    return f"<{element.tag} {' '.join(f'{key}={value!r}' for key, value in element.attrib.items())}>"[:200]
