"""Files that belong together by name: ``scan1.mib``, ``scan2.mib`` and ``scan.hdr``. And files that name others.

Those that look for names work on a folder's listing, not on glob patterns: brackets and stars in names mean nothing here, extensions
are compared without regard to case on every file system, and a folder of 100,000 files is listed once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from gpuio.errors import DataSetException


def split_name(path: str) -> tuple[str, str, str]:
    """Folder, stem and lower-case extension with its dot: ``/data/Scan12.MIB`` is ``("/data", "Scan12", ".mib")``."""
    folder, name = os.path.split(path)
    stem, extension = os.path.splitext(name)
    return folder, stem, extension.lower()


def without_number(stem: str) -> str:
    """`stem` without the ASCII digits at its end, which count the files of a series."""
    return stem.rstrip("0123456789")


def series(names: Iterable[str], prefix: str, extension: str) -> list[str]:
    """Those `names` that begin with `prefix` (exactly) and end in `extension` (in any case), in the given order."""
    return [name for name in names if name.startswith(prefix) and name.lower().endswith(extension, len(prefix))]


def numbered(names: Iterable[str], prefix: str, extension: str) -> list[str]:
    """Those of a `series` that nothing but digits and separators tells apart: ``scan_2.mib`` of ``scan``, and not ``scan2RAW.mib``."""
    found = series(names, prefix, extension)
    return [name for name in found if not name[len(prefix):-len(extension)].strip("0123456789_-. ")]


def companion(names: Iterable[str], stems: Iterable[str], extension: str) -> str | None:
    """The first name made of one of `stems` (earlier ones win, exactly) and `extension` (in any case); None if there is none."""
    by_stem: dict[str, str] = {}
    for name in names:
        stem, found = os.path.splitext(name)
        if found.lower() == extension:
            by_stem.setdefault(stem, name)
    return next((by_stem[stem] for stem in stems if stem in by_stem), None)


def outside(path: str, name: str, folder: str, allowed: bool) -> str:
    """The path of a file that the file `path` names, checked to lie in `folder`.

    Raises
    ------
    DataSetException
        It lies elsewhere and that is not allowed.
    """
    target = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(path)), name))
    home = os.path.realpath(folder)
    if not allowed and os.path.commonpath([home, target]) != home:
        raise DataSetException(f"{path}: refers to {name}, which is outside of {home}; pass allow_outside=True to follow it")
    return target
