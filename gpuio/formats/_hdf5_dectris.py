"""Masters of DECTRIS detectors (EIGER, ARINA, QUADRO): frames in several files, put together by one that has none.

=========================================================  ===========================================================================
in the master                                              meaning
=========================================================  ===========================================================================
``/entry/data/data_000001`` ...                            links to the data sets (frames, y, x) of the data files, in the order of
                                                           their numbers; attributes `image_nr_low`, `image_nr_high` count images from 1
``/entry/instrument/detector/...``                         `count_time`, `frame_time`, `description`, ``flatfield_correction_applied``
``.../detectorSpecific/...``                               `flatfield` (f32 factors), `pixel_mask` (u32, 0: good), `nimages` a trigger,
                                                           `ntrigger`, `photon_energy`
=========================================================  ===========================================================================

ARINA writes ``NAME.h5`` beside ``NAME_master.h5``, with attributes of its group ``STEM Metadata``: `NumPixelsX`, `NumPixelsY` and more.

Quirks:

- ``signal`` of the group names the first part only, and so do readers that follow it.
- Writers list data files that a recording which was stopped never came to.
- Where the mask was applied by the detector, bad pixels hold the largest value of their type.

Sources: NXmx of the NeXus manual, DECTRIS's description of the SIMPLON API, a public ARINA file in the test data of RosettaSciIO.
"""

from __future__ import annotations

import math
import os
import re
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np

from gpuio.chunks import FILE, Chunks
from gpuio.errors import DataSetException, FormatError
from gpuio.fileset import File, FileSet
from gpuio.formats._hdf5_storage import Stored, by_library, storage
from gpuio.formats._hdf5_structure import Place, attribute, dataset, is_named, library, number, opened, resolve, single, text
from gpuio.layout import MAX_FRAMES, Encoding, Layout

GROUP = "/entry/data"
PART = re.compile(r"data_(\d+)")
DETECTOR = "/entry/instrument/detector"
SPECIFIC = f"{DETECTOR}/detectorSpecific"
#: Metadata: keys, and where they are below the detector.
KEYS = {
    "detector": "description", "detector_number": "detector_number", "frame_time_s": "frame_time", "count_time_s": "count_time",
    "bit_depth": "bit_depth_image", "saturation_value": "saturation_value", "pixel_size_x_m": "x_pixel_size",
    "pixel_size_y_m": "y_pixel_size", "photon_energy_eV": "detectorSpecific/photon_energy",
    "images_per_trigger": "detectorSpecific/nimages", "triggers": "detectorSpecific/ntrigger",
    "data_collection_date": "detectorSpecific/data_collection_date",
}


def parts_of(path: str, folder: str, allow_outside: bool) -> list[str]:
    """Names of the parts of a master, in the order of their numbers; none if a file is no master.

    Raises
    ------
    DataSetException
        The group of its parts is outside of `folder` and that is not allowed, or it is no HDF5 file.
    OSError
        It cannot be read.
    """
    with opened(path) as file:
        if not is_named(file, GROUP):
            return []
    try:
        place = resolve(path, GROUP, folder, allow_outside)
    except FormatError:             # a link that leads nowhere
        return []
    with opened(place.path) as file:
        group = file[place.name]
        names = list(group) if hasattr(group, "keys") else []
    numbered = [(int(match[1]), f"{GROUP}/{name}") for name in names if (match := PART.fullmatch(name))]
    return [name for _, name in sorted(numbered)]


def parse(path: str, names: list[str], folder: str, allow_outside: bool) -> Layout:
    """The frames of all data files of a master, one after the other.

    Raises
    ------
    DataSetException
        A data file is not there, or its frames differ from those of the others, or images are missing between them.
    """
    places = [resolve(path, name, folder, allow_outside) for name in names]
    stored: list[tuple[Place, Stored, tuple[int, ...], np.dtype, int]] = []
    count = last = 0
    for name, place in zip(names, places, strict=True):
        with opened(place.path) as file:
            found = dataset(file, place)
            if found.ndim not in (2, 3) or not found.size:
                raise FormatError(f"{place} has shape {found.shape}; expected (frames, y, x)")
            shape = (1, *found.shape)[-3:]
            if stored and (shape[1:], found.dtype) != (stored[0][2][1:], stored[0][3]):
                raise FormatError(f"{place} has frames of {shape[1:]} {found.dtype}; expected {stored[0][2][1:]} {stored[0][3]} "
                                  f"as in {stored[0][0].path}")
            _check_numbers(found, place, count, shape[0])
            here = int(name.rpartition("_")[2])
            if stored and here != last + 1 and number(attribute(found, "image_nr_low")) is None:
                raise FormatError(f"{path}: has part {last} and then {name}, whose images are not numbered; expected no gap")
            last = here
            stored.append((place, storage(found, place, 2, folder=folder, allow_outside=allow_outside), shape, found.dtype, count))
            count += shape[0]
    notes: list[str] = []
    whole = _joined(stored, notes)
    _, first, shape, dtype, _ = stored[0]
    sig = shape[1:]
    about_detector = {key: _value(path, f"{DETECTOR}/{name}", folder, allow_outside) for key, name in KEYS.items()}
    metadata = {key: value for key, value in about_detector.items() if value is not None}
    gain, excluded = _corrections(path, sig, folder, allow_outside, notes)
    nav = _scan(path, count, metadata, notes)
    about = {"ds_path": GROUP, "convention": "DECTRIS", "dtype_on_disk": dtype.str, "shape": (count, *sig), "data_files": len(stored),
             "nav_axes": [{"size": n} for n in nav or (count,)], "sig_axes": [{"size": n} for n in sig]}
    return Layout(
        format="hdf5", parts=whole.parts, encoding=Encoding.of(dtype), pieces=whole.pieces, sig_shape=sig, nav_shape=nav, image_count=count,
        chunks=whole.chunks, gain=gain, excluded=excluded, metadata={**about, **metadata, **first.metadata, **_stored_bytes(stored)},
        notes=(*notes, *whole.notes),
    )


def _stored_bytes(stored: list[tuple[Place, Stored, tuple[int, ...], np.dtype, int]]) -> dict[str, int]:
    """Of all parts, where all tell."""
    known = [each.metadata["stored_bytes"] for _, each, *_ in stored if "stored_bytes" in each.metadata]
    return {"stored_bytes": sum(known)} if len(known) == len(stored) else {}


def _check_numbers(found: Any, place: Place, before: int, count: int) -> None:
    """Compare the numbers of a part's images, counted from 1, with those in the parts before it."""
    low, high = (number(attribute(found, name)) for name in ("image_nr_low", "image_nr_high"))
    if low is not None and low != before + 1:
        raise FormatError(f"{place} begins with image {low}; expected {before + 1}, as the parts before it have {before} images")
    if high is not None and high != before + count:
        raise FormatError(f"{place} ends with image {high}; it has {count} images, the last would be {before + count}")


def _joined(stored: list[tuple[Place, Stored, tuple[int, ...], np.dtype, int]], notes: list[str]) -> Stored:
    """Parts as one, frames numbered through."""
    first = stored[0][1]
    if len(stored) == 1:
        return first
    if all(each.parts for _, each, *_ in stored):
        files = [File(f.path, f.start_idx + before, f.end_idx + before, f.native_dtype, f.sig_shape, file_header=f.file_header, size=f.size)
                 for _, each, _, _, before in stored for f in each.parts[0]]
        return replace(first, parts=(FileSet(files),))
    chunks = [(each.chunks, before) for _, each, _, _, before in stored if each.chunks is not None and each.chunks.source is None]
    if len(chunks) == len(stored) and len({_form(c) for c, _ in chunks}) == 1:
        return replace(first, chunks=_one_table(chunks), notes=tuple(note for _, each, *_ in stored for note in each.notes))
    if len({_form(c) for c, _ in chunks}) > 1:
        notes.append("data files are stored in different ways: they are read by the HDF5 library")
    with ExitStack() as stack:
        arrays = [(stack.enter_context(opened(place.path))[place.name], place) for place, *_ in stored]
        return replace(by_library(arrays, 2), metadata=first.metadata)


def _form(chunks: Chunks) -> tuple[Any, ...]:
    """What has to be alike for chunks to be in one table."""
    return chunks.grids[0].nav_chunk, chunks.sig_chunk, chunks.filters, chunks.item_bytes, chunks.fill, chunks.by_frame


def _one_table(several: list[tuple[Chunks, int]]) -> Chunks:
    """Chunks of several arrays as those of one."""
    tables, grids, row = [], [], 0
    for i, (chunks, before) in enumerate(several):
        table = chunks.table.copy()
        table[:, :, FILE] = np.where(table[:, :, FILE] < 0, -1, i)
        tables.append(table)
        grids.append(replace(chunks.grids[0], start_idx=before, first_row=row))
        row += len(table)
    return replace(several[0][0], files=tuple(c.files[0] for c, _ in several), sizes=tuple(c.sizes[0] for c, _ in several),
                   grids=tuple(grids), table=np.concatenate(tables))


def _value(path: str, name: str, folder: str, allow_outside: bool) -> Any:
    """A single number or text of the master; None if there is none, or only outside of `folder` and that is not allowed."""
    with opened(path) as file:
        if not is_named(file, name):
            return None
    try:
        place = resolve(path, name, folder, allow_outside)
        with opened(place.path) as file:
            found = single(file[place.name])
    except (DataSetException, OSError):
        return None
    value = number(found)
    return value if value is not None else text(found) or None


def _count(value: Any) -> int | None:
    """A number of frames: a whole positive one that can be."""
    return int(value) if isinstance(value, (int, float)) and 1 <= value <= MAX_FRAMES and value == int(value) else None


def _corrections(path: str, sig: tuple[int, ...], folder: str, allow_outside: bool,
                 notes: list[str]) -> tuple[Layout | None, tuple[range, ...]]:
    """The flatfield unless it is applied already, and pixels that the mask tells to be bad."""
    gain: Layout | None = None
    excluded: tuple[range, ...] = ()
    for name in ("flatfield", "pixel_mask"):
        with opened(path) as file:
            if not is_named(file, f"{SPECIFIC}/{name}"):
                continue
        try:
            place = resolve(path, f"{SPECIFIC}/{name}", folder, allow_outside)
            with opened(place.path) as there:
                found = dataset(there, place)
                if found.shape != sig:
                    raise FormatError(f"{place} has shape {found.shape}; expected that of the frames, {sig}")
                kept = storage(found, place, 2, folder=folder, allow_outside=allow_outside)     # also checks where it is
                if name == "pixel_mask":
                    excluded = _runs(found[...] != 0)
                elif _is_wanted(path, folder, allow_outside, found, notes):
                    gain = Layout(format="hdf5", parts=kept.parts, encoding=Encoding.of(found.dtype), pieces=kept.pieces, sig_shape=sig,
                                  image_count=1, chunks=kept.chunks)
        except (DataSetException, OSError) as error:
            notes.append(f"the {name.replace('_', ' ')} of the master is not used: {error}")
    return gain, excluded


def _is_wanted(path: str, folder: str, allow_outside: bool, found: Any, notes: list[str]) -> bool:
    """Whether a flatfield has still to be applied, and would change anything."""
    applied = _value(path, f"{DETECTOR}/flatfield_correction_applied", folder, allow_outside)
    if applied is None:
        applied = _value(path, f"{SPECIFIC}/flatfield_correction_applied", folder, allow_outside)
    if applied is None:
        notes.append("the master has a flatfield and does not tell whether it was applied: it is not used")
    return applied is not None and not applied and bool((found[...] != 1).any())


def _runs(bad: np.ndarray) -> tuple[range, ...]:
    """Bad pixels as ranges of flat indices."""
    edges = np.flatnonzero(np.diff(bad.ravel().astype(np.int8), prepend=0, append=0)).tolist()
    return tuple(range(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True))


def _scan(path: str, count: int, metadata: dict[str, Any], notes: list[str]) -> tuple[int, ...] | None:
    """The scan, from ARINA's file beside the master or from numbers of triggers; None if neither tells one that fits."""
    base = re.sub(r"_master(?=\.[^.]+$)", "", path)
    if base != path and os.path.exists(base):
        try:
            with opened(base) as file:
                is_there = isinstance(file.get("STEM Metadata", getlink=True), library().HardLink)
                said = {key: attribute(file["STEM Metadata"], key) for key in (file["STEM Metadata"].attrs if is_there else ())}
                about = {re.sub(r"\W+", "_", key).strip("_").lower(): value if (value := number(found)) is not None else text(found)
                         for key, found in said.items()}
        except (DataSetException, OSError) as error:
            notes.append(f"the file of scan parameters could not be read: {error}")
            about = {}
        metadata |= {f"stem_{key}": value for key, value in about.items() if value not in (None, "")}
        scan = tuple(n for key in ("numpixelsy", "numpixelsx") if (n := _count(about.get(key))) is not None)
        if len(scan) == 2 and count <= math.prod(scan) <= MAX_FRAMES:
            return scan
        if len(scan) == 2:
            notes.append(f"{base} tells a scan of {scan}; there are {count} frames, so it is not used")
    lines = tuple(n for key in ("triggers", "images_per_trigger") if (n := _count(metadata.get(key))) is not None and n > 1)
    return lines if len(lines) == 2 and math.prod(lines) == count else None
