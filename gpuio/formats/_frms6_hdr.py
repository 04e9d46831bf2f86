"""The text file of a FRMS6 data set; the format is described in `gpuio.formats.frms6`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from gpuio.errors import FormatError

SECTION = "measurementinfo"
BINNINGS = (1, 2, 4)
SIZE = re.compile(r'"?\s*([0-9]{1,9})\s*x\s*([0-9]{1,9})\s*"?', re.IGNORECASE)
READOUT = re.compile(r'"?\s*bin\s*:\s*([0-9]{1,3})\s*,\s*windowing\s*:\s*([0-9]{1,9})\s*x\s*([0-9]{1,9})\s*"?', re.IGNORECASE)
#: Keys of the section that have a name of their own in the metadata.
HDR_KEYS = {"datasetname": "data_set_name", "dwelltimemicroseconds": "dwell_time_us", "darkframes": "dark_frames",
            "signalframes": "signal_frames", "stemimagesize": "stem_image_size", "readoutmode": "readout_mode"}


@dataclass(frozen=True, slots=True)
class Acquisition:
    """What the ``.hdr`` says."""

    nav_shape: tuple[int, int]
    binning: int
    window: tuple[int, int]
    signal_frames: int
    metadata: dict[str, Any]


def parse_hdr(raw: bytes, path: str) -> Acquisition:
    """What a ``.hdr`` says.

    Raises
    ------
    FormatError
        It has no section ``[measurementInfo]``, or a key of it is missing or cannot be understood.
    """
    info = _section(raw, path)

    def value(key: str) -> str:
        if key not in info:
            raise FormatError(f"{path}: the section [measurementInfo] has no {key}")
        return info[key]

    size = SIZE.fullmatch(value("stemimagesize"))
    if size is None or not int(size[1]) * int(size[2]):
        raise FormatError(f"{path}: stemimagesize is {value('stemimagesize')!r}; expected two positive numbers such as 64x64")
    readout = READOUT.fullmatch(value("readoutmode"))
    if readout is None:
        raise FormatError(f"{path}: readoutmode is {value('readoutmode')!r}; expected such as \"bin: 4, windowing: 264 x 264\"")
    if int(readout[1]) not in BINNINGS:
        raise FormatError(f"{path}: readoutmode is {value('readoutmode')!r}, a binning of {int(readout[1])}; "
                          f"expected {', '.join(map(str, BINNINGS))}")
    frames = _number(value("signalframes"))
    if not isinstance(frames, int) or frames < 1:
        raise FormatError(f"{path}: signalframes is {value('signalframes')!r}; expected a positive number")
    metadata = {HDR_KEYS.get(key, key): _number(text.strip('"')) for key, text in info.items()}
    return Acquisition((int(size[1]), int(size[2])), int(readout[1]), (int(readout[2]), int(readout[3])), frames, metadata)


def _section(raw: bytes, path: str) -> dict[str, str]:
    """The lines ``key = value`` or ``key: value`` of ``[measurementInfo]``; its name and the keys may be in any case.

    Python's `configparser` is of no use here: it fails on damaged files, and on a percent sign unless told otherwise.
    """
    found: dict[str, dict[str, str]] = {}
    section = ""
    for line in map(str.strip, raw.removeprefix(b"\xef\xbb\xbf").decode("latin-1").split("\n")):
        entry = re.fullmatch(r"([^=:#;][^=:]*)[=:](.*)", line, re.DOTALL)
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].lower()
            found.setdefault(section, {})
        elif entry is not None and section:
            found[section][entry[1].strip().lower()] = entry[2].strip()
    if SECTION not in found:
        raise FormatError(f"{path}: has no section [measurementInfo]; not the header of a FRMS6 data set")
    return found[SECTION]


def _number(text: str) -> int | str:
    """A short number without sign, or the text as it is."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else text
