"""Which data set of an HDF5 file has the frames, and what its axes are: the conventions of the programs that write such files.

==============  ==========================================  ==================================================================
convention      recognised by                               frames and axes
==============  ==========================================  ==================================================================
NeXus           attribute ``NX_class``                      `default` of the root, of its entry, `signal` of that group; old: a
                                                            data set with the attribute ``signal`` = 1; `axes` names its axes
HyperSpy        root attribute ``file_format``              ``/Experiments/<title>/data``; groups ``axis-<k>`` with `size`,
                                                            `scale`, `offset`, `units`, `name`
EMD, py4DSTEM   group attribute ``emd_group_type`` 1 or     a data set of the group; ``dim<k>`` beside it hold coordinates, or
                ``array``                                   the first two of them
Velox           ``/Version`` says so                        ``/Data/Image/<id>/Data`` (y, x, frame); ``Metadata`` beside it: JSON
others                                                      4 axes before 3 before more before 2, then the largest
==============  ==========================================  ==================================================================

Sources: the NeXus manual, HyperSpy's file specification, the EMD format specification (emdatasets.com), files of Velox and py4DSTEM in
the test data of RosettaSciIO.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpuio.errors import DataSetException, FormatError
from gpuio.formats._hdf5_structure import (
    Place,
    attribute,
    data_sets,
    described,
    entered,
    library,
    listing,
    number,
    resolve,
    single,
    text,
    walk,
)

VELOX_IMAGE = re.compile(r"/Data/Image/[^/]+/Data")
#: Bytes of Velox's JSON at most; recorded ones have 60,000.
MAX_JSON = 1 << 20
#: Of Velox's JSON: key of the metadata, groups and name.
VELOX_KEYS = {
    "voltage_v": ("Optics", "AccelerationVoltage"), "camera_length_m": ("Optics", "CameraLength"), "dwell_time_s": ("Scan", "DwellTime"),
    "detector": ("BinaryResult", "Detector"), "microscope": ("Instrument", "InstrumentModel"), "frame_time_s": ("Scan", "FrameTime"),
}


@dataclass(frozen=True)
class Choice:
    """A data set that has frames.

    Attributes
    ----------
    convention
        Of the program that wrote it, empty if it is none that is known.
    axes
        One for each axis of the data set, with what is known of it: `name`, `first`, `delta`, `unit`.
    frames_last
        Whether frames are the last axis.
    """

    place: Place
    convention: str = ""
    axes: tuple[dict[str, Any], ...] = ()
    frames_last: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def choose(file: Any, path: str, folder: str, allow_outside: bool) -> tuple[Place, tuple[str, ...]]:
    """The data set with the frames of a file, and notes on how it was chosen.

    Raises
    ------
    FormatError
        There is none.
    """
    convention, names = _by_convention(file)
    notes: tuple[str, ...] = ()
    for name in names:
        try:
            return resolve(path, name, folder, allow_outside), ()
        except (DataSetException, OSError) as error:
            notes = (f"{convention} names {name}, which cannot be used: {error}",)
    found = [entry for entry in data_sets(file) if entry[1].ndim >= 2 and entry[1].size]
    if not found:
        raise FormatError(f"{path}: has no data set with frames; it has {listing(file)}")
    best = max(found, key=lambda entry: _rank(entry[1]))
    if len(found) > 1:
        notes += (f"the file has {len(found)} data sets with two axes or more; {described(*best)} is used, ds_path chooses another of "
                  f"{listing(file)}",)
    return Place(path, best[0]), notes


def _rank(found: Any) -> tuple[Any, ...]:
    """How much a data set looks like frames: masks last, 4 axes before 3 before more before 2, then by size."""
    return found.dtype.kind != "b", {4: 3, 3: 2, 2: 0}.get(found.ndim, 1), found.size


def _by_convention(file: Any) -> tuple[str, list[str]]:
    """Names that a convention gives, best first."""
    if text(attribute(file, "file_format")).lower() == "hyperspy":
        return "HyperSpy", _ranked(file, lambda name, found: re.fullmatch(r"/Experiments/[^/]+/data", name))
    names = _nexus(file)
    if names:
        return "NeXus", names
    if is_velox(file):
        return "Velox", _ranked(file, lambda name, found: VELOX_IMAGE.fullmatch(name))
    return "EMD", _ranked(file, lambda name, found: found.ndim >= 2 and _is_emd_array(found.parent))


def _ranked(file: Any, fits: Any) -> list[str]:
    found = [(name, each) for name, each in data_sets(file) if fits(name, each)]
    return [name for name, _ in sorted(found, key=lambda entry: _rank(entry[1]), reverse=True)]


def _is_emd_array(group: Any) -> bool:
    kind = attribute(group, "emd_group_type")
    return text(kind) == "array" or number(kind) == 1


def is_velox(file: Any) -> bool:
    """Whether Velox wrote a file."""
    if not isinstance(file.get("Version", getlink=True), library().HardLink):
        return False
    try:
        return "velox" in text(single(file["Version"])).lower()
    except (KeyError, OSError, RuntimeError):       # an object that the library cannot read
        return False


def _nexus(file: Any) -> list[str]:
    """Signals of a NeXus file: the default one, else those that are marked."""
    h5py = library()
    group, name = file, ""
    for _ in range(4):
        signal, further = text(attribute(group, "signal")), text(attribute(group, "default"))
        if signal and name:
            return [f"{name}/{signal}"]
        if not further or not isinstance(group.get(further, getlink=True), h5py.HardLink) or not isinstance(group[further], h5py.Group):
            break
        group, name = entered(group[further]), f"{name}/{further}"
    found: list[tuple[str, Any]] = []
    for name, each in walk(file):
        if isinstance(each, h5py.Group) and text(attribute(each, "NX_class")) == "NXdata" and text(attribute(each, "signal")):
            signal = f"{name}/{text(attribute(each, 'signal'))}"
            found.append((signal, file.get(signal) if isinstance(file.get(signal, getlink=True), h5py.HardLink) else None))
        elif isinstance(each, h5py.Dataset) and (number(attribute(each, "signal")) == 1 or text(attribute(each, "signal")) == "1"):
            found.append((name, each))
    known = [entry for entry in found if isinstance(entry[1], h5py.Dataset)]
    return [name for name, _ in sorted(known, key=lambda entry: _rank(entry[1]), reverse=True)] or [name for name, _ in found]


# -- what is known of a data set ---------------------------------------------------------------------------------------


def describe(file: Any, place: Place, found: Any, notes: tuple[str, ...] = ()) -> Choice:
    """What the surroundings of a data set tell about it."""
    parent = found.parent
    if is_velox(file) and VELOX_IMAGE.fullmatch(place.name) and found.ndim == 3:
        said = _velox_json(parent)
        axes: tuple[dict[str, Any], ...] = ({"name": "y"}, {"name": "x"}, {"name": "frame"})
        for axis, key in zip(axes, ("height", "width"), strict=False):
            result = said.get("BinaryResult", {})
            sizes = result.get("PixelSize")
            scale = _plain(sizes.get(key)) if isinstance(sizes, dict) else None
            if isinstance(scale, float):
                axis |= _axis(axis["name"], 0.0, scale, text(result.get("PixelUnitX", "m")))
        metadata = {key: value for key, (group, name) in VELOX_KEYS.items() if (value := _plain(said.get(group, {}).get(name))) is not None}
        return Choice(place, "Velox", axes, True, metadata, notes)
    if text(attribute(file, "file_format")).lower() == "hyperspy":
        return Choice(place, "HyperSpy", tuple(_hyperspy_axis(parent, k) for k in range(found.ndim)), notes=notes)
    if text(attribute(parent, "NX_class")) == "NXdata":
        return Choice(place, "NeXus", _nexus_axes(parent, found.ndim), notes=notes)
    if _is_emd_array(parent):
        return Choice(place, "EMD", _emd_axes(parent, found.ndim), notes=notes)
    return Choice(place, axes=tuple({} for _ in range(found.ndim)), notes=notes)


def _hyperspy_axis(group: Any, k: int) -> dict[str, Any]:
    name = f"axis-{k}"
    if not isinstance(group.get(name, getlink=True), library().HardLink):
        return {}
    axis = group[name]
    return _axis(text(attribute(axis, "name")), number(attribute(axis, "offset")), number(attribute(axis, "scale")),
                 text(attribute(axis, "units")))


def _nexus_axes(group: Any, ndim: int) -> tuple[dict[str, Any], ...]:
    named = attribute(group, "axes")
    names = [text(name) for name in np.atleast_1d(named)] if named is not None else []
    if len(names) == 1 and ":" in names[0]:
        names = names[0].split(":")
    return tuple(_coordinates(group, names[k]) if k < len(names) and names[k] not in ("", ".") else {} for k in range(ndim))


def _emd_axes(group: Any, ndim: int) -> tuple[dict[str, Any], ...]:
    numbers = sorted(int(name[3:]) for name in group if re.fullmatch(r"dim\d{1,3}", name))
    return tuple(_coordinates(group, f"dim{numbers[k]}") if k < len(numbers) else {} for k in range(ndim))


def _coordinates(group: Any, name: str) -> dict[str, Any]:
    """An axis whose coordinates, or the first two of them, are a data set."""
    h5py = library()
    if not isinstance(group.get(name, getlink=True), h5py.HardLink) or not isinstance(found := group[name], h5py.Dataset):
        return {}
    label, unit = text(attribute(found, "name")) or name, text(attribute(found, "units"))
    if found.ndim != 1 or found.shape[0] < 2 or found.dtype.kind not in "uif":
        return _axis(label, None, None, unit)
    try:
        first, second = (float(v) for v in found[:2])
    except OSError:
        return _axis(label, None, None, unit)
    return _axis(label, first, second - first, unit)


def _axis(name: str, first: float | None, delta: float | None, unit: str) -> dict[str, Any]:
    unit = unit.strip("[]").replace("_", "")
    known = {} if first is None or delta is None else {"delta": float(delta), "first": float(first)}
    return {**({"name": name} if name else {}), **known, **({"unit": unit} if unit and unit != "<undefined>" else {})}


def _velox_json(group: Any) -> dict[str, Any]:
    """The JSON of the first frame."""
    if not isinstance(group.get("Metadata", getlink=True), library().HardLink):
        return {}
    found = group["Metadata"]
    try:
        raw = bytes(found[:MAX_JSON, 0]) if found.ndim == 2 and found.dtype == np.uint8 else b"{}"
        said = json.loads(raw.partition(b"\0")[0])
    except (OSError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) and all(isinstance(part, dict) for part in said.values()) else {}


def _plain(value: Any) -> Any:
    """A number written as text, as a number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
