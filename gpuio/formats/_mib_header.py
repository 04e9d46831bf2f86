"""The two headers of Merlin data: in front of each frame of a ``.mib``, and the ``.hdr`` of an acquisition. `mib` has the table.

Everything here turns bytes into facts; fields that only describe the experiment may be missing or odd, fields that say
where pixels lie may not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gpuio.errors import FormatError, TruncatedFile
from gpuio.source import Source

MAGIC = b"MQ1,"
STREAM_PREFIX = re.compile(rb"MPX,\d{10},MQ1")

#: The first three fields of a header, sequence number and header length among them, need less.
MAX_FIELD_BYTES = 64
#: Read at once for a header; longer ones are read again.
USUAL_HEADER_BYTES = 4096
MAX_HEADER_BYTES = 1 << 20
MAX_PIXELS = 1 << 31
#: 2**31 frames have at least 17 TB; larger numbers are damage.
MAX_FRAMES = 1 << 31

#: What all frames of a data set share.
FORM = {"header_bytes": "header length", "n_chips": "number of chips", "width": "stored width", "height": "stored height",
        "pixel_type": "pixel type", "chip_layout": "layout", "depth": "counter depth"}
GAIN_MODES = ("SLGM", "LGM", "HGM", "SHGM")
#: Numbers after each ``3RX``.
DACS_PER_CHIP = 27


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """The header of one frame.

    Attributes
    ----------
    depth
        Counter depth in bit; None in old files.
    text
        The whole header without its padding.
    """

    sequence: int
    header_bytes: int
    n_chips: int
    width: int
    height: int
    pixel_type: str
    chip_layout: str
    depth: int | None
    text: str

    def difference(self, other: FrameHeader) -> str | None:
        """What keeps frames with these headers from belonging to one data set, as "<what> <here>; expected <there>"."""
        for name, what in FORM.items():
            mine, expected = getattr(self, name), getattr(other, name)
            if mine != expected:
                return f"{what} {mine!r}; expected {expected!r}"
        return None

    @property
    def time_utc(self) -> str | None:
        """When the frame was taken, ISO 8601 with ns."""
        return _at(_extension(self.text), 0) or None

    @property
    def metadata(self) -> dict[str, Any]:
        """What the header says about the experiment; keys without a value are left out."""
        fields, extension = _fields(self.text), _extension(self.text)
        shutter = re.fullmatch(r"([0-9]{1,18})ns", _at(extension, 1))
        gain, select = _integer(_at(fields, 13)), _at(fields, 8)
        found = {
            "pixel_type": self.pixel_type, "chip_layout": self.chip_layout, "n_chips": self.n_chips,
            "chip_select": int(select, 16) if re.fullmatch("[0-9A-Fa-f]{1,8}", select) else None,
            "counter_depth_bit": self.depth, "counter": _integer(_at(fields, 11)),
            "is_colour": {"0": False, "1": True}.get(_at(fields, 12)),
            "gain_mode": GAIN_MODES[gain] if gain is not None and gain < len(GAIN_MODES) else None,
            "exposure_s": int(shutter[1]) / 1e9 if shutter else _real(_at(fields, 10)),
            "thresholds_keV": _thresholds(fields[14:22]), "dacs": _dacs(fields),
            "time_local": _at(fields, 9) or None, "time_utc_first": self.time_utc, "header_bytes": self.header_bytes,
        }
        return {key: value for key, value in found.items() if value is not None and value != []}


def parse_header(raw: bytes, path: str, offset: int = 0) -> FrameHeader:
    """The frame header at the start of `raw`.

    Parameters
    ----------
    raw
        Bytes from the start of the frame, at least its whole header.
    path, offset
        Where they come from, for messages; offset in bytes.

    Raises
    ------
    FormatError
        It is not the header of a MIB frame.
    TruncatedFile
        It announces more bytes than there are.
    """
    where = _where(path, offset)
    header_bytes = _header_bytes(raw, where)
    if header_bytes > len(raw):
        raise TruncatedFile(f"{where}: the file ends after {len(raw)} of the {header_bytes} bytes of this frame header")
    text = raw[:header_bytes].split(b"\0", 1)[0].decode("latin-1")
    fields = _fields(text, 8)
    if len(fields) < 8:
        raise FormatError(f"{where}: not a MIB frame header, it has {len(fields)} fields; expected at least 8")
    width, height = _count(fields[4], "stored width", where), _count(fields[5], "stored height", where)
    if not 0 < width * height <= MAX_PIXELS:
        raise FormatError(f"{where}: frames of {width} x {height} pixels; expected 1 to {MAX_PIXELS} pixels")
    sequence = _count(fields[1], "sequence number", where)
    if sequence > MAX_FRAMES:
        raise FormatError(f"{where}: sequence number {sequence}; expected at most {MAX_FRAMES}")
    return FrameHeader(sequence, header_bytes, _count(fields[3], "number of chips", where), width, height, pixel_type=fields[6],
                       chip_layout=fields[7], depth=_integer(_at(_extension(text), 2)), text=text)


def read_header(source: Source, path: str, offset: int = 0) -> FrameHeader:
    """The frame header at a byte offset of a file; errors as `parse_header` and `Source.read`."""
    raw = source.read(path, offset, USUAL_HEADER_BYTES)
    header_bytes = _header_bytes(raw, _where(path, offset))
    if header_bytes > len(raw) == USUAL_HEADER_BYTES:
        raw = source.read(path, offset, header_bytes)
    return parse_header(raw, path, offset)


def _where(path: str, offset: int) -> str:
    return f"{path}, byte {offset}" if offset else path


def _header_bytes(raw: bytes, where: str) -> int:
    """Length of the header at the start of `raw`, which has to be one."""
    if not raw:
        raise TruncatedFile(f"{where}: nothing here; expected the header of a MIB frame")
    if STREAM_PREFIX.match(raw):
        raise FormatError(f"{where}: a capture of Merlin's TCP stream, not a MIB file: its frames have a prefix "
                          f"{raw[:15].decode('ascii')!r}; expected {MAGIC!r}, cut these 15 bytes from each frame")
    if not raw.startswith(MAGIC):
        raise FormatError(f"{where}: not the header of a MIB frame, it begins with {raw[:8]!r}; expected {MAGIC!r}")
    header_bytes = _count(_at(_fields(raw[:MAX_FIELD_BYTES].decode("latin-1"), 3), 2), "header length", where)
    if not len(MAGIC) < header_bytes <= MAX_HEADER_BYTES:
        raise FormatError(f"{where}: header length {header_bytes}; expected {len(MAGIC) + 1} to {MAX_HEADER_BYTES} bytes")
    return header_bytes


def _fields(text: str, first: int = -1) -> list[str]:
    """The fields of a header without blanks around them; with `first`, only so many and the rest as one."""
    return [field.strip() for field in text.split(",", first)]


def _extension(text: str) -> list[str]:
    """The fields after ``MQ1A``."""
    return _fields(text.partition(",MQ1A,")[2], 3)


def _at(fields: Sequence[str], index: int) -> str:
    return fields[index] if index < len(fields) else ""


def _count(text: str, what: str, where: str) -> int:
    """A field that has to be a number."""
    value = _integer(text)
    if value is None:
        raise FormatError(f"{where}: not the header of a MIB frame, {what} {text[:20]!r}; expected a number")
    return value


def _integer(text: str) -> int | None:
    """A short number without sign, or None; `int` alone would take underscores and foreign digits, and any length."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else None


def _real(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[+-]?[0-9]+\.?[0-9]*([eE][+-]?[0-9]{1,2})?", text) else None


def _thresholds(fields: Sequence[str]) -> list[float]:
    """Up to the first field that is no number: RAW headers may leave thresholds out."""
    found = []
    for field in fields:
        value = _real(field)
        if value is None:
            break
        found.append(value)
    return found


def _dacs(fields: Sequence[str]) -> list[list[int]]:
    """The DAC values of each chip: the numbers after each ``3RX``."""
    chips = []
    for start in (i for i, field in enumerate(fields) if field == "3RX"):
        values = (_integer(field) for field in fields[start + 1:start + 1 + DACS_PER_CHIP])
        chips.append([v for v in values if v is not None])
    return chips


def _amount(text: str) -> float | str:
    """The number in a text such as ``120MHz`` or ``Board Temp 31.5 Deg C``; the text if there is none."""
    found = re.search(r"[+-]?[0-9]+(\.[0-9]+)?", text)
    return float(found[0]) if found else text


def _whole(text: str) -> int | str:
    value = _integer(text)
    return text if value is None else value


def _listed(text: str) -> list[str]:
    return [part for part in (p.strip() for p in text.split(",")) if part not in ("", "-")]


#: Lines of the .hdr, without what stands in parentheses: key in the metadata, conversion.
HDR_LINES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "Time and Date Stamp": ("acquisition_time_local", str), "Chip ID": ("chip_ids", _listed), "Chip Type": ("chip_type", str),
    "Assembly Size": ("assembly_size", str), "Chip Mode": ("chip_mode", str), "Counter Depth": ("counter_depth_bit", _whole),
    "Gain": ("gain_mode", str), "Active Counters": ("active_counters", str), "bpc File": ("bpc_files", _listed),
    "DAC File": ("dac_files", _listed), "Gap Fill Mode": ("gap_fill_mode", str), "Flat Field File": ("flat_field_file", str),
    "Dead Time File": ("dead_time_file", str), "Acquisition Type": ("acquisition_type", str),
    "Frames in Acquisition": ("frames_in_acquisition", _whole), "Frames per Trigger": ("frames_per_trigger", _whole),
    "Trigger Start": ("trigger_start", str), "Trigger Stop": ("trigger_stop", str), "Sensor Bias": ("sensor_bias_V", _amount),
    "Sensor Polarity": ("sensor_polarity", str), "Temperature": ("temperature_C", _amount), "Humidity": ("humidity_percent", _amount),
    "Medipix Clock": ("clock_MHz", _amount), "Readout System": ("readout_system", str), "Software Version": ("software_version", str),
    "ScanX": ("scan_x", _whole), "ScanY": ("scan_y", _whole),
}


def parse_hdr(raw: bytes, path: str) -> dict[str, Any]:
    """The lines of a ``.hdr`` file as metadata; lines without a tab and unknown ones are left out.

    Raises
    ------
    FormatError
        It does not begin with ``HDR``.
    """
    if not raw.startswith(b"HDR"):
        raise FormatError(f"{path}: not a Merlin .hdr file, it begins with {raw[:8]!r}; expected b'HDR,'")
    found: dict[str, Any] = {}
    for line in raw.decode("latin-1").splitlines():
        key, tab, value = line.partition("\t")
        known = HDR_LINES.get(key.rstrip(": ").split("(")[0].strip())
        if tab and known is not None:
            found[known[0]] = known[1](value.strip())
    return found
